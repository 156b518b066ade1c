//! HTTP, as far as the cache speaks it: byte ranges, and the fields that are stored. Pure.

#![forbid(unsafe_code)]

pub mod fields;
pub mod freshness;
pub mod line;
pub mod range;
