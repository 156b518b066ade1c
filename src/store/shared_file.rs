//! A file that all processes over the store map: whole before it has its name, of one length for ever, and made anew where it
//! is missing or damaged.
//!
//! # Invariants
//!
//! - It has all its blocks before it is mapped: no access to it is a signal.
//! - Of several who make it at a time, all end with the same one.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::{Identity, lock, sys};

/// What half-made and damaged files are called ends in one of these.
pub(super) const LEFTOVERS: [&str; 2] = [".new", ".old"];

/// What is written once, when the file is made.
pub(super) const HEAD_LEN: usize = 64;
pub(super) type Head = [u8; HEAD_LEN];

/// What kind of file it is.
pub(super) struct Kind {
    /// Its name below `v1`.
    pub(super) name: &'static str,
    /// Its length in bytes.
    pub(super) len: u64,
    /// The head of one that is made now.
    pub(super) new_head: fn() -> io::Result<Head>,
    /// Whether a head is whole, and of a format that is known.
    pub(super) is_head: fn(&Head) -> bool,
}

/// A whole file of its kind.
pub(super) struct Whole {
    pub(super) file: File,
    pub(super) identity: Identity,
    pub(super) head: Head,
}

enum Found {
    Absent,
    Damaged,
    Whole(Whole),
}

impl Kind {
    /// Opens the file below `v1`, and makes it where it is missing or damaged. No two threads may with the same `locks`.
    pub(super) fn open(&self, v1: BorrowedFd<'_>, locks: &File) -> io::Result<Whole> {
        // Each turn fails only if somebody removes or damages what another one has just made.
        for _ in 0..8 {
            match self.find(v1)? {
                Found::Whole(whole) => return Ok(whole),
                Found::Absent => self.make(v1)?,
                Found::Damaged => self.set_aside(v1, locks)?,
            }
        }
        Err(io::Error::other(format!("{} vanishes as soon as it is made", self.name)))
    }

    /// The file below `v1` for who only reads it; `None` where there is none, or a damaged one.
    pub(super) fn look(&self, v1: BorrowedFd<'_>) -> io::Result<Option<Whole>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        match rustix::fs::openat(v1, self.name, flags, Mode::empty()) {
            Ok(fd) => self.check(fd.into()),
            Err(Errno::NOENT | Errno::PERM | Errno::LOOP | Errno::ACCESS | Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn find(&self, v1: BorrowedFd<'_>) -> io::Result<Found> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(v1, self.name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Found::Absent),
            Err(Errno::LOOP | Errno::ACCESS | Errno::PERM | Errno::ISDIR | Errno::NXIO) => return Ok(Found::Damaged),
            Err(e) => return Err(e.into()),
        };
        let Some(whole) = self.check(file)? else { return Ok(Found::Damaged) };
        // A copy of a store can have holes.
        match rustix::fs::fallocate(&whole.file, FallocateFlags::empty(), 0, self.len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Found::Whole(whole)),
            Err(e) => Err(e.into()),
        }
    }

    fn check(&self, file: File) -> io::Result<Option<Whole>> {
        let stat = rustix::fs::fstat(&file)?;
        let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_ours || !is_file || u64::try_from(stat.st_size) != Ok(self.len) {
            return Ok(None);
        }
        let mut head = [0; HEAD_LEN];
        file.read_exact_at(&mut head, 0)?;
        Ok((self.is_head)(&head).then(|| Whole { file, identity: Identity::of(&stat), head }))
    }

    fn make(&self, v1: BorrowedFd<'_>) -> io::Result<()> {
        let name = format!("{}-{:016x}.new", self.name, random()?);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(v1, &name, flags, Mode::RUSR | Mode::WUSR)?);
        let link = || match rustix::fs::linkat(v1, &name, v1, self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e.into()),
        };
        let made = self.write_whole(&file).and_then(|()| link());
        // What stays is removed by the leader.
        let _ = rustix::fs::unlinkat(v1, &name, AtFlags::empty());
        made
    }

    fn write_whole(&self, file: &File) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("a few MiB")];
        bytes[..HEAD_LEN].copy_from_slice(&(self.new_head)()?);
        // Nothing is synced: what a power cut leaves is damaged, or whole.
        file.write_all_at(&bytes, 0)
    }

    /// Moves a damaged file out of the way, unless somebody did so already and made another one.
    fn set_aside(&self, v1: BorrowedFd<'_>, locks: &File) -> io::Result<()> {
        sys::lock_byte(locks, lock::CONTROL)?;
        let done = self.find(v1).and_then(|found| match found {
            Found::Damaged => {
                let old = format!("{}-{:016x}.old", self.name, random()?);
                Ok(rustix::fs::renameat(v1, self.name, v1, &old)?)
            }
            Found::Absent | Found::Whole(_) => Ok(()),
        });
        sys::unlock_byte(locks, lock::CONTROL)?;
        done
    }
}

pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // As few as these come all at once (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
