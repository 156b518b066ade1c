//! Disk space: what the store takes, what it leaves free, and what makes room.
//!
//! Each process counts what it adds itself, and counts all files anew when its count is old or at the limit.
//! Between two counts, what other processes add is not seen.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
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
    /// `None` for a foreign file.
    name: Option<Name>,
    identity: Identity,
    /// In seconds and nanoseconds since 1970.
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
        let is_known = |c: &Count| c.at.elapsed() < COUNT_AGE_MAX && c.taken + len <= max;
        if !count.as_ref().is_some_and(is_known) {
            *count = Some(Count { taken: self.make_room(store, len)?, at: Instant::now() });
        }
        let count = count.as_mut().filter(|count| count.taken + len <= max).ok_or(io::ErrorKind::StorageFull)?;
        count.taken += len;
        Ok(())
    }

    /// Counts the files, and removes what has to go for `len` bytes more; gives the bytes that are taken then.
    fn make_room(&self, store: &Store, len: u64) -> io::Result<u64> {
        let max = self.limits.store_len_max;
        let abandoned = visit(store.fills.as_fd())?;
        let mut taken = 0;
        for file in &abandoned {
            // Who fills holds the lock; what is left behind has nobody who does.
            let is_gone = file.name.as_ref().is_some_and(|name| store.discard_fill(name).unwrap_or(false));
            taken += if is_gone { 0 } else { file.len };
        }
        let mut entries = entries(store)?;
        taken += entries.iter().map(|file| file.len).sum::<u64>();
        let removable: u64 = entries.iter().filter(|file| file.name.is_some()).map(|file| file.len).sum();
        // Nothing goes where there is room, nor where all of it could go in vain.
        if taken + len <= max || taken - removable + len > max {
            return Ok(taken);
        }
        // A little more than needed goes, so that the next fill need not count again.
        let goal = (max - max / 20).saturating_sub(len);
        entries.sort_unstable_by_key(|file| file.used_at);
        for file in entries {
            let Some(name) = file.name.filter(|_| taken > goal) else { continue };
            taken -= if store.discard(&name, file.identity)? { file.len } else { 0 };
        }
        Ok(taken)
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

/// All files of the shards below `entries`; foreign ones have no name.
fn entries(store: &Store) -> io::Result<Vec<Met>> {
    let mut met = Vec::new();
    for shard in Dir::read_from(&store.entries)? {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shard = shard?;
        // Names with a dot are the directory itself and its parent; a foreign file has nothing below it.
        let Some(name) = shard.file_name().to_str().ok().filter(|name| !name.starts_with('.')) else { continue };
        let Ok(dir) = rustix::fs::openat(&store.entries, name, flags, Mode::empty()) else { continue };
        met.extend(visit(dir.as_fd())?);
    }
    Ok(met)
}

/// The files of a directory.
fn visit(dir: BorrowedFd<'_>) -> io::Result<Vec<Met>> {
    let mut met = Vec::new();
    for file in Dir::read_from(dir)? {
        let file = file?;
        let name = file.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What has gone since takes no space.
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        met.push(Met {
            name: name.to_str().ok().and_then(Name::from_file),
            identity: Identity::of(&stat),
            used_at: (stat.st_atime, stat.st_atime_nsec),
            len: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        });
    }
    Ok(met)
}
