//! Fetching a version into the store, in a thread of its own and under the key's lock: asks storage, begins or goes on with a
//! fill, proves and publishes it.
//!
//! # Invariants
//!
//! - Bytes of two versions never meet in one file: each answer carries the ETag and the length of the version in its own head,
//!   or is the only answer that the file is made of.
//! - What was fetched before a purge is not there after it: the purge's number is read before storage is asked.
//! - A failure is noted before the lock is free, so that who waits learns of it and does not try for itself.

#![forbid(unsafe_code)]

mod asking;
mod cost;

use std::io;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use self::cost::Cost;
use super::breaker::Admission;
use super::order::{Elsewhere, Order};
use super::parts::Parts;
use super::wait::Urgency;
use super::{Cache, Key, ReportLevel, Standing, now_ms, standing, verify};
use crate::fetch::{Answer, Failure, Kind, Part, Question};
use crate::semantics::freshness::{initial_age_secs, storable};
use crate::semantics::range::{Asked, ByteRange};
use crate::semantics::validation::{Validators, is_strong, selects, updated, vouches_for};
use crate::store::connections::{Connection, Use};
use crate::store::counters::table::Kind as Counted;
use crate::store::fill::Landing;
use crate::store::format::{BLOCK_LEN, Meta, PurgeMark};
use crate::store::{Fill, KeyLock, Version, spawn_quietly, sys};

/// What the first GET asks for of an object of which the beginning is wanted: a small object comes whole, and a large one has not
/// cost much by the time its length is known.
const FIRST_LEN: u64 = 1024 * 1024;
/// How often a fill begins anew because the object has changed under it.
const RESTARTS_MAX: usize = 2;

/// A fill on its way.
pub(super) struct Filler {
    /// One of the fills that a process may have under way.
    active: Active,
    pub(super) cache: Arc<Cache>,
    pub(super) order: Arc<Order>,
    lock: Arc<KeyLock>,
    /// What the request that began the fill wants.
    asked: Asked,
    pub(super) urgency: Urgency,
    /// Entries that were vouched for before this time are asked about even if they are fresh.
    not_before_ms: u64,
    /// The object's length, where what is wanted selects nothing of it.
    unsatisfiable: Arc<OnceLock<u64>>,
    /// Whether the storage that the key names may be asked.
    asks_first: bool,
    /// The storage that is asked instead, from when on there is reason to.
    elsewhere: OnceLock<Elsewhere>,
    cost: Cost,
}

/// What came of a fill.
enum Done {
    /// Nothing had to be done.
    Nothing,
    /// Storage vouched for the entry.
    Vouched,
    /// The version was published.
    Filled(Arc<Version>),
    /// What is wanted selects nothing of an object of so many bytes; nothing was filled.
    Unsatisfiable(u64),
}

/// An answer with a part of a version, or all of it.
pub(super) struct Arrival {
    pub(super) answer: Answer,
    /// Where its body begins in the object, and where it ends.
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) connection: Connection,
}

impl Filler {
    /// A fill that is about to begin; `None` where this process has enough of them under way.
    pub(super) fn new(
        cache: &Arc<Cache>,
        order: &Arc<Order>,
        lock: KeyLock,
        asked: Asked,
        urgency: Urgency,
    ) -> Option<Self> {
        Some(Self {
            active: Active::new(cache)?,
            cache: cache.clone(),
            order: order.clone(),
            lock: Arc::new(lock),
            asked,
            urgency,
            not_before_ms: 0,
            unsatisfiable: Arc::default(),
            asks_first: true,
            elsewhere: OnceLock::new(),
            cost: Cost::begin(),
        })
    }

    /// Asks storage again about what it vouched for before `ms`.
    pub(super) fn not_before(self, ms: u64) -> Self {
        Self { not_before_ms: ms, ..self }
    }

    /// Asks only the storage that stands for the first: that one is known to fail.
    pub(super) fn elsewhere_only(self, is_so: bool) -> Self {
        Self { asks_first: !is_so, ..self }
    }

    /// Where it will say that what is wanted selects nothing: that is an answer for who asked for it alone.
    pub(super) fn unsatisfiable(&self) -> Arc<OnceLock<u64>> {
        self.unsatisfiable.clone()
    }

    /// Runs in a thread of its own.
    pub(super) fn spawn(self) -> io::Result<()> {
        spawn_quietly("usc-fill", move || self.run())
    }

    /// Fetches the object, and tells those who wait.
    pub(super) fn run(self) {
        let counters = self.lock.store().counters();
        counters.add(Counted::FillsBegun, 1);
        let mut fill = None;
        // A panic shall not leave the key locked, nor those waiting who wait.
        let done = catch_unwind(AssertUnwindSafe(|| self.fill(&mut fill)));
        let done = done.unwrap_or_else(|_| Err(Failure::Broken("a panic: see above".into())));
        match &done {
            Ok(Done::Filled(_)) => counters.add(Counted::FillsCompleted, 1),
            Ok(Done::Unsatisfiable(len)) => {
                // Nobody else reads it before: who began the fill looks at it when it is woken.
                let _ = self.unsatisfiable.set(*len);
            }
            Ok(Done::Vouched) => counters.add(Counted::Revalidations, 1),
            Ok(Done::Nothing) => {}
            Err(failure) => {
                counters.add_named(Counted::FillsFailed, failure.word());
                self.cache.fail(&self.order, failure);
                settle(fill, failure);
            }
        }
        self.tell(&done);
        // Free before what follows: that may fill other keys.
        let Self { cache, order, lock, active, .. } = self;
        drop((lock, active));
        if let Ok(Done::Filled(version)) = done {
            cache.background.follow_manifest(&cache, &order, &version);
        }
    }

    /// Leaves a line with how the fill has ended and what it cost.
    fn tell(&self, done: &Result<Done, Failure>) {
        let (url, secs) = (self.order.key.url(), self.cost.time().as_secs_f64());
        let line = match done {
            Ok(Done::Nothing) => return,
            Ok(Done::Filled(version)) => format!("filled {url} ({} bytes in {secs:.3} s)", version.len()),
            Ok(Done::Vouched) => format!("revalidated {url} (not modified in {secs:.3} s)"),
            Ok(Done::Unsatisfiable(_)) => format!("gave up {url} (unsatisfiable in {secs:.3} s)"),
            Err(failure) => format!("gave up {url} ({} in {secs:.3} s)", failure.word()),
        };
        self.cache.report(ReportLevel::Info, format!("{line}: {}", self.cost));
    }

    /// Fetches the object, from the second storage if the first fails; `fill` is what there is of it when both do.
    fn fill(&self, fill: &mut Option<Fill>) -> Result<Done, Failure> {
        let failure = match self.asks_first.then(|| self.fill_from_one(fill)) {
            Some(Err(failure)) if failure.is_storages() => failure,
            Some(done) => return done,
            None => Failure::Broken("it failed before".into()),
        };
        let Some(elsewhere) = self.order.elsewhere().filter(|_| !self.cache.is_stopping()) else { return Err(failure) };
        let control = self.lock.store().control();
        if control.breaker(elsewhere.key.authority()).admit(now_ms()) == Admission::Open {
            return Err(failure);
        }
        if let Some(first) = fill.take() {
            first.discard();
        }
        let line = format!("{} is asked for {}: {failure}", elsewhere.key.authority(), self.order.key.url());
        self.cache.report_instead(&self.order.key, line);
        let _ = self.elsewhere.set(elsewhere);
        // What a copy says of an object that it has not is no word about the object.
        self.fill_from_one(fill).map_err(|_| failure)
    }

    fn fill_from_one(&self, fill: &mut Option<Fill>) -> Result<Done, Failure> {
        for _ in 0..=RESTARTS_MAX {
            match self.attempt(fill) {
                Err(Failure::Changed) => fill.take().map_or((), Fill::discard),
                other => return other,
            }
        }
        Err(Failure::Changed)
    }

    fn attempt(&self, fill: &mut Option<Fill>) -> Result<Done, Failure> {
        let store = self.lock.store();
        let (url, scope) = (self.order.key.url(), self.order.key.scope());
        let purges = store.control().purge_mark(&self.order.name);
        let entry = store.entry(&self.order.name, url, scope, None).map_err(Failure::Store)?;
        if entry.as_ref().is_some_and(|entry| self.needs_nothing(entry)) {
            return Ok(Done::Nothing);
        }
        *fill = match Fill::resume(&self.lock, url, scope).map_err(Failure::Store)? {
            Some(left) if !self.is_worth_keeping(&left) => {
                left.discard();
                None
            }
            left => left,
        };
        // One that is whole needs no further word of storage's while it is fresh.
        if entry.is_none()
            && let Some(left) = fill.as_ref().filter(|left| left.is_whole() && self.needs_nothing(left.version()))
        {
            let vouched_at_ms = left.version().validated_at_ms();
            self.prove(left, true)?;
            return self.publish(fill, vouched_at_ms);
        }
        let asked_at_ms = now_ms();
        let arrival = match self.ask(entry.as_deref(), fill.as_ref()) {
            Ok(Asking::Came(arrival)) => arrival,
            Ok(Asking::Unsatisfiable(len)) => return Ok(Done::Unsatisfiable(len)),
            Ok(Asking::Vouched(answer)) => {
                let entry = entry.ok_or(Failure::Answer("304 to a request without a condition"))?;
                return self.vouch(&entry, &answer, (asked_at_ms, purges), fill);
            }
            // A copy may be behind.
            Err(gone @ Failure::Status(404 | 410)) if self.elsewhere.get().is_none() => {
                entry.map_or(Ok(false), |entry| self.lock.discard(entry.identity())).map_err(Failure::Store)?;
                return Err(gone);
            }
            Err(failure) => return Err(failure),
        };
        let meta = self.meta(&arrival, asked_at_ms, purges)?;
        let (fill_now, parts) = self.begin(fill.take(), &meta, &arrival)?;
        let fill_now = fill.insert(fill_now);
        let is_s3 = arrival.answer.is_s3;
        match parts {
            _ if fill_now.is_whole() => drop(arrival),
            true => Parts::new(self, fill_now).fetch(Some(arrival))?,
            false => match self.land(fill_now, arrival) {
                // The rest of it can be told from another version's.
                Err(failure) if failure.blame() == Some(false) && is_of_one_version(fill_now) => {
                    Parts::new(self, fill_now).fetch(None)?;
                }
                landed => landed?,
            },
        }
        self.prove(fill_now, is_s3)?;
        self.publish(fill, asked_at_ms)
    }

    /// Whether a version is as good as a new one: somebody else has filled or revalidated it.
    fn needs_nothing(&self, version: &Version) -> bool {
        let is_fresh = matches!(standing(version, &self.order.policy, now_ms()), Standing::Fresh { .. });
        is_fresh && version.validated_at_ms() >= self.not_before_ms
    }

    /// Whether to go on with what somebody else has begun: only where each answer can be told to be of the same version.
    fn is_worth_keeping(&self, left: &Fill) -> bool {
        let is_purged = left.version().purges() != self.lock.store().control().purge_mark(&self.order.name);
        is_of_one_version(left) && !is_purged && left.version().source() == self.source()
    }

    /// The first GET: of the blocks that are wanted first, unless the version is that of `entry`.
    fn ask(&self, entry: Option<&Version>, left: Option<&Fill>) -> Result<Asking, Failure> {
        let not =
            entry.map_or_else(Validators::default, |entry| selects(entry.field("etag"), entry.field("last-modified")));
        let first = first_part(self.asked, left, self.order.part_len);
        // An answer that cannot be used has the whole object asked for, whatever is stored.
        for (part, not) in [(Some(first), not), (None, Validators::default())] {
            let (answer, connection) = self.get(&Question { part, only: None, not })?;
            let vouches = |entry: &Version| vouches_for(answer.field("etag"), entry.field("etag"));
            match (answer.kind, part) {
                (Kind::NotModified, Some(_)) if entry.is_some_and(vouches) => return Ok(Asking::Vouched(answer)),
                (Kind::Whole(None), _) => return Err(Failure::NoLength),
                // Only of what was asked for: a left fill may be of a longer object.
                (Kind::Unsatisfiable(Some(len)), Some(_)) if left.is_none() && self.selects_nothing_of(len) => {
                    return Ok(Asking::Unsatisfiable(len));
                }
                (Kind::Whole(Some(to)), _) => return Ok(Asking::Came(Arrival { answer, from: 0, to, connection })),
                (Kind::Part { from, to, total }, Some(part)) if fits(part, from, to, total) => {
                    let is_whole = from == 0 && to == total;
                    if is_whole || total > self.order.object_len_max || answer.field("etag").is_some_and(is_strong) {
                        return Ok(Asking::Came(Arrival { answer, from, to, connection }));
                    }
                }
                _ => {}
            }
        }
        Err(Failure::Answer("neither the object nor a part of it"))
    }

    fn selects_nothing_of(&self, len: u64) -> bool {
        matches!(self.asked, Asked::One(range) if range.resolve(len).is_none())
    }

    /// Asks storage for what somebody may wait for.
    fn get(&self, question: &Question<'_>) -> Result<(Answer, Connection), Failure> {
        self.get_for(Use::Urgent, question)
    }

    /// What is stored of an answer beside its body.
    fn meta(&self, arrival: &Arrival, asked_at_ms: u64, purges: PurgeMark) -> Result<Meta, Failure> {
        let body_len = arrival.len();
        if body_len > self.order.object_len_max {
            return Err(Failure::TooLarge(body_len));
        }
        let fields = arrival.answer.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        storable(fields, self.order.policy, false).map_err(Failure::NotStorable)?;
        Ok(Meta {
            url: self.order.key.url().into(),
            scope: self.order.key.scope().into(),
            body_len,
            fetched_at_ms: asked_at_ms,
            initial_age_secs: self.initial_age_secs(&arrival.answer, asked_at_ms),
            purges,
            source: self.source(),
            fields: arrival.answer.fields.clone(),
        })
    }

    /// How old an answer was when storage was asked for it. Clocks that disagree are no age where storage has no say.
    fn initial_age_secs(&self, answer: &Answer, asked_at_ms: u64) -> u32 {
        if !self.order.policy.honor {
            return answer.age_secs;
        }
        let age = answer.age_secs.to_string();
        let fields = answer.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        initial_age_secs(fields.chain([(&b"age"[..], age.as_bytes())]), asked_at_ms / 1000)
    }

    /// The fill that an answer belongs to, and whether the rest of it comes in parts.
    fn begin(&self, left: Option<Fill>, meta: &Meta, arrival: &Arrival) -> Result<(Fill, bool), Failure> {
        let is_part = matches!(arrival.answer.kind, Kind::Part { .. }) && arrival.to - arrival.from < meta.body_len;
        let is_same = |left: &Fill| {
            left.version().len() == meta.body_len && left.version().field("etag") == arrival.answer.field("etag")
        };
        match left {
            Some(left) if is_same(&left) => {
                left.confirm();
                Ok((left, is_part))
            }
            other => {
                if let Some(other) = other {
                    other.discard();
                }
                Ok((Fill::begin(&self.lock, meta).map_err(Failure::Store)?, is_part))
            }
        }
    }

    /// Lands the blocks that an answer brings.
    pub(super) fn land(&self, fill: &Fill, arrival: Arrival) -> Result<(), Failure> {
        let Arrival { answer, from, to, connection: _connection } = arrival;
        let mut landing = Landing::new(fill, from);
        self.cost.brings_part();
        let (begun, counters) = (Instant::now(), self.lock.store().counters());
        let landed = answer.body.copy(to - from, |piece| {
            counters.add(Counted::FetchedBytes, piece.len() as u64);
            landing.write(piece)
        });
        if landed.is_ok() {
            self.cache.count_body(to - from, begun.elapsed());
        }
        if let Err(failure) = &landed {
            self.judge(Some(failure));
        }
        landed
    }

    /// Holds what came against what storage states of it.
    fn prove(&self, fill: &Fill, is_s3: bool) -> Result<(), Failure> {
        let Some(which) = verify::doubt(self, fill.version(), is_s3)? else { return Ok(()) };
        // It may be that what storage states is no checksum: then the same bytes come again.
        let (answer, _connection) = self.get(&Question::default())?;
        let Kind::Whole(Some(len)) = answer.kind else { return Err(Failure::Checksum(which)) };
        if len != fill.version().len() || answer.field("etag") != fill.version().field("etag") {
            return Err(Failure::Changed);
        }
        self.cost.brings_part();
        self.lock.store().counters().add(Counted::FetchedBytes, len);
        if !verify::is_same(fill.version(), answer.body)? {
            return Err(Failure::Checksum(which));
        }
        self.cache.remember_odd_etags(&self.order.key, which);
        Ok(())
    }

    fn publish(&self, fill: &mut Option<Fill>, vouched_at_ms: u64) -> Result<Done, Failure> {
        let Some(fill) = fill.take() else { return Ok(Done::Nothing) };
        let version = fill.version().clone();
        fill.publish(vouched_at_ms).map_err(Failure::Store)?;
        self.lock.store().control().forget_note(&self.order.digest);
        Ok(Done::Filled(version))
    }

    /// Storage has vouched for the entry: its time is set, or a copy with the new fields takes its place where they count.
    fn vouch(
        &self,
        entry: &Version,
        answer: &Answer,
        (asked_at_ms, purges): (u64, PurgeMark),
        fill: &mut Option<Fill>,
    ) -> Result<Done, Failure> {
        if let Some(other) = fill.take() {
            other.discard();
        }
        let age_secs = self.initial_age_secs(answer, asked_at_ms);
        if self.order.policy.honor {
            let stored = entry.fields();
            let stored = stored.map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_bytes().to_vec()));
            let stored: Vec<_> = stored.collect();
            let fields = updated(&stored, &answer.fields);
            if fields.is_some() || age_secs < entry.initial_age_secs() {
                let meta = self.renewed(entry, fields.unwrap_or(stored), asked_at_ms, (age_secs, purges))?;
                self.copy(entry, &meta, fill)?;
                return self.publish(fill, asked_at_ms);
            }
        }
        // What came through another cache is as old as that says.
        let older_ms = u64::from(age_secs.saturating_sub(entry.initial_age_secs())) * 1000;
        self.lock.vouch(entry, asked_at_ms.saturating_sub(older_ms)).map_err(Failure::Store)?;
        Ok(Done::Vouched)
    }

    /// What is stored of an entry that a 304 has changed.
    fn renewed(
        &self,
        entry: &Version,
        fields: Vec<(String, Vec<u8>)>,
        fetched_at_ms: u64,
        (initial_age_secs, purges): (u32, PurgeMark),
    ) -> Result<Meta, Failure> {
        let said = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        storable(said, self.order.policy, false).map_err(Failure::NotStorable)?;
        let (url, scope) = (self.order.key.url().into(), self.order.key.scope().into());
        let (body_len, source) = (entry.len(), entry.source());
        Ok(Meta { url, scope, body_len, fetched_at_ms, initial_age_secs, purges, source, fields })
    }

    /// Begins a fill with the bytes of an entry.
    fn copy(&self, entry: &Version, meta: &Meta, fill: &mut Option<Fill>) -> Result<(), Failure> {
        let copy = fill.insert(Fill::begin(&self.lock, meta).map_err(Failure::Store)?);
        let mut landing = Landing::new(copy, 0);
        for block in 0..entry.layout().blocks() {
            let part = entry.layout().block(block);
            let bytes = entry.check(&part).ok().and_then(|()| entry.body(&part));
            let bytes = bytes.ok_or_else(|| Failure::Store(io::ErrorKind::InvalidData.into()))?;
            landing.write(bytes).map_err(Failure::Store)?;
        }
        Ok(())
    }
}

/// The fills that a process has under way at most: each has a thread, and outlives the request that began it.
const FILLS_MAX: u32 = 128;

/// A fill that is counted, until it is dropped.
struct Active(Arc<Cache>);

impl Active {
    fn new(cache: &Arc<Cache>) -> Option<Self> {
        let more = |count| (count < FILLS_MAX).then_some(count + 1);
        cache.fills.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(cache.clone()))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fills.fetch_sub(1, Ordering::Release);
        // Who waits for the last one looks again.
        sys::wake(&self.0.fills, NonZeroU32::MAX);
    }
}

/// What came of the first question.
enum Asking {
    /// The entry is still what storage has.
    Vouched(Answer),
    /// Another version, or a part of it, comes.
    Came(Arrival),
    /// The part that is wanted selects nothing of an object of so many bytes.
    Unsatisfiable(u64),
}

impl Arrival {
    /// The length of the object, in bytes.
    fn len(&self) -> u64 {
        match self.answer.kind {
            Kind::Part { total, .. } => total,
            _ => self.to,
        }
    }
}

impl Cache {
    /// Whether a storage's ETags are known to be no checksums.
    pub(super) fn has_odd_etags(&self, key: &Key) -> bool {
        self.odd_etags.lock().iter().any(|host| host == key.authority())
    }

    /// Remembers that a storage's ETags are no checksums, and says so once.
    fn remember_odd_etags(&self, key: &Key, which: &str) {
        if self.has_odd_etags(key) {
            return;
        }
        let host = key.authority().to_owned();
        let line = format!("{host} states checksums that are none ({which}): they are no longer looked at");
        self.odd_etags.lock().push(host);
        self.report(ReportLevel::Notice, line);
    }
}

/// A fill that failed stays for whoever tries again, if that can go on with it.
fn settle(fill: Option<Fill>, failure: &Failure) {
    let Some(fill) = fill else { return };
    let is_storages_fault = failure.blame().is_some();
    let can_go_on = is_of_one_version(&fill) && fill.has_landed();
    if is_storages_fault && can_go_on { fill.keep() } else { fill.discard() }
}

/// Whether each further answer can be told to be of the same version.
fn is_of_one_version(fill: &Fill) -> bool {
    fill.version().field("etag").is_some_and(is_strong)
}

/// The part that the first GET asks for: whole blocks, and the missing ones of what is there already.
fn first_part(asked: Asked, left: Option<&Fill>, part_len: u64) -> Part {
    if let Some(left) = left {
        let (len, layout) = (left.version().len(), left.version().layout());
        let from = left.version().missing(&(0..len)).unwrap_or(0);
        let is_missing = |block: &u64| left.version().missing(&layout.block(*block)).is_some();
        // No further than to the next block that is there; where all are, one block asks for the version.
        let missing =
            (from..layout.blocks()).take((FIRST_LEN / BLOCK_LEN) as usize).take_while(is_missing).count() as u64;
        return Part::Span(from * BLOCK_LEN, ((from + missing.max(1)) * BLOCK_LEN).min(len.max(1)));
    }
    let aligned = |from: u64| from / BLOCK_LEN * BLOCK_LEN;
    match asked {
        Asked::One(ByteRange::FromTo(from, last)) => {
            let to = last.saturating_add(1).checked_next_multiple_of(BLOCK_LEN).unwrap_or(u64::MAX);
            Part::Span(aligned(from), to.min(aligned(from).saturating_add(part_len)))
        }
        Asked::One(ByteRange::From(from)) => Part::Span(aligned(from), aligned(from).saturating_add(FIRST_LEN)),
        // The last blocks begin at a multiple of their length, which is not known yet.
        Asked::One(ByteRange::Last(len)) => Part::Last(len.min(part_len) + BLOCK_LEN),
        Asked::Whole | Asked::Several => Part::Span(0, FIRST_LEN),
    }
}

/// Whether an answer is the part that was asked for, or the beginning of it.
pub(super) fn fits(part: Part, from: u64, to: u64, total: u64) -> bool {
    match part {
        Part::Span(asked, end) => from == asked && to <= end,
        Part::Last(len) => from == total.saturating_sub(len) && to == total,
    }
}
