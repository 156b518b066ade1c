//! Entries that are no longer fresh.

use super::*;

#[test]
fn an_entry_that_is_stale_is_served_while_storage_is_asked_and_then_waited_for() {
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nETag: \"2\"\r\n\r\nanswer";
    let storage = Storage::script(&[OK, NOT_MODIFIED, other]);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    case.age(7200 + 10);
    assert_eq!(case.outcome(), "5 bytes, hit; ttl=-10");
    while storage.asked() < 2 {
        std::thread::yield_now();
    }
    case.settle();
    assert!(case.outcome().starts_with("5 bytes, hit; ttl=7"));
    case.age(7200 + 301);
    assert_eq!(case.outcome(), "6 bytes, fwd=stale; fwd-status=200; stored");
    assert_eq!(storage.asked(), 3);
}

#[test]
fn an_entry_that_storage_vouches_for_is_the_same_file() {
    let storage = Storage::script(&[OK, NOT_MODIFIED]);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    case.age(7200 + 301);
    let Found::Entry(entry, Outcome::Revalidated { collapsed: false }) = case.find() else {
        panic!("it is revalidated")
    };
    case.age(7200 + 301);
    let Found::Entry(again, _) = case.find() else { panic!("it is there") };
    assert_eq!((entry.identity(), storage.asked()), (again.identity(), 3));
}

#[test]
fn a_304_for_another_version_has_the_object_fetched_anew() {
    let of_another = "HTTP/1.1 304 Not Modified\r\nETag: \"2\"\r\n\r\n";
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nETag: \"2\"\r\n\r\nanswer";
    let storage = Storage::script(&[OK, of_another, other]);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    case.age(7200 + 301);
    assert_eq!(case.outcome(), "6 bytes, fwd=stale; fwd-status=200; stored");
    assert_eq!(storage.asked(), 3);
}

#[test]
fn with_expire_0_storage_is_asked_for_each_request() {
    let storage = Storage::script(&[OK, NOT_MODIFIED]);
    let section = set(&[(c"UspStorageCacheExpire", "0"), (c"UspStorageCacheStaleWhileRevalidate", "0")]);
    let case = Case::new(storage.port, section);
    for asked in 1..5 {
        let found = case.outcome();
        case.settle();
        assert_eq!(storage.asked(), asked, "{found}");
        // By a clock that has moved since.
        let now = now_ms();
        while now_ms() == now {
            std::thread::yield_now();
        }
    }
}

#[test]
fn storage_that_fails_has_what_is_stale_served() {
    let error = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";
    let storage = Storage::script(&[OK, error]);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    case.age(7200 + 400);
    assert_eq!(case.outcome(), "5 bytes, hit; ttl=-400; detail=stale-if-error");
    assert_eq!(case.outcome(), "5 bytes, hit; ttl=-400; detail=stale-if-error", "it is not asked again at once");
    assert_eq!(storage.asked(), 2);
    case.age(86400);
    assert_eq!(case.outcome(), "pass failed");
}

#[test]
fn an_object_that_is_gone_is_dropped_from_the_store() {
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let storage = Storage::script(&[OK, gone]);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    case.age(7200 + 400);
    assert_eq!(case.outcome(), "pass not-found");
    case.settle();
    let path = case.dir.path().join("v1/entries").join(case.name().path());
    assert!(!path.exists());
}

#[test]
fn an_entry_that_is_vouched_for_in_the_future_is_asked_about() {
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nETag: \"2\"\r\n\r\nanswer";
    let storage = Storage::script(&[OK, other]);
    let case = Case::new(storage.port, Section::default());
    case.outcome();
    case.settle();
    let path = case.dir.path().join("v1/entries").join(case.name().path());
    let file = std::fs::File::options().write(true).open(path).expect("an entry");
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(86400)).expect("it is ours");
    let control = case.cache.store.control();
    control.bump(control.slot(&case.name()));
    assert_eq!(case.outcome(), "6 bytes, fwd=stale; fwd-status=200; stored");
    assert_eq!(storage.asked(), 2);
}
