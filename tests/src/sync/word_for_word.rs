//! The command `sync` as it is typed.

use std::fs;

use quire_test_harness::Tree;
use quire_test_harness::programs::Programs;

use super::snapshot;

#[test]
fn a_dry_run_prints_what_the_run_prints_and_changes_nothing() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new()
        .file("t/old name\n", "deleted")
        .file("t/b", "old");
    let server = programs.serve(&tree.root());
    let here = programs.state.path().join("here");
    for (name, content) in [
        ("a.tmp", "excluded"),
        ("b", "changed"),
        ("c d/e", "new"),
        ("keep.tmp", "included"),
        (".quireignore", "*.bak\n"),
        ("x.bak", "excluded"),
    ] {
        let path = here.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::write(programs.state.path().join("patterns"), "*.tmp\n").unwrap();
    let target = format!("{}/t", server.host());
    let patterns = programs.state.path().join("patterns");
    let base = [
        "sync",
        here.to_str().unwrap(),
        &target,
        "--delete",
        "--quireignore",
        "--exclude-from",
        patterns.to_str().unwrap(),
        "--include",
        "keep.tmp",
    ];
    let before = snapshot(&tree.path("t"));
    let told = programs.expect(0, &[&base[..], &["--dry-run"]].concat());
    assert_eq!(snapshot(&tree.path("t")), before);
    let done = programs.expect(0, &[&base[..], &["--verbose"]].concat());
    let expected = "\
new      .quireignore
changed  b
new      c d/
new      c d/e
new      keep.tmp
deleted  old name\\n
";
    assert_eq!(told, expected);
    assert_eq!(done, expected);
    assert_eq!(tree.names("t"), [".quireignore", "b", "c d", "keep.tmp"]);
    // And back, into a directory that doesn't exist yet.
    let down = programs.state.path().join("down");
    let json = programs.expect(0, &["sync", &target, down.to_str().unwrap(), "--json"]);
    assert_eq!(snapshot(&down), snapshot(&tree.path("t")));
    let summary = json.lines().last().unwrap();
    let summary: serde_json::Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary["files"], 4);
    assert_eq!(
        programs.expect(0, &["sync", "-q", &target, down.to_str().unwrap()]),
        ""
    );
}

#[test]
fn wrong_usage_is_refused_before_anything_is_done() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = programs.state.path().join("here");
    fs::create_dir(&here).unwrap();
    let here = here.to_str().unwrap();
    programs.expect(2, &["sync", here]);
    programs.expect(2, &["sync", here, "h/t", "--max-delete", "3"]);
    programs.expect(2, &["sync", here, "h/t", "--force"]);
    programs.expect(2, &["sync", here, "/not/on/a/server"]);
    programs.expect(2, &["sync", "h/t", "h/../u"]);
}
