//! The fault matrix: what storage does, and for each what the client gets, what is stored, what is logged, how long it takes.
//!
//! Each row is a test of its own. The object is one that comes by one request ([`SMALL`]) or by several ([`LARGE`]).

use std::time::{Duration, Instant};

use crate::client::{self, Request, Response};
use crate::content::content;
use crate::server::Conf;
use crate::site::{ABSENT, Site, endpoint, is_hit, is_ours, sub};
use crate::storage::{Fault, Object, Whom};
use crate::wait::until;

const FILM: &str = "/media/film.mp4";
const SMALL: usize = 5000;
const LARGE: usize = 3_000_000;
/// The configured time-outs: a row may take the sum of them, and this for all the rest.
const TIMEOUTS: &str = "UspStorageCacheTimeout 1\nUspStorageCacheConnectTimeout 1\nUspStorageCacheWait 2\n\
    UspStorageCachePartSize 512K\n";
const SLACK: Duration = Duration::from_secs(4);

/// What the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// The object, from us.
    Ours,
    /// The object, from mod_proxy.
    Proxied,
    /// The object, whoever answers, or an answer that visibly broke off: some of it was out before storage failed.
    WholeOrCut,
    /// Storage's own status and words, from mod_proxy.
    Status(u16),
}

/// What of the object is in the store after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Whole,
    Nothing,
}

struct Row {
    length: usize,
    whom: Whom,
    /// The first request that meets the fault, and whether it is the only one.
    which: (usize, bool),
    fault: Fault,
    gets: Gets,
    stored: Stored,
    /// How many lines of the log say that a fill failed (at most, where the object is stored in the end), and a word of them.
    logged: (usize, &'static str),
}

/// Each request for a small object fails, for everybody.
const EVERYBODY: Row = Row {
    length: SMALL,
    whom: Whom::Everyone,
    which: (1, false),
    fault: Fault::Hang,
    gets: Gets::Proxied,
    stored: Stored::Nothing,
    logged: (1, "cannot fill"),
};
/// The same for the module only: mod_proxy shows what the client would get without it.
const FETCHES: Row = Row { whom: Whom::Fetches, ..EVERYBODY };
/// The third request of a large object fails, and no other one.
const ONE_PART: Row =
    Row { length: LARGE, which: (3, true), gets: Gets::WholeOrCut, stored: Stored::Whole, logged: (1, ""), ..FETCHES };
/// All but the first two fail.
const ALL_PARTS: Row = Row { which: (3, false), stored: Stored::Nothing, logged: (1, "cannot fill"), ..ONE_PART };
/// Whatever storage does, the object is stored.
const STORED: Row = Row { gets: Gets::Ours, stored: Stored::Whole, logged: (0, ""), ..FETCHES };

macro_rules! rows {
    ($($name:ident: $row:expr;)*) => {
        $(
            #[test]
            fn $name() {
                check(&$row);
            }
        )*
    };
}

rows! {
    hangs_before_the_header: Row { fault: Fault::Hang, logged: (1, "timed out"), ..FETCHES };
    hangs_before_the_header_of_parts: Row { fault: Fault::Hang, logged: (1, "timed out"), ..ALL_PARTS };
    hangs_mid_body: Row { fault: Fault::StallAfter(2000), logged: (1, "timed out"), ..FETCHES };
    hangs_mid_body_of_parts: Row { fault: Fault::StallAfter(2000), logged: (1, "timed out"), ..ALL_PARTS };
    hangs_mid_body_of_one_part: Row { fault: Fault::StallAfter(2000), ..ONE_PART };
    resets_mid_body: Row { fault: Fault::ResetAfter(2000), ..FETCHES };
    resets_mid_body_of_parts: Row { fault: Fault::ResetAfter(2000), ..ALL_PARTS };
    resets_mid_body_of_one_part: Row { fault: Fault::ResetAfter(2000), ..ONE_PART };
    names_a_length_that_is_too_large: Row { fault: Fault::OtherTotal(7000), ..FETCHES };
    names_a_length_that_is_no_length: Row {
        fault: Fault::Raw(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-4999/x\r\nContent-Length: 5000\r\n\r\n".to_vec()),
        ..FETCHES
    };
    sends_less_than_it_names: Row {
        fault: Fault::Raw([&b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-4999/5000\r\nETag: \"a\"\r\n"[..],
            b"Content-Length: 4000\r\n\r\n", &[b'x'; 4000]].concat()),
        ..FETCHES
    };
    has_a_short_body: Row { fault: Fault::CloseAfter(4999), ..FETCHES };
    has_short_bodies_of_parts: Row { fault: Fault::CloseAfter(4999), ..ALL_PARTS };
    has_a_short_body_of_one_part: Row { fault: Fault::CloseAfter(4999), ..ONE_PART };
    says_500: Row { fault: Fault::Status(500), gets: Gets::Status(500), logged: (1, "500"), ..EVERYBODY };
    says_500_of_parts: Row { fault: Fault::Status(500), logged: (1, "500"), ..ALL_PARTS };
    says_503_with_retry_after: Row {
        fault: Fault::StatusWith(503, &[("Retry-After", "120")]), gets: Gets::Status(503), logged: (1, "503"), ..EVERYBODY
    };
    says_429: Row { fault: Fault::Status(429), gets: Gets::Status(429), logged: (1, "429"), ..EVERYBODY };
    says_403: Row { fault: Fault::Status(403), gets: Gets::Status(403), logged: (1, "403"), ..EVERYBODY };
    says_404: Row { fault: Fault::Status(404), gets: Gets::Status(404), logged: (1, "404"), ..EVERYBODY };
    says_301: Row {
        fault: Fault::StatusWith(301, &[("Location", "/elsewhere.mp4"), ("x-amz-bucket-region", "eu-central-1")]),
        gets: Gets::Status(301), logged: (1, "301"), ..EVERYBODY
    };
    names_another_etag_in_one_part: Row { fault: Fault::OtherEtag("\"other\""), ..ONE_PART };
    names_another_etag_each_time: Row { length: LARGE, which: (1, false), fault: Fault::NewEtags, ..ALL_PARTS };
    names_another_length_in_one_part: Row { fault: Fault::OtherTotal(LARGE + 1), ..ONE_PART };
    begins_one_part_elsewhere: Row { fault: Fault::Shifted(1000), ..ONE_PART };
    has_no_etag: Row { fault: Fault::OtherEtag(""), ..STORED };
    has_no_etag_of_a_large_object: Row { length: LARGE, fault: Fault::OtherEtag(""), ..STORED };
    has_a_weak_etag_of_a_large_object: Row { length: LARGE, fault: Fault::OtherEtag("W/\"weak\""), ..STORED };
    ignores_range: Row { fault: Fault::Ignores("Range"), ..STORED };
    ignores_range_of_a_large_object: Row { length: LARGE, fault: Fault::Ignores("Range"), ..STORED };
    ignores_if_match: Row { length: LARGE, fault: Fault::Ignores("If-Match"), ..STORED };
    has_a_garbage_header: Row { fault: Fault::HeadLine(b"Bad\0 Header: \x01"), ..FETCHES };
    has_garbage_headers_of_parts: Row { fault: Fault::HeadLine(b"Bad\0 Header: \x01"), ..ALL_PARTS };
    has_a_clock_that_is_20_minutes_slow: Row { fault: Fault::Dated(-1200), ..STORED };
    has_a_clock_that_is_20_minutes_fast: Row { fault: Fault::Dated(1200), ..STORED };
    sends_its_bytes_in_drops: Row { fault: Fault::Drip(1000, Duration::from_millis(300)), ..STORED };
}

/// The object is asked for while the store is cold, and again.
fn check(row: &Row) {
    let body = content(90, row.length);
    let site = start(row, &body);
    let child = site.httpd.child();
    let began = Instant::now();
    let answer = match row.gets {
        // The last bytes: a sub-request has its part or mod_proxy's, but never less.
        Gets::WholeOrCut => sub(FILM).range("bytes=-100").run(&site.httpd).answer,
        _ => site.get(FILM),
    };
    assert!(began.elapsed() < Duration::from_secs(2) + SLACK, "it takes {:?}", began.elapsed());
    match row.gets {
        Gets::WholeOrCut => assert!(answer.body == body[row.length - 100..], "{}", answer.status),
        gets => is_what(gets, &answer, &body),
    }
    match row.stored {
        Stored::Whole => it_is_stored(row, &site, &body),
        Stored::Nothing => nothing_is_stored(row, &site, &body),
    }
    assert!(site.storage.exchanges("/elsewhere.mp4").is_empty(), "a redirect is followed");
    assert_eq!((site.httpd.child(), site.httpd.crashes()), (child, 0));
    if row.gets == Gets::WholeOrCut {
        right_or_cut(&start(row, &body), &body);
    }
}

/// Asks for the whole object, which storage may fail in the middle of.
fn right_or_cut(site: &Site, body: &[u8]) -> Option<Response> {
    let answer = client::fetch(site.httpd.port, Request::get(format!("/store{FILM}"))).ok()?;
    assert!(answer.status == 200 && answer.body == body, "{}: {}", answer.status, answer.cache_status());
    Some(answer)
}

/// A site before a storage that holds the object and fails as the row has it.
fn start(row: &Row, body: &[u8]) -> Site {
    let site = Site::with(TIMEOUTS);
    site.storage.put(FILM, Object::new(body));
    match row.which {
        (first, true) => site.storage.fail_some(FILM, row.whom, first..=first, row.fault.clone()),
        (first, false) => site.storage.fail_some(FILM, row.whom, first.., row.fault.clone()),
    }
    site
}

fn is_what(gets: Gets, answer: &Response, body: &[u8]) {
    let cache_status = answer.cache_status();
    match gets {
        Gets::Status(status) => {
            assert_eq!((answer.status, cache_status.as_str()), (status, ""));
            assert_eq!(answer.body, status.to_string().into_bytes());
        }
        Gets::Ours | Gets::Proxied | Gets::WholeOrCut => {
            assert!(answer.status == 200 && answer.body == body, "{}: {cache_status}", answer.status);
            assert_eq!(is_ours(&cache_status), gets == Gets::Ours, "{cache_status}");
        }
    }
}

fn it_is_stored(row: &Row, site: &Site, body: &[u8]) {
    let hit = until("a hit", 30, || right_or_cut(site, body).filter(|answer| is_hit(&answer.cache_status())));
    let age: i64 = hit.field("Age").and_then(|age| age.parse().ok()).expect("a hit has an Age");
    assert!((0..60).contains(&age), "Age {age}");
    assert_eq!(site.httpd.entries().len(), 1);
    assert!(site.httpd.count_in_log("cannot fill") <= row.logged.0);
}

fn nothing_is_stored(row: &Row, site: &Site, body: &[u8]) {
    until("the end of the fill", 20, || {
        match row.gets {
            Gets::WholeOrCut => drop(right_or_cut(site, body)),
            Gets::Status(404) => assert_eq!(site.get(FILM).cache_status(), ABSENT),
            gets => is_what(gets, &site.get(FILM), body),
        }
        (site.httpd.count_in_log("cannot fill") > 0).then_some(())
    });
    let log = site.httpd.error_log();
    let line = log.lines().find(|line| line.contains("cannot fill")).expect("it is logged");
    assert!(line.contains(FILM) && line.contains(row.logged.1), "{line}");
    assert_eq!((site.httpd.count_in_log("cannot fill"), site.httpd.entries().len()), (row.logged.0, 0));
}

#[test]
fn refuses() {
    let site = Site::with(TIMEOUTS);
    site.storage.stop();
    let began = Instant::now();
    let answer = site.get(FILM);
    assert!(answer.status >= 500 && answer.cache_status().is_empty(), "{}", answer.status);
    assert!(began.elapsed() < SLACK, "it takes {:?}", began.elapsed());
    assert_eq!((site.httpd.entries().len(), site.httpd.count_in_log("cannot fill")), (0, 1));
}

#[test]
fn fails_in_its_tls_handshake() {
    let site = Site::of(|storage| {
        let host = storage.host();
        let text = format!(
            "{}{TIMEOUTS}SSLProxyEngine on\nProxyPass \"/store/\" \"https://{host}/\"\nUspStorageCache on\n",
            endpoint(&host)
        );
        Conf::new(text).load("socache_shmcb").load("ssl")
    });
    site.storage.put(FILM, Object::new(content(90, SMALL)));
    let began = Instant::now();
    for _ in 0..2 {
        let answer = site.get(FILM);
        assert!(answer.status >= 500 && answer.cache_status().is_empty(), "{}", answer.status);
    }
    assert!(began.elapsed() < Duration::from_secs(2) + SLACK, "it takes {:?}", began.elapsed());
    assert!(site.storage.strangers() > 0 && site.storage.asked().is_empty());
    assert_eq!((site.httpd.entries().len(), site.httpd.count_in_log("cannot fill")), (0, 1));
}
