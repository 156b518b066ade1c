//! Man pages and completions: each subcommand of the help has its own, and the one that writes them has none.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::shop::Ran;

fn run(arguments: &[&str]) -> Ran {
    Ran::of(Command::new(env!("CARGO_BIN_EXE_uspcache")).args(arguments).output().expect("it runs"))
}

/// The subcommands that the help names.
fn subcommands() -> Vec<String> {
    let help = run(&["--help"]).out;
    let listed = help.split_once("Commands:\n").expect("it lists them").1;
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn each_subcommand_has_a_page_and_is_completed() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("pages");
    let made = run(&["pages", path.to_str().expect("ASCII")]);
    assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let subcommands = subcommands();
    assert!(subcommands.len() > 7, "{subcommands:?}");
    for name in &subcommands {
        let page = read(&format!("uspcache-{name}.1"));
        for part in [format!(".TH uspcache-{name} 1 "), format!("\\fBuspcache {name}\\fR"), ".SH OPTIONS".to_owned()] {
            assert!(page.replace("\\-", "-").contains(&part), "{part}: {page}");
        }
        for file in ["uspcache.bash", "_uspcache", "uspcache.fish"] {
            assert!(read(file).contains(name), "{file}: {name}");
        }
    }
    assert!(read("uspcache.1").contains("EXIT STATUS"));
    for file in ["uspcache.1", "uspcache.bash", "_uspcache", "uspcache.fish"] {
        assert!(!read(file).contains("pages"), "{file}");
    }
    assert_eq!(fs::read_dir(&path).expect("it is there").count(), subcommands.len() + 4);
}

#[test]
fn pages_that_cannot_be_written_are_code_3() {
    let refused = run(&["pages", "/proc/none/of/this"]);
    assert_eq!(refused.code, Some(3));
    assert!(refused.err.starts_with("uspcache: /proc/none/of/this: "), "{}", refused.err);
}
