//! What a child counts of its requests and fetches (`store/counters.rs`).

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Cache, Outcome, Reason};
use crate::store::counters::Own;
use crate::store::counters::table::{Kind, Measure};
use crate::store::format::BLOCK_LEN;

/// A shorter body says little of how fast storage is.
const PACED_LEN_MIN: u64 = BLOCK_LEN / 4;

impl Cache {
    /// Counts an answer, and how long it took since its request `came`, until it is handed over; gives where its bytes are counted.
    pub fn count_answer(&self, outcome: Outcome, came: Instant) -> Own<'_> {
        let own = self.store.counters().own();
        let (hit, measure) = match outcome {
            Outcome::Hit { .. } => (Some(0), Measure::Hit),
            Outcome::Stale { is_error: false, .. } | Outcome::Absent => (None, Measure::Hit),
            Outcome::Collapsed { .. } | Outcome::Revalidated { collapsed: true } => (None, Measure::Wait),
            // Storage was asked for these, by this request.
            _ => (None, Measure::Miss),
        };
        own.add(Kind::Requests, hit.unwrap_or_else(|| Kind::Requests.named(outcome.word())), 1);
        own.took(measure, came.elapsed());
        own
    }

    /// Counts a request that is left to mod_proxy.
    pub fn count_pass(self: &Arc<Self>, reason: Reason) {
        self.store.counters().add_named(Kind::Passed, reason.word());
        // What nobody adds to the host's counters is not seen.
        self.begin_to_tick();
    }

    /// Counts the bytes of a body that has come in so much time.
    pub(super) fn count_body(&self, len: u64, time: Duration) {
        if len >= PACED_LEN_MIN {
            let nanos = time.as_nanos().max(1);
            let pace = u128::from(len) * 1_000_000_000 / nanos;
            self.store.counters().own().measured(Measure::Throughput, u64::try_from(pace).unwrap_or(u64::MAX));
        }
    }

    /// The storages, `host:port`, that this child has asked.
    pub fn storages(&self) -> Vec<String> {
        let authority = |storage: &str| Some(storage.split_once("://")?.1.split_once(' ')?.0.to_owned());
        self.ordered.lock().iter().filter_map(|(storage, _)| authority(storage)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Failure;
    use crate::store::counters::table::FAMILIES;

    /// Every word is one of the row's own, not the last one, which is for all others.
    fn has_its_place(kind: Kind, word: &str) -> bool {
        FAMILIES[kind as usize].values.iter().position(|value| *value == word).is_some_and(|at| at == kind.named(word))
    }

    #[test]
    fn every_outcome_reason_and_failure_is_counted_by_its_name() {
        let outcomes = [
            Outcome::Hit { ttl_secs: 1 },
            Outcome::Filled { stale: false },
            Outcome::Collapsed { stale: false },
            Outcome::Revalidated { collapsed: false },
            Outcome::Stale { for_secs: 1, is_error: false },
            Outcome::Stale { for_secs: 1, is_error: true },
            Outcome::Unsatisfiable,
            Outcome::Absent,
        ];
        for outcome in outcomes {
            assert!(has_its_place(Kind::Requests, outcome.word()), "{outcome:?}");
        }
        assert_eq!(Kind::Requests.named(outcomes[0].word()), 0, "a hit is not looked up");
        let reasons = [
            Reason::OwnServer,
            Reason::Socket,
            Reason::PreservedHost,
            Reason::SubResource,
            Reason::ForeignSignature,
            Reason::SeveralRanges,
            Reason::HeadNotHeld,
            Reason::Body,
            Reason::Waited,
            Reason::Busy,
            Reason::Breaker,
            Reason::NotStorable,
            Reason::Unsatisfiable,
            Reason::Failed,
            Reason::Denied,
            Reason::NotFound,
            Reason::TooLarge,
            Reason::NoLength,
            Reason::Store,
            Reason::Stopping,
        ];
        for reason in reasons {
            assert!(has_its_place(Kind::Passed, reason.word()), "{reason}");
        }
        let failures = [
            Failure::Unreachable(String::new()),
            Failure::TimedOut(""),
            Failure::Broken(String::new()),
            Failure::Slow,
            Failure::Length { announced: 1, came: 0 },
            Failure::Signing(String::new()),
            Failure::NoKeys,
            Failure::Status(404),
            Failure::Status(403),
            Failure::Status(500),
            Failure::NoBucket,
            Failure::Changed,
            Failure::Answer(""),
            Failure::Checksum(""),
            Failure::Busy,
            Failure::NoLength,
            Failure::TooLarge(1),
            Failure::Store(std::io::ErrorKind::Other.into()),
        ];
        for failure in failures {
            assert!(has_its_place(Kind::FillsFailed, failure.word()), "{failure}");
        }
    }
}
