//! Server manifests (`.ism`): SMIL 2.0 documents that name the files which a presentation is made of.
//!
//! [`sources`] pulls the references out of one, and [`read::read`] all that is said of its tracks. They read what packagers
//! write and what IIS's tools write, and give up on all else: who asks has a manifest that the origin can read, or one
//! that somebody made to hurt. [`media`] makes tracks of MP4s, and [`mod@write`] a manifest of tracks.
//!
//! # Invariants
//!
//! - Work and memory are bounded whatever the bytes are, by the `…_MAX` below.
//! - No entity of a document's own is ever expanded, and nothing that a document points at is opened.
//! - An error holds no text of the manifest, which can hold content keys.

#![forbid(unsafe_code)]

pub mod media;
pub mod read;
pub mod write;

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use write::Kind;

/// The longest manifest that is read, in bytes.
pub const MANIFEST_LEN_MAX: usize = 1 << 20;
/// Of more sources the first so many count.
pub const SOURCES_MAX: usize = 64;
/// A longer source, in bytes, is skipped.
pub const SOURCE_LEN_MAX: usize = 2048;

/// Tags, texts, comments and the like; a manifest of [`MANIFEST_LEN_MAX`] as packagers write it has some 40,000.
const EVENTS_MAX: u32 = 1 << 16;
/// Elements within elements; packagers write five.
const DEPTH_MAX: u32 = 32;
/// Attributes of a track or a param; packagers write three. Duplicates are looked for by comparing each with each.
const ATTRIBUTES_MAX: usize = 32;

/// Why a manifest is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is longer than [`MANIFEST_LEN_MAX`].
    TooLong,
    /// It is neither UTF-8 nor, with its mark, UTF-16, or it says that it is something else.
    Encoding,
    /// It is no well-formed XML, or refers to an entity that XML itself does not define.
    Malformed,
    /// It brings declarations of its own.
    Declarations,
    /// It is well-formed, as far as that was read, but no SMIL.
    NotSmil,
    /// It is nested deeper, has more parts, or a track of it more attributes, than any manifest has.
    TooComplex,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "longer than 1 MiB",
            Self::Encoding => "neither UTF-8 nor UTF-16 with a byte order mark",
            Self::Malformed => "no well-formed XML",
            Self::Declarations => "a document type with declarations",
            Self::NotSmil => "no SMIL document",
            Self::TooComplex => "more complex than a server manifest",
        })
    }
}

impl std::error::Error for Unreadable {}

/// The distinct `src` of the tracks (`audio`, `video` and `textstream`) of `manifest`, in order, with references to
/// characters resolved.
pub fn sources(manifest: &[u8]) -> Result<Vec<String>, Unreadable> {
    let mut sources = Vec::new();
    walk(manifest, |tag, _| {
        if Kind::of(tag).is_some()
            && let [Some(source)] = attributes(tag, ["src"])?
            && is_source(&source)
            && !sources.contains(&source)
        {
            sources.push(source);
        }
        Ok(if sources.len() == SOURCES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(sources)
}

fn is_source(src: &str) -> bool {
    (1..=SOURCE_LEN_MAX).contains(&src.len())
}

/// Gives each start tag of `manifest` and its depth to `open`, up to the end or until that breaks.
fn walk(
    manifest: &[u8],
    mut open: impl FnMut(&BytesStart<'_>, u32) -> Result<ControlFlow<()>, Unreadable>,
) -> Result<(), Unreadable> {
    if manifest.len() > MANIFEST_LEN_MAX {
        return Err(Unreadable::TooLong);
    }
    let text = decoded(manifest)?;
    let mut reader = Reader::from_str(&text);
    let mut document = Document::default();
    for _ in 0..EVENTS_MAX {
        let event = reader.read_event().map_err(|_| Unreadable::Malformed)?;
        if matches!(event, Event::Eof) {
            return document.end();
        }
        let depth = document.depth;
        document.take(&event)?;
        if let Event::Start(tag) | Event::Empty(tag) = &event
            && open(tag, depth)?.is_break()
        {
            return Ok(());
        }
    }
    Err(Unreadable::TooComplex)
}

/// What was read so far.
#[derive(Default)]
struct Document {
    depth: u32,
    has_root: bool,
}

impl Document {
    fn take(&mut self, event: &Event<'_>) -> Result<(), Unreadable> {
        match event {
            Event::Start(tag) => {
                self.open(tag)?;
                self.depth += 1;
            }
            Event::Empty(tag) => self.open(tag)?,
            Event::End(_) => self.depth -= 1,
            Event::Decl(declaration) => check_encoding(declaration)?,
            Event::DocType(doctype) if doctype.contains('[') => return Err(Unreadable::Declarations),
            Event::Text(text) if self.depth == 0 && !text.trim().is_empty() => return Err(Unreadable::Malformed),
            Event::CData(_) | Event::GeneralRef(_) if self.depth == 0 => return Err(Unreadable::Malformed),
            Event::GeneralRef(reference) => check_reference(reference)?,
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), Unreadable> {
        match (self.depth, self.has_root) {
            (0, true) => return Err(Unreadable::Malformed),
            (0, false) if tag.local_name().as_ref() != "smil" => return Err(Unreadable::NotSmil),
            (DEPTH_MAX.., _) => return Err(Unreadable::TooComplex),
            _ => self.has_root = true,
        }
        Ok(())
    }

    fn end(self) -> Result<(), Unreadable> {
        if self.has_root && self.depth == 0 { Ok(()) } else { Err(Unreadable::Malformed) }
    }
}

/// Those attributes of `tag` that are `wanted`. One with a prefix would be an attribute of something else.
fn attributes<const N: usize>(tag: &BytesStart<'_>, wanted: [&str; N]) -> Result<[Option<String>; N], Unreadable> {
    let mut values = [const { None }; N];
    for (count, attribute) in tag.attributes().enumerate() {
        if count == ATTRIBUTES_MAX {
            return Err(Unreadable::TooComplex);
        }
        let attribute = attribute.map_err(|_| Unreadable::Malformed)?;
        if let Some(at) = wanted.iter().position(|name| attribute.key.as_ref() == *name) {
            let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|_| Unreadable::Malformed)?;
            values[at] = Some(value.into_owned());
        }
    }
    Ok(values)
}

/// `manifest` as text, without characters that XML forbids (XML 1.0, section 2.2).
fn decoded(manifest: &[u8]) -> Result<Cow<'_, str>, Unreadable> {
    let text: Cow<'_, str> = match manifest {
        [0xff, 0xfe, units @ ..] => utf_16(units, u16::from_le_bytes)?.into(),
        [0xfe, 0xff, units @ ..] => utf_16(units, u16::from_be_bytes)?.into(),
        _ => str::from_utf8(manifest).map_err(|_| Unreadable::Encoding)?.into(),
    };
    let is_forbidden = |byte: u8| byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r');
    if text.bytes().any(is_forbidden) { Err(Unreadable::Malformed) } else { Ok(text) }
}

fn utf_16(units: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, Unreadable> {
    let (units, rest) = units.as_chunks();
    let text: Result<String, _> = char::decode_utf16(units.iter().map(|bytes| unit(*bytes))).collect();
    text.ok().filter(|_| rest.is_empty()).ok_or(Unreadable::Encoding)
}

/// Programs that write UTF-8 have been seen to say UTF-16: what counts is that it is not something else altogether.
fn check_encoding(declaration: &BytesDecl<'_>) -> Result<(), Unreadable> {
    let is_known = |name: &str| ["utf-8", "utf-16", "us-ascii"].iter().any(|known| name.eq_ignore_ascii_case(known));
    match declaration.encoding() {
        Some(Ok(name)) if !is_known(&name) => Err(Unreadable::Encoding),
        Some(Err(_)) => Err(Unreadable::Malformed),
        _ => Ok(()),
    }
}

/// A reference in a text, which does not matter, but must not be to an entity of the document's own.
fn check_reference(reference: &BytesRef<'_>) -> Result<(), Unreadable> {
    match reference.resolve_char_ref() {
        Ok(Some(_)) => Ok(()),
        Ok(None) if resolve_predefined_entity(reference).is_some() => Ok(()),
        _ => Err(Unreadable::Malformed),
    }
}

#[cfg(test)]
mod tests;
