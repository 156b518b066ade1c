//! Looking at what lies under a name.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use super::counters::table::Kind;
use super::map::Mapping;
use super::version::{Place, Sought};
use super::{Identity, Name, Opened, Store, Version, evict};

impl Store {
    /// The entry of `url` in `scope`: `held`, if the name still leads to it. What is there and cannot be used is removed.
    pub fn entry(
        &self,
        name: &Name,
        url: &str,
        scope: &str,
        held: Option<&Arc<Version>>,
    ) -> io::Result<Option<Arc<Version>>> {
        if let Some(held) = held.filter(|held| self.look_again(held)) {
            return Ok(Some(held.clone()));
        }
        match self.version(Place::Entries, Sought { name, url, scope })? {
            Opened::Absent => Ok(None),
            Opened::Version(entry) => Ok(Some(Arc::from(entry))),
            Opened::Unusable(identity) => {
                self.counters().add(Kind::Damaged, 1);
                self.discard(name, identity).map(|_| None)
            }
        }
    }

    /// The fill of a key that is under way, or was left behind.
    pub fn fill(&self, sought: Sought<'_>) -> io::Result<Option<Arc<Version>>> {
        match self.version(Place::Fills, sought)? {
            Opened::Version(fill) => Ok(Some(Arc::from(fill))),
            Opened::Absent | Opened::Unusable(_) => Ok(None),
        }
    }

    /// The URLs and scopes of fills that nobody works at.
    pub fn left_fills(&self) -> io::Result<Vec<(String, String)>> {
        let mut left = Vec::new();
        for (file, stat) in evict::files(self.fills.as_fd())? {
            if let Some(name) = Name::from_file(&file)
                && !self.is_locked(&name)?
                && let Some(head) = read_head(self.fills.as_fd(), &file, &stat)?
            {
                let [url, scope] = [head.url(), head.scope()].map(|text| text.to_string_lossy().into_owned());
                left.extend((Name::new(&url, &scope) == name).then_some((url, scope)));
            }
        }
        Ok(left)
    }

    /// Whether a fill's file still has its name.
    pub fn leads_to_fill(&self, fill: &Version) -> bool {
        self.stat(Place::Fills, fill.name()).is_some_and(|stat| Identity::of(&stat) == fill.identity())
    }

    /// Whether an entry's name still leads to it; takes over what its file says of its times.
    pub fn look_again(&self, entry: &Version) -> bool {
        let control = self.control();
        let epoch = control.epoch(control.slot(entry.name()));
        let stat = self.stat(Place::Entries, entry.name()).filter(|stat| Identity::of(stat) == entry.identity());
        // Epochs of another control block say nothing about this one.
        match stat.filter(|_| Arc::ptr_eq(entry.control(), &control)) {
            Some(stat) => {
                entry.seen(epoch, &stat);
                true
            }
            None => false,
        }
    }

    pub(super) fn version(&self, place: Place, sought: Sought<'_>) -> io::Result<Opened> {
        Version::open(self.dir(place), place, sought, &self.control())
    }

    fn stat(&self, place: Place, name: &Name) -> Option<Stat> {
        rustix::fs::statat(self.dir(place), place.path(name), AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn dir(&self, place: Place) -> BorrowedFd<'_> {
        match place {
            Place::Entries => self.entries.as_fd(),
            Place::Fills => self.fills.as_fd(),
        }
    }
}

/// The head of a file in `dir`, if it is a version's.
fn read_head(dir: BorrowedFd<'_>, file: &str, stat: &Stat) -> io::Result<Option<Mapping>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(opened) = rustix::fs::openat(dir, file, flags, Mode::empty()) else { return Ok(None) };
    let (file, len) = (File::from(opened), usize::try_from(stat.st_size).unwrap_or(0));
    let is_it = Identity::of(stat) == Identity::of(&rustix::fs::fstat(&file)?);
    if is_it && len > 0 { Mapping::entry(&file, len) } else { Ok(None) }
}
