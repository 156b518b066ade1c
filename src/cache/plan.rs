//! Which blocks of a fill are asked for next: those that are waited for first, neighbours in one request.
//!
//! # Invariants
//!
//! - A block that is on its way is not asked for again.
//! - A run is never longer than a part.

#![forbid(unsafe_code)]

use std::ops::Range;

/// A run of blocks that is asked for at once.
pub type Run = Range<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Coming,
    Present,
}

/// What is there of a body, and what is on its way.
pub struct Plan {
    blocks: Vec<State>,
    part_blocks: u64,
}

impl Plan {
    /// A plan for `blocks` blocks in parts of `part_blocks`, of which some are there.
    pub fn new(blocks: u64, part_blocks: u64, is_present: impl Fn(u64) -> bool) -> Self {
        let state = |block| if is_present(block) { State::Present } else { State::Missing };
        Self { blocks: (0..blocks).map(state).collect(), part_blocks: part_blocks.max(1) }
    }

    /// The runs of missing blocks that are `wanted`, in order.
    pub fn runs(&self, wanted: impl Fn(u64) -> bool) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (block, state) in (0..).zip(&self.blocks) {
            if *state != State::Missing || !wanted(block) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == block && run.end - run.start < self.part_blocks => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        runs
    }

    /// A run is on its way.
    pub fn begin(&mut self, run: &Run) {
        for block in run.clone() {
            if let Some(state @ State::Missing) = self.blocks.get_mut(block as usize) {
                *state = State::Coming;
            }
        }
    }

    /// A run has come to its end, and has brought what `is_present`; tells how many blocks, and how many were due.
    pub fn end(&mut self, run: &Run, is_present: impl Fn(u64) -> bool) -> (u64, u64) {
        let (mut came, mut due) = (0, 0);
        for block in run.clone() {
            if let Some(state @ State::Coming) = self.blocks.get_mut(block as usize) {
                *state = if is_present(block) { State::Present } else { State::Missing };
                came += u64::from(*state == State::Present);
                due += 1;
            }
        }
        (came, due)
    }

    /// Whether every block is there.
    pub fn is_complete(&self) -> bool {
        self.blocks.iter().all(|state| *state == State::Present)
    }

    /// Whether blocks that are `wanted` are missing or on their way.
    pub fn is_waited_for(&self, wanted: impl Fn(u64) -> bool) -> bool {
        (0..).zip(&self.blocks).any(|(block, state)| *state != State::Present && wanted(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(_: u64) -> bool {
        true
    }

    #[test]
    fn wanted_blocks_come_first_and_neighbours_together() {
        let mut plan = Plan::new(20, 4, |block| block == 2);
        let wanted = |block: u64| [0, 1, 2, 3, 9, 10, 11, 12, 13, 14].contains(&block);
        let runs = plan.runs(wanted);
        assert_eq!(runs, [0..2, 3..4, 9..13, 13..15]);
        runs.iter().for_each(|run| plan.begin(run));
        assert!(plan.runs(wanted).is_empty() && plan.is_waited_for(wanted));
        assert_eq!(plan.runs(all).first(), Some(&(4..8)));
    }

    #[test]
    fn what_did_not_come_is_asked_for_again_and_what_came_is_not() {
        let mut plan = Plan::new(4, 4, |_| false);
        plan.begin(&(0..4));
        assert!(plan.runs(all).is_empty() && !plan.is_complete());
        assert_eq!(plan.end(&(0..4), |block| block < 3), (3, 4));
        assert_eq!(plan.runs(all), vec![3..4; 1]);
        plan.begin(&(3..4));
        assert_eq!(plan.end(&(2..4), all), (1, 1));
        assert!(plan.is_complete() && !plan.is_waited_for(all));
    }

    #[test]
    fn an_empty_body_is_complete() {
        assert!(Plan::new(0, 4, all).is_complete());
    }
}
