//! Boxes into bytes: the inverse of `boxes.rs`.

use super::table::{Chunk, Runs, Table};

/// Bytes to which boxes are added.
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Adds a box whose body `body` writes. Boxes of ours stay below 4 GiB, as a moov that is read does, and the tables of an
    /// index (`INDEX_LEN_MAX`).
    pub fn boxed<T>(&mut self, kind: &[u8; 4], body: impl FnOnce(&mut Self) -> T) -> T {
        let start = self.0.len();
        self.u32(0);
        self.0.extend(kind);
        let result = body(self);
        let len = u32::try_from(self.0.len() - start).expect("tables are bounded");
        self.0[start..start + 4].copy_from_slice(&len.to_be_bytes());
        result
    }

    /// Adds a full box (ISO/IEC 14496-12, section 4.2.2).
    pub fn full(&mut self, kind: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Self)) {
        self.boxed(kind, |out| {
            out.u32(u32::from(version) << 24 | flags);
            body(out);
        });
    }

    /// Adds 16 bits.
    pub fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    /// Adds 32 bits.
    pub fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    /// Adds 64 bits.
    pub fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("a count of samples at most"));
    }

    /// Adds the sample tables (section 8.6 and 8.7): all that stands behind `stsd`.
    pub fn tables(&mut self, table: &Table) {
        self.full(b"stts", 0, 0, |out| out.runs(&table.durations));
        if table.compositions.runs().iter().any(|(_, offset)| *offset != 0) {
            self.full(b"ctts", table.negative.into(), 0, |out| out.runs(&table.compositions));
        }
        if table.syncs.runs().iter().any(|(_, sync)| *sync == 0) {
            self.full(b"stss", 0, 0, |out| out.syncs(table));
        }
        self.full(b"stsz", 0, 0, |out| out.sizes(table));
        self.full(b"stsc", 0, 0, |out| out.chunk_lengths(&table.chunks));
        if table.chunks.iter().all(|chunk| chunk.offset <= u32::MAX.into()) {
            self.full(b"stco", 0, 0, |out| {
                out.count(table.chunks.len());
                table.chunks.iter().for_each(|chunk| out.u32(chunk.offset as u32));
            });
        } else {
            self.full(b"co64", 0, 0, |out| {
                out.count(table.chunks.len());
                table.chunks.iter().for_each(|chunk| out.u64(chunk.offset));
            });
        }
    }

    fn runs(&mut self, runs: &Runs) {
        self.count(runs.runs().len());
        for (count, value) in runs.runs() {
            self.u64(u64::from(*count) << 32 | u64::from(*value));
        }
    }

    fn syncs(&mut self, table: &Table) {
        self.u32(u32::try_from(table.sync_samples()).expect("no more than there are samples"));
        let mut number = 1;
        for (count, sync) in table.syncs.runs() {
            if *sync == 1 {
                (number..=number + (count - 1)).for_each(|number| self.u32(number));
            }
            // Behind the last of 2^32-1 samples this is 0, and not used.
            number = number.wrapping_add(*count);
        }
    }

    fn sizes(&mut self, table: &Table) {
        // A size of 0 in the head means that a table follows.
        let uniform = table.sizes.uniform().filter(|size| *size != 0);
        self.u32(uniform.unwrap_or(0));
        self.u32(table.samples);
        if uniform.is_none() {
            for (count, size) in table.sizes.runs() {
                (0..*count).for_each(|_| self.u32(*size));
            }
        }
    }

    fn chunk_lengths(&mut self, chunks: &[Chunk]) {
        let at = self.0.len();
        self.u32(0);
        let mut before = None;
        let mut runs = 0u32;
        for (number, chunk) in (1..).zip(chunks) {
            let this = (chunk.samples, chunk.description);
            if before != Some(this) {
                self.u32(number);
                self.u32(chunk.samples);
                self.u32(chunk.description);
                before = Some(this);
                runs += 1;
            }
        }
        self.0[at..at + 4].copy_from_slice(&runs.to_be_bytes());
    }
}
