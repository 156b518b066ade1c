//! A scripted HTTP storage: it serves objects, fails as told, and remembers who asked for what.
//!
//! A [`Storage`] answers as S3 does: one range gives 206 or 416, several give the whole object,
//! `If-None-Match` and `If-Modified-Since` give 304, `If-Match` gives 412. A [`Fault`] bends the answers to one path, either
//! those to everybody or only those to the module's own fetches ([`Whom`]). What was asked and what left is an [`Exchange`].

mod answer;
mod fault;
mod ledger;
mod object;
mod signature;
mod tests;
mod wire;

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::ops::{Range, RangeBounds};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::client::{Fields, parse_head};
use crate::content::Random;
use crate::wait::until;

use answer::Answer;
pub(crate) use answer::one_range;
use fault::Rule;
pub(crate) use fault::{Fault, Whom};
use ledger::Ledger;
pub(crate) use ledger::{Asked, Exchange};
pub(crate) use object::{LAST_MODIFIED, Object};
use wire::{Pace, Reply};

const HEAD_SIZE_MAX: usize = 256 * 1024;

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
    versions: HashMap<String, Vec<Object>>,
    rules: HashMap<String, Rule>,
    unheard: Vec<&'static str>,
    delay: Duration,
    delays: HashMap<String, Duration>,
    bytes_per_sec: Option<u64>,
    dice: Option<Dice>,
    ledger: Ledger,
    /// Key ids whose signatures are taken; anybody's where nobody has said so.
    accepted: Option<Vec<String>>,
    strangers: usize,
    open: HashMap<u64, TcpStream>,
    connections: u64,
    stopped: bool,
}

/// Which requests fail at random.
struct Dice {
    random: Random,
    one_in: usize,
    failed: usize,
}

impl Dice {
    fn roll(&mut self) -> Option<Fault> {
        if self.random.below(self.one_in) > 0 {
            return None;
        }
        self.failed += 1;
        let faults = [Fault::Status(500), Fault::Status(503), Fault::ResetAfter(0), Fault::CloseAfter(1000)];
        faults.into_iter().nth(self.random.below(4))
    }
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

    /// Puts an object, or another version of it.
    pub(crate) fn put(&self, path: &str, object: Object) {
        let mut state = self.state();
        state.versions.entry(path.into()).or_default().push(object.clone());
        state.objects.insert(path.into(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// Every version that was ever put under a path.
    pub(crate) fn versions(&self, path: &str) -> Vec<Object> {
        self.state().versions.get(path).cloned().unwrap_or_default()
    }

    /// Bends the answers to a path until [`Storage::mend`].
    pub(crate) fn fail(&self, path: &str, whom: Whom, fault: Fault) {
        self.fail_some(path, whom, .., fault);
    }

    /// Bends some of the answers to a path: `2..` is all but the first from now on.
    pub(crate) fn fail_some(&self, path: &str, whom: Whom, which: impl RangeBounds<usize>, fault: Fault) {
        self.state().rules.insert(path.into(), Rule::new(fault, whom, which));
    }

    /// Bends one of so many answers, whoever asks for whatever, in a way that passes.
    pub(crate) fn fail_one_in(&self, one_in: usize) {
        self.state().dice = Some(Dice { random: Random::new(1), one_in, failed: 0 });
    }

    /// How many answers were bent so.
    pub(crate) fn failed_at_random(&self) -> usize {
        self.state().dice.as_ref().map_or(0, |dice| dice.failed)
    }

    pub(crate) fn mend(&self, path: &str) {
        self.state().rules.remove(path);
    }

    /// Lets the answers go that are kept, of this path.
    pub(crate) fn release(&self, path: &str) {
        self.mend(path);
        self.shared.released.notify_all();
    }

    /// Answers from now on as if no request had a field of this name.
    pub(crate) fn ignore(&self, field: &'static str) {
        self.state().unheard.push(field);
    }

    /// Answers from now on only what is signed with one of these key ids, in S3's words. The signature itself is not looked at.
    pub(crate) fn accept(&self, key_ids: &[&str]) {
        self.state().accepted = Some(key_ids.iter().map(|id| (*id).into()).collect());
    }

    /// Each answer's head comes so much later.
    pub(crate) fn delay(&self, by: Duration) {
        self.state().delay = by;
    }

    /// The same for one path only.
    pub(crate) fn delay_path(&self, path: &str, by: Duration) {
        self.state().delays.insert(path.into(), by);
    }

    /// Gives each connection so many bytes of body a second.
    pub(crate) fn pace(&self, bytes_per_sec: u64) {
        self.state().bytes_per_sec = Some(bytes_per_sec);
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().ledger.all().iter().map(|exchange| exchange.asked.clone()).collect()
    }

    /// The requests of the module itself for a path.
    pub(crate) fn fetches(&self, path: &str) -> Vec<Asked> {
        self.exchanges(path).into_iter().map(|exchange| exchange.asked).filter(|asked| !asked.by_proxy()).collect()
    }

    /// The requests of mod_proxy for a path.
    pub(crate) fn proxied(&self, path: &str) -> Vec<Asked> {
        self.exchanges(path).into_iter().map(|exchange| exchange.asked).filter(Asked::by_proxy).collect()
    }

    /// How often a path was asked for by the module and by mod_proxy.
    pub(crate) fn counts(&self, path: &str) -> (usize, usize) {
        (self.fetches(path).len(), self.proxied(path).len())
    }

    /// All that was asked of a path, and what became of it.
    pub(crate) fn exchanges(&self, path: &str) -> Vec<Exchange> {
        self.state().ledger.all().iter().filter(|exchange| exchange.asked.path == path).cloned().collect()
    }

    /// How many bytes of an object have left, to whomever.
    pub(crate) fn bytes_sent(&self, path: &str) -> usize {
        self.sent(path).iter().map(Range::len).sum()
    }

    /// Which bytes of an object have left, in the order of the requests.
    pub(crate) fn sent(&self, path: &str) -> Vec<Range<usize>> {
        self.exchanges(path).into_iter().map(|exchange| exchange.sent).filter(|sent| !sent.is_empty()).collect()
    }

    /// Which bytes of an object have left more than once.
    pub(crate) fn sent_again(&self, path: &str) -> Vec<Range<usize>> {
        ledger::repeated(self.sent(path))
    }

    /// How many requests for a path were under way at the same time at most.
    pub(crate) fn most_at_once(&self, path: &str) -> usize {
        ledger::most_at_once(&self.exchanges(path))
    }

    /// The same for all paths together.
    pub(crate) fn most_of_all_at_once(&self) -> usize {
        ledger::most_at_once(self.state().ledger.all())
    }

    /// Connections that did not begin as HTTP does.
    pub(crate) fn strangers(&self) -> usize {
        self.state().strangers
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

    /// Waits until nothing holds the path any more, or storage ends.
    fn hold(&self, path: &str) {
        let held = |state: &mut State| !state.stopped && state.rules.get(path).is_some_and(Rule::holds);
        drop(self.released.wait_while(self.lock(), held));
    }

    /// Waits until storage ends.
    fn hang(&self) {
        drop(self.released.wait_while(self.lock(), |state| !state.stopped));
    }

    /// Sends an answer; false when the connection is at its end.
    fn reply(&self, stream: &mut TcpStream, pace: &mut Pace, number: usize, fault: Option<Fault>) -> io::Result<bool> {
        let asked = self.lock().ledger.all()[number].asked.clone();
        match &fault {
            Some(Fault::Hold) => self.hold(&asked.path),
            Some(Fault::HoldFrom(depth)) if self.lock().ledger.depth(number) >= *depth => self.hold(&asked.path),
            Some(Fault::Hang) => {
                self.hang();
                return Ok(false);
            }
            _ => {}
        }
        let (answer, delay) = self.lock().answer(&asked, number, fault.as_ref());
        thread::sleep(delay);
        let body = if asked.method == "HEAD" { &[][..] } else { answer.part() };
        let goes_on = !fault.as_ref().is_some_and(Fault::is_last);
        let sent =
            Reply { stream, shared: self, pace, path: &asked.path, number, answer: &answer, body, left: body.len() }
                .send(fault);
        self.lock().ledger.end(number);
        sent.map(|()| goes_on)
    }
}

impl State {
    /// Notes a request: its number, and what goes wrong with it.
    fn arrive(&mut self, asked: Asked) -> (usize, Option<Fault>) {
        let fault = self.rules.get_mut(&asked.path).and_then(|rule| rule.meet(&asked));
        let fault = fault.or_else(|| self.dice.as_mut().and_then(Dice::roll));
        (self.ledger.arrive(asked), fault)
    }

    /// Why a request is refused, as S3 says it.
    fn refusal(&self, asked: &Asked) -> Option<String> {
        let accepted = self.accepted.as_ref()?;
        let code = match asked.key_id() {
            Some(id) if accepted.contains(&id) => return None,
            Some(_) => "InvalidAccessKeyId",
            None => "AccessDenied",
        };
        Some(format!("<Error><Code>{code}</Code></Error>"))
    }

    /// The answer to a request as things are now, and how long its head takes.
    fn answer(&self, asked: &Asked, number: usize, fault: Option<&Fault>) -> (Answer, Duration) {
        let unheard = self.unheard.iter().copied().chain(fault.and_then(Fault::unheard));
        let heard = unheard.fold(asked.clone(), Asked::without);
        let answer = match (fault, self.objects.get(&asked.path)) {
            (Some(fault), _) if let Some(refused) = signature::refusal(fault, asked) => refused,
            _ if self.refusal(asked).is_some() => Answer::plain(403, self.refusal(asked).unwrap_or_default()),
            (Some(Fault::Status(status)), _) => Answer::plain(*status, status.to_string()),
            (Some(Fault::StatusWith(status, more)), _) => {
                let mut answer = Answer::plain(*status, status.to_string());
                answer.fields.extend(more.iter().map(|(name, value)| ((*name).into(), (*value).into())));
                answer
            }
            (_, Some(_)) if asked.method == "POST" => Answer::plain(201, "posted".into()),
            (_, Some(object)) => Answer::of(object, &heard),
            (_, None) => Answer::plain(404, format!("storage has no {}", asked.path)),
        };
        let delay = self.delays.get(&asked.path).copied().unwrap_or(self.delay);
        (fault.into_iter().fold(answer, |answer, fault| answer.bent(fault, number)), delay)
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
    let mut pace = Pace::new();
    while let Some(head) = peek_head(&stream, shared)? {
        let (line, fields) = parse_head(&head);
        let asked = asked(&line, fields, connection);
        let body_len = asked.field("Content-Length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let (number, fault) = shared.lock().arrive(asked);
        // A byte of the head stays unread: closing the socket then sends a reset.
        let unread = usize::from(matches!(fault, Some(Fault::ResetAfter(_))));
        stream.read_exact(&mut vec![0; head.len() - unread])?;
        io::copy(&mut (&mut stream).take(body_len), &mut io::sink())?;
        if !shared.reply(&mut stream, &mut pace, number, fault)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads a request's head without taking it from the socket; nothing if it is none, as a TLS handshake.
fn peek_head(stream: &TcpStream, shared: &Shared) -> io::Result<Option<Vec<u8>>> {
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
        if !seen[0].is_ascii_uppercase() {
            shared.lock().strangers += 1;
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
