//! `uspcache purge`: entries go, for every process over the store, and what is being fetched of them is not kept.

use std::ffi::OsString;

use clap::ArgGroup;
use mod_usp_storage_cache::cache::purge::Meant;
use mod_usp_storage_cache::store::Visit;
use mod_usp_storage_cache::store::version::Place;
use serde::Serialize;

use super::failure::{Code, Failure};
use super::output::Out;
use super::store::{Met, Root, each};
use super::url;

/// Remove entries, under every scope, for all of httpd's children at once
#[derive(clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct Args {
    /// The objects' URLs in storage, as in the log's line: filled http://host/film.ism
    #[arg(group = "which", value_name = "URL")]
    urls: Vec<OsString>,
    /// All URLs that begin so
    #[arg(long, group = "which", value_name = "URL")]
    prefix: Option<OsString>,
    /// All entries
    #[arg(long, group = "which")]
    all: bool,
    #[command(flatten)]
    root: Root,
}

/// What has gone.
#[derive(Default, Serialize)]
struct Purged {
    purged: u64,
    /// Fills under way, which are thrown away when they are whole.
    fills: u64,
}

pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let meant = meant(args)?;
    let (visit, store) = (args.root.visit()?, args.root.store()?);
    let mut done = Purged { purged: 0, fills: fills(&visit, &meant)? };
    for which in meant.purges() {
        done.purged += store.purge(which).map_err(|e| Failure::new("purge", e, "not all may be gone: purge again"))?;
    }
    if !out.is_quiet() || out.is_json() {
        out.either(&done, done.text())?;
    }
    let is_found = done.purged + done.fills > 0 || args.all;
    Ok(if is_found { Code::Done } else { Code::Wrong })
}

fn meant(args: &Args) -> Result<Meant, Failure> {
    if let Some(prefix) = &args.prefix {
        return url::prefix(prefix).map(Meant::Prefix);
    }
    let mut urls = Vec::new();
    for typed in &args.urls {
        urls.extend(url::candidates(typed)?);
    }
    Ok(if args.all { Meant::All } else { Meant::Urls(urls) })
}

/// How many fills are under way that are meant.
fn fills(visit: &Visit, meant: &Meant) -> Result<u64, Failure> {
    let mut count = 0;
    each(visit, Place::Fills, |met, seen| {
        if let Met::Record(record) = met
            && meant.holds(record.url())
            && visit.is_locked(record.name()).map_err(|e| Failure::plain(&seen.path, e))?
        {
            count += 1;
        }
        Ok(())
    })?;
    Ok(count)
}

impl Purged {
    fn text(&self) -> String {
        let entries = if self.purged == 1 { "entry" } else { "entries" };
        let fills = match self.fills {
            0 => String::new(),
            1 => "; 1 fill under way will not be kept".into(),
            n => format!("; {n} fills under way will not be kept"),
        };
        format!("purged {} {entries}{fills}", self.purged)
    }
}
