//! How long a stored answer may be served, and whether it may be stored (RFC 9111, sections 3 and 4.2).
//!
//! [`Lifetimes::of`] holds what storage said against what the operator configured. Where storage has no say
//! ([`Policy::honor`]) its fields are not looked at.
//!
//! # Invariants
//!
//! - What is in doubt is stale: a date or a time that cannot be read never lengthens a life.
//! - No lifetime is longer than the longest that the fields or the configuration name.

use std::fmt;
use std::time::SystemTime;

use super::cache_control::{CacheControl, DELTA_SECONDS_MAX, delta_seconds};

/// A header field: its name, in any case, and its value.
pub type Field<'f> = (&'f [u8], &'f [u8]);

/// What the operator configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether what storage says about storing and freshness counts.
    pub honor: bool,
    /// Seconds that an answer is fresh, where storage does not say or has no say.
    pub expire_secs: u32,
    /// Seconds that a stale answer may be served while storage is asked, in the same case.
    pub stale_while_revalidate_secs: u32,
    /// Seconds that a stale answer may be served if storage fails, in the same case.
    pub stale_if_error_secs: u32,
}

/// When storage was asked; times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When storage was asked for the answer whose fields are stored.
    pub asked_at: u64,
    /// When storage was asked last and vouched for the answer: `asked_at`, or the time of a later 304.
    pub vouched_at: u64,
    /// How old the answer was then: see [`initial_age_secs`]. A 304 that is older than that moves `vouched_at` back by
    /// the difference.
    pub initial_age_secs: u32,
}

/// How long an answer may be served, by its residence: the seconds since [`Times::vouched_at`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// The answer is fresh while its residence is shorter (RFC 9111, section 4.2). The age that it came with is
    /// taken off already.
    pub fresh_secs: u64,
    /// For so long after that it may be served while storage is asked (RFC 5861, section 3).
    pub stale_while_revalidate_secs: u64,
    /// For so long after `fresh_secs` it may be served if storage fails (RFC 5861, section 4).
    pub stale_if_error_secs: u64,
}

impl Lifetimes {
    /// The lifetimes of an answer with these `fields`. An answer that must not be stored has none: a section
    /// that does not honor storage may have stored it.
    pub fn of<'f>(fields: impl IntoIterator<Item = Field<'f>>, policy: Policy, times: Times) -> Self {
        let Policy { honor, expire_secs, stale_while_revalidate_secs, stale_if_error_secs } = policy;
        if !honor {
            return Self {
                fresh_secs: expire_secs.into(),
                stale_while_revalidate_secs: stale_while_revalidate_secs.into(),
                stale_if_error_secs: stale_if_error_secs.into(),
            };
        }
        let said = Said::by(fields);
        if said.control.no_cache || said.storable(false).is_err() {
            return Self::default();
        }
        let (lifetime, age) = (said.lifetime_secs(times).unwrap_or(expire_secs.into()), times.initial_age_secs.into());
        let fresh = Self { fresh_secs: lifetime.saturating_sub(age), ..Self::default() };
        if said.control.forbids_stale() {
            return fresh;
        }
        // What comes stale has used up a part of the time that follows as well.
        let late = age.saturating_sub(lifetime);
        let stale = |said: Option<u64>, configured: u32| said.unwrap_or(configured.into()).saturating_sub(late);
        Self {
            stale_while_revalidate_secs: stale(said.control.stale_while_revalidate, stale_while_revalidate_secs),
            stale_if_error_secs: stale(said.control.stale_if_error, stale_if_error_secs),
            ..fresh
        }
    }
}

/// The age of an answer for which storage was asked at `asked_at`, in seconds (RFC 9111, section 4.2.3); `fields` are
/// those that came, `Age` included.
///
/// Counted from the request, the age is what `Age` says or what `Date` shows, whichever is more. The delay of the answer
/// is part of its residence, which begins with the request too.
pub fn initial_age_secs<'f>(fields: impl IntoIterator<Item = Field<'f>>, asked_at: u64) -> u32 {
    let said = Said::by(fields);
    let apparent = said.date().map_or(0, |date| asked_at.saturating_sub(date));
    // The first member counts, and what is no number does not (RFC 9111, section 5.1).
    let first = said.age.and_then(|age| age.split(|b| *b == b',').next());
    let told = first.and_then(|age| delta_seconds(age.trim_ascii())).unwrap_or(0);
    u32::try_from(apparent.max(told).min(DELTA_SECONDS_MAX)).expect("2^31 fits")
}

/// Why an answer must not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStorable {
    /// `no-store`.
    NoStore,
    /// `private`: this cache is shared.
    Private,
    /// It depends on fields of the client's request.
    Vary,
    /// It was made for a client that said who it is.
    Authorization,
}

impl fmt::Display for NotStorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Vary => "vary",
            Self::Authorization => "authorization",
        })
    }
}

impl std::error::Error for NotStorable {}

/// Whether an answer of status 200 may be stored (RFC 9111, sections 3, 3.5 and 4.1).
///
/// `request_is_authenticated` is whether a client's `Authorization` went to storage with the request. Our own
/// signature does not count: it stands for the operator, whose storage and cache it is, and not for the client, whose
/// `Authorization` a fetch never forwards. Who may ask for the object is decided by httpd, before the cache is asked.
///
/// `Vary` on `Accept-Encoding` or `Origin` does no harm: a fetch always sends `identity` as the one and never sends the other,
/// so that there is one variant. `must-understand` does not lift `no-store`.
pub fn storable<'f>(
    fields: impl IntoIterator<Item = Field<'f>>,
    policy: Policy,
    request_is_authenticated: bool,
) -> Result<(), NotStorable> {
    if policy.honor { Said::by(fields).storable(request_is_authenticated) } else { Ok(()) }
}

/// What an answer's fields say about storing and freshness.
#[derive(Default)]
struct Said<'f> {
    control: CacheControl,
    expires: Option<&'f [u8]>,
    date: Option<&'f [u8]>,
    age: Option<&'f [u8]>,
    varies: bool,
}

impl<'f> Said<'f> {
    fn by(fields: impl IntoIterator<Item = Field<'f>>) -> Self {
        let mut said = Self::default();
        for (name, value) in fields {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("cache-control") {
                said.control.read(value);
            } else if is("expires") {
                // Two that differ are as one that is no date (RFC 9111, section 4.2.1).
                said.expires = Some(if said.expires.is_none_or(|before| before == value) { value } else { b"0" });
            } else if is("date") {
                said.date.get_or_insert(value);
            } else if is("age") {
                said.age.get_or_insert(value);
            } else if is("vary") {
                said.varies |= varies(value);
            }
        }
        said
    }

    fn storable(&self, request_is_authenticated: bool) -> Result<(), NotStorable> {
        let control = &self.control;
        // RFC 9111, section 3.5.
        let is_for_all = control.must_revalidate || control.public || control.s_maxage.is_some();
        let reasons = [
            (control.no_store, NotStorable::NoStore),
            (control.private, NotStorable::Private),
            (self.varies, NotStorable::Vary),
            (request_is_authenticated && !is_for_all, NotStorable::Authorization),
        ];
        reasons.iter().find(|(holds, _)| *holds).map_or(Ok(()), |(_, reason)| Err(*reason))
    }

    /// The freshness lifetime that is stated (RFC 9111, section 4.2.1). What was expired when it came has none; that it
    /// expired long before does not count.
    fn lifetime_secs(&self, times: Times) -> Option<u64> {
        let told = self.control.s_maxage.or(self.control.max_age);
        told.or_else(|| {
            // What is no date is past (RFC 9111, section 5.3).
            let expires = http_date(self.expires?).unwrap_or(0);
            // The date that a 304 had is not stored: it is the stored one and the time that went by between.
            let date = self.date().unwrap_or(times.asked_at);
            let date = date.saturating_add(times.vouched_at.saturating_sub(times.asked_at));
            Some(expires.saturating_sub(date))
        })
    }

    fn date(&self) -> Option<u64> {
        self.date.and_then(http_date)
    }
}

/// Whether `Vary` names a field by which two requests of ours could differ.
fn varies(value: &[u8]) -> bool {
    let is_sent_alike = |name: &[u8]| {
        name.is_empty() || name.eq_ignore_ascii_case(b"accept-encoding") || name.eq_ignore_ascii_case(b"origin")
    };
    !value.split(|b| *b == b',').all(|name| is_sent_alike(name.trim_ascii()))
}

/// A date in any of the three formats of RFC 9110, section 5.6.7, in seconds since 1970. A year of two digits lies from
/// 1970 to 2069, and so never more than 50 years ahead.
fn http_date(value: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    date.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tue, 14 Nov 2023 22:13:20 GMT.
    const ASKED_AT: u64 = 1_700_000_000;
    const NOW: &str = "Date: Tue, 14 Nov 2023 22:13:20 GMT";
    const IN_A_MINUTE: &str = "Expires: Tue, 14 Nov 2023 22:14:20 GMT";
    const HONOR: Policy =
        Policy { honor: true, expire_secs: 100, stale_while_revalidate_secs: 20, stale_if_error_secs: 30 };
    const NONE: Life = (0, 0, 0);

    /// Seconds: fresh, stale while storage is asked, stale if storage fails.
    type Life = (u64, u64, u64);

    fn split(line: &str) -> Field<'_> {
        let (name, value) = line.split_once(':').expect(line);
        (name.as_bytes(), value.trim().as_bytes())
    }

    /// What `lines` give for an answer of that age, for which storage vouched so many seconds after it was asked.
    fn lifetimes(lines: &[&str], policy: Policy, initial_age_secs: u32, later: u64) -> Life {
        let times = Times { asked_at: ASKED_AT, vouched_at: ASKED_AT + later, initial_age_secs };
        let found = Lifetimes::of(lines.iter().copied().map(split), policy, times);
        (found.fresh_secs, found.stale_while_revalidate_secs, found.stale_if_error_secs)
    }

    /// The section of RFC 9111, the fields of an answer that has just been made, how long it lives.
    const LIVES: [(&str, &[&str], Life); 34] = [
        ("4.2.2: nothing is said", &[], (100, 20, 30)),
        ("4.2.2: nothing of time", &["ETag: \"a\"", NOW, "Cache-Control: public"], (100, 20, 30)),
        ("4.2.1: s-maxage first", &["Cache-Control: max-age=9, s-maxage=8", NOW, IN_A_MINUTE], (8, 0, 0)),
        ("4.2.1: max-age second", &["Cache-Control: max-age=9", NOW, IN_A_MINUTE], (9, 20, 30)),
        ("4.2.1: Expires third", &[NOW, IN_A_MINUTE, "Cache-Control: public"], (60, 20, 30)),
        ("4.2.1: any order, any case", &["eXPIRES: 0", "cACHE-cONTROL: MAX-age=9"], (9, 20, 30)),
        ("4.2.1: several fields", &["Cache-Control: public", "Cache-Control: max-age=9"], (9, 20, 30)),
        ("4.2.1: s-maxage that is none", &["Cache-Control: max-age=9, s-maxage=x"], NONE),
        ("4.2.1: max-age that is none", &["Cache-Control: max-age=x", NOW, IN_A_MINUTE], (0, 20, 30)),
        ("4.2.1: Expires twice alike", &[NOW, IN_A_MINUTE, IN_A_MINUTE], (60, 20, 30)),
        ("4.2.1: Expires twice", &[NOW, IN_A_MINUTE, "Expires: Tue, 14 Nov 2023 22:14:21 GMT"], (0, 20, 30)),
        ("4.2.1: without Date, by when it came", &[IN_A_MINUTE], (60, 20, 30)),
        ("4.2.1: Date that is none", &["Date: now", IN_A_MINUTE], (60, 20, 30)),
        ("4.2.1: storage's clock is ahead", &["Date: Tue, 14 Nov 2023 22:14:00 GMT", IN_A_MINUTE], (20, 20, 30)),
        ("5.3: Expires: 0", &[NOW, "Expires: 0"], (0, 20, 30)),
        ("5.3: Expires: -1", &[NOW, "Expires: -1"], (0, 20, 30)),
        ("5.3: empty", &[NOW, "Expires:"], (0, 20, 30)),
        ("5.3: of another zone", &[NOW, "Expires: Tue, 14 Nov 2023 22:14:20 CET"], (0, 20, 30)),
        ("5.3: on the wrong weekday", &[NOW, "Expires: Wed, 14 Nov 2023 22:14:20 GMT"], (0, 20, 30)),
        ("5.3: past", &[NOW, "Expires: Thu, 01 Jan 1970 00:00:00 GMT"], (0, 20, 30)),
        ("5.3: now", &[NOW, "Expires: Tue, 14 Nov 2023 22:13:20 GMT"], (0, 20, 30)),
        ("RFC 9110, 5.6.7: of RFC 850", &[NOW, "Expires: Tuesday, 14-Nov-23 22:14:20 GMT"], (60, 20, 30)),
        ("RFC 9110, 5.6.7: of RFC 850, past", &[NOW, "Expires: Sunday, 06-Nov-94 08:49:37 GMT"], (0, 20, 30)),
        ("RFC 9110, 5.6.7: of asctime", &[NOW, "Expires: Tue Nov 14 22:14:20 2023"], (60, 20, 30)),
        ("5.2.2.4: no-cache", &["Cache-Control: max-age=9, no-cache, stale-if-error=9"], NONE),
        ("5.2.2.4: of fields", &["Cache-Control: max-age=9, no-cache=\"x\""], NONE),
        ("5.2.2.5: of another section", &["Cache-Control: max-age=9, no-store"], NONE),
        ("5.2.2.7: of another section", &["Cache-Control: max-age=9, private"], NONE),
        ("4.1: of another section", &["Cache-Control: max-age=9", "Vary: Cookie"], NONE),
        ("5.2.2.2: must-revalidate", &["Cache-Control: must-revalidate, stale-if-error=9"], (100, 0, 0)),
        ("5.2.2.8: proxy-revalidate", &["Cache-Control: max-age=9, proxy-revalidate"], (9, 0, 0)),
        ("5.2.2.10: s-maxage", &["Cache-Control: s-maxage=9, stale-while-revalidate=5"], (9, 0, 0)),
        ("RFC 5861, 3", &["Cache-Control: max-age=9, stale-while-revalidate=5"], (9, 5, 30)),
        ("RFC 5861, 4", &["Cache-Control: stale-if-error=900, stale-while-revalidate=0"], (100, 0, 900)),
    ];

    #[test]
    fn storage_says_how_long_and_the_operator_where_it_does_not() {
        for (section, lines, want) in LIVES {
            assert_eq!(lifetimes(lines, HONOR, 0, 0), want, "{section}: {lines:?}");
        }
    }

    /// The section of RFC 9111, the fields, the initial age, when storage vouched again, how long the answer lives.
    const AGED: [(&str, &[&str], u32, u64, Life); 12] = [
        ("4.2.3: an age", &["Cache-Control: max-age=60"], 25, 0, (35, 20, 30)),
        ("4.2.3: against the configured time", &[], 25, 0, (75, 20, 30)),
        ("4.2.3: just used up", &["Cache-Control: max-age=60"], 60, 0, (0, 20, 30)),
        ("4.2.4: stale for a while", &["Cache-Control: max-age=60"], 75, 0, (0, 5, 15)),
        ("4.2.4: stale for long", &["Cache-Control: max-age=60"], u32::MAX, 0, NONE),
        ("4.2.3: of Expires", &[NOW, IN_A_MINUTE], 25, 0, (35, 20, 30)),
        (
            "4.2.1: storage's clock is behind",
            &["Date: Tue, 14 Nov 2023 22:12:20 GMT", IN_A_MINUTE],
            60,
            0,
            (60, 20, 30),
        ),
        ("4.3.4: max-age begins anew", &["Cache-Control: max-age=60", NOW], 0, 3000, (60, 20, 30)),
        ("4.3.4: Expires does not", &[NOW, IN_A_MINUTE], 0, 40, (20, 20, 30)),
        ("4.3.4: Expires without Date does not", &[IN_A_MINUTE], 0, 40, (20, 20, 30)),
        ("4.3.4: Expires is past", &[NOW, IN_A_MINUTE], 0, 3000, (0, 20, 30)),
        ("4.3.4: times without end", &[NOW, IN_A_MINUTE], 0, u64::MAX - ASKED_AT, (0, 20, 30)),
    ];

    #[test]
    fn age_and_a_later_validation_count() {
        for (section, lines, age, later, want) in AGED {
            assert_eq!(lifetimes(lines, HONOR, age, later), want, "{section}: {lines:?}, {age}, {later}");
        }
    }

    #[test]
    fn without_honor_storage_has_no_say() {
        let policy = Policy { honor: false, ..HONOR };
        for (section, lines, _) in LIVES {
            assert_eq!(lifetimes(lines, policy, 1000, 0), (100, 20, 30), "{section}: {lines:?}");
        }
        for (section, lines, _) in STORED {
            assert_eq!(storable(lines.iter().copied().map(split), policy, true), Ok(()), "{section}: {lines:?}");
        }
    }

    #[test]
    fn the_initial_age_is_what_age_says_or_date_shows() {
        let minute_ago = "Date: Tue, 14 Nov 2023 22:12:20 GMT";
        let rows: [(&str, &[&str], u32); 13] = [
            ("4.2.3: neither", &[], 0),
            ("4.2.3: Date", &[NOW], 0),
            ("4.2.3: Date of a minute ago", &[minute_ago], 60),
            ("4.2.3: Date to come", &["Date: Tue, 14 Nov 2023 22:14:20 GMT"], 0),
            ("4.2.3: Age is more", &[minute_ago, "Age: 70"], 70),
            ("4.2.3: Age is less", &["age: 50", minute_ago], 60),
            ("4.2.3: Date that is none", &["Date: 0"], 0),
            ("4.2.3: Date of long ago", &["Date: Thu, 01 Jan 1970 00:00:00 GMT"], 1_700_000_000),
            ("5.1: a list", &["Age: 7, 9"], 7),
            ("5.1: two fields", &["Age: 7", "Age: 9"], 7),
            ("5.1: no number", &["Age: -7"], 0),
            ("5.1: no number, then one", &["Age: x, 9"], 0),
            ("1.2.2: too large", &["Age: 99999999999999999999999"], 1 << 31),
        ];
        for (section, lines, want) in rows {
            assert_eq!(initial_age_secs(lines.iter().copied().map(split), ASKED_AT), want, "{section}: {lines:?}");
        }
        assert_eq!(initial_age_secs([split(NOW)], u64::MAX), 1 << 31);
    }

    /// The section of RFC 9111, the fields, why they forbid that the answer is stored.
    const STORED: [(&str, &[&str], Option<NotStorable>); 14] = [
        ("3: nothing is said", &[], None),
        ("3", &["Cache-Control: max-age=0, no-cache, must-revalidate"], None),
        ("5.2.2.5", &["Cache-Control: max-age=60", "Cache-Control: No-Store"], Some(NotStorable::NoStore)),
        ("5.2.2.5: both", &["Cache-Control: private, no-store"], Some(NotStorable::NoStore)),
        ("5.2.2.3", &["Cache-Control: must-understand, no-store"], Some(NotStorable::NoStore)),
        ("5.2.2.7", &["Cache-Control: private"], Some(NotStorable::Private)),
        ("5.2.2.7: fields", &["Cache-Control: private=\"set-cookie\""], Some(NotStorable::Private)),
        ("5.2.2.7: both", &["Cache-Control: public, private"], Some(NotStorable::Private)),
        ("4.1: sent alike", &["Vary: accept-Encoding", "vary: Origin,, "], None),
        ("4.1: all", &["Vary: *"], Some(NotStorable::Vary)),
        ("4.1: all, in a list", &["Vary: Origin, *"], Some(NotStorable::Vary)),
        ("4.1: another", &["Vary: Accept-Encoding, Cookie"], Some(NotStorable::Vary)),
        ("4.1: several fields", &["Vary: Cookie", "Vary: Origin"], Some(NotStorable::Vary)),
        ("4.1: S3 with CORS", &["Vary: Origin, Access-Control-Request-Headers"], Some(NotStorable::Vary)),
    ];

    #[test]
    fn what_storage_forbids_is_not_stored() {
        for (section, lines, want) in STORED {
            let found = storable(lines.iter().copied().map(split), HONOR, false);
            assert_eq!(found.err(), want, "{section}: {lines:?}");
        }
    }

    #[test]
    fn what_a_client_had_to_sign_for_is_stored_only_where_that_is_said() {
        let rows = [
            ("", Some(NotStorable::Authorization)),
            ("max-age=60", Some(NotStorable::Authorization)),
            ("proxy-revalidate", Some(NotStorable::Authorization)),
            ("public", None),
            ("must-revalidate", None),
            ("s-maxage=60", None),
            ("public, no-store", Some(NotStorable::NoStore)),
        ];
        for (value, want) in rows {
            let field: Field<'_> = (b"Cache-Control", value.as_bytes());
            assert_eq!(storable([field], HONOR, true).err(), want, "RFC 9111, 3.5: {value:?}");
        }
    }

    #[test]
    fn a_reason_is_named_by_its_field_or_directive() {
        let reasons = [NotStorable::NoStore, NotStorable::Private, NotStorable::Vary, NotStorable::Authorization];
        assert_eq!(reasons.map(|reason| reason.to_string()), ["no-store", "private", "vary", "authorization"]);
    }

    /// A directive, and the seconds that it names.
    fn directive() -> impl Strategy<Value = (String, u64)> {
        let names = vec!["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "x"];
        let secs = prop_oneof![0..100u64, Just(1 << 31)];
        let timed = (prop::sample::select(names), secs).prop_map(|(name, secs)| (format!("{name}={secs}"), secs));
        let bare = prop::sample::select(&["no-cache", "public", "max-age=x", "must-revalidate", "\"", "private"][..]);
        prop_oneof![4 => timed, 1 => bare.prop_map(|text| (text.to_owned(), 0))]
    }

    fn any_field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let names = vec!["Cache-Control", "Expires", "Date", "Age", "Vary", "X"];
        let pieces =
            vec!["max-age", "=", "\"", "\\", ",", " ", "9", "s-maxage=", "no-cache", NOW, "GMT", "-", "*", ":"];
        let made = prop::collection::vec(prop::sample::select(pieces), 0..9).prop_map(|p| p.concat().into_bytes());
        let date = "(Mon|Tuesday), ?[0-9]{2}[ -](Feb|Nov)[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT";
        let value = prop_oneof![any::<Vec<u8>>(), made, date.prop_map(String::into_bytes)];
        (prop::sample::select(names).prop_map(|name| name.as_bytes().to_vec()), value)
    }

    fn borrowed(fields: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = Field<'_>> {
        fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    proptest! {
        #[test]
        fn no_life_is_longer_than_the_longest_that_is_named(
            directives in prop::collection::vec(directive(), 0..6),
            expires_in in prop::option::of(0..100u64),
            age in prop_oneof![Just(0), 0..200u32],
        ) {
            let longest = |name: &str, configured: u32| {
                let named = directives.iter().filter(|(text, _)| text.starts_with(name)).map(|(_, secs)| *secs);
                named.max().unwrap_or(0).max(configured.into())
            };
            let control = directives.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(", ");
            let at = |secs| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(secs));
            let mut lines = vec![format!("Cache-Control: {control}"), NOW.to_owned()];
            lines.extend(expires_in.map(|secs| format!("Expires: {}", at(ASKED_AT + secs))));
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let (fresh, revalidate, error) = lifetimes(&lines, HONOR, age, 0);
            let named = longest("max-age", 100).max(longest("s-maxage", 100)).max(expires_in.unwrap_or(0));
            prop_assert!(fresh <= named.saturating_sub(age.into()), "{lines:?}: {fresh}");
            prop_assert!(revalidate <= longest("stale-while-revalidate", 20), "{lines:?}: {revalidate}");
            prop_assert!(error <= longest("stale-if-error", 30), "{lines:?}: {error}");
        }

        #[test]
        fn any_fields_are_read_and_no_restriction_lengthens_a_life(
            fields in prop::collection::vec(any_field(), 0..6),
            restriction in prop::sample::select(&["no-cache", "private=\"a\"", "no-store", "must-revalidate"][..]),
            age in prop_oneof![Just(0), any::<u32>()],
            asked_at in prop_oneof![Just(ASKED_AT), any::<u64>()],
            vouched_at in prop_oneof![Just(ASKED_AT), any::<u64>()],
        ) {
            let times = Times { asked_at, vouched_at, initial_age_secs: age };
            let before = Lifetimes::of(borrowed(&fields), HONOR, times);
            let further: Field<'_> = (b"cache-control", restriction.as_bytes());
            let after = Lifetimes::of(borrowed(&fields).chain([further]), HONOR, times);
            prop_assert!(after.fresh_secs <= before.fresh_secs);
            prop_assert!(after.stale_while_revalidate_secs <= before.stale_while_revalidate_secs);
            prop_assert!(after.stale_if_error_secs <= before.stale_if_error_secs);
            prop_assert!(u64::from(initial_age_secs(borrowed(&fields), asked_at)) <= DELTA_SECONDS_MAX);
        }
    }
}
