//! Upstreams and requests whose URL does not tell all: mod_proxy answers them.

use std::fs::{Permissions, set_permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::client::Request;
use crate::content::content;
use crate::server::{Conf, Httpd, check};
use crate::site::{STORED, Site, endpoint};
use crate::storage::{Object, Storage};

const FILM: &str = "/media/film.ism";

fn site(lines: &str) -> Site {
    let site = Site::with(lines);
    site.storage.put(FILM, Object::new(content(1, 1000)));
    site
}

/// Answers each connection to a socket with one body.
fn answer_on(listener: UnixListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
            let _head = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nthe socket";
            // A client that has gone needs no answer.
            let _ = stream.write_all(answer);
        }
    });
}

#[test]
fn a_socket_is_left_to_mod_proxy_and_so_is_a_url_that_may_mean_it() {
    let dir = tempfile::tempdir().expect("a directory");
    set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("passable");
    let path = dir.path().join("s");
    answer_on(UnixListener::bind(&path).expect("a socket"));
    set_permissions(&path, Permissions::from_mode(0o777)).expect("open to all");
    let storage = Storage::start();
    storage.put("/film.ism", Object::new(content(1, 1000)));
    storage.put("/s/film.ism", Object::new(content(1, 1000)));
    let host = storage.host();
    let text = format!(
        "{}UspStorageCache on\nProxyPass \"/u/\" \"unix:{}|http://{host}/s/\"\nProxyPass \"/t/\" \"http://{host}/\"\n",
        endpoint(&host),
        path.display()
    );
    let httpd = Httpd::start(Conf::new(text));
    for _ in 0..2 {
        let answer = httpd.get("/u/film.ism");
        assert_eq!((answer.body.as_slice(), answer.cache_status().as_str()), (&b"the socket"[..], ""));
    }
    assert!(storage.asked().is_empty());
    assert_eq!(httpd.get("/t/film.ism").cache_status(), STORED);
    assert_eq!(httpd.get("/t/s/film.ism").cache_status(), "");
}

#[test]
fn an_object_that_depends_on_the_clients_host_is_left_to_mod_proxy() {
    let site = site("ProxyPreserveHost On\n");
    assert_eq!(site.get(FILM).cache_status(), "");
    assert_eq!(site.storage.counts(FILM), (0, 1));
}

#[test]
fn an_encoded_name_of_a_parameter_counts_as_what_storage_reads() {
    let site = site("");
    let cache_status = |query: &str| site.get(&format!("{FILM}?{query}")).cache_status();
    assert_eq!(cache_status("%61cl"), "");
    assert_eq!(cache_status("x=1"), STORED);
    assert_eq!(cache_status("%76ersionId=2"), STORED);
    let queries: Vec<_> = site.storage.fetches(FILM).iter().map(|asked| asked.query.clone()).collect();
    assert_eq!(queries, [None, Some("versionId=2".to_owned())]);
}

#[test]
fn an_absence_is_not_told_to_who_brings_credentials() {
    let site = Site::new();
    let path = "/media/hidden.ism";
    let statuses = [Request::get(path), Request::get(path)].map(|request| site.send(request).cache_status());
    assert_eq!(statuses, ["", "usp-storage-cache; hit; detail=absent"]);
    let signed = site.send(Request::get(path).field("Authorization", "Bearer x"));
    assert_eq!((signed.status, signed.cache_status().as_str()), (404, ""));
}

#[test]
fn a_proxied_request_where_the_module_is_off_is_told_of() {
    let site = site("<Location \"/store/\">\n  UspStorageCache off\n</Location>\n");
    assert_eq!(site.get(FILM).cache_status(), "");
    assert_eq!(site.httpd.count_in_log("not ours: UspStorageCache is not on here"), 1);
}

#[test]
fn a_secret_that_is_refused_is_not_shown() {
    for directive in ["S3SecretKey", "S3SecurityToken"] {
        let (right, said) = check(&Conf::new(format!("{directive} \"sesame\u{1}\"\n")));
        assert!(!right && said.contains(directive), "{said}");
        assert!(!said.contains("sesame"), "{said}");
    }
}
