//! Waiting for something to become true, with an end to it.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `ready` until it has something, and fails the test after `seconds`.
pub(crate) fn until<T>(what: &str, seconds: u64, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How often to do what is done often: `few`, or `many` with `USC_SOAK=1`.
pub(crate) fn rounds(few: usize, many: usize) -> usize {
    if soaks() { many } else { few }
}

/// Whether all is done in full, on a machine that has nothing else to do: only then times are held against each other.
fn soaks() -> bool {
    std::env::var("USC_SOAK").is_ok_and(|value| value == "1")
}
