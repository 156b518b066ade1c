//! The key of an upstream URL: clean, canonical, and never the same for two objects.
//!
//! An input is `request_rec.filename`: `proxy:http://host/path?query`. What a URL means is read a second time
//! here, character by character; the canonical URL must mean the same as the original.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mod_usp_storage_cache::cache::key::{Key, Upstream};

const SCOPE: &str = "AKIDEXAMPLE";

fuzz_target!(|filename: &[u8]| {
    let Ok(upstream) = Upstream::parse(filename) else { return };
    assert!(!upstream.host().is_empty() && upstream.port() != 0);
    // The path is looked at before a key is made of it.
    let Ok(path) = upstream.decoded_path() else { return };
    for ignore_query in [true, false] {
        let Ok(key) = upstream.key(SCOPE, ignore_query) else { continue };
        check_parts(&key);
        assert_eq!(upstream.is_signed(), Meaning::of(filename).is_signed(), "whether somebody else has signed");
        let again = format!("proxy:{}", key.url());
        let canonical = Upstream::parse(again.as_bytes()).expect("a canonical URL is a URL");
        assert_eq!(canonical.decoded_path().as_ref(), Ok(&path), "the path of {}", key.url());
        assert_eq!(canonical.key(SCOPE, ignore_query).as_ref(), Ok(&key), "canonical once is canonical");
        assert!(!canonical.is_signed(), "a signature of somebody else in {}", key.url());
        let (is, was) = (Meaning::of(again.as_bytes()), Meaning::of(filename));
        assert_eq!(is, was.without_signature().for_query(ignore_query), "the meaning of {}", key.url());
        assert_ne!(upstream.key("another", ignore_query), Ok(key), "a key of another scope");
    }
});

fn check_parts(key: &Key) {
    assert!(key.url().bytes().all(|b| b.is_ascii_graphic() && b != b'#'), "{:?}", key.url());
    assert_eq!(key.scope(), SCOPE);
    let (scheme, rest) = key.url().split_once("://").expect("a URL has a scheme");
    assert!(matches!(scheme, "http" | "https"));
    assert_eq!(rest, [key.authority(), key.path_and_query()].concat());
    assert_eq!(key.as_bytes(), [SCOPE, "\0", key.url()].concat().as_bytes());
}

/// One character of a URL, escaped or not: a reserved character means another thing than its escape.
type Char = (bool, u8);

/// What a URL means.
#[derive(Debug, PartialEq)]
struct Meaning {
    tls: bool,
    host: Vec<u8>,
    port: u16,
    path: Vec<Char>,
    parameters: Vec<Vec<Char>>,
}

impl Meaning {
    /// The meaning of a URL that `Upstream::parse` takes.
    fn of(filename: &[u8]) -> Self {
        let url = &filename["proxy:".len()..];
        let colon = url.iter().position(|b| *b == b':').expect("behind the scheme");
        let (tls, rest) = (colon == "https".len(), &url[colon + 3..]);
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let port_at = authority.iter().rposition(|b| *b == b':').filter(|at| !authority[*at..].contains(&b']'));
        let (host, port) = authority.split_at(port_at.unwrap_or(authority.len()));
        let port = str::from_utf8(port).expect("digits").trim_start_matches(':').parse().ok();
        let mut target = target.splitn(2, |b| *b == b'?');
        Self {
            tls,
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            path: chars(target.next().unwrap_or_default()),
            parameters: parameters(target.next().unwrap_or_default()),
        }
    }

    /// Without what belongs to a signature.
    fn without_signature(mut self) -> Self {
        self.parameters.retain(|parameter| {
            let name = name(parameter);
            let is_v4 = name.to_ascii_lowercase().starts_with(b"x-amz-");
            !is_v4 && ![&b"AWSAccessKeyId"[..], b"Signature", b"Expires"].contains(&name.as_slice())
        });
        self
    }

    /// Of an ignored query only the version counts.
    fn for_query(mut self, ignore_query: bool) -> Self {
        self.parameters.retain(|parameter| !ignore_query || name(parameter) == b"versionId");
        self
    }

    fn is_signed(&self) -> bool {
        let signs = [&b"X-Amz-Signature"[..], b"Signature", b"AWSAccessKeyId"];
        self.parameters.iter().any(|parameter| signs.contains(&name(parameter).as_slice()))
    }
}

fn parameters(query: &[u8]) -> Vec<Vec<Char>> {
    query.split(|b| *b == b'&').filter(|parameter| !parameter.is_empty()).map(chars).collect()
}

/// The name of a parameter as storage reads it.
fn name(parameter: &[Char]) -> Vec<u8> {
    parameter.iter().take_while(|c| **c != (false, b'=')).map(|(_, byte)| *byte).collect()
}

/// An unreserved character is the same with and without an escape; what no URL may hold stands for its escape.
fn chars(text: &[u8]) -> Vec<Char> {
    let mut chars = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let is_escape = text[at] == b'%';
        let byte = match is_escape {
            true => text.get(at + 1..at + 3).map_or(b'%', hex),
            false => text[at],
        };
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_legal = b"!$&'()*+,;=:@/?".contains(&byte);
        chars.push((!is_plain && (is_escape || !is_legal), byte));
        at += if is_escape { 3 } else { 1 };
    }
    chars
}

fn hex(digits: &[u8]) -> u8 {
    str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(b'%')
}
