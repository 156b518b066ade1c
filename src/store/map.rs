//! Files of the store in memory: a version, read, and words that processes share.
//!
//! # Invariants
//!
//! - A slice covers bytes that never change and never go away while the mapping lives (docs/store-format.md, "Life of an
//!   entry"): those of an entry, of a head, or of a fill's block whose present bit is set.
//! - What processes write while others read is read and written through atomics alone.
//! - The spans of a head were found in these very bytes.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

use super::format::{BLOCK_LEN, FIXED_LEN, Head, Layout, PAGE_LEN, Span, head_len};

/// The whole file of a version, mapped for reading.
pub struct Mapping {
    map: MmapRaw,
    head: Head,
    /// The tables and maps of a fill, which change; an entry's do not.
    shared: Option<SharedWords>,
}

impl Mapping {
    /// Maps an entry of `len` bytes, which `file` must have; `None` where they are no version.
    pub fn entry(file: &File, len: usize) -> io::Result<Option<Self>> {
        Ok(map(file, len)?.map(|(map, head)| Self { map, head, shared: None }))
    }

    /// Maps a fill of `len` bytes; `file` must have them and be open for writing.
    pub fn fill(file: &File, len: usize) -> io::Result<Option<Self>> {
        let Some((map, head)) = map(file, len)? else { return Ok(None) };
        let shared = SharedWords::new(file, head.layout.table_at..head.layout.body_at)?;
        Ok(Some(Self { map, head, shared: Some(shared) }))
    }

    /// What the head says.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Where the parts of the file lie.
    pub fn layout(&self) -> &Layout {
        &self.head.layout
    }

    /// The words of a fill.
    pub fn shared(&self) -> Option<&SharedWords> {
        self.shared.as_ref()
    }

    /// Whether the bytes of a block are there.
    pub fn is_present(&self, block: u64) -> bool {
        let Some(shared) = &self.shared else { return true };
        let word = shared.u64(self.layout().present_word_at(block)).load(Ordering::Acquire);
        u64::from_le(word) & 1 << (block % 64) != 0
    }

    /// The checksum that is stored for a block.
    pub fn checksum(&self, block: u64) -> u32 {
        let at = self.layout().checksum_at(block);
        match &self.shared {
            Some(shared) => u32::from_le(shared.u32(at).load(Ordering::Relaxed)),
            // SAFETY: the table of an entry never changes.
            None => u32::from_le_bytes(*unsafe { slice(&self.map, at..at + 4) }.first_chunk().expect("four bytes")),
        }
    }

    /// The bytes of `part` of the body; `None` where a block of it is not there.
    pub fn body(&self, part: &Range<u64>) -> Option<&[u8]> {
        assert!(part.end <= self.layout().body_len, "a part lies in its body");
        let mut blocks = part.start / BLOCK_LEN..part.end.div_ceil(BLOCK_LEN);
        let is_there = self.shared.is_none() || part.is_empty() || blocks.all(|block| self.is_present(block));
        let at = self.layout().body_at;
        // SAFETY: an entry never changes; the present bit of a fill's block is set when its bytes have been written, and its
        // filler writes a block that is present only if the bytes do not have its checksum: they are nobody's by then.
        is_there.then(|| unsafe { slice(&self.map, at + part.start..at + part.end) })
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
        let text = span.with_nul();
        // SAFETY: the span lies in the head, which never changes.
        let bytes = unsafe { slice(&self.map, text.start as u64..text.end as u64) };
        // SAFETY: a span ends in the first NUL behind its start (format.rs, "Invariants").
        unsafe { CStr::from_bytes_with_nul_unchecked(bytes) }
    }
}

fn map(file: &File, len: usize) -> io::Result<Option<(MmapRaw, Head)>> {
    let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
    // Manifests can hold content keys: a core dump shall not. A kernel without the advice loses nothing else.
    let _ = map.advise(Advice::DontDump);
    // SAFETY: a head is written before its file gets its name, and never again.
    let fixed = unsafe { slice(&map, 0..FIXED_LEN.min(len as u64)) };
    let Some(head_len) = head_len(fixed).filter(|head_len| *head_len <= len as u64) else { return Ok(None) };
    // SAFETY: as above.
    let head = unsafe { slice(&map, 0..head_len) };
    Ok(Head::decode(head, len as u64).map(|head| (map, head)))
}

/// The bytes of `part` of a mapped file.
///
/// # Safety
///
/// They do not change while the mapping lives. That the file is not shortened either, which is a SIGBUS, is the store's
/// promise: its directory belongs to the server's user alone, and files of versions are only ever unlinked or renamed.
unsafe fn slice(map: &MmapRaw, part: Range<u64>) -> &[u8] {
    assert!(part.start <= part.end && part.end <= map.len() as u64, "a part lies in its file");
    // SAFETY: it lies in the mapping, as was asserted.
    let start = unsafe { map.as_ptr().add(part.start as usize) };
    // SAFETY: as above; the mapping lives as long as the slice, and the caller vouches that nobody writes there.
    unsafe { std::slice::from_raw_parts(start, (part.end - part.start) as usize) }
}

/// A part of a file that processes read and write at a time, as words.
///
/// The file must not be sparse there: to write into a hole of a full disk is a SIGBUS.
pub struct SharedWords {
    map: MmapRaw,
    /// Where the words begin, and where the mapping does, from the start of the file.
    from: u64,
    mapped_from: u64,
}

impl SharedWords {
    /// Maps `part` of `file`, in bytes; it lies within the file, which is open for writing.
    pub fn new(file: &File, part: Range<u64>) -> io::Result<Self> {
        let mapped_from = part.start - part.start % PAGE_LEN;
        let map = MmapOptions::new().offset(mapped_from).len((part.end - mapped_from) as usize).map_raw(file)?;
        let _ = map.advise(Advice::DontDump);
        Ok(Self { map, from: part.start, mapped_from })
    }

    /// A copy of `part` of `file`, in bytes, from the start of a page; it lies within the file.
    pub fn copy(file: &File, part: Range<u64>) -> io::Result<Self> {
        let mut map = MmapMut::map_anon((part.end - part.start) as usize)?;
        file.read_exact_at(&mut map, part.start)?;
        Ok(Self { map: map.into(), from: part.start, mapped_from: part.start })
    }

    /// The word of 4 bytes at `at` from the start of the file.
    pub fn u32(&self, at: u64) -> &AtomicU32 {
        let word = self.word(at, 4).cast::<AtomicU32>();
        // SAFETY: it lies in the mapping, is aligned, and is touched through atomics alone, here and in other processes.
        unsafe { &*word }
    }

    /// The word of 8 bytes at `at` from the start of the file.
    pub fn u64(&self, at: u64) -> &AtomicU64 {
        let word = self.word(at, 8).cast::<AtomicU64>();
        // SAFETY: as above.
        unsafe { &*word }
    }

    fn word(&self, at: u64, len: u64) -> *mut u8 {
        let is_inside = at >= self.from && at - self.mapped_from + len <= self.map.len() as u64;
        assert!(is_inside && at.is_multiple_of(len), "a word lies in its part and is aligned");
        // SAFETY: it lies in the mapping, as was asserted.
        unsafe { self.map.as_mut_ptr().add((at - self.mapped_from) as usize) }
    }
}
