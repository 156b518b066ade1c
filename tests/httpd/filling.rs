//! A look at a fill that is under way: what of it is on disk, who is at it, and what is fetched from then on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use crate::server::Httpd;
use crate::site::{Site, url_hash};
use crate::wait::until;

/// Bytes that count as one (docs/store-format.md).
pub(crate) const BLOCK: usize = 256 * 1024;

/// The blocks of an object whose present bits are set, as docs/store-format.md draws them; nothing where there is no fill.
pub(crate) fn landed(site: &Site, path: &str) -> Option<BTreeSet<usize>> {
    let file = File::open(fill(site, path)?).ok()?;
    let mut head = [0; 128];
    file.read_exact_at(&mut head, 0).ok()?;
    let number = |at: usize| u64::from_le_bytes(*head[at..].first_chunk().expect("it lies in the head")) as usize;
    let (table_at, blocks) = (number(40), number(48) & 0xffff_ffff);
    let present_at = (table_at + 4 * blocks).next_multiple_of(8);
    let mut map = vec![0; blocks.div_ceil(64) * 8];
    file.read_exact_at(&mut map, present_at as u64).ok()?;
    Some((0..blocks).filter(|block| map[block / 8] >> (block % 8) & 1 == 1).collect())
}

/// The file of an object's fill.
pub(crate) fn fill(site: &Site, path: &str) -> Option<PathBuf> {
    let hash = url_hash(&format!("http://{}{path}", site.storage.host()));
    let files = fs::read_dir(site.httpd.path("store/v1/fills")).ok()?.flatten().map(|file| file.path());
    let is_it = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&hash) && !name.ends_with(".new")
    };
    files.into_iter().find(is_it)
}

/// The children that have a thread which fills.
pub(crate) fn fillers(httpd: &Httpd) -> Vec<u32> {
    let fills = |pid: &u32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.into_iter().any(|name| name.trim() == "usc-fill")
    };
    httpd.children().into_iter().filter(fills).collect()
}

/// Sends a signal to a child, which may have ended by itself.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("a process"), signal);
}

/// Kills children, and waits until none of their threads is left.
pub(crate) fn kill(pids: &[u32]) {
    pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
    let is_dead = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_zombie = stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"));
        // The first thread's remains stay until the parent looks.
        is_zombie && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
    };
    until("the killed to be dead", 20, || pids.iter().all(is_dead).then_some(()));
}

/// What was on disk of an object at one moment, and how often storage had been asked for it.
pub(crate) struct Moment {
    path: String,
    pub(crate) landed: BTreeSet<usize>,
    exchanges: usize,
}

impl Moment {
    /// Now; nothing where there is no fill.
    pub(crate) fn now(site: &Site, path: &str) -> Option<Self> {
        let landed = landed(site, path)?;
        Some(Self { path: path.into(), landed, exchanges: site.storage.exchanges(path).len() })
    }

    /// Nothing that was on disk has been fetched since.
    pub(crate) fn nothing_came_again(&self, site: &Site, what: &str) {
        let since = site.storage.exchanges(&self.path).into_iter().skip(self.exchanges);
        for exchange in since.filter(|exchange| !exchange.asked.by_proxy()) {
            let again: Vec<_> = self.landed.iter().filter(|block| overlaps(&exchange.sent, **block)).collect();
            let range = exchange.asked.field("Range").unwrap_or_default();
            assert!(again.is_empty(), "{what}: {range} brought {again:?} again, of {:?}", self.landed);
        }
    }
}

fn overlaps(sent: &Range<usize>, block: usize) -> bool {
    sent.start < (block + 1) * BLOCK && block * BLOCK < sent.end
}
