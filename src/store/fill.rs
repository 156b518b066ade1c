//! A version on its way into the store: written beside the entries while others read it, then published by a rename.
//!
//! [`Fill`] is what its filler has, [`Landing`] takes bytes as they come; what [`Version`] offers here is for those who wait.
//! Filler and waiters of all processes meet in the words of the file itself: docs/store-format.md, "A fill".
//!
//! # Invariants
//!
//! - A fill holds its key's lock from before its file exists until it is published, kept for later or gone.
//! - A block's bytes are written, then its checksum, then its present bit; a block that is present is not written again, unless
//!   its checksum is wrong, which whoever takes a fill over finds out before anything else.
//! - A file under a fill's name has its head and its tables, and its whole space, from the start.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::format::{BLOCK_LEN, Layout, Meta, encode_head};
use super::map::SharedWords;
use super::version::{Place, Sought};
use super::{KeyLock, Opened, Version, sys};

/// The bit of the progress word that says: nobody may follow this file. It was given up, or storage has not yet been heard on a
/// version that somebody else had begun.
const ENDED: u32 = 1 << 31;

/// A version that is being written. Several threads may bring parts of it.
pub struct Fill {
    lock: Arc<KeyLock>,
    file: File,
    version: Arc<Version>,
    /// Whether the file stays when the fill is dropped.
    stays: AtomicBool,
}

impl Fill {
    /// Makes the file of a version under the key's lock, in the place of what is left there, and reserves its whole space.
    pub fn begin(lock: &Arc<KeyLock>, meta: &Meta) -> io::Result<Self> {
        let store = lock.store();
        let (head, layout) = encode_head(meta).ok_or(io::ErrorKind::InvalidData)?;
        lock.remove_fill()?;
        let file = make(lock, &head, &layout)?;
        let sought = Sought { name: lock.name(), url: &meta.url, scope: &meta.scope };
        let version = match store.version(Place::Fills, sought)? {
            Opened::Version(version) => Arc::from(version),
            Opened::Absent | Opened::Unusable(_) => return Err(io::ErrorKind::NotFound.into()),
        };
        lock.announce();
        Ok(Self { lock: lock.clone(), file, version, stays: false.into() })
    }

    /// Marks what a filler has left that died or gave up, so that nobody follows it before it is gone on with.
    pub fn mark_left(lock: &KeyLock, url: &str, scope: &str) -> io::Result<()> {
        if let Some(left) = lock.store().fill(Sought { name: lock.name(), url, scope })? {
            left.words().u32(left.layout().progress_at()).fetch_or(ENDED, Ordering::AcqRel);
        }
        Ok(())
    }

    /// What a filler has left that died or gave up: blocks that are not as their checksums say count as missing. Nobody
    /// follows it before [`Fill::confirm`].
    pub fn resume(lock: &Arc<KeyLock>, url: &str, scope: &str) -> io::Result<Option<Self>> {
        let sought = Sought { name: lock.name(), url, scope };
        let Opened::Version(version) = lock.store().version(Place::Fills, sought)? else {
            return lock.remove_fill().map(|_| None);
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&lock.store().fills, lock.name().file(), flags, Mode::empty())?.into();
        let fill = Self { lock: lock.clone(), file, version: Arc::from(version), stays: true.into() };
        fill.end();
        fill.doubt();
        Ok(Some(fill))
    }

    /// Storage still has the version of a fill that was resumed: who waits may follow it.
    pub fn confirm(&self) {
        self.progress_word().fetch_and(!ENDED, Ordering::AcqRel);
        self.wake_all();
        self.lock.announce();
    }

    /// Takes back the present bits of blocks that are not as they should be.
    fn doubt(&self) {
        let layout = *self.version.layout();
        for block in 0..layout.blocks() {
            if self.version.is_present(block) && self.version.check(&layout.block(block)).is_err() {
                self.words().u64(layout.present_word_at(block)).fetch_and(!bit(block).to_le(), Ordering::AcqRel);
            }
        }
    }

    /// The version, as waiters see it.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// Whether every block is there.
    pub fn is_whole(&self) -> bool {
        self.version.missing(&(0..self.version.len())).is_none()
    }

    /// Whether there is anything to go on with.
    pub fn has_landed(&self) -> bool {
        (0..self.version.layout().blocks()).any(|block| self.version.is_present(block))
    }

    /// Whether a waiter of some process wants a block.
    pub fn is_wanted(&self, block: u64) -> bool {
        let word = self.words().u64(self.version.layout().wanted_word_at(block)).load(Ordering::Acquire);
        u64::from_le(word) & bit(block) != 0
    }

    /// Where the filler sleeps: what it saw goes to [`Fill::sleep`].
    pub fn demand(&self) -> u32 {
        self.demand_word().load(Ordering::Acquire)
    }

    /// Sleeps until a block is wanted or [`Fill::nudge`] is called, if that has not happened since `seen`.
    pub fn sleep(&self, seen: u32, most: Duration) {
        sys::sleep(self.demand_word(), seen, NonZeroU32::MAX, most);
    }

    /// Wakes the filler.
    pub fn nudge(&self) {
        self.version.nudge();
    }

    /// Makes a block present that has been written.
    fn land(&self, block: u64, checksum: u32) {
        let layout = self.version.layout();
        self.words().u32(layout.checksum_at(block)).store(checksum.to_le(), Ordering::Relaxed);
        self.words().u64(layout.present_word_at(block)).fetch_or(bit(block).to_le(), Ordering::Release);
        self.progress_word().fetch_add(1, Ordering::Release);
        sys::wake(self.progress_word(), waiters_of(block));
    }

    /// Makes the version an entry that storage vouched for at `vouched_at_ms`; an error where it is not whole.
    ///
    /// Whoever purged the key meanwhile wins: then the entry goes again at once, and the answer is false.
    pub fn publish(&self, vouched_at_ms: u64) -> io::Result<bool> {
        if !self.is_whole() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // No word of a file that is whole is written any more: that would move its time.
        let times = Timestamps { last_access: NOW, last_modification: timespec(vouched_at_ms) };
        rustix::fs::futimens(&self.file, &times)?;
        sys::sync_file(&self.file)?;
        self.stays.store(true, Ordering::Relaxed);
        self.lock.put_in_place(&self.version)
    }

    /// Leaves the file for whoever goes on with it, now or after a restart.
    pub fn keep(&self) {
        self.stays.store(true, Ordering::Relaxed);
        self.wake_all();
    }

    /// Removes the file: nobody shall go on with this version.
    pub fn discard(self) {
        self.stays.store(false, Ordering::Relaxed);
    }

    fn end(&self) {
        self.progress_word().fetch_or(ENDED, Ordering::Release);
        self.wake_all();
    }

    /// Has all waiters look again.
    pub fn wake_all(&self) {
        // Who is about to sleep finds the word moved.
        self.progress_word().fetch_add(1, Ordering::Release);
        sys::wake(self.progress_word(), NonZeroU32::MAX);
    }

    fn progress_word(&self) -> &AtomicU32 {
        self.words().u32(self.version.layout().progress_at())
    }

    fn words(&self) -> &SharedWords {
        self.version.words()
    }

    fn demand_word(&self) -> &AtomicU32 {
        self.words().u32(self.version.layout().demand_at())
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        if !*self.stays.get_mut() {
            self.end();
            // What cannot be removed now is removed by the key's next fill.
            let _ = self.lock.remove_fill();
        }
    }
}

/// What who waits for a fill does with it.
impl Version {
    /// The first block of `part` that is not there yet.
    pub fn missing(&self, part: &Range<u64>) -> Option<u64> {
        let blocks = part.start / BLOCK_LEN..part.end.div_ceil(BLOCK_LEN);
        blocks.filter(|_| !part.is_empty()).find(|block| !self.is_present(*block))
    }

    /// Asks the filler, in whatever process it is, for the blocks of `part` before all others.
    pub fn want(&self, part: &Range<u64>) {
        let Some(words) = self.shared() else { return };
        let mut is_news = false;
        for block in part.start / BLOCK_LEN..part.end.div_ceil(BLOCK_LEN) {
            if !self.is_present(block) {
                let bit = bit(block).to_le();
                is_news |= words.u64(self.layout().wanted_word_at(block)).fetch_or(bit, Ordering::AcqRel) & bit == 0;
            }
        }
        if is_news {
            self.nudge();
        }
    }

    /// How many blocks are there.
    pub fn landed(&self) -> u32 {
        let maps = (0..self.layout().blocks()).step_by(64).map(|block| self.layout().present_word_at(block));
        maps.map(|at| self.words().u64(at).load(Ordering::Acquire).count_ones()).sum()
    }

    /// A word that moves with each block, and whenever there is reason to look again.
    pub fn progress(&self) -> Progress {
        Progress(self.words().u32(self.layout().progress_at()).load(Ordering::Acquire))
    }

    /// Sleeps until a block has landed, `block` more likely than others, if none has since `seen`; `most` at the longest.
    pub fn sleep(&self, block: u64, seen: Progress, most: Duration) {
        sys::sleep(self.words().u32(self.layout().progress_at()), seen.0, waiters_of(block), most);
    }

    fn nudge(&self) {
        let word = self.words().u32(self.layout().demand_at());
        word.fetch_add(1, Ordering::Release);
        sys::wake(word, NonZeroU32::MAX);
    }

    fn words(&self) -> &SharedWords {
        self.shared().expect("only fills are waited for")
    }
}

/// How far a fill has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress(u32);

impl Progress {
    /// Whether nobody may follow the file: look for an entry or another fill, or wait until this one is confirmed.
    pub fn has_ended(self) -> bool {
        self.0 & ENDED != 0
    }
}

/// Takes a run of a body's bytes as they come, and lands its blocks.
pub struct Landing<'f> {
    fill: &'f Fill,
    at: u64,
    /// Of the bytes of the block so far.
    checksum: u32,
    /// Whether the bytes are needed: not those of a block that is there or whose beginning is not in the run.
    is_needed: bool,
}

impl<'f> Landing<'f> {
    /// A run that begins at `at`; bytes before the next block's beginning are dropped.
    pub fn new(fill: &'f Fill, at: u64) -> Self {
        Self { fill, at, checksum: 0, is_needed: false }
    }

    /// Takes the next bytes; an error where they go past the body, or cannot be written.
    pub fn write(&mut self, mut piece: &[u8]) -> io::Result<()> {
        let layout = *self.fill.version.layout();
        if self.at + piece.len() as u64 > layout.body_len {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while !piece.is_empty() {
            let block = layout.block(self.at / BLOCK_LEN);
            if self.at == block.start {
                self.checksum = 0;
                self.is_needed = !self.fill.version.is_present(self.at / BLOCK_LEN);
            }
            let take = usize::try_from(block.end - self.at).unwrap_or(usize::MAX).min(piece.len());
            let (now, later) = piece.split_at(take);
            self.take(now, &block)?;
            piece = later;
        }
        Ok(())
    }

    /// Takes bytes of one block.
    fn take(&mut self, bytes: &[u8], block: &Range<u64>) -> io::Result<()> {
        if self.is_needed {
            self.fill.file.write_all_at(bytes, self.fill.version.body_at() + self.at)?;
            self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        }
        self.at += bytes.len() as u64;
        if self.is_needed && self.at == block.end {
            self.fill.land(block.start / BLOCK_LEN, self.checksum);
        }
        Ok(())
    }
}

/// The access time of an entry that was just made.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };

pub(super) fn timespec(ms: u64) -> Timespec {
    Timespec { tv_sec: i64::try_from(ms / 1000).unwrap_or(0), tv_nsec: (ms % 1000 * 1_000_000) as _ }
}

/// The bit of a block in its word of a map.
fn bit(block: u64) -> u64 {
    1 << (block % 64)
}

/// Whom a block's landing wakes.
fn waiters_of(block: u64) -> NonZeroU32 {
    NonZeroU32::new(1 << (block % 32)).unwrap_or(NonZeroU32::MIN)
}

/// Makes the file half under another name, and gives it its own when it is laid out.
fn make(lock: &KeyLock, head: &[u8], layout: &Layout) -> io::Result<File> {
    let (fills, new) = (&lock.store().fills, lock.name().half_made_file());
    let file = lock.make_file(&new, layout.file_len())?;
    let lay_out = || {
        file.write_all_at(head, 0)?;
        // Where space cannot be reserved the words would be holes.
        file.write_all_at(&vec![0; (layout.body_at - layout.head_len) as usize], layout.head_len)?;
        Ok(rustix::fs::renameat(fills, &new, fills, lock.name().file())?)
    };
    let laid_out: io::Result<()> = lay_out();
    if laid_out.is_err() {
        lock.remove_fill()?;
    }
    laid_out.map(|()| file)
}
