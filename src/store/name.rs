//! What a key's files are called, and which byte locks them.

#![forbid(unsafe_code)]

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The name of a key's entry and fill: a hash of the URL, and one of the scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name for a canonical URL in a scope.
    pub fn new(url: &str, scope: &str) -> Self {
        Self(format!("{}-{}", hex(&Sha256::digest(url)), &hex(&Sha256::digest(scope))[..16]))
    }

    /// The name that a file in the store has; `None` for a foreign file.
    pub fn from_file(name: &str) -> Option<Self> {
        let (url, scope) = name.split_once('-')?;
        let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (url.len() == 64 && scope.len() == 16 && is_hex(url) && is_hex(scope)).then(|| Self(name.into()))
    }

    /// The file's name in `fills`.
    pub fn file(&self) -> &str {
        &self.0
    }

    /// The directory below `entries`.
    pub fn shard(&self) -> &str {
        &self.0[..2]
    }

    /// The file's path below `entries`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.shard(), self.0)
    }

    /// The byte of `locks` that stands for this name.
    pub fn lock_byte(&self) -> u64 {
        let hash = Sha256::digest(&self.0);
        let first = hash.first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(first) >> 2
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
    }
}
