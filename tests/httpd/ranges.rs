//! What part of an object goes out: ranges, conditions and HEAD, of sub-requests and main requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::client::{Request, Response};
use crate::content::content;
use crate::origin::Subs;
use crate::server::{Conf, Httpd};
use crate::site::{Site, is_hit, sub};
use crate::storage::{LAST_MODIFIED, Object, Storage};
use crate::wait::{rounds, until};

const INDEX: &str = "/media/film-index.mp4";
const LENGTH: usize = 1000;

/// A site that holds the index of 1000 bytes.
fn site(lines: &str) -> Site {
    let site = Site::with(lines);
    site.fill(INDEX, object());
    site
}

fn object() -> Object {
    Object::new(body())
}

fn body() -> Vec<u8> {
    content(2, LENGTH)
}

fn ranged(site: &Site, range: &str) -> Subs {
    let answer = sub(INDEX).range(range).run(&site.httpd);
    assert!(is_hit(&answer.cache_status()), "{range}: {}", answer.cache_status());
    assert_eq!(answer.returns(), [0], "{range}");
    answer
}

/// What can be satisfied: the header, and the first and last byte that it selects of 1000.
const SATISFIED: &[(&str, usize, usize)] = &[
    ("bytes=0-99", 0, 99),
    ("bytes=0-0", 0, 0),
    ("bytes=999-999", 999, 999),
    ("bytes=500-", 500, 999),
    ("bytes=0-", 0, 999),
    ("bytes=-1", 999, 999),
    ("bytes=-10", 990, 999),
    ("bytes=-1000", 0, 999),
    ("bytes=-5000", 0, 999),
    ("bytes=990-2000", 990, 999),
    ("bytes=0-18446744073709551615", 0, 999),
];

#[test]
fn a_sub_request_gets_the_part_that_its_range_selects() {
    let site = site("");
    for (range, first, last) in SATISFIED {
        let answer = ranged(&site, range);
        let described = format!("bytes {first}-{last}/{LENGTH}");
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(answer.field("Content-Range"), Some(described), "{range}");
        assert_eq!(answer.field("Content-Length"), Some((last - first + 1).to_string()), "{range}");
        assert_eq!(answer.body(), &body()[*first..=*last], "{range}");
    }
    assert_eq!(site.storage.counts(INDEX), (1, 0));
}

#[test]
fn a_sub_requests_range_without_a_part_is_416_with_the_length() {
    let site = site("");
    for range in ["bytes=1000-", "bytes=1000-1000", "bytes=5000-6000", "bytes=-0"] {
        let answer = ranged(&site, range);
        assert_eq!((answer.status(), answer.body()), (416, &[][..]), "{range}");
        assert_eq!(answer.field("Content-Range").as_deref(), Some("bytes */1000"), "{range}");
    }
}

#[test]
fn a_sub_requests_range_that_cannot_be_read_is_ignored() {
    let site = site("");
    for range in
        ["bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=1", "bytes 0-9", "items=0-9", "0-9", "bytes=1-x"]
    {
        let answer = ranged(&site, range);
        assert_eq!((answer.status(), answer.body()), (200, &body()[..]), "{range}");
        assert_eq!(answer.field("Content-Range"), None, "{range}");
    }
}

#[test]
fn a_range_of_what_is_not_held_is_cut_from_what_was_fetched() {
    let site = Site::new();
    site.storage.put(INDEX, object());
    let answer = sub(INDEX).range("bytes=10-19").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (206, &body()[10..20]));
    assert!(is_hit(&site.get(INDEX).cache_status()));
    assert_eq!(site.storage.counts(INDEX), (1, 0));
    assert_eq!(site.storage.fetches(INDEX)[0].field("Range").as_deref(), Some("bytes=0-262143"));
}

#[test]
fn a_range_that_the_client_sent_is_inherited() {
    let site = site("");
    let answer = sub(INDEX).inherit("Range", "bytes=1-4").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (206, &body()[1..5]));
    let answer = sub(INDEX).inherit("Range", "bytes=1-4").range("bytes=0-1").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (206, &body()[..2]));
    let answer = sub(INDEX).inherit("Range", "bytes=1-4").parameter("norange", "1").run(&site.httpd);
    assert_eq!(answer.status(), 200);
}

#[test]
fn a_sub_request_ignores_conditions_that_it_inherited() {
    let site = site("");
    let etag = object().etag();
    let conditions = [
        ("If-None-Match", etag.as_str()),
        ("If-None-Match", "*"),
        ("If-Modified-Since", LAST_MODIFIED),
        ("If-Match", "\"other\""),
        ("If-Unmodified-Since", "Sat, 01 Jan 2000 00:00:00 GMT"),
    ];
    for (name, value) in conditions {
        let answer = sub(INDEX).field(name, value).run(&site.httpd);
        assert_eq!((answer.status(), answer.body()), (200, &body()[..]), "{name}: {value}");
    }
    let answer = sub(INDEX).field("If-Range", "\"other\"").range("bytes=0-9").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (206, &body()[..10]));
}

#[test]
fn a_head_sub_request_ignores_range_and_has_no_body() {
    let site = site("");
    let answer = sub(INDEX).parameter("method", "HEAD").range("bytes=0-9").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (200, &[][..]));
    assert_eq!(answer.field("Content-Length").as_deref(), Some("1000"));
    assert!(is_hit(&answer.cache_status()));
    assert_eq!(site.storage.counts(INDEX), (1, 0));
}

#[test]
fn of_an_empty_object_a_sub_request_gets_nothing_or_416() {
    let site = Site::new();
    site.fill("/empty.mp4", Object::new(""));
    let whole = site.sub("/empty.mp4");
    assert_eq!((whole.status(), whole.field("Content-Length").as_deref()), (200, Some("0")));
    for range in ["bytes=0-9", "bytes=0-", "bytes=-5"] {
        let answer = sub("/empty.mp4").range(range).run(&site.httpd);
        assert_eq!(answer.status(), 416, "{range}");
        assert_eq!(answer.field("Content-Range").as_deref(), Some("bytes */0"), "{range}");
    }
    let main = main_hit(&site, Request::get("/empty.mp4").range("bytes=0-9"));
    assert_eq!((main.status, main.body.len()), (200, 0));
    // Of a range of nothing storage says 416: only the plain GET after it tells of an empty object.
    assert_eq!(site.storage.counts("/empty.mp4"), (2, 0));
}

#[test]
fn with_range_full_a_sub_request_gets_the_whole_object_whatever_it_asks_for() {
    let site = site("UspStorageCacheRange full");
    for range in ["bytes=0-99", "bytes=-1", "bytes=5000-"] {
        let answer = ranged(&site, range);
        assert_eq!((answer.status(), answer.body()), (200, &body()[..]), "{range}");
        assert_eq!(answer.field("Content-Range"), None, "{range}");
    }
    let main = site.send(Request::get(INDEX).range("bytes=0-99"));
    assert_eq!((main.status, main.body), (206, body()[..100].to_vec()));
}

fn main_hit(site: &Site, request: Request) -> Response {
    let answer = site.send(request);
    assert!(is_hit(&answer.cache_status()), "{}", answer.cache_status());
    answer
}

#[test]
fn a_main_request_gets_the_part_that_its_range_selects() {
    let site = site("");
    for (range, first, last) in SATISFIED {
        let answer = main_hit(&site, Request::get(INDEX).range(range));
        // httpd answers a range that is the whole object with 200, as RFC 9110 (14.2) allows.
        let whole = (*first, *last) == (0, LENGTH - 1);
        assert!(answer.status == 206 || (whole && answer.status == 200), "{range}: {}", answer.status);
        assert_eq!(answer.body, &body()[*first..=*last], "{range}");
    }
    let beyond = site.send(Request::get(INDEX).range("bytes=1000-"));
    assert_eq!(beyond.status, 416);
}

#[test]
fn a_main_request_gets_several_ranges_as_multipart() {
    let site = site("");
    let answer = main_hit(&site, Request::get(INDEX).range("bytes=0-9,500-509,-3"));
    let kind = answer.field("Content-Type").expect("a multipart answer has a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("it is multipart");
    let parts = split(&answer.body, format!("--{boundary}").as_bytes());
    let want = [(0, 9), (500, 509), (997, 999)];
    assert_eq!((answer.status, parts.len()), (206, want.len() + 2));
    for ((first, last), part) in want.into_iter().zip(&parts[1..]) {
        let head = format!("Content-Range: bytes {first}-{last}/1000");
        assert!(part.windows(head.len()).any(|at| at.eq_ignore_ascii_case(head.as_bytes())), "{head}");
        assert!(part.ends_with(&[&body()[first..=last], b"\r\n"].concat()), "{head}");
    }
}

fn split<'b>(bytes: &'b [u8], mark: &[u8]) -> Vec<&'b [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(mark.len()).position(|part| part == mark) {
        parts.push(&rest[..at]);
        rest = &rest[at + mark.len()..];
    }
    parts.push(rest);
    parts
}

#[test]
fn a_main_request_gets_its_range_only_of_the_version_that_it_knows() {
    let site = site("");
    let etag = object().etag();
    for (condition, status) in [(etag.as_str(), 206), (LAST_MODIFIED, 206), ("\"other\"", 200)] {
        let answer = main_hit(&site, Request::get(INDEX).range("bytes=0-9").field("If-Range", condition));
        assert_eq!(answer.status, status, "{condition}");
    }
}

#[test]
fn a_main_requests_conditions_are_held_against_the_stored_validators() {
    let site = site("");
    let etag = object().etag();
    let conditions = [
        ("If-None-Match", etag.as_str(), 304),
        ("If-None-Match", "\"other\"", 200),
        ("If-None-Match", "*", 304),
        ("If-Modified-Since", LAST_MODIFIED, 304),
        ("If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT", 200),
        ("If-Match", etag.as_str(), 200),
        ("If-Match", "\"other\"", 412),
        ("If-Unmodified-Since", "Sat, 01 Jan 2000 00:00:00 GMT", 412),
        ("If-Unmodified-Since", LAST_MODIFIED, 200),
    ];
    for (name, value, status) in conditions {
        let answer = site.send(Request::get(INDEX).field(name, value));
        assert_eq!(answer.status, status, "{name}: {value}");
    }
    let known = main_hit(&site, Request::get(INDEX).field("If-None-Match", &etag));
    assert_eq!((known.field("ETag"), known.body.len()), (Some(etag), 0));
    assert_eq!(site.storage.counts(INDEX), (1, 0));
}

#[test]
fn a_main_requests_conditions_never_leave_the_store_short_of_the_object() {
    let site = Site::new();
    site.storage.put(INDEX, object());
    let known = site.send(Request::get(INDEX).field("If-None-Match", object().etag()));
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(site.get(INDEX).body, body());
    assert!(is_hit(&site.sub(INDEX).cache_status()));
}

#[test]
fn head_of_a_main_request_has_the_fields_of_the_whole_object() {
    let site = site("");
    for request in [Request::head(INDEX), Request::head(INDEX).range("bytes=0-9")] {
        let answer = main_hit(&site, request);
        assert_eq!((answer.status, answer.field("Content-Length").as_deref()), (200, Some("1000")));
        assert_eq!((answer.field("ETag"), answer.field("Content-Range")), (Some(object().etag()), None));
    }
    assert_eq!(site.storage.counts(INDEX), (1, 0));
}

#[test]
fn several_requests_share_a_connection() {
    let site = site("");
    let mut connection = site.httpd.connect();
    for round in 0..20 {
        let request = match round % 4 {
            0 => Request::get(format!("/store{INDEX}")),
            1 => Request::get(format!("/store{INDEX}")).range("bytes=1-2"),
            2 => Request::head(format!("/store{INDEX}")),
            _ => Request::get(format!("/store{INDEX}")).field("If-None-Match", object().etag()),
        };
        let answer = connection.exchange(&request).expect("the connection lives");
        let (status, length) = [(200, 1000), (206, 2), (200, 0), (304, 0)][round % 4];
        assert_eq!((answer.status, answer.body.len()), (status, length), "round {round}");
    }
}

#[test]
fn with_sendfile_large_objects_are_the_same() {
    let site = Site::with("EnableSendfile On");
    let body = content(3, 3 << 20);
    site.fill("/large.mp4", Object::new(body.clone()));
    let whole = main_hit(&site, Request::get("/large.mp4"));
    assert!(whole.body == body);
    let part = site.send(Request::get("/large.mp4").range("bytes=1000000-2999999"));
    assert!(part.status == 206 && part.body == body[1_000_000..3_000_000]);
    let parts = site.send(Request::get("/large.mp4").range("bytes=0-999999,2000000-2999999"));
    assert!(parts.status == 206 && parts.body.len() > 2_000_000);
}

#[test]
fn large_answers_are_of_the_version_that_their_fields_are_of() {
    let site = Site::with("EnableSendfile On\nUspStorageCacheExpire 1");
    let versions = [3, 4].map(|seed| Object::new(content(seed, 3 << 20)));
    site.fill("/large.mp4", versions[0].clone());
    let stop = AtomicBool::new(false);
    let ask = || {
        while !stop.load(Ordering::Relaxed) {
            let answer = site.get("/large.mp4");
            let version = versions.iter().position(|one| answer.field("ETag") == Some(one.etag()));
            let seed = version.expect("it is one of the two") as u64 + 3;
            assert!(answer.status == 200 && answer.body == content(seed, 3 << 20), "{}", answer.cache_status());
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        for round in 0..rounds(4, 40) {
            let version = &versions[(round + 1) % 2];
            site.storage.put("/large.mp4", version.clone());
            until("the other version", 20, || {
                let is_there = site.get("/large.mp4").field("ETag") == Some(version.etag());
                (is_there || clients.iter().any(|client| client.is_finished())).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_a_main_request_gets_is_not_compressed_on_its_way() {
    let storage = Storage::start();
    let text = Site::text(&storage, "SetOutputFilter DEFLATE");
    let httpd = Httpd::start(Conf::new(text).load("filter").load("deflate"));
    let site = Site { httpd, storage };
    site.fill("/film.ism", Object::new(vec![b'x'; 5000]).set("Content-Type", "text/xml"));
    let whole = main_hit(&site, Request::get("/film.ism").field("Accept-Encoding", "gzip"));
    assert_eq!((whole.field("Content-Encoding"), whole.body.len()), (None, 5000));
    let part = Request::get("/film.ism").field("Accept-Encoding", "gzip").range("bytes=0-99");
    let part = main_hit(&site, part);
    assert_eq!((part.status, &part.body[..]), (206, &[b'x'; 100][..]));
    assert_eq!(part.field("Content-Range").as_deref(), Some("bytes 0-99/5000"));
    // The filter is at work where the module has no part.
    site.storage.put("/page", Object::new(vec![b'x'; 5000]).set("Content-Type", "text/xml"));
    let other = site.send(Request::get("/page").field("Accept-Encoding", "gzip"));
    assert_eq!(other.field("Content-Encoding").as_deref(), Some("gzip"));
}
