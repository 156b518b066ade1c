//! Byte ranges: from a `Range` header to the part of an object to send.
//!
//! [`parse`] reads what was asked, and [`ByteRange::resolve`] holds that against an object's length.
//! Nothing here knows where the bytes come from.
//!
//! # Invariants
//!
//! - A resolved range is never empty and never ends past its object.
//! - A header that cannot be read is ignored, as RFC 9110 (section 14.2) allows; it is no error.

use std::ops::Range;

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The whole object: there is no header, or none that can be read.
    Whole,
    /// One range.
    One(ByteRange),
    /// Several ranges.
    Several,
}

/// One byte range of RFC 9110, section 14.1.2; positions and counts in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first position to the last, both included.
    FromTo(u64, u64),
    /// From a position to the end.
    From(u64),
    /// That many bytes at the end.
    Last(u64),
}

/// Reads the value of a `Range` header.
pub fn parse(header: &[u8]) -> Asked {
    let Some(set) = header.split_at_checked(6).filter(|(unit, _)| unit.eq_ignore_ascii_case(b"bytes=")) else {
        return Asked::Whole;
    };
    let mut asked = Asked::Whole;
    for spec in set.1.split(|b| *b == b',').map(|spec| spec.trim_ascii()).filter(|spec| !spec.is_empty()) {
        let Some(range) = parse_one(spec) else { return Asked::Whole };
        asked = if asked == Asked::Whole { Asked::One(range) } else { Asked::Several };
    }
    asked
}

fn parse_one(spec: &[u8]) -> Option<ByteRange> {
    let dash = spec.iter().position(|b| *b == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(ByteRange::Last(number(last)?)),
        (false, true) => Some(ByteRange::From(number(first)?)),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::FromTo(first, last))
        }
    }
}

/// Digits as a number, 0 where there are none; what is too large for one stands for a position beyond any object.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |n, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        Some(n.saturating_mul(10).saturating_add(digit))
    })
}

impl ByteRange {
    /// The part of an object of `len` bytes that this range selects, or `None` if it selects nothing (416).
    pub fn resolve(self, len: u64) -> Option<Range<u64>> {
        let part = match self {
            Self::FromTo(first, last) => first..last.saturating_add(1).min(len),
            Self::From(first) => first..len,
            Self::Last(count) => len.saturating_sub(count)..len,
        };
        (part.start < part.end).then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read_or_ignored() {
        let rows: [(&str, Asked); 21] = [
            ("bytes=0-99", Asked::One(ByteRange::FromTo(0, 99))),
            ("BYTES=0-99", Asked::One(ByteRange::FromTo(0, 99))),
            ("bytes=5-", Asked::One(ByteRange::From(5))),
            ("bytes=-7", Asked::One(ByteRange::Last(7))),
            ("bytes= 1-2 ", Asked::One(ByteRange::FromTo(1, 2))),
            ("bytes=1-2,", Asked::One(ByteRange::FromTo(1, 2))),
            ("bytes=1-2,4-5", Asked::Several),
            ("bytes=0-99999999999999999999999", Asked::One(ByteRange::FromTo(0, u64::MAX))),
            ("bytes=99999999999999999999999-", Asked::One(ByteRange::From(u64::MAX))),
            ("", Asked::Whole),
            ("bytes", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=,", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=2-1", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=1 -2", Asked::Whole),
            ("bytes=1-2,x", Asked::Whole),
            ("bytes 1-2", Asked::Whole),
            ("items=0-1", Asked::Whole),
        ];
        for (header, want) in rows {
            assert_eq!(parse(header.as_bytes()), want, "{header}");
        }
    }

    #[test]
    fn a_range_selects_its_part_of_the_object() {
        let rows = [
            (ByteRange::FromTo(0, 0), 1, Some(0..1)),
            (ByteRange::FromTo(0, 99), 50, Some(0..50)),
            (ByteRange::FromTo(50, 99), 50, None),
            (ByteRange::FromTo(0, u64::MAX), 50, Some(0..50)),
            (ByteRange::From(49), 50, Some(49..50)),
            (ByteRange::From(50), 50, None),
            (ByteRange::Last(0), 50, None),
            (ByteRange::Last(7), 50, Some(43..50)),
            (ByteRange::Last(70), 50, Some(0..50)),
            (ByteRange::Last(1), 0, None),
        ];
        for (range, len, want) in rows {
            assert_eq!(range.resolve(len), want, "{range:?} of {len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_part_inside_the_object(header: Vec<u8>, len: u64) {
            if let Asked::One(range) = parse(&[b"bytes=", header.as_slice()].concat())
                && let Some(part) = range.resolve(len)
            {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }
    }
}
