//! What a process remembers of objects that are not in the store, and of what it has logged.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

/// Notes that are kept; the least recently used go first.
const NOTES_MAX: usize = 8192;

/// Values by the bytes of a key, each until its time.
pub struct Notes<V> {
    /// By a hash of the key: keys are as long as their clients like.
    notes: Mutex<LruCache<Digest, Note<V>>>,
}

type Digest = [u8; 32];

fn digest(key: &[u8]) -> Digest {
    Sha256::digest(key).into()
}

struct Note<V> {
    value: V,
    until_ms: u64,
}

impl<V: Copy> Notes<V> {
    /// Nothing noted.
    pub fn new() -> Self {
        let len = NonZeroUsize::new(NOTES_MAX).unwrap_or(NonZeroUsize::MIN);
        Self { notes: Mutex::new(LruCache::new(len)) }
    }

    /// What is noted under `key` at `now_ms`.
    pub fn get(&self, key: &[u8], now_ms: u64) -> Option<V> {
        let mut notes = self.notes.lock();
        let key = digest(key);
        let note = notes.get(&key)?;
        if now_ms < note.until_ms {
            return Some(note.value);
        }
        notes.pop(&key);
        None
    }

    /// Notes `value` under `key` until `until_ms`.
    pub fn put(&self, key: &[u8], value: V, until_ms: u64) {
        self.notes.lock().put(digest(key), Note { value, until_ms });
    }
}

impl<V: Copy> Default for Notes<V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_lasts_until_its_time() {
        let notes = Notes::new();
        notes.put(b"a", 1, 1000);
        assert_eq!(notes.get(b"a", 999), Some(1));
        assert_eq!(notes.get(b"a", 1000), None);
        assert_eq!(notes.get(b"b", 0), None);
    }
}
