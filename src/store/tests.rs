//! The store from outside: what is published is served, what is damaged or foreign is a miss.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::format::{BLOCK_LEN, Meta};
use super::*;

const URL: &str = "http://h/a.mp4";

struct Case {
    dir: TempDir,
    store: Store,
    name: Name,
}

impl Case {
    fn new() -> Self {
        Self::with_limit(1 << 30)
    }

    fn with_limit(store_len_max: u64) -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(dir.path(), Limits { store_len_max, free_len_min: 0 }).expect("a store");
        Self { dir, store, name: Name::new(URL, "id") }
    }

    fn fill(&self, url: &str, body: &[u8], piece_len: usize) -> std::io::Result<()> {
        let name = Name::new(url, "id");
        let lock = self.store.lock(name).expect("a lock file").expect("nobody else has the lock");
        let meta = Meta {
            url: url.into(),
            scope: "id".into(),
            body_len: body.len() as u64,
            fields: vec![("ETag".into(), b"\"1\"".to_vec())],
            ..Meta::default()
        };
        let mut fill = Fill::begin(lock, &meta)?;
        for piece in body.chunks(piece_len.max(1)) {
            fill.write(piece)?;
        }
        fill.publish()
    }

    fn entry(&self) -> Option<Entry> {
        self.store.entry(&self.name, URL, "id").expect("an answer")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("v1/entries").join(self.name.path())
    }

    fn files(&self) -> usize {
        let dirs = ["v1/fills".into(), format!("v1/entries/{}", self.name.shard())];
        dirs.iter().filter_map(|dir| fs::read_dir(self.dir.path().join(dir)).ok()).flatten().count()
    }
}

fn body(len: u64) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn what_is_published_is_served_byte_for_byte() {
    for len in [0, 1, BLOCK_LEN - 1, BLOCK_LEN, 3 * BLOCK_LEN + 17] {
        let case = Case::new();
        case.fill(URL, &body(len), 100_000).expect("a fill");
        let entry = case.entry().expect("an entry");
        assert!(entry.check(&(0..len)).is_ok());
        assert_eq!(entry.body(&(0..len)), body(len), "{len}");
        assert_eq!(entry.fields().collect::<Vec<_>>(), [(c"ETag", c"\"1\"")]);
    }
}

#[test]
fn an_entry_is_as_old_as_the_request_that_fetched_it() {
    let case = Case::new();
    let lock = case.store.lock(case.name.clone()).expect("a lock file").expect("free");
    let (url, scope) = (URL.into(), "id".into());
    let meta = Meta { url, scope, fetched_at: 5000, initial_age_secs: 7, ..Meta::default() };
    Fill::begin(lock, &meta).and_then(Fill::publish).expect("a fill");
    let entry = case.entry().expect("an entry");
    assert_eq!((entry.age_secs(5010), entry.ttl_secs(5010, 60)), (17, Some(50)));
    assert_eq!((entry.ttl_secs(5060, 60), entry.ttl_secs(4999, 60)), (None, None));
}

#[test]
fn the_store_is_the_users_alone() {
    let case = Case::new();
    case.fill(URL, b"x", 1).expect("a fill");
    let mode = |path: PathBuf| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(case.dir.path().join("v1")), 0o700);
    assert_eq!(mode(case.file()), 0o600);
}

#[test]
fn a_fill_that_is_dropped_or_short_leaves_nothing() {
    let case = Case::new();
    let lock = case.store.lock(case.name.clone()).expect("a lock file").expect("free");
    let meta = Meta { url: URL.into(), scope: "id".into(), body_len: 10, ..Meta::default() };
    let mut fill = Fill::begin(lock, &meta).expect("a fill");
    assert!(fill.write(b"more than ten bytes").is_err());
    fill.write(b"short").expect("room");
    assert_eq!(case.files(), 1);
    assert!(fill.publish().is_err());
    assert!(case.entry().is_none());
    assert_eq!(case.files(), 0);
}

#[test]
fn a_replaced_version_stays_whole_for_who_has_it() {
    let case = Case::new();
    case.fill(URL, b"first", 5).expect("a fill");
    let first = case.entry().expect("an entry");
    case.fill(URL, b"second", 6).expect("a fill");
    let second = case.entry().expect("an entry");
    assert_eq!((first.body(&(0..5)), second.body(&(0..6))), (&b"first"[..], &b"second"[..]));
    assert_ne!(first.identity(), second.identity());
    assert!(first.reopen(case.store.entries()).is_none(), "the name leads to another version");
    assert!(second.reopen(case.store.entries()).is_some());
}

#[test]
fn a_lock_keeps_other_threads_and_stores_out() {
    let case = Case::new();
    let other = Store::open(case.dir.path(), Limits { store_len_max: 1, free_len_min: 0 }).expect("a store");
    let lock = case.store.lock(case.name.clone()).expect("a lock file").expect("free");
    assert!(case.store.lock(case.name.clone()).expect("an answer").is_none());
    assert!(other.lock(case.name.clone()).expect("an answer").is_none());
    drop(lock);
    assert!(other.lock(case.name.clone()).expect("an answer").is_some());
}

#[test]
fn a_flipped_bit_in_the_body_is_found_before_the_block_is_served() {
    let case = Case::new();
    case.fill(URL, &body(2 * BLOCK_LEN), 1 << 20).expect("a fill");
    let at = case.entry().expect("an entry").body_at() + BLOCK_LEN + 5;
    let file = File::options().write(true).open(case.file()).expect("it is there");
    file.write_all_at(&[0xff], at).expect("written");
    let entry = case.entry().expect("the head is whole");
    assert!(entry.check(&(0..BLOCK_LEN)).is_ok());
    assert!(entry.check(&(BLOCK_LEN - 1..BLOCK_LEN + 1)).is_err());
}

#[test]
fn what_is_no_entry_is_a_miss_and_goes() {
    type Damage = fn(&Path);
    let rows: [(&str, Damage); 7] = [
        ("shortened", |p| File::options().write(true).open(p).expect("it is there").set_len(5000).expect("shorter")),
        ("emptied", |p| fs::write(p, b"").expect("written")),
        ("zeroed", |p| fs::write(p, vec![0; 8192]).expect("written")),
        ("foreign", |p| fs::write(p, b"hello").expect("written")),
        ("writable by others", |p| fs::set_permissions(p, fs::Permissions::from_mode(0o666)).expect("changed")),
        ("a link", |p| fs::remove_file(p).and_then(|()| symlink("/etc/passwd", p)).expect("linked")),
        ("a directory", |p| fs::remove_file(p).and_then(|()| fs::create_dir(p)).expect("made")),
    ];
    for (what, damage) in rows {
        let case = Case::new();
        case.fill(URL, &body(5000), 5000).expect("a fill");
        damage(&case.file());
        assert!(case.entry().is_none(), "{what}");
        assert!(fs::symlink_metadata(case.file()).is_err(), "{what} is still there");
        case.fill(URL, b"again", 5).expect(what);
        assert!(case.entry().is_some(), "{what}");
    }
}

#[test]
fn an_entry_of_another_url_or_scope_is_no_entry_of_this_key() {
    let case = Case::new();
    case.fill(URL, b"x", 1).expect("a fill");
    assert!(case.store.entry(&case.name, URL, "other").expect("an answer").is_none());
}

/// A store with room for six small entries, and five in it, used one after the other.
fn used_in_order() -> Case {
    let case = Case::with_limit(6 * 8192);
    for n in 0..5 {
        case.fill(&small(n), b"small", 5).expect("a fill");
        let entry = case.small(n).expect("an entry");
        entry.touch(1_000_000 + n);
        case.store.stamp(&entry);
    }
    case
}

fn small(n: u64) -> String {
    format!("http://h/{n}.ism")
}

impl Case {
    fn small(&self, n: u64) -> Option<Entry> {
        self.store.entry(&Name::new(&small(n), "id"), &small(n), "id").expect("an answer")
    }

    fn held(&self) -> Vec<u64> {
        (0..10).filter(|n| self.small(*n).is_some()).collect()
    }
}

#[test]
fn the_least_recently_used_makes_room() {
    let case = used_in_order();
    let first = case.small(0).expect("an entry");
    first.touch(2_000_000);
    case.store.stamp(&first);
    case.fill(&small(5), b"small", 5).expect("there is room");
    case.fill(&small(6), b"small", 5).expect("room is made");
    assert_eq!(case.held(), [0, 3, 4, 5, 6]);
}

#[test]
fn what_cannot_fit_makes_nothing_go() {
    let case = used_in_order();
    assert!(case.fill(&small(9), &body(7 * 8192), 8192).is_err());
    assert_eq!(case.held(), [0, 1, 2, 3, 4]);
}

#[test]
fn an_abandoned_fill_makes_room_and_one_under_way_does_not() {
    let case = used_in_order();
    let leftover = |n| case.dir.path().join("v1/fills").join(Name::new(&small(n), "id").file());
    fs::write(leftover(7), body(8192)).expect("written");
    fs::write(leftover(8), body(8192)).expect("written");
    let other = Store::open(case.dir.path(), Limits { store_len_max: 1, free_len_min: 0 }).expect("a store");
    let _under_way = other.lock(Name::new(&small(8), "id")).expect("a lock file").expect("free");
    case.fill(&small(5), b"small", 5).expect("there is room");
    case.fill(&small(6), b"small", 5).expect("room is made");
    assert_eq!((leftover(7).exists(), leftover(8).exists()), (false, true));
}

#[test]
fn a_directory_of_others_is_refused_with_a_remedy() {
    let dir = TempDir::new().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("changed");
    let limits = Limits { store_len_max: 1, free_len_min: 0 };
    let unfit = Store::open(dir.path(), limits).err().expect("it is refused");
    assert!(unfit.to_string().contains("UspStorageCacheRoot"), "{unfit}");
    let uid = rustix::process::geteuid().as_raw();
    assert!(make_root(dir.path(), uid, 0).is_err());
    assert!(make_root(&dir.path().join("missing/root"), uid, 0).is_err());
    assert!(make_root(&dir.path().join("root"), uid, 0).is_ok());
    assert!(make_root(&dir.path().join("root"), uid, 0).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_pieces_give_the_same_entry(len in 0..2 * BLOCK_LEN, piece_len in 1usize..400_000, from: u64, to: u64) {
        let case = Case::new();
        case.fill(URL, &body(len), piece_len).expect("a fill");
        let entry = case.entry().expect("an entry");
        let (from, to) = (from % (len + 1), to % (len + 1));
        let part = from.min(to)..from.max(to);
        prop_assert!(entry.check(&part).is_ok());
        prop_assert_eq!(entry.body(&part), &body(len)[part.start as usize..part.end as usize]);
    }
}
