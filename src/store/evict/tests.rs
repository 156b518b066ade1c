//! Who goes, in which order, and who does not.

use std::fs;

use super::super::fixture::*;
use super::*;

#[test]
fn a_small_store_keeps_exactly_what_was_used_last() {
    let site = Site::with(|empty| empty + 20 * SMALL + 4096);
    let used_at = |n: u64| 1_000_000 + (n * 7) % 20;
    (0..20).for_each(|n| publish_small(&site.store, n, used_at(n)));
    use_at(&site.store, 0, 2_000_000);
    publish_small(&site.store, 20, 1_500_000);
    // One has to go, and a twentieth goes as well.
    let mut order: Vec<_> = (1..20).collect();
    order.sort_by_key(|n| used_at(*n));
    let held = site.held();
    let mut gone: Vec<_> = (0..21).filter(|n| !held.contains(n)).collect();
    gone.sort_by_key(|n| used_at(*n));
    assert_eq!(gone, order[..2]);
}

#[test]
fn what_cannot_fit_makes_nothing_go() {
    let site = Site::with(|empty| empty + 10 * SMALL);
    (0..5).for_each(|n| publish_small(&site.store, n, 1_000_000 + n));
    fs::write(site.path("entries/foreign"), vec![1; 6 * SMALL as usize]).expect("written");
    site.store.count_anew(&site.store.control()).expect("a count");
    publish(&site.store, &url(9), SCOPE, 5 * SMALL as usize).expect_err("the foreign file stays");
    assert_eq!(site.held(), [0, 1, 2, 3, 4]);
    assert!(site.path("entries/foreign").exists());
}

#[test]
fn old_abandoned_fills_go_first_young_ones_last_and_those_under_way_never() {
    // There is room for ten: three have it, a leftover of four has, and then an entry of so many comes.
    type Row = (&'static str, u64, bool, u64, &'static [u64], bool);
    let rows: [Row; 5] = [
        ("an old one goes first", 700, false, 5, &[0, 1, 2, 9], false),
        ("a young one stays", 0, false, 3, &[2, 9], true),
        ("a young one goes where entries are not enough", 0, false, 8, &[9], false),
        ("one under way stays", 700, true, 3, &[2, 9], true),
        ("one under way is not counted on", 700, true, 8, &[0, 1, 2], true),
    ];
    for (what, secs, is_locked, need, held, is_there) in rows {
        let site = Site::with(|empty| empty + 10 * SMALL);
        (0..3).for_each(|n| publish_small(&site.store, n, 1_000_000 + n));
        let leftover = site.path("fills").join(name(50).file());
        write_old(&leftover, 4 * SMALL as usize, secs);
        site.store.count_anew(&site.store.control()).expect("a count");
        let other = site.other();
        let lock = is_locked.then(|| other.lock(&name(50)).expect("a lock file").expect("free"));
        // One page of it is its head's.
        let _ = publish(&site.store, &url(9), SCOPE, (need * SMALL) as usize - 4096);
        assert_eq!((site.held().as_slice(), leftover.exists()), (held, is_there), "{what}");
        drop(lock);
    }
}

#[test]
fn only_old_fills_and_half_made_ones_are_cleaned_up_and_none_under_way() {
    let site = Site::new();
    let fill = |n: u64| site.path("fills").join(name(n).file());
    let half_made = |n: u64| site.path("fills").join(name(n).half_made_file());
    write_old(&fill(1), 100, 700);
    write_old(&fill(2), 100, 0);
    write_old(&fill(3), 100, 700);
    write_old(&half_made(4), 100, 0);
    write_old(&half_made(5), 100, 700);
    write_old(&site.path("fills/foreign"), 100, 700);
    let other = site.other();
    let _locks = [3, 5].map(|n| other.lock(&name(n)).expect("a lock file").expect("free"));
    remove_abandoned(&site.store).expect("an answer");
    let mut left: Vec<_> = fs::read_dir(site.path("fills")).expect("there").flatten().map(|file| file.path()).collect();
    left.sort_unstable();
    let mut want = [fill(2), fill(3), half_made(5), site.path("fills/foreign")];
    want.sort_unstable();
    assert_eq!(left, want);
}

/// A store too large to be looked at as a whole.
#[test]
fn of_a_large_store_a_sample_goes_and_the_youngest_stay() {
    let site = Site::new();
    let is_soak = std::env::var_os("USC_SOAK").is_some();
    let entries: u64 = if is_soak { 100_000 } else { 1500 };
    (0..entries).for_each(|n| write_entry(&site, n, 1_000_000 + n));
    site.store.count_anew(&site.store.control()).expect("a count");
    let taken = site.store.taken();
    let tenth = entries / 10;
    make_room(&site.store, &site.store.control(), 0, taken - tenth * 4096).expect("room is made");
    let is_held = |n: &u64| site.path("entries").join(name(*n).path()).exists();
    let held = (0..entries).filter(is_held).count() as u64;
    let of_the_youngest = (entries - tenth..entries).filter(is_held).count() as u64;
    assert!(held <= entries - tenth, "{held}");
    assert!(held >= entries / 2, "{held}: no more than needed, and a little");
    assert_eq!(of_the_youngest, tenth);
}

/// A file of a page under an entry's name.
fn write_entry(site: &Site, n: u64, used_at: u64) {
    let path = site.path("entries").join(name(n).path());
    fs::create_dir_all(path.parent().expect("a shard")).expect("made");
    fs::write(&path, [1; 100]).expect("written");
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(used_at);
    let file = fs::File::options().write(true).open(&path).expect("it is there");
    file.set_times(fs::FileTimes::new().set_accessed(at)).expect("the time is set");
}
