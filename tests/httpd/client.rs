//! A small HTTP/1.1 client: it sends what it is told, byte for byte, and shows what came back.
//!
//! [`Request`] is a request as it goes out, [`Connection`] one TCP connection that can carry
//! several of them, [`Response`] what was read. [`parse_head`] also serves the scripted storage.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may keep silent before the test fails.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is said of a connection that ended before the head of an answer did.
pub(crate) const NO_ANSWER: &str = "no answer";

/// Header fields in the order in which they were sent.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    fields: Fields,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, target: impl AsRef<[u8]>) -> Self {
        Self { method: method.into(), target: target.as_ref().into(), fields: Fields::new(), body: Vec::new() }
    }

    pub(crate) fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn head(target: impl AsRef<[u8]>) -> Self {
        Self::new("HEAD", target)
    }

    pub(crate) fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.into(), value.as_ref().into()));
        self
    }

    pub(crate) fn range(self, value: impl AsRef<[u8]>) -> Self {
        self.field("Range", value)
    }

    /// The same request for a target below a prefix.
    pub(crate) fn below(mut self, prefix: &str) -> Self {
        self.target.splice(..0, prefix.bytes());
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.field("Content-Length", length)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        if find(&self.fields, "Host").is_none() {
            out.extend_from_slice(b"Host: 127.0.0.1\r\n");
        }
        for (name, value) in &self.fields {
            out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// One TCP connection to a server on loopback.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        Self::to((Ipv4Addr::LOCALHOST, port).into())
    }

    /// A connection to another address.
    pub(crate) fn to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request and reads its answer; the connection stays open if the server wants it so.
    pub(crate) fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        self.send(&request.bytes())?;
        self.receive(request.method == "HEAD")
    }

    /// Sends a request and reads the head of its answer; the body is still to come.
    pub(crate) fn ask(&mut self, request: &Request) -> io::Result<Response> {
        self.send(&request.bytes())?;
        self.receive(true)
    }

    /// Sends bytes that need not be a request.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer; `bodiless` when it answers a HEAD, or when the body is read later.
    pub(crate) fn receive(&mut self, bodiless: bool) -> io::Result<Response> {
        loop {
            let (line, fields) = parse_head(&self.read_head()?);
            let status = status_of(&line)?;
            if status / 100 == 1 {
                continue;
            }
            let body = match bodiless || matches!(status, 204 | 304) {
                true => Vec::new(),
                false => self.read_body(&fields)?,
            };
            return Ok(Response { status, fields, body });
        }
    }

    /// Reads the head of an answer, up to the empty line.
    pub(crate) fn read_head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, NO_ANSWER));
            }
        }
        Ok(head)
    }

    /// Reads the body that follows a head with these fields.
    pub(crate) fn read_body(&mut self, fields: &Fields) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if find(fields, "Transfer-Encoding").is_some() {
            self.read_chunks(&mut body)?;
        } else if let Some(length) = find(fields, "Content-Length") {
            body.resize(number(length, 10)?, 0);
            self.stream.read_exact(&mut body)?;
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        Ok(body)
    }

    /// Reads so many bytes of a body.
    pub(crate) fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the body that follows a head with these fields, and says whether it is `want`, without keeping it.
    pub(crate) fn body_is(&mut self, fields: &Fields, want: &[u8]) -> io::Result<bool> {
        let length = number(find(fields, "Content-Length").unwrap_or_default(), 10)?;
        let (mut piece, mut same) = (vec![0; 64 * 1024], length == want.len());
        for at in (0..length).step_by(piece.len()) {
            let piece = &mut piece[..(length - at).min(64 * 1024)];
            self.stream.read_exact(piece)?;
            same &= want.get(at..at + piece.len()) == Some(piece);
        }
        Ok(same)
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut line = Vec::new();
            self.stream.read_until(b'\n', &mut line)?;
            let size = number(line.trim_ascii(), 16)?;
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            self.stream.read_until(b'\n', &mut Vec::new())?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

/// An answer: status, fields in their order, body without its transfer coding.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first field of that name, as text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        find(&self.fields, name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// All fields of that name, as bytes.
    pub(crate) fn fields(&self, name: &str) -> Vec<&[u8]> {
        let same = self.fields.iter().filter(|(had, _)| had.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_slice()).collect()
    }

    /// The `Cache-Status` of the module, or nothing.
    pub(crate) fn cache_status(&self) -> String {
        self.field("Cache-Status").unwrap_or_default()
    }
}

/// One request on a connection of its own.
pub(crate) fn fetch(port: u16, request: Request) -> io::Result<Response> {
    Connection::open(port)?.exchange(&request.field("Connection", "close"))
}

/// Splits a message's head into its first line and its fields.
pub(crate) fn parse_head(head: &[u8]) -> (String, Fields) {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        Some((name, line[colon + 1..].trim_ascii().to_vec()))
    });
    (first, fields.collect())
}

/// The value of the first field of that name.
pub(crate) fn find<'f>(fields: &'f Fields, name: &str) -> Option<&'f [u8]> {
    let found = fields.iter().find(|(had, _)| had.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_slice())
}

fn status_of(line: &str) -> io::Result<u16> {
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    status.ok_or_else(|| io::Error::other(format!("not a status line: {line:?}")))
}

fn number(digits: &[u8], radix: u32) -> io::Result<usize> {
    let text = String::from_utf8_lossy(digits);
    usize::from_str_radix(&text, radix).map_err(|_| io::Error::other(format!("not a number: {text:?}")))
}
