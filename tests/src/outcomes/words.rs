//! What a message says, and which path it blames.

use std::os::unix::fs::symlink;

use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::{Tree, assert_same};

/// A server, and lines of a shell that it is asked with.
struct ShellUser<'a> {
    programs: &'a Programs,
    server: &'a ServerProcess,
}

impl ShellUser<'_> {
    /// Runs the client, and checks exit status and the message.
    #[track_caller]
    fn says(&self, line: &str, status: i32, expected: &str) {
        let ran = self.programs.shell(self.server, &format!("quire {line}"));
        let text = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(status), "{line}: {text}");
        let text = text.replace("quire: ", "");
        assert_eq!(text.trim_end(), expected, "{line}");
    }

    #[track_caller]
    fn prints(&self, line: &str, expected: &str) {
        let ran = self.programs.shell(self.server, line);
        assert_eq!(ran.status.code(), Some(0), "{line}: {ran:?}");
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), expected, "{line}");
    }
}

#[test]
fn force_is_offered_only_where_it_would_replace_something() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "f").file("g", "g").directory("d");
    symlink("f", tree.path("link")).unwrap();
    let server = programs.serve(&tree.root());
    let here = programs.state.path();
    std::fs::write(here.join("x"), "").unwrap();
    let (programs, server) = (&programs, &server);
    let asked = ShellUser { programs, server };
    let can = "already exists (--force replaces it)";
    asked.says("put x $HOST/f", 4, &format!("/f: {can}"));
    asked.says("get $HOST/f x", 4, &format!("x {can}"));
    asked.says("copy $HOST/f $HOST/g", 4, &format!("/f -> /g: /g {can}"));
    asked.says("rename $HOST/f $HOST/g", 4, &format!("/f -> /g: /g {can}"));
    let link = "already exists, as a symbolic link";
    asked.says("put x $HOST/link", 4, &format!("/link: {link}"));
    asked.says(
        "copy $HOST/f $HOST/link",
        4,
        &format!("/f -> /link: /link {link}"),
    );
    let directory = "/d already exists, as a directory";
    asked.says("copy $HOST/f $HOST/d", 4, &format!("/f -> /d: {directory}"));
    asked.says(
        "rename $HOST/f $HOST/d",
        4,
        &format!("/f -> /d: {directory}"),
    );
    std::fs::create_dir(here.join("new")).unwrap();
    asked.says(
        "put -r new $HOST/f",
        4,
        "/f: already exists, and is not a directory",
    );
    asked.says("get -r $HOST/d x", 1, "x is in the way of a directory");
    asked.says("copy -f $HOST/f $HOST/d", 1, "/f -> /d: /d is a directory");
    asked.says("copy -rf $HOST/d $HOST/f", 4, "/d -> /f: /f already exists");
    asked.says(
        "mkdir $HOST/d",
        4,
        "/d: already exists, as a directory (-p accepts a directory that exists)",
    );
    asked.says("mkdir $HOST/f", 4, "/f: already exists");
    asked.says("mkdir -p $HOST/d", 0, "");
    asked.says("delete $HOST/no", 3, "/no: not found");
    asked.says("delete -f $HOST/no", 0, "");
    asked.says("mkdir -p $HOST/f", 4, "/f: already exists");
}

#[test]
fn a_slash_at_the_end_means_a_directory() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "f").file("d/g", "g");
    let server = programs.serve(&tree.root());
    let (programs, server) = (&programs, &server);
    let asked = ShellUser { programs, server };
    for line in [
        "delete $HOST/f/",
        "delete -r $HOST/f/",
        "stat $HOST/f/",
        "cat $HOST/f/",
        "hash $HOST/f/",
        "list $HOST/f/",
        "get $HOST/f/ .",
        "get -r $HOST/f/ .",
        "get $HOST/f/ -",
        "copy $HOST/f/ $HOST/x",
        "rename $HOST/f/ $HOST/x",
    ] {
        asked.says(line, 1, "/f: not a directory");
    }
    let missing = "there is no directory /new (`quire mkdir` creates it)";
    for line in ["copy $HOST/f $HOST/new/", "rename $HOST/f $HOST/new/"] {
        asked.says(line, 3, &format!("/f -> /new/f: {missing}"));
    }
    assert!(!tree.has("new") && !tree.has("x") && tree.has("f"));
    asked.says("copy $HOST/f $HOST/d/", 0, "");
    assert_same(tree.read("d/f"), "f");
    asked.says("rename $HOST/d/g $HOST/", 0, "");
    assert_same(tree.read("g"), "g");
    let script = "printf 'copy g d/\\ncd d\\nrename g ../\\n' | quire menu $HOST";
    let ran = programs.shell(server, script);
    let text = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(
        text,
        "quire: /d/g -> /g: /g already exists (--force replaces it)\n"
    );
    assert_same(tree.read("d/g"), "g");
}

#[test]
fn the_path_that_is_to_blame_is_named() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "f").directory("d");
    symlink("d", tree.path("link")).unwrap();
    let server = programs.serve(&tree.root());
    let here = programs.state.path();
    std::fs::write(here.join("x"), "").unwrap();
    let (programs, server) = (&programs, &server);
    let asked = ShellUser { programs, server };
    let missing = "there is no directory /new (`quire mkdir` creates it)";
    asked.says("put x $HOST/new/", 3, &format!("/new/x: {missing}"));
    asked.says("put x $HOST/new/y/z", 3, &format!("/new/y/z: {missing}"));
    asked.says(
        "rename $HOST/f $HOST/new/y",
        3,
        &format!("/f -> /new/y: {missing}"),
    );
    asked.says("copy $HOST/no $HOST/d/", 3, "/no -> /d/no: /no: not found");
    asked.says("put x $HOST/f/y", 1, "/f/y: /f is not a directory");
    asked.says("mkdir $HOST/f/y", 1, "/f/y: /f is not a directory");
    let link = "/link is a symbolic link, which the server doesn't follow";
    asked.says("stat $HOST/link/y", 1, &format!("/link/y: {link}"));
    asked.says("get $HOST/link/y .", 1, &format!("/link/y: {link}"));
    asked.says("put x $HOST/link/", 1, &format!("/link/x: {link}"));
    let link = "/link: a symbolic link, which the server doesn't follow";
    for line in ["cat $HOST/link", "list $HOST/link/", "get $HOST/link ."] {
        asked.says(line, 1, link);
    }
    asked.says(
        "get $HOST/f new/x",
        3,
        "cannot create new/x: No such file or directory (os error 2)",
    );
    let text = "is neither a file nor a directory (to store what a program writes, use \
                `PROGRAM | quire put - HOST/PATH`)";
    let script = "mkfifo p && quire put p $HOST/";
    let ran = programs.shell(server, script);
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert_eq!(
        String::from_utf8(ran.stderr).unwrap(),
        format!("quire: p {text}\n")
    );
}

#[test]
fn in_a_drop_box_the_missing_directory_is_named() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().directory("incoming");
    let server = programs.serve_with(&tree.root(), &["--anonymous", "/incoming=create"]);
    let script = "echo x >x && STATE=other quire --trust-on-first-use put -q x";
    for (target, message) in [
        (
            "incoming/sub/x",
            "/incoming/sub/x: there is no directory /incoming/sub (`quire mkdir` creates it)",
        ),
        ("incoming/x", ""),
        ("incoming/x", "/incoming/x: already exists"),
    ] {
        let ran = programs.shell(&server, &format!("{script} $HOST/{target}"));
        let text = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(text.replace("quire: ", "").trim_end(), message, "{target}");
    }
}

#[test]
fn a_file_is_listed_as_ls_does() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("d/f", "content");
    let server = programs.serve(&tree.root());
    let (programs, server) = (&programs, &server);
    let asked = ShellUser { programs, server };
    asked.prints("quire list $HOST/d/f", "f\n");
    asked.prints("echo ls d/f | quire menu $HOST", "f\n");
}

#[test]
fn a_symbolic_link_is_shown_with_its_target() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().link("l", "to\nwhere");
    let server = programs.serve(&tree.root());
    let ran = programs.shell(&server, "quire list -l $HOST; quire stat $HOST/l");
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("Z l -> to\\nwhere\n"), "{text}");
    assert!(text.contains("\ntarget    to\\nwhere\n"), "{text}");
}

#[test]
fn names_that_differ_look_different_and_can_be_typed_as_printed() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new()
        .file("a\nb", "newline")
        .file("a\\nb", "backslash")
        .file("x\u{1b} y", "escape");
    let server = programs.serve(&tree.root());
    let (programs, server) = (&programs, &server);
    let asked = ShellUser { programs, server };
    asked.prints("quire list $HOST", "a\\nb\na\\\\nb\nx\\u001b y\n");
    for (printed, content) in [
        ("a\\nb", "newline"),
        ("a\\\\nb", "backslash"),
        ("\"x\\u001b y\"", "escape"),
    ] {
        let script = format!("quire menu $HOST <<'END'\ncat {printed}\nEND");
        asked.prints(&script, content);
    }
}
