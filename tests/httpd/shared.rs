//! Fills over children: one for all of them, whoever made it, and whatever becomes of who did.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Request, Response};
use crate::content::{Random, content};
use crate::filling::{Moment, kill};
use crate::server::Mpm;
use crate::site::{ABSENT, Site, is_hit, is_ours, sub};
use crate::storage::{Fault, Object, Whom};
use crate::wait::{rounds, until};

const FILM: &str = "/media/film.mp4";
const LENGTH: usize = 30_000_000;
const CLIENTS: usize = 200;

/// What one of many clients asks for.
#[derive(Clone, Copy)]
enum Wish {
    Whole,
    MainRange(usize),
    SubRange(usize),
}

impl Wish {
    const LEN: usize = 64 * 1024;

    /// In full counts everybody wants the whole object; in short ones every fifth does.
    fn of(client: usize) -> Self {
        let first = Random::new(client as u64).below(LENGTH - Self::LEN);
        match client % 5 {
            0 => Self::Whole,
            _ if rounds(0, 1) == 1 => Self::Whole,
            1 | 2 => Self::MainRange(first),
            _ => Self::SubRange(first),
        }
    }

    fn request(self) -> Request {
        let range = |first: usize| format!("bytes={first}-{}", first + Self::LEN - 1);
        let main = Request::get(format!("/store{FILM}"));
        match self {
            Self::Whole => main,
            Self::MainRange(first) => main.range(range(first)),
            Self::SubRange(first) => sub(FILM).range(range(first)).request(),
        }
    }

    /// Asks, and holds the answer against the object without keeping it; says what is wrong with it.
    fn come_true(self, site: &Site, body: &[u8]) -> Result<(), String> {
        let (want, field) = match self {
            Self::Whole => (body, "Cache-Status"),
            Self::MainRange(first) => (&body[first..first + Self::LEN], "Cache-Status"),
            Self::SubRange(first) => (&body[first..first + Self::LEN], "Sub-Cache-Status"),
        };
        let broken = |error: std::io::Error| error.to_string();
        let mut connection = site.httpd.connect();
        let head = connection.ask(&self.request().field("Connection", "close")).map_err(broken)?;
        let cache_status = head.field(field).unwrap_or_default();
        let is_right = match head.field("Content-Length") {
            Some(_) => connection.body_is(&head.fields, want).map_err(broken)?,
            None => connection.read_body(&head.fields).map_err(broken)? == want,
        };
        match matches!(head.status, 200 | 206) && is_ours(&cache_status) && is_right {
            true => Ok(()),
            false => Err(format!("{} with the Cache-Status {cache_status:?}, right: {is_right}", head.status)),
        }
    }
}

/// Many clients meet a cold object at once: `busy` of them are being served when its first byte comes.
fn each_byte_leaves_storage_once(mpm: Mpm, children: u32, threads: u32, busy: usize) {
    let site = Site::wide(mpm, children, threads, "");
    let body = content(40, LENGTH);
    site.storage.put(FILM, Object::new(body.clone()));
    site.storage.delay(Duration::from_millis(20));
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    let wrong: BTreeSet<String> = thread::scope(|scope| {
        let ask = |client: usize| Wish::of(client).come_true(&site, &body);
        let asking: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || ask(client))).collect();
        until("all children to be busy", 30, || (site.httpd.count_in_log("recognised") >= busy).then_some(()));
        site.storage.wait_for_fetches(FILM, 1);
        site.storage.release(FILM);
        asking.into_iter().filter_map(|one| one.join().expect("it ends").err()).collect()
    });
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.sent_again(FILM)), (LENGTH, vec![]));
    assert_eq!(site.storage.proxied(FILM).len(), 0);
    assert_eq!(children_in_log(&site, "recognised"), children as usize);
    site.wait_for_entry(FILM);
    assert_eq!((site.httpd.entries().len(), site.httpd.crashes()), (1, 0));
}

/// How many children have logged lines with these words.
fn children_in_log(site: &Site, words: &str) -> usize {
    site.httpd.pids_in_log(words).into_iter().collect::<BTreeSet<_>>().len()
}

#[test]
fn under_prefork_each_byte_leaves_storage_once_for_many_clients() {
    each_byte_leaves_storage_once(Mpm::Prefork, 8, 1, 8);
}

#[test]
fn under_worker_each_byte_leaves_storage_once_for_many_clients() {
    each_byte_leaves_storage_once(Mpm::Worker, 4, 64, CLIENTS);
}

#[test]
fn under_event_each_byte_leaves_storage_once_for_many_clients() {
    each_byte_leaves_storage_once(Mpm::Event, 2, 128, CLIENTS);
}

#[test]
fn children_that_miss_at_once_make_one_fetch() {
    let site = Site::wide(Mpm::Prefork, 8, 1, "");
    site.storage.put(FILM, Object::new("film"));
    site.storage.fail(FILM, Whom::Everyone, Fault::Hold);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| site.get(FILM))).collect();
        until("all children to wait", 20, || (children_in_log(&site, "recognised") == 8).then_some(()));
        site.storage.wait_for_fetches(FILM, 1);
        site.storage.release(FILM);
        for answer in asking.into_iter().map(|one| one.join().expect("it is answered")) {
            assert!(is_ours(&answer.cache_status()) && answer.body == b"film", "{}", answer.cache_status());
        }
    });
    assert_eq!(site.storage.counts(FILM), (1, 0));
    for answer in site.each_child(8, &Request::get(FILM)) {
        assert!(is_hit(&answer.cache_status()), "{}", answer.cache_status());
    }
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

#[test]
fn an_absence_that_one_child_met_is_remembered_by_all() {
    let site = Site::wide(Mpm::Prefork, 8, 1, "UspStorageCacheNegativeExpire 60");
    for (path, status) in [("/absent.ism", 404), ("/gone.ism", 410)] {
        site.storage.fail(path, Whom::Everyone, Fault::Status(status));
        assert_eq!((site.get(path).status, site.storage.counts(path)), (status, (1, 1)));
        for answer in site.each_child(8, &Request::get(path)) {
            assert_eq!((answer.status, answer.cache_status().as_str()), (status, ABSENT));
        }
        assert_eq!(site.storage.counts(path), (1, 1));
    }
}

#[test]
fn a_refusal_that_one_child_met_keeps_all_from_asking_again() {
    let site = Site::wide(Mpm::Prefork, 8, 1, "UspStorageCacheNegativeExpire 60");
    site.storage.put(FILM, Object::new("film"));
    site.storage.fail(FILM, Whom::Fetches, Fault::Status(403));
    assert_eq!((site.get(FILM).status, site.storage.counts(FILM)), (200, (1, 1)));
    for answer in site.each_child(8, &Request::get(FILM)) {
        assert_eq!((answer.status, answer.cache_status().as_str()), (200, ""));
    }
    assert_eq!(site.storage.counts(FILM), (1, 9));
}

#[test]
fn an_object_that_is_too_large_for_one_child_is_so_for_all() {
    let site = Site::wide(Mpm::Prefork, 8, 1, "UspStorageCacheMaxObjectSize 1000");
    site.storage.put(FILM, Object::new(content(41, 1001)));
    for round in 0..3 {
        for answer in site.each_child(8, &Request::get(FILM)) {
            assert_eq!((answer.status, answer.cache_status().as_str()), (200, ""), "round {round}");
        }
    }
    assert_eq!(site.storage.counts(FILM), (1, 24));
}

#[test]
fn a_fill_that_fails_releases_the_waiters_of_all_children_at_once() {
    // Whoever waited out the time without progress would be answered after 30 s.
    let site = Site::wide(Mpm::Prefork, 8, 1, "UspStorageCacheTimeout 2\nUspStorageCacheWait 30");
    site.storage.put(FILM, Object::new("film"));
    site.storage.fail(FILM, Whom::Fetches, Fault::Hang);
    let began = Instant::now();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| site.get(FILM))).collect();
        for answer in asking.into_iter().map(|one| one.join().expect("it is answered")) {
            assert_eq!((answer.body.as_slice(), answer.cache_status().as_str()), (&b"film"[..], ""));
        }
    });
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(site.storage.counts(FILM), (2, 8));
}

#[test]
fn a_fill_without_progress_is_waited_for_no_longer_than_configured() {
    let site = Site::wide(Mpm::Prefork, 4, 1, "UspStorageCacheTimeout 30\nUspStorageCacheWait 1");
    site.storage.put(FILM, Object::new("film"));
    site.storage.fail(FILM, Whom::Fetches, Fault::Hold);
    let began = Instant::now();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| site.get(FILM))).collect();
        for answer in asking.into_iter().map(|one| one.join().expect("it is answered")) {
            assert_eq!((answer.body.as_slice(), answer.cache_status().as_str()), (&b"film"[..], ""));
        }
    });
    assert!((1..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(site.storage.counts(FILM), (1, 4));
    // Slow is not failed: the fill goes on, and what comes at last is kept.
    site.storage.release(FILM);
    site.wait_for_entry(FILM);
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert_eq!(site.storage.counts(FILM), (1, 4));
}

#[test]
fn a_fill_goes_on_when_its_client_and_all_others_have_left() {
    let site = Site::wide(Mpm::Prefork, 2, 1, "UspStorageCachePartSize 256K");
    let body = content(42, 3_000_000);
    site.storage.put(FILM, Object::new(body.clone()));
    site.storage.fail_some(FILM, Whom::Everyone, 3.., Fault::Hold);
    let mut connection = site.httpd.connect();
    connection.send(format!("GET /store{FILM} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("it is sent");
    site.storage.wait_for_fetches(FILM, 3);
    drop(connection);
    site.storage.release(FILM);
    site.wait_for_entry(FILM);
    assert!(site.get(FILM).body == body);
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.sent_again(FILM)), (body.len(), vec![]));
}

/// Lines for fills whose parts are small, few at a time.
const SMALL_PARTS: &str = "UspStorageCachePartSize 256K\nUspStorageCacheFillThreads 2\nUspStorageCacheWait 5";

/// What was on disk at that moment was not fetched again, and nobody was sent to mod_proxy.
fn only_the_missing_was_fetched(site: &Site, path: &str, moment: &Moment) {
    moment.nothing_came_again(site, path);
    assert_eq!(site.storage.proxied(path).len(), 0, "{path}");
}

#[test]
fn a_graceful_restart_in_the_middle_of_a_fill_fetches_only_what_is_missing() {
    for mpm in [Mpm::Worker, Mpm::Prefork] {
        let site = Site::wide(mpm, 2, if mpm == Mpm::Worker { 8 } else { 1 }, SMALL_PARTS);
        let body = content(43, 5_000_000);
        site.storage.put(FILM, Object::new(body.clone()));
        site.storage.fail_some(FILM, Whom::Everyone, 6.., Fault::Hold);
        // The first block is enough for this one: its fill goes on without it.
        assert!(sub(FILM).range("bytes=0-99").run(&site.httpd).body() == &body[..100]);
        site.storage.wait_for_fetches(FILM, 6);
        let moment = Moment::now(&site, FILM).expect("it fills");
        // What a child of prefork leaves is gone on with by who asks next, and that shall be a new one.
        site.httpd.graceful_for_all(mpm);
        thread::scope(|scope| {
            let asking = scope.spawn(|| site.get(FILM));
            until("the new generation", 10, || (site.httpd.count_in_log("recognised") >= 2).then_some(()));
            site.storage.release(FILM);
            assert!(asking.join().expect("it is answered").body == body, "{mpm:?}");
        });
        site.wait_for_entry(FILM);
        only_the_missing_was_fetched(&site, FILM, &moment);
    }
}

#[test]
fn what_a_stopped_httpd_left_of_a_fill_is_not_fetched_again() {
    let mut site = Site::wide(Mpm::Prefork, 2, 1, SMALL_PARTS);
    let body = content(44, 5_000_000);
    site.storage.put(FILM, Object::new(body.clone()));
    site.storage.fail_some(FILM, Whom::Everyone, 6.., Fault::Hold);
    assert!(sub(FILM).range("bytes=0-99").run(&site.httpd).body() == &body[..100]);
    site.storage.wait_for_fetches(FILM, 6);
    let moment = Moment::now(&site, FILM).expect("it fills");
    site.httpd.stop();
    site.storage.release(FILM);
    site.httpd.start_again();
    assert!(site.get(FILM).body == body);
    site.wait_for_entry(FILM);
    only_the_missing_was_fetched(&site, FILM, &moment);
}

#[test]
fn a_filler_that_is_killed_is_followed_by_another_that_fetches_only_what_is_missing() {
    let site = Site::wide(Mpm::Prefork, 4, 1, SMALL_PARTS);
    site.storage.pace(10_000_000);
    let mut random = Random::new(45);
    for round in 0..rounds(5, 200) {
        let path = format!("/{round}.mp4");
        let body = content(round as u64, 4_000_000);
        site.storage.put(&path, Object::new(body.clone()));
        kill_the_filler(&site, &path, random.below(body.len()));
        let whole = site.get(&path);
        assert!(whole.body == body && is_ours(&whole.cache_status()), "round {round}: {}", whole.cache_status());
        site.wait_for_entry(&path);
    }
}

/// Kills the child that has missed once so many bytes have left storage, while another waits for the same object.
fn kill_the_filler(site: &Site, path: &str, after: usize) {
    let [object] = &site.storage.versions(path)[..] else { panic!("not one version of {path}") };
    let recognised = format!("recognised http://{}{path} ", site.storage.host());
    let is_right = |answer: &Response| answer.status == 200 && answer.body == object.body();
    let get = || client::fetch(site.httpd.port, Request::get(format!("/store{path}")));
    let (first, second, moment) = thread::scope(|scope| {
        let first = scope.spawn(get);
        site.storage.wait_for_fetches(path, 1);
        let second = scope.spawn(get);
        until("both clients", 20, || (site.httpd.pids_in_log(&recognised).len() >= 2).then_some(()));
        until("enough bytes", 20, || (site.storage.bytes_sent(path) > after).then_some(()));
        // What is on disk stays so: the moment may be before the kill, but not after.
        let moment = Moment::now(site, path);
        // It may have ended for reasons of httpd's own. One that is not yet dead still takes connections.
        kill(&site.httpd.pids_in_log(&recognised)[..1]);
        (first.join().expect("it ends"), second.join().expect("it ends"), moment)
    });
    // Who was connected to that child loses the connection, at worst; nobody gets a wrong byte.
    assert!(first.as_ref().map_or(true, is_right), "{path}, after {after} bytes");
    let pids = site.httpd.pids_in_log(&recognised);
    assert!(second.as_ref().map_or(pids[0] == pids[1], is_right), "{path}, after {after} bytes: {second:?}");
    if let Some(moment) = moment {
        only_the_missing_was_fetched(site, path, &moment);
    }
}
