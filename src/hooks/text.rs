//! Answers of our own words.

use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;

use crate::ffi::brigade::{Body, Bytes, Read};
use crate::ffi::hook::Answer;
use crate::ffi::request::Request;

/// A text as a body.
struct Text(String);

impl Bytes for Text {
    fn read(&self, part: &Range<u64>, _: bool) -> Read<'_> {
        let part = usize::try_from(part.start).ok().zip(usize::try_from(part.end).ok());
        let bytes = part.and_then(|(start, end)| self.0.as_bytes().get(start..end));
        bytes.map_or(Read::Broken, Read::Bytes)
    }
}

/// Answers with `text`, or to a HEAD with its length.
pub fn send(request: &Request<'_>, status: u16, media_type: &'static CStr, text: String) -> Answer {
    request.set_status(status);
    request.set_content_type(media_type);
    let len = text.len() as u64;
    request.set_content_length(len);
    let text = Arc::new(Text(text));
    let body = if request.is_head() { Body::Empty } else { Body::Shared(&text, 0..len) };
    match request.send(body, false) {
        Ok(()) => Answer::Ok,
        Err(not_sent) if not_sent.client_left => Answer::ClientLeft,
        Err(_) => Answer::Broken,
    }
}
