//! The usual set-up of a test: one httpd with the module before a scripted storage.
//!
//! `/store/` is mapped to storage by `ProxyPass`, for main requests and for sub-requests, and the
//! module is on everywhere. The origin double's endpoint makes the sub-requests.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::client::{Request, Response};
use crate::content::content;
use crate::origin::{ENDPOINT, Sub, Subs};
use crate::server::{Conf, Httpd};
use crate::storage::{Object, Storage};

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

    /// A sub-request for an object, mapped by `ProxyPass`.
    pub(crate) fn sub(&self, path: &str) -> Subs {
        sub(path).run(&self.httpd)
    }

    /// Puts an object and has it filled; gives back the object.
    pub(crate) fn fill(&self, path: &str, object: Object) {
        self.storage.put(path, object);
        let first = self.get(path);
        assert_eq!((first.status, first.cache_status().as_str()), (200, STORED), "{path} is not filled");
    }

    /// The file of an object's only entry.
    pub(crate) fn entry(&self, path: &str) -> PathBuf {
        let hash = url_hash(&format!("http://{}{path}", self.storage.host()));
        let shard = self.httpd.path("store/v1/entries").join(&hash[..2]);
        let files = fs::read_dir(shard).into_iter().flatten().flatten().map(|file| file.path());
        let named = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&hash));
        let found: Vec<PathBuf> = files.filter(named).collect();
        match found.as_slice() {
            [one] => one.clone(),
            all => panic!("not one entry of {path}, but {all:?}"),
        }
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
