//! Stores that were damaged while httpd was down: what is wrong is a miss, and is never served.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::client::Response;
use crate::content::{Random, content};
use crate::site::{BODY_LEN, FILM, Site, is_hit, sub, with_film};
use crate::storage::Object;
use crate::wait::rounds;

/// A way to spoil an entry's file while httpd is down.
struct Damage {
    name: String,
    spoil: Box<dyn Fn(&Path)>,
}

fn damage(name: impl Into<String>, spoil: impl Fn(&Path) + 'static) -> Damage {
    Damage { name: name.into(), spoil: Box::new(spoil) }
}

fn flip(path: &Path, at: u64, bit: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the entry is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is that long");
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).expect("it can be written");
}

fn resize(path: &Path, length: impl Fn(u64) -> u64) {
    let file = OpenOptions::new().write(true).open(path).expect("the entry is there");
    let had = file.metadata().expect("it has a size").len();
    file.set_len(length(had)).expect("it can be resized");
}

/// What has to be found out: a bit flipped in what the head holds or in the body, and worse.
fn damages() -> Vec<Damage> {
    let flipped = |at: u64| damage(format!("bit flipped at {at}"), move |path| flip(path, at, (at % 8) as u8));
    let mut damages: Vec<Damage> = (0..240).step_by(3).map(flipped).collect();
    for from_end in [1_u64, 4096, 262_144, 300_000, BODY_LEN as u64] {
        damages.push(damage(format!("bit flipped {from_end} bytes before the end"), move |path| {
            let length = fs::metadata(path).expect("the entry is there").len();
            flip(path, length - from_end, 3);
        }));
    }
    damages.push(damage("emptied", |path| resize(path, |_| 0)));
    damages.push(damage("cut to 100 bytes", |path| resize(path, |_| 100)));
    damages.push(damage("cut to a page", |path| resize(path, |_| 4096)));
    damages.push(damage("cut in half", |path| resize(path, |length| length / 2)));
    damages.push(damage("cut by a byte", |path| resize(path, |length| length - 1)));
    damages.push(damage("zeroed", |path| {
        let length = fs::metadata(path).expect("the entry is there").len();
        resize(path, |_| 0);
        resize(path, move |_| length);
    }));
    damages.push(damage("overwritten", |path| fs::write(path, content(1, 50_000)).expect("it can be written")));
    damages
}

/// An object whose entry is spoilt, and what was answered for it before.
struct Spoilt<'d> {
    damage: &'d Damage,
    path: String,
    before: Response,
}

/// A site that has filled an object for each damage, and has been started anew after all were done.
fn spoil(damages: &[Damage], body_len: usize) -> (Site, Vec<Spoilt<'_>>) {
    let mut site = Site::new();
    let mut spoilt = Vec::new();
    for (number, damage) in damages.iter().enumerate() {
        let path = format!("/{number:03}.mp4");
        site.fill(&path, Object::new(content(number as u64, body_len)));
        let before = site.get(&path);
        spoilt.push(Spoilt { damage, path, before });
    }
    site.httpd.stop();
    spoilt.iter().for_each(|Spoilt { damage, path, .. }| (damage.spoil)(&site.entry(path)));
    site.httpd.start_again();
    (site, spoilt)
}

/// The fields that do not depend on when an answer is given.
fn lasting(answer: &Response) -> Vec<(&str, &[u8])> {
    let named = answer.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    named.filter(|(name, _)| !["Date", "Age", "Cache-Status"].contains(name)).collect()
}

/// The answers are what they were.
fn answers_are_right(site: &Site, spoilt: &Spoilt<'_>) {
    let Spoilt { damage: Damage { name, .. }, path, before } = spoilt;
    let first = site.get(path);
    assert!(first.status == 200 && first.body == before.body, "{name}: {}", first.cache_status());
    assert_eq!(lasting(&first), lasting(before), "{name}");
    let again = site.sub(path);
    assert!(is_hit(&again.cache_status()) && again.body() == before.body, "{name}: {}", again.cache_status());
    assert_eq!(site.storage.proxied(path).len(), 0, "{name}");
}

#[test]
fn damage_done_while_httpd_was_down_is_found_before_it_is_served() {
    let damages = damages();
    let (site, all) = spoil(&damages, BODY_LEN);
    let child = site.httpd.child();
    for spoilt in &all {
        answers_are_right(&site, spoilt);
        assert_eq!(site.storage.fetches(&spoilt.path).len(), 2, "{} is served", spoilt.damage.name);
    }
    assert_eq!((site.httpd.child(), site.httpd.entries().len()), (child, all.len()));
}

#[test]
fn a_bit_flipped_anywhere_changes_no_answer() {
    let mut random = Random::new(31);
    let (body_len, flips) = (3000, rounds(100, 1000));
    let damages: Vec<Damage> = (0..flips)
        .map(|_| {
            let (at, bit) = (random.next(), random.below(8) as u8);
            damage(format!("bit {bit} flipped near {at}"), move |path| {
                let length = fs::metadata(path).expect("the entry is there").len();
                flip(path, at % length, bit);
            })
        })
        .collect();
    let (site, all) = spoil(&damages, body_len);
    let child = site.httpd.child();
    all.iter().for_each(|spoilt| answers_are_right(&site, spoilt));
    assert_eq!((site.httpd.child(), site.httpd.crashes()), (child, 0));
}

#[test]
fn only_the_part_that_is_asked_for_has_to_be_whole_before_it_is_served() {
    let mut site = with_film();
    site.httpd.stop();
    let entry = site.entry(FILM);
    flip(&entry, fs::metadata(&entry).expect("it is there").len() - 10, 0);
    site.httpd.start_again();
    let body = content(30, BODY_LEN);
    for range in [0..1000, BODY_LEN - 1000..BODY_LEN, 0..BODY_LEN] {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = sub(FILM).range(&header).run(&site.httpd);
        assert!(answer.status() == 206 && answer.body() == &body[range], "{header}: {}", answer.cache_status());
    }
    assert_eq!((site.storage.bytes_sent(FILM), site.storage.proxied(FILM).len()), (2 * BODY_LEN, 0));
}

#[test]
fn an_entry_under_another_entrys_name_is_a_miss() {
    let mut site = with_film();
    site.fill("/other.ism", Object::new("other"));
    site.httpd.stop();
    let entries = site.httpd.entries();
    let [one, other] = entries.as_slice() else { panic!("not two entries: {entries:?}") };
    let (first, second) = (fs::read(one).expect("it can be read"), fs::read(other).expect("it can be read"));
    fs::write(one, second).expect("it can be written");
    fs::write(other, first).expect("it can be written");
    site.httpd.start_again();
    assert!(site.get(FILM).body == content(30, BODY_LEN));
    assert_eq!(site.get("/other.ism").body, b"other");
    assert_eq!((site.storage.counts(FILM), site.storage.counts("/other.ism")), ((2, 0), (2, 0)));
}

/// What is put where an entry was, and is no entry.
fn replacements() -> Vec<Damage> {
    vec![
        damage("a link to the entry", |path| {
            fs::rename(path, path.with_extension("moved")).expect("it can be moved");
            symlink(path.with_extension("moved"), path).expect("the name is free");
        }),
        damage("a link to a device", |path| {
            fs::remove_file(path).expect("it is there");
            symlink("/dev/zero", path).expect("the name is free");
        }),
        damage("a directory", |path| {
            fs::remove_file(path).expect("it is there");
            fs::create_dir(path).expect("the name is free");
        }),
        damage("a pipe", |path| {
            fs::remove_file(path).expect("it is there");
            assert!(Command::new("mkfifo").arg(path).status().is_ok_and(|made| made.success()));
        }),
    ]
}

#[test]
fn what_is_no_regular_file_is_a_miss_and_nothing_waits_for_it() {
    for (number, damage) in replacements().iter().enumerate() {
        misses_and_answers(number as u64, damage);
    }
}

#[test]
fn an_entry_that_belongs_to_somebody_else_is_a_miss() {
    if rustix::process::geteuid().is_root() {
        misses_and_answers(9, &damage("root's", |path| chown(path, Some(0), Some(0)).expect("root can do it")));
    }
}

/// Whatever is there cannot always be replaced, but what is answered is right, and not from it.
fn misses_and_answers(number: u64, damage: &Damage) {
    let mut site = Site::new();
    let body = content(number, 5000);
    site.fill(FILM, Object::new(body.clone()));
    site.httpd.stop();
    (damage.spoil)(&site.entry(FILM));
    site.httpd.start_again();
    for _ in 0..2 {
        assert_eq!(site.get(FILM).body, body, "{}", damage.name);
    }
    assert!(site.storage.asked().len() >= 2, "{} is served", damage.name);
    assert_eq!(site.httpd.crashes(), 0, "{}", damage.name);
}

#[test]
fn an_entry_with_more_bytes_than_it_should_have_gives_the_right_ones() {
    let mut site = with_film();
    site.httpd.stop();
    resize(&site.entry(FILM), |length| length + 10_000);
    site.httpd.start_again();
    assert!(site.get(FILM).body == content(30, BODY_LEN));
}

#[test]
fn files_that_are_not_the_stores_are_left_alone() {
    let mut site = with_film();
    site.httpd.stop();
    let foreign = site.httpd.path("store/v1/entries/README");
    File::create(&foreign).expect("it can be made");
    site.httpd.start_again();
    assert!(is_hit(&site.get(FILM).cache_status()));
    assert!(foreign.exists());
}
