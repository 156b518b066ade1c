//! The storage alone, without httpd: all other tests rest on it.

use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::client::{self, Connection, Request, Response};
use crate::content::content;

const FILM: &str = "/film.mp4";
const LENGTH: usize = 5000;

/// A storage that holds the film of [`LENGTH`] bytes.
fn storage() -> Storage {
    let storage = Storage::start();
    storage.put(FILM, film());
    storage
}

fn film() -> Object {
    Object::new(content(8, LENGTH))
}

fn ask(storage: &Storage, request: Request) -> Response {
    client::fetch(storage.port, request).expect("it answers")
}

fn get(storage: &Storage, range: &str) -> Response {
    ask(storage, Request::get(FILM).range(range))
}

/// Status, `Content-Range` and body of an answer.
fn part(answer: Response) -> (u16, String, Vec<u8>) {
    (answer.status, answer.field("Content-Range").unwrap_or_default(), answer.body)
}

#[test]
fn a_range_gives_a_part_and_conditions_are_looked_at() {
    let storage = storage();
    let want = (206, "bytes 10-19/5000".to_owned(), content(8, LENGTH)[10..20].to_vec());
    assert_eq!(part(get(&storage, "bytes=10-19")), want);
    assert_eq!(part(get(&storage, "bytes=5000-")), (416, "bytes */5000".into(), vec![]));
    assert_eq!(get(&storage, "bytes=0-1,3-4").status, 200);
    let etag = film().etag();
    let conditions = [
        ("If-Match", etag.as_str(), 206),
        ("If-Match", "\"other\"", 412),
        ("If-None-Match", etag.as_str(), 304),
        ("If-None-Match", "\"other\"", 206),
        ("If-Modified-Since", LAST_MODIFIED, 304),
        ("If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT", 206),
    ];
    for (name, value, status) in conditions {
        let answer = ask(&storage, Request::get(FILM).range("bytes=0-9").field(name, value));
        assert_eq!((answer.status, answer.body.is_empty()), (status, status != 206), "{name}: {value}");
    }
    storage.put(FILM, film().set("ETag", "W/\"weak\""));
    assert_eq!(ask(&storage, Request::get(FILM).field("If-Match", "W/\"weak\"")).status, 412);
    storage.ignore("If-Match");
    assert_eq!(ask(&storage, Request::get(FILM).field("If-Match", "\"other\"")).status, 200);
    storage.remove(FILM);
    assert_eq!(get(&storage, "bytes=0-99").status, 404);
}

#[test]
fn an_answer_breaks_off_where_it_is_told_to() {
    let storage = storage();
    for fault in [Fault::CloseAfter(10), Fault::ResetAfter(10), Fault::Raw(Vec::new())] {
        storage.fail(FILM, Whom::Everyone, fault.clone());
        let answer = client::fetch(storage.port, Request::get(FILM).range("bytes=0-99"));
        assert!(answer.is_err(), "{fault:?}");
    }
    assert_eq!(storage.sent(FILM), [0..10, 0..10]);
}

#[test]
fn a_storage_without_lengths_has_no_ranges() {
    let storage = storage();
    for fault in [Fault::Chunked, Fault::NoLength, Fault::Ignores("Range")] {
        storage.fail(FILM, Whom::Everyone, fault.clone());
        let answer = get(&storage, "bytes=0-99");
        assert_eq!((answer.status, answer.body), (200, content(8, LENGTH)), "{fault:?}");
    }
}

#[test]
fn a_ranged_answer_says_what_it_is_told_to_say() {
    let (storage, body) = (storage(), content(8, LENGTH));
    let bent = |fault: Fault| {
        storage.fail(FILM, Whom::Everyone, fault);
        get(&storage, "bytes=100-199")
    };
    assert_eq!(bent(Fault::OtherEtag("\"other\"")).fields("ETag"), [b"\"other\""]);
    assert_eq!(bent(Fault::OtherEtag("")).field("ETag"), None);
    let etags = [bent(Fault::NewEtags), bent(Fault::NewEtags)].map(|answer| answer.field("ETag"));
    assert_ne!(etags[0], etags[1]);
    assert_eq!(part(bent(Fault::OtherTotal(7000))), (206, "bytes 100-199/7000".into(), body[100..200].to_vec()));
    assert_eq!(part(bent(Fault::Shifted(50))), (206, "bytes 150-199/5000".into(), body[150..200].to_vec()));
    assert_eq!(part(bent(Fault::Shorter(30))), (206, "bytes 100-129/5000".into(), body[100..130].to_vec()));
    let said = [bent(Fault::Dated(-1200)), bent(Fault::Dated(1200))].map(|answer| answer.field("Date"));
    let date = |ago: &str| Command::new("date").args(["-u", "-d", ago, "+%a, %d %b %Y %H:"]).output().expect("it runs");
    for (said, ago) in said.iter().zip(["1200 seconds ago", "1200 seconds"]) {
        let want = String::from_utf8_lossy(&date(ago).stdout).trim().to_owned();
        // The hour may change between the two once in a while.
        let said = said.as_deref().unwrap_or_default();
        assert!(said.starts_with(&want) || said.contains(":59:59 ") || said.contains(":00:00 "), "{said}: {want}");
    }
    let refused = bent(Fault::StatusWith(503, &[("Retry-After", "7")]));
    assert_eq!((refused.status, refused.field("Retry-After").as_deref()), (503, Some("7")));
    storage.fail(FILM, Whom::Everyone, Fault::HeadLine(b"no colon here"));
    let mut connection = Connection::open(storage.port).expect("it takes a connection");
    connection.send(b"GET /film.mp4 HTTP/1.1\r\n\r\n").expect("it is sent");
    assert!(String::from_utf8_lossy(&connection.read_head().expect("a head")).contains("\r\nno colon here\r\n\r\n"));
}

#[test]
fn a_fault_meets_the_requests_that_it_is_meant_for() {
    let storage = storage();
    let statuses = |count: usize| (0..count).map(|_| get(&storage, "bytes=0-9").status).collect::<Vec<_>>();
    storage.fail_some(FILM, Whom::Everyone, 2..=3, Fault::Status(500));
    assert_eq!(statuses(5), [206, 500, 500, 206, 206]);
    storage.fail_some(FILM, Whom::Everyone, 2.., Fault::Status(500));
    assert_eq!(statuses(3), [206, 500, 500]);
    storage.fail_some(FILM, Whom::Fetches, 2.., Fault::Status(500));
    let proxied = || ask(&storage, Request::get(FILM).field("X-Forwarded-Server", "a")).status;
    assert_eq!((proxied(), proxied(), statuses(2)), (200, 200, vec![206, 500]));
    storage.mend(FILM);
    assert_eq!(statuses(1), [206]);
    assert_eq!(storage.counts(FILM), (11, 2));
}

#[test]
fn what_left_is_counted_to_the_byte() {
    let storage = storage();
    assert_eq!((storage.bytes_sent(FILM), storage.sent_again(FILM)), (0, vec![]));
    for range in ["bytes=0-999", "bytes=1000-1999", "bytes=-500"] {
        get(&storage, range);
    }
    ask(&storage, Request::head(FILM));
    ask(&storage, Request::get(FILM).field("If-None-Match", film().etag()));
    get(&storage, "bytes=9000-");
    assert_eq!((storage.bytes_sent(FILM), storage.sent_again(FILM)), (2500, vec![]));
    assert_eq!(storage.sent(FILM), [0..1000, 1000..2000, 4500..5000]);
    get(&storage, "bytes=900-4599");
    assert_eq!(storage.sent_again(FILM), [900..1000, 1000..2000, 4500..4600]);
    storage.fail(FILM, Whom::Everyone, Fault::Status(500));
    get(&storage, "bytes=0-9");
    assert_eq!(storage.bytes_sent(FILM), 2500 + 3700);
}

#[test]
fn a_request_after_a_head_comes_later_in_the_sequence() {
    let storage = storage();
    storage.fail(FILM, Whom::Everyone, Fault::Hold);
    thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(|| get(&storage, "bytes=0-9"))));
        storage.wait_for_fetches(FILM, 3);
        storage.release(FILM);
    });
    get(&storage, "bytes=0-9");
    storage.fail(FILM, Whom::Everyone, Fault::HoldFrom(4));
    get(&storage, "bytes=0-9");
    let depths = |storage: &Storage| storage.exchanges(FILM).iter().map(|one| one.depth).collect::<Vec<_>>();
    thread::scope(|scope| {
        let held = scope.spawn(|| get(&storage, "bytes=0-9"));
        storage.wait_for_fetches(FILM, 6);
        assert_eq!((depths(&storage), storage.most_at_once(FILM)), (vec![1, 1, 1, 2, 3, 4], 3));
        storage.release(FILM);
        assert_eq!(held.join().expect("it is answered").status, 206);
    });
}

#[test]
fn what_is_held_is_answered_as_things_are_when_it_is_released() {
    let storage = storage();
    storage.fail(FILM, Whom::Everyone, Fault::Hold);
    thread::scope(|scope| {
        let held = scope.spawn(|| get(&storage, "bytes=0-9"));
        storage.wait_for_fetches(FILM, 1);
        storage.put(FILM, Object::new("another version"));
        storage.release(FILM);
        assert_eq!(held.join().expect("it is answered").body, b"another ve");
    });
    let versions: Vec<Vec<u8>> = storage.versions(FILM).iter().map(|object| object.body().to_vec()).collect();
    assert_eq!(versions, [content(8, LENGTH), b"another version".to_vec()]);
}

#[test]
fn the_rest_of_a_body_comes_when_it_is_released() {
    let storage = storage();
    storage.fail(FILM, Whom::Everyone, Fault::HoldAfter(1000));
    let mut connection = Connection::open(storage.port).expect("it takes a connection");
    connection.send(b"GET /film.mp4 HTTP/1.1\r\n\r\n").expect("it is sent");
    let head = connection.receive(true).expect("a head");
    assert_eq!((head.status, connection.take(1000).expect("a beginning")), (200, content(8, LENGTH)[..1000].to_vec()));
    assert_eq!(storage.bytes_sent(FILM), 1000);
    storage.release(FILM);
    assert_eq!(connection.take(LENGTH - 1000).expect("the rest"), content(8, LENGTH)[1000..]);
}

#[test]
fn heads_come_late_and_bodies_at_a_pace() {
    let storage = storage();
    storage.put("/large.mp4", Object::new(content(9, 500_000)));
    let took = |path: &str| {
        let began = Instant::now();
        ask(&storage, Request::get(path));
        began.elapsed()
    };
    storage.delay(Duration::from_millis(60));
    storage.delay_path("/large.mp4", Duration::ZERO);
    storage.pace(1_000_000);
    assert!(took(FILM) >= Duration::from_millis(60));
    let large = took("/large.mp4");
    assert!((Duration::from_millis(490)..Duration::from_secs(3)).contains(&large), "{large:?}");
}

#[test]
fn a_tls_handshake_is_refused_and_counted() {
    let storage = storage();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, storage.port)).expect("it takes a connection");
    io::Write::write_all(&mut stream, b"\x16\x03\x01\x02\x00\x01\x00").expect("it is sent");
    // The rest of the handshake was not read: an end or a reset, but nothing to read.
    assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
    assert_eq!((storage.strangers(), storage.asked().len()), (1, 0));
}

#[test]
fn a_signature_of_another_time_or_region_is_refused_as_s3_does() {
    let storage = storage();
    let signed = |date: &str, region: &str| {
        let credential = format!("AWS4-HMAC-SHA256 Credential=AKID/{}/{region}/s3/aws4_request, x", &date[..8]);
        let header = ask(&storage, Request::get(FILM).field("x-amz-date", date).field("Authorization", credential));
        let query = format!("{FILM}?X-Amz-Date={date}&X-Amz-Credential=AKID%2F20250203%2F{region}%2Fs3%2Faws4_request");
        let both = [header, ask(&storage, Request::get(query))];
        both.map(|answer| (answer.status, String::from_utf8_lossy(&answer.body).contains("<Error><Code>")))
    };
    let (past, now) = ("20250203T040506Z", answer::amz_date(0));
    storage.fail(FILM, Whom::Everyone, Fault::Clock(1200));
    assert_eq!([signed(past, "r"), signed(&now, "r")].concat(), [(403, true); 4]);
    assert_eq!(signed(&answer::amz_date(1190), "r"), [(200, false); 2]);
    storage.fail(FILM, Whom::Everyone, Fault::Region("eu-west-3"));
    assert_eq!((signed(&now, "eu-west-1"), signed(&now, "eu-west-3")), ([(400, true); 2], [(200, false); 2]));
}
