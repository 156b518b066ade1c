//! An Apache httpd module that serves server manifests and index MP4s of a streaming origin from a memory-mapped
//! local store, and fills the store from S3.
//!
//! A request's way, which is also the order in which to read:
//!
//! 1. [`module`]: how httpd knows the module, its directives ([`config`]) and hooks.
//! 2. [`hooks`]: a request is recognised by where mod_proxy would send it, and answered.
//! 3. [`semantics`]: which part of an object is asked for, and how long what is stored may be served.
//! 4. [`cache`]: where its bytes come from, and why.
//! 5. [`store`]: versions of objects as files, mapped; [`fetch`]: storage, signed and pooled, with the
//!    keys that [`credentials`] asks for; [`manifest`]: what a
//!    server manifest names, which is fetched ahead.
//! 6. [`ffi`]: the only door to C.
//!
//! [`status`] shows what the host's children count and what the store holds.
//!
//! [`mp4`] makes the index MP4s that are served, for the CLI; the module has no part in it.
//!
//! Without the feature `httpd` everything but the module itself builds and is tested: [`module`], [`hooks`] and
//! [`ffi`] are left out.

pub mod cache;
pub mod config;
pub mod credentials;
pub mod fetch;
#[cfg(feature = "httpd")]
pub mod ffi;
#[cfg(feature = "httpd")]
pub mod hooks;
pub mod manifest;
#[cfg(feature = "httpd")]
pub mod module;
pub mod mp4;
pub mod semantics;
pub mod status;
pub mod store;
