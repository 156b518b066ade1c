//! `uspcache prepare` on directories.

use std::fs;
use std::path::Path;

use crate::cli::{text, uspcache};
use crate::golden::sample;

fn put(dir: &Path, files: &[(&str, &str)]) {
    for (path, name) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(path, sample(name)).expect("a file");
    }
}

/// What it says, sorted, since directories take turns; and its exit code.
fn prepare(dir: &Path, arguments: &[&str]) -> (Vec<String>, Option<i32>, String) {
    let ran = uspcache(dir, &[&["prepare"], arguments].concat());
    let mut lines: Vec<_> = text(&ran.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    (lines, ran.status.code(), text(&ran.stderr))
}

/// All files below, with what is in them.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        match entry.file_type().expect("it has one").is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push((entry.path().display().to_string(), fs::read(entry.path()).expect("a file"))),
        }
    }
    found.sort();
    found
}

#[test]
fn each_directory_gets_what_it_lacks_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    put(dir, &[("f/a.cmfv", "film-avc1-400k.cmfv"), ("f/a.cmfa", "film-aac-128k.cmfa")]);
    put(dir, &[("f/sub/x.MP4", "muxed-no-default-base.mp4"), ("f/sub/y.ism", "film.ism")]);
    let before = files(dir);
    let made = ["f/a-cmfa-index.mp4", "f/a-cmfv-index.mp4", "f/f.ism", "f/sub/sub.ism", "f/sub/x-index.mp4"];
    let lines = |done: &str| made.map(|name| format!("{done} {name}")).to_vec();
    assert_eq!(prepare(dir, &["-n", "f"]), (lines("would make"), Some(0), String::new()));
    assert_eq!(files(dir), before, "a dry run makes nothing");
    assert_eq!(prepare(dir, &["f/"]), (lines("made"), Some(0), String::new()));
    let after = files(dir);
    assert_eq!(prepare(dir, &["f"]), (lines("kept"), Some(0), String::new()));
    assert_eq!(prepare(dir, &["-q", "f"]), (Vec::new(), Some(0), String::new()));
    assert_eq!(files(dir), after);
    let indexes = made.map(|name| dir.join(name).display().to_string());
    let verify: Vec<&str> = ["verify-index"].into_iter().chain(indexes.iter().map(String::as_str)).collect();
    let verify: Vec<&str> = verify.into_iter().filter(|name| !name.ends_with(".ism")).collect();
    assert_eq!(uspcache(dir, &verify).status.code(), Some(0));
}

#[test]
fn a_manifest_of_another_name_will_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    put(dir, &[("f/a.cmfv", "film-avc1-400k.cmfv")]);
    for line in [["index", "-o", "f/a-index.mp4", "f/a.cmfv"], ["manifest", "-o", "f/title.ISM", "f/a-index.mp4"]] {
        assert!(uspcache(dir, &line).status.success());
    }
    let kept = vec!["kept f/a-index.mp4".to_owned(), "kept f/title.ISM".into()];
    assert_eq!(prepare(dir, &["f"]), (kept, Some(0), String::new()));
    put(dir, &[("f/b.cmfa", "film-aac-128k.cmfa")]);
    let (lines, code, _) = prepare(dir, &["f"]);
    assert_eq!(
        (lines.last().map(String::as_str), code),
        (Some("made f/f.ism"), Some(0)),
        "it lacks one, and is not ours to change"
    );
}

#[test]
fn what_cannot_be_indexed_keeps_no_other_from_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    put(dir, &[("f/a.cmfv", "film-avc1-400k.cmfv"), ("g/b.cmfa", "film-aac-128k.cmfa")]);
    put(
        dir,
        &[
            ("f/flat.mp4", "film-aac-128k-index.mp4"),
            ("g/c-index.mp4", "film.ism"),
            ("g/c.cmfv", "film-avc1-400k.cmfv"),
        ],
    );
    let whole = sample("film-aac-128k.cmfa");
    fs::write(dir.join("f/cut.cmfa"), &whole[..whole.len() - 1]).expect("a file");
    let (lines, code, err) = prepare(dir, &["."]);
    assert_eq!(lines, ["made ./f/a-index.mp4", "made ./g/b-index.mp4", "skipped ./f/flat.mp4 (is not fragmented)"]);
    assert_eq!(code, Some(3));
    for want in [
        "uspcache: ./f/cut-index.mp4: ./f/cut.cmfa: box ",
        "uspcache: ./f/f.ism: not all of its media have an index\n",
        "uspcache: ./g/c-index.mp4: is no index of ./g/c.cmfv; remove it, or have it replaced by --force\n",
        "uspcache: ./g/g.ism: not all of its media have an index\n",
    ] {
        assert!(err.contains(want), "{want}: {err}");
    }
    fs::remove_file(dir.join("f/cut.cmfa")).expect("it was there");
    let (lines, code, err) = prepare(dir, &["--force", "."]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(lines.contains(&"made ./g/c-index.mp4".into()) && lines.contains(&"made ./f/f.ism".into()), "{lines:?}");
}

#[test]
fn a_place_that_is_none_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = [
        ("none", 3, "uspcache: none: No such file or directory"),
        ("http://h/films/", 2, "uspcache: http://h/films/: only buckets and directories can be listed"),
        ("s3://", 2, "uspcache: s3:// names no bucket"),
    ];
    for (place, code, want) in rows {
        let (lines, got, err) = prepare(dir.path(), &[place]);
        assert!(lines.is_empty() && got == Some(code) && err.starts_with(want), "{place}: {err}");
    }
}
