//! When storage is asked again after a failure (AWS SDKs and Tools reference guide, "Retry behavior").

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::Failure;

/// The first pause; each next one is twice as long, and all are prolonged at random by up to as much again.
const PAUSE: Duration = Duration::from_millis(50);
/// How often one question is asked again.
const RETRIES_MAX: usize = 4;

/// The pauses between the tries of one question.
pub struct Pauses {
    pauses: ExponentialBackoff,
    until: Instant,
    has_hung: bool,
}

impl Pauses {
    /// Pauses that end within `patience`.
    pub fn within(patience: Duration) -> Self {
        let pauses = ExponentialBuilder::new().with_min_delay(PAUSE).with_max_times(RETRIES_MAX).with_jitter();
        Self { pauses: pauses.build(), until: Instant::now() + patience, has_hung: false }
    }

    /// How long to pause before storage is asked again; `None` where it is asked no more. After a second hang it is not.
    pub fn next(&mut self, failure: &Failure) -> Option<Duration> {
        let is_hang = matches!(failure, Failure::TimedOut(_));
        let may_pass = failure.passes() && !(is_hang && std::mem::replace(&mut self.has_hung, true));
        let pause = if may_pass { self.pauses.next() } else { None };
        pause.filter(|pause| Instant::now() + *pause < self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = Pauses::within(Duration::from_secs(60));
        let failure = Failure::Status(503);
        let pauses: Vec<_> = std::iter::from_fn(|| pauses.next(&failure)).collect();
        assert_eq!(pauses.len(), RETRIES_MAX);
        let hang = Failure::TimedOut("UspStorageCacheTimeout");
        let mut once = Pauses::within(Duration::from_secs(60));
        assert_eq!([once.next(&hang).is_some(), once.next(&hang).is_some()], [true, false]);
        for (pause, least) in pauses.iter().zip([50, 100, 200, 400]) {
            let least = Duration::from_millis(least);
            assert!((least..=2 * least).contains(pause), "{pauses:?}");
        }
    }

    #[test]
    fn what_does_not_pass_is_not_asked_again_nor_what_has_no_time_left() {
        let rows = [
            (Failure::Status(500), true),
            (Failure::Status(503), true),
            (Failure::Status(429), true),
            (Failure::Broken("reset".into()), true),
            (Failure::TimedOut("UspStorageCacheTimeout"), true),
            (Failure::Length { announced: 2, came: 1 }, true),
            (Failure::Status(501), false),
            (Failure::Status(403), false),
            (Failure::Status(404), false),
            (Failure::Unreachable("refused".into()), false),
            (Failure::Changed, false),
            (Failure::Busy, false),
        ];
        for (failure, want) in rows {
            assert_eq!(Pauses::within(Duration::from_secs(60)).next(&failure).is_some(), want, "{failure}");
            assert_eq!(Pauses::within(Duration::ZERO).next(&failure), None);
        }
    }
}
