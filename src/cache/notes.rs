//! What is remembered of objects that are not in the store, by all processes of the host, and of what this one has logged.

#![forbid(unsafe_code)]

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::Reason;
use crate::store::control::Noted;

/// What is remembered of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Storage says that there is none, with this status.
    Absent(u16),
    /// It has so many bytes, which is too large for a section that allows less.
    Large(u64),
    /// It is better left to mod_proxy.
    Pass(Reason),
}

/// Reasons that are remembered, by their numbers in the control block.
const PASSES: [(u32, Reason); 5] =
    [(3, Reason::NoLength), (4, Reason::Denied), (5, Reason::Failed), (6, Reason::Store), (7, Reason::NotStorable)];

impl Note {
    /// The note as it stands in the control block.
    pub fn encode(self, noted_at_ms: u64, until_ms: u64) -> Noted {
        let (kind, value) = match self {
            Self::Absent(status) => (1, status.into()),
            Self::Large(len) => (2, len),
            Self::Pass(reason) => {
                let number = PASSES.iter().find(|(_, passed)| *passed == reason).map_or(5, |(number, _)| *number);
                (number, 0)
            }
        };
        Noted { kind, value, noted_at_ms, until_ms }
    }

    /// The note that stands in the control block; `None` for a kind that is not known.
    pub fn decode(noted: &Noted) -> Option<Self> {
        match noted.kind {
            1 => u16::try_from(noted.value).ok().map(Self::Absent),
            2 => Some(Self::Large(noted.value)),
            kind => PASSES.iter().find(|(number, _)| *number == kind).map(|(_, reason)| Self::Pass(*reason)),
        }
    }
}

/// What was logged a short time ago; the least recent goes first.
pub struct Logged(Mutex<LruCache<[u8; 32], u64>>);

/// What is remembered to have been logged.
const LOGGED_MAX: usize = 1024;

impl Logged {
    /// Nothing logged.
    pub fn new() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(LOGGED_MAX).unwrap_or(NonZeroUsize::MIN))))
    }

    /// Whether `what` is to be logged at `now_ms`, and then not again for `pause_ms`.
    pub fn is_due(&self, what: &[u8], now_ms: u64, pause_ms: u64) -> bool {
        // By a hash: keys are as long as their clients like.
        let what = Sha256::digest(what).into();
        let mut logged = self.0.lock();
        let is_due = logged.get(&what).is_none_or(|until| *until <= now_ms);
        if is_due {
            logged.put(what, now_ms + pause_ms);
        }
        is_due
    }
}

impl Default for Logged {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_logged_once_in_its_pause() {
        let logged = Logged::new();
        assert!(logged.is_due(b"a", 0, 1000));
        assert!(!logged.is_due(b"a", 999, 1000));
        assert!(logged.is_due(b"b", 999, 1000));
        assert!(logged.is_due(b"a", 1000, 1000));
    }

    #[test]
    fn what_is_noted_is_read_back() {
        let notes = [Note::Absent(404), Note::Large(1 << 40)].into_iter();
        for note in notes.chain(PASSES.map(|(_, reason)| Note::Pass(reason))) {
            assert_eq!(Note::decode(&note.encode(1, 2)), Some(note));
        }
        assert_eq!(Note::decode(&Noted { kind: 99, value: 0, noted_at_ms: 0, until_ms: 0 }), None);
    }
}
