//! `uspcache manifest`: a server manifest of index MP4s or media.

use std::fs;
use std::path::{Path, PathBuf};

use mod_usp_storage_cache::manifest::media::{Described, arrange};
use mod_usp_storage_cache::manifest::write::{Manifest, Track};
use mod_usp_storage_cache::manifest::{SOURCE_LEN_MAX, SOURCES_MAX};
use mod_usp_storage_cache::mp4::location;
use mod_usp_storage_cache::mp4::media::{LocalFile, Media};
use serde::Serialize;

use super::failure::{Code, Failure, remark};
use super::index::{directory, is_same_file, of_mp4, place, replace, shown};
use super::output::Out;

/// Make a server manifest that names index MP4s, or media
#[derive(clap::Args)]
pub struct Args {
    /// The manifest, which ends in .ism; it is replaced if it is there
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Index MP4s, or fragmented or flat MP4s
    #[arg(required = true, value_name = "IN")]
    pub inputs: Vec<PathBuf>,
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
    let client_manifest = client_manifest(&args.output)?;
    check_output(args)?;
    let mut tracks = Vec::new();
    for input in &args.inputs {
        let src = reference(input, &args.output)?;
        let described = Described::read(&open(input)?, &src).map_err(|e| of_mp4(input, &e))?;
        if !out.is_quiet() {
            for (id, handler) in &described.others {
                remark(format_args!("{}: track {id} ({handler}) is left out: a manifest has no such", input.display()));
            }
        }
        tracks.extend(described.tracks);
    }
    if tracks.is_empty() {
        return Err(Failure::Failed("no input has a track of sound, pictures or text".to_owned()));
    }
    arrange(&mut tracks);
    let manifest = Manifest { client_manifest: Some(client_manifest), tracks };
    let bytes = manifest.write().map_err(|e| Failure::plain(args.output.display(), e))?;
    put(&args.output, &bytes)?;
    tell(args, &manifest.tracks, bytes.len(), out)?;
    Ok(Code::Done)
}

fn tell(args: &Args, tracks: &[Track], bytes: usize, out: &mut Out) -> Result<(), Failure> {
    let mut sources: Vec<_> = tracks.iter().map(|track| &track.src).collect();
    sources.sort();
    sources.dedup();
    let (tracks_len, files) = (tracks.len(), sources.len());
    if files > SOURCES_MAX && !out.is_quiet() {
        remark(format_args!(
            "{}: names {files} files; httpd fetches the first {SOURCES_MAX} ahead, the others when they are asked for",
            args.output.display()
        ));
    }
    let made =
        Made { manifest: args.output.to_string_lossy().into_owned(), bytes, tracks: tracks.iter().map(told).collect() };
    out.either(&made, format_args!("{}: {tracks_len} tracks of {files} files, {bytes} bytes", shown(&args.output)))
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

/// Whether a file is a server manifest by its name.
pub fn is_manifest(output: &Path) -> bool {
    output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ism"))
}

/// The reference to the client manifest, which only clients of Smooth Streaming see.
fn client_manifest(output: &Path) -> Result<String, Failure> {
    if !is_manifest(output) {
        let why = format!("{} does not end in .ism, by which origin and httpd know a manifest", output.display());
        return Err(Failure::Usage(why));
    }
    let client = Path::new("/").join(output.with_extension("ismc").file_name().unwrap_or_default());
    Ok(location::relative(Path::new("/"), &client))
}

/// Refuses an output that is an input, or no file.
fn check_output(args: &Args) -> Result<(), Failure> {
    if fs::metadata(&args.output).is_ok_and(|output| !output.is_file()) {
        return Err(Failure::Usage(format!("{} is there and no file", args.output.display())));
    }
    match args.inputs.iter().find(|input| is_same_file(input, &args.output)) {
        Some(input) => Err(Failure::Usage(format!("{} is the output and an input", input.display()))),
        None => Ok(()),
    }
}

/// The reference to `input` from the directory of `output`.
fn reference(input: &Path, output: &Path) -> Result<String, Failure> {
    let src = location::relative(&directory(output)?, &place(input)?);
    if src.len() > SOURCE_LEN_MAX {
        let why = format!("its reference has more than the {SOURCE_LEN_MAX} bytes that are read of one");
        return Err(Failure::new(input.display(), why, "move it nearer to the manifest"));
    }
    Ok(src)
}

fn open(input: &Path) -> Result<impl Media, Failure> {
    LocalFile::open(input).map_err(|e| Failure::plain(input.display(), e))
}

fn put(output: &Path, bytes: &[u8]) -> Result<(), Failure> {
    replace(output, bytes).map_err(|e| Failure::plain(output.display(), e))
}
