//! Standard input and output that are closed, full, or read by nobody.

use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::{Tree, assert_same};

fn start(tree: &Tree) -> Option<(Programs, ServerProcess)> {
    let programs = Programs::find()?;
    let server = programs.serve(&tree.root());
    Some((programs, server))
}

#[test]
fn standard_input_that_is_closed_or_cant_be_read_stores_nothing() {
    let tree = Tree::new();
    let Some((programs, server)) = start(&tree) else {
        return;
    };
    for (redirection, reason) in [
        ("<&-", "standard input is closed"),
        ("0>/dev/null", "cannot read standard input: "),
        ("<.", "cannot read standard input: "),
    ] {
        let ran = programs.shell(&server, &format!("quire put - $HOST/f {redirection}"));
        assert_eq!(ran.status.code(), Some(1), "{redirection}: {ran:?}");
        let text = String::from_utf8(ran.stderr).unwrap();
        assert!(text.contains(reason), "{redirection}: {text}");
        assert!(!tree.has("f"), "{redirection}");
    }
    let ran = programs.shell(&server, "quire menu $HOST <&-");
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    // Both are inputs that somebody chose.
    let script = "quire put - $HOST/a </dev/null && : | quire put - $HOST/b";
    assert!(programs.shell(&server, script).status.success());
    assert_same(tree.read("a"), "");
    assert_same(tree.read("b"), "");
}

/// The write end of a pipe that nobody reads.
fn closed_pipe() -> std::io::PipeWriter {
    let (_, writer) = std::io::pipe().unwrap();
    writer
}

#[test]
fn a_closed_pipe_hides_no_failure_and_stops_no_work() {
    let tree = Tree::new();
    for name in ["a", "b", "c"] {
        tree.write(name, name);
    }
    let Some((programs, server)) = start(&tree) else {
        return;
    };
    let at = |name: &str| format!("{}/{name}", server.host());
    let [a, b, c, missing] = ["a", "b", "c", "missing"].map(at);
    let run = |expected: i32, arguments: &[&str]| {
        let ran = programs.quire_into(arguments, closed_pipe());
        assert_eq!(ran.status.code(), Some(expected), "{arguments:?}: {ran:?}");
    };
    run(3, &["get", "--json", &a, &missing, &b, "."]);
    assert!(programs.state.path().join("a").exists());
    assert!(programs.state.path().join("b").exists());
    run(3, &["hash", &missing, &a]);
    run(3, &["cat", &missing, &a]);
    run(3, &["stat", "--json", &missing]);
    run(0, &["list", &server.host()]);
    run(0, &["hash", &a]);
    run(0, &["delete", "--json", &a, &b, &c]);
    assert!(!["a", "b", "c"].into_iter().any(|name| tree.has(name)));
}

#[test]
fn results_that_cant_be_written_are_a_failure() {
    let tree = Tree::new().file("f", "content");
    let Some((programs, server)) = start(&tree) else {
        return;
    };
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        quire_test_harness::skip("there is no /dev/full");
        return;
    };
    let file = format!("{}/f", server.host());
    for arguments in [
        ["cat", &file, "-q"],
        ["hash", &file, "-q"],
        ["get", &file, "--json"],
    ] {
        let ran = programs.quire_into(&arguments, full.try_clone().unwrap());
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {ran:?}");
        let text = String::from_utf8(ran.stderr).unwrap();
        assert!(text.contains("cannot write to standard output: "), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn in_a_pipe_messages_have_no_colours_and_no_raw_log() {
    let tree = Tree::new().file("d/f", "content").link("d/link", "f");
    let Some((programs, server)) = start(&tree) else {
        return;
    };
    let ran = programs.shell(&server, "quire -v get -r $HOST/d there");
    let text = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success() && !text.contains('\u{1b}'), "{text:?}");
    let lines: Vec<_> = text.lines().collect();
    let [skipped, limit, summary] = lines[..] else {
        panic!("{text}")
    };
    assert_eq!(skipped, "/d/link: skipped, a symbolic link");
    assert!(limit.starts_with("limited by "), "{limit}");
    assert!(
        summary.starts_with("1 file, 1 directory, 7 B in "),
        "{summary}"
    );
    let ran = programs.shell(&server, "quire -vvv get $HOST/d/f -");
    let text = String::from_utf8(ran.stderr).unwrap();
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
