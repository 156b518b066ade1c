//! Asking storage whether an object has changed, and what its 304 changes (RFC 9111, sections 3.2 and 4.3).
//!
//! [`selects`] gives the conditions of the request. A 304 that [`vouches_for`] the stored version makes it fresh anew,
//! with the fields that [`updated`] gives.

use super::fields;

/// The conditions of a request that asks whether a stored version is still the current one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators<'e> {
    /// The value of `If-None-Match`.
    pub if_none_match: Option<&'e [u8]>,
    /// The value of `If-Modified-Since`.
    pub if_modified_since: Option<&'e [u8]>,
}

/// What selects the stored version. Without conditions the request fetches the object anew.
///
/// Both may be there: storage that knows `If-None-Match` ignores the other (RFC 9110, section 13.1.3).
pub fn selects<'e>(stored_etag: Option<&'e [u8]>, stored_last_modified: Option<&'e [u8]>) -> Validators<'e> {
    // Comparison is weak (RFC 9110, section 13.1.2). What is no entity tag could be read as a list, or as `*`.
    let if_none_match = stored_etag.filter(|etag| opaque_tag(etag).is_some());
    Validators { if_none_match, if_modified_since: stored_last_modified }
}

/// Whether `etag` is a strong entity tag (RFC 9110, section 8.8.3).
pub fn is_strong(etag: &[u8]) -> bool {
    opaque_tag(etag).is_some() && !etag.starts_with(b"W/")
}

/// Whether a 304 with the entity tag `etag` is about the stored version (RFC 9111, section 4.3.4).
///
/// One without a tag is: what was asked about was that version.
pub fn vouches_for(etag: Option<&[u8]>, stored_etag: Option<&[u8]>) -> bool {
    let (Some(etag), Some(stored)) = (etag, stored_etag) else { return etag.is_none() };
    etag == stored || (etag.starts_with(b"W/") && opaque_tag(etag).is_some_and(|tag| Some(tag) == opaque_tag(stored)))
}

fn opaque_tag(etag: &[u8]) -> Option<&[u8]> {
    let tag = etag.strip_prefix(b"W/").unwrap_or(etag).strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    tag.iter().all(|b| matches!(b, 0x21 | 0x23..=0x7e | 0x80..)).then_some(tag)
}

/// The fields of the stored version after a 304, or `None` where it says nothing that is not stored already.
///
/// Each field of the 304 replaces the stored ones of its name (RFC 9111, section 3.2), `Content-Type` included. Left as
/// they are: fields that are never stored, and `ETag` and `Content-Encoding`, which tell of the bytes that are held.
///
/// `Date` and the like differ in each answer, and are no reason to write the version anew; when a validation took place
/// is kept beside the fields. They change together with others. A stored `Date` goes even if the 304 has none: it
/// is not the 304's, and what has no date is dated by when it came (RFC 9110, section 6.6.1).
pub fn updated(stored: &[(String, Vec<u8>)], from_304: &[(String, Vec<u8>)]) -> Option<Vec<(String, Vec<u8>)>> {
    let connection: Vec<_> = values(from_304, "connection").map(String::from_utf8_lossy).collect();
    let connection = connection.join(",");
    let is_taken = |name: &str| fields::is_kept(name, &connection) && !is_in(&OF_THE_BYTES, name);
    let taken: Vec<_> = from_304.iter().filter(|(name, _)| is_taken(name)).cloned().collect();
    let is_news = |name: &str| !is_in(&OF_EACH_ANSWER, name) && !values(stored, name).eq(values(&taken, name));
    if !taken.iter().any(|(name, _)| is_news(name)) {
        return None;
    }
    let is_left = |name: &str| values(&taken, name).next().is_none() && !name.eq_ignore_ascii_case("date");
    Some(stored.iter().filter(|(name, _)| is_left(name)).cloned().chain(taken.iter().cloned()).collect())
}

/// Fields that tell of the bytes which are held, not of those that storage would send now.
const OF_THE_BYTES: [&str; 2] = ["etag", "content-encoding"];

/// Fields that storage, or what stands before it, makes anew for each answer.
const OF_EACH_ANSWER: [&str; 11] = [
    "date",
    "via",
    "server-timing",
    "x-cache",
    "x-request-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-amz-cf-id",
    "x-amz-cf-pop",
    "x-guploader-uploadid",
    "x-ms-request-id",
];

fn is_in(names: &[&str], name: &str) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

fn values<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = Vec<(String, Vec<u8>)>;

    fn fields(lines: &[&str]) -> Fields {
        let split = |line: &&str| {
            let (name, value) = line.split_once(": ").expect(line);
            (name.to_owned(), value.as_bytes().to_vec())
        };
        lines.iter().map(split).collect()
    }

    #[test]
    fn a_strong_entity_tag_is_known_by_its_syntax() {
        let rows: [(&[u8], bool); 16] = [
            (b"\"xyzzy\"", true),
            (b"\"\"", true),
            (b"\"9b2cf535f27731c974343645a3985328-14\"", true),
            (b"\"!#'(,)\\~\x80\xff\"", true),
            (b"W/\"xyzzy\"", false),
            (b"w/\"xyzzy\"", false),
            (b"xyzzy", false),
            (b"\"xyzzy", false),
            (b"xyzzy\"", false),
            (b"\"", false),
            (b"", false),
            (b"*", false),
            (b"\"a b\"", false),
            (b"\"a\x7f\"", false),
            (b"\"a\", \"b\"", false),
            (b" \"a\"", false),
        ];
        for (etag, want) in rows {
            assert_eq!(is_strong(etag), want, "RFC 9110, 8.8.3: {}", etag.escape_ascii());
        }
    }

    #[test]
    fn conditions_are_made_of_the_validators_that_there_are() {
        let date = "Tue, 14 Nov 2023 22:13:20 GMT";
        let rows = [
            ("13.1.2: neither", None, None, None),
            ("13.1.2", Some("\"a\""), None, Some("\"a\"")),
            ("13.1.2: weak", Some("W/\"a\""), None, Some("W/\"a\"")),
            ("13.1.3: the date alone", None, Some(date), None),
            ("13.1.3: both", Some("\"a\""), Some(date), Some("\"a\"")),
            ("8.8.3: no entity tag", Some("a"), Some(date), None),
            ("8.8.3: any version", Some("*"), Some(date), None),
        ];
        for (section, etag, date, if_none_match) in rows {
            let found = selects(etag.map(str::as_bytes), date.map(str::as_bytes));
            let want = Validators {
                if_none_match: if_none_match.map(str::as_bytes),
                if_modified_since: date.map(str::as_bytes),
            };
            assert_eq!(found, want, "RFC 9110, {section}");
        }
    }

    #[test]
    fn a_304_vouches_for_the_version_that_it_names() {
        let rows = [
            ("no tag", None, Some("\"a\""), true),
            ("no tag at all", None, None, true),
            ("strong and alike", Some("\"a\""), Some("\"a\""), true),
            ("strong and another", Some("\"b\""), Some("\"a\""), false),
            ("strong, held as weak", Some("\"a\""), Some("W/\"a\""), false),
            ("weak, held as strong", Some("W/\"a\""), Some("\"a\""), true),
            ("weak and alike", Some("W/\"a\""), Some("W/\"a\""), true),
            ("weak and another", Some("W/\"b\""), Some("\"a\""), false),
            ("strong, none held", Some("\"a\""), None, false),
            ("weak, none held", Some("W/\"a\""), None, false),
            ("no entity tag, alike", Some("a"), Some("a"), true),
            ("no entity tags", Some("W/a"), Some("b"), false),
        ];
        for (what, etag, stored, want) in rows {
            let found = vouches_for(etag.map(str::as_bytes), stored.map(str::as_bytes));
            assert_eq!(found, want, "RFC 9111, 4.3.4: {what}");
        }
    }

    /// The section of RFC 9111, the fields that are stored, those of the 304, and what is stored then.
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Option<&'a [&'a str]>);

    const UPDATES: [Row<'_>; 22] = [
        ("3.2: nothing", &["ETag: \"a\""], &[], None),
        ("3.2: the same", &["ETag: \"a\"", "X: 1"], &["etag: \"a\"", "x: 1"], None),
        ("3.2: another value", &["X: 1", "Y: 1"], &["X: 2"], Some(&["Y: 1", "X: 2"])),
        ("3.2: another case of a name", &["X-A: 1"], &["x-a: 2"], Some(&["x-a: 2"])),
        ("3.2: a value's case", &["X: a"], &["X: A"], Some(&["X: A"])),
        ("3.2: one that is new", &["X: 1"], &["Cache-Control: max-age=9"], Some(&["X: 1", "Cache-Control: max-age=9"])),
        ("3.2: what a 304 lacks stays", &["X: 1", "Y: 1"], &["Y: 1"], None),
        ("3.2: two for one", &["X: 1"], &["X: 1", "X: 2"], Some(&["X: 1", "X: 2"])),
        ("3.2: one for two", &["X: 1", "Y: 1", "X: 2"], &["X: 2"], Some(&["Y: 1", "X: 2"])),
        ("3.2: two as they are", &["X: 1", "Y: 1", "X: 2"], &["X: 1", "X: 2"], None),
        ("3.2: Content-Type", &["Content-Type: a/b"], &["Content-Type: a/c"], Some(&["Content-Type: a/c"])),
        ("3.2: Content-Length", &["X: 1"], &["Content-Length: 0"], None),
        ("3.2: Content-Range", &["X: 1"], &["Content-Range: bytes 0-1/2"], None),
        ("3.2: Content-Encoding", &["Content-Encoding: br"], &["Content-Encoding: gzip"], None),
        ("3.1: of the connection", &["X: 1"], &["Transfer-Encoding: chunked", "Keep-Alive: 5", "Set-Cookie: a"], None),
        ("3.1: what Connection names", &["X: 1"], &["X: 2", "connection: close, x", "Y: 1"], Some(&["X: 1", "Y: 1"])),
        (
            "4.3.4: a weaker ETag",
            &["ETag: \"a\""],
            &["ETag: W/\"a\"", "Last-Modified: x"],
            Some(&["ETag: \"a\"", "Last-Modified: x"]),
        ),
        ("Date alone", &["Date: 1", "X: 1"], &["Date: 2", "X: 1", "Age: 5", "x-amz-request-id: 7"], None),
        ("Date, where there was none", &["X: 1"], &["Date: 2"], None),
        ("Date and another", &["Date: 1", "X: 1"], &["Date: 2", "X: 2"], Some(&["Date: 2", "X: 2"])),
        ("RFC 9110, 6.6.1: no Date", &["Date: 1", "X: 1"], &["X: 2"], Some(&["X: 2"])),
        ("what each answer has anew", &["Via: a", "X-Cache: Hit"], &["Via: b", "X-Cache: Miss"], None),
    ];

    #[test]
    fn a_304_changes_the_fields_that_it_brings() {
        for (section, stored, from_304, want) in UPDATES {
            let found = updated(&fields(stored), &fields(from_304));
            assert_eq!(found, want.map(fields), "{section}: {stored:?} and {from_304:?}");
        }
    }

    #[test]
    fn what_a_304_has_changed_it_does_not_change_again() {
        for (section, stored, from_304, _) in UPDATES {
            if let Some(changed) = updated(&fields(stored), &fields(from_304)) {
                assert_eq!(updated(&changed, &fields(from_304)), None, "{section}: {stored:?} and {from_304:?}");
            }
        }
    }
}
