//! What a sample entry says of its coding, in the words of Smooth Streaming (MS-SSTR, section 2.2.2.5).
//!
//! # Invariants
//!
//! - A length is believed only if its bytes are there, so that nothing grows beyond thrice its box.

use super::Error;
use super::boxes::{Boxes, Fields, FourCc, Mp4Box};
use super::moov::Track;
use super::source::is_encrypted;

/// How a track is coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codec {
    /// The name of the coding: `AVC1`, `AACL`…
    pub four_cc: String,
    /// What a decoder needs to begin: parameter sets behind start codes, or the AudioSpecificConfig. Empty if there is
    /// nothing of a kind that is known.
    pub private_data: Vec<u8>,
    /// The average that is stated, in bits a second; never 0.
    pub average_bitrate: Option<u32>,
    /// What depends on the kind of the track.
    pub form: Form,
}

/// What a track is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Sound.
    Audio {
        /// In Hz.
        sampling_rate: u32,
        /// How many.
        channels: u16,
        /// Of a decoded sample.
        bits_per_sample: u16,
        /// The format's number in WAVE files: 255 for AAC, 65534 where only the FourCC tells.
        audio_tag: u16,
    },
    /// Pictures.
    Video {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
    },
    /// Subtitles or captions.
    Text,
}

const AUDIO_TAG_AAC: u16 = 0xff;
const AUDIO_TAG_OTHER: u16 = 0xfffe;

impl Codec {
    /// Reads the first sample entry of `track`; `None` if the track is neither sound, nor pictures, nor text.
    pub fn read(track: &Track<'_>) -> Result<Option<Self>, Error> {
        if !matches!(&track.handler.0, b"soun" | b"vide" | b"text" | b"subt") {
            return Ok(None);
        }
        let entry = track.sample_entries()?.next();
        let entry = entry.ok_or_else(|| track.stsd.malformed("has no sample entry"))??;
        if is_encrypted(entry.kind) {
            return Err(entry.unsupported("is an encrypted track's; take it before it is encrypted"));
        }
        let mut fields = entry.fields();
        // Six reserved bytes and the data reference (section 8.5.2.2).
        fields.bytes(8)?;
        match &track.handler.0 {
            b"soun" => audio(track, &entry, fields),
            b"vide" => video(&entry, fields),
            _ => text(&entry, fields),
        }
        .map(Some)
    }
}

/// Of a VisualSampleEntry (section 12.1.3).
fn video(entry: &Mp4Box<'_>, mut fields: Fields<'_>) -> Result<Codec, Error> {
    fields.bytes(16)?;
    let (width, height) = (fields.u16()?, fields.u16()?);
    fields.bytes(50)?;
    let config = Config::read(entry, &fields)?;
    let four_cc = match &entry.kind.0 {
        b"avc3" => "AVC1".to_owned(),
        _ => upper(entry.kind),
    };
    Ok(config.codec(four_cc, Form::Video { width, height }))
}

/// Of an AudioSampleEntry (section 12.2.3).
fn audio(track: &Track<'_>, entry: &Mp4Box<'_>, mut fields: Fields<'_>) -> Result<Codec, Error> {
    let version = fields.u16()?;
    fields.bytes(6)?;
    let (channels, bits_per_sample) = (fields.u16()?, fields.u16()?);
    fields.bytes(4)?;
    let sampling_rate = match fields.u32()? >> 16 {
        // More than 16 bits hold.
        0 => track.timescale,
        rate => rate,
    };
    if version == 1 && track.stsd.full()?.0 == 0 {
        // QuickTime's, not section 12.2.3's.
        fields.bytes(16)?;
    }
    let config = Config::read(entry, &fields)?;
    // What stands in the entry is a template of 2, which most writers leave (ISO/IEC 14496-12, section 12.2.3).
    let channels = config.channels().unwrap_or(channels);
    let (four_cc, audio_tag) = match (&entry.kind.0, config.object_type) {
        (b"mp4a", 0x40) if config.is_high_efficiency() => ("AACH".to_owned(), AUDIO_TAG_AAC),
        (b"mp4a", 0x40 | 0x66..=0x68) => ("AACL".to_owned(), AUDIO_TAG_AAC),
        _ => (upper(entry.kind), AUDIO_TAG_OTHER),
    };
    Ok(config.codec(four_cc, Form::Audio { sampling_rate, channels, bits_per_sample, audio_tag }))
}

/// Of a SubtitleSampleEntry or a WVTTSampleEntry (section 12.6.3; ISO/IEC 14496-30, section 7.5).
fn text(entry: &Mp4Box<'_>, mut fields: Fields<'_>) -> Result<Codec, Error> {
    let (four_cc, config) = match &entry.kind.0 {
        b"wvtt" => ("WVTT".to_owned(), Config::read(entry, &fields)?),
        b"stpp" => {
            // Namespace, schema location, auxiliary types.
            for _ in 0..3 {
                fields.text();
            }
            ("TTML".to_owned(), Config::read(entry, &fields)?)
        }
        _ => (upper(entry.kind), Config::default()),
    };
    Ok(config.codec(four_cc, Form::Text))
}

fn upper(kind: FourCc) -> String {
    kind.to_string().to_ascii_uppercase()
}

/// What the boxes in a sample entry say.
#[derive(Default)]
struct Config {
    private_data: Vec<u8>,
    /// Of `btrt`.
    buffer_average: u32,
    /// Of `esds`.
    stream_average: u32,
    /// Of `esds`; 0 if there is none.
    object_type: u8,
}

impl Config {
    /// Reads the boxes behind the `fields` of `entry` that were read.
    fn read(entry: &Mp4Box<'_>, fields: &Fields<'_>) -> Result<Self, Error> {
        let rest = fields.rest();
        let mut config = Self::default();
        for child in Boxes::new(rest, entry.offset + (entry.bytes.len() - rest.len()) as u64) {
            let child = child?;
            match &child.kind.0 {
                b"avcC" => config.private_data = avc(&child)?,
                b"hvcC" => config.private_data = hevc(&child)?,
                b"esds" => config.elementary_stream(&child)?,
                b"btrt" => {
                    // Buffer size and largest bit rate go before (section 8.5.2.2).
                    let mut fields = child.fields();
                    fields.bytes(8)?;
                    config.buffer_average = fields.u32()?;
                }
                _ => {}
            }
        }
        Ok(config)
    }

    fn codec(self, four_cc: String, form: Form) -> Codec {
        let averages = [self.buffer_average, self.stream_average];
        let average_bitrate = averages.into_iter().find(|average| *average != 0);
        Codec { four_cc, private_data: self.private_data, average_bitrate, form }
    }

    /// Object type, frequency and channels that an AudioSpecificConfig begins with (ISO/IEC 14496-3, section 1.6.2.1).
    fn audio_specific(&self) -> Option<(u16, u16, u16)> {
        let bits = u16::from_be_bytes(*self.private_data.first_chunk()?);
        Some((bits >> 11, bits >> 7 & 0xf, bits >> 3 & 0xf))
    }

    /// Whether the object type is SBR or PS.
    fn is_high_efficiency(&self) -> bool {
        matches!(self.audio_specific(), Some((5 | 29, _, _)))
    }

    /// The channels, where an AudioSpecificConfig says it at once: PS makes two of one, and there are longer forms.
    fn channels(&self) -> Option<u16> {
        match self.audio_specific()? {
            (29 | 31, _, _) | (_, 0xf, _) => None,
            (_, _, channels @ 1..=6) => Some(channels),
            (_, _, 7) => Some(8),
            _ => None,
        }
    }

    /// Reads an ES_Descriptor (ISO/IEC 14496-1, section 7.2.6.5).
    fn elementary_stream(&mut self, esds: &Mp4Box<'_>) -> Result<(), Error> {
        let (_, _, mut fields) = esds.full()?;
        descriptor(esds, &mut fields, 3)?;
        fields.u16()?;
        let flags = byte(&mut fields)?;
        if flags & 0x80 != 0 {
            fields.u16()?;
        }
        if flags & 0x40 != 0 {
            let url_len = byte(&mut fields)?;
            fields.bytes(url_len.into())?;
        }
        if flags & 0x20 != 0 {
            fields.u16()?;
        }
        descriptor(esds, &mut fields, 4)?;
        self.object_type = byte(&mut fields)?;
        // Stream type, buffer size, largest bit rate.
        fields.bytes(8)?;
        self.stream_average = fields.u32()?;
        if fields.rest().first() == Some(&5) {
            let len = descriptor(esds, &mut fields, 5)?;
            self.private_data = fields.bytes(len)?.to_vec();
        }
        Ok(())
    }
}

/// Begins a descriptor with `tag`, and gives its length (ISO/IEC 14496-1, section 8.3.3).
fn descriptor(esds: &Mp4Box<'_>, fields: &mut Fields<'_>, tag: u8) -> Result<usize, Error> {
    if byte(fields)? != tag {
        return Err(esds.malformed("has not the descriptors of a stream"));
    }
    let mut len = 0;
    for _ in 0..4 {
        let bits = byte(fields)?;
        len = len << 7 | usize::from(bits & 0x7f);
        if bits & 0x80 == 0 {
            return Ok(len);
        }
    }
    Err(esds.malformed("has a descriptor whose length has no end"))
}

/// SPS and PPS of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, section 5.3.3.1).
fn avc(avcc: &Mp4Box<'_>) -> Result<Vec<u8>, Error> {
    let mut fields = avcc.fields();
    fields.bytes(5)?;
    let mut sets = Vec::new();
    for mask in [0x1f, 0xff] {
        for _ in 0..byte(&mut fields)? & mask {
            unit(&mut fields, &mut sets)?;
        }
    }
    Ok(sets)
}

/// VPS, SPS and PPS of an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, section 8.3.3.1), which are NAL units of the
/// types 32 to 34.
fn hevc(hvcc: &Mp4Box<'_>) -> Result<Vec<u8>, Error> {
    let mut fields = hvcc.fields();
    fields.bytes(22)?;
    let mut sets = [const { Vec::new() }; 3];
    for _ in 0..byte(&mut fields)? {
        let kind = byte(&mut fields)? & 0x3f;
        for _ in 0..fields.u16()? {
            let at = usize::from(kind).checked_sub(32);
            unit(&mut fields, at.and_then(|at| sets.get_mut(at)).unwrap_or(&mut Vec::new()))?;
        }
    }
    Ok(sets.concat())
}

/// A NAL unit with its length before it, to one with a start code.
fn unit(fields: &mut Fields<'_>, units: &mut Vec<u8>) -> Result<(), Error> {
    let len = fields.u16()?;
    units.extend([0, 0, 0, 1]);
    units.extend(fields.bytes(len.into())?);
    Ok(())
}

fn byte(fields: &mut Fields<'_>) -> Result<u8, Error> {
    Ok(fields.bytes(1)?[0])
}

#[cfg(test)]
mod tests;
