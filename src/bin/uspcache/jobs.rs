//! Work that is done several pieces at a time.

use std::num::NonZeroUsize;

use parking_lot::Mutex;

/// Does `one` with each of `items`, up to `jobs` at a time, and gives what comes of it in their order.
pub fn all<T: Sync, R: Send>(jobs: NonZeroUsize, items: &[T], one: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if let [only] = items {
        return vec![one(only)];
    }
    let next = Mutex::new(items.iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let lock_next = || next.lock().next();
    std::thread::scope(|scope| {
        for _ in 0..jobs.get().min(items.len()) {
            scope.spawn(|| {
                while let Some((number, item)) = lock_next() {
                    let result = one(item);
                    done.lock().push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
