//! Every way in which a fragment may say where its samples lie, and what and when they are.

use mod_usp_storage_cache::mp4::source::Source;

use crate::made::{Track, boxed, full, init, mdat, moof};
use crate::rows::{Row, agreed, index_of};

/// What a table of an index says, without our own expansion: the bytes of a box behind its version and flags.
fn table(index: &[u8], kind: &[u8; 4]) -> Option<Vec<u32>> {
    let at = index.windows(4).position(|window| window == kind)?;
    let len = u32::from_be_bytes(index[at - 4..at].try_into().expect("four bytes")) as usize;
    let words = index[at + 8..at - 4 + len].chunks_exact(4);
    Some(words.map(|word| u32::from_be_bytes(word.try_into().expect("four bytes"))).collect())
}

const BASE_IS_MOOF: u32 = 0x2_0000;
const NON_SYNC: u32 = 0x0001_0000;

/// `ftyp`, `moov` and fragments, each a `moof` of `trafs` and an `mdat` of 1000 bytes.
fn file(tracks: &[Track], fragments: &[&[Vec<u8>]]) -> Vec<u8> {
    let fragments = fragments.iter().flat_map(|trafs| [moof(trafs), mdat(1000)].concat());
    init(tracks).into_iter().chain(fragments).collect()
}

fn tfhd(flags: u32, words: &[u32]) -> Vec<u8> {
    full(b"tfhd", 0, flags, &[&[1], words].concat())
}

fn trun(flags: u32, words: &[u32]) -> Vec<u8> {
    full(b"trun", 0, flags, words)
}

fn tfdt(time: u32) -> Vec<u8> {
    full(b"tfdt", 0, 0, &[time])
}

fn tfxd(version: u8, words: &[u32]) -> Vec<u8> {
    let user_type = 0x6d1d_9b05_42d5_44e6_80e2_141d_aff7_57b2_u128.to_be_bytes();
    let box_of_words = full(b"uuid", version, 0, words);
    boxed(b"uuid", &[&user_type, &box_of_words[8..]])
}

/// Offsets and sizes of the first track's samples.
fn places(file: &[u8]) -> Vec<(u64, u32)> {
    agreed(&index_of(file))[0].iter().map(|row| (row.offset, row.size)).collect()
}

#[test]
fn data_lie_where_the_base_offset_says() {
    let m = init(&[Track::default()]).len() as u32;
    let rows: [(_, Vec<Vec<u8>>, _); 8] = [
        ("base-data-offset", vec![tfhd(1, &[0, m + 40]), trun(1, &[3, 60])], [m + 100, m + 105, m + 110]),
        (
            "base-data-offset, back",
            vec![tfhd(1, &[0, m + 400]), trun(1, &[3, -60i32 as u32])],
            [m + 340, m + 345, m + 350],
        ),
        ("base-data-offset alone", vec![tfhd(1, &[0, m + 40]), trun(0, &[3])], [m + 40, m + 45, m + 50]),
        ("default-base-is-moof", vec![tfhd(BASE_IS_MOOF, &[]), trun(1, &[3, 90])], [m + 90, m + 95, m + 100]),
        ("the first traf", vec![tfhd(0, &[]), trun(1, &[3, 90])], [m + 90, m + 95, m + 100]),
        ("no offset at all", vec![tfhd(0, &[]), trun(0, &[3])], [m, m + 5, m + 10]),
        ("a run behind another", vec![tfhd(0, &[]), trun(1, &[2, 90]), trun(0, &[1])], [m + 90, m + 95, m + 100]),
        ("two runs", vec![tfhd(0, &[]), trun(1, &[1, 90]), trun(1, &[2, 300])], [m + 90, m + 300, m + 305]),
    ];
    for (row, traf, want) in rows {
        let file = file(&[Track::default()], &[&[traf.concat()]]);
        assert_eq!(places(&file), want.map(|offset| (u64::from(offset), 5)), "{row}");
    }
}

#[test]
fn a_later_traf_begins_where_the_one_before_ends() {
    let second = Track { id: 2, ..Track::default() };
    let tracks = [Track::default(), second];
    let m = init(&tracks).len() as u64;
    let other = |flags, words: &[u32]| full(b"tfhd", 0, flags, &[&[2], words].concat());
    let rows = [
        ("no base", other(0, &[]), trun(0, &[1]), m + 100),
        ("no base, an offset", other(0, &[]), trun(1, &[1, 7]), m + 107),
        ("the moof", other(BASE_IS_MOOF, &[]), trun(1, &[1, 7]), m + 7),
        ("a base", other(1, &[0, 50]), trun(1, &[1, 7]), 57),
    ];
    for (row, tfhd_2, trun_2, want) in rows {
        let trafs = [[tfhd(0, &[]), trun(1, &[2, 90])].concat(), [tfhd_2, trun_2].concat()];
        let file = file(&tracks, &[&trafs]);
        assert_eq!(agreed(&index_of(&file))[1][0].offset, want, "{row}");
        // Where the first track is left out, its data still count.
        let source = Source::read(file.as_slice(), Some(&[2])).expect(row);
        assert_eq!((source.tables[0].0, source.tables[0].1.chunks[0].offset), (2, want), "{row}");
    }
}

#[test]
fn what_a_run_does_not_say_is_taken_from_tfhd_and_then_from_trex() {
    let trex = [10, 5, NON_SYNC];
    // Durations, sizes, sync flags.
    type Want = [(u32, u32, bool); 2];
    let rows: [(&str, Vec<u8>, Vec<u8>, Want); 6] = [
        ("trex", tfhd(0, &[]), trun(0, &[2]), [(10, 5, false); 2]),
        ("tfhd", tfhd(0x38, &[11, 6, 0]), trun(0, &[2]), [(11, 6, true); 2]),
        (
            "trun",
            tfhd(0x38, &[11, 6, 0]),
            trun(0x700, &[2, 12, 7, NON_SYNC, 13, 8, 0]),
            [(12, 7, false), (13, 8, true)],
        ),
        ("half of trun", tfhd(0x8, &[11]), trun(0x200, &[2, 7, 8]), [(11, 7, false), (11, 8, false)]),
        ("first flags", tfhd(0, &[]), trun(0x4, &[2, 0]), [(10, 5, true), (10, 5, false)]),
        ("first flags over tfhd", tfhd(0x20, &[0]), trun(0x204, &[2, NON_SYNC, 7, 8]), [(10, 7, false), (10, 8, true)]),
    ];
    for (row, tfhd, trun, want) in rows {
        let track = Track { defaults: trex, ..Track::default() };
        let rows = &agreed(&index_of(&file(&[track], &[&[[tfhd, trun].concat()]])))[0];
        let got: Vec<_> = rows.iter().map(|row| (row.duration, row.size, row.sync)).collect();
        assert_eq!(got, want, "{row}");
    }
}

/// Decode times and durations of samples of duration 10, and the start of the track.
fn times(fragments: &[Vec<u8>]) -> Result<(i64, Vec<u32>), String> {
    let fragments: Vec<[Vec<u8>; 1]> = fragments.iter().map(|traf| [[tfhd(0, &[]), traf.clone()].concat()]).collect();
    let fragments: Vec<&[Vec<u8>]> = fragments.iter().map(<[_; 1]>::as_slice).collect();
    let file = file(&[Track::default()], &fragments);
    let source = Source::read(file.as_slice(), None).map_err(|e| e.to_string())?;
    let durations = agreed(&index_of(&file))[0].iter().map(|row| row.duration).collect();
    Ok((source.tables[0].1.start, durations))
}

#[test]
fn decode_times_come_from_tfdt_or_tfxd_or_from_what_was_before() {
    let one = || trun(0, &[1]);
    let composed = |offset: u32| full(b"trun", 0, 0x800, &[1, offset]);
    let rows: [(_, [Vec<u8>; 3], _, [u32; 3]); 10] = [
        ("none", [one(), one(), one()], 0, [10; 3]),
        ("tfdt", [[tfdt(0), one()].concat(), [tfdt(10), one()].concat(), [tfdt(20), one()].concat()], 0, [10; 3]),
        ("tfdt, wide", [[full(b"tfdt", 1, 0, &[1, 0]), one()].concat(), one(), one()], 1 << 32, [10; 3]),
        ("tfdt, late", [[tfdt(77), one()].concat(), one(), [tfdt(97), one()].concat()], 77, [10; 3]),
        ("tfdt, a gap", [[tfdt(0), one()].concat(), [tfdt(15), one()].concat(), one()], 0, [15, 10, 10]),
        ("tfxd", [[one(), tfxd(0, &[7, 10])].concat(), [one(), tfxd(0, &[17, 10])].concat(), one()], 7, [10; 3]),
        ("tfxd, wide", [[one(), tfxd(1, &[1, 0, 0, 10])].concat(), one(), one()], 1 << 32, [10; 3]),
        (
            "tfxd, early",
            [[one(), tfxd(1, &[u32::MAX, -7i32 as u32, 0, 10])].concat(), [one(), tfxd(0, &[3, 10])].concat(), one()],
            -7,
            [10; 3],
        ),
        (
            "tfxd, composition times",
            [
                [composed(20), tfxd(0, &[20, 10])].concat(),
                [composed(30), tfxd(0, &[40, 10])].concat(),
                [composed(0), tfxd(0, &[20, 10])].concat(),
            ],
            0,
            [10; 3],
        ),
        (
            "tfxd, decode times beside composition offsets",
            [
                [composed(20), tfxd(0, &[0, 10])].concat(),
                [composed(30), tfxd(0, &[10, 10])].concat(),
                [composed(0), tfxd(0, &[25, 10])].concat(),
            ],
            0,
            [10, 15, 10],
        ),
    ];
    for (row, fragments, start, durations) in rows {
        assert_eq!(times(&fragments), Ok((start, durations.to_vec())), "{row}");
    }
}

#[test]
fn a_decode_time_that_goes_back_is_an_error_with_its_place() {
    let one = trun(0, &[1]);
    let error = times(&[[tfdt(0), one.clone()].concat(), [tfdt(9), one].concat()]).expect_err("9 is before 10");
    assert!(
        error.contains("trun") && error.ends_with("has a decode time before the end of the fragment before"),
        "{error}"
    );
}

#[test]
fn a_fragment_that_lasts_without_samples_lengthens_the_one_before() {
    let empty = [full(b"tfhd", 0, 0x1_0008, &[1, 30]), tfdt(10)].concat();
    let sample = |time| [tfhd(0, &[]), tfdt(time), trun(0, &[1])].concat();
    let file = file(&[Track::default()], &[&[sample(0)], &[empty], &[sample(40)]]);
    let rows = &agreed(&index_of(&file))[0];
    assert_eq!(rows.iter().map(|row| (row.decode_time, row.duration)).collect::<Vec<_>>(), [(0, 40), (40, 10)]);
}

#[test]
fn tables_are_written_only_where_they_say_something() {
    let run = |version, offset: i32| full(b"trun", version, 0x800, &[1, offset as u32]);
    let rows = [
        ("no offsets", trun(0, &[1]), None),
        ("offsets of 0", run(1, 0), None),
        ("unsigned", run(0, 7), Some(0)),
        ("large", run(0, -7), Some(0)),
        ("signed, not negative", run(1, 7), Some(0)),
        ("negative", run(1, -7), Some(1)),
    ];
    for (row, trun, version) in rows {
        let index = index_of(&file(&[Track::default()], &[&[[tfhd(0, &[]), trun].concat()]]));
        let at = index.windows(4).position(|window| window == b"ctts");
        assert_eq!(at.map(|at| index[at + 4]), version, "{row}");
    }
    let syncs = |flags: &[u32]| {
        let words = [&[flags.len() as u32], flags].concat();
        let file = file(&[Track::default()], &[&[[tfhd(0, &[]), trun(0x400, &words)].concat()]]);
        table(&index_of(&file), b"stss")
    };
    assert_eq!(syncs(&[0, 0]), None, "all are sync samples");
    assert_eq!(syncs(&[0, NON_SYNC, 0]), Some(vec![2, 1, 3]));
    assert_eq!(syncs(&[NON_SYNC, NON_SYNC]), Some(vec![0]), "none is");
}

#[test]
fn a_chunk_is_a_run_of_samples() {
    let traf = |runs: &[u32]| {
        let runs = runs.iter().enumerate().flat_map(|(n, count)| trun(1, &[*count, 100 + 100 * n as u32]));
        [tfhd(0, &[]), runs.collect()].concat()
    };
    let file = file(&[Track::default()], &[&[traf(&[2, 2])], &[traf(&[2, 0, 3])], &[traf(&[3])]]);
    let index = index_of(&file);
    assert_eq!(table(&index, b"stsc"), Some(vec![2, 1, 2, 1, 4, 3, 1]));
    assert_eq!(table(&index, b"stco").map(|words| words[0]), Some(5));
    assert_eq!(table(&index, b"stsz"), Some(vec![5, 12]), "one size");
    assert_eq!(table(&index, b"stts"), Some(vec![1, 12, 10]));
    assert_eq!(agreed(&index)[0].len(), 12);
}

#[test]
fn offsets_past_4_gib_take_64_bits() {
    let far = 5u64 << 30;
    let m = init(&[Track::default()]).len() as u64;
    let first = [moof(&[[tfhd(0, &[]), trun(1, &[1, 200])].concat()])].concat();
    let second = moof(&[[tfhd(1, &[(far >> 32) as u32, far as u32]), trun(0, &[2])].concat()]);
    let head = [init(&[Track::default()]), first, second].concat();
    let media = crate::reading::Sparse::new(head, 6 << 30);
    let source = Source::read(&media, None).expect("it can be indexed");
    let index = mod_usp_storage_cache::mp4::index::write(&[(&source, "far.mp4")]).expect("an index");
    let row =
        |offset, decode_time| Row { offset, size: 5, decode_time, duration: 10, composition_offset: 0, sync: true };
    assert_eq!(agreed(&index), [[row(m + 200, 0), row(far, 10), row(far + 5, 20)]]);
    assert_eq!(table(&index, b"co64"), Some(vec![2, 0, m as u32 + 200, (far >> 32) as u32, far as u32]));
}
