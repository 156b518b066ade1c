//! The store from outside: what is published is served, what is damaged or foreign is a miss.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::fill::Landing;
use super::fixture::{Site, open};
use super::format::{BLOCK_LEN, Meta};
use super::version::Sought;
use super::*;

const URL: &str = "http://h/a.mp4";

struct Case {
    dir: TempDir,
    store: Arc<Store>,
    name: Name,
}

impl Case {
    fn new() -> Self {
        Self::with_limit(1 << 30)
    }

    /// With `room` for entries.
    fn with_limit(room: u64) -> Self {
        let Site { dir, store } = Site::with(|empty| empty + room);
        Self { dir, store, name: Name::new(URL, "id") }
    }

    fn lock(&self) -> Arc<KeyLock> {
        Arc::new(self.store.lock(&self.name).expect("a lock file").expect("nobody else has the lock"))
    }

    fn begin(&self, body_len: u64) -> Fill {
        Fill::begin(&self.lock(), &meta(&self.store, URL, body_len)).expect("a fill")
    }

    fn under_way(&self) -> Option<Arc<Version>> {
        self.store.fill(Sought { name: &self.name, url: URL, scope: "id" }).expect("an answer")
    }

    fn fill(&self, url: &str, body: &[u8], piece_len: usize) -> std::io::Result<()> {
        let lock = self.store.lock(&Name::new(url, "id")).expect("a lock file").expect("nobody else has the lock");
        let fill = Fill::begin(&Arc::new(lock), &meta(&self.store, url, body.len() as u64))?;
        let mut landing = Landing::new(&fill, 0);
        body.chunks(piece_len.max(1)).try_for_each(|piece| landing.write(piece))?;
        fill.publish(NOW_MS).map(drop)
    }

    fn entry(&self) -> Option<Arc<Version>> {
        self.store.entry(&self.name, URL, "id", None).expect("an answer")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("v1/entries").join(self.name.path())
    }

    fn files(&self) -> usize {
        let dirs = ["v1/fills".into(), format!("v1/entries/{}", self.name.shard())];
        dirs.iter().filter_map(|dir| fs::read_dir(self.dir.path().join(dir)).ok()).flatten().count()
    }
}

/// When the entries of these tests are vouched for.
const NOW_MS: u64 = 5_000_123;

fn meta(store: &Store, url: &str, body_len: u64) -> Meta {
    let fields = vec![("ETag".into(), b"\"1\"".to_vec())];
    let purges = store.control().purge_mark(&Name::new(url, "id"));
    Meta { purges, url: url.into(), scope: "id".into(), body_len, fields, initial_age_secs: 7, ..Meta::default() }
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
        assert_eq!(entry.body(&(0..len)), Some(&body(len)[..]), "{len}");
        assert_eq!(entry.fields().collect::<Vec<_>>(), [(c"ETag", c"\"1\"")]);
    }
}

#[test]
fn an_entry_is_as_old_as_storages_word_for_it() {
    let case = Case::new();
    case.fill(URL, b"", 1).expect("a fill");
    let entry = case.entry().expect("an entry");
    assert_eq!((entry.validated_at_ms(), entry.age_secs(NOW_MS + 10_000)), (NOW_MS, 17));
    assert!(case.lock().vouch(&entry, NOW_MS + 20_000).expect("its time is set"));
    assert!(!entry.is_current(), "who holds it looks again");
    let again = case.store.entry(&case.name, URL, "id", Some(&entry)).expect("an answer").expect("an entry");
    assert!(Arc::ptr_eq(&again, &entry) && again.is_current());
    assert_eq!(again.validated_at_ms(), NOW_MS + 20_000);
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
    let fill = case.begin(10);
    let mut landing = Landing::new(&fill, 0);
    landing.write(b"short").expect("room");
    assert!(landing.write(b"more than ten bytes").is_err());
    assert_eq!(case.files(), 1);
    assert!(fill.publish(NOW_MS).is_err());
    drop(fill);
    assert!(case.entry().is_none());
    assert_eq!(case.files(), 0);
}

#[test]
fn a_waiter_of_another_process_sees_blocks_as_they_land_and_asks_for_its_own() {
    let case = Case::new();
    let fill = case.begin(3 * BLOCK_LEN + 5);
    let other = open(case.dir.path(), 1 << 30, 0);
    let seen = other.fill(Sought { name: &case.name, url: URL, scope: "id" }).expect("an answer").expect("it is there");
    let last = 3 * BLOCK_LEN..3 * BLOCK_LEN + 5;
    assert_eq!((seen.missing(&(5..6)), seen.missing(&last), seen.missing(&(4..4))), (Some(0), Some(3), None));
    assert!(seen.body(&last).is_none());
    let demand = fill.demand();
    seen.want(&last);
    assert!(fill.is_wanted(3) && !fill.is_wanted(0) && fill.demand() != demand);
    seen.want(&last);
    assert_eq!(fill.demand(), demand + 1, "who is asked twice is woken once");
    let progress = seen.progress();
    Landing::new(&fill, 3 * BLOCK_LEN).write(b"abcde").expect("written");
    assert!(seen.progress() != progress && seen.missing(&last).is_none() && seen.check(&last).is_ok());
    assert_eq!(seen.body(&last), Some(&b"abcde"[..]));
    drop(fill);
    assert!(seen.progress().has_ended() && case.under_way().is_none());
}

#[test]
fn a_waiter_sleeps_until_its_block_lands() {
    let case = Case::new();
    let fill = case.begin(2 * BLOCK_LEN);
    let seen = case.under_way().expect("it is under way");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            while seen.missing(&(BLOCK_LEN..BLOCK_LEN + 1)).is_some() {
                seen.sleep(1, seen.progress(), std::time::Duration::from_secs(60));
            }
        });
        Landing::new(&fill, 0).write(&body(2 * BLOCK_LEN)).expect("written");
        waiting.join().expect("it is woken");
    });
}

#[test]
fn a_run_that_begins_within_a_block_lands_the_whole_blocks_behind_it() {
    let case = Case::new();
    let fill = case.begin(3 * BLOCK_LEN);
    Landing::new(&fill, 100).write(&body(2 * BLOCK_LEN - 100)).expect("written");
    let present = [0, 1, 2].map(|block| fill.version().missing(&fill.version().layout().block(block)).is_none());
    assert_eq!(present, [false, true, false]);
}

#[test]
fn what_was_left_is_gone_on_with_but_for_blocks_that_are_not_as_they_should_be() {
    let case = Case::new();
    let fill = case.begin(3 * BLOCK_LEN);
    Landing::new(&fill, 0).write(&body(2 * BLOCK_LEN)).expect("written");
    let body_at = fill.version().body_at();
    fill.keep();
    drop(fill);
    let path = case.dir.path().join("v1/fills").join(case.name.file());
    let damage = File::options().write(true).open(path).expect("it was left");
    damage.write_all_at(&[0xff], body_at + BLOCK_LEN + 1).expect("written");
    let fill = Fill::resume(&case.lock(), URL, "id").expect("an answer").expect("it was left");
    let missing = [0, 1, 2].map(|block| fill.version().missing(&fill.version().layout().block(block)).is_some());
    assert_eq!(missing, [false, true, true]);
    Landing::new(&fill, BLOCK_LEN).write(&body(3 * BLOCK_LEN)[BLOCK_LEN as usize..]).expect("written");
    assert!(fill.publish(NOW_MS).expect("whole"));
    let entry = case.entry().expect("an entry");
    assert!(entry.check(&(0..3 * BLOCK_LEN)).is_ok());
    assert_eq!(entry.body(&(0..3 * BLOCK_LEN)), Some(&body(3 * BLOCK_LEN)[..]));
}

#[test]
fn a_fill_that_was_purged_on_its_way_does_not_stay() {
    let case = Case::new();
    let fill = case.begin(5);
    Landing::new(&fill, 0).write(b"hello").expect("written");
    let control = case.store.control();
    control.bump_purges(control.slot(&case.name));
    assert!(!fill.publish(NOW_MS).expect("whole"));
    assert!(case.entry().is_none());
}

#[test]
fn a_replaced_version_stays_whole_for_who_has_it() {
    let case = Case::new();
    case.fill(URL, b"first", 5).expect("a fill");
    let first = case.entry().expect("an entry");
    case.fill(URL, b"second", 6).expect("a fill");
    let second = case.entry().expect("an entry");
    assert_eq!((first.body(&(0..5)), second.body(&(0..6))), (Some(&b"first"[..]), Some(&b"second"[..])));
    assert!(!first.is_current() && second.is_current());
    assert_ne!(first.identity(), second.identity());
    assert!(first.reopen(case.store.entries()).is_none(), "the name leads to another version");
    assert!(second.reopen(case.store.entries()).is_some());
}

#[test]
fn a_lock_keeps_other_threads_and_stores_out() {
    let case = Case::new();
    let other = open(case.dir.path(), 1, 0);
    let lock = case.lock();
    assert!(case.store.lock(&case.name).expect("an answer").is_none());
    assert!(other.lock(&case.name).expect("an answer").is_none());
    drop(lock);
    assert!(other.lock(&case.name).expect("an answer").is_some());
}

#[test]
fn who_frees_a_lock_has_those_look_again_who_were_turned_away() {
    // They slept to the end of their slice where the fill had nothing to publish: after a 304, say.
    let case = Case::new();
    let other = open(case.dir.path(), 1, 0);
    let signal = |store: &Store| {
        let control = store.control();
        control.signal(control.slot(&case.name)).load(std::sync::atomic::Ordering::Acquire)
    };
    let lock = case.lock();
    let seen = signal(&other);
    assert!(other.lock(&case.name).expect("an answer").is_none());
    assert_eq!(signal(&other), seen, "it is worth a sleep");
    drop(lock);
    assert_ne!(signal(&other), seen);
}

#[test]
fn a_left_fill_is_followed_again_once_storage_was_heard_and_not_before() {
    // Who followed it spun on a word that said for ever that it was over.
    let case = Case::new();
    let fill = case.begin(2 * BLOCK_LEN);
    Landing::new(&fill, 0).write(&body(BLOCK_LEN)).expect("written");
    fill.keep();
    drop(fill);
    Fill::mark_left(&case.lock(), URL, "id").expect("marked");
    let waiter = case.under_way().expect("it was left");
    assert!(waiter.progress().has_ended());
    let fill = Fill::resume(&case.lock(), URL, "id").expect("an answer").expect("it was left");
    assert!(waiter.progress().has_ended());
    fill.confirm();
    assert!(!waiter.progress().has_ended());
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
    assert!(case.store.entry(&case.name, URL, "other", None).expect("an answer").is_none());
}

/// A store with room for six small entries, and five in it, used one after the other.
fn used_in_order() -> Case {
    let case = Case::with_limit(6 * 8192 + 4096);
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
    fn small(&self, n: u64) -> Option<Arc<Version>> {
        self.store.entry(&Name::new(&small(n), "id"), &small(n), "id", None).expect("an answer")
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
fn a_directory_of_others_is_refused_with_a_remedy() {
    let dir = TempDir::new().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("changed");
    let limits = Limits { store_len_max: 1, free_len_min: 0, generation: 0 };
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
        prop_assert_eq!(entry.body(&part), Some(&body(len)[part.start as usize..part.end as usize]));
    }
}
