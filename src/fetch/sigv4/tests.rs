//! AWS's published vectors, and a second implementation that gives them and has to agree with ours for whatever is signed.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::cache::key::Upstream;
use crate::fetch::Credentials;

/// AWS's published examples: 24 May 2013, 00:00 UTC.
const PUBLISHED_AT: Duration = Duration::from_secs(1_369_353_600);
const PUBLISHED_DATE: &str = "20130524T000000Z";
const PUBLISHED_KEYS: (&str, &str) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
const PUBLISHED_HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const A_DAY: Duration = Duration::from_secs(86_400);

fn rules(region: Option<&str>, token: Option<&str>, use_headers: bool) -> Rules {
    Rules {
        connect_timeout: Duration::ZERO,
        timeout: Duration::ZERO,
        roots: None,
        credentials: Credentials::Keys(Keys::new(PUBLISHED_KEYS.0, PUBLISHED_KEYS.1, token)),
        region: region.map(str::to_owned),
        use_headers,
        hedges: false,
    }
}

fn keys(rules: &Rules) -> &Keys {
    let Credentials::Keys(keys) = &rules.credentials else { unreachable!("there are keys") };
    keys
}

fn key(url: &str) -> Key {
    let filename = format!("proxy:{url}");
    Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key("", false)).expect(url)
}

/// What goes out for `url`, signed at the time of the published examples.
fn signed(method: &str, url: &str, rules: &Rules) -> http::Request<()> {
    let key = key(url);
    let mut request = http::Request::builder().method(method).uri(key.url());
    if method == "HEAD" {
        request = request.header(CHECKSUM_MODE.0, CHECKSUM_MODE.1);
    }
    let mut request = request.body(()).expect("a request");
    let at = SystemTime::UNIX_EPOCH + PUBLISHED_AT;
    let terms = Terms { region: region(rules, &key), at, lifetime: A_DAY };
    assert_eq!(sign(&mut request, b"", &key, keys(rules), rules, &terms), Ok(()));
    request
}

/// A request as AWS's documents write it, to be signed without the library.
struct Reference<'a> {
    method: &'a str,
    /// The path and the query, canonical.
    path: &'a str,
    query: &'a str,
    /// The fields that are signed, by name.
    fields: &'a [(&'a str, &'a str)],
    payload: &'a str,
    region: &'a str,
}

impl Reference<'_> {
    /// "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk".
    fn signature(&self) -> String {
        let Self { method, path, query, fields, payload, region } = self;
        let lines: String = fields.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let request = format!("{method}\n{path}\n{query}\n{lines}\n{}\n{payload}", self.signed_fields());
        let date = &PUBLISHED_DATE[..8];
        let digest = hex(&Sha256::digest(request));
        let text = format!("AWS4-HMAC-SHA256\n{PUBLISHED_DATE}\n{date}/{region}/s3/aws4_request\n{digest}");
        let secret = format!("AWS4{}", PUBLISHED_KEYS.1).into_bytes();
        let key = [date, region, "s3", "aws4_request"].iter().fold(secret, |key, part| hmac(&key, part));
        hex(&hmac(&key, &text))
    }

    fn signed_fields(&self) -> String {
        self.fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
    }
}

/// RFC 2104, for keys of no more than a block.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let padded = |pad: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ pad).collect() };
    let inner = Sha256::digest([padded(0x36), text.into()].concat());
    Sha256::digest([padded(0x5c), inner.to_vec()].concat()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// "UriEncode", of the bytes themselves.
fn uri_encode(bytes: &[u8], keeps_slash: bool) -> String {
    let encode = |byte: &u8| match *byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
        b'/' if keeps_slash => "/".into(),
        byte => format!("%{byte:02X}"),
    };
    bytes.iter().map(encode).collect()
}

#[test]
fn the_second_implementation_gives_the_published_signatures() {
    let (sha, date) = (("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", PUBLISHED_DATE));
    let plain = [PUBLISHED_HOST, sha, date];
    let ranged = [PUBLISHED_HOST, ("range", "bytes=0-9"), sha, date];
    let rows = [
        // "Example: GET Object", the one with a Range that is signed.
        ("/test.txt", "", &ranged[..], "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("/", "lifecycle=", &plain, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/", "max-keys=2&prefix=J", &plain, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ];
    for (path, query, fields, want) in rows {
        let reference = Reference { method: "GET", path, query, fields, payload: EMPTY_SHA256, region: "us-east-1" };
        assert_eq!(reference.signature(), want, "{path}?{query}");
    }
}

#[test]
fn the_published_example_of_a_header_comes_out() {
    // "Example: Get Bucket (List Objects)" of "Signature Calculations for the Authorization Header".
    let request =
        signed("GET", "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", &rules(None, None, true));
    let header = request.headers()["authorization"].to_str().expect("text");
    let want = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
    assert!(header.ends_with(&format!("Signature={want}")), "{header}");
    assert_eq!(request.headers()["x-amz-date"], PUBLISHED_DATE);
}

#[test]
fn the_published_example_of_a_presigned_request_comes_out() {
    // "Example" of "Authenticating Requests: Using Query Parameters".
    let request = signed("GET", "https://examplebucket.s3.amazonaws.com/test.txt", &rules(None, None, false));
    assert!(request.headers().is_empty());
    let query = request.uri().query().expect("a query");
    let want = "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    assert!(query.contains(want), "{query}");
}

/// The signature of a request as the second implementation has it: for the object whose key has these bytes.
fn want(method: &str, host: &str, object: &[u8], rules: &Rules, region: &str) -> String {
    let security_token = keys(rules).security_token();
    let path = format!("/{}", uri_encode(object, true));
    let is_head = method == "HEAD";
    let token = security_token.map(|token| ("x-amz-security-token", token));
    if rules.use_headers {
        let mut fields = vec![("host", host)];
        fields.extend(is_head.then_some(CHECKSUM_MODE));
        fields.extend([("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", PUBLISHED_DATE)]);
        fields.extend(token);
        fields.sort_unstable();
        return Reference { method, path: &path, query: "", fields: &fields, payload: EMPTY_SHA256, region }
            .signature();
    }
    let credential = format!("{}/{}/{region}/s3/aws4_request", PUBLISHED_KEYS.0, &PUBLISHED_DATE[..8]);
    let mut query = vec![
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", &credential),
        ("X-Amz-Date", PUBLISHED_DATE),
        ("X-Amz-Expires", "86400"),
    ];
    query.extend(token.map(|(_, token)| ("X-Amz-Security-Token", token)));
    query.push(("X-Amz-SignedHeaders", "host"));
    query.extend(is_head.then_some(CHECKSUM_MODE));
    let query: Vec<_> =
        query.iter().map(|(name, value)| format!("{name}={}", uri_encode(value.as_bytes(), false))).collect();
    let query = query.join("&");
    Reference { method, path: &path, query: &query, fields: &[("host", host)], payload: UNSIGNED, region }.signature()
}

/// The signature that goes out.
fn signature(request: &http::Request<()>) -> String {
    let text = match request.headers().get("authorization") {
        Some(field) => field.to_str().expect("text"),
        None => request.uri().query().expect("a query"),
    };
    text.split("Signature=").nth(1).expect("it is signed").split('&').next().unwrap_or_default().to_owned()
}

proptest! {
    #[test]
    fn whatever_is_signed_is_signed_as_the_second_implementation_does(
        bytes: Vec<(u8, u8)>,
        is_head: bool,
        use_headers: bool,
        token in prop::option::of("[A-Za-z0-9+/=]{1,40}"),
        region in "[a-z]{2}-[a-z]{4,9}-[1-9]",
        (tls, port) in (any::<bool>(), 1..=u16::MAX),
    ) {
        let object: Vec<u8> = bytes.iter().map(|(byte, _)| *byte).collect();
        let spelled: String = bytes.iter().map(|(byte, how)| spelling(*byte, *how)).collect();
        let (scheme, own_port) = if tls { ("https", 443) } else { ("http", 80) };
        let url = format!("{scheme}://bucket.example:{port}/{spelled}");
        let filename = format!("proxy:{url}");
        prop_assume!(Upstream::parse(filename.as_bytes()).is_ok_and(|upstream| upstream.key("", false).is_ok()));
        // A port that is the scheme's own is not part of Host.
        let host = if port == own_port { "bucket.example".into() } else { format!("bucket.example:{port}") };
        let rules = rules(Some(&region), token.as_deref(), use_headers);
        let method = if is_head { "HEAD" } else { "GET" };
        let request = signed(method, &url, &rules);
        prop_assert_eq!(signature(&request), want(method, &host, &object, &rules, &region));
        // No field that begins with x-amz- goes out unsigned.
        prop_assert!(use_headers || request.headers().is_empty());
    }
}

/// One of the ways to write a byte of a key into a URL.
fn spelling(byte: u8, how: u8) -> String {
    let is_plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*,;=:@/".contains(&byte);
    match how % 3 {
        0 if is_plain => char::from(byte).to_string(),
        1 => format!("%{byte:02x}"),
        _ => format!("%{byte:02X}"),
    }
}

#[test]
fn a_host_of_the_schemes_own_port_is_signed_without_it() {
    for (url, host) in [
        ("https://b.example:443/a", "b.example"),
        ("http://b.example:80/a", "b.example"),
        ("https://b.example:80/a", "b.example:80"),
        ("http://b.example:443/a", "b.example:443"),
        ("http://[::1]:9000/a", "[::1]:9000"),
    ] {
        let rules = rules(Some("eu-west-1"), None, true);
        assert_eq!(signature(&signed("GET", url, &rules)), want("GET", host, b"a", &rules, "eu-west-1"), "{url}");
    }
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
    assert_eq!(signed_url(&key), "http://h/b/a%20b%281%29%20/~.mp4?versionId=1");
}
