//! The limit under threads that each have a store of their own, as processes have, and under those that are killed.

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use super::super::fixture::*;
use super::super::*;
use super::*;

#[test]
fn the_sum_is_what_the_files_take() {
    let site = Site::new();
    let empty = site.store.taken();
    for (n, len) in [(0, 0), (1, 5), (2, 5000), (3, 3 << 20)] {
        publish(&site.store, &url(n), SCOPE, len).expect("room");
    }
    publish(&site.store, &url(3), SCOPE, 1 << 20).expect("it replaces the larger one");
    let entry = site.store.entry(&name(1), &url(1), SCOPE, None).expect("an answer").expect("it is there");
    assert!(site.store.discard(&name(1), entry.identity()).expect("an answer"));
    let len = |n| blocks(&site.path("entries").join(name(n).path()));
    assert_eq!(site.store.taken() - empty, len(0) + len(2) + len(3));
    // Directories that are not there yet are counted as well.
    assert!(site.store.taken() >= site.on_disk());
    assert!(site.store.taken() - site.on_disk() <= 256 * 4096);
}

fn blocks(path: &Path) -> u64 {
    rustix::fs::lstat(path).map_or(0, |stat| blocks_len(&stat))
}

#[test]
fn a_file_that_cannot_be_made_leaves_no_reservation() {
    let site = Site::new();
    let before = site.store.taken();
    fs::create_dir(site.path("fills").join(name(1).file())).expect("made");
    assert!(publish(&site.store, &url(1), SCOPE, 5).is_err());
    // More than any disk has: refused before, or by `fallocate`.
    let lock = site.store.lock(&name(2)).expect("a lock file").expect("free");
    assert!(lock.make_file(lock.name().file(), 1 << 39).is_err());
    assert_eq!(site.store.taken(), before);
    assert!(!site.path("fills").join(name(2).file()).exists());
}

#[test]
fn a_fill_that_is_dropped_gives_its_space_back() {
    let site = Site::new();
    let before = site.store.taken();
    let lock = site.store.lock(&name(1)).expect("a lock file").expect("free");
    drop(lock.make_file(&name(1).half_made_file(), 1 << 20).expect("room"));
    assert!(site.store.taken() >= before + (1 << 20));
    assert!(lock.remove_fill().expect("an answer"));
    assert_eq!(site.store.taken(), before);
}

/// Fills, and what makes room for them, at a time. A watcher measures in moments at which no file comes or goes: a walk
/// beside them would meet some files twice.
#[test]
fn the_limit_holds_at_every_instant() {
    let site = Site::with(|empty| empty + 40 * (64 << 10));
    let max = site.store.space.own_terms().store_len_max;
    let turns = if std::env::var_os("USC_SOAK").is_some() { 500 } else { 60 };
    let (barrier, is_over, published) = (Barrier::new(9), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let watch = || {
            barrier.wait();
            let mut moments = 0;
            while !is_over.load(SeqCst) {
                let measure = || (site.on_disk(), site.store.taken());
                let Some((on_disk, taken)) = site.store.space.if_quiet(&site.store, measure).expect("an answer") else {
                    continue;
                };
                assert!(on_disk <= taken && taken <= max, "{on_disk}, {taken}, {max}");
                moments += 1;
            }
            moments
        };
        let watcher = scope.spawn(watch);
        let fill = |thread: u64| {
            let store = site.other();
            barrier.wait();
            for turn in 0..turns {
                let n = (thread * 37 + turn * 11) % 90;
                let len = ((thread + 1) * (turn + 3) * 7919) as usize % 200_000;
                if publish(&store, &url(n), SCOPE, len).is_ok() {
                    published.fetch_add(1, SeqCst);
                }
                assert!(store.taken() <= max, "{} of {max}", store.taken());
            }
        };
        let fillers: Vec<_> = (0..8).map(|thread| scope.spawn(move || fill(thread))).collect();
        let filled: Vec<_> = fillers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, SeqCst);
        assert!(filled.iter().all(Result::is_ok));
        assert!(watcher.join().expect("it holds") > 0);
    });
    assert!(published.load(SeqCst) > turns * 4, "most of them found room: {published:?}");
}

#[test]
fn a_count_beside_fills_and_evictions_is_never_too_small() {
    let site = Site::with(|empty| empty + 60 * (64 << 10));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let fill = |thread: u64| {
            let store = site.other();
            for turn in 0..80 {
                let _ = publish(&store, &url((thread * 37 + turn * 11) % 90), SCOPE, (turn * 3000) as usize);
            }
        };
        let fillers: Vec<_> = (0..4).map(|thread| scope.spawn(move || fill(thread))).collect();
        let count = || {
            let store = site.other();
            let mut counts = 0;
            while !is_over.load(SeqCst) {
                let Some(count) = store.begin_count().expect("an answer") else { continue };
                while !store.end_count(&count).expect("an answer") {}
                let measure = || (site.on_disk(), store.taken());
                if let Some((on_disk, taken)) = store.space.if_quiet(&store, measure).expect("an answer") {
                    assert!(on_disk <= taken, "{on_disk}, {taken}");
                }
                counts += 1;
            }
            counts
        };
        let counter = scope.spawn(count);
        fillers.into_iter().for_each(|filler| filler.join().expect("it fills"));
        is_over.store(true, SeqCst);
        assert!(counter.join().expect("it counts") > 0);
    });
    assert!(site.store.taken() >= site.on_disk(), "{} for {}", site.store.taken(), site.on_disk());
    site.store.count_anew(&site.store.control()).expect("a count");
    assert!(site.store.taken() >= site.on_disk());
}

#[test]
fn what_comes_while_the_files_are_counted_is_added() {
    let site = Site::new();
    publish(&site.store, &url(1), SCOPE, 5).expect("room");
    let count = site.store.begin_count().expect("an answer").expect("nobody reserves");
    let other = site.other();
    publish(&other, &url(2), SCOPE, 1 << 20).expect("room");
    let entry = other.entry(&name(1), &url(1), SCOPE, None).expect("an answer").expect("it is there");
    other.discard(&name(1), entry.identity()).expect("an answer");
    let reserved = other.space.reserve(&other, 5).expect("room");
    assert!(!site.store.end_count(&count).expect("an answer"), "its file may come at any time");
    drop(reserved);
    assert!(site.store.end_count(&count).expect("an answer"));
    assert!(site.store.taken() >= site.on_disk());
}

#[test]
fn a_count_drops_what_was_reserved_by_one_that_was_killed() {
    let site = Site::new();
    publish(&site.store, &url(1), SCOPE, 5).expect("room");
    let before = site.store.taken();
    // As a process that is killed: its description goes, and nothing is subtracted.
    let killed = site.other();
    std::mem::forget(killed.space.reserve(&killed, 1 << 20).expect("room"));
    assert!(site.store.begin_count().expect("an answer").is_none(), "it may be about to make its file");
    drop(killed);
    assert!(site.store.taken() > before + (1 << 20));
    let count = site.store.begin_count().expect("an answer").expect("nobody reserves");
    assert!(site.store.end_count(&count).expect("an answer"));
    assert_eq!(site.store.taken(), before);
}

#[test]
fn whoever_reserves_first_after_the_control_block_was_lost_counts() {
    let site = Site::new();
    publish(&site.store, &url(1), SCOPE, 5).expect("room");
    let before = site.store.taken();
    let other = site.other();
    fs::remove_file(site.path("control")).expect("removed");
    for store in [&site.store, &other] {
        assert!(store.refresh_control().expect("an answer"));
        assert!(!store.refresh_control().expect("an answer"));
    }
    assert_eq!(site.store.control().incarnation(), other.control().incarnation());
    assert_eq!(site.store.taken(), 0);
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for n in 2..6 {
            let store = if n % 2 == 0 { &site.store } else { &other };
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                publish(store, &url(n), SCOPE, 5).expect("room");
            });
        }
    });
    assert_eq!(site.store.taken(), before + 4 * SMALL);
}

#[test]
fn the_terms_of_the_youngest_count() {
    let site = Site::with(|empty| empty + 10 * SMALL);
    let younger = open(site.dir.path(), EMPTY_MAX + 100 * SMALL, 1);
    let max = |store: &Store| store.space.terms(&store.control()).store_len_max;
    assert_eq!((max(&site.store), max(&younger)), (EMPTY_MAX + 100 * SMALL, EMPTY_MAX + 100 * SMALL));
    drop(site.other());
    assert_eq!(max(&site.store), EMPTY_MAX + 100 * SMALL, "an old child that is begun late changes nothing");
}

#[test]
fn a_disk_without_room_is_not_filled() {
    let site = Site::new();
    let limits = Limits { store_len_max: 1 << 40, free_len_min: 1 << 60, generation: 0 };
    let store = Store::open(site.dir.path(), limits).expect("a store");
    publish(&store, &url(1), SCOPE, 5).expect_err("no room");
    assert_eq!(site.held(), [0; 0]);
}
