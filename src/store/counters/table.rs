//! What is counted and what is measured, by name: each row is some words of the file that all children add to.
//!
//! # Invariants
//!
//! - The names tell where each word lies: a file that was made with other names is not this table's ([`names_sum`]).

#![forbid(unsafe_code)]

use super::scale::{BUCKETS, Scale};

/// One row of counters.
pub struct Family {
    /// Its name, in words that JSON and Prometheus take.
    pub name: &'static str,
    /// What is counted.
    pub help: &'static str,
    /// What tells its counters apart; none where there is one.
    pub label: &'static str,
    /// The label's values, a counter each.
    pub values: &'static [&'static str],
}

/// One row of measurements.
pub struct Measured {
    /// Its name, with its unit.
    pub name: &'static str,
    /// What is measured.
    pub help: &'static str,
    /// How values become buckets.
    pub scale: Scale,
}

/// The rows of counters, in the order of [`FAMILIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers of ours, by outcome.
    Requests,
    /// Requests that were left to mod_proxy.
    Passed,
    /// Bytes of answers.
    ServedBytes,
    /// Bytes from storage.
    FetchedBytes,
    /// Fills that began.
    FillsBegun,
    /// Fills that ended in an entry.
    FillsCompleted,
    /// Fills that failed.
    FillsFailed,
    /// Entries that storage has vouched for.
    Revalidations,
    /// Requests to storage.
    StorageRequests,
    /// Those that were sent again after a failure.
    StorageRetries,
    /// Those that were sent beside one that is late.
    StorageHedges,
    /// Entries that made room.
    EvictedEntries,
    /// What they took on disk.
    EvictedBytes,
    /// Entries that were not as they were written.
    Damaged,
}

const ONE: &[&str] = &[""];

const fn one(name: &'static str, help: &'static str) -> Family {
    Family { name, help, label: "", values: ONE }
}

/// What is counted.
pub const FAMILIES: [Family; 14] = [
    Family {
        name: "requests",
        help: "Answers of the module, by what Cache-Status says",
        label: "outcome",
        values: &["hit", "miss", "collapsed", "revalidated", "stale", "stale-if-error", "absent", "unsatisfiable"],
    },
    Family {
        name: "passed",
        help: "Requests that matched and were left to mod_proxy",
        label: "reason",
        values: &[
            "own-server",
            "socket",
            "preserved-host",
            "sub-resource",
            "foreign-signature",
            "several-ranges",
            "head-not-held",
            "request-body",
            "wait",
            "busy",
            "breaker",
            "not-storable",
            "unsatisfiable",
            "failed",
            "denied",
            "not-found",
            "too-large",
            "no-length",
            "store",
            "stopping",
            OTHER,
        ],
    },
    one("served_bytes", "Bytes of answers that were handed over"),
    one("fetched_bytes", "Bytes of bodies that came from storage"),
    one("fills_begun", "Fetches of an object that began, those that only asked whether it has changed included"),
    one("fills_completed", "Fetches that ended with an object in the store"),
    Family {
        name: "fills_failed",
        help: "Fetches that failed",
        label: "reason",
        values: &[
            "unreachable",
            "timeout",
            "broken",
            "slow",
            "length",
            "signing",
            "credentials",
            "absent",
            "denied",
            "status",
            "no-bucket",
            "changed",
            "answer",
            "checksum",
            "busy",
            "not-storable",
            "no-length",
            "too-large",
            "store",
            "signature",
            "unknown-key",
            "expired-token",
            "token",
            "clock",
            "region",
            "endpoint",
            "refused",
            OTHER,
        ],
    },
    one("revalidations", "Fetches that ended with storage's word that the stored object is still right"),
    one("storage_requests", "Requests to storage"),
    one("storage_retries", "Requests to storage that were sent again after a failure"),
    one("storage_hedges", "Requests to storage that were sent beside one that was late"),
    one("evicted_entries", "Objects that were removed to make room"),
    one("evicted_bytes", "Disk space that objects took which were removed to make room"),
    one("damaged", "Stored objects that were found damaged and removed"),
];

/// The value for what has no place of its own.
const OTHER: &str = "other";

/// The rows of measurements, in the order of [`MEASURED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The time to answer from the store.
    Hit,
    /// The time to answer what this request had to be fetched for.
    Miss,
    /// The time to answer what another request was having fetched.
    Wait,
    /// The time until storage begins to answer.
    FirstByte,
    /// How fast a body comes from storage.
    Throughput,
}

/// What is measured.
pub const MEASURED: [Measured; 5] = [
    Measured { name: "hit_seconds", help: "Time to answer from the store", scale: Scale::TIME },
    Measured { name: "miss_seconds", help: "Time to answer what this request had fetched", scale: Scale::TIME },
    Measured { name: "wait_seconds", help: "Time to answer what another request had fetched", scale: Scale::TIME },
    Measured { name: "storage_first_byte_seconds", help: "Time until storage answers", scale: Scale::TIME },
    Measured {
        name: "storage_throughput_bytes_per_second",
        help: "How fast bodies of 64 KiB and more come from storage",
        scale: Scale::PACE,
    },
];

/// Words of one measurement: its buckets and the sum of what was measured.
const MEASURED_WORDS: usize = BUCKETS + 1;
const FIRSTS: [usize; FAMILIES.len() + 1] = firsts();

/// Words of all rows.
pub const WORDS: usize = FIRSTS[FAMILIES.len()] + MEASURED.len() * MEASURED_WORDS;

const fn firsts() -> [usize; FAMILIES.len() + 1] {
    let mut firsts = [0; FAMILIES.len() + 1];
    let mut at = 0;
    while at < FAMILIES.len() {
        firsts[at + 1] = firsts[at] + FAMILIES[at].values.len();
        at += 1;
    }
    firsts
}

impl Kind {
    /// The word of its counter number `which`.
    pub const fn word(self, which: usize) -> usize {
        FIRSTS[self as usize] + which
    }

    /// The counter of a label's value.
    pub fn named(self, value: &str) -> usize {
        let values = FAMILIES[self as usize].values;
        values.iter().position(|had| *had == value).unwrap_or(values.len() - 1)
    }
}

impl Measure {
    /// The word of its first bucket.
    pub const fn word(self) -> usize {
        FIRSTS[FAMILIES.len()] + self as usize * MEASURED_WORDS
    }

    /// How values become buckets.
    pub const fn scale(self) -> Scale {
        MEASURED[self as usize].scale
    }
}

/// A number of the names and their order.
pub fn names_sum() -> u32 {
    let families = FAMILIES.iter().flat_map(|row| [row.name].into_iter().chain(row.values.iter().copied()));
    let names = families.chain(MEASURED.iter().map(|row| row.name));
    names.fold(0, |sum, name| crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), b"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_stands_where_its_number_says() {
        let rows = [(Kind::Requests, "requests"), (Kind::Damaged, "damaged"), (Kind::FillsFailed, "fills_failed")];
        for (kind, name) in rows {
            assert_eq!(FAMILIES[kind as usize].name, name);
        }
        assert_eq!(MEASURED[Measure::Throughput as usize].name, "storage_throughput_bytes_per_second");
        assert_eq!((Kind::Requests.word(0), Kind::Passed.word(0)), (0, 8));
        assert_eq!(Measure::Throughput.word() + MEASURED_WORDS, WORDS);
        assert_eq!(Kind::Passed.named("wait"), 8);
        assert_eq!(Kind::Passed.named("unheard of"), Kind::Passed.named("other"));
    }
}
