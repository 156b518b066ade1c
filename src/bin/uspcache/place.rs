//! Where a file is that a subcommand reads or makes: on this machine, or in storage.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mod_usp_storage_cache::cache::key::{Key, decode};
use mod_usp_storage_cache::fetch::{self, refusal::Why};
use mod_usp_storage_cache::mp4::location;
use mod_usp_storage_cache::mp4::media::{LocalFile, Media};

use super::failure::Failure;
use super::remote::Remote;
use super::storage::{Storage, why};
use super::url;

/// A file, which may not be there.
#[derive(Clone)]
pub enum Place {
    /// Of this machine.
    File(PathBuf),
    /// Of storage.
    Object(Object),
}

/// An object in storage.
#[derive(Clone)]
pub struct Object {
    key: Box<Key>,
    /// The bucket, where it was named as `s3://bucket/name`.
    bucket: Option<String>,
    /// How much of the URL is the same for all that a relative reference may lead to: the host, and the bucket in the path.
    root_len: usize,
}

impl Place {
    /// What was typed: `s3://bucket/name`, an http or https URL, or else a path.
    pub fn parse(typed: &OsStr, storage: &Storage) -> Result<Self, Failure> {
        let text = typed.to_str().unwrap_or_default();
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("s3") => {
                let refused =
                    || Failure::Usage(format!("{text} names no object; write it as in s3://bucket/film.cmfv"));
                let (bucket, name) = text[5..].split_once('/').ok_or_else(refused)?;
                let is_file = !bucket.is_empty() && !name.is_empty() && !name.ends_with('/');
                if is_file { Self::object(bucket, name, storage) } else { Err(refused()) }
            }
            Some("http" | "https") => {
                let key = url::object(typed)?;
                if url::is_signed(typed) {
                    let what =
                        "is signed; leave the signature out, and give the keys in the environment (AWS_ACCESS_KEY_ID)";
                    return Err(Failure::Usage(format!("{text} {what}")));
                }
                let root_len = key.url().len() - key.path_and_query().len() + 1;
                Ok(Self::Object(Object { key: key.into(), bucket: None, root_len }))
            }
            _ => Ok(Self::File(typed.into())),
        }
    }

    /// The object with that name in `bucket`.
    pub fn object(bucket: &str, name: &str, storage: &Storage) -> Result<Self, Failure> {
        let root = storage.bucket_url(bucket)?;
        let key = url::object(format!("{}{}", root.url(), url::escaped(name)).as_ref())?;
        Ok(Self::Object(Object { key: key.into(), bucket: Some(bucket.to_owned()), root_len: root.url().len() }))
    }

    /// Whether nothing is there, for all that can be told: who may not list a bucket is denied what is not in it.
    pub fn is_absent(e: &io::Error) -> bool {
        matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
    }

    /// Whether its name ends so, in upper or lower case.
    pub fn has_suffix(&self, suffix: &str) -> bool {
        let name = self.file_name();
        name.len() > suffix.len() && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
    }

    /// The reference to a file beside it that has another extension.
    pub fn reference_to_sibling(&self, extension: &str) -> Option<String> {
        let name = self.file_name();
        let stem_len = name.iter().rposition(|byte| *byte == b'.').filter(|len| *len > 0)?;
        Some(location::segment(&[&name[..=stem_len], extension.as_bytes()].concat()))
    }

    /// The last segment, without what stands for it in a URL.
    fn file_name(&self) -> Vec<u8> {
        match self {
            Self::File(path) => path.file_name().unwrap_or_default().as_bytes().to_vec(),
            Self::Object(object) => {
                let last = object.key.path().rsplit('/').next().unwrap_or_default();
                decode(last.as_bytes()).unwrap_or_default()
            }
        }
    }

    /// Opens it to be read by ranges.
    pub fn open<'s>(&self, storage: &'s Storage) -> io::Result<Box<dyn Media + 's>> {
        match self {
            Self::File(path) => Ok(Box::new(LocalFile::open(path)?)),
            Self::Object(object) => match Remote::open(storage, &object.key) {
                Ok(remote) => Ok(Box::new(remote)),
                Err(failure) => Err(error(&failure)),
            },
        }
    }

    /// All of it; more than `len_max` bytes are an error.
    pub fn read(&self, storage: &Storage, len_max: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::File(path) => {
                let mut bytes = Vec::new();
                File::open(path)?.take(len_max + 1).read_to_end(&mut bytes)?;
                if bytes.len() as u64 > len_max { Err(io::Error::other("it is too long")) } else { Ok(bytes) }
            }
            Self::Object(object) => storage.whole(&object.key, len_max).map_err(|failure| error(&failure)),
        }
    }

    /// Puts `bytes` there, whole or not at all.
    pub fn replace(&self, storage: &Storage, bytes: &[u8], media_type: &str) -> Result<(), Failure> {
        match self {
            Self::File(path) => replace(path, bytes).map_err(|e| Failure::plain(self, e)),
            Self::Object(object) => {
                storage.put(&object.key, bytes, media_type).map_err(|failure| Failure::plain(self, why(&failure)))
            }
        }
    }

    /// The same where nothing was a moment ago; false where a storage says that something is there by now.
    pub fn create(&self, storage: &Storage, bytes: &[u8], media_type: &str) -> Result<bool, Failure> {
        let Self::Object(object) = self else { return self.replace(storage, bytes, media_type).map(|()| true) };
        match storage.put_first(&object.key, bytes, media_type) {
            Ok(()) => Ok(true),
            Err(fetch::Failure::Changed) => Ok(false),
            Err(failure) => Err(Failure::plain(self, why(&failure))),
        }
    }

    /// Refuses what is there and no file, and what is one of `inputs`.
    pub fn check_output<'p>(&self, inputs: impl IntoIterator<Item = &'p Self>) -> Result<(), Failure> {
        if let Self::File(path) = self {
            directory(path)?;
            if fs::metadata(path).is_ok_and(|output| !output.is_file()) {
                return Err(Failure::Usage(format!("{self} is there and no file")));
            }
        }
        match inputs.into_iter().find(|input| self.is(input)) {
            Some(input) => Err(Failure::Usage(format!("{input} is the output and an input"))),
            None => Ok(()),
        }
    }

    /// Whether both names lead to one file.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => {
                let identity = |path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
                identity(one).is_some_and(|one| identity(other) == Some(one))
            }
            (Self::Object(one), Self::Object(other)) => one.key == other.key,
            _ => false,
        }
    }

    /// The reference to `media` that is to stand in a file at this place: from the one's directory to the other. To what is on
    /// a web server, and this file is not, it is the URL. Where one is of this machine and the other in a bucket, it is that
    /// from the directory of `beside`, the first of the media: it is there that the file belongs.
    pub fn reference(&self, media: &Self, beside: &Self) -> Result<String, Failure> {
        match (self, media, beside) {
            (Self::File(file), Self::File(media), _) | (Self::Object(_), Self::File(media), Self::File(file)) => {
                Ok(location::relative(&directory(file)?, &own_place(media)?))
            }
            (Self::Object(file), Self::Object(media), _) if file.root() == media.root() => Ok(file.reference(media)),
            (_, Self::Object(media @ Object { bucket: None, .. }), _) => Ok(media.key.url().to_owned()),
            (Self::File(_), Self::Object(media), Self::Object(file)) if file.root() == media.root() => {
                Ok(file.reference(media))
            }
            _ => {
                let from = if matches!(self, Self::File(_)) { beside } else { self };
                Err(Failure::Usage(format!(
                    "no reference leads from {from} to {media}: they are to lie in the same bucket"
                )))
            }
        }
    }

    /// What `reference` names that stands in a file at this place.
    pub fn resolve(&self, reference: &str, storage: &Storage) -> io::Result<Self> {
        let is_url = reference.split_once("://").is_some_and(|(scheme, _)| matches!(scheme, "http" | "https"));
        let resolved = match self {
            _ if is_url => Self::parse(reference.as_ref(), storage).ok(),
            Self::File(path) => {
                let dir = directory(path).ok();
                dir.and_then(|dir| location::resolve(&dir, reference)).map(Self::File)
            }
            Self::Object(object) => object.resolve(reference).map(Self::Object),
        };
        resolved.ok_or_else(|| io::Error::other("is no path below the same root"))
    }
}

impl Object {
    fn root(&self) -> &str {
        &self.key.url()[..self.root_len]
    }

    /// The segments of the path below the root, escaped as they are in the URL; and the query with its question mark.
    fn segments(&self) -> (Vec<&str>, &str) {
        let (path, query) = split_query(&self.key.url()[self.root_len..]);
        (path.split('/').collect(), query)
    }

    /// The reference from this object's directory to `media`, which has the same root.
    fn reference(&self, media: &Self) -> String {
        let ((mut dir, _), (file, query)) = (self.segments(), media.segments());
        dir.pop();
        // URLs may leave plain what a reference may not.
        let spelt = |segment: &&str| location::encode(&location::decode(segment.as_bytes()));
        let (dir, file): (Vec<_>, Vec<_>) = (dir.iter().map(spelt).collect(), file.iter().map(spelt).collect());
        location::between(&dir, &file) + query
    }

    /// What a relative reference leads to (RFC 3986, section 5.2).
    fn resolve(&self, reference: &str) -> Option<Self> {
        let (path, query) = split_query(reference);
        let is_relative = !path.is_empty() && !path.starts_with('/') && !path.split('/').next()?.contains(':');
        let (mut segments, _) = self.segments();
        segments.pop();
        for segment in path.split('/') {
            match segment {
                "." => {}
                ".." => drop(segments.pop()?),
                segment => segments.push(segment),
            }
        }
        let url = format!("{}{}{query}", self.root(), segments.join("/"));
        let key = url::object(url.as_ref()).ok().filter(|_| is_relative)?;
        Some(Self { key: key.into(), ..self.clone() })
    }
}

/// What storage says, as of a file.
fn error(failure: &fetch::Failure) -> io::Error {
    let kind = match failure {
        fetch::Failure::Status(404) => io::ErrorKind::NotFound,
        fetch::Failure::Status(401 | 403) => io::ErrorKind::PermissionDenied,
        fetch::Failure::Refused(refusal) if refusal.why == Why::Denied => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, why(failure))
}

fn split_query(text: &str) -> (&str, &str) {
    text.split_at(text.find('?').unwrap_or(text.len()))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Object(object) => match &object.bucket {
                Some(bucket) => write!(f, "s3://{bucket}/{}", url::unescaped(&object.key.url()[object.root_len..])),
                None => f.write_str(object.key.url()),
            },
        }
    }
}

/// The directory of a file, absolute and without links.
fn directory(file: &Path) -> Result<PathBuf, Failure> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::canonicalize(parent).map_err(|e| Failure::plain(parent.display(), e))
}

/// A file's own name, which may be a link, in its directory.
fn own_place(file: &Path) -> Result<PathBuf, Failure> {
    let name = file.file_name().ok_or_else(|| Failure::Usage(format!("{} names no file", file.display())))?;
    Ok(directory(file)?.join(name))
}

/// Puts `bytes` in the place of `path`, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = Path::new(&name);
    let mut file = File::options().write(true).create_new(true).open(part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(part, path));
    if written.is_err() {
        // What cannot be removed either is named by the error that is told.
        let _ = fs::remove_file(part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(url: &str) -> Object {
        let key = url::object(url.as_ref()).expect(url);
        let root_len = key.url().len() - key.path_and_query().len() + "/bucket/".len();
        Object { key: key.into(), bucket: Some("bucket".to_owned()), root_len }
    }

    #[test]
    fn a_reference_leads_to_an_object_of_the_same_bucket_and_nowhere_else() {
        let rows = [
            ("a.cmfv", Some("http://h/bucket/d/e/a.cmfv")),
            ("./a%20b.cmfv", Some("http://h/bucket/d/e/a%20b.cmfv")),
            ("../a.cmfv?versionId=1", Some("http://h/bucket/d/a.cmfv?versionId=1")),
            ("../../a.cmfv", Some("http://h/bucket/a.cmfv")),
            ("../../../other/a.cmfv", None),
            ("%2e%2e/%2e%2e/%2e%2e/other/a.cmfv", None),
            ("/other/a.cmfv", None),
            ("//h2/a.cmfv", None),
            ("file:a.cmfv", None),
            ("", None),
            ("a.cmfv?acl", None),
        ];
        let index = object("http://h/bucket/d/e/film-index.mp4");
        for (reference, want) in rows {
            let found = index.resolve(reference);
            assert_eq!(found.as_ref().map(|object| object.key.url()), want, "{reference}");
        }
    }

    #[test]
    fn a_reference_from_an_object_leads_back() {
        for media in ["http://h/bucket/d/e/a+b (1).cmfv", "http://h/bucket/d/x.cmfv", "http://h/bucket/f/g:h.cmfv"] {
            let (index, media) = (object("http://h/bucket/d/e/i.mp4"), object(media));
            let reference = index.reference(&media);
            let back = index.resolve(&reference).expect("it leads somewhere");
            assert_eq!(decode(back.key.url().as_bytes()), decode(media.key.url().as_bytes()), "{reference}");
        }
    }
}
