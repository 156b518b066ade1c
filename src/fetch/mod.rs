//! Storage: S3 or what speaks like it, asked over pooled connections.
//!
//! [`Client`] sends a GET and gives the answer's head and a reader of its body; [`sigv4`] signs it.

#![forbid(unsafe_code)]

pub mod client;
pub mod sigv4;

use std::fmt;
use std::io;
use std::time::Duration;

pub use client::{Answer, Client};

use crate::config::{Credentials, Section};

/// What the configuration says about asking storage.
#[derive(Clone, Copy)]
pub struct Rules<'c> {
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long storage may be silent.
    pub timeout: Duration,
    /// What requests are signed with.
    pub credentials: Credentials<'c>,
    /// The region that is signed for, where one is set.
    pub region: Option<&'c str>,
    /// Whether the signature goes into the header rather than the query.
    pub use_headers: bool,
}

impl<'c> Rules<'c> {
    /// The rules of a section.
    pub fn of(section: &Section<'c>) -> Self {
        Self {
            connect_timeout: section.connect_timeout(),
            timeout: section.timeout(),
            credentials: section.credentials(),
            region: section.region(),
            use_headers: section.use_headers(),
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
    /// Another status than 200.
    Status(u16),
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
            Self::Status(status) => write!(f, "storage answered {status}"),
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
    /// One word for the reason: log lines are limited by it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timeout",
            Self::Broken(_) => "broken",
            Self::Slow => "slow",
            Self::Length { .. } => "length",
            Self::Signing(_) => "signing",
            Self::Credentials { .. } => "credentials",
            Self::Status(404 | 410) => "absent",
            Self::Status(401 | 403) => "denied",
            Self::Status(_) => "status",
            Self::NoLength => "no-length",
            Self::TooLarge(_) => "too-large",
            Self::Store(_) => "store",
        }
    }
}
