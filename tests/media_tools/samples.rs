//! The samples of an index are those of the media, sample by sample, as independent readers list them: mp4box.js from
//! fragments and from tables, mp4-atom and shiguredo_mp4 from tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::moov::Moov;
use mod_usp_storage_cache::mp4::read::read_moov;
use serde::Deserialize;

use crate::rows::{Row, agreed, index_of};
use crate::{CASES, Case, MADE};

/// The samples that tests/mp4 holds against GPAC's indexes.
const KEPT: [&str; 7] = [
    "film-avc1-400k.cmfv",
    "film-avc1-1000k.cmfv",
    "film-aac-128k.cmfa",
    "packager-video.cmfv",
    "packager-audio.cmfa",
    "packager-text.cmft",
    "muxed-no-default-base.mp4",
];

/// A sample as mp4box.js lists it, with times in units of the media.
#[derive(Deserialize)]
struct Listed {
    offset: u64,
    size: u32,
    decode_time: i64,
    composition_time: i64,
    duration: u32,
    sync: bool,
}

impl Listed {
    /// The sample, counted from when the first one is decoded.
    fn row(&self, first: i64) -> Row {
        Row {
            offset: self.offset,
            size: self.size,
            decode_time: (self.decode_time - first) as u64,
            duration: self.duration,
            composition_offset: self.composition_time - self.decode_time,
            sync: self.sync,
        }
    }
}

#[test]
fn independent_readers_find_the_same_samples_in_the_media_and_in_its_index() {
    let made = |(number, case): (usize, &Case)| {
        (case.name, MADE.join(format!("{number}.mp4")), MADE.join(format!("{number}-index.mp4")))
    };
    let files: Vec<_> = CASES.iter().enumerate().map(made).chain(KEPT.map(indexed)).collect();
    let fragmented = by_mp4box(files.iter().map(|(_, media, _)| media));
    let flat = by_mp4box(files.iter().map(|(_, _, index)| index));
    for (((name, media, index), fragmented), flat) in files.iter().zip(&fragmented).zip(&flat) {
        let ours = agreed(&fs::read(index).expect("it was made"));
        let flat: Vec<Vec<Row>> = flat.iter().map(|track| track.iter().map(|s| s.row(0)).collect()).collect();
        same(&format!("{name}: tables"), &flat, &ours);
        // Tables begin at 0; where the media begins later, an empty edit says so. mp4box.js does not know tfxd, and lets
        // media without tfdt begin at 0, as ours does.
        let starts: Vec<i64> = fragmented.iter().map(|track| track[0].decode_time).collect();
        let rows = fragmented.iter().zip(&starts).map(|(track, start)| track.iter().map(|s| s.row(*start)).collect());
        same(&format!("{name}: fragments"), &rows.collect::<Vec<Vec<Row>>>(), &ours);
        for ((start, (before, timescale)), (after, _)) in starts.iter().zip(delays(media)).zip(delays(index)) {
            let late = before + *start as f64 / f64::from(timescale);
            assert!((after - late).abs() < 1e-6, "{name}: delayed by {after} s instead of {late}");
        }
    }
}

/// All samples of all tracks are the same; of those that are not, the first is told.
fn same(what: &str, theirs: &[Vec<Row>], ours: &[Vec<Row>]) {
    assert_eq!(theirs.len(), ours.len(), "{what}: number of tracks");
    for (track, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        for (number, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
            assert_eq!(theirs, ours, "{what}: track {track}, sample {number}");
        }
        assert_eq!(theirs.len(), ours.len(), "{what}: samples of track {track}");
        assert!(ours.len() >= 2, "{what}: track {track} has samples");
    }
}

/// Seconds by which the edit list of each track delays it, and units a second of its media.
fn delays(file: &Path) -> Vec<(f64, u32)> {
    let (bytes, offset) = read_moov(fs::read(file).expect("it was made").as_slice()).expect("a moov");
    let moov = Moov::read(Mp4Box::read(&bytes, offset).expect("a box")).expect("a moov");
    let delay = |track: &mod_usp_storage_cache::mp4::moov::Track<'_>| {
        let empty = track.edits.iter().filter(|edit| edit.media_time.is_none()).map(|edit| edit.duration);
        (empty.sum::<u64>() as f64 / f64::from(moov.timescale), track.timescale)
    };
    moov.tracks.iter().map(delay).collect()
}

/// A sample of tests/media, and an index of it beside the made ones.
fn indexed(name: &str) -> (&str, PathBuf, PathBuf) {
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/media").join(name);
    let index = MADE.join(name);
    fs::write(&index, index_of(&fs::read(&media).expect(name))).expect("a file");
    (name, media, index)
}

/// The samples of each track of each file.
fn by_mp4box<'a>(files: impl ExactSizeIterator<Item = &'a PathBuf>) -> Vec<Vec<Vec<Listed>>> {
    let count = files.len();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new(root.join("target/media/bin/node"));
    node.env("NODE_PATH", root.join("target/media/node_modules"));
    let output = node.arg(root.join("tests/media_tools/samples.js")).args(files).output();
    let output = output.unwrap_or_else(|e| panic!("node: {e}: run tests/setup media"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let listed: Vec<_> = lines.map(|line| serde_json::from_slice(line).expect("samples")).collect();
    assert_eq!(listed.len(), count);
    listed
}
