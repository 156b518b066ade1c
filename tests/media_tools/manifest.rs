//! What a manifest says of a track's coding is what ffmpeg's own writer for Smooth Streaming says of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run;

/// The params of the one track in a manifest of `media`.
fn params(dir: &Path, media: &str) -> Vec<(String, String)> {
    let arguments = ["manifest", "-o", "a.ism", media];
    let output = Command::new(env!("CARGO_BIN_EXE_uspcache")).args(arguments).current_dir(dir).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{media}: {}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(dir.join("a.ism")).expect("it was made");
    let document = roxmltree::Document::parse(&text).expect("well-formed");
    let params = document.descendants().filter(|node| node.has_tag_name("param"));
    let text = |value: Option<&str>| value.expect("a param has both").to_owned();
    params.map(|node| (text(node.attribute("name")), text(node.attribute("value")))).collect()
}

#[test]
fn codings_are_described_as_ffmpeg_describes_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let cases = [
        ("FFMPEG VIDEO H264 -movflags +cmaf -f mp4 OUT", "MaxWidth MaxHeight"),
        ("FFMPEG VIDEO H264 -profile:v baseline -bf 0 -movflags +cmaf -f mp4 OUT", "MaxWidth MaxHeight"),
        ("FFMPEG AUDIO -ac 1 -c:a aac -movflags +cmaf -f mp4 OUT", SOUND),
        ("FFMPEG AUDIO -ac 6 -c:a aac -movflags +cmaf -f mp4 OUT", SOUND),
        ("FFMPEG AUDIO -ar 96000 -ac 2 -c:a aac -movflags +cmaf -f mp4 OUT", SOUND),
    ];
    for (number, (command, names)) in cases.into_iter().enumerate() {
        let media = format!("{number}.mp4");
        run(dir, command, &media);
        run(dir, &format!("FFMPEG -i {media} -c copy -f smoothstreaming OUT"), &format!("{number}.d"));
        let theirs = fs::read_to_string(dir.join(format!("{number}.d/Manifest"))).expect("it was made");
        let theirs = roxmltree::Document::parse(&theirs).expect("well-formed");
        let level = theirs.descendants().find(|node| node.has_tag_name("QualityLevel")).expect("a level");
        let ours = params(dir, &media);
        for name in names.split(' ').chain(["CodecPrivateData"]) {
            let want = level.attribute(name).expect(name).to_ascii_uppercase();
            assert!(ours.contains(&(name.to_owned(), want.clone())), "{command}: {name} {want} is not in {ours:?}");
        }
    }
}

const SOUND: &str = "SamplingRate Channels BitsPerSample PacketSize AudioTag FourCC";

#[test]
fn an_hevc_stream_begins_with_its_codec_private_data() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    run(dir, "FFMPEG VIDEO -c:v libx265 -x265-params log-level=error -tag:v hvc1 -movflags +cmaf -f mp4 OUT", "a.mp4");
    run(dir, "FFMPEG -i a.mp4 -c copy -f hevc OUT", "a.h265");
    let stream = fs::read(dir.join("a.h265")).expect("it was made");
    let params = params(dir, "a.mp4");
    let data = params.iter().find(|(name, _)| name == "CodecPrivateData").map(|(_, value)| value).expect("codec data");
    let begin: String = stream.iter().take(data.len() / 2).map(|byte| format!("{byte:02X}")).collect();
    assert!(data.len() > 100 && begin == *data, "{data} is not {begin}");
    assert!(params.contains(&("FourCC".to_owned(), "HVC1".to_owned())));
}
