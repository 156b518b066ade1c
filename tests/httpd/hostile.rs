//! Requests that nobody sane sends, and a store that vanishes: an answer each time, from a child
//! that lives.

use std::fs;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::client::{self, Connection, Request};
use crate::content::content;
use crate::origin::Sub;
use crate::site::{BODY_LEN, FILM, STORED, Site, is_hit, sub, with_film};
use crate::storage::Object;
use crate::wait::rounds;

/// The child is the one it was, and serves.
fn lives(site: &Site, child: u32, after: &str) {
    assert!(is_hit(&site.get(FILM).cache_status()), "after {after}");
    assert_eq!(site.httpd.child(), child, "another child after {after}");
    assert_eq!(site.httpd.crashes(), 0, "after {after}");
}

/// Targets that are short enough to be written down; httpd itself refuses some of them.
const TARGETS: &[&str] = &[
    "/store/%00.ism",
    "/store/a%00b.ism",
    "/store/%zz.ism",
    "/store/%.ism",
    "/store/%2.ism",
    "/store/%",
    "/store/%ff%fe.ism",
    "/store/../film.ism",
    "/store/%2e%2e/film.ism",
    "/store/..%2ffilm.ism",
    "/store//film.ism",
    "/store/.ism",
    "/store/ .ism",
    "/store/%0d%0aX: y.ism",
    "/store/%2F.ism",
    "/store/a;b=c.ism",
    "/store/a.ism#b",
    "/store/a.ism?",
    "/store/a.ism?%00",
    "/store/a.ism?a=%zz&&=&=&",
    "/store/a.ism??",
    "//",
    "*",
    "http://[::1/a.ism",
    "/store/%e2%82.ism",
    "/store/a.ism?versionId=%00",
    "/store/a.ism?versionId",
    "/store/\u{feff}.ism",
];

/// The targets above, ones that are no text, and long ones.
fn targets() -> Vec<Vec<u8>> {
    let mut targets: Vec<Vec<u8>> = TARGETS.iter().map(|text| text.as_bytes().to_vec()).collect();
    targets.push(b"/store/\xff\xfe\x80.ism".to_vec());
    targets.push(b"/store/a\0b.ism".to_vec());
    targets.push([b"/store/", &b"a".repeat(7800)[..], b".ism"].concat());
    targets.push([b"/store/", &b"%41".repeat(2600)[..], b".ism"].concat());
    targets.push([b"/store/", &b"a/".repeat(3900)[..], b".ism"].concat());
    targets.push([b"/store/a.ism?", &b"b".repeat(7800)[..]].concat());
    targets.push([b"/store/", &b"a".repeat(100_000)[..], b".ism"].concat());
    targets
}

#[test]
fn any_target_of_a_main_request_gets_an_answer() {
    let site = with_film();
    let child = site.httpd.child();
    for target in targets() {
        let shown = String::from_utf8_lossy(&target[..target.len().min(60)]).into_owned();
        let answer =
            client::fetch(site.httpd.port, Request::get(&target)).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert!((200..600).contains(&answer.status), "{shown}");
        assert_ne!(answer.status, 500, "{shown}");
        lives(&site, child, &shown);
    }
}

#[test]
fn any_uri_of_a_sub_request_gets_an_answer() {
    let site = with_film();
    let child = site.httpd.child();
    for target in targets() {
        let shown = String::from_utf8_lossy(&target[..target.len().min(60)]).into_owned();
        // The double takes the URI as a C string, in a request line that httpd limits.
        let target: Vec<u8> = target.into_iter().filter(|byte| *byte != 0).take(2500).collect();
        for sub in [Sub::get(&target), Sub::get(&target).by_hand()] {
            let answer = sub.range("bytes=0-9").try_run(&site.httpd);
            assert!((200..600).contains(&answer.answer.status), "{shown}");
            lives(&site, child, &shown);
        }
    }
}

#[test]
fn a_url_of_bytes_that_are_no_text_is_an_object_like_any_other() {
    let site = Site::new();
    for spelling in ["/%FF%FE.ism", "/%ff%fe.ism"] {
        site.storage.put(spelling, Object::new("no text"));
    }
    assert_eq!(site.get("/%FF%FE.ism").cache_status(), STORED);
    let answer = site.get("/%ff%fe.ism");
    assert!(is_hit(&answer.cache_status()));
    assert_eq!(answer.body, b"no text");
    assert!(is_hit(&Sub::get("/%ff%FE.ism").by_hand().run(&site.httpd).cache_status()));
}

/// Values of Range that are absurd.
const RANGES: &[&str] = &[
    "",
    "bytes",
    "bytes=",
    "bytes=-",
    "bytes=--1",
    "bytes=1--2",
    "bytes=0x10-0x20",
    "bytes=+1-+2",
    "bytes=1.5-2",
    "bytes=18446744073709551615-",
    "bytes=18446744073709551616-",
    "bytes=0-18446744073709551616",
    "bytes=9223372036854775807-9223372036854775808",
    "bytes=-18446744073709551616",
    "bytes=-9223372036854775808",
    "bytes=0-0,",
    "bytes=,",
    "bytes=0-0,-",
    "bytes=0-0,1-1,",
    "bytes = 0 - 0",
    "BYTES=0-0",
    "none=0-0",
    "bytes=\t0-0",
];

/// The values above, ones that are no text, and long ones.
fn ranges() -> Vec<Vec<u8>> {
    let mut ranges: Vec<Vec<u8>> = RANGES.iter().map(|text| text.as_bytes().to_vec()).collect();
    ranges.push([b"bytes=", &b"9".repeat(5000)[..], b"-"].concat());
    ranges.push([b"bytes=0-", &b"9".repeat(5000)[..]].concat());
    ranges.push([b"bytes=", &b"0-0,".repeat(1500)[..], b"1-1"].concat());
    ranges.push(b"bytes=\xff-\xfe".to_vec());
    ranges
}

#[test]
fn any_range_gets_an_answer() {
    let site = with_film();
    let child = site.httpd.child();
    for range in ranges() {
        let shown = String::from_utf8_lossy(&range[..range.len().min(60)]).into_owned();
        let main = site.send(Request::get(FILM).range(&range));
        assert!(matches!(main.status, 200 | 206 | 416), "{shown}: {}", main.status);
        let inner = sub(FILM).inherit("Range", &range).run(&site.httpd);
        assert!(matches!(inner.status(), 200 | 206 | 416), "{shown}: {}", inner.status());
        lives(&site, child, &shown);
    }
}

/// Header fields that are wrong, too long, or not meant for a request.
const FIELDS: &[(&str, &[u8])] = &[
    ("If-None-Match", b"\"\xff\", W/, ,,\""),
    ("If-Match", b"\x01"),
    ("If-Modified-Since", b"yesterday"),
    ("If-Range", b"\"\xff"),
    ("Host", b"\xff\xfe"),
    ("Host", b"a b"),
    ("Authorization", b"AWS4-HMAC-SHA256 \xff"),
    ("Authorization", b""),
    ("x-amz-date", &[b'x'; 8000]),
    ("Accept-Encoding", &[b'x'; 8000]),
    ("Expect", b"\xff"),
    ("Transfer-Encoding", b"chunked"),
    ("Content-Length", b"-1"),
    ("Connection", b"Range, Host, Cache-Status"),
    ("Cache-Status", b"usp-storage-cache; hit"),
];

#[test]
fn any_header_gets_an_answer() {
    let site = with_film();
    let child = site.httpd.child();
    for (name, value) in FIELDS {
        let mut request = format!("GET /store{FILM} HTTP/1.1\r\nConnection: close\r\n").into_bytes();
        if *name != "Host" {
            request.extend_from_slice(b"Host: a\r\n");
        }
        // A chunked body that never comes would be waited for: its end is sent with it.
        request.extend_from_slice(&[name.as_bytes(), b": ", *value, b"\r\n\r\n0\r\n\r\n"].concat());
        let mut connection = site.httpd.connect();
        connection.send(&request).expect("it is sent");
        let answer = connection.receive(false).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!((200..500).contains(&answer.status), "{name}: {}", answer.status);
        lives(&site, child, name);
    }
}

#[test]
fn bytes_that_are_no_request_are_httpds_own_business() {
    let site = with_film();
    let child = site.httpd.child();
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /store/film.ism HTTP/9.9\r\n\r\n",
    ] {
        let mut connection = Connection::open(site.httpd.port).expect("it takes a connection");
        connection.send(bytes).expect("it is sent");
        let _ = connection.receive(false);
        lives(&site, child, "garbage");
    }
}

#[test]
fn random_requests_get_answers() {
    let site = with_film();
    let child = site.httpd.child();
    let cases = u32::try_from(rounds(300, 20_000)).expect("a small number");
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let bytes = |most: usize| proptest::collection::vec(any::<u8>(), 0..most);
    let range = prop_oneof!["bytes=[0-9]{0,20}-[0-9]{0,20}", "bytes=[-0-9, ]{0,30}", "\\PC{0,30}"];
    let tested = runner.run(&(bytes(40), bytes(40), range), |(path, query, range)| {
        let range: Vec<u8> = range.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)).collect();
        let uri: Vec<u8> = [b"/", &path[..], b".ism?", &query[..]].concat();
        let uri: Vec<u8> = uri.into_iter().filter(|byte| *byte != 0).collect();
        let by_hand = Sub::get(&uri).by_hand().range(&range).try_run(&site.httpd).answer.status;
        prop_assert!((200..600).contains(&by_hand));
        let mapped = Sub::get([b"/store", &uri[..]].concat()).range(&range).try_run(&site.httpd).answer.status;
        prop_assert!((200..600).contains(&mapped));
        Ok(())
    });
    tested.unwrap_or_else(|failure| panic!("{failure}"));
    lives(&site, child, "random requests");
}

#[test]
fn clients_that_leave_in_the_middle_of_an_answer_leave_nothing_behind() {
    let site = with_film();
    let child = site.httpd.child();
    site.fill("/large.mp4", Object::new(content(32, 20 << 20)));
    let mappings =
        || fs::read_to_string(format!("/proc/{child}/maps")).expect("it lives").matches("/store/v1/").count();
    // Held from now on, and no longer as a fill.
    site.httpd.settle();
    [FILM, "/large.mp4"].iter().for_each(|path| drop(site.get(path)));
    let before = mappings();
    for _ in 0..rounds(30, 1000) {
        let mut connection = site.httpd.connect();
        connection.send(b"GET /store/large.mp4 HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is sent");
        // Nothing is read but the first bytes: the rest is set aside, or waits for the client.
        connection.receive(true).expect("the head comes");
    }
    lives(&site, child, "clients that left");
    assert_eq!(mappings(), before);
    assert!(site.get("/large.mp4").body == content(32, 20 << 20));
}

#[test]
fn a_store_that_vanishes_under_a_running_httpd_costs_no_request() {
    let site = with_film();
    let child = site.httpd.child();
    fs::remove_dir_all(site.httpd.path("store/v1")).expect("it can be removed");
    site.storage.put("/new.ism", Object::new("new"));
    for _ in 0..2 {
        assert!(site.get(FILM).body == content(30, BODY_LEN));
        assert_eq!(site.get("/new.ism").body, b"new");
    }
    assert_eq!(site.httpd.child(), child);
}
