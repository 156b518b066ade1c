//! Fragments: from a `moof` to samples in the tables of their tracks (ISO/IEC 14496-12, section 8.8).
//!
//! [`Fragments`] knows the tracks of a file and takes one `moof` after the other. What `trun` does not say of a
//! sample is taken from `tfhd`, and what that does not say from `trex`.
//!
//! # Invariants
//!
//! - Samples lie inside the media, whatever the boxes claim.

use super::Error;
use super::boxes::{Fields, Mp4Box};
use super::moov::{Defaults, Moov};
use super::table::{Column, Samples, Table};

/// The user type of Smooth Streaming's `tfxd` box ([MS-SSTR] 2.2.4.4).
const TFXD: [u8; 16] = *b"\x6d\x1d\x9b\x05\x42\xd5\x44\xe6\x80\xe2\x14\x1d\xaf\xf7\x57\xb2";
/// The user type of the `senc` box before it had a name (PIFF 1.1, section 5.3.2).
const SENC: [u8; 16] = *b"\xa2\x39\x4f\x52\x5a\x9b\x4f\x14\xa2\x44\x6c\x42\x7c\x64\x8d\xf4";

/// The tracks of a fragmented file while its fragments are read.
pub struct Fragments {
    tracks: Vec<Track>,
    media_len: u64,
}

/// A track, selected or not.
struct Track {
    id: u32,
    /// The number of its sample entries.
    descriptions: u32,
    defaults: Defaults,
    /// Its samples, if they are wanted.
    table: Option<Table>,
    tfxd: Option<Tfxd>,
}

/// What the time in a track's `tfxd` boxes is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tfxd {
    /// The first sample's decode time.
    Decode,
    /// The first sample's composition time, as ffmpeg writes it.
    Composition,
}

/// A `tfhd`, with what `trex` says where it says nothing.
struct TrackFragment {
    base: Option<u64>,
    base_is_moof: bool,
    defaults: Defaults,
}

/// The fields of a `trun`, with what `tfhd` says where it says nothing.
struct Run<'a> {
    data_offset: Option<i32>,
    samples: Samples<'a>,
}

impl Fragments {
    /// The tracks of `moov`, those in `selected` with tables. `media_len` is the length of the whole file.
    pub fn new(moov: &Moov<'_>, selected: &[u32], media_len: u64) -> Result<Self, Error> {
        let defaults = moov.defaults.as_deref().unwrap_or_default();
        let track = |track: &super::moov::Track<'_>| {
            let none = Defaults { track_id: track.id, description: 1, duration: 0, size: 0, flags: 0 };
            let descriptions = u32::try_from(track.sample_entries()?.count()).unwrap_or(u32::MAX);
            let defaults = defaults.iter().find(|trex| trex.track_id == track.id).copied().unwrap_or(none);
            let table = selected.contains(&track.id).then(Table::default);
            Ok(Track { id: track.id, descriptions, defaults, table, tfxd: None })
        };
        let tracks = moov.tracks.iter().map(track).collect::<Result<_, Error>>()?;
        Ok(Self { tracks, media_len })
    }

    /// Adds the samples of a fragment.
    pub fn add(&mut self, moof: &Mp4Box<'_>) -> Result<(), Error> {
        // Where the data of the track fragment before ends.
        let mut data_end = moof.offset;
        for traf in moof.children() {
            let traf = traf?;
            if traf.kind == b"traf" {
                data_end = self.add_track(moof, &traf, data_end)?;
            }
        }
        Ok(())
    }

    /// The tables of the selected tracks by their track numbers, in the order of the file.
    pub fn into_tables(self) -> impl Iterator<Item = (u32, Table)> {
        self.tracks.into_iter().filter_map(|track| Some((track.id, track.table?)))
    }

    fn add_track(&mut self, moof: &Mp4Box<'_>, traf: &Mp4Box<'_>, before: u64) -> Result<u64, Error> {
        let tfhd = traf.need(b"tfhd")?;
        let id = tfhd.full()?.2.u32()?;
        let track = self.tracks.iter_mut().find(|track| track.id == id);
        let track = track.ok_or_else(|| tfhd.malformed("names a track that moov does not have"))?;
        let fragment = TrackFragment::read(&tfhd, track)?;
        let base = match fragment.base {
            Some(base) => base,
            None if fragment.base_is_moof => moof.offset,
            None => before,
        };
        let mut time = track.decode_time(traf, &fragment)?;
        let mut at = base;
        for child in traf.children() {
            let child = child?;
            match &child.kind.0 {
                b"trun" => at = track.add_run(&child, &fragment, (base, at), time.take(), self.media_len)?,
                b"senc" if track.table.is_some() => return Err(child.unsupported("is of an encrypted track")),
                b"uuid" if track.table.is_some() && child.body().starts_with(&SENC) => {
                    return Err(child.unsupported("is of an encrypted track"));
                }
                _ => {}
            }
        }
        Ok(at)
    }
}

impl Track {
    /// When the first sample of the track fragment is decoded; `None` if it follows what was before.
    fn decode_time(&mut self, traf: &Mp4Box<'_>, fragment: &TrackFragment) -> Result<Option<i64>, Error> {
        if let Some(tfdt) = traf.child(b"tfdt")? {
            let (version, _, mut fields) = tfdt.full()?;
            let time = i64::try_from(fields.wide(version)?);
            return time.map(Some).map_err(|_| tfdt.malformed("has a time too large to count with"));
        }
        let tfxd = traf.children().find(|child| !matches!(child, Ok(b) if !is_tfxd(b))).transpose()?;
        let Some(tfxd) = tfxd else { return Ok(None) };
        let mut fields = tfxd.fields();
        fields.bytes(TFXD.len())?;
        let version = (fields.u32()? >> 24) as u8;
        // ffmpeg lets audio that primes a decoder begin before 0.
        let time = fields.wide(version)? as i64;
        let Some(trun) = traf.child(b"trun")? else { return Ok(Some(time)) };
        let samples = Run::read(&trun, &fragment.defaults)?.samples;
        let first = samples.compositions.values().next().filter(|_| samples.count > 0);
        let offset = first.map_or(0, |bits| samples.composition_offset(bits));
        let kind =
            *self.tfxd.get_or_insert(if offset > 0 && time == offset { Tfxd::Composition } else { Tfxd::Decode });
        match kind {
            Tfxd::Decode => Ok(Some(time)),
            Tfxd::Composition => {
                time.checked_sub(offset).map(Some).ok_or_else(|| tfxd.malformed("has a time too large to count with"))
            }
        }
    }

    /// Adds the samples of `trun`, whose data begin relative to the base or where the run before ended, and
    /// tells where they end.
    fn add_run(
        &mut self,
        trun: &Mp4Box<'_>,
        fragment: &TrackFragment,
        (base, at): (u64, u64),
        time: Option<i64>,
        media_len: u64,
    ) -> Result<u64, Error> {
        let run = Run::read(trun, &fragment.defaults)?;
        let outside = || trun.malformed("has samples outside the media (is the file whole?)");
        let start = match run.data_offset {
            Some(offset) => base.checked_add_signed(offset.into()).ok_or_else(outside)?,
            None => at,
        };
        if let Some(table) = &mut self.table {
            let description = fragment.defaults.description;
            if description == 0 || description > self.descriptions {
                return Err(trun.malformed("is of a sample entry that moov does not have"));
            }
            table.begin(time, start, description).map_err(|what| trun.malformed(what))?;
            table.push(&run.samples).map_err(|what| trun.malformed(what))?;
            table.close();
        }
        let len = run.samples.sizes.sum(run.samples.count);
        start.checked_add(len).filter(|end| *end <= media_len).ok_or_else(outside)
    }
}

impl TrackFragment {
    /// Reads `tfhd` (section 8.8.7).
    fn read(tfhd: &Mp4Box<'_>, track: &Track) -> Result<Self, Error> {
        let (_, flags, mut fields) = tfhd.full()?;
        fields.u32()?;
        let base = if flags & 0x1 != 0 { Some(fields.u64()?) } else { None };
        let mut field = |flag, default| if flags & flag != 0 { fields.u32() } else { Ok(default) };
        let defaults = Defaults {
            track_id: track.id,
            description: field(0x2, track.defaults.description)?,
            duration: field(0x8, track.defaults.duration)?,
            size: field(0x10, track.defaults.size)?,
            flags: field(0x20, track.defaults.flags)?,
        };
        Ok(Self { base, base_is_moof: flags & 0x2_0000 != 0, defaults })
    }
}

impl<'a> Run<'a> {
    /// Reads `trun` (section 8.8.8).
    fn read(trun: &Mp4Box<'a>, defaults: &Defaults) -> Result<Self, Error> {
        let (version, flags, mut fields): (u8, u32, Fields<'a>) = trun.full()?;
        let count = fields.u32()?;
        let data_offset = if flags & 0x1 != 0 { Some(fields.u32()? as i32) } else { None };
        let first_flags = if flags & 0x4 != 0 { Some(fields.u32()?) } else { None };
        let width = (flags & 0xf00).count_ones() as usize;
        let (words, _) = fields.table(count, 4 * width)?.as_chunks();
        let column = |flag: u32, default| {
            // The fields of a row stand in the order of their flags.
            let before = (flags & 0xf00 & (flag - 1)).count_ones() as usize;
            let words = words.get(before..).unwrap_or_default();
            if flags & flag == 0 { Column::Same(default) } else { Column::Each { words, width } }
        };
        let samples = Samples {
            count,
            durations: column(0x100, defaults.duration),
            sizes: column(0x200, defaults.size),
            flags: column(0x400, defaults.flags),
            compositions: column(0x800, 0),
            signed: version != 0,
            first_flags: first_flags.filter(|_| flags & 0x400 == 0),
        };
        Ok(Self { data_offset, samples })
    }
}

fn is_tfxd(found: &Mp4Box<'_>) -> bool {
    found.kind == b"uuid" && found.body().starts_with(&TFXD)
}
