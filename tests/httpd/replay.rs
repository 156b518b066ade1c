//! The header fields of an answer: what is kept of storage's, and what is said of the cache.

use std::collections::BTreeSet;

use crate::client::{Fields, Request};
use crate::content::content;
use crate::server::{Conf, Httpd};
use crate::site::{STORED, Site, is_hit, sub, ttl};
use crate::storage::{LAST_MODIFIED, Object, Storage};
use crate::wait::until;

const FILM: &str = "/film.ism";

/// Fields that belong to the object, some of them with bytes that are no ASCII.
const KEPT: &[(&str, &[u8])] = &[
    ("ETag", b"\"9b-\xc3\xa9t\xc3\xa9, x\""),
    ("Last-Modified", LAST_MODIFIED.as_bytes()),
    ("Content-Type", b"application/smil+xml; charset=\"UTF-8\""),
    ("Date", b"Tue, 04 Feb 2025 05:06:07 GMT"),
    ("Content-Language", b"en, nl"),
    ("Accept-Ranges", b"bytes"),
    ("x-amz-meta-title", b"Tears of Steel \xe2\x80\x94 \xff\xfe"),
    ("x-amz-meta-spaces", b"a   b\tc"),
    ("X-Amz-Version-Id", b"3HL4kqtJvjVBH40Nrjfkd"),
    ("x-amz-server-side-encryption", b"AES256"),
    ("X-Anything", b"else; a=\"b\""),
];

/// Fields of one transmission, which are kept by nobody.
const DROPPED: &[(&str, &str)] = &[
    ("Connection", "X-Hop"),
    ("X-Hop", "1"),
    ("Keep-Alive", "timeout=5"),
    ("Trailer", "X-Trailer"),
    ("Upgrade", "h2c"),
    ("Proxy-Authenticate", "Basic"),
    ("Set-Cookie", "a=b"),
    ("Alt-Svc", "h3=\":443\""),
    ("x-amz-request-id", "4442587FB7D0A2F9"),
    ("x-amz-id-2", "vlR7PnpV2Ce81l0PRw6jlUpck7Jo5ZsQjryTjKlc5aLWGVHPZLj5NeC6qMa0emYBDXOo6QBU0Wo="),
];

fn film() -> Object {
    let bare = Object::new(content(3, 300)).without("Content-Type");
    let kept = KEPT.iter().fold(bare, |object, (name, value)| object.set(name, value));
    let all = DROPPED.iter().fold(kept, |object, (name, value)| object.field(name, value));
    all.field("Link", "<a>; rel=x").field("Link", "<b>; rel=y")
}

#[test]
fn the_objects_own_fields_are_replayed_byte_for_byte_to_main_requests() {
    let site = Site::new();
    site.fill(FILM, film());
    for _ in 0..2 {
        let answer = site.get(FILM);
        assert!(is_hit(&answer.cache_status()));
        for (name, value) in KEPT {
            assert_eq!(answer.fields(name), [*value], "{name}");
        }
        let links: Vec<String> =
            answer.fields("Link").iter().map(|link| String::from_utf8_lossy(link).into()).collect();
        assert_eq!(links.join(", "), "<a>; rel=x, <b>; rel=y");
    }
}

#[test]
fn the_objects_own_fields_are_replayed_byte_for_byte_to_sub_requests() {
    let site = Site::new();
    site.storage.put(FILM, film());
    for round in ["fill", "hit"] {
        let answer = sub(FILM).range("bytes=0-9").run(&site.httpd);
        for (name, value) in KEPT {
            assert_eq!(answer.fields(name), [*value], "{name} of the {round}");
        }
    }
}

#[test]
fn fields_of_one_transmission_are_not_replayed() {
    let site = Site::new();
    site.storage.put(FILM, film());
    for round in ["fill", "hit"] {
        let inner = site.sub(FILM);
        let main = site.get(FILM);
        for (name, value) in DROPPED {
            assert_eq!(inner.field(name), None, "{name} of the {round}");
            // httpd itself says Connection and Keep-Alive to the client.
            assert!(!main.fields(name).contains(&value.as_bytes()), "{name} of the {round}");
        }
        site.httpd.graceful();
    }
}

#[test]
fn a_fill_and_a_hit_have_the_same_fields() {
    let site = Site::new();
    site.storage.put(FILM, film());
    let names = |fields: &Fields| -> BTreeSet<String> {
        let own = fields.iter().filter(|(name, _)| name != "Cache-Status" && name != "Date");
        own.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect()
    };
    let [first, second] = [site.get(FILM), site.get(FILM)];
    assert_eq!((first.cache_status().as_str(), is_hit(&second.cache_status())), (STORED, true));
    assert_eq!(names(&first.fields), names(&second.fields));
}

#[test]
fn an_object_without_validators_gets_none() {
    let site = Site::new();
    let bare = Object::new("bare").without("ETag").without("Last-Modified").without("Content-Type");
    site.fill(FILM, bare);
    let answer = site.sub(FILM);
    assert!(is_hit(&answer.cache_status()));
    assert_eq!((answer.field("ETag"), answer.field("Last-Modified"), answer.field("Content-Type")), (None, None, None));
}

#[test]
fn a_content_coding_of_the_object_itself_is_kept() {
    let site = Site::new();
    site.fill(FILM, Object::new("not really gzip").field("Content-Encoding", "gzip"));
    let answer = site.get(FILM);
    assert_eq!(
        (answer.field("Content-Encoding").as_deref(), &answer.body[..]),
        (Some("gzip"), &b"not really gzip"[..])
    );
}

#[test]
fn age_grows_while_an_entry_gets_older_and_its_ttl_shrinks() {
    let site = Site::with("UspStorageCacheExpire 1000");
    site.fill(FILM, film());
    let age = || {
        let answer = site.get(FILM);
        let age: i64 = answer.field("Age")?.parse().ok()?;
        Some((age, ttl(&answer.cache_status())?))
    };
    let (first, first_ttl) = age().expect("a hit has an Age and a ttl");
    assert!(first <= 1 && (998..=1000).contains(&first_ttl), "Age {first}, ttl {first_ttl}");
    until("Age to grow", 5, || age().filter(|(age, ttl)| *age >= first + 2 && *ttl <= first_ttl - 2));
    let inner: i64 = site.sub(FILM).field("Age").and_then(|age| age.parse().ok()).expect("sub-requests have an Age");
    assert!(inner >= first + 2);
}

#[test]
fn age_counts_what_an_object_had_when_it_came() {
    let site = Site::new();
    site.fill(FILM, film().field("Age", "500"));
    let answer = site.get(FILM);
    let ages: Vec<Option<i32>> =
        answer.fields("Age").iter().map(|age| String::from_utf8_lossy(age).parse().ok()).collect();
    assert!(matches!(ages[..], [Some(500..510)]), "{ages:?}");
}

#[test]
fn the_access_log_says_what_main_requests_met() {
    let site = Site::new();
    site.storage.put(FILM, film());
    let asked = [(FILM, "miss=1"), (FILM, "hit=1"), ("/absent.ism", "bypass=1"), ("/absent.ism", "absent=1")];
    for (number, (path, met)) in asked.into_iter().enumerate() {
        site.get(path);
        let log = site.httpd.access_log(number + 1);
        assert!(log[number].ends_with(&format!("|{met}")), "{log:?}");
    }
}

#[test]
fn the_access_log_sums_up_what_sub_requests_met() {
    let site = Site::new();
    site.storage.put(FILM, film());
    site.storage.put("/index.mp4", film());
    sub(FILM).and("/store/index.mp4").and("/store/index.mp4").parameter("n", "10").run(&site.httpd);
    let log = site.httpd.access_log(1);
    assert!(log[0].ends_with("|hit=28,miss=2"), "{log:?}");
}

#[test]
fn the_access_log_says_what_was_passed_by() {
    let site = Site::with("UspStorageCacheMaxObjectSize 100");
    site.storage.put(FILM, film());
    for _ in 0..2 {
        assert_eq!(site.sub(FILM).cache_status(), "");
    }
    for line in site.httpd.access_log(2) {
        assert!(line.ends_with("|bypass=1"), "{line}");
    }
}

#[test]
fn a_request_that_is_not_ours_leaves_the_access_log_alone() {
    let site = Site::new();
    site.storage.put("/a.cmfv", film());
    site.get("/a.cmfv");
    assert!(site.httpd.access_log(1)[0].ends_with("|-"));
}

#[test]
fn cache_status_has_no_part_in_answers_of_mod_proxy() {
    let site = Site::new();
    site.storage.put("/a.cmfv", film().field("Cache-Status", "upstream; hit"));
    assert_eq!(site.get("/a.cmfv").cache_status(), "upstream; hit");
    site.storage.put(FILM, film());
    assert_eq!(site.send(Request::new("POST", FILM).body(b"x")).cache_status(), "");
}

#[test]
fn the_cache_status_of_another_cache_behind_us_is_kept_before_our_own() {
    let site = Site::new();
    site.storage.put(FILM, film().field("Cache-Status", "upstream; hit"));
    site.get(FILM);
    let answer = site.get(FILM);
    let all: Vec<String> =
        answer.fields("Cache-Status").iter().map(|one| String::from_utf8_lossy(one).into()).collect();
    let all = all.join(", ");
    let ours = all.strip_prefix("upstream; hit, ").unwrap_or(&all);
    assert!(is_hit(ours), "{all}");
}

#[test]
fn header_directives_of_httpd_apply_to_what_we_serve() {
    let storage = Storage::start();
    let text = Site::text(&storage, "Header set Access-Control-Allow-Origin \"*\"\nHeader unset X-Anything");
    let site = Site { httpd: Httpd::start(Conf::new(text)), storage };
    site.fill(FILM, film());
    let answer = site.get(FILM);
    assert_eq!(answer.field("Access-Control-Allow-Origin").as_deref(), Some("*"));
    assert_eq!(answer.field("X-Anything"), None);
}
