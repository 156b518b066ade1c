//! Storage that fails: whatever it does, the client gets what it would get without the module.

use std::time::{Duration, Instant};

use crate::client::{self, Request, Response};
use crate::content::content;
use crate::origin::Sub;
use crate::server::{Conf, Httpd};
use crate::site::{Site, endpoint, is_hit};
use crate::storage::{Fault, Object, Storage, Whom};
use crate::wait::until;

const FILM: &str = "/media/film.ism";

fn film() -> Object {
    Object::new(content(8, 5000))
}

/// Two httpds, one with the module and one without, and a storage for each fault behind both: one that fails again and
/// again would soon be asked no more.
struct Pair {
    with: Httpd,
    without: Httpd,
    storages: Vec<Storage>,
}

impl Pair {
    fn new(storages: usize) -> Self {
        let storages: Vec<Storage> = (0..storages).map(|_| Storage::start()).collect();
        let (plain, module) = (front(&storages), "UspStorageCache on\nUspStorageCacheTimeout 1\nProxyTimeout 2\n");
        let with = Httpd::start(Conf::new(plain.clone() + module));
        Self { with, without: Httpd::start(Conf::new(plain + "ProxyTimeout 2\n").without_ours()), storages }
    }

    /// What both answer to a request for the film of a storage, the module's httpd first.
    fn both(&self, number: usize) -> [Seen; 2] {
        [&self.with, &self.without].map(|httpd| seen(client::fetch(httpd.port, Request::get(front_path(number)))))
    }
}

/// The lines that map each storage to a path of its own.
fn front(storages: &[Storage]) -> String {
    // Storage ends connections without a word: a request on one that is just ending would fail in either httpd.
    let lines = storages.iter().enumerate().map(|(number, storage)| {
        let host = storage.host();
        format!("ProxyPass \"/store/{number}/\" \"http://{host}/\" disablereuse=On\n")
    });
    endpoint(&storages[0].host()) + &lines.collect::<String>()
}

/// Where the film of a storage is.
fn front_path(number: usize) -> String {
    format!("/store/{number}/film.ism")
}

/// What a client sees: status, type, validator and body, or that the answer broke off.
type Seen = Option<(u16, Option<String>, Option<String>, Vec<u8>)>;

fn seen(answer: std::io::Result<Response>) -> Seen {
    let answer = answer.ok()?;
    let (kind, etag) = (answer.field("Content-Type"), answer.field("ETag"));
    // httpd's own error pages name the port that was asked.
    let body = if answer.status >= 502 { Vec::new() } else { answer.body };
    Some((answer.status, kind, etag, body))
}

fn raw(text: &str) -> Fault {
    Fault::Raw(text.into())
}

/// What storage does to everybody.
fn faults() -> Vec<Fault> {
    let statuses = [201, 204, 206, 301, 307, 400, 401, 403, 404, 410, 416, 429, 500, 503];
    let mut faults: Vec<Fault> = statuses.map(Fault::Status).into();
    faults.extend([Fault::NoLength, Fault::Chunked, Fault::CloseAfter(0), Fault::CloseAfter(100)]);
    faults.extend([Fault::ResetAfter(100), raw(""), raw("garbage\r\n\r\n"), raw("HTTP/1.1 abc\r\n\r\n")]);
    faults.push(raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nabcdefg"));
    faults.push(raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc"));
    faults.push(raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc"));
    faults
}

/// How often storage is asked one question where its failure may pass.
const TRIES: usize = 5;

#[test]
fn whatever_storage_answers_the_client_gets_what_mod_proxy_makes_of_it() {
    let faults = faults();
    let pair = Pair::new(faults.len());
    let child = pair.with.child();
    for (number, fault) in faults.into_iter().enumerate() {
        let storage = &pair.storages[number];
        storage.put("/film.ism", film());
        storage.fail("/film.ism", Whom::Everyone, fault.clone());
        let [with, without] = pair.both(number);
        assert_eq!(with, without, "{fault:?}");
        let most = match fault {
            // An answer that makes no sense to a Range: storage is asked without one.
            Fault::Status(206 | 416) => 2,
            Fault::Status(429 | 500 | 503) => TRIES,
            Fault::CloseAfter(_) | Fault::ResetAfter(_) | Fault::Raw(_) => TRIES + 1,
            _ => 1,
        };
        let fetches = storage.fetches("/film.ism").len();
        assert!((1..=most).contains(&fetches), "{fault:?}: {fetches} fetches");
        assert!(pair.with.entries().is_empty(), "{fault:?} is stored");
    }
    assert_eq!(pair.with.child(), child);
}

/// What storage does to the module's own fetches, each of which has to fail in time.
fn faults_of_fetches() -> Vec<Fault> {
    let mut header = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nBad\0 Header: \x01\r\nno colon\r\n\r\n".to_vec();
    header.extend(content(9, 5000));
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Long: {}\r\n\r\nabc", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{}\r\nabc", "X-Many: 1\r\n".repeat(50_000));
    let mut faults = vec![Fault::Hang, Fault::StallAfter(0), Fault::StallAfter(2000), Fault::Raw(header)];
    faults.extend([raw(&long), raw(&many), raw(""), raw("\0\0\0\0\r\n\r\n"), raw("HTTP/2 200\r\n\r\n")]);
    faults.extend([Fault::CloseAfter(0), Fault::CloseAfter(4999), Fault::ResetAfter(0), Fault::ResetAfter(4999)]);
    faults.extend([Fault::NoLength, Fault::Chunked, Fault::Status(500), Fault::Status(206), Fault::Status(403)]);
    faults
}

#[test]
fn a_fetch_that_fails_costs_the_client_nothing_but_time() {
    let faults = faults_of_fetches();
    let pair = Pair::new(faults.len());
    let child = pair.with.child();
    for (number, fault) in faults.into_iter().enumerate() {
        let storage = &pair.storages[number];
        storage.put("/film.ism", film());
        storage.fail("/film.ism", Whom::Fetches, fault.clone());
        let began = Instant::now();
        let answer = pair.with.get(&front_path(number));
        assert!(began.elapsed() < Duration::from_secs(4), "{fault:?} takes {:?}", began.elapsed());
        assert_eq!((answer.status, answer.cache_status().as_str()), (200, ""), "{fault:?}");
        assert_eq!(answer.body, content(8, 5000), "{fault:?}");
        let part = Sub::get(front_path(number)).range("bytes=10-19").run(&pair.with);
        assert_eq!((part.status(), part.body()), (206, &content(8, 5000)[10..20]), "{fault:?}");
        assert!(!storage.fetches("/film.ism").is_empty() && pair.with.entries().is_empty(), "{fault:?} is stored");
    }
    assert_eq!(pair.with.child(), child);
}

#[test]
fn storage_that_is_not_there_is_mod_proxys_to_report() {
    let pair = Pair::new(1);
    pair.storages[0].stop();
    let [with, without] = pair.both(0);
    assert_eq!(with, without);
    assert!(with.is_some_and(|seen| seen.0 >= 500));
    assert_eq!(pair.with.count_in_log("cannot fill"), 1);
}

#[test]
fn storage_that_keeps_silent_is_given_up_after_the_configured_time() {
    for fault in [Fault::Hang, Fault::StallAfter(100)] {
        let site = Site::with("UspStorageCacheTimeout 2\nUspStorageCacheWait 2");
        site.storage.put(FILM, film());
        site.storage.fail(FILM, Whom::Fetches, fault.clone());
        let began = Instant::now();
        assert_eq!(site.get(FILM).status, 200);
        let took = began.elapsed();
        assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&took), "{fault:?}: {took:?}");
    }
}

#[test]
fn slow_storage_is_waited_for_while_bytes_keep_coming() {
    let site = Site::with("UspStorageCacheTimeout 1");
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Everyone, Fault::Drip(1000, Duration::from_millis(500)));
    let began = Instant::now();
    site.fill(FILM, film());
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn a_failed_fetch_is_not_tried_again_at_once() {
    let site = Site::new();
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Fetches, Fault::Status(501));
    for proxied in 1..4 {
        assert_eq!(site.get(FILM).status, 200);
        assert_eq!(site.storage.counts(FILM), (1, proxied));
    }
    site.storage.mend(FILM);
    until("the key to be tried again", 10, || is_hit(&site.get(FILM).cache_status()).then_some(()));
    assert_eq!(site.storage.fetches(FILM).len(), 2);
}

#[test]
fn a_fetch_that_keeps_failing_is_logged_once_a_minute() {
    let site = Site::new();
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Fetches, Fault::Status(500));
    until("three failures", 20, || {
        assert_eq!(site.get(FILM).status, 200);
        (site.storage.fetches(FILM).len() >= 3).then_some(())
    });
    let words = format!("cannot fill http://{}{FILM}", site.storage.host());
    assert_eq!(site.httpd.count_in_log(&words), 1);
    let log = site.httpd.error_log();
    let line = log.lines().find(|line| line.contains(&words)).expect("it is logged");
    assert!(line.contains("usp_storage_cache:warn"), "{line}");
}

#[test]
fn each_key_has_a_line_of_its_own_in_the_log() {
    let site = Site::new();
    for path in ["/a.ism", "/b.ism"] {
        site.storage.fail(path, Whom::Everyone, Fault::Status(500));
        site.get(path);
        assert_eq!(site.httpd.count_in_log(&format!("{path}: ")), 1, "{path}");
    }
}

/// The line of a fill, from the word that says how it ended: without the times, each of which is a number of seconds.
fn told(site: &Site, how: &str) -> String {
    let words = format!("{how} http://{}{FILM} (", site.storage.host());
    // A request of the child writes it down that comes after the fill's last breath.
    let line = until("the line", 20, || {
        site.httpd.get("/store/none.ism");
        site.httpd.error_log().lines().rfind(|line| line.contains(&words)).map(str::to_owned)
    });
    assert!(line.contains("usp_storage_cache:info"), "{line}");
    let told = line.split_once(&words).expect("it is there").1;
    let is_time =
        |word: &&str| word.split_once('.').is_some_and(|(_, ms)| ms.len() == 3) && word.parse::<f64>().is_ok();
    told.split(' ').map(|word| if is_time(&word) { "T" } else { word }).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_fill_is_told_at_info_with_what_it_cost() {
    let long = Object::new(content(8, 3_000_000));
    // The object, what storage does to some of the fetches, and what is told.
    let rows = [
        (&film(), None, "5000 bytes in T s): first byte after T s; requests 1, again 0, hedged 0, parts 1"),
        (
            &film(),
            Some((1, Fault::Status(503))),
            "5000 bytes in T s): first byte after T s; requests 2, again 1, hedged 0, parts 1",
        ),
        (
            &film(),
            Some((1, Fault::CloseAfter(100))),
            "5000 bytes in T s): first byte after T s; requests 2, again 0, hedged 0, parts 2",
        ),
        (&long, None, "3000000 bytes in T s): first byte after T s; requests 2, again 0, hedged 0, parts 2"),
    ];
    for (object, fault, want) in rows {
        let site = Site::new();
        site.storage.put(FILM, object.clone());
        if let Some((first, fault)) = fault {
            site.storage.fail_some(FILM, Whom::Fetches, ..=first, fault);
        }
        assert_eq!(site.get(FILM).status, 200);
        assert_eq!(told(&site, "filled"), want);
    }
}

#[test]
fn a_fill_that_brings_nothing_is_told_as_well() {
    let site = Site::with("UspStorageCacheExpire 0\nUspStorageCacheStaleWhileRevalidate 0");
    site.storage.put(FILM, film());
    site.get(FILM);
    site.httpd.settle();
    site.get(FILM);
    let one = "first byte after T s; requests 1, again 0, hedged 0, parts 0";
    assert_eq!(told(&site, "revalidated"), format!("not modified in T s): {one}"));
    let rows = [
        (raw(""), "broken in T s): no answer; requests 5, again 4, hedged 0, parts 0"),
        (Fault::Status(404), &format!("absent in T s): {one}")),
        (Fault::Status(403), &format!("denied in T s): {one}")),
    ];
    for (fault, want) in rows {
        let site = Site::new();
        site.storage.fail(FILM, Whom::Fetches, fault.clone());
        site.get(FILM);
        assert_eq!(told(&site, "gave up"), want, "{fault:?}");
    }
}

#[test]
fn an_object_that_is_too_large_is_known_before_its_body_has_come() {
    let site = Site::with("UspStorageCacheMaxObjectSize 1000\nUspStorageCacheTimeout 5");
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Fetches, Fault::StallAfter(10));
    let began = Instant::now();
    assert_eq!(site.get(FILM).body, content(8, 5000));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn an_answer_without_a_length_is_remembered() {
    let site = Site::new();
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Everyone, Fault::Chunked);
    let began = Instant::now();
    until("more than the second that any failure is remembered", 10, || {
        assert_eq!(site.get(FILM).body, content(8, 5000));
        (began.elapsed() > Duration::from_millis(1500)).then_some(())
    });
    assert_eq!(site.storage.fetches(FILM).len(), 1);
}

#[test]
fn a_bucket_that_is_not_there_is_no_absent_object() {
    let site = Site::new();
    let body = "<Error><Code>NoSuchBucket</Code></Error>";
    let answer = format!("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    site.storage.fail(FILM, Whom::Everyone, raw(&answer));
    for proxied in 1..3 {
        let answer = site.get(FILM);
        assert_eq!((answer.status, answer.body), (404, body.into()));
        assert_eq!(site.storage.counts(FILM), (1, proxied));
    }
}

#[test]
fn storage_that_dies_takes_no_entry_with_it() {
    let site = Site::new();
    site.fill(FILM, film());
    site.storage.stop();
    for _ in 0..3 {
        assert!(is_hit(&site.get(FILM).cache_status()));
        assert!(is_hit(&site.sub(FILM).cache_status()));
    }
}

#[test]
fn waiters_of_a_fill_that_fails_are_answered_by_mod_proxy() {
    let site = Site::with("UspStorageCacheTimeout 1\nUspStorageCacheWait 1");
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Fetches, Fault::Hang);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let began = Instant::now();
                assert_eq!(site.get(FILM).body, content(8, 5000));
                assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            });
        }
    });
    assert_eq!(site.storage.counts(FILM), (1, 20));
}
