//! Freshness: what is served stale, when storage is asked again and how, and when it is left in peace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::client::{Request, Response};
use crate::content::content;
use crate::server::Mpm;
use crate::site::{ABSENT, CONFIRMED, STORED, Site, is_fresh, is_hit, is_ours, is_stale};
use crate::storage::{Asked, Fault, LAST_MODIFIED, Object, Whom};
use crate::wait::until;

const FILM: &str = "/media/film.mp4";
/// Stale after a second, and then storage is asked before anything is served.
const WAITS: &str = "UspStorageCacheExpire 1\nUspStorageCacheStaleWhileRevalidate 0";

fn film() -> Object {
    Object::new(content(70, 5000))
}

fn other() -> Object {
    Object::new(content(71, 6000))
}

/// A site that holds the film, for a second.
fn filled(lines: &str) -> Site {
    let site = Site::with(&format!("UspStorageCacheTimeout 1\nUspStorageCacheConnectTimeout 1\n{lines}"));
    site.fill(FILM, film());
    site
}

/// Waits until an answer is of this kind; every answer before it comes from the store.
fn wait_for(site: &Site, what: &str, is_there: impl Fn(&Response) -> bool) -> Response {
    until(what, 40, || {
        let answer = site.get(FILM);
        if is_there(&answer) {
            return Some(answer);
        }
        let cache_status = answer.cache_status();
        assert!(is_hit(&cache_status) || is_stale(&cache_status), "{}: {cache_status}", answer.status);
        None
    })
}

fn has_changed(answer: &Response) -> bool {
    answer.body == other().body()
}

/// Inode, modification time and body's length of the film's entry.
fn entry(site: &Site) -> (u64, i64, u64) {
    let had = fs::metadata(site.entry(FILM)).expect("the entry is there");
    (had.ino(), had.mtime(), had.len())
}

fn is_conditional(asked: &Asked) -> bool {
    asked.field("If-None-Match") == Some(film().etag())
}

#[test]
fn a_stale_object_is_served_at_once_while_one_request_of_the_host_asks_storage() {
    let site = Site::wide(Mpm::Prefork, 8, 1, "UspStorageCacheExpire 1");
    site.fill(FILM, film());
    let before = entry(&site);
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    assert!(site.wait_for_stale(FILM).body == film().body());
    site.storage.wait_for_fetches(FILM, 2);
    for _ in 0..2 {
        for answer in site.each_child(8, &Request::get(FILM)) {
            assert!(is_stale(&answer.cache_status()), "{}", answer.cache_status());
            assert!(answer.body == film().body());
        }
    }
    let fetches = site.storage.fetches(FILM);
    assert!(fetches.len() == 2 && is_conditional(&fetches[1]), "{fetches:?}");
    assert_eq!(fetches[1].field("Range").as_deref(), Some("bytes=0-1048575"));
    site.storage.release(FILM);
    wait_for(&site, "a fresh hit", |answer| is_fresh(&answer.cache_status()));
    let after = entry(&site);
    assert_eq!((before.0, before.2), (after.0, after.2), "a 304 rewrites nothing");
    assert!(before.1 < after.1, "the time moves: {before:?} and {after:?}");
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.proxied(FILM).len()), (5000, 0));
}

#[test]
fn a_revalidation_by_one_child_is_seen_by_all() {
    let site = Site::wide(Mpm::Prefork, 4, 1, "UspStorageCacheExpire 5\nUspStorageCacheStaleWhileRevalidate 0");
    site.fill(FILM, film());
    // Every child holds the entry with the time that it had at first.
    site.each_child(4, &Request::get(FILM)).iter().for_each(|answer| assert!(is_hit(&answer.cache_status())));
    wait_for(&site, "a confirmation", |answer| answer.cache_status() == CONFIRMED);
    for answer in site.each_child(4, &Request::get(FILM)) {
        assert!(is_fresh(&answer.cache_status()), "{}", answer.cache_status());
    }
    assert_eq!(site.storage.counts(FILM), (2, 0));
}

#[test]
fn a_stale_object_that_has_changed_is_replaced_behind_the_answers() {
    let site = filled("UspStorageCacheExpire 1");
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    site.storage.put(FILM, other());
    assert!(site.wait_for_stale(FILM).body == film().body());
    site.storage.wait_for_fetches(FILM, 2);
    site.storage.release(FILM);
    let changed = wait_for(&site, "the other version", has_changed);
    assert!(is_hit(&changed.cache_status()), "{}", changed.cache_status());
    assert!(site.is_a_version(FILM, &changed) && site.httpd.entries().len() == 1);
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.proxied(FILM).len()), (11_000, 0));
}

#[test]
fn after_its_stale_time_an_object_is_confirmed_before_it_is_served() {
    let site = filled(WAITS);
    let before = entry(&site);
    let answer = wait_for(&site, "a confirmation", |answer| answer.cache_status() == CONFIRMED);
    assert!(answer.status == 200 && answer.body == film().body());
    assert!(is_conditional(&site.storage.fetches(FILM)[1]));
    assert!(is_fresh(&site.get(FILM).cache_status()));
    assert_eq!((before.0, site.storage.bytes_sent(FILM)), (entry(&site).0, 5000));
}

#[test]
fn waiters_for_a_confirmation_share_it() {
    let site = Site::wide(Mpm::Prefork, 8, 1, "UspStorageCacheExpire 3\nUspStorageCacheStaleWhileRevalidate 0");
    site.fill(FILM, film());
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    wait_for_age(&site, 4);
    let before = site.httpd.count_in_log("recognised");
    let answers = thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| site.get(FILM))).collect();
        until("all to come", 20, || (site.httpd.count_in_log("recognised") >= before + 8).then_some(()));
        site.storage.wait_for_fetches(FILM, 2);
        site.storage.release(FILM);
        asking.into_iter().map(|one| one.join().expect("it is answered")).collect::<Vec<_>>()
    });
    assert_eq!(answers.iter().filter(|answer| answer.cache_status() == CONFIRMED).count(), 1);
    assert!(answers.iter().all(|answer| answer.body == film().body() && is_ours(&answer.cache_status())));
    assert_eq!(site.storage.counts(FILM), (2, 0));
}

/// Waits until storage vouched for the film so many seconds ago; a request would have it asked again.
fn wait_for_age(site: &Site, secs: i64) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs() as i64;
    until("the object to get older", 20, || (now() >= entry(site).1 + secs).then_some(()));
}

#[test]
fn after_its_stale_time_an_object_that_has_changed_is_fetched_by_the_same_request() {
    let site = filled(WAITS);
    site.storage.put(FILM, other());
    let answer = wait_for(&site, "the other version", has_changed);
    assert_eq!(answer.cache_status(), "usp-storage-cache; fwd=stale; fwd-status=200; stored");
    let fetches = site.storage.fetches(FILM);
    assert!(fetches.len() == 2 && is_conditional(&fetches[1]), "{fetches:?}");
    assert_eq!(site.storage.bytes_sent(FILM), 11_000);
}

#[test]
fn a_large_object_that_has_changed_comes_in_parts() {
    let site = Site::with(&format!("{WAITS}\nUspStorageCachePartSize 1M"));
    let versions = [80, 81].map(|seed| Object::new(content(seed, 5_000_000)));
    site.fill(FILM, versions[0].clone());
    site.wait_for_entry(FILM);
    site.storage.put(FILM, versions[1].clone());
    wait_for(&site, "the other version", |answer| answer.body == versions[1].body());
    let fetches = site.storage.fetches(FILM);
    let conditional = fetches.iter().filter(|asked| asked.field("If-None-Match") == Some(versions[0].etag()));
    assert!(conditional.count() >= 1);
    until("the entry", 20, || {
        let answer = site.get(FILM);
        assert!(site.is_a_version(FILM, &answer));
        is_hit(&answer.cache_status()).then_some(())
    });
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.proxied(FILM).len()), (10_000_000, 0));
}

#[test]
fn without_an_etag_an_object_is_confirmed_by_its_time_and_without_either_it_is_fetched_anew() {
    let dated = film().without("ETag");
    for (object, confirmed) in [(dated.clone(), true), (dated.without("Last-Modified"), false)] {
        let site = Site::with(WAITS);
        site.fill(FILM, object);
        let answer = wait_for(&site, "a new answer", |answer| !is_hit(&answer.cache_status()));
        let asked = &site.storage.fetches(FILM)[1];
        assert_eq!(asked.field("If-None-Match"), None);
        let since = asked.field("If-Modified-Since");
        assert_eq!(since.as_deref(), confirmed.then_some(LAST_MODIFIED));
        assert_eq!(answer.cache_status() == CONFIRMED, confirmed, "{}", answer.cache_status());
        assert!(answer.body == film().body());
    }
}

/// What makes storage no judge of the object: a stale answer is better.
fn errors() -> Vec<Fault> {
    let mut errors: Vec<Fault> = [500, 502, 503, 504, 429, 403].map(Fault::Status).into();
    errors.push(Fault::StatusWith(503, &[("Retry-After", "120")]));
    errors.push(Fault::Hang);
    let missing = "<Error><Code>NoSuchBucket</Code></Error>";
    let bucket =
        format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{missing}", missing.len());
    errors.push(Fault::Raw(bucket.into()));
    errors
}

#[test]
fn storage_that_fails_leaves_the_stale_object_in_use() {
    thread::scope(|scope| {
        for fault in errors() {
            scope.spawn(move || leaves_the_stale_object_in_use(&fault));
        }
    });
}

fn leaves_the_stale_object_in_use(fault: &Fault) {
    let site = filled(WAITS);
    wait_for_age(&site, 3);
    site.storage.fail(FILM, Whom::Everyone, fault.clone());
    let began = Instant::now();
    let stale = site.get(FILM);
    assert!(began.elapsed() < Duration::from_secs(4), "{fault:?} takes {:?}", began.elapsed());
    assert!(is_stale(&stale.cache_status()) && stale.body == film().body(), "{fault:?}: {}", stale.cache_status());
    assert!(is_stale(&site.sub(FILM).cache_status()), "{fault:?}");
    assert_eq!((site.httpd.entries().len(), site.storage.counts(FILM)), (1, (2, 0)), "{fault:?}");
    site.storage.mend(FILM);
    if !matches!(fault, Fault::StatusWith(..)) {
        wait_for(&site, "storage to be asked again", |answer| answer.cache_status() == CONFIRMED);
    }
}

#[test]
fn storage_that_is_not_there_leaves_the_stale_object_in_use() {
    let site = filled(WAITS);
    site.storage.stop();
    for _ in 0..3 {
        let stale = site.wait_for_stale(FILM);
        assert!(stale.body == film().body() && stale.status == 200, "{}", stale.cache_status());
    }
    assert_eq!(site.httpd.entries().len(), 1);
}

#[test]
fn an_error_behind_a_stale_answer_changes_nothing() {
    let site = filled("UspStorageCacheExpire 1");
    site.storage.fail(FILM, Whom::Everyone, Fault::Status(500));
    site.wait_for_stale(FILM);
    site.storage.wait_for_fetches(FILM, 2);
    for _ in 0..20 {
        let answer = site.get(FILM);
        assert!(is_stale(&answer.cache_status()) && answer.body == film().body(), "{}", answer.cache_status());
    }
    assert_eq!((site.httpd.entries().len(), site.storage.proxied(FILM).len()), (1, 0));
}

#[test]
fn without_stale_if_error_the_client_gets_storages_own_error() {
    let site = filled(&format!("{WAITS}\nUspStorageCacheStaleIfError 0"));
    site.storage.fail(FILM, Whom::Everyone, Fault::Status(500));
    let answer = wait_for(&site, "the error", |answer| answer.status == 500);
    assert_eq!((answer.cache_status().as_str(), answer.body.as_slice()), ("", &b"500"[..]));
    // An error is no word about the object: its entry stays.
    site.storage.mend(FILM);
    until("storage to be asked again", 40, || (site.get(FILM).cache_status() == CONFIRMED).then_some(()));
    assert_eq!(site.httpd.entries().len(), 1);
}

#[test]
fn an_object_that_is_gone_loses_its_entry_behind_a_stale_answer() {
    for status in [404, 410] {
        let site = filled("UspStorageCacheExpire 1\nUspStorageCacheNegativeExpire 60");
        site.storage.fail(FILM, Whom::Everyone, Fault::Status(status));
        site.wait_for_stale(FILM);
        let gone = wait_for(&site, "the absence", |answer| answer.status == status);
        assert!([ABSENT, ""].contains(&gone.cache_status().as_str()), "{}", gone.cache_status());
        assert_eq!((site.get(FILM).cache_status().as_str(), site.httpd.entries().len()), (ABSENT, 0), "{status}");
        assert_eq!(site.storage.fetches(FILM).len(), 2, "{status}");
    }
}

#[test]
fn a_fresh_object_is_served_whatever_storage_does() {
    let site = Site::new();
    site.fill(FILM, film());
    site.storage.fail(FILM, Whom::Everyone, Fault::Status(404));
    for _ in 0..3 {
        assert!(is_fresh(&site.get(FILM).cache_status()));
    }
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

/// Lines for storage that is asked no more after it has failed.
const BREAKS: &str = "UspStorageCacheTimeout 1\nUspStorageCacheConnectTimeout 1";

/// Tries until it went fast enough to tell, on a machine that may be busy.
fn in_time(what: &str, mut attempt: impl FnMut() -> bool) {
    assert!((0..10).any(|_| attempt()), "{what}: never in time");
}

#[test]
fn after_storage_hung_nobody_waits_for_any_of_its_objects() {
    in_time("a request within a second of the hang", || {
        let site = Site::wide(Mpm::Prefork, 8, 1, BREAKS);
        for path in [FILM, "/other.mp4"] {
            site.storage.put(path, film());
            site.storage.fail(path, Whom::Fetches, Fault::Hang);
        }
        let began = Instant::now();
        assert!(site.get(FILM).body == film().body());
        for answer in site.each_child(8, &Request::get("/other.mp4")) {
            assert!(answer.body == film().body() && answer.cache_status().is_empty());
        }
        // The breaker opened when storage had hung twice, two seconds after the beginning at the earliest, for a second.
        let is_in_time = began.elapsed() < Duration::from_secs(3);
        assert!(!is_in_time || site.storage.counts("/other.mp4") == (0, 8), "{:?}", site.storage.counts("/other.mp4"));
        is_in_time
    });
}

/// A site whose storage has just failed three times, each time with another object; when it did first.
fn thrice_failed(lines: &str) -> (Site, Instant) {
    let site = Site::wide(Mpm::Prefork, 8, 1, lines);
    let began = Instant::now();
    for path in ["/1.mp4", "/2.mp4", "/3.mp4"] {
        site.storage.fail(path, Whom::Fetches, Fault::Status(501));
        site.get(path);
        assert_eq!(site.storage.counts(path), (1, 1), "{path}");
    }
    (site, began)
}

#[test]
fn after_three_failures_no_child_asks_storage_for_anything() {
    in_time("requests within a second of the third failure", || {
        let (site, began) = thrice_failed("");
        site.storage.put(FILM, film());
        for answer in site.each_child(8, &Request::get(FILM)) {
            assert!(answer.body == film().body() && answer.cache_status().is_empty());
        }
        let is_in_time = began.elapsed() < Duration::from_secs(1);
        assert!(!is_in_time || site.storage.counts(FILM) == (0, 8), "{:?}", site.storage.counts(FILM));
        is_in_time
    });
}

#[test]
fn two_failures_and_refusals_leave_storage_in_use() {
    let site = Site::new();
    for (number, status) in [501, 403, 404, 401, 410, 505].into_iter().enumerate() {
        let path = format!("/{number}.mp4");
        site.storage.fail(&path, Whom::Everyone, Fault::Status(status));
        assert_eq!(site.get(&path).status, status);
        assert_eq!(site.storage.counts(&path), (1, 1), "{status}");
    }
    site.fill(FILM, film());
}

#[test]
fn one_request_at_a_time_finds_out_whether_storage_is_back() {
    let (site, _) = thrice_failed("UspStorageCacheTimeout 30\nUspStorageCacheWait 30");
    let paths: Vec<String> = (0..8).map(|number| format!("/probe/{number}.mp4")).collect();
    for path in &paths {
        site.storage.put(path, film());
        site.storage.fail(path, Whom::Fetches, Fault::Hold);
    }
    let probes = || paths.iter().map(|path| site.storage.fetches(path).len()).sum::<usize>();
    thread::scope(|scope| {
        for path in &paths[..4] {
            let (site, probes) = (&site, &probes);
            scope.spawn(move || {
                until("a probe", 40, || {
                    assert!(site.get(path).body == film().body(), "{path}");
                    (probes() > 0).then_some(())
                });
            });
        }
        until("a probe", 40, || (probes() > 0).then_some(()));
        // While it is on its way nobody else asks, and nobody waits.
        for path in paths[4..].iter().cycle().take(12) {
            assert_eq!(site.get(path).cache_status(), "", "{path}");
        }
        assert_eq!(probes(), 1);
        paths.iter().for_each(|path| site.storage.release(path));
    });
    site.storage.put(FILM, film());
    until("storage to be in use again", 40, || (site.get(FILM).cache_status() == STORED).then_some(()));
}

#[test]
fn while_nobody_asks_storage_a_stale_object_is_served_at_once() {
    in_time("a stale answer within a second of the third failure", || {
        let site = Site::with(WAITS);
        site.fill(FILM, film());
        wait_for_age(&site, 3);
        let began = Instant::now();
        for path in ["/1.mp4", "/2.mp4", "/3.mp4"] {
            site.storage.fail(path, Whom::Fetches, Fault::Status(501));
            site.get(path);
        }
        let asked = site.storage.fetches(FILM).len();
        let answer = site.get(FILM);
        let is_in_time = began.elapsed() < Duration::from_secs(1);
        let is_right = is_stale(&answer.cache_status()) && site.storage.fetches(FILM).len() == asked;
        assert!(!is_in_time || is_right, "{}", answer.cache_status());
        is_in_time
    });
}
