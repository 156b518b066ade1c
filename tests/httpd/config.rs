//! What the directives take, where they may stand, and how they merge.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::client::{self, Request};
use crate::content::content;
use crate::origin::Sub;
use crate::server::{Conf, Httpd, check};
use crate::site::{STORED, Site, endpoint, is_hit, ttl};
use crate::storage::Object;

/// Lines that are wrong, and a word of what would be right.
const NONSENSE: &[(&str, &str, &str)] = &[
    ("UspStorageCache", "maybe", "on"),
    ("UspStorageCacheMatch", "(unclosed", "("),
    ("UspStorageCacheMaxObjectSize", "10apples", "K"),
    ("UspStorageCacheMaxObjectSize", "-1", "bytes"),
    ("UspStorageCacheMaxObjectSize", "99999999999999999999T", "bytes"),
    ("UspStorageCacheIgnoreQueryString", "perhaps", "on"),
    ("UspStorageCacheRange", "both", "partial"),
    ("UspStorageCacheExpire", "soon", "seconds"),
    ("UspStorageCacheExpire", "-5", "seconds"),
    ("UspStorageCacheConnectTimeout", "never", "seconds"),
    ("UspStorageCacheConnectTimeout", "0", "seconds"),
    ("UspStorageCacheTimeout", "0", "seconds"),
    ("UspStorageCacheTimeout", "1e3", "seconds"),
    ("UspStorageCacheCAFile", "/nowhere/ca.pem", "No such file"),
    ("UspStorageCacheCAFile", "/dev/null", "no certificate"),
    ("UspStorageCacheFallback", "other-bucket", "https://"),
    ("UspStorageCacheFallback", "http://h/?a", "query"),
    ("UspStorageCacheNegativeExpire", "x", "seconds"),
    ("UspStorageCacheHonor", "perhaps", "on"),
    ("UspStorageCacheStaleWhileRevalidate", "-1", "seconds"),
    ("UspStorageCacheStaleIfError", "1d", "seconds"),
    ("UspStorageCacheWait", "0", "seconds"),
    ("UspStorageCachePartSize", "255K", "256K"),
    ("UspStorageCachePartSize", "0", "bytes"),
    ("UspStorageCacheHedge", "some", "on"),
    ("UspStorageCachePrefetch", "some", "on"),
    ("UspStorageCachePurge", "prefix", "on"),
    ("UspStorageCacheConnections", "0", "4096"),
    ("UspStorageCacheConnections", "4097", "4096"),
    ("UspStorageCacheFillThreads", "65", "64"),
    ("UspStorageCacheMaxSize", "10Q", "K"),
    ("UspStorageCacheMaxSize", "lots", "bytes"),
    ("UspStorageCacheMinFree", "abc", "bytes"),
    ("S3UseHeaders", "maybe", "on"),
    ("UspStorageCacheCredentials", "some", "static"),
    ("S3RoleARN", "media", "arn:aws:iam"),
    ("S3RoleSessionName", "two words", "letters"),
    ("S3RoleDuration", "899", "900"),
    ("S3RoleDuration", "43201", "43200"),
];

#[test]
fn nonsense_is_refused_with_directive_value_and_remedy() {
    for (directive, value, remedy) in NONSENSE {
        let (right, said) = check(&Conf::new(format!("{directive} \"{value}\"\n")));
        assert!(!right, "{directive} {value} is taken");
        for words in [directive, value, remedy] {
            assert!(said.contains(words), "{directive} {value}: no {words:?} in: {said}");
        }
    }
}

/// Values that are right, one or more for each directive that may stand anywhere.
const ANYWHERE: &[(&str, &[&str])] = &[
    ("UspStorageCache", &["on", "off", "On", "OFF"]),
    ("UspStorageCacheMatch", &["\\.(?i:ism|mp4)$", "^/a"]),
    ("UspStorageCacheMaxObjectSize", &["1000000000", "1K", "2M", "3G", "1T", "5g"]),
    ("UspStorageCacheIgnoreQueryString", &["on", "off"]),
    ("UspStorageCacheRange", &["partial", "full"]),
    ("UspStorageCacheExpire", &["7200", "1"]),
    ("UspStorageCacheHonor", &["on", "off"]),
    ("UspStorageCacheStaleWhileRevalidate", &["300", "0"]),
    ("UspStorageCacheStaleIfError", &["86400", "0"]),
    ("UspStorageCacheConnectTimeout", &["5", "1"]),
    ("UspStorageCacheTimeout", &["10", "1"]),
    ("UspStorageCacheNegativeExpire", &["5", "0"]),
    ("UspStorageCacheFallback", &["http://h", "https://h:8443/bucket/"]),
    ("UspStorageCacheWait", &["10", "1"]),
    ("UspStorageCachePartSize", &["4M", "256K", "300000"]),
    ("UspStorageCacheHedge", &["on", "off"]),
    ("UspStorageCachePrefetch", &["on", "off"]),
    ("UspStorageCachePurge", &["on", "off"]),
    ("S3AccessKey", &["AKIDEXAMPLE"]),
    ("S3SecretKey", &["a/b+c="]),
    ("S3SecurityToken", &["token"]),
    ("S3Region", &["eu-central-1", "default"]),
    ("S3UseHeaders", &["on", "off"]),
    ("UspStorageCacheCredentials", &["auto", "static", "none", "Auto"]),
    ("S3RoleARN", &["arn:aws:iam::123456789012:role/path/media"]),
    ("S3RoleSessionName", &["edge-1@site"]),
    ("S3RoleDuration", &["900", "43200"]),
];

#[test]
fn every_directive_is_taken_in_server_vhost_location_and_proxy() {
    let mut text = String::from("Listen 127.0.0.1:@PORT2@\n");
    for (directive, values) in ANYWHERE {
        for value in *values {
            let line = format!("{directive} \"{value}\"\n");
            text += &format!(
                "{line}<VirtualHost 127.0.0.1:@PORT2@>\n{line}</VirtualHost>\n<Location \"/a/\">\n{line}</Location>\n\
                 <Proxy \"http://127.0.0.1/\">\n{line}</Proxy>\n"
            );
        }
    }
    let (right, said) = check(&Conf::new(text));
    assert!(right, "{said}");
}

#[test]
fn what_belongs_to_the_main_server_is_refused_elsewhere_and_told_where_it_goes() {
    let lines = [
        "UspStorageCacheRoot \"@DIR@/other\"",
        "UspStorageCacheMaxSize 10G",
        "UspStorageCacheMinFree 1G",
        "UspStorageCacheConnections 128",
        "UspStorageCacheFillThreads 8",
    ];
    for line in lines {
        let directive = line.split(' ').next().unwrap_or_default();
        let (right, said) = check(&Conf::new(format!("{line}\n")));
        assert!(right, "{said}");
        let sections = [
            ("<VirtualHost *>", "</VirtualHost>"),
            ("<Location \"/\">", "</Location>"),
            ("<Proxy \"http://a/\">", "</Proxy>"),
        ];
        for (open, close) in sections {
            let (right, said) = check(&Conf::new(format!("{open}\n{line}\n{close}\n")));
            assert!(!right && said.contains(directive), "{line} in {open}: {said}");
        }
        let (_, said) = check(&Conf::new(format!("<VirtualHost *>\n{line}\n</VirtualHost>\n")));
        assert!(said.contains("outside of <VirtualHost>"), "{said}");
    }
}

#[test]
fn a_root_that_others_could_write_stops_the_start_and_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("store");
    fs::create_dir(&root).expect("it is empty");
    fs::set_permissions(&root, Permissions::from_mode(0o777)).expect("it is ours");
    let conf = Conf::new(format!("UspStorageCacheRoot \"{}\"\nUspStorageCache on\n", root.display()));
    let said = refused_at_start(conf);
    assert!(said.contains(&root.display().to_string()), "{said}");
    assert!(!root.join("v1").exists());
}

#[test]
fn a_root_that_is_a_link_stops_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("store");
    symlink(dir.path(), &root).expect("the name is free");
    let said = refused_at_start(Conf::new(format!("UspStorageCacheRoot \"{}\"\nUspStorageCache on\n", root.display())));
    assert!(said.contains(&root.display().to_string()), "{said}");
    assert!(!dir.path().join("v1").exists());
}

#[test]
fn a_root_in_a_directory_that_is_not_there_stops_the_start_and_says_so() {
    let said = refused_at_start(Conf::new("UspStorageCacheRoot \"@DIR@/none/store\"\nUspStorageCache on\n"));
    assert!(said.contains("none/store") || said.contains("none"), "{said}");
}

/// The error log of an httpd that has to refuse to start.
fn refused_at_start(conf: Conf) -> String {
    let started = std::panic::catch_unwind(|| Httpd::start(conf).error_log());
    match started {
        Ok(log) => panic!("httpd starts: {log}"),
        Err(said) => said.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

/// A request of some kind through some sections, and whether the module answers it.
struct Case {
    name: &'static str,
    server: &'static str,
    vhost: &'static str,
    proxy: &'static str,
    location: &'static str,
    ours: bool,
}

const fn case(name: &'static str, [server, vhost, proxy, location]: [&'static str; 4], ours: bool) -> Case {
    Case { name, server, vhost, proxy, location, ours }
}

const ON: &str = "UspStorageCache on";
const OFF: &str = "UspStorageCache off";

const MERGES: &[Case] = &[
    case("nowhere", ["", "", "", ""], false),
    case("server", [ON, "", "", ""], true),
    case("vhost", ["", ON, "", ""], true),
    case("proxy", ["", "", ON, ""], true),
    case("location", ["", "", "", ON], true),
    case("vhost over server", [ON, OFF, "", ""], false),
    case("vhost over server, on", [OFF, ON, "", ""], true),
    case("proxy over vhost", [ON, ON, OFF, ""], false),
    case("proxy over vhost, on", [OFF, OFF, ON, ""], true),
    case("location over proxy", [ON, ON, ON, OFF], false),
    case("location over proxy, on", [OFF, OFF, OFF, ON], true),
];

impl Case {
    /// Another setting beside the switch, which has to come through whatever section it stands in.
    fn text(&self, host: &str) -> String {
        let Self { server, vhost, proxy, location, .. } = self;
        format!(
            "Listen 127.0.0.1:@PORT2@\n{server}\n<VirtualHost 127.0.0.1:@PORT2@>\n{vhost}\n\
             ProxyPass \"/store/\" \"http://{host}/\"\n<Proxy \"http://{host}/\">\n{proxy}\n</Proxy>\n\
             <Location \"/store/\">\n{location}\n</Location>\n{}</VirtualHost>\n",
            endpoint(host)
        )
    }
}

#[test]
fn sections_merge_from_server_over_vhost_and_proxy_to_location() {
    for case in MERGES {
        let site = Site::of(|storage| Conf::new(case.text(&storage.host())));
        site.storage.put("/film.ism", Object::new("film"));
        let answer = client::fetch(site.httpd.port2, Request::get("/store/film.ism")).expect("it answers");
        assert_eq!(answer.cache_status() == STORED, case.ours, "{}: {answer:?}", case.name);
        let request = Sub::get("/store/film.ism").request();
        let answer = client::fetch(site.httpd.port2, request).expect("it answers");
        let status = answer.field("Sub-Cache-Status").unwrap_or_default();
        assert_eq!(is_hit(&status), case.ours, "{}: {status}", case.name);
    }
}

#[test]
fn each_value_merges_for_itself() {
    // Range stands in the outermost section, Match between, the switch in the innermost.
    let full = case(
        "spread",
        ["UspStorageCacheRange full", "UspStorageCacheMatch \"\\.bin$\"", "UspStorageCacheExpire 50", ON],
        true,
    );
    let site = Site::of(|storage| Conf::new(full.text(&storage.host())));
    site.storage.put("/film.bin", Object::new(content(1, 100)));
    for round in 0..2 {
        let request = Sub::get("/store/film.bin").range("bytes=0-1").request();
        let answer = client::fetch(site.httpd.port2, request).expect("it answers");
        assert_eq!((answer.field("X-Sub-Status").as_deref(), answer.body.len()), (Some("200"), 100), "round {round}");
        let status = answer.field("Sub-Cache-Status").unwrap_or_default();
        let left = ttl(&status);
        assert!(status == STORED || left.is_some_and(|ttl| (40..=50).contains(&ttl)), "{status}");
    }
}

#[test]
fn an_inner_section_overrides_an_outer_one_value_by_value() {
    let inner = case(
        "override",
        [
            "UspStorageCacheRange full",
            "UspStorageCacheRange partial\nUspStorageCache on",
            "UspStorageCacheRange full",
            "UspStorageCacheRange partial",
        ],
        true,
    );
    let site = Site::of(|storage| Conf::new(inner.text(&storage.host())));
    site.storage.put("/film.ism", Object::new(content(1, 100)));
    let request = Sub::get("/store/film.ism").range("bytes=0-1").request();
    let answer = client::fetch(site.httpd.port2, request).expect("it answers");
    assert_eq!((answer.field("X-Sub-Status").as_deref(), answer.body.len()), (Some("206"), 2));
}

#[test]
fn vhosts_with_different_limits_share_the_store_but_not_the_limits() {
    let site = Site::of(|storage| {
        let host = storage.host();
        Conf::new(format!(
            "Listen 127.0.0.1:@PORT2@\nUspStorageCache on\n<VirtualHost 127.0.0.1:@PORT@>\n\
             UspStorageCacheMaxObjectSize 10\nProxyPass \"/store/\" \"http://{host}/\"\n</VirtualHost>\n\
             <VirtualHost 127.0.0.1:@PORT2@>\nProxyPass \"/store/\" \"http://{host}/\"\n</VirtualHost>\n"
        ))
    });
    site.storage.put("/film.ism", Object::new(content(1, 100)));
    let second = |target: &str| client::fetch(site.httpd.port2, Request::get(target)).expect("it answers");
    assert_eq!(site.get("/film.ism").cache_status(), "");
    assert_eq!(second("/store/film.ism").cache_status(), STORED);
    assert!(is_hit(&second("/store/film.ism").cache_status()));
}
