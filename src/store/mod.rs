//! The store: versions of objects as files, mapped when they are served.
//!
//! [`Store::entry`] opens what is there, [`Store::lock`] is the right to change what lies under a name, and
//! [`Fill`] makes an entry. [`Control`] is what all processes over the store share in memory, and [`Leader`] what one of
//! them does for all. docs/store-format.md draws the files and tells their life.
//!
//! # Invariants
//!
//! - Only the holder of a name's [`KeyLock`] creates, renames or unlinks files of that name; a purge alone unlinks an
//!   entry without it.

pub mod connections;
pub mod control;
mod count;
pub mod counters;
mod evict;
pub mod fill;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
pub(crate) mod fixture;
pub mod format;
pub mod held;
mod leader;
pub mod lock;
mod look;
pub mod map;
pub mod name;
mod purge;
pub mod record;
pub(crate) mod shared_file;
mod space;
pub(crate) mod sys;
pub mod version;
pub mod visit;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub use control::{Control, Noted, Slot};
pub use counters::Counters;
pub use fill::Fill;
pub use leader::Leader;
pub use lock::KeyLock;
pub use name::Name;
pub use purge::Purge;
pub use record::Record;
pub use sys::spawn_quietly;
pub use version::{Identity, Opened, Version};
pub use visit::Visit;

/// How much of the disk the store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that its files may take.
    pub store_len_max: u64,
    /// Bytes that it leaves free on its file system.
    pub free_len_min: u64,
    /// Which generation of children says so: the highest number is the youngest, and what it says counts.
    pub generation: u64,
}

/// The store's directory, open.
pub struct Store {
    /// For locks, which outlive the call that takes them.
    this: Weak<Self>,
    v1: OwnedFd,
    entries: OwnedFd,
    fills: OwnedFd,
    locks: File,
    /// The lock bytes that threads of this process hold.
    locked: Mutex<HashSet<u64>>,
    control: RwLock<Arc<Control>>,
    /// One thread at a time looks whether the control block was replaced.
    refreshing: Mutex<()>,
    counters: Counters,
    space: space::Space,
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

/// What a store consists of, open.
struct Dirs {
    v1: OwnedFd,
    entries: OwnedFd,
    fills: OwnedFd,
    locks: File,
}

impl Dirs {
    /// Opens what lies below `root`, with this access to the locks; what is missing is made where that says so.
    fn open(root: &Path, access: OFlags) -> Result<Self, Unfit> {
        let below = if access.contains(OFlags::CREATE) { make_own_dir } else { open_own_dir };
        let dir = open_own_dir(CWD, "", root)?;
        refuse_remote(dir.as_fd(), root)?;
        let v1 = below(dir.as_fd(), "v1", root)?;
        let path = root.join("v1");
        let entries = below(v1.as_fd(), "entries", &path)?;
        let fills = below(v1.as_fd(), "fills", &path)?;
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let locks = rustix::fs::openat(&v1, "locks", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Unfit::Io(path.join("locks"), e.into()))?
            .into();
        Ok(Self { v1, entries, fills, locks })
    }
}

impl Store {
    /// Opens the store below `root`, an existing directory of this user's, and makes what is missing in it.
    pub fn open(root: &Path, limits: Limits) -> Result<Arc<Self>, Unfit> {
        let store = Self::over(root, Dirs::open(root, OFlags::RDWR | OFlags::CREATE)?, limits)?;
        store.space.put_terms(&store.control());
        // Without a file nobody is the worse for it but who looks at the counters.
        let _ = store.refresh_counters();
        Ok(store)
    }

    /// Opens a store that is there, for a process that removes entries and neither fills nor leads: it makes nothing but a
    /// control block in the place of one that is missing or damaged, and the limits of those who serve stay.
    pub fn open_existing(root: &Path) -> Result<Arc<Self>, Unfit> {
        let none = Limits { store_len_max: u64::MAX, free_len_min: 0, generation: 0 };
        Self::over(root, Dirs::open(root, OFlags::RDWR)?, none)
    }

    fn over(root: &Path, dirs: Dirs, limits: Limits) -> Result<Arc<Self>, Unfit> {
        let Dirs { v1, entries, fills, locks } = dirs;
        let control =
            Control::open(v1.as_fd(), &locks).map_err(|e| Unfit::Io(root.join("v1").join(control::CONTROL), e))?;
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            v1,
            entries,
            fills,
            locks,
            locked: Mutex::default(),
            control: RwLock::new(Arc::new(control)),
            refreshing: Mutex::default(),
            counters: Counters::new(),
            space: space::Space::new(limits),
        }))
    }

    /// The words that all processes over the store share.
    pub fn control(&self) -> Arc<Control> {
        self.control.read().clone()
    }

    /// What is counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Looks whether the file of counters still lies at its path, and opens the one that does.
    pub fn refresh_counters(&self) -> io::Result<()> {
        let _alone = self.refreshing.lock();
        self.counters.refresh(self.v1.as_fd(), &self.locks)
    }

    /// Looks whether the control block still lies at its path, and opens the one that does. Tells whether it is another
    /// one, of which no epoch is known.
    pub fn refresh_control(&self) -> io::Result<bool> {
        let _alone = self.refreshing.lock();
        let held = self.control();
        match rustix::fs::statat(&self.v1, control::CONTROL, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if Identity::of(&stat) == held.identity() => return Ok(false),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let control = Arc::new(Control::open(self.v1.as_fd(), &self.locks)?);
        self.space.put_terms(&control);
        *self.control.write() = control;
        Ok(true)
    }

    /// Writes down when `entry` was last used, where that has moved.
    pub fn stamp(&self, entry: &Version) {
        entry.stamp(self.entries.as_fd());
    }

    /// The directory of entries.
    pub fn entries(&self) -> BorrowedFd<'_> {
        self.entries.as_fd()
    }

    /// Removes what lies under `name`, which `stat` describes, and tells whether it was there.
    fn unlink_entry(&self, name: &Name, stat: &Stat) -> io::Result<bool> {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let control = self.control();
        control.bump(control.slot(name));
        let done = rustix::fs::unlinkat(&self.entries, name.path(), flags);
        control.bump(control.slot(name));
        match done {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Has the words of the control block on disk. Where another one has taken its place, no fill is told by these.
    fn sync_control(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.v1, control::CONTROL, flags, Mode::empty()) {
            Ok(control) => sys::sync_file(&control.into()),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes what was renamed or unlinked in a shard last.
    fn sync_shard(&self, shard: &str) -> io::Result<()> {
        sys::sync_names(open_dir(self.entries.as_fd(), shard)?.as_fd())
    }
}

/// Where a distribution's httpd keeps its caches; the first that exists holds the store by default.
pub const CACHE_DIRS: [&str; 2] = ["/var/cache/apache2", "/var/cache/httpd"];

/// The store's directory where none is configured; `None` where there is no place for it.
pub fn default_root() -> Option<PathBuf> {
    CACHE_DIRS.iter().map(Path::new).find(|dir| dir.is_dir()).map(|dir| dir.join("usp-storage-cache"))
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
    let dir = open_dir(parent, name)?;
    let is_empty =
        Dir::read_from(&dir)?.all(|file| file.is_ok_and(|file| matches!(file.file_name().to_bytes(), b"." | b"..")));
    if !is_own_dir(&rustix::fs::fstat(&dir)?, 0) || !is_empty {
        return Err(Errno::PERM);
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::fchown(&dir, Some(uid), Some(gid))
}

/// Opens the directory `name` in `parent`, whose path is `path`, and makes it where it is missing.
fn make_own_dir(parent: BorrowedFd<'_>, name: &str, path: &Path) -> Result<OwnedFd, Unfit> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_own_dir(parent, name, path),
        Err(e) => Err(Unfit::Io(path.join(name), e.into())),
    }
}

/// Opens the directory `name` in `parent`, whose path is `path`; `path` itself where there is no name.
fn open_own_dir(parent: BorrowedFd<'_>, name: &str, path: &Path) -> Result<OwnedFd, Unfit> {
    let full = if name.is_empty() { path.into() } else { path.join(name) };
    let at = if name.is_empty() { path } else { Path::new(name) };
    let opened = open_dir(parent, at).and_then(|dir| Ok((rustix::fs::fstat(&dir)?, dir)));
    match opened {
        Ok((stat, dir)) if is_own_dir(&stat, rustix::process::geteuid().as_raw()) => Ok(dir),
        Ok(_) => Err(Unfit::Access(full)),
        Err(Errno::NOTDIR | Errno::LOOP) => Err(Unfit::Link(full)),
        Err(e) => Err(Unfit::Io(full, e.into())),
    }
}

/// Milliseconds since 1970, by a clock that ticks every few milliseconds and costs no system call.
pub fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

fn open_dir(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
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

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
mod crash;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
mod races;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
mod tests;
