//! The store that a subcommand works on: found, opened as its owner, and gone through.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use mod_usp_storage_cache::store::record::{Flaw, Looked};
use mod_usp_storage_cache::store::version::Place;
use mod_usp_storage_cache::store::visit::Seen;
use mod_usp_storage_cache::store::{self, Identity, Name, Record, Store, Unfit, Visit};
use rustix::process::{Gid, Uid};

use super::failure::{Failure, remark};
use super::output::Out;

/// Where the store is.
#[derive(Args)]
pub struct Root {
    /// The store's directory, UspStorageCacheRoot; if not given, usp-storage-cache in httpd's cache directory
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl Root {
    /// Opens the store to look at it.
    pub fn visit(&self) -> Result<Visit, Failure> {
        Visit::open(&self.enter()?).map_err(|unfit| refused(&unfit))
    }

    /// Opens the store to remove entries.
    pub fn store(&self) -> Result<Arc<Store>, Failure> {
        Store::open_existing(&self.enter()?).map_err(|unfit| refused(&unfit))
    }

    /// The store's directory; from then on root is the store's owner.
    fn enter(&self) -> Result<PathBuf, Failure> {
        let no_default = || {
            let dirs = store::CACHE_DIRS.join(", ");
            Failure::new("the store", format!("none of {dirs} exists"), "name its directory with --root")
        };
        let root = self.root.clone().or_else(store::default_root).ok_or_else(no_default)?;
        if rustix::process::geteuid().is_root() {
            become_owner(&root.join("v1"))?;
        }
        Ok(root)
    }
}

/// Makes the process the owner of the store's directory for good: what it makes is to be used by httpd's children, and a
/// store is never root's to be led by.
fn become_owner(v1: &Path) -> Result<(), Failure> {
    let io = |e| refused(&Unfit::Io(v1.into(), e));
    let owner = fs::symlink_metadata(v1).map_err(io)?;
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    rustix::thread::set_thread_groups(&[]).map_err(|e| io(e.into()))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|e| io(e.into()))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|e| io(e.into()))
}

fn refused(unfit: &Unfit) -> Failure {
    match unfit {
        Unfit::Io(path, e) => {
            let remedy = match e.kind() {
                std::io::ErrorKind::NotFound => "--root names the store's directory, which httpd makes at its start",
                std::io::ErrorKind::PermissionDenied => "run it as root or as httpd's user",
                _ => "--root names the store's directory, UspStorageCacheRoot",
            };
            Failure::new(path.display(), e, remedy)
        }
        Unfit::Access(path) if is_others(path) => {
            Failure::new(path.display(), "it is another user's", "run it as root or as httpd's user")
        }
        other => Failure::plain("no store", other),
    }
}

fn is_others(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|had| had.uid() != rustix::process::geteuid().as_raw())
}

/// A file that was looked at.
pub enum Met {
    /// A version.
    Record(Box<Record>),
    /// A file under a version's name that is none.
    Unusable(Name, Identity, Flaw),
    /// A file of another name, or a directory of entries that cannot be read.
    Foreign,
}

/// Looks at each entry, or at each fill that is under way or was left behind; what has gone meanwhile is not met.
pub fn each(
    visit: &Visit,
    place: Place,
    mut meet: impl FnMut(Met, &Seen) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match place {
        Place::Entries => (0..=u8::MAX).try_for_each(|shard| each_in_shard(visit, shard, &mut meet)),
        Place::Fills => {
            let fills = visit.fills().map_err(|e| Failure::plain("fills", e))?;
            fills.iter().try_for_each(|seen| meet_one(visit, place, seen, &mut meet))
        }
    }
}

/// Looks at each entry of a shard.
pub fn each_in_shard(
    visit: &Visit,
    shard: u8,
    mut meet: impl FnMut(Met, &Seen) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match visit.shard(shard) {
        Ok(files) => files.iter().try_for_each(|seen| meet_one(visit, Place::Entries, seen, &mut meet)),
        Err(e) => {
            let path = format!("entries/{shard:02x}");
            remark(format_args!("{path}: {e}"));
            meet(Met::Foreign, &Seen { path, name: None, disk_len: 0 })
        }
    }
}

fn meet_one(
    visit: &Visit,
    place: Place,
    seen: &Seen,
    meet: &mut impl FnMut(Met, &Seen) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(name) = &seen.name else { return meet(Met::Foreign, seen) };
    match visit.look(place, name).map_err(|e| Failure::plain(&seen.path, e))? {
        Looked::Absent => Ok(()),
        Looked::Record(record) => meet(Met::Record(record), seen),
        Looked::Unusable(identity, flaw) => meet(Met::Unusable(name.clone(), identity, flaw), seen),
    }
}

/// Says how many files were passed over, if any were.
pub fn remark_on_others(out: &Out, count: u64) {
    if count > 0 && !out.is_quiet() {
        remark(format_args!("{count} files in the store are no entries or are damaged: uspcache verify tells which"));
    }
}
