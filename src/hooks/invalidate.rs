//! What a request has changed at storage is not served any more (RFC 9111, section 4.4).

use std::ffi::CStr;

use super::{CHILD, Child};
use crate::cache::key::{Key, Upstream};
use crate::config::Section;
use crate::ffi::hook::AnswerLook;
use crate::ffi::log::Level;
use crate::ffi::request::{Proxied, Request};
use crate::module::{Config, usp_storage_cache_module};
use crate::semantics::invalidation::{invalidates, is_unsafe};

/// Drops the entries of an object that is written through mod_proxy, before the client learns that it was.
pub struct Invalidate;

/// Has a request watched that may change an object, where storage has a say.
pub fn watch(request: &Request<'_>, section: &Section<'_>, child: &Child) {
    let is_change = section.policy().honor && is_unsafe(request.method().to_bytes());
    if is_change && request.proxied() == Proxied::Reverse && key(request, section, child).is_some() {
        request.look_at_answer::<Invalidate>();
    }
}

impl AnswerLook for Invalidate {
    const NAME: &'static CStr = c"USP_STORAGE_CACHE_INVALIDATE";

    fn run(request: &Request<'_>) {
        let Some(child) = CHILD.get().filter(|_| invalidates(request.status())) else { return };
        let Some((cache, key)) = child.cache.as_ref().zip(key(request, request.section::<Config>(), child)) else {
            return;
        };
        if let Err(e) = cache.invalidate(&key) {
            let line = format!("cannot drop {}, which was written: {e}", key.url());
            request.log(&usp_storage_cache_module, Level::Warning, &line);
        }
    }
}

/// The key of the object that a request is about, if it is one that the store serves.
fn key(request: &Request<'_>, section: &Section<'_>, child: &Child) -> Option<Key> {
    let upstream = Upstream::parse(request.filename()).ok()?;
    let path = upstream.decoded_path().ok()?;
    let is_ours = section.matching().unwrap_or(&child.default_match).is_match(&path);
    upstream.key("", section.ignore_query()).ok().filter(|_| is_ours)
}
