//! The samples of an index, or of any flat MP4, out of its tables as they lie there.
//!
//! [`read_moov`] gets the `moov`, [`Tables::read`] holds a track's tables against each other, and
//! [`Tables::samples`] walks them without expanding them. [`fingerprints`] says what the media was.
//!
//! # Invariants
//!
//! - [`Tables`] that were read agree on the number of samples, so that walking them cannot fail.

use super::Error;
use super::boxes::{Boxes, Mp4Box};
use super::index::FINGERPRINT;
use super::media::Media;
use super::moov::Track;
use super::scan::Scan;

/// The bytes of the first `moov` of a file, and where it begins.
pub fn read_moov(media: &(impl Media + ?Sized)) -> Result<(Vec<u8>, u64), Error> {
    match Scan::new(media).next_box()? {
        Some(moov) if moov.kind == b"moov" => Ok((moov.bytes.to_vec(), moov.offset)),
        Some(moof) => Err(moof.malformed("stands before any moov")),
        None => Err(Error::NotFound("has no moov")),
    }
}

/// A sample, as the tables have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatSample {
    /// Where it begins in the media.
    pub offset: u64,
    /// In bytes.
    pub size: u32,
    /// From the first sample, in units of the media.
    pub decode_time: u64,
    /// In units of the media.
    pub duration: u32,
    /// In units of the media.
    pub composition_offset: i64,
    /// Whether decoding can begin here.
    pub sync: bool,
    /// The sample entry, from 1.
    pub description: u32,
}

/// The sample tables of a track.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    durations: &'a [[u8; 8]],
    compositions: Option<&'a [[u8; 8]]>,
    signed: bool,
    syncs: Option<&'a [[u8; 4]]>,
    size: u32,
    sizes: &'a [[u8; 4]],
    /// Number of the samples.
    pub samples: u32,
    chunk_lengths: &'a [[u8; 12]],
    offsets: Offsets<'a>,
}

/// Where chunks begin.
#[derive(Clone, Copy)]
enum Offsets<'a> {
    Short(&'a [[u8; 4]]),
    Long(&'a [[u8; 8]]),
}

impl<'a> Tables<'a> {
    /// Reads the tables of `track`.
    pub fn read(track: &Track<'a>) -> Result<Self, Error> {
        let stbl = &track.stbl;
        let stsz = stbl.need(b"stsz")?;
        let (_, _, mut fields) = stsz.full()?;
        let (size, samples) = (fields.u32()?, fields.u32()?);
        let sizes = if size == 0 { fields.table(samples, 4)?.as_chunks().0 } else { &[] };
        let ctts = stbl.child(b"ctts")?;
        let tables = Self {
            durations: entries(&stbl.need(b"stts")?)?,
            compositions: ctts.as_ref().map(entries).transpose()?,
            signed: ctts.as_ref().is_some_and(|ctts| ctts.body().first() == Some(&1)),
            syncs: stbl.child(b"stss")?.as_ref().map(entries).transpose()?,
            size,
            sizes,
            samples,
            chunk_lengths: entries(&stbl.need(b"stsc")?)?,
            offsets: match stbl.child(b"co64")? {
                Some(co64) => Offsets::Long(entries(&co64)?),
                None => Offsets::Short(entries(&stbl.need(b"stco")?)?),
            },
        };
        tables.check(stbl)?;
        Ok(tables)
    }

    /// Whether all tables are of as many samples as there are sizes.
    fn check(&self, stbl: &Mp4Box<'_>) -> Result<(), Error> {
        let samples = u64::from(self.samples);
        let sum = |runs: &[[u8; 8]]| runs.iter().map(|run| u64::from(pair(run).0)).sum::<u64>();
        if sum(self.durations) != samples {
            return Err(stbl.malformed("has not as many durations (stts) as sizes (stsz)"));
        }
        if self.compositions.is_some_and(|runs| sum(runs) != samples) {
            return Err(stbl.malformed("has not as many composition offsets (ctts) as sizes (stsz)"));
        }
        if self.samples_in_chunks() != Some(samples) {
            return Err(stbl.malformed("has not as many samples in chunks (stsc, stco) as sizes (stsz)"));
        }
        let syncs = self.syncs.unwrap_or_default();
        let rising = syncs.is_sorted_by(|a, b| u32::from_be_bytes(*a) < u32::from_be_bytes(*b));
        let inside = |number: &[u8; 4]| (1..=self.samples).contains(&u32::from_be_bytes(*number));
        if !rising || !syncs.iter().all(inside) {
            return Err(stbl.malformed("has sync samples (stss) that it does not have, or not in order"));
        }
        Ok(())
    }

    /// The sum of the lengths of all chunks, `None` if `stsc` is not in order.
    fn samples_in_chunks(&self) -> Option<u64> {
        let chunks = self.offsets.len();
        let starts = self.chunk_lengths.iter().map(|run| first_chunk(run).0);
        let ends = starts.clone().skip(1).chain([chunks.checked_add(1)?]);
        let mut expected = 1;
        let mut sum = 0u64;
        for ((run, start), end) in self.chunk_lengths.iter().zip(starts).zip(ends) {
            // The first run begins with chunk 1, and none is empty.
            if start < expected || (expected == 1 && start != 1) || end <= start {
                return None;
            }
            expected = end;
            sum = sum.checked_add(u64::from(end - start) * u64::from(first_chunk(run).1))?;
        }
        Some(sum)
    }

    /// The samples in decoding order.
    pub fn samples(&self) -> Samples<'a> {
        Samples {
            tables: *self,
            number: 0,
            durations: RunCursor::new(self.durations),
            compositions: RunCursor::new(self.compositions.unwrap_or_default()),
            syncs: self.syncs.unwrap_or_default(),
            chunk: 0,
            chunk_run: 0,
            left_in_chunk: 0,
            at: 0,
            decode_time: 0,
        }
    }
}

impl Offsets<'_> {
    fn len(&self) -> u32 {
        // Their count was read as 32 bits.
        match self {
            Self::Short(offsets) => offsets.len() as u32,
            Self::Long(offsets) => offsets.len() as u32,
        }
    }

    fn nth(&self, number: usize) -> Option<u64> {
        match self {
            Self::Short(offsets) => offsets.get(number).map(|offset| u32::from_be_bytes(*offset).into()),
            Self::Long(offsets) => offsets.get(number).map(|offset| u64::from_be_bytes(*offset)),
        }
    }
}

/// A walk over the samples of a track.
pub struct Samples<'a> {
    tables: Tables<'a>,
    number: u32,
    durations: RunCursor<'a>,
    compositions: RunCursor<'a>,
    syncs: &'a [[u8; 4]],
    /// The next chunk, from 0.
    chunk: u32,
    /// The run of `stsc` that holds for it.
    chunk_run: usize,
    left_in_chunk: u32,
    at: u64,
    decode_time: u64,
}

impl Samples<'_> {
    /// Goes to the next chunk that is not empty.
    fn open_chunk(&mut self) -> Option<()> {
        while self.left_in_chunk == 0 {
            self.at = self.tables.offsets.nth(self.chunk as usize)?;
            self.chunk += 1;
            let next = self.tables.chunk_lengths.get(self.chunk_run + 1);
            if next.is_some_and(|run| first_chunk(run).0 == self.chunk) {
                self.chunk_run += 1;
            }
            self.left_in_chunk = first_chunk(self.tables.chunk_lengths.get(self.chunk_run)?).1;
        }
        Some(())
    }

    fn is_sync(&mut self) -> bool {
        if self.tables.syncs.is_none() {
            return true;
        }
        match self.syncs.split_first() {
            Some((first, rest)) if u32::from_be_bytes(*first) == self.number + 1 => {
                self.syncs = rest;
                true
            }
            _ => false,
        }
    }
}

impl Iterator for Samples<'_> {
    type Item = FlatSample;

    fn next(&mut self) -> Option<FlatSample> {
        if self.number == self.tables.samples {
            return None;
        }
        self.open_chunk()?;
        let size =
            self.tables.sizes.get(self.number as usize).map_or(self.tables.size, |size| u32::from_be_bytes(*size));
        let composition = self.compositions.next().unwrap_or(0);
        let sample = FlatSample {
            offset: self.at,
            size,
            decode_time: self.decode_time,
            duration: self.durations.next()?,
            composition_offset: if self.tables.signed { (composition as i32).into() } else { composition.into() },
            sync: self.is_sync(),
            description: u32::from_be_bytes(*self.tables.chunk_lengths.get(self.chunk_run)?.last_chunk()?),
        };
        self.number += 1;
        self.left_in_chunk -= 1;
        // A foreign index may say anything; an offset past 64 bits lies outside any media.
        self.at = self.at.saturating_add(size.into());
        self.decode_time += u64::from(sample.duration);
        Some(sample)
    }
}

/// A walk over runs of a count and a value.
struct RunCursor<'a> {
    runs: &'a [[u8; 8]],
    left: u32,
    value: u32,
}

impl<'a> RunCursor<'a> {
    fn new(runs: &'a [[u8; 8]]) -> Self {
        Self { runs, left: 0, value: 0 }
    }

    #[inline]
    fn next(&mut self) -> Option<u32> {
        while self.left == 0 {
            let (run, rest) = self.runs.split_first()?;
            self.runs = rest;
            (self.left, self.value) = pair(run);
        }
        self.left -= 1;
        Some(self.value)
    }
}

/// The entries of a full box that begins with their count.
fn entries<'a, const N: usize>(table: &Mp4Box<'a>) -> Result<&'a [[u8; N]], Error> {
    let (_, _, mut fields) = table.full()?;
    let count = fields.u32()?;
    Ok(fields.table(count, N)?.as_chunks().0)
}

fn pair(run: &[u8; 8]) -> (u32, u32) {
    let [a, b, c, d, rest @ ..] = *run;
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest))
}

/// The first chunk of a run of `stsc`, and the samples in each.
fn first_chunk(run: &[u8; 12]) -> (u32, u32) {
    run.first_chunk().map(pair).expect("8 of 12 bytes")
}

/// What the media of a track was when it was indexed (docs/index-mp4.md, "The fingerprint").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The track's number in the index.
    pub track_id: u32,
    /// Its number in the media.
    pub source_track_id: u32,
    /// Length of the media in bytes.
    pub media_len: u64,
    /// ETag of the media, quotes included, if storage gave one.
    pub etag: Option<String>,
}

/// The fingerprints that an index carries, `file` being all of it; none if another program made it.
pub fn fingerprints(file: &[u8]) -> Result<Vec<Fingerprint>, Error> {
    for found in Boxes::new(file, 0) {
        let found = found?;
        if found.kind == b"uuid" && found.body().starts_with(&FINGERPRINT) {
            return read_fingerprints(&found);
        }
    }
    Ok(Vec::new())
}

fn read_fingerprints(uuid: &Mp4Box<'_>) -> Result<Vec<Fingerprint>, Error> {
    let mut fields = uuid.fields();
    fields.bytes(FINGERPRINT.len())?;
    if fields.u32()? != 0 {
        return Err(uuid.unsupported("is of another version of uspcache"));
    }
    let count = fields.u32()?;
    let mut all = Vec::new();
    for _ in 0..count {
        let (track_id, source_track_id, media_len) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let etag = std::str::from_utf8(fields.text()).map_err(|_| uuid.malformed("has an ETag that is no UTF-8"))?;
        let etag = Some(etag.to_owned()).filter(|etag| !etag.is_empty());
        all.push(Fingerprint { track_id, source_track_id, media_len, etag });
    }
    Ok(all)
}
