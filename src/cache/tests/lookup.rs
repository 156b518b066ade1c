//! What is held, what is not, and what is fetched once.

use super::*;

#[test]
fn a_miss_fills_and_a_hit_asks_nobody() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    assert_eq!(case.outcome(), FILLED);
    assert!(case.outcome().starts_with("5 bytes, hit; ttl="));
    case.settle();
    assert!(case.outcome().starts_with("5 bytes, hit; ttl="));
    assert_eq!(storage.asked(), 1);
}

#[test]
fn many_misses_at_once_make_one_fetch() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert!(matches!(case.find(), Found::Entry(..) | Found::Filling(..))));
        }
    });
    assert_eq!(storage.asked(), 1);
}

#[test]
fn a_head_does_not_fill() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    let want = Want { asked: Asked::Whole, streams: true };
    let ask = Ask { key: &case.key, section: &case.section, want, base: None, may_fill: false, now_ms: now_ms() };
    assert_eq!(outcome(&case.cache.find(&ask)), "pass head-not-held");
    assert_eq!(storage.asked(), 0);
}

#[test]
fn what_is_too_large_for_one_section_may_fit_another() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    let [small, large] = ["4", "5"].map(|len| set(&[(c"UspStorageCacheMaxObjectSize", len)]));
    assert_eq!(outcome(&case.find_in(&small)), "pass too-large");
    assert_eq!(outcome(&case.find_in(&large)), FILLED);
}

#[test]
fn an_object_of_no_bytes_is_an_object() {
    let storage = Storage::new("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let case = Case::new(storage.port, Section::default());
    assert_eq!(case.outcome(), "0 bytes, fwd=uri-miss; fwd-status=200; stored");
}

#[test]
fn what_was_just_filled_is_never_in_the_future() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    // Long enough to cross the beginning of a second, which is where clocks that differ by a tick would disagree.
    let end = now_ms() + 1100;
    let mut fills = 0;
    while now_ms() < end {
        let filename = format!("proxy:http://127.0.0.1:{}/{fills}.ism", storage.port);
        let key = Upstream::parse(filename.as_bytes()).expect("a URL").key("", true).expect("a key");
        let want = Want { asked: Asked::Whole, streams: false };
        let ask = || Ask { key: &key, section: &case.section, want, base: None, may_fill: true, now_ms: now_ms() };
        let [first, second] = [case.cache.find(&ask()), case.cache.find(&ask())].map(|found| outcome(&found));
        assert!(first.ends_with("stored") && second.contains(" hit; "), "{first}, then {second}");
        fills += 1;
    }
    assert_eq!(storage.asked(), fills);
}
