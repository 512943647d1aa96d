//! The commands, each a function of the [`CliSession`] and its arguments.
//!
//! A command prints its results and, for several operands, the errors of each. It returns the exit
//! status. An error that it returns concerns the command as a whole, and [`run`] prints it.

mod change;
mod inquiry;
mod listing;
mod transfer;

use std::io;
use std::ops::ControlFlow;

use quire_shared::RemotePath;
use quire_shared::pairing::CodeError;
use quire_shared::protocol::{EntryKind, Time};
use serde_json::{Value, json};

use crate::args::ClientCommand;
use crate::exit::Exit;
use crate::hint::HintFlags;
use crate::operand::OperandError;
use crate::session::CliSession;
use quire_client::ClientError;

use change::{copy, delete, make_directory, rename};
use inquiry::{hash, key, pair, ping};
use listing::{cache, list, stat};
use transfer::{cat, get, put};

/// Runs `command`, prints its error if it fails, and returns the exit status.
pub async fn run(session: &CliSession, command: &ClientCommand) -> Exit {
    let result = match command {
        ClientCommand::Get(args) => get(session, args).await,
        ClientCommand::Put(args) => put(session, args).await,
        ClientCommand::List(args) => list(session, args).await,
        ClientCommand::Stat(args) => stat(session, args).await,
        ClientCommand::Rename(args) => rename(session, args).await,
        ClientCommand::Delete(args) => delete(session, args).await,
        ClientCommand::Copy(args) => copy(session, args).await,
        ClientCommand::Mkdir(args) => make_directory(session, args).await,
        ClientCommand::Cat(args) => cat(session, args).await,
        ClientCommand::Cache(args) => cache(session, args).await,
        ClientCommand::Ping(args) => ping(session, args).await,
        ClientCommand::Key => key(session).await,
        ClientCommand::Pair(args) => pair(session, args).await,
        ClientCommand::Hash(args) => hash(session, args).await,
    };
    let result = result.and_then(|exit| Ok(session.output.flush().map(|()| exit)?));
    match result {
        Ok(exit) => exit,
        Err(error) => error.report(session),
    }
}

/// Why a command failed as a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The operands are invalid.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// The request, the transfer or the connection failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// As [`CommandError::Client`], of a command with one operand.
    #[error("{name}: {error}")]
    Of {
        /// The operand, safe to show.
        name: String,
        /// The error about it.
        #[source]
        error: Box<ClientError>,
        /// The flags that could have avoided it.
        flags: HintFlags,
    },
    /// A text is not a pairing code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// Results can't be printed.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// Prints the error, and returns the exit status.
    pub(crate) fn report(&self, session: &CliSession) -> Exit {
        let output = &session.output;
        match self {
            Self::Operand(error) => {
                output.message(&format!("quire: {error}"));
                Exit::Usage
            }
            Self::Code(error) => {
                output.message(&format!("quire: {error}"));
                Exit::Usage
            }
            Self::Client(error) => {
                output.error("", error, HintFlags::NONE);
                Exit::from(error)
            }
            Self::Of { name, error, flags } => {
                output.error(name, error, *flags);
                Exit::from(&**error)
            }
            // The reader of the results has closed the pipe, as `head` does.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(error) => {
                output.message(&format!("quire: cannot write to standard output: {error}"));
                Exit::Failed
            }
        }
    }
}

/// Adds the path to an error.
trait ErrorContext<T> {
    fn about(self, path: &RemotePath) -> Result<T, CommandError>;
}

impl<T> ErrorContext<T> for Result<T, ClientError> {
    fn about(self, path: &RemotePath) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::Of {
            name: path.to_string(),
            error: Box::new(error),
            flags: HintFlags::NONE,
        })
    }
}

/// The exit status of several operands: that of the first failure.
#[derive(Debug)]
struct FirstFailure {
    exit: Option<Exit>,
    flags: HintFlags,
}

impl FirstFailure {
    /// No failure yet, of a command that takes `flags`.
    fn none(flags: HintFlags) -> Self {
        Self { exit: None, flags }
    }

    /// Prints the error about the operand `path`; breaks if the others can't succeed either.
    fn note(
        &mut self,
        session: &CliSession,
        path: &RemotePath,
        error: &ClientError,
    ) -> ControlFlow<()> {
        session.output.error(&path.to_string(), error, self.flags);
        self.exit.get_or_insert_with(|| Exit::from(error));
        match error.is_connection_lost() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn exit(self) -> Exit {
        self.exit.unwrap_or(Exit::Done)
    }
}

/// The JSON form of a path: exact, with a leading slash.
pub(crate) fn json_path(path: &RemotePath) -> Value {
    match path.is_root() {
        true => json!("/"),
        false => json!(format!("/{}", path.to_relative())),
    }
}

/// The JSON form of a kind.
fn json_kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Other => "other",
    }
}

/// Kind and permission bits as `ls` shows them.
fn mode_text(kind: EntryKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Other => '?',
    });
    for shift in [6, 3, 0] {
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            let is_set = mode >> shift & bit != 0;
            text.push(if is_set { letter } else { '-' });
        }
    }
    text
}

/// A point in time in UTC, to the second (RFC 3339, with a space for the T). Beyond the year 9999,
/// seconds since 1970.
fn time_text(time: Time) -> String {
    match jiff::Timestamp::from_second(time.seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => format!("@{}", time.seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> String {
        time_text(Time {
            seconds,
            nanoseconds: 0,
        })
    }

    /// As `date -u -d @SECONDS` shows them.
    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(-1), "1969-12-31 23:59:59Z");
        assert_eq!(time(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_709_251_200), "2024-03-01 00:00:00Z");
        assert_eq!(time(4_107_542_400), "2100-03-01 00:00:00Z");
        // A hostile server may report any number.
        time(i64::MAX);
        time(i64::MIN);
    }

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode_text(EntryKind::Directory, 0o40755), "drwxr-xr-x");
        assert_eq!(mode_text(EntryKind::File, 0o640), "-rw-r-----");
        assert_eq!(mode_text(EntryKind::Symlink, 0o777), "lrwxrwxrwx");
    }
}
