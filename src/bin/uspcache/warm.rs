//! `uspcache warm`: asks a running httpd for manifests and all that they name, so that its store holds them.
//!
//! It asks as any client does: keys, credentials and limits are the module's.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::time::Duration;

use indicatif::ProgressBar;
use mod_usp_storage_cache::cache::key::Key;
use mod_usp_storage_cache::cache::prefetch::{is_manifest, named};
use mod_usp_storage_cache::config::Match;
use mod_usp_storage_cache::manifest::MANIFEST_LEN_MAX;
use serde::Serialize;
use ureq::{Agent, Body, http};

use super::amounts::bytes;
use super::failure::{Code, Failure, remark};
use super::output::Out;
use super::{jobs, progress, url};

/// Ask a running httpd for manifests and all that they name, so that it holds them
#[derive(clap::Args)]
pub struct Args {
    /// Where httpd serves the manifest, as in http://localhost/storage/film.ism
    #[arg(required = true, value_name = "URL")]
    urls: Vec<OsString>,
    /// Ask for so many objects at a time
    #[arg(short, long, value_name = "N", default_value = "4")]
    jobs: NonZeroUsize,
    /// Give each object so many seconds
    #[arg(long, value_name = "SECS", default_value = "600", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// What came of asking for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// It was held.
    Hit,
    /// It was fetched.
    Miss,
    /// It is not held, for all that was asked.
    Failed,
}

/// An object that was asked for.
#[derive(Serialize)]
struct Asked {
    url: String,
    outcome: Outcome,
    /// The status of the answer, if there was one.
    status: Option<u16>,
    length: u64,
    /// Why it failed.
    why: Option<String>,
    /// What else to ask for.
    #[serde(skip)]
    named: Vec<Key>,
}

#[derive(Default, Serialize)]
struct Sum {
    objects: u64,
    bytes: u64,
    hits: u64,
    misses: u64,
    failed: u64,
}

pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let mut keys = Vec::new();
    for typed in &args.urls {
        let key = url::whole(typed)?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let bar = progress::objects(out);
    let warmer = Warmer { agent: agent(args), jobs: args.jobs, bar };
    let mut sum = Sum::default();
    let mut more = Vec::new();
    for asked in warmer.ask_all(&keys) {
        more.extend(asked.named.iter().filter(|key| !keys.contains(key)).cloned());
        warmer.tell(&asked, &mut sum, out)?;
    }
    more.sort_unstable_by(|a, b| a.url().cmp(b.url()));
    more.dedup();
    for asked in warmer.ask_all(&more) {
        warmer.tell(&asked, &mut sum, out)?;
    }
    warmer.bar.finish_and_clear();
    if !out.is_quiet() || out.is_json() {
        out.either(&sum, sum.text())?;
    }
    Ok(if sum.failed > 0 { Code::Wrong } else { Code::Done })
}

fn agent(args: &Args) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_global(Some(Duration::from_secs(args.timeout)))
        .user_agent(concat!("uspcache/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::new_with_config(config)
}

struct Warmer {
    agent: Agent,
    jobs: NonZeroUsize,
    bar: ProgressBar,
}

impl Warmer {
    /// Asks for all, several at a time, and gives what came of it in the same order.
    fn ask_all(&self, keys: &[Key]) -> Vec<Asked> {
        self.bar.inc_length(keys.len() as u64);
        jobs::all(self.jobs, keys, |key| {
            let asked = self.ask(key);
            self.bar.inc(1);
            asked
        })
    }

    fn ask(&self, key: &Key) -> Asked {
        let url = key.url().to_owned();
        let failed = |why: String| Asked {
            outcome: Outcome::Failed,
            status: None,
            length: 0,
            why: Some(why),
            url: url.clone(),
            named: Vec::new(),
        };
        let answer = match self.agent.get(&url).call() {
            Ok(answer) => answer,
            Err(e) => return failed(e.to_string()),
        };
        let status = answer.status().as_u16();
        let outcome = outcome(status, answer.headers());
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // What the cache does not keep can be as long as a film.
            Err(why) => return Asked { status: Some(status), ..failed(why) },
        };
        match read(answer.into_body(), is_manifest(key)) {
            Ok((length, manifest)) => {
                let (named, why) = sources(key, &manifest);
                let outcome = if why.is_some() { Outcome::Failed } else { outcome };
                Asked { url, outcome, status: Some(status), length, why, named }
            }
            Err(e) => Asked { status: Some(status), ..failed(format!("the answer broke off: {e}")) },
        }
    }

    fn tell(&self, asked: &Asked, sum: &mut Sum, out: &mut Out) -> Result<(), Failure> {
        sum.objects += 1;
        sum.bytes += asked.length;
        match asked.outcome {
            Outcome::Hit => sum.hits += 1,
            Outcome::Miss => sum.misses += 1,
            Outcome::Failed => sum.failed += 1,
        }
        if let Some(why) = &asked.why {
            self.bar.suspend(|| remark(format_args!("{}: {why}", asked.url)));
        }
        if out.is_json() { out.json(asked) } else { Ok(()) }
    }
}

/// What an answer's status and fields say; an error where it is not of the cache's.
fn outcome(status: u16, fields: &http::HeaderMap) -> Result<Outcome, String> {
    if status != 200 {
        return Err(format!("status {status}"));
    }
    let values = fields.get_all("Cache-Status").into_iter().filter_map(|value| value.to_str().ok());
    let member =
        values.flat_map(|value| value.split(',')).map(str::trim).find_map(|one| one.strip_prefix("usp-storage-cache;"));
    let Some(parameters) = member else {
        return Err(
            "answered, but not by the cache; is UspStorageCache on there, and the object one that it takes?".into()
        );
    };
    let has = |name: &str| parameters.split(';').any(|parameter| parameter.trim() == name);
    Ok(if has("hit") { Outcome::Hit } else { Outcome::Miss })
}

/// Reads all of a body: its length, and as much of it as a manifest may have if it is one.
fn read(body: Body, is_manifest: bool) -> io::Result<(u64, Vec<u8>)> {
    let mut reader = body.into_with_config().limit(u64::MAX).reader();
    let mut kept = Vec::new();
    if is_manifest {
        (&mut reader).take(MANIFEST_LEN_MAX as u64 + 1).read_to_end(&mut kept)?;
    }
    let rest = io::copy(&mut reader, &mut io::sink())?;
    Ok((kept.len() as u64 + rest, kept))
}

/// What a manifest names, or why that is not known. Of another object nothing is.
fn sources(key: &Key, manifest: &[u8]) -> (Vec<Key>, Option<String>) {
    if !is_manifest(key) {
        return (Vec::new(), None);
    }
    if let Err(unreadable) = mod_usp_storage_cache::manifest::sources(manifest) {
        return (Vec::new(), Some(format!("no manifest that can be read: {unreadable}")));
    }
    let any = Match::new("").expect("an empty pattern is one");
    (named(key, manifest, &any), None)
}

impl Sum {
    fn text(&self) -> String {
        let Self { objects, bytes: len, hits, misses, failed } = self;
        format!("{objects} objects, {}: {hits} hits, {misses} misses, {failed} failed", bytes(*len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_hit_a_miss_or_none_of_the_cache() {
        let rows: [(u16, &[&str], Option<Outcome>); 9] = [
            (200, &["usp-storage-cache; hit; ttl=7200"], Some(Outcome::Hit)),
            (200, &["usp-storage-cache; hit; ttl=-5; detail=stale-if-error"], Some(Outcome::Hit)),
            (200, &["usp-storage-cache; fwd=uri-miss; fwd-status=200; stored"], Some(Outcome::Miss)),
            (200, &["usp-storage-cache; fwd=stale; fwd-status=304"], Some(Outcome::Miss)),
            (200, &["other; hit, usp-storage-cache; fwd=uri-miss"], Some(Outcome::Miss)),
            (200, &["other; fwd=miss", "usp-storage-cache; hit"], Some(Outcome::Hit)),
            (200, &["other; hit"], None),
            (200, &[], None),
            (404, &["usp-storage-cache; hit; detail=absent"], None),
        ];
        for (status, values, want) in rows {
            let mut fields = http::HeaderMap::new();
            for value in values {
                fields.append("Cache-Status", value.parse().expect("a value"));
            }
            assert_eq!(outcome(status, &fields).ok(), want, "{status} {values:?}");
        }
    }

    #[test]
    fn what_a_manifest_names_is_asked_for_where_it_was() {
        let key = url::whole("http://localhost/storage/film.ism?x=1".as_ref()).expect("a URL");
        let manifest =
            b"<smil><body><video src=\"a.mp4\"/><audio src=\"../b.mp4\"/><video src=\"c.ism\"/></body></smil>";
        let (named, why) = sources(&key, manifest);
        let urls: Vec<_> = named.iter().map(Key::url).collect();
        assert_eq!((urls, why), (vec!["http://localhost/storage/a.mp4"], None));
        assert!(sources(&key, b"<html/>").1.is_some());
        let index = url::whole("http://localhost/a.mp4".as_ref()).expect("a URL");
        assert_eq!(sources(&index, b"anything"), (vec![], None));
    }
}
