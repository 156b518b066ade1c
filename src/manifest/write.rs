//! A server manifest as a value, and as the XML that an origin reads (docs/server-manifest.md).
//!
//! # Invariants
//!
//! - What [`Manifest::write`] wrote, [`read`] gives back equal.

use std::ops::Range;
use std::{error, fmt, io};

use quick_xml::events::{BytesDecl, BytesStart, BytesText, Event};
use quick_xml::writer::Writer;

use super::read::read;

/// A server manifest, as far as it is read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The name of the manifest that Smooth Streaming clients get.
    pub client_manifest: Option<String>,
    /// The tracks, in their order.
    pub tracks: Vec<Track>,
}

/// A track of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// What it is.
    pub kind: Kind,
    /// The reference to its file.
    pub src: String,
    /// In bits a second.
    pub bitrate: Option<u64>,
    /// ISO 639-2/T or BCP 47.
    pub language: Option<String>,
    /// All else: names and values.
    pub params: Vec<(String, String)>,
}

/// What a track is, in the order in which a manifest has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
    /// Subtitles and captions.
    Text,
}

/// The manifest holds something that a reader would not give back: an empty or too long reference, characters that XML
/// forbids, or more than a manifest may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritable;

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("would be a manifest that cannot be read: too long, or with characters that XML has not")
    }
}

impl error::Error for Unwritable {}

impl Kind {
    /// The name of the element.
    pub fn element(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Text => "textstream",
        }
    }

    /// What the element `tag` stands for, if it is a track.
    pub(super) fn of(tag: &BytesStart<'_>) -> Option<Self> {
        let name = tag.local_name();
        [Self::Audio, Self::Video, Self::Text].into_iter().find(|kind| kind.element() == name.as_ref())
    }
}

impl Track {
    /// The value of the first param of that name.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Manifest {
    /// The manifest as UTF-8, in the form that packagers write.
    pub fn write(&self) -> Result<Vec<u8>, Unwritable> {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        writer.config_mut().add_space_before_slash_in_empty_elements = true;
        self.elements(&mut writer).expect("writing to memory does not fail");
        let bytes = sealed(writer.into_inner());
        // XML has not these two either (XML 1.0, section 2.2), which our own reader does not look for.
        let has_none = |text: &str| !text.contains(['\u{fffe}', '\u{ffff}']);
        let is_read = str::from_utf8(&bytes).is_ok_and(has_none) && read(&bytes).as_ref() == Ok(self);
        is_read.then_some(bytes).ok_or(Unwritable)
    }

    fn elements(&self, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
        writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)))?;
        let smil = writer.create_element("smil").with_attribute(("xmlns", "http://www.w3.org/2001/SMIL20/Language"));
        smil.write_inner_content(|writer| {
            writer.create_element("head").write_inner_content(|writer| {
                if let Some(name) = &self.client_manifest {
                    meta(writer, "clientManifestRelativePath", name)?;
                }
                meta(writer, "creator", &format!("uspcache {NO_SUM}"))
            })?;
            writer.create_element("body").write_inner_content(|writer| {
                writer
                    .create_element("switch")
                    .write_inner_content(|writer| self.tracks.iter().try_for_each(|track| track.write(writer)))?;
                Ok(())
            })?;
            Ok(())
        })?;
        writer.write_event(Event::Text(BytesText::new("\n")))
    }
}

/// What stands before the checksum in a document of ours, and in its place while it is computed.
const BEFORE_SUM: &[u8] = b"<meta name=\"creator\" content=\"uspcache ";
const NO_SUM: &str = "00000000";

/// A document with its checksum: CRC-32C, with zeros in its own place.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(place) = place_of_sum(&bytes) {
        let sum = format!("{:08x}", crc32c::crc32c(&bytes));
        bytes[place].copy_from_slice(sum.as_bytes());
    }
    bytes
}

fn place_of_sum(bytes: &[u8]) -> Option<Range<usize>> {
    let at = memchr::memmem::find(bytes, BEFORE_SUM)? + BEFORE_SUM.len();
    (at + NO_SUM.len() <= bytes.len()).then(|| at..at + NO_SUM.len())
}

/// Whether a document is as [`Manifest::write`] left it, to the byte.
pub fn is_as_written(bytes: &[u8]) -> bool {
    let Some(place) = place_of_sum(bytes) else { return false };
    let mut plain = bytes.to_vec();
    plain[place].copy_from_slice(NO_SUM.as_bytes());
    sealed(plain) == bytes
}

impl Track {
    fn write(&self, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
        let bitrate = self.bitrate.map(|bitrate| bitrate.to_string());
        let stated = [("systemBitrate", bitrate.as_ref()), ("systemLanguage", self.language.as_ref())];
        let stated = stated.into_iter().filter_map(|(name, value)| Some((name, value?.as_str())));
        let element = writer.create_element(self.kind.element()).with_attribute(("src", self.src.as_str()));
        element.with_attributes(stated).write_inner_content(|writer| {
            for (name, value) in &self.params {
                let param = writer.create_element("param").with_attribute(("name", name.as_str()));
                param.with_attributes([("value", value.as_str()), ("valueType", "data")]).write_empty()?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

fn meta(writer: &mut Writer<Vec<u8>>, name: &str, content: &str) -> io::Result<()> {
    writer.create_element("meta").with_attributes([("name", name), ("content", content)]).write_empty()?;
    Ok(())
}

#[cfg(test)]
mod tests;
