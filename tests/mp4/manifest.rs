//! `uspcache manifest` and `uspcache mp4split` as they are called. What they write is read by another XML reader.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::cli::{place, text, uspcache};
use crate::golden::sample;

const FILMS: [&str; 3] = ["film-avc1-400k", "film-avc1-1000k", "film-aac-128k"];

/// A directory with the film's media and its indexes.
fn film() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for name in FILMS {
        let media = format!("{name}.{}", if name.contains("aac") { "cmfa" } else { "cmfv" });
        for name in [media, format!("{name}-index.mp4")] {
            fs::write(dir.path().join(&name), sample(&name)).expect("a file");
        }
    }
    dir
}

/// A track of a manifest, as another reader finds it: its element, its attributes, and its params.
#[derive(Debug, PartialEq)]
struct Track {
    element: String,
    attributes: Vec<(String, String)>,
    params: Vec<(String, String)>,
}

impl Track {
    fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map_or("-", |(_, value)| value)
    }

    fn params(&self, names: &[&str]) -> Vec<(String, String)> {
        self.params.iter().filter(|(name, _)| names.contains(&name.as_str())).cloned().collect()
    }
}

fn tracks(manifest: &[u8]) -> Vec<Track> {
    const SMIL: &str = "http://www.w3.org/2001/SMIL20/Language";
    let document = roxmltree::Document::parse(str::from_utf8(manifest).expect("UTF-8")).expect("well-formed");
    let switch = document.descendants().find(|node| node.has_tag_name((SMIL, "switch"))).expect("a switch");
    let param = |node: roxmltree::Node<'_, '_>| {
        assert!(node.has_tag_name((SMIL, "param")) && node.attribute("valueType") == Some("data"));
        (node.attribute("name").expect("a name").to_owned(), node.attribute("value").expect("a value").to_owned())
    };
    let track = |node: roxmltree::Node<'_, '_>| Track {
        element: node.tag_name().name().to_owned(),
        attributes: node.attributes().map(|a| (a.name().to_owned(), a.value().to_owned())).collect(),
        params: node.children().filter(roxmltree::Node::is_element).map(param).collect(),
    };
    switch.children().filter(roxmltree::Node::is_element).map(track).collect()
}

fn made(dir: &Path, arguments: &[&str]) -> Vec<Track> {
    let output = uspcache(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let at = arguments.iter().position(|argument| *argument == "-o").expect("an output");
    tracks(&fs::read(dir.join(arguments[at + 1])).expect("it was made"))
}

#[test]
fn the_manifest_of_the_films_indexes_is_the_one_that_was_written_by_hand() {
    let dir = film();
    let indexes = FILMS.map(|name| format!("{name}-index.mp4"));
    let arguments = [&["manifest", "-o", "film.ism"], indexes.each_ref().map(String::as_str).as_slice()].concat();
    let ours = made(dir.path(), &arguments);
    let by_hand = tracks(&sample("film.ism"));
    assert_eq!(ours.len(), by_hand.len());
    for (ours, by_hand) in ours.iter().zip(&by_hand) {
        assert_eq!(ours.element, by_hand.element);
        for name in ["src", "systemLanguage"] {
            assert_eq!(ours.attribute(name), by_hand.attribute(name), "{by_hand:?}");
        }
        assert_eq!(ours.params(&["trackID", "trackName"]), by_hand.params, "{by_hand:?}");
    }
    // The averages in the indexes' btrt, which are 64000, 148472 and 297120. By hand they are not what any box states.
    let rates: Vec<_> = ours.iter().map(|track| track.attribute("systemBitrate")).collect();
    assert_eq!(rates, ["64000", "149000", "298000"]);
    let text = fs::read_to_string(dir.path().join("film.ism")).expect("it was made");
    let head = "  <head>\n    <meta name=\"clientManifestRelativePath\" content=\"film.ismc\" />\n    <meta name=\"creator\" content=\"uspcache ";
    assert!(text.contains(head), "{text}");
}

/// The example of docs/server-manifest.md, byte for byte.
#[test]
fn the_manifest_in_the_documentation_is_what_is_written() {
    let dir = film();
    let inputs = ["film-aac-128k-index.mp4", "film-avc1-400k-index.mp4"];
    made(dir.path(), &[&["manifest", "-o", "film.ism"], inputs.as_slice()].concat());
    let docs = include_str!("../../docs/server-manifest.md");
    let example = docs.lines().skip_while(|line| !line.contains("<?xml")).map_while(|line| line.strip_prefix("    "));
    let want: String = example.map(|line| format!("{line}\n")).collect();
    assert_eq!(fs::read_to_string(dir.path().join("film.ism")).expect("it was made"), want);
}

#[test]
fn media_and_its_index_make_the_same_manifest_but_for_the_name() {
    let names = ["film-avc1-400k.cmfv", "packager-video.cmfv", "packager-text.cmft", "muxed-no-default-base.mp4"];
    let dir = place(&names);
    for name in names {
        let media = format!("media dir/{name}");
        assert!(uspcache(dir.path(), &["index", "-o", "index.mp4", &media]).status.success(), "{name}");
        let of_media = made(dir.path(), &["manifest", "-o", "media.ism", &media]);
        let mut of_index = made(dir.path(), &["manifest", "-o", "index.ism", "index.mp4"]);
        let reference = format!("media%20dir/{name}");
        for track in &mut of_index {
            assert_eq!(track.attributes[0], ("src".to_owned(), "index.mp4".to_owned()), "{name}");
            track.attributes[0].1.clone_from(&reference);
        }
        assert_eq!(of_index, of_media, "{name}");
    }
}

#[test]
fn the_packagers_command_lines_run_as_they_stand() {
    let dir = film();
    for name in FILMS {
        fs::remove_file(dir.path().join(format!("{name}-index.mp4"))).expect("it was there");
    }
    let lines = "mp4split -o film-avc1-400k-index.mp4  --use_dref_no_subs film-avc1-400k.cmfv
        mp4split -o film-avc1-1000k-index.mp4 --use_dref_no_subs film-avc1-1000k.cmfv
        mp4split -o film-aac-128k-index.mp4   --use_dref_no_subs film-aac-128k.cmfa
        mp4split -o film.ism film-avc1-400k-index.mp4 film-avc1-1000k-index.mp4 film-aac-128k-index.mp4";
    for line in lines.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let output = uspcache(dir.path(), &words);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{line}");
    }
    let film = tracks(&fs::read(dir.path().join("film.ism")).expect("it was made"));
    let sources: Vec<_> = film.iter().map(|track| track.attribute("src")).collect();
    assert_eq!(sources, ["film-aac-128k-index.mp4", "film-avc1-400k-index.mp4", "film-avc1-1000k-index.mp4"]);
    for index in sources {
        let verified = uspcache(dir.path(), &["verify-index", index]);
        assert_eq!(text(&verified.stdout), format!("{index}: fits\n"));
    }
    // The same as by the subcommands of their own.
    fs::copy(dir.path().join("film.ism"), dir.path().join("theirs")).expect("a copy");
    assert_eq!(made(dir.path(), &[&["manifest", "-o", "film.ism"], sources_of(&film).as_slice()].concat()), film);
    assert_eq!(fs::read(dir.path().join("film.ism")).ok(), fs::read(dir.path().join("theirs")).ok());
    fs::copy(dir.path().join("film-aac-128k-index.mp4"), dir.path().join("theirs")).expect("a copy");
    assert!(uspcache(dir.path(), &["index", "-o", "film-aac-128k-index.mp4", "film-aac-128k.cmfa"]).status.success());
    assert_eq!(fs::read(dir.path().join("film-aac-128k-index.mp4")).ok(), fs::read(dir.path().join("theirs")).ok());
}

fn sources_of(tracks: &[Track]) -> Vec<&str> {
    tracks.iter().map(|track| track.attribute("src")).collect()
}

#[test]
fn options_stand_where_they_like() {
    let dir = film();
    let rows: [&[&str]; 6] = [
        &["--use_dref_no_subs", "-o", "a.mp4", "film-aac-128k.cmfa"],
        &["film-aac-128k.cmfa", "--use_dref_no_subs", "-o", "a.mp4"],
        &["film-aac-128k.cmfa", "-oa.mp4", "--use_dref_no_subs"],
        &["-o=a.mp4", "--use_dref_no_subs", "film-aac-128k.cmfa"],
        &["-o", "a.mp4", "--use_dref_no_subs", "--", "film-aac-128k.cmfa"],
        &["film-aac-128k.cmfa", "-o", "A.ISM"],
    ];
    for row in rows {
        let output = uspcache(dir.path(), &[&["mp4split"], row].concat());
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{row:?}");
        let made = if row.contains(&"A.ISM") { "A.ISM" } else { "a.mp4" };
        fs::remove_file(dir.path().join(made)).expect("it was made");
    }
}

#[test]
fn an_option_that_is_not_known_is_refused_by_its_name() {
    let dir = film();
    let before = fs::read_dir(dir.path()).expect("a directory").count();
    let rows: [(&[&str], &str); 12] = [
        (&["--hls.client_manifest_version=4"], "--hls.client_manifest_version"),
        (&["--license-key", "secret"], "--license-key"),
        (&["--license-key=secret"], "--license-key"),
        (&["--s3_region", "x"], "--s3_region"),
        (&["--iss.key", "secret:secret"], "--iss.key"),
        (&["--track_type=audio"], "--track_type"),
        (&["--dry_run"], "--dry_run"),
        (&["--hls.no_audio_only"], "--hls.no_audio_only"),
        (&["--use_dref"], "--use_dref"),
        (&["--use_drefs"], "--use_drefs"),
        (&["--use_dref_no_subs=1"], "--use_dref_no_subs"),
        (&["-x"], "-x"),
    ];
    for output in ["a.ism", "a.mp4"] {
        for (option, name) in rows {
            for around in [[&["film-aac-128k.cmfa"], option].concat(), [option, &["film-aac-128k.cmfa"]].concat()] {
                let refused = uspcache(dir.path(), &[&["mp4split", "-o", output], around.as_slice()].concat());
                let said = text(&refused.stderr);
                let first = said.lines().next().unwrap_or_default();
                assert_eq!(refused.status.code(), Some(2), "{around:?}: {said}");
                assert!(first.starts_with("uspcache: ") && first.contains(name), "{around:?}: {said}");
                assert!(!said.contains("secret") && !said.contains("-- "), "{around:?}: {said}");
            }
        }
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), before, "nothing is made");
}

#[test]
fn what_is_no_work_of_ours_is_refused_with_what_is() {
    let dir = film();
    let rows: [(&[&str], i32, &str); 11] = [
        (
            &["mp4split", "--use_dref_no_subs", "-o", "a.ism", "film-aac-128k.cmfa"],
            2,
            "uspcache: a.ism: --use_dref_no_subs makes an index, and a manifest is none; leave it out",
        ),
        (
            &["mp4split", "-o", "a.ismv", "film-aac-128k.cmfa"],
            2,
            "uspcache: a.ismv: packaging is not what this does; it makes .ism, and indexes with --use_dref_no_subs\n",
        ),
        (
            &["mp4split", "-o", "a.mp4", "--use_dref", "film-aac-128k.cmfa"],
            2,
            "uspcache: a.mp4: --use_dref lists sub-samples, which no index of ours does; use --use_dref_no_subs\n",
        ),
        (
            &["mp4split", "-o", "stdout:.mp4", "--use_dref_no_subs", "film-aac-128k.cmfa"],
            2,
            "uspcache: stdout:.mp4: is put in the place of a file, never into a pipe; give -o a file's name\n",
        ),
        (
            &["mp4split", "-o", "film-aac-128k.cmfa", "--use_dref_no_subs", "film-aac-128k.cmfa"],
            2,
            "uspcache: film-aac-128k.cmfa is the output and an input\n",
        ),
        (&["mp4split", "-o", "a.ism"], 2, "uspcache: the following required arguments were not provided:\n"),
        (
            &["manifest", "-o", "film.mp4", "film-aac-128k.cmfa"],
            2,
            "uspcache: film.mp4 does not end in .ism, by which origin and httpd know a manifest\n",
        ),
        (&["manifest", "-o", "own.ism", "own.ism"], 2, "uspcache: own.ism is the output and an input\n"),
        (&["manifest", "-o", "dir.ism", "film-aac-128k.cmfa"], 2, "uspcache: dir.ism is there and no file\n"),
        (&["manifest", "-o", "a.ism", "none.mp4"], 3, "uspcache: none.mp4: No such file or directory (os error 2)\n"),
        (&["manifest", "-o", "a.ism", "own.ism"], 3, "uspcache: own.ism: box <smi at offset "),
    ];
    fs::create_dir(dir.path().join("dir.ism")).expect("a directory");
    fs::write(dir.path().join("own.ism"), "\0\0\0\x20<smil/>").expect("a file");
    let before = fs::read_dir(dir.path()).expect("a directory").count();
    for (arguments, code, want) in rows {
        let output = uspcache(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output.stderr).starts_with(want), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), before, "no half-written file");
}

#[test]
fn a_broken_input_leaves_the_manifest_as_it_was_and_names_box_and_offset() {
    let dir = film();
    fs::write(dir.path().join("film.ism"), "old").expect("a file");
    let mut index = sample("film-avc1-400k-index.mp4");
    let at = |file: &[u8], kind: &[u8]| file.windows(4).position(|found| found == kind).expect("it is there");
    let avcc = at(&index, b"avcC");
    // The number of the SPS.
    index[avcc + 9] = 0xff;
    fs::write(dir.path().join("a.mp4"), index).expect("a file");
    let refused = uspcache(dir.path(), &["manifest", "-o", "film.ism", "film-aac-128k.cmfa", "a.mp4"]);
    let want = format!("uspcache: a.mp4: box avcC at offset {} ends before its fields do; ", avcc - 4);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).starts_with(&want), "{}", text(&refused.stderr));
    assert_eq!(fs::read(dir.path().join("film.ism")).expect("it is there"), b"old");
}

#[test]
fn names_of_every_kind_are_references_that_lead_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = ["a&b<c>\"'.mp4", "\u{e9} %41.mp4", "http:x.mp4", "control\u{1b}\n.mp4"];
    for name in names {
        fs::write(dir.path().join(name), sample("film-aac-128k-index.mp4")).expect("a file");
    }
    let made = made(dir.path(), &[&["manifest", "-o", "a \u{7}&.ism"], names.as_slice()].concat());
    let sources: Vec<_> = made.iter().map(|track| track.attribute("src")).collect();
    let want = ["a&b%3Cc%3E%22'.mp4", "%C3%A9%20%2541.mp4", "./http:x.mp4", "control%1B%0A.mp4"];
    assert_eq!(sources, want);
    let names: Vec<_> = made.iter().flat_map(|track| track.params(&["trackName"])).map(|(_, name)| name).collect();
    assert_eq!(names, ["audio_eng", "audio_eng_1", "audio_eng_2", "audio_eng_3"]);
}

#[test]
fn more_files_than_are_fetched_ahead_are_remarked_upon() {
    let dir = film();
    let names: Vec<_> = (0..65).map(|number| format!("{number}.mp4")).collect();
    for name in &names {
        fs::copy(dir.path().join("film-aac-128k-index.mp4"), dir.path().join(name)).expect("a copy");
    }
    let arguments = |count: usize| {
        let names = names.iter().take(count).map(String::as_str);
        ["manifest", "-o", "a.ism"].into_iter().chain(names).collect::<Vec<_>>()
    };
    let remarked = |output: &Output| (output.status.code(), text(&output.stderr));
    assert_eq!(remarked(&uspcache(dir.path(), &arguments(64))), (Some(0), String::new()));
    let said =
        "uspcache: a.ism: names 65 files; httpd fetches the first 64 ahead, the others when they are asked for\n";
    assert_eq!(remarked(&uspcache(dir.path(), &arguments(65))), (Some(0), said.to_owned()));
    let quiet = [&["-q"], arguments(65).as_slice()].concat();
    assert_eq!(remarked(&uspcache(dir.path(), &quiet)), (Some(0), String::new()));
}

#[test]
fn json_tells_the_tracks() {
    let dir = place(&["packager-text.cmft"]);
    let output = uspcache(dir.path(), &["--json", "manifest", "-o", "a.ism", "media dir/packager-text.cmft"]);
    let bytes = fs::metadata(dir.path().join("a.ism")).expect("it was made").len();
    let want = format!(
        r#"{{"manifest":"a.ism","bytes":{bytes},"tracks":[{{"kind":"textstream","src":"media%20dir/packager-text.cmft","bitrate":1000,"language":"dut","params":{{"FourCC":"WVTT","TimeScale":"1000","trackID":"1","trackName":"textstream_dut"}}}}]}}"#
    );
    assert_eq!(text(&output.stdout).trim_end(), want);
    let again = uspcache(dir.path(), &["mp4split", "-o", "a.ism", "media dir/packager-text.cmft"]);
    assert_eq!(text(&again.stdout), format!("a.ism: 1 track of 1 file, {bytes} bytes\n"));
}
