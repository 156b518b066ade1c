//! Storage that has a say.

use super::*;

#[test]
fn with_honor_what_storage_forbids_to_store_is_left_alone() {
    let storage = Storage::new("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: no-store\r\n\r\nhello");
    let case = Case::new(storage.port, set(&[(c"UspStorageCacheHonor", "on")]));
    assert_eq!(case.outcome(), "pass not-storable");
    assert_eq!(case.outcome(), "pass not-storable", "it is remembered");
    assert_eq!(storage.asked(), 1);
    assert_eq!(outcome(&case.find_in(&Section::default())), FILLED, "it is nothing to a section without");
    case.settle();
    assert_eq!(case.outcome(), "pass not-storable", "what another section has stored is not served either");
}

#[test]
fn with_honor_a_fill_of_what_must_not_be_stored_is_not_joined() {
    let is_open = Arc::new(AtomicBool::new(false));
    let gate = is_open.clone();
    let body = vec![7; 3 << 20];
    let storage = Storage::answering(move |number, head| {
        while number > 0 && !gate.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        part_of(&body, head, "\"1\"", "Cache-Control: private, no-store\r\n")
    });
    let case = Case::new(storage.port, Section::default());
    let head = Asked::One(crate::semantics::range::ByteRange::FromTo(0, 99));
    assert_eq!(outcome(&case.find_part(&case.section, head)), "3145728 bytes, fwd=uri-miss; fwd-status=200; stored");
    let honor = set(&[(c"UspStorageCacheHonor", "on"), (c"UspStorageCacheWait", "1")]);
    assert_eq!(outcome(&case.find_part(&honor, head)), "pass wait");
    is_open.store(true, Ordering::SeqCst);
    case.settle();
    assert_eq!(outcome(&case.find_part(&honor, head)), "pass not-storable");
}

#[test]
fn with_honor_what_a_304_has_renewed_stays_though_the_key_was_purged_before() {
    let storage = Storage::script(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"1\"\r\nCache-Control: max-age=100\r\n\r\nhello",
        "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nCache-Control: max-age=200\r\n\r\n",
    ]);
    let case = Case::new(storage.port, set(&[(c"UspStorageCacheHonor", "on")]));
    case.outcome();
    // It was a key of the same slot: the entry is there, and its head holds the former number.
    let control = case.cache.store.control();
    case.settle();
    control.bump_purges(control.slot(&case.name()));
    case.age(500);
    assert_eq!(case.outcome(), "5 bytes, fwd=stale; fwd-status=200; stored");
    case.settle();
    assert!(matches!(case.find(), Found::Entry(_, Outcome::Hit { ttl_secs: 101.. })), "{}", case.outcome());
    assert_eq!(storage.asked(), 2);
}

#[test]
fn with_honor_an_entry_is_as_old_as_the_304_that_vouched_for_it() {
    let rows = [("99", "0", 90..=100), ("0", "90", 1..=10), ("50", "50", 40..=50)];
    for (at_first, then, ttl_secs) in rows {
        let lines = |age: &str| format!("ETag: \"1\"\r\nAge: {age}\r\nCache-Control: max-age=100\r\n\r\n");
        let answers = [
            format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{}hello", lines(at_first)),
            format!("HTTP/1.1 304 Not Modified\r\n{}", lines(then)),
        ];
        let storage = Storage::answering(move |number, _| answers[number.min(1)].clone().into());
        let case = Case::new(storage.port, set(&[(c"UspStorageCacheHonor", "on")]));
        case.outcome();
        case.age(500);
        let second = case.outcome();
        case.settle();
        let found = case.find();
        let Found::Entry(_, Outcome::Hit { ttl_secs: left }) = found else {
            panic!("{at_first}, then {then}: {second}, then {}", outcome(&found))
        };
        assert!(ttl_secs.contains(&left), "{at_first}, then {then}: {left}");
    }
}
