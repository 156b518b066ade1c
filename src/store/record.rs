//! A version's file as it lies there, for who looks into the store: read, and neither mapped nor written.
//!
//! Nothing is believed that a [`super::Version`] would not be believed. Times of the file stay: it is opened with `O_NOATIME`.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::format::{BLOCK_LEN, FIXED_LEN, Head, Layout, PurgeMark, Span, head_len};
use super::space::blocks_len;
use super::version::{Place, modified_at_ms};
use super::{Identity, Name};

/// What lies under a name.
pub enum Looked {
    /// Nothing.
    Absent,
    /// A file that is no version, or a damaged one.
    Unusable(Identity, Flaw),
    /// The version.
    Record(Box<Record>),
}

/// What is wrong with a file.
#[derive(Debug)]
pub enum Flaw {
    /// It is a link, a directory or the like.
    NoFile,
    /// It belongs to another user, or others may write to it.
    Foreign,
    /// Its head is not as it was written, or the file has not the length that it says.
    Head,
    /// It is another URL's or scope's.
    OtherKey,
    /// This block is not as it was written.
    Block(u64),
    /// It cannot be read.
    Io(io::Error),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str("no regular file"),
            Self::Foreign => f.write_str("another user's, or others may write to it"),
            Self::Head => f.write_str("the head or the length is wrong"),
            Self::OtherKey => f.write_str("it is of another URL or scope than its name says"),
            Self::Block(block) => write!(f, "the checksum of block {block} is wrong"),
            Self::Io(e) => write!(f, "it cannot be read: {e}"),
        }
    }
}

/// A version's file, open.
pub struct Record {
    name: Name,
    file: File,
    stat: Stat,
    head: Head,
    /// The bytes that the head's spans are of.
    bytes: Vec<u8>,
}

impl Record {
    /// Looks at what lies in a place, whose directory is `dir`.
    pub(super) fn look(dir: BorrowedFd<'_>, place: Place, name: &Name) -> io::Result<Looked> {
        let path = place.path(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(dir, &path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Looked::Absent),
            Err(e) => return unopened(dir, &path, e),
        };
        let stat = rustix::fs::fstat(&file)?;
        let identity = Identity::of(&stat);
        if let Some(flaw) = flaw_of(&stat) {
            return Ok(Looked::Unusable(identity, flaw));
        }
        let read = read_head(&file, u64::try_from(stat.st_size).unwrap_or(0));
        let record = read.map(|found| found.map(|(head, bytes)| Self { name: name.clone(), file, stat, head, bytes }));
        Ok(match record {
            Ok(Some(record)) if record.is_of_its_name() => Looked::Record(Box::new(record)),
            Ok(Some(_)) => Looked::Unusable(identity, Flaw::OtherKey),
            Ok(None) => Looked::Unusable(identity, Flaw::Head),
            Err(e) => Looked::Unusable(identity, Flaw::Io(e)),
        })
    }

    fn is_of_its_name(&self) -> bool {
        Name::new(self.url(), self.scope()) == self.name
    }

    /// The name of its file.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        Identity::of(&self.stat)
    }

    /// The canonical URL.
    pub fn url(&self) -> &str {
        // A key's URL is ASCII; another one has another hash than the name's.
        str::from_utf8(self.text(self.head.url)).unwrap_or_default()
    }

    /// The scope.
    pub fn scope(&self) -> &str {
        str::from_utf8(self.text(self.head.scope)).unwrap_or_default()
    }

    /// The object's header fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.head.fields.iter().map(|(name, value)| (self.text(*name), self.text(*value)))
    }

    /// Where the parts of the file lie.
    pub fn layout(&self) -> &Layout {
        &self.head.layout
    }

    /// When storage was asked for it, in milliseconds since 1970.
    pub fn fetched_at_ms(&self) -> u64 {
        self.head.fetched_at_ms
    }

    /// When storage last vouched for it, in milliseconds since 1970; of an entry only.
    pub fn validated_at_ms(&self) -> u64 {
        modified_at_ms(&self.stat)
    }

    /// When it was last used, in seconds since 1970; of an entry only.
    pub fn used_at_secs(&self) -> u64 {
        u64::try_from(self.stat.st_atime).unwrap_or(0)
    }

    /// The answer's own age when it was fetched, in seconds.
    pub fn initial_age_secs(&self) -> u32 {
        self.head.initial_age_secs
    }

    /// What the control block said when storage was asked for it.
    pub fn purges(&self) -> PurgeMark {
        self.head.purges
    }

    /// Which storage it came from, if not the one that the URL names; else 0.
    pub fn source(&self) -> u32 {
        self.head.source
    }

    /// Bytes that the file takes on disk.
    pub fn disk_len(&self) -> u64 {
        blocks_len(&self.stat)
    }

    /// How many blocks are there.
    pub fn landed(&self) -> io::Result<u64> {
        let layout = self.layout();
        let mut landed = 0;
        for block in (0..layout.blocks()).step_by(64) {
            let word: [u8; 8] = self.read(layout.present_word_at(block))?;
            landed += u64::from(u64::from_le_bytes(word).count_ones());
        }
        Ok(landed)
    }

    /// Reads all blocks and tells what is wrong with the first that is not as it was written; each block's length goes to
    /// `was_read`.
    pub fn check(&self, mut was_read: impl FnMut(u64)) -> Result<(), Flaw> {
        let layout = self.layout();
        let mut bytes = vec![0; BLOCK_LEN.min(layout.body_len) as usize];
        for block in 0..layout.blocks() {
            let part = layout.block(block);
            let bytes = &mut bytes[..(part.end - part.start) as usize];
            self.file.read_exact_at(bytes, layout.body_at + part.start).map_err(Flaw::Io)?;
            let checksum = self.read(layout.checksum_at(block)).map_err(Flaw::Io)?;
            if u32::from_le_bytes(checksum) != crc32c::crc32c(bytes) {
                return Err(Flaw::Block(block));
            }
            was_read(bytes.len() as u64);
        }
        Ok(())
    }

    fn read<const N: usize>(&self, at: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn text(&self, span: Span) -> &[u8] {
        &self.bytes[span.text()]
    }
}

/// What cannot be opened: `e` says why, and the thing itself more.
fn unopened(dir: BorrowedFd<'_>, path: &str, e: Errno) -> io::Result<Looked> {
    match rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let flaw = flaw_of(&stat).unwrap_or(Flaw::Io(e.into()));
            Ok(Looked::Unusable(Identity::of(&stat), flaw))
        }
        Err(Errno::NOENT) => Ok(Looked::Absent),
        Err(e) => Err(e.into()),
    }
}

/// What is wrong with a file before it is read.
fn flaw_of(stat: &Stat) -> Option<Flaw> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Some(Flaw::NoFile);
    }
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
    (!is_ours).then_some(Flaw::Foreign)
}

/// The head of a file of `file_len` bytes and the bytes that it is of, if it is a version's.
fn read_head(file: &File, file_len: u64) -> io::Result<Option<(Head, Vec<u8>)>> {
    if file_len < FIXED_LEN {
        return Ok(None);
    }
    let mut bytes = vec![0; FIXED_LEN as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let Some(head_len) = head_len(&bytes).filter(|len| *len <= file_len) else { return Ok(None) };
    bytes.resize(head_len as usize, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Head::decode(&bytes, file_len).map(|head| (head, bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::store::fill::Landing;
    use crate::store::fixture::{SCOPE, Site, name, publish, url};
    use crate::store::format::Meta;
    use crate::store::{Fill, Visit};

    const LEN: usize = 2 * BLOCK_LEN as usize + 100;

    fn look(site: &Site, place: Place) -> Looked {
        let visit = Visit::open(site.dir.path()).expect("a store");
        visit.look(place, &name(1)).expect("an answer")
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let site = Site::new();
        publish(&site.store, &url(1), SCOPE, LEN).expect("there is room");
        let Looked::Record(record) = look(&site, Place::Entries) else { panic!("it is there") };
        assert_eq!((record.url(), record.scope()), (url(1).as_str(), SCOPE));
        let mut read = Vec::new();
        record.check(|len| read.push(len)).expect("it is whole");
        assert_eq!((read, record.landed().ok()), (vec![BLOCK_LEN, BLOCK_LEN, 100], Some(3)));
        assert!(matches!(look(&site, Place::Fills), Looked::Absent));
    }

    #[test]
    fn each_bit_of_head_table_and_body_counts() {
        let site = Site::new();
        publish(&site.store, &url(1), SCOPE, LEN).expect("there is room");
        let path = site.path("entries").join(name(1).path());
        let file = fs::read(&path).expect("it is there");
        let Looked::Record(record) = look(&site, Place::Entries) else { panic!("it is there") };
        let layout = *record.layout();
        let rows = [
            (0, "the head or the length is wrong"),
            (layout.head_len - 1, "the head or the length is wrong"),
            (layout.table_at + 4, "the checksum of block 1 is wrong"),
            (layout.body_at, "the checksum of block 0 is wrong"),
            (layout.file_len() - 1, "the checksum of block 2 is wrong"),
        ];
        for (at, want) in rows {
            let mut spoilt = file.clone();
            spoilt[at as usize] ^= 4;
            fs::write(&path, &spoilt).expect("written");
            let flaw = match look(&site, Place::Entries) {
                Looked::Record(record) => record.check(|_| {}).expect_err("it is spoilt"),
                Looked::Unusable(_, flaw) => flaw,
                Looked::Absent => panic!("it is there"),
            };
            assert_eq!(flaw.to_string(), want, "{at}");
        }
    }

    #[test]
    fn a_fill_tells_how_far_it_is() {
        let site = Site::new();
        let lock = Arc::new(site.store.lock(&name(1)).expect("an answer").expect("nobody has it"));
        let meta = Meta { url: url(1), scope: SCOPE.into(), body_len: LEN as u64, ..Meta::default() };
        let fill = Fill::begin(&lock, &meta).expect("there is room");
        for (bytes, landed) in [(0, 0), (BLOCK_LEN + 1, 1), (LEN as u64, 3)] {
            Landing::new(&fill, 0).write(&vec![1; bytes as usize]).expect("written");
            let Looked::Record(record) = look(&site, Place::Fills) else { panic!("it is there") };
            assert_eq!(record.landed().ok(), Some(landed), "after {bytes}");
        }
        let visit = Visit::open(site.dir.path()).expect("a store");
        assert!(visit.is_locked(&name(1)).expect("an answer"));
    }
}
