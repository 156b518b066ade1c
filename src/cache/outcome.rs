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
    /// Storage said a moment ago that there is no such object.
    Absent,
}

/// The longest value of `Cache-Status`.
pub type CacheStatus = Line<96>;

impl Outcome {
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
            Self::Absent => line.push("hit; detail=absent"),
        };
        line
    }
}

/// Why a request that the pattern takes is left to mod_proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The upstream is this server itself.
    OwnServer,
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
    /// Another process is filling the key.
    Busy,
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

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnServer => "own-server",
            Self::SubResource => "sub-resource",
            Self::ForeignSignature => "foreign-signature",
            Self::SeveralRanges => "several-ranges",
            Self::HeadNotHeld => "head-not-held",
            Self::Body => "request-body",
            Self::Busy => "filled-by-another-child",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::TooLarge => "too-large",
            Self::NoLength => "no-length",
            Self::Store => "store",
            Self::Stopping => "stopping",
        })
    }
}
