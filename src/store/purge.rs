//! Purging: entries are gone for every process at its next look, and what is under way does not bring them back.
//!
//! The purge number moves before the first unlink. Who publishes or revalidates looks at it afterwards: either the purge
//! meets the entry, or the publisher meets the number (docs/store-format.md, "Purge").

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::record::Looked;
use super::version::Place;
use super::{Control, Name, Record, Store, evict, open_dir};

/// What is to be purged.
#[derive(Clone, Copy, Debug)]
pub enum Purge<'p> {
    /// The entry of a canonical URL in a scope.
    Key {
        /// The URL.
        url: &'p str,
        /// The scope.
        scope: &'p str,
    },
    /// The entries of a canonical URL, under every scope.
    Url(&'p str),
    /// The entries whose canonical URLs begin so.
    Prefix(&'p str),
    /// All entries.
    All,
}

impl Store {
    /// Removes entries for all processes, and gives their number. Waits for no fill; what is being fetched is thrown away
    /// when it is whole.
    pub fn purge(&self, which: Purge<'_>) -> io::Result<u64> {
        let control = self.control();
        let purged = match which {
            Purge::Key { url, scope } => self.purge_key(&control, url, scope),
            Purge::Url(url) => self.purge_url(&control, url),
            Purge::Prefix(prefix) => self.purge_all(&control, |store, name| store.is_url_of(name, prefix)),
            Purge::All => self.purge_all(&control, |_, _| Ok(true)),
        }?;
        // A fill that a power cut leaves behind is told by the number as well.
        self.sync_control().map(|()| purged)
    }

    /// How many fills there are, under way or left behind, of URLs that are meant.
    pub fn fills_of(&self, is_meant: impl Fn(&str) -> bool) -> io::Result<u64> {
        let mut count = 0;
        for (file, _) in evict::files(self.fills.as_fd())? {
            let Some(name) = Name::from_file(&file) else { continue };
            if let Looked::Record(record) = Record::look(self.fills.as_fd(), Place::Fills, &name)? {
                count += u64::from(is_meant(record.url()));
            }
        }
        Ok(count)
    }

    fn purge_key(&self, control: &Control, url: &str, scope: &str) -> io::Result<u64> {
        let name = Name::new(url, scope);
        control.forget_note(&Sha256::digest([scope.as_bytes(), b"\0", url.as_bytes()].concat()).into());
        self.purge_one(control, &name, |had| *had == name)
    }

    fn purge_url(&self, control: &Control, url: &str) -> io::Result<u64> {
        // A note does not tell its URL.
        control.forget_notes();
        // All names of a URL share a shard and a slot.
        self.purge_one(control, &Name::new(url, ""), |had| had.is_of(url))
    }

    /// Removes the entries of the URL that `of` is a name of, as far as they are meant.
    fn purge_one(&self, control: &Control, of: &Name, is_meant: impl Fn(&Name) -> bool) -> io::Result<u64> {
        let held = || self.names(of.shard()).map(|names| names.into_iter().filter(&is_meant).collect::<Vec<_>>());
        // What has just been published is taken back by its filler once the number has moved: it goes by this purge, too.
        let before = held();
        control.bump_purges(control.slot(of));
        let (mut names, now) = (before?, held()?);
        names.extend(now);
        names.sort_unstable();
        names.dedup();
        self.purge_names(names)
    }

    fn purge_all(&self, control: &Control, is_it: impl Fn(&Self, &Name) -> io::Result<bool>) -> io::Result<u64> {
        // What is being fetched now may be meant, and only its URL's slot would tell.
        Control::slots().for_each(|slot| control.bump_purges(slot));
        control.forget_notes();
        let mut purged = 0;
        let mut done = Ok(());
        for shard in 0..256 {
            match self.purge_shard(&format!("{shard:02x}"), &is_it) {
                Ok(more) => purged += more,
                // The others shall go all the same.
                Err(e) => done = Err(e),
            }
        }
        done.map(|()| purged)
    }

    fn purge_shard(&self, shard: &str, is_it: impl Fn(&Self, &Name) -> io::Result<bool>) -> io::Result<u64> {
        let mut names = Vec::new();
        for name in self.names(shard)? {
            if is_it(self, &name)? {
                names.push(name);
            }
        }
        self.purge_names(names)
    }

    /// Removes the entries under `names`, which were there a moment ago, and makes that last; gives the number of those that
    /// have gone, by whomever.
    fn purge_names(&self, names: impl IntoIterator<Item = Name>) -> io::Result<u64> {
        let mut purged = 0;
        let mut shards = BTreeSet::new();
        let mut done = Ok(());
        for name in names {
            match self.purge_name(&name) {
                Ok(()) => {
                    purged += 1;
                    shards.insert(name.shard().to_owned());
                }
                // The others shall go all the same.
                Err(e) => done = Err(e),
            }
        }
        shards.iter().try_for_each(|shard| self.sync_shard(shard))?;
        done.map(|()| purged)
    }

    fn purge_name(&self, name: &Name) -> io::Result<()> {
        // Under the lock, where it is free, what the entry took is released.
        if self.briefly(name, |lock| lock.remove_entry(|_| true))? {
            return Ok(());
        }
        match rustix::fs::statat(&self.entries, name.path(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.unlink_entry(name, &stat).map(drop),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The names of a shard's entries.
    fn names(&self, shard: &str) -> io::Result<Vec<Name>> {
        let dir = match open_dir(self.entries.as_fd(), shard) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut names = Vec::new();
        for file in Dir::read_from(&dir)? {
            let name = file?.file_name().to_str().ok().and_then(Name::from_file);
            names.extend(name.filter(|name| name.shard() == shard));
        }
        Ok(names)
    }

    /// Whether the entry's URL begins with `prefix`: its head is read and not checked. An entry that does not tell is none.
    fn is_url_of(&self, name: &Name, prefix: &str) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.entries, name.path(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::PERM | Errno::LOOP | Errno::ACCESS | Errno::NXIO) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let mut url = vec![0; prefix.len()];
        match file.read_exact_at(&mut url, super::format::TEXTS_AT as u64) {
            Ok(()) => Ok(url == prefix.as_bytes()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(_) if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
