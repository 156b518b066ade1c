//! What is told of a version in the store.

use mod_usp_storage_cache::store::version::Place;
use mod_usp_storage_cache::store::{Record, Visit, now_ms};
use serde::Serialize;

use super::amounts::span;
use super::failure::Failure;
use super::output::printable;

/// A version in the store, as `ls` lists it.
#[derive(Serialize)]
pub struct Row {
    pub url: String,
    pub scope: String,
    pub state: State,
    pub length: u64,
    pub disk_length: u64,
    pub blocks: u64,
    pub landed: u64,
    /// The `Age` that an answer would have; of an entry, whose time is not in the future.
    pub age_secs: Option<u64>,
    pub validated_at_ms: Option<u64>,
    pub used_at_secs: Option<u64>,
    /// The file's path below `<root>/v1`.
    pub file: String,
}

/// How much of a version is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An entry: all of it.
    Whole,
    /// A fill that somebody works at.
    Filling,
    /// A fill that was left behind.
    Left,
}

impl Row {
    /// What is told of a file.
    pub fn of(visit: &Visit, place: Place, record: &Record, file: &str) -> Result<Self, Failure> {
        let io = |e| Failure::plain(file, e);
        let is_entry = place == Place::Entries;
        let blocks = record.layout().blocks();
        let state = match is_entry {
            true => State::Whole,
            false if visit.is_locked(record.name()).map_err(io)? => State::Filling,
            false => State::Left,
        };
        let age_ms = now_ms().checked_sub(record.validated_at_ms());
        Ok(Self {
            url: record.url().into(),
            scope: record.scope().into(),
            state,
            length: record.layout().body_len,
            disk_length: record.disk_len(),
            blocks,
            landed: if is_entry { blocks } else { record.landed().map_err(io)? },
            age_secs: age_ms.filter(|_| is_entry).map(|ms| ms / 1000 + u64::from(record.initial_age_secs())),
            validated_at_ms: is_entry.then(|| record.validated_at_ms()),
            used_at_secs: is_entry.then(|| record.used_at_secs()),
            file: file.into(),
        })
    }

    /// The state as text, a fill's with its progress.
    pub fn progress(&self) -> String {
        match self.state {
            State::Whole => "whole".into(),
            State::Filling => format!("filling {}/{}", self.landed, self.blocks),
            State::Left => format!("left {}/{}", self.landed, self.blocks),
        }
    }

    /// A line of a long listing.
    pub fn line(&self) -> String {
        let used = self.used_at_secs.map(|at| span((now_ms() / 1000).saturating_sub(at)));
        let age = self.age_secs.map(span);
        let scope = if self.scope.is_empty() { "-".into() } else { printable(self.scope.as_bytes()) };
        let [age, used] = [age, used].map(|text| text.unwrap_or_else(|| "-".into()));
        let (length, state) = (self.length, self.progress());
        format!("{length:>12} {age:>4} {used:>4} {state:<12} {scope} {}", printable(self.url.as_bytes()))
    }
}
