//! What a client's request and its sub-requests met, for the access log: `%{USP_STORAGE_CACHE}e`.

use crate::cache::outcome::{Outcome, Tally};
use crate::ffi::pool::Board;
use crate::ffi::request::Request;
use crate::module::Config;

/// What is noted with a client's request.
#[derive(Clone, Copy)]
pub struct Note<'r> {
    tally: Tally,
    board: Board<'r>,
}

/// Counts an answer of ours.
pub fn count(request: &Request<'_>, outcome: Outcome) {
    change(request, |tally| tally.count(outcome));
}

/// Counts a request that matched and was left to mod_proxy.
pub fn count_bypass(request: &Request<'_>) {
    change(request, Tally::count_bypass);
}

fn change(request: &Request<'_>, change: impl FnOnce(&mut Tally)) {
    // The access log knows the client's request only.
    let top = request.top();
    let begin = || {
        let board = Board::new(top.pool(), Tally::TEXT_LEN);
        top.environment().show(c"USP_STORAGE_CACHE", board);
        Note { tally: Tally::default(), board }
    };
    top.with_note::<Config>(begin, |note| {
        change(&mut note.tally);
        note.board.write(note.tally.text().as_bytes());
    });
}
