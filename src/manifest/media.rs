//! The tracks of a manifest out of those of MP4s (docs/server-manifest.md).
//!
//! [`Described::read`] takes an index, any flat MP4 or a fragmented one, and [`arrange`] puts the tracks of all inputs
//! in order.

use std::fmt::Write as _;

use super::write::{Kind, Track};
use crate::mp4::Error;
use crate::mp4::boxes::{FourCc, Mp4Box};
use crate::mp4::codec::{Codec, Form};
use crate::mp4::media::Media;
use crate::mp4::moov::{self, Moov};
use crate::mp4::read::{Tables, read_moov};
use crate::mp4::source::Source;

/// Bit rates are multiples of it, in bits a second, and never 0: they stand in URLs.
const BITRATE_UNIT: u128 = 1000;

/// What an MP4 has for a manifest.
#[derive(Debug, Default)]
pub struct Described {
    /// Its tracks, in their order.
    pub tracks: Vec<Track>,
    /// Those that are none of a manifest: number and handler.
    pub others: Vec<(u32, FourCc)>,
}

impl Described {
    /// Reads the tracks of `media`, which a manifest refers to by `src`.
    pub fn read(media: &(impl Media + ?Sized), src: &str) -> Result<Self, Error> {
        let (bytes, offset) = read_moov(media)?;
        let moov = Moov::read(Mp4Box::read(&bytes, offset)?)?;
        let mut described = Self::default();
        if moov.defaults.is_none() {
            for track in &moov.tracks {
                let len = match Codec::read(track)? {
                    Some(_) => Tables::read(track).and_then(|_| track.samples_len())?,
                    None => 0,
                };
                described.add(src, track, len, track.duration)?;
            }
            return Ok(described);
        }
        let source = Source::read(media, None)?;
        for (id, table) in &source.tables {
            let track = moov.track(*id).ok_or(Error::NoTrack(*id))?;
            // Fewer than 2^32 samples of as many bytes at most.
            let len = table.sizes.runs().iter().map(|(count, size)| u64::from(*count) * u64::from(*size)).sum();
            described.add(src, track, len, table.duration)?;
        }
        Ok(described)
    }

    /// Adds a track whose samples have `len` bytes and last for `duration` units of the media.
    fn add(&mut self, src: &str, track: &moov::Track<'_>, len: u64, duration: u64) -> Result<(), Error> {
        let Some(codec) = Codec::read(track)? else {
            self.others.push((track.id, track.handler));
            return Ok(());
        };
        let kind = match codec.form {
            Form::Audio { .. } => Kind::Audio,
            Form::Video { .. } => Kind::Video,
            Form::Text => Kind::Text,
        };
        let language = language(track)?;
        let bitrate = codec.average_bitrate.map_or_else(|| bits_a_second(len, track.timescale, duration), u128::from);
        self.tracks.push(Track {
            kind,
            src: src.to_owned(),
            bitrate: Some(rounded_up(bitrate)),
            params: params(track, kind, &codec, language.as_deref()),
            language,
        });
        Ok(())
    }
}

/// Puts tracks in the order of a manifest: by kind, then by bit rate. Name and bit rate are what tells tracks from each
/// other in URLs: where they are the same, the names get numbers.
pub fn arrange(tracks: &mut [Track]) {
    tracks.sort_by_key(|track| (track.kind, track.bitrate));
    for at in 0..tracks.len() {
        let (before, rest) = tracks.split_at_mut(at);
        let Some(track) = rest.first_mut() else { return };
        let bitrate = track.bitrate;
        let Some((_, name)) = track.params.iter_mut().find(|(name, _)| name == NAME) else { continue };
        let is_taken =
            |name: &str| before.iter().any(|other| other.bitrate == bitrate && other.param(NAME) == Some(name));
        let numbered = (0u32..).map(|number| if number == 0 { name.clone() } else { format!("{name}_{number}") });
        if let Some(free) = numbered.into_iter().find(|name| !is_taken(name)) {
            *name = free;
        }
    }
}

const NAME: &str = "trackName";

fn params(track: &moov::Track<'_>, kind: Kind, codec: &Codec, language: Option<&str>) -> Vec<(String, String)> {
    let name = language.map_or_else(|| kind.element().to_owned(), |language| format!("{}_{language}", kind.element()));
    let mut params = vec![("trackID", track.id.to_string()), (NAME, name), ("TimeScale", track.timescale.to_string())];
    match codec.form {
        Form::Audio { sampling_rate, channels, bits_per_sample, audio_tag } => params.extend([
            ("SamplingRate", sampling_rate.to_string()),
            ("Channels", channels.to_string()),
            ("BitsPerSample", bits_per_sample.to_string()),
            ("PacketSize", "4".to_owned()),
            ("AudioTag", audio_tag.to_string()),
        ]),
        Form::Video { width, height } => {
            params.extend([("MaxWidth", width.to_string()), ("MaxHeight", height.to_string())]);
        }
        Form::Text => {}
    }
    params.push(("FourCC", codec.four_cc.clone()));
    if !codec.private_data.is_empty() {
        params.push(("CodecPrivateData", hex(&codec.private_data)));
    }
    params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What `elng` states if it is a language tag (RFC 5646, section 2.1), else what `mdhd` does; `None` for `und`.
fn language(track: &moov::Track<'_>) -> Result<Option<String>, Error> {
    let is_tag = |tag: &&str| tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let extended = track.extended_language()?.filter(is_tag).map(str::to_owned);
    Ok(Some(extended.unwrap_or_else(|| track.language_code())).filter(|language| language != "und"))
}

/// 0 if nothing lasts.
fn bits_a_second(len: u64, timescale: u32, duration: u64) -> u128 {
    let bits = u128::from(len) * 8 * u128::from(timescale);
    if duration == 0 { 0 } else { bits.div_ceil(duration.into()) }
}

fn rounded_up(bitrate: u128) -> u64 {
    let units = bitrate.div_ceil(BITRATE_UNIT).max(1);
    u64::try_from(units * BITRATE_UNIT).unwrap_or(u64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

#[cfg(test)]
mod tests;
