//! Stores for tests: entries by number, the times that they were used at, and what they take on disk.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::fill::Landing;
use super::format::Meta;
use super::*;

/// What the control block and the directories of an empty store take, and no entry does.
pub const EMPTY_MAX: u64 = control::CONTROL_LEN + (2 << 20);
/// What a small entry takes.
pub const SMALL: u64 = 8192;
pub const SCOPE: &str = "id";

/// A store in a directory of its own.
pub struct Site {
    pub dir: TempDir,
    pub store: Arc<Store>,
}

impl Site {
    pub fn new() -> Self {
        Self::with(|_| 1 << 40)
    }

    /// A store whose limit is `limit` of what it takes while it is empty.
    pub fn with(limit: impl FnOnce(u64) -> u64) -> Self {
        let dir = TempDir::new().expect("a directory");
        let empty = open(dir.path(), 1 << 40, 0);
        drop(empty.space.reserve(&empty, 0).expect("room"));
        let taken = empty.taken();
        let store = open(dir.path(), limit(taken), 0);
        Self { dir, store }
    }

    /// Another process, as it were.
    pub fn other(&self) -> Arc<Store> {
        let terms = self.store.space.own_terms();
        open(self.dir.path(), terms.store_len_max, terms.generation)
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("v1").join(below)
    }

    /// What the files take.
    pub fn on_disk(&self) -> u64 {
        on_disk(&self.dir.path().join("v1"))
    }

    /// Those of the first hundred entries that are there.
    pub fn held(&self) -> Vec<u64> {
        (0..100).filter(|n| self.path("entries").join(name(*n).path()).exists()).collect()
    }
}

pub fn open(dir: &Path, store_len_max: u64, generation: u64) -> Arc<Store> {
    Store::open(dir, Limits { store_len_max, free_len_min: 0, generation }).expect("a store")
}

pub fn url(n: u64) -> String {
    format!("http://h/{n}.ism")
}

pub fn name(n: u64) -> Name {
    Name::new(&url(n), SCOPE)
}

/// Publishes an entry of `len` bytes: the one place where these tests fill.
pub fn publish(store: &Store, url: &str, scope: &str, len: usize) -> io::Result<()> {
    let name = Name::new(url, scope);
    let lock = Arc::new(store.lock(&name)?.ok_or(io::ErrorKind::WouldBlock)?);
    let purges = store.control().purge_mark(&name);
    let meta = Meta { url: url.into(), scope: scope.into(), body_len: len as u64, purges, ..Meta::default() };
    let fill = Fill::begin(&lock, &meta)?;
    Landing::new(&fill, 0).write(&vec![7; len])?;
    fill.publish(now_ms()).map(drop)
}

/// Publishes a small entry that was last used at `used_at`.
pub fn publish_small(store: &Store, n: u64, used_at: u64) {
    publish(store, &url(n), SCOPE, 5).expect("there is room");
    use_at(store, n, used_at);
}

pub fn use_at(store: &Store, n: u64, used_at: u64) {
    let entry = store.entry(&name(n), &url(n), SCOPE, None).expect("an answer").expect("it is there");
    entry.touch(used_at);
    store.stamp(&entry);
}

/// What everything below a directory takes.
pub fn on_disk(dir: &Path) -> u64 {
    let blocks = |path: &Path| fs::symlink_metadata(path).map_or(0, |file| file.blocks() * 512);
    let Ok(files) = fs::read_dir(dir) else { return blocks(dir) };
    blocks(dir) + files.flatten().map(|file| on_disk(&file.path())).sum::<u64>()
}

/// Writes a file that was last written to `secs` ago.
pub fn write_old(path: &Path, len: usize, secs: u64) {
    fs::write(path, vec![1; len]).expect("written");
    let at = std::time::SystemTime::now() - std::time::Duration::from_secs(secs);
    File::options().write(true).open(path).and_then(|file| file.set_modified(at)).expect("the time is set");
}

impl Store {
    pub(super) fn taken(&self) -> u64 {
        self.control().taken().load(Ordering::SeqCst)
    }
}
