//! Storage that fails, and what is remembered of that.

use super::*;

#[test]
fn failures_pass_and_are_remembered_by_their_kind() {
    let rows = [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNoSuchKey", "pass not-found", "absent 404"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 25\r\n\r\n<Code>NoSuchBucket</Code>", "pass failed", "pass failed"),
        ("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", "pass not-found", "absent 410"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "pass denied", "pass denied"),
        ("HTTP/1.1 501 Error\r\nContent-Length: 0\r\n\r\n", "pass failed", "pass failed"),
        ("HTTP/1.1 301 Moved\r\nLocation: /b.ism\r\nContent-Length: 0\r\n\r\n", "pass failed", "pass failed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n", "pass too-large", "pass too-large"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "pass no-length", "pass no-length"),
        ("what is this?\r\n\r\n", "pass failed", "pass failed"),
    ];
    for (answer, first, second) in rows {
        let storage = Storage::new(answer);
        let case = Case::new(storage.port, Section::default());
        assert_eq!(case.outcome(), first, "{answer}");
        assert_eq!(case.complaints().len(), 1, "{answer}");
        // Clocks that tick every few milliseconds: the second request comes later than the first failed.
        let now = now_ms();
        while now_ms() == now {
            std::thread::yield_now();
        }
        assert_eq!(case.outcome(), second, "{answer}");
        // What is no HTTP may be so once only.
        let asked = if answer.starts_with("HTTP") { 1 } else { 5 };
        assert_eq!(storage.asked(), asked, "{answer}");
        assert!(case.complaints().is_empty(), "{answer}");
    }
}

#[test]
fn what_fails_for_a_moment_is_asked_for_again() {
    let busy = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";
    let storage = Storage::script(&[busy, "what is this?\r\n\r\n", OK]);
    let case = Case::new(storage.port, Section::default());
    assert_eq!((case.outcome().as_str(), storage.asked()), (FILLED, 3));
    assert!(!case.cache.store.control().breaker(case.key.authority()).is_open());
}

#[test]
fn an_unreachable_storage_is_named_in_the_report() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let case = Case::new(port, Section::default());
    case.find();
    let text = &case.complaints().pop().expect("a report");
    assert!(text.contains("cannot be reached") && text.contains(case.key.url()), "{text}");
}

#[test]
fn what_was_noted_before_the_clock_was_set_back_counts_for_nothing() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    let digest = case.order().digest;
    let at = now_ms() + 1_200_000;
    case.cache.store.control().put_note(&digest, Note::Pass(Reason::Failed).encode(at, at + FAILED_MS));
    assert_eq!(case.outcome(), FILLED);
}

#[test]
fn a_probe_closes_the_breaker_where_storage_says_anything_but_that_it_fails() {
    use breaker::Admission;
    // Of objects that are not there or not ours, storage that is back was taken for one that is not.
    let rows = [(404, Admission::Closed), (410, Admission::Closed), (403, Admission::Closed), (500, Admission::Open)];
    for (status, want) in rows {
        let storage = Storage::answering(move |_, _| {
            format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n").into_bytes()
        });
        let case = Case::new(storage.port, Section::default());
        let control = case.cache.store.control();
        let breaker = control.breaker(case.key.authority());
        breaker.failed(true, now_ms() - 2000);
        case.outcome();
        case.settle();
        assert_eq!((breaker.admit(now_ms()), storage.asked()), (want, 1), "{status}");
    }
}

#[test]
fn a_section_that_lacks_a_key_has_no_say_for_one_that_signs_nothing() {
    let storage = Storage::new(OK);
    let case = Case::new(storage.port, Section::default());
    let half = set(&[(c"S3AccessKey", "AKID")]);
    let key = |section: &Section<'_>| {
        let filename = format!("proxy:http://127.0.0.1:{}/a.ism", storage.port);
        Upstream::parse(filename.as_bytes())
            .expect("a URL")
            .key(section.credentials("127.0.0.1").scope(""), true)
            .expect("a key")
    };
    let want = Want { asked: Asked::Whole, streams: false };
    let ask = |section: &Section<'_>| {
        outcome(&case.cache.find(&Ask {
            key: &key(section),
            section,
            want,
            base: None,
            may_fill: true,
            now_ms: now_ms(),
        }))
    };
    assert_eq!((ask(&half).as_str(), ask(&case.section).as_str()), ("pass failed", FILLED));
    assert_eq!(storage.asked(), 1);
}
