//! What a process has under way at most, and how it comes to an end.

use super::*;
use crate::cache::filler::Filler;
use crate::cache::wait::Urgency;
use crate::semantics::range::ByteRange;
use crate::store::Fill;
use crate::store::fill::Landing;
use crate::store::format::{BLOCK_LEN, Meta};

#[test]
fn fills_of_a_process_are_bounded_and_what_is_over_makes_room() {
    let case = Case::new(1, Section::default());
    let filler = |number: usize| {
        let filename = format!("proxy:http://127.0.0.1:1/{number}.ism");
        let key = Upstream::parse(filename.as_bytes()).expect("a URL").key("", true).expect("a key");
        let want = Want { asked: Asked::Whole, streams: false };
        let ask = Ask { key: &key, section: &case.section, want, base: None, may_fill: true, now_ms: now_ms() };
        let order = Arc::new(Order::of(&ask, &case.cache.default_match));
        let lock = case.cache.store.lock(&order.name).expect("a lock file").expect("nobody fills");
        Filler::new(&case.cache, &order, lock, Asked::Whole, Urgency::Demand)
    };
    let mut fillers: Vec<_> = (0..1000).map_while(filler).collect();
    assert_eq!(fillers.len(), 128);
    assert_eq!(case.outcome(), "pass busy");
    fillers.pop();
    assert!(filler(2000).is_some());
    assert_eq!(case.outcome(), "pass failed", "there is room, and nobody at that port");
}

#[test]
fn who_waits_is_let_go_when_the_process_ends_though_the_fill_makes_progress() {
    // Progress renewed the patience before anybody looked at the flag.
    let case = Case::new(1, Section::default());
    let limits = Limits { store_len_max: 1 << 30, free_len_min: 0, generation: 0 };
    let other = Store::open(case.dir.path(), limits).expect("a store");
    let lock = Arc::new(other.lock(&case.name()).expect("a lock file").expect("nobody fills"));
    let meta = Meta {
        url: case.key.url().into(),
        scope: case.key.scope().into(),
        body_len: 10 * BLOCK_LEN,
        fetched_at_ms: now_ms(),
        purges: other.control().purge_mark(&case.name()),
        ..Meta::default()
    };
    let fill = Fill::begin(&lock, &meta).expect("there is room");
    Landing::new(&fill, 0).write(&vec![7; BLOCK_LEN as usize]).expect("written");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| outcome(&case.find_part(&case.section, Asked::One(ByteRange::Last(10)))));
        while !fill.is_wanted(9) {
            std::thread::yield_now();
        }
        case.cache.stop();
        // More often than a slice of its sleep, and for longer than anybody takes who looks.
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !waiter.is_finished() && std::time::Instant::now() < end {
            fill.wake_all();
            std::thread::yield_now();
        }
        assert!(waiter.is_finished(), "it waits on");
        assert_eq!(waiter.join().expect("an outcome"), "pass stopping");
    });
}

/// A storage that speaks TLS, with a certificate that nobody has vouched for.
fn tls_storage() -> u16 {
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("they fit together")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into());
    let config = Arc::new(config.expect("the key is the certificate's"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(config.clone()).expect("it is right");
            // The client breaks it off.
            let _ = tls.complete_io(&mut stream);
        }
    });
    port
}

#[test]
fn the_stack_of_a_fill_is_large_enough_for_tls() {
    // What is not ends the process.
    let case = Case::new(1, Section::default());
    let filename = format!("proxy:https://localhost:{}/a.ism", tls_storage());
    let key = Upstream::parse(filename.as_bytes()).expect("a URL").key("", true).expect("a key");
    let section = set(&[(c"S3AccessKey", "AKID"), (c"S3SecretKey", "secret")]);
    let want = Want { asked: Asked::Whole, streams: false };
    let ask = Ask { key: &key, section: &section, want, base: None, may_fill: true, now_ms: now_ms() };
    assert_eq!(outcome(&case.cache.find(&ask)), "pass failed");
    let reports: String = case.cache.reports().into_iter().map(|report| report.text).collect();
    assert!(reports.to_lowercase().contains("certificate"), "{reports}");
}
