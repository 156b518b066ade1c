//! `uspcache`: looks into the store of mod_usp_storage_cache, purges it and has it filled.
//!
//! Arguments as typed (each subcommand's `Args`) become what is meant, then work is done, and all of it ends in one
//! [`Code`]. A subcommand has a file of its own with `Args` and `run`; [`output`] is the only way to standard output, and
//! [`failure`] says what goes to standard error. docs/uspcache.md describes it for users.

#![forbid(unsafe_code)]

mod amounts;
mod failure;
mod index;
mod jobs;
mod listing;
mod ls;
mod manifest;
mod mp4split;
mod output;
mod pages;
mod place;
mod prepare;
mod progress;
mod purge;
mod remote;
mod row;
mod show;
mod stats;
mod storage;
mod store;
mod url;
mod verify;
mod verify_index;
mod warm;

use clap::{Parser, Subcommand};

use failure::{Code, Failure};
use output::Out;

/// Looks into the store of mod_usp_storage_cache, purges it and has it filled
#[derive(Parser)]
#[command(name = "uspcache", version, max_term_width = 100, after_help = CODES)]
struct Cli {
    /// Write JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Write neither progress nor remarks
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

const CODES: &str = "Exit codes: 0 done; 1 something is not there or wrong; 2 usage; 3 it could not be done";

#[derive(Subcommand)]
enum Command {
    Ls(ls::Args),
    Show(show::Args),
    Verify(verify::Args),
    Purge(purge::Args),
    Stats(stats::Args),
    Warm(warm::Args),
    Index(index::Args),
    VerifyIndex(verify_index::Args),
    Manifest(manifest::Args),
    Mp4split(mp4split::Args),
    Prepare(prepare::Args),
    #[command(hide = true)]
    Pages(pages::Args),
}

fn main() -> Code {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return failure::usage(e),
    };
    let mut out = Out::new(cli.json, cli.quiet);
    let done = run(&cli.command, &mut out);
    match (done, out.flush()) {
        (Ok(code), Ok(()) | Err(Failure::ReaderGone)) => code,
        (Err(failure), _) | (_, Err(failure)) => failure.report(),
    }
}

fn run(command: &Command, out: &mut Out) -> Result<Code, Failure> {
    match command {
        Command::Ls(args) => ls::run(args, out),
        Command::Show(args) => show::run(args, out),
        Command::Verify(args) => verify::run(args, out),
        Command::Purge(args) => purge::run(args, out),
        Command::Stats(args) => stats::run(args, out),
        Command::Warm(args) => warm::run(args, out),
        Command::Index(args) => index::run(args, out),
        Command::VerifyIndex(args) => verify_index::run(args, out),
        Command::Manifest(args) => manifest::run(args, out),
        Command::Mp4split(args) => mp4split::run(args, out),
        Command::Prepare(args) => prepare::run(args, out),
        Command::Pages(args) => pages::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_subcommands_are_as_clap_wants_them() {
        super::Cli::command().debug_assert();
    }
}
