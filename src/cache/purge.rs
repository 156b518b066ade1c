//! What a request or a command line means to purge, and the purge of it.

use std::io;

use super::key::{NoKey, Upstream};
use crate::store::{Purge, Store};

/// What is to go, in canonical URLs.
#[derive(Debug, PartialEq, Eq)]
pub enum Meant {
    /// Objects.
    Urls(Vec<String>),
    /// All whose URLs begin so; it holds a whole host.
    Prefix(String),
    /// All that the store holds.
    All,
}

/// What has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Entries, under every scope.
    pub entries: u64,
    /// Fills, under way or left behind, which are thrown away.
    pub fills: u64,
}

impl Meant {
    /// What the store is told.
    pub fn purges(&self) -> Vec<Purge<'_>> {
        match self {
            Self::Urls(urls) => urls.iter().map(|url| Purge::Url(url)).collect(),
            Self::Prefix(prefix) => vec![Purge::Prefix(prefix)],
            Self::All => vec![Purge::All],
        }
    }

    /// Whether an object of that canonical URL is meant.
    pub fn holds(&self, url: &str) -> bool {
        match self {
            Self::Urls(urls) => urls.iter().any(|meant| meant == url),
            Self::Prefix(prefix) => url.starts_with(prefix),
            Self::All => true,
        }
    }

    /// Purges it. On an error not all may have gone.
    pub fn purge(&self, store: &Store) -> io::Result<Purged> {
        let mut purged = Purged { entries: 0, fills: store.fills_of(|url| self.holds(url))? };
        for which in self.purges() {
            purged.entries += store.purge(which)?;
        }
        Ok(purged)
    }
}

/// The canonical URLs that an object may be held under: whether queries count is each section's to say, so both.
pub fn candidates(upstream: &Upstream<'_>) -> Result<Vec<String>, NoKey> {
    upstream.decoded_path()?;
    let mut urls = Vec::new();
    for ignores_query in [true, false] {
        urls.push(upstream.key("", ignores_query)?.url().to_owned());
    }
    urls.dedup();
    Ok(urls)
}

/// What canonical URLs begin with that are meant by a prefix. A host in it is always whole.
pub fn prefix(upstream: &Upstream<'_>) -> Result<String, NoKey> {
    let key = upstream.key("", false)?;
    let slash = if key.path_and_query().is_empty() { "/" } else { "" };
    Ok(key.url().to_owned() + slash)
}

impl std::fmt::Display for Meant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Urls(urls) => f.write_str(urls.last().map_or("nothing", String::as_str)),
            Self::Prefix(prefix) => write!(f, "all below {prefix}"),
            Self::All => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_held_by_it() {
        let urls = Meant::Urls(vec!["http://h/a".into(), "http://h/a?x".into()]);
        let rows = [
            (&urls, "http://h/a?x", [true, false, false]),
            (&Meant::Prefix("http://h/a".into()), "all below http://h/a", [true, true, false]),
            (&Meant::All, "all", [true, true, true]),
        ];
        for (meant, shown, want) in rows {
            assert_eq!(meant.to_string(), shown);
            assert_eq!(["http://h/a", "http://h/ab", "http://h/b"].map(|url| meant.holds(url)), want, "{shown}");
        }
    }
}
