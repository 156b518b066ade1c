//! Disks that are full or read-only, and stores that somebody meddles with: no child dies, no byte is wrong, and no answer is an
//! error of ours.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::content::{Random, content};
use crate::filling::{BLOCK, fill, landed};
use crate::server::{Conf, Mpm};
use crate::site::{FILM, Site, is_hit, is_ours, sub, with_film};
use crate::storage::{Fault, Object, Whom};
use crate::wait::{rounds, until};

/// A file system of the test's own, which only root can make.
pub(crate) struct Disk {
    dir: TempDir,
}

impl Disk {
    /// In memory, of so many MiB; nothing, with a word about it, where the test may not mount.
    pub(crate) fn new(mib: usize) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("usc-disk-").tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let disk = Self { dir };
        fs::create_dir(disk.root()).expect("it is empty");
        let options = format!("size={mib}m,mode=0700,uid=www-data,gid=www-data");
        if !mount(&["-t", "tmpfs", "-o", &options, "usc-test"], &disk.root()) {
            eprintln!("skipped: no file system can be mounted here (not root?)");
            return None;
        }
        Some(disk)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}")], &self.root()), "it can be mounted {how}");
    }

    /// A site whose store lies here.
    fn site(&self) -> Site {
        let lines = format!("UspStorageCacheRoot \"{}\"\nUspStorageCacheMinFree 0", self.root().display());
        let site = Site::of(|storage| Conf::new(Site::text(storage, &lines)).mpm(Mpm::Worker).size(2, 8));
        // Where tests look for it.
        symlink(self.root(), site.httpd.path("store")).expect("httpd has not made one there");
        site
    }

    /// Takes what is free.
    fn fill_up(&self) {
        let file = File::create(self.root().join("foreign")).expect("it can be made");
        let (piece, mut at) = (vec![1; 4096], 0);
        while file.write_at(&piece, at).is_ok_and(|written| written == piece.len()) {
            at += 4096;
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.root().join("foreign")).expect("it is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also where children still have files of it.
        let _ = Command::new("umount").arg("-l").arg(self.root()).output();
    }
}

fn mount(words: &[&str], at: &Path) -> bool {
    let done = Command::new("mount").args(words).arg(at).output();
    done.is_ok_and(|done| done.status.success())
}

/// Main and sub-request are answered, rightly and without a mark of trouble.
fn is_right(site: &Site, path: &str, body: &[u8], what: &str) {
    let main = site.get(path);
    assert!(main.status == 200 && main.body == body, "{what}: {path} gives {}", main.status);
    let last = 99.min(body.len() - 1);
    let inner = sub(path).range(format!("bytes=0-{last}")).run(&site.httpd);
    assert!(inner.status() == 206 && inner.body() == &body[..=last], "{what}: {path} gives {}", inner.status());
}

fn no_child_died(site: &Site, what: &str) {
    assert_eq!((site.httpd.crashes(), site.httpd.count_in_log("panic")), (0, 0), "{what}");
}

#[test]
fn on_a_full_disk_hits_are_hits_and_misses_pass_until_there_is_room() {
    let Some(disk) = Disk::new(10) else { return };
    let site = disk.site();
    let (held, other) = (content(80, 3 * BLOCK + 5), content(81, 3 * BLOCK));
    site.fill("/held.mp4", Object::new(held.clone()));
    site.storage.put("/other.mp4", Object::new(other.clone()));
    site.storage.put("/empty.mp4", Object::new(""));
    disk.fill_up();
    for round in 0..3 {
        is_right(&site, "/other.mp4", &other, &format!("full, round {round}"));
        is_right(&site, "/held.mp4", &held, &format!("full, round {round}"));
        assert_eq!(site.get("/empty.mp4").status, 200);
    }
    assert!(is_hit(&site.get("/held.mp4").cache_status()));
    disk.make_room();
    until("a fill where there is room again", 20, || is_hit(&site.get("/other.mp4").cache_status()).then_some(()));
    is_right(&site, "/other.mp4", &other, "after");
    no_child_died(&site, "full");
}

#[test]
fn a_disk_that_becomes_full_while_fills_are_under_way_fails_none_of_them() {
    let Some(disk) = Disk::new(8) else { return };
    let site = disk.site();
    let bodies: Vec<Vec<u8>> = (0..8).map(|number| content(number, 6 * BLOCK)).collect();
    site.storage.pace(4_000_000);
    std::thread::scope(|scope| {
        for (number, body) in bodies.iter().enumerate() {
            site.storage.put(&format!("/{number}.mp4"), Object::new(body.clone()));
            let site = &site;
            scope.spawn(move || is_right(site, &format!("/{number}.mp4"), body, "many"));
        }
        // What a fill has reserved is its own.
        disk.fill_up();
    });
    no_child_died(&site, "filled up");
}

#[test]
fn a_store_that_is_full_or_read_only_when_httpd_starts_passes_all_and_is_used_again_later() {
    let Some(disk) = Disk::new(8) else { return };
    let mut site = disk.site();
    let body = content(82, BLOCK + 1);
    site.fill(FILM, Object::new(body.clone()));
    for (what, spoil, mend) in [
        ("read-only", (|disk| disk.remount("ro")) as fn(&Disk), (|disk| disk.remount("rw")) as fn(&Disk)),
        (
            "full, and without a control block",
            |disk| {
                fs::remove_file(disk.root().join("v1/control")).expect("it is there");
                disk.fill_up();
            },
            Disk::make_room,
        ),
    ] {
        site.httpd.stop();
        spoil(&disk);
        site.httpd.start_again();
        is_right(&site, FILM, &body, what);
        assert!(site.httpd.count_in_log("no store, all requests pass through") > 0, "{what}");
        site.httpd.stop();
        mend(&disk);
        site.httpd.start_again();
        is_right(&site, FILM, &body, what);
        assert!(is_hit(&site.get(FILM).cache_status()), "after {what}");
        no_child_died(&site, what);
    }
}

type Meddle = fn(&Path);

/// What somebody may put where the store has a file or a directory of its own.
const FOREIGN: [(&str, Meddle); 6] = [
    ("a file", |path| fs::write(path, "foreign").expect("written")),
    ("an empty file", |path| fs::write(path, "").expect("written")),
    ("a directory", |path| fs::create_dir(path).expect("made")),
    ("a directory with a file", |path| {
        fs::create_dir(path).expect("made");
        fs::write(path.join("foreign"), "foreign").expect("written");
    }),
    ("a link to nowhere", |path| symlink("/nowhere/at/all", path).expect("linked")),
    ("a link to a device", |path| symlink("/dev/zero", path).expect("linked")),
];

/// Puts something foreign in the place of what is there, for httpd's user and for root.
fn put_foreign(path: &Path, meddle: Meddle, is_theirs: bool) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
    meddle(path);
    let had = fs::symlink_metadata(path).expect("it was put");
    if is_theirs && !had.is_symlink() {
        let owner = fs::metadata(path.parent().expect("it has one")).expect("it is there");
        chown(path, Some(owner.uid()), Some(owner.gid())).expect("it can be given away");
    }
}

/// The places of a store, by what lies there: of one object, and of all.
fn places(site: &Site) -> [(&'static str, PathBuf); 7] {
    let name = site.entry(FILM).file_name().expect("it has one").to_owned();
    let v1 = site.httpd.path("store/v1");
    let shard = v1.join("entries").join(&name.to_string_lossy()[..2]);
    [
        ("the entry", shard.join(&name)),
        ("the shard", shard),
        ("the fill", v1.join("fills").join(&name)),
        ("the fill that is being made", v1.join("fills").join(format!("{}.new", name.to_string_lossy()))),
        ("entries", v1.join("entries")),
        ("fills", v1.join("fills")),
        ("control", v1.join("control")),
    ]
}

/// Puts something foreign into each place of a store of its own, and asks before and after a restart.
fn meddle_with(number: usize) {
    for (what, meddle) in FOREIGN {
        for is_theirs in [false, true] {
            let mut site = with_film();
            site.wait_for_entry(FILM);
            let body = site.get(FILM).body;
            let (place, path) = places(&site)[number].clone();
            let what = format!("{place} is {what}, {}", if is_theirs { "httpd's" } else { "root's" });
            site.storage.put("/other.mp4", Object::new("other"));
            put_foreign(&path, meddle, is_theirs);
            is_right(&site, FILM, &body, &what);
            is_right(&site, "/other.mp4", b"other", &what);
            site.httpd.stop();
            site.httpd.start_again();
            is_right(&site, FILM, &body, &what);
            is_right(&site, "/other.mp4", b"other", &what);
            no_child_died(&site, &what);
        }
    }
}

#[test]
fn something_foreign_in_the_place_of_an_entry_or_its_shard_changes_no_answer() {
    [0, 1].into_iter().for_each(meddle_with);
}

#[test]
fn something_foreign_in_the_place_of_a_fill_changes_no_answer() {
    [2, 3].into_iter().for_each(meddle_with);
}

#[test]
fn something_foreign_in_the_place_of_the_stores_directories_changes_no_answer() {
    [4, 5].into_iter().for_each(meddle_with);
}

#[test]
fn something_foreign_in_the_place_of_the_control_block_changes_no_answer() {
    meddle_with(6);
}

#[test]
fn a_store_that_is_removed_under_httpd_changes_no_answer_and_one_that_is_made_again_is_used_after_a_restart() {
    for part in ["store", "store/v1", "store/v1/entries", "store/v1/fills", "store/v1/locks"] {
        let mut site = with_film();
        site.wait_for_entry(FILM);
        let body = site.get(FILM).body;
        let owner = fs::metadata(site.httpd.path("store")).expect("it is there");
        for number in 0..3 {
            site.storage.put(&format!("/{number}.mp4"), Object::new(content(number, 5000)));
        }
        let path = site.httpd.path(part);
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("it can be removed");
        is_right(&site, FILM, &body, part);
        is_right(&site, "/0.mp4", &content(0, 5000), part);
        if part == "store" {
            fs::create_dir(&path).expect("it can be made");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("it can be given away");
        }
        is_right(&site, FILM, &body, &format!("{part}, made again"));
        is_right(&site, "/1.mp4", &content(1, 5000), part);
        site.httpd.stop();
        site.httpd.start_again();
        site.fill("/2.mp4", Object::new(content(2, 5000)));
        is_right(&site, FILM, &body, &format!("{part}, after a restart"));
        assert!(is_hit(&site.get(FILM).cache_status()), "{part}");
        no_child_died(&site, part);
    }
}

/// A site whose httpd was stopped in the middle of a fill.
fn with_left_fill(body: &[u8]) -> Site {
    let mut site = Site::with("UspStorageCachePartSize 512K");
    site.storage.put(FILM, Object::new(body));
    site.storage.fail_some(FILM, Whom::Everyone, 2.., Fault::Hold);
    let first = sub(FILM).range(format!("bytes={}-{}", BLOCK, 3 * BLOCK - 1)).run(&site.httpd);
    assert!(first.body() == &body[BLOCK..3 * BLOCK], "{}", first.status());
    site.httpd.stop();
    site.storage.release(FILM);
    site
}

#[test]
fn a_fill_that_was_damaged_while_httpd_was_down_is_gone_on_with_where_it_is_right() {
    let body = content(83, 5 * BLOCK + 100);
    let mut random = Random::new(84);
    for round in 0..rounds(12, 60) {
        let mut site = with_left_fill(&body);
        let path = fill(&site, FILM).expect("it was left");
        let what = damage_fill(&path, round, &mut random);
        let had = landed(&site, FILM);
        site.httpd.start_again();
        is_right(&site, FILM, &body, &what);
        site.wait_for_entry(FILM);
        assert!(is_ours(&site.get(FILM).cache_status()) && site.get(FILM).body == body, "{what}, with {had:?}");
        no_child_died(&site, &what);
    }
}

/// Damages a fill's file in one of several ways, and says how.
fn damage_fill(path: &Path, round: usize, random: &mut Random) -> String {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let len = file.metadata().expect("it has a size").len();
    match round % 4 {
        0 => {
            let to = random.below(len as usize) as u64;
            file.set_len(to).expect("it can be shortened");
            format!("cut to {to} of {len}")
        }
        1 => {
            let from = random.below(len as usize) as u64;
            file.set_len(from).and_then(|()| file.set_len(len)).expect("it can be resized");
            format!("zeros from {from} of {len}")
        }
        // Where head, table and maps are, and anywhere.
        kind => {
            let at = random.below(if kind == 2 { 700 } else { len as usize }) as u64;
            let (mut byte, bit) = ([0], random.below(8));
            file.read_exact_at(&mut byte, at).expect("it is that long");
            file.write_all_at(&[byte[0] ^ 1 << bit], at).expect("written");
            format!("bit {bit} flipped at {at} of {len}")
        }
    }
}

#[test]
fn all_present_bits_set_where_nothing_is_have_no_byte_served() {
    let body = content(85, 5 * BLOCK + 100);
    let mut site = with_left_fill(&body);
    let file =
        OpenOptions::new().read(true).write(true).open(fill(&site, FILM).expect("it was left")).expect("it is there");
    let mut head = [0; 128];
    file.read_exact_at(&mut head, 0).expect("it has a head");
    let table_at = u64::from_le_bytes(*head[40..].first_chunk().expect("it lies in the head"));
    file.write_all_at(&[0b11_1111], (table_at + 4 * 6).next_multiple_of(8)).expect("written");
    assert_eq!(landed(&site, FILM).map(|blocks| blocks.len()), Some(6));
    site.httpd.start_again();
    is_right(&site, FILM, &body, "bits without blocks");
    site.wait_for_entry(FILM);
    is_right(&site, FILM, &body, "bits without blocks");
}
