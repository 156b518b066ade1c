//! The cache against a storage on loopback that answers from a script.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;

use tempfile::TempDir;

use super::*;
use crate::cache::key::Upstream;
use crate::store::Limits;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"1\"\r\n\r\nhello";

/// A storage that gives one answer after the other, the last one again and again, and counts.
struct Storage {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Storage {
    fn new(answer: &'static str) -> Self {
        Self::script(&[answer])
    }

    fn script(answers: &[&'static str]) -> Self {
        let answers = answers.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, counter) = (answers.clone(), counter.clone());
                std::thread::spawn(move || serve(&stream, &answers, &counter));
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: &TcpStream, answers: &[&str], asked: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            let answer = answers[asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

struct Case {
    _dir: TempDir,
    cache: Cache,
    key: Key,
    section: Section<'static>,
}

impl Case {
    fn new(port: u16, section: Section<'static>) -> Self {
        let dir = TempDir::new().expect("a directory");
        let limits = Limits { store_len_max: 1 << 30, free_len_min: 0 };
        let cache = Cache::new(Store::open(dir.path(), limits).expect("a store"));
        let filename = format!("proxy:http://127.0.0.1:{port}/a.ism");
        let key = Upstream::parse(filename.as_bytes()).expect("a URL").key("", true).expect("a key");
        Self { _dir: dir, cache, key, section }
    }

    fn find_at(&self, now_ms: u64) -> Finding {
        self.cache.find(&Ask { key: &self.key, section: &self.section, may_fill: true, now_ms })
    }

    fn outcome(&self) -> String {
        outcome(&self.find_at(now_ms()).found)
    }
}

fn outcome(found: &Found) -> String {
    match found {
        Found::Entry(entry, outcome) => {
            format!("{} bytes, {}", entry.len(), String::from_utf8_lossy(outcome.cache_status().as_bytes()))
        }
        Found::Absent(status) => format!("absent {status}"),
        Found::Pass(reason) => format!("pass {reason}"),
    }
}

#[test]
fn a_miss_fills_and_a_hit_asks_nobody() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    assert_eq!(case.outcome(), "5 bytes, usp-storage-cache; fwd=uri-miss; fwd-status=200; stored");
    assert!(case.outcome().starts_with("5 bytes, usp-storage-cache; hit; ttl="));
    assert_eq!(storage.asked(), 1);
}

#[test]
fn many_misses_at_once_make_one_fetch() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert!(matches!(case.find_at(now_ms()).found, Found::Entry(..))));
        }
    });
    assert_eq!(storage.asked(), 1);
}

#[test]
fn an_entry_that_is_no_longer_fresh_is_fetched_anew() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    let later = now_ms() + 7200 * 1000;
    assert_eq!(outcome(&case.find_at(later).found), "5 bytes, usp-storage-cache; fwd=stale; fwd-status=200; stored");
}

#[test]
fn failures_pass_and_are_remembered_by_their_kind() {
    let rows = [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNoSuchKey", "pass not-found", "absent 404"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 25\r\n\r\n<Code>NoSuchBucket</Code>", "pass failed", "pass failed"),
        ("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", "pass not-found", "absent 410"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "pass denied", "pass denied"),
        ("HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n", "pass failed", "pass failed"),
        ("HTTP/1.1 301 Moved\r\nLocation: /b.ism\r\nContent-Length: 0\r\n\r\n", "pass failed", "pass failed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n", "pass too-large", "pass too-large"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "pass no-length", "pass no-length"),
        ("what is this?\r\n\r\n", "pass failed", "pass failed"),
    ];
    for (answer, first, second) in rows {
        let storage = Storage::new(answer);
        let case = Case::new(storage.port, Section::default());
        let now = now_ms();
        let finding = case.find_at(now);
        assert_eq!(outcome(&finding.found), first, "{answer}");
        assert_eq!(finding.reports.len(), 1, "{answer}");
        assert_eq!(outcome(&case.find_at(now).found), second, "{answer}");
        assert_eq!(storage.asked(), 1, "{answer}");
    }
}

#[test]
fn one_kind_of_failure_of_a_key_is_reported_once_a_minute() {
    let storage = Storage::new("HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n");
    let case = Case::new(storage.port, Section::default());
    let now = now_ms();
    let reports = [0, 30_000, 61_500].map(|later| case.find_at(now + later).reports.len());
    assert_eq!((reports, storage.asked()), ([1, 0, 1], 3));
}

#[test]
fn an_object_that_is_gone_is_dropped_from_the_store() {
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let storage = Storage::script(&[OK, gone]);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    let name = Name::new(case.key.url(), "");
    let is_stored = || case.cache.store.entry(&name, case.key.url(), "").expect("an answer").is_some();
    assert!(is_stored());
    assert_eq!(outcome(&case.find_at(now_ms() + 7200 * 1000).found), "pass not-found");
    assert!(!is_stored());
}

#[test]
fn a_head_does_not_fill() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    let ask = Ask { key: &case.key, section: &case.section, may_fill: false, now_ms: now_ms() };
    assert_eq!(outcome(&case.cache.find(&ask).found), "pass head-not-held");
    assert_eq!(storage.asked(), 0);
}

#[test]
fn an_unreachable_storage_is_named_in_the_report() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let case = Case::new(port, Section::default());
    let finding = case.find_at(now_ms());
    let text = &finding.reports.first().expect("a report").text;
    assert!(text.contains("cannot be reached") && text.contains(case.key.url()), "{text}");
}

#[test]
fn what_is_too_large_for_one_section_may_fit_another() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    let set = |value| {
        let mut section = Section::default();
        let directive = crate::config::DIRECTIVES.iter().find(|d| d.name == c"UspStorageCacheMaxObjectSize");
        let Some(crate::config::Set::Section(set)) = directive.map(|d| d.set) else { panic!("it is a directive") };
        set(&mut section, value).expect("a size");
        section
    };
    let (small, large) = (set("4"), set("5"));
    let find =
        |section| outcome(&case.cache.find(&Ask { key: &case.key, section, may_fill: true, now_ms: now_ms() }).found);
    assert_eq!(find(&small), "pass too-large");
    assert_eq!(find(&large), "5 bytes, usp-storage-cache; fwd=uri-miss; fwd-status=200; stored");
}

#[test]
fn an_object_of_no_bytes_is_an_object() {
    let storage = Storage::new("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let case = Case::new(storage.port, Section::default());
    assert_eq!(case.outcome(), "0 bytes, usp-storage-cache; fwd=uri-miss; fwd-status=200; stored");
}

#[test]
fn what_was_just_filled_is_never_in_the_future() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    // Long enough to cross the beginning of a second, which is where clocks that differ by a tick would disagree.
    let end = now_ms() + 1100;
    let mut fills = 0;
    while now_ms() < end {
        let filename = format!("proxy:http://127.0.0.1:{}/{fills}.ism", storage.port);
        let key = Upstream::parse(filename.as_bytes()).expect("a URL").key("", true).expect("a key");
        let find = || case.cache.find(&Ask { key: &key, section: &case.section, may_fill: true, now_ms: now_ms() });
        let [first, second] = [find(), find()].map(|finding| outcome(&finding.found));
        assert!(first.ends_with("stored") && second.contains("; hit; "), "{first}, then {second}");
        fills += 1;
    }
    assert_eq!(storage.asked(), fills);
}
