//! Disk space: what the store takes, what it leaves free, and what makes room.
//!
//! Each process counts what it adds itself, and counts all files anew when its count is old or at the limit.
//! Between two counts, what other processes add is not seen.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::format::PAGE_LEN;
use super::{Identity, Limits, Name, Store};

/// How long a count is believed.
const COUNT_AGE_MAX: Duration = Duration::from_secs(60);

/// What is known of the space that the store takes.
pub struct Space {
    limits: Limits,
    count: Mutex<Option<Count>>,
}

struct Count {
    taken: u64,
    at: Instant,
}

/// A file of the store, as the count met it.
struct Met {
    name: Option<Name>,
    identity: Identity,
    used_at: (i64, i64),
    len: u64,
}

impl Space {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, count: Mutex::new(None) }
    }

    /// Makes room for `len` bytes, least recently used entries going first; an error where there is none to be had.
    pub(super) fn reserve(&self, store: &Store, len: u64) -> io::Result<()> {
        let len = len.next_multiple_of(PAGE_LEN);
        self.refuse_full_disk(store, len)?;
        let max = self.limits.store_len_max;
        let mut count = self.count.lock();
        let is_known = count.as_ref().is_some_and(|c| c.at.elapsed() < COUNT_AGE_MAX && c.taken + len <= max);
        if !is_known {
            let mut met = files(store)?;
            let mut taken: u64 = met.iter().map(|file| file.len).sum();
            met.sort_unstable_by_key(|file| file.used_at);
            for file in met.iter().filter(|file| file.name.is_some()) {
                if taken + len <= max {
                    break;
                }
                if let Some(name) = &file.name {
                    store.discard(name, file.identity)?;
                    taken -= file.len;
                }
            }
            *count = Some(Count { taken, at: Instant::now() });
        }
        let count = count.as_mut().filter(|count| count.taken + len <= max).ok_or(io::ErrorKind::StorageFull)?;
        count.taken += len;
        Ok(())
    }

    fn refuse_full_disk(&self, store: &Store, len: u64) -> io::Result<()> {
        let stat = rustix::fs::fstatvfs(&store.fills)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < self.limits.free_len_min.saturating_add(len) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// All files below `entries` and `fills`; only entries have a name, since a fill is its holder's.
fn files(store: &Store) -> io::Result<Vec<Met>> {
    let mut met = Vec::new();
    visit(store.fills.as_fd(), |_, stat| met.push(Met::new(None, stat)))?;
    let mut shards = Vec::new();
    visit(store.entries.as_fd(), |name, _| shards.push(name.to_owned()))?;
    for shard in shards {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A foreign file among the shards has nothing below it.
        let Ok(dir) = rustix::fs::openat(&store.entries, &shard, flags, Mode::empty()) else { continue };
        visit(dir.as_fd(), |name, stat| met.push(Met::new(Name::from_file(name), stat)))?;
    }
    Ok(met)
}

fn visit(dir: std::os::fd::BorrowedFd<'_>, mut each: impl FnMut(&str, &rustix::fs::Stat)) -> io::Result<()> {
    for file in Dir::read_from(dir)? {
        let file = file?;
        let Ok(name) = file.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        // What has gone since takes no space.
        if let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            each(name, &stat);
        }
    }
    Ok(())
}

impl Met {
    fn new(name: Option<Name>, stat: &rustix::fs::Stat) -> Self {
        let len = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        Self { name, identity: Identity::of(stat), used_at: (stat.st_atime, stat.st_atime_nsec), len }
    }
}
