//! What is purged is gone for other stores, and what was under way can tell.

use super::super::fixture::*;
use super::super::*;
use super::*;

const NOTED: Noted = Noted { kind: 404, value: 0, noted_at_ms: 0, until_ms: u64::MAX };

fn digest(scope: &str, url: &str) -> [u8; 32] {
    Sha256::digest(format!("{scope}\0{url}")).into()
}

#[test]
fn what_is_meant_goes_and_the_rest_stays() {
    let (a, b, c) = ("http://h/a.ism", "http://h/a.ism.mp4", "http://other/a.ism");
    let keys = [(a, ""), (a, "id"), (b, "id"), (c, "id")];
    let rows: [(Purge<'_>, &[(&str, &str)]); 8] = [
        (Purge::Key { url: a, scope: "id" }, &[(a, ""), (b, "id"), (c, "id")]),
        (Purge::Key { url: a, scope: "nobody" }, &keys),
        (Purge::Url(a), &[(b, "id"), (c, "id")]),
        (Purge::Url("http://h/"), &keys),
        (Purge::Prefix("http://h/"), &[(c, "id")]),
        (Purge::Prefix("http://h/a.ism.mp4/and/more"), &keys),
        (Purge::Prefix("http://nobody/"), &keys),
        (Purge::All, &[]),
    ];
    for (which, left) in rows {
        let site = Site::new();
        keys.iter().for_each(|(url, scope)| publish(&site.store, url, scope, 5).expect("room"));
        let before = site.store.taken();
        let reader = site.other();
        let purged = site.other().purge(which).expect("an answer");
        let entry = |url, scope| reader.entry(&Name::new(url, scope), url, scope, None).expect("an answer");
        let held: Vec<_> = keys.into_iter().filter(|(url, scope)| entry(url, scope).is_some()).collect();
        assert_eq!((held.as_slice(), purged), (left, (keys.len() - left.len()) as u64), "{which:?}");
        assert_eq!(before - site.store.taken(), purged * SMALL, "{which:?}");
    }
}

#[test]
fn an_entry_that_is_open_stays_whole_and_its_epoch_moves() {
    let site = Site::new();
    let reader = site.other();
    publish(&site.store, &url(1), SCOPE, 5).expect("room");
    let slot = reader.control().slot(&name(1));
    let seen = reader.control().epoch(slot);
    let entry = reader.entry(&name(1), &url(1), SCOPE, None).expect("an answer").expect("it is there");
    site.store.purge(Purge::All).expect("an answer");
    assert!(reader.control().epoch(slot) >= seen + 2, "before and after");
    assert!(entry.check(&(0..5)).is_ok());
    assert_eq!(entry.body(&(0..5)), Some(&[7; 5][..]));
}

#[test]
fn who_is_filling_sees_the_number_move_though_there_is_no_entry() {
    let (url, other) = ("http://h/a.ism", "http://h/b.ism");
    let rows: [(Purge<'_>, bool); 5] = [
        (Purge::Key { url, scope: SCOPE }, true),
        (Purge::Url(url), true),
        (Purge::Prefix("http://h/"), true),
        (Purge::All, true),
        (Purge::Url(other), false),
    ];
    for (which, moves) in rows {
        let site = Site::new();
        let filler = site.other();
        let lock = filler.lock(&Name::new(url, SCOPE)).expect("a lock file").expect("free");
        let slot = filler.control().slot(lock.name());
        let seen = filler.control().purges(slot);
        drop(lock.make_file(lock.name().file(), 5000).expect("room"));
        assert_eq!(site.store.purge(which).expect("no fill is waited for"), 0, "{which:?}");
        assert_eq!(filler.control().purges(slot) != seen, moves, "{which:?}");
        assert!(site.path("fills").join(lock.name().file()).exists(), "{which:?}");
    }
}

#[test]
fn an_entry_goes_though_somebody_works_under_its_name() {
    let site = Site::new();
    publish(&site.store, &url(1), SCOPE, 5).expect("room");
    let filler = site.other();
    let lock = filler.lock(&name(1)).expect("a lock file").expect("free");
    assert_eq!(site.store.purge(Purge::Url(&url(1))).expect("an answer"), 1);
    assert_eq!(site.held(), [0; 0]);
    drop(lock);
}

#[test]
fn what_was_remembered_of_it_is_forgotten() {
    let url = "http://h/a.ism";
    let rows: [(Purge<'_>, bool, bool); 4] = [
        (Purge::Key { url, scope: SCOPE }, false, true),
        (Purge::Url(url), false, false),
        (Purge::Prefix("http://h/"), false, false),
        (Purge::All, false, false),
    ];
    for (which, stays, another_stays) in rows {
        let site = Site::new();
        let control = site.store.control();
        let keys = [digest(SCOPE, url), digest(SCOPE, "http://h/b.ism")];
        keys.iter().for_each(|key| control.put_note(key, NOTED));
        site.other().purge(which).expect("an answer");
        let noted = keys.map(|key| control.note(&key).is_some());
        assert_eq!(noted, [stays, another_stays], "{which:?}");
    }
}

#[test]
fn damaged_and_foreign_files_are_no_obstacle() {
    let site = Site::new();
    publish(&site.store, &url(1), SCOPE, 5).expect("room");
    let shard = site.path("entries").join(name(1).shard());
    std::fs::write(shard.join("README"), b"x").expect("written");
    let short = format!("{}{}", name(1).shard(), &name(2).file()[2..]);
    std::fs::write(shard.join(short), b"x").expect("written");
    std::fs::write(site.path("entries/ff"), b"x").ok();
    assert_eq!(site.store.purge(Purge::Prefix("http://h/")).expect("an answer"), 1);
    assert_eq!(site.store.purge(Purge::All).expect("an answer"), 1);
    assert!(shard.join("README").exists());
}
