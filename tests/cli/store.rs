//! What each subcommand does with a store that is as it should be.

use std::fs;

use mod_usp_storage_cache::store::fill::Landing;
use serde_json::json;

use crate::shop::{LIMITS, Shop, uspcache};

const FILM: &str = "http://h/film.ism";

#[test]
fn entries_and_fills_are_listed_with_their_states() {
    let shop = Shop::new();
    shop.publish(FILM, "", b"\"1\"");
    shop.publish(FILM, "AKID", b"\"1\"");
    let fill = shop.begin("http://h/next.ism", "", b"\"2\"");
    Landing::new(&fill, 0).write(&vec![7; 270_000]).expect("written");
    assert_eq!(shop.urls(), [FILM, "http://h/next.ism"]);
    let long: Vec<Vec<String>> = shop.run(["ls", "-l"]).out.lines().map(words).collect();
    let columns: Vec<_> = long.iter().map(|row| [&row[0], &row[3], &row[row.len() - 2], &row[row.len() - 1]]).collect();
    let want = [
        ["300000", "whole", "-", FILM],
        ["300000", "whole", "AKID", FILM],
        ["300000", "filling", "-", "http://h/next.ism"],
    ];
    assert_eq!(columns, want);
    assert_eq!(long[2][4], "1/2");
    let states: Vec<_> = shop.json(&["ls", "http://h/next"]).iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["filling"]);
    fill.keep();
    drop(fill);
    assert_eq!(shop.json(&["ls", "http://h/next"])[0]["state"], "left");
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_prefix_that_nothing_begins_with_is_code_1_and_an_empty_store_is_not() {
    let shop = Shop::new();
    assert_eq!(shop.run(["ls"]).code, Some(0));
    assert_eq!(shop.run(["ls", "http://h/"]).code, Some(1));
    shop.publish(FILM, "", b"\"1\"");
    assert_eq!(shop.run(["ls", "HTTP://H:80/fi"]).code, Some(0));
    assert_eq!(shop.run(["ls", "http://h/g"]).code, Some(1));
}

#[test]
fn a_url_is_shown_under_every_scope() {
    let shop = Shop::new();
    shop.publish(FILM, "", b"\"1\"");
    shop.publish(FILM, "AKID", b"\"2\"");
    let fill = shop.begin(FILM, "AKID", b"\"3\"");
    let shown = shop.run(["show", "http://H/f%69lm.ism?X-Amz-Date=1"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    for words in ["scope        none", "scope        AKID", "ETag: \"1\"", "ETag: \"2\"", "ETag: \"3\"", "filling 0/2"]
    {
        assert!(shown.out.contains(words), "{words}: {}", shown.out);
    }
    let shown = shop.json(&["show", FILM]);
    assert!(shown.iter().any(|one| one["fields"] == json!([["ETag", "\"2\""]]) && one["is_after_purges"] == true));
    drop(fill);
    assert_eq!(shop.run(["show", "http://h/other.ism"]).code, Some(1));
}

#[test]
fn what_is_purged_has_gone_and_nothing_else() {
    let rows: [(&[&str], u64, &[&str]); 6] = [
        (&["http://H/0.ism"], 1, &["http://h/1.ism", "http://h/10.ism", "http://h/2.ism"]),
        (&["http://h/0.ism", "http://h/2.ism"], 2, &["http://h/1.ism", "http://h/10.ism"]),
        (&["--prefix", "http://h/1"], 2, &["http://h/0.ism", "http://h/2.ism"]),
        (&["--prefix", "http://h"], 4, &[]),
        (&["--all"], 4, &[]),
        (&["http://h/3.ism"], 0, &["http://h/0.ism", "http://h/1.ism", "http://h/10.ism", "http://h/2.ism"]),
    ];
    for (which, purged, left) in rows {
        let shop = Shop::with(3);
        shop.publish("http://h/10.ism", "", b"\"1\"");
        let ran = shop.run(["purge", "--json"].iter().chain(which));
        assert_eq!(ran.out, format!("{{\"purged\":{purged},\"fills\":0}}\n"), "{which:?}");
        assert_eq!(ran.code, Some(i32::from(purged == 0)), "{which:?}");
        assert_eq!(shop.urls(), left, "{which:?}");
    }
}

#[test]
fn a_fill_that_is_under_way_is_not_kept_after_a_purge() {
    let shop = Shop::new();
    let fill = shop.begin(FILM, "", b"\"1\"");
    let ran = shop.run(["purge", FILM]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "purged 0 entries; 1 fill under way will not be kept\n"));
    assert!(shop.run(["show", FILM]).out.contains("it will not be kept"));
    Landing::new(&fill, 0).write(&vec![7; 300_000]).expect("written");
    assert!(!fill.publish(1).expect("published"));
    drop(fill);
    assert_eq!(shop.urls(), [""; 0]);
}

#[test]
fn verify_finds_and_removes_what_is_not_as_it_was_written() {
    let shop = Shop::with(3);
    assert_eq!(shop.run(["verify"]).code, Some(0));
    let path = shop.entry("http://h/1.ism", "");
    let mut bytes = fs::read(&path).expect("it is there");
    *bytes.last_mut().expect("it has bytes") ^= 1;
    fs::write(&path, &bytes).expect("written");
    assert_eq!(shop.run(["verify", "http://h/2"]).code, Some(0));
    let found = shop.run(["verify"]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.out.contains("http://h/1.ism: the checksum of block 1 is wrong\n"), "{found:?}");
    assert_eq!(found.err, "", "no progress in a pipe");
    assert!(path.exists());
    let removed = shop.json(&["verify", "--remove"]);
    assert_eq!(removed[0]["removed"], true);
    assert_eq!((&removed[1]["checked"], &removed[1]["removed"]), (&json!(3), &json!(1)));
    assert_eq!(shop.urls(), ["http://h/0.ism", "http://h/2.ism"]);
    assert_eq!(shop.run(["verify"]).code, Some(0));
}

#[test]
fn stats_tell_limits_and_counts() {
    let shop = Shop::with(2);
    let fill = shop.begin(FILM, "", b"\"1\"");
    shop.store.control().breaker("h").failed(true, mod_usp_storage_cache::store::now_ms());
    let stats = shop.json(&["stats"]).remove(0);
    let got = ["entries", "filling", "left", "store_length_max", "free_length_min", "generation", "has_leader"];
    let want = [json!(2), json!(1), json!(0), json!(LIMITS.store_len_max), json!(12_345), json!(7), json!(false)];
    assert_eq!(got.map(|key| stats[key].clone()), want);
    assert_eq!((&stats["breakers"][0]["endpoint"], &stats["breakers"][0]["is_open"]), (&json!("h"), &json!(true)));
    assert!(stats["taken"].as_u64() >= stats["entries_disk_length"].as_u64());
    drop(fill);
}

#[test]
fn what_only_looks_changes_nothing() {
    let shop = Shop::with(3);
    let fill = shop.begin(FILM, "", b"\"1\"");
    fs::write(shop.path("entries/README"), "hello").expect("written");
    let before = shop.snapshot();
    for arguments in [&["ls", "-l"][..], &["show", "http://h/0.ism"], &["show", FILM], &["verify"], &["stats"]] {
        assert_eq!(shop.run(arguments).code, Some(0), "{arguments:?}");
        assert_eq!(shop.snapshot(), before, "{arguments:?}");
    }
    drop(fill);
}

#[test]
fn a_purge_leaves_the_limits_of_those_who_serve() {
    let shop = Shop::with(1);
    let before = shop.json(&["stats"]).remove(0);
    shop.run(["purge", "--all"]);
    shop.run(["verify", "--remove"]);
    let after = shop.json(&["stats"]).remove(0);
    for key in ["store_length_max", "free_length_min", "generation"] {
        assert_eq!(before[key], after[key], "{key}");
    }
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let nothing = dir.path().join("nothing");
    for arguments in [&["ls"][..], &["stats"], &["purge", "--all"], &["verify", "--remove"], &["show", FILM]] {
        for root in [dir.path(), &nothing] {
            let ran = uspcache(root, arguments);
            assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{arguments:?}: {ran:?}");
            assert!(ran.err.starts_with("uspcache: /") && ran.err.contains("; --root names"), "{ran:?}");
        }
    }
    fs::create_dir(dir.path().join("v1")).expect("made");
    assert_eq!(uspcache(dir.path(), ["purge", "--all"]).code, Some(3));
    assert_eq!(fs::read_dir(dir.path().join("v1")).expect("it is there").count(), 0);
}

#[test]
fn what_makes_no_sense_is_code_2() {
    let shop = Shop::new();
    let rows: [&[&str]; 8] = [
        &[],
        &["purge"],
        &["purge", "--all", FILM],
        &["purge", "--all", "--prefix", FILM],
        &["purge", "film.ism"],
        &["show", "http://h/../film.ism"],
        &["warm", "--jobs", "0", FILM],
        &["frobnicate"],
    ];
    for arguments in rows {
        assert_eq!(shop.run(arguments).code, Some(2), "{arguments:?}");
    }
}
