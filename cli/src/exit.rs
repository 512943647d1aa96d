//! Exit statuses of the program; the numbers are part of its interface.

use quire_client::{ClientError, ErrorKind};

/// The exit status of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Done = 0,
    /// A failure without a status of its own.
    Failed = 1,
    /// The command line is invalid.
    Usage = 2,
    /// There is no such file or directory.
    NotFound = 3,
    /// It exists already, changed meanwhile, or is busy.
    Conflict = 4,
    /// The rights don't suffice.
    Refused = 5,
    /// No connection, no trust, or the connection was lost.
    Unreachable = 6,
    /// Content was damaged, or changed during the transfer.
    Damaged = 7,
    /// The terminal was closed: 128 plus the number of SIGHUP, as in shells.
    HungUp = 129,
    /// Interrupted by the user: 128 plus the number of SIGINT, as in shells.
    Interrupted = 130,
    /// Ended by the user with SIGQUIT: 128 plus its number.
    Quit = 131,
    /// Ended by the system: 128 plus the number of SIGTERM.
    Terminated = 143,
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Refused => Self::Refused,
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::Damaged => Self::Damaged,
            _ => Self::Failed,
        }
    }
}

impl From<&ClientError> for Exit {
    fn from(error: &ClientError) -> Self {
        error.kind().into()
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
