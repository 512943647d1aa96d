//! The layers of the server: what the compiler holds, and that it still holds it.

use std::fs;
use std::path::{Path, PathBuf};

/// The source files below `folder` of the server, with their text without comments.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src");
    let mut found = Vec::new();
    let mut waiting = vec![server.join(folder)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let code: Vec<_> = text.lines().filter(is_code).collect();
            found.push((path, code.join("\n")));
        }
    }
    assert!(!found.is_empty(), "{folder} has no files");
    found
}

/// The files below `folder` in which one of `words` stands.
fn with_words(folder: &str, words: &[&str]) -> Vec<String> {
    let sources = sources(folder).into_iter();
    let found = sources.filter_map(|(path, code)| {
        let word = words.iter().find(|word| code.contains(**word))?;
        Some(format!("{}: {word}", path.display()))
    });
    found.collect()
}

#[test]
fn the_store_is_private_to_the_operations() {
    let (_, files) = sources("files.rs").remove(0);
    let declared: Vec<_> = files
        .lines()
        .filter(|line| line.contains("mod store"))
        .collect();
    // Private: no other module of the server can name what is in it.
    assert_eq!(declared, ["mod store;"]);
    // Nor does a re-export hand out the store itself, or a way to change it.
    let exported = files.split("pub use store::{").nth(1).unwrap();
    let exported = exported.split('}').next().unwrap();
    for name in ["Store,", "Change,", "StagedFile", "Root"] {
        assert!(
            !exported.contains(&format!(" {name}")),
            "{name} is exported"
        );
    }
}

#[test]
fn no_front_end_names_what_is_below_the_operations() {
    let below = [
        "files::store",
        "files::locks",
        "files::cache",
        "files::quota",
        "LockTable",
        "std::fs",
        "rustix::fs",
    ];
    assert_eq!(with_words("quic", &below), Vec::<String>::new());
}

#[test]
fn the_store_knows_neither_clients_nor_the_wire() {
    let above = [
        "crate::auth",
        "crate::quic",
        "crate::config",
        "quinn",
        "ErrorCode::INTERNAL",
        "Request",
        "Reply",
    ];
    let found = with_words("files/store", &above);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn operations_know_no_front_end() {
    let found = with_words("files", &["crate::quic", "quinn"]);
    assert_eq!(found, Vec::<String>::new());
}
