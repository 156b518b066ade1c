//! Whether an index still fits its media: by length and ETag, then sample by sample.

use std::{fmt, io};

use super::boxes::Mp4Box;
use super::location::is_same;
use super::media::Media;
use super::moov::{DataReference, Edit, Moov, Track};
use super::read::{Fingerprint, FlatSample, Tables, fingerprints, read_moov};
use super::source::Source;
use super::{Error, index};

/// How a track of an index does not fit its media.
#[derive(Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The media has another length, in bytes.
    Length {
        /// When it was indexed.
        indexed: u64,
        /// Now.
        found: u64,
    },
    /// The media has another ETag.
    Etag {
        /// When it was indexed.
        indexed: String,
        /// Now.
        found: String,
    },
    /// The media has no such track.
    Track,
    /// Something else of the track is not as the media has it.
    Other(&'static str),
    /// The first sample that differs, by its number from 1.
    Sample {
        /// Its number.
        number: u32,
        /// In the index.
        indexed: Option<FlatSample>,
        /// In the media.
        found: Option<FlatSample>,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sample = |sample: &Option<FlatSample>| match sample {
            Some(s) => format!("{} bytes at offset {}, decoded at {}", s.size, s.offset, s.decode_time),
            None => "none".to_owned(),
        };
        match self {
            Self::Length { indexed, found } => write!(f, "the media had {indexed} bytes and has {found}"),
            Self::Etag { indexed, found } => write!(f, "the media had the ETag {indexed} and has {found}"),
            Self::Other(what) => write!(f, "its {what} is not the media's"),
            Self::Track => f.write_str("the media has no such track"),
            Self::Sample { number, indexed, found } => {
                write!(f, "sample {number} is {} in the index, {} in the media", sample(indexed), sample(found))
            }
        }
    }
}

/// Why an index could not be held against its media.
#[derive(Debug)]
pub enum Failure {
    /// The index cannot be read.
    Index(Error),
    /// The media with this reference cannot be opened.
    Open(String, io::Error),
    /// The media with this reference cannot be read.
    Media(String, Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Index(error)
    }
}

/// Holds the index in `file` against its media, which `open` opens by the data reference. Tells what does not fit,
/// by track number; nothing if all does.
pub fn verify<M: Media>(
    file: &[u8],
    mut open: impl FnMut(&str) -> io::Result<M>,
) -> Result<Vec<(u32, Misfit)>, Failure> {
    let (bytes, offset) = read_moov(file)?;
    let moov = Moov::read(Mp4Box::read(&bytes, offset)?)?;
    let prints = fingerprints(file)?;
    let mut by_location: Vec<(&str, Vec<&Track<'_>>)> = Vec::new();
    for track in &moov.tracks {
        let location = location(track)?;
        match by_location.iter_mut().find(|(known, _)| *known == location) {
            Some((_, tracks)) => tracks.push(track),
            None => by_location.push((location, vec![track])),
        }
    }
    let mut misfits = Vec::new();
    for (location, tracks) in by_location {
        let media = open(location).map_err(|e| Failure::Open(location.to_owned(), e))?;
        misfits.extend(against(&media, location, &tracks, moov.timescale, &prints)?);
    }
    Ok(misfits)
}

/// What an index tells of its media without a look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Length and ETag are the media's.
    Fits,
    /// The media has changed.
    Changed,
    /// It is an index of something else.
    Other,
    /// Its fingerprint has the length; of the ETag one side does not know.
    Nothing,
    /// It has no fingerprint: another program made it.
    NoFingerprint,
}

/// What the index in `file` tells of the media at `location`, which has that length and ETag.
pub fn told(file: &[u8], location: &str, len: u64, etag: Option<&str>) -> Result<Told, Error> {
    let (bytes, offset) = read_moov(file)?;
    let moov = Moov::read(Mp4Box::read(&bytes, offset)?)?;
    let prints = fingerprints(file)?;
    let mut told = Told::Fits;
    for track in &moov.tracks {
        if !is_same(self::location(track)?, location) {
            return Ok(Told::Other);
        }
        match prints.iter().find(|print| print.track_id == track.id) {
            Some(print) if print.media_len != len => return Ok(Told::Changed),
            Some(Fingerprint { etag: Some(indexed), .. }) if let Some(found) = etag => {
                if indexed != found {
                    return Ok(Told::Changed);
                }
            }
            Some(_) => told = Told::Nothing,
            None => return Ok(Told::NoFingerprint),
        }
    }
    if moov.tracks.is_empty() { Ok(Told::Other) } else { Ok(told) }
}

/// Whether it is an index, whatever of: its tracks are elsewhere.
pub fn is_index(media: &(impl Media + ?Sized)) -> bool {
    let is_elsewhere = |bytes: &[u8], offset| -> Result<bool, Error> {
        let moov = Moov::read(Mp4Box::read(bytes, offset)?)?;
        let all = moov.tracks.iter().try_for_each(|track| location(track).map(drop));
        Ok(all.is_ok() && moov.defaults.is_none() && !moov.tracks.is_empty())
    };
    read_moov(media).is_ok_and(|(bytes, offset)| is_elsewhere(&bytes, offset).unwrap_or(false))
}

/// The one file that holds the samples of `track`.
fn location<'a>(track: &Track<'a>) -> Result<&'a str, Error> {
    let mut locations = track.sample_entries()?.map(|entry| track.data_reference(&entry?));
    let first = locations.next().transpose()?;
    let Some(DataReference::Url(location)) = first else {
        return Err(track.stsd.unsupported("is of samples in this file: it is no index"));
    };
    for other in locations {
        if other? != DataReference::Url(location) {
            return Err(track.stsd.unsupported("is of samples in several files"));
        }
    }
    Ok(location)
}

/// Holds those tracks of an index that refer to `media` against it.
fn against(
    media: &impl Media,
    location: &str,
    tracks: &[&Track<'_>],
    moov_timescale: u32,
    prints: &[Fingerprint],
) -> Result<Vec<(u32, Misfit)>, Failure> {
    let print = |track: &Track<'_>| prints.iter().find(|print| print.track_id == track.id);
    let changed = tracks.iter().filter_map(|track| Some((track.id, changed(print(track)?, media)?)));
    let misfits: Vec<_> = changed.collect();
    if !misfits.is_empty() {
        return Ok(misfits);
    }
    let failed = |error| Failure::Media(location.to_owned(), error);
    // Other tracks of the media may be such that no index is made of them.
    let sources: Option<Vec<u32>> = tracks.iter().map(|track| Some(print(track)?.source_track_id)).collect();
    let source = Source::read(media, sources.as_deref()).map_err(failed)?;
    // Made again, the index is the same.
    let again = index::write(&[(&source, location)]).map_err(failed)?;
    let (bytes, offset) = read_moov(again.as_slice()).map_err(failed)?;
    let again = Moov::read(Mp4Box::read(&bytes, offset).map_err(failed)?).map_err(failed)?;
    let mut misfits = Vec::new();
    for (number, track) in tracks.iter().enumerate() {
        // Where no fingerprint says which track of the media it is, they are in the same order, or have kept their numbers.
        let at = match print(track) {
            Some(print) => source.tables.iter().position(|(id, _)| *id == print.source_track_id),
            None if tracks.len() == source.tables.len() => Some(number),
            None => source.tables.iter().position(|(id, _)| *id == track.id),
        };
        let indexed = Tables::read(track)?;
        let misfit = match at.and_then(|at| again.tracks.get(at)) {
            Some(found) => match other(track, moov_timescale, found, again.timescale, print(track).is_some()) {
                Some(what) => Some(Misfit::Other(what)),
                None => difference(&indexed, &Tables::read(found).map_err(failed)?),
            },
            None => Some(Misfit::Track),
        };
        misfits.extend(misfit.map(|misfit| (track.id, misfit)));
    }
    Ok(misfits)
}

/// Whether the media is another one than the fingerprint's.
fn changed(print: &Fingerprint, media: &impl Media) -> Option<Misfit> {
    if print.media_len != media.len() {
        return Some(Misfit::Length { indexed: print.media_len, found: media.len() });
    }
    let (indexed, found) = (print.etag.clone()?, media.etag()?.to_owned());
    (indexed != found).then_some(Misfit::Etag { indexed, found })
}

/// What of a track is not as it was `found`, its samples aside; times are in units of the movies. An index of another
/// program's may have other edits and sample entries.
fn other(track: &Track<'_>, movie: u32, found: &Track<'_>, found_movie: u32, is_ours: bool) -> Option<&'static str> {
    // Both durations were rounded to units of their movies, in the same way if those are the same.
    let most = if movie == found_movie { 0 } else { u128::from(movie.max(found_movie)) };
    let is_as_long = |one: u64, other: u64| {
        let (one, other) = (u128::from(one) * u128::from(found_movie), u128::from(other) * u128::from(movie));
        one.abs_diff(other) <= most
    };
    let is_edit =
        |(one, other): (&Edit, &Edit)| one.media_time == other.media_time && is_as_long(one.duration, other.duration);
    let are_edits = track.edits.len() == found.edits.len() && track.edits.iter().zip(&found.edits).all(is_edit);
    match () {
        () if track.timescale != found.timescale => Some("timescale"),
        () if is_ours && !are_edits => Some("start or edit list"),
        () if is_ours && track.stsd.bytes != found.stsd.bytes => Some("codec data"),
        () => None,
    }
}

/// The first sample that is not alike.
fn difference(indexed: &Tables<'_>, found: &Tables<'_>) -> Option<Misfit> {
    let (mut indexed, mut found) = (indexed.samples(), found.samples());
    for number in 1.. {
        match (indexed.next(), found.next()) {
            (None, None) => return None,
            (indexed, found) if indexed == found => {}
            (indexed, found) => return Some(Misfit::Sample { number, indexed, found }),
        }
    }
    None
}
