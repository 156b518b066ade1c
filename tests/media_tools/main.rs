//! What an index says is what ffmpeg reads from the media: packets through the one and the other are the same.
//!
//! ffmpeg follows no data reference, so it is given a *composite*: the media with its fragments' boxes made `free`, and
//! the index's `moov` behind it, saying that the samples are in the same file. `tests/setup media` installs the tools;
//! `cargo test --test media_tools` runs it, and nothing else does. [`samples`] holds the tables against other readers.

#[path = "../mp4/rows.rs"]
mod rows;
mod samples;

mod manifest;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// What makes a file, and how many tracks it has.
struct Case {
    name: &'static str,
    command: &'static str,
    tracks: usize,
}

const VIDEO: &str = "-f lavfi -i testsrc2=size=160x90:rate=24:duration=5";
const H264: &str = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 24 -bf 2 -threads 1";
const AUDIO: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000:duration=5";

/// `FFMPEG` is ffmpeg without a word; `VIDEO`, `H264` and `AUDIO` stand for the texts above, and `OUT` for the file.
const CASES: [Case; 11] = [
    Case {
        name: "cmaf video",
        command: "FFMPEG VIDEO H264 -movflags +cmaf+frag_keyframe+skip_trailer -f mp4 OUT",
        tracks: 1,
    },
    Case {
        name: "cmaf audio",
        command: "FFMPEG AUDIO -c:a aac -movflags +cmaf -frag_duration 1000000 -f mp4 OUT",
        tracks: 1,
    },
    Case {
        name: "several tracks",
        command: "FFMPEG VIDEO AUDIO H264 -c:a aac -movflags +frag_keyframe+empty_moov -f mp4 OUT",
        tracks: 2,
    },
    Case {
        name: "late start",
        command: "FFMPEG VIDEO AUDIO H264 -c:a aac -output_ts_offset 10 -movflags +cmaf+frag_keyframe+frag_discont -f mp4 OUT",
        tracks: 2,
    },
    Case {
        name: "late start by an edit",
        command: "FFMPEG VIDEO AUDIO H264 -c:a aac -output_ts_offset 10 -movflags +dash+frag_keyframe+delay_moov -f mp4 OUT",
        tracks: 2,
    },
    Case {
        name: "a fragment a frame",
        command: "FFMPEG VIDEO H264 -movflags +empty_moov+frag_every_frame+omit_tfhd_offset -f mp4 OUT",
        tracks: 1,
    },
    Case {
        name: "ten million units a second",
        command: "FFMPEG VIDEO H264 -video_track_timescale 10000000 -movflags +cmaf+frag_keyframe -f mp4 OUT",
        tracks: 1,
    },
    Case {
        name: "smooth streaming",
        command: "FFMPEG VIDEO AUDIO H264 -c:a aac -frag_duration 1000000 -f ismv OUT",
        tracks: 2,
    },
    Case { name: "packager video", command: "PACKAGER in=plain.mp4,stream=video,output=OUT SEGMENTS", tracks: 1 },
    Case {
        name: "packager audio",
        command: "PACKAGER in=plain.mp4,stream=audio,output=OUT,lang=en SEGMENTS",
        tracks: 1,
    },
    Case {
        name: "packager text",
        command: "PACKAGER in=en.vtt,stream=text,format=vtt+mp4,output=OUT,lang=en SEGMENTS",
        tracks: 1,
    },
];

/// The folder of the media and indexes of [`CASES`]: `0.mp4`, `0-index.mp4` and so on.
static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("media_tools");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder");
    run(&dir, "FFMPEG VIDEO AUDIO H264 -c:a aac -f mp4 plain.mp4", "");
    fs::write(dir.join("en.vtt"), "WEBVTT\n\n00:00.500 --> 00:02.000\none\n\n00:03.000 --> 00:05.000\ntwo\n")
        .expect("a file");
    for (number, case) in CASES.iter().enumerate() {
        let (media, index) = (format!("{number}.mp4"), format!("{number}-index.mp4"));
        run(&dir, case.command, &media);
        for arguments in [vec!["index", "-o", &index, &media], vec!["verify-index", &index]] {
            let output = Command::new(env!("CARGO_BIN_EXE_uspcache")).args(arguments).current_dir(&dir).output();
            let output = output.expect("it runs");
            assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
        }
    }
    dir
});

#[test]
fn packets_through_an_index_are_those_of_the_media() {
    let dir = MADE.as_path();
    for (number, case) in CASES.iter().enumerate() {
        let (media, index) = (format!("{number}.mp4"), format!("{number}-index.mp4"));
        let composite = format!("{number}-composite.mp4");
        let bytes =
            composed(&fs::read(dir.join(&media)).expect("it was made"), &fs::read(dir.join(&index)).expect("it too"));
        fs::write(dir.join(&composite), bytes).expect("a file");
        for track in 0..case.tracks {
            let (want, got) = (packets(dir, &media, track), packets(dir, &composite, track));
            assert!(want.len() >= 2, "{}: track {track} has packets", case.name);
            assert_eq!(relative(&got), relative(&want), "{}: track {track}", case.name);
            // ffmpeg reads fragments with negative composition offsets a frame late; an edit that is lost is two.
            let late = got[0].pts_secs - want[0].pts_secs;
            assert!(late.abs() < 1.05 / 24.0, "{}: track {track} starts {late} s late", case.name);
        }
    }
}

/// A packet, as ffmpeg tells it.
struct Packet {
    dts: i64,
    pts: i64,
    pts_secs: f64,
    size_and_hash: String,
}

/// Times from the first packet on. Durations are left out: ffmpeg makes up its own for audio in fragments, and but for the
/// last one they are the differences of decode times.
fn relative(packets: &[Packet]) -> Vec<(i64, i64, &str)> {
    let first = packets[0].dts;
    packets.iter().map(|p| (p.dts - first, p.pts - first, p.size_and_hash.as_str())).collect()
}

fn packets(dir: &Path, file: &str, track: usize) -> Vec<Packet> {
    let command = format!("FFMPEG -copyts -i OUT -map 0:{track} -c copy -f framemd5 -");
    let text = run(dir, &command, file);
    let timescale = text.lines().find_map(|line| line.strip_prefix("#tb 0: ")).expect("a time base");
    let (numerator, denominator) = timescale.split_once('/').expect("a fraction");
    let unit = numerator.parse::<f64>().expect("a number") / denominator.parse::<f64>().expect("a number");
    let packet = |line: &str| {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let number = |at: usize| fields[at].parse::<i64>().expect("a number");
        let (dts, pts) = (number(1), number(2));
        Packet { dts, pts, pts_secs: pts as f64 * unit, size_and_hash: fields[4..6].join(" ") }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(packet).collect()
}

/// Runs a command of [`CASES`] in `dir`, and tells what it writes.
fn run(dir: &Path, command: &str, out: &str) -> String {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/media/packager");
    let command = command
        .replace("FFMPEG", "ffmpeg -nostdin -v error -y")
        .replace("VIDEO", VIDEO)
        .replace("AUDIO", AUDIO)
        .replace("H264", H264)
        .replace("PACKAGER", tools)
        .replace("SEGMENTS", "--segment_duration 2 --fragment_duration 1 --quiet")
        .replace("OUT", out);
    let mut words = command.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).current_dir(dir).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}: run tests/setup media"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The media with an index in it.
fn composed(media: &[u8], index: &[u8]) -> Vec<u8> {
    let mut composite = media.to_vec();
    for (at, kind, _) in boxes(media) {
        if [b"moov", b"moof", b"sidx", b"mfra", b"styp", b"emsg", b"prft"].contains(&&kind) {
            composite[at + 4..at + 8].copy_from_slice(b"free");
        }
    }
    let (at, _, len) = boxes(index).into_iter().find(|(_, kind, _)| kind == b"moov").expect("a moov");
    let mut moov = index[at..at + len].to_vec();
    for at in 0..moov.len() - 8 {
        if &moov[at..at + 4] == b"url " {
            // The flag that the samples are in the same file; the location behind it is not looked at.
            moov[at + 7] = 1;
        }
    }
    composite.extend(moov);
    composite
}

/// Offset, kind and length of the boxes of a file, none of which is long.
fn boxes(file: &[u8]) -> Vec<(usize, [u8; 4], usize)> {
    let mut at = 0;
    let mut found = Vec::new();
    while at + 8 <= file.len() {
        let len = u32::from_be_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
        found.push((at, file[at + 4..at + 8].try_into().expect("four bytes"), len));
        at += len;
    }
    found
}
