//! `uspcache verify-index`: whether index MP4s still fit their media.

use std::ffi::OsString;

use mod_usp_storage_cache::mp4::INDEX_LEN_MAX;
use mod_usp_storage_cache::mp4::verify::{self, verify};
use serde::Serialize;

use super::failure::{Code, Failure};
use super::index::of_mp4;
use super::output::{Out, printable};
use super::place::Place;
use super::storage::{self, Storage};

/// Tell whether index MP4s fit their media: length, times, codec data and every sample
#[derive(clap::Args)]
pub struct Args {
    /// The indexes, other programs' too: paths, s3://bucket/name or http(s) URLs
    #[arg(required = true, value_name = "INDEX")]
    indexes: Vec<OsString>,
    #[command(flatten)]
    storage: storage::Options,
}

/// What is said of an index.
#[derive(Serialize)]
struct Verdict {
    index: String,
    fits: bool,
    misfits: Vec<TrackMisfit>,
}

#[derive(Serialize)]
struct TrackMisfit {
    track: u32,
    what: String,
}

/// Verifies one after the other; the code says whether all could be, and fit.
pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let storage = args.storage.open()?;
    let places: Result<Vec<_>, _> = args.indexes.iter().map(|index| Place::parse(index, &storage)).collect();
    let mut code = Code::Done;
    for index in &places? {
        match verdict(index, &storage) {
            Ok(verdict) => {
                if !verdict.fits && code == Code::Done {
                    code = Code::Wrong;
                }
                say(&verdict, out)?;
            }
            // The others are verified all the same.
            Err(failure) => code = failure.report(),
        }
    }
    Ok(code)
}

fn say(verdict: &Verdict, out: &mut Out) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(verdict);
    }
    let index = printable(verdict.index.as_bytes());
    if verdict.fits {
        return out.line(format_args!("{index}: fits"));
    }
    for misfit in &verdict.misfits {
        out.line(format_args!("{index}: track {}: {}", misfit.track, printable(misfit.what.as_bytes())))?;
    }
    Ok(())
}

fn verdict(index: &Place, storage: &Storage) -> Result<Verdict, Failure> {
    let file = index.read(storage, INDEX_LEN_MAX).map_err(|e| Failure::plain(index, e))?;
    let open = |reference: &str| index.resolve(reference, storage)?.open(storage);
    let misfits = verify(&file, open).map_err(|failure| match failure {
        verify::Failure::Index(e) => of_mp4(index, &e),
        verify::Failure::Open(media, e) => Failure::plain(format_args!("{index}: its media {media}"), e),
        verify::Failure::Media(media, e) => match index.resolve(&media, storage) {
            Ok(place) => of_mp4(place, &e),
            Err(_) => of_mp4(media, &e),
        },
    })?;
    let misfits: Vec<_> =
        misfits.into_iter().map(|(track, misfit)| TrackMisfit { track, what: misfit.to_string() }).collect();
    Ok(Verdict { index: index.to_string(), fits: misfits.is_empty(), misfits })
}
