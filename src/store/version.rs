//! A version's file, mapped by this process: an entry, or a fill that is under way.
//!
//! Opening one believes nothing: owner, length, head and key are checked, and each block once, before its
//! first byte is served (docs/store-format.md, "What is believed").

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::control::{Control, Slot};
use super::format::{BLOCK_LEN, Layout, PurgeMark};
use super::map::{Mapping, SharedWords};
use super::name::Name;
use super::now_ms;

/// What lies under a name.
pub enum Opened {
    /// Nothing.
    Absent,
    /// A file that is no version of this key, or is damaged.
    Unusable(Identity),
    /// The version.
    Version(Box<Version>),
}

/// Which file it is, whatever name it has by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of the file that `stat` describes.
    pub fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// The body does not have the checksum that was stored for it.
#[derive(Debug)]
pub struct Damaged;

/// Where a version is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `entries`: it is whole.
    Entries,
    /// `fills`: it is being fetched.
    Fills,
}

/// What a version has to be.
#[derive(Clone, Copy)]
pub struct Sought<'s> {
    /// The name of its files.
    pub name: &'s Name,
    /// The canonical URL that it must hold.
    pub url: &'s str,
    /// The scope that it must hold.
    pub scope: &'s str,
}

/// A version, mapped.
pub struct Version {
    map: Mapping,
    name: Name,
    identity: Identity,
    control: Arc<Control>,
    slot: Slot,
    /// The slot's epoch when the name was last known to lead here.
    epoch: AtomicU32,
    validated_at_ms: AtomicU64,
    /// When it was last used, and what the file says of that, in seconds since 1970.
    used_at: AtomicU64,
    stamped_at: AtomicU64,
    /// When somebody was told to revalidate it, in milliseconds since 1970.
    refreshed_at_ms: AtomicU64,
    /// A bit a block: its checksum was found right.
    checked: Box<[AtomicU64]>,
}

/// How long nobody else is told to revalidate an entry.
const REFRESH_MS: u64 = 1000;

impl Version {
    /// Opens what lies in a place, whose directory is `dir`.
    pub(super) fn open(
        dir: BorrowedFd<'_>,
        place: Place,
        sought: Sought<'_>,
        control: &Arc<Control>,
    ) -> io::Result<Opened> {
        let slot = control.slot(sought.name);
        // Before the path is looked at: a change from then on is noticed.
        let epoch = control.epoch(slot);
        let path = place.path(sought.name);
        let access = if place == Place::Fills { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(dir, &path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Opened::Absent),
            // Another's file (O_NOATIME is refused), a link, a socket, a directory: look at the thing itself.
            Err(Errno::PERM | Errno::LOOP | Errno::ACCESS | Errno::NXIO | Errno::ISDIR) => {
                let stat = rustix::fs::statat(dir, &path, AtFlags::SYMLINK_NOFOLLOW)?;
                return Ok(Opened::Unusable(Identity::of(&stat)));
            }
            Err(e) => return Err(e.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        let identity = Identity::of(&stat);
        let Some(map) = map(&file, &stat, place, sought)? else { return Ok(Opened::Unusable(identity)) };
        let version = Self::new(map, sought.name.clone(), identity, (control.clone(), slot, epoch));
        if place == Place::Entries {
            version.validated_at_ms.store(vouched_at_ms(modified_at_ms(&stat), now_ms()), Ordering::Relaxed);
        }
        Ok(Opened::Version(Box::new(version)))
    }

    fn new(map: Mapping, name: Name, identity: Identity, (control, slot, epoch): (Arc<Control>, Slot, u32)) -> Self {
        let words = map.layout().blocks().div_ceil(64);
        let validated_at_ms = map.head().fetched_at_ms.into();
        Self {
            map,
            name,
            identity,
            control,
            slot,
            epoch: epoch.into(),
            validated_at_ms,
            used_at: AtomicU64::new(0),
            stamped_at: AtomicU64::new(0),
            refreshed_at_ms: AtomicU64::new(0),
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The length of the object, in bytes.
    pub fn len(&self) -> u64 {
        self.layout().body_len
    }

    /// Whether the object has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the parts of the file lie.
    pub fn layout(&self) -> &Layout {
        self.map.layout()
    }

    /// The name of its files.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The canonical URL.
    pub fn url(&self) -> &CStr {
        self.map.url()
    }

    /// The scope.
    pub fn scope(&self) -> &CStr {
        self.map.scope()
    }

    /// The object's header fields as storage sent them, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&CStr, &CStr)> {
        self.map.fields()
    }

    /// The value of the first field of that name, given in lower case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.fields();
        fields.find(|(had, _)| had.to_bytes().eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value.to_bytes())
    }

    /// What the control block said when storage was asked for it.
    pub fn purges(&self) -> PurgeMark {
        self.map.head().purges
    }

    /// Whether no file of the slot was renamed or removed since it was looked at. A load, and nothing else.
    pub fn is_current(&self) -> bool {
        self.control.epoch(self.slot) == self.epoch.load(Ordering::Relaxed)
    }

    /// Takes over what a look at the path has shown: it still leads here.
    pub(super) fn seen(&self, epoch: u32, stat: &Stat) {
        self.validated_at_ms.store(vouched_at_ms(modified_at_ms(stat), now_ms()), Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// The control block that its slot is of.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Notes that it is used.
    pub fn touch(&self, now_secs: u64) {
        self.used_at.store(now_secs, Ordering::Relaxed);
    }

    /// Writes down when the entry was last used, where that has moved.
    pub(super) fn stamp(&self, entries: BorrowedFd<'_>) {
        let used_at = self.used_at.load(Ordering::Relaxed);
        if self.stamped_at.swap(used_at, Ordering::Relaxed) == used_at {
            return;
        }
        let at = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
        let times = rustix::fs::Timestamps {
            last_access: at(i64::try_from(used_at).unwrap_or(0), 0),
            last_modification: at(0, rustix::fs::UTIME_OMIT),
        };
        // An entry that has gone needs no stamp.
        let _ = rustix::fs::utimensat(entries, self.name.path(), &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// When storage last vouched for the version, in milliseconds since 1970.
    pub fn validated_at_ms(&self) -> u64 {
        self.validated_at_ms.load(Ordering::Relaxed)
    }

    /// Which storage it came from, if not the one that the URL names; else 0.
    pub fn source(&self) -> u32 {
        self.map.head().source
    }

    /// The answer's own age when it was fetched, in seconds.
    pub fn initial_age_secs(&self) -> u32 {
        self.map.head().initial_age_secs
    }

    /// The value of `Age` (RFC 9111, section 4.2.3), in seconds.
    pub fn age_secs(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.validated_at_ms()) / 1000 + u64::from(self.initial_age_secs())
    }

    /// Whether a revalidation is due: for one caller in a second.
    pub fn wants_refresh(&self, now_ms: u64) -> bool {
        let last = self.refreshed_at_ms.load(Ordering::Relaxed);
        let is_due = now_ms.abs_diff(last) >= REFRESH_MS;
        is_due && self.refreshed_at_ms.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// When storage was asked for the version, whoever has vouched for it since, in milliseconds since 1970.
    pub fn fetched_at_ms(&self) -> u64 {
        self.map.head().fetched_at_ms
    }

    /// Where the body begins in the file.
    pub fn body_at(&self) -> u64 {
        self.layout().body_at
    }

    /// Whether it was opened as a fill, whatever has become of that.
    pub fn is_fill(&self) -> bool {
        self.shared().is_some()
    }

    /// The words of a fill that processes share.
    pub(super) fn shared(&self) -> Option<&SharedWords> {
        self.map.shared()
    }

    /// Whether the bytes of a block are there.
    pub(super) fn is_present(&self, block: u64) -> bool {
        self.map.is_present(block)
    }

    /// The checksum that is stored for a block.
    pub fn checksum(&self, block: u64) -> u32 {
        self.map.checksum(block)
    }

    /// Checks the blocks of `part` that were not checked yet. `part` lies within the object; of a fill it is present.
    pub fn check(&self, part: &Range<u64>) -> Result<(), Damaged> {
        if part.is_empty() {
            return Ok(());
        }
        for block in part.start / BLOCK_LEN..part.end.div_ceil(BLOCK_LEN) {
            let (word, bit) = (&self.checked[(block / 64) as usize], 1 << (block % 64));
            if word.load(Ordering::Relaxed) & bit == 0 {
                let body = self.map.body(&self.layout().block(block)).ok_or(Damaged)?;
                if crc32c::crc32c(body) != self.checksum(block) {
                    return Err(Damaged);
                }
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The bytes of `part` of the object, which lies within it; they are right only after [`Version::check`]. `None` where
    /// some are not there yet.
    pub fn body(&self, part: &Range<u64>) -> Option<&[u8]> {
        self.map.body(part)
    }

    /// Opens the file anew for a `sendfile`, if the entry's name still leads to this very version.
    pub fn reopen(&self, entries: BorrowedFd<'_>) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(entries, self.name.path(), flags, Mode::empty()).ok()?);
        let stat = rustix::fs::fstat(file.as_fd()).ok()?;
        (Identity::of(&stat) == self.identity).then_some(file)
    }
}

impl Place {
    /// The path of a name's file below the place's directory.
    pub(super) fn path(self, name: &Name) -> String {
        match self {
            Self::Entries => name.path(),
            Self::Fills => name.file().into(),
        }
    }
}

/// How far times of files can be ahead of [`now_ms`], in milliseconds: that clock moves with the kernel's ticks, a hundred a second
/// at the least, and Linux gives files finer times since 6.13.
const TICK_MS: u64 = 20;

/// When storage vouched for an entry whose file was changed at `modified_ms`: not in the future, but where the clock was set back.
fn vouched_at_ms(modified_ms: u64, now_ms: u64) -> u64 {
    if (now_ms..=now_ms + TICK_MS).contains(&modified_ms) { now_ms } else { modified_ms }
}

/// When a file was last changed, in milliseconds since 1970.
pub(super) fn modified_at_ms(stat: &Stat) -> u64 {
    u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1000)
        + u64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1_000_000
}

/// Maps a file that looks like a version of what is sought.
fn map(file: &File, stat: &Stat, place: Place, sought: Sought<'_>) -> io::Result<Option<Mapping>> {
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let len = usize::try_from(stat.st_size).unwrap_or(0);
    if !is_ours || !is_file || len == 0 {
        return Ok(None);
    }
    let map = match place {
        Place::Entries => Mapping::entry(file, len)?,
        Place::Fills => Mapping::fill(file, len)?,
    };
    let holds = |map: &Mapping| {
        map.url().to_bytes() == sought.url.as_bytes() && map.scope().to_bytes() == sought.scope.as_bytes()
    };
    Ok(map.filter(holds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_ahead_by_a_tick_was_vouched_for_now() {
        let rows = [(995, 995), (1000, 1000), (1008, 1000), (1020, 1000), (1021, 1021), (500_000, 500_000)];
        for (modified_ms, want) in rows {
            assert_eq!(vouched_at_ms(modified_ms, 1000), want, "{modified_ms}");
        }
    }
}
