//! A fragmented MP4 of which an index is made: its init, and the tables of its tracks.

use super::boxes::{FourCc, Mp4Box};
use super::fragments::Fragments;
use super::media::Media;
use super::moov::{DataReference, Moov, Track};
use super::scan::Scan;
use super::table::Table;
use super::{Error, INDEX_LEN_MAX};

/// Tables may be as long as this whatever the length of the media.
const TABLES_LEN_FREE: u64 = 64 << 10;

/// What was read of a fragmented MP4.
pub struct Source {
    /// Length of the media in bytes.
    pub media_len: u64,
    /// Its ETag, quotes included.
    pub etag: Option<String>,
    /// The samples of the selected tracks by their numbers, in the order of the file.
    pub tables: Vec<(u32, Table)>,
    moov: Vec<u8>,
    moov_offset: u64,
}

impl Source {
    /// Reads the init and all fragments of `media`; of the tracks those of `selected` that are there, or all.
    pub fn read(media: &(impl Media + ?Sized), selected: Option<&[u32]>) -> Result<Self, Error> {
        let mut scan = Scan::new(media);
        let Some(moov) = scan.next_box()? else {
            return Err(Error::NotFound("has no moov: it is no MP4, or a segment without its init"));
        };
        if moov.kind != b"moov" {
            return Err(moov.malformed("stands before any moov: put the init before the segments"));
        }
        let (moov_bytes, moov_offset) = (moov.bytes.to_vec(), moov.offset);
        let mut fragments = begin(&Mp4Box::read(&moov_bytes, moov_offset)?, selected, media.len())?;
        let mut moofs = 0u64;
        while let Some(found) = scan.next_box()? {
            if found.kind != b"moof" {
                return Err(found.malformed("is a second one in the file"));
            }
            fragments.add(&found)?;
            moofs += 1;
        }
        if moofs == 0 {
            return Err(Error::NotFound("has no fragments"));
        }
        let tables: Vec<_> = fragments.into_tables().collect();
        let expanded: u64 = tables.iter().map(|(_, table)| table.expanded_len()).sum();
        if expanded > media.len().clamp(TABLES_LEN_FREE, INDEX_LEN_MAX) {
            return Err(Error::NotFound("claims more samples than a file of its length can hold"));
        }
        let etag = media.etag().map(str::to_owned);
        Ok(Self { media_len: media.len(), etag, tables, moov: moov_bytes, moov_offset })
    }

    /// The init's `moov`.
    pub fn moov(&self) -> Result<Moov<'_>, Error> {
        Moov::read(Mp4Box::read(&self.moov, self.moov_offset)?)
    }
}

fn begin(moov: &Mp4Box<'_>, selected: Option<&[u32]>, media_len: u64) -> Result<Fragments, Error> {
    let moov = Moov::read(*moov)?;
    if moov.defaults.is_none() {
        return Err(Error::NotFound("is not fragmented (its moov has no mvex): fragment it first"));
    }
    let is_selected = |track: &&Track<'_>| selected.is_none_or(|ids| ids.contains(&track.id));
    let tracks: Vec<_> = moov.tracks.iter().filter(is_selected).collect();
    tracks.iter().try_for_each(|track| check(track))?;
    let ids: Vec<u32> = tracks.iter().map(|track| track.id).collect();
    if ids.is_empty() {
        return Err(Error::NotFound("has none of the tracks that were asked for"));
    }
    if moov.tracks.iter().enumerate().any(|(at, track)| moov.tracks[..at].iter().any(|other| other.id == track.id)) {
        return Err(Error::NotFound("has two tracks of the same number"));
    }
    Fragments::new(&moov, &ids, media_len)
}

/// Whether an index can be made of a track.
fn check(track: &Track<'_>) -> Result<(), Error> {
    let mut entries = 0u32;
    for entry in track.sample_entries()? {
        let entry = entry?;
        if is_encrypted(entry.kind) {
            return Err(entry.unsupported("is an encrypted track's; index it before it is encrypted"));
        }
        if !matches!(track.data_reference(&entry)?, DataReference::SameFile | DataReference::Url("")) {
            return Err(entry.unsupported("has its samples in another file"));
        }
        entries += 1;
    }
    if entries == 0 {
        return Err(track.stsd.malformed("has no sample entry"));
    }
    if let Some(stsz) = track.stbl.child(b"stsz")?
        && stsz.full()?.2.bytes(8)?[4..] != [0; 4]
    {
        return Err(stsz.unsupported("lists samples outside of fragments; write the file with an empty moov"));
    }
    Ok(())
}

/// The codings of sample entries that stand for encrypted ones (ISO/IEC 14496-12, section 8.12; `drm…` is Apple's).
pub(super) fn is_encrypted(coding: FourCc) -> bool {
    coding.0.starts_with(b"enc") || coding.0.starts_with(b"drm")
}
