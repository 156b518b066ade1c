//! What refusals have taught this process about storages: how their clocks go, and where their buckets are.
//!
//! [`Learned::learn`] says whether a refused request may be tried once more; [`Learned::terms`] is what to sign it for.
//!
//! # Invariants
//!
//! - What is learned differs from what the refused request was signed for, so that no refusal is answered by the same request.
//! - It counts for the storage that taught it, and ends with the process.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;

use super::Rules;
use super::refusal::{Clock, Refusal, Why};
use super::sigv4::{self, Terms};
use crate::cache::key::Key;

/// How many storages' clocks and how many buckets' regions are remembered.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");
/// Clocks that differ by less are no reason for a refusal; `Date` has whole seconds.
const OFF_SECS_MIN: u64 = 60;

/// Clocks and regions that storages have told.
pub struct Learned {
    /// How many seconds a storage's clock is ahead of ours, by authority.
    clocks: Mutex<LruCache<String, i64>>,
    /// The region of a bucket.
    regions: Mutex<LruCache<String, String>>,
    /// What was learned, for the log.
    lines: Mutex<Vec<String>>,
}

impl Default for Learned {
    fn default() -> Self {
        let (clocks, regions) = (LruCache::new(REMEMBERED_MAX), LruCache::new(REMEMBERED_MAX));
        Self { clocks: Mutex::new(clocks), regions: Mutex::new(regions), lines: Mutex::default() }
    }
}

impl Learned {
    /// What a request for `key` is signed for, if it is `now` by our clock.
    pub fn terms<'r>(&self, key: &'r Key, rules: &'r Rules, now: SystemTime) -> Terms<'r> {
        let region = self.regions.lock().get(bucket_of(key)).cloned();
        let region = region.map_or_else(|| sigv4::region(rules, key), Cow::Owned);
        Terms::new(region, moved(now, self.ahead_secs(key)))
    }

    /// Learns from a refusal; whether there was anything to learn, so that the request may be tried once more.
    pub fn learn(&self, refusal: &Refusal, key: &Key) -> bool {
        let Some(signed) = &refusal.signed else { return false };
        let is_off = |secs: i64| secs.unsigned_abs() >= OFF_SECS_MIN;
        match (refusal.why, &refusal.region, refusal.host_off_secs()) {
            (Why::Clock, _, Some(ahead_secs)) if refusal.signature_off_secs().is_some_and(is_off) => {
                let host = key.authority();
                let had = self.clocks.lock().put(host.into(), ahead_secs);
                // Somebody else may have learned it meanwhile.
                if had.is_none_or(|had| is_off(had.saturating_sub(ahead_secs))) {
                    self.tell(format!("requests to {host} are signed for its time: {}", Clock(ahead_secs)));
                }
                true
            }
            (Why::Region | Why::Endpoint, Some(region), _) if *region != signed.region => {
                let bucket = bucket_of(key);
                let had = self.regions.lock().put(bucket.into(), region.clone());
                if had.as_ref() != Some(region) {
                    let was = &signed.region;
                    self.tell(format!(
                        "requests to {bucket} are signed for {region}, not for {was}: set S3Region {region}"
                    ));
                }
                true
            }
            _ => false,
        }
    }

    /// What was learned since this was asked last, in words.
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock())
    }

    fn ahead_secs(&self, key: &Key) -> i64 {
        self.clocks.lock().get(key.authority()).copied().unwrap_or_default()
    }

    fn tell(&self, line: String) {
        self.lines.lock().push(line);
    }
}

/// The part of a URL that names a bucket, or a storage of one region: behind Amazon's hosts of a whole region the path begins with
/// the bucket (Amazon S3 user guide, "Path-style requests").
fn bucket_of(key: &Key) -> &str {
    let host = key.authority();
    let is_amazons = host.split(':').next().is_some_and(|name| name.contains(".amazonaws.com"));
    let first_len = key.path().get(1..).map_or(0, |path| 1 + path.find('/').unwrap_or(path.len()));
    let bucket_len = if is_amazons && host.starts_with("s3") { first_len } else { 0 };
    let host_at = key.url().len() - key.path_and_query().len() - host.len();
    &key.url()[host_at..host_at + host.len() + bucket_len]
}

fn moved(now: SystemTime, ahead_secs: i64) -> SystemTime {
    let by = Duration::from_secs(ahead_secs.unsigned_abs());
    let moved = if ahead_secs < 0 { now.checked_sub(by) } else { now.checked_add(by) };
    moved.unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::super::{Credentials, refusal::Signed};
    use super::*;
    use crate::cache::key::Upstream;
    use crate::credentials::Keys;

    fn key(url: &str) -> Key {
        let filename = format!("proxy:{url}");
        Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key("AKID", true)).expect("a key")
    }

    fn rules() -> Rules {
        Rules {
            connect_timeout: Duration::ZERO,
            timeout: Duration::ZERO,
            roots: None,
            credentials: Credentials::Keys(Keys::new("AKID", "s", None)),
            region: Some("us-east-1".into()),
            use_headers: true,
            hedges: false,
        }
    }

    fn signed(terms: &Terms<'_>, now: SystemTime) -> Signed {
        Signed { region: terms.region.to_string(), at: terms.at, now }
    }

    fn refusal(why: Why, region: Option<&str>, date: SystemTime) -> Refusal {
        let region = region.map(str::to_owned);
        Refusal { status: 400, code: "Code".into(), why, region, date: Some(date), signed: None }
    }

    #[test]
    fn a_bucket_is_the_host_or_for_a_host_of_many_the_first_name_of_the_path() {
        let rows = [
            ("https://b.s3.amazonaws.com/a/b.mp4", "b.s3.amazonaws.com"),
            ("https://s3.amazonaws.com/b/a/b.mp4", "s3.amazonaws.com/b"),
            ("https://s3.eu-west-1.amazonaws.com:444/b/a.mp4?versionId=1", "s3.eu-west-1.amazonaws.com:444/b"),
            ("https://s3.amazonaws.com", "s3.amazonaws.com"),
            ("https://s3.amazonaws.com/b", "s3.amazonaws.com/b"),
            ("http://minio:9000/b/a/b.mp4", "minio:9000"),
        ];
        for (url, want) in rows {
            assert_eq!(bucket_of(&key(url)), want, "{url}");
        }
    }

    #[test]
    fn a_clock_is_learned_once_and_for_its_storage_alone() {
        let (learned, key, other, rules) = (Learned::default(), key("http://h/b/a"), key("http://i/b/a"), rules());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let theirs = now + Duration::from_secs(1200);
        let refused = |now| {
            let signed = signed(&learned.terms(&key, &rules, now), now);
            learned.learn(&refusal(Why::Clock, None, theirs).of_signed(signed), &key)
        };
        assert!(refused(now));
        assert_eq!((learned.terms(&key, &rules, now).at, learned.terms(&other, &rules, now).at), (theirs, now));
        assert!(!refused(now));
        let told = learned.told();
        assert!(matches!(&told[..], [line] if line.contains("1200 s behind storage's")), "{told:?}");
        assert!(learned.told().is_empty());
        // Our clock is put right: what was learned is wrong.
        assert!(refused(theirs));
        assert_eq!(learned.terms(&key, &rules, theirs).at, theirs);
    }

    #[test]
    fn a_region_is_learned_once_and_for_its_bucket_alone() {
        let (learned, rules) = (Learned::default(), rules());
        let (key, other) = (key("https://s3.amazonaws.com/b/a"), key("https://s3.amazonaws.com/c/a"));
        let now = SystemTime::UNIX_EPOCH;
        let refused = |why| {
            let signed = signed(&learned.terms(&key, &rules, now), now);
            learned.learn(&refusal(why, Some("eu-west-1"), now).of_signed(signed), &key)
        };
        assert!(refused(Why::Region));
        let region = |key: &Key| learned.terms(key, &rules, now).region.into_owned();
        assert_eq!((region(&key).as_str(), region(&other).as_str()), ("eu-west-1", "us-east-1"));
        assert!(!refused(Why::Region) && !refused(Why::Endpoint));
        // A request that was under way meanwhile may be tried once more as well.
        let signed = Signed { region: "us-east-1".into(), at: now, now };
        assert!(learned.learn(&refusal(Why::Region, Some("eu-west-1"), now).of_signed(signed), &key));
        assert_eq!(learned.told().len(), 1);
    }

    #[test]
    fn nothing_is_learned_of_a_request_that_was_not_signed() {
        let refusal = refusal(Why::Region, Some("eu-west-1"), SystemTime::UNIX_EPOCH);
        assert!(!Learned::default().learn(&refusal, &key("http://h/b/a")));
    }
}
