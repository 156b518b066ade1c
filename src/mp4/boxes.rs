//! Boxes out of bytes (ISO/IEC 14496-12, section 4.2), without a copy.
//!
//! [`Boxes`] walks what stands one behind the other, [`Mp4Box`] is one of them and opens its children,
//! [`Fields`] reads numbers. Each knows its offset in the file, and says it when it fails.
//!
//! # Invariants
//!
//! - A box never ends past its parent, and a table never past its box: a count is believed only if its entries are there.

use std::fmt;

use super::Error;

/// The four characters that name a box, a brand, a handler or a sample entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourCc(pub [u8; 4]);

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq<&[u8; 4]> for FourCc {
    fn eq(&self, other: &&[u8; 4]) -> bool {
        self.0 == **other
    }
}

/// What stands before a box's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the box is.
    pub kind: FourCc,
    /// Bytes of the header: 8, or 16 with a long size.
    pub header_len: u64,
    /// Bytes of the whole box, never fewer than `header_len`.
    pub len: u64,
}

impl Header {
    /// Bytes that are enough for any header.
    pub const LEN_MAX: u64 = 16;

    /// Reads the header of the box at `offset`, of which `bytes` holds the start, and after which `room` bytes
    /// are left, itself included. A size of 0 means all of them.
    pub fn read(bytes: &[u8], offset: u64, room: u64) -> Result<Self, Error> {
        let malformed = |kind, what| Error::Malformed { kind, offset, what };
        let Some((size, rest)) = bytes.split_first_chunk() else {
            return Err(malformed(FourCc(*b"????"), "has no whole header"));
        };
        let Some((kind, rest)) = rest.split_first_chunk() else {
            return Err(malformed(FourCc(*b"????"), "has no whole header"));
        };
        let kind = FourCc(*kind);
        let (header_len, len) = match u32::from_be_bytes(*size) {
            0 => (8, room),
            1 => match rest.first_chunk() {
                Some(long) => (16, u64::from_be_bytes(*long)),
                None => return Err(malformed(kind, "has no whole header")),
            },
            size => (8, u64::from(size)),
        };
        if len < header_len {
            return Err(malformed(kind, "has a size smaller than its header"));
        }
        if len > room {
            return Err(malformed(kind, "ends past what holds it (is the file whole?)"));
        }
        Ok(Self { kind, header_len, len })
    }
}

/// A box in memory.
#[derive(Clone, Copy)]
pub struct Mp4Box<'a> {
    /// What it is.
    pub kind: FourCc,
    /// Where it begins in the file.
    pub offset: u64,
    /// All of it.
    pub bytes: &'a [u8],
    header_len: usize,
}

impl<'a> Mp4Box<'a> {
    /// The box that `bytes` starts with, at `offset` of the file.
    pub fn read(bytes: &'a [u8], offset: u64) -> Result<Self, Error> {
        let header = Header::read(bytes, offset, bytes.len() as u64)?;
        // Both are no more than the length of `bytes`.
        let (len, header_len) = (header.len as usize, header.header_len as usize);
        Ok(Self { kind: header.kind, offset, bytes: &bytes[..len], header_len })
    }

    /// What follows the header.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.header_len..]
    }

    /// The boxes in it.
    pub fn children(&self) -> Boxes<'a> {
        Boxes::new(self.body(), self.offset + self.header_len as u64)
    }

    /// The first box of that kind in it.
    pub fn child(&self, kind: &[u8; 4]) -> Result<Option<Self>, Error> {
        self.children().find(|child| !matches!(child, Ok(b) if b.kind != kind)).transpose()
    }

    /// As [`Self::child`], but it has to be there.
    pub fn need(&self, kind: &[u8; 4]) -> Result<Self, Error> {
        let missing = Error::Missing { wanted: FourCc(*kind), within: self.kind, offset: self.offset };
        self.child(kind)?.ok_or(missing)
    }

    /// Its fields.
    pub fn fields(&self) -> Fields<'a> {
        Fields { kind: self.kind, offset: self.offset, rest: self.body() }
    }

    /// Version, flags and fields of a full box (section 4.2.2).
    pub fn full(&self) -> Result<(u8, u32, Fields<'a>), Error> {
        let mut fields = self.fields();
        let word = fields.u32()?;
        Ok(((word >> 24) as u8, word & 0x00ff_ffff, fields))
    }

    /// The boxes behind the version, the flags and a count of a full box, as in `stsd` and `dref`.
    pub fn counted_children(&self) -> Result<Boxes<'a>, Error> {
        let (_, _, mut fields) = self.full()?;
        fields.u32()?;
        Ok(Boxes::new(fields.rest, self.offset + (self.bytes.len() - fields.rest.len()) as u64))
    }

    /// The error that says what is wrong with it.
    pub fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { kind: self.kind, offset: self.offset, what }
    }

    /// The error that says why no index can be made of it.
    pub fn unsupported(&self, what: &'static str) -> Error {
        Error::Unsupported { kind: self.kind, offset: self.offset, what }
    }
}

/// Boxes that stand one behind the other. Ends after the first error.
#[derive(Clone)]
pub struct Boxes<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Boxes<'a> {
    /// The boxes in `bytes`, which begin at `offset` of the file.
    pub fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset }
    }
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<Mp4Box<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let found = Mp4Box::read(self.rest, self.offset);
        let len = found.as_ref().map_or(self.rest.len(), |found| found.bytes.len());
        self.rest = &self.rest[len..];
        self.offset += len as u64;
        Some(found)
    }
}

/// The fields of a box, read one after the other. Numbers are big-endian.
#[derive(Clone)]
pub struct Fields<'a> {
    kind: FourCc,
    offset: u64,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.too_short())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.too_short())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn too_short(&self) -> Error {
        Error::Malformed { kind: self.kind, offset: self.offset, what: "ends before its fields do" }
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next 64 bits of version 1, 32 of version 0.
    pub fn wide(&mut self, version: u8) -> Result<u64, Error> {
        if version == 0 { self.u32().map(u64::from) } else { self.u64() }
    }

    /// The next `count` entries of `entry_len` bytes, if they are all there.
    pub fn table(&mut self, count: u32, entry_len: usize) -> Result<&'a [u8], Error> {
        let len = (count as usize).checked_mul(entry_len).ok_or_else(|| self.too_short())?;
        self.bytes(len)
    }

    /// The bytes up to the next NUL, which is skipped, or to the end.
    pub fn text(&mut self) -> &'a [u8] {
        let end = memchr::memchr(0, self.rest).unwrap_or(self.rest.len());
        let text = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        text
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The start of a box and the room for it; the lengths of its header and of itself.
    type Row<'a> = (&'a str, &'a [u8], u64, Option<(u64, u64)>);

    #[test]
    fn a_header_is_read_or_refused() {
        let rows: [Row<'_>; 8] = [
            ("short", b"\0\0\0\x10free", 16, Some((8, 16))),
            ("long", b"\0\0\0\x01free\0\0\0\0\0\0\0\x11", 17, Some((16, 17))),
            ("to the end", b"\0\0\0\0mdat", 99, Some((8, 99))),
            ("past the end", b"\0\0\0\x11free", 16, None),
            ("smaller than itself", b"\0\0\0\x07free", 16, None),
            ("a long one smaller than itself", b"\0\0\0\x01free\0\0\0\0\0\0\0\x0f", 17, None),
            ("half a long one", b"\0\0\0\x01free\0\0\0\0", 12, None),
            ("half a short one", b"\0\0\0\x08fre", 7, None),
        ];
        for (row, bytes, room, want) in rows {
            let got = Header::read(bytes, 0, room).ok().map(|header| (header.header_len, header.len));
            assert_eq!(got, want, "{row}");
        }
    }

    #[test]
    fn an_error_names_the_box_and_its_offset() {
        let bytes = b"\0\0\0\x20moov\0\0\0\x08free\0\0\0\x40trak\0\0\0\x08tkhd";
        let moov = Mp4Box::read(bytes, 100).expect("it is whole");
        let error = moov.need(b"trak").err().expect("trak is too long").to_string();
        assert_eq!(error, "box trak at offset 116 ends past what holds it (is the file whole?)");
        let error = moov.child(b"free").expect("it is there").expect("it is whole").full().err();
        assert_eq!(error.expect("it is empty").to_string(), "box free at offset 108 ends before its fields do");
    }

    proptest! {
        #[test]
        fn any_bytes_are_boxes_inside_them_or_an_error(bytes: Vec<u8>) {
            let mut len = 0;
            for found in Boxes::new(&bytes, 7) {
                let Ok(found) = found else { return Ok(()) };
                prop_assert_eq!(found.offset, 7 + len as u64);
                len += found.bytes.len();
            }
            prop_assert_eq!(len, bytes.len());
        }
    }
}
