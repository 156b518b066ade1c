//! The store: versions of objects as files, mapped when they are served.
//!
//! [`Store::entry`] opens what is there, [`Store::lock`] is the right to change what lies under a name, and
//! [`Fill`] makes an entry. docs/store-format.md draws the files and tells their life.
//!
//! # Invariants
//!
//! - Only the holder of a name's [`KeyLock`] creates, renames or unlinks files of that name.
//! - A lock byte is taken by one thread of the process at a time: threads share the description that holds it.

pub mod entry;
pub mod fill;
pub mod format;
pub mod held;
pub mod map;
pub mod name;
mod space;
mod sys;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub use entry::{Entry, Identity, Opened};
pub use fill::Fill;
pub use name::Name;
pub use sys::spawn_quietly;

/// How much of the disk the store takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that its files may take.
    pub store_len_max: u64,
    /// Bytes that it leaves free on its file system.
    pub free_len_min: u64,
}

/// The store's directory, open.
pub struct Store {
    entries: OwnedFd,
    fills: OwnedFd,
    locks: File,
    /// The lock bytes that threads of this process hold.
    locked: Mutex<HashSet<u64>>,
    space: space::Space,
}

/// The right to change what lies under a name; freed when it is dropped, or when the process ends.
pub struct KeyLock<'s> {
    store: &'s Store,
    name: Name,
}

/// Why a directory cannot hold the store.
#[derive(Debug)]
pub enum Unfit {
    /// It belongs to another user, or others may write to it.
    Access(PathBuf),
    /// It is a symbolic link, or no directory.
    Link(PathBuf),
    /// It lies on a file system whose files can vanish under a mapping.
    FileSystem(PathBuf, &'static str),
    /// It cannot be made or opened.
    Io(PathBuf, io::Error),
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Access(path) => write!(
                f,
                "{} must be a directory that belongs to the server's user and that nobody else can write to: \
                 chown and chmod 0700 it, or name another one with UspStorageCacheRoot",
                path.display()
            ),
            Self::Link(path) => {
                write!(f, "{} is a symbolic link or no directory: name the directory itself", path.display())
            }
            Self::FileSystem(path, name) => write!(
                f,
                "{} lies on {name}, where files can vanish under a mapping: \
                 name a directory on a local disk with UspStorageCacheRoot",
                path.display()
            ),
            Self::Io(path, e) => write!(f, "{}: {e}", path.display()),
        }
    }
}

impl Store {
    /// Opens the store below `root`, an existing directory of this user's, and makes what is missing in it.
    pub fn open(root: &Path, limits: Limits) -> Result<Self, Unfit> {
        let dir = open_own_dir(CWD, root, root)?;
        refuse_remote(dir.as_fd(), root)?;
        let v1 = make_own_dir(dir.as_fd(), "v1", root)?;
        let entries = make_own_dir(v1.as_fd(), "entries", root)?;
        let fills = make_own_dir(v1.as_fd(), "fills", root)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let locks = rustix::fs::openat(&v1, "locks", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Unfit::Io(root.join("v1/locks"), e.into()))?;
        Ok(Self { entries, fills, locks: locks.into(), locked: Mutex::default(), space: space::Space::new(limits) })
    }

    /// The entry of `url` in `scope`. What is there and cannot be used is removed.
    pub fn entry(&self, name: &Name, url: &str, scope: &str) -> io::Result<Option<Entry>> {
        match Entry::open(self.entries.as_fd(), name, url, scope)? {
            Opened::Absent => Ok(None),
            Opened::Entry(entry) => Ok(Some(*entry)),
            Opened::Unusable(identity) => self.discard(name, identity).map(|_| None),
        }
    }

    /// Takes the lock of `name`, unless another thread or process has it.
    pub fn lock(&self, name: Name) -> io::Result<Option<KeyLock<'_>>> {
        let byte = name.lock_byte();
        let mut locked = self.locked.lock();
        if locked.contains(&byte) || !sys::try_lock_byte(&self.locks, byte)? {
            return Ok(None);
        }
        locked.insert(byte);
        Ok(Some(KeyLock { store: self, name }))
    }

    /// Removes the entry under `name` if it still is the file `identity`, and tells whether it did: who
    /// holds the name's lock is about to replace it anyway.
    pub fn discard(&self, name: &Name, identity: Identity) -> io::Result<bool> {
        self.lock(name.clone())?.map_or(Ok(false), |lock| lock.discard(identity))
    }

    /// Removes a fill that nobody works at, and tells whether it did.
    fn discard_fill(&self, name: &Name) -> io::Result<bool> {
        match self.lock(name.clone())? {
            Some(_lock) => Ok(rustix::fs::unlinkat(&self.fills, name.file(), AtFlags::empty()).map(|()| true)?),
            None => Ok(false),
        }
    }

    /// Writes down when `entry` was last used, where that has moved.
    pub fn stamp(&self, entry: &Entry) {
        entry.stamp(self.entries.as_fd());
    }

    /// The descriptor that entries are opened below.
    pub fn entries(&self) -> BorrowedFd<'_> {
        self.entries.as_fd()
    }
}

impl KeyLock<'_> {
    /// Removes the entry if it still is the file `identity`, and tells whether it did.
    pub fn discard(&self, identity: Identity) -> io::Result<bool> {
        let path = self.name.path();
        match rustix::fs::statat(&self.store.entries, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if Identity::of(&stat) == identity => {
                remove(self.store.entries.as_fd(), &path, &stat).map(|()| true)
            }
            Ok(_) | Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for KeyLock<'_> {
    fn drop(&mut self) {
        let byte = self.name.lock_byte();
        let mut locked = self.store.locked.lock();
        // The kernel frees it at the latest when the process ends.
        let _ = sys::unlock_byte(&self.store.locks, byte);
        locked.remove(&byte);
    }
}

/// Makes `root` for the user `uid` of group `gid` where it is missing, and says what is wrong with one that exists.
///
/// Meant for root at start: only the last component is made, beneath a parent that is opened without following
/// a link, and only the directory that was made here is handed over, by its descriptor.
pub fn make_root(root: &Path, uid: u32, gid: u32) -> Result<(), Unfit> {
    let io = |e: Errno| Unfit::Io(root.into(), e.into());
    let (Some(parent_path), Some(name)) = (root.parent(), root.file_name()) else { return Err(io(Errno::INVAL)) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent_path, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOTDIR | Errno::LOOP => Unfit::Link(parent_path.into()),
        e => Unfit::Io(parent_path.into(), e.into()),
    })?;
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) if rustix::process::geteuid().is_root() => hand_over(parent.as_fd(), name, uid, gid).map_err(io),
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io)?;
            if is_own_dir(&stat, uid) { Ok(()) } else { Err(Unfit::Access(root.into())) }
        }
        Err(e) => Err(io(e)),
    }
}

/// Gives the directory that root has just made to the children's user, unless somebody put another one in its place.
fn hand_over(parent: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let is_empty =
        Dir::read_from(&dir)?.all(|file| file.is_ok_and(|file| matches!(file.file_name().to_bytes(), b"." | b"..")));
    if !is_own_dir(&rustix::fs::fstat(&dir)?, 0) || !is_empty {
        return Err(Errno::PERM);
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::fchown(&dir, Some(uid), Some(gid))
}

fn make_own_dir(parent: BorrowedFd<'_>, name: &str, root: &Path) -> Result<OwnedFd, Unfit> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_own_dir(parent, Path::new(name), root),
        Err(e) => Err(Unfit::Io(root.join(name), e.into())),
    }
}

fn open_own_dir(parent: BorrowedFd<'_>, name: &Path, root: &Path) -> Result<OwnedFd, Unfit> {
    let io = |e: Errno| Unfit::Io(root.join(name), e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(io)?;
    let stat = rustix::fs::fstat(&dir).map_err(io)?;
    let is_own = is_own_dir(&stat, rustix::process::geteuid().as_raw());
    if is_own { Ok(dir) } else { Err(Unfit::Access(root.join(name))) }
}

fn is_own_dir(stat: &Stat, uid: u32) -> bool {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    is_dir && stat.st_uid == uid && stat.st_mode & 0o022 == 0
}

/// Refuses file systems of statfs(2) whose files others can change or take away.
fn refuse_remote(dir: BorrowedFd<'_>, root: &Path) -> Result<(), Unfit> {
    const REMOTE: [(u32, &str); 9] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE"),
        (0x00c3_6400, "Ceph"),
        (0x5346_414f, "AFS"),
        (0x7461_636f, "OCFS2"),
    ];
    let stat = rustix::fs::fstatfs(dir).map_err(|e| Unfit::Io(root.into(), e.into()))?;
    // The type has 32 bits, sign-extended by some kernels.
    match REMOTE.iter().find(|(magic, _)| *magic == stat.f_type as u32) {
        Some((_, name)) => Err(Unfit::FileSystem(root.into(), name)),
        None => Ok(()),
    }
}

fn remove(dir: BorrowedFd<'_>, path: &str, stat: &Stat) -> io::Result<()> {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match rustix::fs::unlinkat(dir, path, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
mod tests;
