//! Why storage refuses a request: what its answer says, in words that name what to look at.
//!
//! [`failure`] reads the code of an answer that is no object (Amazon S3 API reference, "Error responses"). Of its text nothing is
//! kept: S3 repeats the access key and what was signed there.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use ureq::{Body, http};

use super::Failure;

/// The part of an error's body that is looked at.
const BODY_LEN: usize = 4096;
/// The longest code or region that is believed to be one.
const WORD_LEN: usize = 64;

/// A refusal that storage gives a reason for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status: 301, 307, 400, 401 or 403.
    pub status: u16,
    /// The code as storage wrote it.
    pub code: String,
    /// What the code means.
    pub why: Why,
    /// The region of the bucket, where storage tells it.
    pub region: Option<String>,
    /// What the time is for storage, where it tells it, in whole seconds.
    pub date: Option<SystemTime>,
    /// What the request was signed for, where it was.
    pub signed: Option<Signed>,
}

/// What a refused request was signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The region of the signature's scope.
    pub region: String,
    /// The time of the signature, which is storage's as far as it is known.
    pub at: SystemTime,
    /// The time by this host's clock.
    pub now: SystemTime,
}

/// What a code means to who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The signature is not what storage computes.
    Signature,
    /// Storage does not know the access key.
    UnknownKey,
    /// The session token has expired.
    ExpiredToken,
    /// The session token is not one, or is missing.
    Token,
    /// The time of the signature is too far from storage's.
    Clock,
    /// The bucket is in another region than the signature's.
    Region,
    /// The bucket is at another endpoint.
    Endpoint,
    /// Whoever signed may not read the object.
    Denied,
    /// A code with no advice.
    Other,
}

/// What became of a request that `response` is no object for. Its body may take as long as its head.
pub fn failure(mut response: http::Response<Body>, patience: Duration) -> Failure {
    let status = response.status().as_u16();
    if !matches!(status, 301 | 307 | 400 | 401 | 403 | 404) {
        return Failure::Status(status);
    }
    let body = beginning(response.body_mut(), patience);
    let field = |name| response.headers().get(name).map(http::HeaderValue::as_bytes);
    let code = element(&body, "Code").and_then(word);
    let region = field("x-amz-bucket-region").or_else(|| element(&body, "Region")).and_then(word);
    // A HEAD is refused without a body.
    let code = code.or_else(|| region.is_some().then(String::new));
    match (status, code) {
        (404, Some(code)) if code == "NoSuchBucket" => Failure::NoBucket,
        (404, _) | (_, None) => Failure::Status(status),
        (_, Some(code)) => {
            let date = field("date").and_then(|date| httpdate::parse_http_date(str::from_utf8(date).ok()?).ok());
            let why = Why::of(status, &code, region.is_some());
            Failure::Refused(Box::new(Refusal { status, code, why, region, date, signed: None }))
        }
    }
}

/// The beginning of a body; what cannot be read is missing.
fn beginning(body: &mut Body, patience: Duration) -> Vec<u8> {
    let begun = Instant::now();
    let mut body = body.as_reader();
    let (mut text, mut len) = (vec![0; BODY_LEN], 0);
    while len < text.len() && begun.elapsed() < patience {
        match body.read(&mut text[len..]) {
            Ok(read @ 1..) => len += read,
            Ok(0) | Err(_) => break,
        }
    }
    text.truncate(len);
    text
}

/// What stands in the first element of that name, which has no attributes.
fn element<'b>(body: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let rest = &body[after(body, &format!("<{name}>"))?..];
    Some(&rest[..memchr::memmem::find(rest, format!("</{name}>").as_bytes())?])
}

fn after(body: &[u8], text: &str) -> Option<usize> {
    memchr::memmem::find(body, text.as_bytes()).map(|at| at + text.len())
}

/// A code or region that may be logged and signed for; storage's other words may not.
fn word(text: &[u8]) -> Option<String> {
    let is_legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_word = (1..=WORD_LEN).contains(&text.len()) && text.iter().all(is_legal);
    is_word.then(|| String::from_utf8_lossy(text).into_owned())
}

impl Why {
    fn of(status: u16, code: &str, has_region: bool) -> Self {
        match code {
            "SignatureDoesNotMatch" => Self::Signature,
            "InvalidAccessKeyId" | "InvalidClientTokenId" | "NotSignedUp" => Self::UnknownKey,
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Self::ExpiredToken,
            "InvalidToken" | "InvalidSecurity" | "MissingSecurityHeader" => Self::Token,
            "RequestTimeTooSkewed" | "RequestExpired" | "ExpiredPresignRequest" => Self::Clock,
            "PermanentRedirect" | "TemporaryRedirect" | "Redirect" | "IllegalLocationConstraintException" => {
                Self::Endpoint
            }
            "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" | "" if has_region => match status {
                301 | 307 => Self::Endpoint,
                _ => Self::Region,
            },
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => Self::Denied,
            _ => Self::Other,
        }
    }
}

impl Refusal {
    /// Whether storage does not take the keys, or no longer.
    pub fn is_of_keys(&self) -> bool {
        matches!(self.why, Why::UnknownKey | Why::ExpiredToken | Why::Token)
    }

    /// The refusal of a request that was signed for this.
    ///
    /// A presigned request of another hour is refused as any other that may not be: storage's `Date` tells them apart.
    pub fn of_signed(mut self, signed: Signed) -> Self {
        let is_off = |secs: i64| secs.unsigned_abs() >= super::sigv4::PRESIGNED.as_secs();
        self.signed = Some(signed);
        if self.why == Why::Denied && self.signature_off_secs().is_some_and(is_off) {
            self.why = Why::Clock;
        }
        self
    }

    /// How many seconds the time of the signature is behind storage's; ahead of it if negative.
    pub fn signature_off_secs(&self) -> Option<i64> {
        behind_secs(self.signed.as_ref()?.at, self.date?)
    }

    /// How many seconds this host's clock is behind storage's; ahead of it if negative.
    pub fn host_off_secs(&self) -> Option<i64> {
        behind_secs(self.signed.as_ref()?.now, self.date?)
    }

    /// One word for the reason: log lines are limited by it.
    pub fn word(&self) -> &'static str {
        match self.why {
            Why::Signature => "signature",
            Why::UnknownKey => "unknown-key",
            Why::ExpiredToken => "expired-token",
            Why::Token => "token",
            Why::Clock => "clock",
            Why::Region => "region",
            Why::Endpoint => "endpoint",
            Why::Denied => "denied",
            Why::Other => "refused",
        }
    }

    fn advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::Signature => f.write_str(
                ": S3SecretKey is not the one of S3AccessKey, or something on the way changes Host, path or query",
            ),
            Why::UnknownKey => f.write_str(": it does not know S3AccessKey (a temporary one needs S3SecurityToken)"),
            Why::ExpiredToken => f.write_str(": S3SecurityToken has expired, and its two keys with it"),
            Why::Token => f.write_str(": S3SecurityToken does not belong to S3AccessKey"),
            Why::Clock => match self.host_off_secs() {
                Some(secs) => write!(f, ": {}", Clock(secs)),
                None => f.write_str(": this host's clock or storage's is wrong"),
            },
            Why::Region => write!(f, ": S3Region must be that of the bucket{}", Known(&self.region)),
            Why::Endpoint => write!(f, ": ProxyPass must name the endpoint of the bucket's region{}", Known(&self.region)),
            Why::Denied if self.signed.is_none() => {
                f.write_str(": the bucket is private, and S3AccessKey and S3SecretKey are not set")
            }
            Why::Denied => f.write_str(
                ": S3AccessKey may not read it (s3:GetObject), or it is absent and S3AccessKey may not know that (s3:ListBucket)",
            ),
            Why::Other => Ok(()),
        }
    }
}

fn behind_secs(ours: SystemTime, theirs: SystemTime) -> Option<i64> {
    match theirs.duration_since(ours) {
        Ok(behind) => i64::try_from(behind.as_secs()).ok(),
        Err(ahead) => i64::try_from(ahead.duration().as_secs()).ok().map(|secs| -secs),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "storage answered {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " ({})", self.code)?;
        }
        self.advice(f)
    }
}

/// How this host's clock goes, which is so many seconds behind storage's.
pub struct Clock(pub i64);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.0 < 0 { "ahead of" } else { "behind" };
        write!(f, "this host's clock is {} s {way} storage's: see to its time service", self.0.unsigned_abs())
    }
}

/// A region that storage has told, in brackets.
struct Known<'r>(&'r Option<String>);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |region| write!(f, " ({region})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, fields: &[(&str, &str)], body: &str) -> Failure {
        let mut response = http::Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let body = Body::builder().data(body.to_owned());
        failure(response.body(body).expect("a response"), Duration::from_secs(1))
    }

    fn error(code: &str) -> String {
        format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>no</Message></Error>")
    }

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn a_code_says_what_to_look_at() {
        let rows: [(u16, &str, &str); 10] = [
            (403, "SignatureDoesNotMatch", "S3SecretKey is not the one of S3AccessKey"),
            (403, "InvalidAccessKeyId", "it does not know S3AccessKey"),
            (400, "ExpiredToken", "S3SecurityToken has expired"),
            (400, "InvalidToken", "S3SecurityToken does not belong to S3AccessKey"),
            (403, "RequestTimeTooSkewed", "clock"),
            (301, "PermanentRedirect", "ProxyPass must name the endpoint of the bucket's region (eu-west-1)"),
            (400, "AuthorizationHeaderMalformed", "S3Region must be that of the bucket (eu-west-1)"),
            (400, "AuthorizationQueryParametersError", "S3Region must be that of the bucket (eu-west-1)"),
            (403, "AccessDenied", "S3AccessKey and S3SecretKey are not set"),
            (400, "InvalidRequest", "storage answered 400 (InvalidRequest)"),
        ];
        for (status, code, words) in rows {
            let said = refused(status, &[("x-amz-bucket-region", "eu-west-1")], &error(code)).to_string();
            assert!(said.starts_with(&format!("storage answered {status} ({code})")), "{said}");
            assert!(said.contains(words), "{code}: {said}");
        }
    }

    #[test]
    fn a_region_is_told_by_the_body_or_the_field_and_to_a_head_by_the_field_alone() {
        let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>";
        let Failure::Refused(refusal) = refused(400, &[], body) else { panic!("it is a refusal") };
        assert_eq!((refusal.why, refusal.region.as_deref()), (Why::Region, Some("eu-west-3")));
        let Failure::Refused(refusal) = refused(400, &[("x-amz-bucket-region", "eu-west-3")], "") else {
            panic!("it is a refusal")
        };
        assert_eq!((refusal.why, refusal.region.as_deref()), (Why::Region, Some("eu-west-3")));
    }

    #[test]
    fn the_clock_is_told_by_how_much_it_is_off() {
        let date = [("date", "Thu, 01 Jan 1970 01:00:00 GMT")];
        for (signed_at, words) in [(3600 - 1200, "1200 s behind storage's"), (3600 + 901, "901 s ahead of storage's")] {
            for code in ["RequestTimeTooSkewed", "AccessDenied"] {
                let Failure::Refused(refusal) = refused(403, &date, &error(code)) else { panic!("it is a refusal") };
                let signed = Signed { region: "us-east-1".into(), at: at(signed_at), now: at(signed_at) };
                let said = refusal.of_signed(signed).to_string();
                assert!(said.contains(words), "{said}");
            }
        }
        let Failure::Refused(refusal) = refused(403, &date, &error("AccessDenied")) else { panic!("it is a refusal") };
        let refusal = refusal.of_signed(Signed { region: "us-east-1".into(), at: at(3590), now: at(0) });
        assert_eq!(refusal.why, Why::Denied);
    }

    #[test]
    fn what_is_no_code_is_not_repeated() {
        let long = "x".repeat(65);
        for code in ["", "a b", "a\nb", "<b/>", "&lt;", &long] {
            assert!(matches!(refused(403, &[], &error(code)), Failure::Status(403)), "{code}");
        }
        let body = format!("{}{}", " ".repeat(BODY_LEN), error("AccessDenied"));
        for body in ["", "<Code>", "no XML", "<Code>AccessDenied", &body] {
            assert!(matches!(refused(403, &[], body), Failure::Status(403)), "{body}");
        }
    }

    #[test]
    fn a_404_is_a_buckets_only_where_it_says_so() {
        assert!(matches!(refused(404, &[], &error("NoSuchBucket")), Failure::NoBucket));
        assert!(matches!(refused(404, &[], &error("NoSuchKey")), Failure::Status(404)));
        assert!(matches!(refused(404, &[("x-amz-bucket-region", "eu-west-1")], ""), Failure::Status(404)));
    }
}
