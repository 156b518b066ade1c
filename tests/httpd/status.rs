//! The status: three forms of the same figures, which are those of all children, over restarts and kills.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::client::{Request, Response};
use crate::content::content;
use crate::filling::kill;
use crate::server::{Conf, Httpd, Mpm};
use crate::site::{Site, is_hit, sub};
use crate::storage::{Fault, Object, Storage, Whom};
use crate::wait::until;

/// Where the status is.
pub(crate) const STATUS: &str = "<Location \"/usc-status\">\n  SetHandler usp-storage-cache-status\n</Location>\n";

fn site(mpm: Mpm, children: u32, threads: u32, lines: &str) -> Site {
    Site::wide(mpm, children, threads, &format!("{STATUS}{lines}"))
}

pub(crate) fn json(httpd: &Httpd) -> Value {
    let answer = httpd.get("/usc-status?format=json");
    assert_eq!((answer.status, answer.field("Content-Type").as_deref()), (200, Some("application/json")));
    serde_json::from_slice(&answer.body).expect("it is JSON")
}

/// One figure of the JSON; 0 where it is not there.
fn figure(httpd: &Httpd, path: &str) -> u64 {
    path.split('.').fold(&json(httpd), |at, name| &at[name]).as_u64().unwrap_or(0)
}

/// Waits until a figure is this: children add what they count once a second.
fn wait_for(httpd: &Httpd, path: &str, want: u64) {
    let mut seen = 0;
    let is_so = || {
        seen = figure(httpd, path);
        (seen >= want).then_some(())
    };
    until(&format!("{path} to be {want}"), 20, is_so);
    assert_eq!(seen, want, "{path}");
}

#[test]
fn counters_are_what_was_done_by_all_children() {
    let site = site(Mpm::Prefork, 4, 1, "");
    site.fill("/film.ism", Object::new(content(80, 100_000)));
    for answer in (0..5).flat_map(|_| site.each_child(4, &Request::get("/film.ism"))) {
        assert!(is_hit(&answer.cache_status()));
    }
    assert_eq!(sub("/film.ism").range("bytes=0-999").run(&site.httpd).body().len(), 1000);
    assert_eq!(site.get("/absent.ism").status, 404);
    assert_eq!(site.get("/absent.ism").status, 404);
    assert_eq!(site.send(Request::head("/cold.ism")).status, 404);
    let rows = [
        ("counters.requests.miss", 1),
        ("counters.requests.hit", 21),
        ("counters.requests.absent", 1),
        ("counters.passed.not-found", 1),
        ("counters.passed.head-not-held", 1),
        ("counters.served_bytes", 21 * 100_000 + 1000),
        ("counters.fetched_bytes", 100_000),
        ("counters.fills_begun", 2),
        ("counters.fills_completed", 1),
        ("counters.fills_failed.absent", 1),
        ("counters.storage_requests", 2),
        ("measured.hit_seconds.count", 22),
        ("measured.miss_seconds.count", 1),
        ("measured.storage_first_byte_seconds.count", 1),
        ("measured.storage_throughput_bytes_per_second.count", 1),
        ("saved_bytes", 20 * 100_000 + 1000),
        ("store.entries", 1),
    ];
    for (path, want) in rows {
        wait_for(&site.httpd, path, want);
    }
    let said = json(&site.httpd);
    assert_eq!(said["prefixes"]["fullest"][0]["prefix"], format!("http://{}/", site.storage.host()));
    assert!(said["store"]["taken_bytes"].as_u64().is_some_and(|taken| taken > 100_000), "{said}");
    assert_eq!(said["store"]["max_bytes"], 10_u64 << 30);
    let minutes: u64 =
        said["minutes"].as_array().map_or(0, |all| all.iter().filter_map(|one| one["hits"].as_u64()).sum());
    until("the leader to begin a minute", 10, || (!json(&site.httpd)["minutes"].as_array()?.is_empty()).then_some(()));
    assert!(minutes <= 22, "{minutes}");
    assert_eq!(site.httpd.crashes(), 0);
}

#[test]
fn failures_revalidations_and_retries_are_counted_by_their_reasons() {
    let site = site(Mpm::Event, 2, 8, "UspStorageCacheExpire 1\nUspStorageCacheStaleWhileRevalidate 0");
    site.fill("/film.ism", Object::new(content(81, 1000)));
    until("a revalidation", 20, || {
        let status = site.get("/film.ism").cache_status();
        status.ends_with("fwd-status=304").then_some(())
    });
    wait_for(&site.httpd, "counters.requests.revalidated", 1);
    wait_for(&site.httpd, "counters.revalidations", 1);
    site.storage.put("/denied.ism", Object::new("denied"));
    site.storage.fail("/denied.ism", Whom::Fetches, Fault::Status(403));
    assert_eq!(site.get("/denied.ism").status, 200);
    wait_for(&site.httpd, "counters.fills_failed.denied", 1);
    wait_for(&site.httpd, "counters.passed.denied", 1);
    site.storage.put("/busy.ism", Object::new("busy"));
    site.storage.fail_some("/busy.ism", Whom::Fetches, ..=1, Fault::Status(503));
    assert_eq!(site.get("/busy.ism").body, b"busy");
    wait_for(&site.httpd, "counters.storage_retries", 1);
}

#[test]
fn counters_outlive_restarts_and_a_killed_child_costs_a_second_at_most() {
    for (mpm, children, threads) in [(Mpm::Event, 2, 8), (Mpm::Prefork, 3, 1)] {
        let mut site = site(mpm, children, threads, "");
        site.fill("/film.ism", Object::new(content(82, 1000)));
        let hit = |site: &Site, count: usize| {
            (0..count).for_each(|_| assert!(is_hit(&site.get("/film.ism").cache_status())));
        };
        hit(&site, 10);
        // No tick comes in between: what the ending children have counted is added when they end.
        site.httpd.graceful();
        hit(&site, 10);
        wait_for(&site.httpd, "counters.requests.hit", 20);
        hit(&site, 10);
        site.httpd.stop();
        site.httpd.start_again();
        wait_for(&site.httpd, "counters.requests.hit", 30);
        assert_eq!(figure(&site.httpd, "counters.requests.miss"), 1, "{mpm:?}");
        hit(&site, 5);
        wait_for(&site.httpd, "counters.requests.hit", 35);
        hit(&site, 3);
        kill(&site.httpd.children());
        until("new children", 20, || site.httpd.get("/usc-status").status.eq(&200).then_some(()));
        hit(&site, 1);
        let is_between = |hits: u64| (36..=39).contains(&hits).then_some(hits);
        let hits = until("the counters", 20, || is_between(figure(&site.httpd, "counters.requests.hit")));
        assert!(is_between(hits).is_some(), "{mpm:?}");
    }
}

#[test]
fn a_file_of_counters_that_is_removed_or_damaged_is_begun_anew() {
    let site = site(Mpm::Event, 2, 8, "");
    site.fill("/film.ism", Object::new(content(83, 1000)));
    wait_for(&site.httpd, "counters.requests.miss", 1);
    let path = site.httpd.path("store/v1/counters");
    for damage in ["removed", "damaged"] {
        match damage {
            "removed" => std::fs::remove_file(&path).expect("it is there"),
            _ => {
                std::fs::remove_file(&path).expect("it is there");
                std::fs::write(&path, "damaged").expect("it can be written");
            }
        }
        until("the counters to begin anew", 20, || {
            assert!(is_hit(&site.get("/film.ism").cache_status()));
            let said = json(&site.httpd);
            (said["counters"]["requests"]["miss"] == 0 && said["counters"]["requests"]["hit"] != 0).then_some(())
        });
    }
    assert_eq!(site.httpd.crashes(), 0);
}

/// What Prometheus's own parser makes of a text: the samples by name and labels.
fn parsed(text: &[u8]) -> Value {
    const PARSE: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
found, kinds = {}, {}
for family in parse(sys.stdin.read()):
    assert family.documentation, family
    kinds[family.name] = family.type
    for sample in family.samples:
        key = ' '.join([sample.name, *(f'{k}={v}' for k, v in sorted(sample.labels.items()))])
        assert key not in found, key
        found[key] = sample.value
json.dump({'kinds': kinds, 'samples': found}, sys.stdout)
";
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/prometheus/bin/python");
    assert!(python.exists(), "{} is missing: run tests/setup first", python.display());
    let mut child = Command::new(python)
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python can be run");
    child.stdin.take().expect("it is piped").write_all(text).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "Prometheus's parser does not take it:\n{}", String::from_utf8_lossy(text));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn prometheus_reads_the_same_figures_as_the_json_has() {
    let site = site(Mpm::Event, 2, 8, "");
    site.fill("/film.ism", Object::new(content(84, 100_000)));
    (0..7).for_each(|_| assert!(is_hit(&site.get("/film.ism").cache_status())));
    wait_for(&site.httpd, "counters.requests.hit", 7);
    until("a leader", 20, || json(&site.httpd)["processes"]["has_leader"].as_bool()?.then_some(()));
    let answer = site.httpd.get("/usc-status?format=prometheus");
    let media_type = answer.field("Content-Type").unwrap_or_default();
    assert!(media_type.starts_with("text/plain; version=0.0.4"), "{media_type}");
    let (said, read) = (json(&site.httpd), parsed(&answer.body));
    let samples = |name: &str| read["samples"][format!("usp_storage_cache_{name}")].as_f64();
    let mut compared = 0;
    for (family, row) in said["counters"].as_object().expect("an object") {
        assert_eq!(read["kinds"][format!("usp_storage_cache_{family}")], "counter", "{family}");
        let label = if family == "requests" { "outcome" } else { "reason" };
        let cells: Vec<_> = match row.as_object() {
            Some(cells) => {
                cells.iter().map(|(value, count)| (format!("{family}_total {label}={value}"), count)).collect()
            }
            None => vec![(format!("{family}_total"), row)],
        };
        for (name, count) in cells {
            assert_eq!(samples(&name), count.as_f64(), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
    for (name, row) in said["measured"].as_object().expect("an object") {
        assert_eq!(read["kinds"][format!("usp_storage_cache_{name}")], "histogram", "{name}");
        assert_eq!(samples(&format!("{name}_count")), row["count"].as_f64(), "{name}");
        assert_eq!(samples(&format!("{name}_bucket le=+Inf")), row["count"].as_f64(), "{name}");
    }
    assert_eq!(samples("store_max_bytes"), said["store"]["max_bytes"].as_f64());
    assert_eq!(samples("has_leader"), Some(1.0));
}

fn is_not_stored(answer: &Response) -> bool {
    answer.field("Cache-Control").as_deref() == Some("no-store")
}

#[test]
fn the_handler_takes_what_it_should_and_nothing_else() {
    let site = site(Mpm::Event, 1, 8, "");
    for (query, status, begins) in [
        ("", 200, "<!DOCTYPE html>"),
        ("?format=html", 200, "<!DOCTYPE html>"),
        ("?a=b&format=json", 200, "{"),
        ("?format=prometheus", 200, "# HELP usp_storage_cache_"),
        ("?format=xml", 400, "there is no such format: it is ?format=json, ?format=prometheus"),
        ("?format=", 400, "there is no such format"),
    ] {
        let answer = site.httpd.get(&format!("/usc-status{query}"));
        assert_eq!(answer.status, status, "{query}");
        assert!(answer.body.starts_with(begins.as_bytes()) && is_not_stored(&answer), "{query}");
    }
    let head = site.httpd.send(Request::head("/usc-status?format=json"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(is_not_stored(&head));
    assert_eq!(site.httpd.send(Request::new("POST", "/usc-status")).status, 405);
    assert_eq!(site.httpd.get("/elsewhere").status, 404);
}

#[test]
fn access_rules_are_those_of_httpd() {
    let denied = "<Location \"/denied\">\n  SetHandler usp-storage-cache-status\n  Require all denied\n</Location>\n";
    let site = Site::with(denied);
    assert_eq!(site.httpd.get("/denied").status, 403);
}

#[test]
fn fills_under_way_are_shown_with_their_progress_and_breakers_by_name() {
    let site = site(
        Mpm::Event,
        2,
        8,
        "UspStorageCachePartSize 256K\nUspStorageCacheConnectTimeout 1\nUspStorageCacheTimeout 1",
    );
    site.storage.put("/film.mp4", Object::new(content(85, 2_000_000)));
    site.storage.fail_some("/film.mp4", Whom::Everyone, 3.., Fault::Hold);
    assert_eq!(sub("/film.mp4").range("bytes=0-99").run(&site.httpd).body().len(), 100);
    let fill = until("a fill", 20, || json(&site.httpd)["fills"].get(0).cloned());
    assert_eq!((&fill["blocks"], &fill["is_under_way"]), (&Value::from(8), &Value::from(true)), "{fill}");
    assert!(fill["landed"].as_u64().is_some_and(|landed| (1..8).contains(&landed)), "{fill}");
    let page = site.httpd.get("/usc-status").body;
    assert!(String::from_utf8_lossy(&page).contains("/film.mp4"));
    site.storage.release("/film.mp4");
    site.storage.put("/hangs.ism", Object::new("hangs"));
    site.storage.fail("/hangs.ism", Whom::Fetches, Fault::Hang);
    assert_eq!(site.get("/hangs.ism").status, 200);
    let breaker = until("a breaker", 20, || json(&site.httpd)["breakers"].get(0).cloned());
    assert_eq!(breaker["endpoint"], site.storage.host());
}

#[test]
fn mod_status_has_a_section_of_ours_and_httpd_runs_without_it() {
    let lines = format!("{STATUS}<Location \"/server-status\">\n  SetHandler server-status\n</Location>\n");
    let site = Site::of(|storage: &Storage| Conf::new(Site::text(storage, &lines)).load("status").size(2, 8));
    site.fill("/film.ism", Object::new(content(86, 1000)));
    (0..3).for_each(|_| assert!(is_hit(&site.get("/film.ism").cache_status())));
    wait_for(&site.httpd, "counters.requests.hit", 3);
    let auto = String::from_utf8_lossy(&site.httpd.get("/server-status?auto").body).into_owned();
    for line in ["UspStorageCacheHits: 3\n", "UspStorageCacheMisses: 1\n", "UspStorageCacheServedBytes: 4000\n"] {
        assert!(auto.contains(line), "{auto}");
    }
    let page = String::from_utf8_lossy(&site.httpd.get("/server-status").body).into_owned();
    assert!(page.contains("<h2>usp-storage-cache") && page.contains("Hits: 3"), "{page}");
    assert_eq!(site.httpd.crashes(), 0);
}
