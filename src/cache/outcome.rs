//! What became of a request, as a value: for `Cache-Status`, the access log and the trace.

use std::fmt;

use crate::semantics::line::Line;

/// How an answer of ours came about (RFC 9211, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the store; fresh for that many seconds more.
    Hit {
        /// Remaining freshness in seconds.
        ttl_secs: u64,
    },
    /// Fetched for this request; `stale` where an older version was held.
    Filled {
        /// Whether a version that was no longer fresh was in the store.
        stale: bool,
    },
    /// Waited for the fetch of another request; `stale` as above.
    Collapsed {
        /// Whether a version that was no longer fresh was in the store.
        stale: bool,
    },
    /// Storage vouched for what is in the store while this request waited; `collapsed` where another one asked.
    Revalidated {
        /// Whether another request asked storage.
        collapsed: bool,
    },
    /// From the store, though it has not been fresh for that many seconds.
    Stale {
        /// Seconds since it was fresh.
        for_secs: u64,
        /// Whether it is served because storage fails.
        is_error: bool,
    },
    /// Storage was asked, and the range selects nothing.
    Unsatisfiable,
    /// Storage said a moment ago that there is no such object.
    Absent,
}

/// The longest value of `Cache-Status`.
pub type CacheStatus = Line<96>;

impl Outcome {
    /// One word for it, by which it is counted.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hit { .. } => "hit",
            Self::Filled { .. } => "miss",
            Self::Collapsed { .. } => "collapsed",
            Self::Revalidated { .. } => "revalidated",
            Self::Stale { is_error: false, .. } => "stale",
            Self::Stale { is_error: true, .. } => "stale-if-error",
            Self::Unsatisfiable => "unsatisfiable",
            Self::Absent => "absent",
        }
    }

    /// The value of `Cache-Status`.
    pub fn cache_status(self) -> CacheStatus {
        let mut line = CacheStatus::new();
        line.push("usp-storage-cache; ");
        match self {
            Self::Hit { ttl_secs } => line.push("hit; ttl=").push_number(ttl_secs),
            Self::Filled { stale: false } => line.push("fwd=uri-miss; fwd-status=200; stored"),
            Self::Filled { stale: true } => line.push("fwd=stale; fwd-status=200; stored"),
            Self::Collapsed { stale: false } => line.push("fwd=uri-miss; fwd-status=200; collapsed"),
            Self::Collapsed { stale: true } => line.push("fwd=stale; fwd-status=200; collapsed"),
            Self::Revalidated { collapsed: false } => line.push("fwd=stale; fwd-status=304"),
            Self::Revalidated { collapsed: true } => line.push("fwd=stale; fwd-status=304; collapsed"),
            Self::Stale { for_secs, is_error } => {
                line.push("hit; ttl=-").push_number(for_secs);
                line.push(if is_error { "; detail=stale-if-error" } else { "" })
            }
            Self::Unsatisfiable => line.push("fwd=uri-miss; fwd-status=416"),
            Self::Absent => line.push("hit; detail=absent"),
        };
        line
    }
}

/// What was met by a client's request and the sub-requests that were made for it.
#[derive(Clone, Copy, Default)]
pub struct Tally([u32; 7]);

impl Tally {
    /// Long enough for each count at its largest.
    pub const TEXT_LEN: usize = 160;

    /// Counts an answer of ours.
    pub fn count(&mut self, outcome: Outcome) {
        self.add(match outcome {
            Outcome::Hit { .. } => 0,
            Outcome::Filled { .. } | Outcome::Unsatisfiable => 1,
            Outcome::Collapsed { .. } => 2,
            Outcome::Revalidated { .. } => 3,
            Outcome::Stale { .. } => 4,
            Outcome::Absent => 5,
        });
    }

    /// Counts a request that matched and was left to mod_proxy.
    pub fn count_bypass(&mut self) {
        self.add(6);
    }

    /// What was met, as in `hit=3,miss=1`.
    pub fn text(&self) -> Line<{ Self::TEXT_LEN }> {
        const NAMES: [&str; 7] = [",hit=", ",miss=", ",collapsed=", ",revalidated=", ",stale=", ",absent=", ",bypass="];
        let mut text = Line::new();
        for (name, count) in NAMES.iter().zip(self.0).filter(|(_, count)| *count > 0) {
            let from = usize::from(text.as_bytes().is_empty());
            text.push(&name[from..]).push_number(count.into());
        }
        text
    }

    fn add(&mut self, which: usize) {
        self.0[which] = self.0[which].saturating_add(1);
    }
}

/// Why a request that the pattern takes is left to mod_proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The upstream is this server itself.
    OwnServer,
    /// mod_proxy may mean a socket by the URL.
    Socket,
    /// `ProxyPreserveHost` is on: the object depends on the client's Host.
    PreservedHost,
    /// A query parameter makes it a request for something else.
    SubResource,
    /// The caller signed the request, and no credentials of ours apply.
    ForeignSignature,
    /// Several ranges in a sub-request.
    SeveralRanges,
    /// A HEAD for what is not in the store.
    HeadNotHeld,
    /// A body came with the request.
    Body,
    /// The fill that this request waited for made no progress for `UspStorageCacheWait`.
    Waited,
    /// This process has too many fills under way.
    Busy,
    /// Storage has failed again and again a moment ago: nobody waits for it.
    Breaker,
    /// Storage says that it shall not be stored.
    NotStorable,
    /// The range selects nothing.
    Unsatisfiable,
    /// The fetch that this request waited for failed, or one failed a moment ago.
    Failed,
    /// Storage refuses the object to our credentials.
    Denied,
    /// There is no such object, as this request found out.
    NotFound,
    /// The object is too large to be stored.
    TooLarge,
    /// Storage does not say how long the object is.
    NoLength,
    /// The store cannot be read, written or opened.
    Store,
    /// The child is going away.
    Stopping,
}

impl Reason {
    /// One word for it, by which it is counted.
    pub fn word(self) -> &'static str {
        match self {
            Self::OwnServer => "own-server",
            Self::Socket => "socket",
            Self::PreservedHost => "preserved-host",
            Self::SubResource => "sub-resource",
            Self::ForeignSignature => "foreign-signature",
            Self::SeveralRanges => "several-ranges",
            Self::HeadNotHeld => "head-not-held",
            Self::Body => "request-body",
            Self::Waited => "wait",
            Self::Busy => "busy",
            Self::Breaker => "breaker",
            Self::NotStorable => "not-storable",
            Self::Unsatisfiable => "unsatisfiable",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::TooLarge => "too-large",
            Self::NoLength => "no-length",
            Self::Store => "store",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_met_is_shown_and_the_longest_fits() {
        let mut tally = Tally::default();
        tally.count(Outcome::Hit { ttl_secs: 1 });
        tally.count(Outcome::Hit { ttl_secs: 1 });
        tally.count(Outcome::Filled { stale: true });
        tally.count_bypass();
        assert_eq!(tally.text().as_bytes(), b"hit=2,miss=1,bypass=1");
        assert!(Tally([u32::MAX; 7]).text().as_bytes().ends_with(b",bypass=4294967295"));
    }
}
