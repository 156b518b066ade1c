//! AWS Signature Version 4 for requests about objects
//! (Amazon S3 API reference, "Authenticating requests: using the Authorization header", and "using query parameters").

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningInstructions,
    SigningSettings, UriPathNormalizationMode, sign as sign_http,
};
use aws_sigv4::sign::v4::SigningParams;
use ureq::http;

use super::Rules;
use crate::cache::key::{self, Key};
use crate::credentials::Keys;

/// How long a presigned request may be under way.
pub const PRESIGNED: Duration = Duration::from_secs(300);

/// The field that has S3 state an object's checksums (Amazon S3 API reference, "HeadObject"); unsigned it would be refused.
pub const CHECKSUM_MODE: (&str, &str) = ("x-amz-checksum-mode", "ENABLED");

/// What a request is signed for.
pub struct Terms<'r> {
    /// The region of the scope.
    pub region: Cow<'r, str>,
    /// The time of the signature.
    pub at: SystemTime,
    /// How long a presigned request may be under way.
    lifetime: Duration,
}

impl<'r> Terms<'r> {
    /// A region and a time.
    pub fn new(region: Cow<'r, str>, at: SystemTime) -> Self {
        Self { region, at, lifetime: PRESIGNED }
    }
}

/// What makes a request a signed one.
#[derive(Debug, PartialEq, Eq)]
pub enum Signature {
    /// Fields that are to be set.
    Header(Vec<(String, String)>),
    /// Parameters that are to be appended, escaped and joined by `&`.
    Query(String),
}

/// The signature for a GET or HEAD of `key` that somebody else sends, with `host` as its field `Host`; the error says what
/// is wrong.
pub fn signature(
    method: &str,
    key: &Key,
    host: &str,
    keys: &Keys,
    rules: &Rules,
    terms: &Terms<'_>,
) -> Result<Signature, String> {
    let signed = instructions(terms, method, &signed_url(key), &[("host", host)], &[], keys, rules)?;
    if rules.use_headers {
        let fields = signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
        return Ok(Signature::Header(fields.collect()));
    }
    let mut query = Vec::new();
    for (name, value) in signed.params() {
        query.extend(if query.is_empty() { "" } else { "&" }.bytes());
        query.extend(name.bytes());
        query.push(b'=');
        for byte in value.bytes() {
            if key::is_unreserved(byte) { query.push(byte) } else { key::push_escaped(&mut query, byte) }
        }
    }
    Ok(Signature::Query(String::from_utf8(query).unwrap_or_default()))
}

/// Signs `request`, which is for `key` and has that `body`, with `keys` in the header or in the query; the error says what is
/// wrong.
pub fn sign(
    request: &mut http::Request<()>,
    body: &[u8],
    key: &Key,
    keys: &Keys,
    rules: &Rules,
    terms: &Terms<'_>,
) -> Result<(), String> {
    let mut url = signed_url(key);
    if !rules.use_headers {
        move_checksum_mode(request, key, &mut url)?;
    }
    let checksum_mode = request.headers().contains_key(CHECKSUM_MODE.0).then_some(CHECKSUM_MODE);
    let method = request.method().clone();
    let signed = instructions(terms, method.as_str(), &url, checksum_mode.as_slice(), body, keys, rules)?;
    signed.apply_to_request_http1x(request);
    Ok(())
}

/// What signs a request whose `fields` are signed with it; `Host` is the URL's where it is not among them.
fn instructions(
    terms: &Terms<'_>,
    method: &str,
    url: &str,
    fields: &[(&str, &str)],
    body: &[u8],
    keys: &Keys,
    rules: &Rules,
) -> Result<SigningInstructions, String> {
    let identity = keys.credentials().clone().into();
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(&terms.region)
        .name("s3")
        .time(terms.at)
        .settings(settings(rules.use_headers, terms.lifetime))
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let body = if rules.use_headers { SignableBody::Bytes(body) } else { SignableBody::UnsignedPayload };
    let signable = SignableRequest::new(method, url, fields.iter().copied(), body);
    let signed = signable.and_then(|signable| sign_http(signable, &parameters)).map_err(|e| e.to_string())?;
    Ok(signed.into_parts().0)
}

/// The region to sign for: the configured one, what the host name tells, else `us-east-1`.
pub fn region<'r>(rules: &'r Rules, key: &'r Key) -> Cow<'r, str> {
    match &rules.region {
        Some(region) => region.into(),
        None => region_of_host(key.authority()).unwrap_or("us-east-1").into(),
    }
}

/// Has a presigned request carry the field of the checksums in its query, where it is signed: in the header the signer leaves it
/// out, and what begins with `x-amz-` and is not signed has S3 refuse the request.
fn move_checksum_mode(request: &mut http::Request<()>, key: &Key, url: &mut String) -> Result<(), String> {
    let (name, value) = CHECKSUM_MODE;
    if request.headers_mut().remove(name).is_some() {
        let separator = if key.path_and_query().contains('?') { '&' } else { '?' };
        let parameter = format!("{separator}{name}={value}");
        url.push_str(&parameter);
        *request.uri_mut() = format!("{}{parameter}", key.url()).parse().map_err(|_| "the URL is none".to_owned())?;
    }
    Ok(())
}

fn settings(use_headers: bool, lifetime: Duration) -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    if use_headers {
        settings.signature_location = SignatureLocation::Headers;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    } else {
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(lifetime);
    }
    settings
}

/// The URL as S3 canonicalises it before it compares signatures (Amazon S3 API reference, "Signature Calculations for the
/// Authorization Header", "UriEncode"): each byte of the path but unreserved characters and `/` is encoded. An encoded `/` is
/// part of the key like a plain one, and a raw `+` is the space that S3 takes it for.
fn signed_url(key: &Key) -> String {
    let (path, query) = key.path_and_query().split_once('?').unwrap_or((key.path_and_query(), ""));
    let mut url = key.url().as_bytes()[..key.url().len() - key.path_and_query().len()].to_vec();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match *first {
            b'%' if let Some(after) = tail.strip_prefix(b"2F") => {
                url.push(b'/');
                rest = after;
            }
            b'%' | b'/' => url.push(*first),
            b'+' => key::push_escaped(&mut url, b' '),
            // The two digits behind a `%` are unreserved characters themselves.
            byte if key::is_unreserved(byte) => url.push(byte),
            byte => key::push_escaped(&mut url, byte),
        }
    }
    let url = String::from_utf8(url).unwrap_or_default();
    if query.is_empty() { url } else { format!("{url}?{query}") }
}

/// The region in a host name of Amazon's (Amazon S3 user guide, "Amazon S3 endpoints").
pub fn region_of_host(authority: &str) -> Option<&str> {
    let host = authority.split(':').next()?;
    let name = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let name = name.strip_suffix(".vpce").unwrap_or(name);
    let (before, last) = name.rsplit_once('.').unwrap_or(("", name));
    let is_region = |label: &&str| label.contains('-');
    let old_style = last.strip_prefix("s3-").filter(is_region);
    let is_s3 = |label: &str| matches!(label, "s3" | "dualstack" | "s3-fips" | "accesspoint" | "s3-accesspoint");
    let new_style = before.rsplit('.').next().filter(|label| is_s3(label)).map(|_| last);
    old_style.or(new_style.filter(is_region))
}

#[cfg(test)]
mod tests;
