//! The breaker of an endpoint: while storage does not answer, nobody waits for it.
//!
//! It opens after a hang or three failures in ten seconds, first for one second. When its time is over one request is let
//! through as the probe, and the next time is twice as long, up to 30 seconds; a success closes it. All processes of the
//! host share it through the words that [`Control`] keeps.
//!
//! # Invariants
//!
//! - Each decision is one store of one word, so that it is made whole or not at all.
//! - Whatever the words hold, a probe is let through within [`OPEN_MS_MAX`].

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::store::Control;
use crate::store::control::{BREAKERS, BreakerWords};

/// How long it is open at first, in milliseconds.
const OPEN_MS: u64 = 1000;
/// How long it is open at most.
pub const OPEN_MS_MAX: u64 = 30_000;
/// Three failures within this time open it.
const FAILURES_MS: u64 = 10_000;
/// Breakers that an endpoint can have.
const WAYS: u64 = 4;
/// How often the time doubles until it is the longest.
const LEVEL_MAX: u64 = 5;

/// Whether storage may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Closed,
    /// It may, by this request alone: the others' good depends on what it finds.
    Probe,
    /// It may not.
    Open,
}

/// The breaker of an endpoint.
pub struct Breaker<'c> {
    control: &'c Control,
    /// Never 0.
    endpoint: u64,
}

/// What is known of an endpoint that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The [`hash`] of its `host:port`.
    pub endpoint: u64,
    /// Until when it is not asked, in milliseconds since 1970; `None` where it is.
    pub open_until_ms: Option<u64>,
    /// When it failed last, in milliseconds since 1970.
    pub failed_at_ms: u64,
}

/// What an endpoint, `host:port`, is known by; never 0.
pub fn hash(endpoint: &str) -> u64 {
    Sha256::digest(endpoint).first_chunk().copied().map_or(1, u64::from_be_bytes).max(1)
}

impl Control {
    /// The breaker of an endpoint, `host:port`.
    pub fn breaker(&self, endpoint: &str) -> Breaker<'_> {
        Breaker { control: self, endpoint: hash(endpoint) }
    }

    /// The endpoints that have failed since they answered last.
    pub fn failing(&self, now_ms: u64) -> impl Iterator<Item = Failing> {
        let all = (0..BREAKERS).map(|number| self.breaker_words(number));
        let failing = all.map(move |words| Failing {
            endpoint: words.endpoint.load(Ordering::Acquire),
            open_until_ms: Open::unpack(words.open.load(Ordering::Acquire))
                .filter(|open| open.counts(now_ms))
                .map(|open| open.until_ms),
            failed_at_ms: words.failed[0].load(Ordering::Relaxed),
        });
        failing.filter(|failing| failing.endpoint != 0 && failing.failed_at_ms != 0)
    }
}

impl<'c> Breaker<'c> {
    /// Whether storage may be asked now.
    pub fn admit(&self, now_ms: u64) -> Admission {
        let Some(words) = self.words() else { return Admission::Closed };
        let packed = words.open.load(Ordering::Acquire);
        let Some(open) = Open::unpack(packed) else { return Admission::Closed };
        if open.counts(now_ms) {
            return Admission::Open;
        }
        let longer = Open::from_level(open.level + 1, now_ms);
        match words.open.compare_exchange(packed, longer.pack(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Admission::Probe,
            Err(_) => Admission::Open,
        }
    }

    /// Whether it has opened and not been closed since: what is let through is a probe.
    pub fn is_open(&self) -> bool {
        self.words().is_some_and(|words| words.open.load(Ordering::Acquire) != 0)
    }

    /// Storage has answered: closes the breaker.
    pub fn succeeded(&self) {
        let Some(words) = self.words() else { return };
        for word in [words.open, words.failed[0], words.failed[1]] {
            // Most of the time there is nothing to write.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Release);
            }
        }
    }

    /// Storage has not answered as it should, or not at all in time. Tells whether that has just opened the breaker.
    pub fn failed(&self, is_hang: bool, now_ms: u64) -> bool {
        let words = self.words().unwrap_or_else(|| self.claim());
        let last = words.failed[0].swap(now_ms, Ordering::AcqRel);
        let before_last = words.failed[1].swap(last, Ordering::AcqRel);
        let packed = words.open.load(Ordering::Acquire);
        if let Some(open) = Open::unpack(packed) {
            // The probe, or one that was under way when it opened: for as long again nobody asks.
            let again = Open::from_level(open.level, now_ms).pack();
            let _ = words.open.compare_exchange(packed, again, Ordering::AcqRel, Ordering::Relaxed);
            return false;
        }
        let is_third = before_last != 0 && now_ms.abs_diff(before_last) <= FAILURES_MS;
        let opened = Open::from_level(0, now_ms).pack();
        (is_hang || is_third) && words.open.compare_exchange(0, opened, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn ways(&self) -> impl Iterator<Item = BreakerWords<'c>> + use<'c> {
        let (control, first) = (self.control, self.endpoint % (BREAKERS / WAYS) * WAYS);
        (first..first + WAYS).map(move |number| control.breaker_words(number))
    }

    fn words(&self) -> Option<BreakerWords<'c>> {
        self.ways().find(|words| words.endpoint.load(Ordering::Acquire) == self.endpoint)
    }

    /// Takes the words of nobody, or of the endpoint whose last failure is longest ago.
    fn claim(&self) -> BreakerWords<'c> {
        let last_failure = |words: &BreakerWords<'_>| match words.endpoint.load(Ordering::Relaxed) {
            0 => 0,
            _ => words.failed[0].load(Ordering::Relaxed),
        };
        let words = self.ways().min_by_key(last_failure).expect("an endpoint has its ways");
        // Another process may claim them as well: who comes last has them, and the other counts anew.
        words.endpoint.store(self.endpoint, Ordering::Release);
        let rest: [&AtomicU64; 3] = [words.open, words.failed[0], words.failed[1]];
        rest.iter().for_each(|word| word.store(0, Ordering::Release));
        words
    }
}

/// An open breaker in one word: until when, and how often its time was doubled.
#[derive(Clone, Copy)]
struct Open {
    until_ms: u64,
    level: u64,
}

impl Open {
    fn from_level(level: u64, now_ms: u64) -> Self {
        let level = level.min(LEVEL_MAX);
        Self { until_ms: now_ms.saturating_add((OPEN_MS << level).min(OPEN_MS_MAX)), level }
    }

    /// `None` for a closed one.
    fn unpack(word: u64) -> Option<Self> {
        (word != 0).then_some(Self { until_ms: word >> 3, level: word & 7 })
    }

    fn pack(self) -> u64 {
        self.until_ms << 3 | self.level
    }

    /// Whether its time is not over; a time that the clock was set back from is.
    fn counts(self, now_ms: u64) -> bool {
        now_ms < self.until_ms && self.until_ms - now_ms <= OPEN_MS_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    const ENDPOINT: &str = "bucket.s3.eu-west-1.amazonaws.com:443";
    const NOW: u64 = 1_700_000_000_000;

    /// Blocks that processes over one store have mapped.
    fn controls(n: usize) -> (TempDir, Vec<Control>) {
        let dir = TempDir::new().expect("a directory");
        let v1 = File::open(dir.path()).expect("it opens");
        let locks = File::create(dir.path().join("locks")).expect("a file");
        let controls = (0..n).map(|_| Control::open(v1.as_fd(), &locks).expect("a block")).collect();
        (dir, controls)
    }

    #[test]
    fn an_endpoint_that_fails_is_listed_until_it_answers() {
        let (_dir, controls) = controls(1);
        let control = &controls[0];
        let breaker = control.breaker(ENDPOINT);
        assert_eq!(control.failing(NOW).count(), 0);
        breaker.failed(true, NOW);
        let failing = |open_until_ms| vec![Failing { endpoint: hash(ENDPOINT), open_until_ms, failed_at_ms: NOW }];
        assert_eq!(control.failing(NOW).collect::<Vec<_>>(), failing(Some(NOW + OPEN_MS)));
        assert_eq!(control.failing(NOW + OPEN_MS).collect::<Vec<_>>(), failing(None));
        breaker.succeeded();
        assert_eq!(control.failing(NOW).count(), 0);
    }

    #[test]
    fn a_hang_or_three_failures_in_ten_seconds_open_it() {
        type Row = (&'static str, &'static [(bool, u64)], bool);
        let rows: [Row; 7] = [
            ("a hang", &[(true, 0)], true),
            ("a failure", &[(false, 0)], false),
            ("two", &[(false, 0), (false, 1)], false),
            ("three", &[(false, 0), (false, 1), (false, 9_999)], true),
            ("three that are far apart", &[(false, 0), (false, 9_000), (false, 10_001)], false),
            ("the last three of four", &[(false, 0), (false, 9_000), (false, 11_000), (false, 12_000)], true),
            ("at one instant", &[(false, 0), (false, 0), (false, 0)], true),
        ];
        for (what, failures, opens) in rows {
            let (_dir, controls) = controls(1);
            let breaker = controls[0].breaker(ENDPOINT);
            let opened: Vec<_> = failures.iter().map(|(is_hang, at)| breaker.failed(*is_hang, NOW + at)).collect();
            assert_eq!((opened.last(), opened.iter().filter(|o| **o).count()), (Some(&opens), opens.into()), "{what}");
            let after = NOW + failures.last().expect("a failure").1;
            assert_eq!(breaker.admit(after + 999) == Admission::Open, opens, "{what}");
        }
    }

    #[test]
    fn one_process_probes_at_a_time_and_each_time_is_twice_as_long() {
        let (_dir, controls) = controls(3);
        let breakers: Vec<_> = controls.iter().map(|control| control.breaker(ENDPOINT)).collect();
        assert!(breakers[0].failed(true, NOW));
        let mut begins = NOW;
        for (turn, open_ms) in [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000].into_iter().enumerate() {
            let admissions = |at| breakers.iter().map(|breaker| breaker.admit(at)).collect::<Vec<_>>();
            assert_eq!(admissions(begins + open_ms - 1), [Admission::Open; 3], "{open_ms}");
            begins += open_ms;
            let probe = breakers[turn % 3].admit(begins);
            assert_eq!((probe, admissions(begins)), (Admission::Probe, vec![Admission::Open; 3]), "{open_ms}");
        }
        breakers[1].succeeded();
        assert_eq!(breakers[2].admit(begins), Admission::Closed);
        assert!(!breakers[2].failed(false, begins), "the failures before the success do not count");
        assert!(breakers[2].failed(true, begins));
        assert_eq!(breakers[0].admit(begins + 1000), Admission::Probe, "the time is short again");
    }

    #[test]
    fn the_failure_of_a_probe_keeps_all_away_for_its_time() {
        let (_dir, controls) = controls(2);
        let (one, other) = (controls[0].breaker(ENDPOINT), controls[1].breaker(ENDPOINT));
        assert!(one.failed(true, NOW));
        assert_eq!(other.admit(NOW + 1000), Admission::Probe);
        assert!(!other.failed(false, NOW + 1500), "it is no news");
        assert_eq!(one.admit(NOW + 3499), Admission::Open);
        assert_eq!(one.admit(NOW + 3500), Admission::Probe);
    }

    #[test]
    fn endpoints_do_not_know_of_each_other() {
        let (_dir, controls) = controls(1);
        let endpoint = |n: u32| controls[0].breaker(&format!("host{n}:80")).admit(NOW) == Admission::Open;
        for n in 0..60 {
            assert!(!endpoint(n));
            controls[0].breaker(&format!("host{n}:80")).failed(true, NOW + u64::from(n));
        }
        // Five in one place are possible, but not many of them.
        assert!((0..60).filter(|n| endpoint(*n)).count() > 50);
        (0..2000).for_each(|n| assert!(controls[0].breaker(&format!("other{n}:80")).failed(true, NOW + 100)));
        assert!((0..2000).any(|n| controls[0].breaker(&format!("other{n}:80")).admit(NOW + 100) == Admission::Open));
    }

    #[test]
    fn a_clock_that_is_set_back_opens_nothing_for_ever() {
        let (_dir, controls) = controls(1);
        let breaker = controls[0].breaker(ENDPOINT);
        assert!(breaker.failed(true, NOW));
        assert_eq!(breaker.admit(NOW - 3_600_000), Admission::Probe);
    }

    /// What a process does to a breaker, killed at some point or not.
    #[derive(Clone, Debug)]
    enum Act {
        Admit,
        Succeed,
        Fail(bool),
        /// The remains of killed writers: any word holds anything.
        Leave(usize, u64),
        Wait(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::Admit),
            Just(Act::Succeed),
            any::<bool>().prop_map(Act::Fail),
            (0usize..4, any::<u64>()).prop_map(|(word, value)| Act::Leave(word, value)),
            (0usize..4, NOW - 100_000..NOW + 100_000).prop_map(|(word, ms)| Act::Leave(word, ms << 3)),
            (0u64..40_000).prop_map(Act::Wait),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn whatever_is_left_behind_a_probe_is_let_through_and_closes_it(acts in prop::collection::vec((0usize..3, act()), 1..60)) {
            let (_dir, controls) = controls(3);
            let mut now = NOW;
            for (who, act) in acts {
                let breaker = controls[who].breaker(ENDPOINT);
                match act {
                    Act::Admit => _ = breaker.admit(now),
                    Act::Succeed => breaker.succeeded(),
                    Act::Fail(is_hang) => _ = breaker.failed(is_hang, now),
                    Act::Leave(word, value) => {
                        let words = breaker.ways().next().expect("the first way");
                        [words.endpoint, words.open, words.failed[0], words.failed[1]][word].store(value, Ordering::Relaxed);
                    }
                    Act::Wait(ms) => now += ms,
                }
            }
            let breaker = controls[0].breaker(ENDPOINT);
            let admitted = [now, now + OPEN_MS_MAX].map(|at| breaker.admit(at));
            prop_assert!(admitted.iter().any(|admission| *admission != Admission::Open), "{:?}", admitted);
            breaker.succeeded();
            prop_assert_eq!(controls[1].breaker(ENDPOINT).admit(now), Admission::Closed);
        }
    }
}
