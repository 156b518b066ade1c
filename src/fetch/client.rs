//! GETs over pooled keep-alive connections.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use ureq::{Agent, Body, Error, http};

use super::{Credentials, Failure, Rules, sigv4};
use crate::cache::key::Key;
use crate::credentials::{Keyring, Keys, Known};
use crate::semantics::fields;
use crate::semantics::validation::Validators;

/// Idle connections that are kept, to one storage and in all; a child's fills are seldom more.
const IDLE_MAX: usize = 16;
/// How long an idle connection is kept; S3 closes its side after some 20 s, which ureq notices before reuse.
const IDLE_AGE_MAX: Duration = Duration::from_secs(60);
/// What is read from a connection at once.
const PIECE_LEN: usize = 256 * 1024;
/// The part of an error's body that is looked at.
const ERROR_BODY_LEN: usize = 4096;

/// Asks storage. Connections are made at the first request.
pub struct Client {
    agent: OnceLock<Agent>,
    keyring: Arc<Keyring>,
}

/// What a request is signed with.
enum Signing {
    /// These keys.
    Keys(Keys),
    /// Nothing.
    Nothing,
    /// Nothing, because nobody knows yet what with: storage may need no signature.
    Unknown,
}

/// What is asked of storage about an object.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question<'q> {
    /// The part that is wanted; the whole where there is none.
    pub part: Option<Part>,
    /// Only this version shall come (`If-Match`).
    pub only: Option<&'q [u8]>,
    /// Only another version than this shall come.
    pub not: Validators<'q>,
}

/// A part of an object, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// From the first position up to the second, which is not included.
    Span(u64, u64),
    /// That many bytes at the end.
    Last(u64),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span(from, to) => write!(f, "bytes={from}-{}", to.saturating_sub(1)),
            Self::Last(len) => write!(f, "bytes=-{len}"),
        }
    }
}

/// What storage answered, its head read, its body not yet.
pub struct Answer {
    /// What came of the question.
    pub kind: Kind,
    /// The answer's own age in seconds.
    pub age_secs: u32,
    /// Whether it comes from S3, or what speaks like it: `x-amz-request-id` is there.
    pub is_s3: bool,
    /// The fields that are kept with the object, in order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// What follows.
    pub body: Incoming,
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 200: the whole object, of that length where the answer says it.
    Whole(Option<u64>),
    /// 206: a part, from the first position up to the second, of an object of `total` bytes.
    Part {
        /// Where it begins.
        from: u64,
        /// Where it ends; this position is not included.
        to: u64,
        /// The object's length.
        total: u64,
    },
    /// 206 without a `Content-Range` that can be read.
    OddPart,
    /// 304: the version is still the one that was named.
    NotModified,
    /// 412: the version is no longer the one that was named.
    Changed,
    /// 416: the part selects nothing of an object of so many bytes, where the answer says it.
    Unsatisfiable(Option<u64>),
}

/// A body that has not been read yet.
pub struct Incoming(Body);

impl Client {
    /// A client that signs with what `keyring` holds, where it has to ask for keys.
    pub fn new(keyring: Arc<Keyring>) -> Self {
        Self { agent: OnceLock::new(), keyring }
    }

    /// Sends a GET for `key` and waits for the answer's head.
    pub fn get(&self, key: &Key, rules: &Rules, question: &Question<'_>, now: SystemTime) -> Result<Answer, Failure> {
        let mut request = http::Request::get(key.url());
        let part = question.part.map(|part| part.to_string());
        let conditions = [
            ("range", part.as_deref().map(str::as_bytes)),
            ("if-match", question.only),
            ("if-none-match", question.not.if_none_match),
            ("if-modified-since", question.not.if_modified_since),
        ];
        for (name, value) in conditions {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        self.ask(request, key, rules, now)
    }

    /// Asks for the fields of `key` with its checksums (Amazon S3 API reference, "HeadObject").
    pub fn head(&self, key: &Key, rules: &Rules, now: SystemTime) -> Result<Answer, Failure> {
        let request = http::Request::head(key.url()).header(sigv4::CHECKSUM_MODE.0, sigv4::CHECKSUM_MODE.1);
        self.ask(request, key, rules, now)
    }

    /// Asks, and once more where storage wants other keys than it got and there are some.
    fn ask(
        &self,
        request: http::request::Builder,
        key: &Key,
        rules: &Rules,
        now: SystemTime,
    ) -> Result<Answer, Failure> {
        let request = request.body(()).map_err(|e| Failure::Broken(e.to_string()))?;
        let signing = self.signing(rules)?;
        let first = self.send(request.clone(), key, &signing, rules, now);
        match first.and_then(|response| Answer::of(response, rules)) {
            Err(failure) => match self.other_keys(rules, signing, &failure) {
                Some(keys) => {
                    Answer::of(self.send(request, key, &Signing::Keys(keys), rules, SystemTime::now())?, rules)
                }
                None => Err(failure),
            },
            answer => answer,
        }
    }

    /// What to sign with; waits only where storage is asked with keys only and nobody knows them yet.
    fn signing(&self, rules: &Rules) -> Result<Signing, Failure> {
        let identity = match &rules.credentials {
            Credentials::None => return Ok(Signing::Nothing),
            Credentials::Incomplete { missing } => return Err(Failure::Credentials { missing }),
            Credentials::Keys(keys) => return Ok(Signing::Keys(keys.clone())),
            Credentials::Asked(identity) => identity,
        };
        let known = match self.keyring.known(identity) {
            Known::Unknown if identity.is_required() => self.keyring.settled(identity, rules.timeout),
            known => known,
        };
        match known {
            Known::Keys(keys) => Ok(Signing::Keys(keys)),
            _ if identity.is_required() => Err(Failure::NoKeys),
            Known::Unknown => Ok(Signing::Unknown),
            Known::Nothing | Known::Failed => Ok(Signing::Nothing),
        }
    }

    /// The keys to ask again with, after storage has refused what was sent.
    fn other_keys(&self, rules: &Rules, sent: Signing, failure: &Failure) -> Option<Keys> {
        let Credentials::Asked(identity) = &rules.credentials else { return None };
        match (sent, failure) {
            (Signing::Keys(keys), Failure::KeysRefused(_)) => self.keyring.renewed(identity, &keys, rules.timeout),
            (Signing::Unknown, Failure::Status(401 | 403)) => match self.keyring.settled(identity, rules.timeout) {
                Known::Keys(keys) => Some(keys),
                Known::Unknown | Known::Nothing | Known::Failed => None,
            },
            _ => None,
        }
    }

    fn send(
        &self,
        mut request: http::Request<()>,
        key: &Key,
        signing: &Signing,
        rules: &Rules,
        now: SystemTime,
    ) -> Result<http::Response<Body>, Failure> {
        if let Signing::Keys(keys) = signing {
            sigv4::sign(&mut request, key, keys, rules, now).map_err(Failure::Signing)?;
        }
        let agent = self.agent.get_or_init(new_agent);
        let request = agent
            .configure_request(request)
            .timeout_resolve(Some(rules.connect_timeout))
            .timeout_connect(Some(rules.connect_timeout))
            .timeout_send_request(Some(rules.timeout))
            .timeout_recv_response(Some(rules.timeout))
            .timeout_per_read(Some(rules.timeout))
            .build();
        agent.run(request).map_err(failure)
    }

    /// Breaks every request off, and refuses new ones. Takes locks: not for a signal handler.
    pub fn shutdown(&self) {
        if let Some(agent) = self.agent.get() {
            agent.clone().shutdown();
        }
    }
}

impl Answer {
    fn of(mut response: http::Response<Body>, rules: &Rules) -> Result<Self, Failure> {
        let kind = match response.status().as_u16() {
            200 => Kind::Whole(body_len(response.headers())),
            206 => content_range(response.headers()).unwrap_or(Kind::OddPart),
            304 => Kind::NotModified,
            412 => Kind::Changed,
            416 => Kind::Unsatisfiable(unsatisfied_len(response.headers())),
            404 if names(response.body_mut(), rules.timeout, &["NoSuchBucket"]) => return Err(Failure::NoBucket),
            status @ (400 | 401 | 403)
                if matches!(rules.credentials, Credentials::Asked(_))
                    && names(response.body_mut(), rules.timeout, &KEYS_REFUSED) =>
            {
                return Err(Failure::KeysRefused(status));
            }
            status => return Err(Failure::Status(status)),
        };
        let (head, body) = response.into_parts();
        let connection: Vec<_> = head.headers.get_all("connection").iter().filter_map(|v| v.to_str().ok()).collect();
        let connection = connection.join(",");
        let kept = head.headers.iter().filter(|(name, _)| fields::is_kept(name.as_str(), &connection));
        let fields = kept.map(|(name, value)| (written(name.as_str()), value.as_bytes().to_vec())).collect();
        // What is too large for a number stands for 2^31 (RFC 9111, section 1.2.2).
        let is_number = |age: &&str| !age.is_empty() && age.bytes().all(|b| b.is_ascii_digit());
        let age = text(&head.headers, "age").map(str::trim).filter(is_number);
        let age_secs = age.map_or(0, |age| age.parse().unwrap_or(1 << 31));
        let is_s3 = head.headers.contains_key("x-amz-request-id");
        Ok(Self { kind, age_secs, is_s3, fields, body: Incoming(body) })
    }

    /// The value of the first field of that name, given in lower case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(had, _)| had.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }
}

fn text<'h>(headers: &'h http::HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The length that an answer announces: a body of no bytes has none for ureq, and where it is encoded for transfer the
/// field does not count.
fn body_len(headers: &http::HeaderMap) -> Option<u64> {
    let is_encoded = headers.contains_key("transfer-encoding");
    text(headers, "content-length").filter(|_| !is_encoded).and_then(|len| len.trim().parse().ok())
}

/// `bytes from-last/total` (RFC 9110, section 14.4).
fn content_range(headers: &http::HeaderMap) -> Option<Kind> {
    let (range, total) = text(headers, "content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, last) = range.split_once('-')?;
    let (from, last, total) = (from.parse().ok()?, last.parse::<u64>().ok()?, total.parse().ok()?);
    let to = last.checked_add(1)?;
    (from < to && to <= total).then_some(Kind::Part { from, to, total })
}

/// `bytes */total`.
fn unsatisfied_len(headers: &http::HeaderMap) -> Option<u64> {
    text(headers, "content-range")?.trim().strip_prefix("bytes */")?.parse().ok()
}

impl Incoming {
    /// Reads the body, which must have `len` bytes, and gives each piece to `write`.
    pub fn copy(self, len: u64, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failure> {
        let mut body = self.0.into_reader();
        let mut piece = vec![0; PIECE_LEN];
        let mut pace = Pace::new();
        let mut came = 0;
        loop {
            let read = body.read(&mut piece).map_err(|e| failure(Error::from(e)))?;
            if read == 0 {
                break;
            }
            came += read as u64;
            if came > len {
                break;
            }
            write(&piece[..read]).map_err(Failure::Store)?;
            if pace.is_too_slow(read) {
                return Err(Failure::Slow);
            }
        }
        if came == len { Ok(()) } else { Err(Failure::Length { announced: len, came }) }
    }
}

/// Notices a body that drips: a time-out for each read does not.
struct Pace {
    since: Instant,
    came: usize,
}

impl Pace {
    const SPAN: Duration = Duration::from_secs(30);
    const LEAST: usize = 30 * 16 * 1024;

    fn new() -> Self {
        Self { since: Instant::now(), came: 0 }
    }

    fn is_too_slow(&mut self, read: usize) -> bool {
        self.came += read;
        if self.since.elapsed() < Self::SPAN {
            return false;
        }
        let is_too_slow = self.came < Self::LEAST;
        *self = Self::new();
        is_too_slow
    }
}

fn new_agent() -> Agent {
    // Nothing of httpd's environment (a proxy, say) shall steer requests, and a redirect would have to be signed anew.
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("usp-storage-cache/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .max_idle_connections(4 * IDLE_MAX)
        .max_idle_connections_per_host(IDLE_MAX)
        .max_idle_age(IDLE_AGE_MAX)
        .build();
    Agent::new_with_config(config)
}

/// Codes of errors that are about the keys (Amazon S3 API reference, "Error responses").
const KEYS_REFUSED: [&str; 4] = ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"];

/// Whether an error's body names one of these codes. It may take as long as its head.
fn names(body: &mut Body, patience: Duration, codes: &[&str]) -> bool {
    let begun = Instant::now();
    let mut body = body.as_reader();
    let mut text = [0; ERROR_BODY_LEN];
    let mut len = 0;
    while len < text.len() && begun.elapsed() < patience {
        match body.read(&mut text[len..]) {
            Ok(read @ 1..) => len += read,
            // The status alone has to do where the body cannot be read.
            Ok(0) | Err(_) => break,
        }
    }
    let names = |code: &&str| memchr::memmem::find(&text[..len], format!("<Code>{code}</Code>").as_bytes()).is_some();
    codes.iter().any(names)
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            Failure::TimedOut("UspStorageCacheConnectTimeout")
        }
        Error::Timeout(_) => Failure::TimedOut("UspStorageCacheTimeout"),
        // Invalid data is what TLS calls a certificate that it does not take.
        Error::Io(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidData) => {
            Failure::Unreachable(e.to_string())
        }
        Error::HostNotFound | Error::ConnectionFailed | Error::Tls(_) | Error::Rustls(_) => {
            Failure::Unreachable(error.to_string())
        }
        other => Failure::Broken(other.to_string()),
    }
}

/// A field name as storage most likely wrote it: the http crate gives it in lower case.
fn written(name: &str) -> String {
    match name {
        "etag" => "ETag".into(),
        name if name.starts_with("x-amz-") || name.starts_with("x-goog-") => name.into(),
        name => {
            let mut is_first = true;
            let capital = |c: char| {
                let c = if is_first { c.to_ascii_uppercase() } else { c };
                is_first = c == '-';
                c
            };
            name.chars().map(capital).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_servers_write_them() {
        for (name, want) in [("etag", "ETag"), ("last-modified", "Last-Modified"), ("x-amz-meta-a", "x-amz-meta-a")] {
            assert_eq!(written(name), want);
        }
    }
}
