//! The store as somebody sees it who only looks: whatever is there, and nothing is made, mapped, locked or written.
//!
//! # Invariants
//!
//! - A visitor changes nothing that anybody can see, times of files included.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::record::Looked;
use super::space::blocks_len;
use super::version::Place;
use super::{Control, Dirs, Name, Record, Store, Unfit, evict, lock, open_dir, sys};

/// Connections to storage that can be configured at most.
const CONNECTIONS_MAX: u64 = 4096;

/// A store that is looked at.
pub struct Visit(Dirs);

/// A file in the store by its name.
pub struct Seen {
    /// The file's path below `<root>/v1`.
    pub path: String,
    /// What its name says that it is; `None` for a foreign file.
    pub name: Option<Name>,
    /// Bytes that it takes on disk.
    pub disk_len: u64,
}

/// Some of the entries' names.
pub struct Sample {
    /// The names.
    pub names: Vec<Name>,
    /// How many of the 256 shards they are from.
    pub shards: u64,
    /// Whether the last of these has more.
    pub is_cut: bool,
}

/// What the control block says of the store's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the files take, and at times more than that; `None` where nobody has counted since the host was started.
    pub taken: Option<u64>,
    /// When they were counted last, in milliseconds since 1970.
    pub counted_at_ms: Option<u64>,
    /// The limits of those who serve; `None` where nobody has said.
    pub limits: Option<super::Limits>,
}

impl Visit {
    /// Opens the store below `root`, which is this user's.
    pub fn open(root: &Path) -> Result<Self, Unfit> {
        Dirs::open(root, OFlags::RDONLY).map(Self)
    }

    /// The store of a process that serves, as others see it: of its own locks it knows nothing.
    pub fn beside(store: &Store) -> io::Result<Self> {
        let dir = |name| open_dir(store.v1.as_fd(), name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let locks = rustix::fs::openat(&store.v1, "locks", flags, Mode::empty())?.into();
        Ok(Self(Dirs { v1: dir(".")?, entries: dir("entries")?, fills: dir("fills")?, locks }))
    }

    /// Names of entries, from shards chosen by chance: at least `enough` of them and at most `most`, unless there are fewer.
    pub fn sample(&self, enough: usize, most: usize) -> io::Result<Sample> {
        let mut sample = Sample { names: Vec::new(), shards: 0, is_cut: false };
        for shard in evict::shuffled_shards()? {
            if sample.names.len() >= enough {
                return Ok(sample);
            }
            sample.shards += 1;
            let dir = match open_dir(self.0.entries.as_fd(), &shard) {
                Ok(dir) => dir,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => continue,
                Err(e) => return Err(e.into()),
            };
            for file in Dir::read_from(&dir)? {
                let name = file?.file_name().to_str().ok().and_then(Name::from_file);
                sample.names.extend(name.filter(|name| name.shard() == shard));
                if sample.names.len() == most {
                    sample.is_cut = true;
                    return Ok(sample);
                }
            }
        }
        Ok(sample)
    }

    /// Bytes that are free on the store's file system, and its size.
    pub fn file_system(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.0.v1)?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }

    /// The files of one of the 256 shards of entries.
    pub fn shard(&self, shard: u8) -> io::Result<Vec<Seen>> {
        let shard = format!("{shard:02x}");
        let dir = match open_dir(self.0.entries.as_fd(), &shard) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let seen = evict::files(dir.as_fd())?.into_iter().map(|(file, stat)| Seen {
            path: format!("entries/{shard}/{file}"),
            name: Name::from_file(&file).filter(|name| name.shard() == shard),
            disk_len: blocks_len(&stat),
        });
        Ok(seen.collect())
    }

    /// The files of fills, without those that are half made.
    pub fn fills(&self) -> io::Result<Vec<Seen>> {
        let files = evict::files(self.0.fills.as_fd())?.into_iter();
        let seen = files.map(|(file, stat)| Seen {
            path: format!("fills/{file}"),
            name: Name::from_file(&file),
            disk_len: blocks_len(&stat),
        });
        Ok(seen.filter(|seen| seen.name.is_some()).collect())
    }

    /// What lies under a name.
    pub fn look(&self, place: Place, name: &Name) -> io::Result<Looked> {
        let dir = match place {
            Place::Entries => self.0.entries.as_fd(),
            Place::Fills => self.0.fills.as_fd(),
        };
        Record::look(dir, place, name)
    }

    /// Whether somebody works under a name.
    pub fn is_locked(&self, name: &Name) -> io::Result<bool> {
        sys::is_byte_locked(&self.0.locks, name.lock_byte())
    }

    /// Whether a process leads.
    pub fn has_leader(&self) -> io::Result<bool> {
        sys::is_byte_locked(&self.0.locks, lock::LEADER)
    }

    /// How many connections to storage are in use.
    pub fn connections(&self) -> io::Result<u64> {
        let mut count = 0;
        for number in 0..CONNECTIONS_MAX {
            count += u64::from(sys::is_byte_locked(&self.0.locks, lock::CONNECTIONS + number)?);
        }
        Ok(count)
    }

    /// A copy of the words that all processes over the store share; `None` where there are none, or damaged ones.
    pub fn control(&self) -> io::Result<Option<Control>> {
        Control::copy(self.v1())
    }

    /// What a copy of the words says of space.
    pub fn space(control: &Control) -> Space {
        let counted_at_ms = control.counted_at_ms();
        let limits = control.terms().map(|terms| super::Limits {
            store_len_max: terms.store_len_max,
            free_len_min: terms.free_len_min,
            generation: terms.generation,
        });
        Space { taken: counted_at_ms.map(|_| control.taken().load(Ordering::SeqCst)), counted_at_ms, limits }
    }

    fn v1(&self) -> BorrowedFd<'_> {
        self.0.v1.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Site, name, open, publish_small};
    use crate::store::{Leader, Purge, now_ms};

    fn visit(site: &Site) -> Visit {
        Visit::open(site.dir.path()).expect("a store")
    }

    #[test]
    fn a_copy_of_the_control_block_is_nobody_elses() {
        let site = Site::new();
        let copy = visit(&site).control().expect("an answer").expect("there is one");
        let (real, slot) = (site.store.control(), copy.slot(&name(1)));
        copy.bump(slot);
        assert_eq!((copy.epoch(slot), real.epoch(slot)), (1, 0));
        real.bump_purges(slot);
        assert_eq!((copy.purges(slot), copy.incarnation()), (0, real.incarnation()));
        std::fs::write(site.path("control"), "short").expect("written");
        assert!(visit(&site).control().expect("an answer").is_none());
    }

    #[test]
    fn a_sample_is_all_of_a_small_store_and_bounded_in_a_large_one() {
        let site = Site::new();
        (0..40).for_each(|n| publish_small(&site.store, n, n));
        let beside = Visit::beside(&site.store).expect("it opens");
        let whole = beside.sample(100, 200).expect("it can be read");
        assert_eq!((whole.names.len(), whole.shards, whole.is_cut), (40, 256, false));
        let some = beside.sample(10, 200).expect("it can be read");
        assert!(some.names.len() >= 10 && some.shards < 256 && !some.is_cut, "{}", some.names.len());
        let cut = beside.sample(10, 10).expect("it can be read");
        assert_eq!((cut.names.len(), cut.is_cut), (10, true));
    }

    #[test]
    fn who_serves_sees_its_own_locks_as_others_do() {
        let site = Site::new();
        let mut leader = Leader::new();
        leader.tick(&site.store, now_ms()).expect("it leads");
        assert!(Visit::beside(&site.store).and_then(|visit| visit.has_leader()).expect("an answer"));
    }

    #[test]
    fn who_leads_and_the_connections_in_use_are_seen() {
        let site = Site::new();
        let mut leader = Leader::new();
        assert!(!visit(&site).has_leader().expect("an answer"));
        leader.tick(&site.store, now_ms()).expect("it leads");
        let held = [0, 7, 4095].map(|n| site.store.lock_byte(lock::CONNECTIONS + n).expect("an answer"));
        assert!(visit(&site).has_leader().expect("an answer"));
        assert_eq!(visit(&site).connections().ok(), Some(3));
        drop(held);
        assert_eq!(visit(&site).connections().ok(), Some(0));
    }

    #[test]
    fn who_only_removes_leaves_the_limits_alone() {
        let site = Site::new();
        let young = open(site.dir.path(), 1 << 30, 9);
        publish_small(&young, 1, 1);
        let limits = || Visit::space(&visit(&site).control().expect("an answer").expect("there is one")).limits;
        let before = limits();
        assert_eq!(before.map(|limits| limits.generation), Some(9));
        let other = Store::open_existing(site.dir.path()).expect("a store");
        assert_eq!((other.purge(Purge::All).ok(), limits()), (Some(1), before));
        // Where nobody has said, nobody is made to have.
        std::fs::remove_file(site.path("control")).expect("it is there");
        drop(Store::open_existing(site.dir.path()).expect("a store"));
        assert_eq!(limits(), None);
    }

    #[test]
    fn nothing_is_made_where_something_is_missing() {
        for missing in ["locks", "fills", "entries", ""] {
            let site = Site::new();
            let path = site.path(missing);
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.expect("it is there");
            let is_io = |unfit: Unfit| matches!(unfit, Unfit::Io(_, e) if e.kind() == io::ErrorKind::NotFound);
            assert!(Visit::open(site.dir.path()).err().is_some_and(is_io), "{missing}");
            assert!(Store::open_existing(site.dir.path()).err().is_some_and(is_io), "{missing}");
            assert!(!path.exists(), "{missing}");
        }
    }
}
