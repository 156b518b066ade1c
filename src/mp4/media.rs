//! Where the bytes of an MP4 come from: ranges of a file, or of an object in storage.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Something that can be read by ranges, and stays the same while it is.
pub trait Media {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its ETag as storage gave it, quotes included.
    fn etag(&self) -> Option<&str> {
        None
    }

    /// Reads all of `ranges`, in one round trip where the source can. Each lies inside the media; what is short is
    /// an error of kind `UnexpectedEof`.
    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>>;

    /// Makes `bytes` those of `range`, in the memory that it has if the source can.
    fn read_into(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
        *bytes = self.read(&[range])?.pop().unwrap_or_default();
        Ok(())
    }
}

/// A file of this machine.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    len: u64,
}

impl LocalFile {
    /// Opens the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }
}

impl Media for LocalFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let read = |range: &Range<u64>| {
            let mut bytes = Vec::new();
            self.read_into(range.clone(), &mut bytes)?;
            Ok(bytes)
        };
        ranges.iter().map(read).collect()
    }

    fn read_into(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        bytes.resize(len, 0);
        self.file.read_exact_at(bytes, range.start)
    }
}

impl<M: Media + ?Sized> Media for Box<M> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn etag(&self) -> Option<&str> {
        (**self).etag()
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        (**self).read(ranges)
    }
}

/// Bytes in memory.
impl Media for [u8] {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let read = |range: &Range<u64>| {
            let (start, end) = (usize::try_from(range.start).ok(), usize::try_from(range.end).ok());
            let bytes = start.zip(end).and_then(|(start, end)| self.get(start..end));
            bytes.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        ranges.iter().map(read).collect()
    }
}
