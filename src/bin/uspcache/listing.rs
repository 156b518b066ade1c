//! What lies below a prefix of a bucket, or below a directory.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mod_usp_storage_cache::cache::key::decode;
use mod_usp_storage_cache::fetch::{self, Kind, Question};
use serde::Deserialize;

use super::failure::Failure;
use super::place::Place;
use super::storage::{Storage, why};
use super::url;

/// The longest page that is read, in bytes; Amazon's have 1000 keys of 1024 bytes at most.
const PAGE_LEN_MAX: u64 = 16 << 20;
/// Directories within directories.
const DEPTH_MAX: u32 = 64;

/// Where to look.
pub enum Tree {
    /// A directory of this machine.
    Directory(PathBuf),
    /// The objects of a bucket whose names begin so; empty, or with a slash at its end.
    Prefix {
        /// The bucket.
        bucket: String,
        /// What the names begin with.
        prefix: String,
    },
}

/// A file that is there.
#[derive(Clone)]
pub struct Listed {
    /// Its path below the tree.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    /// Its ETag as storage gave it.
    pub etag: Option<String>,
}

impl Tree {
    /// What was typed.
    pub fn parse(typed: &OsStr) -> Result<Self, Failure> {
        let text = typed.to_string_lossy();
        let Some(rest) = text.strip_prefix("s3://") else {
            return match text.contains("://") {
                true => Err(Failure::Usage(format!(
                    "{text}: only buckets and directories can be listed; write it as in s3://bucket/films/"
                ))),
                false => Ok(Self::Directory(typed.into())),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(Failure::Usage(format!("{text} names no bucket; write it as in s3://bucket/films/")));
        }
        let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        Ok(Self::Prefix { bucket: bucket.to_owned(), prefix: format!("{prefix}{slash}") })
    }

    /// The place of a path below the tree.
    pub fn place(&self, path: &str, storage: &Storage) -> Result<Place, Failure> {
        match self {
            Self::Directory(dir) => Ok(Place::File(dir.join(path))),
            Self::Prefix { bucket, prefix } => Place::object(bucket, &format!("{prefix}{path}"), storage),
        }
    }

    /// The name of the tree's own directory, or of its bucket.
    pub fn name(&self) -> Result<String, Failure> {
        match self {
            Self::Prefix { bucket, prefix } => {
                let last = prefix.trim_end_matches('/').rsplit('/').next().filter(|last| !last.is_empty());
                Ok(last.unwrap_or(bucket).to_owned())
            }
            Self::Directory(dir) => {
                let whole = fs::canonicalize(dir).map_err(|e| Failure::plain(dir.display(), e))?;
                Ok(whole.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned()))
            }
        }
    }

    /// All files below whose paths are wanted, sorted.
    pub fn list(&self, storage: &Storage, is_wanted: fn(&str) -> bool) -> Result<Vec<Listed>, Failure> {
        let mut listed = Vec::new();
        match self {
            Self::Directory(dir) => walk(dir, "", 0, &mut listed)?,
            Self::Prefix { bucket, prefix } => {
                let failed = |e| Failure::plain(format_args!("s3://{bucket}/{prefix}"), why(&e));
                let mut token: Option<String> = None;
                loop {
                    let page = page(storage, bucket, prefix, token.as_deref())?.map_err(failed)?;
                    let below = |object: &Object| object.key.strip_prefix(prefix.as_str()).map(str::to_owned);
                    let found = page.contents.into_iter().filter_map(|object| {
                        Some(Listed { path: below(&object)?, len: object.size, etag: object.etag })
                    });
                    listed.extend(found.filter(|one| is_wanted(&one.path)));
                    if !page.is_truncated {
                        break;
                    }
                    if page.next_continuation_token.is_none() || page.next_continuation_token == token {
                        return Err(failed(fetch::Failure::Answer(
                            "a listing that says neither its end nor what follows",
                        )));
                    }
                    token = page.next_continuation_token;
                }
            }
        }
        listed.retain(|one| is_wanted(&one.path));
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listed)
    }
}

/// Names that are no UTF-8 are passed over: no reference leads to them that everybody reads alike. So are links to directories,
/// which may lead around, and what goes meanwhile.
fn walk(dir: &Path, above: &str, depth: u32, listed: &mut Vec<Listed>) -> Result<(), Failure> {
    let failed = |e| Failure::plain(dir.display(), e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{above}{name}");
        if entry.file_type().map_err(failed)?.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), &format!("{path}/"), depth + 1, listed)?;
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(file) if file.is_file() => listed.push(Listed { path, len: file.size(), etag: None }),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Failure::plain(entry.path().display(), e)),
            _ => {}
        }
    }
    Ok(())
}

/// A page of a listing (Amazon S3 API reference, "ListObjectsV2").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    contents: Vec<Object>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
    #[serde(rename = "ETag")]
    etag: Option<String>,
}

impl Object {
    /// Takes the escapes of a form out of the name, and tells whether that is UTF-8.
    fn unescape(&mut self) -> bool {
        let decoded = decode(self.key.replace('+', " ").as_bytes()).ok();
        let name = decoded.and_then(|decoded| String::from_utf8(decoded).ok());
        self.key = name.unwrap_or_default();
        !self.key.is_empty()
    }
}

/// The page that `token` leads to. XML cannot hold all characters that names may have: some servers put U+FFFD in the place of
/// the others, and are asked for escapes then. Not always, since some say that they escape and do not.
fn page(
    storage: &Storage,
    bucket: &str,
    prefix: &str,
    token: Option<&str>,
) -> Result<Result<Page, fetch::Failure>, Failure> {
    let plain = ask(storage, bucket, prefix, token, "")?;
    let is_lossy = match &plain {
        Ok(page) => page.contents.iter().any(|object| object.key.contains(char::REPLACEMENT_CHARACTER)),
        Err(failure) => matches!(failure, fetch::Failure::Answer(_)),
    };
    if is_lossy { ask(storage, bucket, prefix, token, "encoding-type=url&") } else { Ok(plain) }
}

fn ask(
    storage: &Storage,
    bucket: &str,
    prefix: &str,
    token: Option<&str>,
    encoding: &str,
) -> Result<Result<Page, fetch::Failure>, Failure> {
    let escaped = |text| url::escaped(text).replace('/', "%2F");
    let token = token.map_or_else(String::new, |token| format!("continuation-token={}&", escaped(token)));
    let bucket = storage.bucket_url(bucket)?;
    let key = bucket.with_query(&format!("{token}{encoding}list-type=2&prefix={}", escaped(prefix)));
    Ok(storage.get(&key, &Question::default(), |answer| match answer.kind {
        Kind::Whole(_) => read(&answer.body.read(PAGE_LEN_MAX)?),
        _ => Err(fetch::Failure::Answer("it is no listing")),
    }))
}

fn read(page: &[u8]) -> Result<Page, fetch::Failure> {
    let text = str::from_utf8(page).ok().filter(|text| text.contains("<ListBucketResult"));
    let page = text.and_then(|text| quick_xml::de::from_str::<Page>(text).ok());
    let mut page = page.ok_or(fetch::Failure::Answer("it is no listing"))?;
    if page.encoding_type.as_deref() == Some("url") {
        page.contents.retain_mut(Object::unescape);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_amazon_writes_it() {
        let text = br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>media</Name><Prefix>films/</Prefix>
            <NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken><KeyCount>2</KeyCount>
            <MaxKeys>2</MaxKeys><IsTruncated>true</IsTruncated>
            <Contents><Key>films/a&amp;b c.cmfv</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>
            <ETag>&quot;70ee1738b6b21e2c8a43f3a5ab0eee71&quot;</ETag><Size>11</Size><StorageClass>STANDARD</StorageClass></Contents>
            <Contents><Key>films/c.ism</Key><Size>0</Size></Contents></ListBucketResult>"#;
        let page = read(text).expect("a page");
        assert_eq!(page.next_continuation_token.as_deref(), Some("1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM="));
        assert!(page.is_truncated);
        let object = &page.contents[0];
        let etag = object.etag.as_deref();
        assert_eq!((object.key.as_str(), object.size), ("films/a&b c.cmfv", 11));
        assert_eq!(etag, Some("\"70ee1738b6b21e2c8a43f3a5ab0eee71\""));
        assert_eq!((page.contents[1].key.as_str(), page.contents[1].etag.as_deref()), ("films/c.ism", None));
        assert!(read(b"<html><body>no</body>").is_err());
    }

    #[test]
    fn names_come_escaped_or_as_they_are() {
        let rows = [
            ("<EncodingType>url</EncodingType>", "a%01+b%2B%C3%A9/100%25.mp4", Some("a\u{1} b+\u{e9}/100%.mp4")),
            ("", "a%01+b.mp4", Some("a%01+b.mp4")),
            ("", "a&#1;b&#13;\u{1}.mp4", Some("a\u{1}b\r\u{1}.mp4")),
            ("<EncodingType>url</EncodingType>", "%FF.mp4", None),
            ("<EncodingType>url</EncodingType>", "100%.mp4", None),
        ];
        for (encoding, key, want) in rows {
            let text = format!(
                "<ListBucketResult>{encoding}<Contents><Key>{key}</Key><Size>1</Size></Contents></ListBucketResult>"
            );
            let page = read(text.as_bytes()).expect("a page");
            assert_eq!(page.contents.first().map(|object| object.key.as_str()), want, "{key}");
        }
    }

    #[test]
    fn a_tree_is_a_directory_or_whole_segments_of_a_bucket() {
        let rows = [("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3://b/f", "b", "f/"), ("s3://b/f/g/", "b", "f/g/")];
        for (typed, want_bucket, want_prefix) in rows {
            let tree = Tree::parse(typed.as_ref()).expect(typed);
            assert!(matches!(tree, Tree::Prefix { bucket, prefix } if bucket == want_bucket && prefix == want_prefix));
        }
        assert!(matches!(Tree::parse("films".as_ref()), Ok(Tree::Directory(_))));
        assert!(Tree::parse("s3://".as_ref()).is_err() && Tree::parse("http://h/films/".as_ref()).is_err());
    }
}
