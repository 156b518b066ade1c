//! `uspcache pages`: man pages and shell completions of all other subcommands, for `make install`. It is shown in none
//! of them, and not in the help.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::failure::{Code, Failure};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Write man pages and shell completions
#[derive(clap::Args)]
pub struct Args {
    /// The directory that they go to; it is made
    directory: PathBuf,
}

pub fn run(args: &Args) -> Result<Code, Failure> {
    write_pages(&args.directory).map_err(|e| Failure::plain(args.directory.display(), e))?;
    Ok(Code::Done)
}

fn write_pages(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut shown(), "uspcache", directory)?;
    }
    let mut whole = shown().disable_help_subcommand(true);
    whole.build();
    for command in whole.get_subcommands().chain([&whole]) {
        write_page(command, directory)?;
    }
    Ok(())
}

/// The command without its hidden subcommands, which completions would hold.
fn shown() -> Command {
    let cli = super::Cli::command();
    let subcommands = cli.get_subcommands().filter(|each| !each.is_hide_set()).cloned();
    Command::new("uspcache")
        .version(VERSION)
        .about(cli.get_about().cloned().unwrap_or_default())
        .subcommand_required(true)
        .args(cli.get_arguments().cloned())
        .subcommands(subcommands)
}

fn write_page(command: &Command, directory: &Path) -> io::Result<()> {
    let man = Man::new(command.clone());
    let name = command.get_display_name().unwrap_or_default();
    let mut page = Vec::new();
    // Title, section, date, source, manual.
    writeln!(page, ".TH {name} 1 \"\" \"uspcache {VERSION}\" mod_usp_storage_cache")?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    writeln!(page, ".SH \"EXIT STATUS\"\n{}", super::CODES.trim_start_matches("Exit codes: "))?;
    writeln!(page, ".SH \"SEE ALSO\"\n\\fBuspcache\\fR(1), docs/uspcache.md of mod_usp_storage_cache")?;
    fs::write(directory.join(man.get_filename()), page)
}
