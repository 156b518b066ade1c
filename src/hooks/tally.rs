//! What a client's request and its sub-requests met, for the access log: `%{USP_STORAGE_CACHE}e`.

use crate::cache::Outcome;
use crate::ffi::pool::Board;
use crate::ffi::request::Request;
use crate::module::usp_storage_cache_module;
use crate::semantics::line::Line;

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
            Outcome::Collapsed { .. } => 2,
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

fn text(counts: &[u32; NAMES.len()]) -> Line<TEXT_LEN> {
    let mut text = Line::new();
    for (name, count) in NAMES.iter().zip(counts).filter(|(_, count)| **count > 0) {
        let comma = if text.as_bytes().is_empty() { "" } else { "," };
        text.push(comma).push(name).push("=").push_number((*count).into());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_met_is_shown_and_the_longest_fits() {
        assert_eq!(text(&[3, 1, 0, 0, 2]).as_bytes(), b"hit=3,miss=1,bypass=2");
        assert!(text(&[u32::MAX; 5]).as_bytes().ends_with(b",bypass=4294967295"));
    }
}
