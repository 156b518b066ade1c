//! A second request where the answer to a first one is late ("The Tail at Scale", Communications of the ACM 56, 2013).
//!
//! [`Hedges`] knows how long each storage took of late, and so when an answer is late; [`first_of`] lets two requests race.
//!
//! # Invariants
//!
//! - Of a storage's requests at most one in twenty is sent twice, once five that were saved up are used.

#![forbid(unsafe_code)]

use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;

use crate::store::spawn_quietly;

/// Storages of which it is known how long they take.
const STORAGES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");
/// The answers that count, and how many there must be before any is late.
const TIMES: usize = 256;
const TIMES_LEAST: usize = 32;
/// However long the slowest answers take, what takes that many times the median is late: where more than one in a hundred hangs,
/// the 99th percentile is a time-out.
const MEDIANS_MAX: u32 = 10;
/// A sooner answer is never late: a thread's turn on a busy machine takes as long.
const LATE_LEAST: Duration = Duration::from_millis(5);
/// How many requests earn a second one, and how many of those can be saved up.
const REQUESTS_A_HEDGE: u32 = 20;
const SAVED_MAX: u32 = 5;

/// How long storages take to begin their answers.
pub struct Hedges(Mutex<LruCache<String, Times>>);

/// How long a storage took of late.
#[derive(Default)]
struct Times {
    /// A ring once there are [`TIMES`] of them.
    took: Vec<Duration>,
    next: usize,
    /// When an answer is late, while it is known.
    late: Option<Duration>,
    /// Requests that have not been spent on a second one.
    saved: u32,
}

impl Default for Hedges {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(STORAGES_MAX)))
    }
}

impl Hedges {
    /// When an answer of the storage at `authority` is late.
    pub fn late_after(&self, authority: &str) -> Option<Duration> {
        self.0.lock().get(authority).and_then(|times| times.late)
    }

    /// Notes that an answer has begun after so long.
    pub fn took(&self, authority: &str, time: Duration) {
        let mut storages = self.0.lock();
        if let Some(times) = storages.get_mut(authority) {
            return times.add(time);
        }
        let mut times = Times { saved: REQUESTS_A_HEDGE * SAVED_MAX, ..Times::default() };
        times.add(time);
        storages.put(authority.into(), times);
    }

    /// Whether a second request may be sent; counts it.
    pub fn spend(&self, authority: &str) -> bool {
        let mut storages = self.0.lock();
        let Some(times) = storages.get_mut(authority) else { return false };
        let left = times.saved.checked_sub(REQUESTS_A_HEDGE);
        times.saved = left.unwrap_or(times.saved);
        left.is_some()
    }
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.saved = (self.saved + 1).min(REQUESTS_A_HEDGE * SAVED_MAX);
        match self.took.get_mut(self.next) {
            Some(oldest) => *oldest = time,
            None => self.took.push(time),
        }
        self.next = (self.next + 1) % TIMES;
        // What is sorted anew for every eighth answer costs each of them a microsecond.
        if self.next.is_multiple_of(8) && self.took.len() >= TIMES_LEAST {
            self.late = Some(late(&self.took));
        }
    }
}

/// When an answer is late beside those that took so long.
fn late(took: &[Duration]) -> Duration {
    let mut took = took.to_vec();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    at(99).min(at(50) * MEDIANS_MAX).max(LATE_LEAST)
}

/// What comes first of `ask` and, where that is late, of what `again` gives to be asked as well. An answer `is_final` or the
/// other one is waited for. `None` where no thread could be made or none has come to its end.
pub fn first_of<T: Send + 'static, A: FnOnce() -> T + Send + 'static>(
    ask: A,
    late_after: Duration,
    again: impl FnOnce() -> Option<A>,
    is_final: impl Fn(&T) -> bool,
) -> Option<T> {
    let (send, came) = mpsc::channel();
    let begin = |ask: A| {
        let send = send.clone();
        // Nobody may be there to take it: then it is dropped.
        spawn_quietly("usc-hedge", move || drop(send.send(ask()))).is_ok()
    };
    if !begin(ask) {
        return None;
    }
    if let Ok(first) = came.recv_timeout(late_after) {
        return Some(first);
    }
    again().map(begin);
    drop(send);
    let one = came.recv().ok()?;
    let other = if is_final(&one) { None } else { came.recv().ok() };
    Some(other.filter(&is_final).unwrap_or(one))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const HOST: &str = "storage";

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn known(times: impl IntoIterator<Item = u64>) -> Hedges {
        let hedges = Hedges::default();
        times.into_iter().for_each(|time| hedges.took(HOST, ms(time)));
        hedges
    }

    #[test]
    fn late_is_what_one_in_a_hundred_is() {
        assert_eq!(known(0..24).late_after(HOST), None);
        assert_eq!(known(1..=256).late_after(HOST), Some(ms(254)));
        // The last ones count.
        assert_eq!(known((1..=256).chain([20; 256])).late_after(HOST), Some(ms(20)));
        assert_eq!(known([0; 256]).late_after(HOST), Some(LATE_LEAST));
        assert_eq!(known([20; 256]).late_after("another"), None);
    }

    #[test]
    fn a_storage_that_hangs_often_is_late_long_before_the_time_out() {
        let hangs = (0..256).map(|number| if number % 20 == 0 { 10_000 } else { 20 });
        assert_eq!(known(hangs).late_after(HOST), Some(ms(200)));
    }

    #[test]
    fn one_request_in_twenty_is_sent_twice() {
        let hedges = known([20; 1000]);
        let spent = |times: usize| (0..times).filter(|_| hedges.spend(HOST)).count();
        assert_eq!(spent(100), SAVED_MAX as usize);
        (0..REQUESTS_A_HEDGE * 3).for_each(|_| hedges.took(HOST, ms(20)));
        assert_eq!(spent(100), 3);
        assert!(!hedges.spend("another"));
    }

    /// What two requests bring: the first of them when the second has come to its end, where `is_late`.
    fn race(first: Result<u8, u8>, second: Option<Result<u8, u8>>) -> Option<Result<u8, u8>> {
        type Ask = Box<dyn FnOnce() -> Result<u8, u8> + Send>;
        let until_asked = &*Box::leak(Box::new(Barrier::new(2)));
        let late: Ask = Box::new(move || {
            until_asked.wait();
            first
        });
        let again = || {
            let ask = second.map(|answer| Box::new(move || answer) as Ask);
            until_asked.wait();
            ask
        };
        first_of(late, Duration::ZERO, again, Result::is_ok)
    }

    #[test]
    fn an_answer_counts_whichever_request_it_comes_of() {
        let rows = [
            (Ok(1), None, &[Ok(1)][..]),
            (Err(1), None, &[Err(1)]),
            (Err(1), Some(Ok(2)), &[Ok(2)]),
            (Ok(1), Some(Err(2)), &[Ok(1)]),
            (Ok(1), Some(Ok(2)), &[Ok(1), Ok(2)]),
            (Err(1), Some(Err(2)), &[Err(1), Err(2)]),
        ];
        for (first, second, want) in rows {
            let came = race(first, second).expect("an answer");
            assert!(want.contains(&came), "{first:?}, {second:?}: {came:?}");
        }
    }

    #[test]
    fn a_panic_is_no_answer_and_what_comes_in_time_is_asked_once() {
        let panics: fn() -> u8 = || panic!("a test");
        assert_eq!(first_of(panics, Duration::ZERO, || None, |_| true), None);
        let quick: fn() -> u8 = || 1;
        assert_eq!(first_of(quick, Duration::from_secs(20), || panic!("in time"), |_| true), Some(1));
    }
}
