//! Index MP4s: the sample tables of fragmented MP4s as a flat `moov` that refers to them (docs/index-mp4.md).
//!
//! [`media`] is where bytes come from, [`scan`] finds the boxes worth reading, and [`boxes`] opens them. [`moov`] has the
//! tracks of an init, [`fragments`] fills their [`table`]s, and [`source`] is what comes of a file. [`index`] writes an
//! index of one or several, which refers to them by [`location`]; [`read`] reads it, or any flat MP4, again, and
//! [`verify`] holds it against its media.
//!
//! # Invariants
//!
//! - No byte of an `mdat` is read but what lies in the same read as a box beside it.
//! - Whatever the bytes are, there is no panic and no more memory than they take themselves.

#![forbid(unsafe_code)]

pub mod boxes;
pub mod codec;
pub mod fragments;
pub mod index;
pub mod location;
pub mod media;
pub mod moov;
pub mod read;
pub mod scan;
pub mod source;
pub mod table;
pub mod verify;
mod write;

use std::{error, fmt, io};

pub use boxes::FourCc;

/// The longest index that is made or read, in bytes.
pub const INDEX_LEN_MAX: u64 = 1 << 30;

/// Why a file cannot be indexed, or an index not be read. Offsets are bytes from the start of the file.
#[derive(Debug)]
pub enum Error {
    /// Bytes at `offset` could not be read.
    Read {
        /// Where they begin.
        offset: u64,
        /// What the source of the bytes said.
        source: io::Error,
    },
    /// A box is not as the format has it.
    Malformed {
        /// The box.
        kind: FourCc,
        /// Where it begins.
        offset: u64,
        /// What is wrong, as the rest of a sentence that begins with the box.
        what: &'static str,
    },
    /// A box that is right, but that no index is made of.
    Unsupported {
        /// The box.
        kind: FourCc,
        /// Where it begins.
        offset: u64,
        /// What is not supported, as the rest of a sentence that begins with the box.
        what: &'static str,
    },
    /// A box lacks one that has to be in it.
    Missing {
        /// What is not there.
        wanted: FourCc,
        /// Where it should be.
        within: FourCc,
        /// Where that begins.
        offset: u64,
    },
    /// The file as a whole lacks what makes it one of ours.
    NotFound(&'static str),
    /// A track that was asked for is not there.
    NoTrack(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { offset, .. } => write!(f, "cannot be read at offset {offset}"),
            Self::Malformed { kind, offset, what } | Self::Unsupported { kind, offset, what } => {
                write!(f, "box {kind} at offset {offset} {what}")
            }
            Self::Missing { wanted, within, offset } => write!(f, "box {within} at offset {offset} has no {wanted}"),
            Self::NotFound(what) => f.write_str(what),
            Self::NoTrack(id) => write!(f, "has no track {id}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}
