//! Signed fetches: from a real S3 server that verifies them, and what they look like on the wire.

use crate::client::Request;
use crate::content::content;
use crate::origin::{Sub, escape};
use crate::s3::S3;
use crate::server::{Conf, Httpd};
use crate::site::{STORED, Site, is_hit};
use crate::storage::{Asked, Fault, Object, Whom};

/// The module before the real server, its objects below `/store/`.
pub(crate) fn conf(s3: &S3, lines: &str) -> String {
    let url = s3.url();
    format!(
        "<Location \"/origin\">\n  SetHandler origin-double\n  IsmProxyPass \"{url}\"\n</Location>\n\
         UspStorageCache on\n<Location \"/store/\">\n  ProxyPass \"{url}\"\n{lines}</Location>\n\
         <Location \"/double-plain\">\n{lines}</Location>\n"
    )
}

fn fills_signed(prefix: &str, use_headers: bool) {
    for s3 in S3::both(prefix) {
        fills_signed_from(&s3, use_headers);
        fills_signed_from(&s3.by_host(), use_headers);
    }
}

fn fills_signed_from(s3: &S3, use_headers: bool) {
    let body = content(20, 300_000);
    s3.put("film-index.mp4", &body, &["x-amz-meta-title: Tears"]);
    let httpd = Httpd::start(Conf::new(conf(s3, &s3.lines(use_headers))));
    let first = httpd.get("/store/film-index.mp4");
    assert_eq!((first.status, first.cache_status().as_str()), (200, STORED), "{}", s3.url());
    assert!(first.body == body);
    let second = Sub::get("/store/film-index.mp4").range("bytes=1000-1999").run(&httpd);
    assert!(is_hit(&second.cache_status()), "{}", second.cache_status());
    assert_eq!((second.status(), second.body()), (206, &body[1000..2000]));
    assert_eq!(second.field("x-amz-meta-title").as_deref(), Some("Tears"));
    for name in ["ETag", "Last-Modified"] {
        assert!(first.field(name).is_some() && second.field(name) == first.field(name), "{name}");
    }
    assert_eq!((second.field("x-amz-request-id"), second.field("x-amz-id-2")), (None, None));
}

#[test]
fn a_real_server_takes_the_signature_in_the_header() {
    fills_signed("header", true);
}

#[test]
fn a_real_server_takes_the_signature_in_the_query() {
    fills_signed("query", false);
}

#[test]
fn keys_of_all_kinds_of_characters_are_signed_as_they_are_sent() {
    for s3 in S3::both("characters").into_iter().flat_map(|s3| [s3.by_host(), s3]) {
        let modes = [true, false].map(|use_headers| Httpd::start(Conf::new(conf(&s3, &s3.lines(use_headers)))));
        for name in NAMES {
            let key = escape(format!("{name}.mp4").as_bytes());
            s3.put(&key, name.as_bytes(), &[]);
            for httpd in &modes {
                let first = Sub::get(format!("/{key}")).by_hand().run(httpd);
                assert_eq!((first.status(), first.cache_status().as_str()), (200, STORED), "{name}");
                assert_eq!(first.body(), name.as_bytes());
                // mod_proxy sends a `+` as it is, and S3 takes that for a space: ProxyPass cannot ask for such a key.
                if !name.contains('+') {
                    let second = httpd.get(&format!("/store/{key}"));
                    assert_eq!((second.status, second.body.as_slice()), (200, name.as_bytes()), "{name}");
                }
            }
        }
    }
}

const NAMES: [&str; 10] =
    ["with space", "a+b", "film é ü", "日本", "a&b=c", "100%", "q?x", "semi;colon", "(paren)!*'", "at@$,:"];

#[test]
fn an_object_of_no_bytes_is_filled_from_a_real_server() {
    let s3 = S3::of_this_run("empty");
    s3.put("empty.mp4", b"", &[]);
    let httpd = Httpd::start(Conf::new(conf(&s3, &s3.lines(true))));
    let first = httpd.get("/store/empty.mp4");
    assert_eq!((first.status, first.cache_status().as_str(), first.body.len()), (200, STORED, 0));
    assert!(is_hit(&httpd.get("/store/empty.mp4").cache_status()));
}

#[test]
fn a_wrong_secret_key_gives_storages_403_by_way_of_mod_proxy_and_stores_nothing() {
    for (s3, use_headers) in S3::both("wrong-secret").into_iter().flat_map(|s3| [(s3.clone(), true), (s3, false)]) {
        s3.put("film.ism", b"<smil/>", &[]);
        let httpd = Httpd::start(Conf::new(conf(&s3, &s3.wrong_lines(use_headers))));
        for _ in 0..2 {
            let answer = httpd.get("/store/film.ism");
            assert_eq!((answer.status, answer.cache_status().as_str()), (403, ""));
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains("<Error>"), "not storage's own words: {text}");
        }
        assert!(httpd.entries().is_empty());
        assert_eq!(httpd.count_in_log("cannot fill"), 1);
        assert_eq!(httpd.count_in_log("403 (SignatureDoesNotMatch): S3SecretKey is not the one of S3AccessKey"), 1);
        let log = httpd.error_log();
        assert!(!log.contains("not/the/secret"), "the secret key is in the log");
    }
}

#[test]
fn without_keys_a_private_bucket_refuses() {
    let s3 = S3::of_this_run("no-keys");
    s3.put("film.ism", b"<smil/>", &[]);
    let httpd = Httpd::start(Conf::new(conf(&s3, "")));
    assert_eq!(httpd.get("/store/film.ism").status, 403);
    assert!(httpd.entries().is_empty());
}

#[test]
fn an_absent_key_of_a_real_server_is_its_404_first() {
    let s3 = S3::of_this_run("absent");
    let httpd = Httpd::start(Conf::new(conf(&s3, &s3.lines(true))));
    // Unsigned, mod_proxy gets a 403 for what the signed fetch knows to be absent.
    assert!(matches!(httpd.get("/store/none.ism").status, 403 | 404));
    let second = httpd.get("/store/none.ism");
    assert_eq!((second.status, second.body.len()), (404, 0));
}

#[test]
fn a_new_secret_key_keeps_the_store_and_another_access_key_has_a_store_of_its_own() {
    let s3 = S3::of_this_run("rotation");
    s3.put("film.ism", b"<smil/>", &[]);
    let mut httpd = Httpd::start(Conf::new(conf(&s3, &s3.lines(true))));
    assert_eq!(httpd.get("/store/film.ism").cache_status(), STORED);
    for (lines, hit) in [(s3.wrong_lines(true), true), (String::new(), false), (s3.lines(false), true)] {
        httpd.stop();
        httpd.start_again_as(conf(&s3, &lines));
        assert_eq!(is_hit(&httpd.get("/store/film.ism").cache_status()), hit, "{lines}");
    }
}

/// Answers of S3's that refuse, and what the log says to them.
const REFUSALS: &[(u16, &str, &str)] = &[
    (403, "SignatureDoesNotMatch", "S3SecretKey is not the one of S3AccessKey"),
    (403, "InvalidAccessKeyId", "it does not know S3AccessKey"),
    (400, "ExpiredToken", "S3SecurityToken has expired"),
    (400, "InvalidToken", "S3SecurityToken does not belong to S3AccessKey"),
    (403, "AccessDenied", "S3AccessKey may not read it (s3:GetObject)"),
    (301, "PermanentRedirect", "ProxyPass must name the endpoint of the bucket's region"),
    (400, "AuthorizationHeaderMalformed", "storage answered 400 (AuthorizationHeaderMalformed)"),
    (400, "InvalidArgument", "storage answered 400 (InvalidArgument)"),
];

#[test]
fn a_refusal_is_logged_with_what_to_look_at_and_none_of_storages_words() {
    let site = Site::with(&format!("{KEYS}S3Region eu-central-1\nS3SecurityToken the/token="));
    for (status, code, words) in REFUSALS {
        let path = format!("/{code}.ism");
        let body = format!(
            "<Error><Code>{code}</Code><AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId><Message>no</Message></Error>"
        );
        let head = format!("HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        site.storage.fail(&path, Whom::Everyone, Fault::Raw((head + &body).into()));
        // The client has storage's own words.
        for proxied in 1..3 {
            let answer = site.get(&path);
            assert_eq!(
                (answer.status, answer.body, site.storage.counts(&path)),
                (*status, body.clone().into(), (1, proxied))
            );
        }
        let log = site.httpd.error_log();
        let line = log.lines().find(|line| line.contains(&path) && line.contains("cannot fill")).expect("it is logged");
        assert!(line.contains(&format!("storage answered {status} ({code})")) && line.contains(words), "{line}");
        assert!(line.contains("usp_storage_cache:warn") && !line.contains("AKIDEXAMPLE"), "{line}");
    }
    assert!(site.httpd.entries().is_empty());
}

#[test]
fn a_stale_object_is_served_where_storage_refuses() {
    let site = Site::with(&format!("{KEYS}UspStorageCacheExpire 0\nUspStorageCacheStaleWhileRevalidate 0"));
    site.fill("/a.ism", Object::new("a"));
    site.storage.fail("/a.ism", Whom::Everyone, Fault::Raw(EXPIRED.into()));
    let answer = site.get("/a.ism");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"a"[..]));
    assert!(answer.cache_status().ends_with("detail=stale-if-error"), "{}", answer.cache_status());
}

const EXPIRED: &str = "HTTP/1.1 400 No\r\nConnection: close\r\nContent-Length: 40\r\n\r\n\
    <Error><Code>ExpiredToken</Code></Error>";

#[test]
fn storages_clock_is_signed_for_once_it_has_told_it() {
    for (use_headers, off_secs, way) in
        [("on", 1200, "behind"), ("on", -1200, "ahead of"), ("off", 1200, "behind"), ("off", -1200, "ahead of")]
    {
        let site = Site::with(&format!("{KEYS}S3UseHeaders {use_headers}"));
        for (path, fetches) in [("/a.ism", 2), ("/b.ism", 1)] {
            site.storage.fail(path, Whom::Fetches, Fault::Clock(off_secs));
            site.fill(path, Object::new("a"));
            assert_eq!(site.storage.fetches(path).len(), fetches, "{use_headers} {off_secs}");
        }
        let log = site.httpd.error_log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("are signed for its time")).collect();
        let [line] = lines[..] else { panic!("not one line: {lines:?}") };
        let says = |secs: u32| line.contains(&format!("this host's clock is {secs} s {way} storage's"));
        assert!((1195..=1205).any(says), "{line}");
        assert_eq!(site.httpd.count_in_log("cannot fill"), 0);
    }
}

#[test]
fn a_clock_that_storage_does_not_tell_is_refused_and_logged() {
    let site = Site::with(&format!("{KEYS}S3UseHeaders on"));
    let body = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    let refusal = format!("HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    site.storage.fail("/a.ism", Whom::Everyone, Fault::Raw(refusal.into()));
    assert_eq!((site.get("/a.ism").status, site.storage.fetches("/a.ism").len()), (403, 1));
    assert_eq!(site.httpd.count_in_log("(RequestTimeTooSkewed): this host's clock or storage's is wrong"), 1);
}

#[test]
fn the_region_that_storage_tells_is_signed_for_and_told_once() {
    for use_headers in ["on", "off"] {
        let site = Site::with(&format!("{KEYS}S3UseHeaders {use_headers}\nS3Region eu-central-1"));
        for (path, fetches) in [("/a.ism", 2), ("/b.ism", 1)] {
            site.storage.fail(path, Whom::Fetches, Fault::Region("eu-west-3"));
            site.fill(path, Object::new("a"));
            assert_eq!(site.storage.fetches(path).len(), fetches, "{use_headers}");
        }
        assert_eq!(
            site.httpd.count_in_log("are signed for eu-west-3, not for eu-central-1: set S3Region eu-west-3"),
            1
        );
        assert_eq!(site.httpd.count_in_log("cannot fill"), 0);
    }
}

#[test]
fn a_bucket_that_is_elsewhere_is_asked_once_more_and_not_again() {
    let site = Site::with(&format!("{KEYS}S3UseHeaders on\nS3Region eu-central-1"));
    for (path, fetches) in [("/a.ism", 2), ("/b.ism", 1)] {
        site.storage.fail(path, Whom::Everyone, Fault::StatusWith(301, &[("x-amz-bucket-region", "eu-west-3")]));
        assert_eq!((site.get(path).status, site.storage.fetches(path).len()), (301, fetches));
    }
    assert_eq!(site.httpd.count_in_log("ProxyPass must name the endpoint of the bucket's region (eu-west-3)"), 2);
}

/// What storage sees of a fetch that is signed by these lines.
fn wire(lines: &str) -> Asked {
    let site = Site::with(lines);
    site.fill("/a%20b/film.ism", Object::new("x"));
    site.storage.asked()[0].clone()
}

const KEYS: &str = "S3AccessKey AKIDEXAMPLE\nS3SecretKey wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\n";

#[test]
fn header_mode_signs_version_4_for_the_configured_region() {
    let asked = wire(&format!("{KEYS}S3Region eu-central-1\nS3UseHeaders on\nS3SecurityToken the/token="));
    assert_eq!((asked.path.as_str(), asked.query.as_deref()), ("/a%20b/film.ism", None));
    let authorization = asked.field("Authorization").expect("it is signed in the header");
    let credential = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/").expect("version 4");
    assert_eq!(credential[8..].split(',').next(), Some("/eu-central-1/s3/aws4_request"));
    let signed = authorization.split_once("SignedHeaders=").expect("it names its headers").1;
    let signed: Vec<&str> = signed.split(',').next().expect("a list").split(';').collect();
    for name in ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"] {
        assert!(signed.contains(&name), "{name} is not signed: {signed:?}");
        assert!(asked.field(name).is_some(), "{name} is not sent");
    }
    assert_eq!(asked.field("x-amz-security-token").as_deref(), Some("the/token="));
    assert!(!signed.contains(&"range") && !signed.contains(&"accept-encoding"), "{signed:?}");
}

#[test]
fn query_mode_presigns() {
    let asked = wire(&format!("{KEYS}S3Region eu-central-1\nS3SecurityToken the/token="));
    assert_eq!(asked.field("Authorization"), None);
    let query = asked.query.expect("it is signed in the query");
    let has = |text: &str| assert!(query.split('&').any(|pair| pair.starts_with(text)), "{text} is not in {query}");
    has("X-Amz-Algorithm=AWS4-HMAC-SHA256");
    has("X-Amz-Credential=AKIDEXAMPLE%2F");
    has("X-Amz-Security-Token=the%2Ftoken%3D");
    ["X-Amz-Date=", "X-Amz-Expires=", "X-Amz-SignedHeaders=host", "X-Amz-Signature="].into_iter().for_each(has);
    assert!(query.contains("%2Feu-central-1%2Fs3%2Faws4_request"), "{query}");
}

#[test]
fn without_a_region_that_anybody_tells_it_is_us_east_1_and_the_log_says_so_once() {
    let site = Site::with(&format!("{KEYS}S3UseHeaders on"));
    site.fill("/a.ism", Object::new("a"));
    site.fill("/b.ism", Object::new("b"));
    for asked in site.storage.asked() {
        let authorization = asked.field("Authorization").expect("it is signed");
        assert!(authorization.contains("/us-east-1/s3/aws4_request"), "{authorization}");
    }
    assert_eq!(site.httpd.count_in_log("us-east-1"), 1);
}

#[test]
fn without_both_keys_nothing_is_signed() {
    for lines in ["", "S3Region eu-central-1\nS3UseHeaders on"] {
        let asked = wire(lines);
        assert_eq!((asked.field("Authorization"), asked.query), (None, None), "{lines}");
    }
}

#[test]
fn what_the_caller_signed_is_never_sent_on_by_a_fetch_of_ours() {
    let site = Site::with(&format!("{KEYS}S3UseHeaders on"));
    site.storage.put("/a.ism", Object::new("a"));
    let request = Request::get("/a.ism?X-Amz-Signature=theirs&X-Amz-Credential=them")
        .field("Authorization", "AWS4-HMAC-SHA256 Credential=them")
        .field("x-amz-date", "20000101T000000Z");
    site.send(request);
    let [asked] = &site.storage.fetches("/a.ism")[..] else { panic!("not one fetch") };
    let authorization = asked.field("Authorization").unwrap_or_default();
    assert!(authorization.contains("AKIDEXAMPLE"), "{authorization}");
    assert_ne!(asked.field("x-amz-date").as_deref(), Some("20000101T000000Z"));
    assert_eq!(asked.query, None);
    // Nor is it part of the key.
    assert!(is_hit(&site.get("/a.ism").cache_status()));
}

#[test]
fn no_key_is_ever_in_the_log() {
    let site =
        Site::with(&format!("{KEYS}S3Region us-east-1\nS3SecurityToken the/token=\nLogLevel usp_storage_cache:trace8"));
    site.fill("/a.ism", Object::new("a"));
    site.storage.fail("/b.ism", Whom::Everyone, Fault::Status(403));
    site.get("/b.ism");
    let log = site.httpd.error_log();
    for secret in ["wJalrXUtnFEMI", "the/token", "the%2Ftoken", "X-Amz-Signature", "Signature="] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
