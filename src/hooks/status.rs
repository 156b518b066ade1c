//! `SetHandler usp-storage-cache-status`, and our section of mod_status.

use std::ffi::CStr;
use std::sync::Arc;

use super::{CHILD, text};
use crate::cache::{self, Cache};
use crate::ffi::hook::{Answer, ContentHandler, StatusSection};
use crate::ffi::request::Request;
use crate::status::{Snapshot, gather::gather, page, prometheus, section};

/// The handler's name.
const NAME: &CStr = c"usp-storage-cache-status";

/// Answers with the status, in the form that the query asks for.
pub struct Status;

impl ContentHandler for Status {
    fn run(request: &Request<'_>) -> Answer {
        if request.handler() != NAME || request.parent().is_some() {
            return Answer::Declined;
        }
        if !request.is_head() && request.method() != c"GET" {
            return Answer::Status(405);
        }
        let Some(cache) = CHILD.get().and_then(|child| child.cache.as_ref()) else {
            return send(request, 503, c"text/plain", "no store is open: see the error log\n".into());
        };
        match format(request.args()) {
            Some("html") => {
                request.headers_out().set(c"Content-Security-Policy", page::POLICY);
                send(request, 200, page::MEDIA_TYPE, page::html(&snapshot(cache)))
            }
            Some("json") => send(request, 200, c"application/json", snapshot(cache).json()),
            Some("prometheus") => send(request, 200, prometheus::MEDIA_TYPE, prometheus::text(&snapshot(cache))),
            _ => {
                let text =
                    "there is no such format: it is ?format=json, ?format=prometheus or, for the page, ?format=html\n";
                send(request, 400, c"text/plain", text.into())
            }
        }
    }
}

/// Writes our part of mod_status.
pub struct Section;

impl StatusSection for Section {
    fn text(is_for_programs: bool) -> String {
        let Some(cache) = CHILD.get().and_then(|child| child.cache.as_ref()) else { return String::new() };
        cache.store().counters().flush();
        let snapshot = Snapshot::of_counters(cache.store().counters(), cache::now_ms());
        if is_for_programs { section::lines(&snapshot) } else { section::html(&snapshot) }
    }
}

fn snapshot(cache: &Arc<Cache>) -> Snapshot {
    cache.store().counters().flush();
    gather(cache.store(), &cache.storages(), cache::now_ms())
}

/// The format that a query asks for; `None` where it is none that is known.
fn format(query: &[u8]) -> Option<&'static str> {
    let asked = query.split(|b| *b == b'&').find_map(|part| part.strip_prefix(b"format="));
    let Some(asked) = asked else { return Some("html") };
    ["html", "json", "prometheus"].into_iter().find(|known| known.as_bytes() == asked)
}

fn send(request: &Request<'_>, status: u16, media_type: &'static CStr, text: String) -> Answer {
    let fields = request.headers_out();
    fields.set(c"Cache-Control", c"no-store");
    fields.set(c"X-Content-Type-Options", c"nosniff");
    fields.set(c"Referrer-Policy", c"no-referrer");
    text::send(request, status, media_type, text)
}
