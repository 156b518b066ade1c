//! wip
#![allow(missing_docs)]
pub mod cache {
    pub mod key;
}
pub mod config;
pub mod semantics;
pub mod store;
