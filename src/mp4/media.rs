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
            let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let mut bytes = vec![0; len];
            self.file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        ranges.iter().map(read).collect()
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
