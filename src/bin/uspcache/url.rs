//! URLs as users know them, and the keys that they stand for.

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt as _;

use mod_usp_storage_cache::cache::key::{Key, NoKey, Upstream, decode, is_unreserved, push_escaped};

use super::failure::Failure;

/// The canonical URLs that an object may be held under: whether queries count is the configuration's to say, so both.
pub fn candidates(typed: &OsStr) -> Result<Vec<String>, Failure> {
    let why = |no_key| refused(typed, no_key);
    let filename = filename(typed);
    let upstream = Upstream::parse(&filename).map_err(why)?;
    upstream.decoded_path().map_err(why)?;
    let mut urls = Vec::new();
    for ignores_query in [true, false] {
        urls.push(upstream.key("", ignores_query).map_err(why)?.url().to_owned());
    }
    urls.dedup();
    Ok(urls)
}

/// What the canonical URLs begin with that are meant by a prefix. A host in it is always whole.
pub fn prefix(typed: &OsStr) -> Result<String, Failure> {
    let key = whole(typed)?;
    let slash = if key.path_and_query().is_empty() { "/" } else { "" };
    Ok(key.url().to_owned() + slash)
}

/// The key of a URL with all of its query.
pub fn whole(typed: &OsStr) -> Result<Key, Failure> {
    let key = Upstream::parse(&filename(typed)).and_then(|upstream| upstream.key("", false));
    key.map_err(|no_key| refused(typed, no_key))
}

/// The same of one object, whose path has no dot segments.
pub fn object(typed: &OsStr) -> Result<Key, Failure> {
    let filename = filename(typed);
    let path = Upstream::parse(&filename).and_then(|upstream| upstream.decoded_path().map(drop));
    path.map_err(|no_key| refused(typed, no_key))?;
    whole(typed)
}

/// A name as the path of a URL.
pub fn escaped(name: &str) -> String {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name.bytes() {
        if byte == b'/' || is_unreserved(byte) { escaped.push(byte) } else { push_escaped(&mut escaped, byte) }
    }
    String::from_utf8(escaped).unwrap_or_default()
}

/// The name that a part of a path stands for; what is no UTF-8 is U+FFFD.
pub fn unescaped(path: &str) -> String {
    decode(path.as_bytes()).map_or_else(|_| path.to_owned(), |name| String::from_utf8_lossy(&name).into_owned())
}

/// Whether a URL brings a signature that somebody else made.
pub fn is_signed(typed: &OsStr) -> bool {
    Upstream::parse(&filename(typed)).is_ok_and(|upstream| upstream.is_signed())
}

/// The URL as mod_proxy would hand it to the module.
fn filename(typed: &OsStr) -> Vec<u8> {
    [b"proxy:", typed.as_bytes()].concat()
}

fn refused(typed: &OsStr, no_key: NoKey) -> Failure {
    let why: &dyn Display = match no_key {
        NoKey::NotHttp => &"it is no http or https URL with a host; write it as in http://host/film.ism",
        NoKey::DotSegment => &"the path has dot segments, and no such object is ever stored; resolve them",
        NoKey::Malformed => &"it holds a lone %, a # or a control character; escape them",
        NoKey::SubResource => &"its query asks for something other than the object; leave the query out",
    };
    Failure::Usage(format!("{}: {why}", typed.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_stands_for_its_keys_with_and_without_the_query() {
        let rows: [(&[u8], &[&str]); 6] = [
            (b"HTTP://Host:80/a%2eism", &["http://host/a.ism"]),
            (b"http://h/a.ism?x=1", &["http://h/a.ism", "http://h/a.ism?x=1"]),
            (b"http://h/a.ism?versionId=1", &["http://h/a.ism?versionId=1"]),
            (b"http://h/a.ism?X-Amz-Signature=1", &["http://h/a.ism"]),
            (b"http://h/\xff \x80.ism", &["http://h/%FF%20%80.ism"]),
            (b"https://h:443/\"", &["https://h/%22"]),
        ];
        for (typed, want) in rows {
            assert_eq!(candidates(OsStr::from_bytes(typed)).ok().as_deref(), Some(to_strings(want).as_slice()));
        }
    }

    fn to_strings(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).into()).collect()
    }

    #[test]
    fn what_is_no_url_of_an_object_is_a_usage_error() {
        for typed in
            ["", "film.ism", "s3://b/a", "http://h/a/../b", "http://h/%", "http://h/a?acl", "http://h/\u{1b}[m"]
        {
            assert!(matches!(candidates(OsStr::new(typed)), Err(Failure::Usage(_))), "{typed:?} is taken");
        }
    }

    #[test]
    fn a_prefix_never_ends_within_the_host() {
        let rows = [
            ("http://Host", "http://host/"),
            ("http://h:80", "http://h/"),
            ("http://h:8080", "http://h:8080/"),
            ("http://h/a/", "http://h/a/"),
            ("http://h/a/fi", "http://h/a/fi"),
            ("http://h/a.", "http://h/a."),
            ("http://h/a.ism?versionId=", "http://h/a.ism?versionId="),
        ];
        for (typed, want) in rows {
            assert_eq!(prefix(OsStr::new(typed)).ok().as_deref(), Some(want), "{typed}");
        }
        assert!(prefix(OsStr::new("/films/")).is_err());
    }
}
