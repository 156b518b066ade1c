//! Fragmented MP4s and indexes: what lies in a file is indexed or refused, an index that was made reads back, and a
//! manifest can name what has tracks.
//!
//! An input is taken as a fragmented file, and once more as an index whose media is the input itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mod_usp_storage_cache::manifest::media::{Described, arrange};
use mod_usp_storage_cache::manifest::write::Manifest;
use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::codec::Codec;
use mod_usp_storage_cache::mp4::media::LocalFile;
use mod_usp_storage_cache::mp4::moov::Moov;
use mod_usp_storage_cache::mp4::read::{Tables, fingerprints, read_moov};
use mod_usp_storage_cache::mp4::verify::verify;
use mod_usp_storage_cache::mp4::{index, source::Source};

/// Samples of a track that are looked at: a small file may claim billions that are alike.
const SAMPLES_MAX: usize = 4096;
/// Tables that no length of the media allows for, and the boxes of the init once more.
const INDEX_LEN_MAX: usize = (64 << 10) + 4096;

fuzz_target!(|input: &[u8]| {
    if let Ok(source) = Source::read(input, None) {
        make(&source, input.len());
    }
    read(input);
    describe(input);
    let nowhere = |_: &str| LocalFile::open(std::path::Path::new("/nonexistent"));
    let _ = verify(input, nowhere);
});

/// An index of `source`, whose file has `len` bytes, says what its tables say.
fn make(source: &Source, len: usize) {
    let Ok(file) = index::write(&[(source, "media.mp4")]) else { return };
    assert!(file.len() <= INDEX_LEN_MAX + 8 * len, "{} bytes out of {len}", file.len());
    let (bytes, offset) = read_moov(file.as_slice()).expect("it was written");
    let moov = Moov::read(Mp4Box::read(&bytes, offset).expect("a box")).expect("ours");
    let prints = fingerprints(&file).expect("ours");
    assert_eq!((moov.tracks.len(), prints.len()), (source.tables.len(), source.tables.len()));
    for ((track, print), (id, table)) in moov.tracks.iter().zip(prints).zip(&source.tables) {
        assert_eq!((print.track_id, print.source_track_id, print.media_len), (track.id, *id, len as u64));
        let tables = Tables::read(track).expect("ours");
        assert_eq!((tables.samples, track.duration), (table.samples, table.duration));
        for sample in tables.samples().take(SAMPLES_MAX) {
            assert!(sample.offset + u64::from(sample.size) <= len as u64, "{sample:?} lies outside");
        }
        if (table.samples as usize) < SAMPLES_MAX {
            assert_eq!(tables.samples().map(|s| u64::from(s.duration)).sum::<u64>(), table.duration);
            assert_eq!(tables.samples().count(), table.samples as usize);
        }
    }
}

/// A manifest can be written of whatever was described.
fn describe(input: &[u8]) {
    let Ok(Described { mut tracks, .. }) = Described::read(input, "media.mp4") else { return };
    arrange(&mut tracks);
    for (at, track) in tracks.iter().enumerate() {
        let is_same = |other: &_| (track.bitrate, track.param("trackName")) == *other;
        assert!(
            !tracks[..at].iter().map(|other| (other.bitrate, other.param("trackName"))).any(|other| is_same(&other))
        );
    }
    assert!(Manifest { client_manifest: None, tracks }.write().is_ok());
}

/// The tracks of whatever lies there.
fn read(file: &[u8]) {
    let _ = fingerprints(file);
    let Ok((bytes, offset)) = read_moov(file) else { return };
    let Ok(moov) = Mp4Box::read(&bytes, offset).and_then(Moov::read) else { return };
    for track in &moov.tracks {
        let _ = (track.extended_language(), track.language_code(), track.samples_len());
        if let Ok(Some(codec)) = Codec::read(track) {
            assert!(codec.private_data.len() <= 3 * track.stsd.bytes.len());
        }
        if let Ok(tables) = Tables::read(track) {
            let wanted = SAMPLES_MAX.min(tables.samples as usize);
            assert_eq!(tables.samples().take(SAMPLES_MAX).count(), wanted);
        }
    }
}
