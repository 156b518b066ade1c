//! `uspcache prepare`: an index for each fragmented file below a place, and a manifest for each directory of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Sender, channel};

use indicatif::ProgressBar;
use mod_usp_storage_cache::manifest::MANIFEST_LEN_MAX;
use mod_usp_storage_cache::manifest::media::{Described, arrange};
use mod_usp_storage_cache::manifest::read::read as read_manifest;
use mod_usp_storage_cache::manifest::write::{Manifest, Track, is_as_written};
use mod_usp_storage_cache::mp4::boxes::Mp4Box;
use mod_usp_storage_cache::mp4::location::is_same;
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
    /// Replace what is refused: somebody else's manifests that lack a file, and files that are no index under the name of one
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
/// What ends the name of a manifest.
const MANIFEST: &str = ".ism";

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
    let listed = tree.list(&storage, is_ours)?;
    let directories = directories(&listed);
    if directories.is_empty() {
        remark(format_args!("{}: no media lie below", args.tree.to_string_lossy()));
        return Ok(Code::Wrong);
    }
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

/// Whether a path ends so, in upper or lower case.
fn ends(path: &str, suffix: &str) -> bool {
    let at = path.len().checked_sub(suffix.len());
    at.is_some_and(|at| path.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes()))
}

/// Whether it is media, an index or a manifest by its name.
fn is_ours(path: &str) -> bool {
    SUFFIXES.iter().any(|suffix| ends(path, suffix)) || ends(path, MANIFEST)
}

impl<'a> Directory<'a> {
    fn media(&self) -> impl Iterator<Item = &'a Listed> {
        let is_media = |path: &str| SUFFIXES.iter().any(|suffix| ends(path, suffix)) && !ends(path, INDEX);
        self.files.iter().copied().filter(move |file| is_media(&file.path))
    }

    fn manifests(&self) -> impl Iterator<Item = &'a Listed> {
        self.files.iter().copied().filter(|file| ends(&file.path, MANIFEST))
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

/// What came of a file: what to say of it, and its tracks if it is an index that is there.
type Came = (Done, Option<String>, Vec<Track>);

impl Preparer<'_> {
    fn prepare(&self, directory: &Directory<'_>, tell: &Sender<Report>) {
        let manifest = match self.tree.name() {
            Ok(name) => directory.manifest(&name),
            Err(failure) => return drop(tell.send(self.report(directory.path, failed(failure)))),
        };
        let mut tracks = Vec::new();
        let (mut would_make, mut is_whole) = (false, true);
        for media in directory.media() {
            let path = directory.index_of(media);
            let came = self.index(directory, media, &path, &manifest).unwrap_or_else(failed);
            would_make |= came.0 == Done::WouldMake;
            is_whole &= !matches!(came.0, Done::Failed | Done::Refused);
            tracks.extend_from_slice(&came.2);
            let file = if came.0 == Done::Skipped { &media.path } else { &path };
            // Where nobody listens any more there is nothing to be done for.
            let Ok(()) = tell.send(self.report(file, came)) else { return };
            self.bar.inc(1);
        }
        let (path, came) = match () {
            () if !is_whole => {
                (manifest, (Done::Failed, Some("not all of its media have an index".into()), Vec::new()))
            }
            () if would_make && directory.has(&manifest) => return,
            () if would_make => (manifest, (Done::WouldMake, None, Vec::new())),
            () if tracks.is_empty() => return,
            () => self.manifest(directory, &manifest, tracks).unwrap_or_else(|failure| (manifest, failed(failure))),
        };
        // As above.
        let _ = tell.send(self.report(&path, came));
    }

    fn report(&self, path: &str, (done, why, _): Came) -> Report {
        let place = self.tree.place(path, &self.storage);
        Report { file: place.map_or_else(|_| path.to_owned(), |place| place.to_string()), done, why }
    }

    /// Sees to the index of `media`, which is to lie at `path`, and of which `manifest` is to tell.
    fn index(&self, directory: &Directory<'_>, media: &Listed, path: &str, manifest: &str) -> Result<Came, Failure> {
        let storage = &self.storage;
        let (place, output) = (self.tree.place(&media.path, storage)?, self.tree.place(path, storage)?);
        if directory.media().any(|other| other.path != media.path && directory.index_of(other) == path) {
            return Ok((
                Done::Failed,
                Some(format!("is the index of {place} and of another file; rename one")),
                Vec::new(),
            ));
        }
        let tracks = |bytes: &[u8]| {
            let src = manifest::reference(&self.tree.place(manifest, storage)?, &output, &output)?;
            Ok(Described::read(bytes, &src).map_err(|e| of_mp4(&output, &e))?.tracks)
        };
        let location = output.reference(&place, &place)?;
        let mut had = None;
        if directory.has(path) {
            let bytes = output.read(storage, INDEX_LEN_MAX).map_err(|e| Failure::plain(&output, e))?;
            match self.standing(&bytes, media, &place, &location) {
                Standing::Fits => return Ok((Done::Kept, None, tracks(&bytes)?)),
                Standing::Other if !self.args.force => {
                    let why = format!(
                        "is no index of {place}, or of another program; remove it, or have it replaced by --force"
                    );
                    return Ok((Done::Refused, Some(why), Vec::new()));
                }
                Standing::Ours | Standing::Other => had = Some(bytes),
            }
        }
        let opened = place.open(storage).map_err(|e| Failure::plain(&place, e))?;
        match is_fragmented(&*opened) {
            Ok(true) => {}
            Ok(false) => return Ok((Done::Skipped, Some("is not fragmented".into()), Vec::new())),
            Err(e @ mp4::Error::NotFound(_)) => return Ok((Done::Skipped, Some(e.to_string()), Vec::new())),
            Err(e) => return Err(of_mp4(&place, &e)),
        }
        if self.args.dry_run {
            return Ok((Done::WouldMake, None, Vec::new()));
        }
        let source = Source::read(&*opened, None).map_err(|e| of_mp4(&place, &e))?;
        let bytes = index::write(&[(&source, &location)]).map_err(|e| of_mp4(&output, &e))?;
        self.put(&output, had.as_deref(), &bytes, indexing::MEDIA_TYPE)?;
        Ok((Done::Made, None, tracks(&bytes)?))
    }

    /// How the index that is there stands to `media`.
    fn standing(&self, bytes: &[u8], media: &Listed, place: &Place, location: &str) -> Standing {
        let fits = || verify(bytes, |_| place.open(&self.storage)).is_ok_and(|misfits| misfits.is_empty());
        match told(bytes, location, media.len, media.etag.as_deref()) {
            Ok(Told::Fits) => Standing::Fits,
            Ok(Told::Nothing | Told::NoFingerprint) if fits() => Standing::Fits,
            Ok(Told::Changed | Told::Nothing) => Standing::Ours,
            Ok(Told::NoFingerprint | Told::Other) | Err(_) => Standing::Other,
        }
    }

    /// Sees to the manifest of the directory, which is to lie at `path` or is there under another name.
    fn manifest(
        &self,
        directory: &Directory<'_>,
        path: &str,
        mut tracks: Vec<Track>,
    ) -> Result<(String, Came), Failure> {
        arrange(&mut tracks);
        let output = self.tree.place(path, &self.storage)?;
        let want = Manifest { client_manifest: Some(manifest::client_manifest(&output)?), tracks };
        let mut had = None;
        for there in directory.manifests() {
            let place = self.tree.place(&there.path, &self.storage)?;
            let bytes = place.read(&self.storage, MANIFEST_LEN_MAX as u64).map_err(|e| Failure::plain(&place, e))?;
            let is_own_name = there.path == path;
            match standing(&bytes, &want, is_own_name) {
                Standing::Fits => return Ok((there.path.clone(), (Done::Kept, None, Vec::new()))),
                standing if is_own_name => had = Some((standing, bytes)),
                _ => {}
            }
        }
        if let Some((Standing::Other, _)) = had
            && !self.args.force
        {
            let why = "is somebody else's, or changed, and does not name all indexes beside it; add them, or have it replaced by --force";
            return Ok((path.to_owned(), (Done::Refused, Some(why.into()), Vec::new())));
        }
        if self.args.dry_run {
            return Ok((path.to_owned(), (Done::WouldMake, None, Vec::new())));
        }
        let bytes = want.write().map_err(|e| Failure::plain(&output, e))?;
        self.put(&output, had.as_ref().map(|(_, bytes)| bytes.as_slice()), &bytes, manifest::MEDIA_TYPE)?;
        Ok((path.to_owned(), (Done::Made, None, Vec::new())))
    }

    /// Puts `bytes` there if it is still as it `had` been when it was looked at, which can be long ago.
    fn put(&self, output: &Place, had: Option<&[u8]>, bytes: &[u8], media_type: &str) -> Result<(), Failure> {
        let read = || match output.read(&self.storage, INDEX_LEN_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if Place::is_absent(&e) => Ok(None),
            Err(e) => Err(Failure::plain(output, e)),
        };
        let is_put = match read()?.as_deref() {
            now if now != had => false,
            Some(_) => return output.replace(&self.storage, bytes, media_type),
            None => output.create(&self.storage, bytes, media_type)?,
        };
        // It is there, too, if the answer to a first try was lost.
        if is_put || read()?.as_deref() == Some(bytes) {
            return Ok(());
        }
        Err(Failure::new(output, "has changed meanwhile", "run it again"))
    }
}

/// How a file that is there stands to the one that is wanted.
enum Standing {
    /// It does: it says the same, or it is somebody else's and says all that it should.
    Fits,
    /// It is as this command left it, and the media have changed.
    Ours,
    /// It is somebody else's.
    Other,
}

/// How the manifest that is there stands to the one that is wanted.
fn standing(bytes: &[u8], want: &Manifest, is_own_name: bool) -> Standing {
    let Ok(had) = read_manifest(bytes) else { return Standing::Other };
    let names = |src: &str| had.tracks.iter().any(|track| is_same(&track.src, src));
    match () {
        () if had == *want => Standing::Fits,
        () if is_own_name && is_as_written(bytes) => Standing::Ours,
        () if want.tracks.iter().all(|track| names(&track.src)) => Standing::Fits,
        () => Standing::Other,
    }
}

fn failed(failure: Failure) -> Came {
    (Done::Failed, Some(failure.into_text()), Vec::new())
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
