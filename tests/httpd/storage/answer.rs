//! Which answer a request gets: as S3 gives it, and bent by a fault.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::{Fields, find};

use super::fault::Fault;
use super::ledger::Asked;
use super::object::Object;

/// What goes out: the body is a part of `body`.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: Fields,
    /// A line of the head that need not be a field.
    pub(super) line: &'static [u8],
    body: Arc<Vec<u8>>,
    pub(super) from: usize,
    to: usize,
    /// The length that `Content-Range` names.
    total: usize,
    /// Whether the body is the object's.
    pub(super) is_object: bool,
}

impl Answer {
    /// A status and a few words.
    pub(super) fn plain(status: u16, body: String) -> Self {
        let fields = vec![("Content-Type".into(), b"text/plain".to_vec())];
        let to = body.len();
        Self { status, fields, line: b"", body: Arc::new(body.into()), from: 0, to, total: to, is_object: false }
    }

    /// An error of S3's.
    pub(super) fn error(status: u16, code: &str, more: &str) -> Self {
        let mut answer = Self::plain(status, format!("<Error><Code>{code}</Code>{more}</Error>"));
        answer.fields = vec![("Content-Type".into(), b"application/xml".to_vec())];
        answer
    }

    /// What storage answers of an object.
    pub(super) fn of(object: &Object, asked: &Asked) -> Self {
        let (body, fields, length) = (Arc::clone(&object.body), object.fields.clone(), object.body.len());
        let mut answer =
            Self { status: 200, fields, line: b"", body, from: 0, to: length, total: length, is_object: true };
        if let Some(status) = failed_condition(object, asked) {
            (answer.status, answer.to) = (status, 0);
            return answer;
        }
        match asked.field("Range").and_then(|range| one_range(&range, length)) {
            Some(Some((from, to))) => (answer.status, answer.from, answer.to) = (206, from, to),
            Some(None) => (answer.status, answer.to) = (416, 0),
            None => {}
        }
        answer
    }

    /// The same, bent; `number` is that of the exchange.
    pub(super) fn bent(mut self, fault: &Fault, number: usize) -> Self {
        match fault {
            Fault::OtherEtag(etag) if matches!(self.status, 200 | 206) => self.set_etag(etag),
            Fault::NewEtags if self.status == 206 => self.set_etag(&format!("\"{number}\"")),
            Fault::OtherTotal(total) if self.status == 206 => self.total = *total,
            Fault::Shifted(by) if self.status == 206 => self.from = (self.from + by).min(self.to - 1),
            Fault::Shorter(most) if self.status == 206 => self.to = self.to.min(self.from + most),
            Fault::HeadLine(line) => self.line = line,
            Fault::Dated(off_secs) | Fault::Clock(off_secs) => {
                self.fields.push(("Date".into(), http_date(*off_secs).into()));
            }
            _ => {}
        }
        self
    }

    fn set_etag(&mut self, etag: &str) {
        self.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("ETag"));
        if !etag.is_empty() {
            self.fields.push(("ETag".into(), etag.as_bytes().into()));
        }
    }

    /// The body that belongs to the head.
    pub(super) fn part(&self) -> &[u8] {
        &self.body[self.from..self.to]
    }

    pub(super) fn content_range(&self) -> Option<String> {
        match self.status {
            206 if self.is_object => Some(format!("bytes {}-{}/{}", self.from, self.to - 1, self.total)),
            416 if self.is_object => Some(format!("bytes */{}", self.total)),
            _ => None,
        }
    }
}

/// 412 or 304, where a condition says so (RFC 9110, section 13.2.2).
fn failed_condition(object: &Object, asked: &Asked) -> Option<u16> {
    let etag = object.etag();
    let is_strong = !etag.is_empty() && !etag.starts_with("W/");
    if asked.field("If-Match").is_some_and(|wanted| wanted != "*" && !(is_strong && wanted == etag)) {
        return Some(412);
    }
    let opaque = |etag: &str| etag.trim_start_matches("W/").to_owned();
    match (asked.field("If-None-Match"), asked.field("If-Modified-Since")) {
        (Some(known), _) => (known == "*" || opaque(&known) == opaque(&etag)).then_some(304),
        (None, Some(since)) => (find(&object.fields, "Last-Modified") == Some(since.as_bytes())).then_some(304),
        (None, None) => None,
    }
}

/// One range of `length` bytes: `None` if it cannot be read, `Some(None)` if there is nothing there.
pub(crate) fn one_range(header: &str, length: usize) -> Option<Option<(usize, usize)>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let count: usize = last.parse().ok()?;
        return Some((count > 0 && length > 0).then(|| (length.saturating_sub(count), length)));
    }
    let from: usize = first.parse().ok()?;
    let to = match last {
        "" => length,
        last => last.parse::<usize>().ok()?.saturating_add(1).min(length),
    };
    Some((from < to).then_some((from, to)))
}

/// A date that is so many seconds off, as HTTP writes it.
fn http_date(off_secs: i64) -> String {
    let (days, secs) = days_and_secs(off_secs);
    let (year, month, day) = civil(days);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][days.rem_euclid(7) as usize];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[month as usize - 1];
    format!("{weekday}, {day:02} {month} {year} {:02}:{:02}:{:02} GMT", secs / 3600, secs / 60 % 60, secs % 60)
}

/// A date that is so many seconds off, as signatures write it.
pub(super) fn amz_date(off_secs: i64) -> String {
    let (days, secs) = days_and_secs(off_secs);
    let (year, month, day) = civil(days);
    format!("{year}{month:02}{day:02}T{:02}{:02}{:02}Z", secs / 3600, secs / 60 % 60, secs % 60)
}

fn days_and_secs(off_secs: i64) -> (i64, i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let at = i64::try_from(now).expect("it fits") + off_secs;
    (at.div_euclid(86_400), at.rem_euclid(86_400))
}

/// Year, month and day (Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    (year_of_era + era * 400 + i64::from(month < 3), month, day)
}
