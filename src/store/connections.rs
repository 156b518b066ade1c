//! The host's connections to storage: a bound over all processes, kept by lock bytes.
//!
//! # Invariants
//!
//! - No more than the configured number of connections is in use on the host, whoever dies when.
//! - Some are kept from all but requests that somebody waits for, and half from what nobody waits for.

#![forbid(unsafe_code)]

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::lock::{ByteLock, CONNECTIONS};
use super::{Store, sys};

/// The longest sleep: a process that is killed wakes nobody.
const SLICE: Duration = Duration::from_millis(250);

/// What a connection is for; the earlier ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Somebody waits for just this.
    Urgent,
    /// The rest of an object that somebody asked for.
    Bulk,
    /// Nobody has asked for it.
    Background,
}

/// The connections that the host may use.
pub struct Connections {
    store: Arc<Store>,
    most: u64,
}

/// The right to use one connection, until it is dropped.
pub struct Connection {
    store: Arc<Store>,
    /// There until the drop.
    lock: Option<ByteLock>,
}

impl Connections {
    /// At most `most` connections of the host.
    pub fn new(store: Arc<Store>, most: u32) -> Self {
        Self { store, most: most.into() }
    }

    /// Waits for a connection that is free, for `patience` at the longest and while `is_wanted`; `None` where there is none.
    pub fn take(
        &self,
        what_for: Use,
        patience: Duration,
        is_wanted: impl Fn() -> bool,
    ) -> io::Result<Option<Connection>> {
        let until = Instant::now() + patience;
        let most = match what_for {
            Use::Urgent => self.most,
            Use::Bulk => self.most - self.most / 4,
            Use::Background => self.most.div_ceil(2),
        };
        loop {
            let control = self.store.control();
            let seen = control.freed_connections().load(Ordering::Acquire);
            for number in 0..most {
                if let Some(lock) = self.store.lock_byte(CONNECTIONS + number)? {
                    return Ok(Some(Connection { store: self.store.clone(), lock: Some(lock) }));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !is_wanted() {
                return Ok(None);
            }
            sys::sleep(control.freed_connections(), seen, NonZeroU32::MAX, SLICE.min(left));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // First the byte: who wakes up looks for a free one.
        self.lock = None;
        let control = self.store.control();
        control.freed_connections().fetch_add(1, Ordering::AcqRel);
        sys::wake(control.freed_connections(), NonZeroU32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::store::fixture::Site;

    #[test]
    fn whichever_connection_is_freed_first_is_taken() {
        // Who waited for one of them stayed without while all others were free.
        let site = Site::new();
        let [here, there] = [site.store.clone(), site.other()].map(|store| Connections::new(store, 8));
        let patience = Duration::from_secs(20);
        for freed in 0..8 {
            let mut held: Vec<_> = (0..8)
                .map(|_| here.take(Use::Urgent, patience, || true).expect("an answer").expect("one is free"))
                .collect();
            let looked = AtomicUsize::new(0);
            let is_wanted = || looked.fetch_add(1, Ordering::SeqCst) < usize::MAX;
            std::thread::scope(|scope| {
                let taken = scope.spawn(|| there.take(Use::Urgent, patience, is_wanted).expect("an answer"));
                while looked.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                drop(held.remove(freed));
                assert!(taken.join().expect("an answer").is_some(), "number {freed} was freed");
            });
        }
    }

    #[test]
    fn some_connections_are_kept_for_what_is_waited_for() {
        for (what_for, most) in [(Use::Background, 4), (Use::Bulk, 6), (Use::Urgent, 8)] {
            let site = Site::new();
            let connections = Connections::new(site.store.clone(), 8);
            let take = || connections.take(what_for, Duration::ZERO, || true).expect("an answer");
            let taken: Vec<_> = std::iter::from_fn(take).collect();
            assert_eq!(taken.len(), most, "{what_for:?}");
        }
    }
}
