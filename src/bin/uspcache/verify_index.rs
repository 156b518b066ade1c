//! `uspcache verify-index`: whether index MP4s still fit their media.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mod_usp_storage_cache::mp4::media::LocalFile;
use mod_usp_storage_cache::mp4::verify::{self, verify};
use mod_usp_storage_cache::mp4::{INDEX_LEN_MAX, location};
use serde::Serialize;

use super::failure::{Code, Failure};
use super::index::{directory, of_mp4};
use super::output::{Out, printable};

/// Tell whether index MP4s fit their media: length, times, codec data and every sample
#[derive(clap::Args)]
pub struct Args {
    /// The indexes; other programs' too
    #[arg(required = true, value_name = "INDEX")]
    indexes: Vec<PathBuf>,
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
    let mut code = Code::Done;
    for path in &args.indexes {
        match verdict(path) {
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

fn verdict(path: &Path) -> Result<Verdict, Failure> {
    let dir = directory(path)?;
    let found = fs::metadata(path).map_err(|e| Failure::plain(path.display(), e))?;
    if found.len() > INDEX_LEN_MAX {
        return Err(Failure::plain(path.display(), "is longer than any index"));
    }
    let file = fs::read(path).map_err(|e| Failure::plain(path.display(), e))?;
    let open = |reference: &str| match location::resolve(&dir, reference) {
        Some(media) => LocalFile::open(&media),
        None => Err(io::Error::other("is no path of this machine")),
    };
    let misfits = verify(&file, open).map_err(|failure| match failure {
        verify::Failure::Index(e) => of_mp4(path, &e),
        verify::Failure::Open(media, e) => Failure::plain(format_args!("{}: its media {media}", path.display()), e),
        verify::Failure::Media(media, e) => {
            of_mp4(&location::resolve(&dir, &media).unwrap_or_else(|| media.into()), &e)
        }
    })?;
    let misfits: Vec<_> =
        misfits.into_iter().map(|(track, misfit)| TrackMisfit { track, what: misfit.to_string() }).collect();
    Ok(Verdict { index: path.to_string_lossy().into_owned(), fits: misfits.is_empty(), misfits })
}
