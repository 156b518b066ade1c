//! A snapshot as a page for people: one file, without any other request; a script keeps it up to date where there are scripts.
//!
//! # Invariants
//!
//! - What comes from URLs is escaped where it is written.
//! - A figure carries the path of its field in the JSON and that field's value.

#![forbid(unsafe_code)]

use std::fmt::Display;

use super::amounts::{bytes, clock, escaped, number, percent, span, time, whole};
use super::plot::{Step, area, drawing, line, steps};
use super::{Measurement, Snapshot, ratio};
use crate::store::counters::table::{FAMILIES, Kind, Measure};

/// The media type.
pub const MEDIA_TYPE: &std::ffi::CStr = c"text/html; charset=utf-8";

/// What the page may do: its own style and script, and asking for itself.
pub const POLICY: &std::ffi::CStr = c"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// The page.
pub fn html(snapshot: &Snapshot) -> String {
    let sections = [
        figures(snapshot),
        plots(snapshot),
        fills(snapshot),
        disk(snapshot),
        prefixes(snapshot),
        storage(snapshot),
        times(snapshot),
        rows(snapshot, "Left to mod_proxy", Kind::Passed, "Nothing was."),
        rows(snapshot, "Failed fetches", Kind::FillsFailed, "None has."),
    ];
    let since = match snapshot.counted_since_ms {
        Some(since) => format!("counting for {}", span(snapshot.now_ms.saturating_sub(since) / 1000)),
        None => "the counters cannot be read or made: see the store's directory".into(),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>usp-storage-cache</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>\n{}</style>\n</head>\n<body>\n\
         <header><h1>usp-storage-cache</h1><span class=\"soft\">{} · all children of this host · {since} · {} · \
         <a href=\"?format=json\">JSON</a> · <a href=\"?format=prometheus\">Prometheus</a></span></header>\n\
         <main>\n{}</main>\n<script>\n{}</script>\n</body>\n</html>\n",
        include_str!("page.css"),
        escaped(snapshot.version),
        clock(snapshot.now_ms),
        sections.concat(),
        include_str!("page.js"),
    )
}

fn figures(snapshot: &Snapshot) -> String {
    let totals = &snapshot.counters;
    let hit = snapshot.measurement(Measure::Hit);
    let of = |quantile: fn(&Measurement) -> Option<f64>| hit.and_then(quantile);
    let shown = snapshot.hit_ratio.map_or_else(|| "–".into(), percent);
    let (hits, misses) = (number(totals.hits()), number(totals.misses()));
    let tile = |title: &str, value: String, below: String| {
        format!(
            "<section class=\"figure\"><h2>{title}</h2><strong>{value}</strong><span class=\"soft\">{below}</span></section>\n"
        )
    };
    let p50 = of(|measured| measured.p50).map_or_else(|| "–".into(), time);
    let p99 = of(|measured| measured.p99).map_or_else(|| "–".into(), time);
    [
        tile(
            "Hit ratio",
            field("hit_ratio", snapshot.hit_ratio.unwrap_or(0.0), &shown),
            format!("{hits} hits, {misses} misses"),
        ),
        tile(
            "Half of the hits within",
            field("measured.hit_seconds.p50", of(|measured| measured.p50).unwrap_or(0.0), &p50),
            format!("99 % within {p99}"),
        ),
        tile(
            "Bytes saved",
            field("saved_bytes", snapshot.saved_bytes, &bytes(snapshot.saved_bytes)),
            format!(
                "{} served, {} fetched",
                counter(snapshot, Kind::ServedBytes, bytes),
                counter(snapshot, Kind::FetchedBytes, bytes)
            ),
        ),
        tile(
            "Objects",
            field("store.entries", snapshot.store.entries, &number(snapshot.store.entries)),
            format!(
                "{}{} evicted",
                if snapshot.store.entries_are_estimated { "estimated from a sample, " } else { "" },
                counter(snapshot, Kind::EvictedEntries, number)
            ),
        ),
    ]
    .concat()
}

fn plots(snapshot: &Snapshot) -> String {
    let steps = steps(&snapshot.minutes, snapshot.now_ms / 1000);
    let ratios = steps.iter().map(|step| ratio(step.hits, step.hits + step.misses));
    let ratios = drawing("Hit ratio over the last day", 4, &[line("hit", ratios)]);
    let labels = ["100 %", "75 %", "50 %", "25 %", "0 %"].map(String::from);
    let hit_ratio = plot("Hit ratio", &labels, &ratios, "");
    [hit_ratio, latency(&steps), traffic(&steps)].concat()
}

/// On a logarithmic scale, with a line of the grid for each power of ten.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "ten at most")]
fn latency(steps: &[Step]) -> String {
    let all = || steps.iter().flat_map(|step| [step.hit, step.miss]).flatten().flatten();
    let (lowest, highest) = (all().reduce(f64::min).unwrap_or(1e-6), all().reduce(f64::max).unwrap_or(1.0));
    let first = lowest.max(1e-7).log10().floor();
    let powers = (highest.max(1e-7).log10().ceil() - first).clamp(2.0, 9.0);
    let height = |time: f64| ((time.max(1e-9).log10() - first) / powers).clamp(0.0, 1.0);
    let heights = |of: fn(&Step) -> Option<f64>| steps.iter().map(move |step| of(step).map(height));
    let lines = [
        line("miss high", heights(|step| step.miss[1])),
        line("miss", heights(|step| step.miss[0])),
        line("hit high", heights(|step| step.hit[1])),
        line("hit", heights(|step| step.hit[0])),
    ];
    let powers = whole(powers);
    let labels: Vec<_> =
        (0..=powers).rev().map(|power| time(10_f64.powf(first) * 10_u64.pow(power as u32) as f64)).collect();
    let key = "<i class=\"hit\"></i>hit, half of them|<i class=\"hit high\"></i>99 %|\
               <i class=\"miss\"></i>miss, half of them|<i class=\"miss high\"></i>99 %";
    let drawn = drawing("Time to answer over the last day", powers, &lines);
    plot("Time to answer", &labels, &drawn, key)
}

#[allow(clippy::cast_precision_loss, reason = "it is drawn, and no more")]
fn traffic(steps: &[Step]) -> String {
    let most = steps.iter().map(|step| step.served.max(step.fetched)).max().unwrap_or(0).max(1);
    let share = |len: u64| len as f64 / most as f64;
    let parts = [
        area("served", steps.iter().map(|step| share(step.served))),
        area("fetched", steps.iter().map(|step| share(step.fetched))),
    ];
    let labels = [4, 3, 2, 1, 0].map(|quarter| bytes(most / 4 * quarter));
    let key = "<i class=\"hit\"></i>served|<i class=\"miss\"></i>fetched from storage";
    let drawn = drawing("Bytes over the last day", 4, &parts);
    plot("Bytes <small>in five minutes</small>", &labels, &drawn, key).replace("<section>", "<section class=\"wide\">")
}

fn plot(title: &str, labels: &[String], drawing: &str, key: &str) -> String {
    let labels: String = labels.iter().map(|label| format!("<li>{label}</li>")).collect();
    let key: String =
        key.split('|').filter(|part| !part.is_empty()).map(|part| format!("<span>{part}</span>")).collect();
    let key = if key.is_empty() { key } else { format!("<p class=\"key\">{key}</p>") };
    format!(
        "<section><h2>{title}</h2><div class=\"plot\"><ol>{labels}</ol>{drawing}\
         <div class=\"times\"><span>24 h ago</span><span>12 h</span><span>now</span></div></div>{key}</section>\n"
    )
}

fn fills(snapshot: &Snapshot) -> String {
    let row = |(at, fill): (usize, &super::FillSeen)| {
        let landed = field(&format!("fills.{at}.landed"), fill.landed, &number(fill.landed));
        let state = if fill.is_under_way { "" } else { "left, " };
        let said = format!("{state}{landed} of {} blocks, {}", fill.blocks, bytes(fill.length_bytes));
        meter(&escaped(&fill.url), &said, ratio(fill.landed, fill.blocks).unwrap_or(1.0), "blue")
    };
    let rows: String = snapshot.fills.iter().enumerate().map(row).collect();
    let begun = counter(snapshot, Kind::FillsBegun, number);
    let completed = counter(snapshot, Kind::FillsCompleted, number);
    section("Fetches under way", &format!("{begun} begun, {completed} completed"), &or(rows, "None at this moment."))
}

fn disk(snapshot: &Snapshot) -> String {
    let store = &snapshot.store;
    let mut rows = String::new();
    if let (Some(taken), Some(most)) = (store.taken_bytes, store.max_bytes) {
        let share = ratio(taken, most).unwrap_or(0.0);
        let said = format!(
            "{} of {}",
            field("store.taken_bytes", taken, &bytes(taken)),
            field("store.max_bytes", most, &bytes(most))
        );
        rows += &meter("The store (UspStorageCacheMaxSize)", &said, share, "");
    } else {
        rows +=
            "<p class=\"row soft\">What the store takes is not known yet: it is counted before the first fetch.</p>";
    }
    if let (Some(free), Some(all)) = (store.file_system_free_bytes, store.file_system_bytes) {
        let is_short = store.free_min_bytes.is_some_and(|least| free < least.saturating_mul(2));
        let said = format!("{} free of {}", bytes(free), bytes(all));
        rows += &meter(
            "Its file system",
            &said,
            ratio(all.saturating_sub(free), all).unwrap_or(0.0),
            if is_short { "bad" } else { "" },
        );
    }
    let kept = store.free_min_bytes.map_or_else(String::new, |least| format!("{} are kept free", bytes(least)));
    section("Disk", &kept, &rows)
}

fn prefixes(snapshot: &Snapshot) -> String {
    let seen = &snapshot.prefixes;
    let most = seen.fullest.first().map_or(1, |first| first.bytes);
    let row = |row: &super::Prefix| {
        let objects = if row.entries == 1 { "object" } else { "objects" };
        let said = format!("{}, {} {objects}", bytes(row.bytes), number(row.entries));
        meter(&escaped(&row.prefix), &said, ratio(row.bytes, most).unwrap_or(0.0), "")
    };
    let rows: String = seen.fullest.iter().map(row).collect();
    let said = match seen.are_estimated {
        true => format!("estimated from {} objects", number(seen.looked_at)),
        false => String::new(),
    };
    section("Fullest prefixes", &said, &or(rows, "The store is empty."))
}

fn storage(snapshot: &Snapshot) -> String {
    let first = snapshot.measurement(Measure::FirstByte).and_then(|measured| measured.p50.zip(measured.p99));
    let pace = snapshot.measurement(Measure::Throughput).and_then(|measured| measured.p50);
    let cell = |name: &str, value: String| format!("<tr><td>{name}</td><td>{value}</td></tr>");
    let table = [
        cell(
            "Connections in use",
            field("processes.connections", snapshot.processes.connections, &number(snapshot.processes.connections)),
        ),
        cell("Requests", counter(snapshot, Kind::StorageRequests, number)),
        cell("Sent again after a failure", counter(snapshot, Kind::StorageRetries, number)),
        cell("Sent beside one that was late", counter(snapshot, Kind::StorageHedges, number)),
        cell("Unchanged objects", counter(snapshot, Kind::Revalidations, number)),
        cell(
            "First byte within",
            first.map_or_else(|| "–".into(), |(half, most)| format!("{} (half), {} (99 %)", time(half), time(most))),
        ),
        cell("A body comes at", pace.map_or_else(|| "–".into(), |pace| format!("{}/s", bytes(whole(pace))))),
        cell(
            "Leader",
            if snapshot.processes.has_leader {
                "there is one".into()
            } else {
                "<span class=\"warn\">none</span>".into()
            },
        ),
    ];
    section("Storage", "", &format!("{}<table>{}</table>", breakers(snapshot), table.concat()))
}

fn breakers(snapshot: &Snapshot) -> String {
    if snapshot.breakers.is_empty() {
        return "<p class=\"row good\">No storage has failed since it answered last.</p>".into();
    }
    let row = |breaker: &super::Breaker| {
        let name = escaped(&breaker.endpoint);
        let failed = span(snapshot.now_ms.saturating_sub(breaker.failed_at_ms) / 1000);
        match breaker.open_until_ms {
            Some(until) => {
                let left = span(until.saturating_sub(snapshot.now_ms).div_ceil(1000));
                format!("<p class=\"row bad\">{name} is left in peace for {left}: it failed {failed} ago.</p>")
            }
            None => format!("<p class=\"row warn\">{name} failed {failed} ago.</p>"),
        }
    };
    snapshot.breakers.iter().map(row).collect()
}

fn times(snapshot: &Snapshot) -> String {
    let row = |measure: Measure, name: &str| {
        let Some(measured) = snapshot.measurement(measure) else { return String::new() };
        let shown = |value: Option<f64>| value.map_or_else(|| "–".into(), time);
        let count = field(&format!("measured.{}.count", measure.name()), measured.count, &number(measured.count));
        format!(
            "<tr><td>{name}</td><td>{count}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            shown(measured.p50),
            shown(measured.p90),
            shown(measured.p99)
        )
    };
    let rows = [
        row(Measure::Hit, "hit"),
        row(Measure::Miss, "miss"),
        row(Measure::Wait, "wait"),
        row(Measure::FirstByte, "storage"),
    ];
    let table = format!(
        "<table><tr><th></th><th>answers</th><th>50 %</th><th>90 %</th><th>99 %</th></tr>{}</table>",
        rows.concat()
    );
    section("Time to answer", "", &table).replace("<section>", "<section class=\"third\">")
}

/// The counters of a row that are not zero.
fn rows(snapshot: &Snapshot, title: &str, kind: Kind, none: &str) -> String {
    let family = &FAMILIES[kind as usize];
    let row = |(at, value): (usize, &&str)| {
        let count = snapshot.counters.one(kind, at);
        let shown = field(&format!("counters.{}.{value}", family.name), count, &number(count));
        (count > 0).then(|| format!("<tr><td>{}</td><td>{shown}</td></tr>", escaped(value)))
    };
    let rows: String = family.values.iter().enumerate().filter_map(row).collect();
    let table = if rows.is_empty() { rows } else { format!("<table>{rows}</table>") };
    let all = number(snapshot.counters.sum(kind));
    section(title, &all, &or(table, none)).replace("<section>", "<section class=\"third\">")
}

fn section(title: &str, said: &str, body: &str) -> String {
    format!("<section><h2>{title} <small>{said}</small></h2>{body}</section>\n")
}

fn or(rows: String, none: &str) -> String {
    if rows.is_empty() { format!("<p class=\"soft\">{none}</p>") } else { rows }
}

/// A row with a bar; one that is nearly full stands out unless it is blue.
fn meter(name: &str, said: &str, share: f64, class: &str) -> String {
    format!(
        "<div class=\"row\"><div><span>{name}</span><span>{said}</span></div>\
         <span class=\"bar {class}\"><i style=\"width:{:.1}%\"></i></span></div>",
        share.clamp(0.0, 1.0) * 100.0
    )
}

/// A figure that stands under `path` in the JSON.
fn field(path: &str, value: impl Display, shown: &str) -> String {
    format!("<data data-field=\"{path}\" value=\"{value}\">{shown}</data>")
}

fn counter(snapshot: &Snapshot, kind: Kind, shown: fn(u64) -> String) -> String {
    let value = snapshot.counters.sum(kind);
    field(&format!("counters.{}", FAMILIES[kind as usize].name), value, &shown(value))
}
