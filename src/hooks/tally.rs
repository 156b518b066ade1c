//! What a client's request and its sub-requests met, for the access log: `%{USP_STORAGE_CACHE}e`.

use std::fmt::Write;

use crate::cache::Outcome;
use crate::ffi::pool::Board;
use crate::ffi::request::Request;
use crate::module::usp_storage_cache_module;

/// Long enough for each count at its largest.
const TEXT_LEN: usize = 96;

/// What is counted, in the order in which it is shown.
const NAMES: [&str; 5] = ["hit", "miss", "collapsed", "absent", "bypass"];

#[derive(Clone, Copy)]
struct Tally<'p> {
    counts: [u32; NAMES.len()],
    board: Board<'p>,
}

/// Counts an answer of ours.
pub fn count(request: &Request<'_>, outcome: Outcome) {
    add(
        request,
        match outcome {
            Outcome::Hit { .. } => 0,
            Outcome::Filled { .. } => 1,
            Outcome::Collapsed => 2,
            Outcome::Absent => 3,
        },
    );
}

/// Counts a request that matched and was left to mod_proxy.
pub fn count_bypass(request: &Request<'_>) {
    add(request, 4);
}

fn add(request: &Request<'_>, which: usize) {
    // The access log knows the client's request only.
    let top = request.top();
    let begin = || {
        let board = Board::new(top.pool(), TEXT_LEN);
        top.environment().show(c"USP_STORAGE_CACHE", board);
        Tally { counts: [0; NAMES.len()], board }
    };
    top.with_note(&usp_storage_cache_module, begin, |tally| {
        tally.counts[which] = tally.counts[which].saturating_add(1);
        tally.board.write(text(&tally.counts).as_bytes());
    });
}

fn text(counts: &[u32; NAMES.len()]) -> String {
    let mut text = String::with_capacity(TEXT_LEN);
    for (name, count) in NAMES.iter().zip(counts).filter(|(_, count)| **count > 0) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(text, "{comma}{name}={count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_met_is_shown_and_the_longest_fits() {
        assert_eq!(text(&[3, 1, 0, 0, 2]), "hit=3,miss=1,bypass=2");
        assert!(text(&[u32::MAX; 5]).len() <= TEXT_LEN);
    }
}
