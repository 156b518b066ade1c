//! The module in a real httpd, seen from outside: `cargo test --test httpd`.
//!
//! Each test starts an httpd of its own ([`server`]) before a scripted storage ([`storage`]) or a
//! real S3 server ([`s3`]), asks it by main requests ([`client`]) or through the origin double
//! ([`origin`]), and looks at what came back and at what storage was asked.

#![forbid(unsafe_code)]

mod aws;
mod client;
mod content;
mod filling;
#[path = "../mp4/made.rs"]
mod made;
mod origin;
#[path = "../mp4/rows.rs"]
mod rows;
mod s3;
mod server;
mod site;
mod storage;
mod wait;

mod bad_days;
mod cli;
mod config;
mod credentials;
mod damage;
mod disk;
mod double;
mod ending;
mod examples;
mod faults;
mod fills;
mod honor;
mod hostile;
mod kill;
mod matrix;
mod mixed;
mod mpm;
mod panics;
mod parts;
mod passing;
mod prefetch;
mod preparing;
mod purge;
mod ranges;
mod recipe;
mod recognise;
mod replay;
mod restart;
mod shared;
mod signing;
mod space;
mod stale;
mod status;
mod status_page;
mod tls;
mod upstream;
mod verified;
