//! What the directives mean, as plain values.
//!
//! [`DIRECTIVES`] is the one table of names, usage and setters. A [`Section`] holds what stands in a
//! server, virtual host, `<Location>` or `<Proxy>` and merges from the outside in; [`Host`] holds what
//! there is once for the whole server. Nothing here knows httpd.
//!
//! # Invariants
//!
//! - A section owns nothing: httpd merges sections for each request into memory that is never dropped.
//! - A value that a setter accepted needs no further check.

#![forbid(unsafe_code)]

mod purge;
pub mod signing;
mod value;

use std::ffi::CStr;
use std::fmt;
use std::time::Duration;

use regex::bytes::Regex;

use crate::fetch::roots::Roots;
use crate::semantics::freshness::Policy;

pub use purge::Limit;
use purge::Requires;
pub use signing::Credentials;
use value::{bytes, bytes_or_zero, number, on_off, part_len, range_answer, seconds, storage_url, text};

/// What `UspStorageCacheMatch` is where it is not set.
pub const DEFAULT_MATCH: &str = r"\.(?i:ism|mp4)$";

/// A directive: its name, its usage as httpd prints it, and what it sets.
pub struct Directive {
    /// The name as it stands in a configuration file.
    pub name: &'static CStr,
    /// The argument and the default, for httpd's own error messages.
    pub usage: &'static CStr,
    /// The setter, which also tells where the directive may stand.
    pub set: Set,
}

/// Where a directive may stand, and how its value is taken.
#[derive(Clone, Copy)]
pub enum Set {
    /// In server, virtual host, `<Location>` and `<Proxy>`.
    Section(for<'c> fn(&mut Section<'c>, &'c str) -> Result<(), Invalid>),
    /// As [`Set::Section`], for a value that has to be compiled and kept.
    Match,
    /// As [`Set::Section`], for a file that has to be read and kept.
    Roots,
    /// In the main server only.
    Host(for<'c> fn(&mut Host<'c>, &'c str) -> Result<(), Invalid>),
}

/// A value that a directive does not take: what would be right.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Directives of other modules that tell where requests go, and who may ask; httpd hands them to each module that declares them.
pub static OBSERVED: [&CStr; 7] =
    [c"ProxyPass", c"ProxyPassMatch", c"<Proxy", c"IsmProxyPass", c"ProxyPreserveHost", c"Require", c"AuthMerging"];

/// The URL behind a `unix:/path|` in a line of `ProxyPass`: mod_proxy shows requests to that socket by this URL alone.
pub fn socket_url(line: &str) -> Option<&str> {
    let mut words = line.split([' ', '\t', '"', '\'']);
    let is_socket = |word: &&str| word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("unix:"));
    let target = words.find(is_socket)?;
    // What follows a back-reference is not known.
    target.split_once('|').map(|(_, url)| url.split('$').next().unwrap_or(url))
}

/// The http and https URLs in a line of an observed directive: storages that the configuration names.
pub fn named_urls(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split([' ', '\t', '"', '\'', '>']);
    let begins = |word: &&str, scheme: &str| word.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
    words.filter(move |word| begins(word, "http://") || begins(word, "https://"))
}

/// Every directive of the module.
pub static DIRECTIVES: [Directive; 33] = [
    Directive {
        name: c"UspStorageCache",
        usage: c"on|off (off): serve manifests and index MP4s from the store",
        set: Set::Section(|s, v| put(&mut s.enabled, on_off(v))),
    },
    Directive {
        name: c"UspStorageCacheMatch",
        usage: c"regex (\\.(?i:ism|mp4)$): the decoded upstream paths that are served from the store",
        set: Set::Match,
    },
    Directive {
        name: c"UspStorageCacheMaxObjectSize",
        usage: c"bytes (1000000000): larger objects pass through",
        set: Set::Section(|s, v| put(&mut s.object_len_max, bytes(v))),
    },
    Directive {
        name: c"UspStorageCacheIgnoreQueryString",
        usage: c"on|off (on): whether the query string belongs to an object's name",
        set: Set::Section(|s, v| put(&mut s.ignore_query, on_off(v))),
    },
    Directive {
        name: c"UspStorageCacheRange",
        usage: c"partial|full (partial): what a sub-request with a Range gets",
        set: Set::Section(|s, v| put(&mut s.range, range_answer(v))),
    },
    Directive {
        name: c"UspStorageCacheHonor",
        usage: c"on|off (off): whether storage's own Cache-Control, Expires, Age and Vary count",
        set: Set::Section(|s, v| put(&mut s.honor, on_off(v))),
    },
    Directive {
        name: c"UspStorageCacheExpire",
        usage: c"seconds (7200): how long an object is served before storage is asked again",
        set: Set::Section(|s, v| put(&mut s.expire, seconds(v, 0))),
    },
    Directive {
        name: c"UspStorageCacheStaleWhileRevalidate",
        usage: c"seconds (300): how long a stale object is served while storage is asked",
        set: Set::Section(|s, v| put(&mut s.stale_while_revalidate, seconds(v, 0))),
    },
    Directive {
        name: c"UspStorageCacheStaleIfError",
        usage: c"seconds (86400): how long a stale object is served if storage fails",
        set: Set::Section(|s, v| put(&mut s.stale_if_error, seconds(v, 0))),
    },
    Directive {
        name: c"UspStorageCacheNegativeExpire",
        usage: c"seconds (5): how long an absent object is remembered",
        set: Set::Section(|s, v| put(&mut s.negative_expire, seconds(v, 0))),
    },
    Directive {
        name: c"UspStorageCacheConnectTimeout",
        usage: c"seconds (5): for a connection to storage",
        set: Set::Section(|s, v| put(&mut s.connect_timeout, seconds(v, 1))),
    },
    Directive {
        name: c"UspStorageCacheTimeout",
        usage: c"seconds (10): for storage's first byte, and for each next piece",
        set: Set::Section(|s, v| put(&mut s.timeout, seconds(v, 1))),
    },
    Directive {
        name: c"UspStorageCacheCAFile",
        usage: c"file (Mozilla's list): certificates of the authorities that storage's own is held against",
        set: Set::Roots,
    },
    Directive {
        name: c"UspStorageCacheFallback",
        usage: c"URL: a storage with the same objects, asked when the one that ProxyPass names fails",
        set: Set::Section(|s, v| put(&mut s.fallback, storage_url(v))),
    },
    Directive {
        name: c"UspStorageCacheWait",
        usage: c"seconds (10): how long a request waits for a fill that makes no progress",
        set: Set::Section(|s, v| put(&mut s.wait, seconds(v, 1))),
    },
    Directive {
        name: c"UspStorageCachePartSize",
        usage: c"bytes (4M): what one request of a fill asks for",
        set: Set::Section(|s, v| put(&mut s.part_len, part_len(v))),
    },
    Directive {
        name: c"UspStorageCacheHedge",
        usage: c"on|off (off): whether storage is asked a second time where its answer is late",
        set: Set::Section(|s, v| put(&mut s.hedge, on_off(v))),
    },
    Directive {
        name: c"UspStorageCachePrefetch",
        usage: c"on|off (on): whether the indexes that a manifest names are filled with it",
        set: Set::Section(|s, v| put(&mut s.prefetch, on_off(v))),
    },
    Directive {
        name: c"UspStorageCachePurge",
        usage: c"on|off (off): whether PURGE requests remove what is stored",
        set: Set::Section(|s, v| put(&mut s.purge, on_off(v))),
    },
    Directive {
        name: c"UspStorageCacheCredentials",
        usage: c"auto|static|none (auto): whose keys sign requests to storage",
        set: Set::Section(|s, v| put(&mut s.credentials, signing::source(v))),
    },
    Directive {
        name: c"S3AccessKey",
        usage: c"key id: signs requests to storage together with S3SecretKey",
        set: Set::Section(|s, v| put(&mut s.access_key, text(v))),
    },
    Directive {
        name: c"S3SecretKey",
        usage: c"secret key that belongs to S3AccessKey",
        set: Set::Section(|s, v| put(&mut s.secret_key, text(v))),
    },
    Directive {
        name: c"S3SecurityToken",
        usage: c"session token of temporary credentials",
        set: Set::Section(|s, v| put(&mut s.security_token, text(v))),
    },
    Directive {
        name: c"S3Region",
        usage: c"region (what the host name tells, else us-east-1): what requests to storage are signed for",
        set: Set::Section(|s, v| put(&mut s.region, text(v))),
    },
    Directive {
        name: c"S3UseHeaders",
        usage: c"on|off (off): sign in the Authorization header instead of the query string",
        set: Set::Section(|s, v| put(&mut s.use_headers, on_off(v))),
    },
    Directive {
        name: c"S3RoleARN",
        usage: c"ARN: the role that is assumed to sign requests to storage",
        set: Set::Section(|s, v| put(&mut s.role_arn, signing::role_arn(v))),
    },
    Directive {
        name: c"S3RoleSessionName",
        usage: c"name (usp-storage-cache): what the role's sessions are called",
        set: Set::Section(|s, v| put(&mut s.role_session_name, signing::role_session_name(v))),
    },
    Directive {
        name: c"S3RoleDuration",
        usage: c"seconds (3600): how long a session of the role lasts",
        set: Set::Section(|s, v| put(&mut s.role_duration, number(v, 900..=43_200))),
    },
    Directive {
        name: c"UspStorageCacheRoot",
        usage: c"directory (/var/cache/apache2/usp-storage-cache): where the store is",
        set: Set::Host(|h, v| put(&mut h.root, text(v))),
    },
    Directive {
        name: c"UspStorageCacheMaxSize",
        usage: c"bytes (10G): disk space that the store may take",
        set: Set::Host(|h, v| put(&mut h.store_len_max, bytes(v))),
    },
    Directive {
        name: c"UspStorageCacheMinFree",
        usage: c"bytes (1G): disk space that the store leaves free",
        set: Set::Host(|h, v| put(&mut h.free_len_min, bytes_or_zero(v))),
    },
    Directive {
        name: c"UspStorageCacheConnections",
        usage: c"number (128): connections to storage that all children have at a time",
        set: Set::Host(|h, v| put(&mut h.connections, number(v, 1..=4096))),
    },
    Directive {
        name: c"UspStorageCacheFillThreads",
        usage: c"number (8): parts of one object that are fetched at a time",
        set: Set::Host(|h, v| put(&mut h.fill_threads, number(v, 1..=64))),
    },
];

/// What a ranged sub-request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAnswer {
    /// The part that was asked for, with status 206.
    Partial,
    /// The whole object, with status 200, as from a cache that drops Range.
    Full,
}

/// The pattern of `UspStorageCacheMatch`, compiled.
#[derive(Clone)]
pub struct Match {
    regex: Regex,
    /// What the default takes is told without the pattern, which costs as much as all else of a look-up.
    is_default: bool,
}

impl PartialEq for Match {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Match {
    /// Compiles `pattern`; the error says what the pattern lacks.
    pub fn new(pattern: &str) -> Result<Self, Invalid> {
        let error = |e: regex::Error| Invalid(format!("a regular expression ({DEFAULT_MATCH} for example): {e}"));
        let regex = Regex::new(pattern).map_err(error)?;
        Ok(Self { regex, is_default: pattern == DEFAULT_MATCH })
    }

    /// Whether the decoded path of an upstream URL is one that the store serves.
    pub fn is_match(&self, path: &[u8]) -> bool {
        if self.is_default { is_default_match(path) } else { self.regex.is_match(path) }
    }
}

/// What a server, virtual host, `<Location>` or `<Proxy>` says; `None` is what it leaves open.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Section<'c> {
    enabled: Option<bool>,
    matching: Option<&'c Match>,
    object_len_max: Option<u64>,
    ignore_query: Option<bool>,
    range: Option<RangeAnswer>,
    honor: Option<bool>,
    expire: Option<u32>,
    stale_while_revalidate: Option<u32>,
    stale_if_error: Option<u32>,
    negative_expire: Option<u32>,
    connect_timeout: Option<u32>,
    timeout: Option<u32>,
    roots: Option<&'c Roots>,
    fallback: Option<&'c str>,
    wait: Option<u32>,
    part_len: Option<u64>,
    hedge: Option<bool>,
    prefetch: Option<bool>,
    purge: Option<bool>,
    requires: Option<Requires>,
    preserve_host: Option<bool>,
    access_key: Option<&'c str>,
    secret_key: Option<&'c str>,
    security_token: Option<&'c str>,
    region: Option<&'c str>,
    use_headers: Option<bool>,
    credentials: Option<signing::Source>,
    role_arn: Option<&'c str>,
    role_session_name: Option<&'c str>,
    role_duration: Option<u32>,
}

/// What an inner section says, over what an outer one says. All fields have to be named; few are said, and httpd merges for each
/// request.
macro_rules! put_over {
    ($outer:expr, $inner:expr; $($field:ident),*) => {{
        let (mut merged, Section { $($field),* }) = ($outer, $inner);
        $(if $field.is_some() {
            merged.$field = $field;
        })*
        merged
    }};
}

impl<'c> Section<'c> {
    /// What holds in a section `inner` that lies in `outer`.
    pub fn merge(outer: &Self, inner: &Self) -> Self {
        let settled = |section: &Self| Self { requires: section.settled_requires(), ..*section };
        put_over!(settled(outer), settled(inner);
            enabled, matching, object_len_max, ignore_query, range, honor, expire, stale_while_revalidate,
            stale_if_error, negative_expire, connect_timeout, timeout, roots, fallback, wait, part_len, hedge,
            prefetch, purge, requires, preserve_host, access_key, secret_key, security_token, region, use_headers,
            credentials, role_arn, role_session_name, role_duration)
    }

    /// Sets the pattern of `UspStorageCacheMatch`.
    pub fn set_match(&mut self, matching: &'c Match) {
        self.matching = Some(matching);
    }

    /// Sets what `UspStorageCacheCAFile` holds.
    pub fn set_roots(&mut self, roots: &'c Roots) {
        self.roots = Some(roots);
    }

    /// Notes what `ProxyPreserveHost` says; mod_proxy itself refuses nonsense.
    pub fn observe_preserve_host(&mut self, value: &str) {
        self.preserve_host = Some(value.eq_ignore_ascii_case("on"));
    }

    /// Whether mod_proxy sends the client's own Host, which a key does not know.
    pub fn preserves_host(&self) -> bool {
        self.preserve_host == Some(true)
    }

    /// Whether the module answers here at all.
    pub fn enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    /// The pattern that is set here, if any.
    pub fn matching(&self) -> Option<&'c Match> {
        self.matching
    }

    /// The largest body, in bytes, that is stored.
    pub fn object_len_max(&self) -> u64 {
        self.object_len_max.unwrap_or(1_000_000_000)
    }

    /// Whether the query string is no part of an object's name.
    pub fn ignore_query(&self) -> bool {
        self.ignore_query.unwrap_or(true)
    }

    /// What a ranged sub-request gets.
    pub fn range(&self) -> RangeAnswer {
        self.range.unwrap_or(RangeAnswer::Partial)
    }

    /// Seconds that an entry is fresh after storage vouched for it.
    pub fn expire_secs(&self) -> u32 {
        self.expire.unwrap_or(7200)
    }

    /// How long an entry may be served, fresh and stale.
    pub fn policy(&self) -> Policy {
        Policy {
            honor: self.honor.unwrap_or(false),
            expire_secs: self.expire_secs(),
            stale_while_revalidate_secs: self.stale_while_revalidate.unwrap_or(300),
            stale_if_error_secs: self.stale_if_error.unwrap_or(86400),
        }
    }

    /// Seconds that an absent or refused object is remembered.
    pub fn negative_expire_secs(&self) -> u32 {
        self.negative_expire.unwrap_or(5)
    }

    /// How long a connection to storage may take.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout.unwrap_or(5).into())
    }

    /// How long storage may be silent.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(10).into())
    }

    /// The authorities that storage's certificate is held against, where a file names them.
    pub fn roots(&self) -> Option<&'c Roots> {
        self.roots
    }

    /// The URL that stands for the one that the configuration names, where storage fails.
    pub fn fallback(&self) -> Option<&'c str> {
        self.fallback
    }

    /// How long a request waits for a fill that makes no progress.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.unwrap_or(10).into())
    }

    /// The bytes that one request of a fill asks for: whole blocks.
    pub fn part_len(&self) -> u64 {
        self.part_len.unwrap_or(4 << 20)
    }

    /// Whether storage is asked a second time where its answer is late.
    pub fn hedges(&self) -> bool {
        self.hedge.unwrap_or(false)
    }

    /// Whether the indexes that a manifest names are filled together with it.
    pub fn prefetches(&self) -> bool {
        self.prefetch.unwrap_or(true)
    }

    /// Notes a line of `Require`.
    pub fn observe_require(&mut self, line: &str, limit: Limit) {
        self.requires.get_or_insert_default().note(line, limit);
    }

    /// Notes a line of `AuthMerging`, which joins the rules of several sections or does not.
    pub fn observe_merging(&mut self, joins: bool) {
        if joins {
            self.requires.get_or_insert_default().note_merging();
        }
    }

    /// Whether PURGE requests are answered here.
    pub fn purges(&self) -> bool {
        self.purge == Some(true)
    }

    /// Whether the access rules say who may purge, this host aside. As in httpd, a section that has rules replaces those from
    /// outside.
    pub fn says_who_purges(&self) -> bool {
        self.requires.is_some_and(|requires| requires.say(self.purges()))
    }

    fn settled_requires(&self) -> Option<Requires> {
        self.requires.map(|requires| requires.settled(self.purges()))
    }

    /// The same without credentials of any kind.
    pub fn unsigned(&self) -> Self {
        Self { credentials: Some(signing::Source::None), ..*self }
    }

    /// The region to sign for, where one is set.
    pub fn region(&self) -> Option<&'c str> {
        self.region
    }

    /// Whether the signature goes into the header rather than the query.
    pub fn use_headers(&self) -> bool {
        self.use_headers.unwrap_or(false)
    }
}

/// What there is once for all virtual hosts.
#[derive(Clone, Copy, Default)]
pub struct Host<'c> {
    root: Option<&'c str>,
    store_len_max: Option<u64>,
    free_len_min: Option<u64>,
    connections: Option<u32>,
    fill_threads: Option<u32>,
    read_at_ms: u64,
    /// Whether any section of this server switches the module on.
    pub used: bool,
    /// Upstream URLs of this server that stand for a socket: what requests to it begin with.
    pub sockets: Option<&'c Url<'c>>,
    /// Upstream URLs that this server's configuration names.
    pub named: Option<&'c Url<'c>>,
}

/// A URL, and the ones that were met before it.
pub struct Url<'c> {
    /// As it was written.
    pub url: &'c str,
    /// The one before.
    pub next: Option<&'c Url<'c>>,
}

impl<'c> Url<'c> {
    /// This one and all before.
    pub fn all(last: Option<&'c Self>) -> impl Iterator<Item = &'c str> {
        std::iter::successors(last, |url| url.next).map(|url| url.url)
    }
}

impl<'c> Host<'c> {
    /// Nothing said yet, in a configuration that is read at `read_at_ms` since 1970.
    pub fn new(read_at_ms: u64) -> Self {
        Self { read_at_ms, ..Self::default() }
    }

    /// When the configuration was read, in milliseconds since 1970: the limits of the younger one hold.
    pub fn read_at_ms(&self) -> u64 {
        self.read_at_ms
    }

    /// What holds in the virtual host `inner` of the server `outer`.
    pub fn merge(outer: &Self, inner: &Self) -> Self {
        Self { used: inner.used, sockets: inner.sockets, named: inner.named, ..*outer }
    }

    /// The store's directory, where one is set.
    pub fn root(&self) -> Option<&'c str> {
        self.root
    }

    /// Bytes on disk that the store may take.
    pub fn store_len_max(&self) -> u64 {
        self.store_len_max.unwrap_or(10 << 30)
    }

    /// Bytes on disk that the store leaves free.
    pub fn free_len_min(&self) -> u64 {
        self.free_len_min.unwrap_or(1 << 30)
    }

    /// Connections to storage that all children together may have at a time.
    pub fn connections(&self) -> u32 {
        self.connections.unwrap_or(128)
    }

    /// Threads of one child that fetch.
    pub fn fill_threads(&self) -> u32 {
        self.fill_threads.unwrap_or(8)
    }
}

/// What [`DEFAULT_MATCH`] says of `path`.
fn is_default_match(path: &[u8]) -> bool {
    let Some((_, [b'.', name @ ..])) = path.split_last_chunk::<4>() else { return false };
    name.eq_ignore_ascii_case(b"ism") || name.eq_ignore_ascii_case(b"mp4")
}

fn put<T>(field: &mut Option<T>, value: Result<T, Invalid>) -> Result<(), Invalid> {
    *field = Some(value?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets a directive of `section` or `host` as httpd does.
    fn set<'c>(section: &mut Section<'c>, host: &mut Host<'c>, name: &str, value: &'c str) -> Result<(), Invalid> {
        let directive = DIRECTIVES.iter().find(|d| d.name.to_str() == Ok(name)).expect(name);
        match directive.set {
            Set::Section(set) => set(section, value),
            Set::Host(set) => set(host, value),
            Set::Match | Set::Roots => panic!("{name} is kept by its caller"),
        }
    }

    #[test]
    fn counts_of_the_host_are_bounded() {
        let rows = [
            ("UspStorageCacheConnections", "0", None),
            ("UspStorageCacheConnections", "1", Some(1)),
            ("UspStorageCacheConnections", "4096", Some(4096)),
            ("UspStorageCacheConnections", "4097", None),
            ("UspStorageCacheFillThreads", "0", None),
            ("UspStorageCacheFillThreads", "64", Some(64)),
            ("UspStorageCacheFillThreads", "65", None),
            ("UspStorageCacheFillThreads", "8K", None),
        ];
        for (name, value, want) in rows {
            let (mut section, mut host) = (Section::default(), Host::default());
            let got = set(&mut section, &mut host, name, value).ok();
            let got = got.map(|()| if name.ends_with("Threads") { host.fill_threads() } else { host.connections() });
            assert_eq!(got, want, "{name} {value}");
        }
        assert_eq!((Host::default().connections(), Host::default().fill_threads()), (128, 8));
    }

    #[test]
    fn each_directive_of_freshness_and_fills_sets_merges_and_has_a_default() {
        type Shown = fn(&Section<'_>) -> u64;
        let rows: [(&str, &str, u64, u64, Shown); 8] = [
            ("UspStorageCacheHonor", "on", 1, 0, |s| s.policy().honor.into()),
            ("UspStorageCacheExpire", "0", 0, 7200, |s| s.policy().expire_secs.into()),
            ("UspStorageCacheStaleWhileRevalidate", "0", 0, 300, |s| s.policy().stale_while_revalidate_secs.into()),
            ("UspStorageCacheStaleIfError", "60", 60, 86400, |s| s.policy().stale_if_error_secs.into()),
            ("UspStorageCacheWait", "1", 1, 10, |s| s.wait().as_secs()),
            ("UspStorageCachePartSize", "1M", 1 << 20, 4 << 20, |s| s.part_len()),
            ("UspStorageCacheHedge", "on", 1, 0, |s| s.hedges().into()),
            ("UspStorageCachePrefetch", "off", 0, 1, |s| s.prefetches().into()),
        ];
        for (name, value, want, default, shown) in rows {
            let (open, mut said) = (Section::default(), Section::default());
            set(&mut said, &mut Host::default(), name, value).expect(name);
            let merged = [Section::merge(&open, &said), Section::merge(&said, &open), open];
            assert_eq!(merged.map(|section| shown(&section)), [want, want, default], "{name} {value}");
        }
    }

    #[test]
    fn an_inner_section_overrides_only_what_it_sets() {
        let outer = Section { enabled: Some(true), expire: Some(10), ..Section::default() };
        let inner = Section { expire: Some(20), ..Section::default() };
        let merged = Section::merge(&outer, &inner);
        assert!(merged.enabled());
        assert_eq!(merged.expire_secs(), 20);
        assert_eq!(merged.timeout(), Duration::from_secs(10));
    }

    #[test]
    fn a_section_beside_one_that_says_nothing_says_the_same_of_who_purges() {
        let lines = [None, Some(("ip 10.0.0.0/8", Limit::Named)), Some(("ip 10.0.0.0/8", Limit::In))];
        let sections = lines.into_iter().flat_map(|line| {
            [None, Some(false), Some(true)].map(|purge| {
                let mut section = Section { purge, ..Section::default() };
                line.iter().for_each(|(line, limit)| section.observe_require(line, *limit));
                section
            })
        });
        let sections: Vec<_> = sections.collect();
        let open = Section::default();
        for said in &sections {
            let beside = [*said, Section::merge(&open, said), Section::merge(said, &open)];
            for inner in &sections {
                let [here, within] = [beside, beside.map(|outer| Section::merge(&outer, inner))]
                    .map(|sections| sections.map(|section| section.says_who_purges()));
                assert!(here == [here[0]; 3] && within == [within[0]; 3], "{here:?} {within:?}");
            }
        }
    }

    #[test]
    fn the_url_behind_a_socket_is_found() {
        let rows = [
            ("/a/ http://h/", None),
            ("/a/ unix:/run/s|http://localhost/", Some("http://localhost/")),
            ("/a \"UNIX:/run/s|http://localhost/b\" retry=0", Some("http://localhost/b")),
            ("unix:/run/s|http://localhost/$1", Some("http://localhost/")),
            ("/a/ unix:/run/s", None),
        ];
        for (line, want) in rows {
            assert_eq!(socket_url(line), want, "{line}");
        }
    }

    #[test]
    fn a_line_names_the_urls_in_it() {
        let rows: [(&str, &[&str]); 6] = [
            ("/a/ http://h/ timeout=5", &["http://h/"]),
            ("\"HTTPS://h/b/\"", &["HTTPS://h/b/"]),
            ("^/(.*)$ http://h/$1", &["http://h/$1"]),
            ("\"http://*.h/\">", &["http://*.h/"]),
            ("http://h/>", &["http://h/"]),
            ("/a/ unix:/run/s|http://localhost/ nocanon", &[]),
        ];
        for (line, want) in rows {
            assert_eq!(named_urls(line).collect::<Vec<_>>(), want, "{line}");
        }
    }

    #[test]
    fn the_default_match_takes_manifests_and_indexes_in_any_case() {
        let matching = Match::new(DEFAULT_MATCH).expect("the default is a valid pattern");
        let rows: [(&[u8], bool); 10] = [
            (b"/a.ism", true),
            (b"/a.ISM", true),
            (b"/b.Mp4", true),
            (b".ism", true),
            (b"/\xff.ism", true),
            (b"/c.cmfv", false),
            (b"/a.ism/x", false),
            (b"/a.ism\n", false),
            (b"/aism", false),
            (b"ism", false),
        ];
        for (path, want) in rows {
            assert_eq!([matching.is_match(path), matching.regex.is_match(path)], [want; 2], "{path:?}");
        }
        assert!(Match::new("(").is_err());
    }
}
