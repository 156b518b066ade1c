//! HTTP, as far as the cache speaks it: byte ranges, fields that are stored, freshness and validation. Pure.

#![forbid(unsafe_code)]

pub mod cache_control;
pub mod fields;
pub mod freshness;
pub mod invalidation;
pub mod line;
pub mod range;
pub mod validation;
