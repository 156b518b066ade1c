//! Storage on a bad day: what fails for a moment, for some requests or for one region is nothing that a client sees.

use std::thread;

use crate::client::Request;
use crate::content::content;
use crate::site::{STORED, Site, is_hit};
use crate::storage::{Fault, Object, Whom};
use crate::wait::rounds;

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
    site.storage.fail_some(FILM, Whom::Fetches, 2..=5, Fault::ResetAfter(2000));
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
