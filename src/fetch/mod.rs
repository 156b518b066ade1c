//! Storage: S3 or what speaks like it, asked over pooled connections.
//!
//! [`Client`] sends a GET and gives the answer's head and a reader of its body; [`sigv4`] signs it, [`refusal`] says why storage
//! does not take it, and [`learned`] what is put right by that.

#![forbid(unsafe_code)]

pub mod client;
pub mod hedge;
pub mod learned;
pub mod named;
mod names;
pub mod refusal;
pub mod retry;
pub mod roots;
pub mod sigv4;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use client::{Answer, Client, Incoming, Kind, Part, Put, Question};
pub use refusal::Refusal;

use self::roots::Roots;
use crate::cache::key::Key;
use crate::config::{self, Section};
use crate::credentials::{Identity, Keyring, Keys};
use crate::semantics::freshness::NotStorable;

/// What the configuration says about asking storage; nothing of it belongs to a request.
#[derive(Clone)]
pub struct Rules {
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long storage may be silent.
    pub timeout: Duration,
    /// The authorities that storage's certificate is held against; those of Mozilla's list where there are none.
    pub roots: Option<Roots>,
    /// What requests are signed with.
    pub credentials: Credentials,
    /// The region that is signed for, where one is set.
    pub region: Option<String>,
    /// Whether the signature goes into the header rather than the query.
    pub use_headers: bool,
    /// Whether a second request is sent where the answer to the first one is late.
    pub hedges: bool,
}

/// What requests are signed with.
#[derive(Clone)]
pub enum Credentials {
    /// They go out unsigned.
    None,
    /// One of a pair of keys is not set.
    Incomplete {
        /// The directive that is missing.
        missing: &'static str,
    },
    /// Keys as they stand in the directives.
    Keys(Keys),
    /// Keys that are asked for, and known when a request is signed.
    Asked(Arc<Identity>),
}

impl Rules {
    /// The rules of a section for requests to `host`, with a port or without.
    pub fn of(section: &Section<'_>, host: &str) -> Self {
        Self {
            connect_timeout: section.connect_timeout(),
            timeout: section.timeout(),
            roots: section.roots().cloned(),
            credentials: Credentials::of(section.credentials(host), section.region()),
            region: section.region().map(str::to_owned),
            use_headers: section.use_headers(),
            hedges: section.hedges(),
        }
    }
}

impl Rules {
    /// The rules for a storage in the place of another: its host says better what its region is.
    pub fn elsewhere(&self, key: &Key) -> Self {
        let region = sigv4::region_of_host(key.authority()).map(str::to_owned);
        Self { region: region.or_else(|| self.region.clone()), ..self.clone() }
    }
}

impl Credentials {
    /// What the configuration says, as values; `region` is that of the section.
    pub fn of(configured: config::Credentials<'_>, region: Option<&str>) -> Self {
        match configured {
            config::Credentials::None => Self::None,
            config::Credentials::Incomplete { missing } => Self::Incomplete { missing },
            config::Credentials::Keys(keys) => Self::Keys(Keys::of(&keys)),
            config::Credentials::Asked(identity) => Self::Asked(Arc::new(Identity::of(&identity, region))),
        }
    }

    /// The keys to sign with now, or none; never waits, and has what is not known fetched in the background.
    pub fn current(&self, keyring: &Arc<Keyring>) -> Option<Keys> {
        match self {
            Self::None | Self::Incomplete { .. } => None,
            Self::Keys(keys) => Some(keys.clone()),
            Self::Asked(identity) => keyring.current(identity),
        }
    }
}

/// Why storage gave no object.
#[derive(Debug)]
pub enum Failure {
    /// No connection: refused, unknown host, no route, TLS.
    Unreachable(String),
    /// Storage was silent for too long.
    TimedOut(&'static str),
    /// The connection broke, or what came is no HTTP.
    Broken(String),
    /// The body came at less than 16 KiB/s for 30 s.
    Slow,
    /// Fewer or more bytes than were announced.
    Length {
        /// Bytes announced.
        announced: u64,
        /// Bytes that came.
        came: u64,
    },
    /// The request could not be signed.
    Signing(String),
    /// A key of the pair that signs is not set.
    Credentials {
        /// The directive that is missing.
        missing: &'static str,
    },
    /// There are no keys to sign with, where storage is asked with keys only.
    NoKeys,
    /// A status that is no answer to the question.
    Status(u16),
    /// A status that storage gives a reason for, which is not the object's.
    Refused(Box<Refusal>),
    /// There is no such bucket: a 404 that says nothing about the object.
    NoBucket,
    /// Other versions came while one was being fetched, again and again.
    Changed,
    /// What came is not what the part was asked for.
    Answer(&'static str),
    /// What was fetched does not have the checksum that storage states.
    Checksum(&'static str),
    /// All connections that the host may use are in use.
    Busy,
    /// Storage says that it shall not be stored (`UspStorageCacheHonor on`).
    NotStorable(NotStorable),
    /// The answer does not say how long the object is.
    NoLength,
    /// The object is longer than `UspStorageCacheMaxObjectSize`.
    TooLarge(u64),
    /// The store has no room for it, or could not be written.
    Store(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "storage cannot be reached: {why}"),
            Self::TimedOut(phase) => write!(f, "storage timed out ({phase})"),
            Self::Broken(why) => write!(f, "storage's answer broke off: {why}"),
            Self::Slow => f.write_str("storage sent less than 16 KiB/s for 30 s"),
            Self::Length { announced, came } => write!(f, "storage announced {announced} bytes and sent {came}"),
            Self::Signing(why) => write!(f, "the request cannot be signed: {why}"),
            Self::Credentials { missing } => write!(f, "{missing} is not set"),
            Self::NoKeys => f.write_str("there are no credentials to sign with"),
            Self::Status(status) => write!(f, "storage answered {status}"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::NoBucket => f.write_str("storage has no such bucket"),
            Self::Changed => f.write_str("it changes while it is fetched"),
            Self::Answer(what) => write!(f, "storage's answer does not fit: {what}"),
            Self::Checksum(which) => write!(f, "what came does not have storage's checksum ({which})"),
            Self::Busy => f.write_str("all connections to storage are in use (UspStorageCacheConnections)"),
            Self::NotStorable(why) => write!(f, "storage forbids to store it: {why}"),
            Self::NoLength => f.write_str("storage does not say how long it is"),
            Self::TooLarge(len) => write!(f, "its {len} bytes are more than UspStorageCacheMaxObjectSize"),
            Self::Store(e) if e.kind() == io::ErrorKind::StorageFull => {
                f.write_str("no room in the store (UspStorageCacheMaxSize, UspStorageCacheMinFree)")
            }
            Self::Store(e) => write!(f, "the store cannot be written: {e}"),
        }
    }
}

impl Failure {
    /// Whether storage is to blame, and then whether it hung: such failures open its breaker.
    pub fn blame(&self) -> Option<bool> {
        match self {
            Self::TimedOut(_) | Self::Slow => Some(true),
            Self::Unreachable(_) | Self::Broken(_) | Self::Length { .. } | Self::Status(429 | 500..) => Some(false),
            _ => None,
        }
    }

    /// Whether storage has answered, whatever its answer.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Refused(_) | Self::NoBucket)
    }

    /// Whether another storage with the same objects might do better.
    pub fn is_storages(&self) -> bool {
        self.blame().is_some() || matches!(self, Self::NoBucket)
    }

    /// Whether the same question may well be answered a moment later (Amazon S3 API reference, "Error responses").
    pub fn passes(&self) -> bool {
        let is_passing = |status: &u16| matches!(status, 429 | 500 | 502..=504);
        match self {
            Self::Status(status) => is_passing(status),
            Self::TimedOut(_) | Self::Broken(_) | Self::Length { .. } => true,
            _ => false,
        }
    }

    /// One word for the reason: log lines are limited by it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timeout",
            Self::Broken(_) => "broken",
            Self::Slow => "slow",
            Self::Length { .. } => "length",
            Self::Signing(_) => "signing",
            Self::Credentials { .. } | Self::NoKeys => "credentials",
            Self::Status(404 | 410) => "absent",
            Self::Status(401 | 403) => "denied",
            Self::Status(_) => "status",
            Self::Refused(refusal) => refusal.word(),
            Self::NoBucket => "no-bucket",
            Self::Changed => "changed",
            Self::Answer(_) => "answer",
            Self::Checksum(_) => "checksum",
            Self::Busy => "busy",
            Self::NotStorable(_) => "not-storable",
            Self::NoLength => "no-length",
            Self::TooLarge(_) => "too-large",
            Self::Store(_) => "store",
        }
    }
}
