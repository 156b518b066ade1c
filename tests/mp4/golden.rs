//! Against index MP4s that GPAC made of the same media (`MP4Box -add IN -dref -new OUT`).

use std::fs;

use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::moov::Moov;
use mod_usp_storage_cache::mp4::read::read_moov;
use mod_usp_storage_cache::mp4::verify::verify;

use crate::rows::{agreed, index_of};

/// Media, and the samples of its tracks.
const MEDIA: [(&str, &[usize]); 7] = [
    ("film-avc1-400k.cmfv", &[144]),
    ("film-avc1-1000k.cmfv", &[144]),
    ("film-aac-128k.cmfa", &[283]),
    ("packager-video.cmfv", &[150]),
    ("packager-audio.cmfa", &[260]),
    ("packager-text.cmft", &[5]),
    ("muxed-no-default-base.mp4", &[150, 260]),
];

pub fn sample(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/media/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

fn golden(name: &str) -> Vec<u8> {
    sample(&format!("{}-index.mp4", name.rsplit_once('.').expect("a suffix").0))
}

#[test]
fn every_sample_is_where_gpac_finds_it() {
    for (name, samples) in MEDIA {
        let (ours, theirs) = (agreed(&index_of(&sample(name))), agreed(&golden(name)));
        assert_eq!(ours.iter().map(Vec::len).collect::<Vec<_>>(), samples, "{name}");
        for (track, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                assert_eq!(ours, theirs, "{name}: track {track}, sample {number}");
            }
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn gpacs_indexes_fit_their_media() {
    for (name, _) in MEDIA {
        let misfits = verify(&golden(name), |_| Ok(Bytes(sample(name)))).expect(name);
        assert_eq!(misfits, [], "{name}");
    }
}

/// A file in memory.
pub struct Bytes(pub Vec<u8>);

impl mod_usp_storage_cache::mp4::media::Media for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, ranges: &[std::ops::Range<u64>]) -> std::io::Result<Vec<Vec<u8>>> {
        self.0.as_slice().read(ranges)
    }
}

#[test]
fn what_is_not_about_samples_is_the_inits_byte_for_byte() {
    for (name, _) in MEDIA {
        let (init, at) = read_moov(sample(name).as_slice()).expect(name);
        let (index, index_at) = read_moov(index_of(&sample(name)).as_slice()).expect(name);
        let init = Moov::read(Mp4Box::read(&init, at).expect(name)).expect(name);
        let index = Moov::read(Mp4Box::read(&index, index_at).expect(name)).expect(name);
        assert!(index.defaults.is_none(), "{name}: no mvex");
        assert_eq!(index.tracks.len(), init.tracks.len(), "{name}");
        for (ours, theirs) in index.tracks.iter().zip(&init.tracks) {
            assert_eq!(ours.stsd.bytes, theirs.stsd.bytes, "{name}: stsd");
            assert_eq!(ours.hdlr.bytes, theirs.hdlr.bytes, "{name}: hdlr");
            assert_eq!(ours.elng.map(|b| b.bytes), theirs.elng.map(|b| b.bytes), "{name}: elng");
            assert_eq!((ours.language, ours.timescale), (theirs.language, theirs.timescale), "{name}: mdhd");
            let picture = |track: &mod_usp_storage_cache::mp4::moov::Track<'_>| {
                track.tkhd.body()[track.tkhd.body().len() - 60..].to_vec()
            };
            assert_eq!(picture(ours), picture(theirs), "{name}: tkhd");
        }
    }
}
