//! Credentials that the children of one generation share: memory that has no name, made before they are forked.
//!
//! | bytes | |
//! |---|---|
//! | 0..8 | a number that no other table has: lock bytes are told apart by it |
//! | 4096 + 20480 n | slot n: digest of its identity (0: nobody's), number of the current record, time of the last renewal that storage asked for, a word to sleep on |
//! | 64 bytes into a slot | two records of 8192 bytes, of which the number's lowest bit tells the current one |
//!
//! # Invariants
//!
//! - A slot is written by who holds its lock byte, and into the record that is not current: a writer that is killed leaves the
//!   current one as it was.
//! - A record that was read counts only if its number is still the same: it is written again at the earliest two numbers on.
//! - No file has these bytes, and a core dump has none of them.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use zeroize::{Zeroize, Zeroizing};

use super::Keys;
use crate::store::format::PAGE_LEN;
use crate::store::lock::CREDENTIALS;
use crate::store::map::SharedWords;
use crate::store::shared_file::random;

/// Identities that a configuration can name.
pub const SLOTS: u64 = 64;
const SLOT_LEN: u64 = PAGE_LEN + 2 * RECORD_LEN;
const RECORDS_AT: u64 = 64;
/// A session token may have some thousand bytes (STS API reference, "Credentials": its size is not fixed).
const RECORD_LEN: u64 = 8192;
const FIXED_LEN: usize = 6 * 8;
/// What stands for a time or a token that is not there.
const NONE: u64 = u64::MAX;

/// The table; it goes with its last mapping.
pub struct Table {
    words: SharedWords,
}

/// What is known of an identity.
#[derive(Clone, Default)]
pub struct Record {
    /// The keys that were fetched last.
    pub keys: Option<Keys>,
    /// When they expire, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
    /// When to fetch them again.
    pub refresh_at_ms: u64,
    /// How often that has failed since it last succeeded.
    pub failures: u32,
}

/// One identity's place in the table.
pub struct Slot<'t> {
    words: &'t SharedWords,
    number: u64,
}

impl Table {
    /// A table without identities. To be made before the processes that share it.
    pub fn new() -> io::Result<Self> {
        let len = PAGE_LEN + SLOTS * SLOT_LEN;
        let create = |flags| rustix::fs::memfd_create("usc-credentials", MemfdFlags::CLOEXEC | flags);
        // A kernel before 6.3 does not know the flag, and a later one may insist on it.
        let file = match create(MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => create(MemfdFlags::empty()),
            other => other,
        };
        let file = File::from(file?);
        file.set_len(len)?;
        let words = SharedWords::new(&file, 0..len)?;
        words.u64(0).store(random()?, Ordering::Relaxed);
        Ok(Self { words })
    }

    /// The slot of the identity with this digest; `None` where all are taken.
    pub fn slot(&self, digest: u64) -> Option<Slot<'_>> {
        let mut slots = (0..SLOTS).map(|number| Slot { words: &self.words, number });
        slots.find(|slot| match slot.word(0).compare_exchange(0, digest, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(had) => had == digest,
        })
    }
}

impl Slot<'_> {
    /// The byte of `locks` whose holder may write.
    pub fn lock_byte(&self) -> u64 {
        let table = self.words.u64(0).load(Ordering::Relaxed) & 0xffff_ffff;
        CREDENTIALS + table * SLOTS + self.number
    }

    /// The number of the current record; 0 where there is none yet.
    pub fn current(&self) -> u64 {
        self.word(8).load(Ordering::Acquire)
    }

    /// When storage last had the keys renewed, in milliseconds since 1970.
    pub fn renewed_at_ms(&self) -> &AtomicU64 {
        self.word(16)
    }

    /// Changes with each record.
    pub fn written(&self) -> &AtomicU32 {
        self.words.u32(self.at() + 24)
    }

    /// The current record and its number; `None` where there is none yet.
    pub fn read(&self) -> Option<(u64, Record)> {
        loop {
            let number = self.current();
            if number == 0 {
                return None;
            }
            let mut bytes = Zeroizing::new(Vec::with_capacity(RECORD_LEN as usize));
            for at in (0..RECORD_LEN).step_by(8) {
                // Most of it is nothing.
                if bytes.len() >= FIXED_LEN && bytes.len() >= len_of(&bytes) {
                    break;
                }
                let word = self.words.u64(self.record_at(number) + at).load(Ordering::Relaxed);
                bytes.extend_from_slice(&word.to_ne_bytes());
            }
            fence(Ordering::Acquire);
            if self.current() == number {
                return Some((number, decode(&bytes).unwrap_or_default()));
            }
        }
    }

    /// Makes `record` the current one; for who holds the lock byte. False where it is too long for a slot.
    pub fn write(&self, record: &Record) -> bool {
        let Some(mut bytes) = encode(record) else { return false };
        let number = self.current() + 1;
        // Who sees a word of this record sees as well that the one it is written over has not been current for long.
        fence(Ordering::Release);
        bytes.resize(RECORD_LEN as usize, 0);
        for (at, word) in (0..RECORD_LEN).step_by(8).zip(bytes.as_chunks().0) {
            self.words.u64(self.record_at(number) + at).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        self.word(8).store(number, Ordering::Release);
        self.written().fetch_add(1, Ordering::Release);
        true
    }

    fn record_at(&self, number: u64) -> u64 {
        self.at() + RECORDS_AT + (number & 1) * RECORD_LEN
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        self.words.u64(self.at() + at)
    }

    fn at(&self) -> u64 {
        PAGE_LEN + self.number * SLOT_LEN
    }
}

fn encode(record: &Record) -> Option<Zeroizing<Vec<u8>>> {
    let keys = record.keys.as_ref();
    let [id, secret, token] =
        [keys.map(Keys::access_key), keys.map(Keys::secret_key), keys.and_then(Keys::security_token)];
    let len = |text: Option<&str>| text.map_or(NONE, |text| text.len() as u64);
    let fixed = [
        record.expires_at_ms.unwrap_or(NONE),
        record.refresh_at_ms,
        record.failures.into(),
        len(id),
        len(secret),
        len(token),
    ];
    // Of its full length from the start: what grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(RECORD_LEN as usize));
    fixed.iter().for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
    for text in [id, secret, token].into_iter().flatten() {
        if bytes.len() + text.len() > RECORD_LEN as usize {
            bytes.zeroize();
            return None;
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    Some(bytes)
}

/// How many bytes a record has that begins so.
fn len_of(bytes: &[u8]) -> usize {
    let lens = (3..6).map(|at| word(bytes, at)).filter(|len| *len != NONE);
    lens.fold(FIXED_LEN, |sum, len| sum.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)))
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let mut rest = bytes.get(FIXED_LEN..)?;
    let mut text = |at| match word(bytes, at) {
        NONE => Some(None),
        len => {
            let (text, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            rest = after;
            Some(Some(str::from_utf8(text).ok()?))
        }
    };
    let [id, secret, token] = [text(3)?, text(4)?, text(5)?];
    let time = |at| Some(word(bytes, at)).filter(|time| *time != NONE);
    Some(Record {
        keys: id.zip(secret).map(|(id, secret)| Keys::new(id, secret, token)),
        expires_at_ms: time(0),
        refresh_at_ms: word(bytes, 1),
        failures: u32::try_from(word(bytes, 2)).ok()?,
    })
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at * 8..).and_then(|rest| rest.first_chunk()).copied().map_or(NONE, u64::from_ne_bytes)
}

/// Milliseconds since 1970.
pub(super) fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn record(id: &str, token: Option<&str>) -> Record {
        Record {
            keys: Some(Keys::new(id, &id.repeat(3), token)),
            expires_at_ms: Some(7),
            refresh_at_ms: 3,
            failures: 1,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let table = Table::new().expect("a table");
        let slot = table.slot(5).expect("a slot");
        assert!(slot.read().is_none());
        let token = "t".repeat(5000);
        for (number, token) in [(1, None), (2, Some("")), (3, Some(token.as_str())), (4, None)] {
            assert!(slot.write(&record("AKID", token)));
            let (got, read) = slot.read().expect("a record");
            let keys = read.keys.expect("keys");
            assert_eq!((got, keys.access_key(), keys.secret_key()), (number, "AKID", "AKIDAKIDAKID"));
            assert_eq!(keys.security_token(), token);
            assert_eq!((read.expires_at_ms, read.refresh_at_ms, read.failures), (Some(7), 3, 1));
        }
        assert!(slot.write(&Record::default()));
        assert!(slot.read().expect("a record").1.keys.is_none());
    }

    #[test]
    fn what_is_too_long_is_refused_and_leaves_what_was_there() {
        let table = Table::new().expect("a table");
        let slot = table.slot(5).expect("a slot");
        assert!(slot.write(&record("AKID", None)));
        assert!(!slot.write(&record("OTHER", Some(&"t".repeat(RECORD_LEN as usize)))));
        assert_eq!(slot.read().expect("a record").1.keys.expect("keys").access_key(), "AKID");
    }

    #[test]
    fn each_identity_has_a_slot_of_its_own_until_all_are_taken() {
        let (table, other) = (Table::new().expect("a table"), Table::new().expect("a table"));
        let byte = |table: &Table, digest| table.slot(digest).map(|slot| slot.lock_byte());
        let mut bytes: Vec<_> = (1..=SLOTS).filter_map(|digest| byte(&table, digest)).collect();
        assert_eq!(byte(&table, 1), Some(bytes[0]));
        assert_eq!(byte(&table, SLOTS + 1), None);
        bytes.extend(byte(&other, 1));
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len() as u64, SLOTS + 1);
    }

    #[test]
    fn who_reads_while_another_writes_never_gets_a_mixture() {
        let table = Table::new().expect("a table");
        let is_over = AtomicBool::new(false);
        let token = |id: &str| id.repeat(900);
        table.slot(5).expect("a slot").write(&record("A", Some(&token("A"))));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let slot = table.slot(5).expect("a slot");
                    while !is_over.load(Ordering::Relaxed) {
                        let keys = slot.read().expect("a record").1.keys.expect("keys");
                        let id = keys.access_key();
                        assert_eq!(keys.secret_key(), id.repeat(3));
                        assert_eq!(keys.security_token(), Some(token(id).as_str()));
                    }
                });
            }
            let slot = table.slot(5).expect("a slot");
            for id in ["A", "BB", "CCCC"].iter().cycle().take(3000) {
                assert!(slot.write(&record(id, Some(&token(id)))));
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
