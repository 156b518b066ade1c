//! What the arguments of directives may be: from a text to a value, or to what would be right.

#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use super::{Invalid, RangeAnswer};
use crate::cache::key::Upstream;
use crate::store::format::BLOCK_LEN;

pub(super) fn on_off(value: &str) -> Result<bool, Invalid> {
    if value.eq_ignore_ascii_case("on") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("off") {
        Ok(false)
    } else {
        Err(Invalid("on or off".into()))
    }
}

pub(super) fn range_answer(value: &str) -> Result<RangeAnswer, Invalid> {
    match value.to_ascii_lowercase().as_str() {
        "partial" => Ok(RangeAnswer::Partial),
        "full" => Ok(RangeAnswer::Full),
        _ => Err(Invalid("partial or full".into())),
    }
}

pub(super) fn seconds(value: &str, least: u32) -> Result<u32, Invalid> {
    let most = 10 * 365 * 86400;
    let invalid = |_| Invalid(format!("a whole number of seconds from {least} to {most}"));
    number(value, least..=most).map_err(invalid)
}

pub(super) fn number(value: &str, within: RangeInclusive<u32>) -> Result<u32, Invalid> {
    let invalid = || Invalid(format!("a whole number from {} to {}", within.start(), within.end()));
    digits(value).and_then(|n| u32::try_from(n).ok()).filter(|n| within.contains(n)).ok_or_else(invalid)
}

/// At least a block, rounded up to whole blocks.
pub(super) fn part_len(value: &str) -> Result<u64, Invalid> {
    let want = "a number of bytes from 256K on, with K, M, G or T for its multiples of 1024 (4M for example)";
    let len = byte_count(value).filter(|n| *n >= BLOCK_LEN).ok_or_else(|| Invalid(want.into()))?;
    Ok(len.next_multiple_of(BLOCK_LEN))
}

pub(super) fn bytes(value: &str) -> Result<u64, Invalid> {
    let want = "a number of bytes above 0, with K, M, G or T for its multiples of 1024 (500M for example)";
    byte_count(value).filter(|n| *n > 0).ok_or_else(|| Invalid(want.into()))
}

pub(super) fn bytes_or_zero(value: &str) -> Result<u64, Invalid> {
    let want = "a number of bytes, with K, M, G or T for its multiples of 1024 (1G for example)";
    byte_count(value).ok_or_else(|| Invalid(want.into()))
}

fn byte_count(value: &str) -> Option<u64> {
    let unit = value.chars().last()?.to_ascii_uppercase();
    let shift = match unit {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return digits(value),
    };
    digits(&value[..value.len() - 1])?.checked_mul(1 << shift).filter(|n| i64::try_from(*n).is_ok())
}

fn digits(value: &str) -> Option<u64> {
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|n| plain && i64::try_from(*n).is_ok())
}

/// A URL below which objects lie.
pub(super) fn storage_url(value: &str) -> Result<&str, Invalid> {
    let invalid =
        || Invalid("an http:// or https:// URL without a query (https://bucket.s3.eu-west-1.amazonaws.com/)".into());
    let filename = format!("proxy:{value}");
    let key = Upstream::parse(filename.as_bytes()).and_then(|upstream| upstream.key("", false));
    key.ok().filter(|key| !key.path_and_query().contains('?')).map(|_| value).ok_or_else(invalid)
}

pub(super) fn text(value: &str) -> Result<&str, Invalid> {
    let fits = !value.is_empty() && !value.bytes().any(|b| b.is_ascii_control());
    fits.then_some(value).ok_or_else(|| Invalid("a text without control characters, not empty".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_take_multiples_and_refuse_nonsense() {
        let rows = [
            ("1", Some(1)),
            ("1k", Some(1024)),
            ("10G", Some(10 << 30)),
            ("2T", Some(2 << 40)),
            ("", None),
            ("K", None),
            ("-1", None),
            ("+1", None),
            ("1.5G", None),
            ("1GB", None),
            ("99999999T", None),
            ("9223372036854775808", None),
        ];
        for (value, want) in rows {
            assert_eq!(byte_count(value), want, "{value:?}");
        }
    }

    #[test]
    fn seconds_are_whole_and_bounded() {
        let rows =
            [("0", 0, Some(0)), ("0", 1, None), ("7200", 0, Some(7200)), ("1h", 0, None), ("99999999999", 0, None)];
        for (value, least, want) in rows {
            assert_eq!(seconds(value, least).ok(), want, "{value:?}");
        }
    }

    #[test]
    fn a_part_is_whole_blocks() {
        let rows = [
            ("262143", None),
            ("0", None),
            ("256", None),
            ("256K", Some(256 << 10)),
            ("262145", Some(512 << 10)),
            ("1000000", Some(1 << 20)),
            ("4M", Some(4 << 20)),
            ("9223372036854775807", Some(1 << 63)),
        ];
        for (value, want) in rows {
            assert_eq!(part_len(value).ok(), want, "{value:?}");
        }
    }
}
