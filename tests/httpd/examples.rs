//! The examples of apache-conf/examples: httpd takes each of them, and those whose storage is at hand play a film.

use std::fs;
use std::path::Path;

use crate::client::{self, Request};
use crate::recipe::plays_from_the_store;
use crate::s3::{S3, film};
use crate::server::{Conf, Httpd, check};
use crate::storage::{Object, Storage};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/apache-conf/examples");

/// An example as it stands, but for ports and the paths of files.
fn example(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("it can be read");
    let rows = [
        ("*:80>", "127.0.0.1:@PORT@>"),
        ("*:8081>", "127.0.0.1:@PORT2@>"),
        ("Listen 8081", "Listen 127.0.0.1:@PORT2@"),
        ("*:8082>", "127.0.0.1:@PORT2@>"),
        ("Listen 8082", "Listen 127.0.0.1:@PORT2@"),
        ("/var/www/origin", "@DIR@/htdocs"),
        ("/var/log/apache2/", "@DIR@/logs/"),
        ("origin-error.log", "error.log"),
        // httpd -t looks for the file, and not into it.
        ("/etc/ssl/certs/ca-certificates.crt", "@DIR@/httpd.conf"),
        ("  LogLevel warn", "  LogLevel warn usp_storage_cache:trace2"),
    ];
    let text = rows.iter().fold(text, |text, (from, to)| text.replace(from, to));
    format!("LogFormat \"%h %l %u %t \\\"%r\\\" %>s %O\" combined\n{text}")
}

fn named(name: &str) -> String {
    example(&Path::new(EXAMPLES).join(name))
}

/// The text with other words for some of its own, each of which is there.
fn with(text: String, rows: &[(&str, &str)]) -> String {
    rows.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "the example has no {from}");
        text.replace(from, to)
    })
}

#[test]
fn httpd_takes_every_example() {
    let files: Vec<_> = fs::read_dir(EXAMPLES).expect("it is there").flatten().map(|file| file.path()).collect();
    assert_eq!(files.len(), 8, "{files:?}");
    for file in files {
        let (right, said) = check(&Conf::new(example(&file)).load("ssl").load("authz_host"));
        assert!(right, "{}: {said}", file.display());
    }
}

#[test]
fn the_example_of_the_status_answers_this_host() {
    let httpd = Httpd::start(Conf::new(named("status.conf")).load("authz_host"));
    for (query, begins) in [("", "<!DOCTYPE html>"), ("?format=json", "{"), ("?format=prometheus", "# HELP")] {
        let answer = httpd.get(&format!("/storage-cache-status{query}"));
        assert!(answer.status == 200 && answer.body.starts_with(begins.as_bytes()), "{query}: {}", answer.status);
    }
}

#[test]
fn the_example_of_path_style_plays_from_a_private_bucket_of_either_server() {
    for s3 in S3::both("example-path") {
        s3.put_film();
        let (access_key, secret_key) = s3.keys();
        let text = with(
            named("minio.conf"),
            &[
                ("http://minio.example:9000/your-bucket/", &s3.url()),
                ("your-access-key", access_key),
                ("your-secret-key", secret_key),
            ],
        );
        plays_from_the_store(&Httpd::start(Conf::new(text)));
    }
}

#[test]
fn the_example_of_virtual_host_style_plays_from_a_private_bucket_of_either_server() {
    for s3 in S3::both("example-host").map(|s3| s3.by_host()) {
        s3.put_film();
        let (access_key, secret_key) = s3.keys();
        // By http: the servers at hand have no certificate.
        let text = with(
            named("amazon.conf"),
            &[
                ("https://your-bucket.s3.eu-central-1.amazonaws.com/", &s3.url()),
                ("Your-AWS-AccessKey", access_key),
                ("Your-AWS-SecretKey", secret_key),
                ("SSLProxy", "#SSLProxy"),
            ],
        );
        plays_from_the_store(&Httpd::start(Conf::new(text)));
    }
}

#[test]
fn the_example_of_an_hmac_key_plays_from_a_private_bucket_of_either_server() {
    for s3 in S3::both("example-hmac") {
        s3.put_film();
        let (access_key, secret_key) = s3.keys();
        let text = with(
            named("google.conf"),
            &[
                ("https://storage.googleapis.com/your-bucket/", &s3.url()),
                ("GOOG1EYOURACCESSID", access_key),
                ("your-hmac-secret", secret_key),
                ("SSLProxy", "#SSLProxy"),
            ],
        );
        plays_from_the_store(&Httpd::start(Conf::new(text)));
    }
}

#[test]
fn the_example_without_a_signature_plays_from_a_plain_server() {
    let storage = Storage::start();
    for (name, body) in film() {
        storage.put(&format!("/media/{name}"), Object::new(body));
    }
    let text = with(named("plain.conf"), &[("http://files.example/", &format!("http://{}/", storage.host()))]);
    plays_from_the_store(&Httpd::start(Conf::new(text)));
    assert!(storage.asked().iter().all(|asked| asked.field("Authorization").is_none() && asked.query.is_none()));
}

#[test]
fn the_example_of_purging_purges_and_is_no_way_to_the_bucket() {
    let storage = Storage::start();
    for (name, body) in film() {
        storage.put(&format!("/{name}"), Object::new(body));
    }
    let text = named("purge.conf")
        .replace("http://your-bucket.s3.eu-central-1.amazonaws.com/", &format!("http://{}/", storage.host()));
    let httpd = Httpd::start(Conf::new(text).load("authz_host"));
    plays_from_the_store(&httpd);
    let send = |request| client::fetch(httpd.port2, request).expect("it is answered");
    assert_eq!(send(Request::get("/film.ism")).status, 403);
    assert_eq!(send(Request::new("PURGE", "/film.ism")).body, b"{\"purged\":1,\"fills\":0}\n");
    assert_eq!(send(Request::new("PURGE", "/").field("X-Purge-Method", "all")).status, 200);
    assert_eq!(httpd.entries().len(), 0);
}
