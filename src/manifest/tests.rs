//! Manifests as packagers write them, and ones that nobody should have to read.

use super::*;

const FILM: &[u8] = include_bytes!("../../tests/media/film.ism");
const FILM_SOURCES: &str = "film-aac-128k-index.mp4|film-avc1-400k-index.mp4|film-avc1-1000k-index.mp4";

/// As IIS's tools write it: `valuetype`, `textstream`, several tracks of one file.
const IIS: &str = r#"<?xml version="1.0" encoding="utf-16"?>
<smil xmlns="http://www.w3.org/2001/SMIL20/Language">
  <head><meta name="clientManifestRelativePath" content="film.ismc"/></head>
  <body><switch>
    <video src="fílm_1.ismv" systemBitrate="350000"><param name="trackID" value="2" valuetype="data"/></video>
    <video src="fílm_2.ismv" systemBitrate="700000"><param name="trackID" value="2" valuetype="data"/></video>
    <audio src="fílm_1.ismv" systemBitrate="64000"><param name="trackID" value="1" valuetype="data"/></audio>
    <textstream src="fílm_1.ismv" systemBitrate="1000"><param name="trackID" value="3" valuetype="data"/></textstream>
  </switch></body>
</smil>
"#;

/// With content keys, a comment, attributes on lines of their own, and end tags where there is no content.
const DRM: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<!-- Created by hand -->
<smil
  xmlns="http://www.w3.org/2001/SMIL20/Language">
  <head>
    <meta
      name="clientManifestRelativePath"
      content="film.ismc">
    </meta>
    <paramGroup id="hls"><meta name="key" content="00112233445566778899aabbccddeeff" /></paramGroup>
  </head>
  <body>
    <switch>
      <audio
        src="film-128k-index.mp4"
        systemBitrate="129000">
        <param
          name="trackID"
          value="1">
        </param>
      </audio>
    </switch>
  </body>
</smil>
"#;

/// A playlist.
const SEQUENCE: &str = r#"<smil xmlns="http://www.w3.org/2001/SMIL20/Language"><body><seq>
    <video src="a.mp4" clipBegin="wallclock(2019-07-08T06:00:00Z)"/>
    <par><video src='b.mp4'/><audio src='c.mp4'/></par>
</seq></body></smil>"#;

/// What follows makes any document unreadable, if anybody looks at it.
const BROKEN: &str = "<a></b>";

fn read(manifest: impl AsRef<[u8]>) -> Result<String, Unreadable> {
    sources(manifest.as_ref()).map(|sources| sources.join("|"))
}

fn utf_16_of(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(bytes).collect()
}

fn with_body(body: &str) -> String {
    format!("<smil><body>{body}</body></smil>")
}

fn tracks(names: impl Iterator<Item = usize>) -> String {
    names.map(|name| format!("<video src='{name}.mp4'/>")).collect()
}

#[test]
fn the_sources_of_manifests_as_packagers_write_them_are_found() {
    let film = str::from_utf8(FILM).expect("the sample is UTF-8");
    let iis = "fílm_1.ismv|fílm_2.ismv";
    let rows = [
        ("film", FILM.to_vec(), FILM_SOURCES),
        ("UTF-8 with a mark", ["\u{feff}".as_bytes(), FILM].concat(), FILM_SOURCES),
        ("UTF-16, little-endian, that says UTF-8", utf_16_of(film, u16::to_le_bytes), FILM_SOURCES),
        ("UTF-16, little-endian", utf_16_of(IIS, u16::to_le_bytes), iis),
        ("UTF-16, big-endian", utf_16_of(IIS, u16::to_be_bytes), iis),
        ("UTF-8 that says UTF-16", IIS.into(), iis),
        ("content keys", DRM.into(), "film-128k-index.mp4"),
        ("a playlist", SEQUENCE.into(), "a.mp4|b.mp4|c.mp4"),
    ];
    for (row, manifest, want) in rows {
        assert_eq!(read(manifest).as_deref(), Ok(want), "{row}");
    }
}

#[test]
fn a_source_is_the_src_of_a_track_and_nothing_else() {
    let longest = "s".repeat(SOURCE_LEN_MAX);
    let rows = [
        ("no track", "", ""),
        ("a prefix on the element", "<s:audio xmlns:s='x' src='a'/>", "a"),
        ("a prefix on the attribute", "<audio s:src='a'/>", ""),
        ("another case of the element", "<Audio src='a'/>", ""),
        ("another case of the attribute", "<audio SRC='a'/>", ""),
        ("other elements", "<img src='a'/><ref src='b'/><param src='c'/>", ""),
        ("no src", "<audio systemBitrate='1'/>", ""),
        ("an empty src", "<audio src=''/>", ""),
        ("a comment", "<!-- <audio src='a'/> -->", ""),
        ("CDATA", "<![CDATA[<audio src='a'/>]]>", ""),
        ("a processing instruction", "<?a <audio src='a'?>", ""),
        ("a track in a track", "<audio src='a'><video src='b'/></audio>", "a|b"),
        ("twice the same", "<audio src='a'/><video src='b'/><video src='a'/>", "a|b"),
        ("spaces around", "<audio  src = ' a '  />", " a "),
        ("a tag's end within", "<audio src='a>b'/>", "a>b"),
        ("entities", "<audio src='&amp;&lt;&gt;&quot;&apos;&#37;20&#x66;'/>", "&<>\"'%20f"),
        ("an entity once", "<audio src='&amp;amp;'/>", "&amp;"),
        ("line breaks", "<audio src='a\r\nb\tc'/>", "a b c"),
        ("the longest", &format!("<audio src='{longest}'/>"), &longest),
        ("a longer one", &format!("<audio src='s{longest}'/><audio src='a'/>"), "a"),
    ];
    for (row, body, want) in rows {
        assert_eq!(read(with_body(body)).as_deref(), Ok(want), "{row}");
    }
}

#[test]
fn what_is_no_manifest_says_why() {
    use Unreadable::{Declarations, Encoding, Malformed, NotSmil};
    let rows: [(&str, &[u8], Unreadable); 28] = [
        ("nothing", b"", Malformed),
        ("white space", b" \n", Malformed),
        ("text", b"not found", Malformed),
        ("a page", b"<html><video src='a'/></html>", NotSmil),
        ("JSON", b"{\"src\": \"a.mp4\"}", Malformed),
        ("an MP4", b"\0\0\0\x18ftypiso6", Malformed),
        ("only a mark", b"\xff\xfe", Malformed),
        ("no UTF-8", b"<smil><video src='\xe9'/></smil>", Encoding),
        ("a surrogate in UTF-8", b"<smil>\xed\xa0\x80</smil>", Encoding),
        ("UTF-16 without a mark", b"<\0s\0m\0i\0l\0/\0>\0", Malformed),
        ("half a unit", b"\xff\xfe<\0s\0m\0i\0l\0/\0>\0 ", Encoding),
        ("half a surrogate", b"\xff\xfe<\0s\0m\0i\0l\0/\0>\0\x00\xd8", Encoding),
        ("another encoding", b"<?xml version='1.0' encoding='windows-1252'?><smil/>", Encoding),
        ("a broken declaration", b"<?xml version='1.0' encoding=?><smil/>", Malformed),
        ("NUL in a source", b"<smil><video src='a\0b'/></smil>", Malformed),
        ("NUL behind the end", b"<smil/>\0", Malformed),
        ("two roots", b"<smil/><smil/>", Malformed),
        ("text behind the root", b"<smil/>a", Malformed),
        ("CDATA behind the root", b"<smil/><![CDATA[]]>", Malformed),
        ("an entity behind the root", b"<smil/>&amp;", Malformed),
        ("tags that cross", b"<smil><a><b></a></b></smil>", Malformed),
        ("src twice", b"<smil><video src='a' src='b'/></smil>", Malformed),
        ("src without quotes", b"<smil><video src=a/></smil>", Malformed),
        ("an entity in a source", b"<smil><video src='&x;'/></smil>", Malformed),
        ("an entity in a text", b"<smil>&x;</smil>", Malformed),
        ("no character", b"<smil><video src='&#0;'/></smil>", Malformed),
        ("a lone ampersand", b"<smil><video src='a&b'/></smil>", Malformed),
        ("declarations", b"<!DOCTYPE smil [<!ELEMENT smil EMPTY>]><smil/>", Declarations),
    ];
    for (row, manifest, want) in rows {
        assert_eq!(read(manifest), Err(want), "{row}");
    }
}

#[test]
fn entities_of_a_document_are_never_resolved() {
    let rows = [
        ("laughs", "<!DOCTYPE smil [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]>", "&b;", Unreadable::Declarations),
        ("a file", "<!DOCTYPE smil [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", "&b;", Unreadable::Declarations),
        ("a parameter", "<!DOCTYPE smil [<!ENTITY % b SYSTEM 'http://h/'> %b;]>", "", Unreadable::Declarations),
        ("a predefined one, anew", "<!DOCTYPE smil [<!ENTITY amp 'b'>]>", "&amp;", Unreadable::Declarations),
        ("declared elsewhere", "<!DOCTYPE smil SYSTEM 'file:///etc/passwd'>", "&b;", Unreadable::Malformed),
    ];
    for (row, doctype, source, want) in rows {
        let manifest = format!("{doctype}{}", with_body(&format!("<video src='{source}'/>")));
        assert_eq!(read(manifest), Err(want), "{row}");
    }
    let public = "<!DOCTYPE smil PUBLIC '-//W3C//DTD SMIL 2.0//EN' 'http://www.w3.org/2001/SMIL20/SMIL20.dtd'>";
    let manifest = format!("{public}{}", with_body("<video src='a'/>"));
    assert_eq!(read(manifest).as_deref(), Ok("a"), "a document type alone");
}

#[test]
fn no_part_of_a_manifest_is_a_manifest() {
    let film = str::from_utf8(FILM).expect("the sample is UTF-8").trim_end();
    for whole in [film.into(), utf_16_of(film, u16::to_le_bytes), DRM.trim_end().into(), SEQUENCE.into()] {
        assert!(read(&whole).is_ok());
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{len} bytes of {}", String::from_utf8_lossy(&whole));
        }
    }
}

#[test]
fn a_byte_that_no_text_has_makes_a_manifest_unreadable_wherever_it_stands() {
    for at in 0..FILM.len() {
        for (byte, want) in [(0, Unreadable::Malformed), (0xff, Unreadable::Encoding)] {
            let mut film = FILM.to_vec();
            film[at] = byte;
            assert_eq!(read(film), Err(want), "{byte:#x} at {at}");
        }
    }
}

#[test]
fn of_many_tracks_the_first_are_taken_and_the_rest_is_not_read() {
    let first: Vec<_> = (0..SOURCES_MAX).map(|name| format!("{name}.mp4")).collect();
    let many = with_body(&[&tracks(0..10_000), BROKEN].concat());
    assert_eq!(sources(many.as_bytes()), Ok(first));
    let few = with_body(&[&tracks(0..SOURCES_MAX - 1), BROKEN].concat());
    assert_eq!(read(few), Err(Unreadable::Malformed));
}

#[test]
fn a_manifest_is_read_up_to_its_limits_and_no_further() {
    let nested = |depth: usize, within: &str| {
        format!("<smil>{}{within}{}</smil>", "<a>".repeat(depth - 1), "</a>".repeat(depth - 1))
    };
    let depth_max = DEPTH_MAX as usize;
    // The root's two tags and the end are three events.
    let events_max = EVENTS_MAX as usize - 3;
    let attributes: String = (0..ATTRIBUTES_MAX).map(|name| format!(" a{name}=''")).collect();
    let longest = format!("<smil>{}</smil>", " ".repeat(MANIFEST_LEN_MAX - "<smil></smil>".len()));
    let rows = [
        ("the longest", longest.clone(), Ok("")),
        ("the deepest", nested(depth_max, ""), Ok("")),
        ("the most attributes", with_body(&format!("<video{attributes}/>")), Ok("")),
        ("the most parts", format!("<smil>{}</smil>", "<a/>".repeat(events_max)), Ok("")),
        ("attributes of others", with_body(&format!("<a{}/>", attributes.repeat(1000))), Ok("")),
        ("longer", longest + BROKEN, Err(Unreadable::TooLong)),
        ("deeper", nested(depth_max, &format!("<a/>{BROKEN}")), Err(Unreadable::TooComplex)),
        ("10,000 levels", nested(10_000, BROKEN), Err(Unreadable::TooComplex)),
        ("more attributes", with_body(&format!("<video{attributes} a='' a=''/>")), Err(Unreadable::TooComplex)),
        ("more parts", format!("<smil>{}{BROKEN}</smil>", "<a/>".repeat(events_max + 2)), Err(Unreadable::TooComplex)),
        ("a million tracks", with_body(&tracks(std::iter::repeat_n(1, 1_000_000))), Err(Unreadable::TooLong)),
    ];
    for (row, manifest, want) in rows {
        assert_eq!(read(manifest), want.map(str::to_owned), "{row}");
    }
}

#[test]
fn an_error_says_nothing_of_the_manifest() {
    let secret = "00112233445566778899aabbccddeeff";
    for manifest in [format!("<smil><meta content='{secret}'"), format!("<{secret}/>"), format!("<smil>&{secret};")] {
        let error = sources(manifest.as_bytes()).expect_err("broken");
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
}
