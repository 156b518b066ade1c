//! `uspcache` on stores that somebody has spoilt, with arguments and readers that are odd.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use crate::shop::{Shop, uspcache};

const ODD: &str = "http://h/\u{1b}]0;gotcha\u{7}.ism";

/// Whether a terminal could print it and do nothing else.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

#[test]
fn nothing_that_is_stored_reaches_the_terminal_raw() {
    let shop = Shop::new();
    shop.publish(ODD, "\u{9b}31mAKID", b"\"\x1b[2J\xff\x9b\"");
    shop.publish("http://h/a.ism", "\u{1b}[31m", "\u{9b}2J\u{7f}".as_bytes());
    for arguments in [
        &["ls"][..],
        &["ls", "-l"],
        &["ls", "--json"],
        &["show", "http://h/a.ism"],
        &["show", "http://h/a.ism", "--json"],
    ] {
        let ran = shop.run(arguments);
        assert!(ran.code == Some(0) && is_plain(&ran.out) && is_plain(&ran.err), "{ran:?}");
    }
    let path = shop.entry(ODD, "\u{9b}31mAKID");
    let mut bytes = fs::read(&path).expect("it is there");
    *bytes.last_mut().expect("it has bytes") ^= 1;
    fs::write(&path, &bytes).expect("written");
    let name = OsStr::from_bytes(b"\x1b[31m\xff");
    fs::write(path.with_file_name(name), "").expect("written");
    fs::write(path.with_file_name("\u{1b}[32m"), "").expect("written");
    for arguments in [&["verify"][..], &["verify", "--json"]] {
        let ran = shop.run(arguments);
        assert!(ran.code == Some(1) && is_plain(&ran.out) && is_plain(&ran.err), "{ran:?}");
    }
}

#[test]
fn arguments_of_any_bytes_are_taken_or_refused() {
    let shop = Shop::new();
    shop.publish("http://h/%FF.ism", "", b"\"1\"");
    let show = |url: &[u8]| shop.run([OsStr::new("show"), OsStr::from_bytes(url)]);
    assert_eq!(show(b"http://h/\xff.ism").code, Some(0));
    assert_eq!(show(b"http://h/%ff.ism").code, Some(0));
    for url in [&b"\xff"[..], b"http://\xff/a.ism", b"http://h/\x1b[31m", b"http://h/\n", b"-\x1b"] {
        let ran = show(url);
        assert!(ran.code == Some(2) && ran.err.starts_with("uspcache: ") && is_plain(&ran.err), "{ran:?}");
    }
}

#[test]
fn what_is_no_entry_is_told_and_the_rest_is_served() {
    let shop = Shop::with(6);
    let url = |n: usize| format!("http://h/{n}.ism");
    let path = |n: usize| shop.entry(&url(n), "");
    let outside = tempfile::tempdir().expect("a directory");
    let victim = outside.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    for n in 0..4 {
        fs::remove_file(path(n)).expect("it is there");
    }
    symlink(&victim, path(0)).expect("linked");
    fs::create_dir(path(1)).expect("made");
    rustix::fs::mknodat(rustix::fs::CWD, path(2), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
    fs::copy(path(5), path(3)).expect("copied");
    let cut = File::options().write(true).open(path(4)).expect("it is there");
    cut.set_len(100).expect("cut");
    fs::write(shop.path("entries/README"), "not below a shard").expect("written");
    let ls = shop.run(["ls"]);
    assert_eq!((ls.code, ls.out.as_str()), (Some(0), "http://h/5.ism\n"));
    assert!(ls.err.contains("5 files in the store are no entries or are damaged"), "{ls:?}");
    assert_eq!(shop.run(["show", &url(0)]).code, Some(1));
    let found = shop.json(&["verify"]);
    let flaw = |n: usize| {
        let name = path(n).file_name().expect("it has a name").to_string_lossy().into_owned();
        let one = found.iter().find(|one| one["file"].as_str().is_some_and(|file| file.ends_with(&name)));
        one.expect("it is found")["flaw"].as_str().expect("a text").to_owned()
    };
    let want = ["no regular file", "no regular file", "no regular file", "it is of another", "the head or the length"];
    for (n, want) in want.iter().enumerate() {
        assert!(flaw(n).starts_with(want), "{n}: {}", flaw(n));
    }
    let removed = shop.run(["verify", "--remove"]);
    assert!(removed.out.contains("5 damaged, 5 removed"), "{removed:?}");
    assert_eq!(shop.run(["verify"]).code, Some(0));
    assert_eq!((shop.urls(), fs::read_to_string(&victim).ok().as_deref()), (vec![url(5)], Some("precious")));
}

#[test]
fn a_shard_that_is_a_link_is_not_followed() {
    let shop = Shop::with(1);
    let shard = shop.entry("http://h/0.ism", "").parent().expect("it lies in one").to_owned();
    let outside = tempfile::tempdir().expect("a directory");
    let moved = outside.path().join("shard");
    fs::rename(&shard, &moved).expect("moved");
    symlink(&moved, &shard).expect("linked");
    assert_eq!(shop.json(&["stats"]).remove(0)["entries"], 0);
    for arguments in [&["ls"][..], &["verify", "--remove"], &["purge", "--all"], &["stats"]] {
        let ran = shop.run(arguments);
        assert!(ran.code == Some(0) && !ran.out.contains("http://h"), "{ran:?}");
    }
    assert_eq!(fs::read_dir(&moved).expect("it is there").count(), 1);
}

#[test]
fn a_root_that_is_a_link_or_writable_by_others_is_refused() {
    let shop = Shop::with(1);
    let outside = tempfile::tempdir().expect("a directory");
    let link = outside.path().join("link");
    symlink(shop.dir.path(), &link).expect("linked");
    let ran = uspcache(&link, ["ls"]);
    assert!(ran.code == Some(3) && ran.err.contains("is a symbolic link"), "{ran:?}");
    fs::set_permissions(shop.dir.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let ran = shop.run(["ls"]);
    assert!(ran.code == Some(3) && ran.err.contains("nobody else can write to"), "{ran:?}");
}

#[test]
fn a_control_block_that_is_damaged_or_gone_is_made_by_a_purge_alone() {
    let shop = Shop::with(2);
    for spoil in
        [|path: &_| fs::write(path, "short").expect("written"), |path: &_| fs::remove_file(path).expect("it is there")]
    {
        spoil(&shop.path("control"));
        let before = shop.snapshot();
        let stats = shop.json(&["stats"]).remove(0);
        assert!(stats["taken"].is_null() && stats["store_length_max"].is_null(), "{stats}");
        assert_eq!(shop.run(["ls"]).code, Some(0));
        assert_eq!(shop.snapshot(), before);
        assert_eq!(shop.run(["purge", "--prefix", "http://other/"]).code, Some(1));
        assert!(shop.path("control").metadata().is_ok_and(|had| had.len() > 1 << 20));
        // Nobody has said what the limits are, the CLI least of all.
        assert!(shop.json(&["stats"]).remove(0)["store_length_max"].is_null());
    }
    assert_eq!(shop.urls().len(), 2);
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let shop = Shop::new();
    // More than a pipe and a buffer hold.
    (0..400).for_each(|n| shop.publish(&format!("http://h/{n}/{}.ism", "x".repeat(500)), "", b"\"1\""));
    for arguments in [&["ls"][..], &["ls", "-l"], &["ls", "--json"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uspcache"));
        command.args(arguments).arg("--root").arg(shop.dir.path());
        let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
        let mut stdout = run.stdout.take().expect("it is a pipe");
        stdout.read_exact(&mut [0; 10]).expect("it writes");
        drop(stdout);
        let ended = run.wait_with_output().expect("it ends");
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_code_3() {
    let shop = Shop::with(1);
    let full = File::options().write(true).open("/dev/full").expect("there is one");
    let mut command = Command::new(env!("CARGO_BIN_EXE_uspcache"));
    let ran = command.args(["ls", "--root"]).arg(shop.dir.path()).stdout(full).output().expect("it can be run");
    assert_eq!(ran.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&ran.stderr).starts_with("uspcache: standard output: "));
}
