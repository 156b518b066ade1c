//! The way through a fragmented MP4, box by box, reading what is not media.
//!
//! [`Scan`] yields `moov` and each `moof`. It reads in *windows*: as many bytes as fragments had before their media so
//! far, so that one read brings a `moof` and the header of the `mdat` behind it, which says where the next one is.
//! Where `sidx` or `mfra` tell ahead where fragments lie, many windows are asked for at once.
//!
//! # Invariants
//!
//! - What `sidx` and `mfra` say is a hint: which boxes are read is decided by the sizes of the boxes alone.

use std::collections::VecDeque;
use std::ops::Range;

use super::Error;
use super::boxes::{Header, Mp4Box};
use super::media::Media;

/// The first window: most inits are shorter.
const WINDOW_FIRST: u64 = 4096;
/// No window is shorter.
const WINDOW_MIN: u64 = 128;
/// No window is longer, but where a box is; so what is asked for at once stays below 16 MiB.
const WINDOW_MAX: u64 = 256 << 10;
/// Windows that are asked for at once.
const BATCH: usize = 64;
/// A box longer than that is not taken into memory. Two hours in one fragment have less.
const BOX_MAX: u64 = 256 << 20;

/// A walk over the boxes of a file.
pub struct Scan<'m, M: Media + ?Sized> {
    media: &'m M,
    len: u64,
    /// Where the next box begins.
    at: u64,
    window: Window,
    /// What was looked at of the window, or behind the init.
    used: Range<u64>,
    /// How long the next window is.
    guess: u64,
    hints: Hints,
    ahead: VecDeque<Window>,
    has_fragments: bool,
}

/// Bytes of the file.
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

/// Where fragments begin, in rising order.
#[derive(Default)]
struct Hints(VecDeque<u64>);

impl<'m, M: Media + ?Sized> Scan<'m, M> {
    /// Begins at the start of the media.
    pub fn new(media: &'m M) -> Self {
        let window = Window { start: 0, bytes: Vec::new() };
        let len = media.len();
        let hints = Hints::default();
        Self {
            media,
            len,
            at: 0,
            window,
            guess: WINDOW_FIRST,
            ahead: VecDeque::new(),
            has_fragments: false,
            used: 0..0,
            hints,
        }
    }

    /// The next `moov` or `moof`, or `None` at the end.
    pub fn next_box(&mut self) -> Result<Option<Mp4Box<'_>>, Error> {
        while self.at < self.len {
            let at = self.at;
            let room = self.len - at;
            let header = Header::read(self.bytes(at, Header::LEN_MAX.min(room))?, at, room)?;
            self.at = at + header.len;
            match &header.kind.0 {
                b"sidx" if header.len <= BOX_MAX => {
                    let sidx = Mp4Box::read(self.whole(at, &header)?, at)?;
                    if let Ok(found) = read_sidx(&sidx) {
                        self.hints.add(found, self.len);
                    }
                }
                b"moof" | b"moov" => {
                    if header.kind == b"moof" && !self.has_fragments {
                        self.begin_fragments(at);
                    }
                    return self.whole(at, &header).and_then(|bytes| Mp4Box::read(bytes, at)).map(Some);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// From here on windows are as long as a fragment wants them.
    fn begin_fragments(&mut self, at: u64) {
        self.has_fragments = true;
        self.guess = WINDOW_MIN;
        self.used = at..at;
        if self.hints.0.is_empty() {
            self.ask_mfra();
        }
    }

    /// All bytes of a box, and in the same window the header of the next one.
    fn whole(&mut self, at: u64, header: &Header) -> Result<&[u8], Error> {
        if header.len > BOX_MAX {
            let what = "is larger than any that is right";
            return Err(Error::Malformed { kind: header.kind, offset: at, what });
        }
        let with_next = header.len.saturating_add(Header::LEN_MAX).min(self.len - at);
        let bytes = self.bytes(at, with_next)?;
        Ok(&bytes[..header.len as usize])
    }

    /// `len` bytes at `at`, which lie inside the file.
    fn bytes(&mut self, at: u64, len: u64) -> Result<&[u8], Error> {
        if !(self.window.start..=self.window.end()).contains(&at) || self.window.bytes.is_empty() {
            self.open(at)?;
        }
        let end = at + len;
        if end > self.window.end() {
            let more = self.read_one(self.window.end()..end)?;
            self.window.bytes.extend(more);
        }
        self.used.end = self.used.end.max(end);
        let from = (at - self.window.start) as usize;
        Ok(&self.window.bytes[from..from + len as usize])
    }

    /// Opens the window at `at`, and those of the hints behind it.
    fn open(&mut self, at: u64) -> Result<(), Error> {
        if self.has_fragments {
            // Fragments vary; one that was long is remembered for a while.
            let used = self.used.end - self.used.start;
            self.guess = (used + used / 4).max(self.guess - self.guess / 256).clamp(WINDOW_MIN, WINDOW_MAX);
        }
        self.used = at..at;
        self.hints.drop_before(at);
        while self.ahead.front().is_some_and(|window| window.start < at) {
            self.ahead.pop_front();
        }
        if self.ahead.front().is_none_or(|window| window.start != at) {
            self.ahead.clear();
            if self.hints.0.front() != Some(&at) {
                self.window.start = at;
                let range = at..(at + self.guess).min(self.len);
                let read = self.media.read_into(range, &mut self.window.bytes);
                return read.map_err(|source| Error::Read { offset: at, source });
            }
            self.read_ahead()?;
        }
        self.window = self.ahead.pop_front().expect("the window at this place was read");
        Ok(())
    }

    /// Reads the windows at the next places that are known.
    fn read_ahead(&mut self) -> Result<(), Error> {
        let starts: Vec<u64> = self.hints.0.iter().take(BATCH).copied().collect();
        // Fragments come next to each other where they are short.
        let ends = starts.iter().skip(1).copied().chain([self.len]);
        let ranges: Vec<_> =
            starts.iter().zip(ends).map(|(start, end)| *start..(start + self.guess).min(end)).collect();
        let read = self.read(&ranges)?;
        self.ahead = starts.into_iter().zip(read).map(|(start, bytes)| Window { start, bytes }).collect();
        self.complete()
    }

    /// Reads what is missing of fragments' boxes that were a little longer than their windows.
    fn complete(&mut self) -> Result<(), Error> {
        if self.ahead.len() < 2 {
            return Ok(());
        }
        let missing = |window: &Window| {
            let wanted = window.boxes_len(self.len)?;
            (wanted > window.end() && wanted - window.start <= WINDOW_MAX).then_some(window.end()..wanted)
        };
        let short: Vec<(usize, Range<u64>)> =
            self.ahead.iter().enumerate().filter_map(|(number, window)| Some((number, missing(window)?))).collect();
        let ranges: Vec<_> = short.iter().map(|(_, range)| range.clone()).collect();
        if ranges.is_empty() {
            return Ok(());
        }
        for ((number, _), bytes) in short.iter().zip(self.read(&ranges)?) {
            self.ahead[*number].bytes.extend(bytes);
        }
        Ok(())
    }

    /// Takes hints from `mfra`, whose last box says at the end of the file how long it is (section 8.8.11). It may
    /// be anything: where it cannot be read there are no hints.
    fn ask_mfra(&mut self) {
        const MFRO_LEN: u64 = 16;
        if self.len < MFRO_LEN {
            return;
        }
        let Ok(tail) = self.read_one(self.len - MFRO_LEN..self.len) else { return };
        let Some((b"mfro", size)) = tail[4..].split_first_chunk() else { return };
        let Some(size) = size.last_chunk().map(|size| u64::from(u32::from_be_bytes(*size))) else { return };
        let Some(start) = self.len.checked_sub(size).filter(|_| size <= BOX_MAX) else { return };
        if let Ok(bytes) = self.read_one(start..self.len)
            && let Ok(mfra) = Mp4Box::read(&bytes, start)
            && mfra.kind == b"mfra"
            && let Ok(found) = read_mfra(&mfra)
        {
            self.hints.add(found, self.len);
        }
    }

    fn read_one(&self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        self.read(std::slice::from_ref(&range)).map(|mut read| read.pop().unwrap_or_default())
    }

    fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, Error> {
        let offset = ranges.first().map_or(0, |range| range.start);
        self.media.read(ranges).map_err(|source| Error::Read { offset, source })
    }
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Where the header behind the first `moof` ends, of a file of `len` bytes, as far as that can be seen.
    fn boxes_len(&self, len: u64) -> Option<u64> {
        let mut at = self.start;
        loop {
            let bytes = self.bytes.get((at - self.start) as usize..)?;
            let header = Header::read(bytes, at, len - at).ok()?;
            at += header.len;
            if header.kind == b"moof" {
                return (header.len <= BOX_MAX).then_some(at.saturating_add(Header::LEN_MAX).min(len));
            }
        }
    }
}

impl Hints {
    /// Adds places in a file of `len` bytes; those before the last one that is known are left out.
    fn add(&mut self, mut places: Vec<u64>, len: u64) {
        places.sort_unstable();
        for place in places {
            if place < len && self.0.back().is_none_or(|last| *last < place) {
                self.0.push_back(place);
            }
        }
    }

    fn drop_before(&mut self, at: u64) {
        while self.0.front().is_some_and(|place| *place < at) {
            self.0.pop_front();
        }
    }
}

/// Where the subsegments begin that `sidx` lists (section 8.16.3).
fn read_sidx(sidx: &Mp4Box<'_>) -> Result<Vec<u64>, Error> {
    let (version, _, mut fields) = sidx.full()?;
    fields.bytes(8)?;
    fields.wide(version)?;
    let first_offset = fields.wide(version)?;
    let count = fields.u32()? & 0xffff;
    let (entries, _) = fields.table(count, 12)?.as_chunks::<12>();
    let mut at = (sidx.offset + sidx.bytes.len() as u64).saturating_add(first_offset);
    let mut places = Vec::new();
    for [a, b, c, d, ..] in entries {
        places.push(at);
        at = at.saturating_add(u64::from(u32::from_be_bytes([*a, *b, *c, *d]) & 0x7fff_ffff));
    }
    Ok(places)
}

/// Where the fragments begin that `mfra` lists (section 8.8.10).
fn read_mfra(mfra: &Mp4Box<'_>) -> Result<Vec<u64>, Error> {
    let mut places = Vec::new();
    for child in mfra.children() {
        let child = child?;
        if child.kind != b"tfra" {
            continue;
        }
        let (version, _, mut fields) = child.full()?;
        fields.u32()?;
        let lengths = fields.u32()?;
        let count = fields.u32()?;
        let wide = if version == 0 { 4 } else { 8 };
        // Numbers of traf, trun and sample, of 1 to 4 bytes each.
        let numbers = [4, 2, 0].map(|shift| (lengths >> shift & 3) as usize + 1).iter().sum::<usize>();
        for entry in fields.table(count, 2 * wide + numbers)?.chunks_exact(2 * wide + numbers) {
            places.push(entry[wide..2 * wide].iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
        }
    }
    Ok(places)
}
