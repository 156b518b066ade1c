//! `uspcache ls`: what the store holds.

use std::ffi::OsString;

use mod_usp_storage_cache::store::version::Place;

use super::failure::{Code, Failure};
use super::output::{Out, printable};
use super::row::Row;
use super::store::{Met, Root, each, remark_on_others};
use super::url;

/// List the URLs that the store holds or that are being fetched
#[derive(clap::Args)]
pub struct Args {
    /// Only URLs that begin so
    prefix: Option<OsString>,
    /// Also length, age, last use, state and scope of each
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    root: Root,
}

pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let prefix = args.prefix.as_deref().map(url::prefix).transpose()?;
    let visit = args.root.visit()?;
    let (mut rows, mut others) = (Vec::new(), 0);
    // A fill that is published meanwhile is met twice rather than never.
    for place in [Place::Fills, Place::Entries] {
        each(&visit, place, |met, seen| {
            let Met::Record(record) = met else {
                others += 1;
                return Ok(());
            };
            if prefix.as_ref().is_none_or(|prefix| record.url().starts_with(prefix)) {
                rows.push(Row::of(&visit, place, &record, &seen.path)?);
            }
            Ok(())
        })?;
    }
    rows.sort_unstable_by(|a, b| (&a.url, &a.scope, a.state).cmp(&(&b.url, &b.scope, b.state)));
    if !args.long && !out.is_json() {
        rows.dedup_by(|a, b| a.url == b.url);
    }
    for row in &rows {
        if args.long { out.either(row, row.line())? } else { out.either(row, printable(row.url.as_bytes()))? }
    }
    remark_on_others(out, others);
    Ok(if prefix.is_some() && rows.is_empty() { Code::Wrong } else { Code::Done })
}
