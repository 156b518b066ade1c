//! `uspcache prepare`: an index for each fragmented file below a place, and a manifest for each directory of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Sender, channel};

use indicatif::ProgressBar;
use mod_usp_storage_cache::manifest::MANIFEST_LEN_MAX;
use mod_usp_storage_cache::manifest::media::{Described, arrange};
use mod_usp_storage_cache::manifest::read::read as read_manifest;
use mod_usp_storage_cache::manifest::write::Manifest;
use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::media::Media;
use mod_usp_storage_cache::mp4::moov::Moov;
use mod_usp_storage_cache::mp4::read::read_moov;
use mod_usp_storage_cache::mp4::source::Source;
use mod_usp_storage_cache::mp4::verify::{Told, told, verify};
use mod_usp_storage_cache::mp4::{self, INDEX_LEN_MAX, index};
use serde::Serialize;

use super::failure::{Code, Failure, remark};
use super::index::of_mp4;
use super::listing::{Listed, Tree};
use super::output::{Out, printable};
use super::place::Place;
use super::storage::{self, Storage};
use super::{index as indexing, jobs, manifest, progress};

/// Make an index of each fragmented MP4 below a place, and a manifest in each directory that has some
#[derive(clap::Args)]
pub struct Args {
    /// Where the media lie: s3://bucket/prefix/, or a directory
    #[arg(value_name = "DIR")]
    tree: OsString,
    /// Say what would be made, and make nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Replace manifests that somebody else made or changed and that lack a file
    #[arg(long)]
    force: bool,
    /// Work in so many directories at a time
    #[arg(short, long, value_name = "N", default_value = "4")]
    jobs: NonZeroUsize,
    #[command(flatten)]
    storage: storage::Options,
}

/// What media are called.
const SUFFIXES: [&str; 9] = [".mp4", ".m4v", ".m4a", ".cmfv", ".cmfa", ".cmft", ".ismv", ".isma", ".ismt"];
/// What ends the name of an index.
const INDEX: &str = "-index.mp4";

/// What was done about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Done {
    /// It was made, or made anew.
    Made,
    /// It would have been.
    WouldMake,
    /// It is there and fits.
    Kept,
    /// It is no fragmented MP4.
    Skipped,
    /// It is somebody else's, and lacks something.
    Refused,
    /// It could not be done.
    Failed,
}

/// A file, and what was done about it.
#[derive(Serialize)]
struct Report {
    file: String,
    done: Done,
    why: Option<String>,
}

/// The files of one directory.
struct Directory<'a> {
    /// Its path below the tree, with a slash at its end, or empty.
    path: &'a str,
    files: Vec<&'a Listed>,
}

pub fn run(args: &Args, out: &mut Out) -> Result<Code, Failure> {
    let storage = args.storage.open()?;
    let tree = Tree::parse(&args.tree)?;
    let listed = tree.list(&storage)?;
    let directories = directories(&listed);
    let bar = progress::objects(out);
    bar.set_length(directories.iter().map(|directory| directory.media().count() as u64).sum());
    let preparer = Preparer { args, storage, tree, bar };
    let mut code = Code::Done;
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        let preparer = &preparer;
        scope.spawn(move || jobs::all(args.jobs, &directories, |directory| preparer.prepare(directory, &tell)));
        for report in told {
            preparer.bar.suspend(|| report.tell(out))?;
            match report.done {
                Done::Failed => code = Code::Failed,
                Done::Refused if code == Code::Done => code = Code::Wrong,
                _ => {}
            }
        }
        Ok(())
    })?;
    preparer.bar.finish_and_clear();
    Ok(code)
}

/// The directories that have media, in the order of their paths.
fn directories(listed: &[Listed]) -> Vec<Directory<'_>> {
    let mut by_path: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for file in listed {
        let path_len = file.path.rfind('/').map_or(0, |slash| slash + 1);
        by_path.entry(&file.path[..path_len]).or_default().push(file);
    }
    let directories = by_path.into_iter().map(|(path, files)| Directory { path, files });
    directories.filter(|directory| directory.media().next().is_some()).collect()
}

impl<'a> Directory<'a> {
    fn media(&self) -> impl Iterator<Item = &'a Listed> {
        let ends = |file: &Listed, suffix: &str| {
            let at = file.path.len().checked_sub(suffix.len());
            at.is_some_and(|at| file.path.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes()))
        };
        let is_media = move |file: &&Listed| SUFFIXES.iter().any(|suffix| ends(file, suffix)) && !ends(file, INDEX);
        self.files.iter().copied().filter(is_media)
    }

    fn manifests(&self) -> impl Iterator<Item = &'a Listed> {
        self.files.iter().copied().filter(|file| file.path.to_ascii_lowercase().ends_with(".ism"))
    }

    /// The path of the manifest of this directory; that of the tree itself is called after the tree.
    fn manifest(&self, tree: &str) -> String {
        let own = self.path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty());
        format!("{}{}.ism", self.path, own.unwrap_or(tree))
    }

    fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// The path of the index of a file here: its own without the suffix, but where that would be another's too.
    fn index_of(&self, media: &Listed) -> String {
        let (stem, suffix) = media.path.rsplit_once('.').unwrap_or((&media.path, ""));
        let is_like = |other: &&Listed| other.path.rsplit_once('.').is_some_and(|(other, _)| other == stem);
        match self.media().filter(is_like).count() {
            0 | 1 => format!("{stem}{INDEX}"),
            _ => format!("{stem}-{suffix}{INDEX}"),
        }
    }
}

struct Preparer<'a> {
    args: &'a Args,
    storage: Storage,
    tree: Tree,
    bar: ProgressBar,
}

/// What came of a file: what to say of it, and its bytes if it is there.
type Came = (Done, Option<String>, Option<Vec<u8>>);

impl Preparer<'_> {
    fn prepare(&self, directory: &Directory<'_>, tell: &Sender<Report>) {
        let mut indexes = Vec::new();
        let (mut would_make, mut is_whole) = (false, true);
        for media in directory.media() {
            let path = directory.index_of(media);
            let (done, why, bytes) = self.index(directory, media, &path).unwrap_or_else(failed);
            would_make |= done == Done::WouldMake;
            is_whole &= !matches!(done, Done::Failed | Done::Refused);
            let file = if done == Done::Skipped { &media.path } else { &path };
            // Where nobody listens any more there is nothing to be done for.
            let Ok(()) = tell.send(self.report(file, done, why)) else { return };
            indexes.extend(bytes.map(|bytes| (path, bytes)));
            self.bar.inc(1);
        }
        let path = match self.tree.name() {
            _ if indexes.is_empty() && !would_make => return,
            Ok(name) => directory.manifest(&name),
            Err(failure) => {
                return drop(tell.send(self.report(directory.path, Done::Failed, Some(failure.into_text()))));
            }
        };
        let came = match () {
            () if !is_whole => Ok((path, (Done::Failed, Some("not all of its media have an index".into()), None))),
            () if would_make && directory.has(&path) => return,
            () if would_make => Ok((path, (Done::WouldMake, None, None))),
            () => self.manifest(directory, path.clone(), &indexes).map_err(|failure| (path, failure)),
        };
        let (path, (done, why, _)) = came.unwrap_or_else(|(path, failure)| (path, failed(failure)));
        // As above.
        let _ = tell.send(self.report(&path, done, why));
    }

    fn report(&self, path: &str, done: Done, why: Option<String>) -> Report {
        let place = self.tree.place(path, &self.storage);
        Report { file: place.map_or_else(|_| path.to_owned(), |place| place.to_string()), done, why }
    }

    /// Sees to the index of `media`, which is to lie at `path`.
    fn index(&self, directory: &Directory<'_>, media: &Listed, path: &str) -> Result<Came, Failure> {
        let storage = &self.storage;
        let (place, output) = (self.tree.place(&media.path, storage)?, self.tree.place(path, storage)?);
        let location = output.reference(&place, &place)?;
        if directory.has(path)
            && let Some(came) = self.had(&output, media, &place, &location)?
        {
            return Ok(came);
        }
        let opened = place.open(storage).map_err(|e| Failure::plain(&place, e))?;
        match is_fragmented(&*opened) {
            Ok(true) => {}
            Ok(false) => return Ok((Done::Skipped, Some("is not fragmented".into()), None)),
            Err(e @ mp4::Error::NotFound(_)) => return Ok((Done::Skipped, Some(e.to_string()), None)),
            Err(e) => return Err(of_mp4(&place, &e)),
        }
        if self.args.dry_run {
            return Ok((Done::WouldMake, None, None));
        }
        let source = Source::read(&*opened, None).map_err(|e| of_mp4(&place, &e))?;
        let bytes = index::write(&[(&source, &location)]).map_err(|e| of_mp4(&output, &e))?;
        output.replace(storage, &bytes, indexing::MEDIA_TYPE)?;
        Ok((Done::Made, None, Some(bytes)))
    }

    /// What is to be said of the index that is there; `None` where it is to be made anew.
    fn had(&self, output: &Place, media: &Listed, place: &Place, location: &str) -> Result<Option<Came>, Failure> {
        let bytes = output.read(&self.storage, INDEX_LEN_MAX).map_err(|e| Failure::plain(output, e))?;
        let fits = match told(&bytes, location, media.len, media.etag.as_deref()) {
            Ok(Told::Fits) => true,
            Ok(Told::Nothing) => verify(&bytes, |_| place.open(&self.storage)).is_ok_and(|misfits| misfits.is_empty()),
            Ok(Told::Changed) => false,
            Ok(Told::Other) | Err(_) if self.args.force => false,
            Ok(Told::Other) | Err(_) => {
                let why = format!("is no index of {place}; remove it, or have it replaced by --force");
                return Ok(Some((Done::Refused, Some(why), None)));
            }
        };
        Ok(fits.then_some((Done::Kept, None, Some(bytes))))
    }

    /// Sees to the manifest of the directory, which is to lie at `path` or is there under another name.
    fn manifest(
        &self,
        directory: &Directory<'_>,
        path: String,
        indexes: &[(String, Vec<u8>)],
    ) -> Result<(String, Came), Failure> {
        let output = self.tree.place(&path, &self.storage)?;
        let want = self.wanted(&output, indexes)?;
        for there in directory.manifests() {
            let bytes = self.tree.place(&there.path, &self.storage)?.read(&self.storage, MANIFEST_LEN_MAX as u64);
            let is_own_name = there.path == path;
            match bytes.map_or(Standing::Unfit, |bytes| standing(&bytes, &want, is_own_name)) {
                Standing::Fits => return Ok((there.path.clone(), (Done::Kept, None, None))),
                Standing::Unfit if is_own_name && !self.args.force => {
                    let why = "is somebody else's and does not name all indexes beside it; add them, or have it replaced by --force";
                    return Ok((path, (Done::Refused, Some(why.into()), None)));
                }
                Standing::Ours | Standing::Unfit => {}
            }
        }
        if self.args.dry_run {
            return Ok((path, (Done::WouldMake, None, None)));
        }
        let bytes = want.write().map_err(|e| Failure::plain(&output, e))?;
        output.replace(&self.storage, &bytes, manifest::MEDIA_TYPE)?;
        Ok((path, (Done::Made, None, None)))
    }

    /// The manifest that names all `indexes`.
    fn wanted(&self, output: &Place, indexes: &[(String, Vec<u8>)]) -> Result<Manifest, Failure> {
        let mut tracks = Vec::new();
        for (path, bytes) in indexes {
            let index = self.tree.place(path, &self.storage)?;
            let src = manifest::reference(output, &index, &index)?;
            tracks.extend(Described::read(bytes.as_slice(), &src).map_err(|e| of_mp4(&index, &e))?.tracks);
        }
        arrange(&mut tracks);
        Ok(Manifest { client_manifest: Some(manifest::client_manifest(output)?), tracks })
    }
}

/// How a manifest that is there stands to the one that is wanted.
enum Standing {
    /// It says the same; or it is somebody else's, or of another name, and names all that it should.
    Fits,
    /// It says something else, and nobody has touched it since it was written.
    Ours,
    /// It is somebody else's, and lacks something.
    Unfit,
}

fn standing(bytes: &[u8], want: &Manifest, is_own_name: bool) -> Standing {
    let Ok(had) = read_manifest(bytes) else { return Standing::Unfit };
    let names = |src: &str| had.tracks.iter().any(|track| track.src == src);
    match () {
        () if had == *want => Standing::Fits,
        () if is_own_name && had.write().is_ok_and(|written| written == bytes) => Standing::Ours,
        () if want.tracks.iter().all(|track| names(&track.src)) => Standing::Fits,
        () => Standing::Unfit,
    }
}

fn failed(failure: Failure) -> Came {
    (Done::Failed, Some(failure.into_text()), None)
}

fn is_fragmented(media: &(impl Media + ?Sized)) -> Result<bool, mp4::Error> {
    let (bytes, offset) = read_moov(media)?;
    Ok(Moov::read(Mp4Box::read(&bytes, offset)?)?.defaults.is_some())
}

impl Report {
    fn tell(&self, out: &mut Out) -> Result<(), Failure> {
        if out.is_json() {
            return out.json(self);
        }
        let what = match self.done {
            Done::Made => "made",
            Done::WouldMake => "would make",
            Done::Kept | Done::Skipped if out.is_quiet() => return Ok(()),
            Done::Kept => "kept",
            Done::Skipped => "skipped",
            Done::Refused | Done::Failed => {
                remark(format_args!("{}: {}", self.file, self.why.as_deref().unwrap_or_default()));
                return Ok(());
            }
        };
        let why = self.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        out.line(printable(format!("{what} {}{why}", self.file).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(paths: &[&str]) -> Vec<Listed> {
        paths.iter().map(|path| Listed { path: (*path).into(), len: 0, etag: None }).collect()
    }

    #[test]
    fn each_directory_has_its_media_and_each_of_them_an_index_of_its_own() {
        let listed =
            listed(&["a.cmfv", "a.CMFA", "b.mp4", "b-index.mp4", "x/c.d.ismv", "x/c.ism", "y/film.ism", "y/z.txt"]);
        let found = directories(&listed);
        let names: Vec<_> = found
            .iter()
            .map(|directory| {
                (directory.path, directory.media().map(|media| directory.index_of(media)).collect::<Vec<_>>())
            })
            .collect();
        let want = [
            ("", vec!["a-cmfv-index.mp4".to_owned(), "a-CMFA-index.mp4".into(), "b-index.mp4".into()]),
            ("x/", vec!["x/c.d-index.mp4".into()]),
        ];
        assert_eq!(names, want);
        assert_eq!([found[0].manifest("films"), found[1].manifest("films")], ["films.ism", "x/x.ism"]);
    }
}
