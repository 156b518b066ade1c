//! Who leads, and what is kept.

use std::fs;

use super::super::fixture::*;
use super::super::{Limits, now_ms};
use super::*;

#[test]
fn another_leads_as_soon_as_the_leader_has_gone() {
    let site = Site::new();
    let (first, second) = (site.other(), site.other());
    let (mut one, mut other) = (Leader::new(), Leader::new());
    let tick = |leader: &mut Leader, store: &Store| leader.tick(store, now_ms()).expect("a tick");
    tick(&mut one, &first);
    tick(&mut other, &second);
    assert_eq!((one.is_leading(), other.is_leading()), (true, false));
    drop(first);
    tick(&mut other, &second);
    assert!(other.is_leading());
    other.resign(&second);
    let mut third = Leader::new();
    tick(&mut third, &site.store);
    assert!(third.is_leading() && !other.is_leading());
}

#[test]
fn an_older_generation_leaves_it_to_the_younger_one() {
    let site = Site::new();
    let (mut old, mut young) = (Leader::new(), Leader::new());
    old.tick(&site.store, now_ms()).expect("a tick");
    assert!(old.is_leading());
    let younger = open(site.dir.path(), 1 << 40, 1);
    young.tick(&younger, now_ms()).expect("a tick");
    assert!(!young.is_leading(), "the byte is still the old one's");
    old.tick(&site.store, now_ms()).expect("a tick");
    young.tick(&younger, now_ms()).expect("a tick");
    assert_eq!((old.is_leading(), young.is_leading()), (false, true));
}

#[test]
fn a_younger_generation_that_has_gone_is_followed_by_an_older_one() {
    let site = Site::new();
    drop(open(site.dir.path(), 1 << 40, 1));
    let mut leader = Leader::new();
    for _ in 0..STOOD_BACK_MAX {
        leader.tick(&site.store, now_ms()).expect("a tick");
        assert!(!leader.is_leading());
    }
    leader.tick(&site.store, now_ms()).expect("a tick");
    assert!(leader.is_leading());
    assert_eq!(site.store.control().terms(), Some(site.store.space.own_terms()));
}

#[test]
fn a_limit_that_was_lowered_is_kept() {
    let site = Site::with(|empty| empty + 100 * SMALL);
    (0..10).for_each(|n| publish_small(&site.store, n, 1_000_000 + n));
    // Five are too many, and a twentieth goes as well.
    let max = site.store.taken() - 5 * SMALL + 4096;
    let lower = open(site.dir.path(), max, 1);
    let mut leader = Leader::new();
    leader.tick(&lower, now_ms()).expect("a tick");
    assert!(lower.taken() <= max && site.on_disk() <= max);
    assert_eq!(site.held(), [5, 6, 7, 8, 9]);
}

#[test]
fn entries_make_room_where_others_fill_the_disk() {
    let site = Site::new();
    (0..10).for_each(|n| publish_small(&site.store, n, 1_000_000 + n));
    let limits = Limits { store_len_max: 1 << 40, free_len_min: 1 << 60, generation: 1 };
    let store = Store::open(site.dir.path(), limits).expect("a store");
    Leader::new().tick(&store, now_ms()).expect("a tick");
    assert_eq!(site.held(), [0; 0]);
}

#[test]
fn the_leader_counts_anew_what_was_put_there_by_others() {
    let site = Site::new();
    let before = site.store.taken();
    fs::write(site.path("entries/foreign"), vec![1; 1 << 20]).expect("written");
    let mut leader = Leader::new();
    let counted_at_ms = site.store.control().counted_at_ms().expect("it was counted");
    leader.tick(&site.store, counted_at_ms + COUNT_MS - 1).expect("a tick");
    assert_eq!(site.store.taken(), before);
    leader.tick(&site.store, counted_at_ms + COUNT_MS).expect("a tick");
    assert_eq!(site.store.taken(), before + (1 << 20));
}

#[test]
fn what_makers_of_control_blocks_left_behind_goes_when_it_is_old() {
    let site = Site::new();
    let rows = [
        ("control-1.new", 700, false),
        ("control-2.old", 700, false),
        ("control-3.new", 0, true),
        ("controls", 700, true),
    ];
    rows.iter().for_each(|(file, secs, _)| write_old(&site.path(file), 1, *secs));
    Leader::new().tick(&site.store, now_ms()).expect("a tick");
    for (file, _, stays) in rows {
        assert_eq!(site.path(file).exists(), stays, "{file}");
    }
    assert!(site.path("control").exists());
}
