//! What the client draws on a terminal, and how it reads what is typed there.

use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, ExitStatus, Stdio};

use quire_test_harness::programs::Programs;
use quire_test_harness::{Tree, assert_same, within};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

/// A terminal: what its user sees and types, and the side that programs get.
struct Terminal {
    user: File,
    program: File,
}

impl Terminal {
    fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let program = ioctl_tiocgptpeer(&user, flags).unwrap();
        Self {
            user: user.into(),
            program: program.into(),
        }
    }

    fn stdio(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }

    /// Runs `command`, whose messages appear here; returns its status and what was shown.
    async fn run(self, mut command: Command) -> (ExitStatus, String) {
        let mut child = command.stderr(self.stdio()).spawn().unwrap();
        // So that the program has the only handles of its side, and its end is the end of reading.
        drop(command);
        let Self { mut user, program } = self;
        drop(program);
        let running = tokio::task::spawn_blocking(move || {
            let mut shown = Vec::new();
            // Linux reports the end of a terminal as EIO.
            let _ = io::copy(&mut user, &mut shown);
            (child.wait().unwrap(), String::from_utf8(shown).unwrap())
        });
        within("the end of the client", running).await.unwrap()
    }
}

#[tokio::test]
async fn a_progress_line_is_drawn_on_a_terminal_but_not_with_quiet_or_json() {
    let tree = Tree::new().file("f", "x".repeat(600_000));
    let Some(programs) = Programs::find() else {
        return;
    };
    let server = programs.serve_with(&tree.root(), &["--rate-per-key", "1MiB"]);
    let file = format!("{}/f", server.host());
    let get = async |flags: &[&str]| {
        let terminal = Terminal::open();
        let arguments = [&["get", "-f", &file], flags].concat();
        let mut command = programs.command(&arguments);
        command.stdout(Stdio::null());
        let (status, shown) = terminal.run(command).await;
        assert!(status.success(), "{shown}");
        shown
    };
    let shown = get(&[]).await;
    assert!(shown.contains('\x1b') || shown.contains("\r "), "{shown:?}");
    for flag in ["--quiet", "--json"] {
        assert_same(get(&[flag]).await, "");
    }
}

#[tokio::test]
async fn the_first_end_of_input_that_is_typed_ends_an_upload() {
    let tree = Tree::new();
    let Some(programs) = Programs::find() else {
        return;
    };
    let server = programs.serve(&tree.root());
    let mut terminal = Terminal::open();
    terminal.user.write_all(b"typed\n\x04").unwrap();
    let mut command = programs.command(&["put", "-", &format!("{}/f", server.host())]);
    command.stdin(terminal.stdio()).stdout(Stdio::null());
    let (status, shown) = terminal.run(command).await;
    assert!(status.success(), "{shown}");
    assert_same(tree.read("f"), "typed\n");
    // Progress would be drawn over what is typed.
    assert!(!shown.contains('\x1b'), "{shown:?}");
}
