//! What is written is read back, by us and by others; what others write is read as well.

use proptest::prelude::*;

use super::*;
use crate::manifest::{MANIFEST_LEN_MAX, SOURCE_LEN_MAX, Unreadable, sources};

const FILM: &[u8] = include_bytes!("../../../tests/media/film.ism");

/// As IIS's tools write it: `valuetype`, several tracks of one file, options and keys, a bit rate beside the attribute.
const IIS: &str = r#"<?xml version="1.0" encoding="utf-16"?>
<!-- Created by hand -->
<smil xmlns="http://www.w3.org/2001/SMIL20/Language">
  <head>
    <meta name="iss_playout" content="playready"/>
    <meta name="clientManifestRelativePath" content="fílm.ismc"/>
    <paramGroup id="hls"><meta name="key" content="00112233445566778899aabbccddeeff"/></paramGroup>
  </head>
  <body><switch>
    <video src="fílm.ismv" systemBitrate="350000" systemLanguage="eng" odd="x">
      <param name="trackID" value="2" valuetype="data"/>
      <param valuetype="data" value="a &amp; b" name="unknown"></param>
      <param name="without a value"/>
      <param name="outside"><param name="deeper" value="x"/></param>
    </video>
    <param name="of none" value="x"/>
    <audio src="fílm.ismv" systemBitrate="many"><param name="trackID" value="1" valueType="data"/></audio>
    <audio src=""><param name="trackID" value="9"/></audio>
    <textstream src="fílm.ismv" systemBitrate=" 1000 "/>
  </switch></body>
</smil>
"#;

fn track(kind: Kind, src: &str, bitrate: Option<u64>, language: Option<&str>, params: &[(&str, &str)]) -> Track {
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Track { kind, src: src.to_owned(), bitrate, language: language.map(str::to_owned), params }
}

fn utf_16_of(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(bytes).collect()
}

#[test]
fn manifests_of_others_are_read_in_every_encoding() {
    let iis = Manifest {
        client_manifest: Some("fílm.ismc".to_owned()),
        tracks: vec![
            track(Kind::Video, "fílm.ismv", Some(350_000), Some("eng"), &[("trackID", "2"), ("unknown", "a & b")]),
            track(Kind::Audio, "fílm.ismv", None, None, &[("trackID", "1")]),
            track(Kind::Text, "fílm.ismv", Some(1000), None, &[]),
        ],
    };
    let video =
        |src, bitrate| track(Kind::Video, src, Some(bitrate), None, &[("trackID", "1"), ("trackName", "video")]);
    let film = Manifest {
        client_manifest: Some("film.ismc".to_owned()),
        tracks: vec![
            track(
                Kind::Audio,
                "film-aac-128k-index.mp4",
                Some(66_000),
                Some("eng"),
                &[("trackID", "1"), ("trackName", "audio_eng")],
            ),
            video("film-avc1-400k-index.mp4", 152_000),
            video("film-avc1-1000k-index.mp4", 303_000),
        ],
    };
    let text = str::from_utf8(FILM).expect("the sample is UTF-8");
    for (row, text, want) in [("film", text, film), ("IIS", IIS, iis)] {
        assert_eq!(read(text.as_bytes()).as_ref(), Ok(&want), "{row} in UTF-8");
        assert_eq!(read(["\u{feff}", text].concat().as_bytes()).as_ref(), Ok(&want), "{row} in UTF-8 with a mark");
        assert_eq!(read(&utf_16_of(text, u16::to_le_bytes)).as_ref(), Ok(&want), "{row} in UTF-16, little-endian");
        assert_eq!(read(&utf_16_of(text, u16::to_be_bytes)).as_ref(), Ok(&want), "{row} in UTF-16, big-endian");
    }
}

#[test]
fn params_belong_to_the_track_around_them() {
    let nested = "<smil><body><audio src='a'><param name='1' value='1'/><video src='b'><param name='2' value='2'/></video>\
                  <param name='3' value='3'/></audio></body></smil>";
    let manifest = read(nested.as_bytes()).expect("it is read");
    let params: Vec<_> = manifest.tracks.iter().map(|track| (track.src.as_str(), track.params.len())).collect();
    assert_eq!(params, [("a", 2), ("b", 1)]);
}

#[test]
fn the_same_is_refused_as_where_only_sources_are_read() {
    for broken in ["", "<html/>", "<smil>", "<smil><audio src='a' src='b'/></smil>", "<smil/><smil/>"] {
        assert_eq!(read(broken.as_bytes()).err(), sources(broken.as_bytes()).err(), "{broken}");
        assert!(read(broken.as_bytes()).is_err(), "{broken}");
    }
    let attributes: String = (0..33).map(|name| format!(" a{name}=''")).collect();
    let manifest = format!("<smil><audio src='a'><param{attributes}/></audio></smil>");
    assert_eq!(read(manifest.as_bytes()), Err(Unreadable::TooComplex));
}

#[test]
fn a_manifest_is_written_in_the_form_of_packagers() {
    let params = [("trackID", "1"), ("trackName", "audio_eng"), ("odd", "<&\"'>\t\n\r\u{e9}")];
    let manifest = Manifest {
        client_manifest: Some("a.ismc".to_owned()),
        tracks: vec![
            track(Kind::Audio, "a&b.mp4", Some(66_000), Some("eng"), &params),
            track(Kind::Text, "t.mp4", None, None, &[]),
        ],
    };
    let want = r#"<?xml version="1.0" encoding="utf-8"?>
<smil xmlns="http://www.w3.org/2001/SMIL20/Language">
  <head>
    <meta name="clientManifestRelativePath" content="a.ismc" />
    <meta name="creator" content="uspcache 00000000" />
  </head>
  <body>
    <switch>
      <audio src="a&amp;b.mp4" systemBitrate="66000" systemLanguage="eng">
        <param name="trackID" value="1" valueType="data" />
        <param name="trackName" value="audio_eng" valueType="data" />
        <param name="odd" value="&lt;&amp;&quot;&apos;&gt;&#9;&#10;&#13;é" valueType="data" />
      </audio>
      <textstream src="t.mp4">
      </textstream>
    </switch>
  </body>
</smil>
"#;
    let want = want.replace("uspcache 00000000", &format!("uspcache {:08x}", crc32c::crc32c(want.as_bytes())));
    let written = manifest.write().expect("it can be read");
    assert_eq!(str::from_utf8(&written), Ok(want.as_str()));
    assert!(is_as_written(&written));
    for at in 0..written.len() {
        let mut changed = written.clone();
        changed[at] ^= 1;
        assert!(!is_as_written(&changed), "byte {at}");
    }
    assert!(!is_as_written(b"<smil/>") && !is_as_written(&written[..written.len() - 1]));
}

#[test]
fn what_no_reader_gives_back_is_not_written() {
    let long = "s".repeat(SOURCE_LEN_MAX + 1);
    let rows = [
        ("no source", track(Kind::Audio, "", None, None, &[])),
        ("a long source", track(Kind::Audio, &long, None, None, &[])),
        ("NUL", track(Kind::Audio, "a\0b", None, None, &[])),
        ("a control in a language", track(Kind::Audio, "a", None, Some("\u{1b}"), &[])),
        ("a control in a name", track(Kind::Audio, "a", None, None, &[("\u{8}", "")])),
        ("no character", track(Kind::Audio, "a", None, None, &[("a", "\u{ffff}")])),
        ("too much", track(Kind::Audio, "a", None, None, &[("a", &"0".repeat(MANIFEST_LEN_MAX))])),
        ("too many", track(Kind::Audio, "a", None, None, &vec![("a", ""); 40_000])),
    ];
    for (row, track) in rows {
        assert_eq!(Manifest { client_manifest: None, tracks: vec![track] }.write(), Err(Unwritable), "{row}");
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,20}", "\\PC{1,20}", "[\\t\\n\\r &<>'\"\\u{80}-\\u{9f}]{1,8}"]
}

fn any_track() -> impl Strategy<Value = Track> {
    let kind = prop::sample::select(vec![Kind::Audio, Kind::Video, Kind::Text]);
    let params = prop::collection::vec((text(), text()), 0..5);
    (kind, text(), any::<Option<u64>>(), prop::option::of(text()), params)
        .prop_map(|(kind, src, bitrate, language, params)| Track { kind, src, bitrate, language, params })
}

proptest! {
    #[test]
    fn every_text_is_read_back_as_it_was(
        client_manifest in prop::option::of(text()),
        tracks in prop::collection::vec(any_track(), 0..6),
    ) {
        let manifest = Manifest { client_manifest, tracks };
        let written = manifest.write().expect("it has no character that XML has not");
        prop_assert_eq!(read(&written), Ok(manifest.clone()));
        let text = str::from_utf8(&written).expect("UTF-8");
        let others = roxmltree::Document::parse(text).expect("well-formed");
        let elements = |name: &'static str| others.descendants().filter(move |node| node.has_tag_name(name));
        let theirs: Vec<_> = elements("param").map(|node| (node.attribute("name"), node.attribute("value"))).collect();
        let params = manifest.tracks.iter().flat_map(|track| &track.params);
        let ours: Vec<_> = params.map(|(name, value)| (Some(name.as_str()), Some(value.as_str()))).collect();
        prop_assert_eq!(theirs, ours);
        let theirs: Vec<_> = others.descendants().filter_map(|node| node.attribute("src")).collect();
        prop_assert_eq!(theirs, manifest.tracks.iter().map(|track| track.src.as_str()).collect::<Vec<_>>());
    }
}
