//! What a fill costs, for its line in the error log (docs/logs.md, "Fills").

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a fill has cost so far: all its threads count.
pub(in crate::cache) struct Cost {
    begun: Instant,
    first_byte: OnceLock<Duration>,
    requests: AtomicU32,
    again: AtomicU32,
    hedged: AtomicU32,
    parts: AtomicU32,
}

impl Cost {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            first_byte: OnceLock::new(),
            requests: AtomicU32::new(0),
            again: AtomicU32::new(0),
            hedged: AtomicU32::new(0),
            parts: AtomicU32::new(0),
        }
    }

    /// Since it began.
    pub(super) fn time(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A request goes to storage.
    pub(super) fn asks(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The next one asks what a failed one has asked.
    pub(super) fn asks_again(&self) {
        self.again.fetch_add(1, Ordering::Relaxed);
    }

    /// A request goes to storage beside one whose answer is late.
    pub(super) fn hedges(&self) {
        self.asks();
        self.hedged.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer's head has come.
    pub(super) fn is_answered(&self) {
        self.first_byte.get_or_init(|| self.begun.elapsed());
    }

    /// An answer brings bytes of the object.
    pub(super) fn brings_part(&self) {
        self.parts.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first_byte.get() {
            Some(time) => write!(f, "first byte after {:.3} s; ", time.as_secs_f64())?,
            None => f.write_str("no answer; ")?,
        }
        let [requests, again, hedged, parts] =
            [&self.requests, &self.again, &self.hedged, &self.parts].map(|count| count.load(Ordering::Relaxed));
        write!(f, "requests {requests}, again {again}, hedged {hedged}, parts {parts}")
    }
}
