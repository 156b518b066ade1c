//! Storage as the subcommands ask it: `s3://` names, signing with the keys of who runs the command, tries again.
//!
//! # Invariants
//!
//! - Keys sign requests to Amazon's hosts and to the endpoint that was named, and to no other.
//! - They are asked for at the first such request, and not before.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, SystemTime};

use mod_usp_storage_cache::cache::key::Key;
use mod_usp_storage_cache::config::signing::is_amazons;
use mod_usp_storage_cache::credentials::{of_chain, region_of_chain};
use mod_usp_storage_cache::fetch::refusal::{Clock, Refusal, Why};
use mod_usp_storage_cache::fetch::retry::Pauses;
use mod_usp_storage_cache::fetch::roots::Roots;
use mod_usp_storage_cache::fetch::{self, Answer, Client, Credentials, Incoming, Kind, Question, Rules};
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
        let endpoint = self.endpoint.clone().or_else(|| std::env::var("AWS_ENDPOINT_URL").ok());
        let endpoint = endpoint.filter(|url| !url.is_empty());
        let endpoint = endpoint.map(|url| url::whole(url.trim_end_matches('/').as_ref())).transpose()?;
        Ok(Storage {
            client: Client::default(),
            endpoint,
            region: self.region.clone().map_or_else(OnceLock::new, |region| OnceLock::from(Some(region))),
            roots: self.ca_file.as_ref().map(read).transpose()?,
            keys: Mutex::default(),
        })
    }
}

impl Storage {
    /// The URL below which the objects of `bucket` lie, with a slash at its end (Amazon S3 user guide, "Virtual hosting of
    /// buckets").
    pub fn bucket_url(&self, bucket: &str) -> Result<Key, Failure> {
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
        self.patiently(|| self.client.put(key, &self.rules(key)?, body, media_type, SystemTime::now()))
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
        let is_ours = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.authority() == key.authority());
        let is_signed = is_ours || is_amazons(key.authority().as_bytes());
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
            Some((keys, expires_at)) => (Credentials::Keys(keys), expires_at.and_then(|at| at.checked_sub(MARGIN))),
            None => (Credentials::None, None),
        };
        *held = Some(Held { credentials: credentials.clone(), renew_at });
        Ok(credentials)
    }
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
