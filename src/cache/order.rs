//! What a fill needs to know, as values of its own: it outlives the request that caused it.

#![forbid(unsafe_code)]

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Ask;
use super::key::Key;
use crate::config::{Match, Section};
use crate::fetch::Rules;
use crate::semantics::freshness::Policy;
use crate::store::Name;
use crate::store::version::Sought;

/// An object that shall be in the store, and all that the configuration says of that.
#[derive(Clone)]
pub struct Order {
    /// The object.
    pub key: Key,
    /// What its files are called.
    pub name: Name,
    /// A hash of the key: what is remembered of it stands under that.
    pub digest: [u8; 32],
    /// How storage is asked.
    pub rules: Rules,
    /// How long it is fresh.
    pub policy: Policy,
    /// The largest body, in bytes, that is stored.
    pub object_len_max: u64,
    /// The length of a part, in bytes.
    pub part_len: u64,
    /// Seconds that an absent or refused object is remembered.
    pub negative_expire_secs: u32,
    /// How long a request waits without progress.
    pub wait: Duration,
    /// What of a manifest is fetched ahead; `None` where nothing is.
    pub prefetch: Option<Match>,
}

impl Order {
    /// The order for what a request asks for; `default_match` stands where the section has no pattern.
    pub fn of(ask: &Ask<'_>, default_match: &Match) -> Self {
        let section: &Section<'_> = ask.section;
        let matching = section.matching().unwrap_or(default_match);
        Self {
            key: ask.key.clone(),
            name: Name::new(ask.key.url(), ask.key.scope()),
            digest: digest(ask.key),
            rules: Rules::of(section, ask.key.authority()),
            policy: section.policy(),
            object_len_max: section.object_len_max(),
            part_len: section.part_len(),
            negative_expire_secs: section.negative_expire_secs(),
            wait: section.wait(),
            prefetch: section.prefetches().then(|| matching.clone()),
        }
    }

    /// The same for another object.
    pub fn with_key(&self, key: Key) -> Self {
        let (name, digest) = (Name::new(key.url(), key.scope()), digest(&key));
        Self { key, name, digest, ..self.clone() }
    }

    /// How long an absent or refused object is remembered, in milliseconds.
    pub fn negative_ms(&self) -> u64 {
        u64::from(self.negative_expire_secs) * 1000
    }

    /// What its files must hold.
    pub fn sought(&self) -> Sought<'_> {
        Sought { name: &self.name, url: self.key.url(), scope: self.key.scope() }
    }
}

fn digest(key: &Key) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}
