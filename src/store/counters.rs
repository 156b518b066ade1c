//! What the host's children count: in memory of their own while they work, and once a second added to a file that all map.
//!
//! [`table`] says what is counted. A request adds to one of a few stripes, chosen for its thread, so that threads seldom meet in
//! one line of the processor's cache. [`Counters::flush`] adds what is new to the file (docs/store-format.md, "The counters"),
//! and the leader writes down what each minute brought.
//!
//! # Invariants
//!
//! - To count is to add to memory of this process: no system call, no lock, and no page that is written to a disk.
//! - The file may be lost at any time. Then counting begins anew, and nobody fails.

#![forbid(unsafe_code)]

pub mod minutes;
pub mod scale;
pub mod table;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::AtFlags;

use self::minutes::{MINUTE_WORDS, MINUTES, Minute};
use self::scale::BUCKETS;
use self::table::{FAMILIES, Kind, Measure, WORDS, names_sum};
use super::map::SharedWords;
use super::shared_file::{self, HEAD_LEN, Head};
use super::{Identity, now_ms};

pub(super) const COUNTERS: &str = "counters";

const MAGIC: &[u8; 8] = b"USPCOUNT";
const FORMAT: u32 = 1;
/// The minute that is under way: what came before it is in the ring.
const MINUTE_AT: u64 = 64;
const TOTALS_AT: u64 = 4096;
/// Room for the words of the table.
const WORDS_MAX: u64 = 1024;
/// The totals as they were when the minute began.
const BEFORE_AT: u64 = TOTALS_AT + WORDS_MAX * 8;
const RING_AT: u64 = BEFORE_AT + WORDS_MAX * 8;
const LEN: u64 = RING_AT + MINUTES * MINUTE_WORDS * 8;
const _: () = assert!(WORDS as u64 <= WORDS_MAX, "the table fits");

/// The file.
const KIND: shared_file::Kind = shared_file::Kind {
    name: COUNTERS,
    len: LEN,
    new_head: || Ok(encode_head(now_ms())),
    is_head: |head| *head == encode_head(begun_at_ms(head)),
};

/// Stripes of a process.
const STRIPES: usize = 8;

/// What this process counts, and the file that all add to.
pub struct Counters {
    stripes: Box<[Stripe]>,
    /// What was added to the file already.
    flushed: Mutex<Box<[u64; WORDS]>>,
    /// `None` where there is none to be had.
    shared: RwLock<Option<Shared>>,
}

/// A line of the cache holds 8 words; processors fetch them in pairs.
#[repr(align(128))]
struct Stripe([AtomicU64; WORDS]);

/// The file, mapped.
struct Shared {
    words: SharedWords,
    identity: Identity,
    begun_at_ms: u64,
}

/// The part of the counters that the running thread adds to.
#[derive(Clone, Copy)]
pub struct Own<'c>(&'c Stripe);

/// What was counted, of the host or between two times.
#[derive(Clone)]
pub struct Totals(Box<[u64; WORDS]>);

/// What the file holds.
pub struct Counted {
    /// When counting began, in milliseconds since 1970.
    pub begun_at_ms: u64,
    /// All since then.
    pub totals: Totals,
    /// The last day, in order; the last one is under way.
    pub minutes: Vec<Minute>,
}

impl Counters {
    /// Counters without a file.
    pub(crate) fn new() -> Self {
        let stripe = || Stripe(std::array::from_fn(|_| AtomicU64::new(0)));
        Self {
            stripes: (0..STRIPES).map(|_| stripe()).collect(),
            flushed: Mutex::new(Box::new([0; WORDS])),
            shared: RwLock::new(None),
        }
    }

    /// What the running thread adds to.
    pub fn own(&self) -> Own<'_> {
        Own(&self.stripes[stripe_of_thread()])
    }

    /// Counts `n` more of what has one counter.
    pub fn add(&self, kind: Kind, n: u64) {
        self.own().add(kind, 0, n);
    }

    /// Counts one more of what a label's value names.
    pub fn add_named(&self, kind: Kind, value: &str) {
        self.own().add(kind, kind.named(value), 1);
    }

    /// Adds to the file what is new.
    pub fn flush(&self) {
        self.add_to_file(self.flushed.lock());
    }

    /// The same for a signal handler: where a thread of this process is at it, it is left to that one.
    pub fn flush_if_free(&self) {
        if let Some(flushed) = self.flushed.try_lock() {
            self.add_to_file(flushed);
        }
    }

    fn add_to_file(&self, mut flushed: MutexGuard<'_, Box<[u64; WORDS]>>) {
        let Some(shared) = self.shared.try_read() else { return };
        let Some(shared) = &*shared else { return };
        for (at, before) in flushed.iter_mut().enumerate() {
            let now = self.stripes.iter().map(|stripe| stripe.0[at].load(Ordering::Relaxed)).sum::<u64>();
            if now != *before {
                shared.total(at).fetch_add(now.wrapping_sub(*before), Ordering::Relaxed);
                *before = now;
            }
        }
    }

    /// Looks whether the file still has its name, and opens or makes the one that is to be there.
    pub(super) fn refresh(&self, v1: BorrowedFd<'_>, locks: &File) -> io::Result<()> {
        let found = rustix::fs::statat(v1, COUNTERS, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Identity::of(&stat)).ok();
        if found.is_some() && self.shared.read().as_ref().map(|shared| shared.identity) == found {
            return Ok(());
        }
        let whole = KIND.open(v1, locks)?;
        let words = SharedWords::new(&whole.file, 0..LEN)?;
        let shared = Shared { words, identity: whole.identity, begun_at_ms: begun_at_ms(&whole.head) };
        *self.shared.write() = Some(shared);
        Ok(())
    }

    /// Writes down what the last minutes brought; for the leader, once a second.
    pub(super) fn keep_minutes(&self, now_ms: u64) {
        let shared = self.shared.read();
        let Some(shared) = &*shared else { return };
        let (now, minute) = (Minute::number(now_ms), shared.words.u64(MINUTE_AT));
        let under_way = minute.load(Ordering::Acquire);
        if now == under_way {
            return;
        }
        let totals = shared.totals();
        // Of a clock that was set back nothing is known.
        if (1..now).contains(&under_way) {
            Minute::between(under_way, &shared.before(), &totals).write(&shared.words, RING_AT);
        }
        // A leader that ends before the last store has the next one write the same minute again.
        for (at, total) in (0..).zip(totals.0.iter()) {
            shared.words.u64(BEFORE_AT + at * 8).store(*total, Ordering::Relaxed);
        }
        minute.store(now, Ordering::Release);
    }

    /// What all children have counted; `None` where there is no file.
    pub fn counted(&self, now_ms: u64) -> Option<Counted> {
        let shared = self.shared.read();
        let shared = shared.as_ref()?;
        let under_way = shared.words.u64(MINUTE_AT).load(Ordering::Acquire);
        let now = Minute::number(now_ms);
        let totals = shared.totals();
        let kept = (now.saturating_sub(MINUTES - 1)..now).filter_map(|n| Minute::read(&shared.words, RING_AT, n));
        let mut minutes: Vec<_> = kept.collect();
        let last = minutes.last().map_or(0, |minute| minute.at);
        if under_way > last {
            minutes.push(Minute::between(under_way, &shared.before(), &totals));
        }
        Some(Counted { begun_at_ms: shared.begun_at_ms, totals, minutes })
    }
}

impl Own<'_> {
    /// Counts `n` more of the counter number `which` of a row.
    pub fn add(self, kind: Kind, which: usize, n: u64) {
        self.0.0[kind.word(which)].fetch_add(n, Ordering::Relaxed);
    }

    /// Counts a value that was measured.
    pub fn measured(self, measure: Measure, value: u64) {
        let first = measure.word();
        self.0.0[first + measure.scale().bucket(value)].fetch_add(1, Ordering::Relaxed);
        self.0.0[first + BUCKETS].fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a time.
    pub fn took(self, measure: Measure, time: Duration) {
        let nanos = time.as_secs().saturating_mul(1_000_000_000);
        self.measured(measure, nanos.saturating_add(time.subsec_nanos().into()));
    }
}

impl Shared {
    fn total(&self, at: usize) -> &AtomicU64 {
        self.words.u64(TOTALS_AT + at as u64 * 8)
    }

    fn totals(&self) -> Totals {
        Totals(Box::new(std::array::from_fn(|at| self.total(at).load(Ordering::Relaxed))))
    }

    fn before(&self) -> Totals {
        let word = |at| self.words.u64(BEFORE_AT + at as u64 * 8).load(Ordering::Relaxed);
        Totals(Box::new(std::array::from_fn(word)))
    }
}

impl Totals {
    /// Nothing.
    pub fn none() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// What one counter of a row says.
    pub fn one(&self, kind: Kind, which: usize) -> u64 {
        self.0[kind.word(which)]
    }

    /// What all counters of a row say.
    pub fn sum(&self, kind: Kind) -> u64 {
        (0..FAMILIES[kind as usize].values.len()).map(|which| self.one(kind, which)).sum()
    }

    /// Answers that storage had no part in.
    pub fn hits(&self) -> u64 {
        HITS.iter().map(|value| self.one(Kind::Requests, Kind::Requests.named(value))).sum()
    }

    /// Answers that storage was asked for.
    pub fn misses(&self) -> u64 {
        self.sum(Kind::Requests) - self.hits()
    }

    /// The counts of a measurement's buckets.
    pub fn buckets(&self, measure: Measure) -> &[u64] {
        &self.0[measure.word()..][..BUCKETS]
    }

    /// The sum of all that was measured.
    pub fn measured(&self, measure: Measure) -> u64 {
        self.0[measure.word() + BUCKETS]
    }

    /// What is more than before.
    fn since(&self, before: &Self) -> Self {
        Self(Box::new(std::array::from_fn(|at| self.0[at].saturating_sub(before.0[at]))))
    }
}

/// The outcomes that storage has no part in.
const HITS: [&str; 3] = ["hit", "stale", "absent"];

fn stripe_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! { static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) } }
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        stripe.get() % STRIPES
    })
}

fn encode_head(begun_at_ms: u64) -> Head {
    let mut head = [0; HEAD_LEN];
    head[0..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&FORMAT.to_ne_bytes());
    head[16..24].copy_from_slice(&begun_at_ms.to_ne_bytes());
    head[24..32].copy_from_slice(&LEN.to_ne_bytes());
    head[32..36].copy_from_slice(&names_sum().to_ne_bytes());
    let sum = crc32c::crc32c(&head[16..]);
    head[12..16].copy_from_slice(&sum.to_ne_bytes());
    head
}

fn begun_at_ms(head: &Head) -> u64 {
    head[16..].first_chunk().copied().map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests;
