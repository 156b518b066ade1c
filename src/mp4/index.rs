//! An index MP4 out of what was read of fragmented ones (docs/index-mp4.md).

use super::boxes::{FourCc, Mp4Box};
use super::moov::{Edit, Moov, Track};
use super::source::Source;
use super::table::Table;
use super::write::Writer;
use super::{Error, INDEX_LEN_MAX};

/// The user type of the box that says what the media was.
pub const FINGERPRINT: [u8; 16] = *b"\x5a\x1e\x5c\x3d\x8a\x0b\x4c\x1e\x9d\x27\x75\x73\x70\x63\x61\x6e";
/// Units a second of the movie's times where the media's have no multiple in 32 bits.
const TIMESCALE: u32 = 90_000;

/// A track on its way into the index.
struct Entry<'a> {
    source: &'a Source,
    location: &'a str,
    track: Track<'a>,
    table: &'a Table,
    /// Its number in the index.
    id: u32,
    /// Units a second of the times in its edit list.
    init_timescale: u32,
}

/// When a track is shown.
struct Timeline {
    edits: Vec<Written>,
    /// In units of the movie.
    duration: u64,
}

/// An entry of an edit list that is written.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    /// In units of the movie.
    duration: u64,
    /// -1 for an empty edit.
    media_time: i64,
}

/// The bytes of an index of `inputs`: each what was read of it, and its data reference.
pub fn write(inputs: &[(&Source, &str)]) -> Result<Vec<u8>, Error> {
    let moovs = inputs.iter().map(|(source, _)| source.moov()).collect::<Result<Vec<_>, _>>()?;
    let Some(mvhd) = moovs.first().map(|moov| moov.mvhd) else {
        return Err(Error::NotFound("is an index of nothing"));
    };
    let entries = entries(inputs, moovs)?;
    let tables_len = entries.iter().map(|entry| entry.table.written_len_max()).sum::<u64>();
    if tables_len > INDEX_LEN_MAX {
        return Err(Error::NotFound("has more samples than an index of 1 GiB lists"));
    }
    let timescale = movie_timescale(entries.iter().map(|entry| entry.track.timescale));
    let timelines = entries.iter().map(|entry| entry.timeline(timescale)).collect::<Result<Vec<_>, _>>()?;
    let duration = timelines.iter().map(|timeline| timeline.duration).max().unwrap_or(0);
    // All but the tables is small.
    let mut out = Writer(Vec::with_capacity(tables_len as usize));
    out.boxed(b"ftyp", |out| out.bytes(b"iso6\0\0\0\0iso6mp41"));
    out.boxed(b"moov", |out| {
        movie_header(out, &mvhd, timescale, duration, entries.len() as u32 + 1)?;
        entries.iter().zip(&timelines).try_for_each(|(entry, timeline)| entry.write(out, timeline))
    })?;
    out.boxed(b"uuid", |out| fingerprint(out, &entries));
    Ok(out.0)
}

/// The selected tracks.
fn entries<'a>(inputs: &[(&'a Source, &'a str)], moovs: Vec<Moov<'a>>) -> Result<Vec<Entry<'a>>, Error> {
    let mut entries = Vec::new();
    for ((source, location), moov) in inputs.iter().zip(moovs) {
        let (mut tracks, init_timescale) = (moov.tracks, moov.timescale);
        for (id, table) in &source.tables {
            let at = tracks.iter().position(|track| track.id == *id).ok_or(Error::NoTrack(*id))?;
            let track = tracks.swap_remove(at);
            let id = entries.len() as u32 + 1;
            entries.push(Entry { source, location, track, table, id, init_timescale });
        }
    }
    Ok(entries)
}

/// The least common multiple, if it fits.
fn movie_timescale(timescales: impl Iterator<Item = u32>) -> u32 {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let multiple = timescales.map(u64::from).try_fold(1u64, |multiple, timescale| {
        let next = multiple / gcd(multiple, timescale) * timescale;
        (next <= u32::MAX.into()).then_some(next)
    });
    multiple.map_or(TIMESCALE, |multiple| multiple as u32)
}

/// Adds a movie header (ISO/IEC 14496-12, section 8.2.2) after the one of an init.
fn movie_header(
    out: &mut Writer,
    mvhd: &Mp4Box<'_>,
    timescale: u32,
    duration: u64,
    next_track: u32,
) -> Result<(), Error> {
    let (version, _, mut fields) = mvhd.full()?;
    let (created, modified) = (fields.wide(version)?, fields.wide(version)?);
    fields.u32()?;
    fields.wide(version)?;
    // Rate to pre_defined.
    let rest = fields.bytes(76)?;
    out.full(b"mvhd", 1, 0, |out| {
        out.u64(created);
        out.u64(modified);
        out.u32(timescale);
        out.u64(duration);
        out.bytes(rest);
        out.u32(next_track);
    });
    Ok(())
}

fn fingerprint(out: &mut Writer, entries: &[Entry<'_>]) {
    out.bytes(&FINGERPRINT);
    out.u32(0);
    out.u32(entries.len() as u32);
    for entry in entries {
        out.u32(entry.id);
        out.u32(entry.track.id);
        out.u64(entry.source.media_len);
        out.bytes(entry.source.etag.as_deref().unwrap_or_default().as_bytes());
        out.bytes(b"\0");
    }
}

impl Entry<'_> {
    /// When the track is shown, in units of the movie.
    fn timeline(&self, timescale: u32) -> Result<Timeline, Error> {
        let edits = edits(&self.track, self.table, self.init_timescale, timescale)?;
        let whole = rescale_up(self.table.duration, self.track.timescale, timescale);
        let edited = edits.iter().fold(0u64, |sum, edit| sum.saturating_add(edit.duration));
        let duration = if edits.is_empty() { whole } else { edited };
        Ok(Timeline { edits, duration })
    }

    /// Adds the track.
    fn write(&self, out: &mut Writer, timeline: &Timeline) -> Result<(), Error> {
        out.boxed(b"trak", |out| {
            self.track_header(out, timeline.duration)?;
            if !timeline.edits.is_empty() {
                out.boxed(b"edts", |out| out.full(b"elst", 1, 0, |out| edit_list(out, &timeline.edits)));
            }
            out.boxed(b"mdia", |out| self.media(out))?;
            copy_children(out, &self.track.trak, |kind| kind == b"udta" || kind == b"meta")
        })
    }

    /// Adds the track's header (section 8.3.2).
    fn track_header(&self, out: &mut Writer, duration: u64) -> Result<(), Error> {
        let (version, flags, mut fields) = self.track.tkhd.full()?;
        let (created, modified) = (fields.wide(version)?, fields.wide(version)?);
        fields.bytes(8)?;
        fields.wide(version)?;
        // Layer to height, with what is reserved around.
        let rest = fields.bytes(60)?;
        out.full(b"tkhd", 1, flags, |out| {
            out.u64(created);
            out.u64(modified);
            out.u32(self.id);
            out.u32(0);
            out.u64(duration);
            out.bytes(rest);
        });
        Ok(())
    }

    /// Adds what is in `mdia` (section 8.4).
    fn media(&self, out: &mut Writer) -> Result<(), Error> {
        let (version, _, mut fields) = self.track.mdhd.full()?;
        let (created, modified) = (fields.wide(version)?, fields.wide(version)?);
        out.full(b"mdhd", 1, 0, |out| {
            out.u64(created);
            out.u64(modified);
            out.u32(self.track.timescale);
            out.u64(self.table.duration);
            out.u16(self.track.language);
            out.u16(0);
        });
        out.bytes(self.track.hdlr.bytes);
        out.bytes(self.track.elng.map_or(&[], |elng| elng.bytes));
        out.boxed(b"minf", |out| self.media_information(out))
    }

    /// Adds what is in `minf` (section 8.4.4): the media header of the init, the reference to the media, the tables.
    fn media_information(&self, out: &mut Writer) -> Result<(), Error> {
        copy_children(out, &self.track.minf, |kind| kind.0.ends_with(b"mhd") || kind == b"sthd")?;
        out.boxed(b"dinf", |out| {
            out.full(b"dref", 0, 0, |out| {
                out.u32(1);
                out.full(b"url ", 0, 0, |out| {
                    out.bytes(self.location.as_bytes());
                    out.bytes(b"\0");
                });
            });
        });
        let stsd = self.sample_descriptions()?;
        out.boxed(b"stbl", |out| {
            out.bytes(&stsd);
            out.tables(self.table);
        });
        Ok(())
    }

    /// `stsd` byte for byte, with all entries in the one file that `dref` names.
    fn sample_descriptions(&self) -> Result<Vec<u8>, Error> {
        let stsd = self.track.stsd;
        let mut bytes = stsd.bytes.to_vec();
        for entry in self.track.sample_entries()? {
            let entry = entry?;
            // Behind six reserved bytes (section 8.5.2.2).
            let at = (entry.offset - stsd.offset) as usize + (entry.bytes.len() - entry.body().len()) + 6;
            let number = bytes.get_mut(at..at + 2).filter(|_| entry.body().len() >= 8);
            number.ok_or_else(|| entry.malformed("ends before its fields do"))?.copy_from_slice(&[0, 1]);
        }
        Ok(bytes)
    }
}

/// Adds the boxes of those kinds in `parent` as they are.
fn copy_children(out: &mut Writer, parent: &Mp4Box<'_>, is_wanted: impl Fn(FourCc) -> bool) -> Result<(), Error> {
    for child in parent.children() {
        let child = child?;
        if is_wanted(child.kind) {
            out.bytes(child.bytes);
        }
    }
    Ok(())
}

/// The edits of a track whose table begins at 0 while its media begins at `table.start`.
fn edits(track: &Track<'_>, table: &Table, init: u32, movie: u32) -> Result<Vec<Written>, Error> {
    let mut edits = track.edits.clone();
    if edits.is_empty() && table.start == 0 {
        return Ok(Vec::new());
    }
    if edits.iter().all(|edit| edit.media_time.is_none()) {
        edits.push(Edit { duration: 0, media_time: Some(0) });
    }
    let end = u64::try_from(table.composition_end).unwrap_or(0);
    let mut written = Vec::new();
    for (number, edit) in edits.iter().enumerate() {
        let in_movie = rescale_up(edit.duration, init, movie);
        let Some(from) = edit.media_time else {
            written.push(Written { duration: in_movie, media_time: -1 });
            continue;
        };
        // Where in the table the edit begins; before it there is nothing.
        let begins = i64::try_from(from).unwrap_or(i64::MAX).saturating_sub(table.start);
        let late = begins.min(0).unsigned_abs();
        let begins = begins.max(0);
        let delay = rescale_up(late, track.timescale, movie);
        if late > 0 {
            if edits[..number].iter().any(|before| before.media_time.is_some()) {
                return Err(track.trak.unsupported("has several edits of which one begins before its first sample"));
            }
            written.push(Written { duration: delay, media_time: -1 });
        }
        let rest = rescale_up(end.saturating_sub(begins as u64), track.timescale, movie);
        let duration = if edit.duration == 0 { rest } else { in_movie.saturating_sub(delay) };
        written.push(Written { duration, media_time: begins });
    }
    written.retain(|edit| edit.duration != 0);
    Ok(written)
}

fn edit_list(out: &mut Writer, edits: &[Written]) {
    out.u32(edits.len() as u32);
    for edit in edits {
        out.u64(edit.duration);
        out.u64(edit.media_time as u64);
        out.u32(0x0001_0000);
    }
}

/// `time` in units of another timescale, rounded up so that nothing is cut off.
fn rescale_up(time: u64, from: u32, to: u32) -> u64 {
    let scaled = (u128::from(time) * u128::from(to)).div_ceil(from.into());
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
