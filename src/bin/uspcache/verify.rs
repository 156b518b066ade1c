//! `uspcache verify`: reads all that the store holds, and tells what is not as it was written.

use std::ffi::OsString;
use std::sync::Arc;

use indicatif::ProgressBar;
use mod_usp_storage_cache::store::record::Flaw;
use mod_usp_storage_cache::store::version::Place;
use mod_usp_storage_cache::store::visit::Seen;
use mod_usp_storage_cache::store::{Identity, Name, Store, Visit};
use serde::Serialize;

use super::amounts::bytes;
use super::failure::{Code, Failure};
use super::output::{Out, printable};
use super::progress;
use super::store::{Met, Root, each};
use super::url;

/// Read every entry and check its head and each block
#[derive(clap::Args)]
pub struct Args {
    /// Only URLs that begin so, and files that do not tell their URL
    prefix: Option<OsString>,
    /// Remove the damaged ones
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    root: Root,
}

/// A file that is no version, or a damaged one.
#[derive(Serialize)]
struct Flawed<'f> {
    file: &'f str,
    url: Option<&'f str>,
    flaw: String,
    removed: bool,
}

#[derive(Default, Serialize)]
struct Sum {
    checked: u64,
    bytes: u64,
    damaged: u64,
    removed: u64,
    foreign: u64,
}

pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let prefix = args.prefix.as_deref().map(url::prefix).transpose()?;
    let visit = args.root.visit()?;
    let store = args.remove.then(|| args.root.store()).transpose()?;
    let bar = progress::bytes(out);
    if !bar.is_hidden() {
        bar.set_length(disk_len(&visit));
    }
    let mut check = Check { store, prefix, bar, passed: 0, out, sum: Sum::default() };
    each(&visit, Place::Entries, |met, seen| {
        check.meet(met, seen)?;
        // Of what was read not all was of blocks.
        check.passed += seen.disk_len;
        check.bar.set_position(check.passed);
        Ok(())
    })?;
    check.end()
}

struct Check<'o> {
    /// There where the damaged are to be removed.
    store: Option<Arc<Store>>,
    prefix: Option<String>,
    bar: ProgressBar,
    /// Bytes on disk of the files so far.
    passed: u64,
    out: &'o mut Out,
    sum: Sum,
}

impl Check<'_> {
    fn meet(&mut self, met: Met, seen: &Seen) -> Result<(), Failure> {
        match met {
            Met::Record(record) if self.prefix.as_ref().is_none_or(|prefix| record.url().starts_with(prefix)) => {
                self.sum.checked += 1;
                let checked = record.check(|len| {
                    self.sum.bytes += len;
                    self.bar.inc(len);
                });
                let Err(flaw) = checked else { return Ok(()) };
                self.damaged(record.name(), record.identity(), Some(record.url()), &flaw, seen)
            }
            Met::Record(_) => Ok(()),
            Met::Unusable(name, identity, flaw) => self.damaged(&name, identity, None, &flaw, seen),
            Met::Foreign => self.foreign(seen),
        }
    }

    fn damaged(
        &mut self,
        name: &Name,
        identity: Identity,
        url: Option<&str>,
        flaw: &Flaw,
        seen: &Seen,
    ) -> Result<(), Failure> {
        self.sum.damaged += 1;
        // What cannot be read now may be readable later.
        let store = self.store.as_ref().filter(|_| !matches!(flaw, Flaw::Io(_)) || is_medium_error(flaw));
        let removed = store.map(|store| store.discard(name, identity)).transpose();
        let removed = removed.map_err(|e| Failure::plain(&seen.path, e))?.unwrap_or(false);
        self.sum.removed += u64::from(removed);
        self.tell(&Flawed { file: &seen.path, url, flaw: flaw.to_string(), removed }, "damaged")
    }

    /// Files of other names are nobody's to remove.
    fn foreign(&mut self, seen: &Seen) -> Result<(), Failure> {
        self.sum.foreign += 1;
        self.tell(&Flawed { file: &seen.path, url: None, flaw: "no entry's name".into(), removed: false }, "foreign")
    }

    fn tell(&mut self, flawed: &Flawed<'_>, kind: &str) -> Result<(), Failure> {
        let url = flawed.url.map_or_else(String::new, |url| format!(" {}", printable(url.as_bytes())));
        let removed = if flawed.removed { "; removed" } else { "" };
        let file = printable(flawed.file.as_bytes());
        let line = format!("{kind} {file}{url}: {}{removed}", flawed.flaw);
        let out = &mut *self.out;
        match self.bar.suspend(|| out.either(flawed, line).and_then(|()| out.flush())) {
            // The work is worth doing without a reader.
            Err(Failure::ReaderGone) => Ok(()),
            other => other,
        }
    }

    fn end(self) -> Result<Code, Failure> {
        self.bar.finish_and_clear();
        let Sum { checked, bytes: len, damaged, removed, .. } = self.sum;
        let code = if damaged > 0 { Code::Wrong } else { Code::Done };
        if self.out.is_quiet() && !self.out.is_json() {
            return Ok(code);
        }
        let line = format!("checked {checked} entries, {}: {damaged} damaged, {removed} removed", bytes(len));
        match self.out.either(&self.sum, line) {
            Err(Failure::ReaderGone) => Ok(code),
            other => other.map(|()| code),
        }
    }
}

fn is_medium_error(flaw: &Flaw) -> bool {
    matches!(flaw, Flaw::Io(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()))
}

/// What the entries take.
fn disk_len(visit: &Visit) -> u64 {
    let mut sum = 0;
    for shard in 0..=u8::MAX {
        // One that cannot be read is told of later.
        sum += visit.shard(shard).unwrap_or_default().iter().map(|seen| seen.disk_len).sum::<u64>();
    }
    sum
}
