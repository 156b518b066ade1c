//! From the URL that mod_proxy would ask to the key of an object.
//!
//! [`Upstream::parse`] takes `request_rec.filename` apart, [`Upstream::key`] writes the canonical URL behind its scope.
//!
//! # Invariants
//!
//! - Two spellings may be two keys; two objects are never one (docs/semantics.md, "Keys").
//! - A key's URL is ASCII, holds no control character, and can be asked of storage as it stands.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2};
use smallvec::SmallVec;

use crate::semantics::range::number;

/// Why a URL has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// The scheme is not http or https, or there is no host that can be asked.
    NotHttp,
    /// A path segment is `.` or `..`, plain or encoded.
    DotSegment,
    /// A `%` without two hex digits, a control character or a `#`.
    Malformed,
    /// The query asks for something other than the object: a sub-resource, a part, or overridden fields.
    SubResource,
}

/// A URL that mod_proxy would ask, in its parts.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'r> {
    url: &'r [u8],
    /// The URL up to the end of its host.
    origin: &'r [u8],
    tls: bool,
    host: &'r [u8],
    port: u16,
    path: &'r [u8],
    query: Option<&'r [u8]>,
}

/// Bytes of a URL; longer ones than usual go to the heap.
pub type UrlBytes = SmallVec<[u8; 256]>;

/// What an object is found by: its scope, and the canonical URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The scope, a zero byte, the URL.
    bytes: UrlBytes,
    url_at: usize,
    path_at: usize,
}

impl<'r> Upstream<'r> {
    /// Takes `proxy:http://host:port/path?query` apart (httpd's proxy_util.c, `ap_proxy_canon_url`).
    pub fn parse(filename: &'r [u8]) -> Result<Self, NoKey> {
        let url = filename.strip_prefix(b"proxy:").ok_or(NoKey::NotHttp)?;
        let (tls, rest) = split_scheme(url).ok_or(NoKey::NotHttp)?;
        let authority_len = memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(authority_len);
        let (host, port) = split_authority(authority, tls).ok_or(NoKey::NotHttp)?;
        let (path, query) = match memchr(b'?', target) {
            Some(at) => (&target[..at], Some(&target[at + 1..])),
            None => (target, None),
        };
        let origin = &url[..url.len() - rest.len() + host.len()];
        Ok(Self { url, origin, tls, host, port, path, query })
    }

    /// All of it, as it was written.
    pub fn url(&self) -> &'r [u8] {
        self.url
    }

    /// The host as it was written, without port.
    pub fn host(&self) -> &'r [u8] {
        self.host
    }

    /// Whether the scheme is https.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The port, the scheme's own where none was written.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path with its escapes resolved, which `UspStorageCacheMatch` is held against.
    pub fn decoded_path(&self) -> Result<Cow<'r, [u8]>, NoKey> {
        let mut path = Cow::Borrowed(self.path);
        if memchr(b'%', self.path).is_some() {
            path = Cow::Owned(decode(self.path)?);
        }
        // Few segments begin with a dot: look at the others no closer.
        let begins = |dot: &usize| *dot == 0 || path[dot - 1] == b'/';
        let is_dots = |dot: usize| matches!(path[dot..].split(|b| *b == b'/').next(), Some(b"." | b".."));
        if memchr_iter(b'.', &path).filter(begins).any(is_dots) {
            return Err(NoKey::DotSegment);
        }
        Ok(path)
    }

    /// Whether the query brings a signature that somebody else made.
    pub fn is_signed(&self) -> bool {
        let signs = |name: &[u8]| matches!(name, b"X-Amz-Signature" | b"Signature" | b"AWSAccessKeyId");
        self.parameters().any(|(name, _)| signs(&name))
    }

    /// The key in `scope`; with `ignore_query` only the version of an object counts of its query.
    pub fn key(&self, scope: &str, ignore_query: bool) -> Result<Key, NoKey> {
        let mut bytes = UrlBytes::new();
        bytes.extend_from_slice(scope.as_bytes());
        bytes.push(0);
        let url_at = bytes.len();
        bytes.extend_from_slice(self.origin);
        bytes[url_at..].make_ascii_lowercase();
        if self.port != default_port(self.tls) {
            push_port(&mut bytes, self.port);
        }
        let path_at = bytes.len();
        push_canonical(&mut bytes, self.path)?;
        self.push_query(&mut bytes, ignore_query)?;
        Ok(Key { bytes, url_at, path_at })
    }

    /// Whether it names one object, rather than a list of some or a part of the file system that is not the path's.
    pub fn is_object(&self) -> bool {
        self.decoded_path().is_ok_and(|path| path.last().is_some_and(|last| *last != b'/'))
    }

    fn push_query(&self, bytes: &mut UrlBytes, ignore_query: bool) -> Result<(), NoKey> {
        let mut separator = b'?';
        for (name, parameter) in self.parameters() {
            if is_sub_resource(&name) {
                return Err(NoKey::SubResource);
            }
            if is_signature(&name) || (ignore_query && *name != *b"versionId") || parameter.is_empty() {
                continue;
            }
            bytes.push(separator);
            push_canonical(bytes, parameter)?;
            separator = b'&';
        }
        Ok(())
    }

    /// The query's parameters: the name of each with its escapes resolved, as storage reads it, and all of it as it stands.
    fn parameters(&self) -> impl Iterator<Item = (Cow<'r, [u8]>, &'r [u8])> {
        self.query.into_iter().flat_map(|query| query.split(|b| *b == b'&')).map(|parameter| {
            let name = parameter.split(|b| *b == b'=').next().unwrap_or_default();
            (decode(name).map_or(Cow::Borrowed(name), Cow::Owned), parameter)
        })
    }
}

impl Key {
    /// Scope and URL in one, for finding a mapping.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the configuration names as the credentials.
    pub fn scope(&self) -> &str {
        self.text(0, self.url_at - 1)
    }

    /// The canonical URL.
    pub fn url(&self) -> &str {
        self.text(self.url_at, self.bytes.len())
    }

    /// The host of the URL, with a port that is not the scheme's own.
    pub fn authority(&self) -> &str {
        let scheme_len = self.url().find("://").map_or(0, |at| at + 3);
        self.text(self.url_at + scheme_len, self.path_at)
    }

    /// Path and query of the URL.
    pub fn path_and_query(&self) -> &str {
        self.text(self.path_at, self.bytes.len())
    }

    /// The path of the URL.
    pub fn path(&self) -> &str {
        self.path_and_query().split('?').next().unwrap_or_default()
    }

    /// The URL up to the last slash of its path; `None` where there is no path.
    pub fn directory(&self) -> Option<&str> {
        let slash_at = self.path().rfind('/')?;
        Some(self.text(self.url_at, self.path_at + slash_at + 1))
    }

    /// The same URL with another query, which is escaped as a query has to be: for requests that are not about one object.
    pub fn with_query(&self, query: &str) -> Self {
        let mut key = self.clone();
        key.bytes.truncate(self.path_at + self.path().len());
        key.bytes.push(b'?');
        key.bytes.extend_from_slice(query.as_bytes());
        key
    }

    fn text(&self, from: usize, to: usize) -> &str {
        str::from_utf8(&self.bytes[from..to]).unwrap_or_default()
    }
}

pub(crate) fn split_scheme(url: &[u8]) -> Option<(bool, &[u8])> {
    let rest = |scheme: &[u8]| {
        let (begin, rest) = url.split_at_checked(scheme.len())?;
        (begin == scheme || begin.eq_ignore_ascii_case(scheme)).then_some(rest)
    };
    rest(b"http://").map(|rest| (false, rest)).or_else(|| rest(b"https://").map(|rest| (true, rest)))
}

fn split_authority(authority: &[u8], tls: bool) -> Option<(&[u8], u16)> {
    let is_bracketed = authority.first()? == &b'[';
    let end_of_host = match is_bracketed {
        true => memchr(b']', authority)? + 1,
        false => memchr(b':', authority).unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end_of_host);
    let is_legal = |b: &u8| HOST[usize::from(*b)] || (is_bracketed && matches!(b, b'[' | b']' | b':'));
    let port = match port {
        [] => default_port(tls),
        [b':', digits @ ..] => u16::try_from(number(digits)?).ok()?,
        _ => return None,
    };
    (!host.is_empty() && host.iter().all(is_legal) && port != 0).then_some((host, port))
}

/// Bytes of a host that is a name or an address of four numbers.
const HOST: [bool; 256] = {
    let mut legal = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        legal[byte as usize] = is_unreserved(byte) && byte != b'~';
        byte += 1;
    }
    legal
};

pub(crate) fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn push_port(bytes: &mut UrlBytes, port: u16) {
    bytes.push(b':');
    bytes.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
}

/// Appends `part` of a URL with unreserved characters plain, hex digits in upper case, and what no URL may hold encoded.
fn push_canonical(bytes: &mut UrlBytes, part: &[u8]) -> Result<(), NoKey> {
    let mut rest = part;
    loop {
        // Most of a URL stands as it is.
        let plain_len = rest.iter().position(|b| !PLAIN[usize::from(*b)]).unwrap_or(rest.len());
        let (plain, odd) = rest.split_at(plain_len);
        bytes.extend_from_slice(plain);
        match odd {
            [] => return Ok(()),
            [b'%', digits @ ..] => {
                let (byte, next) = unescape(digits)?;
                rest = next;
                if is_unreserved(byte) { bytes.push(byte) } else { push_escaped(bytes, byte) }
            }
            [b'#' | 0..0x20 | 0x7f, ..] => return Err(NoKey::Malformed),
            [byte, next @ ..] => {
                rest = next;
                push_escaped(bytes, *byte);
            }
        }
    }
}

/// Bytes that stand in a path or query as they are (RFC 3986, sections 3.3 and 3.4).
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        let is_delimiter = matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/' | b'?'
        );
        plain[byte as usize] = is_unreserved(byte) || is_delimiter;
        byte += 1;
    }
    plain
};

/// `path` with its escapes resolved, once.
pub fn decode(path: &[u8]) -> Result<Vec<u8>, NoKey> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let (byte, next) = if *first == b'%' { unescape(tail)? } else { (*first, tail) };
        decoded.push(byte);
        rest = next;
    }
    Ok(decoded)
}

/// RFC 3986, section 2.3.
pub const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Appends the escape of a byte.
pub fn push_escaped(bytes: &mut impl Extend<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    bytes.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// The byte that the two hex digits at the start of `digits` stand for, and what follows them.
pub(crate) fn unescape(digits: &[u8]) -> Result<(u8, &[u8]), NoKey> {
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    match digits {
        [high, low, rest @ ..] => {
            let (high, low) = (hex(*high).ok_or(NoKey::Malformed)?, hex(*low).ok_or(NoKey::Malformed)?);
            Ok((high << 4 | low, rest))
        }
        _ => Err(NoKey::Malformed),
    }
}

/// Parameters of a signature in the query: AWS's own of version 4 and 2, which are not the object's.
fn is_signature(name: &[u8]) -> bool {
    let v4 = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"x-amz-"));
    v4 || matches!(name, b"AWSAccessKeyId" | b"Signature" | b"Expires")
}

/// Parameters that make a GET of an object one of something else
/// (Amazon S3 API reference, "GetObject" and the sub-resources of "Actions").
fn is_sub_resource(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 31] = [
        b"accelerate",
        b"acl",
        b"analytics",
        b"attributes",
        b"cors",
        b"delete",
        b"encryption",
        b"intelligent-tiering",
        b"inventory",
        b"legal-hold",
        b"lifecycle",
        b"list-type",
        b"location",
        b"logging",
        b"metrics",
        b"notification",
        b"object-lock",
        b"ownershipControls",
        b"partNumber",
        b"policy",
        b"policyStatus",
        b"publicAccessBlock",
        b"replication",
        b"requestPayment",
        b"restore",
        b"retention",
        b"tagging",
        b"torrent",
        b"uploadId",
        b"uploads",
        b"versioning",
    ];
    NAMES.contains(&name) || matches!(name, b"versions" | b"website") || name.starts_with(b"response-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(url: &str, ignore_query: bool) -> Result<String, NoKey> {
        let filename = format!("proxy:{url}");
        let upstream = Upstream::parse(filename.as_bytes())?;
        upstream.decoded_path()?;
        upstream.key("id", ignore_query).map(|key| key.url().to_owned())
    }

    #[test]
    fn spellings_of_one_object_are_one_key() {
        let rows = [
            ("http://Host/a.ism", "http://host/a.ism"),
            ("HTTP://host:80/a.ism", "http://host/a.ism"),
            ("https://host:443/a.ism", "https://host/a.ism"),
            ("https://host:80/a.ism", "https://host:80/a.ism"),
            ("http://host/%61%2e%7e.ism", "http://host/a.~.ism"),
            ("http://host/%c3%a9.ism", "http://host/%C3%A9.ism"),
            ("http://host/\u{e9} \"a.ism", "http://host/%C3%A9%20%22a.ism"),
            ("http://host/a.ism?x=1", "http://host/a.ism"),
            ("http://host/a.ism?x=1&versionId=7&y", "http://host/a.ism?versionId=7"),
            ("http://host/a.ism?%76ersionId=7", "http://host/a.ism?versionId=7"),
            ("http://host/a.ism?%zz=1", "http://host/a.ism"),
            ("http://[::1]:8080/a.ism", "http://[::1]:8080/a.ism"),
        ];
        for (url, want) in rows {
            assert_eq!(key(url, true).as_deref(), Ok(want), "{url}");
        }
    }

    #[test]
    fn objects_that_differ_keep_keys_that_differ() {
        for path in
            ["/a//b.ism", "/a%2Fb.ism", "/a+b.ism", "/a%2Bb.ism", "/a%20b.ism", "/A/b.ism", "/a/b.ism", "/a%5Cb.ism"]
        {
            assert_eq!(key(&format!("http://h{path}"), true), Ok(format!("http://h{path}")));
        }
    }

    #[test]
    fn the_query_counts_where_it_is_not_ignored_but_signatures_never_do() {
        let url = "http://h/a.ism?b=2&X-Amz-Date=1&a=%41&Signature=s&AWSAccessKeyId=i&Expires=1&x-amz-security-token=t";
        assert_eq!(key(url, false).as_deref(), Ok("http://h/a.ism?b=2&a=A"));
        assert_eq!(key(url, true).as_deref(), Ok("http://h/a.ism"));
    }

    #[test]
    fn what_has_no_key_says_why() {
        let rows = [
            ("balancer://pool/a.ism", NoKey::NotHttp),
            ("unix:/run/s|http://h/a.ism", NoKey::NotHttp),
            ("fcgi://h/a.ism", NoKey::NotHttp),
            ("http:///a.ism", NoKey::NotHttp),
            ("http://user@h/a.ism", NoKey::NotHttp),
            ("http://h:0/a.ism", NoKey::NotHttp),
            ("http://h:99999/a.ism", NoKey::NotHttp),
            ("http://h/../a.ism", NoKey::DotSegment),
            ("http://h/b/%2e%2E/a.ism", NoKey::DotSegment),
            ("http://h/b%2F..%2Fa.ism", NoKey::DotSegment),
            ("http://h/./a.ism", NoKey::DotSegment),
            ("http://h/a%2.ism", NoKey::Malformed),
            ("http://h/a.ism%", NoKey::Malformed),
            ("http://h/a\u{1}.ism", NoKey::Malformed),
            ("http://h/a#.ism", NoKey::Malformed),
            ("http://h/a.ism?acl", NoKey::SubResource),
            ("http://h/a.ism?%61cl", NoKey::SubResource),
            ("http://h/a.mp4?partNumber=1", NoKey::SubResource),
            ("http://h/a.mp4?response-content-type=x", NoKey::SubResource),
        ];
        for (url, want) in rows {
            assert_eq!(key(url, true), Err(want), "{url}");
        }
    }

    #[test]
    fn a_key_gives_its_parts() {
        let upstream = Upstream::parse(b"proxy:http://Host:81/a.ism?versionId=1").expect("a URL");
        let key = upstream.key("AKID", true).expect("a key");
        assert_eq!((key.scope(), key.authority(), key.path_and_query()), ("AKID", "host:81", "/a.ism?versionId=1"));
        assert_eq!(key.path(), "/a.ism");
        assert!(Upstream::parse(b"proxy:http://h/a?X-Amz-Signature=1").is_ok_and(|u| u.is_signed()));
    }

    #[test]
    fn a_directory_ends_with_the_last_slash_of_the_path() {
        let rows = [
            ("http://Host:81/a/b.ism", Some("http://host:81/a/")),
            ("http://h/b.ism", Some("http://h/")),
            ("http://h/a/", Some("http://h/a/")),
            ("http://h/a//b.ism", Some("http://h/a//")),
            ("http://h/a%2Fb.ism", Some("http://h/")),
            ("http://h/a/b.ism?versionId=c/d", Some("http://h/a/")),
            ("http://h", None),
            ("http://h?versionId=c/d", None),
        ];
        for (url, want) in rows {
            let filename = format!("proxy:{url}");
            let key = Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key("id", true)).expect(url);
            assert_eq!(key.directory(), want, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_clean_key_or_none(path: Vec<u8>, ignore_query: bool) {
            let filename = [b"proxy:http://h/", path.as_slice()].concat();
            if let Ok(upstream) = Upstream::parse(&filename)
                && let Ok(key) = upstream.key("", ignore_query)
            {
                prop_assert!(key.url().bytes().all(|b| b.is_ascii_graphic()));
                let again = format!("proxy:{}", key.url());
                let second = Upstream::parse(again.as_bytes()).expect("a key is a URL").key("", ignore_query);
                prop_assert!(second.is_ok_and(|second| second == key));
            }
        }
    }
}
