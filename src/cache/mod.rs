//! Which bytes come from where, and why.
//!
//! [`Cache::find`] looks a key up in memory, then on disk; what is missing or old is fetched once for the whole host, by a
//! filler in a thread of its own, while requests of all processes wait for their part ([`wait`]). What it cannot give it leaves
//! to mod_proxy, with a [`Reason`].
//!
//! # Invariants
//!
//! - A hit makes no system call and takes no lock for longer than a look-up.
//! - Whatever fails ends in [`Found::Pass`]: the cache never makes a request fail.
//! - A fill holds values only, nothing of a request.

#![forbid(unsafe_code)]

mod background;
pub mod breaker;
mod counting;
mod filler;
pub mod key;
pub mod notes;
mod order;
pub mod outcome;
pub mod own_server;
mod parts;
mod plan;
pub mod prefetch;
pub mod purge;
mod verify;
pub mod wait;

use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;

use crate::config::{DEFAULT_MATCH, Match, Section};
use crate::credentials::Keyring;
use crate::fetch::hedge::Hedges;
use crate::fetch::sigv4::Terms;
use crate::fetch::{Client, Failure, Rules};
use crate::semantics::freshness::{Lifetimes, Policy, Times};
use crate::semantics::range::Asked;
use crate::store::connections::Connections;
use crate::store::counters::table::Kind;
use crate::store::held::Held;
pub use crate::store::now_ms;
use crate::store::{Leader, Name, Purge, Store, Version, spawn_quietly, sys};

use background::Background;
use breaker::Breaker;
use key::{Key, Upstream};
use notes::{Logged, Note};
use order::Order;
pub use outcome::{Outcome, Reason};
pub use wait::Stream;

/// A failed fetch is not tried again for so long.
const FAILED_MS: u64 = 1000;
/// A failure of one kind for one key is logged once in so long.
const LOGGED_MS: u64 = 60_000;
/// A fill that was left is gone on with once in so long.
const LEFT_MS: u64 = 60_000;
/// How often the cache looks after itself.
const TICK: Duration = Duration::from_secs(1);
/// How many ticks pass between two looks at the paths of what is held, and between two stamps.
const TICKS_A_LOOK: u64 = 5;
const TICKS_A_STAMP: u64 = 60;
/// Storages of which it is known how they are asked.
const ORDERED_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");
/// Lines for the error log that are kept until a request comes to write them.
const REPORTS_MAX: usize = 1000;

/// What a request wants to know.
#[derive(Clone, Copy)]
pub struct Ask<'r> {
    /// The object.
    pub key: &'r Key,
    /// What the configuration says there.
    pub section: &'r Section<'r>,
    /// What of the object the answer will need.
    pub want: Want,
    /// The URL that the configuration names and the object lies below, where it names one.
    pub base: Option<&'r str>,
    /// Whether storage may be asked: not for a HEAD.
    pub may_fill: bool,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// What of an object an answer needs.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The part; several ranges count as the whole.
    pub asked: Asked,
    /// Whether the answer can begin with what is there and wait for the rest while it is sent.
    pub streams: bool,
}

/// What there is for a request.
pub enum Found {
    /// The object.
    Entry(Arc<Version>, Outcome),
    /// The object on its way: what the answer begins with is there, and all of it where the answer cannot wait.
    Filling(Stream, Outcome),
    /// The range selects nothing of an object of so many bytes, as storage says.
    Unsatisfiable(u64),
    /// Storage's status for an object that is not there.
    Absent(u16),
    /// Nothing: mod_proxy shall answer.
    Pass(Reason),
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

/// How an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is fresh for so many seconds more.
    Fresh { ttl_secs: u64 },
    /// It has been stale for so many seconds, and may be served while storage is asked.
    Stale { for_secs: u64 },
    /// As before, and may be served if storage fails only.
    IfError { for_secs: u64 },
    /// It may not be served before storage has vouched for it.
    Expired,
}

/// The cache of one process.
pub struct Cache {
    store: Arc<Store>,
    held: Held,
    has_threads: AtomicBool,
    /// Fills under way.
    fills: AtomicU32,
    background: Background,
    connections: Connections,
    fill_threads: usize,
    client: Client,
    hedges: Hedges,
    keyring: Arc<Keyring>,
    default_match: Match,
    /// What was ordered last of each storage, in each scope: how one goes on with what others have left.
    ordered: Mutex<LruCache<String, Order>>,
    /// Storages whose ETags are known to be no checksums, though they look like it.
    odd_etags: Mutex<Vec<String>>,
    logged: Logged,
    /// Fills that were gone on with a short time ago.
    left: Logged,
    reports: Mutex<Vec<Report>>,
    has_reports: AtomicBool,
    has_told_region: AtomicBool,
    is_stopping: AtomicBool,
}

impl Cache {
    /// A cache over `store`. Connections and threads are made when they are needed.
    pub fn new(store: Arc<Store>, keyring: Arc<Keyring>, connections: u32, fill_threads: u32) -> Arc<Self> {
        Arc::new(Self {
            connections: Connections::new(store.clone(), connections),
            store,
            held: Held::new(),
            has_threads: AtomicBool::new(false),
            fills: AtomicU32::new(0),
            background: Background::default(),
            fill_threads: fill_threads as usize,
            client: Client::new(keyring.clone()),
            hedges: Hedges::default(),
            keyring,
            default_match: Match::new(DEFAULT_MATCH).expect("the default is a valid pattern"),
            ordered: Mutex::new(LruCache::new(ORDERED_MAX)),
            odd_etags: Mutex::default(),
            logged: Logged::new(),
            left: Logged::new(),
            reports: Mutex::default(),
            has_reports: AtomicBool::new(false),
            has_told_region: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The credentials that have to be asked for.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// What there is for a request; has what is missing fetched, and waits for what the answer needs.
    pub fn find(self: &Arc<Self>, ask: &Ask<'_>) -> Found {
        self.held(ask).unwrap_or_else(|| self.look_further(ask))
    }

    /// What a request for `key` is signed for, if it is `now` by our clock: what fills have learned of storage counts.
    pub fn terms<'r>(&self, key: &'r Key, rules: &'r Rules, now: SystemTime) -> Terms<'r> {
        self.client.terms(key, rules, now)
    }

    /// The lines for the error log that fills have left behind.
    pub fn reports(&self) -> Vec<Report> {
        if !self.has_reports.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.has_reports.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.reports.lock())
    }

    /// Removes an entry of which a block is damaged; the next look is a miss.
    pub fn discard(&self, key: &Key, entry: &Arc<Version>) {
        self.store.counters().add(Kind::Damaged, 1);
        self.held.remove(key.as_bytes(), entry);
        let done = match self.store.discard(entry.name(), entry.identity()) {
            Ok(true) => "removed".to_owned(),
            Ok(false) => "about to be replaced".to_owned(),
            Err(e) => e.to_string(),
        };
        let text = format!("{} is damaged in the store ({}): {done}", key.url(), entry.name().file());
        self.report(ReportLevel::Warning, text);
    }

    /// Drops the entries of an object, under every scope, and what is remembered of it.
    pub fn invalidate(&self, key: &Key) -> io::Result<()> {
        self.store.purge(Purge::Url(key.url())).map(drop)
    }

    /// Ends fetches that are under way, refuses new ones and has those who wait go on. Takes locks: not for a signal handler.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.client.shutdown();
    }

    /// Waits until no fill is under way, for `most` at the longest.
    ///
    /// What was counted is in the host's counters then.
    pub fn finish(&self, most: Duration) {
        self.wait_for_fills(most);
        self.store.counters().flush();
    }

    fn wait_for_fills(&self, most: Duration) {
        let until = Instant::now() + most;
        loop {
            let fills = self.fills.load(Ordering::Acquire);
            let left = until.saturating_duration_since(Instant::now());
            if fills == 0 || left.is_zero() {
                return;
            }
            sys::sleep(&self.fills, fills, NonZeroU32::MAX, left);
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn held(self: &Arc<Self>, ask: &Ask<'_>) -> Option<Found> {
        let entry = self.held.get(ask.key.as_bytes()).filter(|entry| entry.is_current())?;
        let outcome = self.serves(&entry, ask)?;
        Some(Found::Entry(entry, outcome))
    }

    /// What the entry is as an answer, if it may be one; one that is stale is revalidated meanwhile.
    fn serves(self: &Arc<Self>, entry: &Version, ask: &Ask<'_>) -> Option<Outcome> {
        let outcome = match standing(entry, &ask.section.policy(), ask.now_ms) {
            Standing::Fresh { ttl_secs } => Outcome::Hit { ttl_secs },
            Standing::Stale { for_secs } => {
                if ask.may_fill && entry.wants_refresh(ask.now_ms) {
                    self.background.refresh(self, Order::of(ask, &self.default_match));
                }
                Outcome::Stale { for_secs, is_error: false }
            }
            Standing::IfError { .. } | Standing::Expired => return None,
        };
        entry.touch(ask.now_ms / 1000);
        Some(outcome)
    }

    fn look_further(self: &Arc<Self>, ask: &Ask<'_>) -> Found {
        self.begin_to_tick();
        let name = Name::new(ask.key.url(), ask.key.scope());
        let entry = match self.on_disk(ask.key, &name) {
            Ok(entry) => entry,
            Err(e) => return Found::Pass(self.trouble(ask.key, e)),
        };
        if let Some(entry) = &entry
            && let Some(outcome) = self.serves(entry, ask)
        {
            return Found::Entry(entry.clone(), outcome);
        }
        if !ask.may_fill {
            return Found::Pass(Reason::HeadNotHeld);
        }
        let order = Arc::new(Order::of(ask, &self.default_match));
        self.ordered.lock().put(storage_of(&order.key), Order::clone(&order));
        match wait::Waiter::new(self, &order, ask, entry.as_ref()).run() {
            Found::Pass(reason) => self.stale_if_error(ask, entry, reason),
            found => found,
        }
    }

    /// The entry that was held before storage failed, if it may be served then (RFC 5861, section 4).
    fn stale_if_error(&self, ask: &Ask<'_>, entry: Option<Arc<Version>>, reason: Reason) -> Found {
        let is_storages = matches!(reason, Reason::Failed | Reason::Denied | Reason::Breaker | Reason::Waited);
        // It may have been purged meanwhile.
        let entry = entry.filter(|entry| is_storages && self.store.look_again(entry));
        let Some(entry) = entry else { return Found::Pass(reason) };
        match standing(&entry, &ask.section.policy(), now_ms()) {
            Standing::Stale { for_secs } | Standing::IfError { for_secs } => {
                entry.touch(ask.now_ms / 1000);
                Found::Entry(entry, Outcome::Stale { for_secs, is_error: true })
            }
            Standing::Fresh { .. } | Standing::Expired => Found::Pass(reason),
        }
    }

    /// The entry on disk, held from now on.
    fn on_disk(&self, key: &Key, name: &Name) -> io::Result<Option<Arc<Version>>> {
        let held = self.held.get(key.as_bytes());
        let entry = self.store.entry(name, key.url(), key.scope(), held.as_ref())?;
        match (&entry, &held) {
            (Some(entry), Some(held)) if Arc::ptr_eq(entry, held) => {}
            (Some(entry), _) => self.held.put(key.as_bytes(), entry.clone()),
            (None, Some(held)) => self.held.remove(key.as_bytes(), held),
            (None, None) => {}
        }
        Ok(entry)
    }

    /// Looks after the cache once a second, in threads that end with it. Without them nobody is the worse for it but the disk:
    /// entries make room in the order in which they were filled, and what was removed stays mapped.
    fn begin_to_tick(self: &Arc<Self>) {
        // A line of the processor's cache that nobody writes is everybody's.
        if self.has_threads.load(Ordering::Relaxed) || self.has_threads.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut leader = Leader::new();
        // It may take seconds, which what is held cannot wait for. What cannot be tended now is a second later.
        let lead = move |cache: &Arc<Self>, _: u64| drop(leader.tick(&cache.store, now_ms()));
        let begun = self.each_second("usc-leader", lead).and_then(|()| self.each_second("usc-tick", Self::tick));
        // The next request tries again; two leaders in one process do no harm.
        self.has_threads.store(begun.is_ok(), Ordering::Relaxed);
    }

    fn each_second(
        self: &Arc<Self>,
        name: &str,
        mut work: impl FnMut(&Arc<Self>, u64) + Send + 'static,
    ) -> io::Result<()> {
        let cache = Arc::downgrade(self);
        spawn_quietly(name, move || {
            for tick in 1.. {
                std::thread::park_timeout(TICK);
                let Some(cache) = cache.upgrade().filter(|cache| !cache.is_stopping()) else { return };
                // Once more in a second.
                let _ = catch_unwind(AssertUnwindSafe(|| work(&cache, tick)));
            }
        })
    }

    fn tick(self: &Arc<Self>, tick: u64) {
        self.held.retain(|entry| entry.is_current());
        self.store.counters().flush();
        self.keyring.tick();
        for report in self.keyring.reports() {
            let level = if report.is_warning { ReportLevel::Warning } else { ReportLevel::Notice };
            self.report(level, report.text);
        }
        if tick.is_multiple_of(TICKS_A_LOOK) {
            if self.store.refresh_control().unwrap_or(false) {
                self.held.retain(|_| false);
            }
            self.held.retain(|entry| self.store.look_again(entry));
            // Without the file nothing is lost but what nobody can see.
            let _ = self.store.refresh_counters();
        }
        // What cannot be looked at now is a second later.
        for (url, scope) in self.store.left_fills().unwrap_or_default() {
            self.go_on(&url, &scope);
        }
        if tick.is_multiple_of(TICKS_A_STAMP) {
            self.held.all().iter().for_each(|entry| self.store.stamp(entry));
        }
    }

    /// Has a fill that somebody has left gone on with, if this process knows how its storage is asked.
    fn go_on(self: &Arc<Self>, url: &str, scope: &str) {
        let filename = format!("proxy:{url}");
        let key = Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key(scope, false));
        let Ok(key) = key else { return };
        let order = self.ordered.lock().get(&storage_of(&key)).map(|order| order.with_key(key));
        let is_idle = |order: &Order| wait::remembered(self, order, u64::MAX).is_none();
        // One that fails again and again is left to those who ask for it.
        let is_due = |order: &Order| self.left.is_due(order.key.as_bytes(), now_ms(), LEFT_MS);
        if let Some(order) = order.filter(|order| is_idle(order) && is_due(order)) {
            self.background.go_on(self, order);
        }
    }

    /// The breaker of an order's storage does `what`.
    fn with_breaker<T>(&self, order: &Order, what: impl FnOnce(Breaker<'_>) -> T) -> T {
        what(self.store.control().breaker(order.key.authority()))
    }

    /// Remembers what a fill has failed of for as long as its kind calls for, for all processes, and reports it.
    fn fail(&self, order: &Order, failure: &Failure) {
        if self.is_stopping() {
            return;
        }
        let expire_ms = u64::from(order.policy.expire_secs) * 1000;
        let (note, for_ms) = match failure {
            Failure::Status(status @ (404 | 410)) => (Note::Absent(*status), order.negative_ms()),
            Failure::Status(401 | 403) | Failure::Refused(_) => (Note::Pass(Reason::Denied), order.negative_ms()),
            Failure::TooLarge(len) => (Note::Large(*len), expire_ms),
            Failure::NoLength => (Note::Pass(Reason::NoLength), expire_ms),
            Failure::NotStorable(_) => (Note::Pass(Reason::NotStorable), expire_ms),
            Failure::Store(_) => (Note::Pass(Reason::Store), FAILED_MS),
            _ => (Note::Pass(Reason::Failed), FAILED_MS),
        };
        let now_ms = now_ms();
        self.store.control().put_note(&order.digest, note.encode(now_ms, now_ms + for_ms));
        let level = match failure {
            Failure::Status(404 | 410) | Failure::TooLarge(_) | Failure::NoLength | Failure::NotStorable(_) => {
                ReportLevel::Info
            }
            _ => ReportLevel::Warning,
        };
        self.report_once(level, &order.key, failure.word(), || format!("cannot fill {}: {failure}", order.key.url()));
    }

    /// The store is in trouble for this process: that says nothing about others.
    fn trouble(&self, key: &Key, e: io::Error) -> Reason {
        let failure = Failure::Store(e);
        let text = || format!("cannot look up {}: {failure}", key.url());
        self.report_once(ReportLevel::Warning, key, failure.word(), text);
        Reason::Store
    }

    /// Leaves a line once in a while that another storage is asked.
    fn report_instead(&self, key: &Key, text: String) {
        let what = [b"instead ", key.authority().as_bytes()].concat();
        if self.logged.is_due(&what, now_ms(), LOGGED_MS) {
            self.report(ReportLevel::Warning, text);
        }
    }

    /// Leaves a line of one kind about a key once in a while.
    fn report_once(&self, level: ReportLevel, key: &Key, kind: &str, text: impl FnOnce() -> String) {
        let what = [kind.as_bytes(), b" ", key.as_bytes()].concat();
        if self.logged.is_due(&what, now_ms(), LOGGED_MS) {
            self.report(level, text() + "; left to mod_proxy");
        }
    }

    /// Leaves a line for the error log: threads of ours do not write it themselves.
    fn report(&self, level: ReportLevel, text: String) {
        let mut reports = self.reports.lock();
        if reports.len() < REPORTS_MAX {
            reports.push(Report { level, text });
        }
        drop(reports);
        self.has_reports.store(true, Ordering::Relaxed);
    }
}

/// What orders for one storage in one scope have in common.
fn storage_of(key: &Key) -> String {
    let scheme = key.url().split("://").next().unwrap_or_default();
    format!("{scheme}://{} {}", key.authority(), key.scope())
}

fn standing(entry: &Version, policy: &Policy, now_ms: u64) -> Standing {
    let fields = entry.fields().map(|(name, value)| (name.to_bytes(), value.to_bytes()));
    let times = Times {
        asked_at: entry.fetched_at_ms() / 1000,
        vouched_at: entry.validated_at_ms() / 1000,
        initial_age_secs: entry.initial_age_secs(),
    };
    let lifetimes = Lifetimes::of(fields, *policy, times);
    // A time in the future vouches for nothing.
    let Some(resident_ms) = now_ms.checked_sub(entry.validated_at_ms()) else { return Standing::Expired };
    let fresh_ms = lifetimes.fresh_secs * 1000;
    let for_secs = resident_ms.saturating_sub(fresh_ms) / 1000;
    if resident_ms < fresh_ms {
        Standing::Fresh { ttl_secs: (fresh_ms - resident_ms).div_ceil(1000) }
    } else if for_secs < lifetimes.stale_while_revalidate_secs {
        Standing::Stale { for_secs }
    } else if for_secs < lifetimes.stale_if_error_secs {
        Standing::IfError { for_secs }
    } else {
        Standing::Expired
    }
}

#[cfg(test)]
mod tests;
