//! The tracks of a `moov`: of an init, whose samples are in fragments, or of an index (ISO/IEC 14496-12, section 8).
//!
//! Nothing is copied but numbers: a [`Track`] holds its boxes as they stand, for who wants them byte for byte.

use super::Error;
use super::boxes::{Boxes, Fields, FourCc, Mp4Box};

/// A `moov`, taken apart.
pub struct Moov<'a> {
    /// The movie header.
    pub mvhd: Mp4Box<'a>,
    /// Units a second of the movie's times (edit lists, `tkhd`).
    pub timescale: u32,
    /// The tracks, in their order in the file.
    pub tracks: Vec<Track<'a>>,
    /// What samples in fragments are if nothing else is said, by track; `None` if the file is not fragmented.
    pub defaults: Option<Vec<Defaults>>,
}

/// More tracks than any file has: each is looked for among the others.
const TRACKS_MAX: usize = 256;

/// A `trak`, taken apart.
pub struct Track<'a> {
    /// The whole box.
    pub trak: Mp4Box<'a>,
    /// Its number in the file, never 0.
    pub id: u32,
    /// What it is: `vide`, `soun`, `text`, `subt`…
    pub handler: FourCc,
    /// Units a second of the media's times, never 0.
    pub timescale: u32,
    /// Duration of the media in those units; 0 in most inits.
    pub duration: u64,
    /// The language as `mdhd` packs it.
    pub language: u16,
    /// The track's header.
    pub tkhd: Mp4Box<'a>,
    /// The media's header.
    pub mdhd: Mp4Box<'a>,
    /// The handler, whole.
    pub hdlr: Mp4Box<'a>,
    /// The extended language, if there is one.
    pub elng: Option<Mp4Box<'a>>,
    /// What holds the media header, the data references and the tables.
    pub minf: Mp4Box<'a>,
    /// The sample tables.
    pub stbl: Mp4Box<'a>,
    /// The sample descriptions, whole.
    pub stsd: Mp4Box<'a>,
    /// The edit list; empty if there is none.
    pub edits: Vec<Edit>,
}

/// What `trex` says of the samples in a track's fragments (section 8.8.3).
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The track.
    pub track_id: u32,
    /// Sample entry, from 1.
    pub description: u32,
    /// In units of the media.
    pub duration: u32,
    /// In bytes.
    pub size: u32,
    /// As in section 8.8.3.1.
    pub flags: u32,
}

/// An entry of an edit list (section 8.6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// In units of the movie; 0 in an init means to the end.
    pub duration: u64,
    /// Where it begins in the media; `None` for an empty edit.
    pub media_time: Option<u64>,
}

/// A data reference (section 8.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataReference<'a> {
    /// The samples are in this file.
    SameFile,
    /// The samples are in the file with this URL, absolute or relative to this one.
    Url(&'a str),
}

impl<'a> Moov<'a> {
    /// Takes `moov` apart.
    pub fn read(moov: Mp4Box<'a>) -> Result<Self, Error> {
        let mvhd = moov.need(b"mvhd")?;
        let (_, timescale, _) = times(&mvhd)?;
        let mut tracks: Vec<Track<'a>> = Vec::new();
        let mut defaults = None;
        for child in moov.children() {
            let child = child?;
            match &child.kind.0 {
                b"trak" if tracks.len() == TRACKS_MAX => return Err(child.malformed("is one of more than 256")),
                b"trak" => tracks.push(Track::read(child)?),
                b"mvex" => defaults = Some(read_defaults(&child)?),
                _ => {}
            }
        }
        Ok(Self { mvhd, timescale, tracks, defaults })
    }

    /// The track of that number.
    pub fn track(&self, id: u32) -> Option<&Track<'a>> {
        self.tracks.iter().find(|track| track.id == id)
    }
}

impl<'a> Track<'a> {
    fn read(trak: Mp4Box<'a>) -> Result<Self, Error> {
        let tkhd = trak.need(b"tkhd")?;
        let mdia = trak.need(b"mdia")?;
        let mdhd = mdia.need(b"mdhd")?;
        let (language, timescale, duration) = times(&mdhd)?;
        let hdlr = mdia.need(b"hdlr")?;
        let minf = mdia.need(b"minf")?;
        let stbl = minf.need(b"stbl")?;
        Ok(Self {
            id: track_id(&tkhd)?,
            handler: handler(&hdlr)?,
            timescale,
            duration,
            language,
            edits: read_edits(&trak)?,
            elng: mdia.child(b"elng")?,
            stsd: stbl.need(b"stsd")?,
            trak,
            tkhd,
            mdhd,
            hdlr,
            minf,
            stbl,
        })
    }

    /// The sample entries: each is a box whose kind is the coding (`avc1`, `mp4a`, `wvtt`…).
    pub fn sample_entries(&self) -> Result<Boxes<'a>, Error> {
        self.stsd.counted_children()
    }

    /// The language as three letters (ISO 639-2/T), `und` where what stands there is none.
    pub fn language_code(&self) -> String {
        let letters = [10, 5, 0].map(|shift| (self.language >> shift & 0x1f) as u8 + 0x60);
        let valid = letters.iter().all(u8::is_ascii_lowercase);
        if valid { letters.map(char::from).iter().collect() } else { "und".to_owned() }
    }

    /// The language as BCP 47 has it, where `elng` states it (section 8.4.6).
    pub fn extended_language(&self) -> Result<Option<&'a str>, Error> {
        let Some(elng) = self.elng else { return Ok(None) };
        let (_, _, mut fields) = elng.full()?;
        Ok(std::str::from_utf8(fields.text()).ok().filter(|tag| !tag.is_empty()))
    }

    /// The bytes of all samples in the track's own tables.
    pub fn samples_len(&self) -> Result<u64, Error> {
        let stsz = self.stbl.need(b"stsz")?;
        let (_, _, mut fields) = stsz.full()?;
        let (size, count) = (fields.u32()?, fields.u32()?);
        if size != 0 {
            return Ok(u64::from(size) * u64::from(count));
        }
        let (sizes, _) = fields.table(count, 4)?.as_chunks();
        Ok(sizes.iter().map(|size| u64::from(u32::from_be_bytes(*size))).sum())
    }

    /// The data reference that `entry`, one of its sample entries, names.
    pub fn data_reference(&self, entry: &Mp4Box<'a>) -> Result<DataReference<'a>, Error> {
        // Six reserved bytes, then the number (section 8.5.2.2).
        let mut fields = entry.fields();
        fields.bytes(6)?;
        let number = usize::from(fields.u16()?);
        let dref = self.minf.need(b"dinf")?.need(b"dref")?;
        let unknown = || entry.malformed("names a data reference that dref does not have");
        let skipped = number.checked_sub(1).ok_or_else(unknown)?;
        let reference = dref.counted_children()?.nth(skipped).ok_or_else(unknown)??;
        let (_, flags, mut fields) = reference.full()?;
        if flags & 1 != 0 {
            return Ok(DataReference::SameFile);
        }
        if reference.kind != b"url " {
            return Err(reference.unsupported("is a data reference that is no URL"));
        }
        let location = std::str::from_utf8(fields.text());
        location.map(DataReference::Url).map_err(|_| reference.malformed("has a location that is no UTF-8"))
    }
}

/// What follows the times, the timescale and the duration of `mvhd` and `mdhd` alike (sections 8.2.2, 8.4.2). The
/// first is the language in `mdhd`.
fn times(header: &Mp4Box<'_>) -> Result<(u16, u32, u64), Error> {
    let (version, _, mut fields) = header.full()?;
    fields.bytes(if version == 0 { 8 } else { 16 })?;
    let timescale = fields.u32()?;
    let duration = fields.wide(version)?;
    if timescale == 0 {
        return Err(header.malformed("has a timescale of 0"));
    }
    Ok((fields.u16()?, timescale, duration))
}

fn track_id(tkhd: &Mp4Box<'_>) -> Result<u32, Error> {
    let (version, _, mut fields) = tkhd.full()?;
    fields.bytes(if version == 0 { 8 } else { 16 })?;
    match fields.u32()? {
        0 => Err(tkhd.malformed("has a track_ID of 0")),
        id => Ok(id),
    }
}

fn handler(hdlr: &Mp4Box<'_>) -> Result<FourCc, Error> {
    let (_, _, mut fields) = hdlr.full()?;
    fields.u32()?;
    fields.u32().map(|handler| FourCc(handler.to_be_bytes()))
}

fn read_edits(trak: &Mp4Box<'_>) -> Result<Vec<Edit>, Error> {
    let Some(edts) = trak.child(b"edts")? else { return Ok(Vec::new()) };
    let Some(elst) = edts.child(b"elst")? else { return Ok(Vec::new()) };
    let (version, _, mut fields) = elst.full()?;
    let count = fields.u32()?;
    fields.clone().table(count, if version == 0 { 12 } else { 20 })?;
    (0..count).map(|_| read_edit(&elst, version, &mut fields)).collect()
}

fn read_edit(elst: &Mp4Box<'_>, version: u8, fields: &mut Fields<'_>) -> Result<Edit, Error> {
    let duration = fields.wide(version)?;
    let media_time = match version {
        0 => i64::from(fields.u32()? as i32),
        _ => fields.u64()? as i64,
    };
    if fields.u32()? != 0x0001_0000 {
        return Err(elst.unsupported("has an edit at another rate than 1"));
    }
    match media_time {
        -1 => Ok(Edit { duration, media_time: None }),
        time => match u64::try_from(time) {
            Ok(time) => Ok(Edit { duration, media_time: Some(time) }),
            Err(_) => Err(elst.malformed("has an edit that begins before its media")),
        },
    }
}

fn read_defaults(mvex: &Mp4Box<'_>) -> Result<Vec<Defaults>, Error> {
    let mut all = Vec::new();
    for child in mvex.children() {
        let child = child?;
        if child.kind == b"trex" {
            let (_, _, mut fields) = child.full()?;
            let mut next = || fields.u32();
            let (track_id, description) = (next()?, next()?);
            let (duration, size, flags) = (next()?, next()?, next()?);
            all.push(Defaults { track_id, description, duration, size, flags });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/media/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
    }

    #[test]
    fn the_tracks_of_inits_and_indexes_are_found() {
        let rows = [
            ("film-avc1-400k.cmfv", "vide", "avc1", "und", 24000, 0, DataReference::SameFile),
            (
                "film-avc1-400k-index.mp4",
                "vide",
                "avc1",
                "und",
                24000,
                144_000,
                DataReference::Url("film-avc1-400k.cmfv"),
            ),
            (
                "film-aac-128k-index.mp4",
                "soun",
                "mp4a",
                "eng",
                48000,
                289_024,
                DataReference::Url("film-aac-128k.cmfa"),
            ),
        ];
        for (name, handler, coding, language, timescale, duration, reference) in rows {
            let bytes = sample(name);
            let moov = Boxes::new(&bytes, 0).map(|found| found.expect(name)).find(|b| b.kind == b"moov").expect(name);
            let moov = Moov::read(moov).expect(name);
            let track = moov.track(1).expect(name);
            let entry = track.sample_entries().and_then(|mut all| all.next().expect(name)).expect(name);
            assert_eq!(
                (track.handler.to_string().as_str(), entry.kind.to_string().as_str()),
                (handler, coding),
                "{name}"
            );
            assert_eq!(
                (track.language_code().as_str(), track.timescale, track.duration),
                (language, timescale, duration),
                "{name}"
            );
            assert_eq!(track.data_reference(&entry).expect(name), reference, "{name}");
            assert_eq!(moov.defaults.is_some(), duration == 0, "{name}");
            assert_eq!(track.samples_len().expect(name) == 0, duration == 0, "{name}");
        }
    }
}
