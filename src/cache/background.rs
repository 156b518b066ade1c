//! Fills that nobody waits for: entries that are stale, and the index MP4s that a manifest names.
//!
//! # Invariants
//!
//! - A few threads of a process work at them, and the queue is bounded: what does not fit is forgotten.
//! - Demand goes first: connections are taken from a part of the host's only.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::breaker::Admission;
use super::filler::Filler;
use super::order::Order;
use super::wait::Urgency;
use super::{Cache, now_ms, prefetch};
use crate::manifest::MANIFEST_LEN_MAX;
use crate::semantics::range::Asked;
use crate::store::{Version, spawn_quietly};

/// Threads that work at the queue.
const THREADS_MAX: usize = 4;
/// Fills that are queued.
const QUEUED_MAX: usize = 1024;

/// What is to be fetched when there is time.
#[derive(Default)]
pub struct Background {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    threads: usize,
}

struct Task {
    order: Order,
    /// What storage vouched for before this time is asked about again.
    not_before_ms: u64,
}

impl Background {
    /// Has an entry revalidated, before all that is fetched ahead.
    pub(super) fn refresh(&self, cache: &Arc<Cache>, order: Order) {
        self.queue.lock().add(Task { order, not_before_ms: 0 }, VecDeque::push_front);
        self.work(cache);
    }

    /// Has a fill gone on with that somebody has left.
    pub(super) fn go_on(&self, cache: &Arc<Cache>, order: Order) {
        self.queue.lock().add(Task { order, not_before_ms: 0 }, VecDeque::push_back);
        self.work(cache);
    }

    /// Has the index MP4s fetched or revalidated that a manifest names which has just been published.
    pub(super) fn follow_manifest(&self, cache: &Arc<Cache>, order: &Order, manifest: &Version) {
        let Some(matching) = &order.prefetch else { return };
        if !prefetch::is_manifest(&order.key) || manifest.len() > MANIFEST_LEN_MAX as u64 {
            return;
        }
        let Some(body) = manifest.body(&(0..manifest.len())) else { return };
        let not_before_ms = manifest.validated_at_ms();
        let mut queue = self.queue.lock();
        for key in prefetch::named(&order.key, body, matching) {
            queue.add(Task { order: order.with_key(key), not_before_ms }, VecDeque::push_back);
        }
        drop(queue);
        self.work(cache);
    }

    /// Makes a thread for what is queued, if there are not enough.
    fn work(&self, cache: &Arc<Cache>) {
        let mut queue = self.queue.lock();
        if queue.tasks.is_empty() || queue.threads == THREADS_MAX {
            return;
        }
        let cache = cache.clone();
        let thread = spawn_quietly("usc-background", move || {
            while let Some(task) = cache.background.next(cache.is_stopping()) {
                // The thread is counted until it ends of its own accord.
                let _ = catch_unwind(AssertUnwindSafe(|| task.run(&cache)));
            }
        });
        // Where there can be no thread, what is queued waits for the next one.
        queue.threads += usize::from(thread.is_ok());
    }

    /// The next task; where there is none, the thread that asks ends.
    fn next(&self, is_stopping: bool) -> Option<Task> {
        let mut queue = self.queue.lock();
        let task = queue.tasks.pop_front().filter(|_| !is_stopping);
        if task.is_none() {
            queue.threads -= 1;
        }
        task
    }
}

impl Queue {
    /// Adds a task by `push`, unless there are enough or the object is queued already.
    fn add(&mut self, task: Task, push: impl FnOnce(&mut VecDeque<Task>, Task)) {
        let is_queued = self.tasks.iter().any(|queued| queued.order.name == task.order.name);
        if !is_queued && self.tasks.len() < QUEUED_MAX {
            push(&mut self.tasks, task);
        }
    }
}

impl Task {
    /// Fetches the object, unless somebody is at it.
    fn run(self, cache: &Arc<Cache>) {
        let order = Arc::new(self.order);
        let is_first_out = cache.with_breaker(&order, |breaker| breaker.admit(now_ms())) == Admission::Open;
        if is_first_out && order.elsewhere().is_none() {
            return;
        }
        if let Ok(Some(lock)) = cache.store.lock(&order.name)
            && let Some(filler) = Filler::new(cache, &order, lock, Asked::Whole, Urgency::Background)
        {
            filler.elsewhere_only(is_first_out).not_before(self.not_before_ms).run();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Upstream;
    use crate::cache::{Ask, Want};
    use crate::config::{DEFAULT_MATCH, Match, Section};

    #[test]
    fn the_queue_is_bounded_and_holds_no_object_twice() {
        let matching = Match::new(DEFAULT_MATCH).expect("the default is a valid pattern");
        let order = |number: usize| {
            let filename = format!("proxy:http://storage/{number}.ism");
            let key = Upstream::parse(filename.as_bytes()).expect("a URL").key("", true).expect("a key");
            let want = Want { asked: Asked::Whole, streams: false };
            let section = &Section::default();
            Order::of(&Ask { key: &key, section, want, base: None, may_fill: true, now_ms: 0 }, &matching)
        };
        let mut queue = Queue::default();
        let mut add = |number: usize, push: fn(&mut VecDeque<Task>, Task)| {
            queue.add(Task { order: order(number), not_before_ms: 0 }, push);
            queue.tasks.iter().map(|task| task.order.name.clone()).collect::<Vec<_>>()
        };
        add(1, VecDeque::push_back);
        add(2, VecDeque::push_back);
        let names = [3, 1, 2].map(|number| order(number).name);
        assert_eq!(add(3, VecDeque::push_front), names, "what is stale goes before what is fetched ahead");
        for number in [1, 2, 3] {
            assert_eq!(add(number, VecDeque::push_front), names, "{number} is queued already");
        }
        let many = (4..2 * QUEUED_MAX).map(|number| add(number, VecDeque::push_back).len()).max();
        assert_eq!(many, Some(QUEUED_MAX));
    }
}
