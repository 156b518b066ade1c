//! Misses: what is fetched, how often, and what is kept of it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Request};
use crate::content::{Random, content};
use crate::server::{Conf, Httpd};
use crate::site::{ABSENT, STORED, Site, endpoint, is_hit, sub, url_hash};
use crate::storage::{Fault, Object, Storage, Whom};
use crate::wait::{rounds, until};

const FILM: &str = "/media/film.ism";

fn film() -> Object {
    Object::new(content(4, 5000))
}

#[test]
fn a_miss_is_stored_and_outlives_httpd_and_storage() {
    let mut site = Site::new();
    site.fill(FILM, film());
    assert!(is_hit(&site.get(FILM).cache_status()));
    site.httpd.stop();
    site.storage.stop();
    site.httpd.start_again();
    for answer in [site.get(FILM).body, site.sub(FILM).body().to_vec()] {
        assert_eq!(answer, content(4, 5000));
    }
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

#[test]
fn an_entry_lies_under_the_hash_of_its_url_and_belongs_to_httpds_user_alone() {
    let site = Site::new();
    site.fill(FILM, film());
    let entries = site.httpd.entries();
    let name = entries[0].file_name().and_then(|name| name.to_str()).expect("its name is text").to_owned();
    let hash = url_hash(&format!("http://{}{FILM}", site.storage.host()));
    let (had, scope) = name.split_once('-').expect("hash and scope");
    assert_eq!((entries.len(), had), (1, hash.as_str()));
    assert!(scope.len() == 16 && scope.bytes().all(|byte| byte.is_ascii_hexdigit()), "{scope}");
    assert!(entries[0].parent().is_some_and(|dir| dir.ends_with(format!("store/v1/entries/{}", &hash[..2]))));
    for part in ["store", "store/v1", "store/v1/entries"] {
        let had = std::fs::metadata(site.httpd.path(part)).expect("it is there");
        assert_eq!(had.permissions().mode() & 0o777, 0o700, "{part}");
        assert_eq!(had.uid(), httpds_user(), "{part}");
    }
}

/// The user that httpd's children run as.
fn httpds_user() -> u32 {
    let own = rustix::process::geteuid();
    if !own.is_root() {
        return own.as_raw();
    }
    let asked = Command::new("id").args(["-u", "www-data"]).output().expect("id runs");
    String::from_utf8_lossy(&asked.stdout).trim().parse().expect("there is such a user")
}

#[test]
fn concurrent_misses_on_one_key_make_one_fetch() {
    let count = rounds(20, 60);
    let site = Site::new();
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    let answers = thread::scope(|scope| {
        let asking: Vec<_> = (0..count).map(|_| scope.spawn(|| site.get(FILM))).collect();
        until("all requests to be on their way", 20, || (site.httpd.count_in_log("recognised") >= count).then_some(()));
        site.storage.wait_for_fetches(FILM, 1);
        site.storage.release(FILM);
        asking.into_iter().map(|one| one.join().expect("it is answered")).collect::<Vec<_>>()
    });
    assert_eq!(site.storage.counts(FILM), (1, 0));
    let collapsed = "usp-storage-cache; fwd=uri-miss; fwd-status=200; collapsed";
    let with = |status: &str| answers.iter().filter(|answer| answer.cache_status() == status).count();
    assert_eq!(with(STORED), 1);
    assert!(with(collapsed) > 0);
    for answer in &answers {
        let known = answer.cache_status() == STORED || answer.cache_status() == collapsed;
        assert!(known || is_hit(&answer.cache_status()), "{}", answer.cache_status());
        assert_eq!((answer.status, &answer.body), (200, &content(4, 5000)));
    }
}

#[test]
fn concurrent_misses_of_sub_requests_get_their_own_ranges() {
    let site = Site::new();
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    thread::scope(|scope| {
        for number in 0..20_usize {
            let site = &site;
            scope.spawn(move || {
                let (first, last) = (number * 100, number * 100 + 99);
                let answer = sub(FILM).range(format!("bytes={first}-{last}")).run(&site.httpd);
                assert_eq!((answer.status(), answer.body()), (206, &content(4, 5000)[first..=last]));
            });
        }
        site.storage.wait_for_fetches(FILM, 1);
        site.storage.release(FILM);
    });
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

#[test]
fn fills_of_different_keys_do_not_wait_for_each_other() {
    let site = Site::new();
    site.storage.put("/slow.ism", film());
    site.storage.fail("/slow.ism", Whom::Everyone, Fault::Hold);
    thread::scope(|scope| {
        let slow = scope.spawn(|| site.get("/slow.ism"));
        site.storage.wait_for_fetches("/slow.ism", 1);
        site.fill(FILM, film());
        assert!(is_hit(&site.get(FILM).cache_status()));
        site.storage.release("/slow.ism");
        assert_eq!(slow.join().expect("it is answered").cache_status(), STORED);
    });
}

#[test]
fn a_fetch_is_made_from_scratch() {
    let site = Site::new();
    site.storage.put(FILM, film());
    let request = Request::get(FILM)
        .range("bytes=1-2")
        .field("Accept-Encoding", "gzip")
        .field("Cookie", "a=b")
        .field("If-None-Match", "\"x\"")
        .field("x-amz-cf-id", "cdn")
        .field("X-Forwarded-For", "10.0.0.1");
    assert_eq!(site.send(request).status, 206);
    let fetch = &site.storage.fetches(FILM)[0];
    assert_eq!(fetch.field("Host"), Some(site.storage.host()));
    assert_eq!(fetch.field("Accept-Encoding").as_deref(), Some("identity"));
    assert_eq!(fetch.field("Range").as_deref(), Some("bytes=0-262143"), "the block that is wanted");
    for name in ["If-Match", "Cookie", "If-None-Match", "x-amz-cf-id", "X-Forwarded-For", "Authorization"] {
        assert_eq!(fetch.field(name), None, "{name}");
    }
}

#[test]
fn fetches_share_a_connection() {
    let site = Site::new();
    for number in 0..10 {
        site.fill(&format!("/{number}.ism"), film());
    }
    // A fill may begin before the connection of the one before is back.
    let connections: BTreeSet<u64> = site.storage.asked().iter().map(|asked| asked.connection).collect();
    assert!(connections.len() <= 3, "{} connections", connections.len());
}

#[test]
fn a_connection_that_storage_has_closed_costs_no_request() {
    let site = Site::new();
    site.storage.put("/a.ism", film());
    site.storage.fail("/a.ism", Whom::Everyone, Fault::NoLength);
    site.get("/a.ism");
    for number in 0..5 {
        site.fill(&format!("/{number}.ism"), film());
    }
}

#[test]
fn a_proxy_in_the_environment_is_not_used() {
    let storage = Storage::start();
    let conf = Conf::new(Site::text(&storage, ""));
    let conf = conf.environment("http_proxy", "http://127.0.0.1:9").environment("ALL_PROXY", "http://127.0.0.1:9");
    let site = Site { httpd: Httpd::start(conf), storage };
    site.fill(FILM, film());
}

#[test]
fn an_object_that_is_too_large_streams_through_mod_proxy_and_is_asked_for_once() {
    let site = Site::with("UspStorageCacheMaxObjectSize 4999");
    site.storage.put(FILM, film());
    for (round, counts) in [(1, 1), (1, 2), (1, 3)].into_iter().enumerate() {
        let answer = site.get(FILM);
        assert_eq!((answer.status, &answer.body), (200, &content(4, 5000)), "round {round}");
        assert_eq!((answer.cache_status().as_str(), site.storage.counts(FILM)), ("", counts));
    }
    let part = sub(FILM).range("bytes=0-9").run(&site.httpd);
    assert_eq!((part.status(), part.body().len()), (206, 10));
    assert_eq!((site.storage.counts(FILM), site.httpd.entries().len()), ((1, 4), 0));
}

#[test]
fn an_object_of_just_the_largest_size_is_stored() {
    let site = Site::with("UspStorageCacheMaxObjectSize 5000");
    site.fill(FILM, film());
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn what_does_not_fit_into_the_store_is_left_to_mod_proxy() {
    for line in ["UspStorageCacheMaxSize 1M", "UspStorageCacheMinFree 1000T"] {
        let site = Site::with(line);
        let large = content(9, 3 << 20);
        site.storage.put(FILM, Object::new(large.clone()));
        let answer = site.get(FILM);
        assert!((answer.status, answer.body) == (200, large), "{line}");
        assert_eq!((site.storage.proxied(FILM).len(), site.httpd.entries().len()), (1, 0), "{line}");
    }
}

#[test]
fn the_store_stays_below_its_size_and_drops_what_was_used_least_recently() {
    let most = 6 << 20;
    let site = Site::with(&format!("UspStorageCacheMaxSize {most}"));
    for number in 0..20 {
        site.fill(&format!("/{number}.mp4"), Object::new(content(number, 500_000)));
        let taken = site.httpd.disk_use();
        assert!(taken <= most, "{taken} bytes after {number}");
    }
    assert!(is_hit(&site.get("/19.mp4").cache_status()));
    assert!(site.httpd.entries().len() >= 3);
}

#[test]
fn an_absent_object_is_answered_by_storage_first_and_then_remembered() {
    let site = Site::with("UspStorageCacheNegativeExpire 2");
    let first = site.get(FILM);
    assert_eq!((first.status, first.cache_status().as_str()), (404, ""));
    assert_eq!(first.body, format!("storage has no {FILM}").into_bytes());
    assert_eq!(site.storage.counts(FILM), (1, 1));
    for _ in 0..3 {
        let main = site.get(FILM);
        assert_eq!((main.status, main.cache_status().as_str(), main.body.len()), (404, ABSENT, 0));
        let inner = sub(FILM).range("bytes=0-9").run(&site.httpd);
        assert_eq!((inner.status(), inner.returns(), inner.body().len()), (404, vec![0], 0));
        assert_eq!(inner.cache_status(), ABSENT);
    }
    assert_eq!(site.storage.counts(FILM), (1, 1));
    site.storage.put(FILM, film());
    until("the absence to be forgotten", 10, || (site.get(FILM).status == 200).then_some(()));
    assert_eq!(site.storage.counts(FILM), (2, 1));
}

#[test]
fn an_object_that_is_gone_is_remembered_as_well() {
    let site = Site::new();
    site.storage.fail(FILM, Whom::Everyone, Fault::Status(410));
    assert_eq!((site.get(FILM).status, site.get(FILM).cache_status().as_str()), (410, ABSENT));
    assert_eq!(site.storage.counts(FILM), (1, 1));
}

#[test]
fn an_object_that_is_refused_is_never_answered_from_memory_only_not_asked_for_again() {
    let site = Site::with("UspStorageCacheNegativeExpire 3");
    for status in [401, 403] {
        let path = format!("/{status}.ism");
        site.storage.put(&path, film());
        site.storage.fail(&path, Whom::Everyone, Fault::Status(status));
        for proxied in 1..4 {
            let answer = site.get(&path);
            assert_eq!((answer.status, answer.body), (status, status.to_string().into_bytes()));
            assert_eq!(site.storage.counts(&path), (1, proxied));
        }
        site.storage.mend(&path);
        until("the refusal to be forgotten", 10, || (site.get(&path).cache_status() == STORED).then_some(()));
    }
}

#[test]
fn an_object_that_goes_takes_its_entry_along() {
    let site = Site::with("UspStorageCacheExpire 1\nUspStorageCacheStaleWhileRevalidate 0");
    site.fill(FILM, film());
    site.storage.remove(FILM);
    until("the entry to expire", 10, || (site.get(FILM).status == 404).then_some(()));
    assert_eq!((site.httpd.entries().len(), site.get(FILM).cache_status().as_str()), (0, ABSENT));
    let (fetches, proxied) = site.storage.counts(FILM);
    assert!(fetches == 2 && proxied <= 1, "{fetches} and {proxied}");
}

#[test]
fn after_expire_an_object_is_fetched_anew() {
    let site = Site::with("UspStorageCacheExpire 1\nUspStorageCacheStaleWhileRevalidate 0");
    site.fill(FILM, film());
    site.storage.put(FILM, Object::new("another version"));
    let answer = until("the entry to expire", 10, || {
        let answer = site.get(FILM);
        (!is_hit(&answer.cache_status())).then_some(answer)
    });
    assert_eq!(answer.cache_status(), "usp-storage-cache; fwd=stale; fwd-status=200; stored");
    assert_eq!(answer.body, b"another version");
    assert_eq!((site.storage.counts(FILM), site.httpd.entries().len()), ((2, 0), 1));
}

#[test]
fn an_answer_goes_on_with_the_version_that_it_began_with() {
    let site = Site::with("UspStorageCacheExpire 3");
    let large = content(5, 20 << 20);
    site.storage.put(FILM, Object::new(large.clone()));
    // The head of a hit has come; the body waits for this client.
    let (mut connection, head) = until("a hit", 20, || {
        let mut connection = site.httpd.connect();
        connection.send(format!("GET /store{FILM} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("it is sent");
        let head = connection.receive(true).expect("the head comes");
        is_hit(&head.cache_status()).then_some((connection, head))
    });
    site.storage.put(FILM, Object::new("another version"));
    until("the entry to be replaced", 20, || (site.get(FILM).body == b"another version").then_some(()));
    assert!(connection.read_body(&head.fields).expect("the answer is whole") == large);
}

#[test]
fn random_ranges_of_a_large_object_are_those_of_storage() {
    let length = 30 << 20;
    let site = Site::new();
    let whole = content(6, length);
    site.fill("/index.mp4", Object::new(whole.clone()));
    let mut connection = site.httpd.connect();
    let mut random = Random::new(7);
    for round in 0..rounds(500, 5000) {
        let first = random.below(length);
        // Lengths of all orders of magnitude.
        let most = 1 << random.below(26);
        let last = (first + random.below(most)).min(length - 1);
        let range = format!("bytes={first}-{last}");
        let inner = sub("/index.mp4").range(&range).request();
        let main = Request::get("/store/index.mp4").range(&range);
        for (request, status) in [(inner, "Sub-Cache-Status"), (main, "Cache-Status")] {
            let answer = connection.exchange(&request).expect("it is answered");
            assert!(is_hit(&answer.field(status).unwrap_or_default()), "{range}, round {round}");
            assert!(answer.body == whole[first..=last], "{range} differs, round {round}");
        }
    }
    assert!(site.get("/index.mp4").body == whole);
    assert!(site.sub("/index.mp4").body() == whole);
    let (sent, again) = (site.storage.bytes_sent("/index.mp4"), site.storage.sent_again("/index.mp4"));
    assert_eq!((sent, again, site.storage.proxied("/index.mp4").len()), (length, vec![], 0));
}

#[test]
fn a_store_that_cannot_be_written_leaves_the_answer_to_mod_proxy() {
    let site = Site::new();
    site.fill(FILM, film());
    let entries = site.httpd.path("store/v1/entries");
    for dir in [&entries, &site.httpd.path("store/v1/fills"), &site.httpd.path("store/v1")] {
        if dir.exists() {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o500)).expect("it is the test's");
        }
    }
    // An object whose entry needs a directory that is not there yet.
    site.storage.put("/other.ism", film());
    let answer = site.get("/other.ism");
    assert_eq!((answer.status, answer.body), (200, content(4, 5000)));
    assert_eq!(site.httpd.entries().len(), 1);
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert!(site.httpd.count_in_log("cannot fill") > 0);
}

#[test]
fn a_client_that_leaves_does_not_stop_the_fill() {
    let site = Site::new();
    site.storage.put(FILM, film());
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    let mut connection = site.httpd.connect();
    connection.send(format!("GET /store{FILM} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("it is sent");
    site.storage.wait_for_fetches(FILM, 1);
    drop(connection);
    site.storage.release(FILM);
    until("the entry", 10, || (site.httpd.entries().len() == 1).then_some(()));
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

#[test]
fn a_connection_that_cannot_be_made_is_given_up_in_time() {
    let (port, _listener, _waiting) = full_listener();
    let text = format!(
        "{}UspStorageCache on\nUspStorageCacheConnectTimeout 1\n\
         ProxyPass \"/store/\" \"http://127.0.0.1:{port}/\" connectiontimeout=1 retry=0\n",
        endpoint("127.0.0.1")
    );
    let httpd = Httpd::start(Conf::new(text));
    let began = Instant::now();
    assert!(httpd.get("/store/film.ism").status >= 500);
    let took = began.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert_eq!(httpd.count_in_log("cannot fill"), 1);
}

/// A listener that takes no more connections: the kernel drops what would start one.
fn full_listener() -> (u16, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 10_000, "the listener's queue has no end");
    }
    (address.port(), listener, waiting)
}

#[test]
fn the_store_is_filled_through_every_way_in_at_once() {
    let site = Site::new();
    for number in 0..40 {
        site.storage.put(&format!("/{number}.mp4"), Object::new(content(number, 3000)));
    }
    thread::scope(|scope| {
        for client in 0..8_u64 {
            let site = &site;
            scope.spawn(move || {
                let mut random = Random::new(client);
                for _ in 0..rounds(50, 500) {
                    let number = random.below(40) as u64;
                    let first = random.below(3000);
                    let main = Request::get(format!("/store/{number}.mp4")).range(format!("bytes={first}-"));
                    let answer = client::fetch(site.httpd.port, main).expect("it is answered");
                    assert_eq!(answer.body, &content(number, 3000)[first..]);
                    let inner = sub(&format!("/{number}.mp4")).range(format!("bytes=-{}", first + 1)).run(&site.httpd);
                    assert_eq!(inner.body(), &content(number, 3000)[2999 - first..]);
                }
            });
        }
    });
    for number in 0..40 {
        let (fetches, proxied) = site.storage.counts(&format!("/{number}.mp4"));
        assert!(fetches <= 1 && proxied == 0, "{number}: {fetches} and {proxied}");
    }
}
