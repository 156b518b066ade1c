//! Storage on a bad day: what fails for a moment, for some requests or for one region is nothing that a client sees.

use std::thread;

use crate::client::Request;
use crate::content::content;
use crate::site::{STORED, Site, is_hit, sub};
use crate::storage::{Fault, Object, Storage, Whom};
use crate::wait::{rounds, until};

const FILM: &str = "/media/film.mp4";
const LARGE: usize = 3_000_000;

#[test]
fn what_fails_for_a_moment_costs_the_client_nothing() {
    let faults = [Fault::Status(500), Fault::Status(503), Fault::CloseAfter(0), Fault::ResetAfter(100)];
    for length in [5000, LARGE] {
        for fault in &faults {
            let site = Site::with("UspStorageCachePartSize 512K");
            let body = content(60, length);
            site.storage.put(FILM, Object::new(body.clone()));
            site.storage.fail_some(FILM, Whom::Fetches, ..=2, fault.clone());
            let answer = site.get(FILM);
            assert!(answer.body == body && answer.cache_status() == STORED, "{fault:?}: {}", answer.cache_status());
            assert_eq!(site.storage.proxied(FILM).len(), 0, "{fault:?}");
            assert_eq!(site.httpd.count_in_log("cannot fill"), 0, "{fault:?}");
        }
    }
}

#[test]
fn a_part_that_brings_nothing_is_asked_for_again() {
    let site = Site::with("UspStorageCachePartSize 512K");
    let body = content(61, LARGE);
    site.storage.put(FILM, Object::new(body.clone()));
    // Each of the parts that are on their way at a time, twice.
    site.storage.fail_some(FILM, Whom::Fetches, 2..=9, Fault::ResetAfter(2000));
    let answer = site.get(FILM);
    assert!(answer.body == body && answer.cache_status() == STORED, "{}", answer.cache_status());
    assert_eq!((site.storage.proxied(FILM).len(), site.httpd.count_in_log("cannot fill")), (0, 0));
}

#[test]
fn after_a_time_out_storage_is_asked_again_while_the_request_has_time() {
    let site = Site::with("UspStorageCacheTimeout 1\nUspStorageCacheWait 20");
    site.storage.put(FILM, Object::new("film"));
    site.storage.fail_some(FILM, Whom::Fetches, ..=1, Fault::Hang);
    assert_eq!(site.get(FILM).cache_status(), STORED);
    assert_eq!(site.storage.counts(FILM), (2, 0));
}

/// Has storage answer often enough for it to be known how long it takes.
fn learn(site: &Site) {
    for number in 0..40 {
        site.fill(&format!("/learned/{number}.mp4"), Object::new("film"));
    }
}

#[test]
fn what_is_late_is_asked_for_a_second_time_where_that_is_on() {
    for (lines, asked) in [("UspStorageCacheHedge on", 2), ("", 1)] {
        let limits = "UspStorageCacheTimeout 3\nUspStorageCacheWait 3\nUspStorageCachePartSize 512K\n";
        let site = Site::with(&format!("{limits}{lines}"));
        learn(&site);
        for length in [5000, LARGE] {
            let (path, body) = (format!("/{length}.mp4"), content(66, length));
            site.storage.put(&path, Object::new(body.clone()));
            site.storage.fail_some(&path, Whom::Fetches, ..=1, Fault::Hang);
            let answer = site.get(&path);
            // mod_proxy's answer is right as well.
            assert!(answer.body == body, "{lines}: {length} bytes");
            assert_eq!(answer.cache_status() == STORED, asked == 2, "{lines}: {}", answer.cache_status());
            if length < LARGE {
                assert_eq!(site.storage.fetches(&path).len(), asked, "{lines}");
            }
            assert_eq!(site.storage.proxied(&path).len(), 2 - asked, "{lines}");
        }
        assert_eq!(site.httpd.count_in_log("fills pause") > 0, asked == 1, "{lines}");
    }
}

#[test]
fn nothing_is_late_while_it_is_not_known_how_long_storage_takes() {
    // Where the time-out stood for that, a hang was asked about once more while it came to its end.
    let site = Site::with("UspStorageCacheHedge on\nUspStorageCacheTimeout 1\nUspStorageCacheWait 1");
    site.fill("/learned.mp4", Object::new("film"));
    site.storage.put(FILM, Object::new("film"));
    site.storage.fail(FILM, Whom::Fetches, Fault::Hang);
    assert_eq!(site.get(FILM).body, b"film");
    assert_eq!(site.storage.fetches(FILM).len(), 1);
}

#[test]
fn of_requests_that_all_are_late_few_are_sent_twice() {
    let site = Site::with("UspStorageCacheHedge on\nUspStorageCacheTimeout 1\nUspStorageCacheWait 1");
    learn(&site);
    let paths: Vec<_> = (0..20).map(|number| format!("/{number}.mp4")).collect();
    for path in &paths {
        site.storage.put(path, Object::new("film"));
        site.storage.fail(path, Whom::Fetches, Fault::Hang);
    }
    thread::scope(|scope| {
        for path in &paths {
            scope.spawn(|| assert_eq!(site.get(path).body, b"film"));
        }
    });
    let asked: usize = paths.iter().map(|path| site.storage.fetches(path).len()).sum();
    assert!((21..=25).contains(&asked), "{asked} requests");
}

#[test]
fn a_storage_that_fails_one_request_in_ten_fails_no_client() {
    let site = Site::with("UspStorageCachePartSize 256K");
    site.storage.fail_one_in(10);
    let body = content(62, 600_000);
    thread::scope(|scope| {
        for client in 0..4 {
            let (site, body) = (&site, &body);
            scope.spawn(move || {
                for number in 0..rounds(50, 500) {
                    let path = format!("/{client}/{number}.mp4");
                    site.storage.put(&path, Object::new(body.clone()));
                    let answer = site.send(Request::get(&path).field("Range", "bytes=300000-300099"));
                    assert_eq!((answer.status, answer.body.as_slice()), (206, &body[300_000..300_100]), "{path}");
                    let answer = site.get(&path);
                    assert!(answer.status == 200 && answer.body == *body, "{path}: {}", answer.cache_status());
                }
            });
        }
    });
    let asked = site.storage.asked().len();
    let failed = site.storage.failed_at_random();
    assert!(failed > asked / 20, "{failed} of {asked} requests failed");
    assert!(is_hit(&site.get("/0/0.mp4").cache_status()));
}

/// A site with a second storage that is asked where the first fails; its objects lie below `/copy`.
fn with_fallback(lines: &str) -> (Site, Storage) {
    let copy = Storage::start();
    let line = format!("UspStorageCacheFallback http://{}/copy/\n{lines}", copy.host());
    (Site::with(&line), copy)
}

#[test]
fn while_storage_is_down_its_copy_is_asked_and_storage_again_when_it_is_back() {
    let (site, copy) = with_fallback("");
    let body = content(63, LARGE);
    let put = |path: &str| {
        site.storage.put(path, Object::new(body.clone()));
        copy.put(&format!("/copy{path}"), Object::new(body.clone()));
    };
    for path in ["/1.mp4", "/2.mp4", "/3.mp4", "/4.mp4"] {
        put(path);
        site.storage.fail(path, Whom::Everyone, Fault::Status(501));
        let answer = site.get(path);
        assert!(answer.body == body && answer.cache_status() == STORED, "{path}: {}", answer.cache_status());
        assert_eq!(site.storage.proxied(path).len(), 0, "{path}");
        assert!(copy.bytes_sent(&format!("/copy{path}")) == LARGE, "{path}");
    }
    // After three failures nobody asks it.
    assert!(site.storage.asked().len() <= 4);
    let mut paths = (5..).map(|number| format!("/{number}.mp4"));
    until("storage to be asked again", 40, || {
        let path = paths.next()?;
        put(&path);
        assert_eq!(site.get(&path).cache_status(), STORED);
        (!site.storage.fetches(&path).is_empty()).then_some(())
    });
    let path = "/last.mp4";
    put(path);
    assert_eq!(site.get(path).cache_status(), STORED);
    assert!(copy.asked().iter().all(|asked| asked.path != "/copy/last.mp4"));
}

#[test]
fn no_object_is_put_together_from_storage_and_its_copy() {
    let (site, copy) = with_fallback("UspStorageCachePartSize 512K");
    let (first, second) = (content(64, LARGE), content(65, LARGE));
    // The same ETag and length: only where it came from tells them apart.
    let named = |body: &[u8]| Object::new(body.to_vec()).set("ETag", "\"same\"");
    site.storage.put(FILM, named(&first));
    copy.put(&format!("/copy{FILM}"), named(&second));
    site.storage.fail_some(FILM, Whom::Everyone, 3.., Fault::Status(501));
    let answer = sub(FILM).run(&site.httpd);
    assert!(answer.body() == second, "{}", answer.cache_status());
    let answer = site.get(FILM);
    assert!(answer.body == second && is_hit(&answer.cache_status()), "{}", answer.cache_status());
    assert!(site.storage.bytes_sent(FILM) > 0 && copy.bytes_sent(&format!("/copy{FILM}")) == LARGE);
}

#[test]
fn what_a_copy_has_not_is_not_absent() {
    let (site, copy) = with_fallback("");
    site.fill(FILM, Object::new("film"));
    for path in ["/none.mp4", "/none.mp4"] {
        site.storage.fail(path, Whom::Everyone, Fault::Status(501));
        let answer = site.get(path);
        assert_eq!((answer.status, answer.cache_status().as_str()), (501, ""));
    }
    assert_eq!(copy.asked().len(), 1);
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn storage_that_is_silent_leaves_time_for_its_copy() {
    let (site, copy) = with_fallback("UspStorageCacheTimeout 10\nUspStorageCacheWait 4");
    site.storage.fail(FILM, Whom::Everyone, Fault::Hang);
    copy.put(&format!("/copy{FILM}"), Object::new("film"));
    let answer = site.get(FILM);
    assert_eq!((answer.body.as_slice(), answer.cache_status().as_str()), (&b"film"[..], STORED));
}
