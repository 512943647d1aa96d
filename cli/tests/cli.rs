//! The program `quire` as a user runs it, as far as it needs no server.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a failure of the surroundings is a failure"
)]

use std::ffi::OsStr;
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A state directory of its own, and the program run with it.
struct Quire {
    base: TempDir,
}

impl Quire {
    fn new() -> Self {
        Self {
            base: TempDir::new().unwrap(),
        }
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        let mut command = self.command(arguments);
        Ran {
            shown: format!("{command:?}"),
            output: command.output().unwrap(),
        }
    }

    /// Runs the program with `input` coming from a pipe.
    fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that ends without reading is what some tests are about.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Ran {
            shown: format!("{command:?}"),
            output: child.wait_with_output().unwrap(),
        }
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
        command
            .args(arguments)
            .arg("--state-dir")
            .arg(self.base.path().join("state"))
            .current_dir(self.base.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }
}

/// A run that is over.
struct Ran {
    shown: String,
    output: Output,
}

impl Ran {
    fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    /// Checks the exit status, and that errors are one line on standard error alone.
    #[track_caller]
    fn fails(&self, status: i32) -> String {
        let Self { shown, output } = self;
        assert_eq!(output.status.code(), Some(status), "{shown}\n{output:?}");
        assert!(output.stdout.is_empty(), "{shown}\n{output:?}");
        let text = self.stderr();
        assert!(!text.is_empty(), "{shown}");
        text
    }

    #[track_caller]
    fn succeeds(&self) -> String {
        let Self { shown, output } = self;
        assert_eq!(output.status.code(), Some(0), "{shown}\n{output:?}");
        self.stdout()
    }
}

#[test]
fn key_prints_the_fingerprint_alone_and_always_the_same() {
    let quire = Quire::new();
    let first = quire.run(&["key"]);
    let text = first.succeeds();
    assert_eq!(text.trim_end().len(), 43, "{text}");
    assert_eq!(text.lines().count(), 1);
    assert_eq!(first.stderr(), "");
    assert_eq!(quire.run(&["key"]).succeeds(), text);
    let json = quire.run(&["key", "--json"]).succeeds();
    assert_eq!(
        json.trim_end(),
        format!(
            "{{\"event\":\"key\",\"fingerprint\":\"{}\"}}",
            text.trim_end()
        )
    );
    assert_ne!(Quire::new().run(&["key"]).succeeds(), text);
}

#[test]
fn help_shows_examples_exit_statuses_and_every_command() {
    let quire = Quire::new();
    let help = quire.run(&["--help"]).succeeds();
    for part in [
        "--congestion <CONTROL>",
        "Examples:",
        "Exit status:",
        "get",
        "put",
        "list",
        "stat",
        "rename",
        "delete",
        "copy",
        "mkdir",
        "cat",
        "cache",
        "ping",
        "key",
        "hash",
        "menu",
    ] {
        assert!(help.contains(part), "{part}");
    }
    let help = quire.run(&["menu", "--help"]).succeeds();
    assert!(
        help.contains("The first command that fails ends the"),
        "{help}"
    );
    let version = quire.run(&["--version"]).succeeds();
    assert!(version.starts_with("quire "), "{version}");
}

#[test]
fn nonsense_is_a_usage_error() {
    let quire = Quire::new();
    let lines: [&[&str]; 17] = [
        &["frobnicate", "h"],
        &["get"],
        &["put", "a"],
        &["list", ":1/x"],
        &["list", "h:99999/x"],
        &["list", "::1/x"],
        &["stat", "a b/x"],
        &["stat", "h/../x"],
        &["get", "h/a\nb/../c"],
        &["rename", "h/a"],
        &["rename", "h/a", "g/b"],
        &["rename", "h/a", "h"],
        &["copy", "h/a", "h:1/../b"],
        &["delete", "h/a", "g/b"],
        &["delete", "h/"],
        &["put", "-", "h/dir/"],
        &["get", "-r", "h/a", "-"],
    ];
    for line in lines {
        quire.run(line).fails(2);
    }
    quire.run(&["hash", "--digest", "md5", "h/a"]).fails(2);
    quire.run(&["get", "--congestion", "reno", "h/a"]).fails(2);
}

#[test]
fn with_json_a_usage_error_is_an_object_as_well() {
    let quire = Quire::new();
    for line in [
        &["cat", "--json", "h/a"] as &[&str],
        &["list", "--json", ":1/x"],
        &["get", "--json"],
        &["--json", "h", "key"],
    ] {
        let Ran { output, .. } = quire.run(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}\n{output:?}");
        assert!(!output.stderr.is_empty(), "{line:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["event"], "failed", "{text}");
        assert_eq!(object["kind"], "usage", "{text}");
        assert_eq!(object["exit"], 2, "{text}");
    }
    let help = quire.run(&["--json", "--help"]).succeeds();
    assert!(help.starts_with("Client for"), "{help}");
}

#[test]
fn errors_are_one_line_whatever_was_typed() {
    let quire = Quire::new();
    for line in [
        ["stat", "h/\u{1b}[2J\n../.."],
        ["stat", "h\n/x"],
        ["list", "h:\r\n/x"],
    ] {
        let text = quire.run(&line).fails(2);
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn where_nothing_listens_the_error_says_what_was_tried() {
    // Port 1 is reserved (RFC 1078) for a service that is not run over UDP.
    let text = Quire::new().run(&["ping", "127.0.0.1:1"]).fails(6);
    assert!(
        text.starts_with("quire: cannot connect to 127.0.0.1:1: tried 127.0.0.1:1 ("),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn where_nobody_answers_connecting_ends() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let text = Quire::new().run(&["list", &address.to_string()]).fails(6);
    assert!(
        text.contains(&format!("tried {address} (no answer)")),
        "{text}"
    );
}

#[test]
fn a_mistyped_command_is_blamed_and_no_host_of_that_name_looked_up() {
    let quire = Quire::new();
    for (arguments, mistyped, meant) in [
        (&["lst"][..], "`lst`", "`list`"),
        (&["gett", "h/a"], "`gett`", "`get`"),
        (&["gett", "-r", "h/a", "."], "`gett`", "`get`"),
        (&["--quiet", "delte", "h/a"], "`delte`", "`delete`"),
        (&["fetch", "h/a"], "`fetch` is no command", ""),
    ] {
        let text = quire.run(arguments).fails(2);
        assert!(text.contains(mistyped) && text.contains(meant), "{text}");
        assert!(!text.contains("'h/a'") && !text.contains("'-r'"), "{text}");
    }
}

#[test]
fn an_unknown_host_is_told() {
    // RFC 6761, §6.4: no name ends so.
    let text = Quire::new().run(&["list", "nowhere.invalid"]).fails(6);
    assert!(text.contains("unknown host nowhere.invalid"), "{text}");
}

#[test]
fn several_files_need_a_directory_to_go_to() {
    let text = Quire::new().run(&["get", "h/a", "h/b", "missing"]).fails(1);
    assert!(text.contains("missing is not a directory"), "{text}");
}

#[test]
fn files_that_cant_be_used_are_named() {
    let quire = Quire::new();
    let text = quire.run(&["ping", "h", "--identity", "none.pem"]).fails(1);
    assert!(text.contains("none.pem"), "{text}");
    let text = quire.run(&["ping", "h", "--ca", "none.pem"]).fails(1);
    assert!(text.contains("none.pem"), "{text}");
}

#[test]
fn the_interactive_client_ends_where_nothing_listens() {
    let quire = Quire::new();
    for line in [&["menu", "127.0.0.1:1"] as &[&str], &["127.0.0.1:1"]] {
        let text = quire.run_with_input(line, "pwd\n").fails(6);
        assert!(
            text.starts_with("quire: cannot connect to 127.0.0.1:1: tried "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn the_interactive_client_wants_one_server_and_nothing_else() {
    let quire = Quire::new();
    let lines: [&[&str]; 6] = [
        &["menu"],
        &["menu", "h", "g"],
        &["menu", "::1"],
        &["h", "ping", "h"],
        &["h:0"],
        &["h/../x"],
    ];
    for line in lines {
        quire.run(line).fails(2);
    }
}
