//! Fills in parts: what is asked for first, how much at a time, and that bytes of two versions never meet.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use crate::client::{self, Request};
use crate::content::content;
use crate::server::Mpm;
use crate::site::{STORED, Site, is_hit, is_ours, sub};
use crate::storage::{Exchange, Fault, Object, Whom, one_range};
use crate::wait::{rounds, until};

const FILM: &str = "/media/film.mp4";
const BLOCK: usize = 256 * 1024;
/// What the first request for a whole object asks for.
const FIRST: &str = "bytes=0-1048575";
/// No multiple of a block.
const LARGE: usize = 30_000_000;

/// A site whose storage holds an object of that many bytes, and the bytes.
fn site(lines: &str, length: usize) -> (Site, Vec<u8>) {
    let site = Site::with(lines);
    let body = content(50, length);
    site.storage.put(FILM, Object::new(body.clone()));
    (site, body)
}

fn range_of(exchange: &Exchange) -> String {
    exchange.asked.field("Range").unwrap_or_default()
}

/// The object is in the store, and each of its bytes has left storage once.
fn came_once(site: &Site, body: &[u8]) {
    site.wait_for_entry(FILM);
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.sent_again(FILM)), (body.len(), vec![]));
    assert_eq!(site.storage.proxied(FILM).len(), 0);
    assert!(site.get(FILM).body == body);
}

#[test]
fn a_small_object_comes_by_one_request() {
    for length in [1, 5000, BLOCK, 1 << 20] {
        let (site, body) = site("", length);
        let answer = site.get(FILM);
        assert!(answer.body == body && answer.cache_status() == STORED, "{length}: {}", answer.cache_status());
        let exchanges = site.storage.exchanges(FILM);
        assert_eq!((exchanges.len(), range_of(&exchanges[0]).as_str()), (1, FIRST), "{length}");
        assert!(exchanges[0].asked.field("If-Match").is_none());
        came_once(&site, &body);
    }
}

#[test]
fn the_parts_of_a_large_object_ask_for_its_version_and_overlap_nowhere() {
    let (site, body) = site("UspStorageCachePartSize 1M", LARGE);
    assert!(site.get(FILM).body == body);
    came_once(&site, &body);
    let exchanges = site.storage.exchanges(FILM);
    assert!(exchanges.len() > LARGE >> 20, "{} requests", exchanges.len());
    for exchange in &exchanges[1..] {
        let (from, to) = one_range(&range_of(exchange), LARGE).flatten().expect("a range");
        assert!(from % BLOCK == 0 && (to % BLOCK == 0 || to == LARGE) && to - from <= 1 << 20, "{from}-{to}");
        assert_eq!(exchange.asked.field("If-Match"), Some(Object::new(body.clone()).etag()));
        assert_eq!(exchange.asked.field("Accept-Encoding").as_deref(), Some("identity"));
    }
}

#[test]
fn what_nobody_waits_for_comes_by_as_many_requests_at_a_time_as_there_are_threads() {
    let (site, body) = site("UspStorageCachePartSize 512K\nUspStorageCacheFillThreads 3", 8 << 20);
    site.storage.delay(Duration::from_millis(30));
    assert!(sub(FILM).range("bytes=0-99").run(&site.httpd).body() == &body[..100]);
    came_once(&site, &body);
    let most = site.storage.most_at_once(FILM);
    assert!((2..=3).contains(&most), "{most} at a time");
}

#[test]
fn children_share_the_connections_that_a_host_may_have() {
    let lines = "UspStorageCacheConnections 2\nUspStorageCachePartSize 256K\nUspStorageCacheWait 60";
    let site = Site::wide(Mpm::Prefork, 4, 1, lines);
    site.storage.delay(Duration::from_millis(20));
    let objects: Vec<(String, Vec<u8>)> = (0..4).map(|n| (format!("/{n}.mp4"), content(n, 3_000_000))).collect();
    objects.iter().for_each(|(path, body)| site.storage.put(path, Object::new(body.clone())));
    thread::scope(|scope| {
        for (path, body) in &objects {
            let site = &site;
            scope.spawn(move || assert!(site.get(path).body == *body, "{path}"));
        }
    });
    let most = site.storage.most_of_all_at_once();
    assert!((1..=2).contains(&most), "{most} at a time");
}

/// A range of a cold object: its header, and the first and last byte that it selects of [`LARGE`].
const COLD: &[(&str, usize, usize)] = &[
    ("bytes=0-65535", 0, 65_535),
    ("bytes=15000000-15065535", 15_000_000, 15_065_535),
    ("bytes=29934464-29999999", 29_934_464, 29_999_999),
    ("bytes=29934464-", 29_934_464, 29_999_999),
    ("bytes=-65536", 29_934_464, 29_999_999),
];

#[test]
fn a_range_of_a_cold_object_takes_at_most_two_requests_in_sequence() {
    for (range, first, last) in COLD {
        for of_sub in [true, false] {
            let (site, body) = site("", LARGE);
            site.storage.delay(Duration::from_millis(20));
            // What would be the third in a sequence is answered when the client has what it wants.
            site.storage.fail(FILM, Whom::Everyone, Fault::HoldFrom(3));
            let answer = match of_sub {
                true => sub(FILM).range(range).run(&site.httpd).answer,
                false => site.send(Request::get(FILM).range(range)),
            };
            assert!(answer.body == body[*first..=*last], "{range}, sub-request: {of_sub}");
            site.storage.release(FILM);
            site.wait_for_entry(FILM);
            let again: usize = site.storage.sent_again(FILM).iter().map(std::ops::Range::len).sum();
            // Where a suffix begins in its block is not known before.
            assert!(again == 0 || (range.contains("=-") && again <= BLOCK), "{range}: {again} bytes came twice");
            assert_eq!(site.storage.proxied(FILM).len(), 0);
        }
    }
}

#[test]
fn the_first_request_asks_for_the_blocks_that_are_wanted() {
    let asked = |range: &str| {
        let (site, _) = site("", LARGE);
        sub(FILM).range(range).run(&site.httpd);
        range_of(&site.storage.exchanges(FILM)[0])
    };
    assert_eq!(asked("bytes=0-0"), "bytes=0-262143");
    assert_eq!(asked("bytes=262143-262144"), "bytes=0-524287");
    assert_eq!(asked("bytes=15000000-15065535"), "bytes=14942208-15204351");
    let suffix = asked("bytes=-65536");
    let length: usize = suffix.strip_prefix("bytes=-").and_then(|text| text.parse().ok()).expect("a suffix");
    assert!((65_536..=65_536 + 2 * BLOCK).contains(&length), "{suffix}");
}

#[test]
fn clients_with_a_range_each_have_them_after_at_most_two_requests_in_sequence() {
    let site = Site::wide(Mpm::Worker, 2, 64, "");
    let body = content(51, LARGE);
    site.storage.put(FILM, Object::new(body.clone()));
    // Long enough for all clients to come while the first request is on its way; `make bench` looks at times.
    site.storage.delay(Duration::from_millis(500));
    site.storage.fail(FILM, Whom::Everyone, Fault::HoldFrom(3));
    thread::scope(|scope| {
        for client in 0..64 {
            let (site, body) = (&site, &body);
            scope.spawn(move || {
                let first = client * LARGE / 64;
                let range = format!("bytes={first}-{}", first + 65_535);
                let body_of_part = match client % 2 {
                    0 => sub(FILM).range(range).run(&site.httpd).answer.body,
                    _ => site.send(Request::get(FILM).range(range)).body,
                };
                assert!(body_of_part == body[first..first + 65_536], "client {client}");
            });
        }
    });
    site.storage.release(FILM);
    site.wait_for_entry(FILM);
    let fetched: Vec<Exchange> =
        site.storage.exchanges(FILM).into_iter().filter(|exchange| !exchange.asked.by_proxy()).collect();
    assert_eq!(fetched.iter().map(|exchange| exchange.sent.len()).sum::<usize>(), LARGE);
}

#[test]
fn no_connection_carries_more_than_a_third_of_a_large_object() {
    let (site, body) = site("", LARGE);
    site.storage.pace(10_000_000);
    assert!(site.get(FILM).body == body);
    came_once(&site, &body);
    let mut carried: HashMap<u64, usize> = HashMap::new();
    for exchange in site.storage.exchanges(FILM) {
        *carried.entry(exchange.asked.connection).or_default() += exchange.sent.len();
    }
    assert!(carried.values().all(|bytes| *bytes <= LARGE / 3), "{carried:?}");
}

#[test]
fn what_somebody_waits_for_comes_before_what_nobody_waits_for() {
    let (site, body) = site("UspStorageCachePartSize 1M\nUspStorageCacheFillThreads 1", LARGE);
    // The first request is for the client; the second one is for the rest, and makes no progress.
    site.storage.fail_some(FILM, Whom::Everyone, 2..=2, Fault::Hold);
    assert!(sub(FILM).range("bytes=0-99").run(&site.httpd).body() == &body[..100]);
    site.storage.wait_for_fetches(FILM, 2);
    for first in [29_000_000, 15_000_000] {
        let range = format!("bytes={first}-{}", first + 99);
        assert!(sub(FILM).range(&range).run(&site.httpd).body() == &body[first..first + 100], "{range}");
        assert!(site.send(Request::get(FILM).range(&range)).body == body[first..first + 100], "{range}");
    }
    let held = site.storage.exchanges(FILM)[1].clone();
    assert!(held.is_under_way() && held.sent.is_empty());
    site.storage.release(FILM);
    came_once(&site, &body);
}

#[test]
fn an_object_streams_while_it_fills() {
    let (site, body) = site("UspStorageCachePartSize 1M", 4 << 20);
    // The last part stands still in its middle.
    site.storage.fail_some(FILM, Whom::Everyone, 4..=4, Fault::HoldAfter(1000));
    let mut connection = site.httpd.connect();
    let head = connection.ask(&Request::get(format!("/store{FILM}"))).expect("a head");
    assert_eq!((head.status, head.field("Content-Length")), (200, Some(body.len().to_string())));
    assert!(connection.take(BLOCK).expect("a beginning") == body[..BLOCK]);
    site.storage.wait_for_fetches(FILM, 4);
    assert!(site.storage.exchanges(FILM)[3].is_under_way());
    site.storage.release(FILM);
    assert!(connection.take(body.len() - BLOCK).expect("the rest") == body[BLOCK..]);
    came_once(&site, &body);
}

#[test]
fn conditions_and_several_ranges_of_a_cold_object_are_httpds_own() {
    let (site, body) = site("UspStorageCachePartSize 256K", 3_000_000);
    let etag = Object::new(body.clone()).etag();
    site.storage.fail_some(FILM, Whom::Everyone, 4.., Fault::Hold);
    let part = site.send(Request::get(FILM).range("bytes=10-19").field("If-Range", &etag));
    assert_eq!((part.status, &part.body[..]), (206, &body[10..20]));
    let known = site.send(Request::get(FILM).field("If-None-Match", &etag));
    assert_eq!((known.status, known.body.len()), (304, 0));
    site.storage.release(FILM);
    let several = site.send(Request::get(FILM).range("bytes=0-9,2999990-"));
    let kind = several.field("Content-Type").unwrap_or_default();
    assert!(several.status == 206 && kind.starts_with("multipart/byteranges"), "{}: {kind}", several.status);
    came_once(&site, &body);
}

#[test]
fn a_storage_that_ignores_range_is_read_in_one_stream() {
    let (site, body) = site("", 3_000_000);
    site.storage.ignore("Range");
    let answer = sub(FILM).range("bytes=2000000-2000099").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (206, &body[2_000_000..2_000_100]));
    came_once(&site, &body);
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

#[test]
fn without_a_strong_etag_an_object_that_the_first_answer_does_not_hold_is_read_in_one_stream() {
    for etag in [None, Some("W/\"weak\"")] {
        for (length, count) in [(5000, 1), (1 << 20, 1), (3_000_000, 2)] {
            let body = content(52, length);
            let object = Object::new(body.clone()).without("ETag");
            let object = etag.into_iter().fold(object, |object, etag| object.field("ETag", etag));
            let site = Site::new();
            site.storage.put(FILM, object);
            assert!(site.get(FILM).body == body, "{etag:?}, {length}");
            site.wait_for_entry(FILM);
            let answer = site.sub(FILM);
            assert!(is_hit(&answer.cache_status()) && answer.body() == body, "{etag:?}, {length}");
            let exchanges = site.storage.exchanges(FILM);
            assert_eq!(exchanges.len(), count, "{etag:?}, {length}");
            assert!(exchanges[1..].iter().all(|exchange| range_of(exchange).is_empty()), "{etag:?}, {length}");
            assert!(exchanges.iter().all(|exchange| exchange.asked.field("If-Match").is_none()), "{etag:?}, {length}");
        }
    }
}

#[test]
fn an_empty_object_is_asked_for_again_without_a_range() {
    let (site, _) = site("", 0);
    let answer = site.get(FILM);
    assert_eq!((answer.status, answer.cache_status().as_str(), answer.body.len()), (200, STORED, 0));
    let ranges: Vec<String> = site.storage.exchanges(FILM).iter().map(range_of).collect();
    assert_eq!(ranges, [FIRST, ""]);
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn a_range_after_the_end_of_a_cold_object_selects_nothing_and_fills_nothing() {
    let (site, _) = site("", 5000);
    let answer = sub(FILM).range("bytes=9000000-9000099").run(&site.httpd);
    assert_eq!((answer.status(), answer.body().len()), (416, 0));
    assert_eq!(answer.field("Content-Range").as_deref(), Some("bytes */5000"));
    assert_eq!((site.storage.bytes_sent(FILM), site.httpd.entries().len()), (0, 0));
}

#[test]
fn a_version_that_changes_under_a_fill_begins_it_anew() {
    for length in [3_000_000, 1000] {
        let (site, first) = site("UspStorageCachePartSize 256K", 4_000_000);
        let second = Object::new(content(53, length));
        site.storage.fail_some(FILM, Whom::Everyone, 3.., Fault::Hold);
        assert!(sub(FILM).range("bytes=0-99").run(&site.httpd).body() == &first[..100]);
        site.storage.wait_for_fetches(FILM, 3);
        site.storage.put(FILM, second.clone());
        site.storage.release(FILM);
        site.wait_for_entry(FILM);
        let answer = site.get(FILM);
        assert!(site.is_a_version(FILM, &answer) && answer.field("ETag") == Some(second.etag()), "{length}");
        assert!(is_hit(&answer.cache_status()), "{}", answer.cache_status());
        // Each version has its first request, without a condition.
        let firsts = site.storage.fetches(FILM).into_iter().filter(|asked| asked.field("If-Match").is_none());
        assert_eq!((firsts.count(), site.storage.proxied(FILM).len()), (2, 0), "{length}");
    }
}

#[test]
fn answers_that_name_another_version_end_no_fill_in_the_wrong_way() {
    let bent = [
        Fault::OtherEtag("\"other\""),
        Fault::OtherTotal(4_000_000),
        Fault::OtherTotal(2_000_000),
        Fault::Shifted(1000),
        Fault::Shifted(BLOCK),
        Fault::Ignores("Range"),
        Fault::Status(412),
        Fault::Status(416),
    ];
    for fault in bent {
        let (site, body) = site("UspStorageCachePartSize 256K", 3_000_000);
        site.storage.ignore("If-Match");
        site.storage.fail_some(FILM, Whom::Fetches, 3..=3, fault.clone());
        let part = sub(FILM).range("bytes=2999900-").run(&site.httpd);
        assert!(part.status() == 206 && part.body() == &body[2_999_900..], "{fault:?}");
        let whole = client::fetch(site.httpd.port, Request::get(format!("/store{FILM}")));
        // An answer that is under way when the version seems to change is broken off.
        assert!(whole.map_or(true, |whole| site.is_a_version(FILM, &whole)), "{fault:?}");
        until("a hit", 20, || {
            let answer = site.get(FILM);
            assert!(site.is_a_version(FILM, &answer), "{fault:?}: {}", answer.cache_status());
            is_hit(&answer.cache_status()).then_some(())
        });
    }
}

#[test]
fn a_part_that_is_shorter_than_asked_for_is_gone_on_from() {
    let (site, body) = site("UspStorageCachePartSize 1M", 3_000_000);
    site.storage.fail(FILM, Whom::Fetches, Fault::Shorter(BLOCK));
    assert!(sub(FILM).range("bytes=1000000-1600000").run(&site.httpd).body() == &body[1_000_000..=1_600_000]);
    assert!(site.get(FILM).body == body);
    came_once(&site, &body);
}

#[test]
fn a_version_that_changes_again_and_again_is_left_to_mod_proxy_after_two_restarts() {
    let (site, body) = site("", 3_000_000);
    site.storage.fail(FILM, Whom::Fetches, Fault::NewEtags);
    let answer = client::fetch(site.httpd.port, Request::get(format!("/store{FILM}")));
    assert!(answer.map_or(true, |answer| answer.body == body));
    assert_eq!(site.httpd.entries().len(), 0);
    let firsts = site.storage.fetches(FILM).into_iter().filter(|asked| asked.field("If-Match").is_none());
    assert_eq!(firsts.count(), 3);
    assert!(site.get(FILM).body == body);
    assert_eq!(site.httpd.count_in_log("cannot fill"), 1);
}

#[test]
fn bytes_of_two_versions_never_meet_while_an_object_is_replaced_and_read() {
    let lines = "UspStorageCacheExpire 0\nUspStorageCacheStaleWhileRevalidate 0\nUspStorageCachePartSize 256K";
    for knows_if_match in [true, false] {
        let site = Site::wide(Mpm::Worker, 2, 16, lines);
        if !knows_if_match {
            site.storage.ignore("If-Match");
        }
        site.storage.put(FILM, Object::new(content(60, 2_000_000)));
        thread::scope(|scope| {
            let read = |whole: bool| (0..rounds(15, 300)).for_each(|_| read_one_version(&site, whole));
            let readers: Vec<_> = (0..6).map(|client| scope.spawn(move || read(client % 2 == 0))).collect();
            let are_done = || readers.iter().all(thread::ScopedJoinHandle::is_finished);
            for seed in 61.. {
                if are_done() {
                    break;
                }
                site.storage.put(FILM, Object::new(content(seed, 1_000_000 + (seed as usize % 5) * 400_000)));
                let asked = site.storage.fetches(FILM).len();
                until("a fetch of this version", 60, || {
                    (are_done() || site.storage.fetches(FILM).len() > asked).then_some(())
                });
            }
        });
        assert_eq!(site.httpd.crashes(), 0);
    }
}

/// Reads the object or a part of it; what comes whole is of one version.
fn read_one_version(site: &Site, whole: bool) {
    let request = Request::get(format!("/store{FILM}"));
    let request = if whole { request } else { request.range("bytes=200000-999999") };
    let Ok(answer) = client::fetch(site.httpd.port, request) else { return };
    let versions = site.storage.versions(FILM);
    let version = versions.iter().find(|version| answer.field("ETag") == Some(version.etag()));
    let body = version.expect("a version that was put").body();
    let want = if answer.status == 206 { &body[200_000..1_000_000] } else { body };
    assert!(answer.body == want, "{} bytes of a mixture: {}", answer.body.len(), answer.cache_status());
}

#[test]
fn a_wish_in_the_middle_of_a_fill_is_ours_as_well() {
    let (site, body) = site("", LARGE);
    site.storage.pace(10_000_000);
    thread::scope(|scope| {
        for client in 0..20_usize {
            let (site, body) = (&site, &body);
            scope.spawn(move || {
                let first = client * 1_400_000;
                let answer = sub(FILM).range(format!("bytes={first}-{}", first + 999_999)).run(&site.httpd);
                assert!(answer.status() == 206 && answer.body() == &body[first..first + 1_000_000], "{client}");
                assert!(is_ours(&answer.cache_status()), "{client}: {}", answer.cache_status());
            });
        }
    });
    came_once(&site, &body);
}
