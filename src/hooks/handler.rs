//! The content handler: recognise, find, answer.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use super::recognise::{NotOurs, Recognised, recognise};
use super::{CHILD, Child, invalidate, pass, purge, tally};
use crate::cache::key::{NoKey, Upstream};
use crate::cache::wait::Piece;
use crate::cache::{self, Ask, Cache, Found, Outcome, Reason, ReportLevel, Stream, Want};
use crate::config::{Credentials, Section};
use crate::ffi::brigade::{Body, Bytes, Read};
use crate::ffi::hook::{Answer, ContentHandler};
use crate::ffi::log::Level;
use crate::ffi::request::{Proxied, Request};
use crate::module::{Config, usp_storage_cache_module};
use crate::semantics::line::Line;
use crate::semantics::range::{self, Asked};
use crate::store::Version;
use crate::store::counters::table::Kind;

/// From this length on a whole object goes to an outside client by `sendfile` (docs/performance.md).
const SENDFILE_LEN_MIN: u64 = 512 * 1024;

/// httpd holds shorter answers back until it has looked for a next request of the same client
/// (server/core_filters.c, `THRESHOLD_MIN_WRITE`).
const HELD_BACK_LEN: u64 = 4096;

/// Answers the requests that are ours.
pub struct Handler;

impl ContentHandler for Handler {
    fn run(request: &Request<'_>) -> Answer {
        let Some(child) = CHILD.get().filter(|_| request.proxied() != Proxied::No) else { return Answer::Declined };
        let upstream = Upstream::parse(request.filename());
        let unsigned;
        let mut section = request.section::<Config>();
        if section.purges()
            && let Some(answer) = purge::answer(request, upstream.as_ref(), section, child)
        {
            return answer;
        }
        let mut credentials = upstream.as_ref().map_or(Credentials::None, |asked| section.credentials(asked.host()));
        if credentials != Credentials::None && upstream.as_ref().is_ok_and(|upstream| !child.named.has(upstream)) {
            trace(request, |line| write!(line, "not signed for: the configuration does not name this storage"));
            (unsigned, credentials) = (section.unsigned(), Credentials::None);
            section = &unsigned;
        }
        let answer = look(request, upstream.as_ref(), (section, &credentials), child);
        if answer == Answer::Declined {
            pass::ready(request, section, child);
        }
        answer
    }
}

/// Answers a request that is ours.
fn look(
    request: &Request<'_>,
    upstream: Result<&Upstream<'_>, &NoKey>,
    (section, credentials): (&Section<'_>, &Credentials<'_>),
    child: &Child,
) -> Answer {
    if !section.enabled() {
        trace(request, |line| write!(line, "not ours: {}", NotOurs::Disabled));
        return Answer::Declined;
    }
    match recognise(request, upstream, (section, credentials), child) {
        Ok(ours) => {
            trace(request, |line| write!(line, "recognised {}", ours.key.url()));
            answer(request, section, child, &ours)
        }
        Err(why) => {
            match why {
                NotOurs::Passed(reason) => count_pass(request, reason),
                NotOurs::Method => invalidate::watch(request, section, child),
                _ => {}
            }
            trace(request, |line| write!(line, "not ours: {why}"));
            Answer::Declined
        }
    }
}

impl Bytes for Version {
    fn read(&self, part: &Range<u64>, _: bool) -> Read<'_> {
        match self.check(part).ok().and_then(|()| self.body(part)) {
            Some(bytes) => Read::Bytes(bytes),
            None => Read::Broken,
        }
    }
}

impl Bytes for Stream {
    fn read(&self, part: &Range<u64>, may_wait: bool) -> Read<'_> {
        match Stream::read(self, part, may_wait) {
            Piece::Bytes(bytes) => Read::Bytes(bytes),
            Piece::NotYet => Read::NotYet,
            Piece::Broken => Read::Broken,
        }
    }
}

fn answer(request: &Request<'_>, section: &Section<'_>, child: &Child, ours: &Recognised) -> Answer {
    let Some(cache) = &child.cache else { return pass(request, Reason::Store) };
    // mod_http2 reads buckets under a lock that all streams of a connection need: there they must not wait.
    let streams = !ours.is_sub && !request.is_multiplexed();
    let want = Want { asked: wanted(request, ours), streams };
    let base = section.fallback().and_then(|_| child.named.base(ours.key.url()));
    let ask = Ask { key: &ours.key, section, want, base, may_fill: !ours.is_head, now_ms: cache::now_ms() };
    // An entry that turns out to be damaged is removed and fetched anew, once.
    for _ in 0..2 {
        let found = cache.find(&ask);
        report(request, cache);
        match found {
            Found::Entry(entry, outcome) if entry.check(&needed(want.asked, ours, &entry)).is_ok() => {
                return serve(request, cache, ours, (&entry, &entry), outcome);
            }
            Found::Entry(entry, _) => cache.discard(&ours.key, &entry),
            // All that is asked for is there.
            Found::Filling(stream, outcome) if !streams => {
                return serve(request, cache, ours, (stream.version(), stream.version()), outcome);
            }
            Found::Filling(stream, outcome) => {
                let stream = Arc::new(stream);
                return serve(request, cache, ours, (&stream, stream.version()), outcome);
            }
            // Who brings credentials of their own may see what is hidden from us.
            Found::Absent(_) if !ours.is_sub && request.headers_in().get(c"Authorization").is_some() => {
                return pass(request, Reason::NotFound);
            }
            Found::Unsatisfiable(len) if ours.is_sub => return unsatisfiable(request, cache, ours, len),
            // httpd makes no 416 of its own without the object.
            Found::Unsatisfiable(_) => return pass(request, Reason::Unsatisfiable),
            Found::Absent(status) => return absent(request, cache, ours, status),
            Found::Pass(reason) => return pass(request, reason),
        }
    }
    report(request, cache);
    pass(request, Reason::Store)
}

/// What of the object the answer will need: httpd slices for a main request, unless a failed If-Range makes it the whole.
fn wanted(request: &Request<'_>, ours: &Recognised) -> Asked {
    let fields = request.headers_in();
    match ours.asked {
        Asked::Whole if !ours.is_sub && fields.get(c"If-Range").is_none() => {
            fields.get(c"Range").map_or(Asked::Whole, |header| range::parse(header.to_bytes()))
        }
        asked => asked,
    }
}

/// The part of the object that has to be right before the answer begins.
fn needed(asked: Asked, ours: &Recognised, version: &Version) -> Range<u64> {
    match asked {
        _ if ours.is_head => 0..0,
        Asked::One(range) => range.resolve(version.len()).unwrap_or(0..0),
        Asked::Whole | Asked::Several => 0..version.len(),
    }
}

/// Sends the object, or the part of it that a sub-request asks for, from whoever keeps its bytes.
fn serve<T: Bytes>(
    request: &Request<'_>,
    cache: &Cache,
    ours: &Recognised,
    (bytes, version): (&Arc<T>, &Arc<Version>),
    outcome: Outcome,
) -> Answer {
    set_fields(request, version, outcome);
    trace(request, |line| line.write_str(&String::from_utf8_lossy(outcome.cache_status().as_bytes())));
    tally::count(request, outcome);
    let counted = cache.count_answer(outcome, ours.came);
    let answer = match ours.is_sub {
        true => serve_sub(request, ours, bytes, version.len()),
        false => serve_main(request, cache, ours, bytes, version),
    };
    if answer == Answer::Ok {
        let part = needed(wanted(request, ours), ours, version);
        counted.add(Kind::ServedBytes, 0, part.end - part.start);
    }
    answer
}

/// A sub-request has no filter that slices, and httpd ignores its conditions, which are the client's (mod_proxy too).
fn serve_sub<T: Bytes>(request: &Request<'_>, ours: &Recognised, bytes: &Arc<T>, len: u64) -> Answer {
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
    send(request, if ours.is_head { Body::Empty } else { Body::Shared(bytes, part) }, false)
}

/// The client's own request gets the whole object: httpd's filters slice, and hold If-Range against it.
fn serve_main<T: Bytes>(
    request: &Request<'_>,
    cache: &Cache,
    ours: &Recognised,
    bytes: &Arc<T>,
    version: &Version,
) -> Answer {
    // mod_deflate would make a 206 out of the compressed form.
    request.environment().set(c"no-gzip", c"1");
    request.environment().set(c"no-brotli", c"1");
    if ours.is_head {
        request.headers_in().unset(c"Range");
    }
    request.set_status(200);
    request.set_content_length(version.len());
    if let Some(status) = request.failed_condition() {
        return Answer::Status(status);
    }
    let whole = 0..version.len();
    // Of a fill not all has been checked.
    let is_large =
        !version.is_fill() && version.len() >= SENDFILE_LEN_MIN && request.headers_in().get(c"Range").is_none();
    let file = || version.reopen(cache.store().entries()).filter(|_| request.may_sendfile());
    let body = match () {
        () if ours.is_head => Body::Empty,
        () if is_large => file().map_or(Body::Shared(bytes, whole.clone()), |file| {
            Body::File(file, version.body_at()..version.body_at() + whole.end)
        }),
        () => Body::Shared(bytes, whole),
    };
    let part = needed(wanted(request, ours), ours, version);
    send(request, body, part.end - part.start < HELD_BACK_LEN)
}

/// The object's own fields, and what is said about this answer.
fn set_fields(request: &Request<'_>, version: &Arc<Version>, outcome: Outcome) {
    let (pool, fields) = (request.pool(), request.headers_out());
    // The texts stand in the mapping, which the request keeps.
    let held = pool.hold(version.clone());
    for (name, value) in held.fields() {
        fields.add(name, value);
        if name.to_bytes().eq_ignore_ascii_case(b"Content-Type") {
            request.set_content_type(value);
        }
    }
    let mut age = Line::<20>::new();
    age.push_number(version.age_secs(cache::now_ms()));
    fields.set(c"Age", pool.text(age.as_bytes()));
    fields.add(c"Cache-Status", pool.text(outcome.cache_status().as_bytes()));
}

fn send<T: Bytes>(request: &Request<'_>, body: Body<'_, T>, flush: bool) -> Answer {
    match request.send(body, flush) {
        Ok(()) => Answer::Ok,
        Err(not_sent) if not_sent.client_left => Answer::ClientLeft,
        Err(_) => Answer::Broken,
    }
}

/// A range that selects nothing, of an object that is not held.
fn unsatisfiable(request: &Request<'_>, cache: &Cache, ours: &Recognised, len: u64) -> Answer {
    let mut content_range = Line::<80>::new();
    content_range.push("bytes */").push_number(len);
    request.headers_out().set(c"Content-Range", request.pool().text(content_range.as_bytes()));
    nothing(request, cache, ours, (416, Outcome::Unsatisfiable))
}

/// Storage's own status for an object that it said is not there, a moment ago.
fn absent(request: &Request<'_>, cache: &Cache, ours: &Recognised, status: u16) -> Answer {
    trace(request, |line| write!(line, "absent ({status}), as storage said a moment ago"));
    nothing(request, cache, ours, (status, Outcome::Absent))
}

/// An answer without a body.
fn nothing(request: &Request<'_>, cache: &Cache, ours: &Recognised, (status, outcome): (u16, Outcome)) -> Answer {
    tally::count(request, outcome);
    cache.count_answer(outcome, ours.came);
    request.headers_out().set(c"Cache-Status", request.pool().text(outcome.cache_status().as_bytes()));
    request.set_status(status);
    request.set_content_length(0);
    send(request, Body::<Version>::Empty, false)
}

/// Leaves the request, untouched, to mod_proxy.
fn pass(request: &Request<'_>, reason: Reason) -> Answer {
    trace(request, |line| write!(line, "left to mod_proxy: {reason}"));
    count_pass(request, reason);
    Answer::Declined
}

fn count_pass(request: &Request<'_>, reason: Reason) {
    tally::count_bypass(request);
    if let Some(cache) = CHILD.get().and_then(|child| child.cache.as_ref()) {
        cache.count_pass(reason);
    }
}

/// Writes down what fills of this child have to say.
fn report(request: &Request<'_>, cache: &Cache) {
    for report in cache.reports() {
        let level = match report.level {
            ReportLevel::Warning => Level::Warning,
            ReportLevel::Notice => Level::Notice,
            ReportLevel::Info => Level::Info,
        };
        request.log(&usp_storage_cache_module, level, &report.text);
    }
}

/// Tells how the request looks and what `say` makes of it; nothing is written where nobody reads it.
pub(super) fn trace(request: &Request<'_>, say: impl FnOnce(&mut String) -> std::fmt::Result) {
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
