//! The objects that `--json` prints, and their document.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use quire_cli::event::EventKind;
use quire_test_harness::Tree;
use quire_test_harness::programs::{Programs, ServerProcess};
use serde_json::Value;

/// The words in backticks of a cell.
fn words(cell: &str) -> BTreeSet<String> {
    let words = cell.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

/// The fields of each event that the document names: those that are always there, and the others.
fn documented() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/JSON.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("| event | printed by |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        let [event, _, always, sometimes] = cells[..] else {
            panic!("{row}")
        };
        let event = words(event).pop_first().unwrap();
        (event, (words(always), words(sometimes)))
    })
    .collect()
}

/// Runs a script, and gives the objects that it prints; every line must be one.
fn events(programs: &Programs, server: &ServerProcess, script: &str) -> Vec<Value> {
    let ran = programs.shell(server, script);
    let lines = String::from_utf8(ran.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

#[test]
fn every_event_is_documented_with_its_fields() {
    let documented = documented();
    let kinds: BTreeSet<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
    let listed: BTreeSet<_> = documented.keys().map(String::as_str).collect();
    assert_eq!(listed, kinds);
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("d/f", "content").link("d/link", "f");
    let server = programs.serve(&tree.root());
    let script = r"
        mkdir up && echo x > up/$(printf 'a\377') && echo y > up/b && ln -s b up/$(printf 'l\377')
        quire --json put -r up $HOST/
        quire --json put - $HOST/piped </dev/null
        quire --json put up/b $HOST/d/f
        quire --json put up/none $HOST/
        quire --json get -r $HOST/d down
        quire --json get $HOST/d/f down/f
        quire --json get $HOST/d/f down/new
        quire --json sync up $HOST/synced
        quire --json get -r --links=keep $HOST/d kept
        quire --json list $HOST/d
        quire --json stat $HOST/d
        quire --json copy $HOST/d/f $HOST/g
        quire --json copy $HOST/d/f $HOST/g
        quire --json rename $HOST/g $HOST/h
        quire --json chmod 640 $HOST/h
        quire --json hash $HOST/h
        quire cat $HOST/h >content
        quire --json cache $HOST
        quire --json delete $HOST/h
        quire --json delete --force $HOST/h
        quire --json mkdir $HOST/m
        quire --json ping $HOST
        quire --json key
        quire --json stat
        quire --json stat $HOST/missing
        printf 'pwd\nlpwd\nhelp\n' | quire --json menu $HOST
    ";
    let mut seen = BTreeSet::new();
    let mut failed = BTreeSet::new();
    for event in events(&programs, &server, script) {
        let fields = event.as_object().unwrap();
        let name = fields["event"].as_str().unwrap();
        let (always, sometimes) = &documented[name];
        let mut given: BTreeSet<String> = fields.keys().cloned().collect();
        given.remove("event");
        let missing: Vec<_> = always.difference(&given).collect();
        assert!(missing.is_empty(), "{event} has no {missing:?}");
        let rest = given.difference(always);
        let unknown: Vec<_> = rest.filter(|field| !sometimes.contains(*field)).collect();
        assert!(unknown.is_empty(), "{event}: {unknown:?} isn't documented");
        if name == "failed" {
            failed.insert(fields["kind"].as_str().unwrap().to_owned());
        }
        seen.insert(name.to_owned());
    }
    // It needs a server that makes codes.
    seen.insert(EventKind::Paired.name().to_owned());
    // It needs an upload that was interrupted; see `transfer::resume_puts`.
    seen.insert(EventKind::Unfinished.name().to_owned());
    assert_eq!(seen, kinds.iter().map(|kind| (*kind).to_owned()).collect());
    let kinds = ["conflict", "not-found", "other", "usage"];
    assert_eq!(failed, kinds.map(str::to_owned).into());
}

#[test]
fn failures_skips_and_the_summary_are_objects_with_exact_paths() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("d/a\nb", "content").link("d/l\n", "x");
    let server = programs.serve(&tree.root());
    let script = "mkdir here && echo x >here/a && quire --json get -r $HOST/d $HOST/no here/";
    let found = events(&programs, &server, script);
    let of = |kind: &str| {
        let found = found.iter().filter(|event| event["event"] == kind);
        found.cloned().collect::<Vec<_>>()
    };
    let downloaded = of("downloaded");
    assert_eq!(downloaded.len(), 1, "{found:?}");
    assert_eq!(downloaded[0]["path"], "/d/a\nb");
    assert_eq!(downloaded[0]["local"], "here/d/a\nb");
    let skipped = of("skipped");
    assert_eq!(skipped.len(), 1, "{found:?}");
    assert_eq!(skipped[0]["path"], "/d/l\n");
    let failed = of("failed");
    assert_eq!(failed.len(), 1, "{found:?}");
    assert_eq!(failed[0]["path"], "/no");
    assert_eq!(failed[0]["kind"], "not-found");
    assert_eq!(failed[0]["code"], "NOT_FOUND");
    assert_eq!(failed[0]["exit"], 3);
    assert_eq!(failed[0]["error"], "not found");
    let summary = found.last().unwrap();
    assert_eq!(summary["event"], "summary");
    for (field, count) in [
        ("files", 1),
        ("directories", 1),
        ("skipped", 1),
        ("failed", 1),
    ] {
        assert_eq!(summary[field], count, "{summary}");
    }
    let found = events(&programs, &server, "quire --json list $HOST/d");
    let target = |name: &str| {
        let entry = found.iter().find(|entry| entry["name"] == name).unwrap();
        entry.get("target").cloned()
    };
    assert_eq!(target("l\n"), Some("x".into()));
    assert_eq!(target("a\nb"), None);
    let script = r"echo x > $(printf 'n\377') && quire --json put $(printf 'n\377') $HOST/n";
    let found = events(&programs, &server, script);
    assert_eq!(found[0]["event"], "uploaded", "{found:?}");
    assert_eq!(found[0]["local_hex"], "6eff", "{found:?}");
}
