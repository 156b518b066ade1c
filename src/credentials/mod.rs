//! Credentials that have to be asked for: fetched once for all children of a generation, and again before they expire.
//!
//! A [`Keyring`] gives the keys of an [`Identity`]: [`Keyring::current`] without waiting, [`Keyring::settled`] and
//! [`Keyring::renewed`] for threads that fetch. What was fetched lies in the [`Table`]; chain.rs fetches it.
//!
//! # Invariants
//!
//! - One process fetches the credentials of an identity at a time: the holder of its lock byte, which the kernel frees when
//!   it dies.
//! - Keys are replaced by keys only. What fails leaves those that are there, until they expire.
//! - Nothing waits while there are keys that have not expired.

#![forbid(unsafe_code)]

mod chain;
mod identity;
mod table;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use parking_lot::Mutex;

pub use identity::{Identity, chain};
pub use table::{Record, Table};

use crate::config::signing;
use crate::store::lock::ByteLock;
use crate::store::shared_file::random;
use crate::store::{Store, now_ms, spawn_quietly, sys};
use chain::Trouble;
use table::{SLOTS, Slot};

/// Credentials are fetched again so long before they expire, and up to that much earlier; sooner where they are shorter-lived.
const MARGIN_MS: u64 = 300_000;
/// Those that do not expire are looked at again, and where there were none.
const RECHECK_MS: u64 = 900_000;
/// Tries that fail are this far apart, first and at most.
const RETRY_MS: u64 = 1000;
const RETRY_MS_MAX: u64 = 60_000;
/// Storage's refusal has keys renewed once in so long.
const RENEWAL_MS: u64 = 10_000;
/// The longest sleep: a process that is killed wakes nobody.
const SLICE: Duration = Duration::from_millis(250);

/// A pair of keys, and the token that may belong to it. Wiped when the last copy is dropped, and never shown.
#[derive(Clone)]
pub struct Keys(Credentials);

/// What is known of an identity's keys.
#[derive(Clone)]
pub enum Known {
    /// These are valid.
    Keys(Keys),
    /// Nobody has asked yet.
    Unknown,
    /// No source has any.
    Nothing,
    /// They could not be fetched, or have expired and could not be fetched again.
    Failed,
}

/// The credentials of one process.
pub struct Keyring {
    table: Arc<Table>,
    store: Arc<Store>,
    /// What this process has asked for, by the digest.
    held: Mutex<HashMap<u64, Held>>,
    reports: Mutex<Vec<Report>>,
    has_told_many: AtomicBool,
}

/// A copy of a record, and the number that it has.
struct Held {
    identity: Arc<Identity>,
    number: u64,
    record: Record,
}

/// A line for the error log.
pub struct Report {
    /// Whether somebody should look.
    pub is_warning: bool,
    /// What it says.
    pub text: String,
}

impl Keys {
    /// Keys from their texts.
    pub fn new(access_key: &str, secret_key: &str, security_token: Option<&str>) -> Self {
        Self(Credentials::new(access_key, secret_key, security_token.map(str::to_owned), None, "usp-storage-cache"))
    }

    /// Keys as they stand in the directives.
    pub fn of(keys: &signing::Keys<'_>) -> Self {
        Self::new(keys.access_key, keys.secret_key, keys.security_token)
    }

    /// The key's id, which is no secret.
    pub fn access_key(&self) -> &str {
        self.0.access_key_id()
    }

    /// The secret that signs.
    pub fn secret_key(&self) -> &str {
        self.0.secret_access_key()
    }

    /// What is sent along with a signature by temporary keys.
    pub fn security_token(&self) -> Option<&str> {
        self.0.session_token()
    }

    /// The same for the signing library.
    pub fn credentials(&self) -> &Credentials {
        &self.0
    }
}

/// The keys that the chain gives a process which shares them with no other, and when they expire; none where no source has any.
/// Takes as long as the sources take; the error says why they failed.
pub fn of_chain() -> Result<Option<(Keys, Option<SystemTime>)>, String> {
    let named = signing::Identity { keys: None, role: None, is_explicit: true };
    match chain::fetch(&Identity::of(&named, None)) {
        Ok(credentials) => {
            let expires_at = credentials.expiry();
            Ok(Some((Keys(credentials), expires_at)))
        }
        Err(Trouble::Nothing(_)) => Ok(None),
        Err(Trouble::Failed(why)) => Err(why),
    }
}

/// The region that the environment or the profile tells.
pub fn region_of_chain() -> Option<String> {
    chain::fetch_region()
}

impl Keyring {
    /// The credentials that `table` holds; who may fetch them is told by the store's lock bytes.
    pub fn new(table: Arc<Table>, store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            table,
            store,
            held: Mutex::default(),
            reports: Mutex::default(),
            has_told_many: AtomicBool::new(false),
        })
    }

    /// The keys of `identity` as they are now, or none; what is not known or will soon expire is fetched in the background.
    ///
    /// Never waits: for requests in httpd's own threads. Where there are none, [`Identity::is_required`] tells whether a request
    /// without a signature is of any use.
    pub fn current(self: &Arc<Self>, identity: &Arc<Identity>) -> Option<Keys> {
        match self.known(identity) {
            Known::Keys(keys) => Some(keys),
            Known::Unknown | Known::Nothing | Known::Failed => None,
        }
    }

    /// What is known of `identity`; as [`Keyring::current`].
    pub fn known(self: &Arc<Self>, identity: &Arc<Identity>) -> Known {
        let Some(slot) = self.table.slot(identity.digest()) else {
            if !self.has_told_many.swap(true, Ordering::Relaxed) {
                self.report(true, format!("{identity}: no more than {SLOTS} different ones can be asked for"));
            }
            return Known::Failed;
        };
        let now_ms = now_ms();
        let held = self.held(identity, &slot);
        let is_due = held.as_ref().is_none_or(|record| record.refresh_at_ms <= now_ms);
        if is_due {
            self.begin(identity, &slot, |record| record.is_none_or(|record| record.refresh_at_ms <= now_ms));
        }
        held.map_or(Known::Unknown, |record| record.known(now_ms))
    }

    /// What is known of `identity` once somebody has asked; waits for `patience` at the longest.
    pub fn settled(self: &Arc<Self>, identity: &Arc<Identity>, patience: Duration) -> Known {
        let known = self.wait(identity, patience, || match self.known(identity) {
            Known::Unknown => None,
            known => Some(known),
        });
        known.unwrap_or(Known::Unknown)
    }

    /// Other keys than `refused`, which storage no longer takes; waits for `patience` at the longest, and is without where
    /// there are none or storage has had them renewed just now.
    pub fn renewed(self: &Arc<Self>, identity: &Arc<Identity>, refused: &Keys, patience: Duration) -> Option<Keys> {
        let is_other = |keys: &Keys| keys.access_key() != refused.access_key();
        let renewed = self.wait(identity, patience, || {
            let slot = self.table.slot(identity.digest())?;
            if let Some(keys) = self.held(identity, &slot).and_then(|record| record.keys).filter(is_other) {
                return Some(Some(keys));
            }
            let is_due = |_: Option<&Record>| {
                let at_ms = now_ms();
                let is_due = at_ms.saturating_sub(slot.renewed_at_ms().load(Ordering::Relaxed)) >= RENEWAL_MS;
                if is_due {
                    slot.renewed_at_ms().store(at_ms, Ordering::Relaxed);
                }
                is_due
            };
            match self.begin(identity, &slot, is_due) {
                Duty::Idle => Some(None),
                Duty::Ours | Duty::Others => None,
            }
        });
        renewed.flatten()
    }

    /// Has what this process uses fetched again before it expires; to be called once a second.
    pub fn tick(self: &Arc<Self>) {
        let used: Vec<_> = self.held.lock().values().map(|held| held.identity.clone()).collect();
        used.iter().for_each(|identity| drop(self.known(identity)));
    }

    /// The lines for the error log that have come up.
    pub fn reports(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports.lock())
    }

    /// The record of a slot, copied where it has changed.
    fn held(&self, identity: &Arc<Identity>, slot: &Slot<'_>) -> Option<Record> {
        let mut held = self.held.lock();
        if let Some(held) = held.get(&identity.digest()).filter(|held| held.number == slot.current()) {
            return Some(held.record.clone());
        }
        let (number, record) = slot.read()?;
        held.insert(identity.digest(), Held { identity: identity.clone(), number, record: record.clone() });
        Some(record)
    }

    /// Asks `ready` until it has something, each time a record has been written.
    fn wait<T>(&self, identity: &Identity, patience: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        let until = Instant::now() + patience;
        let slot = self.table.slot(identity.digest())?;
        loop {
            let seen = slot.written().load(Ordering::Acquire);
            if let Some(found) = ready() {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            sys::sleep(slot.written(), seen, NonZeroU32::MAX, SLICE.min(left));
        }
    }

    /// Fetches credentials in a thread of its own, if nobody else does so and it still `is_due` then.
    fn begin(
        self: &Arc<Self>,
        identity: &Arc<Identity>,
        slot: &Slot<'_>,
        is_due: impl FnOnce(Option<&Record>) -> bool,
    ) -> Duty {
        let lock = match self.store.lock_byte(slot.lock_byte()) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Duty::Others,
            Err(e) => {
                self.report(true, format!("{identity} cannot be fetched: {e}"));
                return Duty::Idle;
            }
        };
        if !is_due(slot.read().map(|(_, record)| record).as_ref()) {
            return Duty::Idle;
        }
        let (keyring, identity) = (self.clone(), identity.clone());
        match spawn_quietly("usc-credentials", move || keyring.refresh(&identity, lock)) {
            Ok(()) => Duty::Ours,
            // The next who asks tries again.
            Err(_) => Duty::Idle,
        }
    }

    /// Fetches credentials and writes down what came of it.
    fn refresh(&self, identity: &Identity, lock: ByteLock) {
        let Some(slot) = self.table.slot(identity.digest()) else { return };
        let before = slot.read().map(|(_, record)| record);
        let came = catch_unwind(AssertUnwindSafe(|| chain::fetch(identity)));
        let came = came.unwrap_or_else(|_| Err(Trouble::Failed("a panic: see above".into())));
        let random = random().unwrap_or_default();
        let (record, mut report) = outcome(identity, before.clone(), came, now_ms(), random);
        if !slot.write(&record) {
            let too_long = Err(Trouble::Failed("they are longer than what is kept".into()));
            let failed = outcome(identity, before, too_long, now_ms(), random);
            report = failed.1;
            // What was there fits.
            slot.write(&failed.0);
        }
        self.reports.lock().extend(report);
        // Free before anybody looks again.
        drop(lock);
        sys::wake(slot.written(), NonZeroU32::MAX);
    }

    fn report(&self, is_warning: bool, text: String) {
        let mut reports = self.reports.lock();
        if reports.len() < SLOTS as usize {
            reports.push(Report { is_warning, text });
        }
    }
}

/// Who fetches credentials.
enum Duty {
    /// A thread that has just been begun.
    Ours,
    /// Another thread or process.
    Others,
    /// Nobody.
    Idle,
}

impl Record {
    fn known(&self, now_ms: u64) -> Known {
        match &self.keys {
            Some(keys) if self.expires_at_ms.is_none_or(|at| now_ms < at) => Known::Keys(keys.clone()),
            None if self.failures == 0 => Known::Nothing,
            _ => Known::Failed,
        }
    }
}

/// The record that follows on `before` when this came, and what is said of it.
fn outcome(
    identity: &Identity,
    before: Option<Record>,
    came: Result<Credentials, Trouble>,
    now_ms: u64,
    random: u64,
) -> (Record, Option<Report>) {
    let report = |is_warning, text| Some(Report { is_warning, text });
    let had = before.unwrap_or_default();
    let why = match came {
        Ok(credentials) => {
            let expires_at_ms = credentials.expiry().map(table::ms_of);
            let is_first = had.keys.is_none() || had.failures > 0;
            let text = || format!("{identity} have been fetched");
            let report = is_first.then(text).and_then(|text| report(false, text));
            let refresh_at_ms = refresh_at_ms(expires_at_ms, now_ms, random);
            return (Record { keys: Some(Keys(credentials)), expires_at_ms, refresh_at_ms, failures: 0 }, report);
        }
        Err(Trouble::Nothing(why)) if had.keys.is_none() && !identity.is_required() => {
            let is_first = had.refresh_at_ms == 0;
            let text = || format!("there are no {identity}: requests go out unsigned ({why})");
            let report = is_first.then(text).and_then(|text| report(false, text));
            return (Record { refresh_at_ms: now_ms + RECHECK_MS, ..Record::default() }, report);
        }
        Err(Trouble::Nothing(why) | Trouble::Failed(why)) => why,
    };
    let failures = had.failures.saturating_add(1);
    let pause_ms = (RETRY_MS << had.failures.min(6)).min(RETRY_MS_MAX);
    let text = || {
        let left = had.expires_at_ms.map_or(u64::MAX, |at| at.saturating_sub(now_ms)) / 1000;
        let until = match &had.keys {
            Some(_) if left == u64::MAX / 1000 => "those there are stay in use".into(),
            Some(_) if left > 0 => format!("those there are stay in use for the {left} s that they are valid"),
            Some(_) => "those there were have expired".into(),
            None => "there are none".into(),
        };
        let hint = match identity.role {
            Some(_) => "the role's trust policy, S3RoleARN, and the AWS_* variables of httpd's environment",
            None => "the AWS_* variables of httpd's environment, and the role of the container or instance",
        };
        format!("{identity} cannot be fetched: {why}; {until}; look at {hint}")
    };
    let report = failures.is_power_of_two().then(text).and_then(|text| report(true, text));
    let refresh_at_ms = now_ms + pause_ms + random % (pause_ms / 4);
    (Record { refresh_at_ms, failures, ..had }, report)
}

/// When to fetch credentials again that expire then.
fn refresh_at_ms(expires_at_ms: Option<u64>, now_ms: u64, random: u64) -> u64 {
    let Some(expires_at_ms) = expires_at_ms else { return now_ms + RECHECK_MS + random % MARGIN_MS };
    let left_ms = expires_at_ms.saturating_sub(now_ms);
    let margin_ms = (MARGIN_MS + random % MARGIN_MS).min(left_ms / 2);
    (expires_at_ms - margin_ms.min(expires_at_ms)).max(now_ms + RETRY_MS)
}

#[cfg(test)]
mod tests;
