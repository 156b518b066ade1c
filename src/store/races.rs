//! Races between processes over one store, each driven to the instant at which the obvious way goes wrong.
//!
//! Two stores on one directory are as two processes: locks belong to the description that took them. What happens between the
//! steps of a publication is told by the syncs that it makes ([`watch`]).

#![forbid(unsafe_code)]

use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::crash::{Sync, open, quick_dir, watch};
use super::fill::Landing;
use super::format::{BLOCK_LEN, Meta};
use super::version::Sought;
use super::*;

const URL: &str = "http://h/a.mp4";

/// A process over a store, at work on one key.
struct Process {
    store: Arc<Store>,
    url: String,
    name: Name,
}

impl Process {
    fn new(dir: &TempDir, url: &str) -> Self {
        Self { store: open(dir.path()), url: url.into(), name: Name::new(url, "id") }
    }

    fn lock(&self) -> Option<Arc<KeyLock>> {
        self.store.lock(&self.name).expect("an answer").map(Arc::new)
    }

    /// Begins a fill of a version; the key is free.
    fn begin(&self, body: &[u8]) -> Fill {
        let purges = self.store.control().purge_mark(&self.name);
        let meta =
            Meta { purges, url: self.url.clone(), scope: "id".into(), body_len: body.len() as u64, ..Meta::default() };
        Fill::begin(&self.lock().expect("it is free"), &meta).expect("there is room")
    }

    fn resume(&self) -> Option<Fill> {
        Fill::resume(&self.lock().expect("it is free"), &self.url, "id").expect("an answer")
    }

    fn under_way(&self) -> Option<Arc<Version>> {
        self.store.fill(Sought { name: &self.name, url: &self.url, scope: "id" }).expect("an answer")
    }

    fn entry(&self) -> Option<Arc<Version>> {
        self.store.entry(&self.name, &self.url, "id", None).expect("an answer")
    }

    fn purge(&self) {
        self.store.purge(Purge::Key { url: &self.url, scope: "id" }).expect("a purge");
    }
}

fn land(fill: &Fill, body: &[u8]) {
    Landing::new(fill, 0).write(body).expect("written");
}

fn bytes(version: &Version) -> Option<&[u8]> {
    let all = 0..version.len();
    version.check(&all).ok().and_then(|()| version.body(&all))
}

fn body(seed: u8, len: u64) -> Vec<u8> {
    (0..len).map(|at| (at / 253) as u8 ^ seed).collect()
}

#[test]
fn who_waited_for_the_lock_of_a_fill_does_not_touch_what_it_became() {
    let dir = quick_dir();
    let [filler, waiter] = [Process::new(&dir, URL), Process::new(&dir, URL)];
    let (first, second) = (body(1, 2 * BLOCK_LEN), body(2, 2 * BLOCK_LEN));
    let fill = filler.begin(&first);
    let waited_for = waiter.under_way().expect("it is under way");
    assert!(waiter.lock().is_none(), "the filler has it");
    land(&fill, &first);
    assert!(fill.publish(1_000).expect("it is whole"));
    drop(fill);
    // The waiter has a mapping of the very file that is an entry now, and gets the lock.
    let entry = waiter.entry().expect("it is published");
    assert_eq!(waited_for.identity(), entry.identity());
    assert!(!waiter.store.leads_to_fill(&waited_for));
    assert!(waiter.resume().is_none(), "there is nothing to go on with");
    let fill = waiter.begin(&second);
    assert_ne!(fill.version().identity(), entry.identity());
    land(&fill, &second);
    assert!(bytes(&entry) == Some(&first) && bytes(&waited_for) == Some(&first));
    assert!(fill.publish(2_000).expect("it is whole"));
    let now = filler.entry().expect("it is published");
    assert!(bytes(&now) == Some(&second) && bytes(&entry) == Some(&first));
}

#[test]
fn nobody_removes_or_renames_a_fill_but_who_has_its_lock() {
    let dir = quick_dir();
    let [filler, other] = [Process::new(&dir, URL), Process::new(&dir, URL)];
    let fill = filler.begin(&body(1, 10));
    other.purge();
    assert!(other.lock().is_none(), "nobody else begins one in its place");
    let again = other.under_way().expect("a purge leaves it alone");
    assert_eq!(again.identity(), fill.version().identity());
}

/// Two URLs whose slot is the same.
fn of_one_slot() -> [String; 2] {
    let slot = Name::new(URL, "id").slot();
    let other = (0..).map(|n| format!("http://h/{n}.mp4")).find(|url| Name::new(url, "id").slot() == slot);
    [URL.into(), other.expect("there are few slots")]
}

#[test]
fn keys_that_share_a_slot_share_neither_progress_nor_bytes_nor_locks() {
    let dir = quick_dir();
    let processes = of_one_slot().map(|url| Process::new(&dir, &url));
    let bodies = [body(1, 2 * BLOCK_LEN + 7), body(2, 3 * BLOCK_LEN)];
    let fills = [0, 1].map(|n| processes[n].begin(&bodies[n]));
    let seen = [0, 1].map(|n| processes[n].under_way().expect("it is under way"));
    land(&fills[0], &bodies[0]);
    assert_eq!(seen.each_ref().map(|seen| seen.missing(&(0..10))), [None, Some(0)]);
    assert!(seen[1].body(&(0..10)).is_none());
    let [first, second] = fills;
    assert!(first.publish(1_000).expect("it is whole"));
    drop(first);
    let other = &seen[1];
    assert!(processes[1].store.leads_to_fill(other) && other.missing(&(0..10)) == Some(0), "it is not its end");
    let held = processes[0].entry().expect("it is published");
    land(&second, &bodies[1]);
    assert!(second.publish(1_000).expect("it is whole"));
    // What the slot costs is a second look.
    assert!(!held.is_current() && processes[0].store.look_again(&held) && held.is_current());
    for (process, body) in processes.iter().zip(&bodies) {
        assert!(bytes(&process.entry().expect("it is published")) == Some(body), "{}", process.url);
    }
}

#[test]
fn a_purge_of_a_key_costs_one_of_the_same_slot_a_fill_at_most() {
    let dir = quick_dir();
    let [one, other] = of_one_slot().map(|url| Process::new(&dir, &url));
    let fill = other.begin(b"other");
    land(&fill, b"other");
    one.purge();
    fill.publish(1_000).expect("it is whole");
    drop(fill);
    assert!(other.entry().is_none_or(|entry| bytes(&entry) == Some(b"other")));
    let again = other.begin(b"again");
    land(&again, b"again");
    assert!(again.publish(1_000).expect("it is whole"));
    assert!(bytes(&other.entry().expect("it is published")) == Some(b"again"));
}

#[test]
fn what_is_purged_at_any_instant_of_its_publication_does_not_stay() {
    // Before and after the sync of the file, and before and after that of the directory, with the rename between.
    for instant in 0..4 {
        let dir = quick_dir();
        let filler = Process::new(&dir, URL);
        for former in [false, true] {
            if former {
                let fill = filler.begin(b"former");
                land(&fill, b"former");
                assert!(fill.publish(1_000).expect("it is whole"), "{instant}");
            }
            let fill = filler.begin(b"purged");
            land(&fill, b"purged");
            let (purger, mut syncs) = (Process::new(&dir, URL), 0);
            let at_instant = move |_: Sync| {
                if syncs == instant {
                    purger.purge();
                }
                syncs += 1;
            };
            let stays = watch(at_instant, || fill.publish(2_000)).expect("it is whole");
            drop(fill);
            assert!(!stays && filler.entry().is_none(), "instant {instant}, over another one: {former}");
        }
        // What is asked for after the purge stays.
        let fill = filler.begin(b"new");
        land(&fill, b"new");
        assert!(fill.publish(3_000).expect("it is whole") && filler.entry().is_some(), "{instant}");
    }
}

#[test]
fn a_purge_beside_a_publication_leaves_nothing_whichever_comes_first() {
    let dir = quick_dir();
    let [filler, purger] = [Process::new(&dir, URL), Process::new(&dir, URL)];
    for round in 0..400 {
        let fill = filler.begin(b"purged");
        land(&fill, b"purged");
        let gone = std::thread::scope(|scope| {
            let purge = scope.spawn(|| {
                let fills = purger.store.fills_of(|url| url == URL).expect("an answer");
                fills + purger.store.purge(Purge::Url(URL)).expect("a purge")
            });
            fill.publish(1_000).expect("it is whole");
            purge.join().expect("an answer")
        });
        assert!(filler.entry().is_none(), "round {round}");
        // What its filler took back since it was purged has gone by the purge, and was not counted.
        assert!(gone > 0, "round {round}");
    }
}

#[test]
fn a_block_counts_from_its_bit_on_wherever_its_filler_dies() {
    let whole = body(3, 2 * BLOCK_LEN);
    let (first, second) = whole.split_at(BLOCK_LEN as usize);
    // What the filler has done of the second block when it dies.
    let rows = [("some bytes", 100, false), ("all bytes", second.len(), false), ("a bit too early", 100, true)];
    for (what, written, has_bit) in rows {
        let dir = quick_dir();
        let [filler, waiter] = [Process::new(&dir, URL), Process::new(&dir, URL)];
        let fill = filler.begin(&whole);
        land(&fill, first);
        let layout = *fill.version().layout();
        let seen = waiter.under_way().expect("it is under way");
        let file = File::options()
            .write(true)
            .open(dir.path().join("v1/fills").join(filler.name.file()))
            .expect("it is there");
        file.write_all_at(&second[..written], layout.body_at + BLOCK_LEN).expect("written");
        if has_bit {
            file.write_all_at(&[0b11], layout.present_at).expect("written");
        }
        // As the kernel leaves it: the file stays, and the lock is free.
        fill.keep();
        drop((fill, filler));
        let part = BLOCK_LEN..2 * BLOCK_LEN;
        assert!(seen.missing(&part).is_some() || seen.check(&part).is_err(), "{what}: it is not served");
        let fill = waiter.resume().expect("it was left");
        assert_eq!(
            fill.version().missing(&(0..2 * BLOCK_LEN)),
            Some(1),
            "{what}: the first is kept, the second is not"
        );
        land(&fill, &whole);
        assert!(fill.publish(1_000).expect("it is whole"), "{what}");
        assert!(bytes(&waiter.entry().expect("it is published")) == Some(&whole), "{what}");
        assert!(bytes(&seen) == Some(&whole), "{what}: who waited has the same");
    }
}
