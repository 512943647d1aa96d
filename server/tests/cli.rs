//! The program `quire-server` as an operator runs it, as far as it needs no client.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a failure of the surroundings is a failure"
)]

use std::io::{BufRead, BufReader, Read, read_to_string};
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A root, a state directory, and the program run with both.
struct Operator {
    base: TempDir,
}

impl Operator {
    fn new() -> Self {
        let base = TempDir::new().unwrap();
        std::fs::create_dir(base.path().join("root")).unwrap();
        Self { base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quire-server"));
        command
            .args(arguments)
            .current_dir(self.base.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program, which has to end by itself.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the program, which must fail with one line on standard error alone.
    #[track_caller]
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("quire-server: "), "{stderr}");
        stderr
    }

    /// Starts the program, and reads what it says until it listens.
    fn start(&self, arguments: &[&str]) -> RunningServer {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        while !said
            .last()
            .is_some_and(|line: &String| line.starts_with("listening on "))
        {
            match lines.next() {
                Some(line) => said.push(line.unwrap()),
                None => {
                    let log = read_to_string(child.stderr.take().unwrap()).unwrap();
                    panic!("{arguments:?} said {said:?} and logged {log}");
                }
            }
        }
        RunningServer { child, said }
    }
}

/// A server that runs; killed when dropped.
struct RunningServer {
    child: Child,
    said: Vec<String>,
}

impl RunningServer {
    /// Sends a signal and waits for the end: its status, and what was logged.
    fn end(mut self, signal: Signal) -> (std::process::ExitStatus, String) {
        let mut stderr = self.child.stderr.take().unwrap();
        let status = self.end_without_log(signal);
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        (status, log)
    }

    fn end_without_log(&mut self, signal: Signal) -> std::process::ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVE: &[&str] = &["root", "--listen", "127.0.0.1:0", "--state-dir", "state"];

fn serve_with(more: &[&'static str]) -> Vec<&'static str> {
    [SERVE, more].concat()
}

#[test]
fn the_start_is_told_in_order_and_nothing_else() {
    let operator = Operator::new();
    let server = operator.start(SERVE);
    let [fingerprint, listening] = &server.said[..] else {
        panic!("{:?}", server.said);
    };
    let fingerprint = fingerprint.strip_prefix("fingerprint ").unwrap().to_owned();
    assert_eq!(fingerprint.len(), 43);
    assert!(
        listening.starts_with("listening on 127.0.0.1:"),
        "{listening}"
    );
    assert!(!listening.ends_with(":0"), "{listening}");
    // The same as `certs` says, which is this server's from now on.
    let shown = operator.run(&["certs", "--state-dir", "state"]);
    assert_eq!(
        String::from_utf8(shown.stdout).unwrap().trim_end(),
        fingerprint
    );
    let (status, log) = server.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!operator.path("root/.quire-staging").exists());
}

#[test]
fn an_interrupt_ends_it_well_and_a_kill_leaves_it_fit_to_start() {
    let operator = Operator::new();
    let (status, log) = operator.start(SERVE).end(Signal::INT);
    assert_eq!(status.code(), Some(0), "{log}");
    let (status, _) = operator.start(SERVE).end(Signal::KILL);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    let (status, log) = operator.start(SERVE).end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn an_identity_is_made_once_and_anew_only_if_asked() {
    let operator = Operator::new();
    let certs = |more: &[&str]| {
        let arguments = [&["certs"], more, &["--state-dir", "state"]].concat();
        let output = operator.run(&arguments);
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let made = certs(&[]);
    assert_eq!(made.len(), 44);
    assert_eq!(certs(&["show"]), made);
    let new = certs(&["new"]);
    assert_ne!(new, made);
    assert_eq!(certs(&[]), new);
}

#[test]
fn a_root_that_is_missing_or_a_file_is_told() {
    let operator = Operator::new();
    std::fs::write(operator.path("file"), "").unwrap();
    let rest = &SERVE[1..];
    let missing = operator.fail(&[&["missing"], rest].concat());
    assert!(missing.contains("missing: no such directory"), "{missing}");
    let file = operator.fail(&[&["file"], rest].concat());
    assert!(file.contains("file: not a directory"), "{file}");
}

#[test]
fn a_port_that_stays_in_use_is_told_at_once_and_after_the_wait_for_it() {
    let operator = Operator::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = [SERVE, &["--listen", &address, "--drain", "0"]].concat();
    let output = operator.run(&arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<_> = said.lines().collect();
    let [waiting, failed] = lines.as_slice() else {
        panic!("{said}");
    };
    assert!(
        waiting.contains(&address) && waiting.contains("waiting up to 2 s"),
        "{said}"
    );
    assert!(
        failed.starts_with("quire-server: ") && failed.contains(&address),
        "{said}"
    );
}

#[test]
fn a_server_takes_over_the_port_and_the_root_of_one_that_ends() {
    let operator = Operator::new();
    let first = operator.start(SERVE);
    let listening = first.said.last().unwrap().clone();
    let address = listening.strip_prefix("listening on ").unwrap();
    let arguments = ["root", "--listen", address, "--state-dir", "state"];
    let mut command = operator.command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut second = command.spawn().unwrap();
    let mut log = BufReader::new(second.stderr.take().unwrap()).lines();
    let waiting = log.next().unwrap().unwrap();
    assert!(
        waiting.contains(address) && waiting.contains("in use"),
        "{waiting}"
    );
    first.end(Signal::TERM);
    let said = BufReader::new(second.stdout.take().unwrap()).lines();
    let mut said = said.map(Result::unwrap);
    let mut second = RunningServer {
        child: second,
        said: Vec::new(),
    };
    assert!(said.any(|line| line == listening));
    let status = second.end_without_log(Signal::TERM);
    assert!(status.success(), "{status}");
    let rest: Vec<_> = log.map(Result::unwrap).collect();
    let is_read_only = rest.iter().any(|line| line.contains("read-only"));
    assert!(!is_read_only, "{rest:?}");
}

#[test]
fn a_second_server_of_a_root_says_at_its_start_that_it_is_read_only() {
    let operator = Operator::new();
    let _first = operator.start(SERVE);
    let second = operator.start(SERVE);
    let (_, log) = second.end(Signal::TERM);
    assert!(
        log.contains("read-only: another server writes to the directory"),
        "{log}"
    );
}

#[test]
fn secrets_in_the_root_are_refused() {
    let operator = Operator::new();
    let inside = operator.fail(&[
        "root",
        "--listen",
        "127.0.0.1:0",
        "--state-dir",
        "root/state",
    ]);
    assert!(
        inside.contains("must not lie in the served directory"),
        "{inside}"
    );
    let above = operator.fail(&[".", "--listen", "127.0.0.1:0", "--state-dir", "state"]);
    assert!(
        above.contains("must not lie in the served directory"),
        "{above}"
    );
    std::fs::write(operator.path("root/keys"), "").unwrap();
    let keys = operator.fail(&serve_with(&["--authorized-keys", "root/keys"]));
    assert!(
        keys.contains("must not lie in the served directory"),
        "{keys}"
    );
}

#[test]
fn a_line_of_authorized_keys_that_makes_no_sense_is_told() {
    let operator = Operator::new();
    std::fs::write(operator.path("keys"), "# fine\nnonsense read\n").unwrap();
    let said = operator.fail(&serve_with(&["--authorized-keys", "keys"]));
    assert!(said.contains("keys") && said.contains('2'), "{said}");
    let said = operator.fail(&serve_with(&["--authorized-keys", "missing"]));
    assert!(said.contains("missing"), "{said}");
}

#[test]
fn serving_read_only_is_told() {
    let operator = Operator::new();
    let (status, log) = operator
        .start(&serve_with(&["--read-only"]))
        .end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("read-only"), "{log}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    let operator = Operator::new();
    for arguments in [
        &["--no-such-flag"][..],
        &["--listen", "nonsense"],
        &["--cache-size", "5 parsecs"],
        &["--anonymous", "everything"],
        &["--congestion", "reno"],
        &["--cert", "only-one-of-two"],
        &["root", "another"],
    ] {
        let output = operator.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    let help = operator.run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("--congestion <CONTROL>"), "{help}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let operator = Operator::new();
    for arguments in [["root", "--check-config"], ["certs", "show"]] {
        let mut command = operator.command(&arguments);
        command.env("QUIRE_STATE_DIR", operator.path("state"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        assert_eq!(stderr, "");
    }
    // Closing standard error as well must not replace the exit status by that of a panic.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = operator.command(&["missing", "--check-config"]);
    let status = command.stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn the_configuration_is_checked_and_printed_with_its_sources() {
    let operator = Operator::new();
    std::fs::write(
        operator.path("quire.toml"),
        "root = \"root\"\n[limits]\nrate = 7\n",
    )
    .unwrap();
    let check = ["--config", "quire.toml", "--check-config", "--drain", "3"];
    let output = operator
        .command(&check)
        .env("QUIRE_STATE_DIR", "state")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for line in [
        "# configuration OK",
        "root = \"root\" # file",
        "state-dir = \"state\" # environment QUIRE_STATE_DIR",
        "drain = 3 # command line",
        "rate = 7 # file",
        "no-owner = false # default",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} in {said}");
    }
    assert!(!operator.path("state").exists());

    std::fs::write(
        operator.path("quire.toml"),
        "root = \"root\"\n[limits]\nrat = 7\n",
    )
    .unwrap();
    let said = operator.fail(&check);
    assert!(said.contains("quire.toml: line 3: "), "{said}");
    assert!(said.contains("limits.rate"), "{said}");
}
