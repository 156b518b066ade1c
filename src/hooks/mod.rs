//! httpd's hooks, one file each, in safe code.

#![forbid(unsafe_code)]

pub mod handler;
pub mod invalidate;
pub mod life;
pub mod pass;
pub mod purge;
pub mod recognise;
pub mod status;
pub mod tally;
mod text;

use std::sync::Arc;

use crate::cache::Cache;
use crate::cache::own_server::OwnServer;
use crate::fetch::named::Named;
use crate::ffi::child::Slot;

/// What a child has, from `child_init` to its end.
static CHILD: Slot<Child> = Slot::new();

/// The cache of a child, and what it needs to know of the server.
pub struct Child {
    /// `None` where the store cannot be opened: then everything is declined.
    cache: Option<Arc<Cache>>,
    own: OwnServer,
    /// Storages that may be signed for.
    named: Named,
    /// Whether requests that mod_proxy sends are ours to sign: no other module has the directives for it.
    signs_passing: bool,
    default_match: crate::config::Match,
    /// Whether requests run in threads: without, httpd ends a child inside a signal handler.
    has_threads: bool,
}
