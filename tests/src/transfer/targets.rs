//! Where a transfer writes to: targets that are no files, links, sources with one name, and what
//! an earlier transfer has left.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Child;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use quire_test_harness::programs::Programs;
use quire_test_harness::tree::names;
use quire_test_harness::{Tree, assert_same, content, skip};

/// The directory in which the client runs, and what is in it.
struct Here<'a>(&'a Programs);

impl Here<'_> {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.state.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs the client, which must exit with this status; returns what it said.
    #[track_caller]
    fn said(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.0.quire(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        text
    }
}

#[test]
fn two_sources_of_one_target_name_are_refused_before_anything_is_moved() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    for name in ["x/f", "y/f", "x/d/f", "y/d/f", "z/other"] {
        here.write(name, name);
    }
    let tree = Tree::new()
        .file("x/f", "x")
        .file("y/f", "y")
        .file("y/other", "")
        .directory("in");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    for sources in [["x/f", "y/f"], ["x/d", "y/d"], ["x/f", "./x/f"]] {
        let [one, other] = sources;
        let said = here.said(2, &["put", "-rf", one, "z/other", other, &at("in/")]);
        assert!(said.contains(one) && said.contains(other), "{said}");
    }
    // The content of a directory counts as well.
    let said = here.said(2, &["put", "-rf", "x/.", "y/f", &at("in")]);
    assert!(said.contains("x/./f") && said.contains("y/f"), "{said}");
    assert_eq!(tree.names("in"), [""; 0]);
    fs::create_dir(here.path("in")).unwrap();
    let said = here.said(2, &["get", "-rf", &at("x/."), &at("y/f"), "in"]);
    assert!(said.contains("/x/f") && said.contains("/y/f"), "{said}");
    let (one, other) = (at("x/f"), at("y/f"));
    let said = here.said(2, &["get", "-f", &one, &at("y/other"), &other, "in"]);
    assert!(said.contains("/x/f") && said.contains("/y/f"), "{said}");
    assert_eq!(names(&here.path("in")), [""; 0]);
}

#[test]
fn a_fifo_or_device_that_is_named_is_written_into_and_stays() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    let tree = Tree::new().file("f", "content").file("d/n", "content");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, here.path("n"), FileType::Fifo, mode, 0).unwrap();
    symlink("n", here.path("link to n")).unwrap();
    for arguments in [
        &["get", &at("f"), "n"][..],
        &["get", "-f", &at("f"), "n"],
        &["get", &at("f"), "link to n"],
    ] {
        let fifo = here.path("n");
        let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
        programs.expect(0, arguments);
        assert_same(reader.join().unwrap(), "content");
    }
    let is_fifo = |name: &str| fs::metadata(here.path(name)).unwrap().file_type().is_fifo();
    assert!(is_fifo("n"));
    // Inside a tree it was not named, and it is no file that could be replaced.
    fs::create_dir_all(here.path("out/d")).unwrap();
    mknodat(CWD, here.path("out/d/n"), FileType::Fifo, mode, 0).unwrap();
    for flags in ["-r", "-rf"] {
        here.said_failed(&["get", flags, &at("d"), "out"], "out/d/n");
        assert!(is_fifo("out/d/n"));
    }
    let _socket = UnixListener::bind(here.path("socket")).unwrap();
    here.said_failed(&["get", "-f", &at("f"), "socket"], "socket");
    let metadata = fs::metadata(here.path("socket")).unwrap();
    assert!(metadata.file_type().is_socket());
    // The device that discards what is written.
    let null = makedev(1, 3);
    if mknodat(
        CWD,
        here.path("null"),
        FileType::CharacterDevice,
        mode,
        null,
    )
    .is_err()
        || fs::write(here.path("null"), "").is_err()
    {
        return skip("no devices can be made here");
    }
    programs.expect(0, &["get", "-f", &at("f"), "null"]);
    let metadata = fs::metadata(here.path("null")).unwrap();
    assert!(metadata.file_type().is_char_device());
}

impl Here<'_> {
    /// Runs the client, which must fail and name `about`.
    #[track_caller]
    fn said_failed(&self, arguments: &[&str], about: &str) {
        let output = self.0.quire(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}: {text}");
        assert!(text.contains(about), "{arguments:?}: {text}");
    }
}

#[test]
fn a_link_that_is_named_is_followed_and_one_inside_a_tree_is_not() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    let tree = Tree::new()
        .file("f", "new")
        .file("d/f", "new")
        .file("d/sub/f", "new");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    let is_link = |name: &str| here.path(name).is_symlink();
    here.write("elsewhere/real", "old");
    symlink("elsewhere/real", here.path("link")).unwrap();
    here.said(4, &["get", &at("f"), "link"]);
    assert_same(here.read("elsewhere/real"), "old");
    here.said(0, &["get", "-f", &at("f"), "link"]);
    assert!(is_link("link"));
    assert_same(here.read("elsewhere/real"), "new");
    assert_eq!(names(&here.path("elsewhere")), ["real"]);
    symlink("nowhere", here.path("dangling")).unwrap();
    here.said_failed(&["get", "-f", &at("f"), "dangling"], "dangling");
    assert!(is_link("dangling"));
    // Inside a tree.
    here.write("elsewhere/real", "old");
    fs::create_dir_all(here.path("out/d")).unwrap();
    fs::create_dir(here.path("other")).unwrap();
    symlink("../../elsewhere/real", here.path("out/d/f")).unwrap();
    symlink("../../other", here.path("out/d/sub")).unwrap();
    let said = here.said(4, &["get", "-r", &at("d"), "out"]);
    assert!(
        said.contains("out/d/f") && said.contains("out/d/sub"),
        "{said}"
    );
    assert!(is_link("out/d/f") && is_link("out/d/sub"));
    here.said_failed(&["get", "-rf", &at("d"), "out"], "out/d/sub");
    assert!(!is_link("out/d/f") && is_link("out/d/sub"));
    assert_same(here.read("out/d/f"), "new");
    assert_same(here.read("elsewhere/real"), "old");
    assert_eq!(names(&here.path("other")), [""; 0]);
    // The directory itself is such a link if its name comes from the server.
    symlink("../other", here.path("out/top")).unwrap();
    tree.write("top/f", "new");
    here.said_failed(&["get", "-r", &at("top"), "out"], "out/top");
    assert_eq!(names(&here.path("other")), [""; 0]);
}

/// Names of unfinished downloads in `directory`.
fn unfinished(directory: &Path) -> Vec<String> {
    let mut names = names(directory);
    names.retain(|name| name.starts_with(".quire-"));
    names
}

/// Waits until a download has begun to write in `directory`.
fn begun(directory: &Path, getting: &mut Child) {
    while unfinished(directory).is_empty() {
        assert!(getting.try_wait().unwrap().is_none(), "it was too fast");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_killed_get_leaves_is_not_put_and_goes_with_the_next_get() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    let bytes = content(1, 64 << 20);
    let tree = Tree::new().file("large", &bytes).file("d/f", "x");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    let directory = here.path("local");
    fs::create_dir(&directory).unwrap();
    programs.expect(0, &["list", &at("")]);
    let mut getting = programs.begin(&["get", &at("large"), "local"]);
    begun(&directory, &mut getting);
    getting.kill().unwrap();
    getting.wait().unwrap();
    assert!(!unfinished(&directory).is_empty());
    // As a former version and a server leave them.
    here.write("local/.quire-0123456789abcdEF", "left");
    here.write("local/.quire-staging/deleted", "left");
    here.write("local/f", "x");
    programs.expect(0, &["put", "-r", "local", &at("put")]);
    assert_eq!(tree.names("put"), ["f"]);
    // A name that quire would not give is the user's, and is named.
    here.write("local/.quire-mine", "mine");
    here.said_failed(&["put", "-rf", "local", &at("again")], ".quire-mine");
    fs::remove_file(here.path("local/.quire-mine")).unwrap();
    programs.expect(0, &["get", &at("large"), "local"]);
    assert_same(here.read("local/large"), &bytes);
    assert_eq!(
        unfinished(&directory),
        [".quire-0123456789abcdEF", ".quire-staging"]
    );
}

#[test]
fn a_get_that_is_hung_up_or_quit_leaves_at_most_its_part() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    let tree = Tree::new().file("large", content(1, 64 << 20));
    let server = programs.serve(&tree.root());
    let remote = format!("{}/large", server.host());
    let directory = here.path("local");
    fs::create_dir(&directory).unwrap();
    programs.expect(0, &["list", &server.host()]);
    for (signal, status) in [(Signal::HUP, 129), (Signal::QUIT, 131), (Signal::TERM, 143)] {
        let mut getting = programs.begin(&["get", &remote, "local"]);
        begun(&directory, &mut getting);
        kill_process(Pid::from_child(&getting), signal).unwrap();
        assert_eq!(getting.wait().unwrap().code(), Some(status));
        let names = names(&directory);
        let is_part = |name: &String| name.starts_with(".quire-get-");
        assert!(names.iter().all(is_part), "{signal:?}: {names:?}");
    }
}

#[test]
fn files_whose_size_is_no_promise_are_put_whole() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    let tree = Tree::new();
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    let files = [
        "/proc/version",
        "/proc/sys/kernel/random/boot_id",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/kallsyms",
    ];
    for file in files {
        let Ok(expected) = fs::read(file) else {
            skip(&format!("there is no {file}"));
            continue;
        };
        here.said(0, &["put", "-f", file, &at("f")]);
        assert_same(tree.read("f"), expected);
    }
    here.said(0, &["put", "-r", "/proc/sys/kernel/random", &at("d")]);
    let expected = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    assert_same(tree.read("d/boot_id"), expected);
}

#[test]
fn the_content_of_a_directory_goes_into_another() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    here.write("m/sub/f", "mine");
    here.write("out/kept", "kept");
    let tree = Tree::new().file("m/sub/f", "theirs").file("n/kept", "kept");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    here.said(0, &["get", "-r", &at("m/."), "out"]);
    assert_same(here.read("out/sub/f"), "theirs");
    assert_eq!(names(&here.path("out")), ["kept", "sub"]);
    here.said(0, &["get", "-r", &at("m/./"), "new"]);
    assert_eq!(names(&here.path("new")), ["sub"]);
    here.said(0, &["put", "-r", "m/.", &at("n")]);
    assert_same(tree.read("n/sub/f"), "mine");
    assert_eq!(tree.names("n"), ["kept", "sub"]);
    here.said(0, &["put", "-r", "m/./", &at("new")]);
    assert_eq!(tree.names("new"), ["sub"]);
    // A file has no content of that kind.
    here.said_failed(&["get", "-r", &at("m/sub/f/."), "out"], "/m/sub/f");
    here.said_failed(&["get", &at("m/."), "out"], "/m");
    // A copy on the server: into a directory that exists, and into a new one.
    let tree_of = |name: &str| tree.names(name);
    here.said(0, &["copy", "-r", &at("m/."), &at("copied")]);
    assert_eq!(tree_of("copied"), ["sub"]);
    tree.write("m/new", "new");
    tree.write("m/sub/g", "g");
    here.said_failed(&["copy", "-r", &at("m/."), &at("copied/")], "/copied/sub/f");
    assert_eq!(tree_of("copied"), ["new", "sub"]);
    assert_eq!(tree_of("copied/sub"), ["f", "g"]);
    here.said(0, &["copy", "-rf", &at("m/."), &at("copied")]);
    here.said_failed(&["copy", &at("m/."), &at("copied")], "/m");
}

#[test]
fn a_repeated_transfer_goes_on_in_a_directory_that_it_went_into() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    for name in ["m/a", "m/sub/b", "m/.quire-mine"] {
        here.write(name, name);
    }
    let tree = Tree::new()
        .file("d/a", "a")
        .file("d/sub/b", "b")
        .file("into/f", "f");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    // Failures in part, and repetitions.
    here.said_failed(&["put", "-r", "m", &at("into")], ".quire-mine");
    fs::rename(here.path("m/.quire-mine"), here.path("m/c")).unwrap();
    let said = here.said(0, &["put", "-r", "m", &at("into")]);
    assert!(said.contains("going on in /into/m"), "{said}");
    assert!(said.contains("2 there already"), "{said}");
    assert_eq!(tree.names("into/m"), ["a", "c", "sub"]);
    let foreign = std::ffi::OsStr::from_bytes(b"\xff");
    fs::write(tree.path("d").join(foreign), "c").unwrap();
    here.said_failed(&["get", "-r", &at("d"), "."], "UTF-8");
    fs::rename(tree.path("d").join(foreign), tree.path("d/c")).unwrap();
    let said = here.said(0, &["get", "-r", &at("d"), "."]);
    assert!(said.contains("going on in d, "), "{said}");
    assert!(said.contains("2 there already"), "{said}");
    assert_eq!(names(&here.path("d")), ["a", "c", "sub"]);
    // What has succeeded is not continued.
    here.said_failed(&["get", "-r", &at("d"), "."], "d/a");
}

#[test]
fn a_repeated_transfer_goes_on_in_the_directory_that_it_has_made() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let here = Here(&programs);
    for name in ["m/a", "m/sub/b", "m/.quire-mine"] {
        here.write(name, name);
    }
    let tree = Tree::new().file("d/a", "a").file("d/sub/b", "b");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    let records = || {
        let mut names = names(&programs.state_dir());
        names.retain(|name| name.starts_with("unfinished-"));
        names.len()
    };
    // What makes nothing can't be gone on with.
    here.said(3, &["get", "-r", &at("missing"), "never"]);
    here.said_failed(&["put", "-r", "m", &at("d/a/m")], "/d/a");
    here.said(6, &["get", "-r", "127.0.0.1:1/d", "never"]);
    assert_eq!(records(), 0);
    // A put that fails in part, and its repetition.
    here.said_failed(&["put", "-r", "m", &at("put")], ".quire-mine");
    assert_eq!(records(), 1);
    fs::rename(here.path("m/.quire-mine"), here.path("m/c")).unwrap();
    let said = here.said(0, &["put", "-r", "./m/", &at("put")]);
    assert!(said.contains("going on in /put"), "{said}");
    assert!(
        said.contains("1 file, ") && said.contains("2 there already"),
        "{said}"
    );
    assert_eq!(tree.names("put"), ["a", "c", "sub"]);
    assert_eq!(records(), 0);
    // The same for a get: a name that isn't UTF-8 can't be fetched.
    let foreign = std::ffi::OsStr::from_bytes(b"\xff");
    fs::write(tree.path("d").join(foreign), "c").unwrap();
    here.said_failed(&["get", "-r", &at("d"), "out"], "UTF-8");
    fs::rename(tree.path("d").join(foreign), tree.path("d/c")).unwrap();
    fs::remove_file(here.path("out/a")).unwrap();
    let said = here.said(0, &["get", "-r", &at("d"), "out/"]);
    assert!(said.contains("going on in out"), "{said}");
    assert!(
        said.contains("2 files, ") && said.contains("1 there already"),
        "{said}"
    );
    assert_eq!(names(&here.path("out")), ["a", "c", "sub"]);
    assert_eq!(records(), 0);
    // What has succeeded is not continued: it goes inside, as with cp.
    here.said(0, &["get", "-r", &at("d"), "out"]);
    assert_eq!(names(&here.path("out")), ["a", "c", "d", "sub"]);
}
