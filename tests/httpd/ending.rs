//! Children that end, or stand still, while they fill: somebody goes on, and nothing that was on disk is fetched again.

use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use crate::client;
use crate::content::content;
use crate::filling::{BLOCK, Moment, fillers, kill, landed, signal};
use crate::server::Mpm;
use crate::site::{Site, is_hit, is_ours, sub};
use crate::storage::{Fault, Object, Whom};
use crate::wait::until;

const FILM: &str = "/media/film.mp4";
const LENGTH: usize = 5_000_000;
const LINES: &str = "UspStorageCachePartSize 512K\nUspStorageCacheFillThreads 2";

/// A site with a large object, and its bytes.
fn site(mpm: Mpm, children: u32, threads: u32, lines: &str) -> (Site, Vec<u8>) {
    let site = Site::wide(mpm, children, threads, &format!("{LINES}\n{lines}"));
    let body = content(70, LENGTH);
    site.storage.put(FILM, Object::new(body.clone()));
    (site, body)
}

/// Has a block filled and the rest asked for, and gives the moment when it is there.
fn with_block(site: &Site, body: &[u8], block: usize) -> Moment {
    let (first, last) = (block * BLOCK, block * BLOCK + 99);
    let answer = sub(FILM).range(format!("bytes={first}-{last}")).run(&site.httpd);
    assert!(answer.status() == 206 && answer.body() == &body[first..=last], "{}", answer.cache_status());
    until("the block", 10, || Moment::now(site, FILM).filter(|moment| moment.landed.contains(&block)))
}

/// The whole object is answered from the fill, and what was there at `moment` has not come again.
fn is_gone_on_with(site: &Site, body: &[u8], moment: &Moment, what: &str) {
    let whole = site.get(FILM);
    assert!(whole.body == body && is_ours(&whole.cache_status()), "{what}: {}", whole.cache_status());
    site.wait_for_entry(FILM);
    assert!(is_hit(&site.get(FILM).cache_status()), "{what}");
    moment.nothing_came_again(site, what);
    assert_eq!(site.storage.proxied(FILM).len(), 0, "{what}");
}

#[test]
fn a_stop_in_the_middle_of_a_fill_costs_no_block_wherever_the_blocks_lie() {
    for block in [0, 2, LENGTH / BLOCK] {
        let (mut site, body) = site(Mpm::Worker, 2, 8, "");
        site.storage.fail_some(FILM, Whom::Everyone, 2.., Fault::Hold);
        with_block(&site, &body, block);
        site.httpd.stop();
        let moment = Moment::now(&site, FILM).expect("the fill is left");
        assert!(moment.landed.contains(&block));
        site.storage.release(FILM);
        site.httpd.start_again();
        is_gone_on_with(&site, &body, &moment, &format!("block {block}"));
        assert_eq!(site.httpd.crashes(), 0);
    }
}

#[test]
fn a_graceful_restart_in_the_middle_of_a_fill_costs_no_block() {
    for mpm in Mpm::ALL {
        let (site, body) = site(mpm, 2, if mpm == Mpm::Prefork { 1 } else { 8 }, "");
        site.storage.fail_some(FILM, Whom::Everyone, 2.., Fault::Hold);
        with_block(&site, &body, 3);
        // What a child of prefork leaves is gone on with by who asks next, and that shall be a new one.
        site.httpd.graceful_for_all(mpm);
        let moment = Moment::now(&site, FILM).expect("the fill is there");
        site.storage.release(FILM);
        is_gone_on_with(&site, &body, &moment, &format!("{mpm:?}"));
        assert_eq!(site.httpd.crashes(), 0, "{mpm:?}");
    }
}

#[test]
fn what_a_killed_child_leaves_is_gone_on_with_though_nobody_asks() {
    let (site, body) = site(Mpm::Prefork, 3, 1, "");
    // Each child learns how the storage is asked.
    site.each_child(3, &client::Request::get("/none.mp4"));
    site.storage.fail_some(FILM, Whom::Everyone, 2.., Fault::Hold);
    let moment = with_block(&site, &body, 3);
    kill(&fillers(&site.httpd));
    site.storage.release(FILM);
    site.wait_for_entry(FILM);
    moment.nothing_came_again(&site, "by another child");
    assert!(site.get(FILM).body == body);
    assert_eq!(site.storage.proxied(FILM).len(), 0);
}

#[test]
fn children_of_one_request_each_complete_a_fill_together() {
    let (site, body) = site(Mpm::Prefork, 3, 1, "MaxConnectionsPerChild 1");
    site.storage.pace(2_000_000);
    let mut ended = 0;
    for block in 0..4 {
        let moment = Moment::now(&site, FILM);
        let range = format!("bytes={}-{}", block * BLOCK, block * BLOCK + 99);
        let request = sub(FILM).range(range).request();
        let answer = client::fetch(site.httpd.port, request).expect("it is answered");
        assert!(answer.body == body[block * BLOCK..block * BLOCK + 100], "block {block}");
        // Its child ends, and whatever that was fetching with it.
        until("the filler to end", 20, || fillers(&site.httpd).is_empty().then_some(()));
        if let Some(moment) = moment {
            moment.nothing_came_again(&site, &format!("block {block}"));
            ended += 1;
        }
    }
    assert!(ended > 0, "the first child has completed it");
    let moment = Moment::now(&site, FILM);
    // A child may end between the last block and the publication: that is left to the next one.
    until("the entry", 20, || {
        let whole = site.get(FILM);
        assert!(whole.body == body && is_ours(&whole.cache_status()), "{}", whole.cache_status());
        is_hit(&whole.cache_status()).then_some(())
    });
    moment.iter().for_each(|moment| moment.nothing_came_again(&site, "the whole"));
    assert_eq!((site.httpd.crashes(), site.storage.proxied(FILM).len()), (0, 0));
}

#[test]
fn who_waits_for_a_child_that_stands_still_is_let_go_in_time_and_the_child_goes_on() {
    let (site, body) = site(Mpm::Worker, 3, 8, "UspStorageCacheWait 1");
    site.storage.fail_some(FILM, Whom::Fetches, 2.., Fault::Hold);
    with_block(&site, &body, 0);
    let [filler] = fillers(&site.httpd)[..] else { panic!("not one child fills") };
    signal(filler, Signal::STOP);
    let moment = Moment::now(&site, FILM).expect("the fill is there");
    let (first, last) = (9 * BLOCK, 10 * BLOCK);
    let ask = || {
        let began = Instant::now();
        let answer = sub(FILM).range(format!("bytes={first}-{last}")).run(&site.httpd);
        (answer, began.elapsed())
    };
    // Connections that the child took before it stood still wait for it; all others do not.
    thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        until("somebody to be let go", 20, || (!site.storage.proxied(FILM).is_empty()).then_some(()));
        assert_eq!(landed(&site, FILM).as_ref(), Some(&moment.landed), "the lock is the child's: nobody else goes on");
        signal(filler, Signal::CONT);
        let answers: Vec<_> = asking.into_iter().map(|one| one.join().expect("it is answered")).collect();
        for (answer, took) in &answers {
            assert!(answer.status() == 206 && answer.body() == &body[first..=last], "{}", answer.cache_status());
            assert!((1..10).contains(&took.as_secs()), "{took:?}");
        }
    });
    site.storage.release(FILM);
    site.wait_for_entry(FILM);
    assert!(site.get(FILM).body == body && is_hit(&site.get(FILM).cache_status()));
    moment.nothing_came_again(&site, "after the stop");
    assert_eq!(site.httpd.crashes(), 0);
}
