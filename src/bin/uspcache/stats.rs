//! `uspcache stats`: what the store takes, and what its processes share.

use std::collections::BTreeMap;

use mod_usp_storage_cache::cache::breaker::{Failing, hash};
use mod_usp_storage_cache::cache::key::Upstream;
use mod_usp_storage_cache::cache::notes::Note;
use mod_usp_storage_cache::store::version::Place;
use mod_usp_storage_cache::store::{Control, Visit, now_ms};
use serde::Serialize;

use super::amounts::{bytes, span};
use super::failure::{Code, Failure};
use super::output::{Out, printable};
use super::store::{Met, Root, each};

/// Show what the store takes and what httpd's children share: limits, fills, breakers, leader, remembered absences
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    root: Root,
}

#[derive(Default, Serialize)]
struct Stats {
    entries: u64,
    entries_disk_length: u64,
    foreign: u64,
    filling: u64,
    left: u64,
    /// Bytes that the children count; `None` where nobody has since the host was started.
    taken: Option<u64>,
    /// The limits of the youngest children.
    store_length_max: Option<u64>,
    free_length_min: Option<u64>,
    generation: Option<u64>,
    has_leader: bool,
    connections: u64,
    breakers: Vec<Breaker>,
    /// How much of what is remembered.
    remembered: BTreeMap<String, u64>,
}

/// An endpoint that has failed since it answered last.
#[derive(Serialize)]
struct Breaker {
    /// `host:port` where an entry or a fill is from there; else a hash of it.
    endpoint: String,
    is_open: bool,
    open_until_ms: Option<u64>,
    failed_at_ms: u64,
}

pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let visit = args.root.visit()?;
    let stats = Stats::of(&visit)?;
    out.either(&stats, stats.text())?;
    Ok(Code::Done)
}

/// What is remembered of an object, in words.
pub fn kind(note: Note) -> String {
    match note {
        Note::Absent(status) => format!("absent ({status})"),
        Note::Large(_) => "too large".into(),
        Note::Pass(reason) => format!("passed ({})", reason),
    }
}

impl Stats {
    fn of(visit: &Visit) -> Result<Self, Failure> {
        let io = |e| Failure::plain("locks", e);
        let mut stats = Self { has_leader: visit.has_leader().map_err(io)?, ..Self::default() };
        stats.connections = visit.connections().map_err(io)?;
        stats.count(visit)?;
        if let Some(control) = visit.control().map_err(|e| Failure::plain("control", e))? {
            stats.share(visit, &control)?;
        }
        Ok(stats)
    }

    /// Counts files by their names.
    fn count(&mut self, visit: &Visit) -> Result<(), Failure> {
        for shard in 0..=u8::MAX {
            let Ok(files) = visit.shard(shard) else {
                self.foreign += 1;
                continue;
            };
            for seen in files {
                let is_entry = seen.name.is_some();
                self.entries += u64::from(is_entry);
                self.foreign += u64::from(!is_entry);
                self.entries_disk_length += if is_entry { seen.disk_len } else { 0 };
            }
        }
        for fill in visit.fills().map_err(|e| Failure::plain("fills", e))? {
            let is_locked = fill.name.is_some_and(|name| visit.is_locked(&name).unwrap_or(false));
            *(if is_locked { &mut self.filling } else { &mut self.left }) += 1;
        }
        Ok(())
    }

    /// What the control block holds.
    fn share(&mut self, visit: &Visit, control: &Control) -> Result<(), Failure> {
        let now = now_ms();
        let space = Visit::space(control);
        self.taken = space.taken;
        if let Some(limits) = space.limits {
            self.store_length_max = Some(limits.store_len_max);
            self.free_length_min = Some(limits.free_len_min);
            self.generation = Some(limits.generation);
        }
        for note in control.notes().filter(|noted| noted.until_ms > now).filter_map(|noted| Note::decode(&noted)) {
            *self.remembered.entry(kind(note)).or_default() += 1;
        }
        let failing: Vec<_> = control.failing(now).collect();
        let names = if failing.is_empty() { BTreeMap::new() } else { endpoints(visit)? };
        self.breakers = failing.into_iter().map(|failing| Breaker::of(&failing, &names)).collect();
        Ok(())
    }

    fn text(&self) -> String {
        let known = |len: Option<u64>| len.map_or_else(|| "not known".into(), bytes);
        let mut lines = vec![
            format!("entries      {}, {} on disk", self.entries, bytes(self.entries_disk_length)),
            format!("foreign      {} files that are no entries", self.foreign),
            format!("fills        {} under way, {} left behind", self.filling, self.left),
            format!("taken        {} of {}", known(self.taken), known(self.store_length_max)),
            format!("kept free    {}", known(self.free_length_min)),
            format!(
                "leader       {}",
                if self.has_leader { "there is one" } else { "none: no httpd runs on this store" }
            ),
            format!("connections  {} to storage in use", self.connections),
        ];
        lines.extend(self.breakers.iter().map(Breaker::line));
        lines.extend(self.remembered.iter().map(|(kind, count)| format!("remembered   {count} {kind}")));
        lines.join("\n")
    }
}

impl Breaker {
    fn of(failing: &Failing, names: &BTreeMap<u64, String>) -> Self {
        let unknown = || format!("{:016x}", failing.endpoint);
        Self {
            endpoint: names.get(&failing.endpoint).cloned().unwrap_or_else(unknown),
            is_open: failing.open_until_ms.is_some(),
            open_until_ms: failing.open_until_ms,
            failed_at_ms: failing.failed_at_ms,
        }
    }

    fn line(&self) -> String {
        let now = now_ms();
        let state = match self.open_until_ms {
            Some(until) => format!("open for {} more", span(until.saturating_sub(now) / 1000)),
            None => "closed".into(),
        };
        let failed = span(now.saturating_sub(self.failed_at_ms) / 1000);
        format!("breaker      {} {state}, failed {failed} ago", printable(self.endpoint.as_bytes()))
    }
}

/// The endpoints that entries and fills are from, by their hashes.
fn endpoints(visit: &Visit) -> Result<BTreeMap<u64, String>, Failure> {
    let mut names = BTreeMap::new();
    let mut note = |met: Met| {
        if let Met::Record(record) = met
            && let Ok(key) = Upstream::parse(&["proxy:", record.url()].concat().into_bytes())
                .and_then(|upstream| upstream.key("", false))
        {
            names.insert(hash(key.authority()), key.authority().to_owned());
        }
        Ok(())
    };
    each(visit, Place::Entries, |met, _| note(met))?;
    each(visit, Place::Fills, |met, _| note(met))?;
    Ok(names)
}
