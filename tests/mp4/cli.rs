//! `uspcache index` and `uspcache verify-index` as they are called.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::golden::sample;

pub fn uspcache(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uspcache")).args(arguments).current_dir(dir).output().expect("it runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A directory with media below it.
pub fn place(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("media dir")).expect("a directory");
    for name in names {
        fs::write(dir.path().join("media dir").join(name), sample(name)).expect("a file");
    }
    dir
}

#[test]
fn an_index_is_made_verified_and_refused_once_its_media_changed() {
    let dir = place(&["film-avc1-400k.cmfv", "film-aac-128k.cmfa"]);
    let media = ["media dir/film-avc1-400k.cmfv", "media dir/film-aac-128k.cmfa"];
    let made = uspcache(dir.path(), &["index", "-o", "film.mp4", media[0], media[1]]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(text(&made.stdout).starts_with("film.mp4: 2 tracks, 427 samples, "), "{}", text(&made.stdout));
    let index = fs::read(dir.path().join("film.mp4")).expect("it was made");
    let reference = b"url \0\0\0\0media%20dir/film-aac-128k.cmfa\0";
    assert!(index.windows(reference.len()).any(|window| window == reference));
    let verified = uspcache(dir.path(), &["verify-index", "film.mp4"]);
    assert_eq!((verified.status.code(), text(&verified.stdout)), (Some(0), "film.mp4: fits\n".to_owned()));

    let path = dir.path().join(media[0]);
    let mut changed = fs::read(&path).expect("it is there");
    // The size of a sample in the first trun, with the length of the file left alone.
    let trun = changed.windows(4).position(|window| window == b"trun").expect("a trun");
    changed[trun + 40] ^= 1;
    fs::write(&path, &changed).expect("it is written");
    let verified = uspcache(dir.path(), &["verify-index", "film.mp4"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(text(&verified.stdout).starts_with("film.mp4: track 1: sample "), "{}", text(&verified.stdout));
    fs::write(&path, [changed, vec![0]].concat()).expect("it is written");
    let verified = uspcache(dir.path(), &["--json", "verify-index", "film.mp4"]);
    let want = r#"{"index":"film.mp4","fits":false,"misfits":[{"track":1,"what":"the media had 113646 bytes and has 113647"}]}"#;
    assert_eq!(text(&verified.stdout).trim_end(), want);
}

#[test]
fn what_goes_wrong_names_the_file_the_box_and_the_offset_and_leaves_nothing_behind() {
    let dir = place(&["film-avc1-400k.cmfv"]);
    let film = dir.path().join("media dir/film-avc1-400k.cmfv");
    let whole = fs::read(&film).expect("it is there");
    fs::write(&film, &whole[..50_000]).expect("it is written");
    let old = sample("film-aac-128k-index.mp4");
    fs::write(dir.path().join("old.mp4"), &old).expect("it is written");
    fs::write(dir.path().join("odd.mp4"), b"odd").expect("it is written");
    let rows: [(&[&str], i32, &str); 5] = [
        (
            &["index", "-o", "old.mp4", "media dir/film-avc1-400k.cmfv"],
            3,
            "uspcache: media dir/film-avc1-400k.cmfv: box trun at offset 34072 has samples outside the media (is the file whole?); \
             transfer it again if it is not whole, else package it anew\n",
        ),
        (&["index", "-o", "old.mp4", "none.mp4"], 3, "uspcache: none.mp4: No such file or directory (os error 2)\n"),
        (&["index", "-o", "old.mp4", "old.mp4"], 2, "uspcache: old.mp4 is the output and an input\n"),
        (&["index", "-o", "none/a.mp4", "old.mp4"], 3, "uspcache: none: No such file or directory (os error 2)\n"),
        (&["verify-index", "odd.mp4"], 3, "uspcache: odd.mp4: box ???? at offset 0 has no whole header; "),
    ];
    for (arguments, code, want) in rows {
        let output = uspcache(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output.stderr).starts_with(want), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(fs::read(dir.path().join("old.mp4")).expect("it is there"), old);
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 3, "no half-written file");
}

#[test]
fn an_index_takes_the_place_of_no_media_and_of_nothing_but_a_file() {
    // The media of who calls it by a link was replaced by an index of itself.
    let dir = place(&["film-aac-128k.cmfa"]);
    let film = dir.path().join("film.mp4");
    fs::copy(dir.path().join("media dir/film-aac-128k.cmfa"), &film).expect("a copy");
    std::os::unix::fs::symlink("film.mp4", dir.path().join("latest.mp4")).expect("a link");
    let rows = [
        (
            ["index", "-o", "media dir/film-aac-128k.cmfa", "film.mp4"],
            "uspcache: media dir/film-aac-128k.cmfa is there and no index; remove it, or choose another name\n",
        ),
        (["index", "-o", "film.mp4", "latest.mp4"], "uspcache: latest.mp4 is the output and an input\n"),
        (["index", "-o", "/dev/null", "film.mp4"], "uspcache: /dev/null is there and no file\n"),
        (["index", "-o", "media dir", "film.mp4"], "uspcache: media dir is there and no file\n"),
    ];
    for (arguments, want) in rows {
        let output = uspcache(dir.path(), &arguments);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(2), want));
    }
    assert_eq!(fs::read(&film).expect("it is there"), sample("film-aac-128k.cmfa"));
}

#[test]
fn an_index_that_cannot_be_verified_keeps_no_other_from_it() {
    let dir = place(&["film-avc1-400k.cmfv", "film-aac-128k.cmfa"]);
    for (index, media) in [("é.mp4", "media dir/film-avc1-400k.cmfv"), ("b.mp4", "media dir/film-aac-128k.cmfa")] {
        assert!(uspcache(dir.path(), &["index", "-o", index, media]).status.success());
    }
    fs::remove_file(dir.path().join("media dir/film-avc1-400k.cmfv")).expect("it was there");
    let verified = uspcache(dir.path(), &["verify-index", "é.mp4", "b.mp4"]);
    assert_eq!((verified.status.code(), text(&verified.stdout).as_str()), (Some(3), "b.mp4: fits\n"));
    let want = "uspcache: \\xc3\\xa9.mp4: its media media%20dir/film-avc1-400k.cmfv: No such file";
    assert!(text(&verified.stderr).starts_with(want), "{}", text(&verified.stderr));
}

#[test]
fn json_tells_what_was_made() {
    let dir = place(&["muxed-no-default-base.mp4"]);
    let made = uspcache(
        dir.path(),
        &["--json", "index", "-o", "a.mp4", "--track", "2", "media dir/muxed-no-default-base.mp4"],
    );
    let bytes = fs::metadata(dir.path().join("a.mp4")).expect("it was made").len();
    let want = format!(
        r#"{{"index":"a.mp4","bytes":{bytes},"tracks":[{{"id":1,"media":"media%20dir/muxed-no-default-base.mp4","media_track":2,"handler":"soun","language":"und","timescale":44100,"duration":268128,"samples":260,"chunks":3}}]}}"#
    );
    assert_eq!(text(&made.stdout).trim_end(), want);
    let none = uspcache(dir.path(), &["index", "-o", "a.mp4", "--track", "3", "media dir/muxed-no-default-base.mp4"]);
    assert_eq!(none.status.code(), Some(3));
}
