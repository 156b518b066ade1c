//! What mod_proxy sends of requests that pass: signed where nobody else does it, for storages that the configuration names,
//! without the client's secrets, and over connections that are kept.

use crate::client::Request;
use crate::content::content;
use crate::origin::{Sub, escape};
use crate::s3::{S3, film};
use crate::server::{Conf, Httpd, check};
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

/// What storage is asked when mod_proxy passes on `request`, as a main request.
fn wire(lines: &str, request: Request) -> Asked {
    let site = site(lines);
    assert_eq!(site.send(request).status, 200);
    proxied(&site, MEDIA)
}

/// What a client may bring along.
fn with_secrets(request: Request) -> Request {
    let secrets = [("Authorization", "AWS4-HMAC-SHA256 Credential=them"), ("Cookie", "a=1"), ("X-Amz-Cf-Id", "cf")];
    secrets.into_iter().fold(request, |request, (name, value)| request.field(name, value)).field("x-test", "1")
}

/// The names in `SignedHeaders` of an Authorization of ours.
fn signed_fields(asked: &Asked) -> String {
    let authorization = asked.field("Authorization").expect("it is signed in the header");
    let credential = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/").expect("version 4, by us");
    assert_eq!(credential[8..].split(',').next(), Some("/eu-central-1/s3/aws4_request"));
    let signed = authorization.split_once("SignedHeaders=").expect("it names its headers").1;
    signed.split(',').next().unwrap_or_default().to_owned()
}

/// A private film is played with nothing but mod_proxy and the module.
fn plays(prefix: &str, use_headers: bool, more: &str) {
    let s3 = S3::of_this_run(prefix);
    s3.put_film();
    let text = format!("ServerName play.example\n{}", conf(&s3, &(s3.lines(use_headers) + more)));
    let httpd = Httpd::start(Conf::new(text));
    let send = |request: Request| httpd.send(request.field("Host", "play.example"));
    for (name, file) in film() {
        let target = format!("/store/{name}");
        let main = send(Request::get(&target));
        assert_eq!((main.status, &main.body), (200, &file), "{name}");
        let part = send(with_secrets(Request::get(target.clone() + "?X-Amz-Signature=theirs")).range("bytes=100-299"));
        assert_eq!((part.status, &part.body[..]), (206, &file[100..300]), "{name}");
        let head = send(Request::head(&target));
        assert_eq!((head.status, head.field("Content-Length")), (200, Some(file.len().to_string())), "{name}");
        // Over a connection that is kept mod_proxy would wait for the body of its answer.
        assert_eq!(Sub::head(&target).run(&httpd).status(), 200, "{name}");
        for sub in [Sub::get(&target), Sub::get(format!("/{name}")).by_hand()] {
            let part =
                sub.inherit("Host", "play.example").inherit("x-amz-cf-id", "cf").range("bytes=100-299").run(&httpd);
            assert_eq!((part.status(), part.body()), (206, &file[100..300]), "{name}");
        }
    }
    assert!(!httpd.error_log().contains("Signature"), "a signature is in the log");
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
    // The server takes X-Forwarded-Host for the Host, which mod_proxy sends alike here.
    plays("plays-preserved-header", true, "ProxyPreserveHost on\n");
    plays("plays-preserved-query", false, "ProxyPreserveHost on\n");
}

#[test]
fn keys_of_all_kinds_of_characters_pass_signed() {
    let s3 = S3::of_this_run("passing-characters");
    let modes = [true, false].map(|use_headers| Httpd::start(Conf::new(conf(&s3, &s3.lines(use_headers)))));
    for name in ["with space", "film é ü", "日本", "a&b=c", "100%", "q?x", "semi;colon", "(paren)!*'", "at@$,:"] {
        let key = escape(format!("{name}.cmfv").as_bytes());
        s3.put(&key, name.as_bytes(), &[]);
        for httpd in &modes {
            let main = httpd.get(&format!("/store/{key}"));
            assert_eq!((main.status, main.body.as_slice()), (200, name.as_bytes()), "{name}");
            for sub in [Sub::get(format!("/store/{key}")), Sub::get(format!("/{key}")).by_hand()] {
                let sub = sub.run(httpd);
                assert_eq!((sub.status(), sub.body()), (200, name.as_bytes()), "{name}");
            }
        }
    }
}

#[test]
fn without_keys_private_media_is_refused_as_it_was() {
    let s3 = S3::of_this_run("passing-no-keys");
    s3.put("a.cmfv", b"a", &[]);
    assert_eq!(Httpd::start(Conf::new(conf(&s3, ""))).get("/store/a.cmfv").status, 403);
}

#[test]
fn the_header_is_signed_and_what_the_client_must_not_send_is_gone() {
    let lines = format!("{KEYS}S3UseHeaders on");
    let target = format!("{MEDIA}?X-Amz-Signature=theirs&x=1&X-Amz-Credential=them&Signature=old");
    let main = wire(&lines, with_secrets(Request::get(&target)));
    let site = site(&lines);
    let inherit = |sub: Sub, (name, value)| sub.inherit(name, value);
    let secrets =
        [("Authorization", "Basic eDp5"), ("Cookie", "a=1"), ("x-amz-date", "20000101T000000Z"), ("x-test", "1")];
    assert_eq!(secrets.into_iter().fold(sub(&target), inherit).run(&site.httpd).status(), 200);
    for asked in [main, proxied(&site, MEDIA)] {
        assert_eq!(signed_fields(&asked), "host;x-amz-content-sha256;x-amz-date;x-amz-security-token");
        assert_eq!(asked.field("x-amz-security-token").as_deref(), Some("the/token="));
        assert_ne!(asked.field("x-amz-date").as_deref(), Some("20000101T000000Z"));
        assert_eq!(asked.query.as_deref(), Some("x=1"));
        assert_eq!((asked.field("Cookie"), asked.field("X-Amz-Cf-Id")), (None, None));
        assert_eq!(asked.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Authorization")).count(), 1);
        assert_eq!(asked.field("x-test").as_deref(), Some("1"));
    }
}

#[test]
fn the_query_is_signed_and_what_the_client_must_not_send_is_gone() {
    let target = format!("{MEDIA}?X-Amz-Signature=theirs&x=1");
    let asked = wire(KEYS, with_secrets(Request::get(&target)));
    let query = asked.query.clone().unwrap_or_default();
    let has =
        |text: &str| assert_eq!(query.split('&').filter(|one| one.starts_with(text)).count(), 1, "{text}: {query}");
    has("x=1");
    has("X-Amz-Credential=AKIDEXAMPLE%2F");
    has("X-Amz-Security-Token=the%2Ftoken%3D");
    ["X-Amz-Date=", "X-Amz-Expires=", "X-Amz-SignedHeaders=host", "X-Amz-Signature="].into_iter().for_each(has);
    assert!(!query.contains("theirs"), "{query}");
    let gone = ["Authorization", "Cookie", "X-Amz-Cf-Id"].map(|name| asked.field(name));
    assert_eq!(gone, [None, None, None]);
    assert_eq!(asked.field("x-test").as_deref(), Some("1"));
}

#[test]
fn a_signature_is_in_nobody_elses_request() {
    let logged =
        "LogFormat \"%{Authorization}i|%{x-amz-date}i|%{x-amz-security-token}i\" leak\nCustomLog logs/leak.log leak\n";
    let site = site(&format!("{KEYS}S3UseHeaders on\n{logged}"));
    site.storage.put("/b.cmfv", Object::new("b"));
    assert_eq!(site.get(MEDIA).status, 200);
    assert_eq!(sub(MEDIA).and("/store/b.cmfv").run(&site.httpd).statuses(), [200, 200]);
    let _ = site.httpd.access_log(2);
    let leak = std::fs::read_to_string(site.httpd.path("logs/leak.log")).expect("there is a log");
    assert_eq!(leak.lines().collect::<Vec<_>>(), ["-|-|-", "-|-|-"]);
}

#[test]
fn it_signs_where_the_lines_stand_whether_the_store_is_on_or_not() {
    let site = Site::of(|storage| {
        let host = storage.host();
        Conf::new(format!(
            "ProxyPass \"/store/\" \"http://{host}/\"\n<Proxy \"http://{host}/\">\n{KEYS}S3UseHeaders on\n</Proxy>\n"
        ))
    });
    site.storage.put(MEDIA, Object::new(body()));
    site.storage.put("/a.ism", Object::new("a"));
    for path in [MEDIA, "/a.ism"] {
        assert_eq!(site.get(path).status, 200);
        assert!(!is_unsigned(&proxied(&site, path)), "{path}");
    }
    assert!(site.httpd.entries().is_empty());
}

#[test]
fn without_keys_nothing_is_changed() {
    let target = format!("{MEDIA}?X-Amz-Signature=theirs&x=1");
    let asked = wire("", with_secrets(Request::get(&target)));
    assert_eq!(asked.query.as_deref(), Some("X-Amz-Signature=theirs&x=1"));
    let had = ["Authorization", "Cookie", "X-Amz-Cf-Id", "X-Forwarded-Host"].map(|name| asked.field(name).is_some());
    assert_eq!(had, [true; 4]);
}

#[test]
fn other_methods_are_left_alone() {
    let site = site(&format!("{KEYS}S3UseHeaders on"));
    site.send(with_secrets(Request::new("POST", MEDIA)).body(b"x"));
    let asked = proxied(&site, MEDIA);
    assert_eq!(asked.field("Authorization").as_deref(), Some("AWS4-HMAC-SHA256 Credential=them"));
    assert!(asked.field("Cookie").is_some() && asked.field("x-amz-date").is_none());
}

#[test]
fn what_is_not_an_object_is_not_signed_for() {
    for mode in ["on", "off"] {
        let site = site(&format!("{KEYS}S3UseHeaders {mode}"));
        for target in
            ["/", "/?list-type=2&prefix=", "/a/", "/a.cmfv?acl", "/a.cmfv?%61cl", "/a.cmfv?response-expires=0"]
        {
            site.get(target);
        }
        let asked = site.storage.asked();
        assert_eq!(asked.len(), 6);
        assert!(asked.iter().all(is_unsigned), "{asked:?}");
    }
}

#[test]
fn a_storage_that_the_configuration_does_not_name_gets_no_signature_for_what_passes_or_is_filled() {
    for mode in ["on", "off"] {
        let site = site(&format!("<Location \"/\">\n{KEYS}S3UseHeaders {mode}\n</Location>"));
        let stranger = Storage::start();
        for path in ["/a.cmfv", "/a.ism"] {
            for storage in [&site.storage, &stranger] {
                storage.put(path, Object::new("a"));
                let answer = Sub::get(format!("http://{}{path}", storage.host())).by_hand().run(&site.httpd);
                assert_eq!((answer.status(), answer.body()), (200, &b"a"[..]), "{path}");
            }
        }
        assert_eq!((stranger.counts("/a.cmfv"), stranger.counts("/a.ism")), ((0, 1), (1, 0)));
        assert!(stranger.asked().iter().all(is_unsigned), "{:?}", stranger.asked());
        assert_eq!(site.storage.asked().len(), 2);
        assert!(!site.storage.asked().iter().any(is_unsigned), "{:?}", site.storage.asked());
    }
}

#[test]
fn each_line_that_leads_to_a_storage_names_it() {
    type Line = fn(&str) -> String;
    let lines: [Line; 5] = [
        |host| format!("ProxyPass \"/b/\" \"http://{host}/else/\"\n"),
        |host| format!("ProxyPassMatch \"^/b/(.*)$\" \"http://{host}/$1\"\n"),
        |host| format!("<Proxy \"http://{host}/\">\n</Proxy>\n"),
        |host| format!("<Proxy \"http://127.*:{}/\">\n</Proxy>\n", host.rsplit(':').next().unwrap_or_default()),
        |host| format!("<Location \"/b/\">\nIsmProxyPass \"http://{host}/\"\n</Location>\n"),
    ];
    for line in lines {
        let other = Storage::start();
        other.put("/a.cmfv", Object::new("a"));
        let site = site(&(format!("{KEYS}S3UseHeaders on\n") + &line(&other.host())));
        assert_eq!(Sub::get(format!("http://{}/a.cmfv", other.host())).by_hand().run(&site.httpd).status(), 200);
        assert!(!other.asked().iter().any(is_unsigned), "{}", line(&other.host()));
    }
}

#[test]
fn a_host_that_only_the_client_names_is_not_signed_for() {
    for mode in ["on", "off"] {
        let site = site(&format!("ProxyPreserveHost on\n{KEYS}S3UseHeaders {mode}\nServerName play.example"));
        for (number, (host, is_signed)) in
            [("play.example:81", true), ("bucket.else.example", false)].into_iter().enumerate()
        {
            assert_eq!(site.send(Request::get(MEDIA).field("Host", host)).status, 200);
            let asked = &site.storage.asked()[number];
            assert_eq!(asked.field("Host").as_deref(), Some(host));
            assert_eq!(is_unsigned(asked), !is_signed, "{host}");
        }
    }
}

#[test]
fn beside_a_module_that_signs_it_signs_only_its_own_fetches() {
    for ours_first in [true, false] {
        for mode in ["on", "off"] {
            let text = |storage: &Storage| Site::text(storage, &format!("{KEYS}S3UseHeaders {mode}"));
            let conf = |storage: &Storage| Conf::new(text(storage)).with_signer();
            let site = Site::of(|storage| if ours_first { conf(storage).ours_first() } else { conf(storage) });
            site.storage.put(MEDIA, Object::new(body()));
            site.send(with_secrets(Request::get(MEDIA)));
            let asked = proxied(&site, MEDIA);
            assert_eq!(asked.field("Authorization").as_deref(), Some("double AKIDEXAMPLE"));
            assert_eq!((asked.query.as_deref(), asked.field("x-amz-date")), (None, None));
            assert!(asked.field("Cookie").is_some());
            site.fill("/a.ism", Object::new("a"));
            let [filled] = &site.storage.fetches("/a.ism")[..] else { panic!("not one fetch") };
            assert!(!is_unsigned(filled) && filled.field("X-Signed-By").is_none());
        }
    }
}

#[test]
fn loaded_before_mod_proxy_it_signs_all_the_same() {
    let site = Site::of(|storage| Conf::new(Site::text(storage, &format!("{KEYS}S3UseHeaders on"))).ours_first());
    site.storage.put(MEDIA, Object::new(body()));
    assert_eq!(site.get(MEDIA).status, 200);
    signed_fields(&proxied(&site, MEDIA));
}

#[test]
fn it_needs_no_mod_proxy_to_be_loaded() {
    let httpd = Httpd::start(Conf::new(format!("UspStorageCache on\n{KEYS}")).bare());
    assert!(httpd.get("/").status >= 400);
    let (right, said) = check(&Conf::new("ProxyPass /a http://127.0.0.1/\n").bare());
    assert!(!right && said.contains("ProxyPass") && said.contains("module"), "{said}");
}

/// How many connections so many sub-requests for media take.
fn connections(lines: &str, sub: &Sub, rounds: usize) -> usize {
    let storage = Storage::start();
    storage.put(MEDIA, Object::new(body()));
    let host = storage.host();
    let text = format!("{}ProxyPass \"/store/\" \"http://{host}/\"\n{lines}\n", endpoint(&host));
    let httpd = Httpd::start(Conf::new(text));
    let answer = sub.clone().range("bytes=1000-1999").parameter("n", rounds.to_string()).run(&httpd);
    assert_eq!(answer.body(), &body()[1000..2000]);
    let asked = storage.proxied(MEDIA);
    assert_eq!(asked.len(), rounds);
    let connections: std::collections::HashSet<u64> = asked.iter().map(|asked| asked.connection).collect();
    connections.len()
}

#[test]
fn sub_requests_that_pass_share_a_connection() {
    let n = rounds(50, 1000);
    assert_eq!(connections("UspStorageCache on", &sub(MEDIA), n), 1);
    // Without the module's doing mod_proxy makes one for each.
    assert_eq!(connections("UspStorageCache off", &sub(MEDIA), n), n);
}

#[test]
fn the_body_of_a_clients_request_is_no_sub_requests() {
    let site = site("");
    let request = sub(MEDIA).parameter("n", "3").request().body(b"the client's own");
    assert_eq!(site.httpd.send(request).status, 200);
    for asked in site.storage.proxied(MEDIA) {
        assert_eq!((asked.field("Content-Length"), asked.field("Transfer-Encoding")), (None, None));
    }
}
