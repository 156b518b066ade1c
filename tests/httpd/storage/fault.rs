//! What goes wrong, with whose requests, and with which of them.

use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use super::ledger::Asked;

/// What goes wrong with the answers to one path.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, and its number as the body.
    Status(u16),
    /// The same with more fields.
    StatusWith(u16, &'static [(&'static str, &'static str)]),
    /// The answer that is right by then, once the test calls [`super::Storage::release`].
    Hold,
    /// The same for requests that come as this one in a sequence or later ([`super::Exchange::depth`]).
    HoldFrom(usize),
    /// No answer at all; the connection stays open.
    Hang,
    /// The right head and so many bytes, then silence.
    StallAfter(usize),
    /// The right head and so many bytes, and the rest once the test calls [`super::Storage::release`].
    HoldAfter(usize),
    /// The right head and so many bytes, then a TCP reset.
    ResetAfter(usize),
    /// The right head and so many bytes, then an end of the connection.
    CloseAfter(usize),
    /// The whole object without a length, ended by the connection.
    NoLength,
    /// The whole object, chunked.
    Chunked,
    /// These bytes instead of an answer, then an end of the connection.
    Raw(Vec<u8>),
    /// The right answer in pieces of so many bytes, with this pause before each.
    Drip(usize, Duration),
    /// As if the request had no field of this name: without `Range`, say, it gets the whole object with 200.
    Ignores(&'static str),
    /// Another ETag of the object; none if it is empty.
    OtherEtag(&'static str),
    /// An ETag of its own in each ranged answer.
    NewEtags,
    /// Another length of the whole object in ranged answers.
    OtherTotal(usize),
    /// A part that begins so many bytes after what was asked for, and says so.
    Shifted(usize),
    /// A part of at most so many bytes, which begins as asked.
    Shorter(usize),
    /// The right answer with this line in its head.
    HeadLine(&'static [u8]),
    /// The right answer with a Date that is so many seconds off.
    Dated(i64),
    /// The same, but for signatures of another time, which are refused as S3 does.
    Clock(i64),
    /// The right answer, but for signatures for another region than this, which are refused as S3 does.
    Region(&'static str),
}

impl Fault {
    /// The request's field that storage does not hear.
    pub(super) fn unheard(&self) -> Option<&'static str> {
        match self {
            Self::Ignores(name) => Some(name),
            Self::NoLength | Self::Chunked => Some("Range"),
            _ => None,
        }
    }

    /// Whether the connection is at its end after the answer.
    pub(super) fn is_last(&self) -> bool {
        use Fault::{CloseAfter, Hang, NoLength, Raw, ResetAfter, StallAfter};
        matches!(self, Hang | StallAfter(_) | ResetAfter(_) | CloseAfter(_) | NoLength | Raw(_))
    }
}

/// Whose requests a fault meets: mod_proxy is told by its `X-Forwarded-Server`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Everyone,
    Fetches,
}

/// A fault of a path, and which of the requests it meets: the first since it was set is number 1.
pub(super) struct Rule {
    fault: Fault,
    whom: Whom,
    which: (Bound<usize>, Bound<usize>),
    seen: usize,
}

impl Rule {
    pub(super) fn new(fault: Fault, whom: Whom, which: impl RangeBounds<usize>) -> Self {
        Self { fault, whom, which: (which.start_bound().cloned(), which.end_bound().cloned()), seen: 0 }
    }

    /// The fault that a request meets; it counts from then on.
    pub(super) fn meet(&mut self, asked: &Asked) -> Option<Fault> {
        if self.whom == Whom::Fetches && asked.by_proxy() {
            return None;
        }
        self.seen += 1;
        self.which.contains(&self.seen).then(|| self.fault.clone())
    }

    pub(super) fn holds(&self) -> bool {
        matches!(self.fault, Fault::Hold | Fault::HoldFrom(_) | Fault::HoldAfter(_))
    }
}
