//! The last day, minute by minute: what the leader writes once a minute, and how it is read.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::Totals;
use super::table::{Kind, Measure};
use crate::store::map::SharedWords;

/// Minutes that are kept.
pub const MINUTES: u64 = 1440;
/// Words of a minute in the file.
pub(super) const MINUTE_WORDS: u64 = 16;
const MINUTE_MS: u64 = 60_000;

/// What happened in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970.
    pub at: u64,
    /// Answers from the store.
    pub hits: u64,
    /// Answers that storage was asked for.
    pub misses: u64,
    /// Requests that were left to mod_proxy.
    pub passed: u64,
    /// Bytes that were served, and that storage sent.
    pub served: u64,
    /// Bytes that came from storage.
    pub fetched: u64,
    /// The median and the 99th percentile of the time that a hit took, in nanoseconds.
    pub hit_ns: Option<[u64; 2]>,
    /// The same of a miss.
    pub miss_ns: Option<[u64; 2]>,
}

impl Minute {
    /// The minute of a time in milliseconds since 1970.
    pub fn number(now_ms: u64) -> u64 {
        now_ms / MINUTE_MS
    }

    /// What happened between two totals.
    pub fn between(at: u64, before: &Totals, now: &Totals) -> Self {
        let more = now.since(before);
        let times = |measure: Measure| {
            let quantile = |thousandths| measure.scale().quantile(more.buckets(measure), thousandths);
            quantile(500).zip(quantile(990)).map(|(median, high)| [median, high])
        };
        Self {
            at,
            hits: more.hits(),
            misses: more.misses(),
            passed: more.sum(Kind::Passed),
            served: more.sum(Kind::ServedBytes),
            fetched: more.sum(Kind::FetchedBytes),
            hit_ns: times(Measure::Hit),
            miss_ns: times(Measure::Miss),
        }
    }

    /// Writes it into its words of the ring, which begins at `ring_at`.
    pub(super) fn write(&self, words: &SharedWords, ring_at: u64) {
        let at = ring_at + self.at % MINUTES * MINUTE_WORDS * 8;
        let [hit, miss] = [self.hit_ns, self.miss_ns].map(Option::unwrap_or_default);
        // A reader takes the others for those of this minute only while its number stands.
        words.u64(at).store(0, Ordering::Release);
        let rest = [self.hits, self.misses, self.passed, self.served, self.fetched, hit[0], hit[1], miss[0], miss[1]];
        for (n, value) in (1..).zip(rest) {
            words.u64(at + n * 8).store(value, Ordering::Release);
        }
        words.u64(at).store(self.at, Ordering::Release);
    }

    /// The minute `number`, where the ring has it.
    pub(super) fn read(words: &SharedWords, ring_at: u64, number: u64) -> Option<Self> {
        let at = ring_at + number % MINUTES * MINUTE_WORDS * 8;
        let word = |n: u64| words.u64(at + n * 8).load(Ordering::Acquire);
        let is_it = || word(0) == number && number != 0;
        if !is_it() {
            return None;
        }
        let times = |n| Some([word(n), word(n + 1)]).filter(|[_, high]| *high > 0);
        let minute = Self {
            at: number,
            hits: word(1),
            misses: word(2),
            passed: word(3),
            served: word(4),
            fetched: word(5),
            hit_ns: times(6),
            miss_ns: times(8),
        };
        is_it().then_some(minute)
    }
}
