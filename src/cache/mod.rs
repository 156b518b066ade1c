//! Which bytes come from where, and why.
//!
//! [`Cache::find`] looks a key up in memory, then on disk, then asks storage, once for all requests of this
//! process that want the same. What it cannot give it leaves to mod_proxy, with a [`Reason`].
//!
//! # Invariants
//!
//! - A hit makes no system call and takes no lock for longer than a look-up.
//! - Whatever fails ends in [`Found::Pass`]: the cache never makes a request fail.

#![forbid(unsafe_code)]

pub mod flight;
pub mod key;
pub mod notes;
pub mod outcome;
pub mod own_server;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Credentials, Section};
use crate::fetch::{Answer, Client, Failure, Rules, sigv4};
use crate::store::format::Meta;
use crate::store::held::Held;
use crate::store::{Entry, Fill, KeyLock, Name, Store, spawn_quietly};

use flight::{Flights, Landing, Seat};
use key::Key;
use notes::Notes;
pub use outcome::{Outcome, Reason};

/// A failed fetch is not tried again for so long.
const FAILED_MS: u64 = 1000;
/// A failure of one kind for one key is logged once in so long.
const LOGGED_MS: u64 = 60_000;

/// How often it is written down when entries were last used.
const STAMPED: Duration = Duration::from_secs(60);

/// What a request wants to know.
#[derive(Clone, Copy)]
pub struct Ask<'r> {
    /// The object.
    pub key: &'r Key,
    /// What the configuration says there.
    pub section: &'r Section<'r>,
    /// Whether storage may be asked: not for a HEAD.
    pub may_fill: bool,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// What there is for a request.
pub enum Found {
    /// The object.
    Entry(Arc<Entry>, Outcome),
    /// Storage's status for an object that is not there.
    Absent(u16),
    /// Nothing: mod_proxy shall answer.
    Pass(Reason),
}

/// What there is, and what is to be logged about it.
pub struct Finding {
    /// What there is.
    pub found: Found,
    /// Lines for the error log.
    pub reports: Vec<Report>,
}

/// A line for the error log.
pub struct Report {
    /// How much it matters.
    pub level: ReportLevel,
    /// What it says.
    pub text: String,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportLevel {
    /// Somebody should look.
    Warning,
    /// Worth knowing once.
    Notice,
    /// One line a fill.
    Info,
}

/// What is remembered of an object that is not in the store.
#[derive(Clone, Copy)]
enum Note {
    Absent(u16),
    /// Too large for a section that allows less than so many bytes.
    Large(u64),
    Pass(Reason),
}

/// The cache of one process.
pub struct Cache {
    store: Arc<Store>,
    held: Arc<Held>,
    stamper: Once,
    flights: Flights,
    notes: Notes<Note>,
    logged: Notes<()>,
    client: Client,
    has_told_region: AtomicBool,
    is_stopping: AtomicBool,
}

impl Cache {
    /// A cache over `store`. Connections are made at the first fill.
    pub fn new(store: Store) -> Self {
        Self {
            store: Arc::new(store),
            held: Arc::default(),
            stamper: Once::new(),
            flights: Flights::default(),
            notes: Notes::new(),
            logged: Notes::new(),
            client: Client::default(),
            has_told_region: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What there is for a request; fetches what is missing.
    pub fn find(&self, ask: &Ask<'_>) -> Finding {
        if let Some(found) = self.held(ask) {
            return Finding { found, reports: Vec::new() };
        }
        let mut reports = Vec::new();
        let found = match self.notes.get(ask.key.as_bytes(), ask.now_ms) {
            Some(Note::Absent(status)) => Found::Absent(status),
            Some(Note::Pass(reason)) => Found::Pass(reason),
            Some(Note::Large(len)) if len > ask.section.object_len_max() => Found::Pass(Reason::TooLarge),
            Some(Note::Large(_)) | None => self.look_further(ask, &mut reports),
        };
        Finding { found, reports }
    }

    /// Removes an entry of which a block is damaged; the next look is a miss.
    pub fn discard(&self, key: &Key, entry: &Arc<Entry>) -> Report {
        self.held.remove(key.as_bytes(), entry);
        let done = match self.store.discard(entry.name(), entry.identity()) {
            Ok(true) => "removed".to_owned(),
            Ok(false) => "about to be replaced".to_owned(),
            Err(e) => e.to_string(),
        };
        let text = format!("{} is damaged in the store ({}): {done}", key.url(), entry.name().file());
        Report { level: ReportLevel::Warning, text }
    }

    /// Ends fetches that are under way and refuses new ones. Takes locks: not for a signal handler.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.client.shutdown();
    }

    fn held(&self, ask: &Ask<'_>) -> Option<Found> {
        let entry = self.held.get(ask.key.as_bytes())?;
        fresh(entry, ask)
    }

    fn look_further(&self, ask: &Ask<'_>, reports: &mut Vec<Report>) -> Found {
        self.stamper.call_once(|| self.keep_stamps());
        let name = Name::new(ask.key.url(), ask.key.scope());
        let stale = match self.on_disk(ask, &name) {
            Ok(Some(entry)) => match fresh(entry, ask) {
                Some(found) => return found,
                None => true,
            },
            Ok(None) => false,
            Err(e) => return Found::Pass(self.fail(ask, &Failure::Store(e), reports)),
        };
        if !ask.may_fill {
            return Found::Pass(Reason::HeadNotHeld);
        }
        match self.flights.join(ask.key.as_bytes()) {
            Seat::Passenger(landing) => {
                landing.map_or_else(Found::Pass, |entry| Found::Entry(entry, Outcome::Collapsed { stale }))
            }
            Seat::Pilot(pilot) => {
                // A flight may have landed, and time have passed, between the look and this one.
                let ask = &Ask { now_ms: ask.now_ms.max(now_ms()), ..*ask };
                let (landing, outcome) = match self.held(ask) {
                    Some(Found::Entry(entry, hit)) => (Ok(entry), hit),
                    _ => self.fly(ask, name, reports),
                };
                pilot.land(&landing);
                landing.map_or_else(Found::Pass, |entry| Found::Entry(entry, outcome))
            }
        }
    }

    /// Writes down from time to time when entries were last used, in a thread that ends with the cache. Without the
    /// thread the order in which entries make room is that in which they were filled.
    fn keep_stamps(&self) {
        let (held, store) = (Arc::downgrade(&self.held), Arc::downgrade(&self.store));
        let work = move || {
            while let (Some(held), Some(store)) = (held.upgrade(), store.upgrade()) {
                held.all().iter().for_each(|entry| store.stamp(entry));
                drop((held, store));
                std::thread::park_timeout(STAMPED);
            }
        };
        let _ = spawn_quietly("usc-stamps", work);
    }

    /// The entry on disk, held from now on.
    fn on_disk(&self, ask: &Ask<'_>, name: &Name) -> io::Result<Option<Arc<Entry>>> {
        let entry = self.store.entry(name, ask.key.url(), ask.key.scope())?.map(Arc::new);
        if let Some(entry) = &entry {
            self.held.put(ask.key.as_bytes(), entry.clone());
        }
        Ok(entry)
    }

    /// Fetches the object under its key's lock.
    fn fly(&self, ask: &Ask<'_>, name: Name, reports: &mut Vec<Report>) -> (Landing, Outcome) {
        let filled = |stale| Outcome::Filled { stale };
        let lock = match self.store.lock(name.clone()) {
            Ok(Some(lock)) => lock,
            Ok(None) => return (Err(Reason::Busy), filled(false)),
            Err(e) => return (Err(self.fail(ask, &Failure::Store(e), reports)), filled(false)),
        };
        // Whoever had the lock before may have filled it.
        let held = match self.on_disk(ask, &name) {
            Ok(held) => held,
            Err(e) => return (Err(self.fail(ask, &Failure::Store(e), reports)), filled(false)),
        };
        let stale = held.is_some();
        if let Some(Found::Entry(entry, hit)) = held.clone().and_then(|entry| fresh(entry, ask)) {
            return (Ok(entry), hit);
        }
        match self.fill(ask, lock, held.as_ref(), reports) {
            Ok(()) => {}
            Err(failure) => return (Err(self.fail(ask, &failure, reports)), filled(stale)),
        }
        let landing = match self.on_disk(ask, &name) {
            Ok(Some(entry)) => Ok(entry),
            // Somebody removed it at once.
            Ok(None) => Err(Reason::Failed),
            Err(e) => Err(self.fail(ask, &Failure::Store(e), reports)),
        };
        (landing, filled(stale))
    }

    /// Fetches the object and publishes it, or drops the entry `held` of an object that is gone.
    fn fill(
        &self,
        ask: &Ask<'_>,
        lock: KeyLock<'_>,
        held: Option<&Arc<Entry>>,
        reports: &mut Vec<Report>,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let rules = Rules::of(ask.section);
        self.tell_region(ask, &rules, reports);
        // The clock that requests are held against: another one, that is a tick ahead, would put the entry into the future.
        let asked_at = Duration::from_millis(now_ms());
        let answer = match self.client.get(ask.key, &rules, SystemTime::UNIX_EPOCH + asked_at) {
            Ok(answer) => answer,
            Err(Failure::Status(status @ (404 | 410))) => {
                if let Some(entry) = held {
                    self.held.remove(ask.key.as_bytes(), entry);
                    lock.discard(entry.identity()).map_err(Failure::Store)?;
                }
                return Err(Failure::Status(status));
            }
            Err(failure) => return Err(failure),
        };
        let len = answer.len.ok_or(Failure::NoLength)?;
        if len > ask.section.object_len_max() {
            return Err(Failure::TooLarge(len));
        }
        store_answer(ask.key, lock, answer, len, asked_at)?;
        let took = begun.elapsed();
        reports.push(Report {
            level: ReportLevel::Info,
            text: format!("filled {} ({len} bytes in {:.3} s)", ask.key.url(), took.as_secs_f64()),
        });
        Ok(())
    }

    /// Says once that no region is configured and which one is signed for.
    fn tell_region(&self, ask: &Ask<'_>, rules: &Rules<'_>, reports: &mut Vec<Report>) {
        let signs = matches!(rules.credentials, Credentials::Keys { .. });
        if !signs || rules.region.is_some() || self.has_told_region.swap(true, Ordering::Relaxed) {
            return;
        }
        let (region, host) = (sigv4::region(rules, ask.key), ask.key.authority());
        let text = format!("no S3Region is set: requests to {host} are signed (version 4) for {region}");
        reports.push(Report { level: ReportLevel::Notice, text });
    }

    /// Remembers a failure for as long as its kind calls for, and reports it.
    fn fail(&self, ask: &Ask<'_>, failure: &Failure, reports: &mut Vec<Report>) -> Reason {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Reason::Stopping;
        }
        let expire_ms = u64::from(ask.section.expire_secs()) * 1000;
        let negative_ms = u64::from(ask.section.negative_expire_secs()) * 1000;
        let (note, for_ms, reason) = match failure {
            Failure::Status(status @ (404 | 410)) => (Note::Absent(*status), negative_ms, Reason::NotFound),
            Failure::Status(401 | 403) => (Note::Pass(Reason::Denied), negative_ms, Reason::Denied),
            Failure::TooLarge(len) => (Note::Large(*len), expire_ms, Reason::TooLarge),
            Failure::NoLength => (Note::Pass(Reason::NoLength), expire_ms, Reason::NoLength),
            Failure::Store(_) => (Note::Pass(Reason::Store), FAILED_MS, Reason::Store),
            _ => (Note::Pass(Reason::Failed), FAILED_MS, Reason::Failed),
        };
        // The fetch took time: what it found out counts from now.
        let now_ms = ask.now_ms.max(now_ms());
        self.notes.put(ask.key.as_bytes(), note, now_ms + for_ms);
        reports.extend(self.report(ask, failure, now_ms));
        reason
    }

    fn report(&self, ask: &Ask<'_>, failure: &Failure, now_ms: u64) -> Option<Report> {
        let what = [failure.word().as_bytes(), b" ", ask.key.as_bytes()].concat();
        if self.logged.get(&what, now_ms).is_some() {
            return None;
        }
        self.logged.put(&what, (), now_ms + LOGGED_MS);
        let level = match failure {
            Failure::Status(404 | 410) | Failure::TooLarge(_) | Failure::NoLength => ReportLevel::Info,
            _ => ReportLevel::Warning,
        };
        let text = format!("cannot fill {}: {failure}; left to mod_proxy", ask.key.url());
        Some(Report { level, text })
    }
}

/// Milliseconds since 1970, by a clock that ticks every few milliseconds and costs no system call.
pub fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

fn fresh(entry: Arc<Entry>, ask: &Ask<'_>) -> Option<Found> {
    let now = ask.now_ms / 1000;
    let ttl_secs = entry.ttl_secs(now, ask.section.expire_secs())?;
    entry.touch(now);
    Some(Found::Entry(entry, Outcome::Hit { ttl_secs }))
}

/// Writes an answer of `len` bytes into the store; `asked_at` counts from 1970.
fn store_answer(key: &Key, lock: KeyLock<'_>, answer: Answer, len: u64, asked_at: Duration) -> Result<(), Failure> {
    let meta = Meta {
        url: key.url().into(),
        scope: key.scope().into(),
        body_len: len,
        fetched_at: asked_at.as_secs(),
        initial_age_secs: answer.age_secs,
        fields: answer.fields,
    };
    let mut fill = Fill::begin(lock, &meta).map_err(Failure::Store)?;
    answer.body.copy(len, |piece| fill.write(piece))?;
    fill.publish().map_err(Failure::Store)
}

#[cfg(test)]
mod tests;
