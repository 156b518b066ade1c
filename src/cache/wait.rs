//! How a request waits for what it needs, whoever fetches it.
//!
//! A waiter looks for an entry, a remembered failure, a fill under way; where there is none of them and nobody has the
//! key's lock, it takes the lock and begins a fill. Then it sleeps on a word that the filler moves: the fill's own once its
//! file is there, the slot's in the control block before that.
//!
//! # Invariants
//!
//! - Nobody sleeps longer than a slice without looking whether the filler lives: a killed one wakes nobody.
//! - Nobody waits longer than the order says without progress.
//! - A stream goes on with the version that it began with, or breaks off.

#![forbid(unsafe_code)]

use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::breaker::Admission;
use super::filler::Filler;
use super::notes::Note;
use super::order::Order;
use super::{Ask, Cache, Found, Outcome, Reason, Standing, Want, now_ms, standing};
use crate::semantics::freshness::storable;
use crate::semantics::range::Asked;
use crate::store::format::BLOCK_LEN;
use crate::store::{Fill, KeyLock, Version, sys};

/// The longest sleep.
const SLICE: Duration = Duration::from_millis(250);
/// What a stream gives at once.
const PIECE_LEN: u64 = 1024 * 1024;
/// How far ahead of what it sends a stream asks for blocks.
const AHEAD_LEN: u64 = 32 * 1024 * 1024;

/// A request that waits.
pub(super) struct Waiter<'w> {
    cache: &'w Arc<Cache>,
    order: &'w Arc<Order>,
    want: Want,
    /// When the request came: what was found out after that is an answer to it.
    since_ms: u64,
    /// What was held before.
    stale: Option<&'w Arc<Version>>,
    patience: Patience,
    /// Whether the storage that the key names is not to be asked.
    is_first_out: bool,
    /// Whether this request began the fill.
    is_pilot: bool,
    has_waited: bool,
    /// Where the filler that this request began says that its range selects nothing.
    unsatisfiable: Option<Arc<OnceLock<u64>>>,
}

/// What came of following a fill.
pub(super) enum Followed {
    /// What is needed is there.
    Ready,
    /// It is over, or somebody else's turn: look again.
    Again,
    /// There is nothing to wait for.
    Over(Reason),
}

impl<'w> Waiter<'w> {
    pub(super) fn new(
        cache: &'w Arc<Cache>,
        order: &'w Arc<Order>,
        ask: &Ask<'_>,
        stale: Option<&'w Arc<Version>>,
    ) -> Self {
        Self {
            cache,
            order,
            want: ask.want,
            since_ms: ask.now_ms,
            stale,
            patience: Patience::new(order.wait),
            is_first_out: false,
            is_pilot: false,
            has_waited: false,
            unsatisfiable: None,
        }
    }

    /// Waits for what the answer begins with, or for a reason to leave it to mod_proxy.
    pub(super) fn run(mut self) -> Found {
        if let Some(found) = self.remembered() {
            return found;
        }
        self.is_first_out = self.cache.with_breaker(self.order, |breaker| breaker.admit(now_ms())) == Admission::Open;
        if self.is_first_out && self.order.elsewhere().is_none() {
            return Found::Pass(Reason::Breaker);
        }
        loop {
            match self.look() {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(e) => return Found::Pass(self.cache.trouble(&self.order.key, e)),
            }
        }
    }

    /// One round: what there is, or a sleep.
    fn look(&mut self) -> io::Result<Option<Found>> {
        let (cache, order) = (self.cache, self.order);
        let control = cache.store.control();
        let signal = control.signal(control.slot(&order.name));
        let seen = signal.load(Ordering::Acquire);
        if let Some(len) = self.unsatisfiable.as_ref().and_then(|len| len.get()) {
            return Ok(Some(Found::Unsatisfiable(*len)));
        }
        if let Some(found) = self.entry()?.or_else(|| self.remembered()) {
            return Ok(Some(found));
        }
        if let Some(lock) = cache.store.lock(&order.name)? {
            // Whoever had it may have filled the key meanwhile.
            match self.entry()?.or_else(|| self.remembered()) {
                Some(found) => return Ok(Some(found)),
                None if self.begin(lock)? => {}
                None => return Ok(Some(Found::Pass(Reason::Busy))),
            }
        }
        if let Some(fill) = cache.store.fill(order.sought())?.filter(|fill| self.takes(fill)) {
            return Ok(match self.follow(&fill) {
                Followed::Ready => Some(self.filling(fill)),
                Followed::Again => None,
                Followed::Over(reason) => Some(Found::Pass(reason)),
            });
        }
        // It may have become an entry between the two looks.
        if let Some(found) = self.entry()? {
            return Ok(Some(found));
        }
        sys::sleep(signal, seen, NonZeroU32::MAX, self.patience.slice());
        self.has_waited = true;
        Ok(self.given_up().map(Found::Pass))
    }

    fn follow(&mut self, fill: &Arc<Version>) -> Followed {
        let part = self.part(fill);
        let needed = if self.want.streams { part.start..(part.start + 1).min(part.end) } else { part.clone() };
        let wanted = part.start..part.end.min(part.start + AHEAD_LEN);
        let follower = Follower { cache: self.cache, order: self.order, since_ms: Some(self.since_ms) };
        self.has_waited |= fill.missing(&part).is_some();
        follower.follow(fill, &needed, &wanted, &mut self.patience)
    }

    /// The part of an object that the answer needs; none where the range selects nothing.
    fn part(&self, version: &Version) -> Range<u64> {
        match self.want.asked {
            Asked::One(range) => range.resolve(version.len()).unwrap_or(0..0),
            Asked::Whole | Asked::Several => 0..version.len(),
        }
    }

    fn filling(&self, version: Arc<Version>) -> Found {
        let outcome = self.outcome(&version);
        let stream = Stream { cache: self.cache.clone(), order: self.order.clone(), version };
        Found::Filling(stream, outcome)
    }

    /// How an answer with this version has come about.
    fn outcome(&self, version: &Version) -> Outcome {
        let stale = self.stale.is_some();
        let is_same = self.stale.is_some_and(|stale| stale.identity() == version.identity());
        match () {
            () if self.is_first() => Outcome::Hit { ttl_secs: self.ttl_secs(version).unwrap_or(0) },
            () if is_same => Outcome::Revalidated { collapsed: !self.is_pilot },
            () if self.is_pilot => Outcome::Filled { stale },
            () => Outcome::Collapsed { stale },
        }
    }

    fn ttl_secs(&self, version: &Version) -> Option<u64> {
        match standing(version, &self.order.policy, now_ms().max(self.since_ms)) {
            Standing::Fresh { ttl_secs } => Some(ttl_secs),
            _ => None,
        }
    }

    /// An entry that is fresh, or that storage has vouched for since the request came.
    fn entry(&self) -> io::Result<Option<Found>> {
        let Some(entry) = self.cache.on_disk(&self.order.key, &self.order.name)? else { return Ok(None) };
        // By a clock that ticks every few milliseconds, what was asked for in the same tick may have been before.
        let is_new = self.cache.is_new(self.order, &entry, self.since_ms + u64::from(!self.is_pilot));
        if self.ttl_secs(&entry).is_none() && !is_new {
            return Ok(None);
        }
        entry.touch(self.since_ms / 1000);
        let outcome = self.outcome(&entry);
        Ok(Some(Found::Entry(entry, outcome)))
    }

    /// What is remembered of the object, if it still holds or was found out since the request came.
    fn remembered(&self) -> Option<Found> {
        let is_first = self.is_first();
        let since_ms = if is_first { u64::MAX } else { self.since_ms };
        let (note, _) = remembered(self.cache, self.order, since_ms)?;
        Some(match note {
            Note::Absent(status) if is_first => Found::Absent(status),
            note => Found::Pass(reason(note)),
        })
    }

    /// Whether nobody has done anything for this request yet: what there is was found out before it came, by however little.
    fn is_first(&self) -> bool {
        !self.is_pilot && !self.has_waited
    }

    /// Whether the version that is being fetched may be an answer: it was asked for a short time ago and not purged since.
    fn takes(&self, fill: &Version) -> bool {
        !fill.progress().has_ended() && self.cache.is_acceptable(self.order, fill, self.since_ms)
    }

    /// Begins a fill; false where this process has too many under way.
    fn begin(&mut self, lock: KeyLock) -> io::Result<bool> {
        Fill::mark_left(&lock, self.order.key.url(), self.order.key.scope())?;
        let filler = Filler::new(self.cache, self.order, lock, self.want.asked, Urgency::Demand);
        let Some(filler) = filler else { return Ok(false) };
        let filler = filler.elsewhere_only(self.is_first_out);
        self.is_pilot = true;
        self.unsatisfiable = Some(filler.unsatisfiable());
        filler.spawn().map(|()| true)
    }

    fn given_up(&self) -> Option<Reason> {
        given_up(self.cache, &self.patience)
    }
}

/// How much somebody waits for a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A request waits.
    Demand,
    /// Nobody does.
    Background,
}

impl Cache {
    /// Whether a version that is being fetched may answer a request of `since_ms`: it was asked for a short time ago, and not
    /// purged since.
    pub(super) fn is_acceptable(&self, order: &Order, fill: &Version, since_ms: u64) -> bool {
        if fill.purges() != self.store.control().purge_mark(&order.name) {
            return false;
        }
        let Some(age_ms) = now_ms().checked_sub(fill.validated_at_ms()) else { return false };
        let is_fresh = matches!(standing(fill, &order.policy, now_ms()), Standing::Fresh { .. });
        // What is joined while it comes need not be asked for again, unless storage has a say.
        let is_young = !order.policy.honor && age_ms <= u64::try_from(order.wait.as_millis()).unwrap_or(u64::MAX);
        is_fresh || is_young || self.is_new(order, fill, since_ms)
    }

    /// Whether storage has vouched for a version since `since_ms`, and lets it be stored: then it answers a request of that
    /// time, fresh or not.
    fn is_new(&self, order: &Order, version: &Version, since_ms: u64) -> bool {
        let fields = version.fields().map(|(name, value)| (name.to_bytes(), value.to_bytes()));
        (since_ms..=now_ms()).contains(&version.validated_at_ms()) && storable(fields, order.policy, false).is_ok()
    }
}

/// What is remembered of an object, and whether it was found out since `since_ms`.
pub(super) fn remembered(cache: &Cache, order: &Order, since_ms: u64) -> Option<(Note, bool)> {
    let (noted, now_ms) = (cache.store.control().note(&order.digest)?, now_ms());
    // By a clock that was set back since it may hold for long.
    let is_past = noted.noted_at_ms <= now_ms;
    let is_new = is_past && noted.noted_at_ms >= since_ms;
    let note = Note::decode(&noted)?;
    // Whoever noted it may go by another configuration.
    let until_ms = match note {
        Note::Absent(_) | Note::Pass(Reason::Denied) => {
            noted.until_ms.min(noted.noted_at_ms.saturating_add(order.negative_ms()))
        }
        _ => noted.until_ms,
    };
    let holds = match note {
        Note::Large(len) => len > order.object_len_max,
        Note::Pass(Reason::NotStorable) => order.policy.honor,
        _ => true,
    };
    (holds && (is_new || (is_past && now_ms < until_ms))).then_some((note, is_new))
}

fn reason(note: Note) -> Reason {
    match note {
        Note::Absent(_) => Reason::NotFound,
        Note::Large(_) => Reason::TooLarge,
        Note::Pass(reason) => reason,
    }
}

fn given_up(cache: &Cache, patience: &Patience) -> Option<Reason> {
    if cache.is_stopping() { Some(Reason::Stopping) } else { patience.is_over().then_some(Reason::Waited) }
}

/// Who waits for blocks of a fill.
pub(super) struct Follower<'f> {
    pub(super) cache: &'f Arc<Cache>,
    pub(super) order: &'f Arc<Order>,
    /// When the request came; `None` for an answer that has begun: a failure is no reason to break it off before time is up.
    pub(super) since_ms: Option<u64>,
}

impl Follower<'_> {
    /// Waits until `needed` of a fill is there, and checked.
    fn follow(
        &self,
        fill: &Arc<Version>,
        needed: &Range<u64>,
        wanted: &Range<u64>,
        patience: &mut Patience,
    ) -> Followed {
        loop {
            let seen = fill.progress();
            let missing = match fill.missing(needed) {
                None if fill.check(needed).is_ok() => return Followed::Ready,
                // It is there and wrong: left behind by a power cut, until whoever takes the fill over finds out.
                None => needed.start / BLOCK_LEN,
                Some(block) => block,
            };
            if seen.has_ended() {
                return Followed::Again;
            }
            if let Some(reason) = self.over(patience) {
                return Followed::Over(reason);
            }
            fill.want(wanted);
            fill.sleep(missing, seen, patience.slice());
            if patience.sees(fill.landed()) {
                continue;
            }
            if let Some(followed) = self.look_around(fill) {
                return followed;
            }
        }
    }

    /// Why there is nothing to wait for any more.
    fn over(&self, patience: &Patience) -> Option<Reason> {
        match self.since_ms.and_then(|since_ms| remembered(self.cache, self.order, since_ms)) {
            Some((note, true)) => Some(reason(note)),
            _ => given_up(self.cache, patience),
        }
    }

    /// Nothing has landed: does anybody fetch it?
    pub(super) fn look_around(&self, fill: &Arc<Version>) -> Option<Followed> {
        if !self.cache.store.leads_to_fill(fill) {
            return Some(Followed::Again);
        }
        if self.since_ms.is_none() && !self.may_try_again() {
            return None;
        }
        let lock = self.cache.store.lock(&self.order.name).ok()??;
        // Its filler may just have come to its end: word of a failure is there before the lock is free.
        let since_ms = self.since_ms.unwrap_or(u64::MAX);
        if !self.cache.store.leads_to_fill(fill) || remembered(self.cache, self.order, since_ms).is_some() {
            return Some(Followed::Again);
        }
        // It has died: go on with it, once storage has been heard.
        let marked = Fill::mark_left(&lock, self.order.key.url(), self.order.key.scope());
        let filler = Filler::new(self.cache, self.order, lock, Asked::Whole, Urgency::Demand);
        let begun = marked.is_ok() && filler.is_some_and(|filler| filler.spawn().is_ok());
        Some(if begun { Followed::Again } else { Followed::Over(Reason::Store) })
    }

    fn may_try_again(&self) -> bool {
        let admission = || self.cache.with_breaker(self.order, |breaker| breaker.admit(now_ms()));
        remembered(self.cache, self.order, u64::MAX).is_none() && admission() != Admission::Open
    }

    /// Waits as [`Follower::follow`] does, for as long as the fill is gone on with, by whomever.
    fn stay(&self, fill: &Arc<Version>, needed: &Range<u64>, wanted: &Range<u64>) {
        let mut patience = Patience::new(self.order.wait);
        loop {
            let control = self.cache.store.control();
            let signal = control.signal(control.slot(&self.order.name));
            let seen = signal.load(Ordering::Acquire);
            match self.follow(fill, needed, wanted, &mut patience) {
                Followed::Again if self.cache.store.leads_to_fill(fill) => {}
                _ => return,
            }
            // Until storage has said that the version is still the one.
            if self.over(&patience).is_some() {
                return;
            }
            if fill.progress().has_ended() {
                sys::sleep(signal, seen, NonZeroU32::MAX, patience.slice());
            }
        }
    }
}

/// An object that is sent while it is fetched.
pub struct Stream {
    cache: Arc<Cache>,
    order: Arc<Order>,
    version: Arc<Version>,
}

/// What a stream has of a part.
pub enum Piece<'s> {
    /// Bytes from its beginning.
    Bytes(&'s [u8]),
    /// Nothing yet.
    NotYet,
    /// The rest will not come: the fill failed, or the object was replaced.
    Broken,
}

impl Stream {
    /// The version.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The first bytes of `part`, which is not empty and lies in the object; waits for them only where it may.
    pub fn read(&self, part: &Range<u64>, may_wait: bool) -> Piece<'_> {
        let first = part.start..part.start + 1;
        if !self.has(&first) {
            if !may_wait {
                return Piece::NotYet;
            }
            let wanted = part.start..part.end.min(part.start + AHEAD_LEN);
            let follower = Follower { cache: &self.cache, order: &self.order, since_ms: None };
            follower.stay(&self.version, &first, &wanted);
            if !self.has(&first) {
                return Piece::Broken;
            }
        }
        let mut piece = part.start..self.version.layout().block(part.start / BLOCK_LEN).end.min(part.end);
        while piece.end < part.end && piece.end - piece.start < PIECE_LEN {
            let next = piece.end..self.version.layout().block(piece.end / BLOCK_LEN).end.min(part.end);
            if !self.has(&next) {
                break;
            }
            piece.end = next.end;
        }
        self.version.body(&piece).map_or(Piece::Broken, Piece::Bytes)
    }

    fn has(&self, part: &Range<u64>) -> bool {
        self.version.missing(part).is_none() && self.version.check(part).is_ok()
    }
}

/// How long somebody waits without progress.
struct Patience {
    most: Duration,
    until: Instant,
    /// The blocks that were there when it was renewed.
    landed: u32,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Self { most, until: Instant::now() + most, landed: 0 }
    }

    /// Tells whether there was progress, which renews it: a filler that fails and is gone on with makes none.
    fn sees(&mut self, landed: u32) -> bool {
        let has_moved = std::mem::replace(&mut self.landed, landed) != landed;
        if has_moved {
            self.until = Instant::now() + self.most;
        }
        has_moved
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn slice(&self) -> Duration {
        SLICE.min(self.until.saturating_duration_since(Instant::now()))
    }
}
