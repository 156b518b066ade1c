//! `PURGE` requests: what they remove, for all children and under every scope, and who may send them.

use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use serde_json::Value;

use crate::client::{Connection, Request, Response};
use crate::content::content;
use crate::filling::{fill, landed};
use crate::server::{Conf, Httpd, Mpm, check};
use crate::site::{BODY_LEN, FILM, STORED, Site, is_hit, sub, url_hash};
use crate::storage::{Fault, Object, Storage, Whom};
use crate::wait::until;

/// The site that most tests have: `/store/` may be purged, by whoever is on this host.
const HERE: &str = "<Location \"/store/\">\nUspStorageCachePurge on\n</Location>\n";

fn purge(target: &str) -> Request {
    Request::new("PURGE", target)
}

fn prefix(target: &str) -> Request {
    purge(target).field("X-Purge-Method", "prefix")
}

/// What an answer says has gone: entries and fills.
fn gone(answer: &Response) -> (u64, u64) {
    assert_eq!(answer.field("Content-Type").as_deref(), Some("application/json"), "{answer:?}");
    let said: Value = serde_json::from_slice(&answer.body).expect("it is JSON");
    (said["purged"].as_u64().expect("a number"), said["fills"].as_u64().expect("a number"))
}

fn site(lines: &str) -> Site {
    let site = Site::with(lines);
    for path in [FILM, "/films/a.ism", "/films/b.ism"] {
        site.fill(path, Object::new(content(30, 1000)));
    }
    // A fill that has published its entry and is not over yet throws it away itself.
    site.httpd.settle();
    site
}

#[test]
fn an_object_goes_and_the_others_stay() {
    let site = site(HERE);
    let answer = site.send(purge(FILM));
    assert_eq!((answer.status, gone(&answer)), (200, (1, 0)));
    let line = format!("purged http://{}{FILM}: 1 entries, 0 fills", site.storage.host());
    assert_eq!(site.httpd.count_in_log(&line), 1);
    assert!(is_hit(&site.get("/films/a.ism").cache_status()));
    let answer = site.send(purge(FILM));
    assert_eq!((answer.status, gone(&answer)), (404, (0, 0)));
    assert_eq!(site.get(FILM).cache_status(), STORED);
}

#[test]
fn a_prefix_takes_all_below_it_and_nothing_beside() {
    let site = site(HERE);
    let answer = site.send(prefix("/films/"));
    assert_eq!((answer.status, gone(&answer)), (200, (2, 0)));
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert_eq!(site.send(prefix("/films/")).status, 404);
    assert_eq!(gone(&site.send(prefix("/"))), (1, 0));
}

/// A `ProxyPass` to a bare host: what it maps is the whole host, and not all hosts whose names or ports begin so.
#[test]
fn a_prefix_never_ends_within_the_host() {
    let storage = Storage::start();
    let (short, host) = (storage.host()[..storage.host().len() - 1].to_owned(), storage.host());
    let lines = format!(
        "ProxyPass \"/short\" \"http://{short}\"\n<Location \"/short\">\nUspStorageCachePurge on\n</Location>\n"
    );
    let site = Site { httpd: Httpd::start(Conf::new(Site::text(&storage, &lines))), storage };
    site.fill(FILM, Object::new("film"));
    site.httpd.settle();
    for target in ["/short", "/short/"] {
        let answer = site.httpd.send(prefix(target));
        assert_eq!((answer.status, gone(&answer)), (404, (0, 0)), "{target}: {short} is not {host}");
    }
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn all_goes_by_the_path_of_the_root_alone() {
    let lines = "ProxyPassMatch \"^/$\" \"http://127.0.0.1:1/\"\nUspStorageCachePurge on\n";
    let site = site(lines);
    let all = |target: &str| site.httpd.send(purge(target).field("X-Purge-Method", "all"));
    for target in ["/store/", "/store/film.ism"] {
        assert_eq!(all(target).status, 400, "{target}");
    }
    assert_eq!(site.send(purge(FILM).field("X-Purge-Method", "regex")).status, 400);
    assert_eq!(site.httpd.entries().len(), 3);
    assert_eq!(gone(&all("/")), (3, 0));
    assert_eq!((all("/").status, site.httpd.entries().len()), (404, 0));
}

#[test]
fn an_object_goes_under_every_scope() {
    let site = Site::of(|storage| {
        let location = |key: &str| {
            format!(
                "ProxyPass \"/{key}/\" \"http://{}/\"\n<Location \"/{key}/\">\n\
                 S3AccessKey {key}\nS3SecretKey secret\nS3Region eu-west-1\n</Location>\n",
                storage.host()
            )
        };
        Conf::new(location("ONE") + &location("OTHER") + &Site::text(storage, HERE))
    });
    site.fill(FILM, Object::new("film"));
    for key in ["ONE", "OTHER"] {
        assert_eq!(site.httpd.get(&format!("/{key}{FILM}")).cache_status(), STORED);
    }
    site.httpd.settle();
    // Where one may purge, and another may not.
    site.httpd.send(purge(&format!("/ONE{FILM}")));
    assert_eq!(site.httpd.entries().len(), 3);
    assert_eq!(gone(&site.send(purge(FILM))), (3, 0));
}

#[test]
fn where_it_is_off_a_purge_goes_to_storage_as_before() {
    for lines in ["", "UspStorageCachePurge off\n"] {
        let site = site(lines);
        let before = site.storage.asked().len();
        site.send(purge(FILM));
        let asked = site.storage.asked().split_off(before);
        assert_eq!(asked.iter().map(|asked| asked.method.as_str()).collect::<Vec<_>>(), ["PURGE"], "{lines}");
        assert!(is_hit(&site.get(FILM).cache_status()));
    }
}

#[test]
fn a_sub_request_never_purges() {
    let site = site("UspStorageCachePurge on\n");
    sub(FILM).parameter("method", "PURGE").run(&site.httpd);
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert_eq!(site.httpd.count_in_log("purged "), 0);
}

#[test]
fn a_body_is_refused_and_not_read() {
    let site = site(HERE);
    let mut connection = site.httpd.connect();
    let endless = b"PURGE /store/film.ism HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(endless).expect("it is taken");
    assert_eq!(connection.receive(false).expect("it is answered").status, 413);
    assert_eq!(site.send(purge(FILM).body(b"x")).status, 413);
    assert!(is_hit(&site.get(FILM).cache_status()));
}

#[test]
fn odd_urls_are_made_canonical_or_refused() {
    let rows = [
        ("/store/fi%6Cm%2eism?x=1", 200),
        ("/store/x/../film.ism", 200),
        ("/store/film.ism?versionId=1", 404),
        ("/store/film.ism?acl", 400),
        ("/store/films/%252e%252e/film.ism", 404),
        ("/store/FILM.ism", 404),
        ("/store/film.ism/", 404),
    ];
    for (target, status) in rows {
        let site = site(HERE);
        assert_eq!(site.httpd.send(purge(target)).status, status, "{target}");
        assert_eq!(site.httpd.entries().len(), if status == 200 { 2 } else { 3 }, "{target}");
    }
}

#[test]
fn a_fill_that_is_purged_is_answered_and_not_kept() {
    let site = Site::with(HERE);
    let film = Object::new(content(30, 2_000_000));
    site.storage.put(FILM, film.clone());
    site.storage.fail(FILM, Whom::Fetches, Fault::HoldAfter(600_000));
    thread::scope(|scope| {
        let asking = scope.spawn(|| site.get(FILM));
        until("two blocks", 20, || landed(&site, FILM).filter(|blocks| blocks.len() >= 2));
        let answer = site.send(purge(FILM));
        assert_eq!((answer.status, gone(&answer)), (200, (0, 1)));
        site.storage.release(FILM);
        let answer = asking.join().expect("it is answered");
        assert!(answer.status == 200 && answer.body == film.body());
    });
    site.httpd.settle();
    until("the fill to go", 20, || fill(&site, FILM).is_none().then_some(()));
    assert_eq!(site.httpd.entries().len(), 0);
}

#[test]
fn what_cannot_be_removed_is_told_and_goes_the_next_time() {
    for (request, others) in [(purge(FILM), 2), (prefix("/"), 0)] {
        let site = site(HERE);
        let shard = &url_hash(&format!("http://{}{FILM}", site.storage.host()))[..2];
        let shard = site.httpd.path("store/v1/entries").join(shard);
        let allow = |mode| fs::set_permissions(&shard, Permissions::from_mode(mode)).expect("it is the test's");
        let beside = site.httpd.entries().iter().filter(|entry| entry.starts_with(&shard)).count() - 1;
        allow(0o500);
        assert_eq!(site.send(request.clone()).status, 500);
        assert_eq!(site.httpd.entries().len(), 1 + others.max(beside), "the others go all the same");
        assert_eq!(site.httpd.count_in_log(", not all may be gone: Permission denied"), 1);
        assert!(is_hit(&site.get(FILM).cache_status()));
        allow(0o700);
        assert_eq!(site.send(request).status, 200);
        assert_eq!(site.httpd.entries().len(), others);
    }
}

#[test]
fn where_there_is_no_store_nothing_is_purged() {
    let mut site = site(HERE);
    site.httpd.stop();
    let v1 = site.httpd.path("store/v1");
    fs::remove_dir_all(&v1).expect("it is the test's");
    fs::write(&v1, "foreign").expect("written");
    site.httpd.start_again();
    assert_eq!(site.send(purge(FILM)).status, 503);
    assert_eq!(site.httpd.count_in_log("PURGE refused (503): there is no store"), 1);
    assert_eq!(site.get(FILM).status, 200);
}

/// RFC 9211, section 2: only answers that are based on a stored one are the field's.
#[test]
fn an_answer_to_a_purge_says_nothing_of_a_cache() {
    let site = site(HERE);
    for status in [200, 404] {
        let answer = site.send(purge(FILM));
        assert_eq!((answer.status, answer.field("Cache-Status"), answer.field("Age")), (status, None, None));
    }
    let answer = site.send(purge(FILM).field("X-Purge-Method", "regex"));
    assert_eq!((answer.status, answer.field("Cache-Status")), (400, None));
}

#[test]
fn no_child_serves_what_one_has_purged() {
    for mpm in Mpm::ALL {
        let site = Site::wide(mpm, 4, 1, HERE);
        site.fill(FILM, Object::new(content(30, BODY_LEN)));
        let ask = || site.each_child(4, &Request::get(FILM));
        assert!(ask().iter().all(|answer| is_hit(&answer.cache_status())));
        site.httpd.settle();
        let other = Object::new(content(31, BODY_LEN));
        site.storage.put(FILM, other.clone());
        assert_eq!(gone(&site.send(purge(FILM))), (1, 0), "{mpm:?}");
        for answer in ask() {
            assert!(answer.status == 200 && answer.body == other.body(), "{mpm:?}: {}", answer.cache_status());
        }
        assert_eq!((site.storage.counts(FILM), site.httpd.crashes()), ((2, 0), 0), "{mpm:?}");
    }
}

/// An address of this host that is not loopback; nothing is sent.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

/// Lines within `<Location "/store/">`, lines beside it, fields of the request, and the status for a client that mod_remoteip
/// takes for 198.51.100.7, and for one on this host.
type Row = (&'static str, &'static str, u16, u16);

const PURGE_ON: &str = "UspStorageCachePurge on\n";

const ACCESS: &[Row] = &[
    ("", "", 403, 200),
    ("Require all granted", "", 403, 200),
    ("Require all granted\nRequire ip 198.51.100.7", "", 403, 200),
    ("<RequireAll>\nRequire all granted\nRequire ip 198.51.100.7\n</RequireAll>", "", 403, 403),
    ("Require ip 198.51.100.7", "", 200, 403),
    ("Require ip 198.51.100.7 127.0.0.1", "", 200, 200),
    ("Require ip 198.51.100.8", "", 403, 403),
    ("Require local", "", 403, 200),
    ("Require method GET PURGE", "", 403, 200),
    ("<RequireAny>\nRequire ip 198.51.100.7\nRequire local\n</RequireAny>", "", 200, 200),
    ("<Limit PURGE>\nRequire ip 198.51.100.7 127.0.0.1\n</Limit>", "", 200, 200),
    ("<Limit PURGE>\nRequire all granted\n</Limit>", "", 200, 200),
    ("<Limit PURGE>\nRequire ip 198.51.100.7\n</Limit>\nRequire all granted", "", 403, 200),
    (
        "<LimitExcept PURGE>\nRequire all granted\n</LimitExcept>\n<Limit PURGE>\nRequire ip 198.51.100.7\n</Limit>",
        "",
        200,
        403,
    ),
    ("<LimitExcept GET HEAD>\nRequire all granted\n</LimitExcept>", "", 403, 200),
    ("Require ip 198.51.100.7\nAuthMerging Or", "", 403, 403),
    ("Require ip 198.51.100.7\nSatisfy Any", "", 403, 200),
    // In other sections only what names PURGE counts, and only while nothing inside replaces it.
    ("", "<Location \"/\">\nRequire ip 198.51.100.7 127.0.0.1\n</Location>", 403, 200),
    ("", "<Location \"/\">\nRequire all granted\n</Location>", 403, 200),
    ("", "<Location \"/\">\n<Limit PURGE>\nRequire ip 198.51.100.7 127.0.0.1\n</Limit>\n</Location>", 200, 200),
    (
        "Require all granted",
        "<Location \"/\">\n<Limit PURGE>\nRequire ip 198.51.100.7\n</Limit>\n</Location>",
        403,
        200,
    ),
    ("Require ip 198.51.100.7", "<LocationMatch \"/store/f\">\nRequire all granted\n</LocationMatch>", 403, 200),
];

#[test]
fn only_rules_that_speak_of_purging_let_in_who_is_not_on_this_host() {
    for (inside, beside, elsewhere, here) in ACCESS {
        // Sections of the same kind hold in their order.
        let location = format!("<Location \"/store/\">\n{PURGE_ON}{inside}\n</Location>\n");
        let is_later = beside.starts_with("<LocationMatch");
        let sections = if is_later { [&location, *beside] } else { [*beside, &location] }.join("\n");
        let lines = format!("RemoteIPHeader X-Client\nRemoteIPInternalProxy 127.0.0.1\n{sections}\n");
        let storage = Storage::start();
        // What is purged is filled where nobody is refused.
        let open = format!("ProxyPass \"/open/\" \"http://{}/\"\n", storage.host());
        let text = open + &Site::text(&storage, &lines);
        let conf = Conf::new(text).load("remoteip").load("authz_host").load("access_compat");
        let site = Site { httpd: Httpd::start(conf), storage };
        site.storage.put(FILM, Object::new("film"));
        let fill = || assert_eq!((site.httpd.get("/open/film.ism").status, site.httpd.entries().len()), (200, 1));
        fill();
        let status = site.send(purge(FILM).field("X-Client", "198.51.100.7")).status;
        assert_eq!(status, *elsewhere, "from elsewhere: {sections}");
        assert_eq!(site.httpd.entries().len(), usize::from(*elsewhere != 200), "{sections}");
        fill();
        assert_eq!(site.send(purge(FILM)).status, *here, "from here: {sections}");
    }
}

#[test]
fn what_a_proxy_passes_on_is_not_from_this_host() {
    let site = site(HERE);
    for name in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"] {
        assert_eq!(site.send(purge(FILM).field(name, "127.0.0.1")).status, 403, "{name}");
    }
    assert_eq!(site.httpd.count_in_log("PURGE refused (403): a proxy passed it on"), 4);
    assert!(is_hit(&site.get(FILM).cache_status()));
}

/// mod_remoteip must not make a client of this host out of one that is not.
#[test]
fn both_ends_of_the_connection_count() {
    let Some(ip) = outer_address() else { return };
    let storage = Storage::start();
    let lines = format!("Listen {ip}:@PORT2@\nRemoteIPHeader X-Client\nRemoteIPInternalProxy {ip}\n{HERE}");
    let httpd = Httpd::start(Conf::new(Site::text(&storage, &lines)).load("remoteip"));
    let site = Site { httpd, storage };
    site.fill(FILM, Object::new("film"));
    site.httpd.settle();
    let from_outside = |request: Request| {
        let mut connection = Connection::to(SocketAddr::new(ip, site.httpd.port2)).expect("it listens there");
        connection.exchange(&request.below("/store")).expect("it is answered").status
    };
    assert_eq!(from_outside(purge(FILM)), 403);
    assert_eq!(from_outside(purge(FILM).field("X-Client", "127.0.0.1")), 403);
    assert_eq!(site.httpd.count_in_log("PURGE refused (403): the client is not on this host"), 2);
    assert_eq!(site.send(purge(FILM)).status, 200);
}

#[test]
fn who_has_shown_a_password_is_named_in_the_log() {
    let storage = Storage::start();
    let lines = "<Location \"/store/\">\nUspStorageCachePurge on\nAuthType Basic\nAuthName purge\nAuthBasicProvider file\n\
                 AuthUserFile \"@DIR@/htdocs/users\"\n<Limit PURGE>\nRequire valid-user\n</Limit>\n</Location>\n";
    let conf = ["auth_basic", "authn_core", "authn_file", "authz_user"]
        .into_iter()
        .fold(Conf::new(Site::text(&storage, lines)), Conf::load);
    let site = Site { httpd: Httpd::start(conf), storage };
    // The password is "purge" (htpasswd -s).
    fs::write(site.httpd.path("htdocs/users"), "ops:{SHA}zsoHH/c9tTvTS0pvgGPQ6+RhZuE=\n").expect("written");
    site.fill(FILM, Object::new("film"));
    site.httpd.settle();
    assert_eq!(site.send(purge(FILM)).status, 401);
    let with_password = |password: &str| purge(FILM).field("Authorization", format!("Basic {password}"));
    assert_eq!(site.send(with_password("b3BzOndyb25n")).status, 401);
    assert_eq!(site.send(with_password("b3BzOnB1cmdl")).status, 200);
    assert_eq!(site.httpd.count_in_log("1 entries, 0 fills, asked by \"ops\""), 1);
}

#[test]
fn the_lines_of_access_rules_are_taken_in_htaccess_as_before() {
    let text = "<Directory \"@DIR@/htdocs\">\nAllowOverride AuthConfig\n</Directory>\nDocumentRoot \"@DIR@/htdocs\"\n";
    let httpd = Httpd::start(Conf::new(text));
    let write = |name: &str, text: &str| fs::write(httpd.path("htdocs").join(name), text).expect("written");
    write("page", "page");
    for (rule, status) in [("Require all granted\n", 200), ("Require all denied\n", 403)] {
        write(".htaccess", rule);
        assert_eq!(httpd.get("/page").status, status, "{rule}: {}", httpd.error_log());
    }
    let (right, said) = check(&Conf::new("Require all granted\n"));
    assert!(!right && said.contains("not allowed here"), "{said}");
}
