//! What is fetched ahead: the objects that a server manifest names.
//!
//! [`named`] makes a key of each source of a manifest, the same that a request for it through mod_proxy has. A manifest
//! is not trusted: what it names counts only below its own directory (docs/semantics.md, "Manifests").
//!
//! # Invariants
//!
//! - Each key is of the manifest's own scheme, host, port and scope, and lies below its directory, as it stands and
//!   with its escapes resolved.
//! - No key is a manifest's: what is fetched ahead leads to no further fetch.

#![forbid(unsafe_code)]

use super::key::{Key, Upstream, decode};
use crate::config::Match;
use crate::manifest::sources;

/// The keys of the objects that `manifest`, which `manifest_key` stands for, names and `matching` takes; none of them
/// twice. None at all of a manifest that cannot be read.
pub fn named(manifest_key: &Key, manifest: &[u8], matching: &Match) -> Vec<Key> {
    let mut keys = Vec::new();
    for source in sources(manifest).unwrap_or_default() {
        if let Some(key) = resolve(manifest_key, &source, matching)
            && !keys.contains(&key)
        {
            keys.push(key);
        }
    }
    keys
}

/// Whether a key is that of a server manifest.
pub fn is_manifest(key: &Key) -> bool {
    // In a canonical URL neither a dot nor a letter is escaped.
    let name = key.path().rsplit_once('.');
    name.is_some_and(|(_, extension)| ["ism", "isml"].iter().any(|ism| extension.eq_ignore_ascii_case(ism)))
}

/// The key of the object that the reference `source` stands for.
fn resolve(manifest_key: &Key, source: &str, matching: &Match) -> Option<Key> {
    let filename = ["proxy:", manifest_key.directory()?, below(source)?].concat();
    let upstream = Upstream::parse(filename.as_bytes()).ok()?;
    let path = upstream.decoded_path().ok()?;
    let key = upstream.key(manifest_key.scope(), true).ok()?;
    (matching.is_match(&path) && !is_manifest(&key)).then_some(key)
}

/// The reference without the `./` that it may begin with, if it is relative to a directory (RFC 3986, section 4.2: what
/// has a colon in its first segment is not) and means the same to whoever reads it. Dot segments have no key.
fn below(source: &str) -> Option<&str> {
    let below = source.strip_prefix("./").unwrap_or(source);
    if source.split('/').next()?.contains(':') || below.contains(['?', '#']) {
        return None;
    }
    let decoded = decode(below.as_bytes()).ok()?;
    let is_odd = |byte: &u8| *byte == b'\\' || byte.is_ascii_control();
    // An empty segment is also the start of `/path` and of `//host/path`.
    let is_plain =
        !decoded.iter().any(is_odd) && decoded.split(|byte| *byte == b'/').all(|segment| !segment.is_empty());
    is_plain.then_some(below)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quick_xml::escape::escape;

    use super::*;
    use crate::config::DEFAULT_MATCH;
    use crate::manifest::SOURCES_MAX;

    const DIRECTORY: &str = "http://storage:81/a%20b/";

    fn key(url: &str) -> Key {
        let filename = format!("proxy:{url}");
        Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key("AKID", false)).expect(url)
    }

    fn manifest(sources: &[&str]) -> String {
        let tracks: String = sources.iter().map(|source| format!("<video src=\"{}\"/>", escape(*source))).collect();
        format!("<smil><body><switch>{tracks}</switch></body></smil>")
    }

    fn matching(pattern: &str) -> Match {
        Match::new(pattern).expect(pattern)
    }

    /// What is fetched ahead for a manifest at `url` that names `sources`.
    fn ahead(url: &str, sources: &[&str]) -> Vec<Key> {
        named(&key(url), manifest(sources).as_bytes(), &matching(DEFAULT_MATCH))
    }

    #[test]
    fn the_indexes_of_a_manifest_have_the_keys_of_requests_for_them() {
        let film = include_bytes!("../../tests/media/film.ism");
        let names = ["film-aac-128k-index.mp4", "film-avc1-400k-index.mp4", "film-avc1-1000k-index.mp4"];
        let rows = [
            ("http://bucket.s3.example/film.ism", "http://bucket.s3.example/"),
            ("https://Bucket.s3.example:443/a/film.ism", "https://bucket.s3.example/a/"),
            ("http://storage:81/a//%7eb%2fc/film.ism?versionId=7", "http://storage:81/a//~b%2Fc/"),
            ("http://[::1]:8080/film.ism?x=/y/", "http://[::1]:8080/"),
        ];
        for (url, directory) in rows {
            let want: Vec<_> = names.iter().map(|name| key(&format!("{directory}{name}"))).collect();
            assert_eq!(named(&key(url), film, &matching(DEFAULT_MATCH)), want, "{url}");
        }
        assert!(ahead("http://storage", &["a.mp4"]).is_empty(), "there is no directory");
    }

    #[test]
    fn a_source_below_the_manifest_s_directory_is_fetched_ahead() {
        let rows = [
            ("x.mp4", "x.mp4"),
            ("X.MP4", "X.MP4"),
            ("./x.mp4", "x.mp4"),
            ("sub/x.mp4", "sub/x.mp4"),
            ("./sub/x.mp4", "sub/x.mp4"),
            ("x y.mp4", "x%20y.mp4"),
            ("x%20y.mp4", "x%20y.mp4"),
            ("x%2dy.mp4", "x-y.mp4"),
            ("x+y.mp4", "x+y.mp4"),
            ("x&y=\"z\".mp4", "x&y=%22z%22.mp4"),
            ("\u{e9}.mp4", "%C3%A9.mp4"),
            ("%c3%a9.mp4", "%C3%A9.mp4"),
            ("x%3Fy%23z.mp4", "x%3Fy%23z.mp4"),
            ("x%2Fy.mp4", "x%2Fy.mp4"),
            ("%252e%252e/x.mp4", "%252e%252e/x.mp4"),
            ("user@host/x.mp4", "user@host/x.mp4"),
            ("..x.mp4", "..x.mp4"),
            (".../x.mp4", ".../x.mp4"),
            ("./a:b.mp4", "a:b.mp4"),
            ("sub/a:b.mp4", "sub/a:b.mp4"),
            ("film.ism/x.mp4", "film.ism/x.mp4"),
        ];
        for (source, want) in rows {
            let want = [key(&[DIRECTORY, want].concat())];
            assert_eq!(ahead("http://storage:81/a b/film.ism", &[source]), want, "{source}");
        }
    }

    #[test]
    fn a_source_that_leads_elsewhere_is_not_fetched_ahead_whatever_the_pattern_takes() {
        let rows = [
            ("the same, absolute", "http://storage:81/a%20b/x.mp4"),
            ("another host", "http://evil/x.mp4"),
            ("user and password", "http://user:password@storage:81/a%20b/x.mp4"),
            ("another scheme", "file:///etc/x.mp4"),
            ("a scheme alone", "http:x.mp4"),
            ("a port", "storage:81/x.mp4"),
            ("a drive", "C:\\x.mp4"),
            ("the path of an absolute URL", "/a%20b/x.mp4"),
            ("a host without a scheme", "//evil/x.mp4"),
            ("a host with a user", "//user@evil/x.mp4"),
            ("a host behind a dot", ".//evil/x.mp4"),
            ("an absolute URL behind a dot", "./http://evil/x.mp4"),
            ("the directory above", "../x.mp4"),
            ("the directory above, encoded", "%2e%2e/x.mp4"),
            ("the directory above, half encoded", ".%2E/x.mp4"),
            ("the directory above, its slash encoded", "..%2fx.mp4"),
            ("the directory above, all encoded", "%2e%2e%2fx.mp4"),
            ("the directory above, further on", "sub/../x.mp4"),
            ("the directory above, far above", "sub/../../../x.mp4"),
            ("the directory above, behind a dot", "./../x.mp4"),
            ("the directory above, at the end", "x.mp4/.."),
            ("a second dot", "././x.mp4"),
            ("a dot further on", "sub/./x.mp4"),
            ("an encoded dot", "%2e/x.mp4"),
            ("a backslash", "..\\x.mp4"),
            ("an encoded backslash", "..%5cx.mp4"),
            ("a leading backslash", "\\\\evil\\x.mp4"),
            ("an empty segment", "sub//x.mp4"),
            ("an encoded empty segment", "sub/%2fx.mp4"),
            ("an encoded leading slash", "%2fx.mp4"),
            ("a directory", "x.mp4/"),
            ("an encoded NUL", "x%00.mp4"),
            ("an encoded line break", "x%0d%0aHost:%20evil.mp4"),
            ("an encoded control character", "x%7f.mp4"),
            ("a control character", "x\u{7f}.mp4"),
            ("half an escape", "x%2.mp4"),
            ("no escape", "100%.mp4"),
            ("a query", "x.mp4?versionId=1"),
            ("a query that seems to match", "x.cmfv?.mp4"),
            ("a fragment", "x.mp4#t=1"),
            ("a fragment that seems to match", "x.cmfv#.mp4"),
            ("nothing behind a dot", "./"),
            ("a dot", "."),
            ("two dots", ".."),
        ];
        for (row, source) in rows {
            let keys = named(&key("http://storage:81/a b/film.ism"), manifest(&[source]).as_bytes(), &matching(""));
            assert_eq!(keys, [], "{row}: {source}");
        }
    }

    #[test]
    fn only_what_the_pattern_takes_is_fetched_ahead_and_no_manifest_whatever_it_takes() {
        let sources = ["x-index.mp4", "x.mp4", "x.cmfv", "m.ism", "sub/X.ISM", "x%2e%69sm", "x.isml"];
        let rows: [(&str, &[&str]); 4] = [
            (DEFAULT_MATCH, &["x-index.mp4", "x.mp4"]),
            (r"-index\.mp4$", &["x-index.mp4"]),
            (r"^/a b/x\.c", &["x.cmfv"]),
            ("", &["x-index.mp4", "x.mp4", "x.cmfv"]),
        ];
        for (pattern, want) in rows {
            let keys = named(&key("http://h/a b/m.ism"), manifest(&sources).as_bytes(), &matching(pattern));
            let want: Vec<_> = want.iter().map(|name| key(&format!("http://h/a b/{name}"))).collect();
            assert_eq!(keys, want, "{pattern}");
        }
    }

    #[test]
    fn several_spellings_of_one_object_are_fetched_once() {
        let sources = ["x y.mp4", "x%20y.mp4", "./x y.mp4", "%78%20y.mp4", "z.mp4"];
        assert_eq!(ahead("http://h/m.ism", &sources), [key("http://h/x%20y.mp4"), key("http://h/z.mp4")]);
    }

    #[test]
    fn of_a_manifest_that_cannot_be_read_nothing_is_fetched_ahead() {
        let broken = manifest(&["x.mp4"]).replace("</body>", "");
        assert_eq!(named(&key("http://h/m.ism"), broken.as_bytes(), &matching(DEFAULT_MATCH)), []);
    }

    #[test]
    fn no_more_than_the_most_sources_are_fetched_ahead() {
        let names: Vec<_> = (0..=SOURCES_MAX).map(|name| format!("{name}.mp4")).collect();
        let sources: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(ahead("http://h/m.ism", &sources).len(), SOURCES_MAX);
    }

    /// Bytes that a reference is broken with more often than by chance.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let parts =
            ["..", ".", "/", "//", "\\", "%2e", "%2F", "%5c", "%00", "%25", "%", ":", "?", "#", "@", "x", "\u{e9}"];
        let part = prop_oneof![
            8 => prop::sample::select(parts.map(str::as_bytes).map(<[u8]>::to_vec).to_vec()),
            1 => any::<Vec<u8>>(),
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| [parts.concat(), b".mp4".to_vec()].concat())
    }

    /// The path of a URL as storage reads it, a second time and more simply.
    fn segments(url: &str) -> Vec<String> {
        let mut pieces = url.split('%');
        let mut path: Vec<u8> = pieces.next().unwrap_or_default().into();
        for piece in pieces {
            path.push(u8::from_str_radix(&piece[..2], 16).expect("two hex digits"));
            path.extend_from_slice(&piece.as_bytes()[2..]);
        }
        String::from_utf8_lossy(&path).split(['/', '\\']).map(str::to_owned).collect()
    }

    proptest! {
        #[test]
        fn whatever_a_source_is_its_key_lies_below_the_manifest_s_directory(source in hostile(), plain: bool) {
            let text = String::from_utf8_lossy(&source);
            let manifest = match plain {
                true => manifest(&[&text]).into_bytes(),
                false => [b"<smil><audio src=\"", source.as_slice(), b"\"/></smil>"].concat(),
            };
            for key in named(&key("http://storage:81/a b/film.ism"), &manifest, &matching("")) {
                let below = key.url().strip_prefix(DIRECTORY);
                prop_assert!(below.is_some(), "{}", key.url());
                let segments = segments(below.unwrap_or_default());
                prop_assert!(segments.iter().all(|s| !matches!(s.as_str(), "" | "." | "..")), "{}", key.url());
                prop_assert!(key.url().bytes().all(|b| b.is_ascii_graphic() && b != b'#'), "{}", key.url());
                prop_assert!(!key.url().contains('?') && !is_manifest(&key), "{}", key.url());
                prop_assert_eq!(key.scope(), "AKID");
            }
        }

        #[test]
        fn a_name_of_plain_characters_always_has_a_key(name in "[A-Za-z0-9 _~+,;=&'()-]{1,40}") {
            let source = format!("{name}.mp4");
            let want = key(&format!("http://h/{source}"));
            prop_assert_eq!(ahead("http://h/m.ism", &[&source]), [want]);
        }
    }
}
