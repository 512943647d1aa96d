//! The commands, each a function of the [`CliSession`] and its arguments.
//!
//! A command prints its results and, for several operands, the errors of each. An error that it
//! returns concerns the command as a whole, and [`run`] prints it. The first failure that is printed
//! decides the exit status.

mod change;
mod copy;
mod display;
mod inquiry;
mod listing;
mod reconnect;
mod sync;
mod targets;
mod transfer;

use std::io;
use std::ops::ControlFlow;

use quire_shared::pairing::CodeError;
use quire_shared::protocol::{EntryKind, Stat, Time};
use quire_shared::{ErrorCode, RemotePath};

use crate::args::ClientCommand;
use crate::exit::Exit;
use crate::failure::{CommandFailure, HintFlags, Subject};
use crate::operand::{OperandError, Remote};
use crate::session::CliSession;
use quire_client::transfer::{GiveUp, Reconnect};
use quire_client::{Client, ClientError, repeat};

use change::{chmod, delete, make_directory, rename};
use copy::copy;
use inquiry::{hash, key, pair, ping};
use listing::{cache, list, stat, uploads};
use transfer::{cat, get, put};

/// Runs `command`, prints its error if it fails, and returns the exit status.
pub async fn run(session: &CliSession, command: &ClientCommand) -> Exit {
    let result = match command {
        ClientCommand::Get(args) => get(session, args).await,
        ClientCommand::Put(args) => put(session, args).await,
        ClientCommand::Sync(args) => sync::sync(session, args).await,
        ClientCommand::List(args) => list(session, args).await,
        ClientCommand::Stat(args) => stat(session, args).await,
        ClientCommand::Rename(args) => rename(session, args).await,
        ClientCommand::Delete(args) => delete(session, args).await,
        ClientCommand::Copy(args) => copy(session, args).await,
        ClientCommand::Mkdir(args) => make_directory(session, args).await,
        ClientCommand::Chmod(args) => chmod(session, args).await,
        ClientCommand::Cat(args) => cat(session, args).await,
        ClientCommand::Cache(args) => cache(session, args).await,
        ClientCommand::Uploads(args) => uploads(session, args).await,
        ClientCommand::Ping(args) => ping(session, args).await,
        ClientCommand::Key => key(session).await,
        ClientCommand::Pair(args) => pair(session, args).await,
        ClientCommand::Hash(args) => hash(session, args).await,
    };
    if let Err(error) = result {
        error.report(session);
    }
    session.output.end()
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
    /// A failure that is ready to be printed.
    #[error("{0}")]
    Failed(Box<CommandFailure>),
    /// A text is not a pairing code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// Results can't be printed.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// Prints the error.
    pub(crate) fn report(&self, session: &CliSession) {
        let output = &session.output;
        match self {
            Self::Operand(error) => {
                output.fail(&CommandFailure::of_command(Exit::Usage, error.to_string()));
            }
            Self::Code(error) => {
                output.fail(&CommandFailure::of_command(Exit::Usage, error.to_string()));
            }
            Self::Client(error) => {
                let failure = CommandFailure::new(Subject::Command, error, HintFlags::NONE);
                output.fail(&failure);
            }
            Self::Failed(failure) => output.fail(failure),
            Self::Output(error) => output.unwritable(error),
        }
    }
}

/// Adds the path to an error.
trait ErrorContext<T> {
    fn about(self, path: &RemotePath) -> Result<T, CommandError>;
}

impl<T> ErrorContext<T> for Result<T, ClientError> {
    fn about(self, path: &RemotePath) -> Result<T, CommandError> {
        self.map_err(|error| {
            let subject = Subject::Item(path.into());
            let failure = CommandFailure::new(subject, &error, HintFlags::NONE);
            CommandError::Failed(Box::new(failure))
        })
    }
}

/// Prints the error about the operand `path`; breaks if the others can't succeed either.
async fn fail(
    session: &CliSession,
    client: &Client,
    path: &RemotePath,
    error: &ClientError,
    flags: HintFlags,
) -> ControlFlow<()> {
    let failure = CommandFailure::new(Subject::Item(path.into()), error, flags);
    session.output.fail(&failure.explain(client).await);
    match error.is_connection_lost() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// Checks that an operand that was written with a slash at its end is a directory.
async fn require_directory(client: &Client, remote: &Remote) -> Result<(), ClientError> {
    require_directory_over(&mut client.clone(), &GiveUp, remote).await
}

/// As [`require_directory`], again over another connection if this one is lost.
async fn require_directory_over(
    client: &mut Client,
    reconnect: &impl Reconnect,
    remote: &Remote,
) -> Result<(), ClientError> {
    if !remote.is_directory || remote.path.is_root() {
        return Ok(());
    }
    let path = remote.path.clone();
    match repeat(client, reconnect, Stat::of(path)).await?.kind {
        EntryKind::Directory => Ok(()),
        EntryKind::File | EntryKind::Symlink | EntryKind::Other => {
            Err(ClientError::of_code(ErrorCode::NOT_DIRECTORY))
        }
    }
}

/// The name of a kind.
fn kind_text(kind: EntryKind) -> &'static str {
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
