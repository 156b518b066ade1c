//! The Range parser against a second reading of RFC 9110, sections 14.1.1, 14.1.2 and 14.2.
//!
//! An input is an object's length in decimal, a space and the header's value: `100 bytes=0-9`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mod_usp_storage_cache::semantics::range::{Asked, parse};

fuzz_target!(|input: &[u8]| {
    let Some((len, header)) = split(input) else { return };
    let got = match parse(header) {
        Asked::Whole => Answer::Whole,
        Asked::Several => Answer::Several,
        Asked::One(range) => match range.resolve(len) {
            Some(part) => {
                assert!(part.start < part.end && part.end <= len, "{part:?} of {len}");
                Answer::Part(part.start.into(), part.end.into())
            }
            None => Answer::Unsatisfiable,
        },
    };
    if is_field_value(header) {
        assert_eq!(got, naive(header, len.into()));
    }
});

#[derive(Debug, PartialEq)]
enum Answer {
    Whole,
    Several,
    Unsatisfiable,
    /// From the first position to the one behind the last.
    Part(u128, u128),
}

/// One range-spec: `first-last`, `first-` or `-suffix`.
struct Spec {
    first: Option<u128>,
    last: Option<u128>,
}

fn naive(header: &[u8], len: u128) -> Answer {
    let Some(specs) = str::from_utf8(header).ok().and_then(specs) else { return Answer::Whole };
    match specs.as_slice() {
        [] => Answer::Whole,
        [Spec { first: Some(first), last }] if *first < len => {
            Answer::Part(*first, last.map_or(len, |last| len.min(last + 1)))
        }
        [Spec { first: None, last: Some(suffix) }] if *suffix > 0 && len > 0 => {
            Answer::Part(if *suffix < len { len - suffix } else { 0 }, len)
        }
        [_] => Answer::Unsatisfiable,
        _ => Answer::Several,
    }
}

/// The range-set; `None` if any part of the header is not as the grammar says.
fn specs(header: &str) -> Option<Vec<Spec>> {
    let (unit, set) = header.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for element in set.split(',') {
        let element = element.trim_matches([' ', '\t']);
        // A recipient takes empty elements of a list (section 5.6.1.2).
        if !element.is_empty() {
            specs.push(spec(element)?);
        }
    }
    Some(specs)
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    let is_digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if !is_digits(first) || !is_digits(last) {
        return None;
    }
    let spec = Spec { first: number(first), last: number(last) };
    match (spec.first, spec.last) {
        (None, None) => None,
        (Some(first), Some(last)) if last < first => None,
        _ => Some(spec),
    }
}

/// A number; the largest length of an object stands for all that are larger.
fn number(digits: &str) -> Option<u128> {
    let most = u128::from(u64::MAX);
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(most).min(most))
}

fn split(input: &[u8]) -> Option<(u64, &[u8])> {
    let space = input.iter().position(|b| *b == b' ')?;
    Some((str::from_utf8(&input[..space]).ok()?.parse().ok()?, &input[space + 1..]))
}

/// What httpd takes as a field's value (RFC 9110, section 5.5).
fn is_field_value(header: &[u8]) -> bool {
    header.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f))
}
