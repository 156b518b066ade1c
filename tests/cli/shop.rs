//! A store for one test, and `uspcache` run on it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use mod_usp_storage_cache::store::fill::Landing;
use mod_usp_storage_cache::store::format::Meta;
use mod_usp_storage_cache::store::{Fill, Limits, Name, Store, now_ms};
use serde_json::Value;
use tempfile::TempDir;

/// The limits of those who serve.
pub const LIMITS: Limits = Limits { store_len_max: 1 << 30, free_len_min: 12_345, generation: 7 };

pub struct Shop {
    pub dir: TempDir,
    pub store: Arc<Store>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Shop {
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(dir.path(), LIMITS).expect("a store");
        Self { dir, store }
    }

    /// A store with entries of two blocks of `http://h/0.ism` and so on.
    pub fn with(count: usize) -> Self {
        let shop = Self::new();
        (0..count).for_each(|n| shop.publish(&format!("http://h/{n}.ism"), "", b"\"1\""));
        shop
    }

    /// Publishes an entry of two blocks with this ETag.
    pub fn publish(&self, url: &str, scope: &str, etag: &[u8]) {
        let fill = self.begin(url, scope, etag);
        Landing::new(&fill, 0).write(&vec![7; 300_000]).expect("written");
        fill.publish(now_ms()).expect("published");
    }

    /// A fill of two blocks that is under way as long as it is held.
    pub fn begin(&self, url: &str, scope: &str, etag: &[u8]) -> Fill {
        let name = Name::new(url, scope);
        let lock = Arc::new(self.store.lock(&name).expect("an answer").expect("nobody has it"));
        let meta = Meta {
            url: url.into(),
            scope: scope.into(),
            body_len: 300_000,
            fetched_at_ms: now_ms(),
            purges: self.store.control().purge_mark(&name),
            fields: vec![("ETag".into(), etag.into())],
            ..Meta::default()
        };
        Fill::begin(&lock, &meta).expect("begun")
    }

    pub fn entry(&self, url: &str, scope: &str) -> PathBuf {
        self.path("entries").join(Name::new(url, scope).path())
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("v1").join(below)
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        uspcache(self.dir.path(), arguments)
    }

    /// What is printed as JSON, one object a line.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let ran = self.run(arguments.iter().chain(&["--json"]));
        ran.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The URLs that `ls` lists.
    pub fn urls(&self) -> Vec<String> {
        self.run(["ls"]).out.lines().map(str::to_owned).collect()
    }

    /// All files with what can be seen of them; of directories not the times.
    pub fn snapshot(&self) -> Vec<String> {
        let mut seen = Vec::new();
        snapshot(self.dir.path(), &mut seen);
        seen.sort();
        seen
    }
}

/// Runs `uspcache` on the store below `root`.
pub fn uspcache<S: AsRef<OsStr>>(root: &Path, arguments: impl IntoIterator<Item = S>) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uspcache"));
    let output = command.args(arguments).arg("--root").arg(root).stdin(Stdio::null()).output();
    Ran::of(output.expect("it can be run"))
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn snapshot(path: &Path, seen: &mut Vec<String>) {
    let had = fs::symlink_metadata(path).expect("it is there");
    let times = [had.atime(), had.atime_nsec(), had.mtime(), had.mtime_nsec(), had.ctime(), had.ctime_nsec()];
    let times = if had.is_dir() { [0; 6] } else { times };
    let mut content = Vec::new();
    if had.is_file() {
        let file = File::options().read(true).custom_flags(libc::O_NOATIME).open(path);
        file.and_then(|mut file| file.read_to_end(&mut content)).expect("it can be read");
    }
    let content = crc32c::crc32c(&content);
    seen.push(format!("{} {} {} {} {times:?} {content}", path.display(), had.ino(), had.len(), had.mode()));
    for file in fs::read_dir(path).into_iter().flatten().flatten().filter(|_| had.is_dir()) {
        snapshot(&file.path(), seen);
    }
}
