//! Every form of request that the module sends, to two servers that compute its signature for themselves.
//!
//! The module's own client asks them: its clock is an argument.

use std::time::{Duration, SystemTime};

use mod_usp_storage_cache::cache::key::{Key, Upstream};
use mod_usp_storage_cache::credentials::{Keyring, Keys, Table};
use mod_usp_storage_cache::fetch::refusal::Why;
use mod_usp_storage_cache::fetch::{Answer, Client, Credentials, Failure, Kind, Part, Question, Rules};
use mod_usp_storage_cache::semantics::validation::Validators;
use mod_usp_storage_cache::store::{Limits, Store};

use crate::content::content;
use crate::origin::escape;
use crate::s3::{self, S3};

const LEN: u64 = 5000;

/// The rules of a section with the server's keys.
fn rules(s3: &S3, use_headers: bool) -> Rules {
    let (access_key, secret_key) = s3.keys();
    let credentials = Credentials::Keys(Keys::new(access_key, secret_key, None));
    let patience = Duration::from_secs(10);
    Rules {
        connect_timeout: patience,
        timeout: patience,
        roots: None,
        credentials,
        region: None,
        use_headers,
        hedges: false,
    }
}

/// A client that has to ask nobody for keys.
fn client() -> Client {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = Limits { store_len_max: 1 << 30, free_len_min: 0, generation: 0 };
    let store = Store::open(dir.path(), limits).expect("a store");
    Client::new(Keyring::new(Table::new().expect("a table").into(), store))
}

/// The rules with other keys.
fn with_keys(rules: Rules, access: &str, secret: &str, token: Option<&str>) -> Rules {
    Rules { credentials: Credentials::Keys(Keys::new(access, secret, token)), ..rules }
}

fn key(url: &str, ignore_query: bool) -> Key {
    let filename = format!("proxy:{url}");
    Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key("", ignore_query)).expect(url)
}

fn body(answer: Answer, len: u64) -> Vec<u8> {
    let mut body = Vec::new();
    answer.body.copy(len, |piece| std::io::Write::write_all(&mut body, piece)).expect("the body comes");
    body
}

/// Each server by path and by host, in the header and in the query.
fn each_way(prefix: &str) -> impl Iterator<Item = (S3, Rules)> {
    let servers = S3::both(prefix).into_iter().flat_map(|s3| [s3.by_host(), s3]);
    servers.flat_map(|s3| [true, false].map(|use_headers| (s3.clone(), rules(&s3, use_headers))))
}

#[test]
fn every_form_of_request_is_taken_by_both_servers_by_path_and_by_host() {
    let (client, film) = (client(), content(50, LEN as usize));
    for (s3, rules) in each_way("forms") {
        let what = format!("{:?} {} {}", s3.kind, s3.url(), rules.use_headers);
        s3.put("a%20film.mp4", &film, &[]);
        let key = key(&(s3.url() + "a%20film.mp4"), true);
        let get = |question: &Question<'_>| client.get(&key, &rules, question, SystemTime::now());
        let whole = get(&Question::default()).unwrap_or_else(|failure| panic!("{what}: {failure}"));
        assert_eq!(whole.kind, Kind::Whole(Some(LEN)), "{what}");
        let etag = whole.field("etag").expect("it has an ETag").to_vec();
        assert!(body(whole, LEN) == film, "{what}");
        for (part, from, to) in [(Part::Span(100, 200), 100, 200), (Part::Last(10), LEN - 10, LEN)] {
            let answer = get(&Question { part: Some(part), only: Some(&etag), ..Question::default() });
            let answer = answer.unwrap_or_else(|failure| panic!("{what} {part}: {failure}"));
            assert_eq!(answer.kind, Kind::Part { from, to, total: LEN }, "{what} {part}");
            assert!(body(answer, to - from) == film[from as usize..to as usize], "{what} {part}");
        }
        let not = Validators { if_none_match: Some(&etag), if_modified_since: None };
        let unchanged = get(&Question { not, ..Question::default() }).unwrap_or_else(|e| panic!("{what}: {e}"));
        // s3s-fs knows no conditions; it takes the signature.
        let by_condition = |kind| if s3.kind == s3::Kind::S3sFs { Kind::Whole(Some(LEN)) } else { kind };
        assert_eq!(unchanged.kind, by_condition(Kind::NotModified), "{what}");
        let other = get(&Question { only: Some(b"\"other\""), ..Question::default() });
        let other = other.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(other.kind, by_condition(Kind::Changed), "{what}");
        let head = client.head(&key, &rules, SystemTime::now()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!((head.kind, head.field("etag")), (Kind::Whole(Some(LEN)), Some(&etag[..])), "{what}");
    }
    assert!(client.told().is_empty());
}

#[test]
fn a_session_token_is_part_of_the_signature() {
    for (s3, rules) in each_way("token") {
        s3.put("film.mp4", b"film", &[]);
        let (access_key, secret_key) = s3.keys();
        let rules = with_keys(rules, access_key, secret_key, Some("a/token+of=theirs"));
        let answer =
            client().get(&key(&(s3.url() + "film.mp4"), true), &rules, &Question::default(), SystemTime::now());
        match (s3.kind, answer) {
            (s3::Kind::S3sFs, Ok(answer)) => assert_eq!(answer.kind, Kind::Whole(Some(4))),
            // It looks for the session that the token names.
            (s3::Kind::SeaweedFs, Err(Failure::Refused(refusal))) => {
                assert!(matches!(refusal.why, Why::UnknownKey | Why::Token), "{refusal}");
            }
            (kind, answer) => panic!("{kind:?}: {:?}", answer.map(|answer| answer.kind)),
        }
    }
}

#[test]
fn keys_of_every_byte_are_signed_as_both_servers_canonicalise_them() {
    let (client, words) =
        (client(), ["film \u{e9} \u{fc}", "\u{65e5}\u{672c}", "\u{1f3ac}", "a b+c%d/e//f", "%2F%41", "~"]);
    let bytes = (1..=127).map(|byte: u8| format!("x{}y", char::from(byte)));
    let names: Vec<String> = bytes.chain(words.map(str::to_owned)).collect();
    for s3 in S3::both("bytes") {
        // s3s-fs keeps objects as files: there is no empty name.
        let names = names.iter().filter(|name| s3.kind == s3::Kind::SeaweedFs || !name.contains("//"));
        for name in names {
            let escaped = escape(name.as_bytes()) + ".mp4";
            s3.put(&escaped.replace("%2F", "/"), name.as_bytes(), &[]);
            for (spelling, use_headers) in [(&escaped, true), (&escaped, false), (&lower_case(&escaped), true)] {
                let key = key(&(s3.url() + spelling), true);
                let answer = client.get(&key, &rules(&s3, use_headers), &Question::default(), SystemTime::now());
                let answer = answer.unwrap_or_else(|failure| panic!("{:?} {spelling}: {failure}", s3.kind));
                assert_eq!(String::from_utf8(body(answer, name.len() as u64)).as_ref(), Ok(name), "{spelling}");
            }
        }
    }
}

/// The same URL with its escapes in lower case.
fn lower_case(escaped: &str) -> String {
    let mut parts = escaped.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |url, part| format!("{url}%{}{}", part[..2].to_ascii_lowercase(), &part[2..]))
}

#[test]
fn a_query_is_signed_as_both_servers_canonicalise_it() {
    for (s3, rules) in each_way("query-string") {
        s3.put("film.mp4", b"film", &[]);
        for query in ["z=1&a=2", "a", "a=", "a=(b)!*'", "a=b+c%20d%2Be", "a=%C3%A9", "a=2&b=&a=3", "a=b=c", "a=~/:@"] {
            let key = key(&format!("{}film.mp4?{query}", s3.url()), false);
            let answer = client().get(&key, &rules, &Question::default(), SystemTime::now());
            let kind = answer.map(|answer| answer.kind).unwrap_or_else(|e| panic!("{:?} {query}: {e}", s3.kind));
            assert_eq!(kind, Kind::Whole(Some(4)), "{query}");
        }
    }
}

#[test]
fn wrong_and_missing_keys_are_refused_and_told_apart() {
    for (s3, rules) in each_way("refused") {
        s3.put("film.mp4", b"film", &[]);
        let access_key = s3.keys().0;
        let rows = [
            (with_keys(rules.clone(), access_key, "not/the/secret", None), Why::Signature, "S3SecretKey"),
            (with_keys(rules.clone(), "AKIDOFNOBODY", "not/the/secret", None), Why::UnknownKey, "S3AccessKey"),
            (Rules { credentials: Credentials::None, ..rules }, Why::Denied, "are not set"),
        ];
        for (rules, why, words) in rows {
            let key = key(&(s3.url() + "film.mp4"), true);
            let answer = client().get(&key, &rules, &Question::default(), SystemTime::now());
            let Err(Failure::Refused(refusal)) = answer else { panic!("{:?} does not refuse {why:?}", s3.kind) };
            assert_eq!((refusal.why, refusal.status), (why, 403), "{:?}: {refusal}", s3.kind);
            assert!(refusal.to_string().contains(words), "{refusal}");
        }
    }
}

#[test]
fn a_clock_that_is_off_is_refused_and_put_right() {
    for (s3, rules) in each_way("clock") {
        s3.put("film.mp4", b"film", &[]);
        let key = key(&(s3.url() + "film.mp4"), true);
        let off = Duration::from_secs(1200);
        for (now, words) in
            [(SystemTime::now() - off, "behind storage's"), (SystemTime::now() + off, "ahead of storage's")]
        {
            let (client, what) = (client(), format!("{:?} {words} {}", s3.kind, rules.use_headers));
            for _ in 0..2 {
                let answer = client.get(&key, &rules, &Question::default(), now);
                let answer = answer.unwrap_or_else(|failure| panic!("{what}: {failure}"));
                assert_eq!(answer.kind, Kind::Whole(Some(4)), "{what}");
            }
            // It was refused first, and only once; SeaweedFS takes presigned requests of any time to come.
            let told = client.told();
            let is_taken = s3.kind == s3::Kind::SeaweedFs && !rules.use_headers && now > SystemTime::now();
            let is_told = matches!(&told[..], [line] if line.contains(words));
            assert!(is_told != is_taken, "{what}: {told:?}");
        }
    }
}

#[test]
fn what_is_signed_differs_by_method_and_a_server_that_verifies_notices() {
    for (s3, rules) in each_way("method") {
        s3.put("film.mp4", b"film", &[]);
        let key = key(&(s3.url() + "film.mp4"), true);
        assert!(client().head(&key, &rules, SystemTime::now()).is_ok(), "{:?}", s3.kind);
        let rules = with_keys(rules, s3.keys().0, "not/the/secret", None);
        // A HEAD is refused without a body, so without a code.
        let refused = client().head(&key, &rules, SystemTime::now()).err();
        assert!(matches!(refused, Some(Failure::Status(403))), "{:?}: {refused:?}", s3.kind);
    }
}
