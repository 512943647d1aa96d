//! Harmful names: each is refused or travels unchanged, and a terminal receives only text of them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use quire_shared::codec;
use quire_shared::protocol::{Request, Stat};
use quire_shared::{Name, RemotePath};

use quire_test_harness::Tree;
use quire_test_harness::content::Random;
use quire_test_harness::programs::Programs;
use quire_test_harness::tree::{names, scratch};

/// Parts of names: those with a meaning for terminals, shells and file systems, and harmless ones.
const PIECES: &[&str] = &[
    "a",
    "b",
    "é",
    "e\u{301}",
    "日",
    "🦀",
    " ",
    ".",
    "..",
    "-",
    "--",
    "~",
    "$HOME",
    "`id`",
    "'",
    "\"",
    "\\",
    "*",
    "?",
    "|",
    ":",
    "%2f",
    "\t",
    "\n",
    "\r",
    "\u{7}",
    "\u{8}",
    "\u{1b}[2J",
    "\u{1b}]0;x\u{7}",
    "\u{9b}31m",
    "\u{7f}",
    "\u{85}",
    "\u{200b}",
    "\u{202e}",
    "\u{2028}",
    "\u{2066}",
    "\u{feff}",
    "/",
    "\0",
    "aux",
    ".quire-",
    "CON",
];

fn generated(random: &mut Random) -> String {
    let pieces = 1 + random.below(6) + random.below(2) * random.below(120);
    (0..pieces).map(|_| *random.one_of(PIECES)).collect()
}

fn commands_a_terminal(character: char) -> bool {
    character.is_control() || "\u{2028}\u{202e}\u{2066}".contains(character)
}

#[test]
fn of_a_hundred_thousand_names_each_is_refused_or_travels_unchanged() {
    let random = &mut Random::new(12);
    let (mut refused, mut travelled) = (0, 0);
    for _ in 0..100_000 {
        let text = generated(random);
        let Ok(name) = Name::new(text.as_str()) else {
            refused += 1;
            continue;
        };
        assert!(!text.contains(['/', '\0']) && text.len() <= 255, "{text:?}");
        assert!(![".", ".."].contains(&text.as_str()));
        let path = RemotePath::default().join(name).unwrap();
        let request = Request::from(Stat::of(path.clone()));
        let bytes = codec::encode(&request).unwrap();
        assert_eq!(codec::decode(&bytes[codec::PREFIX_BYTES..]), Ok(request));
        assert!(!path.to_string().contains(commands_a_terminal), "{text:?}");
        travelled += 1;
    }
    assert!(
        refused > 10_000 && travelled > 10_000,
        "{refused}, {travelled}"
    );
}

#[test]
fn names_on_the_disk_reach_the_other_side_unchanged_and_the_terminal_escaped() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let random = &mut Random::new(13);
    let tree = Tree::new().directory("d");
    let mut expected = BTreeSet::new();
    while expected.len() < 500 {
        let text = generated(random);
        if Name::new(text.as_str()).is_ok() && fs::write(tree.path("d").join(&text), "x").is_ok() {
            expected.insert(text);
        }
    }
    let server = programs.serve(&tree.root());
    let local = scratch();
    let target = local.path().join("d");
    let to = target.to_str().unwrap();
    let remote = |path: &str| format!("{}/{path}", server.host());
    let harmless = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap();
            let mut lines = text.lines();
            assert!(
                !lines.any(|line| line.contains(commands_a_terminal)),
                "{text:?}"
            );
        }
    };
    harmless(programs.quire(&["list", &remote("d")]));
    harmless(programs.quire(&["get", "-r", "-v", &remote("d"), to]));
    let fetched: BTreeSet<_> = names(&target).into_iter().collect();
    assert_eq!(fetched, expected);
    harmless(programs.quire(&["put", "-r", "-v", to, &remote("e")]));
    let stored: BTreeSet<_> = names(&tree.path("e")).into_iter().collect();
    assert_eq!(stored, expected);
    harmless(programs.quire(&["delete", "-r", &remote("e")]));
}
