//! GETs over pooled keep-alive connections.

use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use ureq::{Agent, Body, Error, http};

use super::{Failure, Rules, sigv4};
use crate::cache::key::Key;
use crate::config::Credentials;
use crate::semantics::fields;

/// Idle connections that are kept, to one storage and in all; a child's fills are seldom more.
const IDLE_MAX: usize = 64;
/// How long an idle connection is kept; S3 closes its side after some 20 s, which ureq notices before reuse.
const IDLE_AGE_MAX: Duration = Duration::from_secs(60);
/// The part of an error's body that is looked at.
const ERROR_BODY_LEN: usize = 4096;

/// Asks storage. Connections are made at the first request.
#[derive(Default)]
pub struct Client {
    agent: OnceLock<Agent>,
}

/// The answer to a GET: status 200, its head read, its body not yet.
pub struct Answer {
    /// The body's length, where the answer says it.
    pub len: Option<u64>,
    /// The answer's own age in seconds.
    pub age_secs: u32,
    /// The fields that are kept with the object, in order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// What follows.
    pub body: Incoming,
}

/// A body that has not been read yet.
pub struct Incoming(Body);

impl Client {
    /// Sends a GET for `key` and waits for the answer's head.
    pub fn get(&self, key: &Key, rules: &Rules<'_>, now: SystemTime) -> Result<Answer, Failure> {
        let mut request = http::Request::get(key.url()).body(()).map_err(|e| Failure::Broken(e.to_string()))?;
        match rules.credentials {
            Credentials::None => {}
            Credentials::Incomplete { missing } => return Err(Failure::Credentials { missing }),
            Credentials::Keys { .. } => sigv4::sign(&mut request, key, rules, now).map_err(Failure::Signing)?,
        }
        let agent = self.agent.get_or_init(new_agent);
        let request = agent
            .configure_request(request)
            .timeout_connect(Some(rules.connect_timeout))
            .timeout_send_request(Some(rules.timeout))
            .timeout_recv_response(Some(rules.timeout))
            .timeout_per_read(Some(rules.timeout))
            .build();
        let response = agent.run(request).map_err(failure)?;
        match response.status().as_u16() {
            200 => Ok(Answer::new(response)),
            404 if is_bucket_missing(response, rules.timeout) => Err(Failure::Broken("there is no such bucket".into())),
            status => Err(Failure::Status(status)),
        }
    }

    /// Breaks every request off, and refuses new ones. Takes locks: not for a signal handler.
    pub fn shutdown(&self) {
        if let Some(agent) = self.agent.get() {
            agent.clone().shutdown();
        }
    }
}

impl Answer {
    fn new(response: http::Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let connection: Vec<_> = head.headers.get_all("connection").iter().filter_map(|v| v.to_str().ok()).collect();
        let connection = connection.join(",");
        let kept = head.headers.iter().filter(|(name, _)| fields::is_kept(name.as_str(), &connection));
        let fields = kept.map(|(name, value)| (written(name.as_str()), value.as_bytes().to_vec())).collect();
        // A body of no bytes has no length for ureq. Where it is encoded for transfer, the field does not count.
        let is_encoded = head.headers.contains_key("transfer-encoding");
        let len = text("content-length").filter(|_| !is_encoded).and_then(|len| len.trim().parse().ok());
        // What is too large for a number stands for 2^31 (RFC 9111, section 1.2.2).
        let is_number = |age: &&str| !age.is_empty() && age.bytes().all(|b| b.is_ascii_digit());
        let age_secs = text("age").map(str::trim).filter(is_number).map_or(0, |age| age.parse().unwrap_or(1 << 31));
        Self { len, age_secs, fields, body: Incoming(body) }
    }
}

impl Incoming {
    /// Reads the body, which must have `len` bytes, and gives each piece to `write`.
    pub fn copy(self, len: u64, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failure> {
        let mut body = self.0.into_reader();
        let mut piece = vec![0; 256 * 1024];
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

/// Whether a 404 is the bucket's: then it says nothing about the object. Its body may take as long as its head.
fn is_bucket_missing(response: http::Response<Body>, patience: Duration) -> bool {
    let begun = Instant::now();
    let mut body = response.into_body().into_reader();
    let mut text = [0; ERROR_BODY_LEN];
    let mut len = 0;
    while len < text.len() && begun.elapsed() < patience {
        match body.read(&mut text[len..]) {
            Ok(read @ 1..) => len += read,
            // The status alone has to do where the body cannot be read.
            Ok(0) | Err(_) => break,
        }
    }
    memchr::memmem::find(&text[..len], b"<Code>NoSuchBucket</Code>").is_some()
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Timeout(ureq::Timeout::Connect) => Failure::TimedOut("UspStorageCacheConnectTimeout"),
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
