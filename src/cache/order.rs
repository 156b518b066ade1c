//! What a fill needs to know, as values of its own: it outlives the request that caused it.

#![forbid(unsafe_code)]

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Ask;
use super::key::{Key, Upstream};
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
    /// Which storage is asked where that one fails.
    pub fallback: Option<Fallback>,
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

/// A storage in the place of another.
#[derive(Clone)]
pub struct Fallback {
    /// What the URLs of its objects begin with in the place of `base`.
    url: String,
    base: String,
}

impl Order {
    /// The order for what a request asks for; `default_match` stands where the section has no pattern.
    pub fn of(ask: &Ask<'_>, default_match: &Match) -> Self {
        let section: &Section<'_> = ask.section;
        let matching = section.matching().unwrap_or(default_match);
        let mut rules = Rules::of(section, ask.key.authority());
        let fallback = section.fallback().zip(ask.base);
        let fallback = fallback.map(|(url, base)| Fallback { url: url.into(), base: base.into() });
        if fallback.is_some() {
            // A request that waits shall have time for both.
            rules.timeout = rules.timeout.min(section.wait() / 2);
        }
        Self {
            key: ask.key.clone(),
            name: Name::new(ask.key.url(), ask.key.scope()),
            digest: digest(ask.key),
            rules,
            fallback,
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

    /// The object in the storage that is asked where the first fails.
    pub fn elsewhere(&self) -> Option<Elsewhere> {
        let Fallback { url, base } = self.fallback.as_ref()?;
        let (url, base) = (url.strip_suffix('/').unwrap_or(url), base.strip_suffix('/').unwrap_or(base));
        let path = self.key.url().strip_prefix(base).filter(|path| path.starts_with('/'))?;
        let filename = format!("proxy:{url}{path}");
        let upstream = Upstream::parse(filename.as_bytes());
        let key = upstream.and_then(|upstream| upstream.key(self.key.scope(), false)).ok()?;
        let source = crc32c::crc32c(key.url().as_bytes()).max(1);
        Some(Elsewhere { rules: self.rules.elsewhere(&key), key, source })
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

/// An object in another storage than its key names.
pub struct Elsewhere {
    /// What is asked for.
    pub key: Key,
    /// How that storage is asked.
    pub rules: Rules,
    /// What its versions carry in their heads; never 0.
    pub source: u32,
}

fn digest(key: &Key) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Want;
    use crate::config::DEFAULT_MATCH;
    use crate::semantics::range::Asked;

    fn key(url: &str) -> Key {
        let filename = format!("proxy:{url}");
        Upstream::parse(filename.as_bytes()).expect("a URL").key("id", false).expect("a key")
    }

    #[test]
    fn the_fallback_stands_for_the_url_that_the_configuration_names() {
        let rows = [
            ("http://a/", "http://b/", "http://a/x/film%20.ism", "http://b/x/film%20.ism"),
            ("http://a/one/", "https://b:8/two/", "http://a/one/x.mp4", "https://b:8/two/x.mp4"),
            ("http://a/one", "http://b/two", "http://a/one/x.mp4", "http://b/two/x.mp4"),
            ("http://a/", "http://b", "http://a//x.mp4?versionId=1", "http://b//x.mp4?versionId=1"),
        ];
        let matching = Match::new(DEFAULT_MATCH).expect("a pattern");
        let want = Want { asked: Asked::Whole, streams: false };
        for (base, fallback, url, elsewhere) in rows {
            let mut section = Section::default();
            let directive = crate::config::DIRECTIVES.iter().find(|one| one.name == c"UspStorageCacheFallback");
            let Some(crate::config::Set::Section(set)) = directive.map(|one| one.set) else { panic!("no directive") };
            set(&mut section, fallback).expect("a URL");
            let ask = Ask { key: &key(url), section: &section, want, base: Some(base), may_fill: true, now_ms: 0 };
            let order = Order::of(&ask, &matching);
            let found = order.elsewhere().expect("a fallback");
            assert_eq!((found.key.url(), found.key.scope()), (elsewhere, "id"));
            assert!(order.with_key(key("http://elsewhere/x.mp4")).elsewhere().is_none());
            assert!(Order::of(&Ask { base: None, ..ask }, &matching).elsewhere().is_none());
        }
    }
}
