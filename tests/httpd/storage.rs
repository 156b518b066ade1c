//! A scripted HTTP storage: it serves objects, fails as told, and remembers who asked for what.
//!
//! A [`Storage`] answers as S3 does: one range gives 206 or 416, several give the whole object,
//! `If-None-Match` gives 304. A [`Fault`] bends the answers to one path, either all of them or
//! only those to the module's own fetches ([`Whom`]): mod_proxy is told by its `X-Forwarded-Host`.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::client::{Fields, find, parse_head};
use crate::wait::until;

/// When every object was last changed, unless it says otherwise.
pub(crate) const LAST_MODIFIED: &str = "Mon, 03 Feb 2025 04:05:06 GMT";
const HEAD_SIZE_MAX: usize = 256 * 1024;

/// What storage holds under a path.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    body: Arc<Vec<u8>>,
    fields: Fields,
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
}

/// What goes wrong with the answers to one path.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, and its number as the body.
    Status(u16),
    /// The right answer, once the test calls [`Storage::release`].
    Hold,
    /// No answer at all; the connection stays open.
    Hang,
    /// The right head and so many bytes, then silence.
    StallAfter(usize),
    /// The right head and so many bytes, then a TCP reset.
    ResetAfter(usize),
    /// The right head and so many bytes, then an end of the connection.
    CloseAfter(usize),
    /// A body without a length, ended by the connection.
    NoLength,
    /// A chunked body.
    Chunked,
    /// These bytes instead of an answer, then an end of the connection.
    Raw(Vec<u8>),
    /// The right answer in pieces of so many bytes, with this pause before each.
    Drip(usize, Duration),
}

/// Whose requests a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Everyone,
    Fetches,
}

/// A request as storage saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) fields: Fields,
    pub(crate) connection: u64,
}

impl Asked {
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        find(&self.fields, name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Whether mod_proxy sent it, and not the module itself.
    pub(crate) fn by_proxy(&self) -> bool {
        find(&self.fields, "X-Forwarded-Host").is_some()
    }
}

/// The storage itself; it ends when it is dropped.
pub(crate) struct Storage {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    objects: HashMap<String, Object>,
    faults: HashMap<String, (Fault, Whom)>,
    asked: Vec<Asked>,
    open: HashMap<u64, TcpStream>,
    connections: u64,
    stopped: bool,
}

impl Storage {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { port, shared }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn put(&self, path: &str, object: Object) {
        self.state().objects.insert(path.into(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// Bends the answers to a path until [`Storage::mend`].
    pub(crate) fn fail(&self, path: &str, whom: Whom, fault: Fault) {
        self.state().faults.insert(path.into(), (fault, whom));
    }

    pub(crate) fn mend(&self, path: &str) {
        self.state().faults.remove(path);
    }

    /// Lets the answers go that [`Fault::Hold`] keeps, of this path.
    pub(crate) fn release(&self, path: &str) {
        self.mend(path);
        self.shared.released.notify_all();
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// The requests of the module itself for a path.
    pub(crate) fn fetches(&self, path: &str) -> Vec<Asked> {
        self.asked_for(path, false)
    }

    /// The requests of mod_proxy for a path.
    pub(crate) fn proxied(&self, path: &str) -> Vec<Asked> {
        self.asked_for(path, true)
    }

    fn asked_for(&self, path: &str, by_proxy: bool) -> Vec<Asked> {
        let state = self.state();
        let chosen = state.asked.iter().filter(|asked| asked.path == path && asked.by_proxy() == by_proxy);
        chosen.cloned().collect()
    }

    /// How often a path was asked for by the module and by mod_proxy.
    pub(crate) fn counts(&self, path: &str) -> (usize, usize) {
        (self.fetches(path).len(), self.proxied(path).len())
    }

    /// Waits until the module has asked for a path so often.
    pub(crate) fn wait_for_fetches(&self, path: &str, count: usize) {
        until(&format!("fetch {count} of {path}"), 20, || (self.fetches(path).len() >= count).then_some(()));
    }

    /// Ends it: connections are shut, and nobody listens any more.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        if std::mem::replace(&mut state.stopped, true) {
            return;
        }
        for stream in state.open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.released.notify_all();
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until the path's fault is no longer `Hold`, or storage ends.
    fn hold(&self, path: &str) {
        let held = |state: &mut State| !state.stopped && matches!(state.faults.get(path), Some((Fault::Hold, _)));
        drop(self.released.wait_while(self.lock(), held));
    }

    /// Waits until storage ends.
    fn hang(&self) {
        drop(self.released.wait_while(self.lock(), |state| !state.stopped));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        let mut state = shared.lock();
        if state.stopped {
            return;
        }
        state.connections += 1;
        let number = state.connections;
        state.open.extend(stream.try_clone().map(|other| (number, other)));
        drop(state);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let _ = serve(stream, number, &shared);
            // The last descriptor goes, and with it the connection.
            shared.lock().open.remove(&number);
        });
    }
}

/// Answers one connection's requests until it ends.
fn serve(mut stream: TcpStream, connection: u64, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(head) = peek_head(&stream)? {
        let (line, fields) = parse_head(&head);
        let asked = asked(&line, fields, connection);
        let (answer, fault) = shared.lock().answer(&asked);
        // A byte of the head stays unread: closing the socket then sends a reset.
        let unread = usize::from(matches!(fault, Some(Fault::ResetAfter(_))));
        stream.read_exact(&mut vec![0; head.len() - unread])?;
        skip_body(&mut stream, &asked)?;
        if !send(&mut stream, &asked, &answer, fault, shared)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads a request's head without taking it from the socket.
fn peek_head(stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut seen = vec![0; HEAD_SIZE_MAX];
    loop {
        let length = stream.peek(&mut seen)?;
        if let Some(end) = seen[..length].windows(4).position(|part| part == b"\r\n\r\n") {
            seen.truncate(end + 4);
            return Ok(Some(seen));
        }
        if length == 0 || length == seen.len() {
            return Ok(None);
        }
        thread::yield_now();
    }
}

fn asked(line: &str, fields: Fields, connection: u64) -> Asked {
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    Asked { method, path: path.to_owned(), query, fields, connection }
}

fn skip_body(stream: &mut TcpStream, asked: &Asked) -> io::Result<()> {
    let length = asked.field("Content-Length").and_then(|text| text.parse().ok()).unwrap_or(0);
    io::copy(&mut stream.take(length), &mut io::sink()).map(drop)
}

/// What goes out: the body is a part of the object's.
struct Answer {
    status: u16,
    fields: Fields,
    body: Arc<Vec<u8>>,
    from: usize,
    to: usize,
}

impl Answer {
    fn plain(status: u16, body: String) -> Self {
        let fields = vec![("Content-Type".into(), b"text/plain".to_vec())];
        let to = body.len();
        Self { status, fields, body: Arc::new(body.into()), from: 0, to }
    }

    fn part(&self) -> &[u8] {
        &self.body[self.from..self.to]
    }
}

impl State {
    fn answer(&mut self, asked: &Asked) -> (Answer, Option<Fault>) {
        self.asked.push(asked.clone());
        let fault = match self.faults.get(&asked.path) {
            Some((fault, whom)) if *whom == Whom::Everyone || !asked.by_proxy() => Some(fault.clone()),
            _ => None,
        };
        let answer = match (&fault, self.objects.get(&asked.path)) {
            (Some(Fault::Status(status)), _) => Answer::plain(*status, status.to_string()),
            (_, Some(_)) if asked.method == "POST" => Answer::plain(201, "posted".into()),
            (_, Some(object)) => object_answer(object, asked),
            (_, None) => Answer::plain(404, format!("storage has no {}", asked.path)),
        };
        (answer, fault)
    }
}

fn object_answer(object: &Object, asked: &Asked) -> Answer {
    let length = object.body.len();
    let mut answer =
        Answer { status: 200, fields: object.fields.clone(), body: Arc::clone(&object.body), from: 0, to: length };
    if asked.field("If-None-Match").is_some_and(|etag| etag == object.etag()) {
        (answer.status, answer.to) = (304, 0);
        return answer;
    }
    let wanted = asked.field("Range").and_then(|range| one_range(&range, length));
    let described = match wanted {
        Some(Some((from, to))) => {
            (answer.status, answer.from, answer.to) = (206, from, to);
            format!("bytes {from}-{}/{length}", to - 1)
        }
        Some(None) => {
            (answer.status, answer.to) = (416, 0);
            format!("bytes */{length}")
        }
        None => return answer,
    };
    answer.fields.push(("Content-Range".into(), described.into()));
    answer
}

/// One range of `length` bytes: `None` if it cannot be read, `Some(None)` if there is nothing there.
pub(crate) fn one_range(header: &str, length: usize) -> Option<Option<(usize, usize)>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let count: usize = last.parse().ok()?;
        return Some((count > 0 && length > 0).then(|| (length.saturating_sub(count), length)));
    }
    let from: usize = first.parse().ok()?;
    let to = match last {
        "" => length,
        last => last.parse::<usize>().ok()?.saturating_add(1).min(length),
    };
    Some((from < to).then_some((from, to)))
}

/// An answer on its way out.
struct Reply<'a> {
    stream: &'a mut TcpStream,
    answer: &'a Answer,
    body: &'a [u8],
}

/// Sends an answer, bent as the fault says; false when the connection is at its end.
fn send(
    stream: &mut TcpStream,
    asked: &Asked,
    answer: &Answer,
    fault: Option<Fault>,
    shared: &Shared,
) -> io::Result<bool> {
    let body = if asked.method == "HEAD" { &[][..] } else { answer.part() };
    let goes_on = matches!(fault, None | Some(Fault::Status(_) | Fault::Hold | Fault::Chunked | Fault::Drip(..)));
    let mut reply = Reply { stream, answer, body };
    match fault {
        None | Some(Fault::Status(_)) => reply.whole()?,
        Some(Fault::Hold) => {
            shared.hold(&asked.path);
            reply.whole()?;
        }
        Some(Fault::Hang) => shared.hang(),
        Some(Fault::StallAfter(count)) => {
            reply.cut(count)?;
            shared.hang();
        }
        Some(Fault::CloseAfter(count) | Fault::ResetAfter(count)) => reply.cut(count)?,
        Some(Fault::NoLength) => reply.framed("Connection: close", body)?,
        Some(Fault::Chunked) => reply.chunked()?,
        Some(Fault::Raw(bytes)) => reply.stream.write_all(&bytes)?,
        Some(Fault::Drip(piece, pause)) => reply.drip(piece, pause)?,
    }
    Ok(goes_on)
}

impl Reply<'_> {
    fn whole(&mut self) -> io::Result<()> {
        self.cut(self.body.len())
    }

    fn cut(&mut self, count: usize) -> io::Result<()> {
        let sized = format!("Content-Length: {}", self.answer.part().len());
        self.framed(&sized, &self.body[..count.min(self.body.len())])
    }

    fn chunked(&mut self) -> io::Result<()> {
        let size = format!("{:x}\r\n", self.body.len());
        let chunks = [size.as_bytes(), self.body, b"\r\n0\r\n\r\n"].concat();
        self.framed("Transfer-Encoding: chunked", &chunks)
    }

    fn drip(&mut self, piece: usize, pause: Duration) -> io::Result<()> {
        self.cut(0)?;
        for part in self.body.chunks(piece) {
            thread::sleep(pause);
            self.stream.write_all(part)?;
        }
        Ok(())
    }

    fn framed(&mut self, framing: &str, body: &[u8]) -> io::Result<()> {
        let mut out = format!("HTTP/1.1 {} Scripted\r\n{framing}\r\n", self.answer.status).into_bytes();
        for (name, value) in &self.answer.fields {
            out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        out.extend_from_slice(b"\r\n");
        self.stream.write_all(&out)?;
        self.stream.write_all(body)
    }
}

/// FNV-1a, so that objects of different bytes have different ETags.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
