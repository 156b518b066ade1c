//! The forms of one snapshot say the same.

use super::*;
use crate::store::fixture::Site;

/// A store whose counters have all been moved, each by another amount.
fn counted() -> Site {
    let site = Site::new();
    let counters = site.store.counters();
    for (row, kind) in (1..).zip(ALL_KINDS) {
        for at in 0..FAMILIES[kind as usize].values.len() {
            counters.own().add(kind, at, row * 100 + at as u64);
        }
    }
    for (row, measure) in (1..).zip(ALL_MEASURED) {
        (0..row).for_each(|n| counters.own().measured(measure, 10_000_u64.pow(2) * (n + 1)));
    }
    counters.flush();
    site
}

fn json(snapshot: &Snapshot) -> serde_json::Value {
    serde_json::from_str(&snapshot.json()).expect("it is JSON")
}

/// The samples of a Prometheus text by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            line.rsplit_once(' ')
                .map(|(name, value)| (name.into(), value.parse().expect("a number")))
                .expect("a sample")
        })
        .collect()
}

#[test]
fn json_and_prometheus_have_the_same_figures() {
    let site = counted();
    let snapshot = gather::gather(&site.store, &[], 1_700_000_000_000);
    let (json, samples) = (json(&snapshot), samples(&prometheus::text(&snapshot)));
    for kind in ALL_KINDS {
        let family = &FAMILIES[kind as usize];
        for (at, value) in family.values.iter().enumerate() {
            let name = match family.label {
                "" => format!("usp_storage_cache_{}_total", family.name),
                label => format!("usp_storage_cache_{}_total{{{label}=\"{value}\"}}", family.name),
            };
            let row = &json["counters"][family.name];
            let said = if family.label.is_empty() { row } else { &row[*value] };
            let want = (kind as u64 + 1) * 100 + at as u64;
            assert_eq!((said.as_u64(), samples.get(&name)), (Some(want), Some(&(want as f64))), "{name}");
        }
    }
    for (row, measure) in (1..).zip(ALL_MEASURED) {
        let name = measure.name();
        let (count, all) =
            (&json["measured"][name]["count"], format!("usp_storage_cache_{name}_bucket{{le=\"+Inf\"}}"));
        assert_eq!((count.as_u64(), samples.get(&all)), (Some(row), Some(&(row as f64))), "{name}");
        let sum = &json["measured"][name]["sum"];
        assert_eq!(sum.as_f64(), samples.get(&format!("usp_storage_cache_{name}_sum")).copied(), "{name}");
    }
}

#[test]
fn the_page_says_of_each_field_what_the_json_says() {
    let site = counted();
    let snapshot = gather::gather(&site.store, &[], 1_700_000_000_000);
    let (json, page) = (json(&snapshot), page::html(&snapshot));
    let mut fields = 0;
    for part in page.split("data-field=\"").skip(1) {
        let (path, rest) = part.split_once("\" value=\"").expect("a value");
        let value: f64 = rest.split('"').next().and_then(|value| value.parse().ok()).expect("a number");
        let said = path.split('.').fold(&json, |at, name| match name.parse::<usize>() {
            Ok(number) => &at[number],
            Err(_) => &at[name],
        });
        assert_eq!(said.as_f64().unwrap_or(0.0), value, "{path}");
        fields += 1;
    }
    assert!(fields > 60, "{fields}");
}

#[test]
fn nothing_of_a_url_is_markup_on_the_page() {
    let mut snapshot = Snapshot::of_counters(counted().store.counters(), 0);
    let evil = "http://h/<script>alert(1)</script>/\"'&x/";
    snapshot.fills = vec![FillSeen { url: evil.into(), length_bytes: 1, blocks: 1, landed: 0, is_under_way: true }];
    snapshot.prefixes.fullest = vec![Prefix { prefix: evil.into(), entries: 1, bytes: 1 }];
    snapshot.breakers = vec![Breaker { endpoint: evil.into(), open_until_ms: Some(1), failed_at_ms: 0 }];
    let page = page::html(&snapshot);
    assert_eq!(page.matches("alert(1)").count(), 3);
    assert_eq!((page.matches("<script>").count(), page.matches("/\"'&x/").count()), (1, 0));
    let text = prometheus::text(&snapshot);
    assert!(text.contains("endpoint=\"http://h/<script>alert(1)</script>/\\\"'&x/\"} 1"), "{text}");
}

#[test]
fn a_store_without_counters_is_shown_all_the_same() {
    let snapshot = Snapshot::of_counters(&Counters::new(), 1000);
    assert_eq!((snapshot.counted_since_ms, snapshot.hit_ratio), (None, None));
    assert!(page::html(&snapshot).contains("cannot be read"));
    assert_eq!(json(&snapshot)["counters"]["requests"]["hit"], 0);
    assert!(section::lines(&snapshot).starts_with("UspStorageCacheHits: 0\n"));
}

#[test]
fn the_manual_names_every_field_counter_label_and_gauge() {
    let manual = include_str!("../../docs/status.md");
    let site = counted();
    let mut snapshot = gather::gather(&site.store, &[], 1_700_000_000_000);
    snapshot.breakers = vec![Breaker { endpoint: "h".into(), open_until_ms: Some(1), failed_at_ms: 0 }];
    let text = prometheus::text(&snapshot);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE usp_storage_cache_")?.split(' ').next());
    let names = types.map(|name| name.strip_suffix("_total").unwrap_or(name).to_owned());
    let values = FAMILIES.iter().flat_map(|family| family.values.iter().map(|value| (*value).to_owned()));
    let json = json(&snapshot);
    let fields = json.as_object().expect("an object").keys().cloned();
    let space = json["store"].as_object().expect("an object").keys().map(|name| format!("store.{name}"));
    let processes = json["processes"].as_object().expect("an object").keys().map(|name| format!("processes.{name}"));
    let is_named = |name: &str| manual.contains(&format!("`{name}`")) || manual.contains(&format!("`{name}."));
    for name in names.chain(values).chain(fields).chain(space).chain(processes).filter(|name| !name.is_empty()) {
        assert!(is_named(&name), "docs/status.md does not name {name}");
    }
    for line in section::lines(&snapshot).lines() {
        let name = line.split(':').next().unwrap_or_default();
        assert!(is_named(name), "docs/status.md does not name {name}");
    }
}
