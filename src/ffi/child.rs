//! What a child process has once, made when the child begins.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Whether the process ends within a signal handler.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// From now on nothing is freed any more: httpd ends a child without threads within a signal handler, and the handler may stand in the
/// midst of an allocation.
pub fn leave_all() {
    IS_OVER.store(true, Ordering::Relaxed);
}

/// Whether what is let go of is to be left as it is.
pub(super) fn is_over() -> bool {
    IS_OVER.load(Ordering::Relaxed)
}

/// A place for one value, which is never dropped: threads may use it until the process ends.
pub struct Slot<T>(AtomicPtr<T>);

impl<T: Send + Sync> Slot<T> {
    /// An empty place.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    /// Puts `value` there, in the place of what was there.
    pub fn set(&self, value: T) {
        self.0.store(Box::into_raw(Box::new(value)), Ordering::Release);
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or made by `set` from a box that is never freed; written before it was stored.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}

impl<T: Send + Sync> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}
