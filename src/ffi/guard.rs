//! Panics end here.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body`; a panic in it gives `otherwise`. What the panic says goes to standard error, which is httpd's error log.
///
/// Unwind safety: what a hook shares with later calls is behind locks that do not poison and atomics, and each of
/// them is left whole between operations.
pub fn catch<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}
