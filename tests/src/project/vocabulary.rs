//! Words and type names: one name for one type, and no archaic words.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use quire_test_harness::skip;

/// Words that a reader of technical English has to look up. In parts, so that this file passes.
const ARCHAIC: [&str; 4] = [
    concat!("who", "ever"),
    concat!("who", "m"),
    concat!("les", "t"),
    concat!("reck", "on"),
];

/// Type names that are idiomatic in every crate.
const IDIOMATIC: [&str; 3] = ["Error", "Config", "Builder"];

/// The tracked text files and their contents, or nothing without git.
fn tracked_files() -> Option<Vec<(String, String)>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(repository)
        .output();
    let listed = match listed {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        _ => {
            skip("the tracked files can't be listed without git");
            return None;
        }
    };
    let names = listed.split_terminator('\0');
    // A file may be deleted and not committed yet, and the fuzz corpus is binary.
    let files = names.filter_map(|name| {
        let text = std::fs::read_to_string(repository.join(name)).ok()?;
        Some((name.to_owned(), text))
    });
    Some(files.collect())
}

#[test]
fn no_tracked_file_has_an_archaic_word() {
    let Some(files) = tracked_files() else {
        return;
    };
    assert!(files.len() > 100, "only {} files", files.len());
    let mut found = Vec::new();
    // The texts of licences are quotations.
    for (name, text) in files
        .iter()
        .filter(|(name, _)| !name.starts_with("LICENSE"))
    {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.to_lowercase();
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| ARCHAIC.contains(&word)) {
                found.push(format!("{name}:{number}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The name of the type that a line of code declares.
fn declared_type(line: &str) -> Option<&str> {
    // An indented alias is an associated type, whose name its trait chooses.
    if line.starts_with(' ') && line.trim_start().starts_with("type ") {
        return None;
    }
    let mut words = line.split_whitespace();
    let mut word = words.next()?;
    if word.starts_with("pub") {
        word = words.next()?;
    }
    if !["struct", "enum", "trait", "union", "type"].contains(&word) {
        return None;
    }
    let name = words.next()?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
    let name = &name[..end.unwrap_or(name.len())];
    name.starts_with(char::is_uppercase).then_some(name)
}

#[test]
fn no_type_name_stands_for_two_types() {
    let Some(files) = tracked_files() else {
        return;
    };
    let mut types = BTreeMap::<&str, Vec<&str>>::new();
    for (name, text) in files.iter().filter(|(name, _)| name.ends_with(".rs")) {
        for declared in text.lines().filter_map(declared_type) {
            types.entry(declared).or_default().push(name);
        }
    }
    assert!(types.len() > 300, "only {} types", types.len());
    let doubles = types
        .iter()
        .filter(|(name, places)| places.len() > 1 && !IDIOMATIC.contains(name));
    let doubles: Vec<_> = doubles
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect();
    assert!(doubles.is_empty(), "{}", doubles.join("\n"));
}
