//! The entries that this process has mapped, least recently used first out.

#![forbid(unsafe_code)]

use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::{DefaultHasher, LruCache};
use parking_lot::Mutex;

use super::Version;

const SHARDS: usize = 16;
/// Mappings of one process: far below `vm.max_map_count`, 65530 by default.
const HELD_MAX: usize = 4096;

type Shard = Mutex<LruCache<Box<[u8]>, Arc<Version>>>;

/// Mapped entries by the bytes of their key.
pub struct Held {
    shards: [Shard; SHARDS],
    hasher: DefaultHasher,
}

impl Held {
    /// Nothing held.
    pub fn new() -> Self {
        let len = NonZeroUsize::new(HELD_MAX / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self { shards: std::array::from_fn(|_| Mutex::new(LruCache::new(len))), hasher: DefaultHasher::default() }
    }

    /// The entry under `key`.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Version>> {
        self.shard(key).lock().get(key).cloned()
    }

    /// Holds `entry` under `key` in the place of what was held.
    pub fn put(&self, key: &[u8], entry: Arc<Version>) {
        let pushed_out = self.shard(key).lock().push(key.into(), entry);
        // Unmapping takes its time: not under the lock.
        drop(pushed_out);
    }

    /// Forgets what is held under `key` if it is `entry`.
    pub fn remove(&self, key: &[u8], entry: &Arc<Version>) {
        let mut shard = self.shard(key).lock();
        let is_it = shard.peek(key).is_some_and(|held| Arc::ptr_eq(held, entry));
        let removed = is_it.then(|| shard.pop(key));
        drop(shard);
        drop(removed);
    }

    /// Forgets what is not to be kept.
    pub fn retain(&self, is_kept: impl Fn(&Version) -> bool) {
        for entry in self.all().iter().filter(|entry| !is_kept(entry)) {
            let key = [entry.scope().to_bytes(), b"\0", entry.url().to_bytes()].concat();
            self.remove(&key, entry);
        }
    }

    /// All that is held.
    pub fn all(&self) -> Vec<Arc<Version>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().iter().map(|(_, entry)| entry.clone()).collect::<Vec<_>>())
            .collect()
    }

    fn shard(&self, key: &[u8]) -> &Shard {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

impl Default for Held {
    fn default() -> Self {
        Self::new()
    }
}
