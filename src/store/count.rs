//! Counting what the store takes, anew, from the files.
//!
//! # Invariants
//!
//! - What is put in place of the sum is never too small: it is begun and ended in moments at which nobody reserves or
//!   releases, and what was reserved between the two is added, whether or not the count has met it.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use rustix::fs::{AtFlags, Dir, FileType, Stat};

use super::control::Control;
use super::space::{blocks_len, fill_len};
use super::{Store, now_ms, open_dir};

/// Directories of others are counted to this depth.
const DEPTH_MAX: u32 = 8;

/// A count that is not in place yet.
pub(super) struct Count {
    control: Arc<Control>,
    added_before: u64,
    len: u64,
}

impl Store {
    /// Counts while nobody reserves or releases.
    pub(super) fn count_anew(&self, control: &Control) -> io::Result<()> {
        control.taken().store(self.count()?, SeqCst);
        control.set_counted(now_ms());
        Ok(())
    }

    /// Counts beside others' work; `None` where no moment was found to begin in.
    pub(super) fn begin_count(&self) -> io::Result<Option<Count>> {
        let control = self.control();
        let begun = self.space.if_quiet(self, || control.added().load(SeqCst))?;
        let count = |added_before| Ok(Count { control, added_before, len: self.count()? });
        begun.map(count).transpose()
    }

    /// Puts a count in place, and tells whether there was a moment to do so.
    pub(super) fn end_count(&self, count: &Count) -> io::Result<bool> {
        let control = &count.control;
        let done = self.space.if_quiet(self, || {
            let added = control.added().load(SeqCst).wrapping_sub(count.added_before);
            control.taken().store(count.len.saturating_add(added), SeqCst);
            control.set_counted(now_ms());
        })?;
        Ok(done.is_some())
    }

    /// What everything below `v1` takes.
    fn count(&self) -> io::Result<u64> {
        let own = rustix::fs::fstat(&self.v1)?;
        let fills = rustix::fs::fstat(&self.fills)?;
        let is_fills = |stat: &Stat| (stat.st_dev, stat.st_ino) == (fills.st_dev, fills.st_ino);
        // First the fills: one that is published meanwhile is counted twice then, and would not be at all else.
        let filling = count_below(self.fills.as_fd(), fill_len, &is_fills, DEPTH_MAX)?;
        let len = blocks_len(&own) + filling + count_below(self.v1.as_fd(), blocks_len, &is_fills, DEPTH_MAX)?;
        // The directories that entries will need.
        let is_missing =
            |n: &u32| rustix::fs::statat(&self.entries, format!("{n:02x}"), AtFlags::SYMLINK_NOFOLLOW).is_err();
        Ok(len + (0..256).filter(is_missing).count() as u64 * blocks_len(&own))
    }
}

/// What the files below a directory take, by `len` each; not those of the directory of which `is_counted` says so.
fn count_below(
    dir: BorrowedFd<'_>,
    len: fn(&Stat) -> u64,
    is_counted: &impl Fn(&Stat) -> bool,
    depth_max: u32,
) -> io::Result<u64> {
    let mut sum = 0;
    for file in Dir::read_from(dir)? {
        let file = file?;
        let name = file.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What has gone since takes no space.
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        sum += len(&stat);
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir
            && depth_max > 0
            && !is_counted(&stat)
            && let Ok(below) = open_dir(dir, name)
        {
            sum += count_below(below.as_fd(), len, is_counted, depth_max - 1)?;
        }
    }
    Ok(sum)
}
