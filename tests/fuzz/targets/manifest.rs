//! A server manifest, and what is fetched ahead of what it names: bounded, the same in each encoding, never outside the
//! manifest's directory, and written as it was read.
//!
//! An input is read as a manifest, and once more as the one source of a manifest. What a source means is read a
//! second time here.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mod_usp_storage_cache::cache::key::{Key, Upstream};
use mod_usp_storage_cache::cache::prefetch::{is_manifest, named};
use mod_usp_storage_cache::config::Match;
use mod_usp_storage_cache::manifest::read::read as read_tracks;
use mod_usp_storage_cache::manifest::{SOURCE_LEN_MAX, SOURCES_MAX, sources};

const SCOPE: &str = "AKIDEXAMPLE";
const DIRECTORY: &str = "http://storage:81/a%20b/";

static ALL: LazyLock<Match> = LazyLock::new(|| Match::new("").expect("a pattern"));
static MANIFEST_KEY: LazyLock<Key> = LazyLock::new(|| {
    let upstream = Upstream::parse(b"proxy:http://Storage:81/a b/film.ism?versionId=7").expect("a URL");
    upstream.key(SCOPE, true).expect("a key")
});

fuzz_target!(|input: &[u8]| {
    read(input);
    if let Ok(source) = str::from_utf8(input) {
        // XML makes spaces of line breaks, and takes no other control character.
        if !source.is_empty() && source.len() <= SOURCE_LEN_MAX && !source.contains(|c| c < ' ') {
            resolve(source);
        }
    }
});

fn read(manifest: &[u8]) {
    let found = sources(manifest);
    if let Ok(text) = str::from_utf8(manifest) {
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            let marked: Vec<u8> = [0xfeff]
                .into_iter()
                .chain(text.trim_start_matches('\u{feff}').encode_utf16())
                .flat_map(bytes)
                .collect();
            if !text.starts_with("\u{feff}\u{feff}") {
                assert_eq!(sources(&marked), found, "another encoding");
                assert_eq!(read_tracks(&marked), read_tracks(manifest), "another encoding");
            }
        }
    }
    write_again(manifest);
    let keys = named(&MANIFEST_KEY, manifest, &ALL);
    let found = found.unwrap_or_default();
    assert!(keys.len() <= found.len() && found.len() <= SOURCES_MAX);
    assert!(found.iter().all(|source| (1..=SOURCE_LEN_MAX).contains(&source.len())));
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "{} twice", key.url());
        check(key);
    }
}

/// The tracks of a manifest have its sources, and what is written of them is read as the same.
fn write_again(bytes: &[u8]) {
    let Ok(manifest) = read_tracks(bytes) else { return };
    let mut named: Vec<_> = manifest.tracks.iter().map(|track| track.src.clone()).collect();
    let mut at = 0;
    while at < named.len() {
        let again = named[..at].contains(&named[at]);
        if again { drop(named.remove(at)) } else { at += 1 }
    }
    named.truncate(SOURCES_MAX);
    assert_eq!(sources(bytes).as_ref(), Ok(&named));
    let texts = manifest.tracks.iter().flat_map(|track| {
        let params = track.params.iter().flat_map(|(name, value)| [name, value]);
        std::iter::once(&track.src).chain(&track.language).chain(params)
    });
    // References to characters can stand for some that XML has not.
    let is_char = |c: char| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\t' | '\n' | '\r');
    let can_be_written = manifest.client_manifest.iter().chain(texts).all(|text| text.chars().all(is_char));
    let written = manifest.write();
    assert_eq!(written.is_ok(), can_be_written, "{manifest:?}");
    if let Ok(written) = written {
        assert_eq!(read_tracks(&written), Ok(manifest));
    }
}

fn check(key: &Key) {
    let below = key.url().strip_prefix(DIRECTORY).expect("below the directory");
    let segments = decoded(below).expect("a canonical URL has whole escapes");
    let is_dots = |segment: &[u8]| matches!(segment, b"" | b"." | b"..");
    assert!(!segments.split(|b| matches!(b, b'/' | b'\\')).any(is_dots), "{}", key.url());
    assert!(key.url().bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')), "{}", key.url());
    assert!(!is_manifest(key), "{}", key.url());
    let filename = format!("proxy:{}", key.url());
    let asked = Upstream::parse(filename.as_bytes()).expect("a key is a URL");
    assert!(asked.decoded_path().is_ok(), "{}", key.url());
    assert_eq!(asked.key(SCOPE, true).as_ref(), Ok(key), "the key of a request");
}

fn resolve(source: &str) {
    let escaped = source.replace('&', "&amp;").replace('"', "&quot;");
    let manifest = format!("<smil><video src=\"{escaped}\"/></smil>");
    assert_eq!(sources(manifest.as_bytes()), Ok(vec![source.to_owned()]));
    let keys = named(&MANIFEST_KEY, manifest.as_bytes(), &ALL);
    let below = keys.first().and_then(|key| decoded(key.url().strip_prefix(DIRECTORY)?));
    assert_eq!(below, naive(source), "{source}");
}

/// What a reference names below its directory, if that is fetched ahead.
fn naive(source: &str) -> Option<Vec<u8>> {
    let is_scheme = source.find(':').is_some_and(|colon| !source[..colon].contains('/'));
    if is_scheme || source.contains(['?', '#']) {
        return None;
    }
    let name = decoded(source.strip_prefix("./").unwrap_or(source))?;
    let lower = name.to_ascii_lowercase();
    if lower.ends_with(b".ism") || lower.ends_with(b".isml") || name.iter().any(|b| *b < b' ' || b"\\\x7f".contains(b))
    {
        return None;
    }
    let around = [b"/", name.as_slice(), b"/"].concat();
    let has = |part: &[u8]| around.windows(part.len()).any(|window| window == part);
    (!has(b"//") && !has(b"/./") && !has(b"/../")).then_some(name)
}

/// `None` where a `%` begins no escape.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        decoded.push(if byte == b'%' { u8::try_from(digit()? * 16 + digit()?).ok()? } else { byte });
    }
    Some(decoded)
}
