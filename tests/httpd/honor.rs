//! `UspStorageCacheHonor on`: what storage says about storing and freshness rules, as RFC 9111 and 5861 ask of a shared cache.

use crate::client::Request;
use crate::content::content;
use crate::site::{CONFIRMED, STORED, Site, is_hit, is_stale, ttl};
use crate::storage::{Fault, Object, Whom};
use crate::wait::until;

const FILM: &str = "/media/film.mp4";

fn site(lines: &str) -> Site {
    Site::with(&format!("UspStorageCacheHonor on\n{lines}"))
}

fn film(cache_control: &str) -> Object {
    Object::new(content(80, 5000)).field("Cache-Control", cache_control)
}

#[test]
fn the_longest_time_that_storage_allows_a_shared_cache_is_kept() {
    for (cache_control, most) in [("max-age=60", 60), ("max-age=60, s-maxage=30", 30), ("public", 7200)] {
        let site = site("");
        site.fill(FILM, film(cache_control));
        let left = ttl(&site.get(FILM).cache_status()).expect("a hit");
        assert!((most - 20..=most).contains(&left), "{cache_control}: {left}");
    }
}

#[test]
fn the_age_that_an_answer_comes_with_counts() {
    let site = site("");
    site.fill(FILM, film("max-age=100").field("Age", "60"));
    let hit = site.get(FILM);
    let (left, age) = (ttl(&hit.cache_status()).expect("a hit"), hit.field("Age"));
    assert!((20..=40).contains(&left), "{left}");
    assert!(age.and_then(|age| age.parse::<i64>().ok()).is_some_and(|age| (60..80).contains(&age)));
}

#[test]
fn what_must_not_be_stored_is_left_to_mod_proxy_and_said_once() {
    let rows = [("Cache-Control", "no-store"), ("Cache-Control", "private"), ("Vary", "Cookie"), ("Vary", "*")];
    for (name, value) in rows {
        let site = site("");
        site.storage.put(FILM, Object::new(content(80, 5000)).field(name, value));
        for _ in 0..3 {
            let answer = site.get(FILM);
            assert!(answer.body == content(80, 5000) && answer.cache_status().is_empty(), "{name}: {value}");
        }
        assert_eq!((site.storage.counts(FILM), site.httpd.entries().len()), ((1, 3), 0), "{name}: {value}");
        assert_eq!(site.httpd.count_in_log("forbids to store"), 1, "{name}: {value}");
    }
}

#[test]
fn a_vary_that_no_fetch_depends_on_does_no_harm() {
    let site = site("");
    site.fill(FILM, Object::new(content(80, 5000)).field("Vary", "Accept-Encoding, Origin"));
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn no_cache_has_storage_asked_each_time() {
    let site = site("");
    site.fill(FILM, film("no-cache"));
    for _ in 0..3 {
        let answer = site.get(FILM);
        assert_eq!((answer.cache_status().as_str(), answer.body), (CONFIRMED, content(80, 5000)));
    }
}

#[test]
fn stale_answers_are_served_only_where_storage_allows_it() {
    for (cache_control, is_served) in [("max-age=1, stale-if-error=600", true), ("max-age=1, must-revalidate", false)] {
        let site = site("UspStorageCacheStaleWhileRevalidate 0");
        site.fill(FILM, film(cache_control));
        site.storage.fail(FILM, Whom::Everyone, Fault::Status(503));
        let answer = until("the entry to be stale", 10, || {
            let answer = site.get(FILM);
            (answer.status == 503 || is_stale(&answer.cache_status())).then_some(answer)
        });
        assert_eq!(answer.status == 200, is_served, "{cache_control}: {}", answer.cache_status());
    }
}

#[test]
fn fields_that_a_304_brings_take_the_place_of_those_stored() {
    let site = site("UspStorageCacheStaleWhileRevalidate 0");
    site.fill(FILM, film("max-age=1").field("X-Colour", "red"));
    site.storage.put(FILM, film("max-age=600").field("X-Colour", "blue"));
    let answer = until("a 304", 10, || {
        let answer = site.get(FILM);
        (!is_hit(&answer.cache_status())).then_some(answer)
    });
    assert_eq!((answer.field("X-Colour").as_deref(), answer.body), (Some("blue"), content(80, 5000)));
    let statuses: Vec<u16> = site.storage.exchanges(FILM).iter().filter_map(|exchange| exchange.status).collect();
    assert_eq!(statuses, [206, 304], "the body came once");
    assert!(ttl(&site.get(FILM).cache_status()).is_some_and(|left| left > 500));
}

#[test]
fn an_object_that_was_written_through_us_is_fetched_anew() {
    for (method, honors) in [("PUT", true), ("POST", true), ("DELETE", true), ("PUT", false), ("OPTIONS", true)] {
        let site = Site::with(if honors { "UspStorageCacheHonor on" } else { "" });
        site.fill(FILM, film("max-age=600"));
        let other = Object::new(content(81, 4000));
        site.storage.put(FILM, other.clone());
        let written = site.send(Request::new(method, FILM).body(b"x"));
        assert!((200..300).contains(&written.status), "{method}: {}", written.status);
        let answer = site.get(FILM);
        let is_new = honors && method != "OPTIONS";
        assert_eq!(answer.cache_status() == STORED, is_new, "{method}, Honor {honors}: {}", answer.cache_status());
        assert_eq!(answer.body == other.body(), is_new, "{method}");
    }
}

#[test]
fn a_write_that_storage_refuses_changes_nothing() {
    let site = site("");
    site.fill(FILM, film("max-age=600"));
    site.storage.fail(FILM, Whom::Everyone, Fault::Status(403));
    assert_eq!(site.send(Request::new("PUT", FILM).body(b"x")).status, 403);
    assert!(is_hit(&site.get(FILM).cache_status()));
}
