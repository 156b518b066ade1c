//! Which requests are ours (docs/architecture.md, "Who asks").

use std::fmt;
use std::time::Instant;

use super::Child;
use crate::cache::Reason;
use crate::cache::key::{Key, NoKey, Upstream};
use crate::config::{Credentials, RangeAnswer, Section};
use crate::credentials::chain;
use crate::ffi::request::{Proxied, Request};
use crate::semantics::range::{self, Asked};

/// What a request of ours asks for.
pub struct Recognised {
    /// The object.
    pub key: Key,
    /// The part of it; always the whole of it for a main request, which httpd slices.
    pub asked: Asked,
    /// Whether it is a sub-request.
    pub is_sub: bool,
    /// Whether only the head is wanted.
    pub is_head: bool,
    /// When it came to us.
    pub came: Instant,
}

/// Why a request is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// The module is not switched on there.
    Disabled,
    /// The method is neither GET nor HEAD.
    Method,
    /// The request is not proxied, or not by this server's configuration.
    NotProxied,
    /// The URL has no key.
    Url(NoKey),
    /// The path does not match `UspStorageCacheMatch`.
    NotMatched,
    /// It would be ours, but is better left to mod_proxy.
    Passed(Reason),
}

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("UspStorageCache is not on here"),
            Self::Method => f.write_str("the method is neither GET nor HEAD"),
            Self::NotProxied => f.write_str("it is not reverse-proxied"),
            Self::Url(NoKey::NotHttp) => f.write_str("the upstream is no http(s) URL"),
            Self::Url(NoKey::DotSegment) => f.write_str("the path has a dot segment"),
            Self::Url(NoKey::Malformed) => f.write_str("the URL is malformed"),
            Self::Url(NoKey::SubResource) | Self::Passed(Reason::SubResource) => {
                f.write_str("the query asks for a sub-resource")
            }
            Self::NotMatched => f.write_str("UspStorageCacheMatch does not match"),
            Self::Passed(reason) => write!(f, "{reason}"),
        }
    }
}

/// Tells whether `request`, which asks `upstream`, is ours, and what it asks for.
pub fn recognise(
    request: &Request<'_>,
    upstream: Result<&Upstream<'_>, &NoKey>,
    (section, credentials): (&Section<'_>, &Credentials<'_>),
    child: &Child,
) -> Result<Recognised, NotOurs> {
    let (came, is_head) = (Instant::now(), request.is_head());
    if !is_head && request.method() != c"GET" {
        return Err(NotOurs::Method);
    }
    let is_sub = request.parent().is_some();
    match request.proxied() {
        Proxied::Reverse => {}
        Proxied::Forward if is_sub => {}
        Proxied::Forward | Proxied::No => return Err(NotOurs::NotProxied),
    }
    let upstream = upstream.map_err(|no_key| NotOurs::Url(*no_key))?;
    let path = upstream.decoded_path().map_err(NotOurs::Url)?;
    if !section.matching().unwrap_or(&child.default_match).is_match(&path) {
        return Err(NotOurs::NotMatched);
    }
    let key = upstream.key(credentials.scope(chain()), section.ignore_query()).map_err(|no_key| match no_key {
        NoKey::SubResource => NotOurs::Passed(Reason::SubResource),
        other => NotOurs::Url(other),
    })?;
    let ours = Recognised { key, asked: asked(request, section, is_sub, is_head), is_sub, is_head, came };
    match passed(request, upstream, (section, credentials), child, &ours) {
        Some(reason) => Err(NotOurs::Passed(reason)),
        None => Ok(ours),
    }
}

/// What of the object is asked for. A Range counts for GET only (RFC 9110, section 14.2).
fn asked(request: &Request<'_>, section: &Section<'_>, is_sub: bool, is_head: bool) -> Asked {
    if !is_sub || is_head || section.range() == RangeAnswer::Full {
        return Asked::Whole;
    }
    request.headers_in().get(c"Range").map_or(Asked::Whole, |header| range::parse(header.to_bytes()))
}

/// Why a request that the pattern takes is better left to mod_proxy.
fn passed(
    request: &Request<'_>,
    upstream: &Upstream<'_>,
    (section, credentials): (&Section<'_>, &Credentials<'_>),
    child: &Child,
    ours: &Recognised,
) -> Option<Reason> {
    // A sub-request inherits the client's own Authorization and body, which are not meant for storage.
    let is_signed = || upstream.is_signed() || (!ours.is_sub && has_aws_authorization(request));
    if child.own.may_be_socket(upstream.url()) {
        Some(Reason::Socket)
    } else if section.preserves_host() {
        Some(Reason::PreservedHost)
    } else if credentials.yields() && is_signed() {
        Some(Reason::ForeignSignature)
    } else if !ours.is_sub && has_body(request) {
        Some(Reason::Body)
    } else if ours.asked == Asked::Several {
        Some(Reason::SeveralRanges)
    } else if child.own.is(upstream.host(), upstream.port()) {
        Some(Reason::OwnServer)
    } else {
        None
    }
}

fn has_aws_authorization(request: &Request<'_>) -> bool {
    request.headers_in().get(c"Authorization").is_some_and(|value| value.to_bytes().starts_with(b"AWS"))
}

/// Whether a body comes with the request.
pub fn has_body(request: &Request<'_>) -> bool {
    let fields = request.headers_in();
    fields.get(c"Content-Length").is_some_and(|len| len != c"0") || fields.get(c"Transfer-Encoding").is_some()
}
