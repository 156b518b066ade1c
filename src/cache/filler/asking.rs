//! How a filler asks storage: of which one, over the host's connections, again where it may help; and what the breaker hears.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::Filler;
use crate::cache::breaker::Breaker;
use crate::cache::wait::Urgency;
use crate::cache::{Key, LOGGED_MS, ReportLevel, now_ms};
use crate::fetch::hedge::first_of;
use crate::fetch::retry::Pauses;
use crate::fetch::{Answer, Failure, Question, Rules, sigv4};
use crate::semantics::validation::Validators;
use crate::store::connections::{Connection, Use};
use crate::store::counters::table::{Kind, Measure};

impl Filler {
    /// Asks storage over one of the host's connections.
    pub(in crate::cache) fn get_for(
        &self,
        what_for: Use,
        question: &Question<'_>,
    ) -> Result<(Answer, Connection), Failure> {
        // The entry that is asked about can be served instead.
        let can_wait = question.not == Validators::default();
        let hedges = can_wait && self.urgency == Urgency::Demand && self.order.rules.hedges;
        self.patiently(can_wait, what_for, |connection| {
            self.tell_region();
            let (key, rules) = self.asked_of();
            let begun = Instant::now();
            let came = match self.cache.hedges.late_after(key.authority()).filter(|_| hedges) {
                Some(late_after) => self.hedged(question, connection, late_after),
                None => {
                    let answer = self.cache.client.get(key, rules, question, SystemTime::now());
                    answer.map(|answer| (answer, connection))
                }
            };
            if came.as_ref().err().is_none_or(Failure::is_answer) {
                self.cost.is_answered();
            }
            if came.is_ok() {
                self.lock.store().counters().own().took(Measure::FirstByte, begun.elapsed());
            }
            if hedges && came.is_ok() {
                // Where a second request was answered first, the first one takes longer still.
                self.cache.hedges.took(key.authority(), begun.elapsed());
            }
            self.tell_learned();
            came
        })
    }

    /// Asks for a part of a version, and once more over another connection if the answer has not begun `late_after` that.
    fn hedged(
        &self,
        question: &Question<'_>,
        connection: Connection,
        late_after: Duration,
    ) -> Result<(Answer, Connection), Failure> {
        let (key, rules) = self.asked_of();
        // What is sent outlives this call if the other one is answered first.
        let sent = Arc::new((self.cache.clone(), key.clone(), rules.clone(), question.only.map(<[u8]>::to_vec)));
        let part = question.part;
        let ask = |connection: Connection| {
            let sent = sent.clone();
            move || {
                let (cache, key, rules, only) = &*sent;
                let question = Question { part, only: only.as_deref(), not: Validators::default() };
                let answer = cache.client.get(key, rules, &question, SystemTime::now());
                answer.map(|answer| (answer, connection))
            }
        };
        let again = || {
            // Nobody goes without a connection for it.
            let connection = self.cache.connections.take(Use::Bulk, Duration::ZERO, || true).ok().flatten()?;
            self.cache.hedges.spend(key.authority()).then(|| {
                self.cost.hedges();
                self.lock.store().counters().add(Kind::StorageHedges, 1);
                self.lock.store().counters().add(Kind::StorageRequests, 1);
                ask(connection)
            })
        };
        let is_final = |came: &Result<_, Failure>| came.as_ref().err().is_none_or(|failure| !failure.passes());
        let came = first_of(ask(connection), late_after, again, is_final);
        came.unwrap_or_else(|| Err(Failure::Broken("no thread, or a panic: see above".into())))
    }

    /// Asks storage for the object's fields and checksums.
    pub(in crate::cache) fn head(&self) -> Result<Answer, Failure> {
        let (key, rules) = self.asked_of();
        let head = |connection| Ok((self.cache.client.head(key, rules, SystemTime::now())?, connection));
        self.patiently(true, Use::Bulk, head).map(|(answer, _)| answer)
    }

    /// Has storage answer; where who waits `can_wait` it is asked again after a failure that may pass. The breaker is told of
    /// the last try alone.
    fn patiently(
        &self,
        can_wait: bool,
        what_for: Use,
        ask: impl Fn(Connection) -> Result<(Answer, Connection), Failure>,
    ) -> Result<(Answer, Connection), Failure> {
        let is_probe = self.with_breaker(|breaker| breaker.is_open());
        let patience = match can_wait && !is_probe {
            true if self.has_another() => self.order.wait / 2,
            true => self.order.wait,
            false => Duration::ZERO,
        };
        let mut pauses = Pauses::within(patience);
        loop {
            // Others may have the connection during a pause.
            let connection = self.connection(what_for)?;
            self.cost.asks();
            self.lock.store().counters().add(Kind::StorageRequests, 1);
            let came = ask(connection);
            let pause = came.as_ref().err().and_then(|failure| pauses.next(failure));
            let Some(pause) = pause.filter(|_| !self.cache.is_stopping()) else {
                self.judge(came.as_ref().err());
                return came;
            };
            self.cost.asks_again();
            self.lock.store().counters().add(Kind::StorageRetries, 1);
            std::thread::sleep(pause);
        }
    }

    /// What is asked for, and how.
    fn asked_of(&self) -> (&Key, &Rules) {
        self.elsewhere.get().map_or((&self.order.key, &self.order.rules), |other| (&other.key, &other.rules))
    }

    /// What a version carries of the storage that it is of.
    pub(super) fn source(&self) -> u32 {
        self.elsewhere.get().map_or(0, |other| other.source)
    }

    /// Whether another storage is asked if this one fails.
    pub(in crate::cache) fn has_another(&self) -> bool {
        self.elsewhere.get().is_none() && self.order.elsewhere().is_some()
    }

    /// The breaker of the storage that is asked does `what`.
    fn with_breaker<T>(&self, what: impl FnOnce(Breaker<'_>) -> T) -> T {
        what(self.lock.store().control().breaker(self.asked_of().0.authority()))
    }

    fn connection(&self, what_for: Use) -> Result<Connection, Failure> {
        let what_for = if self.urgency == Urgency::Background { Use::Background } else { what_for };
        let is_wanted = || !self.cache.is_stopping();
        let taken = self.cache.connections.take(what_for, self.order.wait, is_wanted).map_err(Failure::Store)?;
        taken.ok_or(Failure::Busy)
    }

    /// Tells the breaker how storage does.
    pub(in crate::cache) fn judge(&self, failure: Option<&Failure>) {
        // What has a status was answered, whatever the answer.
        let is_well = failure.is_none_or(|failure| {
            matches!(failure, Failure::Status(_) | Failure::Refused(_)) && failure.blame().is_none()
        });
        if is_well {
            return self.with_breaker(|breaker| breaker.succeeded());
        }
        let Some(failure) = failure else { return };
        let Some(is_hang) = failure.blame().filter(|_| !self.cache.is_stopping()) else { return };
        if self.with_breaker(|breaker| breaker.failed(is_hang, now_ms())) {
            let line = format!("storage at {} fails ({failure}): fills pause", self.asked_of().0.authority());
            self.cache.report(ReportLevel::Warning, line);
        }
    }

    /// Says what refusals have taught.
    fn tell_learned(&self) {
        // A storage that changes its mind with each answer has a line a minute.
        let is_due = |line: &String| self.cache.logged.is_due(line.as_bytes(), now_ms(), LOGGED_MS);
        for line in self.cache.client.told().into_iter().filter(is_due) {
            self.cache.report(ReportLevel::Warning, line);
        }
    }

    /// Says once that no region is configured and which one is signed for.
    fn tell_region(&self) {
        let (rules, key) = (&self.order.rules, &self.order.key);
        let signs = || rules.credentials.current(&self.cache.keyring).is_some();
        let told = &self.cache.has_told_region;
        if rules.region.is_none() && !told.load(Ordering::Relaxed) && signs() && !told.swap(true, Ordering::Relaxed) {
            let (region, host) = (sigv4::region(rules, key), key.authority());
            let line = format!("no S3Region is set: requests to {host} are signed (version 4) for {region}");
            self.cache.report(ReportLevel::Notice, line);
        }
    }
}
