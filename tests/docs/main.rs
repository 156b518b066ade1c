//! The documents against the sources: what they list is there, and what is there is listed.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mod_usp_storage_cache::config::{DIRECTIVES, Directive, Set};

const TOP: &str = env!("CARGO_MANIFEST_DIR");

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(TOP).join(path)).expect(path)
}

/// The files below a directory that end so.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("it is there").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path, end)),
            path if path.to_string_lossy().ends_with(end) => found.push(path),
            _ => {}
        }
    }
    found
}

/// The cells of a table's row.
fn cells(line: &str) -> Option<Vec<String>> {
    let inside = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let kept = inside.replace("\\|", "\0");
    Some(kept.split(" | ").map(|cell| cell.replace('\0', "|").trim().to_owned()).collect())
}

/// What the table of each directive in docs/directives.md says, by directive in the order in which they stand.
fn documented() -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for line in text("docs/directives.md").lines() {
        if let Some(name) = line.strip_prefix("## ") {
            found.push((name.to_owned(), BTreeMap::new()));
        }
        if let (Some((_, table)), Some([key, value])) = (found.last_mut(), cells(line).as_deref()) {
            table.insert(key.clone(), value.clone());
        }
    }
    found
}

/// The default in a directive's usage: `on|off (off): whether …`.
fn default_of(directive: &Directive) -> Option<&str> {
    let usage = directive.usage.to_str().expect("UTF-8");
    Some(usage.split_once(" (")?.1.rsplit_once("): ")?.0)
}

#[test]
fn each_directive_has_its_entry_and_no_other_has() {
    let documented = documented();
    assert_eq!(documented.len(), DIRECTIVES.len(), "an entry too many or too few");
    for directive in &DIRECTIVES {
        let name = directive.name.to_str().expect("UTF-8");
        let (_, table) = documented.iter().find(|(had, _)| had == name).expect(name);
        let row = |key: &str| table.get(key).unwrap_or_else(|| panic!("{name} has no {key}")).as_str();
        assert!(row("Syntax").starts_with(&format!("`{name} ")), "{name}: {}", row("Syntax"));
        let want = match directive.set {
            Set::Host(_) => "server config",
            Set::Section(_) | Set::Match | Set::Roots => "server config, virtual host, `<Location>`, `<Proxy>`",
        };
        assert_eq!(row("Context"), want, "{name}");
        let default = default_of(directive).unwrap_or("none");
        let is_it = row("Default").starts_with(&format!("`{name} {default}`")) || row("Default").starts_with(default);
        assert!(is_it, "{name}: {} is not {default}", row("Default"));
        assert!(!row("Description").is_empty() && row("Since").starts_with("0."), "{name}");
    }
}

#[test]
fn each_line_of_the_log_stands_in_the_sources() {
    let sources: String =
        files(&Path::new(TOP).join("src"), ".rs").iter().map(|file| fs::read_to_string(file).expect("UTF-8")).collect();
    let logs = text("docs/logs.md");
    let lines = logs.lines().filter_map(cells).filter(|row| row.len() == 3).filter_map(|row| {
        let line = row[1].strip_prefix('`')?.strip_suffix('`')?;
        Some(line.to_owned())
    });
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() >= 30, "{}", lines.len());
    for line in lines {
        for piece in line.split('…').map(str::trim).filter(|piece| !piece.is_empty()) {
            assert!(sources.contains(piece), "{line}: {piece:?} is in no source");
        }
    }
}

#[test]
fn each_link_of_the_documents_leads_to_a_file() {
    for file in files(&Path::new(TOP).join("docs"), ".md").into_iter().chain([Path::new(TOP).join("README.md")]) {
        let text = fs::read_to_string(&file).expect("UTF-8");
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.contains(char::is_whitespace) {
                continue;
            }
            let full = file.parent().expect("a directory").join(path);
            assert!(full.exists(), "{} links to {target}", file.display());
        }
    }
}
