//! The data reference of an index: a path as a relative reference (RFC 3986, section 4.2), and back.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The reference to `media` from an index in `dir`. Both are absolute, without `.`, `..` and links.
pub fn relative(dir: &Path, media: &Path) -> String {
    let segments = |path: &Path| path.components().map(|part| encode(part.as_os_str().as_bytes())).collect::<Vec<_>>();
    between(&segments(dir), &segments(media))
}

/// The reference to a file beside the one that it stands in.
pub fn segment(name: &[u8]) -> String {
    between(&[], &[encode(name)])
}

/// The reference from a directory to a file, both by the segments of their paths from the same root, percent-encoded.
pub fn between<S: AsRef<str> + PartialEq>(dir: &[S], file: &[S]) -> String {
    let common = dir.iter().zip(file).take_while(|(a, b)| a == b).count();
    let up = dir[common..].iter().map(|_| "..");
    let path = up.chain(file[common..].iter().map(AsRef::as_ref)).collect::<Vec<_>>().join("/");
    // A first segment with a colon would be a scheme, and an empty one the root.
    let first = path.split('/').next().unwrap_or_default();
    if first.contains(':') || first.is_empty() { format!("./{path}") } else { path }
}

/// A segment of a path, with what may not stand there percent-encoded.
pub fn encode(segment: &[u8]) -> String {
    let encoded = |byte: &u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(*byte).to_string(),
        // A plain + is a space for S3.
        _ if b"-._~!$&'()*,;=:@".contains(byte) => char::from(*byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    segment.iter().map(encoded).collect()
}

/// Whether two references are spellings of one.
pub fn is_same(one: &str, other: &str) -> bool {
    one == other || decode(one.as_bytes()) == decode(other.as_bytes())
}

/// The file that `location` names from an index in `dir`; `None` if it is no relative path.
pub fn resolve(dir: &Path, location: &str) -> Option<PathBuf> {
    let first = location.split('/').next()?;
    if first.contains(':') || location.starts_with('/') || location.contains(['?', '#']) || location.is_empty() {
        return None;
    }
    let path = PathBuf::from(OsString::from_vec(decode(location.as_bytes())));
    let is_relative =
        |part: Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir | Component::CurDir);
    path.components().all(is_relative).then(|| dir.join(path))
}

/// Percent-decodes; what is no escape stays.
pub fn decode(text: &[u8]) -> Vec<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let escape = match tail {
            [high, low, ..] if *byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        decoded.push(escape.map_or(*byte, |(high, low)| high << 4 | low));
        if escape.is_some() {
            rest = &tail[2..];
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_leads_back_to_its_file() {
        let rows = [
            ("/a/b", "/a/b/film.cmfv", "film.cmfv"),
            ("/a/b", "/a/film.cmfv", "../film.cmfv"),
            ("/a/b", "/c/d/film.cmfv", "../../c/d/film.cmfv"),
            ("/", "/a/film.cmfv", "a/film.cmfv"),
            ("/a", "/a/b c/100%.mp4", "b%20c/100%25.mp4"),
            ("/a", "/a/x?y#z.mp4", "x%3Fy%23z.mp4"),
            ("/a", "/a/t:1.mp4", "./t:1.mp4"),
            ("/a", "/a/\u{e9}.mp4", "%C3%A9.mp4"),
            ("/a", "/a/(1),b=2;@.mp4", "(1),b=2;@.mp4"),
            ("/a", "/a/a+b.mp4", "a%2Bb.mp4"),
        ];
        for (dir, media, want) in rows {
            let (dir, media) = (Path::new(dir), Path::new(media));
            let location = relative(dir, media);
            assert_eq!(location, want);
            let back = resolve(dir, &location).expect(want);
            let mut plain = PathBuf::new();
            for part in back.components() {
                if part == Component::ParentDir {
                    plain.pop();
                } else {
                    plain.push(part);
                }
            }
            assert_eq!(plain, media, "{want}");
        }
    }

    #[test]
    fn what_is_no_relative_path_is_not_resolved() {
        for location in ["http://h/a.mp4", "file:///a", "/etc/passwd", "", "a.mp4?x", "%2Fetc/passwd"] {
            assert_eq!(resolve(Path::new("/a"), location), None, "{location}");
        }
        assert_eq!(resolve(Path::new("/a"), "50%.mp4"), Some("/a/50%.mp4".into()), "no escape");
    }
}
