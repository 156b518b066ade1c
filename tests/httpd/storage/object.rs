//! What storage holds under a path: a body and the fields that go with it.

use std::sync::Arc;

use crate::client::{Fields, find};

/// When every object was last changed, unless it says otherwise.
pub(crate) const LAST_MODIFIED: &str = "Mon, 03 Feb 2025 04:05:06 GMT";

/// One version of an object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(super) body: Arc<Vec<u8>>,
    pub(super) fields: Fields,
}

impl Object {
    /// An object with an ETag, a Last-Modified and a Content-Type.
    pub(crate) fn new(body: impl Into<Vec<u8>>) -> Self {
        let body = Arc::new(body.into());
        let etag = format!("\"{:08x}-{}\"", checksum(&body), body.len());
        let object = Self { body, fields: Fields::new() };
        let object = object.field("ETag", etag).field("Last-Modified", LAST_MODIFIED);
        object.field("Content-Type", "video/mp4").field("Accept-Ranges", "bytes")
    }

    /// Sets a field; one of these names that is there already is replaced.
    pub(crate) fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.retain(|(had, _)| !had.eq_ignore_ascii_case(name));
        self.field(name, value)
    }

    /// Adds a field, also beside another of the same name.
    pub(crate) fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.into(), value.as_ref().into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(had, _)| !had.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn etag(&self) -> String {
        String::from_utf8_lossy(find(&self.fields, "ETag").unwrap_or_default()).into_owned()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

/// FNV-1a, so that objects of different bytes have different ETags.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
