//! The life of the server and of its children: what is checked at start, what a child opens, how it ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{CHILD, Child};
use crate::cache::Cache;
use crate::cache::own_server::OwnServer;
use crate::config::{DEFAULT_MATCH, Host, Match, Url};
use crate::credentials::{Keyring, Table};
use crate::fetch::named::Named;
use crate::ffi::child::leave_all;
use crate::ffi::config::Configuration;
use crate::ffi::hook::{ChildInit, ChildStopping, PostConfig};
use crate::ffi::log::Level;
use crate::ffi::pool::Pool;
use crate::ffi::server::{self, Server};
use crate::module::{Config, usp_storage_cache_module};
use crate::store::{self, Limits, Store};

/// After the configuration was read: makes the store's root directory.
pub struct Prepare;

impl PostConfig for Prepare {
    fn run(pool: Pool<'_>, main: Server<'_>) -> Result<(), String> {
        if server::is_first_pass() || !is_used(main) {
            return Ok(());
        }
        let root = root(pool, main.host::<Config>())?;
        let (user, group) = server::child_owner();
        let owner = if rustix::process::geteuid().is_root() { user } else { rustix::process::geteuid().as_raw() };
        store::make_root(&root, owner, group).map_err(|unfit| format!("UspStorageCacheRoot: {unfit}"))?;
        let table = Table::new().map_err(|e| format!("no memory for credentials: {e}"))?;
        *TABLE.lock() = Some(Arc::new(table));
        pool.keep(Generation);
        Ok(())
    }
}

/// The credentials that the children will share, between the configuration and the next one.
static TABLE: Mutex<Option<Arc<Table>>> = Mutex::new(None);

/// Kept as long as a configuration: the next one's children share no credentials with this one's.
struct Generation;

impl Drop for Generation {
    fn drop(&mut self) {
        *TABLE.lock() = None;
    }
}

/// When a child begins: opens the store. Connections and the like are made at the first fill.
pub struct Begin;

impl ChildInit for Begin {
    fn run(pool: Pool<'_>, main: Server<'_>) {
        if server::has_threads() {
            pool.keep(LastFills);
        }
        CHILD.set(Child {
            cache: is_used(main).then(|| cache(pool, main)).flatten(),
            own: own_server(main),
            named: Named::new(main.all().flat_map(|server| Url::all(server.host::<Config>().named))),
            signs_passing: !server::is_declared_elsewhere(c"S3AccessKey", Config::module()),
            default_match: Match::new(DEFAULT_MATCH).expect("the default is a valid pattern"),
            has_threads: server::has_threads(),
        });
    }
}

/// The cache over the store, if that can be opened.
fn cache(pool: Pool<'_>, main: Server<'_>) -> Option<Arc<Cache>> {
    let host = main.host::<Config>();
    let table = TABLE.lock().clone().ok_or_else(|| "post_config did not run".to_owned());
    match table.and_then(|table| Ok((open(pool, main)?, table))) {
        Ok((store, table)) => {
            let keyring = Keyring::new(table, store.clone());
            Some(Cache::new(store, keyring, host.connections(), host.fill_threads()))
        }
        Err(why) => {
            let line = format!("no store, all requests pass through: {why}");
            main.log(&usp_storage_cache_module, Level::Error, &line);
            None
        }
    }
}

/// When a child is told to end at once: fetches that it waits for are broken off.
pub struct Stop;

impl ChildStopping for Stop {
    fn run(is_graceful: bool) {
        let Some(child) = CHILD.get() else { return };
        if !child.has_threads {
            // This is a signal handler: the child ends without waiting for anybody.
            leave_all();
            child.cache.iter().for_each(|cache| cache.store().counters().flush_if_free());
        } else if !is_graceful && let Some(cache) = &child.cache {
            cache.stop();
        }
    }
}

/// How long a child that ends waits for its fills.
const LAST_FILLS: Duration = Duration::from_secs(2);

/// Kept as long as a child: its requests are over when it goes, and its fills may have little left to do.
struct LastFills;

impl Drop for LastFills {
    fn drop(&mut self) {
        if let Some(cache) = CHILD.get().and_then(|child| child.cache.as_ref()) {
            cache.finish(LAST_FILLS);
        }
    }
}

fn is_used(main: Server<'_>) -> bool {
    main.all().any(|server| server.host::<Config>().used)
}

/// What is known of the server once it listens.
fn own_server(main: Server<'_>) -> OwnServer {
    let sockets = |server: Server<'_>| Url::all(server.host::<Config>().sockets).map(str::to_owned).collect::<Vec<_>>();
    // Without its interfaces the host is known by loopback addresses and by names.
    let addresses = if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect();
    let names: Vec<_> = main.all().flat_map(Server::names).collect();
    OwnServer::new(server::listeners(), addresses, &names, main.all().flat_map(sockets).collect())
}

fn open(pool: Pool<'_>, main: Server<'_>) -> Result<Arc<Store>, String> {
    let host = main.host::<Config>();
    let limits = Limits {
        store_len_max: host.store_len_max(),
        free_len_min: host.free_len_min(),
        generation: host.read_at_ms(),
    };
    Store::open(&root(pool, host)?, limits).map_err(|unfit| unfit.to_string())
}

fn root(pool: Pool<'_>, host: &Host<'_>) -> Result<PathBuf, String> {
    match host.root() {
        Some(root) => match server::root_relative(pool, root) {
            Some(full) => Ok(PathBuf::from(full.to_string_lossy().into_owned())),
            None => Err(format!("UspStorageCacheRoot \"{root}\": it is no path")),
        },
        None => {
            let none = || format!("none of {} exists: set UspStorageCacheRoot", store::CACHE_DIRS.join(", "));
            store::default_root().ok_or_else(none)
        }
    }
}
