//! Sample entries as encoders and packagers write them, and ones that lie.

use proptest::prelude::*;

use super::super::moov::Moov;
use super::super::read::read_moov;
use super::*;

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32 + 8).to_be_bytes(), kind.as_slice(), &body].concat()
}

/// What [`Codec::read`] makes of the one track of an init, whose `stsd` has this version and entry.
fn read(handler: &[u8; 4], version: u8, entry: &[u8]) -> Result<Option<Codec>, Error> {
    let words = |len: usize, set: &[(usize, u32)]| {
        let mut words = vec![0u32; len];
        set.iter().for_each(|(at, value)| words[*at] = *value);
        words.into_iter().flat_map(u32::to_be_bytes).collect::<Vec<_>>()
    };
    let stsd = boxed(b"stsd", &[&[version, 0, 0, 0, 0, 0, 0, 1], entry]);
    let minf = boxed(b"minf", &[&boxed(b"stbl", &[&stsd])]);
    let hdlr = boxed(b"hdlr", &[&[0; 8], handler, &[0; 13]]);
    let mdhd = boxed(b"mdhd", &[&words(6, &[(3, 96_000)])]);
    let mdia = boxed(b"mdia", &[&mdhd, &hdlr, &minf]);
    let trak = boxed(b"trak", &[&boxed(b"tkhd", &[&words(21, &[(3, 1)])]), &mdia]);
    let moov = boxed(b"moov", &[&boxed(b"mvhd", &[&words(25, &[(3, 1000)])]), &trak]);
    let moov = Moov::read(Mp4Box::read(&moov, 0)?)?;
    Codec::read(&moov.tracks[0])
}

fn video_entry(kind: &[u8; 4], boxes: &[u8]) -> Vec<u8> {
    boxed(kind, &[&[0; 24], &[1, 0x40, 0, 0xb4], &[0; 50], boxes])
}

/// Of 6 channels, 16 bits and the rate, behind a version of the entry.
fn audio_entry(kind: &[u8; 4], version: u8, rate: u16, boxes: &[u8]) -> Vec<u8> {
    let rate = rate.to_be_bytes();
    boxed(kind, &[&[0; 9], &[version, 0, 0, 0, 0, 0, 0, 0, 6, 0, 16, 0, 0, 0, 0], &rate, &[0, 0], boxes])
}

/// An `esds` with flags and what they stand for, an object type, an average bit rate, and what follows.
fn esds(flags: &[u8], object_type: u8, average: u32, rest: &[u8]) -> Vec<u8> {
    let config = [&[object_type, 0x15, 0, 0, 0, 0, 0, 0, 9], average.to_be_bytes().as_slice()].concat();
    boxed(b"esds", &[&[0; 4], &[3, 0x80, 0x80, 0x25, 0, 1], flags, &[4, 0x17], &config, rest])
}

fn btrt(average: u32) -> Vec<u8> {
    boxed(b"btrt", &[&[0, 0, 0, 1, 0, 0, 0, 2], &average.to_be_bytes()])
}

const SPS_PPS: &[u8] = b"\x01\x42\0\x1e\xff\xe1\0\x03\x67\x42\0\x01\0\x02\x68\xce";

/// FourCC, private data in hex, average, and the rest as it is shown.
fn shown(codec: &Codec) -> (String, String, Option<u32>, String) {
    let hex = codec.private_data.iter().map(|byte| format!("{byte:02x}")).collect();
    let form = match codec.form {
        Form::Audio { sampling_rate, channels, bits_per_sample, audio_tag } => {
            format!("{sampling_rate} Hz, {channels} channels, {bits_per_sample} bits, tag {audio_tag}")
        }
        Form::Video { width, height } => format!("{width}x{height}"),
        Form::Text => "text".to_owned(),
    };
    (codec.four_cc.clone(), hex, codec.average_bitrate, form)
}

#[test]
fn the_samples_are_coded_as_ffmpeg_says_of_them() {
    // `ffmpeg -i FILE -c copy -f smoothstreaming DIR` writes these private data, sizes, rates and channels.
    let main = "00000001674d400ceca0809d80880000030008000003018078a14cb00000000168efbc80";
    let high = "000000016764000dacd94181df97011000000300100000030300f14299600000000168efbcb0";
    let low = "000000016764000cacd941013b011000000300100000030320f14299600000000168efbcb0";
    let rows = [
        ("film-avc1-400k.cmfv", 1, "AVC1", main, Some(150_000), "256x144"),
        ("film-avc1-1000k.cmfv", 1, "AVC1", high, Some(300_000), "384x216"),
        ("film-aac-128k.cmfa", 1, "AACL", "118856e500", Some(64_000), "48000 Hz, 1 channels, 16 bits, tag 255"),
        ("packager-audio.cmfa", 1, "AACL", "120856e500", Some(64_386), "44100 Hz, 1 channels, 16 bits, tag 255"),
        ("packager-video.cmfv", 1, "AVC1", low, None, "256x144"),
        ("packager-text.cmft", 1, "WVTT", "", None, "text"),
        ("muxed-no-default-base.mp4", 2, "AACL", "120856e500", Some(64_386), "44100 Hz, 1 channels, 16 bits, tag 255"),
    ];
    for (name, track, four_cc, private_data, average, form) in rows {
        let file = std::fs::read(format!("{}/tests/media/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name);
        let (bytes, offset) = read_moov(file.as_slice()).expect(name);
        let moov = Moov::read(Mp4Box::read(&bytes, offset).expect(name)).expect(name);
        let codec = Codec::read(moov.track(track).expect(name)).expect(name).expect(name);
        let want = (four_cc.to_owned(), private_data.to_owned(), average, form.to_owned());
        assert_eq!(shown(&codec), want, "{name}");
    }
}

/// Handler and sample entry; FourCC, private data in hex, average, and the rest as it is shown.
type Row<'a> = (&'a str, &'a [u8; 4], Vec<u8>, &'a str, &'a str, Option<u32>, String);

#[test]
fn sample_entries_are_read_as_they_are_coded() {
    let avc = boxed(b"avcC", &[SPS_PPS]);
    let sets = "000000016742000000000168ce";
    // PPS, an SEI, two VPS and SPS, in an order of their own.
    let arrays = b"\x04\xa2\0\x01\0\x01\x44\x27\0\x01\0\x01\x4e\x20\0\x02\0\x01\x40\0\x02\x40\x01\x21\0\x01\0\x01\x42";
    let hevc = boxed(b"hvcC", &[&[1; 22], arrays]);
    let hevc_sets = "00000001400000000140010000000142000000 0144".replace(' ', "");
    let (lc, he, ps) = (&[5, 2, 0x11, 0x90][..], &[5, 4, 0x2b, 0x11, 0x88, 0][..], &[5, 4, 0xeb, 0x09, 0x88, 0][..]);
    let sound = |rate: u32, channels: u16, tag: u16| format!("{rate} Hz, {channels} channels, 16 bits, tag {tag}");
    let rows: [Row<'_>; 18] = [
        ("avc1", b"vide", video_entry(b"avc1", &avc), "AVC1", sets, None, "320x180".into()),
        ("avc3", b"vide", video_entry(b"avc3", &avc), "AVC1", sets, None, "320x180".into()),
        ("hvc1", b"vide", video_entry(b"hvc1", &hevc), "HVC1", &hevc_sets, None, "320x180".into()),
        (
            "hev1",
            b"vide",
            video_entry(b"hev1", &[btrt(7), hevc].concat()),
            "HEV1",
            &hevc_sets,
            Some(7),
            "320x180".into(),
        ),
        ("av01", b"vide", video_entry(b"av01", &boxed(b"av1C", &[&[0x81]])), "AV01", "", None, "320x180".into()),
        (
            "AAC",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &esds(&[0], 0x40, 5, lc)),
            "AACL",
            "1190",
            Some(5),
            sound(48000, 2, 255),
        ),
        (
            "SBR",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &esds(&[0], 0x40, 0, he)),
            "AACH",
            "2b118800",
            None,
            sound(48000, 2, 255),
        ),
        (
            "PS",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &esds(&[0], 0x40, 0, ps)),
            "AACH",
            "eb098800",
            None,
            sound(48000, 6, 255),
        ),
        (
            "MPEG-2 AAC",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &esds(&[0], 0x67, 0, lc)),
            "AACL",
            "1190",
            None,
            sound(48000, 2, 255),
        ),
        (
            "MP3",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &esds(&[0], 0x6b, 0, &[6, 1, 2])),
            "MP4A",
            "",
            None,
            sound(48000, 6, 65534),
        ),
        (
            "all flags of a stream",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &esds(&[0xe0, 0, 1, 2, b'u', b'r', 0, 2], 0x40, 0, lc)),
            "AACL",
            "1190",
            None,
            sound(48000, 2, 255),
        ),
        (
            "btrt before esds",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &[esds(&[0], 0x40, 5, lc), btrt(7)].concat()),
            "AACL",
            "1190",
            Some(7),
            sound(48000, 2, 255),
        ),
        (
            "a btrt of 0",
            b"soun",
            audio_entry(b"mp4a", 0, 48000, &[esds(&[0], 0x40, 5, lc), btrt(0)].concat()),
            "AACL",
            "1190",
            Some(5),
            sound(48000, 2, 255),
        ),
        (
            "a rate of more than 16 bits",
            b"soun",
            audio_entry(b"ec-3", 0, 0, &boxed(b"dec3", &[&[0; 5]])),
            "EC-3",
            "",
            None,
            sound(96000, 6, 65534),
        ),
        (
            "QuickTime's version",
            b"soun",
            audio_entry(b"mp4a", 1, 48000, &[vec![0; 16], esds(&[0], 0x40, 0, lc)].concat()),
            "AACL",
            "1190",
            None,
            sound(48000, 2, 255),
        ),
        ("wvtt", b"text", boxed(b"wvtt", &[&[0; 8], &btrt(7)]), "WVTT", "", Some(7), "text".into()),
        ("stpp", b"subt", boxed(b"stpp", &[&[0; 8], b"ns u\0\0m\0", &btrt(7)]), "TTML", "", Some(7), "text".into()),
        ("tx3g", b"text", boxed(b"tx3g", &[&[0xff; 46]]), "TX3G", "", None, "text".into()),
    ];
    for (row, handler, entry, four_cc, private_data, average, form) in rows {
        let codec = read(handler, 0, &entry).expect(row).expect(row);
        assert_eq!(shown(&codec), (four_cc.to_owned(), private_data.to_owned(), average, form), "{row}");
    }
    let version_1 = audio_entry(b"mp4a", 1, 48000, &esds(&[0], 0x40, 0, lc));
    let codec = read(b"soun", 1, &version_1).expect("14496-12's version 1").expect("sound");
    assert_eq!(codec.four_cc, "AACL", "14496-12's version 1");
}

#[test]
fn other_tracks_are_none_and_broken_ones_say_where() {
    for handler in [b"meta", b"tmcd", b"hint", b"sbtl"] {
        assert!(read(handler, 0, &boxed(b"mett", &[&[0; 8]])).expect("it is not looked at").is_none());
    }
    let rows: [(&str, &[u8; 4], Vec<u8>, &str); 9] = [
        ("no entry", b"vide", Vec::new(), "box stsd at offset 305 has no sample entry"),
        (
            "encrypted",
            b"vide",
            video_entry(b"encv", &[]),
            "box encv at offset 321 is an encrypted track's; take it before it is encrypted",
        ),
        ("half an entry", b"vide", boxed(b"avc1", &[&[0; 77]]), "box avc1 at offset 321 ends before its fields do"),
        ("half a box", b"vide", video_entry(b"avc1", &[0; 4]), "box ???? at offset 407 has no whole header"),
        (
            "too many SPS",
            b"vide",
            video_entry(b"avc1", &boxed(b"avcC", &[&[1; 5], &[0xff, 0, 1, 9]])),
            "box avcC at offset 407 ends before its fields do",
        ),
        (
            "65535 VPS",
            b"vide",
            video_entry(b"hvc1", &boxed(b"hvcC", &[&[1; 22], &[1, 32, 255, 255, 0, 0]])),
            "box hvcC at offset 407 ends before its fields do",
        ),
        (
            "no descriptor",
            b"soun",
            audio_entry(b"mp4a", 0, 1, &boxed(b"esds", &[&[0; 9]])),
            "box esds at offset 357 has not the descriptors of a stream",
        ),
        (
            "an endless length",
            b"soun",
            audio_entry(b"mp4a", 0, 1, &boxed(b"esds", &[&[0; 4], &[3, 255, 255, 255, 255, 0]])),
            "box esds at offset 357 has a descriptor whose length has no end",
        ),
        (
            "a long config",
            b"soun",
            audio_entry(b"mp4a", 0, 1, &esds(&[0], 0x40, 0, &[5, 0xff, 0xff, 0xff, 0x7f, 1])),
            "box esds at offset 357 ends before its fields do",
        ),
    ];
    for (row, handler, entry, want) in rows {
        let error = read(handler, 0, &entry).expect_err(row).to_string();
        assert_eq!(error, want, "{row}");
    }
}

proptest! {
    #[test]
    fn any_configuration_is_read_or_refused_and_grows_no_further(
        (handler, coding, config) in prop::sample::select(vec![
            (b"vide", b"avc1", b"avcC"), (b"vide", b"hvc1", b"hvcC"), (b"soun", b"mp4a", b"esds"), (b"subt", b"stpp", b"btrt"),
        ]),
        start in 0usize..40,
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(3), Just(4), Just(32), any::<u8>()], 0..80),
    ) {
        let boxes = boxed(config, &[&vec![1; start], &body]);
        let entry = match handler {
            b"vide" => video_entry(coding, &boxes),
            b"soun" => audio_entry(coding, 0, 48000, &boxes),
            _ => boxed(coding, &[&body, &boxes]),
        };
        if let Ok(Some(codec)) = read(handler, 0, &entry) {
            prop_assert!(codec.private_data.len() <= 3 * boxes.len());
        }
    }
}
