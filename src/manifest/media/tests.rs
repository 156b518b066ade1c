//! What of an MP4 gets into a manifest, and in which order.

use super::*;
use crate::manifest::write::Manifest;

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/media/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

fn tracks(name: &str) -> Vec<Track> {
    Described::read(sample(name).as_slice(), name).expect(name).tracks
}

/// Kind, number, name, bit rate and language.
fn shown(track: &Track) -> String {
    let (id, name) = (track.param("trackID").unwrap_or("-"), track.param(NAME).unwrap_or("-"));
    let language = track.language.as_deref().unwrap_or("-");
    format!("{} {id} {name} {} {language}", track.kind.element(), track.bitrate.unwrap_or(0))
}

#[test]
fn the_tracks_of_media_and_indexes_are_described() {
    let rows: [(&str, &[&str]); 10] = [
        ("film-aac-128k.cmfa", &["audio 1 audio_eng 64000 eng"]),
        ("film-aac-128k-index.mp4", &["audio 1 audio_eng 64000 eng"]),
        // What its btrt states.
        ("film-avc1-400k.cmfv", &["video 1 video 150000 -"]),
        // GPAC writes another btrt: the average of the samples, 148472.
        ("film-avc1-400k-index.mp4", &["video 1 video 149000 -"]),
        ("film-avc1-1000k-index.mp4", &["video 1 video 298000 -"]),
        ("packager-text.cmft", &["textstream 1 textstream_dut 1000 dut"]),
        ("packager-text-index.mp4", &["textstream 1 textstream_dut 1000 dut"]),
        // Nothing is stated: 109855 bytes in 6 s, as ffprobe counts them.
        ("packager-video.cmfv", &["video 1 video 147000 -"]),
        ("packager-audio.cmfa", &["audio 1 audio_eng 65000 eng"]),
        ("muxed-no-default-base.mp4", &["video 1 video 147000 -", "audio 2 audio 65000 -"]),
    ];
    for (name, want) in rows {
        assert_eq!(tracks(name).iter().map(shown).collect::<Vec<_>>(), want, "{name}");
    }
}

#[test]
fn a_bit_rate_is_rounded_up_to_what_urls_can_hold() {
    let rows = [
        ("exactly", 125_000, 1000, 1000, 1_000_000),
        ("a byte more", 125_001, 1000, 1000, 1_001_000),
        ("a fraction of a bit", 125_000, 1001, 1000, 1_001_000),
        ("nothing", 0, 1000, 1000, 1000),
        ("no duration", 125_000, 1000, 0, 1000),
        ("too much", u64::MAX, u32::MAX, 1, u64::MAX),
    ];
    for (row, len, timescale, duration, want) in rows {
        assert_eq!(rounded_up(bits_a_second(len, timescale, duration)), want, "{row}");
    }
}

fn track(kind: Kind, src: &str, bitrate: u64, name: &str) -> Track {
    let params = vec![("trackID".to_owned(), "1".to_owned()), (NAME.to_owned(), name.to_owned())];
    Track { kind, src: src.to_owned(), bitrate: Some(bitrate), language: None, params }
}

#[test]
fn tracks_are_in_order_and_no_two_have_the_same_url() {
    use Kind::{Audio, Text, Video};
    let mut tracks = [
        track(Text, "t", 1000, "textstream_eng"),
        track(Video, "b", 2000, "video"),
        track(Video, "a", 2000, "video"),
        track(Video, "c", 1000, "video"),
        track(Audio, "d", 9000, "audio_eng"),
        track(Text, "u", 1000, "textstream_eng"),
        track(Text, "v", 1000, "textstream_eng_1"),
        track(Text, "w", 1000, "textstream_eng"),
    ];
    arrange(&mut tracks);
    let got: Vec<_> =
        tracks.iter().map(|track| format!("{} {}", track.src, track.param(NAME).unwrap_or("-"))).collect();
    let want = [
        "d audio_eng",
        "c video",
        "b video",
        "a video_1",
        "t textstream_eng",
        "u textstream_eng_1",
        "v textstream_eng_1_1",
        "w textstream_eng_2",
    ];
    assert_eq!(got, want);
}

#[test]
fn a_language_is_what_elng_states_if_that_is_one() {
    let rows = [
        ("zh-Hans", Some("zh-Hans")),
        ("en", Some("en")),
        ("und", None),
        ("", Some("dut")),
        ("a b", Some("dut")),
        ("\u{e9}", Some("dut")),
        ("<x>", Some("dut")),
    ];
    for (tag, want) in rows {
        assert_eq!(language_with(tag), want.map(str::to_owned), "{tag:?}");
    }
}

/// The language of a Dutch track with an `elng`, which takes the place of the length that it adds.
fn language_with(tag: &str) -> Option<String> {
    let mut file = sample("packager-text-index.mp4");
    let elng = [&(tag.len() as u32 + 13).to_be_bytes(), b"elng\0\0\0\0".as_slice(), tag.as_bytes(), b"\0"].concat();
    let at = |file: &[u8], kind: &[u8]| file.windows(4).position(|found| found == kind).expect("it is there") - 4;
    for kind in [b"moov", b"trak", b"mdia"] {
        let start = at(&file, kind);
        let len = file[start..].first_chunk().map(|len| u32::from_be_bytes(*len)).expect("a size") + elng.len() as u32;
        file[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }
    let behind = at(&file, b"minf");
    file.splice(behind..behind, elng);
    Described::read(file.as_slice(), "a").expect("a file").tracks.remove(0).language
}

#[test]
fn what_is_described_can_be_written() {
    let mut all: Vec<_> = ["film-aac-128k.cmfa", "muxed-no-default-base.mp4"].into_iter().flat_map(tracks).collect();
    arrange(&mut all);
    let manifest = Manifest { client_manifest: None, tracks: all };
    assert!(manifest.write().is_ok());
}
