//! The content handler: recognise, find, answer.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use super::recognise::{NotOurs, Recognised, recognise};
use super::{CHILD, Child, tally};
use crate::cache::{self, Ask, Cache, Found, Outcome, Reason, Report, ReportLevel};
use crate::config::Section;
use crate::ffi::brigade::{Body, Bytes};
use crate::ffi::hook::{Answer, ContentHandler};
use crate::ffi::log::Level;
use crate::ffi::request::{Proxied, Request};
use crate::module::{Config, usp_storage_cache_module};
use crate::semantics::line::Line;
use crate::semantics::range::{self, Asked};
use crate::store::Entry;

/// From this length on a whole object goes to an outside client by `sendfile` (docs/performance.md).
const SENDFILE_LEN_MIN: u64 = 512 * 1024;

/// httpd holds shorter answers back until it has looked for a next request of the same client
/// (server/core_filters.c, `THRESHOLD_MIN_WRITE`).
const HELD_BACK_LEN: u64 = 4096;

/// Answers the requests that are ours.
pub struct Handler;

impl ContentHandler for Handler {
    fn run(request: &Request<'_>) -> Answer {
        let section = request.section::<Config>();
        let Some(child) = CHILD.get() else { return Answer::Declined };
        if !section.enabled() {
            if request.proxied() != Proxied::No {
                trace(request, |line| write!(line, "not ours: {}", NotOurs::Disabled));
            }
            return Answer::Declined;
        }
        match recognise(request, section, child) {
            Ok(ours) => {
                trace(request, |line| write!(line, "recognised {}", ours.key.url()));
                answer(request, section, child, &ours)
            }
            Err(why) => {
                if let NotOurs::Passed(_) = why {
                    tally::count_bypass(request);
                }
                trace(request, |line| write!(line, "not ours: {why}"));
                Answer::Declined
            }
        }
    }
}

impl Bytes for Entry {
    fn read(&self, part: &Range<u64>) -> Option<&[u8]> {
        self.check(part).ok().map(|()| self.body(part))
    }
}

fn answer(request: &Request<'_>, section: &Section<'_>, child: &Child, ours: &Recognised) -> Answer {
    let Some(cache) = &child.cache else { return pass(request, Reason::Store) };
    let ask = Ask { key: &ours.key, section, may_fill: !ours.is_head, now_ms: cache::now_ms() };
    // An entry that turns out to be damaged is removed and fetched anew, once.
    for _ in 0..2 {
        let finding = cache.find(&ask);
        finding.reports.iter().for_each(|line| report(request, line));
        let (entry, outcome) = match finding.found {
            Found::Entry(entry, outcome) => (entry, outcome),
            // Who brings credentials of their own may see what is hidden from us.
            Found::Absent(_) if !ours.is_sub && request.headers_in().get(c"Authorization").is_some() => {
                return pass(request, Reason::NotFound);
            }
            Found::Absent(status) => return absent(request, status),
            Found::Pass(reason) => return pass(request, reason),
        };
        if entry.check(&needed(request, ours, &entry)).is_ok() {
            return serve(request, cache, ours, &entry, outcome);
        }
        report(request, &cache.discard(&ours.key, &entry));
    }
    pass(request, Reason::Store)
}

/// The part of the object that has to be right before the answer begins.
fn needed(request: &Request<'_>, ours: &Recognised, entry: &Entry) -> Range<u64> {
    let whole = 0..entry.len();
    let fields = request.headers_in();
    let asked = match ours.asked {
        _ if ours.is_head => return 0..0,
        // httpd slices: what it will send is the range, unless a failed If-Range makes it the whole.
        Asked::Whole if !ours.is_sub && fields.get(c"If-Range").is_none() => {
            fields.get(c"Range").map_or(Asked::Whole, |header| range::parse(header.to_bytes()))
        }
        asked => asked,
    };
    match asked {
        Asked::One(range) => range.resolve(entry.len()).unwrap_or(0..0),
        Asked::Whole | Asked::Several => whole,
    }
}

/// Sends the object, or the part of it that a sub-request asks for.
fn serve(request: &Request<'_>, cache: &Cache, ours: &Recognised, entry: &Arc<Entry>, outcome: Outcome) -> Answer {
    set_fields(request, entry, outcome);
    trace(request, |line| line.write_str(&String::from_utf8_lossy(outcome.cache_status().as_bytes())));
    tally::count(request, outcome);
    if ours.is_sub { serve_sub(request, ours, entry) } else { serve_main(request, cache, ours, entry) }
}

/// A sub-request has no filter that slices, and httpd ignores its conditions, which are the client's (mod_proxy too).
fn serve_sub(request: &Request<'_>, ours: &Recognised, entry: &Arc<Entry>) -> Answer {
    let len = entry.len();
    let mut content_range = Line::<80>::new();
    content_range.push("bytes ");
    let part = match ours.asked {
        Asked::One(range) => match range.resolve(len) {
            Some(part) => {
                request.set_status(206);
                content_range.push_number(part.start).push("-").push_number(part.end - 1).push("/").push_number(len);
                part
            }
            None => {
                request.set_status(416);
                content_range.push("*/").push_number(len);
                0..0
            }
        },
        Asked::Whole | Asked::Several => {
            request.set_status(200);
            0..len
        }
    };
    if let Asked::One(_) = ours.asked {
        request.headers_out().set(c"Content-Range", request.pool().text(content_range.as_bytes()));
    }
    request.set_content_length(part.end - part.start);
    send(request, if ours.is_head { Body::Empty } else { Body::Shared(entry, part) }, false)
}

/// The client's own request gets the whole object: httpd's filters slice, and hold If-Range against it.
fn serve_main(request: &Request<'_>, cache: &Cache, ours: &Recognised, entry: &Arc<Entry>) -> Answer {
    // mod_deflate would make a 206 out of the compressed form.
    request.environment().set(c"no-gzip", c"1");
    request.environment().set(c"no-brotli", c"1");
    if ours.is_head {
        request.headers_in().unset(c"Range");
    }
    request.set_status(200);
    request.set_content_length(entry.len());
    if let Some(status) = request.failed_condition() {
        return Answer::Status(status);
    }
    let whole = 0..entry.len();
    let is_large = entry.len() >= SENDFILE_LEN_MIN && request.headers_in().get(c"Range").is_none();
    let file = || entry.reopen(cache.store().entries()).filter(|_| request.may_sendfile());
    let body = match () {
        () if ours.is_head => Body::Empty,
        () if is_large => file().map_or(Body::Shared(entry, whole.clone()), |file| {
            Body::File(file, entry.body_at()..entry.body_at() + whole.end)
        }),
        () => Body::Shared(entry, whole),
    };
    let part = needed(request, ours, entry);
    send(request, body, part.end - part.start < HELD_BACK_LEN)
}

/// The object's own fields, and what is said about this answer.
fn set_fields(request: &Request<'_>, entry: &Arc<Entry>, outcome: Outcome) {
    let (pool, fields) = (request.pool(), request.headers_out());
    // The texts stand in the mapping, which the request keeps.
    let held = pool.hold(entry.clone());
    for (name, value) in held.fields() {
        fields.add(name, value);
        if name.to_bytes().eq_ignore_ascii_case(b"Content-Type") {
            request.set_content_type(value);
        }
    }
    let mut age = Line::<20>::new();
    age.push_number(entry.age_secs(cache::now_ms() / 1000));
    fields.set(c"Age", pool.text(age.as_bytes()));
    fields.add(c"Cache-Status", pool.text(outcome.cache_status().as_bytes()));
}

fn send(request: &Request<'_>, body: Body<'_, Entry>, flush: bool) -> Answer {
    match request.send(body, flush) {
        Ok(()) => Answer::Ok,
        Err(not_sent) if not_sent.client_left => Answer::ClientLeft,
        Err(_) => Answer::Broken,
    }
}

/// Storage's own status for an object that it said is not there, a moment ago.
fn absent(request: &Request<'_>, status: u16) -> Answer {
    trace(request, |line| write!(line, "absent ({status}), as storage said a moment ago"));
    tally::count(request, Outcome::Absent);
    request.headers_out().set(c"Cache-Status", request.pool().text(Outcome::Absent.cache_status().as_bytes()));
    request.set_status(status);
    request.set_content_length(0);
    send(request, Body::Empty, false)
}

/// Leaves the request, untouched, to mod_proxy.
fn pass(request: &Request<'_>, reason: Reason) -> Answer {
    trace(request, |line| write!(line, "left to mod_proxy: {reason}"));
    tally::count_bypass(request);
    Answer::Declined
}

fn report(request: &Request<'_>, report: &Report) {
    let level = match report.level {
        ReportLevel::Warning => Level::Warning,
        ReportLevel::Notice => Level::Notice,
        ReportLevel::Info => Level::Info,
    };
    request.log(&usp_storage_cache_module, level, &report.text);
}

/// Tells how the request looks and what `say` makes of it; nothing is written where nobody reads it.
fn trace(request: &Request<'_>, say: impl FnOnce(&mut String) -> std::fmt::Result) {
    if !request.logs(&usp_storage_cache_module, Level::Trace2) {
        return;
    }
    let mut line = String::new();
    // Writing to a String does not fail.
    let _ = say(&mut line);
    let range = request.headers_in().get(c"Range").map_or("none".into(), |range| range.to_string_lossy());
    let form = match (request.parent().is_some(), request.was_mapped_to_a_file()) {
        (false, _) => "main request",
        (true, false) => "sub-request, proxied by translate_name",
        (true, true) => "sub-request, proxied by fields set after the lookup",
    };
    let kept_body = if request.has_kept_body() { "kept_body" } else { "no kept_body" };
    let method = request.method().to_string_lossy();
    let _ = write!(line, " ({form}; {method}; Range: {range}; {kept_body})");
    request.log(&usp_storage_cache_module, Level::Trace2, &line);
}
