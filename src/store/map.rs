//! A file of the store in memory.
//!
//! # Invariants
//!
//! - The bytes of a [`Mapping`] never change and never go away while it lives (docs/store-format.md, "Life of an entry").

use std::ffi::CStr;
use std::fs::File;
use std::io;

use memmap2::{Advice, Mmap, MmapOptions};

use super::format::Span;

/// A whole file, mapped for reading.
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps `len` bytes of `file`, which must be that long.
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        // SAFETY: nobody changes these bytes while they are mapped. An entry is written before it is published, is
        // never written again, and is removed by unlink, which leaves a mapping whole (docs/store-format.md, "Life of
        // an entry"). Another program could shorten the file, so the directory belongs to the server's user alone.
        let map = unsafe { options.len(len).map(file)? };
        // Manifests can hold content keys: a core dump shall not. A kernel without the advice loses nothing else.
        let _ = map.advise(Advice::DontDump);
        Ok(Self(map))
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A text of the head with its NUL. `span` comes from the head that was decoded from this mapping.
    pub fn text(&self, span: Span) -> &CStr {
        let bytes = self.0.get(span.with_nul()).unwrap_or(b"\0");
        // SAFETY: a span ends in the first NUL behind its start (format.rs, "Invariants"), and the bytes never change.
        unsafe { CStr::from_bytes_with_nul_unchecked(bytes) }
    }
}
