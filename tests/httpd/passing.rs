//! What mod_proxy sends of requests that pass: signed where nobody else does it, for storages that the configuration names,
//! without the client's secrets, and over connections that are kept.

use crate::client::Request;
use crate::content::content;
use crate::origin::{Sub, escape};
use crate::s3::{S3, film, film_file};
use crate::server::{Conf, Httpd};
use crate::signing::conf;
use crate::site::{Site, endpoint, sub};
use crate::storage::{Asked, Object, Storage};
use crate::wait::rounds;

const MEDIA: &str = "/a%20b/film.cmfv";
const KEYS: &str = "S3AccessKey AKIDEXAMPLE\nS3SecretKey wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\n\
                    S3Region eu-central-1\nS3SecurityToken the/token=\n";

fn body() -> Vec<u8> {
    content(40, 100_000)
}

/// A site with media, whose requests pass, and these lines at server level.
fn site(lines: &str) -> Site {
    let site = Site::with(lines);
    site.storage.put(MEDIA, Object::new(body()));
    site
}

/// The only request of mod_proxy's.
fn proxied(site: &Site, path: &str) -> Asked {
    match &site.storage.proxied(path)[..] {
        [one] => one.clone(),
        all => panic!("not one request for {path}, but {}", all.len()),
    }
}

fn is_unsigned(asked: &Asked) -> bool {
    let names = asked.fields.iter().map(|(name, _)| name.to_ascii_lowercase());
    let has_fields = names.into_iter().any(|name| name == "authorization" || name.starts_with("x-amz-"));
    !has_fields && !asked.query.as_deref().unwrap_or_default().contains("X-Amz-")
}

/// A private film is played with nothing but mod_proxy and the module.
fn plays(prefix: &str, use_headers: bool, more: &str) {
    let s3 = S3::of_this_run(prefix);
    s3.put_film();
    let httpd = Httpd::start(Conf::new(conf(&s3, &(s3.lines(use_headers) + more))));
    for (name, file) in film() {
        let main = httpd.get(&format!("/store/{name}"));
        assert_eq!((main.status, &main.body), (200, &file), "{name}");
        let part = httpd.send(Request::get(format!("/store/{name}")).range("bytes=100-299"));
        assert_eq!((part.status, &part.body[..]), (206, &file[100..300]), "{name}");
        let head = httpd.send(Request::head(format!("/store/{name}")));
        assert_eq!((head.status, head.field("Content-Length")), (200, Some(file.len().to_string())), "{name}");
        for sub in [Sub::get(format!("/store/{name}")), Sub::get(format!("/{name}")).by_hand()] {
            let part = sub.clone().range("bytes=100-299").run(&httpd);
            assert_eq!((part.status(), part.body()), (206, &file[100..300]), "{name}: {sub:?}");
        }
    }
    let log = httpd.error_log();
    assert!(!log.contains("Signature"), "a signature is in the log");
}

#[test]
fn a_private_film_plays_with_the_signature_in_the_header() {
    plays("plays-header", true, "");
}

#[test]
fn a_private_film_plays_with_the_signature_in_the_query() {
    plays("plays-query", false, "");
}

#[test]
fn a_private_film_plays_where_the_clients_host_goes_to_storage() {
    plays("plays-preserved-header", true, "ProxyPreserveHost on\n");
    plays("plays-preserved-query", false, "ProxyPreserveHost on\n");
}
