//! An answer on its way out: framed, paced, cut off where a fault says so, and counted.

use std::io::{self, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use super::answer::Answer;
use super::fault::Fault;

/// Bytes that go out at once, without and with a pace.
const PIECE_LEN: usize = 64 * 1024;
const PACED_PIECE_LEN: usize = 16 * 1024;

/// A connection's rate: the bytes of a piece are due one after the other, and none are saved up.
pub(super) struct Pace {
    due: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { due: Instant::now() }
    }

    /// Waits for a piece's turn.
    fn wait(&mut self, length: usize, bytes_per_sec: u64) {
        let took = Duration::from_secs_f64(length as f64 / bytes_per_sec as f64);
        self.due = self.due.max(Instant::now()) + took;
        thread::sleep(self.due.saturating_duration_since(Instant::now()));
    }
}

/// One answer to one request.
pub(super) struct Reply<'a> {
    pub(super) stream: &'a mut TcpStream,
    pub(super) shared: &'a Shared,
    pub(super) pace: &'a mut Pace,
    pub(super) path: &'a str,
    /// The exchange's number in the ledger.
    pub(super) number: usize,
    pub(super) answer: &'a Answer,
    /// What is sent of the answer's part: nothing to a HEAD.
    pub(super) body: &'a [u8],
    /// How many bytes of `body` have not been sent yet.
    pub(super) left: usize,
}

impl Reply<'_> {
    /// Sends the answer, as the fault has it.
    pub(super) fn send(&mut self, fault: Option<Fault>) -> io::Result<()> {
        let body = self.body;
        match fault {
            Some(Fault::Raw(bytes)) => self.stream.write_all(&bytes),
            Some(Fault::StallAfter(count)) => {
                self.cut(count)?;
                self.shared.hang();
                Ok(())
            }
            Some(Fault::HoldAfter(count)) => {
                self.cut(count)?;
                self.shared.hold(self.path);
                self.pieces(&body[count.min(body.len())..])
            }
            Some(Fault::CloseAfter(count) | Fault::ResetAfter(count)) => self.cut(count),
            Some(Fault::NoLength) => {
                self.head("Connection: close\r\n")?;
                self.pieces(body)
            }
            Some(Fault::Chunked) => self.chunked(),
            Some(Fault::Drip(piece, pause)) => self.drip(piece, pause),
            _ => self.cut(body.len()),
        }
    }

    fn cut(&mut self, count: usize) -> io::Result<()> {
        self.sized_head()?;
        let body = &self.body[..count.min(self.body.len())];
        self.pieces(body)
    }

    fn chunked(&mut self) -> io::Result<()> {
        self.head("Transfer-Encoding: chunked\r\n")?;
        self.stream.write_all(format!("{:x}\r\n", self.body.len()).as_bytes())?;
        let body = self.body;
        self.pieces(body)?;
        self.stream.write_all(b"\r\n0\r\n\r\n")
    }

    fn drip(&mut self, piece: usize, pause: Duration) -> io::Result<()> {
        self.sized_head()?;
        for part in self.body.chunks(piece) {
            thread::sleep(pause);
            self.pieces(part)?;
        }
        Ok(())
    }

    fn sized_head(&mut self) -> io::Result<()> {
        match self.answer.status {
            304 => self.head(""),
            _ => self.head(&format!("Content-Length: {}\r\n", self.answer.part().len())),
        }
    }

    fn head(&mut self, framing: &str) -> io::Result<()> {
        let mut out = format!("HTTP/1.1 {} Scripted\r\n{framing}", self.answer.status).into_bytes();
        let range = self.answer.content_range().map(|range| ("Content-Range".to_owned(), range.into_bytes()));
        for (name, value) in self.answer.fields.iter().chain(range.iter()) {
            out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if !self.answer.line.is_empty() {
            out.extend_from_slice(&[self.answer.line, b"\r\n"].concat());
        }
        out.extend_from_slice(b"\r\n");
        self.stream.write_all(&out)?;
        self.shared.lock().ledger.head(self.number, self.answer.status, self.answer.from);
        Ok(())
    }

    fn pieces(&mut self, body: &[u8]) -> io::Result<()> {
        let rate = self.shared.lock().bytes_per_sec;
        let mut rest = body;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(rate.map_or(PIECE_LEN, |_| PACED_PIECE_LEN)));
            if let Some(rate) = rate {
                self.pace.wait(piece.len(), rate);
            }
            self.left -= piece.len();
            self.piece(piece)?;
            rest = after;
        }
        Ok(())
    }

    /// Sends a piece, which counts from just before it can arrive.
    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let counted = if self.answer.is_object { piece.len() } else { 0 };
        self.shared.lock().ledger.send(self.number, counted, self.left == 0);
        let sent = self.stream.write_all(piece);
        if sent.is_err() {
            self.shared.lock().ledger.take_back(self.number, counted);
        }
        sent
    }
}
