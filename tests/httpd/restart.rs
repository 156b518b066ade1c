//! Graceful restarts under load: no request fails, no child dies, nothing is left behind.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::client::{self, Connection, NO_ANSWER, Request};
use crate::content::{Random, content};
use crate::server::{Conf, Httpd, Mpm};
use crate::site::{Site, sub};
use crate::storage::{Object, Storage};
use crate::wait::{rounds, until};

const OBJECTS: u64 = 20;
const OBJECT_LEN: usize = 100_000;
const CLIENTS: u64 = 100;
/// The files beside entries that each child has mapped: `control` and `counters`.
const SHARED: usize = 2;

fn site(mpm: Mpm) -> Site {
    let storage = Storage::start();
    for number in 0..OBJECTS {
        storage.put(&format!("/{number}.mp4"), Object::new(content(number, OBJECT_LEN)));
    }
    let text = Site::text(&storage, "LogLevel usp_storage_cache:info\nMaxConnectionsPerChild 0");
    Site { httpd: Httpd::start(Conf::new(text).mpm(mpm).size(4, 32)), storage }
}

/// A request for a random range, and the bytes that it has to give.
fn any_request(random: &mut Random) -> (Request, Vec<u8>) {
    let number = random.next() % OBJECTS;
    let first = random.below(OBJECT_LEN);
    let last = (first + random.below(10_000)).min(OBJECT_LEN - 1);
    let (path, range) = (format!("/{number}.mp4"), format!("bytes={first}-{last}"));
    let request = match random.below(2) {
        0 => Request::get(format!("/store{path}")).range(&range),
        _ => sub(&path).range(&range).request(),
    };
    (request, content(number, OBJECT_LEN)[first..=last].to_vec())
}

/// How a client uses its connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Each request has one of its own, and none may fail.
    OneEach,
    /// One is kept; that it ends while it is idle is httpd's right.
    Kept,
}

/// Asks until told to stop, and counts the answers.
fn ask(site: &Site, manner: Manner, client: u64, stop: &AtomicBool, answered: &AtomicUsize) {
    let mut random = Random::new(client);
    let mut kept: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let (request, body) = any_request(&mut random);
        let reused = kept.as_mut().map(|connection| connection.exchange(&request));
        let answer = match reused {
            Some(Ok(answer)) => answer,
            Some(Err(error)) if error.kind() != ErrorKind::UnexpectedEof || error.to_string() == NO_ANSWER => {
                kept = None;
                continue;
            }
            Some(Err(error)) => panic!("an answer broke off: {error}"),
            None if manner == Manner::Kept => {
                let mut connection = site.httpd.connect();
                let answer = connection.exchange(&request).expect("a connection that is new is answered");
                kept = Some(connection);
                answer
            }
            None => client::fetch(site.httpd.port, request.clone()).expect("it is answered"),
        };
        assert!(matches!(answer.status, 200 | 206) && answer.body == body, "{request:?}: {}", answer.status);
        if answer.field("Connection").is_some_and(|value| value == "close") {
            kept = None;
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sets the flag also when the test fails, so that its clients end.
struct StopOnDrop<'f>(&'f AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn restarts_under_load(mpm: Mpm, manner: Manner, restarts: usize) {
    let site = site(mpm);
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let former = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (site, stop, answered) = (&site, &stop, &answered);
            scope.spawn(move || ask(site, manner, client, stop, answered));
        }
        let _stop = StopOnDrop(&stop);
        let mut former = Vec::new();
        for _ in 0..restarts {
            let before = answered.load(Ordering::Relaxed);
            until("requests between restarts", 60, || (answered.load(Ordering::Relaxed) >= before + 300).then_some(()));
            former = site.httpd.children();
            site.httpd.graceful();
        }
        former
    });
    assert_eq!((site.httpd.crashes(), site.httpd.count_in_log("panic")), (0, 0));
    assert!(answered.load(Ordering::Relaxed) >= restarts * 300);
    nothing_is_left(&site, &former);
}

/// The children of former generations end, and the others hold each entry at most once.
fn nothing_is_left(site: &Site, former: &[u32]) {
    until("former children to end", 40, || site.httpd.children().iter().all(|pid| !former.contains(pid)).then_some(()));
    assert_eq!(held(site, site.httpd.pid()), (0, 0), "the parent holds parts of the store");
    let all = || site.httpd.children().into_iter().map(|pid| held(site, pid)).collect::<Vec<_>>();
    let before = all();
    for round in 0..1000_u64 {
        site.get(&format!("/{}.mp4", round % OBJECTS));
    }
    for (mappings, descriptors) in all() {
        assert!(mappings <= OBJECTS as usize + SHARED, "{mappings} mappings for {OBJECTS} entries; before: {before:?}");
        assert!(descriptors <= 8, "{descriptors} descriptors of the store; before: {before:?}");
    }
}

/// How many mappings and descriptors of the store a process has.
fn held(site: &Site, pid: u32) -> (usize, usize) {
    let store = site.httpd.path("store").display().to_string();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let of_store = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|path| path.starts_with(&store));
    // The control file and the like are no entries, but they do not grow with requests either.
    (maps.lines().filter(|line| line.contains(&store)).count(), of_store.count())
}

#[test]
fn no_request_fails_while_event_restarts_gracefully() {
    restarts_under_load(Mpm::Event, Manner::OneEach, rounds(3, 10));
}

#[test]
fn no_request_fails_while_worker_restarts_gracefully() {
    restarts_under_load(Mpm::Worker, Manner::OneEach, rounds(2, 10));
}

#[test]
fn clients_that_keep_connections_lose_only_idle_ones_while_event_restarts_gracefully() {
    restarts_under_load(Mpm::Event, Manner::Kept, rounds(2, 10));
}

#[test]
fn a_mapping_is_made_once_for_each_entry_and_not_for_each_request() {
    let storage = Storage::start();
    for number in 0..OBJECTS {
        storage.put(&format!("/{number}.mp4"), Object::new(content(number, OBJECT_LEN)));
    }
    let site = Site { httpd: Httpd::start(Conf::new(Site::text(&storage, "LogLevel warn"))), storage };
    let pass = || (0..OBJECTS).for_each(|number| drop(site.get(&format!("/{number}.mp4"))));
    pass();
    site.httpd.settle();
    pass();
    let after_one = held(&site, site.httpd.child());
    (0..20).for_each(|_| pass());
    assert_eq!(held(&site, site.httpd.child()), after_one);
    assert!(after_one.0 >= OBJECTS as usize, "entries are mapped: {after_one:?}");
}

#[test]
fn descriptors_of_a_child_do_not_grow_with_fills() {
    let site = Site::with("LogLevel warn");
    let fill = |from: usize, to: usize| {
        (from..to).for_each(|number| site.fill(&format!("/{number}.mp4"), Object::new(content(1, 1000))));
    };
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", site.httpd.child())).expect("it lives").count();
    fill(0, 10);
    let before = descriptors();
    fill(10, 200);
    let after = descriptors();
    // Each thread that fetches may have come to a connection of its own meanwhile.
    assert!(after <= before + 10, "{before} descriptors become {after}");
}
