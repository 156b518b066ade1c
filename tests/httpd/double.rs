//! Consumers of sub-requests as they exist: ones that keep what they got, ones that know only 200,
//! ones that ask much in one request; and a whole film, played through the double.

use crate::client::Request;
use crate::content::content;
use crate::origin::Sub;
use crate::s3::film;
use crate::server::Conf;
use crate::site::{ABSENT, STORED, Site, endpoint, is_hit, is_ours, sub};
use crate::storage::{Fault, Object, Whom};
use crate::wait::rounds;

const FILM: &str = "/film.ism";
const INDEX: &str = "/index.mp4";

fn body() -> Vec<u8> {
    content(10, 200_000)
}

fn site() -> Site {
    let site = Site::new();
    site.fill(FILM, Object::new(content(11, 900)));
    site.fill(INDEX, Object::new(body()));
    site
}

#[test]
fn buckets_can_be_read_after_their_sub_request_is_destroyed() {
    let site = site();
    let answer = sub(INDEX).and(format!("/store{FILM}")).parameter("keep", "1").parameter("n", "10").run(&site.httpd);
    assert_eq!(answer.statuses(), [200, 200]);
    assert_eq!(answer.body(), [body(), content(11, 900)].concat());
    let slices = sub(INDEX).range("bytes=1000-99999").parameter("keep", "1").parameter("n", "50").run(&site.httpd);
    assert_eq!((slices.statuses(), slices.body()), (vec![206], &body()[1000..100_000]));
}

#[test]
fn buckets_of_a_fill_can_be_kept_as_well() {
    let site = Site::new();
    site.storage.put(INDEX, Object::new(body()));
    let answer = sub(INDEX).parameter("keep", "1").run(&site.httpd);
    assert_eq!((answer.cache_status().as_str(), answer.body()), (STORED, &body()[..]));
}

#[test]
fn a_consumer_that_knows_only_200_gets_it_with_range_full() {
    let site = Site::with("UspStorageCacheRange full");
    site.fill(INDEX, Object::new(body()));
    let answer = sub(INDEX).range("bytes=0-99").parameter("only200", "1").run(&site.httpd);
    assert_eq!((answer.statuses(), answer.body()), (vec![200], &body()[..]));
}

#[test]
fn a_consumer_that_knows_only_200_fails_with_partial_answers() {
    let answer = sub(INDEX).range("bytes=0-99").parameter("only200", "1").try_run(&site().httpd);
    assert_eq!(answer.answer.status, 502);
}

#[test]
fn many_sub_requests_in_one_request_are_answered_in_order() {
    let site = site();
    let many = (0..100).fold(sub(INDEX), |sub, number| {
        sub.and(if number % 2 == 0 { format!("/store{FILM}") } else { format!("/store{INDEX}") })
    });
    let rounds = rounds(20, 1000).to_string();
    let answer = many.range("bytes=10-19").parameter("n", rounds).run(&site.httpd);
    assert_eq!(answer.statuses(), vec![206; 101]);
    assert_eq!(answer.returns(), vec![0; 101]);
    let film = &content(11, 900)[10..20];
    let index = &body()[10..20];
    let pairs = [film, index].concat().repeat(50);
    assert_eq!(answer.body(), [index, &pairs].concat());
    assert_eq!((site.storage.counts(FILM), site.storage.counts(INDEX)), ((1, 0), (1, 0)));
}

#[test]
fn a_caller_that_sets_kept_body_is_served_as_any_other() {
    let site = Site::new();
    site.storage.put(INDEX, Object::new(body()));
    for (round, status) in [(0, STORED), (1, "usp-storage-cache; hit")] {
        let answer = sub(INDEX).range("bytes=0-9").parameter("kept_body", "1").run(&site.httpd);
        assert_eq!((answer.status(), answer.body()), (206, &body()[..10]), "round {round}");
        assert!(answer.cache_status().starts_with(status), "{}", answer.cache_status());
    }
}

#[test]
fn a_caller_that_sets_kept_body_gets_mod_proxys_answer_where_we_decline() {
    let site = site();
    site.storage.put("/a.cmfv", Object::new(body()));
    let answer = sub("/a.cmfv").range("bytes=0-9").parameter("kept_body", "1").parameter("n", "5").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (206, &body()[..10]));
    // With kept_body, and only then, mod_proxy keeps its connections.
    let connections: Vec<u64> = site.storage.proxied("/a.cmfv").iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, vec![connections[0]; 5]);
}

#[test]
fn a_declined_miss_leaves_mod_proxy_the_sub_request_as_it_was() {
    let site = Site::new();
    site.storage.put(INDEX, Object::new(body()));
    site.storage.fail(INDEX, Whom::Fetches, Fault::Status(500));
    let answer = sub(INDEX).range("bytes=5-9").field("x-test", "1").run(&site.httpd);
    assert_eq!((answer.status(), answer.body(), answer.returns()), (206, &body()[5..10], vec![0]));
    let asked = &site.storage.proxied(INDEX)[0];
    assert_eq!((asked.field("Range").as_deref(), asked.field("x-test").as_deref()), (Some("bytes=5-9"), Some("1")));
}

#[test]
fn answers_say_their_status_in_the_request_and_return_ok_as_mod_proxy_does() {
    let site = site();
    let all = sub(INDEX).range("bytes=900000-").run(&site.httpd);
    assert_eq!((all.statuses(), all.returns()), (vec![416], vec![0]));
    site.get("/absent.ism");
    let absent = site.sub("/absent.ism");
    assert_eq!((absent.statuses(), absent.returns()), (vec![404], vec![0]));
    assert_eq!(absent.cache_status(), ABSENT);
}

#[test]
fn sub_requests_of_one_main_request_go_different_ways() {
    let site = site();
    site.storage.put("/new.ism", Object::new("new"));
    site.storage.put("/media.cmfv", Object::new("media"));
    let answer = sub(FILM).and("/store/new.ism").and("/store/media.cmfv").and("/store/none.ism").run(&site.httpd);
    assert_eq!(answer.statuses(), [200, 200, 200, 404]);
    let want = [&content(11, 900)[..], b"newmedia", b"storage has no /none.ism"].concat();
    assert_eq!(answer.body(), want);
}

#[test]
fn a_film_is_played_from_the_store() {
    let site = Site::of(|storage| {
        let host = storage.host();
        Conf::new(format!(
            "{}<Location \"/vod/\">\n  UspHandleIsm on\n  UspEnableSubreq on\n  IsmProxyPass \"http://{host}/media/\"\n\
             </Location>\n<Proxy \"http://{host}/media/\">\n  UspStorageCache on\n</Proxy>\n",
            endpoint(&host)
        ))
    });
    for (name, file) in film() {
        site.storage.put(&format!("/media/{name}"), Object::new(file));
    }
    for round in 0..3 {
        let answer = site.httpd.send(Request::get("/vod/film.ism/.mpd").field("If-None-Match", "*"));
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!((answer.status, text.lines().count()), (200, 7), "{text}");
        for line in text.lines() {
            check_line(line, round);
        }
    }
    for (name, _) in film() {
        let counts = if name.contains(".cmf") { (0, 3) } else { (1, 0) };
        assert_eq!(site.storage.counts(&format!("/media/{name}")), counts, "{name}");
    }
}

/// One line of the double's report: status, bytes, checksum, URI, Cache-Status.
fn check_line(line: &str, round: usize) {
    let mut words = line.splitn(5, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (status, bytes, _, uri, cache) = (word(), word(), word(), word(), word());
    assert!(matches!(status, "200" | "206") && bytes != "0", "{line}");
    match uri.contains(".cmf") {
        true => assert_eq!(cache, "-", "{line}"),
        // The manifest's fill fetches its indexes: one may be there already, or be on its way.
        false if round == 0 => assert!(is_ours(cache), "{line}"),
        false => assert!(is_hit(cache), "{line}"),
    }
}

#[test]
fn an_absolute_url_by_hand_is_an_object_like_any_other() {
    let site = site();
    let url = format!("http://{}{INDEX}", site.storage.host());
    let answer = Sub::get(&url).by_hand().range("bytes=0-9").run(&site.httpd);
    assert_eq!((answer.status(), answer.body()), (206, &body()[..10]));
    assert!(is_hit(&answer.cache_status()));
    let shouted = url.replace("http://", "HTTP://");
    assert_eq!(Sub::get(&shouted).by_hand().run(&site.httpd).body(), body());
}
