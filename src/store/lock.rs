//! The bytes of `locks`, and the right to change what lies under a name.
//!
//! docs/store-format.md, "Lock bytes", lists them. The kernel frees a byte when its holder dies.
//!
//! # Invariants
//!
//! - A byte is taken by one thread of the process at a time: threads share the description that holds it.
//! - What a file takes is released by who holds its name's lock, or not at all: two never release the same.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::fill::timespec;
use super::space::blocks_len;
use super::{Identity, Name, Store, Version, sys};

/// Held by the leader as long as it leads.
pub(super) const LEADER: u64 = 1 << 62;
/// Shared by who reserves or releases space, held alone by who counts.
pub(super) const COUNT: u64 = LEADER + 1;
/// Held while a damaged control block is set aside.
pub(super) const CONTROL: u64 = LEADER + 2;
/// The first of the bytes that stand for connections to storage.
pub(super) const CONNECTIONS: u64 = LEADER + 4096;
/// The first of the bytes that stand for identities whose credentials are fetched: 64 for each of 2^32 tables.
pub(crate) const CREDENTIALS: u64 = LEADER + (1 << 40);

/// A byte that is held; freed when it is dropped, or when the process ends.
pub struct ByteLock {
    store: Arc<Store>,
    byte: u64,
}

/// The right to change what lies under a name.
pub struct KeyLock {
    store: Arc<Store>,
    name: Name,
    /// There until the drop.
    byte: Option<ByteLock>,
}

impl Store {
    /// Takes the lock of `name`, unless another thread or process has it.
    pub fn lock(&self, name: &Name) -> io::Result<Option<KeyLock>> {
        let byte = self.lock_byte(name.lock_byte())?;
        Ok(byte.map(|byte| KeyLock { store: self.shared(), name: name.clone(), byte: Some(byte) }))
    }

    /// Takes a byte of `locks`, unless another thread or process has it.
    pub fn lock_byte(&self, byte: u64) -> io::Result<Option<ByteLock>> {
        Ok(self.take_byte(byte)?.then(|| ByteLock { store: self.shared(), byte }))
    }

    fn shared(&self) -> Arc<Self> {
        self.this.upgrade().expect("who calls holds it")
    }

    /// Whether a thread or process works under `name`; it is not kept from doing so.
    pub fn is_locked(&self, name: &Name) -> io::Result<bool> {
        let byte = name.lock_byte();
        Ok(self.locked.lock().contains(&byte) || sys::is_byte_locked(&self.locks, byte)?)
    }

    pub(super) fn take_byte(&self, byte: u64) -> io::Result<bool> {
        let mut locked = self.locked.lock();
        if locked.contains(&byte) || !sys::try_lock_byte(&self.locks, byte)? {
            return Ok(false);
        }
        Ok(locked.insert(byte))
    }

    pub(super) fn free_byte(&self, byte: u64) {
        let mut locked = self.locked.lock();
        // The kernel frees it at the latest when the process ends.
        let _ = sys::unlock_byte(&self.locks, byte);
        locked.remove(&byte);
    }

    /// Removes the entry under `name` if it still is the file `identity`, and tells whether it did: who
    /// holds the name's lock is about to replace it anyway.
    pub fn discard(&self, name: &Name, identity: Identity) -> io::Result<bool> {
        self.briefly(name, |lock| lock.discard(identity))
    }

    /// Removes a fill that nobody works at, and tells whether it did.
    pub(super) fn discard_fill(&self, name: &Name) -> io::Result<bool> {
        self.briefly(name, |lock| lock.remove_fill())
    }

    /// Does `work` under the name's lock, unless somebody has it.
    pub(super) fn briefly(&self, name: &Name, work: impl FnOnce(&KeyLock) -> io::Result<bool>) -> io::Result<bool> {
        let Some(lock) = self.lock(name)? else { return Ok(false) };
        work(&lock)
    }
}

impl KeyLock {
    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Has those look again who wait for a fill of this name.
    pub fn announce(&self) {
        let control = self.store.control();
        control.announce(control.slot(&self.name));
    }

    /// Makes `file` in `fills`, the name's fill or a name of its own for one that is half made, with room for `len` bytes.
    pub(super) fn make_file(&self, file: &str, len: u64) -> io::Result<File> {
        let store = &self.store;
        let mut reserved = store.space.reserve(store, len)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = File::from(rustix::fs::openat(&store.fills, file, flags, Mode::RUSR | Mode::WUSR)?);
        let done = allocate(&made, len).and_then(|()| reserved.settle(&made));
        // The space is free only when the file has gone.
        if done.is_ok() || rustix::fs::unlinkat(&store.fills, file, AtFlags::empty()).is_err() {
            reserved.keep();
        }
        done.map(|()| made)
    }

    /// Makes the name's fill, which is whole and synced, the entry, in the place of the one before. Tells whether it stays: not if
    /// the key was purged since storage was asked.
    pub(super) fn put_in_place(&self, version: &Version) -> io::Result<bool> {
        let (store, name) = (&self.store, &self.name);
        match rustix::fs::mkdirat(&store.entries, name.shard(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let path = name.path();
        let removal = store.space.removal(store)?;
        let replaced = rustix::fs::statat(&store.entries, &path, AtFlags::SYMLINK_NOFOLLOW).ok();
        self.change(|| Ok(rustix::fs::renameat(&store.fills, name.file(), &store.entries, &path)?))?;
        removal.release(replaced.as_ref().map_or(0, releasable));
        store.sync_shard(name.shard())?;
        if store.control().purge_mark(name) == version.purges() {
            return Ok(true);
        }
        self.discard(version.identity()).map(|_| false)
    }

    /// Notes that storage vouched for an entry at `at_ms`, if the name still leads to it, and tells whether it does.
    pub fn vouch(&self, entry: &Version, at_ms: u64) -> io::Result<bool> {
        let Some(file) = entry.reopen(self.store.entries()) else { return Ok(false) };
        let kept = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = Timestamps { last_access: kept, last_modification: timespec(at_ms) };
        self.change(|| Ok(rustix::fs::futimens(&file, &times)?))?;
        Ok(true)
    }

    /// Makes a change of the entry that everybody notices.
    fn change(&self, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let control = self.store.control();
        let slot = control.slot(&self.name);
        control.bump(slot);
        let changed = change();
        control.bump(slot);
        changed
    }

    /// Removes the entry if it still is the file `identity`, and tells whether it did.
    pub fn discard(&self, identity: Identity) -> io::Result<bool> {
        self.remove_entry(|stat| Identity::of(stat) == identity)
    }

    /// Removes the entry if `is_it`, and tells whether it did.
    pub(super) fn remove_entry(&self, is_it: impl FnOnce(&Stat) -> bool) -> io::Result<bool> {
        let (store, path) = (&self.store, self.name.path());
        let removal = store.space.removal(store)?;
        let stat = match rustix::fs::statat(&store.entries, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_it(&stat) => stat,
            Ok(_) | Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let is_gone = store.unlink_entry(&self.name, &stat)?;
        removal.release(if is_gone { releasable(&stat) } else { 0 });
        Ok(is_gone)
    }

    /// Removes the name's fill, and one that is half made; tells whether there was one.
    pub fn remove_fill(&self) -> io::Result<bool> {
        let fills = &self.store.fills;
        let removal = self.store.space.removal(&self.store)?;
        let mut len = 0;
        let mut is_gone = false;
        for file in [self.name.file(), &self.name.half_made_file()] {
            let stat = match rustix::fs::statat(fills, file, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            rustix::fs::unlinkat(fills, file, AtFlags::empty())?;
            is_gone = true;
            len += releasable(&stat);
        }
        removal.release(len);
        Ok(is_gone)
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        self.byte = None;
        // Who wanted the lock meanwhile was turned away, and waits for whatever it was held for.
        self.announce();
    }
}

impl Drop for ByteLock {
    fn drop(&mut self) {
        self.store.free_byte(self.byte);
    }
}

/// Gives the file all its blocks.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        // No emulation that writes each block: a full disk then fails a pwrite instead.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len),
        other => Ok(other?),
    }
}

/// What was reserved for a file and is free when it has gone: nothing where it is none of ours.
fn releasable(stat: &Stat) -> u64 {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let is_ours = is_file && stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_nlink == 1;
    if is_ours { blocks_len(stat) } else { 0 }
}
