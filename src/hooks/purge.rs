//! `PURGE`: entries go, for whom the configuration lets ask for it.
//!
//! httpd has held the request against its own access rules before any content handler runs; here it is decided who may
//! in spite of being on another host (docs/semantics.md, "Purge").

use std::fmt::Write;
use std::net::IpAddr;

use super::recognise::has_body;
use super::{Child, text};
use crate::cache::key::{NoKey, Upstream};
use crate::cache::purge::{Meant, Purged, candidates, prefix};
use crate::config::Section;
use crate::ffi::access::register_method;
use crate::ffi::hook::{Answer, PreConfig};
use crate::ffi::log::Level;
use crate::ffi::pool::Pool;
use crate::ffi::request::{Proxied, Request};
use crate::module::usp_storage_cache_module;

/// Before the configuration is gone through: makes the method known.
pub struct Methods;

impl PreConfig for Methods {
    fn run(pool: Pool<'_>) {
        register_method(pool, c"PURGE");
    }
}

/// Answers a PURGE of what a main request is mapped to; `None` for all other requests.
pub fn answer(
    request: &Request<'_>,
    upstream: Result<&Upstream<'_>, &NoKey>,
    section: &Section<'_>,
    child: &Child,
) -> Option<Answer> {
    let is_ours = request.method() == c"PURGE" && request.proxied() == Proxied::Reverse && request.parent().is_none();
    let upstream = upstream.ok().filter(|_| is_ours)?;
    Some(if let Err(why) = allowed(request, section) {
        refuse(request, 403, why)
    } else if has_body(request) {
        refuse(request, 413, "it has a body")
    } else {
        match meant(request, upstream) {
            Ok(meant) => purge(request, child, &meant),
            Err(why) => refuse(request, 400, why),
        }
    })
}

/// Whether the client may purge, as far as httpd's own access rules have not said so.
fn allowed(request: &Request<'_>, section: &Section<'_>) -> Result<(), &'static str> {
    if section.says_who_purges() && !request.satisfies_any() {
        return Ok(());
    }
    let is_here = |ip: Option<IpAddr>| ip.is_some_and(|ip| ip.to_canonical().is_loopback());
    if !request.clients().into_iter().all(is_here) {
        return Err("the client is not on this host, and no Require says who else may purge");
    }
    // A proxy on this host asks for anybody.
    let is_passed_on = [c"X-Forwarded-For", c"Forwarded", c"Via", c"X-Real-IP"]
        .into_iter()
        .any(|name| request.headers_in().get(name).is_some());
    if is_passed_on { Err("a proxy passed it on, and no Require says who else may purge") } else { Ok(()) }
}

/// What is to go, by `X-Purge-Method`.
fn meant(request: &Request<'_>, upstream: &Upstream<'_>) -> Result<Meant, &'static str> {
    let why = |no_key| match no_key {
        NoKey::NotHttp => "the upstream is no http(s) URL",
        NoKey::DotSegment => "the path has a dot segment",
        NoKey::Malformed => "the URL is malformed",
        NoKey::SubResource => "the query asks for a sub-resource",
    };
    let method = request.headers_in().get(c"X-Purge-Method").map_or(&b"exact"[..], |method| method.to_bytes());
    match method {
        b"exact" => candidates(upstream).map(Meant::Urls).map_err(why),
        b"prefix" => prefix(upstream).map(Meant::Prefix).map_err(why),
        b"all" if request.path() == c"/" => Ok(Meant::All),
        b"all" => Err("X-Purge-Method: all goes with the path / only"),
        _ => Err("X-Purge-Method is neither exact, prefix nor all"),
    }
}

fn purge(request: &Request<'_>, child: &Child, meant: &Meant) -> Answer {
    let Some(cache) = &child.cache else { return refuse(request, 503, "there is no store") };
    match meant.purge(cache.store()) {
        Ok(purged) => {
            let mut line = format!("purged {meant}: {} entries, {} fills", purged.entries, purged.fills);
            if let Some(user) = request.user() {
                // Writing to a String does not fail.
                let _ = write!(line, ", asked by {user:?}");
            }
            request.log(&usp_storage_cache_module, Level::Info, &line);
            told(request, purged)
        }
        Err(e) => {
            let line = format!("cannot purge {meant}, not all may be gone: {e}");
            request.log(&usp_storage_cache_module, Level::Error, &line);
            Answer::Status(500)
        }
    }
}

/// Has httpd answer with a status; the log says why.
fn refuse(request: &Request<'_>, status: u16, why: &str) -> Answer {
    request.log(&usp_storage_cache_module, Level::Warning, &format!("PURGE refused ({status}): {why}"));
    Answer::Status(status)
}

fn told(request: &Request<'_>, Purged { entries, fills }: Purged) -> Answer {
    let status = if entries + fills > 0 { 200 } else { 404 };
    text::send(request, status, c"application/json", format!("{{\"purged\":{entries},\"fills\":{fills}}}\n"))
}
