//! Promises of the project about itself: files, documents and manifests agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use quire_cli::Exit;

/// Most lines of a source file.
const LINES_MAX: usize = 500;

/// Names of modules that don't tell their content.
const EMPTY_NAMES: &[&str] = &[
    "common", "core", "helper", "helpers", "manager", "misc", "types", "util", "utils",
];

/// The root of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every source file of ours, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![repository()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                waiting.push(path);
            } else if kind.is_file() && name.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 50, "only {} source files", found.len());
    found
}

#[test]
fn every_source_file_begins_with_what_it_is_for_and_stays_readable() {
    let marks = [
        concat!("dbg", "!("),
        concat!("to", "do!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let shown = path.display();
        if !text.starts_with("//!") {
            faults.push(format!("{shown}: no header"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{shown}: {lines} lines"));
        }
        let leftovers = marks.iter().filter(|mark| text.contains(**mark));
        faults.extend(leftovers.map(|mark| format!("{shown}: {mark}")));
        let named = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy());
        let below = named.skip(repository().components().count());
        for name in below {
            let stem = name.strip_suffix(".rs").unwrap_or(&name);
            if EMPTY_NAMES.contains(&stem) {
                faults.push(format!("{shown}: `{stem}` says nothing"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_requirement_of_the_protocol_is_cited_by_a_test() {
    let document = read("docs/PROTOCOL.md");
    let stated: BTreeSet<u32> = document
        .split("**P")
        .skip(1)
        .filter_map(|rest| rest.split_once(".**")?.0.parse().ok())
        .collect();
    assert!(
        stated.len() > 30,
        "only {} requirements found",
        stated.len()
    );
    let mut cited = BTreeSet::new();
    for (_, text) in sources() {
        for line in text.lines() {
            let Some(comment) = line.trim_start().strip_prefix("// P") else {
                continue;
            };
            let numbers = comment.split(", P").map(|number| number.parse::<u32>());
            // A comment that merely begins with a P.
            if let Ok(numbers) = numbers.collect::<Result<Vec<_>, _>>() {
                cited.extend(numbers);
            }
        }
    }
    let uncited: Vec<_> = stated.difference(&cited).collect();
    assert!(uncited.is_empty(), "no test cites {uncited:?}");
    let unknown: Vec<_> = cited.difference(&stated).collect();
    assert!(
        unknown.is_empty(),
        "tests cite {unknown:?}, which the document doesn't state"
    );
}

#[test]
fn every_dependency_has_its_reason_in_a_comment() {
    let manifest = read("Cargo.toml");
    let (_, section) = manifest.split_once("[workspace.dependencies]").unwrap();
    let section = section.split("\n[").next().unwrap();
    let mut previous = "";
    for line in section.lines().filter(|line| !line.is_empty()) {
        let is_ours = line.starts_with("quire-");
        if !line.starts_with('#') && !is_ours {
            assert!(previous.starts_with('#'), "no word for `{line}`");
        }
        previous = line;
    }
}

#[test]
fn no_crate_of_ours_may_do_what_is_unsafe() {
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("\nunsafe_code = \"forbid\"\n"));
    let (_, members) = manifest.split_once("members = [").unwrap();
    let members = members.split(']').next().unwrap();
    let mut seen = 0;
    for member in members.split('"').skip(1).step_by(2) {
        let member = read(&format!("{member}/Cargo.toml"));
        assert!(member.contains("\n[lints]\nworkspace = true\n"), "{member}");
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} members");
}

#[test]
fn the_readme_names_the_toolchain_of_the_manifest() {
    let manifest = read("Cargo.toml");
    let line = manifest
        .lines()
        .find(|line| line.starts_with("rust-version"))
        .unwrap();
    let version = line.split('"').nth(1).unwrap();
    let readme = read("README.md");
    assert!(
        readme.contains(&format!("version {version} or later")),
        "the README names another toolchain than {version}"
    );
}

/// The first cells of the rows below the header `header`, without backticks.
fn first_column(document: &str, header: &str) -> Vec<String> {
    let (_, table) = document
        .split_once(header)
        .unwrap_or_else(|| panic!("no table {header}"));
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.trim_matches('|').split('|').next().unwrap());
    cells.map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn the_readme_lists_the_exit_codes_of_the_client() {
    let listed = first_column(&read("README.md"), "| exit code | meaning |");
    let expected = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::Conflict,
        Exit::Refused,
        Exit::Unreachable,
        Exit::Damaged,
    ];
    let expected = expected.map(|exit| (exit as u8).to_string());
    assert_eq!(listed, expected);
}

#[test]
fn the_readme_lists_the_commands_of_the_client() {
    use clap::CommandFactory;
    let listed = first_column(&read("README.md"), "| command | what it does |").join("\n");
    let command = quire_cli::args::CliArgs::command();
    for command in command.get_subcommands().map(clap::Command::get_name) {
        let is_listed = listed
            .split(|c: char| !c.is_alphanumeric())
            .any(|word| word == command);
        // `key` is in the section that explains it.
        let is_told = read("README.md").contains(&format!("`quire {command}`"));
        assert!(
            is_listed || is_told,
            "the README doesn't know `quire {command}`"
        );
    }
}
