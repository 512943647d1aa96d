//! Texts around the command line: what follows a help text, and what is wrong with a line.

use quire_shared::Printable;

use crate::exit::Exit;
use crate::failure::CommandFailure;
use crate::output::Output;

/// Prints an invalid command line as an object on standard output, for programs that asked for JSON.
/// A text that the user asked for is no error.
pub fn print_usage_event(error: &clap::Error) {
    if error.use_stderr() {
        let output = Output::new(true, true);
        let failure = CommandFailure::of_command(Exit::Usage, one_line(error));
        output.event(|| failure.event());
        output.end();
    }
}

/// The first paragraph of an error, without `error:`.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = paragraph.lines().map(str::trim).collect();
    let line = lines.join(" ");
    Printable(line.strip_prefix("error: ").unwrap_or(&line)).to_string()
}

/// What follows the help of the program.
pub(super) const EXAMPLES: &str = "\
Examples:
  quire put report.pdf files.example/inbox/        upload a file
  quire get files.example/inbox/report.pdf         download it
  quire get -r files.example/photos ~/pictures     download a directory
  quire sync photos files.example/photos           upload what differs
  quire list files.example:4433/inbox              list a directory
  quire cat files.example/log | grep error         print to standard output
  tar c . | quire put - files.example/backup.tar   upload from standard input
  quire files.example                              work interactively

Exit status:
  0 done                   4 exists, changed meanwhile, or busy
  1 failed                 5 refused: your rights don't suffice
  2 wrong usage            6 cannot connect, not trusted, or connection lost
  3 not found              7 content damaged, or changed during the transfer
  130 interrupted (143 ended by SIGTERM); given again, it goes on

An IPv6 address needs brackets: [::1]:4433/inbox.
If one of several files fails, the others are still tried.
The exit status is that of the first failure.
";

/// What follows the help of `menu`.
pub(super) const MENU_HELP: &str = "\
On a terminal, `help` lists the commands, and `menu` numbers the common ones.
Commands are those of the command line, without the host. Paths are relative to
the current directory on the server (change it with `cd`) and to the local
directory (change it with `lcd`).
Quote words with '...', \"...\" or a backslash.
Names can be typed as they are printed, with \\n, \\r, \\t, \\\\ and \\u001b.

From a pipe, each line is a command, and # begins a comment.
The first command that fails ends the session with its exit status.
After a leading -, as in `- delete old`, a failure is ignored.
";
