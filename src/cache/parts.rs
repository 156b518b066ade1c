//! Fetching what is missing of a version in parts, side by side: what is waited for first, by short GETs, then the rest.
//!
//! # Invariants
//!
//! - Each answer is of the version that its file's head names, by ETag and length, or nothing of it is written.
//! - All threads have ended when [`Parts::fetch`] returns: nobody writes into the file any more.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Scope;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::filler::{Arrival, Filler, fits};
use super::plan::{Plan, Run};
use super::wait::Urgency;
use crate::fetch::retry::Pauses;
use crate::fetch::{self, Failure, Part, Question};
use crate::semantics::validation::Validators;
use crate::store::Fill;
use crate::store::connections::Use;
use crate::store::format::BLOCK_LEN;
use crate::store::sys::STACK_LEN;

/// The longest run that is urgent, if it is waited for.
const URGENT_BLOCKS: u64 = 4;
/// Urgent runs on their way at a time.
const URGENT_MAX: usize = 64;
/// The rest is fetched once nothing was wanted for so long: what is on its way cannot be overtaken.
const QUIET: Duration = Duration::from_millis(20);
/// How often the filler looks up from its sleep.
const SLICE: Duration = Duration::from_millis(250);

/// A version that comes in parts.
pub(super) struct Parts<'f> {
    filler: &'f Filler,
    fill: &'f Fill,
    /// Runs that have come to their end.
    ended: Mutex<Vec<Ended>>,
}

/// A run that has come to its end, and how.
struct Ended {
    run: Run,
    kind: Kind,
    result: Result<(), End>,
}

/// Why a run has ended before its time.
enum End {
    /// Storage has not answered, though it was asked again and again.
    Unanswered(Failure),
    /// The answer broke off.
    Broken(Failure),
}

/// What kind of request brings a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A short one, for what is waited for.
    Urgent,
    /// Any other.
    Bulk,
}

/// How many requests of each kind are on their way.
#[derive(Default)]
struct UnderWay {
    urgent: usize,
    bulk: usize,
}

impl UnderWay {
    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Urgent => &mut self.urgent,
            Kind::Bulk => &mut self.bulk,
        }
    }

    fn is_none(&self) -> bool {
        self.urgent + self.bulk == 0
    }
}

/// How far a fill in parts has come.
struct Course {
    plan: Plan,
    under_way: UnderWay,
    /// What ends it.
    failure: Option<Failure>,
    quiet_since: Instant,
    /// The pauses between answers that bring nothing.
    pauses: Pauses,
    /// Nothing is asked for before this time.
    paused_until: Instant,
}

impl<'f> Parts<'f> {
    pub(super) fn new(filler: &'f Filler, fill: &'f Fill) -> Self {
        Self { filler, fill, ended: Mutex::default() }
    }

    /// Fetches all that is missing; `first` is an answer that has begun.
    pub(super) fn fetch(&self, first: Option<Arrival>) -> Result<(), Failure> {
        let version = self.fill.version();
        let part_blocks = self.filler.order.part_len.div_ceil(BLOCK_LEN);
        let now = Instant::now();
        let mut course = Course {
            plan: Plan::new(version.layout().blocks(), part_blocks, |block| self.is_present(block)),
            under_way: UnderWay::default(),
            failure: None,
            quiet_since: now,
            pauses: Pauses::within(self.filler.order.wait),
            paused_until: now,
        };
        std::thread::scope(|scope| {
            if let Some(first) = first {
                let run = first.from.div_ceil(BLOCK_LEN)..first.to.div_ceil(BLOCK_LEN);
                course.plan.begin(&run);
                *course.under_way.count(Kind::Urgent) += 1;
                self.begin(scope, run, Kind::Urgent, Some(first));
            }
            loop {
                let seen = self.fill.demand();
                for ended in std::mem::take(&mut *self.ended.lock()) {
                    self.reap(ended, &mut course);
                }
                let is_over = course.failure.is_some() || course.plan.is_complete();
                if is_over && course.under_way.is_none() {
                    return course.failure.map_or(Ok(()), Err);
                }
                let most = match is_over {
                    true => SLICE,
                    false => self.dispatch(scope, &mut course),
                };
                self.fill.sleep(seen, most);
            }
        })
    }

    /// Takes note of a run that has ended.
    fn reap(&self, Ended { run, kind, result }: Ended, course: &mut Course) {
        *course.under_way.count(kind) -= 1;
        let (came, due) = course.plan.end(&run, |block| self.is_present(block));
        if came > 0 {
            course.pauses = Pauses::within(self.filler.order.wait);
        }
        let failed = match result {
            // What brought nothing would bring nothing again.
            Ok(()) if came == 0 && due > 0 => Failure::Answer("a part without a whole block"),
            Ok(()) => return,
            Err(End::Broken(e @ Failure::Store(_)) | End::Unanswered(e @ (Failure::Changed | Failure::Store(_)))) => e,
            // It is asked again for what is missing.
            Err(_) if came > 0 => return,
            Err(End::Unanswered(e)) => e,
            // Who waits has waited as long as for a hang already.
            Err(End::Broken(e @ Failure::TimedOut(_))) => e,
            // Connections that end at one time are one failure.
            Err(End::Broken(e)) if e.passes() && Instant::now() < course.paused_until => return,
            Err(End::Broken(e)) => match course.pauses.next(&e) {
                Some(pause) => {
                    course.paused_until = Instant::now() + pause;
                    return;
                }
                None => e,
            },
        };
        if course.failure.is_none() {
            if !matches!(failed, Failure::Changed) && !self.filler.has_another() {
                // Who waits need not wait until the other parts have given up too.
                self.filler.cache.fail(&self.filler.order, &failed);
                self.fill.wake_all();
            }
            course.failure = Some(failed);
        }
    }

    /// Sends GETs: for what is wanted at once, for the rest when nobody has wanted anything for a moment. Gives the time after
    /// which to look again.
    fn dispatch<'s>(&'s self, scope: &'s Scope<'s, '_>, course: &mut Course) -> Duration {
        let pause = course.paused_until.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            return pause;
        }
        let wanted = |block| self.fill.is_wanted(block);
        let is_short = |run: &Run| run.end - run.start <= URGENT_BLOCKS;
        let (short, long) = course.plan.runs(wanted).into_iter().partition(is_short);
        self.send(scope, course, Kind::Urgent, short);
        self.send(scope, course, Kind::Bulk, long);
        if course.plan.is_waited_for(wanted) {
            course.quiet_since = Instant::now();
            return SLICE;
        }
        let quiet_for = course.quiet_since.elapsed();
        if self.filler.urgency == Urgency::Demand && quiet_for < QUIET {
            return QUIET - quiet_for;
        }
        let rest = course.plan.runs(|_| true);
        self.send(scope, course, Kind::Bulk, rest);
        SLICE
    }

    /// Sends a GET for each run that there is room for.
    fn send<'s>(&'s self, scope: &'s Scope<'s, '_>, course: &mut Course, kind: Kind, runs: Vec<Run>) {
        let most = if kind == Kind::Urgent { URGENT_MAX } else { self.filler.cache.fill_threads };
        let count = course.under_way.count(kind);
        for run in runs.into_iter().take(most.saturating_sub(*count)) {
            *count += 1;
            course.plan.begin(&run);
            self.begin(scope, run, kind, None);
        }
    }

    /// Fetches a run in a thread of its own.
    fn begin<'s>(&'s self, scope: &'s Scope<'s, '_>, run: Run, kind: Kind, arrival: Option<Arrival>) {
        let end = move |run, result| {
            self.ended.lock().push(Ended { run, kind, result });
            self.fill.nudge();
        };
        let bring = {
            let run = run.clone();
            move || {
                let bring = || {
                    let arrival = arrival.map_or_else(|| self.ask(&run, kind), Ok).map_err(End::Unanswered)?;
                    self.filler.land(self.fill, arrival).map_err(End::Broken)
                };
                // A run that never ends would be waited for.
                let result = catch_unwind(AssertUnwindSafe(bring));
                let panicked = |_| Err(End::Unanswered(Failure::Broken("a panic: see above".into())));
                end(run, result.unwrap_or_else(panicked));
            }
        };
        // Signals are blocked already: a thread begins with the mask of the one that made it.
        let thread = std::thread::Builder::new().name("usc-part".into()).stack_size(STACK_LEN);
        if let Err(e) = thread.spawn_scoped(scope, bring) {
            end(run, Err(End::Unanswered(Failure::Store(e))));
        }
    }

    fn ask(&self, run: &Run, kind: Kind) -> Result<Arrival, Failure> {
        let version = self.fill.version();
        let bytes: Range<u64> = run.start * BLOCK_LEN..(run.end * BLOCK_LEN).min(version.len());
        let part = Part::Span(bytes.start, bytes.end);
        let etag = version.field("etag");
        let question = Question { part: Some(part), only: etag, not: Validators::default() };
        let what_for = if kind == Kind::Urgent { Use::Urgent } else { Use::Bulk };
        let (answer, connection) = self.filler.get_for(what_for, &question)?;
        if answer.kind == fetch::Kind::Changed {
            return Err(Failure::Changed);
        }
        // A storage that does not know If-Match tells by its ETag.
        if answer.field("etag") != etag {
            return Err(Failure::Changed);
        }
        match answer.kind {
            fetch::Kind::Part { total, .. } if total != version.len() => Err(Failure::Changed),
            fetch::Kind::Part { from, to, total } if fits(part, from, to, total) => {
                Ok(Arrival { answer, from, to, connection })
            }
            _ => Err(Failure::Answer("another part than was asked for")),
        }
    }

    fn is_present(&self, block: u64) -> bool {
        self.fill.version().missing(&self.fill.version().layout().block(block)).is_none()
    }
}
