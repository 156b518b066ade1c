//! Looking at a store that is served from, for a snapshot.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use super::{Breaker, FillSeen, Prefix, Prefixes, Processes, Snapshot, Space};
use crate::cache::breaker::hash;
use crate::store::record::Looked;
use crate::store::version::Place;
use crate::store::visit::Seen;
use crate::store::{Control, Record, Store, Visit};

/// Names of entries that are enough, and those that are read at most.
const NAMES_ENOUGH: usize = 1024;
const NAMES_MAX: usize = 16_384;
/// Entries whose heads are read.
const LOOKED_MAX: usize = 256;
/// Fills that are shown.
const FILLS_MAX: usize = 64;
/// Prefixes that are shown.
const PREFIXES_MAX: usize = 12;
/// Shards of a store.
const SHARDS: u64 = 256;

/// What there is to show of `store`; `storages` are `host:port`s that this child has asked.
///
/// What cannot be looked at is left out: a status page shall not fail because the store does.
pub fn gather(store: &Store, storages: &[String], now_ms: u64) -> Snapshot {
    let mut snapshot = Snapshot::of_counters(store.counters(), now_ms);
    if let Ok(visit) = Visit::beside(store) {
        let mut names: BTreeMap<_, _> = storages.iter().map(|name| (hash(name), name.clone())).collect();
        (snapshot.store, snapshot.processes) = state(&visit, &store.control());
        snapshot.fills = fills(&visit).unwrap_or_default();
        let looked = sample(&visit, &mut snapshot.store).unwrap_or_default();
        let urls = looked.iter().map(|record| record.url()).chain(snapshot.fills.iter().map(|fill| fill.url.as_str()));
        names.extend(urls.map(|url| (hash(&authority(url)), authority(url))));
        snapshot.prefixes = prefixes(&looked, &snapshot.store);
        snapshot.breakers = breakers(&store.control(), &names, now_ms);
    }
    snapshot
}

fn state(visit: &Visit, control: &Control) -> (Space, Processes) {
    let (space, disk) = (Visit::space(control), visit.file_system().ok());
    let seen = Space {
        taken_bytes: space.taken,
        max_bytes: space.limits.map(|limits| limits.store_len_max),
        free_min_bytes: space.limits.map(|limits| limits.free_len_min),
        file_system_free_bytes: disk.map(|(free, _)| free),
        file_system_bytes: disk.map(|(_, all)| all),
        ..Space::default()
    };
    let processes = Processes {
        has_leader: visit.has_leader().unwrap_or(false),
        connections: visit.connections().unwrap_or(0),
        generation: space.limits.map(|limits| limits.generation),
    };
    (seen, processes)
}

/// The first fills, those that have come furthest before the others.
fn fills(visit: &Visit) -> io::Result<Vec<FillSeen>> {
    let seen = |seen: Seen| {
        let name = seen.name?;
        let Looked::Record(record) = visit.look(Place::Fills, &name).ok()? else { return None };
        Some(FillSeen {
            url: record.url().into(),
            length_bytes: record.layout().body_len,
            blocks: record.layout().blocks(),
            landed: record.landed().ok()?,
            is_under_way: visit.is_locked(&name).unwrap_or(false),
        })
    };
    let mut fills: Vec<_> = visit.fills()?.into_iter().take(FILLS_MAX).filter_map(seen).collect();
    fills.sort_by(|one, other| (other.is_under_way, &one.url).cmp(&(one.is_under_way, &other.url)));
    Ok(fills)
}

/// Some entries, and how many there are in all.
fn sample(visit: &Visit, space: &mut Space) -> io::Result<Vec<Record>> {
    let sample = visit.sample(NAMES_ENOUGH, NAMES_MAX)?;
    let count = sample.names.len();
    // By the hash of their URLs: any of them are as good as others.
    let chosen = sample.names.iter().step_by(count.div_ceil(LOOKED_MAX).max(1));
    let records = chosen.filter_map(|name| match visit.look(Place::Entries, name) {
        Ok(Looked::Record(record)) => Some(*record),
        _ => None,
    });
    let records: Vec<_> = records.collect();
    let disk_len: u64 = records.iter().map(Record::disk_len).sum();
    space.entries = match space.taken_bytes.filter(|_| sample.is_cut && disk_len > 0) {
        Some(taken) => scaled(records.len() as u64, taken, disk_len),
        None => scaled(count as u64, SHARDS, sample.shards.max(1)),
    };
    space.entries_are_estimated = sample.is_cut || sample.shards < SHARDS;
    Ok(records)
}

fn prefixes(looked: &[Record], space: &Space) -> Prefixes {
    let (looked_at, entries) = (looked.len() as u64, space.entries);
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in looked {
        let sum = sums.entry(prefix_of(record.url())).or_default();
        *sum = (sum.0 + 1, sum.1 + record.disk_len());
    }
    let whole = |part| scaled(part, entries, looked_at.max(1));
    let all = sums.into_iter().map(|(prefix, (entries, bytes))| Prefix {
        prefix: prefix.into(),
        entries: whole(entries),
        bytes: whole(bytes),
    });
    let mut fullest: Vec<_> = all.collect();
    fullest.sort_by_key(|prefix| std::cmp::Reverse(prefix.bytes));
    fullest.truncate(PREFIXES_MAX);
    Prefixes { are_estimated: entries > looked_at, looked_at, fullest }
}

fn breakers(control: &Control, names: &BTreeMap<u64, String>, now_ms: u64) -> Vec<Breaker> {
    let breaker = |failing: crate::cache::breaker::Failing| Breaker {
        endpoint: names.get(&failing.endpoint).cloned().unwrap_or_else(|| format!("{:016x}", failing.endpoint)),
        open_until_ms: failing.open_until_ms,
        failed_at_ms: failing.failed_at_ms,
    };
    control.failing(now_ms).map(breaker).collect()
}

fn scaled(part: u64, times: u64, by: u64) -> u64 {
    u64::try_from(u128::from(part) * u128::from(times) / u128::from(by)).unwrap_or(u64::MAX)
}

/// A canonical URL's `host:port`.
fn authority(url: &str) -> String {
    use crate::cache::key::Upstream;
    let filename = format!("proxy:{url}");
    let key = Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key("", false));
    key.map_or_else(|_| String::new(), |key| key.authority().to_owned())
}

/// A URL's host and its first two directories.
fn prefix_of(url: &str) -> &str {
    let path_at = url.find("://").map_or(0, |at| at + 3);
    let slashes = url[path_at..].bytes().enumerate().take_while(|(_, b)| *b != b'?').filter(|(_, b)| *b == b'/');
    slashes.take(3).last().map_or(url, |(at, _)| &url[..=path_at + at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Site, publish};

    #[test]
    fn a_prefix_is_the_host_and_two_directories() {
        let rows = [
            ("http://h/a/b/c/x.ism", "http://h/a/b/"),
            ("http://h/a/b/x.ism", "http://h/a/b/"),
            ("http://h/a/x.ism", "http://h/a/"),
            ("http://h/x.ism", "http://h/"),
            ("http://h:8080/a//x.ism", "http://h:8080/a//"),
            ("http://h/x.ism?versionId=a/b/c", "http://h/"),
        ];
        for (url, want) in rows {
            assert_eq!(prefix_of(url), want, "{url}");
        }
    }

    #[test]
    fn a_small_store_is_known_as_a_whole_and_a_large_one_by_a_bounded_sample() {
        let site = Site::new();
        let add = |n: u64| {
            let url = format!("http://h/{}/film/{n}.ism", if n.is_multiple_of(4) { "few" } else { "many" });
            publish(&site.store, &url, "id", 100).expect("room");
        };
        (0..40).for_each(add);
        let few = gather(&site.store, &[], 0);
        assert_eq!((few.store.entries, few.store.entries_are_estimated), (40, false));
        let rows: Vec<_> = few.prefixes.fullest.iter().map(|row| (row.prefix.as_str(), row.entries)).collect();
        assert_eq!(rows, [("http://h/many/film/", 30), ("http://h/few/film/", 10)]);
        assert!(!few.prefixes.are_estimated);
        (40..3000).for_each(add);
        let many = gather(&site.store, &[], 0);
        assert!(many.store.entries_are_estimated && many.prefixes.are_estimated);
        assert!(many.prefixes.looked_at <= LOOKED_MAX as u64, "{}", many.prefixes.looked_at);
        assert!((2000..4000).contains(&many.store.entries), "{}", many.store.entries);
        let [first, second] = &many.prefixes.fullest[..] else { panic!("{:?}", many.prefixes) };
        assert_eq!(first.prefix, "http://h/many/film/");
        assert!(first.entries > 2 * second.entries, "{:?}", many.prefixes);
    }

    #[test]
    fn an_endpoint_is_named_where_it_is_known() {
        let site = Site::new();
        for name in ["h", "other:443"] {
            site.store.control().breaker(name).failed(true, 1000);
        }
        let names = |storages: &[String]| -> Vec<String> {
            gather(&site.store, storages, 2000).breakers.into_iter().map(|breaker| breaker.endpoint).collect()
        };
        publish(&site.store, "http://h/a.ism", "id", 100).expect("room");
        let seen = names(&[]);
        assert!(seen.contains(&"h".into()) && seen.iter().any(|name| name.len() == 16), "{seen:?}");
        assert!(names(&["other:443".into()]).contains(&"other:443".into()));
    }
}
