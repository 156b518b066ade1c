//! The block under several who open it, and what is read of it after writers that were killed.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn open(&self) -> Control {
        let v1 = File::open(self.0.path()).expect("it opens");
        let locks = File::options().create(true).truncate(false).write(true).open(self.0.path().join("locks"));
        Control::open(v1.as_fd(), &locks.expect("a file")).expect("a block")
    }

    fn path(&self) -> PathBuf {
        self.0.path().join(CONTROL)
    }

    fn files(&self) -> usize {
        fs::read_dir(self.0.path()).expect("it is there").count()
    }
}

const NOTED: Noted = Noted { kind: 404, value: 7, noted_at_ms: 1000, until_ms: 6000 };

#[test]
fn all_who_make_it_at_a_time_end_with_the_same_one() {
    let dir = Dir::new();
    let barrier = Barrier::new(8);
    let open = || {
        barrier.wait();
        dir.open().incarnation()
    };
    let incarnations: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it opens")).collect()
    });
    assert_eq!(incarnations, vec![incarnations[0]; 8]);
    assert_eq!(dir.files(), 2, "no half-made one is left");
}

#[test]
fn what_one_writes_the_other_reads() {
    let dir = Dir::new();
    let (one, other) = (dir.open(), dir.open());
    let slot = one.slot(&Name::new("http://h/a.ism", ""));
    one.bump(slot);
    one.bump_purges(slot);
    one.bump_purges(slot);
    one.put_note(&[1; 32], NOTED);
    assert_eq!((other.epoch(slot), other.purges(slot), other.note(&[1; 32])), (1, 2, Some(NOTED)));
    assert_eq!(one.identity(), other.identity());
}

#[test]
fn it_has_all_its_blocks() {
    let dir = Dir::new();
    let blocks = |dir: &Dir| fs::metadata(dir.path()).expect("it is there").blocks() * 512;
    drop(dir.open());
    assert!(blocks(&dir) >= CONTROL_LEN);
    // As a tool that keeps holes copies it.
    let head = fs::read(dir.path()).expect("it is there")[..HEAD_LEN].to_vec();
    fs::write(dir.path(), head).expect("written");
    File::options().write(true).open(dir.path()).and_then(|file| file.set_len(CONTROL_LEN)).expect("longer");
    assert!(blocks(&dir) < CONTROL_LEN);
    drop(dir.open());
    assert!(blocks(&dir) >= CONTROL_LEN);
}

#[test]
fn a_damaged_one_is_set_aside_and_made_anew() {
    type Damage = fn(&Path);
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).expect("it is there");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    let rows: [(&str, Damage); 9] = [
        ("short", |p| File::options().write(true).open(p).expect("it is there").set_len(5000).expect("shorter")),
        ("empty", |p| fs::write(p, b"").expect("written")),
        ("long", |p| File::options().write(true).open(p).expect("there").set_len(CONTROL_LEN + 1).expect("longer")),
        ("zeroed", |p| fs::write(p, vec![0; CONTROL_LEN as usize]).expect("written")),
        ("writable by others", |p| fs::set_permissions(p, fs::Permissions::from_mode(0o666)).expect("changed")),
        ("a link", |p| fs::remove_file(p).and_then(|()| symlink("/etc/passwd", p)).expect("linked")),
        ("a directory", |p| fs::remove_file(p).and_then(|()| fs::create_dir(p)).expect("made")),
        ("of another format", |_| {}),
        ("of another incarnation", |_| {}),
    ];
    for (what, damage) in rows {
        let dir = Dir::new();
        let before = dir.open();
        damage(&dir.path());
        match what {
            "of another format" => flip(&dir.path(), 8),
            "of another incarnation" => flip(&dir.path(), 20),
            _ => {}
        }
        let barrier = Barrier::new(4);
        let after: Vec<_> = thread::scope(|scope| {
            let open = || {
                barrier.wait();
                dir.open().incarnation()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it opens")).collect()
        });
        assert_eq!(after, vec![after[0]; 4], "{what}");
        assert_ne!(after[0], before.incarnation(), "{what}");
        assert_eq!(dir.files(), 3, "{what}: the damaged one was moved once");
    }
}

#[test]
fn names_that_share_a_slot_only_make_each_other_look_again() {
    let dir = Dir::new();
    let control = dir.open();
    let names = (0..).map(|n| Name::new(&format!("http://h/{n}.ism"), ""));
    let first = Name::new("http://h/first.ism", "");
    let twin = names.into_iter().find(|name| name.slot() == first.slot()).expect("one in 65,536");
    let slot = control.slot(&first);
    let seen = control.epoch(slot);
    control.bump(control.slot(&twin));
    assert_ne!(control.epoch(slot), seen);
    assert_eq!(control.epoch(control.slot(&Name::new("http://h/other.ism", ""))), 0);
}

#[test]
fn who_sleeps_on_a_slot_is_woken_through_another_mapping() {
    let dir = Dir::new();
    let (one, other) = (dir.open(), dir.open());
    let slot = one.slot(&Name::new("http://h/a.ism", ""));
    thread::scope(|scope| {
        scope.spawn(|| other.announce(slot));
        while one.signal(slot).load(Ordering::Acquire) == 0 {
            sys::sleep(one.signal(slot), 0, NonZeroU32::MAX, Duration::from_secs(60));
        }
    });
    assert_eq!(other.signal(slot).load(Ordering::Acquire), 1);
}

#[test]
fn a_note_is_replaced_and_forgotten() {
    let dir = Dir::new();
    let control = dir.open();
    let again = Noted { kind: 410, ..NOTED };
    control.put_note(&[1; 32], NOTED);
    control.put_note(&[1; 32], again);
    assert_eq!(control.note(&[1; 32]), Some(again));
    control.forget_note(&[1; 32]);
    assert_eq!(control.note(&[1; 32]), None, "also not the one before");
    control.put_note(&[2; 32], NOTED);
    control.forget_notes();
    assert_eq!(control.note(&[2; 32]), None);
}

#[test]
fn in_a_full_bucket_the_note_that_ends_first_goes() {
    let dir = Dir::new();
    let control = dir.open();
    let key = |n: u8| std::array::from_fn(|at| if at == 31 { n } else { 0 });
    for (n, until_ms) in [(0, 40), (1, 10), (2, 30), (3, 20), (4, 50), (5, 60)] {
        control.put_note(&key(n), Noted { until_ms, ..NOTED });
    }
    let held: Vec<_> = (0..6).filter(|n| control.note(&key(*n)).is_some()).collect();
    assert_eq!(held, [0, 2, 4, 5]);
}

#[test]
fn a_note_whose_writer_was_killed_between_two_words_is_none() {
    let dir = Dir::new();
    let control = dir.open();
    control.put_note(&[1; 32], NOTED);
    let at = ways(&[1; 32]).find(|at| control.note_at(*at).is_some()).expect("it is noted");
    let whole: [u64; 8] = control.load(at);
    for written in 0..8 {
        control.clear_note(at);
        (0..written).for_each(|n| control.words.u64(at + n * 8).store(whole[n as usize], Ordering::Relaxed));
        assert_eq!(control.note(&[1; 32]), None, "{written} words");
    }
}

#[test]
fn terms_are_read_as_they_were_put() {
    let dir = Dir::new();
    let (one, other) = (dir.open(), dir.open());
    assert_eq!(one.terms(), None);
    let terms = Terms { generation: 3, store_len_max: u64::MAX, free_len_min: 0 };
    one.put_terms(terms);
    assert_eq!(other.terms(), Some(terms));
}

#[test]
fn words_of_two_notes_mixed_are_none_or_one_of_them() {
    let dir = Dir::new();
    let control = dir.open();
    proptest!(|(mask: u8, values: (u64, u64, u32, u32))| {
        let noted = |value, kind| Noted { kind, value, ..NOTED };
        let notes = [noted(values.0, values.2), noted(values.1, values.3)];
        let at = ways(&[1; 32]).next().expect("the first way");
        let words = notes.map(|noted| {
            let [a, b, c, d] = key_words(&[1; 32]);
            control.seal(at, [a, b, c, d, noted.value, noted.noted_at_ms, noted.until_ms, noted.kind.into()]);
            control.load::<8>(at)
        });
        for n in 0..8 {
            let word = words[usize::from(mask >> n & 1)][n];
            control.words.u64(at + n as u64 * 8).store(word, Ordering::Relaxed);
        }
        let read = control.note(&[1; 32]);
        prop_assert!(read.is_none_or(|read| notes.contains(&read)), "{read:?}");
    });
}

#[test]
fn a_count_of_an_earlier_boot_is_none() {
    let dir = Dir::new();
    let control = dir.open();
    assert_eq!(control.counted_at_ms(), None);
    control.set_counted(5);
    assert_eq!(dir.open().counted_at_ms(), Some(5));
    control.words.u64(COUNTED_BOOT_AT).fetch_xor(1, Ordering::Relaxed);
    assert_eq!(dir.open().counted_at_ms(), None);
}
