//! A manifest that is filled or has changed: the index MP4s that it names come along, and nothing else does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::Request;
use crate::content::content;
use crate::s3::film;
use crate::server::Conf;
use crate::site::{STORED, Site, endpoint, is_hit, sub};
use crate::storage::{Fault, Object, Storage, Whom};
use crate::wait::until;

const FILM: &str = "/media/film.ism";

/// The files of the film that its manifest names.
fn indexes() -> Vec<String> {
    let named = film().into_iter().filter(|(name, _)| name.ends_with("-index.mp4"));
    named.map(|(name, _)| format!("/media/{name}")).collect()
}

fn put_film(storage: &Storage) {
    for (name, file) in film() {
        storage.put(&format!("/media/{name}"), Object::new(file));
    }
}

/// A server manifest of tracks with these sources.
fn manifest<S: AsRef<str>>(sources: impl IntoIterator<Item = S>) -> String {
    let track = |source: S| {
        let source = source.as_ref().replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
        format!("<video src=\"{source}\" systemBitrate=\"1000\"><param name=\"trackID\" value=\"1\"/></video>\n")
    };
    let tracks: String = sources.into_iter().map(track).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<smil xmlns=\"http://www.w3.org/2001/SMIL20/Language\">\n\
         <head/><body><switch>\n{tracks}</switch></body></smil>\n"
    )
}

/// Waits until storage was asked for each, which nobody has asked httpd for.
fn wait_for_all(site: &Site, paths: &[String]) {
    paths.iter().for_each(|path| site.storage.wait_for_fetches(path, 1));
    paths.iter().for_each(|path| site.wait_for_entry(path));
}

#[test]
fn the_indexes_of_a_film_come_with_its_manifest() {
    let site = Site::new();
    put_film(&site.storage);
    assert_eq!(site.get(FILM).cache_status(), STORED);
    wait_for_all(&site, &indexes());
    for path in indexes() {
        assert!(is_hit(&site.get(&path).cache_status()), "{path}");
        assert!(is_hit(&site.sub(&path).cache_status()), "{path}");
        assert_eq!(site.storage.counts(&path), (1, 0), "{path}");
    }
    let asked: BTreeSet<String> = site.storage.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(asked.len(), 1 + indexes().len(), "{asked:?}");
}

#[test]
fn a_sub_request_for_a_range_of_a_manifest_brings_its_indexes_as_well() {
    let site = Site::new();
    put_film(&site.storage);
    assert_eq!(sub(FILM).range("bytes=0-9").run(&site.httpd).status(), 206);
    wait_for_all(&site, &indexes());
}

#[test]
fn where_prefetch_is_off_nothing_comes_with_a_manifest() {
    let site = Site::of(|storage| {
        let host = storage.host();
        let text = format!(
            "{}UspStorageCache on\nProxyPass \"/store/off/\" \"http://{host}/off/\"\n\
             ProxyPass \"/store/\" \"http://{host}/\"\n<Location \"/store/off/\">\n  UspStorageCachePrefetch off\n\
             </Location>\n",
            endpoint(&host)
        );
        Conf::new(text)
    });
    put_film(&site.storage);
    site.storage.put("/off/film.ism", Object::new(manifest(["index.mp4"])));
    site.storage.put("/off/index.mp4", Object::new("index"));
    assert_eq!(site.get("/off/film.ism").cache_status(), STORED);
    // What would come with it would come before what comes with this one.
    site.get(FILM);
    wait_for_all(&site, &indexes());
    assert_eq!(site.storage.counts("/off/index.mp4"), (0, 0));
}

#[test]
fn when_a_manifest_has_changed_its_indexes_are_asked_for_again() {
    let site = Site::with("UspStorageCacheExpire 1");
    site.storage.put("/index.mp4", Object::new("first index"));
    site.storage.put("/film.ism", Object::new(manifest(["index.mp4"])));
    site.get("/film.ism");
    wait_for_all(&site, &["/index.mp4".to_owned()]);
    site.storage.put("/index.mp4", Object::new("second index"));
    let changed = manifest(["index.mp4", "new.mp4"]);
    site.storage.put("/new.mp4", Object::new("new"));
    site.storage.put("/film.ism", Object::new(changed.clone()));
    until("the changed manifest", 20, || (site.get("/film.ism").body == changed.as_bytes()).then_some(()));
    wait_for_all(&site, &["/new.mp4".to_owned()]);
    site.storage.wait_for_fetches("/index.mp4", 2);
    until("the changed index", 20, || (site.get("/index.mp4").body == b"second index").then_some(()));
}

/// Sources of tracks that no prefetch follows, with `@OTHER@` for another storage and `@HOST@` for the same one.
const HOSTILE: &[&str] = &[
    "http://@OTHER@/media/absolute.mp4",
    "https://@OTHER@/media/absolute.mp4",
    "http://@HOST@/elsewhere/absolute.mp4",
    "//@OTHER@/media/hostless.mp4",
    "\\\\@OTHER@\\media\\backslash.mp4",
    "/elsewhere/rooted.mp4",
    "../elsewhere/up.mp4",
    "a/../../elsewhere/up.mp4",
    "%2e%2e/elsewhere/up.mp4",
    "..%2felsewhere/up.mp4",
    "%2E%2E%2Felsewhere%2Fup.mp4",
    "..\\elsewhere\\up.mp4",
    "./../elsewhere/up.mp4",
    "query.mp4?partNumber=1",
    "query.mp4?acl",
    "file:///etc/passwd.mp4",
    "javascript:a.mp4",
    "data:,a.mp4",
    "media.cmfv",
    "passwd",
    "",
    ".",
    "..",
    "/",
    "%00.mp4",
    "a%0d%0aHost: x.mp4",
    "%zz.mp4",
    "%",
];

#[test]
fn a_hostile_manifest_fetches_nothing_that_it_should_not() {
    let (site, other) = (Site::new(), Storage::start());
    let hostile =
        HOSTILE.iter().map(|source| source.replace("@OTHER@", &other.host()).replace("@HOST@", &site.storage.host()));
    site.storage.put("/media/hostile.ism", Object::new(manifest(hostile.chain(["good.mp4".to_owned()]))));
    site.storage.put("/media/good.mp4", Object::new("good"));
    put_film(&site.storage);
    assert_eq!(site.get("/media/hostile.ism").cache_status(), STORED);
    wait_for_all(&site, &["/media/good.mp4".to_owned()]);
    // What would come with it would come before what comes with this one.
    site.get(FILM);
    wait_for_all(&site, &indexes());
    let asked: BTreeSet<String> = site.storage.asked().into_iter().map(|asked| asked.path).collect();
    let known = |path: &String| {
        ["/media/hostile.ism", "/media/good.mp4", FILM].contains(&path.as_str()) || indexes().contains(path)
    };
    assert!(asked.iter().all(known), "{asked:?}");
    assert!(other.asked().is_empty() && other.strangers() == 0);
}

#[test]
fn a_manifest_that_names_a_manifest_leads_no_further() {
    let site = Site::new();
    site.storage.put("/film.ism", Object::new(manifest(["other.ism", "index.mp4"])));
    site.storage.put("/other.ism", Object::new(manifest(["deep.mp4"])));
    for path in ["/index.mp4", "/deep.mp4", "/last.mp4"] {
        site.storage.put(path, Object::new(path));
    }
    site.get("/film.ism");
    wait_for_all(&site, &["/index.mp4".to_owned()]);
    site.storage.put("/last.ism", Object::new(manifest(["last.mp4"])));
    site.get("/last.ism");
    wait_for_all(&site, &["/last.mp4".to_owned()]);
    assert_eq!(site.storage.counts("/deep.mp4"), (0, 0));
}

#[test]
fn a_manifest_that_names_very_many_indexes_fetches_a_few() {
    let site = Site::new();
    let names: Vec<String> = (0..100_000).map(|number| format!("{number}.mp4")).collect();
    let text = manifest(&names);
    site.storage.put("/many.ism", Object::new(text.clone()));
    assert!(site.get("/many.ism").body == text.as_bytes());
    put_film(&site.storage);
    site.get(FILM);
    wait_for_all(&site, &indexes());
    let is_one = |path: &str| path.ends_with(".mp4") && !path.starts_with("/media/");
    let count = site.storage.asked().iter().filter(|asked| is_one(&asked.path)).count();
    assert!(count <= 64, "{count} requests");
}

/// Manifests that cost a careless reader its memory, its stack or its time.
fn bombs() -> Vec<(&'static str, String)> {
    let laughs: String =
        (1..10).map(|level| format!("<!ENTITY a{level} \"{}\">", format!("&a{};", level - 1).repeat(10))).collect();
    let declared = |entities: &str, body: &str| format!("<?xml version=\"1.0\"?><!DOCTYPE smil [{entities}]>{body}");
    let smil = "<smil><body><switch><video src=\"&a9;.mp4\"/></switch></body></smil>";
    vec![
        ("laughs", declared(&format!("<!ENTITY a0 \"x\">{laughs}"), smil)),
        ("itself", declared("<!ENTITY a9 \"&a9;\">", smil)),
        ("a file", declared("<!ENTITY a9 SYSTEM \"file:///etc/passwd\">", smil)),
        ("depth", format!("{}{}", "<switch>".repeat(200_000), "</switch>".repeat(200_000))),
        ("one name", format!("<smil><{}/></smil>", "a".repeat(5_000_000))),
        ("attributes", format!("<smil><video {}/></smil>", "a=\"b\" ".repeat(500_000))),
        ("no end", "<smil><body><switch><video src=\"a.mp4".into()),
        ("comment", format!("<!--{}", "-".repeat(3_000_000))),
        ("zeros", "\0".repeat(100_000)),
    ]
}

#[test]
fn a_manifest_that_is_a_bomb_is_an_object_like_any_other() {
    let site = Site::new();
    let child = site.httpd.child();
    for (name, text) in bombs() {
        let path = format!("/{}.ism", name.replace(' ', "-"));
        site.storage.put(&path, Object::new(text.clone()));
        let began = Instant::now();
        assert!(site.get(&path).body == text.as_bytes(), "{name}");
        site.wait_for_entry(&path);
        assert!(is_hit(&site.get(&path).cache_status()), "{name}");
        assert!(began.elapsed() < Duration::from_secs(10), "{name} takes {:?}", began.elapsed());
    }
    // Prefetches still work after all of them.
    put_film(&site.storage);
    site.get(FILM);
    wait_for_all(&site, &indexes());
    let asked: BTreeSet<String> = site.storage.asked().into_iter().map(|asked| asked.path).collect();
    assert!(asked.iter().all(|path| path.ends_with(".ism") || indexes().contains(path)), "{asked:?}");
    assert_eq!((site.httpd.child(), site.httpd.crashes()), (child, 0));
    let peak = std::fs::read_to_string(format!("/proc/{child}/status")).expect("it lives");
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
    let peak: u64 = peak.expect("the kernel tells");
    assert!(peak < 300_000, "{peak} kB were in use");
}

#[test]
fn an_index_that_is_too_large_absent_or_refused_costs_one_request() {
    let site = Site::with("UspStorageCacheMaxObjectSize 10000\nUspStorageCacheNegativeExpire 60");
    site.storage.put("/film.ism", Object::new(manifest(["large.mp4", "absent.mp4", "refused.mp4", "good.mp4"])));
    site.storage.put("/large.mp4", Object::new(content(95, 20_000)));
    site.storage.fail("/refused.mp4", Whom::Everyone, Fault::Status(403));
    site.storage.put("/good.mp4", Object::new("good"));
    site.get("/film.ism");
    wait_for_all(&site, &["/good.mp4".to_owned()]);
    for path in ["/large.mp4", "/absent.mp4", "/refused.mp4"] {
        site.storage.wait_for_fetches(path, 1);
        site.send(Request::get(path));
        assert_eq!(site.storage.fetches(path).len(), 1, "{path}");
    }
}
