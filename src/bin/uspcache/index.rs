//! `uspcache index`: an index MP4 of fragmented MP4s.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use mod_usp_storage_cache::mp4::media::LocalFile;
use mod_usp_storage_cache::mp4::source::Source;
use mod_usp_storage_cache::mp4::{self, index, location};
use serde::Serialize;

use super::failure::{Code, Failure};
use super::output::{Out, printable};

/// Make one index MP4 of one or several fragmented MP4s
#[derive(clap::Args)]
pub struct Args {
    /// The index; it is replaced if it is there
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Index only this track of the inputs; can be given several times
    #[arg(long = "track", value_name = "ID", value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    pub tracks: Vec<u32>,
    /// The fragmented MP4s: CMAF, ISMV or any other
    #[arg(required = true, value_name = "IN")]
    pub inputs: Vec<PathBuf>,
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
    let dir = directory(&args.output)?;
    let mut read = Vec::new();
    if fs::metadata(&args.output).is_ok_and(|output| !output.is_file()) {
        return Err(Failure::Usage(format!("{} is there and no file", args.output.display())));
    }
    for input in &args.inputs {
        let media = place(input)?;
        if is_same_file(input, &args.output) {
            return Err(Failure::Usage(format!("{} is the output and an input", input.display())));
        }
        let reference = location::relative(&dir, &media);
        read.push((read_source(input, &args.tracks)?, reference));
    }
    let found = |id: &u32| read.iter().any(|(source, _)| source.tables.iter().any(|(track, _)| track == id));
    if let Some(missing) = args.tracks.iter().find(|id| !found(id)) {
        return Err(Failure::Failed(format!("no input has a track {missing}")));
    }
    let inputs: Vec<_> = read.iter().map(|(source, reference)| (source, reference.as_str())).collect();
    let bytes = index::write(&inputs).map_err(|e| of_mp4(&args.output, &e))?;
    replace(&args.output, &bytes).map_err(|e| Failure::plain(args.output.display(), e))?;
    let made = made(&args.output, bytes.len(), &read).map_err(|e| of_mp4(&args.output, &e))?;
    let samples: u64 = made.tracks.iter().map(|track| u64::from(track.samples)).sum();
    let line =
        format!("{}: {} tracks, {samples} samples, {} bytes", shown(&args.output), made.tracks.len(), made.bytes);
    out.either(&made, line)?;
    Ok(Code::Done)
}

/// The directory of a file, absolute and without links.
pub fn directory(file: &Path) -> Result<PathBuf, Failure> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::canonicalize(parent).map_err(|e| Failure::plain(parent.display(), e))
}

/// A file's place: its own name, which may be a link, in its directory.
pub fn place(file: &Path) -> Result<PathBuf, Failure> {
    let name = file.file_name().ok_or_else(|| Failure::Usage(format!("{} names no file", file.display())))?;
    Ok(directory(file)?.join(name))
}

fn read_source(input: &Path, tracks: &[u32]) -> Result<Source, Failure> {
    let media = LocalFile::open(input).map_err(|e| Failure::plain(input.display(), e))?;
    let selected = Some(tracks).filter(|tracks| !tracks.is_empty());
    Source::read(&media, selected).map_err(|e| of_mp4(input, &e))
}

/// The failure that a file's boxes are.
pub fn of_mp4(file: &Path, error: &mp4::Error) -> Failure {
    let file = file.display();
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

/// A path for the output.
pub fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// Puts `bytes` in the place of `path`, whole or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = Path::new(&name);
    let mut file = File::options().write(true).create_new(true).open(part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(part, path));
    if written.is_err() {
        // What cannot be removed either is named by the error that is told.
        let _ = fs::remove_file(part);
    }
    written
}

/// Whether both names lead to one file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

fn made(output: &Path, bytes: usize, read: &[(Source, String)]) -> Result<Made, mp4::Error> {
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
    Ok(Made { index: output.to_string_lossy().into_owned(), bytes, tracks })
}
