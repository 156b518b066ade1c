//! How long an answer of storage may be served.

/// What the operator configured about freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether what storage says about caching counts.
    pub honor: bool,
    /// Seconds that an entry is fresh after storage vouched for it.
    pub expire_secs: u32,
    /// Seconds after that for which it is served while storage is asked.
    pub stale_while_revalidate_secs: u32,
    /// Seconds after freshness ends for which it is served if storage fails.
    pub stale_if_error_secs: u32,
}
