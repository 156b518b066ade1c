//! What a key's files are called, and which byte locks them.

#![forbid(unsafe_code)]

use std::fmt::Write;

use sha2::{Digest, Sha256};

const HALF_MADE: &str = ".new";

/// The name of a key's entry and fill: a hash of the URL, and one of the scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    text: String,
    lock_byte: u64,
}

impl Name {
    /// The name for a canonical URL in a scope.
    pub fn new(url: &str, scope: &str) -> Self {
        Self::from_text(format!("{}-{}", hex(&Sha256::digest(url)), &hex(&Sha256::digest(scope))[..16]))
    }

    fn from_text(text: String) -> Self {
        let first = Sha256::digest(&text).first_chunk().copied().unwrap_or_default();
        Self { text, lock_byte: u64::from_be_bytes(first) >> 2 }
    }

    /// The name that a file in the store has; `None` for a foreign file.
    pub fn from_file(name: &str) -> Option<Self> {
        let (url, scope) = name.split_once('-')?;
        let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (url.len() == 64 && scope.len() == 16 && is_hex(url) && is_hex(scope)).then(|| Self::from_text(name.into()))
    }

    /// The file's name in `fills`.
    pub fn file(&self) -> &str {
        &self.text
    }

    /// The name in `fills` of a fill that is not yet what it has to be; only the holder of the name's lock makes it.
    pub fn half_made_file(&self) -> String {
        format!("{}{HALF_MADE}", self.text)
    }

    /// The name that a file in `fills` belongs to, half made or not; `None` for a foreign file.
    pub fn from_fill(file: &str) -> Option<Self> {
        Self::from_file(file.strip_suffix(HALF_MADE).unwrap_or(file))
    }

    /// What the names of all files of `url` begin with, under whatever scope.
    pub fn url_part(url: &str) -> String {
        hex(&Sha256::digest(url))
    }

    /// Whether it is one of `url`, under whatever scope.
    pub fn is_of(&self, url: &str) -> bool {
        self.text.starts_with(&Self::url_part(url))
    }

    /// The number of the directory below `entries` that all files of `url` lie in.
    pub fn shard_number(url: &str) -> u8 {
        Sha256::digest(url)[0]
    }

    /// The directory below `entries`.
    pub fn shard(&self) -> &str {
        &self.text[..2]
    }

    /// The file's path below `entries`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.shard(), self.text)
    }

    /// The byte of `locks` that stands for this name.
    pub fn lock_byte(&self) -> u64 {
        self.lock_byte
    }

    /// The number of its slot: the last two bytes of the URL's hash.
    pub fn slot(&self) -> u16 {
        u16::from_str_radix(&self.text[60..64], 16).expect("the hash is written in hex")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_url_and_scope_apart_and_is_known_again() {
        let name = Name::new("http://h/a.ism", "");
        assert_eq!(name.path(), format!("{}/{}", &name.file()[..2], name.file()));
        assert!(name.file().ends_with("-e3b0c44298fc1c14"));
        assert_eq!(Name::from_file(name.file()), Some(name.clone()));
        assert_ne!(Name::new("http://h/a.ism", "AKID"), name);
        assert!(Name::from_file("README").is_none());
        assert!(name.lock_byte() < 1 << 62);
        assert_eq!(Name::from_file(name.file()).map(|name| name.lock_byte()), Some(name.lock_byte()));
    }

    #[test]
    fn the_names_of_a_url_share_their_first_part_and_their_slot() {
        let (one, other) = (Name::new("http://h/a.ism", ""), Name::new("http://h/a.ism", "AKID"));
        assert_ne!(one.lock_byte(), other.lock_byte());
        assert_eq!(one.slot(), other.slot());
        assert!(other.file().starts_with(&Name::url_part("http://h/a.ism")));
        assert!(other.is_of("http://h/a.ism") && !other.is_of("http://h/b.ism"));
        assert_eq!(other.shard(), format!("{:02x}", Name::shard_number("http://h/a.ism")));
    }
}
