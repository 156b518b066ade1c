//! AWS Signature Version 4 for GETs and HEADs of objects
//! (Amazon S3 API reference, "Authenticating requests: using the Authorization header", and "using query parameters").

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
    UriPathNormalizationMode, sign as sign_http,
};
use aws_sigv4::sign::v4::SigningParams;
use ureq::http;

use super::Rules;
use crate::cache::key::{self, Key};
use crate::credentials::Keys;

/// How long a presigned request may be under way.
const PRESIGNED: Duration = Duration::from_secs(300);

/// The field that has S3 state an object's checksums (Amazon S3 API reference, "HeadObject"); unsigned it would be refused.
pub const CHECKSUM_MODE: (&str, &str) = ("x-amz-checksum-mode", "ENABLED");

/// Signs `request`, a GET or HEAD of `key`, with `keys` in the header or in the query; the error says what is wrong.
pub fn sign(
    request: &mut http::Request<()>,
    key: &Key,
    keys: &Keys,
    rules: &Rules,
    now: SystemTime,
) -> Result<(), String> {
    sign_for(PRESIGNED, request, key, keys, rules, now)
}

fn sign_for(
    lifetime: Duration,
    request: &mut http::Request<()>,
    key: &Key,
    keys: &Keys,
    rules: &Rules,
    now: SystemTime,
) -> Result<(), String> {
    let identity = keys.credentials().clone().into();
    let region = region(rules, key);
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(&region)
        .name("s3")
        .time(now)
        .settings(settings(rules.use_headers, lifetime))
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let url = signed_url(key);
    let body = if rules.use_headers { SignableBody::Bytes(b"") } else { SignableBody::UnsignedPayload };
    let checksum_mode = request.headers().contains_key(CHECKSUM_MODE.0).then_some(CHECKSUM_MODE);
    let method = request.method().clone();
    let signable = SignableRequest::new(method.as_str(), &url, checksum_mode.into_iter(), body);
    let signed = signable.and_then(|signable| sign_http(signable, &parameters)).map_err(|e| e.to_string())?;
    signed.into_parts().0.apply_to_request_http1x(request);
    Ok(())
}

/// The region to sign for: the configured one, what the host name tells, else `us-east-1`.
pub fn region<'r>(rules: &'r Rules, key: &'r Key) -> Cow<'r, str> {
    match &rules.region {
        Some(region) => region.into(),
        None => region_of_host(key.authority()).unwrap_or("us-east-1").into(),
    }
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

/// The URL as S3 canonicalises it before it compares signatures: each byte of the path but unreserved characters and `/`
/// is encoded, and a raw `+` is the space that S3 takes it for.
fn signed_url(key: &Key) -> String {
    let (path, query) = key.path_and_query().split_once('?').unwrap_or((key.path_and_query(), ""));
    let mut url = key.url().as_bytes()[..key.url().len() - key.path_and_query().len()].to_vec();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match *first {
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
fn region_of_host(authority: &str) -> Option<&str> {
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
mod tests {
    use super::*;
    use crate::cache::key::Upstream;
    use crate::fetch::Credentials;

    /// AWS's published examples: 24 May 2013, 00:00 UTC.
    const PUBLISHED_AT: Duration = Duration::from_secs(1_369_353_600);

    fn published(url: &str, use_headers: bool) -> http::Request<()> {
        let rules = Rules {
            connect_timeout: Duration::ZERO,
            timeout: Duration::ZERO,
            credentials: Credentials::None,
            region: None,
            use_headers,
        };
        let keys = Keys::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None);
        let filename = format!("proxy:{url}");
        let upstream = Upstream::parse(filename.as_bytes()).expect("a URL");
        let key = upstream.key("", false).expect("a key");
        let mut request = http::Request::get(url).body(()).expect("a request");
        let a_day = Duration::from_secs(86400);
        let signed = sign_for(a_day, &mut request, &key, &keys, &rules, SystemTime::UNIX_EPOCH + PUBLISHED_AT);
        assert_eq!(signed, Ok(()));
        request
    }

    #[test]
    fn the_published_example_of_a_header_comes_out() {
        // "Example: Get Bucket (List Objects)" of "Signature Calculations for the Authorization Header".
        let request = published("https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", true);
        let header = request.headers()["authorization"].to_str().expect("text");
        let want = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
        assert!(header.ends_with(&format!("Signature={want}")), "{header}");
        assert_eq!(request.headers()["x-amz-date"], "20130524T000000Z");
    }

    #[test]
    fn the_published_example_of_a_presigned_request_comes_out() {
        // "Example" of "Authenticating Requests: Using Query Parameters".
        let request = published("https://examplebucket.s3.amazonaws.com/test.txt", false);
        assert!(request.headers().is_empty());
        let query = request.uri().query().expect("a query");
        let want = "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert!(query.contains(want), "{query}");
    }

    #[test]
    fn the_region_is_what_the_host_tells() {
        let rows = [
            ("b.s3.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("s3.eu-central-1.amazonaws.com:443", Some("eu-central-1")),
            ("s3-eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("b.s3.dualstack.us-west-2.amazonaws.com", Some("us-west-2")),
            ("b.s3.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("b.s3.amazonaws.com", None),
            ("s3.amazonaws.com", None),
            ("b.s3-accelerate.amazonaws.com", None),
            ("bucket.vpce-1a2b.s3.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("s3.s3.amazonaws.com", None),
            ("localhost:8333", None),
        ];
        for (host, want) in rows {
            assert_eq!(region_of_host(host), want, "{host}");
        }
    }

    #[test]
    fn the_signed_path_is_encoded_as_s3_does() {
        let upstream = Upstream::parse(b"proxy:http://h/b/a+b(1)%20%2F~.mp4?versionId=1").expect("a URL");
        let key = upstream.key("", true).expect("a key");
        assert_eq!(signed_url(&key), "http://h/b/a%20b%281%29%20%2F~.mp4?versionId=1");
    }
}
