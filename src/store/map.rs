//! A file of the store in memory, with its head read.
//!
//! # Invariants
//!
//! - The bytes of a [`Mapping`] never change and never go away while it lives (docs/store-format.md, "Life of an entry").
//! - The spans of its head were found in these very bytes.

use std::ffi::CStr;
use std::fs::File;
use std::io;

use memmap2::{Advice, Mmap, MmapOptions};

use super::format::{Head, Layout, Span};

/// A whole file, mapped for reading.
pub struct Mapping {
    map: Mmap,
    head: Head,
}

impl Mapping {
    /// Maps `len` bytes of `file`, which must be that long; `None` where they are no version.
    pub fn new(file: &File, len: usize) -> io::Result<Option<Self>> {
        let mut options = MmapOptions::new();
        // SAFETY: nobody changes these bytes while they are mapped. An entry is written before it is published, is
        // never written again, and is removed by unlink, which leaves a mapping whole (docs/store-format.md, "Life of
        // an entry"). Another program could shorten the file, so the directory belongs to the server's user alone.
        let map = unsafe { options.len(len).map(file)? };
        // Manifests can hold content keys: a core dump shall not. A kernel without the advice loses nothing else.
        let _ = map.advise(Advice::DontDump);
        Ok(Head::decode(&map).map(|head| Self { map, head }))
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Where the parts of the file lie.
    pub fn layout(&self) -> &Layout {
        &self.head.layout
    }

    /// The answer's own age when it was fetched, in seconds.
    pub fn initial_age_secs(&self) -> u32 {
        self.head.initial_age_secs
    }

    /// The canonical URL.
    pub fn url(&self) -> &CStr {
        self.text(self.head.url)
    }

    /// The scope.
    pub fn scope(&self) -> &CStr {
        self.text(self.head.scope)
    }

    /// The stored header fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&CStr, &CStr)> {
        self.head.fields.iter().map(|(name, value)| (self.text(*name), self.text(*value)))
    }

    fn text(&self, span: Span) -> &CStr {
        let bytes = self.map.get(span.with_nul()).unwrap_or(b"\0");
        // SAFETY: the span is of this mapping's own head: it ends in the first NUL behind its start (format.rs,
        // "Invariants"), and the bytes never change.
        unsafe { CStr::from_bytes_with_nul_unchecked(bytes) }
    }
}
