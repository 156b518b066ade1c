//! The usual set-up of a test: one httpd with the module before a scripted storage.
//!
//! `/store/` is mapped to storage by `ProxyPass`, for main requests and for sub-requests, and the
//! module is on everywhere. The origin double's endpoint makes the sub-requests.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::client::{Connection, Request, Response};
use crate::content::content;
use crate::origin::{ENDPOINT, Sub, Subs};
use crate::server::{Conf, Httpd, Mpm};
use crate::storage::{Object, Storage};
use crate::wait::until;

/// The film of [`with_film`]; its body has more than two blocks.
pub(crate) const FILM: &str = "/film.ism";
pub(crate) const BODY_LEN: usize = 600_000;

/// The usual site, with a film that has been filled.
pub(crate) fn with_film() -> Site {
    let site = Site::new();
    site.fill(FILM, Object::new(content(30, BODY_LEN)));
    site
}

pub(crate) struct Site {
    pub(crate) httpd: Httpd,
    pub(crate) storage: Storage,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With more lines of configuration at server level.
    pub(crate) fn with(lines: &str) -> Self {
        let storage = Storage::start();
        let httpd = Httpd::start(Conf::new(Self::text(&storage, lines)));
        Self { httpd, storage }
    }

    /// With more than the usual child: `children` of `threads` each.
    pub(crate) fn wide(mpm: Mpm, children: u32, threads: u32, lines: &str) -> Self {
        Self::of(|storage| Conf::new(Self::text(storage, lines)).mpm(mpm).size(children, threads))
    }

    /// With a configuration of the test's own, made for the storage.
    pub(crate) fn of(conf: impl FnOnce(&Storage) -> Conf) -> Self {
        let storage = Storage::start();
        Self { httpd: Httpd::start(conf(&storage)), storage }
    }

    /// The configuration, for tests that change more than its lines.
    pub(crate) fn text(storage: &Storage, lines: &str) -> String {
        let host = storage.host();
        format!("{}ProxyPass \"/store/\" \"http://{host}/\"\nUspStorageCache on\n{lines}\n", endpoint(&host))
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send(Request::get(path))
    }

    /// A main request for an object.
    pub(crate) fn send(&self, request: Request) -> Response {
        self.httpd.send(request.below("/store"))
    }

    /// The answers of `count` children of one thread each: each is kept busy by a connection that stays open.
    pub(crate) fn each_child(&self, count: usize, request: &Request) -> Vec<Response> {
        let request = request.clone().below("/store");
        let mut connections: Vec<Connection> = (0..count).map(|_| self.httpd.connect()).collect();
        connections.iter_mut().map(|one| one.exchange(&request).expect("it is answered")).collect()
    }

    /// Waits until the object's entry is in the store.
    pub(crate) fn wait_for_entry(&self, path: &str) {
        until(&format!("the entry of {path}"), 30, || (!self.entries(path).is_empty()).then_some(()));
    }

    /// Waits until what is held of an object is no longer fresh; gives back the stale answer.
    pub(crate) fn wait_for_stale(&self, path: &str) -> Response {
        until(&format!("{path} to be stale"), 20, || {
            let answer = self.get(path);
            is_stale(&answer.cache_status()).then_some(answer)
        })
    }

    /// Whether an answer of 200 is one of the versions that storage ever had, by its ETag and to the byte.
    pub(crate) fn is_a_version(&self, path: &str, answer: &Response) -> bool {
        let versions = self.storage.versions(path);
        versions.iter().any(|one| answer.field("ETag") == Some(one.etag()) && answer.body == one.body())
    }

    /// A sub-request for an object, mapped by `ProxyPass`.
    pub(crate) fn sub(&self, path: &str) -> Subs {
        sub(path).run(&self.httpd)
    }

    /// Puts an object and has it filled; gives back the object.
    pub(crate) fn fill(&self, path: &str, object: Object) {
        self.storage.put(path, object);
        let first = self.get(path);
        assert_eq!((first.status, first.cache_status().as_str()), (200, STORED), "{path} is not filled");
        self.wait_for_entry(path);
    }

    /// The file of an object's only entry.
    pub(crate) fn entry(&self, path: &str) -> PathBuf {
        match self.entries(path).as_slice() {
            [one] => one.clone(),
            all => panic!("not one entry of {path}, but {all:?}"),
        }
    }

    /// The files of an object's entries.
    fn entries(&self, path: &str) -> Vec<PathBuf> {
        let hash = url_hash(&format!("http://{}{path}", self.storage.host()));
        let shard = self.httpd.path("store/v1/entries").join(&hash[..2]);
        let files = fs::read_dir(shard).into_iter().flatten().flatten().map(|file| file.path());
        let named = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&hash));
        files.filter(named).collect()
    }
}

/// The hash of a URL, as it stands in the names of entries.
pub(crate) fn url_hash(url: &str) -> String {
    Sha256::digest(url).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `Cache-Status` of an answer that was fetched and kept.
pub(crate) const STORED: &str = "usp-storage-cache; fwd=uri-miss; fwd-status=200; stored";
/// `Cache-Status` of an absence that is remembered.
pub(crate) const ABSENT: &str = "usp-storage-cache; hit; detail=absent";

/// `Cache-Status` of an answer that storage confirmed for this request.
pub(crate) const CONFIRMED: &str = "usp-storage-cache; fwd=stale; fwd-status=304";

/// Whether a `Cache-Status` is of the module at all.
pub(crate) fn is_ours(cache_status: &str) -> bool {
    cache_status.starts_with("usp-storage-cache; ")
}

/// Whether a `Cache-Status` is that of a hit that is no longer fresh.
pub(crate) fn is_stale(cache_status: &str) -> bool {
    cache_status.starts_with("usp-storage-cache; hit; ttl=-")
}

/// Whether a `Cache-Status` is that of a hit that is fresh.
pub(crate) fn is_fresh(cache_status: &str) -> bool {
    // `ttl=-0` is that of one that has been stale for less than a second.
    is_hit(cache_status) && !is_stale(cache_status)
}

/// Whether a `Cache-Status` is that of a hit.
pub(crate) fn is_hit(cache_status: &str) -> bool {
    ttl(cache_status).is_some()
}

/// The seconds that a hit stays fresh.
pub(crate) fn ttl(cache_status: &str) -> Option<i64> {
    cache_status.strip_prefix("usp-storage-cache; hit; ttl=")?.parse().ok()
}

/// A sub-request for an object in storage, mapped by `ProxyPass`.
pub(crate) fn sub(path: &str) -> Sub {
    Sub::get(format!("/store{path}"))
}

/// The lines for the double's endpoint, with storage for fields that are set by hand.
pub(crate) fn endpoint(host: &str) -> String {
    format!("<Location \"{ENDPOINT}\">\n  SetHandler origin-double\n  IsmProxyPass \"http://{host}/\"\n</Location>\n")
}
