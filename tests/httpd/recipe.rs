//! The configuration that users have, with `UspStorageCache on` in the place of its `Cache…` lines
//! and its `<LocationMatch>`: it starts, and it serves a film from a private bucket.

use crate::client::{self, Response};
use crate::s3::{S3, film_file};
use crate::server::{Conf, Httpd, Mpm, check};
use crate::site::{STORED, is_hit, is_ours};
use crate::storage::{Object, Storage};

const INDEX: &str = "film-avc1-400k-index.mp4";

/// The origin's virtual host. Hosts, ports and paths are the test's, all else is the recipe's.
const FRONT: &str = r#"
<VirtualHost 127.0.0.1:@PORT@>
  Header set Access-Control-Allow-Origin "*"
  ServerName origin-proxy
  DocumentRoot "@DIR@/htdocs"

  <Location "/">
    UspHandleIsm on
    UspEnableSubreq on
    IsmProxyPass "@UPSTREAM@"
  </Location>

  @PROXY@

  ErrorLog logs/error.log
  CustomLog logs/access.log combined
  LogLevel warn usp_storage_cache:trace2
</VirtualHost>
"#;

/// `<Proxy>` as the recipe has it, before the virtual host that caches.
const PROXY_SECTION: &str = r#"
  <Proxy "@UPSTREAM@">
    ProxySet connectiontimeout=5 enablereuse=on keepalive=on retry=0 timeout=30 ttl=300
  </Proxy>
"#;

/// `<Proxy>` where the virtual host that caches has gone.
const PROXY_OF_STORAGE: &str = r#"
  <Proxy "@UPSTREAM@">
    ProxySet connectiontimeout=5 enablereuse=on keepalive=on retry=0 timeout=30 ttl=300
    @SIGNING@
    UspStorageCache on
  </Proxy>
"#;

/// The virtual host that caches, with `ProxyPass` inside of a section.
const CACHE_INSIDE: &str = r#"
<VirtualHost 127.0.0.1:@PORT2@>
  ServerName origin-cache
  UspStorageCache on

  <Location "/">
    ProxyPass @STORAGE@ connectiontimeout=5 timeout=10 ttl=300 keepalive=on retry=0
    ProxyPassReverse @STORAGE@
    ## for a private bucket
    @SIGNING@
  </Location>

  ErrorLog logs/error.log
  CustomLog logs/access.log combined
  LogLevel warn usp_storage_cache:trace2
</VirtualHost>
"#;

/// The same with `ProxyPass` outside of any section.
const CACHE_OUTSIDE: &str = r#"
<VirtualHost 127.0.0.1:@PORT2@>
  ServerName origin-cache
  UspStorageCache on

  @SIGNING@
  ProxyPass / @STORAGE@ connectiontimeout=5 timeout=10 ttl=300 keepalive=on retry=0
  ProxyPassReverse / @STORAGE@

  ErrorLog logs/error.log
  CustomLog logs/access.log combined
  LogLevel warn usp_storage_cache:trace2
</VirtualHost>
"#;

const LOOPBACK: &str = "http://localhost:@PORT2@/";

/// The configuration of the first form: the virtual host stays.
fn first_form(s3: &S3, cache: &str, signing: &str) -> Conf {
    let front = FRONT.replace("@PROXY@", PROXY_SECTION).replace("@UPSTREAM@", LOOPBACK);
    conf(s3, &format!("Listen 127.0.0.1:@PORT2@\n{front}{cache}"), signing)
}

/// The configuration of the second form: the virtual host goes.
fn second_form(s3: &S3, signing: &str) -> Conf {
    let front = FRONT.replace("@PROXY@", PROXY_OF_STORAGE).replace("@UPSTREAM@", "@STORAGE@");
    conf(s3, &front, signing)
}

fn conf(s3: &S3, text: &str, signing: &str) -> Conf {
    let combined = "LogFormat \"%h %l %u %t \\\"%r\\\" %>s %O\" combined\n";
    Conf::new(combined.to_owned() + &text.replace("@SIGNING@", signing).replace("@STORAGE@", &s3.url()))
}

fn from_cache(httpd: &Httpd, name: &str, range: &str) -> Response {
    let request = client::Request::get(format!("/{name}"));
    let request = if range.is_empty() { request } else { request.range(range) };
    client::fetch(httpd.port2, request).expect("the virtual host answers")
}

/// Plays the film through the front, and says what the cache was in each line of an object.
fn played(httpd: &Httpd) -> Vec<(String, String)> {
    let answer = httpd.get("/film.ism/.mpd");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(answer.field("Access-Control-Allow-Origin").as_deref(), Some("*"));
    let words = text.lines().map(|line| line.splitn(5, ' ').map(str::to_owned).collect::<Vec<_>>());
    let (media, objects): (Vec<_>, Vec<_>) = words.partition(|words| words[3].contains(".cmf"));
    assert!(media.len() == 3 && media.iter().all(|words| words[0] == "206" && words[1] == "1024"), "{text}");
    objects.into_iter().map(|words| (words[3].clone(), words[4].clone())).collect()
}

/// A film of four objects: all are fetched the first time, and none the second time.
pub(crate) fn plays_from_the_store(httpd: &Httpd) {
    let first = played(httpd);
    assert_eq!(first.len(), 4, "{first:?}");
    for (uri, cache) in first {
        // The manifest's fill fetches its indexes: one may be there already, or be on its way.
        assert!(if uri.ends_with(".ism") { cache == STORED } else { is_ours(&cache) }, "{uri}: {cache}");
    }
    for (uri, cache) in played(httpd) {
        assert!(is_hit(&cache), "{uri}: {cache}");
    }
    assert_eq!(httpd.entries().len(), 4);
}

fn first_form_serves(prefix: &str, cache: &str) {
    let s3 = S3::of_this_run(prefix);
    s3.put_film();
    let conf = first_form(&s3, cache, &s3.lines(true));
    let (right, said) = check(&conf);
    assert!(right, "{said}");
    let httpd = Httpd::start(conf);
    plays_from_the_store(&httpd);
    let whole = from_cache(&httpd, INDEX, "");
    assert_eq!((whole.status, whole.body), (200, film_file(INDEX)));
    let part = from_cache(&httpd, INDEX, "bytes=0-99");
    assert!(is_hit(&part.cache_status()), "{}", part.cache_status());
    assert_eq!((part.status, &part.body[..]), (206, &film_file(INDEX)[..100]));
}

#[test]
fn the_vhost_stays_with_proxypass_inside_a_location() {
    first_form_serves("recipe-inside", CACHE_INSIDE);
}

#[test]
fn the_vhost_stays_with_proxypass_outside_of_any_section() {
    first_form_serves("recipe-outside", CACHE_OUTSIDE);
}

#[test]
fn the_vhost_goes() {
    let s3 = S3::of_this_run("recipe-second");
    s3.put_film();
    let conf = second_form(&s3, &s3.lines(true));
    let (right, said) = check(&conf);
    assert!(right, "{said}");
    plays_from_the_store(&Httpd::start(conf));
}

#[test]
fn the_vhost_goes_under_worker_which_the_origin_recommends() {
    let s3 = S3::of_this_run("recipe-worker");
    s3.put_film();
    plays_from_the_store(&Httpd::start(second_form(&s3, &s3.lines(false)).mpm(Mpm::Worker)));
}

#[test]
fn with_a_wrong_secret_key_the_client_gets_storages_403_and_nothing_is_stored() {
    let s3 = S3::of_this_run("recipe-wrong");
    s3.put_film();
    for cache in [CACHE_INSIDE, CACHE_OUTSIDE] {
        let httpd = Httpd::start(first_form(&s3, cache, &s3.wrong_lines(true)));
        for name in ["film.ism", INDEX] {
            let answer = from_cache(&httpd, name, "");
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(answer.status == 403 && text.contains("<Error>"), "{}: {text}", answer.status);
        }
        assert_eq!((httpd.get("/film.ism/.mpd").status, httpd.entries().len()), (502, 0));
    }
    let httpd = Httpd::start(second_form(&s3, &s3.wrong_lines(false)));
    let answer = httpd.get("/film.ism/.mpd");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 502 && text.starts_with("403 "), "{text}");
    assert!(httpd.entries().is_empty());
}

#[test]
fn a_public_bucket_needs_no_keys() {
    let storage = Storage::start();
    storage.put("/bucket/film.ism", Object::new(film_file("film.ism")));
    let text =
        CACHE_INSIDE.replace("@SIGNING@", "").replace("@STORAGE@", &format!("http://{}/bucket/", storage.host()));
    let httpd = Httpd::start(Conf::new(format!("LogFormat \"%r\" combined\nListen 127.0.0.1:@PORT2@\n{text}")));
    assert_eq!(from_cache(&httpd, "film.ism", "").cache_status(), STORED);
    assert!(is_hit(&from_cache(&httpd, "film.ism", "").cache_status()));
}
