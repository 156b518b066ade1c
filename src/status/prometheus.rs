//! A snapshot as Prometheus reads it (Prometheus documentation, "Exposition formats", version 0.0.4).

#![forbid(unsafe_code)]

use std::fmt::{Display, Write};

use super::{ALL_KINDS, ALL_MEASURED, Measurement, Snapshot};
use crate::store::counters::table::{FAMILIES, Kind, MEASURED, Measure};

/// What all names begin with.
const PREFIX: &str = "usp_storage_cache";

/// The media type.
pub const MEDIA_TYPE: &std::ffi::CStr = c"text/plain; version=0.0.4; charset=utf-8";

/// The text.
pub fn text(snapshot: &Snapshot) -> String {
    let mut text = Text(String::new());
    ALL_KINDS.iter().for_each(|kind| text.counters(snapshot, *kind));
    ALL_MEASURED.iter().for_each(|measure| text.histogram(snapshot, *measure));
    text.gauges(snapshot);
    text.0
}

struct Text(String);

impl Text {
    fn counters(&mut self, snapshot: &Snapshot, kind: Kind) {
        let family = &FAMILIES[kind as usize];
        let name = format!("{}_total", family.name);
        self.head(&name, family.help, "counter");
        for (at, value) in family.values.iter().enumerate() {
            let label = if family.label.is_empty() { None } else { Some((family.label, *value)) };
            self.line(&name, label, snapshot.counters.one(kind, at));
        }
    }

    fn histogram(&mut self, snapshot: &Snapshot, measure: Measure) {
        let measured = &MEASURED[measure as usize];
        let Some(Measurement { count, sum, buckets, .. }) = snapshot.measurement(measure) else { return };
        self.head(measured.name, measured.help, "histogram");
        let name = format!("{}_bucket", measured.name);
        for (end, below) in buckets {
            self.line(&name, Some(("le", &end.to_string())), below);
        }
        self.line(&name, Some(("le", "+Inf")), count);
        self.line(&format!("{}_sum", measured.name), None, sum);
        self.line(&format!("{}_count", measured.name), None, count);
    }

    fn gauges(&mut self, snapshot: &Snapshot) {
        let (store, processes) = (&snapshot.store, &snapshot.processes);
        let (under_way, left): (Vec<_>, Vec<_>) = snapshot.fills.iter().partition(|fill| fill.is_under_way);
        let since = snapshot.counted_since_ms.map(|ms| ms / 1000);
        let open = snapshot.breakers.iter().filter(|breaker| breaker.open_until_ms.is_some()).count();
        let rows: [(&str, &str, Option<u64>); 13] = [
            ("store_taken_bytes", "Disk space that the store takes", store.taken_bytes),
            ("store_max_bytes", "Disk space that it may take (UspStorageCacheMaxSize)", store.max_bytes),
            ("store_free_min_bytes", "Disk space that it leaves free (UspStorageCacheMinFree)", store.free_min_bytes),
            ("file_system_free_bytes", "Free space of the store's file system", store.file_system_free_bytes),
            ("file_system_size_bytes", "Size of the store's file system", store.file_system_bytes),
            ("store_entries", "Objects in the store; of a large store estimated", Some(store.entries)),
            ("fills_under_way", "Fetches under way, up to 64", Some(under_way.len() as u64)),
            ("fills_left", "Fetches that nobody works at, up to 64", Some(left.len() as u64)),
            ("storage_connections", "Connections to storage in use", Some(processes.connections)),
            ("storage_breakers_open", "Storages that are left in peace", Some(open as u64)),
            ("has_leader", "Whether a child looks after the store", Some(processes.has_leader.into())),
            (
                "configuration_read_timestamp_seconds",
                "When the configuration was read",
                processes.generation.map(|ms| ms / 1000),
            ),
            ("counted_since_timestamp_seconds", "When counting began", since),
        ];
        for (name, help, value) in rows {
            if let Some(value) = value {
                self.head(name, help, "gauge");
                self.line(name, None, value);
            }
        }
        self.breakers(snapshot);
        self.head("build_info", "The module's version", "gauge");
        self.line("build_info", Some(("version", snapshot.version)), 1);
    }

    fn breakers(&mut self, snapshot: &Snapshot) {
        if snapshot.breakers.is_empty() {
            return;
        }
        let name = "storage_breaker_open";
        self.head(name, "Whether a storage that has failed is left in peace", "gauge");
        for breaker in &snapshot.breakers {
            self.line(name, Some(("endpoint", &breaker.endpoint)), u8::from(breaker.open_until_ms.is_some()));
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.write(format_args!("# HELP {PREFIX}_{name} {help}\n# TYPE {PREFIX}_{name} {kind}\n"));
    }

    fn line(&mut self, name: &str, label: Option<(&str, &str)>, value: impl Display) {
        match label {
            Some((label, of)) => self.write(format_args!("{PREFIX}_{name}{{{label}=\"{}\"}} {value}\n", escaped(of))),
            None => self.write(format_args!("{PREFIX}_{name} {value}\n")),
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.0.write_fmt(text);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_ends_where_it_is_meant_to() {
        for (value, want) in [("a", "a"), ("a\"b", "a\\\"b"), ("a\\", "a\\\\"), ("a\nb", "a\\nb")] {
            assert_eq!(escaped(value), want);
        }
    }
}
