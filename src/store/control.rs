//! The control block: words that all processes over a store read and write at a time.
//!
//! docs/store-format.md, "The control block", draws it. It only makes things fast or fair: files are the truth, and the
//! block may be lost, or made anew, at any time.
//!
//! # Invariants
//!
//! - The file has all its blocks before it is mapped, and one length for ever: no access to it is a signal.
//! - A hit only loads words of it: a store can wait for the disk.
//! - A writer can end between any two stores, and what it leaves behind is read as nothing, or as what was there.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::format::PurgeMark;
use super::map::SharedWords;
use super::shared_file::{HEAD_LEN, Kind, Whole, random};
use super::{Identity, Name, sys};

/// The length of the file.
pub const CONTROL_LEN: u64 = NOTES_AT + NOTES * NOTE_LEN;

pub(super) const CONTROL: &str = "control";

const MAGIC: &[u8; 8] = b"USPCNTRL";
const FORMAT: u32 = 1;
const TAKEN_AT: u64 = 128;
const ADDED_AT: u64 = 136;
const COUNTED_AT: u64 = 144;
const COUNTED_BOOT_AT: u64 = 152;
const FREED_CONNECTIONS_AT: u64 = 160;
const TERMS_AT: u64 = 192;
const BREAKERS_AT: u64 = 8192;
const BREAKER_LEN: u64 = 32;
/// Breakers that there is room for.
pub const BREAKERS: u64 = 256;
const SLOTS_AT: u64 = 16384;
const SLOT_LEN: u64 = 16;
const SLOTS: u64 = 1 << 16;
const NOTES_AT: u64 = SLOTS_AT + SLOTS * SLOT_LEN;
const NOTE_LEN: u64 = 64;
const NOTES: u64 = 16384;
/// Notes that a key can be under.
const NOTE_WAYS: u64 = 4;

/// The words of a store, mapped.
pub struct Control {
    words: SharedWords,
    identity: Identity,
    incarnation: u64,
    /// A number of this run of the host: a power cut can leave older counts behind than files.
    boot: u64,
}

/// What all names of one URL share, and some other names with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u16);

/// What is remembered of an object that is not in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// What kind of thing it is; the store does not look at it.
    pub kind: u32,
    /// More about it.
    pub value: u64,
    /// When it was found out, in milliseconds since 1970.
    pub noted_at_ms: u64,
    /// Until when it is meant to count; who reads it decides.
    pub until_ms: u64,
}

/// The words of one breaker; what they mean is the breaker's business.
pub struct BreakerWords<'c> {
    /// A hash of the endpoint; 0 where it is nobody's.
    pub endpoint: &'c AtomicU64,
    /// Until when it is open.
    pub open: &'c AtomicU64,
    /// When it failed last, and the time before.
    pub failed: [&'c AtomicU64; 2],
}

/// What the newest generation of children allows the store to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) generation: u64,
    pub(super) store_len_max: u64,
    pub(super) free_len_min: u64,
}

/// The file that the block is.
const KIND: Kind = Kind {
    name: CONTROL,
    len: CONTROL_LEN,
    new_head: || Ok(encode_head(random()?)),
    is_head: |head| decode_head(head).is_some(),
};

impl Control {
    /// Opens the block below `v1`, and makes it where it is missing or damaged.
    ///
    /// Several may do so at a time and end with the same one. No two threads may with the same `locks`.
    pub fn open(v1: BorrowedFd<'_>, locks: &File) -> io::Result<Self> {
        let whole = KIND.open(v1, locks)?;
        Ok(Self::of(&whole, SharedWords::new(&whole.file, 0..CONTROL_LEN)?))
    }

    /// A copy of the block below `v1` as it stands, for who only looks: what is written to it, nobody sees. `None` where there
    /// is none, or a damaged one.
    pub(super) fn copy(v1: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let Some(whole) = KIND.look(v1)? else { return Ok(None) };
        Ok(Some(Self::of(&whole, SharedWords::copy(&whole.file, 0..CONTROL_LEN)?)))
    }

    fn of(whole: &Whole, words: SharedWords) -> Self {
        let incarnation = decode_head(&whole.head).expect("a head that was looked at");
        Self { words, identity: whole.identity, incarnation, boot: boot() }
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// A random number of this block's own: epochs of another one say nothing here.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The slot of a name.
    pub fn slot(&self, name: &Name) -> Slot {
        Slot(name.slot())
    }

    /// All slots.
    pub(super) fn slots() -> impl Iterator<Item = Slot> {
        (0..=u16::MAX).map(Slot)
    }

    /// How often something under the slot has changed. Load it before a path is opened.
    pub fn epoch(&self, slot: Slot) -> u32 {
        self.slot_word(slot, 0).load(Ordering::Acquire)
    }

    /// Says that something under the slot changes; before and after each rename and unlink.
    pub fn bump(&self, slot: Slot) {
        self.slot_word(slot, 0).fetch_add(1, Ordering::AcqRel);
    }

    /// How often something under the slot was purged.
    ///
    /// Who publishes or revalidates loads it when it begins to ask storage, and again after its rename or `futimens`:
    /// if the number has moved, it removes its own entry.
    pub fn purges(&self, slot: Slot) -> u32 {
        self.slot_word(slot, 4).load(Ordering::Acquire)
    }

    /// Says that what is under the slot is purged; before the first unlink.
    pub fn bump_purges(&self, slot: Slot) {
        self.slot_word(slot, 4).fetch_add(1, Ordering::AcqRel);
    }

    /// What a name's fill keeps of the purges before it.
    pub fn purge_mark(&self, name: &Name) -> PurgeMark {
        PurgeMark { incarnation: self.incarnation, purges: self.purges(self.slot(name)) }
    }

    /// A word to sleep on until something about a fill under the slot changes: load it before looking.
    pub fn signal(&self, slot: Slot) -> &AtomicU32 {
        self.slot_word(slot, 8)
    }

    /// Says that something about a fill under the slot has changed, and wakes who sleeps on that.
    pub fn announce(&self, slot: Slot) {
        let signal = self.signal(slot);
        signal.fetch_add(1, Ordering::AcqRel);
        sys::wake(signal, NonZeroU32::MAX);
    }

    /// A word to sleep on until a connection to storage is free.
    pub(super) fn freed_connections(&self) -> &AtomicU32 {
        self.words.u32(FREED_CONNECTIONS_AT)
    }

    /// What is noted under the SHA-256 of a key, also if its time is over.
    pub fn note(&self, key: &[u8; 32]) -> Option<Noted> {
        ways(key).find_map(|at| self.note_at(at).filter(|(noted, _)| noted == key)).map(|(_, noted)| noted)
    }

    /// Notes something under the SHA-256 of a key, in the place of what was noted; where there is no room, the note that
    /// ends first goes.
    pub fn put_note(&self, key: &[u8; 32], noted: Noted) {
        self.forget_note(key);
        let ends = |at: &u64| self.note_at(*at).map_or(0, |(_, noted)| noted.until_ms);
        let at = ways(key).min_by_key(ends).expect("a key has its ways");
        let [a, b, c, d] = key_words(key);
        self.seal(at, [a, b, c, d, noted.value, noted.noted_at_ms, noted.until_ms, noted.kind.into()]);
    }

    /// All that is noted, also what is over.
    pub fn notes(&self) -> impl Iterator<Item = Noted> {
        (0..NOTES).filter_map(|n| self.note_at(NOTES_AT + n * NOTE_LEN)).map(|(_, noted)| noted)
    }

    /// Forgets what is noted under the SHA-256 of a key.
    pub fn forget_note(&self, key: &[u8; 32]) {
        for at in ways(key).filter(|at| self.note_at(*at).is_some_and(|(noted, _)| noted == *key)) {
            self.clear_note(at);
        }
    }

    /// Forgets all that is noted.
    pub(super) fn forget_notes(&self) {
        (0..NOTES).for_each(|n| self.clear_note(NOTES_AT + n * NOTE_LEN));
    }

    /// The words of one of the [`BREAKERS`].
    pub fn breaker_words(&self, number: u64) -> BreakerWords<'_> {
        let at = BREAKERS_AT + number % BREAKERS * BREAKER_LEN;
        let word = |at| self.words.u64(at);
        BreakerWords { endpoint: word(at), open: word(at + 8), failed: [word(at + 16), word(at + 24)] }
    }

    /// Bytes that the store takes, and at times more than that, never less.
    pub(super) fn taken(&self) -> &AtomicU64 {
        self.words.u64(TAKEN_AT)
    }

    /// All bytes that were ever reserved; it grows before [`Control::taken`] does.
    pub(super) fn added(&self) -> &AtomicU64 {
        self.words.u64(ADDED_AT)
    }

    /// When the files were counted last, in milliseconds since 1970; `None` where that was before the host was started.
    pub(super) fn counted_at_ms(&self) -> Option<u64> {
        let is_now = self.words.u64(COUNTED_BOOT_AT).load(Ordering::Acquire) == self.boot;
        is_now.then(|| self.words.u64(COUNTED_AT).load(Ordering::Relaxed))
    }

    /// Says that [`Control::taken`] is right as of now.
    pub(super) fn set_counted(&self, now_ms: u64) {
        self.words.u64(COUNTED_AT).store(now_ms, Ordering::Relaxed);
        self.words.u64(COUNTED_BOOT_AT).store(self.boot, Ordering::Release);
    }

    /// The newest generation's terms, if they are whole.
    pub(super) fn terms(&self) -> Option<Terms> {
        let [generation, store_len_max, free_len_min, 0] = self.sealed(TERMS_AT)? else { return None };
        Some(Terms { generation, store_len_max, free_len_min })
    }

    pub(super) fn put_terms(&self, terms: Terms) {
        self.seal(TERMS_AT, [terms.generation, terms.store_len_max, terms.free_len_min, 0]);
    }

    fn slot_word(&self, slot: Slot, at: u64) -> &AtomicU32 {
        self.words.u32(SLOTS_AT + u64::from(slot.0) * SLOT_LEN + at)
    }

    fn note_at(&self, at: u64) -> Option<([u8; 32], Noted)> {
        let [a, b, c, d, value, noted_at_ms, until_ms, kind] = self.sealed(at)?;
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([a, b, c, d]) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Some((key, Noted { kind: u32::try_from(kind).ok()?, value, noted_at_ms, until_ms }))
    }

    fn clear_note(&self, at: u64) {
        // Zeros have no checksum of zero.
        (0..NOTE_LEN / 8).for_each(|n| self.words.u64(at + n * 8).store(0, Ordering::Relaxed));
    }

    /// `N` words, of which the last one's upper half is a checksum; `None` where they were not written as one.
    fn sealed<const N: usize>(&self, at: u64) -> Option<[u64; N]> {
        let mut words = self.load(at);
        let last = words.last_mut()?;
        let sum = *last >> 32;
        *last &= u64::from(u32::MAX);
        (checksum(&words) == sum).then_some(words)
    }

    fn seal<const N: usize>(&self, at: u64, mut words: [u64; N]) {
        let sum = checksum(&words);
        if let Some(last) = words.last_mut() {
            *last |= sum << 32;
        }
        for (n, word) in (0..).zip(words) {
            self.words.u64(at + n * 8).store(word, Ordering::Relaxed);
        }
    }

    fn load<const N: usize>(&self, at: u64) -> [u64; N] {
        std::array::from_fn(|n| self.words.u64(at + n as u64 * 8).load(Ordering::Relaxed))
    }
}

fn checksum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| crc32c::crc32c_append(sum, &word.to_ne_bytes())).into()
}

fn key_words(key: &[u8; 32]) -> [u64; 4] {
    let word = |n: usize| key[n * 8..].first_chunk().copied().map_or(0, u64::from_ne_bytes);
    [word(0), word(1), word(2), word(3)]
}

/// Where a key's note can lie.
fn ways(key: &[u8; 32]) -> impl Iterator<Item = u64> + use<> {
    let bucket = u64::from(u16::from_be_bytes([key[0], key[1]])) % (NOTES / NOTE_WAYS);
    (0..NOTE_WAYS).map(move |way| NOTES_AT + (bucket * NOTE_WAYS + way) * NOTE_LEN)
}

fn encode_head(incarnation: u64) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    head[0..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&FORMAT.to_ne_bytes());
    head[16..24].copy_from_slice(&incarnation.to_ne_bytes());
    head[24..32].copy_from_slice(&CONTROL_LEN.to_ne_bytes());
    let sum = crc32c::crc32c(&head[16..]);
    head[12..16].copy_from_slice(&sum.to_ne_bytes());
    head
}

/// The incarnation; `None` where the head is not one that [`encode_head`] wrote.
fn decode_head(head: &[u8; HEAD_LEN]) -> Option<u64> {
    let incarnation = u64::from_ne_bytes(head[16..].first_chunk().copied()?);
    (*head == encode_head(incarnation)).then_some(incarnation)
}

/// Never 0; the same for all where the kernel does not tell.
fn boot() -> u64 {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Sha256::digest(id).first_chunk().copied().map_or(1, u64::from_ne_bytes).max(1)
}

#[cfg(test)]
mod tests;
