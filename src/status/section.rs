//! A short form for mod_status: a section of its page, or lines for programs.

#![forbid(unsafe_code)]

use super::Snapshot;
use super::amounts::{bytes, escaped, percent, time};
use crate::store::counters::table::{Kind, Measure};

/// Rows of a name for programs, a name for people, and a value for each.
fn rows(snapshot: &Snapshot) -> Vec<(&'static str, &'static str, String, String)> {
    let totals = &snapshot.counters;
    let number = |key, name, value: u64| (key, name, value.to_string(), value.to_string());
    let sized = |key, name, value: u64| (key, name, value.to_string(), bytes(value));
    let p99 = snapshot.measurement(Measure::Hit).and_then(|measured| measured.p99);
    let mut rows = vec![
        number("Hits", "Hits", totals.hits()),
        number("Misses", "Misses", totals.misses()),
        number("Passed", "Left to mod_proxy", totals.sum(Kind::Passed)),
        sized("ServedBytes", "Served", totals.sum(Kind::ServedBytes)),
        sized("FetchedBytes", "Fetched from storage", totals.sum(Kind::FetchedBytes)),
        number("FillsFailed", "Failed fetches", totals.sum(Kind::FillsFailed)),
    ];
    if let Some(ratio) = snapshot.hit_ratio {
        rows.insert(0, ("HitRatio", "Hit ratio", format!("{ratio:.4}"), percent(ratio)));
    }
    if let Some(p99) = p99 {
        rows.push(("HitP99Seconds", "99 % of hits within", format!("{p99:.9}"), time(p99)));
    }
    rows
}

/// Lines of `?auto`.
pub fn lines(snapshot: &Snapshot) -> String {
    rows(snapshot).iter().map(|(key, _, value, _)| format!("UspStorageCache{key}: {value}\n")).collect()
}

/// A section of the page.
pub fn html(snapshot: &Snapshot) -> String {
    let rows = rows(snapshot);
    let row = |(_, name, _, shown): &(_, &str, _, String)| format!("<dt>{}: {}</dt>\n", escaped(name), escaped(shown));
    let rows: String = rows.iter().map(row).collect();
    format!("<hr />\n<h2>usp-storage-cache, all children since counting began</h2>\n<dl>\n{rows}</dl>\n")
}
