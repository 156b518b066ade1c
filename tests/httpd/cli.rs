//! `uspcache` beside a running httpd: what it says is what the children hold, and what it removes they hold no more.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::Value;

use crate::client::{Request, Response};
use crate::content::{Random, content};
use crate::filling::{fill, landed};
use crate::s3::{film, film_file};
use crate::server::{Conf, Httpd, Mpm};
use crate::site::{BODY_LEN, FILM, STORED, Site, is_hit, with_film};
use crate::storage::{Fault, Object, Whom};
use crate::wait::{rounds, until};

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

pub(crate) fn uspcache(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uspcache"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The command on a server's store.
fn on(httpd: &Httpd, arguments: &[&str]) -> Command {
    let mut command = uspcache(arguments);
    command.arg("--root").arg(httpd.path("store"));
    command
}

fn run(site: &Site, arguments: &[&str]) -> Ran {
    ran(on(&site.httpd, arguments).output().expect("it can be run"))
}

fn warm(site: &Site, path: &str, arguments: &[&str]) -> Ran {
    let url = format!("http://127.0.0.1:{}{path}", site.httpd.port);
    ran(uspcache(&["warm", &url]).args(arguments).output().expect("it can be run"))
}

fn url(site: &Site, path: &str) -> String {
    format!("http://{}{path}", site.storage.host())
}

#[test]
fn what_httpd_has_filled_is_listed_shown_and_counted() {
    let site = with_film();
    site.storage.fail("/gone.ism", Whom::Everyone, Fault::Status(404));
    assert_eq!(site.get("/gone.ism").status, 404);
    let film = url(&site, FILM);
    assert_eq!(run(&site, &["ls"]).out, format!("{film}\n"));
    let row = run(&site, &["ls", "--json"]).json().remove(0);
    assert_eq!((&row["state"], &row["length"], &row["landed"]), (&"whole".into(), &BODY_LEN.into(), &3.into()));
    let shown = run(&site, &["show", &film]);
    let etag = site.storage.versions(FILM)[0].etag();
    assert!(shown.code == Some(0) && shown.out.contains(&format!("ETag: {etag}")), "{shown:?}");
    let shown = run(&site, &["show", &url(&site, "/gone.ism")]);
    assert!(shown.code == Some(1) && shown.out.contains("absent (404)"), "{shown:?}");
    let stats = until("a leader", 20, || {
        let stats = run(&site, &["stats", "--json"]).json().remove(0);
        (stats["has_leader"] == true).then_some(stats)
    });
    let got = ["entries", "filling", "store_length_max", "free_length_min"].map(|key| stats[key].clone());
    assert_eq!(got, [1_u64, 0, 10 << 30, 1 << 20].map(Value::from));
    assert_eq!(stats["remembered"]["absent (404)"], 1);
    assert_eq!(run(&site, &["verify"]).code, Some(0));
}

/// Each child has an object, somebody purges it, and none of them has it any more.
fn each_child_fetches_anew(mpm: Mpm) {
    let children = 4;
    let site = Site::wide(mpm, children, 1, "");
    site.fill(FILM, Object::new(content(30, BODY_LEN)));
    let ask = || site.each_child(children as usize, &Request::get(FILM));
    let all_hit = |answers: &[Response]| answers.iter().all(|answer| is_hit(&answer.cache_status()));
    assert!(all_hit(&ask()));
    site.fill("/other.ism", Object::new("other"));
    let other = Object::new(content(31, BODY_LEN));
    site.storage.put(FILM, other.clone());
    assert!(all_hit(&ask()), "nobody knows yet");
    site.httpd.settle();
    let purged = run(&site, &["purge", &url(&site, "/fi%6Cm.ism?x=1")]);
    assert_eq!((purged.code, purged.out.as_str()), (Some(0), "purged 1 entry\n"), "{purged:?}");
    for answer in ask() {
        assert!(answer.status == 200 && answer.body == other.body(), "{mpm:?}: {}", answer.cache_status());
    }
    assert!(is_hit(&site.get("/other.ism").cache_status()));
    assert_eq!((site.storage.counts(FILM), site.httpd.crashes()), ((2, 0), 0));
}

#[test]
fn after_a_purge_every_child_fetches_anew() {
    for mpm in Mpm::ALL {
        each_child_fetches_anew(mpm);
    }
}

#[test]
fn a_url_is_found_under_every_scope() {
    let site = Site::of(|storage| {
        let host = storage.host();
        let location = |key: &str| {
            format!(
                "ProxyPass \"/{key}/\" \"http://{host}/\"\n<Location \"/{key}/\">\n\
                 S3AccessKey {key}\nS3SecretKey secret\nS3Region eu-west-1\n</Location>\n"
            )
        };
        Conf::new(location("ONE") + &location("OTHER") + &Site::text(storage, ""))
    });
    site.fill(FILM, Object::new("film"));
    for key in ["ONE", "OTHER"] {
        assert_eq!(site.httpd.get(&format!("/{key}{FILM}")).cache_status(), STORED);
    }
    site.httpd.settle();
    assert_eq!(site.httpd.entries().len(), 3);
    let film = url(&site, FILM);
    assert_eq!(run(&site, &["ls", "-l"]).out.lines().count(), 3);
    assert_eq!(run(&site, &["show", &film, "--json"]).json().len(), 3);
    assert_eq!(run(&site, &["purge", "--prefix", &film, "--json"]).json()[0]["purged"], 3);
    assert_eq!(run(&site, &["ls"]).out, "");
}

#[test]
fn a_fill_that_is_purged_is_answered_and_not_kept() {
    let site = Site::new();
    let film = Object::new(content(30, 2_000_000));
    site.storage.put(FILM, film.clone());
    site.storage.fail(FILM, Whom::Fetches, Fault::HoldAfter(600_000));
    thread::scope(|scope| {
        let asking = scope.spawn(|| site.get(FILM));
        until("two blocks", 20, || landed(&site, FILM).filter(|blocks| blocks.len() >= 2));
        let filling = run(&site, &["ls", "--json"]).json().remove(0);
        assert_eq!((&filling["state"], &filling["blocks"]), (&"filling".into(), &8.into()));
        let purged = run(&site, &["purge", &url(&site, FILM)]);
        assert_eq!(
            (purged.code, purged.out.as_str()),
            (Some(0), "purged 0 entries; 1 fill under way will not be kept\n")
        );
        site.storage.release(FILM);
        let answer = asking.join().expect("it is answered");
        assert!(answer.status == 200 && answer.body == film.body());
    });
    site.httpd.settle();
    until("the fill to go", 20, || fill(&site, FILM).is_none().then_some(()));
    assert_eq!((run(&site, &["ls"]).out.as_str(), site.httpd.entries().len()), ("", 0));
    assert_eq!(site.get(FILM).body, film.body());
}

#[test]
fn verify_finds_a_flipped_bit_while_httpd_is_down() {
    let mut site = with_film();
    site.fill("/whole.ism", Object::new("whole"));
    site.httpd.stop();
    assert_eq!(run(&site, &["verify"]).code, Some(0));
    let entry = site.entry(FILM);
    let file = File::options().read(true).write(true).open(&entry).expect("it is there");
    let (mut byte, last) = ([0], file.metadata().expect("it has a length").len() - 1);
    file.read_exact_at(&mut byte, last).and_then(|()| file.write_all_at(&[byte[0] ^ 1], last)).expect("flipped");
    let found = run(&site, &["verify"]);
    assert!(found.code == Some(1) && found.out.contains("/film.ism: the checksum of block 2 is wrong"), "{found:?}");
    let removed = run(&site, &["verify", "--remove", "-q"]);
    assert!(removed.code == Some(1) && removed.out.contains("; removed"), "{removed:?}");
    assert!(!entry.exists());
    site.httpd.start_again();
    assert_eq!(site.get(FILM).cache_status(), STORED);
    assert!(is_hit(&site.get("/whole.ism").cache_status()));
}

#[test]
fn warm_fills_a_manifest_and_all_that_it_names() {
    let site = Site::with("UspStorageCachePrefetch off");
    let named: Vec<_> =
        film().into_iter().filter(|(name, _)| name.ends_with(".ism") || name.ends_with("-index.mp4")).collect();
    for (name, file) in &named {
        site.storage.put(&format!("/media/{name}"), Object::new(file.clone()));
    }
    let first = warm(&site, "/store/media/film.ism", &["--jobs", "3", "--json"]).json();
    let sum = first.last().expect("a sum");
    let counts = |sum: &Value| ["objects", "hits", "misses", "failed"].map(|key| sum[key].as_u64().unwrap_or(99));
    assert_eq!(counts(sum), [named.len() as u64, 0, named.len() as u64, 0], "{first:?}");
    assert_eq!(sum["bytes"].as_u64(), Some(named.iter().map(|(_, file)| file.len() as u64).sum()));
    assert_eq!(site.httpd.entries().len(), named.len());
    let again = warm(&site, "/store/media/film.ism", &[]);
    assert!(again.code == Some(0) && again.out.contains("4 hits, 0 misses, 0 failed"), "{again:?}");
    // No progress in a pipe.
    assert_eq!(again.err, "");
    for (name, _) in &named {
        assert_eq!(site.storage.counts(&format!("/media/{name}")), (1, 0), "{name}");
    }
}

#[test]
fn warm_tells_what_failed() {
    let site = Site::new();
    site.storage.put("/media/film.ism", Object::new(film_file("film.ism")));
    site.storage.put("/media/film.mpd", Object::new("no object of the cache's"));
    let rows = [
        ("/store/media/film.ism", "status 404"),
        ("/store/media/none.ism", "status 404"),
        ("/store/media/film.mpd", "answered, but not by the cache"),
    ];
    for (path, why) in rows {
        let failed = warm(&site, path, &[]);
        assert!(failed.code == Some(1) && failed.err.contains(why), "{path}: {failed:?}");
    }
    let nobody = ran(uspcache(&["warm", "http://127.0.0.1:1/film.ism"]).output().expect("it can be run"));
    assert!(nobody.code == Some(1) && nobody.err.starts_with("uspcache: http://127.0.0.1:1/film.ism: "), "{nobody:?}");
}

/// The owners of all below a directory.
fn owners(dir: &Path) -> Vec<u32> {
    let had = fs::symlink_metadata(dir).expect("it is there");
    let below = fs::read_dir(dir).into_iter().flatten().flatten().flat_map(|file| owners(&file.path()));
    below.chain([had.uid()]).collect()
}

#[test]
fn nothing_in_the_store_becomes_another_users() {
    let mut site = with_film();
    site.httpd.stop();
    let owner = fs::metadata(site.httpd.path("store/v1")).expect("it is there").uid();
    let film = url(&site, FILM);
    // The control block is made anew by who purges.
    fs::remove_file(site.httpd.path("store/v1/control")).expect("it is there");
    for arguments in [&["ls"][..], &["show", &film], &["stats"], &["verify", "--remove"], &["purge", &film]] {
        assert_eq!(run(&site, arguments).code, Some(0), "{arguments:?}");
        assert!(owners(&site.httpd.path("store")).iter().all(|had| *had == owner), "{arguments:?}");
    }
    assert!(site.httpd.path("store/v1/control").exists());
    site.httpd.start_again();
    assert_eq!(site.get(FILM).cache_status(), STORED);
    site.wait_for_entry(FILM);
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn who_is_neither_root_nor_the_owner_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let site = with_film();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1", "--regid=1", "--clear-groups"]);
    command.arg(env!("CARGO_BIN_EXE_uspcache")).args(["ls", "--root"]).arg(site.httpd.path("store"));
    let refused = ran(command.output().expect("setpriv can be run"));
    assert!(refused.code == Some(3) && refused.err.contains("run it as root or as httpd's user"), "{refused:?}");
}

/// How many entries there are, whatever is under way.
fn entries(site: &Site) -> usize {
    let shards = fs::read_dir(site.httpd.path("store/v1/entries")).into_iter().flatten().flatten();
    shards.map(|shard| fs::read_dir(shard.path()).map_or(0, Iterator::count)).sum()
}

#[test]
fn a_purge_that_is_killed_at_any_moment_leaves_httpd_serving() {
    let site = Site::wide(Mpm::Event, 2, 8, "");
    let paths: Vec<_> = (0..40).map(|n| format!("/{n}.ism")).collect();
    paths.iter().for_each(|path| site.storage.put(path, Object::new(content(7, 20_000))));
    let mut random = Random::new(7);
    let mut killed = 0;
    for _ in 0..rounds(20, 200) {
        paths.iter().for_each(|path| assert_eq!(site.get(path).status, 200, "{path}"));
        let mut command = on(&site.httpd, &["purge", "--all"]);
        let mut purge = command.stdout(Stdio::null()).spawn().expect("it can be run");
        // Any moment is a good one: before the first entry has gone, after the last, and between.
        let left = random.below(paths.len() + 1);
        while entries(&site) > left && purge.try_wait().expect("it is ours").is_none() {
            std::hint::spin_loop();
        }
        purge.kill().expect("it is ours");
        killed += usize::from(purge.wait().expect("it ends").code().is_none());
    }
    assert!(killed > 0, "it was always done before");
    for path in &paths {
        assert_eq!(site.get(path).body, content(7, 20_000), "{path}");
        site.wait_for_entry(path);
        assert!(is_hit(&site.get(path).cache_status()), "{path}");
    }
    assert_eq!(run(&site, &["verify"]).code, Some(0));
    assert_eq!(run(&site, &["purge", "--all", "--json"]).json()[0]["purged"], 40);
    assert_eq!(site.httpd.crashes(), 0);
}
