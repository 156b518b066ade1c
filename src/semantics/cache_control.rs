//! `Cache-Control`, as far as a shared cache acts on it (RFC 9111, section 5.2.2; RFC 5861).
//!
//! [`CacheControl::read`] takes the values of an answer's fields one after the other.
//!
//! # Invariants
//!
//! - What cannot be read, or is said twice and not alike, has its most restrictive meaning, and nothing undoes that.

/// What an answer's directives say. Times are in seconds, and `None` where nothing is said of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `no-store`.
    pub no_store: bool,
    /// `private`, whichever fields it names.
    pub private: bool,
    /// `no-cache`, whichever fields it names.
    pub no_cache: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `public`.
    pub public: bool,
    /// `max-age`.
    pub max_age: Option<u64>,
    /// `s-maxage`.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate`.
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error`.
    pub stale_if_error: Option<u64>,
}

/// What any larger number of seconds stands for (RFC 9111, section 1.2.2).
pub const DELTA_SECONDS_MAX: u64 = 1 << 31;

impl CacheControl {
    /// Adds what one field says.
    pub fn read(&mut self, value: &[u8]) {
        let mut rest = Some(value);
        while let Some(text) = rest {
            let Some(len) = directive_len(text) else {
                // What a quoted string swallows that nobody closes may have been anything.
                (self.no_store, self.no_cache) = (true, true);
                return;
            };
            self.read_directive(text[..len].trim_ascii());
            rest = text.get(len + 1..);
        }
    }

    /// Whether the answer must not be served once it is stale (RFC 9111, section 4.2.4; `s-maxage` implies
    /// `proxy-revalidate`, section 5.2.2.10).
    pub fn forbids_stale(&self) -> bool {
        self.no_cache || self.must_revalidate || self.proxy_revalidate || self.s_maxage.is_some()
    }

    fn read_directive(&mut self, directive: &[u8]) {
        let name_len = directive.iter().position(|b| *b == b'=').unwrap_or(directive.len());
        let (name, argument) = (directive[..name_len].trim_ascii(), directive.get(name_len + 1..));
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let flags = [
            ("no-store", &mut self.no_store),
            ("private", &mut self.private),
            ("no-cache", &mut self.no_cache),
            ("must-revalidate", &mut self.must_revalidate),
            ("proxy-revalidate", &mut self.proxy_revalidate),
            ("public", &mut self.public),
        ];
        for (known, flag) in flags {
            *flag |= is(known);
        }
        let times = [
            ("max-age", &mut self.max_age),
            ("s-maxage", &mut self.s_maxage),
            ("stale-while-revalidate", &mut self.stale_while_revalidate),
            ("stale-if-error", &mut self.stale_if_error),
        ];
        for (known, time) in times {
            if is(known) {
                settle(time, argument.and_then(argument_secs));
            }
        }
    }
}

/// The length of the directive at the start of `text`; `None` where it has a quoted string without an end.
fn directive_len(text: &[u8]) -> Option<usize> {
    let (mut at, mut is_quoted) = (0, false);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted => at += 1,
            b',' if !is_quoted => break,
            _ => {}
        }
        at += 1;
    }
    (!is_quoted).then_some(at)
}

/// Notes a time, or 0 where it cannot be read or differs from the one before (RFC 9111, section 4.2.1).
fn settle(time: &mut Option<u64>, said: Option<u64>) {
    let said = said.unwrap_or(0);
    *time = Some(if time.is_none_or(|before| before == said) { said } else { 0 });
}

/// Seconds as a token or as a quoted string: recipients take both (RFC 9111, section 5.2).
fn argument_secs(argument: &[u8]) -> Option<u64> {
    let quoted = argument.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
    delta_seconds(quoted.unwrap_or(argument))
}

/// A number of seconds (RFC 9111, section 1.2.2); `None` where `text` is none.
pub fn delta_seconds(text: &[u8]) -> Option<u64> {
    let digit = |b: u8| b.is_ascii_digit().then(|| u64::from(b - b'0'));
    let secs = text.iter().try_fold(0, |n, b| Some((n * 10 + digit(*b)?).min(DELTA_SECONDS_MAX)));
    secs.filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: CacheControl = CacheControl {
        no_store: false,
        private: false,
        no_cache: false,
        must_revalidate: false,
        proxy_revalidate: false,
        public: false,
        max_age: None,
        s_maxage: None,
        stale_while_revalidate: None,
        stale_if_error: None,
    };

    const fn max_age(secs: u64) -> CacheControl {
        CacheControl { max_age: Some(secs), ..NOTHING }
    }

    /// The section of RFC 9111, the values of the fields, what they say.
    const ROWS: [(&str, &[&str], CacheControl); 36] = [
        ("5.2", &[], NOTHING),
        ("5.2", &["", ",", " , ,"], NOTHING),
        ("5.2", &["MAX-AGE=60"], max_age(60)),
        ("5.2: token or quoted string", &["max-age=\"60\""], max_age(60)),
        ("5.2: blanks around a comma", &["\t,, max-age=60\t,"], max_age(60)),
        ("5.2.3: unknown directives", &["immutable, x, y=1, z=\"max-age=5, no-store\", max-age=60"], max_age(60)),
        ("5.2.3: an escaped quote", &["z=\"\\\", no-store\", max-age=60"], max_age(60)),
        ("5.2.3: part of a name", &["xno-store, no-storex, no-stor, max-agee=1"], NOTHING),
        ("5.2.2.1", &["max-age=0"], max_age(0)),
        ("5.2.2.2", &["must-revalidate"], CacheControl { must_revalidate: true, ..NOTHING }),
        ("5.2.2.3: not implemented", &["must-understand"], NOTHING),
        ("5.2.2.4", &["No-Cache"], CacheControl { no_cache: true, ..NOTHING }),
        ("5.2.2.4: fields", &["no-cache=\"set-cookie, max-age=9\""], CacheControl { no_cache: true, ..NOTHING }),
        ("5.2.2.4: fields as a token", &["no-cache=set-cookie"], CacheControl { no_cache: true, ..NOTHING }),
        ("5.2.2.5", &["no-store"], CacheControl { no_store: true, ..NOTHING }),
        ("5.2.2.5: an argument", &["no-store=1"], CacheControl { no_store: true, ..NOTHING }),
        ("5.2.2.5: a blank", &["no-store =1"], CacheControl { no_store: true, ..NOTHING }),
        ("5.2.2.6", &["no-transform"], NOTHING),
        ("5.2.2.7", &["private"], CacheControl { private: true, ..NOTHING }),
        ("5.2.2.7: fields", &["private=\"x\""], CacheControl { private: true, ..NOTHING }),
        ("5.2.2.8", &["proxy-revalidate"], CacheControl { proxy_revalidate: true, ..NOTHING }),
        ("5.2.2.9", &["public"], CacheControl { public: true, ..NOTHING }),
        ("5.2.2.10", &["s-maxage=5, max-age=60"], CacheControl { s_maxage: Some(5), ..max_age(60) }),
        ("1.2.2: too large", &["max-age=99999999999999999999999"], max_age(1 << 31)),
        ("1.2.2: one too large", &["max-age=2147483649"], max_age(1 << 31)),
        ("1.2.2: the largest", &["max-age=2147483648"], max_age(1 << 31)),
        ("4.2.1: no number", &["max-age=-1"], max_age(0)),
        ("4.2.1: no whole number", &["max-age=1.5"], max_age(0)),
        ("4.2.1: no argument", &["max-age"], max_age(0)),
        ("4.2.1: empty arguments", &["max-age=", "s-maxage=\"\""], CacheControl { s_maxage: Some(0), ..max_age(0) }),
        ("4.2.1: a blank", &["max-age= 60"], max_age(0)),
        ("4.2.1: other quotes", &["max-age='60'"], max_age(0)),
        ("4.2.1: twice alike", &["max-age=60", "max-age=60"], max_age(60)),
        ("4.2.1: twice, then as the first", &["max-age=60, max-age=30, max-age=60"], max_age(0)),
        (
            "4.2.1: no end",
            &["max-age=60, x=\", public"],
            CacheControl { no_store: true, no_cache: true, ..max_age(60) },
        ),
        (
            "RFC 5861, 3 and 4",
            &["stale-while-revalidate=30, stale-if-error=1, stale-if-error=x"],
            CacheControl { stale_while_revalidate: Some(30), stale_if_error: Some(0), ..NOTHING },
        ),
    ];

    #[test]
    fn directives_are_read_and_doubt_restricts() {
        for (section, values, want) in ROWS {
            let mut control = CacheControl::default();
            values.iter().for_each(|value| control.read(value.as_bytes()));
            assert_eq!(control, want, "{section}: {values:?}");
        }
    }

    #[test]
    fn only_what_the_standard_names_forbids_stale_answers() {
        let rows = [
            ("4.2.4", "no-cache", true),
            ("4.2.4", "must-revalidate", true),
            ("4.2.4", "proxy-revalidate", true),
            ("5.2.2.10", "s-maxage=9", true),
            ("5.2.2.1", "max-age=9, public", false),
        ];
        for (section, value, want) in rows {
            let mut control = CacheControl::default();
            control.read(value.as_bytes());
            assert_eq!(control.forbids_stale(), want, "{section}: {value}");
        }
    }
}
