//! A version in the store, mapped by this process.
//!
//! [`Entry::open`] believes nothing: owner, length, head and key are checked, and each block once, before its
//! first byte is served (docs/store-format.md, "What is believed").

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::format::{BLOCK_LEN, u32_at};
use super::map::Mapping;
use super::name::Name;

/// What lies under a name.
pub enum Opened {
    /// Nothing.
    Absent,
    /// A file that is no entry of this key, or is damaged.
    Unusable(Identity),
    /// The version.
    Entry(Box<Entry>),
}

/// Which file it is, whatever name it has by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of the file that `stat` describes.
    pub fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// The body does not have the checksum that was stored for it.
#[derive(Debug)]
pub struct Damaged;

/// A version in the store, mapped.
pub struct Entry {
    map: Mapping,
    name: Name,
    identity: Identity,
    validated_at: u64,
    /// When it was last used, and what the file says of that, in seconds since 1970.
    used_at: AtomicU64,
    stamped_at: AtomicU64,
    /// A bit a block: its checksum was found right.
    checked: Box<[AtomicU64]>,
}

impl Entry {
    /// Opens what lies under `name` below `entries`; `url` and `scope` are what it must hold.
    pub fn open(entries: BorrowedFd<'_>, name: &Name, url: &str, scope: &str) -> io::Result<Opened> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(entries, name.path(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Opened::Absent),
            // Another's file (O_NOATIME is refused), a symbolic link or a socket: look at the thing itself.
            Err(Errno::PERM | Errno::LOOP | Errno::ACCESS | Errno::NXIO) => return Self::foreign(entries, name),
            Err(e) => return Err(e.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        let identity = Identity::of(&stat);
        let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let len = usize::try_from(stat.st_size).unwrap_or(0);
        if !is_ours || !is_file || len == 0 {
            return Ok(Opened::Unusable(identity));
        }
        let is_key =
            |map: &Mapping| map.url().to_bytes() == url.as_bytes() && map.scope().to_bytes() == scope.as_bytes();
        let Some(map) = Mapping::new(&file, len)?.filter(is_key) else { return Ok(Opened::Unusable(identity)) };
        let entry = Self::new(map, name.clone(), identity, u64::try_from(stat.st_mtime).unwrap_or(0));
        Ok(Opened::Entry(Box::new(entry)))
    }

    fn foreign(entries: BorrowedFd<'_>, name: &Name) -> io::Result<Opened> {
        let stat = rustix::fs::statat(entries, name.path(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Opened::Unusable(Identity::of(&stat)))
    }

    fn new(map: Mapping, name: Name, identity: Identity, validated_at: u64) -> Self {
        let words = map.layout().blocks().div_ceil(64);
        let checked = (0..words).map(|_| AtomicU64::new(0)).collect();
        let (used_at, stamped_at) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { map, name, identity, validated_at, used_at, stamped_at, checked }
    }

    /// The length of the object, in bytes.
    pub fn len(&self) -> u64 {
        self.map.layout().body_len
    }

    /// Whether the object has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the entry's files.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The object's header fields as storage sent them, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&CStr, &CStr)> {
        self.map.fields()
    }

    /// Notes that the entry is used.
    pub fn touch(&self, now: u64) {
        self.used_at.store(now, Ordering::Relaxed);
    }

    /// Writes down when the entry was last used, where that has moved.
    pub(super) fn stamp(&self, entries: BorrowedFd<'_>) {
        let used_at = self.used_at.load(Ordering::Relaxed);
        if self.stamped_at.swap(used_at, Ordering::Relaxed) == used_at {
            return;
        }
        let at = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
        let times = rustix::fs::Timestamps {
            last_access: at(i64::try_from(used_at).unwrap_or(0), 0),
            last_modification: at(0, rustix::fs::UTIME_OMIT),
        };
        // An entry that has gone needs no stamp.
        let _ = rustix::fs::utimensat(entries, self.name.path(), &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// Seconds since storage vouched for the version; `None` where that lies in the future.
    pub fn resident_secs(&self, now: u64) -> Option<u64> {
        now.checked_sub(self.validated_at)
    }

    /// The value of `Age` (RFC 9111, section 4.2.3), in seconds.
    pub fn age_secs(&self, now: u64) -> u64 {
        self.resident_secs(now).unwrap_or(0) + u64::from(self.map.initial_age_secs())
    }

    /// Seconds that the entry stays fresh, where it is fresh for `expire_secs` after storage vouched for it.
    pub fn ttl_secs(&self, now: u64, expire_secs: u32) -> Option<u64> {
        u64::from(expire_secs).checked_sub(self.resident_secs(now)?).filter(|ttl| *ttl > 0)
    }

    /// Where the body begins in the file.
    pub fn body_at(&self) -> u64 {
        self.map.layout().body_at
    }

    /// Checks the blocks of `part` that were not checked yet. `part` lies within the object.
    pub fn check(&self, part: &Range<u64>) -> Result<(), Damaged> {
        if part.is_empty() {
            return Ok(());
        }
        for block in part.start / BLOCK_LEN..part.end.div_ceil(BLOCK_LEN) {
            let (word, bit) = (&self.checked[(block / 64) as usize], 1 << (block % 64));
            if word.load(Ordering::Relaxed) & bit == 0 {
                self.check_block(block)?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn check_block(&self, block: u64) -> Result<(), Damaged> {
        let layout = self.map.layout();
        let stored = u32_at(self.map.bytes(), (layout.table_at + 4 * block) as usize).ok_or(Damaged)?;
        let from = block * BLOCK_LEN;
        let body = self.body(&(from..(from + BLOCK_LEN).min(layout.body_len)));
        if crc32c::crc32c(body) == stored { Ok(()) } else { Err(Damaged) }
    }

    /// The bytes of `part` of the object, which lies within it; they are right only after [`Entry::check`].
    pub fn body(&self, part: &Range<u64>) -> &[u8] {
        let at = |offset: u64| (self.map.layout().body_at + offset) as usize;
        &self.map.bytes()[at(part.start)..at(part.end)]
    }

    /// Opens the file anew for a `sendfile`, if the entry's name still leads to this very version.
    pub fn reopen(&self, entries: BorrowedFd<'_>) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(entries, self.name.path(), flags, Mode::empty()).ok()?);
        let stat = rustix::fs::fstat(file.as_fd()).ok()?;
        (Identity::of(&stat) == self.identity).then_some(file)
    }
}
