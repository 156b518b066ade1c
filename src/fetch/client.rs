//! Requests over pooled keep-alive connections.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, Error, http};

use super::learned::Learned;
use super::names::Names;
use super::refusal::Signed;
use super::roots::Roots;
use super::sigv4::Terms;
use super::{Credentials, Failure, Rules, refusal, sigv4};
use crate::cache::key::Key;
use crate::credentials::{Keyring, Keys, Known};
use crate::semantics::fields;
use crate::semantics::validation::Validators;

/// Idle connections that are kept, to one storage and in all; a child's fills are seldom more.
const IDLE_MAX: usize = 64;
/// How long an idle connection is kept; S3 closes its side after some 20 s, which ureq notices before reuse.
const IDLE_AGE_MAX: Duration = Duration::from_secs(60);
/// A body that comes or goes at less is given up, in bytes.
const LEAST_PER_SEC: u64 = 16 * 1024;
/// What is read from a connection at once.
const PIECE_LEN: usize = 64 * 1024;
/// The buffers of a connection: what is read, and a request's head with its signature.
const INPUT_LEN: usize = PIECE_LEN;
const OUTPUT_LEN: usize = 16 * 1024;

/// Asks storage. Connections are made at the first request. The default one has nobody to ask for keys: what it signs with is
/// in the rules.
#[derive(Default)]
pub struct Client {
    pools: Mutex<Pools>,
    learned: Learned,
    keyring: Option<Arc<Keyring>>,
}

#[derive(Default)]
struct Pools {
    /// Each has connections and TLS sessions of its own.
    agents: Vec<(Setup, Agent)>,
    is_shut: bool,
}

/// What requests over the same connections have in common. ureq resumes TLS sessions only where no request of an agent has
/// a configuration of its own.
#[derive(Clone, PartialEq)]
struct Setup {
    roots: Option<Roots>,
    connect_timeout: Duration,
    timeout: Duration,
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

/// What is put in an object's place.
#[derive(Clone, Copy, Debug)]
pub struct Put<'p> {
    /// The whole of it.
    pub body: &'p [u8],
    /// Its `Content-Type`.
    pub media_type: &'p str,
    /// Only where there is no object yet (`If-None-Match: *`; Amazon S3 user guide, "Conditional writes").
    pub is_first: bool,
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
        Self { keyring: Some(keyring), ..Self::default() }
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
        self.ask(request, None, key, rules, now)
    }

    /// Puts the object in its place, at once or not at all. Where it is to be the first there and is not, it has changed.
    pub fn put(&self, key: &Key, rules: &Rules, object: &Put<'_>, now: SystemTime) -> Result<(), Failure> {
        let mut request = http::Request::put(key.url()).header("content-type", object.media_type);
        if object.is_first {
            request = request.header("if-none-match", "*");
        }
        match self.ask(request, Some(object.body), key, rules, now) {
            Ok(Answer { kind: Kind::Changed, .. }) => Err(Failure::Changed),
            // What storage answers is 200; of other servers 201 and 204 say the same (RFC 9110, section 9.3.4).
            Ok(Answer { kind: Kind::Whole(_), .. }) | Err(Failure::Status(201 | 204)) => Ok(()),
            Ok(_) => Err(Failure::Answer("a status that is none of a PUT's")),
            Err(failure) => Err(failure),
        }
    }

    /// Asks for the fields of `key` with its checksums (Amazon S3 API reference, "HeadObject").
    pub fn head(&self, key: &Key, rules: &Rules, now: SystemTime) -> Result<Answer, Failure> {
        let request = http::Request::head(key.url()).header(sigv4::CHECKSUM_MODE.0, sigv4::CHECKSUM_MODE.1);
        self.ask(request, None, key, rules, now)
    }

    /// What refusals have taught since this was asked last, for the log.
    pub fn told(&self) -> Vec<String> {
        self.learned.told()
    }

    /// Asks, and once more where the refusal says what to sign for, or wants other keys than it got and there are some.
    fn ask(
        &self,
        request: http::request::Builder,
        body: Option<&[u8]>,
        key: &Key,
        rules: &Rules,
        now: SystemTime,
    ) -> Result<Answer, Failure> {
        let request = request.body(()).map_err(|e| Failure::Broken(e.to_string()))?;
        let signing = self.signing(rules)?;
        let ask_once = |signing: &Signing, now| self.ask_once(request.clone(), body, key, signing, rules, now);
        match ask_once(&signing, now) {
            Err(Failure::Refused(refusal)) if self.learned.learn(&refusal, key) => ask_once(&signing, now),
            Err(failure) => match self.other_keys(rules, signing, &failure) {
                Some(keys) => ask_once(&Signing::Keys(keys), SystemTime::now()),
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
        let Some(keyring) = &self.keyring else { return Err(Failure::NoKeys) };
        let known = match keyring.known(identity) {
            Known::Unknown if identity.is_required() => keyring.settled(identity, rules.timeout),
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
        let (Credentials::Asked(identity), Some(keyring)) = (&rules.credentials, &self.keyring) else { return None };
        match (sent, failure) {
            (Signing::Keys(keys), Failure::Refused(refusal)) if refusal.is_of_keys() => {
                keyring.renewed(identity, &keys, rules.timeout)
            }
            (Signing::Unknown, Failure::Status(401 | 403) | Failure::Refused(_)) => {
                match keyring.settled(identity, rules.timeout) {
                    Known::Keys(keys) => Some(keys),
                    Known::Unknown | Known::Nothing | Known::Failed => None,
                }
            }
            _ => None,
        }
    }

    /// What a request for `key` is signed for, if it is `now` by our clock.
    pub fn terms<'r>(&self, key: &'r Key, rules: &'r Rules, now: SystemTime) -> Terms<'r> {
        self.learned.terms(key, rules, now)
    }

    fn ask_once(
        &self,
        mut request: http::Request<()>,
        body: Option<&[u8]>,
        key: &Key,
        signing: &Signing,
        rules: &Rules,
        now: SystemTime,
    ) -> Result<Answer, Failure> {
        let signed = match signing {
            Signing::Nothing | Signing::Unknown => None,
            Signing::Keys(keys) => {
                let terms = self.terms(key, rules, now);
                sigv4::sign(&mut request, body.unwrap_or_default(), key, keys, rules, &terms)
                    .map_err(Failure::Signing)?;
                Some(Signed { region: terms.region.into_owned(), at: terms.at, now })
            }
        };
        Answer::of(self.send(request, body, rules)?, rules).map_err(|failure| match (failure, signed) {
            (Failure::Refused(refusal), Some(signed)) => Failure::Refused(Box::new(refusal.of_signed(signed))),
            (other, _) => other,
        })
    }

    fn send(
        &self,
        request: http::Request<()>,
        body: Option<&[u8]>,
        rules: &Rules,
    ) -> Result<http::Response<Body>, Failure> {
        let setup =
            Setup { roots: rules.roots.clone(), connect_timeout: rules.connect_timeout, timeout: rules.timeout };
        let agent = self.agent(setup);
        let answer = match body {
            Some(body) => {
                let patience = rules.timeout + Duration::from_secs(body.len() as u64 / LEAST_PER_SEC);
                let request = agent.configure_request(request.map(|()| body)).timeout_send_body(Some(patience)).build();
                agent.run(request)
            }
            None => agent.run(request),
        };
        answer.map_err(failure)
    }

    fn agent(&self, setup: Setup) -> Agent {
        let mut pools = self.pools.lock();
        if let Some((_, agent)) = pools.agents.iter().find(|(known, _)| *known == setup) {
            return agent.clone();
        }
        let agent = setup.agent();
        if pools.is_shut {
            agent.clone().shutdown();
        }
        pools.agents.push((setup, agent.clone()));
        agent
    }

    /// Breaks every request off, and refuses new ones. Takes locks: not for a signal handler.
    pub fn shutdown(&self) {
        let mut pools = self.pools.lock();
        pools.is_shut = true;
        pools.agents.iter().for_each(|(_, agent)| agent.clone().shutdown());
    }
}

impl Answer {
    fn of(response: http::Response<Body>, rules: &Rules) -> Result<Self, Failure> {
        let kind = match response.status().as_u16() {
            200 => Kind::Whole(body_len(response.headers())),
            206 => content_range(response.headers()).unwrap_or(Kind::OddPart),
            304 => Kind::NotModified,
            412 => Kind::Changed,
            416 => Kind::Unsatisfiable(unsatisfied_len(response.headers())),
            _ => return Err(refusal::failure(response, rules.timeout)),
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

    /// Reads the body to its end, which is to come before `len_max` bytes have.
    pub fn read(self, len_max: u64) -> Result<Vec<u8>, Failure> {
        let mut body = self.0.into_reader();
        let mut piece = vec![0; PIECE_LEN];
        let (mut bytes, mut pace) = (Vec::new(), Pace::new());
        loop {
            match body.read(&mut piece).map_err(|e| failure(Error::from(e)))? {
                0 => return Ok(bytes),
                read if (bytes.len() + read) as u64 > len_max => return Err(Failure::Answer("it is too long")),
                read if pace.is_too_slow(read) => return Err(Failure::Slow),
                read => bytes.extend_from_slice(&piece[..read]),
            }
        }
    }
}

/// Notices a body that drips: a time-out for each read does not.
struct Pace {
    since: Instant,
    came: usize,
}

impl Pace {
    const SPAN: Duration = Duration::from_secs(30);
    const LEAST: usize = 30 * LEAST_PER_SEC as usize;

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

impl Setup {
    fn agent(&self) -> Agent {
        let roots = self.roots.as_ref().map_or(RootCerts::WebPki, Roots::certificates);
        // Nothing of httpd's environment (a proxy, say) shall steer requests, and a redirect would have to be signed anew.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("usp-storage-cache/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            .timeout_send_request(Some(self.timeout))
            .timeout_recv_response(Some(self.timeout))
            .timeout_per_read(Some(self.timeout))
            .max_idle_connections(2 * IDLE_MAX)
            .max_idle_connections_per_host(IDLE_MAX)
            .max_idle_age(IDLE_AGE_MAX)
            .input_buffer_size(INPUT_LEN)
            .output_buffer_size(OUTPUT_LEN)
            .build();
        Agent::with_parts(config, DefaultConnector::default(), <Names>::default())
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            Failure::TimedOut("UspStorageCacheConnectTimeout")
        }
        Error::Timeout(_) => Failure::TimedOut("UspStorageCacheTimeout"),
        // Invalid data is what TLS calls a certificate that it does not take.
        Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => {
            Failure::Unreachable(format!("{e} (UspStorageCacheCAFile)"))
        }
        Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => Failure::Unreachable(e.to_string()),
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
