//! Edit lists and late starts, several inputs, and what else an index says of its tracks.

use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::index;
use mod_usp_storage_cache::mp4::moov::{DataReference, Edit, Moov};
use mod_usp_storage_cache::mp4::read::{Fingerprint, fingerprints, read_moov};
use mod_usp_storage_cache::mp4::source::Source;
use mod_usp_storage_cache::mp4::verify::verify;

use crate::golden::{Bytes, sample};
use crate::made::{Track, boxed, full, init, mdat, moof};
use crate::rows::{agreed, index_of, ours};

/// `edts` with entries of duration and media time, in version 0.
fn edts(edits: &[(u32, i32)]) -> Vec<u8> {
    let mut words = vec![edits.len() as u32];
    edits.iter().for_each(|(duration, time)| words.extend([*duration, *time as u32, 0x0001_0000]));
    boxed(b"edts", &[&full(b"elst", 0, 0, &words)])
}

/// A track at 1000 Hz of 10 samples of 10 units that begins at `start`, with `edits` in units of 1/1000 s, and
/// composition offsets of 20.
fn file(start: u32, edits: &[(u32, i32)], offset: u32) -> Vec<u8> {
    let edts = if edits.is_empty() { Vec::new() } else { edts(edits) };
    let track = Track { edts, ..Track::default() };
    let offsets = [[10].as_slice(), &[offset; 10]].concat();
    let traf = [full(b"tfhd", 0, 0, &[1]), full(b"tfdt", 0, 0, &[start]), full(b"trun", 0, 0x800, &offsets)].concat();
    [init(&[track]), moof(&[traf]), mdat(100)].concat()
}

fn edits(index: &[u8]) -> Vec<(u64, Option<u64>)> {
    let (bytes, at) = read_moov(index).expect("a moov");
    let moov = Moov::read(Mp4Box::read(&bytes, at).expect("a box")).expect("a moov");
    assert_eq!(moov.timescale, 1000);
    moov.tracks[0].edits.iter().map(|Edit { duration, media_time }| (*duration, *media_time)).collect()
}

#[test]
fn edits_are_the_inits_and_a_late_start_is_an_empty_one() {
    // Start, edits of the init, composition offset; edits of the index.
    type Row<'a> = (&'a str, u32, &'a [(u32, i32)], u32, &'a [(u64, Option<u64>)]);
    let rows: [Row<'_>; 11] = [
        ("none", 0, &[], 0, &[]),
        ("none, although it is composed late", 0, &[], 20, &[]),
        ("one to the end", 0, &[(0, 20)], 20, &[(100, Some(20))]),
        ("priming", 0, &[(0, 30)], 0, &[(70, Some(30))]),
        ("with its own duration", 0, &[(50, 20)], 20, &[(50, Some(20))]),
        ("an empty one before", 0, &[(300, -1), (0, 0)], 0, &[(300, None), (100, Some(0))]),
        ("late", 777, &[], 0, &[(777, None), (100, Some(0))]),
        ("late, composed later", 777, &[], 20, &[(777, None), (120, Some(0))]),
        ("late, with an edit", 777, &[(0, 20)], 20, &[(757, None), (120, Some(0))]),
        ("late, and the edit is later", 5, &[(0, 20)], 20, &[(105, Some(15))]),
        ("late, an empty one before", 777, &[(300, -1), (0, 0)], 0, &[(300, None), (777, None), (100, Some(0))]),
    ];
    for (row, start, init, offset, want) in rows {
        let index = index_of(&file(start, init, offset));
        assert_eq!(edits(&index), want, "{row}");
        agreed(&index);
    }
}

#[test]
fn another_rate_than_1_is_refused() {
    let mut file = file(0, &[(0, 20)], 0);
    let at = file.windows(4).position(|window| window == b"elst").expect("it is there");
    file[at + 21] = 2;
    let error = Source::read(file.as_slice(), None).err().expect("rate 2").to_string();
    assert_eq!(error, format!("box elst at offset {} has an edit at another rate than 1", at - 4));
}

#[test]
fn several_inputs_become_one_index() {
    let names = ["film-avc1-400k.cmfv", "muxed-no-default-base.mp4", "film-aac-128k.cmfa"];
    let media = names.map(sample);
    let sources = media.each_ref().map(|media| Source::read(media.as_slice(), None).expect("it can be indexed"));
    let inputs: Vec<_> = sources.iter().zip(names).collect();
    let index = index::write(&inputs).expect("an index");
    let apart: Vec<_> = media.iter().flat_map(|media| ours(&index_of(media))).collect();
    assert_eq!(agreed(&index), apart);
    let (bytes, at) = read_moov(index.as_slice()).expect("a moov");
    let moov = Moov::read(Mp4Box::read(&bytes, at).expect("a box")).expect("a moov");
    let reference = |track: &mod_usp_storage_cache::mp4::moov::Track<'_>| {
        let entry = track.sample_entries().expect("entries").next().expect("one").expect("whole");
        match track.data_reference(&entry).expect("a reference") {
            DataReference::Url(location) => location.to_owned(),
            DataReference::SameFile => panic!("it lies outside"),
        }
    };
    let tracks: Vec<_> = moov.tracks.iter().map(|track| (track.id, reference(track))).collect();
    let want = [(1, names[0]), (2, names[1]), (3, names[1]), (4, names[2])].map(|(id, name)| (id, name.to_owned()));
    assert_eq!(tracks, want);
    let prints: Vec<_> =
        fingerprints(&index).expect("ours").into_iter().map(|p| (p.track_id, p.source_track_id)).collect();
    assert_eq!(prints, [(1, 1), (2, 1), (3, 2), (4, 1)]);
}

#[test]
fn selected_tracks_alone_are_indexed() {
    let media = sample("muxed-no-default-base.mp4");
    let all = ours(&index_of(&media));
    let source = Source::read(media.as_slice(), Some(&[2])).expect("it has two");
    let index = index::write(&[(&source, "m.mp4")]).expect("an index");
    assert_eq!(agreed(&index), [all[1].clone()]);
    let print = Fingerprint { track_id: 1, source_track_id: 2, media_len: media.len() as u64, etag: None };
    assert_eq!(fingerprints(&index).expect("ours"), [print]);
    assert!(Source::read(media.as_slice(), Some(&[3])).is_err());
}

#[test]
fn an_index_of_the_same_samples_at_other_times_or_of_another_codec_does_not_fit() {
    let misfits = |made_of: &[u8], held_against: &[u8]| {
        let found = verify(&index_of(made_of), |_| Ok(Bytes(held_against.to_vec()))).expect("both can be read");
        found.into_iter().map(|(_, misfit)| misfit.to_string()).collect::<Vec<_>>()
    };
    let film = file(777, &[], 0);
    let with = |from: &[u8], to: &[u8]| {
        let mut other = film.clone();
        let at = other.windows(from.len()).position(|window| window == from).expect("it is there");
        other[at..at + to.len()].copy_from_slice(to);
        other
    };
    let timescale = with(b"mdhd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\xe8", b"mdhd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\xd0");
    let rows = [
        (film.clone(), None),
        (file(778, &[], 0), Some("its start or edit list is not the media's")),
        (file(900, &[], 0), Some("its start or edit list is not the media's")),
        (timescale, Some("its timescale is not the media's")),
        (with(b"test", b"tesu"), Some("its codec data is not the media's")),
    ];
    for (other, want) in rows {
        assert_eq!(misfits(&film, &other), Vec::from_iter(want), "{want:?}");
    }
}
