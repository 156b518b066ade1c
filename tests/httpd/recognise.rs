//! Which requests the module takes, and which it leaves to mod_proxy as if it were not there.

use crate::client::Request;
use crate::content::content;
use crate::origin::Sub;
use crate::server::{Conf, Httpd};
use crate::site::{STORED, Site, endpoint, is_hit, sub};
use crate::storage::{Object, Storage};

const FILM: &str = "/media/film.ism";

fn film() -> Object {
    Object::new(content(1, 1000))
}

/// A site whose storage holds the film, with a configuration of the test's own.
fn site(text: impl FnOnce(&str) -> String) -> Site {
    let site = Site::of(|storage| Conf::new(endpoint(&storage.host()) + &text(&storage.host())));
    site.storage.put(FILM, film());
    site
}

/// Has a sub-request made twice: it has to fill, then to hit, and mod_proxy is never asked.
fn fills_then_hits(site: &Site, sub: &Sub) {
    let [first, second] = [sub.run(&site.httpd), sub.run(&site.httpd)];
    assert_eq!(first.cache_status(), STORED);
    assert!(is_hit(&second.cache_status()), "{}", second.cache_status());
    assert_eq!((first.body(), second.body()), (&content(1, 1000)[..], &content(1, 1000)[..]));
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

/// Has a sub-request made: mod_proxy answers it, and the module asks nothing.
fn is_left_alone(site: &Site, sub: &Sub, path: &str) {
    let answer = sub.run(&site.httpd);
    assert_eq!(answer.cache_status(), "", "{sub:?}");
    assert_eq!(site.storage.counts(path), (0, 1), "{sub:?}");
}

#[test]
fn a_sub_request_that_translate_name_maps_is_served_where_its_proxy_section_says_so() {
    let site = site(|host| {
        format!(
            "<Location \"/film/\">\n  UspEnableSubreq on\n  IsmProxyPass \"http://{host}/media/\"\n</Location>\n\
             <Proxy \"http://{host}/media/\">\n  UspStorageCache on\n</Proxy>\n"
        )
    });
    fills_then_hits(&site, &Sub::get("/film/film.ism"));
}

#[test]
fn a_sub_request_that_proxypass_maps_is_served() {
    let site = site(|host| {
        format!(
            "ProxyPass \"/store/\" \"http://{host}/\"\n\
             <Proxy \"http://{host}/\">\n  UspStorageCache on\n</Proxy>\n"
        )
    });
    fills_then_hits(&site, &sub(FILM));
}

#[test]
fn a_sub_request_that_proxypass_in_a_location_maps_is_served() {
    let site = site(|host| {
        format!("<Location \"/store/\">\n  ProxyPass \"http://{host}/\"\n  UspStorageCache on\n</Location>\n")
    });
    fills_then_hits(&site, &sub(FILM));
}

#[test]
fn a_path_in_ismproxypass_leads_to_the_module_by_proxypass() {
    let site = site(|host| {
        format!(
            "<Location \"/film/\">\n  UspEnableSubreq on\n  IsmProxyPass \"/store/media/\"\n</Location>\n\
             ProxyPass \"/store/\" \"http://{host}/\"\n\
             <Proxy \"http://{host}/\">\n  UspStorageCache on\n</Proxy>\n"
        )
    });
    fills_then_hits(&site, &Sub::get("/film/film.ism"));
}

#[test]
fn fields_set_by_hand_are_recognised_where_the_server_enables_the_module() {
    let site = site(|_| "UspStorageCache on\n".into());
    fills_then_hits(&site, &Sub::get(FILM).by_hand());
}

#[test]
fn fields_set_by_hand_are_recognised_where_their_location_enables_the_module() {
    let site = site(|_| "<Location \"/double-plain\">\n  UspStorageCache on\n</Location>\n".into());
    fills_then_hits(&site, &Sub::get(FILM).by_hand());
}

#[test]
fn fields_set_by_hand_do_not_see_a_proxy_section() {
    let site = site(|host| format!("<Proxy \"http://{host}/\">\n  UspStorageCache on\n</Proxy>\n"));
    is_left_alone(&site, &Sub::get(FILM).by_hand(), FILM);
}

#[test]
fn both_forms_and_main_requests_share_one_entry() {
    let site = Site::new();
    site.fill(FILM, film());
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert!(is_hit(&site.sub(FILM).cache_status()));
    assert!(is_hit(&Sub::get(FILM).by_hand().run(&site.httpd).cache_status()));
    assert_eq!((site.storage.counts(FILM), site.httpd.entries().len()), ((1, 0), 1));
}

#[test]
fn the_module_comes_before_mod_proxy_wherever_its_loadmodule_stands() {
    let storage = Storage::start();
    storage.put(FILM, film());
    let httpd = Httpd::start(Conf::new(Site::text(&storage, "")).ours_first());
    fills_then_hits(&Site { httpd, storage }, &sub(FILM));
}

#[test]
fn the_module_comes_before_mod_cache() {
    let storage = Storage::start();
    storage.put(FILM, film());
    let lines = "CacheEnable disk /\nCacheRoot \"@DIR@/htdocs\"\nCacheQuickHandler off\nCacheIgnoreNoLastMod on";
    let conf = Conf::new(Site::text(&storage, lines)).load("cache").load("cache_disk");
    fills_then_hits(&Site { httpd: Httpd::start(conf), storage }, &sub(FILM));
}

#[test]
fn the_module_is_off_unless_it_is_switched_on() {
    let site = site(|host| format!("ProxyPass \"/store/\" \"http://{host}/\"\n"));
    is_left_alone(&site, &sub(FILM), FILM);
    assert_eq!(site.get(FILM).cache_status(), "");
}

#[test]
fn manifests_and_mp4_are_taken_in_either_case() {
    let site = Site::new();
    for path in ["/a.ism", "/a.ISM", "/a.mp4", "/a.Mp4"] {
        site.fill(path, film());
        assert!(is_hit(&site.sub(path).cache_status()), "{path}");
    }
}

#[test]
fn what_does_not_match_is_left_to_mod_proxy() {
    let site = Site::new();
    for path in ["/a.cmfv", "/a.isml", "/a.mp4/b", "/a.ism.bak", "/ism"] {
        site.storage.put(path, film());
        is_left_alone(&site, &sub(path), path);
        let main = site.get(path);
        assert_eq!((main.status, main.cache_status().as_str()), (200, ""), "{path}");
    }
    assert!(site.httpd.entries().is_empty());
}

#[test]
fn the_pattern_is_held_against_the_decoded_upstream_path() {
    let site = Site::with("UspStorageCacheMatch \"^/b c/.*\\.bin$\"");
    site.fill("/b%20c/a.bin", film());
    assert!(is_hit(&Sub::get("/b%20c/a%2Ebin").by_hand().run(&site.httpd).cache_status()));
    site.storage.put(FILM, film());
    is_left_alone(&site, &sub(FILM), FILM);
}

#[test]
fn a_front_url_that_ends_like_a_manifest_is_not_taken_for_one() {
    let site = site(|host| format!("UspStorageCache on\nProxyPass \"/fake.ism\" \"http://{host}/page.html\"\n"));
    site.storage.put("/page.html", film());
    is_left_alone(&site, &Sub::get("/fake.ism"), "/page.html");
}

#[test]
fn post_is_left_to_mod_proxy() {
    let site = Site::new();
    site.fill(FILM, film());
    let main = site.send(Request::new("POST", FILM).body(b"x"));
    assert_eq!((main.status, main.cache_status().as_str()), (201, ""));
    let inner = sub(FILM).parameter("method", "POST").run(&site.httpd);
    assert_eq!((inner.status(), inner.cache_status().as_str()), (201, ""));
    assert_eq!(site.storage.counts(FILM), (1, 2));
}

#[test]
fn a_get_with_a_body_is_left_to_mod_proxy() {
    let site = Site::new();
    site.fill(FILM, film());
    let answer = site.send(Request::get(FILM).body(b"body"));
    assert_eq!((answer.status, answer.cache_status().as_str()), (200, ""));
    assert_eq!(site.storage.counts(FILM), (1, 1));
}

#[test]
fn head_of_what_is_not_held_is_left_to_mod_proxy_and_fills_nothing() {
    // In a HEAD sub-request mod_proxy waits for a body, since header_only is not set there.
    let site = Site::with("ProxyTimeout 1");
    site.storage.put(FILM, film());
    let main = site.send(Request::head(FILM));
    assert_eq!((main.status, main.field("Content-Length").as_deref()), (200, Some("1000")));
    assert_eq!(Sub::head(format!("/store{FILM}")).run(&site.httpd).status(), 200);
    assert_eq!((site.storage.counts(FILM), site.httpd.entries().len()), ((0, 2), 0));
}

#[test]
fn several_ranges_in_a_sub_request_are_left_to_mod_proxy() {
    let site = Site::new();
    site.fill(FILM, film());
    let answer = sub(FILM).range("bytes=0-1,5-6").run(&site.httpd);
    assert_eq!((answer.status(), answer.cache_status().as_str()), (200, ""));
    assert_eq!(site.storage.counts(FILM), (1, 1));
}

#[test]
fn sub_resources_and_the_like_are_left_to_mod_proxy() {
    let site = Site::new();
    site.fill(FILM, film());
    let queries =
        ["acl", "tagging", "partNumber=1", "response-content-type=text/plain", "uploads", "versions&a=b", "a=b&acl"];
    for (number, query) in queries.iter().enumerate() {
        let answer = site.get(&format!("{FILM}?{query}"));
        assert_eq!((answer.status, answer.cache_status().as_str()), (200, ""), "{query}");
        let asked = site.storage.proxied(FILM);
        assert_eq!((asked.len(), asked[number].query.as_deref()), (number + 1, Some(*query)));
    }
    assert_eq!(site.storage.fetches(FILM).len(), 1);
}

#[test]
fn a_foreign_signature_is_left_to_mod_proxy() {
    let site = Site::new();
    site.fill(FILM, film());
    for query in ["X-Amz-Signature=00&X-Amz-Date=1", "AWSAccessKeyId=a&Signature=b&Expires=1"] {
        assert_eq!(site.get(&format!("{FILM}?{query}")).cache_status(), "", "{query}");
    }
    let signed = Request::get(FILM).field("Authorization", "AWS4-HMAC-SHA256 Credential=a");
    assert_eq!(site.send(signed).cache_status(), "");
    assert_eq!(site.storage.counts(FILM), (1, 3));
}

#[test]
fn dot_segments_are_left_to_mod_proxy() {
    let site = Site::new();
    for path in ["/a/../film.ism", "/a/%2e%2E/film.ism", "/a/.%2e/film.ism", "/./film.ism", "/%2e/film.ism"] {
        site.storage.put(path, film());
        let answer = Sub::get(path).by_hand().run(&site.httpd);
        assert_eq!(answer.cache_status(), "", "{path}");
        assert!(site.storage.asked().iter().all(|asked| asked.by_proxy()), "{path}");
    }
    assert!(site.httpd.entries().is_empty());
}

#[test]
fn urls_that_are_malformed_are_left_to_mod_proxy() {
    let site = Site::new();
    for path in ["/a%zz.ism", "/a%2.ism", "/a%.ism", "/a\u{1}.ism"] {
        site.storage.put(path, film());
        is_left_alone(&site, &Sub::get(path).by_hand(), path);
    }
    assert!(site.httpd.entries().is_empty());
}

#[test]
fn other_schemes_are_left_to_mod_proxy() {
    let site = Site::of(|storage| {
        let lines = "ProxyPass \"/fcgi/\" \"fcgi://127.0.0.1:@PORT2@/\"";
        Conf::new(Site::text(storage, lines)).load("proxy_fcgi")
    });
    assert_eq!(site.httpd.get("/fcgi/film.ism").status, 503);
    assert_eq!((site.httpd.count_in_log("recognised"), site.httpd.count_in_log("not ours: ")), (0, 1));
}

#[test]
fn a_balancer_is_left_to_mod_proxy() {
    let storage = Storage::start();
    storage.put("/film.ism", film());
    let text = format!(
        "UspStorageCache on\n<Proxy \"balancer://farm\">\n  BalancerMember \"http://{}\"\n</Proxy>\n\
         ProxyPass \"/store/\" \"balancer://farm/\"\n",
        storage.host()
    );
    let conf = Conf::new(text).load("proxy_balancer").load("lbmethod_byrequests").load("slotmem_shm");
    let httpd = Httpd::start(conf);
    let answer = httpd.get("/store/film.ism");
    assert_eq!((answer.status, answer.cache_status().as_str()), (200, ""));
    assert_eq!(storage.counts("/film.ism"), (0, 1));
}

#[test]
fn a_forward_proxy_is_left_to_mod_proxy() {
    let site = site(|_| "UspStorageCache on\nProxyRequests on\n".into());
    let url = format!("http://{}{FILM}", site.storage.host());
    for _ in 0..2 {
        let answer = site.httpd.get(&url);
        assert_eq!((answer.status, answer.cache_status().as_str()), (200, ""));
        assert_eq!(answer.body, content(1, 1000));
    }
    assert_eq!(site.storage.asked().len(), 2);
    assert!(site.httpd.entries().is_empty());
}

#[test]
fn an_upstream_that_is_this_httpd_is_left_to_mod_proxy() {
    let site = site(|host| {
        format!(
            "UspStorageCache on\nListen 127.0.0.1:@PORT2@\n\
             ProxyPass \"/number/\" \"http://127.0.0.1:@PORT2@/\"\n\
             ProxyPass \"/name/\" \"http://localhost:@PORT2@/\"\n\
             <VirtualHost 127.0.0.1:@PORT2@>\n  ProxyPass \"/\" \"http://{host}/\"\n</VirtualHost>\n"
        )
    });
    let first = site.httpd.get(&format!("/number{FILM}"));
    assert_eq!((first.status, first.fields("Cache-Status")), (200, vec![STORED.as_bytes()]));
    for front in ["/number", "/name"] {
        let answer = site.httpd.get(&format!("{front}{FILM}"));
        assert_eq!((answer.status, answer.fields("Cache-Status").len()), (200, 1), "{front}");
        assert!(is_hit(&answer.cache_status()), "{front}: {}", answer.cache_status());
    }
    assert_eq!((site.storage.counts(FILM), site.httpd.entries().len()), ((1, 0), 1));
}

#[test]
fn the_query_is_neither_in_the_key_nor_sent_to_storage() {
    let site = Site::new();
    site.storage.put(FILM, film());
    assert_eq!(site.get(&format!("{FILM}?token=1")).cache_status(), STORED);
    assert!(is_hit(&site.get(&format!("{FILM}?token=2")).cache_status()));
    assert!(is_hit(&site.sub(FILM).cache_status()));
    let fetches = site.storage.fetches(FILM);
    assert_eq!((fetches.len(), fetches[0].query.clone()), (1, None));
}

#[test]
fn a_query_that_counts_makes_entries_of_its_own() {
    let site = Site::with("UspStorageCacheIgnoreQueryString off");
    site.storage.put(FILM, film());
    for query in ["a=1", "a=2"] {
        assert_eq!(site.get(&format!("{FILM}?{query}")).cache_status(), STORED);
        assert!(is_hit(&site.get(&format!("{FILM}?{query}")).cache_status()));
    }
    let queries: Vec<_> = site.storage.fetches(FILM).into_iter().map(|asked| asked.query).collect();
    assert_eq!(queries, [Some("a=1".into()), Some("a=2".into())]);
}

#[test]
fn versions_are_different_objects_even_where_the_query_is_ignored() {
    let site = Site::new();
    site.storage.put(FILM, film());
    for query in ["versionId=1", "x=y&versionId=2"] {
        assert_eq!(site.get(&format!("{FILM}?{query}")).cache_status(), STORED, "{query}");
    }
    let queries: Vec<_> = site.storage.fetches(FILM).into_iter().map(|asked| asked.query).collect();
    assert_eq!(queries, [Some("versionId=1".into()), Some("versionId=2".into())]);
    assert_eq!(site.get(FILM).cache_status(), STORED);
}

#[test]
fn different_spellings_of_one_path_are_one_entry_and_other_paths_are_not() {
    let site = Site::new();
    for path in ["/a-b.ism", "/a%2Bb.ism", "/a+b.ism", "/a//b.ism", "/A-b.ism"] {
        site.storage.put(path, film());
        assert_eq!(Sub::get(path).by_hand().run(&site.httpd).cache_status(), STORED, "{path}");
    }
    for (path, same) in [("/a%2Db.ism", "/a-b.ism"), ("/a%2bb.ism", "/a%2Bb.ism")] {
        let answer = Sub::get(path).by_hand().run(&site.httpd);
        assert!(is_hit(&answer.cache_status()), "{path} is not {same}: {}", answer.cache_status());
    }
    assert_eq!(site.httpd.entries().len(), 5);
}

#[test]
fn a_hosts_case_makes_no_other_object() {
    let site = Site::new();
    site.storage.put(FILM, film());
    let asked = |host: &str| {
        let url = format!("http://{host}:{}{FILM}", site.storage.port);
        Sub::get(url).by_hand().run(&site.httpd).cache_status()
    };
    assert_eq!(asked("LocalHost"), STORED);
    assert!(is_hit(&asked("localhost")));
    assert_eq!(asked("127.0.0.1"), STORED);
}

#[test]
fn the_trace_says_how_a_request_was_recognised_or_why_not() {
    let site = Site::new();
    site.storage.put("/a.cmfv", film());
    site.fill(FILM, film());
    sub(FILM).range("bytes=7-9").parameter("kept_body", "1").run(&site.httpd);
    site.sub("/a.cmfv");
    let log = site.httpd.error_log();
    let recognised = |line: &&str| line.contains("recognised") && line.contains("bytes=7-9");
    let line = log.lines().find(recognised).expect("the sub-request is told of");
    assert!(line.contains("kept_body"), "{line}");
    assert!(log.lines().any(|line| line.contains("not ours: ")), "{log}");
}
