//! The few kinds into which errors are sorted.

use std::io;

use quire_shared::ErrorCode;

/// Kinds of failure that callers handle in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such file or directory.
    NotFound,
    /// Something exists already, changed meanwhile, or is busy.
    Conflict,
    /// The rights don't suffice.
    Refused,
    /// No connection, no trust, or a connection that was lost.
    Unreachable,
    /// Content was damaged, or changed during the transfer.
    Damaged,
    /// Anything else.
    Other,
}

impl From<ErrorCode> for ErrorKind {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NOT_FOUND => Self::NotFound,
            ErrorCode::EXISTS | ErrorCode::CONFLICT | ErrorCode::BUSY => Self::Conflict,
            ErrorCode::NOT_AUTHORIZED | ErrorCode::READ_ONLY | ErrorCode::DENIED => Self::Refused,
            ErrorCode::SHUTTING_DOWN => Self::Unreachable,
            ErrorCode::CHANGED | ErrorCode::DAMAGED => Self::Damaged,
            _ => Self::Other,
        }
    }
}

impl ErrorKind {
    pub(super) fn of_disk(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Conflict,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Refused,
            _ => Self::Other,
        }
    }
}
