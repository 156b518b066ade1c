//! The cache against a storage on loopback that answers from a script.

use std::ffi::CStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;

use tempfile::TempDir;

use super::*;
use crate::cache::key::Upstream;
use crate::credentials::Table;
use crate::store::Limits;

mod bounds;
mod failures;
mod honor;
mod left;
mod lookup;
mod stale;

const NOT_MODIFIED: &str = "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"1\"\r\n\r\nhello";

/// A storage that counts what it is asked.
struct Storage {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Storage {
    fn new(answer: &'static str) -> Self {
        Self::script(&[answer])
    }

    /// One that gives one answer after the other, the last one again and again.
    fn script(answers: &[&'static str]) -> Self {
        let answers = answers.to_vec();
        Self::answering(move |number, _| answers[number.min(answers.len() - 1)].into())
    }

    /// One that has an object, with its ETag and other lines of the head.
    fn with(body: &[u8], etag: &'static str, lines: &'static str) -> Self {
        let body = body.to_vec();
        Self::answering(move |_, head| part_of(&body, head, etag, lines))
    }

    /// One that answers by the number of the request, from 0, and by the lines of its head, in lower case.
    fn answering(answer: impl Fn(usize, &[String]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let (counter, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, counter) = (answer.clone(), counter.clone());
                std::thread::spawn(move || serve(&stream, &*answer, &counter));
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: &TcpStream, answer: impl Fn(usize, &[String]) -> Vec<u8>, asked: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines();
    let mut head = Vec::new();
    while let Some(Ok(line)) = lines.next() {
        if !line.is_empty() {
            head.push(line.to_lowercase());
            continue;
        }
        let answer = answer(asked.fetch_add(1, Ordering::SeqCst), &std::mem::take(&mut head));
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Answers with the part of an object that is asked for.
fn part_of(body: &[u8], head: &[String], etag: &str, lines: &str) -> Vec<u8> {
    let len = body.len();
    let Some((from, last)) = range_of(head) else {
        let head = format!("HTTP/1.1 200 OK\r\nETag: {etag}\r\n{lines}Content-Length: {len}\r\n\r\n");
        return [head.as_bytes(), body].concat();
    };
    if from >= len {
        return format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{len}\r\nContent-Length: 0\r\n\r\n").into();
    }
    let to = (last + 1).min(len);
    let (range, part_len) = (format!("bytes {from}-{}/{len}", to - 1), to - from);
    let head = format!("ETag: {etag}\r\n{lines}Content-Range: {range}\r\nContent-Length: {part_len}\r\n\r\n");
    [b"HTTP/1.1 206 Part\r\n", head.as_bytes(), &body[from..to]].concat()
}

/// The first and the last byte that a request asks for.
fn range_of(head: &[String]) -> Option<(usize, usize)> {
    let (from, last) = head.iter().find_map(|line| line.strip_prefix("range: bytes="))?.split_once('-')?;
    Some((from.parse().ok()?, last.parse().ok()?))
}

struct Case {
    dir: TempDir,
    cache: Arc<Cache>,
    key: Key,
    section: Section<'static>,
}

impl Case {
    fn new(port: u16, section: Section<'static>) -> Self {
        let dir = TempDir::new().expect("a directory");
        let limits = Limits { store_len_max: 1 << 30, free_len_min: 0, generation: 0 };
        let store = Store::open(dir.path(), limits).expect("a store");
        let keyring = Keyring::new(Table::new().expect("a table").into(), store.clone());
        let cache = Cache::new(store, keyring, 8, 4);
        let filename = format!("proxy:http://127.0.0.1:{port}/a.ism");
        let key = Upstream::parse(filename.as_bytes()).expect("a URL").key("", true).expect("a key");
        Self { dir, cache, key, section }
    }

    fn find(&self) -> Found {
        self.find_in(&self.section)
    }

    fn find_in(&self, section: &Section<'_>) -> Found {
        self.find_part(section, Asked::Whole)
    }

    fn find_part(&self, section: &Section<'_>, asked: Asked) -> Found {
        let want = Want { asked, streams: false };
        self.cache.find(&Ask { key: &self.key, section, want, base: None, may_fill: true, now_ms: now_ms() })
    }

    fn outcome(&self) -> String {
        outcome(&self.find())
    }

    /// What a request for the whole has fetched.
    fn order(&self) -> Order {
        let want = Want { asked: Asked::Whole, streams: false };
        let (key, section) = (&self.key, &self.section);
        let ask = Ask { key, section, want, base: None, may_fill: true, now_ms: now_ms() };
        Order::of(&ask, &self.cache.default_match)
    }

    fn name(&self) -> Name {
        Name::new(self.key.url(), self.key.scope())
    }

    /// What has been reported of fills that failed, beside their cost.
    fn complaints(&self) -> Vec<String> {
        let texts = self.cache.reports().into_iter().map(|report| report.text);
        texts.filter(|text| text.starts_with("cannot fill")).collect()
    }

    /// Waits until nobody fills the key.
    fn settle(&self) {
        while self.cache.store.lock(&self.name()).expect("a lock file").is_none() {
            std::thread::yield_now();
        }
    }

    /// Makes the entry so many seconds older.
    fn age(&self, secs: u64) {
        self.settle();
        let path = self.dir.path().join("v1/entries").join(self.name().path());
        let file = std::fs::File::options().write(true).open(path).expect("an entry");
        let time = file.metadata().and_then(|had| had.modified()).expect("a time");
        file.set_modified(time - Duration::from_secs(secs)).expect("it is ours");
        let control = self.cache.store.control();
        control.bump(control.slot(&self.name()));
    }
}

fn outcome(found: &Found) -> String {
    let told = |version: &Version, outcome: &Outcome| {
        let status = outcome.cache_status();
        let status = String::from_utf8_lossy(status.as_bytes()).replace("usp-storage-cache; ", "");
        format!("{} bytes, {}", version.len(), status)
    };
    match found {
        Found::Entry(entry, outcome) => told(entry, outcome),
        Found::Filling(stream, outcome) => told(stream.version(), outcome),
        Found::Unsatisfiable(len) => format!("nothing of {len} bytes"),
        Found::Absent(status) => format!("absent {status}"),
        Found::Pass(reason) => format!("pass {reason}"),
    }
}

fn set(directives: &[(&CStr, &'static str)]) -> Section<'static> {
    let mut section = Section::default();
    for (name, value) in directives {
        let directive = crate::config::DIRECTIVES.iter().find(|d| d.name == *name);
        let Some(crate::config::Set::Section(set)) = directive.map(|d| d.set) else {
            panic!("{name:?} is a directive")
        };
        set(&mut section, value).expect("it is taken");
    }
    section
}

const FILLED: &str = "5 bytes, fwd=uri-miss; fwd-status=200; stored";
