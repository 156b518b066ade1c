//! The tracks of a server manifest, as far as others than their writer can know what they say.
//!
//! # Invariants
//!
//! - Nothing is kept of a manifest's head, which can hold content keys, but the name of the client manifest.

use std::ops::ControlFlow;

use quick_xml::events::BytesStart;

use super::write::{Kind, Manifest, Track};
use super::{Unreadable, attributes, is_source, walk};

/// Reads `manifest`. Tracks without a usable `src` are left out, as [`sources`](super::sources) does; a bit rate that is
/// no number is none, and a `param` without a name or a value is none either.
pub fn read(manifest: &[u8]) -> Result<Manifest, Unreadable> {
    let mut reading = Reading::default();
    walk(manifest, |tag, depth| reading.open(tag, depth).map(ControlFlow::Continue))?;
    Ok(reading.manifest)
}

#[derive(Default)]
struct Reading {
    manifest: Manifest,
    /// The elements that are open around the next one and are tracks: their depth, and their number if they count.
    around: Vec<(u32, Option<usize>)>,
}

impl Reading {
    fn open(&mut self, tag: &BytesStart<'_>, depth: u32) -> Result<(), Unreadable> {
        while self.around.pop_if(|(track, _)| *track >= depth).is_some() {}
        if let Some(kind) = Kind::of(tag) {
            let track = track(kind, tag)?;
            self.around.push((depth, track.is_some().then_some(self.manifest.tracks.len())));
            self.manifest.tracks.extend(track);
            return Ok(());
        }
        match tag.local_name().as_ref() {
            "param" => {
                let within = self.around.last().filter(|(track, _)| track + 1 == depth).and_then(|(_, number)| *number);
                if let Some(track) = within.and_then(|number| self.manifest.tracks.get_mut(number))
                    && let [Some(name), Some(value)] = attributes(tag, ["name", "value"])?
                {
                    track.params.push((name, value));
                }
            }
            "meta" => {
                if let [Some(name), Some(content)] = attributes(tag, ["name", "content"])?
                    && name == "clientManifestRelativePath"
                {
                    self.manifest.client_manifest = Some(content);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn track(kind: Kind, tag: &BytesStart<'_>) -> Result<Option<Track>, Unreadable> {
    let [src, bitrate, language] = attributes(tag, ["src", "systemBitrate", "systemLanguage"])?;
    let bitrate = bitrate.and_then(|bitrate| bitrate.trim().parse().ok());
    let src = src.filter(|src| is_source(src));
    Ok(src.map(|src| Track { kind, src, bitrate, language, params: Vec::new() }))
}
