//! Disk space: what the store takes, what it leaves free, and who may have more.
//!
//! The sum stands in the control block, for all processes together. What makes room is evict.rs's, what counts the files
//! count.rs's.
//!
//! # Invariants
//!
//! - Space is added to the sum before a file takes it and subtracted after the file has gone: wherever a process ends,
//!   the sum is too large, never too small.
//! - Between the two the process shares a lock byte, so that who counts can tell a moment at which sum and files agree.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use parking_lot::{Condvar, Mutex};
use rustix::fs::Stat;

use super::control::{Control, Terms};
use super::format::PAGE_LEN;
use super::{Limits, Store, evict, lock, sys};

/// Inodes that are left free on the file system, unless it has few.
const FREE_INODES_MIN: u64 = 1000;

/// What this process has to do with the space that the store takes.
pub struct Space {
    limits: Limits,
    users: Mutex<Users>,
    users_changed: Condvar,
}

/// Threads of this process; together they hold one lock byte.
#[derive(Default)]
struct Users {
    /// Those who reserve or release.
    sharing: u32,
    is_counting: bool,
}

/// A moment in which the sum and the files may disagree.
struct Share<'s> {
    store: &'s Store,
    control: Arc<Control>,
}

/// Space that is reserved and that no file takes yet; free again when it is dropped.
pub(super) struct Reserved<'s> {
    share: Share<'s>,
    len: u64,
}

/// The right to say that space is free again.
pub(super) struct Removal<'s> {
    /// `None` where there is no sum yet that it could be subtracted from.
    share: Option<Share<'s>>,
}

/// What is missing of the space that the store leaves free.
pub(super) struct Shortage {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Space {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, users: Mutex::default(), users_changed: Condvar::new() }
    }

    /// The terms of this process.
    pub(super) fn own_terms(&self) -> Terms {
        let Limits { generation, store_len_max, free_len_min } = self.limits;
        Terms { generation, store_len_max, free_len_min }
    }

    /// Puts the terms of this process up, unless those of a younger one are.
    pub(super) fn put_terms(&self, control: &Control) {
        let own = self.own_terms();
        if control.terms().is_none_or(|terms| terms.generation <= own.generation && terms != own) {
            control.put_terms(own);
        }
    }

    /// The terms that count.
    pub(super) fn terms(&self, control: &Control) -> Terms {
        let own = self.own_terms();
        control.terms().filter(|terms| terms.generation > own.generation).unwrap_or(own)
    }

    /// Reserves what a file of `len` bytes takes, least recently used entries making room; an error where there is none
    /// to be had. Can wait for the files to be counted: not for a thread that serves a request.
    pub(super) fn reserve<'s>(&self, store: &'s Store, len: u64) -> io::Result<Reserved<'s>> {
        let len = file_len_max(len);
        // Others may take the room that was made.
        for _ in 0..64 {
            let control = store.control();
            let terms = self.terms(&control);
            let shortage = shortage(store, &terms, len)?;
            if shortage.bytes > 0 || shortage.inodes > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if control.counted_at_ms().is_none() {
                self.count_first(store, &control)?;
            }
            if let Some(reserved) = self.try_reserve(store, control.clone(), len, terms.store_len_max)? {
                return Ok(reserved);
            }
            evict::make_room(store, &control, len, terms.store_len_max)?;
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    fn try_reserve<'s>(
        &self,
        store: &'s Store,
        control: Arc<Control>,
        len: u64,
        max: u64,
    ) -> io::Result<Option<Reserved<'s>>> {
        let share = self.share(store, control)?;
        share.control.added().fetch_add(len, SeqCst);
        let more = |taken: u64| taken.checked_add(len).filter(|sum| *sum <= max);
        let is_taken = share.control.taken().fetch_update(SeqCst, SeqCst, more).is_ok();
        Ok(is_taken.then(|| Reserved { share, len }))
    }

    /// Begins to remove a file.
    pub(super) fn removal<'s>(&self, store: &'s Store) -> io::Result<Removal<'s>> {
        let control = store.control();
        let is_counted = control.counted_at_ms().is_some();
        let share = is_counted.then(|| self.share(store, control)).transpose()?;
        Ok(Removal { share })
    }

    /// Counts the files where nobody has yet.
    fn count_first(&self, store: &Store, control: &Control) -> io::Result<()> {
        let mut users = self.users.lock();
        while users.is_counting {
            self.users_changed.wait(&mut users);
        }
        users.is_counting = true;
        while users.sharing > 0 {
            self.users_changed.wait(&mut users);
        }
        drop(users);
        let done = sys::lock_byte(&store.locks, lock::COUNT).and_then(|()| {
            let counted = if control.counted_at_ms().is_some() { Ok(()) } else { store.count_anew(control) };
            sys::unlock_byte(&store.locks, lock::COUNT).and(counted)
        });
        self.users.lock().is_counting = false;
        self.users_changed.notify_all();
        done
    }

    /// Does `work` while nobody reserves or releases; `None` where somebody does.
    pub(super) fn if_quiet<T>(&self, store: &Store, work: impl FnOnce() -> T) -> io::Result<Option<T>> {
        let users = self.users.lock();
        if users.sharing > 0 || users.is_counting || !sys::try_lock_byte(&store.locks, lock::COUNT)? {
            return Ok(None);
        }
        let done = work();
        sys::unlock_byte(&store.locks, lock::COUNT)?;
        Ok(Some(done))
    }

    fn share<'s>(&self, store: &'s Store, control: Arc<Control>) -> io::Result<Share<'s>> {
        let mut users = self.users.lock();
        while users.is_counting {
            self.users_changed.wait(&mut users);
        }
        if users.sharing == 0 {
            sys::share_byte(&store.locks, lock::COUNT)?;
        }
        users.sharing += 1;
        Ok(Share { store, control })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let space = &self.store.space;
        let mut users = space.users.lock();
        users.sharing -= 1;
        if users.sharing == 0 {
            // The kernel frees it at the latest when the process ends.
            let _ = sys::unlock_byte(&self.store.locks, lock::COUNT);
            space.users_changed.notify_all();
        }
    }
}

impl Reserved<'_> {
    /// Corrects the reservation to what `file` takes, now that it has its blocks; an error where that is too much.
    pub(super) fn settle(&mut self, file: &File) -> io::Result<()> {
        let stat = rustix::fs::fstat(file)?;
        let (len, before) = (blocks_len(&stat), self.len);
        if len < fill_len(&stat) {
            // The file system gives blocks when they are written, or fewer than there are bytes.
            return Ok(());
        }
        self.len = len;
        let control = &self.share.control;
        if len <= before {
            subtract(control, before - len);
            return Ok(());
        }
        control.added().fetch_add(len - before, SeqCst);
        let taken = control.taken().fetch_add(len - before, SeqCst) + (len - before);
        let max = self.share.store.space.terms(control).store_len_max;
        if taken <= max { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Leaves the space to the file.
    pub(super) fn keep(mut self) {
        self.len = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        subtract(&self.share.control, self.len);
    }
}

impl Removal<'_> {
    /// Says that a file that took `len` bytes has gone.
    pub(super) fn release(self, len: u64) {
        if let Some(share) = &self.share {
            subtract(&share.control, len);
        }
    }
}

fn subtract(control: &Control, len: u64) {
    let _ = control.taken().fetch_update(SeqCst, SeqCst, |taken| Some(taken.saturating_sub(len)));
}

/// What a file takes.
pub(super) fn blocks_len(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// What a fill takes when all of it is written.
pub(super) fn fill_len(stat: &Stat) -> u64 {
    blocks_len(stat).max(u64::try_from(stat.st_size).unwrap_or(0))
}

/// What a file of `len` bytes takes at most: a file system keeps notes of where the bytes lie.
fn file_len_max(len: u64) -> u64 {
    len.saturating_add(len / 512).saturating_add(PAGE_LEN).next_multiple_of(PAGE_LEN)
}

/// What is missing for another file of `len` bytes.
pub(super) fn shortage(store: &Store, terms: &Terms, len: u64) -> io::Result<Shortage> {
    let stat = rustix::fs::fstatvfs(&store.fills)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // A file system that has no number of inodes has as many as it needs.
    let inodes_min = FREE_INODES_MIN.max(stat.f_files / 1000).min(stat.f_files / 10);
    let bytes = terms.free_len_min.saturating_add(len).saturating_sub(free);
    Ok(Shortage { bytes, inodes: inodes_min.saturating_sub(stat.f_favail) })
}

#[cfg(test)]
mod tests;
