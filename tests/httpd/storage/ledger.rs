//! What storage was asked and what left it, in the order of its own clock.
//!
//! # Invariants
//!
//! - The clock moves with each request, head and end, under the lock of storage's state.
//! - Bytes count from just before they go out, and with the last of them the answer ends: whoever has read them finds them here.

use std::ops::Range;

use crate::client::{Fields, find};

/// A request as storage saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) fields: Fields,
    pub(crate) connection: u64,
}

impl Asked {
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        find(&self.fields, name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The id of the key that it is signed with, in the header or in the query.
    pub(crate) fn key_id(&self) -> Option<String> {
        let header = self.field("Authorization").and_then(|text| Some(text.split_once("Credential=")?.1.to_owned()));
        let query = self.query.as_deref().and_then(|query| Some(query.split_once("X-Amz-Credential=")?.1.to_owned()));
        header.or(query)?.split(['/', '%']).next().map(str::to_owned)
    }

    /// Whether mod_proxy sent it, and not the module itself.
    pub(crate) fn by_proxy(&self) -> bool {
        find(&self.fields, "X-Forwarded-Server").is_some()
    }

    /// The same without a field.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(had, _)| !had.eq_ignore_ascii_case(name));
        self
    }
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) asked: Asked,
    /// Its place in a sequence: one more than the deepest of that path's fetches whose heads had gone out before.
    pub(crate) depth: usize,
    /// The status that was sent.
    pub(crate) status: Option<u16>,
    /// The bytes of the object that have left.
    pub(crate) sent: Range<usize>,
    arrived: u64,
    ended: Option<u64>,
}

impl Exchange {
    /// Whether its answer has not ended.
    pub(crate) fn is_under_way(&self) -> bool {
        self.ended.is_none()
    }
}

/// All exchanges so far.
#[derive(Default)]
pub(super) struct Ledger {
    exchanges: Vec<Exchange>,
    clock: u64,
}

impl Ledger {
    /// Notes a request; gives its number.
    pub(super) fn arrive(&mut self, asked: Asked) -> usize {
        let same = self.exchanges.iter().filter(|had| had.asked.path == asked.path && !had.asked.by_proxy());
        let before = same.filter(|had| had.status.is_some()).map(|had| had.depth).max().unwrap_or(0);
        let arrived = self.tick();
        self.exchanges.push(Exchange { asked, depth: before + 1, status: None, sent: 0..0, arrived, ended: None });
        self.exchanges.len() - 1
    }

    /// Notes that the head of an answer has gone out, whose body begins at `from` of the object.
    pub(super) fn head(&mut self, number: usize, status: u16, from: usize) {
        self.tick();
        let exchange = &mut self.exchanges[number];
        (exchange.status, exchange.sent) = (Some(status), from..from);
    }

    /// Notes that bytes of the object go out now, the last ones of the answer perhaps.
    pub(super) fn send(&mut self, number: usize, count: usize, is_last: bool) {
        self.exchanges[number].sent.end += count;
        if is_last {
            self.end(number);
        }
    }

    /// Notes that they did not.
    pub(super) fn take_back(&mut self, number: usize, count: usize) {
        self.exchanges[number].sent.end -= count;
    }

    /// Notes that an answer is at its end.
    pub(super) fn end(&mut self, number: usize) {
        let now = self.tick();
        self.exchanges[number].ended.get_or_insert(now);
    }

    pub(super) fn all(&self) -> &[Exchange] {
        &self.exchanges
    }

    pub(super) fn depth(&self, number: usize) -> usize {
        self.exchanges[number].depth
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// What of the object left more than once.
pub(super) fn repeated(mut sent: Vec<Range<usize>>) -> Vec<Range<usize>> {
    sent.sort_by_key(|range| range.start);
    let (mut repeated, mut end) = (Vec::new(), 0);
    for range in sent {
        if range.start < end {
            repeated.push(range.start..range.end.min(end));
        }
        end = end.max(range.end);
    }
    repeated
}

/// How many of the exchanges were under way at the same time at most.
pub(super) fn most_at_once(exchanges: &[Exchange]) -> usize {
    let under_way =
        |now: u64| exchanges.iter().filter(move |one| one.arrived <= now && one.ended.is_none_or(|end| end > now));
    exchanges.iter().map(|one| under_way(one.arrived).count()).max().unwrap_or(0)
}
