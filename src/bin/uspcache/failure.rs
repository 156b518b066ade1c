//! How `uspcache` ends: its exit code, and what it says where it fails.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::{ExitCode, Termination};

use clap::error::ContextKind;

use super::output::printable;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// What was asked for is done; or who read the output wanted no more of it.
    Done = 0,
    /// It is done, and something is not there, or is not as it should be.
    Wrong = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// It could not be done, or not all of it.
    Failed = 3,
}

impl Termination for Code {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why a subcommand ends early.
#[derive(Debug)]
pub enum Failure {
    /// What was typed is not what the subcommand takes.
    Usage(String),
    /// Something could not be done.
    Failed(String),
    /// Nobody reads the output any more.
    ReaderGone,
}

impl Failure {
    /// `what` could not be done, for the reason `why`, and what helps is `remedy`.
    pub fn new(what: impl Display, why: impl Display, remedy: impl Display) -> Self {
        Self::Failed(format!("{what}: {why}; {remedy}"))
    }

    /// The same where nothing of ours would help.
    pub fn plain(what: impl Display, why: impl Display) -> Self {
        Self::Failed(format!("{what}: {why}"))
    }

    /// Output could not be written.
    pub fn of_output(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::plain("standard output", e),
        }
    }

    /// What it says.
    pub fn into_text(self) -> String {
        match self {
            Self::Usage(text) | Self::Failed(text) => text,
            Self::ReaderGone => String::new(),
        }
    }

    /// Says it, and gives the exit code.
    pub fn report(&self) -> Code {
        match self {
            Self::Usage(text) => {
                remark(text);
                Code::Usage
            }
            Self::Failed(text) => {
                remark(text);
                Code::Failed
            }
            Self::ReaderGone => Code::Done,
        }
    }
}

/// A line on standard error; names and URLs in it come from anywhere.
pub fn remark(text: impl Display) {
    // Where nobody reads errors there is nobody to tell.
    let _ = writeln!(io::stderr(), "uspcache: {}", printable(text.to_string().as_bytes()));
}

/// What clap has to say: help and version are no errors.
pub fn usage(mut e: clap::Error) -> Code {
    if !e.use_stderr() {
        // Help that nobody reads to its end was read far enough.
        let _ = e.print();
        return Code::Done;
    }
    // clap would suggest to take an option that is not known for a file.
    e.remove(ContextKind::Suggested);
    let text = e.render().to_string();
    let text = text.strip_prefix("error: ").map_or_else(|| text.clone(), |error| format!("uspcache: {error}"));
    for line in text.lines() {
        let _ = writeln!(io::stderr(), "{}", printable(line.as_bytes()));
    }
    Code::Usage
}
