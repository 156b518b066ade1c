//! What goes to standard output: lines of text, or of JSON.
//!
//! # Invariants
//!
//! - Bytes that come from a store, a server or a file are never written raw: a terminal would obey them.

use std::fmt::{Display, Write as _};
use std::io::{self, BufWriter, StdoutLock, Write as _};

use serde::Serialize;

use super::failure::Failure;

/// Standard output, and how it is wanted.
pub struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    is_json: bool,
    is_quiet: bool,
}

impl Out {
    /// Standard output; JSON where `is_json`, and no progress or remarks where `is_quiet`.
    pub fn new(is_json: bool, is_quiet: bool) -> Self {
        Self { stdout: BufWriter::new(io::stdout().lock()), is_json, is_quiet }
    }

    /// Whether JSON is wanted.
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// Whether only results are wanted.
    pub fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// A line; what in it comes from elsewhere went through [`printable`].
    pub fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        writeln!(self.stdout, "{line}").map_err(|e| Failure::of_output(&e))
    }

    /// A line that is an object in JSON. Bytes that were no UTF-8 stand in it as U+FFFD.
    pub fn json(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(object).map_err(|e| Failure::plain("JSON", e))?;
        self.line(without_controls(&text))
    }

    /// A line as text, or an object as JSON, whichever is wanted.
    pub fn either(&mut self, object: &impl Serialize, line: impl Display) -> Result<(), Failure> {
        if self.is_json { self.json(object) } else { self.line(line) }
    }

    /// Hands on what was written so far.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(|e| Failure::of_output(&e))
    }
}

/// JSON with the control characters escaped that it may hold as they are (RFC 8259, section 7), of which terminals obey
/// some. They can only stand in strings.
fn without_controls(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        // Writing to a String does not fail.
        let _ = if c.is_control() { write!(text, "\\u{:04x}", u32::from(c)) } else { text.write_char(c) };
        text
    })
}

/// A number of things, of which `one` is called so.
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Bytes from elsewhere as text: all but printable ASCII as `\xNN`, and a backslash doubled.
pub fn printable(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, byte| {
        let _ = match byte {
            b'\\' => text.write_str("\\\\"),
            b' '..=b'~' => text.write_char(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}"),
        };
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_as_text() {
        let rows: [(&[u8], &str); 5] = [
            (b"http://h/a.ism", "http://h/a.ism"),
            (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            (b"a\r\nb\t\x7f", "a\\x0d\\x0ab\\x09\\x7f"),
            ("\u{9b}31m\u{202e}".as_bytes(), "\\xc2\\x9b31m\\xe2\\x80\\xae"),
            (b"C:\\x41 \"q\"", "C:\\\\x41 \"q\""),
        ];
        for (bytes, want) in rows {
            assert_eq!(printable(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn json_holds_no_control_character_as_it_is() {
        let json = serde_json::to_string("\u{1b}[31m\u{9b}31m\u{7f}\u{e9}").expect("a text");
        let safe = without_controls(&json);
        assert_eq!(safe, "\"\\u001b[31m\\u009b31m\\u007f\u{e9}\"");
        assert_eq!(serde_json::from_str::<String>(&safe).ok(), serde_json::from_str(&json).ok());
    }
}
