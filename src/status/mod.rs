//! What the host's children have done and what the store holds, as one value, and how that is shown.
//!
//! [`gather`] makes a [`Snapshot`], [`prometheus`], [`page`] and [`section`] write it down; its JSON is its own form. docs/status.md
//! names every field.
//!
//! # Invariants
//!
//! - What is looked at for one snapshot is bounded, however much the store holds.

#![forbid(unsafe_code)]

mod amounts;
pub mod gather;
pub mod page;
mod plot;
pub mod prometheus;
pub mod section;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::store::counters::minutes::Minute;
use crate::store::counters::scale::BUCKETS;
use crate::store::counters::table::{FAMILIES, Kind, MEASURED, Measure};
use crate::store::counters::{Counters, Totals};

/// All that is shown.
#[derive(Clone, Serialize)]
pub struct Snapshot {
    /// The module's.
    pub version: &'static str,
    /// When it was made, in milliseconds since 1970.
    pub now_ms: u64,
    /// Since when the counters count; `None` where there is no file of them.
    pub counted_since_ms: Option<u64>,
    /// The share of answers that storage had no part in.
    pub hit_ratio: Option<f64>,
    /// Bytes that were served and had not to be fetched.
    pub saved_bytes: u64,
    /// The counters by name; by label's value where a row has some.
    #[serde(serialize_with = "counters")]
    pub counters: Totals,
    /// The measurements by name.
    pub measured: BTreeMap<&'static str, Measurement>,
    /// The store's space.
    pub store: Space,
    /// Who works at the store.
    pub processes: Processes,
    /// Fetches that are under way or were left, the first ones.
    pub fills: Vec<FillSeen>,
    /// Storages that have failed since they answered last.
    pub breakers: Vec<Breaker>,
    /// The prefixes that take most of the store.
    pub prefixes: Prefixes,
    /// The last day by minutes, in order; the last one is under way.
    pub minutes: Vec<MinuteSeen>,
}

/// A histogram, in the unit of its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// How many values there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The value that half of them are below.
    pub p50: Option<f64>,
    /// The one that nine in ten are below.
    pub p90: Option<f64>,
    /// The one that 99 in 100 are below.
    pub p99: Option<f64>,
    /// How many are below each of some values; all are below infinity.
    pub buckets: Vec<(f64, u64)>,
}

/// The store's space.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Space {
    /// Bytes that it takes; `None` where nobody has counted since the host was started.
    pub taken_bytes: Option<u64>,
    /// `UspStorageCacheMaxSize`.
    pub max_bytes: Option<u64>,
    /// `UspStorageCacheMinFree`.
    pub free_min_bytes: Option<u64>,
    /// What is free on its file system.
    pub file_system_free_bytes: Option<u64>,
    /// The file system's size.
    pub file_system_bytes: Option<u64>,
    /// Objects in the store.
    pub entries: u64,
    /// Whether that is an estimate, from a sample.
    pub entries_are_estimated: bool,
}

/// Who works at the store.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Processes {
    /// Whether a child leads.
    pub has_leader: bool,
    /// Connections to storage in use, by all children.
    pub connections: u64,
    /// When the youngest children's configuration was read, in milliseconds since 1970.
    pub generation: Option<u64>,
}

/// A fetch that is under way, or was left.
#[derive(Clone, Debug, Serialize)]
pub struct FillSeen {
    /// The object's URL.
    pub url: String,
    /// Its length in bytes.
    pub length_bytes: u64,
    /// Its blocks of 256 KiB.
    pub blocks: u64,
    /// Those that are there.
    pub landed: u64,
    /// Whether somebody works at it.
    pub is_under_way: bool,
}

/// A storage that has failed since it answered last.
#[derive(Clone, Debug, Serialize)]
pub struct Breaker {
    /// `host:port`, or a hash of it where this child has not met it.
    pub endpoint: String,
    /// Until when it is not asked, in milliseconds since 1970.
    pub open_until_ms: Option<u64>,
    /// When it failed last.
    pub failed_at_ms: u64,
}

/// Which prefixes take most of the store.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Prefixes {
    /// Whether only a part of the objects was looked at.
    pub are_estimated: bool,
    /// How many objects were looked at.
    pub looked_at: u64,
    /// The fullest ones, in order.
    pub fullest: Vec<Prefix>,
}

/// URLs with the same host and first two directories.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prefix {
    /// How they begin.
    pub prefix: String,
    /// How many objects.
    pub entries: u64,
    /// What they take on disk.
    pub bytes: u64,
}

/// A minute of the last day.
#[derive(Clone, Debug, Serialize)]
pub struct MinuteSeen {
    /// When it began, in seconds since 1970.
    pub at: u64,
    /// As [`Minute`] has them.
    pub hits: u64,
    /// Answers that storage was asked for.
    pub misses: u64,
    /// Requests that were left to mod_proxy.
    pub passed: u64,
    /// Bytes that were served.
    pub served_bytes: u64,
    /// Bytes that came from storage.
    pub fetched_bytes: u64,
    /// The median of the time that a hit took.
    pub hit_p50_seconds: Option<f64>,
    /// Its 99th percentile.
    pub hit_p99_seconds: Option<f64>,
    /// The median of the time that a miss took.
    pub miss_p50_seconds: Option<f64>,
    /// Its 99th percentile.
    pub miss_p99_seconds: Option<f64>,
}

impl Snapshot {
    /// One that knows what the counters say, and nothing of the store.
    pub fn of_counters(counters: &Counters, now_ms: u64) -> Self {
        let counted = counters.counted(now_ms);
        let counted_since_ms = counted.as_ref().map(|counted| counted.begun_at_ms);
        let minutes = counted.iter().flat_map(|counted| counted.minutes.iter().map(MinuteSeen::of)).collect();
        let totals = counted.map_or_else(Totals::none, |counted| counted.totals);
        let (hits, all) = (totals.hits(), totals.sum(Kind::Requests));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now_ms,
            counted_since_ms,
            hit_ratio: ratio(hits, all),
            saved_bytes: totals.sum(Kind::ServedBytes).saturating_sub(totals.sum(Kind::FetchedBytes)),
            measured: ALL_MEASURED.map(|measure| (measure.name(), Measurement::of(&totals, measure))).into(),
            counters: totals,
            store: Space::default(),
            processes: Processes::default(),
            fills: Vec::new(),
            breakers: Vec::new(),
            prefixes: Prefixes::default(),
            minutes,
        }
    }

    /// The whole as JSON.
    pub fn json(&self) -> String {
        // Texts and numbers only: nothing of it can fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// A measurement.
    pub fn measurement(&self, measure: Measure) -> Option<&Measurement> {
        self.measured.get(measure.name())
    }
}

const ALL_MEASURED: [Measure; MEASURED.len()] =
    [Measure::Hit, Measure::Miss, Measure::Wait, Measure::FirstByte, Measure::Throughput];

/// The counters' rows.
pub(crate) const ALL_KINDS: [Kind; FAMILIES.len()] = [
    Kind::Requests,
    Kind::Passed,
    Kind::ServedBytes,
    Kind::FetchedBytes,
    Kind::FillsBegun,
    Kind::FillsCompleted,
    Kind::FillsFailed,
    Kind::Revalidations,
    Kind::StorageRequests,
    Kind::StorageRetries,
    Kind::StorageHedges,
    Kind::EvictedEntries,
    Kind::EvictedBytes,
    Kind::Damaged,
];

impl Measure {
    /// Its name, with its unit.
    pub fn name(self) -> &'static str {
        MEASURED[self as usize].name
    }
}

/// A share of a whole; `None` of nothing.
#[allow(clippy::cast_precision_loss, reason = "it is shown, and no more")]
pub fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Measurement {
    /// Every second power of two is shown: the four steps between them are for quantiles.
    const STEP: usize = 8;

    #[allow(clippy::cast_precision_loss, reason = "it is shown, and no more")]
    fn of(totals: &Totals, measure: Measure) -> Self {
        let (counts, scale) = (totals.buckets(measure), measure.scale());
        let shown = |value: u64| value as f64 / scale.a_unit as f64;
        let quantile = |thousandths| scale.quantile(counts, thousandths).map(shown);
        let ends = (0..BUCKETS - 1).step_by(Self::STEP);
        Self {
            count: counts.iter().sum(),
            sum: shown(totals.measured(measure)),
            p50: quantile(500),
            p90: quantile(900),
            p99: quantile(990),
            buckets: ends.map(|at| (shown(scale.end(at)), counts[..=at].iter().sum())).collect(),
        }
    }
}

impl MinuteSeen {
    #[allow(clippy::cast_precision_loss, reason = "it is shown, and no more")]
    fn of(minute: &Minute) -> Self {
        let at = |times: Option<[u64; 2]>, which: usize| times.map(|times| times[which] as f64 / 1e9);
        Self {
            at: minute.at * 60,
            hits: minute.hits,
            misses: minute.misses,
            passed: minute.passed,
            served_bytes: minute.served,
            fetched_bytes: minute.fetched,
            hit_p50_seconds: at(minute.hit_ns, 0),
            hit_p99_seconds: at(minute.hit_ns, 1),
            miss_p50_seconds: at(minute.miss_ns, 0),
            miss_p99_seconds: at(minute.miss_ns, 1),
        }
    }
}

fn counters<S: Serializer>(totals: &Totals, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(ALL_KINDS.map(|kind| {
        let family = &FAMILIES[kind as usize];
        let row = match family.label {
            "" => serde_json::Value::from(totals.sum(kind)),
            _ => family.values.iter().enumerate().map(|(at, value)| (*value, totals.one(kind, at))).collect(),
        };
        (family.name, row)
    }))
}

#[cfg(test)]
mod tests;
