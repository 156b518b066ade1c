//! Space that comes back: what was evicted, replaced or purged is free within seconds, though children had it mapped and nobody
//! asks again.

use mod_usp_storage_cache::store::Purge;
use rustix::fs::statvfs;

use crate::client::Request;
use crate::content::content;
use crate::disk::Disk;
use crate::mixed::purge;
use crate::server::{Conf, Mpm};
use crate::site::{Site, is_hit};
use crate::storage::Object;
use crate::wait::until;

const CHILDREN: u32 = 3;
const FILM: &str = "/film.mp4";
const OTHER: &str = "/other.mp4";
const LEN: usize = 10 << 20;
/// How long the space of what has gone may be taken still.
const RETURN_SECS: u64 = 5;
/// What beside bodies comes and goes: heads and directories.
const SLACK: u64 = 256 * 1024;

/// A site whose store has a disk of its own, with room for one of the two films.
fn site_on(disk: &Disk, expire_secs: u32) -> Site {
    let root = disk.root();
    let lines = format!(
        "UspStorageCacheRoot \"{}\"\nUspStorageCacheMinFree 0\nUspStorageCacheMaxSize 20M\nUspStorageCacheExpire {expire_secs}\n\
         UspStorageCacheStaleWhileRevalidate 0",
        root.display()
    );
    let site = Site::of(|storage| Conf::new(Site::text(storage, &lines)).mpm(Mpm::Prefork).size(CHILDREN, 1));
    site.storage.put(FILM, Object::new(content(1, LEN)));
    site.storage.put(OTHER, Object::new(content(2, LEN)));
    site
}

fn free(disk: &Disk) -> u64 {
    let stat = statvfs(disk.root()).expect("it is mounted");
    stat.f_bavail * stat.f_frsize
}

/// Has each child map the film, and gives the space that is free then.
fn mapped_by_all(site: &Site, disk: &Disk) -> u64 {
    site.get(FILM);
    site.httpd.settle();
    let answers = site.each_child(CHILDREN as usize, &Request::get(FILM).range("bytes=0-9"));
    assert!(answers.iter().all(|answer| answer.status == 206), "{answers:?}");
    assert!(answers.iter().any(|answer| is_hit(&answer.cache_status())), "{answers:?}");
    let mapped = |pid: &u32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.contains(&format!("{}/v1/entries/", disk.root().display()))
    };
    assert_eq!(site.httpd.children().iter().filter(|pid| mapped(pid)).count(), CHILDREN as usize);
    free(disk)
}

/// Waits until so many bytes are free, by what the file system says itself.
fn is_free(disk: &Disk, bytes: u64, what: &str) {
    until(what, RETURN_SECS, || (free(disk) + SLACK >= bytes).then_some(()));
}

#[test]
fn what_was_purged_is_free_though_children_had_it_mapped() {
    let Some(disk) = Disk::new(64) else { return };
    let site = site_on(&disk, 7200);
    let free = mapped_by_all(&site, &disk);
    purge(&disk.root(), Purge::All);
    is_free(&disk, free + LEN as u64, "the space of what was purged");
}

#[test]
fn what_was_evicted_is_free_though_children_had_it_mapped() {
    let Some(disk) = Disk::new(64) else { return };
    let site = site_on(&disk, 7200);
    let free = mapped_by_all(&site, &disk);
    assert!(site.get(OTHER).body == content(2, LEN));
    is_free(&disk, free, "the space of what was evicted");
    // While children had the first one mapped there may have been no room for it.
    until("the other one to be there", 20, || is_hit(&site.get(OTHER).cache_status()).then_some(()));
}

#[test]
fn what_was_replaced_is_free_though_children_had_it_mapped() {
    let Some(disk) = Disk::new(64) else { return };
    let site = site_on(&disk, 1);
    let free = mapped_by_all(&site, &disk);
    site.storage.put(FILM, Object::new("short"));
    until("the short one", 20, || (site.get(FILM).body == b"short").then_some(()));
    is_free(&disk, free + LEN as u64, "the space of what was replaced");
}
