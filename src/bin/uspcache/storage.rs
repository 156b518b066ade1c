//! Storage as the subcommands ask it: `s3://` names, signing with the keys of who runs the command, tries again.
//!
//! # Invariants
//!
//! - Keys sign requests to Amazon's S3 over https and to the endpoint that was named, and to no other.
//! - They are asked for at the first such request, and not before.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, SystemTime};

use mod_usp_storage_cache::cache::key::Key;
use mod_usp_storage_cache::credentials::{of_chain, region_of_chain};
use mod_usp_storage_cache::fetch::refusal::{Clock, Refusal, Why};
use mod_usp_storage_cache::fetch::retry::Pauses;
use mod_usp_storage_cache::fetch::roots::Roots;
use mod_usp_storage_cache::fetch::sigv4::region_of_host;
use mod_usp_storage_cache::fetch::{self, Answer, Client, Credentials, Incoming, Kind, Put, Question, Rules};
use parking_lot::Mutex;

use super::failure::Failure;
use super::url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long storage may be silent.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long one request is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys are asked for anew so long before they expire.
const MARGIN: Duration = Duration::from_secs(300);

/// How storage is asked.
#[derive(clap::Args)]
#[command(next_help_heading = "Storage")]
pub struct Options {
    /// The S3 server that s3:// names lie on, as in http://localhost:9000; Amazon's if not given
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_S3")]
    endpoint: Option<String>,
    /// The buckets' region; if not given, that of the environment or the profile, or what storage tells
    #[arg(long)]
    region: Option<String>,
    /// The certificates that storage's own is held against, in PEM; Mozilla's list if not given
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    ca_file: Option<PathBuf>,
}

/// Storage. Nothing is asked of anybody until it is used.
pub struct Storage {
    client: Client,
    /// Without a slash at its end.
    endpoint: Option<Key>,
    region: OnceLock<Option<String>>,
    roots: Option<Roots>,
    keys: Mutex<Option<Held>>,
}

/// What the sources of keys have given.
struct Held {
    credentials: Credentials,
    renew_at: Option<SystemTime>,
}

impl Options {
    /// Storage as the arguments have it.
    pub fn open(&self) -> Result<Storage, Failure> {
        let read = |path: &PathBuf| {
            let roots = path.to_str().ok_or_else(|| "its name is no UTF-8".to_owned()).and_then(Roots::read);
            roots.map_err(|why| Failure::Usage(format!("--ca-file {}: {why}", path.display())))
        };
        // A variable that is empty is as good as none.
        let is_said = |text: &String| !text.is_empty();
        let endpoint = self.endpoint.clone().filter(is_said);
        let endpoint = endpoint.or_else(|| std::env::var("AWS_ENDPOINT_URL").ok()).filter(is_said);
        let endpoint = endpoint.map(|url| url::whole(url.trim_end_matches('/').as_ref())).transpose()?;
        if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| endpoint.url().contains('?')) {
            return Err(Failure::Usage(format!("--endpoint {}: it has a query; leave that out", endpoint.url())));
        }
        Ok(Storage {
            client: Client::default(),
            endpoint,
            region: self.region.clone().map_or_else(OnceLock::new, |region| OnceLock::from(Some(region))),
            roots: self.ca_file.as_ref().filter(|path| !path.as_os_str().is_empty()).map(read).transpose()?,
            keys: Mutex::default(),
        })
    }
}

impl Storage {
    /// The URL below which the objects of `bucket` lie, with a slash at its end (Amazon S3 user guide, "Virtual hosting of
    /// buckets").
    pub fn bucket_url(&self, bucket: &str) -> Result<Key, Failure> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(is_name) {
            return Err(Failure::Usage(format!("{bucket} is no name of a bucket; write it as in s3://bucket/films/")));
        }
        let url = match (&self.endpoint, self.region()) {
            (Some(endpoint), _) => format!("{}/{bucket}/", endpoint.url()),
            // A certificate's * stands for one label.
            (None, region) if bucket.contains('.') => {
                format!("https://s3.{}/{bucket}/", amazons(region.unwrap_or("us-east-1")))
            }
            (None, Some(region)) => format!("https://{bucket}.s3.{}/", amazons(region)),
            (None, None) => format!("https://{bucket}.s3.amazonaws.com/"),
        };
        url::whole(url.as_ref())
    }

    /// Asks until `take` is content with an answer or there is no hope of one.
    pub fn get<T>(
        &self,
        key: &Key,
        question: &Question<'_>,
        take: impl Fn(Answer) -> Result<T, fetch::Failure>,
    ) -> Result<T, fetch::Failure> {
        self.patiently(|| take(self.client.get(key, &self.rules(key)?, question, SystemTime::now())?))
    }

    /// All of the object, which may have `len_max` bytes.
    pub fn whole(&self, key: &Key, len_max: u64) -> Result<Vec<u8>, fetch::Failure> {
        self.get(key, &Question::default(), |answer| match answer.kind {
            Kind::Whole(Some(len)) if len > len_max => Err(fetch::Failure::Answer("it is too long")),
            Kind::Whole(Some(len)) => collect(answer.body, len),
            Kind::Whole(None) => answer.body.read(len_max),
            _ => Err(fetch::Failure::Answer("it is not the whole")),
        })
    }

    /// Puts an object in its place, whole or not at all.
    pub fn put(&self, key: &Key, body: &[u8], media_type: &str) -> Result<(), fetch::Failure> {
        self.put_as(key, &Put { body, media_type, is_first: false })
    }

    /// The same, unless somebody has put one there before: then it has changed. A storage that cannot tell puts it all the same.
    pub fn put_first(&self, key: &Key, body: &[u8], media_type: &str) -> Result<(), fetch::Failure> {
        match self.put_as(key, &Put { body, media_type, is_first: true }) {
            // Somebody else's is on its way.
            Err(fetch::Failure::Status(409)) => Err(fetch::Failure::Changed),
            Err(fetch::Failure::Status(501)) => self.put(key, body, media_type),
            other => other,
        }
    }

    fn put_as(&self, key: &Key, object: &Put<'_>) -> Result<(), fetch::Failure> {
        self.patiently(|| self.client.put(key, &self.rules(key)?, object, SystemTime::now()))
    }

    fn patiently<T>(&self, mut ask: impl FnMut() -> Result<T, fetch::Failure>) -> Result<T, fetch::Failure> {
        let mut pauses = Pauses::within(PATIENCE);
        loop {
            let failure = match ask() {
                Err(failure) => failure,
                answer => return answer,
            };
            match pauses.next(&failure) {
                Some(pause) => thread::sleep(pause),
                None => return Err(failure),
            }
        }
    }

    fn rules(&self, key: &Key) -> Result<Rules, fetch::Failure> {
        let is_ours = self.endpoint.as_ref().is_some_and(|endpoint| origin(endpoint) == origin(key));
        let is_signed = is_ours || is_amazons(key);
        Ok(Rules {
            connect_timeout: CONNECT_TIMEOUT,
            timeout: TIMEOUT,
            roots: self.roots.clone(),
            credentials: if is_signed { self.credentials()? } else { Credentials::None },
            region: if is_signed { self.region().map(str::to_owned) } else { None },
            use_headers: true,
            hedges: false,
        })
    }

    fn region(&self) -> Option<&str> {
        self.region.get_or_init(region_of_chain).as_deref()
    }

    fn credentials(&self) -> Result<Credentials, fetch::Failure> {
        let mut held = self.keys.lock();
        if let Some(held) = held.as_ref().filter(|held| held.renew_at.is_none_or(|at| SystemTime::now() < at)) {
            return Ok(held.credentials.clone());
        }
        let found = of_chain().map_err(fetch::Failure::Signing)?;
        let (credentials, renew_at) = match found {
            Some((keys, expires_at)) => (Credentials::Keys(keys), expires_at.map(renewal)),
            None => (Credentials::None, None),
        };
        *held = Some(Held { credentials: credentials.clone(), renew_at });
        Ok(credentials)
    }
}

/// When keys are asked for anew that expire then: those that live shortly, in the middle of what is left.
fn renewal(expires_at: SystemTime) -> SystemTime {
    let left = expires_at.duration_since(SystemTime::now()).unwrap_or_default();
    expires_at.checked_sub(MARGIN.min(left / 2)).unwrap_or(expires_at)
}

/// Scheme, host and port.
fn origin(key: &Key) -> &str {
    &key.url()[..key.url().len() - key.path_and_query().len()]
}

/// Whether a URL is one of Amazon's S3, and nobody on the way can read what goes there. Others' machines have names of
/// Amazon's too.
fn is_amazons(key: &Key) -> bool {
    let Some(host) = origin(key).strip_prefix("https://") else { return false };
    let is_global = ["s3.amazonaws.com", "s3-accelerate.amazonaws.com"]
        .iter()
        .any(|name| host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.')));
    is_global || region_of_host(host).is_some()
}

/// The end of the names of Amazon's hosts in a region.
fn amazons(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("{region}.{domain}")
}

/// All of a body that has `len` bytes.
pub fn collect(body: Incoming, len: u64) -> Result<Vec<u8>, fetch::Failure> {
    let mut bytes = Vec::new();
    body.copy(len, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// Why storage did not do as it was asked, and what helps, in the words of the command line.
pub fn why(failure: &fetch::Failure) -> String {
    match failure {
        fetch::Failure::TimedOut(_) => "storage was silent for too long".into(),
        fetch::Failure::Signing(why) => format!("there are no keys to sign with: {why}"),
        fetch::Failure::Status(404) => "no such object".into(),
        fetch::Failure::Status(401 | 403) => format!("{failure}; {DENIED}"),
        fetch::Failure::Refused(refusal) => refused(refusal),
        // Of TLS.
        other => other.to_string().replace("UspStorageCacheCAFile", "--ca-file"),
    }
}

const DENIED: &str = "the keys of the environment, profile or instance may not do this, or there are none";

fn refused(refusal: &Refusal) -> String {
    let Refusal { status, code, .. } = refusal;
    let remedy = match (refusal.why, &refusal.region) {
        (Why::Region | Why::Endpoint, Some(region)) => format!("the bucket is elsewhere: --region {region}"),
        (Why::Region | Why::Endpoint, None) => "the bucket is in another region: name it with --region".into(),
        (Why::Clock, _) => match refusal.host_off_secs() {
            Some(secs) => Clock(secs).to_string(),
            None => "this host's clock or storage's is wrong".into(),
        },
        (Why::Signature | Why::UnknownKey | Why::ExpiredToken | Why::Token, _) => {
            "the keys of the environment, profile or instance are not storage's, or no longer".into()
        }
        (Why::Denied, _) => DENIED.into(),
        (Why::Other, _) => return format!("storage answered {status} ({code})"),
    };
    format!("storage answered {status} ({code}); {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_for_amazons_storage_over_https() {
        let rows = [
            ("https://b.s3.eu-west-1.amazonaws.com/a", true),
            ("https://s3.eu-west-1.amazonaws.com/b/a", true),
            ("https://b.s3.amazonaws.com/a", true),
            ("https://s3.amazonaws.com/b/a", true),
            ("https://b.s3.cn-north-1.amazonaws.com.cn/a", true),
            ("http://b.s3.eu-west-1.amazonaws.com/a", false),
            ("https://ec2-1-2-3-4.us-west-2.compute.amazonaws.com/a", false),
            ("https://s3-mine-1.us-east-1.elb.amazonaws.com/a", false),
            ("https://evils3.amazonaws.com/a", false),
            ("https://b.s3.eu-west-1.amazonaws.com.evil.example/a", false),
            ("https://h/s3.amazonaws.com", false),
        ];
        for (url, want) in rows {
            assert_eq!(is_amazons(&url::whole(url.as_ref()).expect(url)), want, "{url}");
        }
    }

    #[test]
    fn keys_are_renewed_before_they_expire() {
        let now = SystemTime::now();
        for (left_secs, before_secs) in [(3600, 300), (400, 200), (0, 0)] {
            let expires_at = now + Duration::from_secs(left_secs);
            let before = expires_at.duration_since(renewal(expires_at)).expect("before");
            assert!(before.as_secs().abs_diff(before_secs) <= 1, "{left_secs}: {before:?}");
        }
    }
}
