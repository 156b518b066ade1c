//! Making room: what was used least recently goes first.
//!
//! A small store is looked at as a whole. Of a large one a sample of shards is, and of the sample a quarter goes before
//! another one is taken, so that the order is nearly kept and no table of all entries is needed.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::SeqCst;

use rustix::fs::{AtFlags, Dir, Stat};
use rustix::io::Errno;

use super::control::Control;
use super::counters::table::Kind;
use super::shared_file::random;
use super::space::blocks_len;
use super::{Identity, Name, Store, now_ms, open_dir};

/// A sample has so many entries, unless there are fewer.
const SAMPLE_MIN: usize = 256;
/// A fill that nobody works at, and that was not written to for so long, will hardly be gone on with.
const ABANDONED_SECS: u64 = 600;

/// What may go, in the order in which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    OldFill,
    Entry,
    YoungFill,
}

/// A file that may go.
struct Candidate {
    rank: Rank,
    /// In seconds and nanoseconds since 1970.
    used_at: (i64, i64),
    name: Name,
    identity: Identity,
    len: u64,
}

/// Files that may go, the first ones first.
struct Sample {
    candidates: Vec<Candidate>,
    /// Whether they are all that there are.
    is_whole: bool,
}

/// Removes what has to go for `len` bytes more, and a little more, so that the next one need not look again. Nothing
/// goes where all of it would go in vain.
pub(super) fn make_room(store: &Store, control: &Control, len: u64, max: u64) -> io::Result<()> {
    loop {
        let needed = control.taken().load(SeqCst).saturating_add(len).saturating_sub(max);
        if needed == 0 {
            return Ok(());
        }
        let sample = Sample::take(store, needed)?;
        let more = if sample.is_whole { sample.len() / 20 } else { max / 20 };
        let goal = max.saturating_sub(len).saturating_sub(more);
        if sample.len() < needed || sample.evict(store, |_| control.taken().load(SeqCst) <= goal) == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
    }
}

/// Removes entries of one sample until `needed` bytes have gone, if so many may.
pub(super) fn evict_some(store: &Store, needed: u64) -> io::Result<u64> {
    Ok(Sample::take(store, 0)?.evict(store, |gone| gone >= needed))
}

/// Removes fills that nobody works at: old ones, and those that are half made.
pub(super) fn remove_abandoned(store: &Store) -> io::Result<()> {
    for (file, stat) in files(store.fills.as_fd())? {
        let Some(name) = Name::from_fill(&file) else { continue };
        let is_over = is_old(&stat) || file == name.half_made_file();
        if is_over && !store.is_locked(&name)? {
            // Where it fails, the next one will try again.
            let _ = store.discard_fill(&name);
        }
    }
    Ok(())
}

/// Whether a file was not written to for long; one from the future neither.
pub(super) fn is_old(stat: &Stat) -> bool {
    u64::try_from(stat.st_mtime).unwrap_or(0).saturating_add(ABANDONED_SECS) < now_ms() / 1000
}

impl Sample {
    /// Gathers at least `needed` bytes, unless there are fewer.
    fn take(store: &Store, needed: u64) -> io::Result<Self> {
        let mut sample = Self { candidates: Vec::new(), is_whole: false };
        sample.add_fills(store)?;
        let fills = sample.candidates.len();
        for shard in shuffled_shards()? {
            if sample.candidates.len() - fills >= SAMPLE_MIN && sample.len() >= needed {
                sample.candidates.sort_unstable_by_key(Candidate::order);
                return Ok(sample);
            }
            sample.add_shard(store, &shard)?;
        }
        sample.is_whole = true;
        sample.candidates.sort_unstable_by_key(Candidate::order);
        Ok(sample)
    }

    fn add_fills(&mut self, store: &Store) -> io::Result<()> {
        for (file, stat) in files(store.fills.as_fd())? {
            let Some(name) = Name::from_fill(&file) else { continue };
            if !store.is_locked(&name)? {
                let rank = if is_old(&stat) { Rank::OldFill } else { Rank::YoungFill };
                self.candidates.push(Candidate::new(rank, name, &stat));
            }
        }
        Ok(())
    }

    fn add_shard(&mut self, store: &Store, shard: &str) -> io::Result<()> {
        let dir = match open_dir(store.entries.as_fd(), shard) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for (file, stat) in files(dir.as_fd())? {
            // Foreign files stay.
            if let Some(name) = Name::from_file(&file).filter(|name| name.shard() == shard) {
                self.candidates.push(Candidate::new(Rank::Entry, name, &stat));
            }
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.candidates.iter().map(|candidate| candidate.len).sum()
    }

    /// Removes one after the other until `is_enough` of the bytes that have gone; gives those bytes.
    fn evict(self, store: &Store, is_enough: impl Fn(u64) -> bool) -> u64 {
        let most = if self.is_whole { self.candidates.len() } else { self.candidates.len().div_ceil(4) };
        let mut gone = 0;
        for candidate in self.candidates.iter().take(most) {
            if is_enough(gone) {
                break;
            }
            gone += candidate.evict(store);
        }
        gone
    }
}

impl Candidate {
    fn new(rank: Rank, name: Name, stat: &Stat) -> Self {
        let used_at = match rank {
            Rank::Entry => (stat.st_atime, stat.st_atime_nsec),
            Rank::OldFill | Rank::YoungFill => (stat.st_mtime, stat.st_mtime_nsec),
        };
        Self { rank, used_at, name, identity: Identity::of(stat), len: blocks_len(stat) }
    }

    fn order(&self) -> (Rank, (i64, i64)) {
        (self.rank, self.used_at)
    }

    /// Removes it, and gives the bytes that it took; 0 where somebody works at it, or where it cannot be removed.
    fn evict(&self, store: &Store) -> u64 {
        let is_gone = match self.rank {
            Rank::Entry => store.discard(&self.name, self.identity),
            Rank::OldFill | Rank::YoungFill => store.discard_fill(&self.name),
        };
        if !is_gone.unwrap_or(false) {
            return 0;
        }
        if self.rank == Rank::Entry {
            store.counters().add(Kind::EvictedEntries, 1);
            store.counters().add(Kind::EvictedBytes, self.len);
        }
        self.len
    }
}

/// The names of all shards, in an order of chance.
pub(super) fn shuffled_shards() -> io::Result<Vec<String>> {
    let mut state = random()?;
    let mut shards: Vec<_> = (0..256).map(|n| format!("{n:02x}")).collect();
    for last in (1..shards.len()).rev() {
        // Knuth's MMIX generator; its high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        shards.swap(last, (state >> 33) as usize % (last + 1));
    }
    Ok(shards)
}

/// The files of a directory by name; those whose names are no text are none of ours.
pub(super) fn files(dir: BorrowedFd<'_>) -> io::Result<Vec<(String, Stat)>> {
    let mut files = Vec::new();
    for file in Dir::read_from(dir)? {
        let file = file?;
        let Ok(name) = file.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        // What has gone since is none.
        if let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            files.push((name.to_owned(), stat));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
