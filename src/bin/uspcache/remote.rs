//! An object in storage as media: ranges of one version, many at a time.
//!
//! # Invariants
//!
//! - All bytes are of the version that was opened: each request names its ETag, or its length where it has none that is strong.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;

use mod_usp_storage_cache::cache::key::Key;
use mod_usp_storage_cache::fetch::{Failure, Kind, Part, Question};
use mod_usp_storage_cache::mp4::media::Media;

use super::jobs;
use super::storage::{Storage, collect, why};

/// What is read at once when an object is opened: most inits are shorter.
const HEAD_LEN: u64 = 4096;
/// Requests at a time: with 20 ms each, so many bring 800 fragments a second.
const JOBS: NonZeroUsize = NonZeroUsize::new(16).expect("it is not zero");
/// Ranges that are so close are asked for as one: less is saved by leaving the bytes between them out than a request costs.
const GAP_MAX: u64 = 8192;

/// An object of storage.
pub struct Remote<'s> {
    storage: &'s Storage,
    key: Key,
    len: u64,
    etag: Option<String>,
    head: Vec<u8>,
}

impl<'s> Remote<'s> {
    /// Opens an object: one request, which brings its first bytes.
    pub fn open(storage: &'s Storage, key: &Key) -> Result<Self, Failure> {
        let question = Question { part: Some(Part::Span(0, HEAD_LEN)), ..Question::default() };
        storage.get(key, &question, |answer| {
            let etag = answer.field("etag").and_then(|etag| String::from_utf8(etag.to_vec()).ok());
            let (len, head_len) = match answer.kind {
                Kind::Part { from: 0, to, total } => (total, to),
                Kind::Whole(Some(len)) if len <= HEAD_LEN => (len, len),
                Kind::Unsatisfiable(_) => (0, 0),
                Kind::Whole(_) => {
                    return Err(Failure::Answer("the server ignores Range: download the file, and use that"));
                }
                _ => return Err(Failure::Answer("it is not the part that was asked for")),
            };
            let head = if len == 0 { Vec::new() } else { collect(answer.body, head_len)? };
            Ok(Self { storage, key: key.clone(), len, etag, head })
        })
    }

    fn part(&self, range: &Range<u64>) -> Result<Vec<u8>, Failure> {
        if range.end <= self.head.len() as u64 {
            return Ok(self.head[range.start as usize..range.end as usize].to_vec());
        }
        let is_strong = |etag: &&String| !etag.starts_with("W/");
        let only = self.etag.as_ref().filter(is_strong).map(String::as_bytes);
        let question = Question { part: Some(Part::Span(range.start, range.end)), only, ..Question::default() };
        let wanted = Kind::Part { from: range.start, to: range.end, total: self.len };
        self.storage.get(&self.key, &question, |answer| match answer.kind {
            kind if kind == wanted => collect(answer.body, range.end - range.start),
            Kind::Changed | Kind::Part { .. } | Kind::Unsatisfiable(_) => Err(Failure::Changed),
            _ => Err(Failure::Answer("it is not the part that was asked for")),
        })
    }
}

impl Media for Remote<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let joined = joined(ranges);
        let parts: Result<Vec<_>, _> = jobs::all(JOBS, &joined, |range| self.part(range)).into_iter().collect();
        let parts = parts.map_err(|failure| io::Error::other(why(&failure)))?;
        let cut = |range: &Range<u64>| {
            let at = joined.iter().position(|whole| whole.start <= range.start && range.end <= whole.end)?;
            let from = (range.start - joined[at].start) as usize;
            parts[at].get(from..from + (range.end - range.start) as usize).map(<[u8]>::to_vec)
        };
        ranges.iter().map(|range| cut(range).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())).collect()
    }
}

/// What to ask for so that all of `ranges` come.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_MAX) => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_close_are_one_request() {
        type Pairs = &'static [(u64, u64)];
        let rows: [(Pairs, Pairs); 5] = [
            (&[], &[]),
            (&[(0, 10)], &[(0, 10)]),
            (&[(0, 10), (10 + GAP_MAX, 9000)], &[(0, 9000)]),
            (&[(0, 10), (11 + GAP_MAX, 9000)], &[(0, 10), (11 + GAP_MAX, 9000)]),
            (&[(50_000, 60_000), (0, 10), (55_000, 56_000)], &[(0, 10), (50_000, 60_000)]),
        ];
        let ranges = |pairs: Pairs| pairs.iter().map(|(from, to)| *from..*to).collect::<Vec<_>>();
        for (given, want) in rows {
            assert_eq!(joined(&ranges(given)), ranges(want), "{given:?}");
        }
    }
}
