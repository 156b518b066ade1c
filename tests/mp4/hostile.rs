//! Broken and hostile media and indexes: an error that names a box and its offset, no panic, bounded memory.

use mod_usp_storage_cache::mp4::Error;
use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::moov::Moov;
use mod_usp_storage_cache::mp4::read::{Tables, read_moov};
use mod_usp_storage_cache::mp4::source::Source;

use crate::golden::sample;
use crate::made::{Track, full, init, mdat, moof};
use crate::reading::Sparse;

fn error(file: &[u8]) -> String {
    Source::read(file, None).err().expect("it is broken").to_string()
}

/// A file of one fragment.
fn file(track: Track, traf: &[Vec<u8>]) -> Vec<u8> {
    [init(&[track]), moof(&[traf.concat()]), mdat(100)].concat()
}

fn tfhd() -> Vec<u8> {
    full(b"tfhd", 0, 0, &[1])
}

#[test]
fn more_tracks_than_any_file_has_are_refused_before_they_are_compared() {
    let tracks: Vec<_> = (0..257).map(|_| Track::default()).collect();
    let error = error(&init(&tracks));
    assert!(error.ends_with("is one of more than 256"), "{error}");
}

#[test]
fn samples_that_no_index_has_room_for_are_refused_before_it_is_written() {
    // 1.2 thousand million samples without a byte in a large file.
    let head =
        file(Track { defaults: [10, 0, 0], ..Track::default() }, &[tfhd(), full(b"trun", 0, 0, &[1_200_000_000])]);
    let error = Source::read(&Sparse::new(head, 20 << 30), None).err().expect("it is too much").to_string();
    assert_eq!(error, "claims more samples than a file of its length can hold");
}

#[test]
fn each_refusal_says_which_box_and_where() {
    let plain = Track::default;
    let m = init(&[plain()]).len();
    let at = |kind: &str, offset: usize, what: &str| format!("box {kind} at offset {offset} {what}");
    let outside = "has samples outside the media (is the file whole?)";
    // moof, mfhd and traf have headers of 8 bytes, mfhd has 8 more; tfhd has 16 bytes.
    let (tfhd_at, second_at) = (m + 32, m + 48);
    let rows = [
        (
            "billions of samples in a small box",
            file(plain(), &[tfhd(), full(b"trun", 0, 0x200, &[u32::MAX, 1])]),
            at("trun", second_at, "ends before its fields do"),
        ),
        (
            "billions of samples in no box",
            file(plain(), &[tfhd(), full(b"trun", 0, 0, &[u32::MAX])]),
            at("trun", second_at, outside),
        ),
        (
            "an offset before the file",
            file(plain(), &[tfhd(), full(b"trun", 0, 1, &[1, i32::MIN as u32])]),
            at("trun", second_at, outside),
        ),
        (
            "a base at the end of all numbers",
            file(plain(), &[full(b"tfhd", 0, 1, &[1, u32::MAX, u32::MAX]), full(b"trun", 0, 1, &[1, 1])]),
            at("trun", second_at + 8, outside),
        ),
        (
            "another track",
            file(plain(), &[full(b"tfhd", 0, 0, &[2])]),
            at("tfhd", tfhd_at, "names a track that moov does not have"),
        ),
        (
            "another sample entry",
            file(plain(), &[full(b"tfhd", 0, 2, &[1, 2]), full(b"trun", 0, 0, &[1])]),
            at("trun", second_at + 4, "is of a sample entry that moov does not have"),
        ),
        ("no tfhd", file(plain(), &[]), format!("box traf at offset {} has no tfhd", m + 24)),
        (
            "senc",
            file(plain(), &[tfhd(), full(b"senc", 0, 0, &[0])]),
            at("senc", second_at, "is of an encrypted track"),
        ),
        (
            "a second moov",
            [file(plain(), &[tfhd()]), init(&[plain()])[16..].to_vec()].concat(),
            at("moov", m + 48 + 108, "is a second one in the file"),
        ),
        ("no moov", moof(&[]), at("moof", 0, "stands before any moov: put the init before the segments")),
        ("no fragment", init(&[plain()]), "has no fragments".to_owned()),
        (
            "a flat file",
            sample("film-avc1-400k-index.mp4"),
            "is not fragmented (its moov has no mvex): fragment it first".to_owned(),
        ),
        ("two tracks of a number", init(&[plain(), plain()]), "has two tracks of the same number".to_owned()),
    ];
    for (row, file, want) in rows {
        assert_eq!(error(&file), want, "{row}");
    }
}

#[test]
fn encrypted_tracks_are_refused_unless_they_are_left_out() {
    for coding in [*b"encv", *b"enca", *b"enct"] {
        let encrypted = || Track { coding, ..Track::default() };
        let error = error(&file(encrypted(), &[tfhd(), full(b"trun", 0, 0, &[1])]));
        assert!(error.ends_with("is an encrypted track's; index it before it is encrypted"), "{error}");
        let clear = Track { id: 2, ..Track::default() };
        let traf = [full(b"tfhd", 0, 0, &[2]), full(b"trun", 0, 0, &[1])].concat();
        let beside = [init(&[encrypted(), clear]), moof(&[traf]), mdat(100)].concat();
        assert!(Source::read(beside.as_slice(), Some(&[2])).is_ok(), "the track beside it is clear");
    }
}

#[test]
fn samples_without_a_byte_do_not_blow_up_an_index() {
    // Two runs of a billion samples of sizes 0 and 1, of which the sizes would have to be written out.
    let empty = || Track { defaults: [0, 0, 0], ..Track::default() };
    let run = |count| full(b"trun", 0, 0, &[count]);
    let bomb = file(empty(), &[tfhd(), run(1 << 30), full(b"trun", 0, 0x200, &[1, 1])]);
    assert_eq!(error(&bomb), "claims more samples than a file of its length can hold");
    let many = file(empty(), &[tfhd(), run(u32::MAX), run(1)]);
    assert!(error(&many).ends_with("has more samples than a table can count"));
    let alike = file(empty(), &[tfhd(), run(u32::MAX)]);
    assert_eq!(
        error(&alike),
        "claims more samples than a file of its length can hold",
        "a size of 0 is no uniform one"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused_or_shorter() {
    let whole = sample("packager-text.cmft");
    for len in 0..whole.len() {
        match Source::read(&whole[..len], None) {
            Ok(source) => assert!(source.tables[0].1.samples < 5, "cut at {len}"),
            Err(Error::Read { .. }) => panic!("cut at {len}: the file is as long as it says"),
            Err(_) => {}
        }
    }
}

#[test]
fn an_index_with_any_byte_turned_is_read_or_refused() {
    let whole = sample("packager-text-index.mp4");
    for at in 0..whole.len() {
        for turned in [0x00, 0x01, 0x80, 0xff] {
            let mut file = whole.clone();
            file[at] = turned;
            let Ok((bytes, offset)) = read_moov(file.as_slice()) else { continue };
            let Ok(moov) = Mp4Box::read(&bytes, offset).and_then(Moov::read) else { continue };
            for track in &moov.tracks {
                let Ok(tables) = Tables::read(track) else { continue };
                assert_eq!(tables.samples().count(), tables.samples as usize, "byte {at} is {turned}");
            }
        }
    }
}
