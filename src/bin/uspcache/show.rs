//! `uspcache show`: all that is known of a URL's versions, under every scope.

use std::ffi::OsString;

use mod_usp_storage_cache::cache::notes::Note;
use mod_usp_storage_cache::store::version::Place;
use mod_usp_storage_cache::store::visit::Seen;
use mod_usp_storage_cache::store::{Control, Name, Record, Visit, now_ms};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::amounts::{bytes, span, time};
use super::failure::{Code, Failure};
use super::output::{Out, printable};
use super::row::Row;
use super::store::{Met, Root, each, each_in_shard};
use super::{stats, url};

/// Show what is stored of a URL under every scope: head, fields, validators, blocks, times; and fills under way
#[derive(clap::Args)]
pub struct Args {
    /// The object's URL in storage, as in the log's line: filled http://host/film.ism
    url: OsString,
    #[command(flatten)]
    root: Root,
}

/// A version, with all that its head says.
#[derive(Serialize)]
struct Version {
    #[serde(flatten)]
    row: Row,
    head_length: u64,
    body_at: u64,
    fetched_at_ms: u64,
    initial_age_secs: u32,
    /// Whether it was fetched after the last purge of its slot; `None` where there is no control block.
    is_after_purges: Option<bool>,
    /// Whether it came from the fallback.
    is_from_fallback: bool,
    /// Names and values, in order.
    fields: Vec<(String, String)>,
    /// Names and values as lines of text.
    #[serde(skip)]
    lines: Vec<String>,
}

/// What is remembered of an object that is not stored.
#[derive(Serialize)]
struct Remembered<'u> {
    url: &'u str,
    scope: &'u str,
    remembered: String,
    until_ms: u64,
}

pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let urls = url::candidates(&args.url)?;
    let visit = args.root.visit()?;
    let control = visit.control().map_err(|e| Failure::plain("control", e))?;
    let mut found = Found { urls: &urls, visit: &visit, control: control.as_ref(), versions: Vec::new(), flawed: 0 };
    // A fill that is published meanwhile is met twice rather than never.
    each(&visit, Place::Fills, |met, seen| found.meet(met, seen, Place::Fills))?;
    for url in &urls {
        each_in_shard(&visit, Name::shard_number(url), |met, seen| found.meet(met, seen, Place::Entries))?;
    }
    let is_there = !found.versions.is_empty() && found.flawed == 0;
    for version in &found.versions {
        out.either(version, version.text())?;
    }
    found.remembered(out)?;
    Ok(if is_there { Code::Done } else { Code::Wrong })
}

struct Found<'f> {
    urls: &'f [String],
    visit: &'f Visit,
    control: Option<&'f Control>,
    versions: Vec<Version>,
    flawed: u64,
}

impl Found<'_> {
    fn meet(&mut self, met: Met, seen: &Seen, place: Place) -> Result<(), Failure> {
        match met {
            Met::Record(record) if self.urls.iter().any(|url| url == record.url()) => {
                self.versions.push(Version::of(self, place, &record, &seen.path)?);
            }
            Met::Unusable(name, _, flaw) if self.urls.iter().any(|url| name.is_of(url)) => {
                self.flawed += 1;
                super::failure::remark(format_args!("{}: {flaw}; uspcache verify --remove removes it", seen.path));
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells what is remembered of the URLs, under no scope and under those that were found.
    fn remembered(&self, out: &mut Out) -> Result<(), Failure> {
        let Some(control) = self.control else { return Ok(()) };
        let mut scopes: Vec<&str> = self.versions.iter().map(|version| version.row.scope.as_str()).collect();
        scopes.push("");
        scopes.sort_unstable();
        scopes.dedup();
        let now = now_ms();
        for (url, scope) in self.urls.iter().flat_map(|url| scopes.iter().map(move |scope| (url, *scope))) {
            let key = Sha256::digest([scope.as_bytes(), b"\0", url.as_bytes()].concat()).into();
            let noted = control.note(&key).filter(|noted| noted.until_ms > now);
            if let Some((note, until_ms)) = noted.and_then(|noted| Some((Note::decode(&noted)?, noted.until_ms))) {
                let remembered = stats::kind(note);
                let line = format!("{url}\n  remembered   {remembered}, for {} more", span((until_ms - now) / 1000));
                out.either(&Remembered { url, scope, remembered, until_ms }, line)?;
            }
        }
        Ok(())
    }
}

impl Version {
    fn of(found: &Found<'_>, place: Place, record: &Record, file: &str) -> Result<Self, Failure> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = |(name, value): (&[u8], &[u8])| format!("{}: {}", printable(name), printable(value));
        Ok(Self {
            row: Row::of(found.visit, place, record, file)?,
            head_length: record.layout().head_len,
            body_at: record.layout().body_at,
            fetched_at_ms: record.fetched_at_ms(),
            initial_age_secs: record.initial_age_secs(),
            is_after_purges: found.control.map(|control| control.purge_mark(record.name()) == record.purges()),
            is_from_fallback: record.source() != 0,
            fields: record.fields().map(|(name, value)| (text(name), text(value))).collect(),
            lines: record.fields().map(line).collect(),
        })
    }

    fn text(&self) -> String {
        let (row, now) = (&self.row, now_ms());
        let scope = if row.scope.is_empty() { "none".into() } else { printable(row.scope.as_bytes()) };
        let mut lines = vec![
            printable(row.url.as_bytes()),
            format!("  scope        {scope}"),
            format!("  state        {}", row.progress()),
            format!("  file         {}", row.file),
            format!("  length       {}", bytes(row.length)),
            format!("  on disk      {}", bytes(row.disk_length)),
            format!("  blocks       {} of {} are there", row.landed, row.blocks),
            format!("  head         {} bytes; the body begins at {}", self.head_length, self.body_at),
            format!("  fetched      {}", time(self.fetched_at_ms, now)),
        ];
        lines.extend(row.validated_at_ms.map(|at| format!("  validated    {}", time(at, now))));
        lines.extend(row.used_at_secs.map(|at| format!("  last use     {}", time(at.saturating_mul(1000), now))));
        lines.extend(
            row.age_secs.map(|age| format!("  age          {age} s, {} of them when fetched", self.initial_age_secs)),
        );
        if self.is_after_purges == Some(false) && row.validated_at_ms.is_none() {
            lines.push("  purged       since it was begun: it will not be kept".into());
        }
        if self.is_from_fallback {
            lines.push("  source       UspStorageCacheFallback".into());
        }
        lines.extend(self.lines.iter().map(|field| format!("  field        {field}")));
        lines.join("\n")
    }
}
