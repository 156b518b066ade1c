//! One fetch per key at a time within a process: who comes first flies, the others wait for the result.
//!
//! # Invariants
//!
//! - A flight always lands: a pilot that is dropped without a result lands its flight as failed.
//! - No lock is held while a fetch is under way.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::outcome::Reason;
use crate::store::Entry;

/// What a fetch came to.
pub type Landing = Result<Arc<Entry>, Reason>;

type Table = Mutex<HashMap<Box<[u8]>, Arc<Flight>>>;

/// The fetches that are under way.
#[derive(Default)]
pub struct Flights {
    table: Table,
}

#[derive(Default)]
struct Flight {
    landing: Mutex<Option<Landing>>,
    landed: Condvar,
}

/// The part of a request in a fetch.
pub enum Seat<'f> {
    /// It fetches.
    Pilot(Pilot<'f>),
    /// Another one fetched, and this is what came of it.
    Passenger(Landing),
}

/// The duty to fetch, and to land.
pub struct Pilot<'f> {
    table: &'f Table,
    key: Box<[u8]>,
    flight: Arc<Flight>,
}

impl Flights {
    /// Joins the fetch of `key`, waiting for its end, or begins it.
    pub fn join(&self, key: &[u8]) -> Seat<'_> {
        let mut table = self.table.lock();
        if let Some(flight) = table.get(key).cloned() {
            drop(table);
            return Seat::Passenger(flight.wait());
        }
        let flight = Arc::<Flight>::default();
        table.insert(key.into(), flight.clone());
        Seat::Pilot(Pilot { table: &self.table, key: key.into(), flight })
    }
}

impl Flight {
    fn wait(&self) -> Landing {
        let mut landing = self.landing.lock();
        loop {
            match &*landing {
                Some(landing) => return landing.clone(),
                None => self.landed.wait(&mut landing),
            }
        }
    }
}

impl Pilot<'_> {
    /// Tells all who wait what came of it.
    pub fn land(self, landing: &Landing) {
        *self.flight.landing.lock() = Some(landing.clone());
    }
}

impl Drop for Pilot<'_> {
    fn drop(&mut self) {
        self.table.lock().remove(&self.key);
        self.flight.landing.lock().get_or_insert(Err(Reason::Failed));
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn of_many_at_once_each_gets_the_result_of_a_flight_that_it_saw() {
        let (flights, pilots) = (Flights::default(), AtomicUsize::new(0));
        let start = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    match flights.join(b"key") {
                        Seat::Pilot(pilot) => {
                            pilots.fetch_add(1, Ordering::Relaxed);
                            pilot.land(&Err(Reason::TooLarge));
                        }
                        Seat::Passenger(landing) => assert_eq!(landing.err(), Some(Reason::TooLarge)),
                    }
                });
            }
        });
        assert!((1..=16).contains(&pilots.into_inner()));
        assert!(flights.table.lock().is_empty());
    }

    #[test]
    fn a_pilot_that_is_lost_lands_as_failed() {
        let flights = Flights::default();
        let Seat::Pilot(pilot) = flights.join(b"key") else { panic!("nobody else flies") };
        let flight = pilot.flight.clone();
        drop(pilot);
        assert_eq!(flight.wait().err(), Some(Reason::Failed));
    }
}
