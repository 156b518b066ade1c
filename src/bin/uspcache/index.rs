//! `uspcache index`: an index MP4 of fragmented MP4s.

use std::ffi::OsString;
use std::fmt::Display;

use clap::builder::RangedU64ValueParser;
use indicatif::ProgressBar;
use mod_usp_storage_cache::mp4::source::Source;
use mod_usp_storage_cache::mp4::verify::is_index;
use mod_usp_storage_cache::mp4::{self, index};
use serde::Serialize;

use super::failure::{Code, Failure};
use super::output::{Out, count, printable};
use super::place::Place;
use super::progress::{self, Watched};
use super::storage::{self, Storage};

/// What an index is for a web server.
pub const MEDIA_TYPE: &str = "video/mp4";

/// Make one index MP4 of one or several fragmented MP4s
#[derive(clap::Args)]
pub struct Args {
    /// The index; it is replaced if it is there
    #[arg(short, long, value_name = "OUT")]
    output: OsString,
    /// Index only this track of the inputs; can be given several times
    #[arg(long = "track", value_name = "ID", value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    tracks: Vec<u32>,
    /// The fragmented MP4s, CMAF, ISMV or any other: paths, s3://bucket/name or http(s) URLs
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<OsString>,
    #[command(flatten)]
    storage: storage::Options,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    index: String,
    bytes: usize,
    tracks: Vec<MadeTrack>,
}

#[derive(Serialize)]
struct MadeTrack {
    id: u32,
    media: String,
    media_track: u32,
    handler: String,
    language: String,
    timescale: u32,
    duration: u64,
    samples: u32,
    chunks: usize,
}

/// Makes the index.
pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let storage = args.storage.open()?;
    let output = Place::parse(&args.output, &storage)?;
    let inputs: Result<Vec<_>, _> = args.inputs.iter().map(|input| Place::parse(input, &storage)).collect();
    make(&storage, &output, &inputs?, &args.tracks, out)?;
    Ok(Code::Done)
}

/// Makes the index at `output` of those tracks of `inputs`, or of all.
pub fn make(storage: &Storage, output: &Place, inputs: &[Place], tracks: &[u32], out: &mut Out) -> Result<(), Failure> {
    output.check_output(inputs)?;
    match output.open(storage) {
        Ok(there) if !there.is_empty() && !is_index(&*there) => {
            return Err(Failure::Usage(format!("{output} is there and no index; remove it, or choose another name")));
        }
        Err(e) if !Place::is_absent(&e) => return Err(Failure::plain(output, e)),
        _ => {}
    }
    let mut read = Vec::new();
    for input in inputs {
        let reference = output.reference(input, &inputs[0])?;
        read.push((read_source(storage, input, tracks, &progress::bytes(out))?, reference));
    }
    let found = |id: &u32| read.iter().any(|(source, _)| source.tables.iter().any(|(track, _)| track == id));
    if let Some(missing) = tracks.iter().find(|id| !found(id)) {
        return Err(Failure::Failed(format!("no input has a track {missing}")));
    }
    let sources: Vec<_> = read.iter().map(|(source, reference)| (source, reference.as_str())).collect();
    let bytes = index::write(&sources).map_err(|e| of_mp4(output, &e))?;
    output.replace(storage, &bytes, MEDIA_TYPE)?;
    let made = made(output, bytes.len(), &read).map_err(|e| of_mp4(output, &e))?;
    let samples: u64 = made.tracks.iter().map(|track| u64::from(track.samples)).sum();
    let shown = printable(made.index.as_bytes());
    let (tracks, samples) = (count(made.tracks.len() as u64, "track"), count(samples, "sample"));
    let line = format!("{shown}: {tracks}, {samples}, {} bytes", made.bytes);
    if out.is_quiet() && !out.is_json() { Ok(()) } else { out.either(&made, line) }
}

/// Reads a fragmented MP4, and shows how far that is.
pub fn read_source(storage: &Storage, input: &Place, tracks: &[u32], bar: &ProgressBar) -> Result<Source, Failure> {
    let media = input.open(storage).map_err(|e| Failure::plain(input, e))?;
    let selected = Some(tracks).filter(|tracks| !tracks.is_empty());
    let source = Source::read(&Watched::new(&*media, bar), selected).map_err(|e| of_mp4(input, &e));
    bar.finish_and_clear();
    source
}

/// The failure that a file's boxes are.
pub fn of_mp4(file: impl Display, error: &mp4::Error) -> Failure {
    match error {
        mp4::Error::Read { source, .. } => Failure::plain(file, format_args!("{error}: {source}")),
        mp4::Error::Malformed { .. } | mp4::Error::Missing { .. } => {
            Failure::new(file, error, "transfer it again if it is not whole, else package it anew")
        }
        mp4::Error::Unsupported { .. } | mp4::Error::NotFound(_) | mp4::Error::NoTrack(_) => {
            Failure::plain(file, error)
        }
    }
}

fn made(output: &Place, bytes: usize, read: &[(Source, String)]) -> Result<Made, mp4::Error> {
    let mut tracks = Vec::new();
    for (source, reference) in read {
        let moov = source.moov()?;
        for (id, table) in &source.tables {
            let track = moov.track(*id).ok_or(mp4::Error::NoTrack(*id))?;
            tracks.push(MadeTrack {
                id: tracks.len() as u32 + 1,
                media: reference.clone(),
                media_track: *id,
                handler: track.handler.to_string(),
                language: track.language_code(),
                timescale: track.timescale,
                duration: table.duration,
                samples: table.samples,
                chunks: table.chunks.len(),
            });
        }
    }
    Ok(Made { index: output.to_string(), bytes, tracks })
}
