//! What one process of a host does for all: it counts, cleans up, and keeps the limits when they are lowered.
//!
//! # Invariants
//!
//! - At most one leads at a time: it holds the leader's byte.
//! - Who is of an older generation than another that lives does not lead.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use rustix::fs::{AtFlags, Dir};

use super::control::{CONTROL, Control};
use super::count::Count;
use super::counters::COUNTERS;
use super::format::PAGE_LEN;
use super::shared_file::LEFTOVERS;
use super::{Store, evict, lock, space};

/// How long a count is believed, in milliseconds.
const COUNT_MS: u64 = 600_000;
/// An older generation leads after the younger one did not for so many ticks: that one has gone.
const STOOD_BACK_MAX: u32 = 10;

/// A process that leads, or would.
#[derive(Default)]
pub struct Leader {
    is_leading: bool,
    /// Ticks at which the byte was free and a younger generation's.
    stood_back: u32,
    /// A count that waits for a moment to be put in place.
    count: Option<Count>,
}

impl Leader {
    /// One that does not lead yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it leads.
    pub fn is_leading(&self) -> bool {
        self.is_leading
    }

    /// Leads if nobody else does; to be called once a second, each time with the same store. Counting a large store
    /// takes seconds: not for a thread that has other things to do.
    pub fn tick(&mut self, store: &Store, now_ms: u64) -> io::Result<()> {
        if !self.lead(store)? {
            return Ok(());
        }
        store.counters().keep_minutes(now_ms);
        self.keep_count(store, now_ms)?;
        evict::remove_abandoned(store)?;
        remove_leftovers(store)?;
        keep_limits(store, &store.control())
    }

    /// Leaves it to another process to lead.
    pub fn resign(&mut self, store: &Store) {
        if std::mem::take(&mut self.is_leading) {
            store.free_byte(lock::LEADER);
        }
        self.count = None;
    }

    fn lead(&mut self, store: &Store) -> io::Result<bool> {
        let control = store.control();
        let is_old = |control: &Control| {
            control.terms().is_some_and(|terms| terms.generation > store.space.own_terms().generation)
        };
        if !self.is_leading && store.take_byte(lock::LEADER)? {
            self.is_leading = true;
            self.stood_back += u32::from(is_old(&control));
            if self.stood_back > STOOD_BACK_MAX {
                control.put_terms(store.space.own_terms());
            }
        }
        if is_old(&control) {
            self.resign(store);
        }
        if self.is_leading {
            self.stood_back = 0;
            store.space.put_terms(&control);
        }
        Ok(self.is_leading)
    }

    fn keep_count(&mut self, store: &Store, now_ms: u64) -> io::Result<()> {
        let control = store.control();
        // Who reserves first counts first: until then nobody asks for the sum.
        let Some(counted_at_ms) = control.counted_at_ms() else { return Ok(()) };
        if self.count.is_none() && now_ms.abs_diff(counted_at_ms) >= COUNT_MS {
            self.count = store.begin_count()?;
        }
        if let Some(count) = &self.count
            && store.end_count(count)?
        {
            self.count = None;
        }
        Ok(())
    }
}

/// Removes what makers of files that all share have left behind.
fn remove_leftovers(store: &Store) -> io::Result<()> {
    for file in Dir::read_from(store.v1.as_fd())? {
        let file = file?;
        let name = file.file_name();
        let Ok(text) = name.to_str() else { continue };
        if [CONTROL, COUNTERS].iter().any(|kind| text.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-')))
            && LEFTOVERS.iter().any(|end| text.ends_with(end))
            && rustix::fs::statat(&store.v1, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| evict::is_old(&stat))
        {
            // A directory in its place is not ours to remove. What it took is free with the next count.
            let _ = rustix::fs::unlinkat(&store.v1, name, AtFlags::empty());
        }
    }
    Ok(())
}

/// Removes what has to go since the limits were lowered, or since others fill the disk.
fn keep_limits(store: &Store, control: &Arc<Control>) -> io::Result<()> {
    let terms = store.space.terms(control);
    if control.counted_at_ms().is_some() && control.taken().load(SeqCst) > terms.store_len_max {
        // Where not even all of it is enough, that is no failure of this tick.
        let _ = evict::make_room(store, control, 0, terms.store_len_max);
    }
    let shortage = space::shortage(store, &terms, 0)?;
    // No entry takes less than two pages.
    let needed = shortage.bytes.max(shortage.inodes * 2 * PAGE_LEN);
    if needed > 0 {
        evict::evict_some(store, needed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
