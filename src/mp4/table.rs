//! The sample tables of a track while they grow: runs of what is alike.
//!
//! [`Table`] takes samples in decoding order, chunk by chunk, and holds them as [`Runs`]; `index.rs` writes them.
//!
//! # Invariants
//!
//! - Memory grows with the boxes that were read, never with the number of samples that they claim.
//! - The counts of all runs sum up to the same number, that of the samples.

use std::iter;

/// Values with the number of times that each stands one behind the other. Neighbours differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<(u32, u32)>);

impl Runs {
    /// Adds `count` times `value`. The sum of all counts has to stay in 32 bits.
    #[inline]
    fn push(&mut self, count: u32, value: u32) {
        match self.0.last_mut() {
            _ if count == 0 => {}
            Some((last, same)) if *same == value => *last += count,
            _ => self.0.push((count, value)),
        }
    }

    /// Adds what `value` makes of a column of `count` fields.
    #[inline]
    fn extend(&mut self, count: u32, column: Column<'_>, value: impl Fn(u32) -> u32) {
        match column {
            Column::Same(field) => self.push(count, value(field)),
            Column::Each { words, width } => rows(words, width).for_each(|field| self.push(1, value(field))),
        }
    }

    /// Takes the last value off.
    fn pop(&mut self) -> Option<u32> {
        let (count, value) = self.0.last_mut()?;
        let value = *value;
        *count -= 1;
        if *count == 0 {
            self.0.pop();
        }
        Some(value)
    }

    /// The runs: count and value.
    pub fn runs(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// The value of all, if there is just one.
    pub fn uniform(&self) -> Option<u32> {
        match self.0[..] {
            [(_, value)] => Some(value),
            _ => None,
        }
    }
}

/// A field of samples that follow each other.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    /// The same for all.
    Same(u32),
    /// For each sample the first word of its row, in big-endian order.
    Each {
        /// From that of the first sample on.
        words: &'a [[u8; 4]],
        /// Words of a row.
        width: usize,
    },
}

impl Column<'_> {
    /// The field of one sample after the other, without an end where it is the same for all.
    pub fn values(self) -> impl Iterator<Item = u32> {
        let (same, words, width) = match self {
            Self::Same(value) => (Some(value), &[][..], 1),
            Self::Each { words, width } => (None, words, width),
        };
        let mut rows = rows(words, width);
        iter::from_fn(move || same.or_else(|| rows.next()))
    }

    /// The sum of the fields of all `count` samples, which cannot leave 64 bits.
    pub fn sum(self, count: u32) -> u64 {
        match self {
            Self::Same(value) => u64::from(count) * u64::from(value),
            Self::Each { words, width } => rows(words, width).map(u64::from).sum(),
        }
    }
}

/// The first word of each row.
fn rows(words: &[[u8; 4]], width: usize) -> impl Iterator<Item = u32> {
    words.iter().step_by(width).map(|word| u32::from_be_bytes(*word))
}

/// What a fragment says of samples that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    /// How many there are.
    pub count: u32,
    /// In units of the media.
    pub durations: Column<'a>,
    /// In bytes.
    pub sizes: Column<'a>,
    /// The 32 bits of the composition offsets, signed if `signed`.
    pub compositions: Column<'a>,
    /// Whether composition offsets are signed (version 1).
    pub signed: bool,
    /// The sample flags (section 8.8.3.1).
    pub flags: Column<'a>,
    /// Those of the first sample, if they are others than the same for all.
    pub first_flags: Option<u32>,
}

impl Samples<'_> {
    /// A composition offset in units of the media.
    pub fn composition_offset(&self, bits: u32) -> i64 {
        if self.signed { i64::from(bits as i32) } else { i64::from(bits) }
    }
}

/// Samples that lie one behind the other in the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where the first one begins in the media.
    pub offset: u64,
    /// How many, never 0.
    pub samples: u32,
    /// Their sample entry, from 1.
    pub description: u32,
}

/// *sample_is_non_sync_sample* of the sample flags (section 8.8.3.1).
const NON_SYNC: u32 = 0x0001_0000;
/// Starts and durations stay below, so that their sums fit 63 bits.
const TIME_MAX: u64 = 1 << 61;

/// Why samples do not fit a table, as the rest of a sentence that begins with the box that holds them.
pub type Refusal = &'static str;

/// The samples of a track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Durations of the samples.
    pub durations: Runs,
    /// Bits of the composition offsets.
    pub compositions: Runs,
    /// Sizes in bytes.
    pub sizes: Runs,
    /// 1 for a sync sample, else 0.
    pub syncs: Runs,
    /// Where the samples lie.
    pub chunks: Vec<Chunk>,
    /// How many samples there are.
    pub samples: u32,
    /// Decode time of the first sample; before 0 where samples only prime a decoder.
    pub start: i64,
    /// Sum of the durations.
    pub duration: u64,
    /// When the last sample's composition ends, from the decode time of the first sample.
    pub composition_end: i64,
    /// Whether a composition offset is negative.
    pub negative: bool,
    large: bool,
}

impl Table {
    /// Begins a chunk whose first sample decodes at `time`, if that is known, and lies at `offset`.
    pub fn begin(&mut self, time: Option<i64>, offset: u64, description: u32) -> Result<(), Refusal> {
        if let Some(time) = time {
            self.move_to(time)?;
        }
        self.chunks.push(Chunk { offset, samples: 0, description });
        Ok(())
    }

    /// Makes `time` the decode time of what comes next: the last sample lasts until then.
    fn move_to(&mut self, time: i64) -> Result<(), Refusal> {
        if time.unsigned_abs() >= TIME_MAX {
            return Err("has a decode time too large to count with");
        }
        if self.samples == 0 {
            self.start = time;
            return Ok(());
        }
        // Both summands are less than TIME_MAX.
        let gap = u64::try_from(time - (self.start + self.duration as i64))
            .map_err(|_| "has a decode time before the end of the fragment before")?;
        if gap == 0 {
            return Ok(());
        }
        let last = self.durations.pop().expect("there is a sample");
        let longer = u64::from(last).checked_add(gap).and_then(|longer| u32::try_from(longer).ok());
        self.durations.push(1, longer.ok_or("leaves a gap that is too long for one sample")?);
        self.duration += gap;
        Ok(())
    }

    /// Adds samples to the chunk that was begun last.
    pub fn push(&mut self, new: &Samples<'_>) -> Result<(), Refusal> {
        self.samples = self.samples.checked_add(new.count).ok_or("has more samples than a table can count")?;
        self.chunks.last_mut().expect("a chunk was begun").samples += new.count;
        let begin = self.duration;
        let duration = begin.checked_add(new.durations.sum(new.count));
        self.duration = duration.filter(|sum| *sum < TIME_MAX).ok_or("lasts longer than can be counted")?;
        self.compose(begin, new)?;
        self.durations.extend(new.count, new.durations, |duration| duration);
        self.compositions.extend(new.count, new.compositions, |bits| bits);
        self.sizes.extend(new.count, new.sizes, |size| size);
        let sync = |flags| u32::from(flags & NON_SYNC == 0);
        let first = new.first_flags.filter(|_| new.count > 0);
        first.iter().for_each(|flags| self.syncs.push(1, sync(*flags)));
        self.syncs.extend(new.count - first.iter().count() as u32, new.flags, sync);
        Ok(())
    }

    /// Takes the composition offsets of samples of which the first decodes at `begin`, and that last until `duration`.
    fn compose(&mut self, begin: u64, new: &Samples<'_>) -> Result<(), Refusal> {
        let mut any = 0;
        match new.compositions {
            _ if new.count == 0 => {}
            Column::Same(bits) => {
                any = bits;
                self.composition_end = self.composition_end.max(self.duration as i64 + new.composition_offset(bits));
            }
            Column::Each { .. } => {
                let mut time = begin as i64;
                for (bits, duration) in new.compositions.values().zip(new.durations.values()) {
                    any |= bits;
                    time += i64::from(duration);
                    self.composition_end = self.composition_end.max(time + new.composition_offset(bits));
                }
            }
        }
        if any >> 31 != 0 {
            *(if new.signed { &mut self.negative } else { &mut self.large }) = true;
        }
        if self.negative && self.large {
            return Err("has composition offsets too large to stand beside negative ones");
        }
        Ok(())
    }

    /// Drops the chunk that was begun last if nothing was added to it.
    pub fn close(&mut self) {
        self.chunks.pop_if(|chunk| chunk.samples == 0);
    }

    /// Bytes of the tables that are written out sample by sample.
    pub fn expanded_len(&self) -> u64 {
        // A size of 0 for all cannot be told from a table of sizes (section 8.7.3.2).
        let is_uniform = self.sizes.uniform().is_some_and(|size| size != 0);
        let sizes = if is_uniform { 0 } else { u64::from(self.samples) };
        4 * (sizes + self.sync_samples())
    }

    /// Bytes that the tables take at most in an index.
    pub fn written_len_max(&self) -> u64 {
        let runs = self.durations.runs().len() + self.compositions.runs().len();
        self.expanded_len() + 8 * runs as u64 + 20 * self.chunks.len() as u64
    }

    /// The number of sync samples that have to be listed: none if all are.
    pub fn sync_samples(&self) -> u64 {
        if self.syncs.uniform() == Some(1) {
            return 0;
        }
        self.syncs.runs().iter().filter(|(_, sync)| *sync == 1).map(|(count, _)| u64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: Samples<'_> = Samples {
        count: 1,
        durations: Column::Same(10),
        sizes: Column::Same(1),
        compositions: Column::Same(0),
        signed: false,
        flags: Column::Same(0),
        first_flags: None,
    };

    fn table(parts: &[(Option<i64>, u32)]) -> Result<Table, Refusal> {
        let mut table = Table::default();
        for (time, count) in parts {
            table.begin(*time, 0, 1)?;
            table.push(&Samples { count: *count, ..SAMPLE })?;
            table.close();
        }
        Ok(table)
    }

    /// Each row: times and counts of chunks; the start and the runs of durations.
    type Row<'a> = (&'a str, &'a [(Option<i64>, u32)], Option<(i64, &'a [(u32, u32)])>);

    #[test]
    fn decode_times_lengthen_what_was_before_and_never_shorten_it() {
        let rows: [Row<'_>; 10] = [
            ("none", &[(None, 2), (None, 1)], Some((0, &[(3, 10)]))),
            ("as they follow", &[(Some(0), 2), (Some(20), 1)], Some((0, &[(3, 10)]))),
            ("a late start", &[(Some(7), 2), (Some(27), 1)], Some((7, &[(3, 10)]))),
            ("an early start", &[(Some(-7), 2), (Some(14), 1)], Some((-7, &[(1, 10), (1, 11), (1, 10)]))),
            ("a gap", &[(Some(0), 2), (Some(25), 1)], Some((0, &[(1, 10), (1, 15), (1, 10)]))),
            ("a gap after one", &[(Some(0), 1), (Some(15), 1)], Some((0, &[(1, 15), (1, 10)]))),
            ("back", &[(Some(0), 2), (Some(19), 1)], None),
            ("before the start", &[(Some(7), 2), (Some(0), 1)], None),
            ("a gap too long", &[(Some(0), 2), (Some(1 << 33), 1)], None),
            ("no time to count with", &[(Some(i64::MAX), 1)], None),
        ];
        for (row, parts, want) in rows {
            let got = table(parts).ok();
            let got = got.as_ref().map(|table| (table.start, table.durations.runs()));
            assert_eq!(got, want, "{row}");
        }
    }

    #[test]
    fn billions_of_samples_that_are_alike_take_no_memory() {
        let table = table(&[(Some(0), u32::MAX)]).expect("they can be counted");
        assert_eq!((table.durations.runs().len(), table.sizes.uniform(), table.expanded_len()), (1, Some(1), 0));
        assert_eq!(table.duration, 10 * u64::from(u32::MAX));
        let mut more = table.clone();
        assert!(more.push(&SAMPLE).is_err(), "2^32 samples");
    }

    #[test]
    fn an_empty_chunk_is_none() {
        let table = table(&[(Some(0), 0), (None, 1), (Some(30), 0)]).expect("it fits");
        assert_eq!((table.chunks.len(), table.samples), (1, 1));
    }

    #[test]
    fn composition_offsets_are_of_one_sign_or_small() {
        let rows = [
            ("negative", &[(0xffff_ffff, true)][..], Some(true)),
            ("large", &[(0xffff_ffff, false)], Some(false)),
            ("small and negative", &[(1, false), (0xffff_ffff, true)], Some(true)),
            ("large and negative", &[(0xffff_ffff, false), (0xffff_ffff, true)], None),
        ];
        for (row, offsets, want) in rows {
            let mut table = Table::default();
            table.begin(None, 0, 1).expect(row);
            let pushed = offsets.iter().try_for_each(|(composition, signed)| {
                table.push(&Samples { compositions: Column::Same(*composition), signed: *signed, ..SAMPLE })
            });
            assert_eq!(pushed.ok().map(|()| table.negative), want, "{row}");
        }
    }

    proptest! {
        #[test]
        fn samples_are_the_same_together_and_one_by_one(
            rows in prop::collection::vec(prop::array::uniform4(prop_oneof![Just(0), 0..4u32, any::<u32>()]), 1..20),
            signed: bool,
        ) {
            let words: Vec<[u8; 4]> = rows.iter().flatten().map(|word| word.to_be_bytes()).collect();
            let column = |at| Column::Each { words: &words[at..], width: 4 };
            let push = |table: &mut Table, count, columns: [Column<'_>; 4]| {
                let [durations, sizes, flags, compositions] = columns;
                table.push(&Samples { count, durations, sizes, compositions, signed, flags, first_flags: None })
            };
            let (mut together, mut apart) = (Table::default(), Table::default());
            together.begin(None, 0, 1).expect("a chunk");
            apart.begin(None, 0, 1).expect("a chunk");
            let pushed = push(&mut together, rows.len() as u32, [0, 1, 2, 3].map(column));
            let one_by_one = rows.iter().try_for_each(|row| push(&mut apart, 1, row.map(Column::Same)));
            prop_assert_eq!(pushed, one_by_one);
            if pushed.is_ok() {
                prop_assert_eq!(together, apart);
            }
        }

        #[test]
        fn runs_hold_what_was_pushed(values in prop::collection::vec((1u32..5, 0u32..3), 0..50)) {
            let mut runs = Runs::default();
            values.iter().for_each(|(count, value)| runs.push(*count, *value));
            let expand = |runs: &[(u32, u32)]| {
                runs.iter().flat_map(|(count, value)| vec![*value; *count as usize]).collect::<Vec<_>>()
            };
            let mut want = expand(&values);
            prop_assert_eq!(expand(runs.runs()), want.clone());
            prop_assert!(runs.runs().windows(2).all(|pair| pair[0].1 != pair[1].1));
            prop_assert_eq!(runs.pop(), want.pop());
            prop_assert_eq!(expand(runs.runs()), want);
        }
    }
}
