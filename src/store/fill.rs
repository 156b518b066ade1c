//! A version on its way into the store: written beside the entries, then published by a rename.
//!
//! # Invariants
//!
//! - A fill holds its key's lock from before its file exists until it is published or gone.
//! - What is dropped before it is whole leaves nothing behind.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::format::{BLOCK_LEN, Layout, Meta, encode_head};
use super::name::Name;
use super::{KeyLock, Store};

/// A version that is being written.
pub struct Fill<'s> {
    store: &'s Store,
    lock: KeyLock<'s>,
    file: File,
    head: Vec<u8>,
    layout: Layout,
    fetched_at: i64,
    written: u64,
    /// Checksums of the blocks so far; the last one may not be whole yet.
    checksums: Vec<u32>,
    is_published: bool,
}

impl<'s> Fill<'s> {
    /// Makes the file of a version under the key's lock and reserves its whole space.
    pub fn begin(lock: KeyLock<'s>, meta: &Meta) -> io::Result<Self> {
        let store = lock.store;
        let (head, layout) = encode_head(meta).ok_or(io::ErrorKind::InvalidData)?;
        store.space.reserve(store, layout.file_len())?;
        let file = create(store, &lock.name)?;
        let fetched_at = i64::try_from(meta.fetched_at).unwrap_or(0);
        let checksums = Vec::new();
        let fill = Self { store, lock, file, head, layout, fetched_at, written: 0, checksums, is_published: false };
        fill.reserve()?;
        Ok(fill)
    }

    fn reserve(&self) -> io::Result<()> {
        let len = self.layout.file_len();
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // No emulation that writes each block: a full disk then fails a pwrite instead.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(len),
            other => Ok(other?),
        }
    }

    /// Appends a piece of the body.
    pub fn write(&mut self, mut piece: &[u8]) -> io::Result<()> {
        if self.written + piece.len() as u64 > self.layout.body_len {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.file.write_all_at(piece, self.layout.body_at + self.written)?;
        while !piece.is_empty() {
            let in_block = self.written % BLOCK_LEN;
            if in_block == 0 {
                self.checksums.push(0);
            }
            let take = usize::try_from(BLOCK_LEN - in_block).unwrap_or(usize::MAX).min(piece.len());
            if let Some(checksum) = self.checksums.last_mut() {
                *checksum = crc32c::crc32c_append(*checksum, &piece[..take]);
            }
            self.written += take as u64;
            piece = &piece[take..];
        }
        Ok(())
    }

    /// Makes the version an entry; an error where the body is not whole.
    pub fn publish(mut self) -> io::Result<()> {
        if self.written != self.layout.body_len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.write_all_at(&self.layout.encode_tables(&self.checksums), self.layout.table_at)?;
        self.file.write_all_at(&self.head, 0)?;
        // The times that last: when storage vouched for the version, which is before its body came.
        let vouched = rustix::fs::Timespec { tv_sec: self.fetched_at, tv_nsec: 0 };
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: vouched };
        rustix::fs::futimens(&self.file, &times)?;
        rustix::fs::fdatasync(&self.file)?;
        let (fills, entries, name) = (&self.store.fills, &self.store.entries, &self.lock.name);
        match rustix::fs::mkdirat(entries, name.shard(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        rustix::fs::renameat(fills, name.file(), entries, name.path())?;
        self.is_published = true;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shard = rustix::fs::openat(entries, name.shard(), flags, Mode::empty())?;
        Ok(rustix::fs::fsync(shard)?)
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed now is removed by the next fill of the key.
            let _ = rustix::fs::unlinkat(&self.store.fills, self.lock.name.file(), AtFlags::empty());
        }
    }
}

fn create(store: &Store, name: &Name) -> io::Result<File> {
    match rustix::fs::unlinkat(&store.fills, name.file(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&store.fills, name.file(), flags, Mode::RUSR | Mode::WUSR)?.into())
}
