//! The same under each multi-processing module: a miss, a hit, a range, and a quick end.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::client::{self, Request};
use crate::content::content;
use crate::server::{Conf, Httpd, Mpm};
use crate::site::{STORED, Site, is_hit, sub};
use crate::storage::{Fault, Object, Storage, Whom};
use crate::wait::until;

const FILM: &str = "/film.ism";

fn site(mpm: Mpm) -> Site {
    let storage = Storage::start();
    storage.put(FILM, Object::new(content(12, 100_000)));
    let conf = Conf::new(Site::text(&storage, ""));
    let conf = if mpm == Mpm::Prefork { conf.size(1, 4) } else { conf };
    Site { httpd: Httpd::start(conf.mpm(mpm)), storage }
}

fn serves_and_stops(mpm: Mpm) {
    let mut site = site(mpm);
    let body = content(12, 100_000);
    let first = site.get(FILM);
    assert_eq!((first.cache_status().as_str(), &first.body), (STORED, &body));
    let second = site.get(FILM);
    assert!(is_hit(&second.cache_status()), "{}", second.cache_status());
    assert_eq!(second.body, body);
    let part = site.send(Request::get(FILM).range("bytes=100-199"));
    assert_eq!((part.status, &part.body[..]), (206, &body[100..200]));
    let part = sub(FILM).range("bytes=100-199").parameter("n", "100").run(&site.httpd);
    assert_eq!((part.status(), part.body()), (206, &body[100..200]));
    assert_eq!(site.storage.counts(FILM), (1, 0));
    stops_within(&mut site, mpm, Duration::from_secs(2));
}

fn stops_within(site: &mut Site, mpm: Mpm, most: Duration) {
    let took = site.httpd.stop();
    assert!(took < most, "the stop takes {took:?}");
    for words in ["SIGKILL", "did not exit"] {
        assert_eq!(site.httpd.count_in_log(words), 0, "{words}");
    }
    assert_eq!(site.httpd.crashes(), 0);
    assert!(mpm == Mpm::Event || site.httpd.crashes_and_stops() == 0);
}

/// A fill that hangs, and waiters behind it, when the order to stop comes.
fn stops_in_the_middle_of_a_fill(mpm: Mpm) {
    let mut site = site(mpm);
    // mod_proxy is answered: what it waits for is its own.
    site.storage.fail(FILM, Whom::Fetches, Fault::Hang);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let port = site.httpd.port;
            thread::spawn(move || client::fetch(port, Request::get(format!("/store{FILM}"))))
        })
        .collect();
    site.storage.wait_for_fetches(FILM, 1);
    until("the waiters", 10, || (site.httpd.count_in_log("recognised") >= 3).then_some(()));
    stops_within(&mut site, mpm, Duration::from_secs(3));
    for client in clients {
        let _ = client.join().expect("the client ends");
    }
}

fn outlives_a_graceful_restart(mpm: Mpm) {
    let site = site(mpm);
    site.fill(FILM, Object::new(content(12, 100_000)));
    for _ in 0..3 {
        site.httpd.graceful();
        let answer = site.get(FILM);
        assert!(is_hit(&answer.cache_status()), "{}", answer.cache_status());
        assert_eq!(answer.body, content(12, 100_000));
    }
    assert_eq!(site.storage.counts(FILM), (1, 0));
}

#[test]
fn prefork_serves_and_stops() {
    serves_and_stops(Mpm::Prefork);
}

#[test]
fn worker_serves_and_stops() {
    serves_and_stops(Mpm::Worker);
}

#[test]
fn event_serves_and_stops() {
    serves_and_stops(Mpm::Event);
}

#[test]
fn prefork_stops_in_the_middle_of_a_fill() {
    stops_in_the_middle_of_a_fill(Mpm::Prefork);
}

#[test]
fn worker_stops_in_the_middle_of_a_fill() {
    stops_in_the_middle_of_a_fill(Mpm::Worker);
}

#[test]
fn event_stops_in_the_middle_of_a_fill() {
    stops_in_the_middle_of_a_fill(Mpm::Event);
}

/// Streams of HTTP/2 are served on other threads than the one that writes to the client.
#[test]
fn an_object_goes_out_over_http_2_as_it_is() {
    let storage = Storage::start();
    let text = Site::text(&storage, "Protocols h2c http/1.1\nEnableSendfile On");
    let site = Site { httpd: Httpd::start(Conf::new(text).load("http2")), storage };
    let body = content(13, 5 << 20);
    site.fill(FILM, Object::new(body.clone()));
    let url = format!("http://127.0.0.1:{}/store{FILM}", site.httpd.port);
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--http2-prior-knowledge"]).args(arguments);
        curl.output().expect("curl runs").stdout
    };
    assert!(curl(&[&url]) == body);
    assert!(curl(&["-r", "1000000-2999999", &url]) == body[1_000_000..3_000_000]);
    thread::scope(|scope| {
        for first in (0..8_usize).map(|number| number * 500_000) {
            let (curl, body, url) = (&curl, &body, &url);
            let range = format!("{first}-{}", first + 999_999);
            scope.spawn(move || assert!(curl(&["-r", &range, url]) == body[first..first + 1_000_000], "{range}"));
        }
    });
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.proxied(FILM).len()), (5 << 20, 0));
    assert_eq!(site.httpd.crashes(), 0);
}

#[test]
fn entries_outlive_a_graceful_restart_under_each_mpm() {
    Mpm::ALL.into_iter().for_each(outlives_a_graceful_restart);
}
