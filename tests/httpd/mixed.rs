//! All at once, for a while: hits, misses, ranges, replacements, purges, evictions and graceful restarts. Each answer is held
//! against the [`History`] of what storage had; beside that, what the store takes on disk and what its children take in memory is
//! watched.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mod_usp_storage_cache::store::{Limits, Purge, Store};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use crate::client::{Connection, Request, find};
use crate::content::{Random, content};
use crate::server::Mpm;
use crate::site::{Site, sub};
use crate::storage::Object;
use crate::wait::{rounds, until};

const OBJECTS: usize = 40;
const CLIENTS: u64 = 16;
/// `UspStorageCacheWait`: a fill is joined for so long after it began, and that is longer than an entry is served.
const WAIT_SECS: u64 = 3;
/// No version is served longer after storage has lost it; the clock that the module reads ticks every few milliseconds.
const OLD_MAX: Duration = Duration::from_millis(WAIT_SECS * 1000 + 50);
/// What the store takes beside its entries: the control block, and directories.
const FIXED_LEN: u64 = 2_200_000 + 260 * 4096;

/// The most that an object of this number has, in bytes; it has a tenth less at times.
fn len_max(number: usize) -> usize {
    200_000 + number * 40_000
}

fn path(number: usize) -> String {
    format!("/{number}.mp4")
}

/// A version of an object, and when storage was certain to have another one.
struct Had {
    object: Object,
    gone_at: Option<Instant>,
}

/// What storage had, and when it was purged from the store.
struct History {
    versions: Vec<Mutex<Vec<Had>>>,
    /// When a purge of the object began and when it was done.
    purges: Vec<Mutex<Vec<(Instant, Instant)>>>,
    /// When somebody asked who had a hit of the object, the last one before a miss.
    held_at: Vec<Mutex<Option<Instant>>>,
    evictions: AtomicU64,
}

impl History {
    fn new(site: &Site) -> Self {
        let all = || 0..OBJECTS;
        let history = Self {
            versions: all().map(|_| Mutex::default()).collect(),
            purges: all().map(|_| Mutex::default()).collect(),
            held_at: all().map(|_| Mutex::default()).collect(),
            evictions: AtomicU64::new(0),
        };
        all().for_each(|number| history.replace(site, number));
        history
    }

    fn versions(&self, number: usize) -> MutexGuard<'_, Vec<Had>> {
        self.versions[number].lock().expect("nobody panicked")
    }

    /// Puts another version of an object.
    fn replace(&self, site: &Site, number: usize) {
        let mut versions = self.versions(number);
        let seed = (number + versions.len() * OBJECTS) as u64;
        let len = len_max(number) - Random::new(seed).below(len_max(number) / 10);
        let object = Object::new(content(seed, len));
        versions.push(Had { object: object.clone(), gone_at: None });
        site.storage.put(&path(number), object);
        let replaced = versions.len().checked_sub(2);
        replaced.into_iter().for_each(|at| versions[at].gone_at = Some(Instant::now()));
    }

    /// Purges one object or more.
    fn purge(&self, site: &Site, random: &mut Random) {
        let number = random.below(OBJECTS);
        let host = format!("http://{}/", site.storage.host());
        let (url, prefix) = (format!("{host}{number}.mp4"), format!("{host}{}", number % 10));
        let (which, is_meant): (_, Box<dyn Fn(usize) -> bool>) = match random.below(40) {
            // Seldom: the store shall be full.
            0 => (Purge::All, Box::new(|_| true)),
            1 => (Purge::Prefix(&prefix), Box::new(|other| other.to_string().starts_with(&(number % 10).to_string()))),
            2..=20 => (Purge::Url(&url), Box::new(|other| other == number)),
            _ => (Purge::Key { url: &url, scope: "" }, Box::new(|other| other == number)),
        };
        let began = Instant::now();
        purge(&site.httpd.path("store"), which);
        let purged = (began, Instant::now());
        let meant = (0..OBJECTS).filter(|other| is_meant(*other));
        meant.for_each(|other| self.purges[other].lock().expect("nobody panicked").push(purged));
    }

    /// Counts what had gone from the store without a purge.
    fn look_for_an_eviction(&self, number: usize, asked_at: Instant, answer: &Answer, purges: &[(Instant, Instant)]) {
        let mut held_at = self.held_at[number].lock().expect("nobody panicked");
        if answer.cache_status.contains("hit; ttl=") {
            *held_at = Some(asked_at);
        } else if answer.cache_status.contains("fwd=uri-miss")
            && let Some(held_at) = held_at.take()
            && purges.iter().all(|(_, done)| *done < held_at)
        {
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Holds an answer to a request of `asked_at` against what storage had; `body` is nothing where it was cut short.
    fn judge(&self, number: usize, asked_at: Instant, answer: &Answer) {
        let purges = self.purges[number].lock().expect("nobody panicked");
        let purged = purges.iter().rev().find(|(_, done)| *done <= asked_at).copied();
        self.look_for_an_eviction(number, asked_at, answer, &purges);
        drop(purges);
        let versions = self.versions(number);
        let had = versions.iter().find(|had| had.object.etag() == answer.etag);
        let what = format!("object {number}, {:?}, {} {}", answer.range, answer.etag, answer.cache_status);
        let had = had.unwrap_or_else(|| panic!("{what}: storage never had that"));
        let part = answer.range.clone().unwrap_or(0..had.object.body().len());
        match &answer.body {
            Some(body) => assert!(body == &had.object.body()[part], "{what}: wrong bytes"),
            None => assert!(had.gone_at.is_some(), "{what}: cut short, and storage has the version"),
        }
        let Some(gone_at) = had.gone_at else { return };
        let old = asked_at.saturating_duration_since(gone_at);
        assert!(old < OLD_MAX, "{what}: storage had lost it {old:?} before");
        if let Some((began, _)) = purged {
            assert!(gone_at >= began, "{what}: storage had lost it {:?} before a purge", began - gone_at);
        }
    }
}

/// Purges a store from outside, as an operator would.
pub(crate) fn purge(root: &Path, which: Purge<'_>) {
    as_owner_of(root, || {
        // What the children say of the limits counts: no generation is older than this one.
        let limits = Limits { store_len_max: u64::MAX, free_len_min: 0, generation: 0 };
        let store = Store::open(root, limits).expect("the store's owner opens it");
        store.purge(which).expect("it can be purged")
    });
}

/// Does `work` as the user that owns `path`: to Linux a thread has a user of its own (credentials(7)).
fn as_owner_of<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    let owner = fs::metadata(path).expect("it is there");
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    thread::scope(|scope| {
        let done = scope.spawn(|| {
            set_thread_res_gid(gid, gid, gid).expect("root may");
            set_thread_res_uid(uid, uid, uid).expect("root may");
            work()
        });
        done.join().expect("it is done")
    })
}

/// What came of a request.
struct Answer {
    range: Option<Range<usize>>,
    etag: String,
    cache_status: String,
    /// Nothing where the answer was cut short.
    body: Option<Vec<u8>>,
}

/// Asks for an object or a part of it, as a main request or as a sub-request.
fn ask(site: &Site, number: usize, random: &mut Random) -> Answer {
    let least = len_max(number) * 9 / 10;
    let range = (random.below(5) > 0).then(|| {
        let from = random.below(least);
        from..(from + 1 + random.below(100_000)).min(least)
    });
    let text = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
    let is_sub = random.below(2) == 0;
    let request = match (is_sub, &text) {
        (true, None) => sub(&path(number)).request(),
        (true, Some(text)) => sub(&path(number)).range(text).request(),
        (false, None) => Request::get(path(number)).below("/store"),
        (false, Some(text)) => Request::get(path(number)).below("/store").range(text),
    };
    let mut connection = site.httpd.connect();
    let head = connection.ask(&request.field("Connection", "close")).expect("each request is answered");
    let (ours, statuses) = if is_sub { ("Sub-", head.field("X-Sub-Status")) } else { ("", None) };
    let status = statuses.unwrap_or_else(|| head.status.to_string());
    let is_right = status == if range.is_some() { "206" } else { "200" } && matches!(head.status, 200 | 206);
    let field = |name: &str| head.field(&format!("{ours}{name}")).unwrap_or_default();
    assert!(is_right, "{status} ({}) to {text:?} of object {number}, sub: {is_sub}: {:?}", head.status, head.fields);
    let body = read_body(&mut connection, &head.fields);
    Answer { range, etag: field("ETag"), cache_status: field("Cache-Status"), body }
}

fn read_body(connection: &mut Connection, fields: &crate::client::Fields) -> Option<Vec<u8>> {
    let is_framed = find(fields, "Content-Length").is_some() || find(fields, "Transfer-Encoding").is_some();
    assert!(is_framed, "an answer whose end can be told: {fields:?}");
    connection.read_body(fields).ok()
}

/// How often each kind of answer came.
#[derive(Default)]
struct Counts([AtomicU64; 6]);

impl Counts {
    const KINDS: [&str; 6] = ["hit; ttl=-", "hit; ttl=", "collapsed", "stored", "fwd=stale", ""];

    fn count(&self, answer: &Answer) {
        let kind = Self::KINDS.iter().position(|kind| answer.cache_status.contains(kind));
        self.0[kind.expect("the last one fits all")].fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> [u64; 6] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Files by what no other file has, and the blocks that they take, in bytes.
type Taken = HashMap<(u64, Option<SystemTime>), u64>;

fn taken(dir: &Path, taken: &mut Taken) {
    for file in fs::read_dir(dir).into_iter().flatten().flatten() {
        // What has gone since takes nothing.
        let Ok(had) = file.path().symlink_metadata() else { continue };
        taken.insert((had.ino(), had.created().ok()), had.blocks() * 512);
        if had.is_dir() {
            self::taken(&file.path(), taken);
        }
    }
}

/// The most that the store took while `is_over` was not set. What two looks one after the other have met was there between them, all
/// of it at that instant; what came or went meanwhile does not count.
fn most_on_disk(root: &Path, is_over: &AtomicBool) -> u64 {
    let (mut most, mut before) = (0, Taken::new());
    while !is_over.load(Ordering::Relaxed) {
        let mut now = Taken::new();
        taken(root, &mut now);
        let both = now.iter().filter_map(|(file, len)| before.get(file).map(|had| had.min(len)));
        most = most.max(both.sum());
        before = now;
        thread::sleep(Duration::from_millis(2));
    }
    most
}

/// What a process takes: kilobytes of memory of its own, and descriptors.
fn appetite(pid: u32) -> (usize, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = memory.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    (kilobytes.unwrap_or(0), descriptors)
}

fn median(mut values: Vec<usize>) -> usize {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Watches the children, which live until the end, and holds what they take in the last third against the first.
fn are_flat(site: &Site, for_time: Duration) {
    let children = site.httpd.children();
    let mut samples: Vec<Vec<(usize, usize)>> = vec![Vec::new(); children.len()];
    let end = Instant::now() + for_time;
    while Instant::now() < end {
        samples.iter_mut().zip(&children).for_each(|(samples, pid)| samples.push(appetite(*pid)));
        thread::sleep(Duration::from_millis(100));
    }
    let living = site.httpd.children();
    assert!(children.iter().all(|pid| living.contains(pid)), "{living:?} are others than {children:?}");
    for samples in samples {
        let third = samples.len() / 3;
        let of = |what: fn(&(usize, usize)) -> usize| {
            let median = |part: &[(usize, usize)]| median(part.iter().map(what).collect());
            (median(&samples[..third]), median(&samples[samples.len() - third..]))
        };
        let (memory, descriptors) = (of(|sample| sample.0), of(|sample| sample.1));
        // In a short time an allocator does not find its size.
        let slack = memory.0 / 4 + rounds(12, 4) * 1024;
        assert!(memory.1 < memory.0 + slack, "from {} to {} kB", memory.0, memory.1);
        assert!(descriptors.1 < descriptors.0 + 16, "from {} to {} descriptors", descriptors.0, descriptors.1);
    }
}

/// Sets the flag also when the test fails, so that the threads end.
struct SetOnDrop<'f>(&'f AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn all_at_once_no_byte_is_wrong_or_too_old_and_nothing_grows() {
    let wanted: u64 = (0..OBJECTS).map(|number| len_max(number) as u64 * 95 / 100).sum();
    let max = FIXED_LEN + wanted * 10 / 11;
    let lines = format!(
        "UspStorageCacheMaxSize {max}\nUspStorageCacheExpire 1\nUspStorageCacheStaleWhileRevalidate 1\n\
         UspStorageCacheStaleIfError 0\nUspStorageCacheWait {WAIT_SECS}\nUspStorageCachePartSize 256K\n\
         LogLevel usp_storage_cache:info"
    );
    let site = Site::wide(Mpm::Worker, 3, 16, &lines);
    site.storage.delay(Duration::from_millis(2));
    let (history, counts, is_over) = (History::new(&site), Counts::default(), AtomicBool::new(false));
    let time = Duration::from_secs(rounds(10, 120) as u64);
    let root = site.httpd.path("store");
    let most = thread::scope(|scope| {
        let (site, history, counts, is_over) = (&site, &history, &counts, &is_over);
        let _is_over = SetOnDrop(is_over);
        let goes_on = move || !is_over.load(Ordering::Relaxed);
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let _is_over = SetOnDrop(is_over);
                let mut random = Random::new(client + 1);
                while goes_on() {
                    // Some are asked for much more often than others.
                    let among = [OBJECTS / 5, OBJECTS][random.below(2)];
                    let number = random.below(among);
                    let asked_at = Instant::now();
                    let answer = ask(site, number, &mut random);
                    history.judge(number, asked_at, &answer);
                    counts.count(&answer);
                    thread::sleep(Duration::from_millis(random.next() % 100));
                }
            });
        }
        let each = |pause: u64, mut work: Box<dyn FnMut() + Send>| {
            scope.spawn(move || {
                let _is_over = SetOnDrop(is_over);
                while goes_on() {
                    work();
                    thread::sleep(Duration::from_millis(pause));
                }
            });
        };
        let (mut replaced, mut purged) = (Random::new(91), Random::new(92));
        each(150, Box::new(move || history.replace(site, replaced.below(OBJECTS))));
        each(300, Box::new(move || history.purge(site, &mut purged)));
        let watcher = scope.spawn(|| most_on_disk(&root, is_over));
        restart_again_and_again(site, time * 2 / 5, is_over);
        are_flat(site, time * 3 / 5);
        is_over.store(true, Ordering::Relaxed);
        watcher.join().expect("it counts")
    });
    let counts = counts.get();
    assert_eq!((site.httpd.crashes(), site.httpd.count_in_log("panic")), (0, 0));
    assert!(most <= max, "the store took {most} of {max} bytes");
    // The test itself is worth something: the store was full, and answers of several kinds were from it.
    assert!(most > max * 3 / 4, "the store took but {most} of {max} bytes");
    let evictions = history.evictions.load(Ordering::Relaxed);
    assert!(evictions > 10, "{evictions} evictions, {:?}: {counts:?}", Counts::KINDS);
    assert!(counts.iter().take(4).all(|count| *count > 0), "{:?}: {counts:?}", Counts::KINDS);
    assert!(counts[5] * 10 < counts.iter().sum::<u64>(), "{:?}: {counts:?}", Counts::KINDS);
}

fn restart_again_and_again(site: &Site, for_time: Duration, is_over: &AtomicBool) {
    let end = Instant::now() + for_time;
    let mut former = Vec::new();
    while Instant::now() < end && !is_over.load(Ordering::Relaxed) {
        former = site.httpd.children();
        site.httpd.graceful();
        thread::sleep(Duration::from_secs(1));
    }
    until("former children to end", 40, || site.httpd.children().iter().all(|pid| !former.contains(pid)).then_some(()));
}
