//! The only door to C: httpd's API, seen through types that keep its promises.
//!
//! One C struct a file. What is above this module is safe code and knows no pointer; what is here knows
//! nothing of what is above.
//!
//! # Invariants
//!
//! - Every function that httpd calls runs in [`guard::catch`]: no panic crosses the border.
//! - No reference to a struct that httpd also holds: views keep the pointer and read single fields.

pub mod access;
pub mod brigade;
pub mod child;
pub mod command;
pub mod config;
pub mod guard;
pub mod hook;
pub mod log;
pub mod pool;
pub mod request;
pub mod server;
pub mod table;

/// The raw bindings.
#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, reason = "httpd's own names")]
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_op_in_unsafe_fn,
    dead_code,
    reason = "generated"
)]
pub mod sys {
    include!(concat!(env!("OUT_DIR"), "/httpd.rs"));
}
