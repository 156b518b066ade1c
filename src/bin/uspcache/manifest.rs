//! `uspcache manifest`: a server manifest of index MP4s or media.

use std::ffi::OsString;

use mod_usp_storage_cache::manifest::media::{Described, arrange};
use mod_usp_storage_cache::manifest::write::{Manifest, Track};
use mod_usp_storage_cache::manifest::{SOURCE_LEN_MAX, SOURCES_MAX};
use serde::Serialize;

use super::failure::{Code, Failure, remark};
use super::index::of_mp4;
use super::output::{Out, count, printable};
use super::place::Place;
use super::progress::{self, Watched};
use super::storage::{self, Storage};

/// What a manifest is for a web server (RFC 4536).
pub const MEDIA_TYPE: &str = "application/smil+xml";

/// Make a server manifest that names index MP4s, or media
#[derive(clap::Args)]
pub struct Args {
    /// The manifest, which ends in .ism; it is replaced if it is there
    #[arg(short, long, value_name = "OUT")]
    output: OsString,
    /// Index MP4s, or fragmented or flat MP4s: paths, s3://bucket/name or http(s) URLs
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<OsString>,
    #[command(flatten)]
    storage: storage::Options,
}

/// What was made.
#[derive(Serialize)]
struct Made<'a> {
    manifest: String,
    bytes: usize,
    tracks: Vec<MadeTrack<'a>>,
}

#[derive(Serialize)]
struct MadeTrack<'a> {
    kind: &'static str,
    src: &'a str,
    bitrate: Option<u64>,
    language: Option<&'a str>,
    params: serde_json::Map<String, serde_json::Value>,
}

/// Makes the manifest.
pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let storage = args.storage.open()?;
    let output = Place::parse(&args.output, &storage)?;
    let inputs: Result<Vec<_>, _> = args.inputs.iter().map(|input| Place::parse(input, &storage)).collect();
    make(&storage, &output, &inputs?, out)?;
    Ok(Code::Done)
}

/// Makes the manifest at `output` that names `inputs`.
pub fn make(storage: &Storage, output: &Place, inputs: &[Place], out: &mut Out) -> Result<(), Failure> {
    let client_manifest = client_manifest(output)?;
    output.check_output(inputs)?;
    let mut tracks = Vec::new();
    for input in inputs {
        let src = reference(output, input, &inputs[0])?;
        let media = input.open(storage).map_err(|e| Failure::plain(input, e))?;
        let bar = progress::bytes(out);
        let described = Described::read(&Watched::new(&*media, &bar), &src).map_err(|e| of_mp4(input, &e));
        bar.finish_and_clear();
        let described = described?;
        if !out.is_quiet() {
            for (id, handler) in &described.others {
                remark(format_args!("{input}: track {id} ({handler}) is left out: a manifest has no such"));
            }
        }
        tracks.extend(described.tracks);
    }
    if tracks.is_empty() {
        return Err(Failure::Failed("no input has a track of sound, pictures or text".to_owned()));
    }
    arrange(&mut tracks);
    let manifest = Manifest { client_manifest: Some(client_manifest), tracks };
    let bytes = manifest.write().map_err(|e| Failure::plain(output, e))?;
    output.replace(storage, &bytes, MEDIA_TYPE)?;
    tell(output, &manifest.tracks, bytes.len(), out)
}

fn tell(output: &Place, tracks: &[Track], bytes: usize, out: &mut Out) -> Result<(), Failure> {
    let mut sources: Vec<_> = tracks.iter().map(|track| &track.src).collect();
    sources.sort();
    sources.dedup();
    let files = sources.len();
    if files > SOURCES_MAX && !out.is_quiet() {
        remark(format_args!(
            "{output}: names {files} files; httpd fetches the first {SOURCES_MAX} ahead, the others when they are asked for"
        ));
    }
    let made = Made { manifest: output.to_string(), bytes, tracks: tracks.iter().map(told).collect() };
    let shown = printable(made.manifest.as_bytes());
    if out.is_quiet() && !out.is_json() {
        return Ok(());
    }
    let (tracks, files) = (count(tracks.len() as u64, "track"), count(files as u64, "file"));
    out.either(&made, format_args!("{shown}: {tracks} of {files}, {bytes} bytes"))
}

fn told(track: &Track) -> MadeTrack<'_> {
    MadeTrack {
        kind: track.kind.element(),
        src: &track.src,
        bitrate: track.bitrate,
        language: track.language.as_deref(),
        params: track.params.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect(),
    }
}

/// The reference to the client manifest, which only clients of Smooth Streaming see.
pub fn client_manifest(output: &Place) -> Result<String, Failure> {
    let is_manifest = output.has_suffix(".ism");
    let client = output.reference_to_sibling("ismc").filter(|_| is_manifest);
    let why = || Failure::Usage(format!("{output} does not end in .ism, by which origin and httpd know a manifest"));
    client.ok_or_else(why)
}

/// The reference to `input` from the directory of `output`, or from that of `beside`.
pub fn reference(output: &Place, input: &Place, beside: &Place) -> Result<String, Failure> {
    let src = output.reference(input, beside)?;
    if src.len() > SOURCE_LEN_MAX {
        let why = format!("its reference has more than the {SOURCE_LEN_MAX} bytes that are read of one");
        return Err(Failure::new(input, why, "move it nearer to the manifest"));
    }
    Ok(src)
}
