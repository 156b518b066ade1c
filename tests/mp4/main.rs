//! Index MP4s from outside: against independent readers and writers, from fragments of every kind, and from
//! hostile ones. What needs ffmpeg and other packagers is in tests/media_tools.

mod cli;
mod edits;
mod fragments;
mod golden;
mod hostile;
mod made;
mod manifest;
mod prepare;
mod reading;
mod rows;
