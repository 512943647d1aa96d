//! Errors of operations on files, and their error codes.

use quire_shared::{ErrorCode, RemotePath};
use rustix::io::Errno;

use super::locks::Busy;
use super::store;
use crate::auth::access::Denial;

/// Reason why an operation was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller lacks the right.
    #[error("not authorized")]
    NotAuthorized,
    /// The caller has used up its daily quota.
    #[error("the daily quota is used up")]
    Quota,
    /// The path stayed locked for too long.
    #[error("the path is in use by another request")]
    Busy,
    /// The length or digest of the content differs from what the client announced.
    #[error("length or digest doesn't match")]
    Damaged,
    /// The range lies outside the file.
    #[error("range outside the file")]
    Range,
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Error code of the protocol. Front ends for other protocols translate it. It is all that a
    /// client may learn of an error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotAuthorized => ErrorCode::NOT_AUTHORIZED,
            Self::Quota => ErrorCode::QUOTA,
            Self::Busy => ErrorCode::BUSY,
            Self::Damaged => ErrorCode::DAMAGED,
            Self::Range => ErrorCode::RANGE,
            Self::Store(error) => code_of_store(error),
        }
    }

    /// Whether the process or the system has as many open files as it may.
    pub(crate) fn is_lack_of_handles(&self) -> bool {
        let Self::Store(error) = self else {
            return false;
        };
        matches!(error.errno(), Some(Errno::MFILE | Errno::NFILE))
    }
}

impl Error {
    /// Entry below the directory of the request that the error is about.
    pub fn below(&self) -> Option<&RemotePath> {
        match self {
            Self::Store(store::Error::Below { path, .. }) => Some(path),
            _ => None,
        }
    }
}

impl From<Denial> for Error {
    fn from(refusal: Denial) -> Self {
        match refusal {
            Denial::NotAuthorized => Self::NotAuthorized,
            Denial::Hidden => Self::Store(store::Error::NotFound),
        }
    }
}

impl From<Busy> for Error {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

fn code_of_store(error: &store::Error) -> ErrorCode {
    use store::Error as E;
    match error {
        E::NotFound => ErrorCode::NOT_FOUND,
        E::Exists => ErrorCode::EXISTS,
        E::Conflict => ErrorCode::CONFLICT,
        E::IsDirectory => ErrorCode::IS_DIRECTORY,
        E::NotDirectory => ErrorCode::NOT_DIRECTORY,
        E::SpecialFile => ErrorCode::SPECIAL_FILE,
        E::NotEmpty => ErrorCode::NOT_EMPTY,
        E::OtherFileSystem => ErrorCode::OTHER_FILE_SYSTEM,
        E::IntoItself => ErrorCode::INTO_ITSELF,
        E::RootItself | E::InvalidPath(_) | E::LeadsOut => ErrorCode::INVALID_PATH,
        E::RootRemoved => ErrorCode::ROOT_REMOVED,
        E::ReadOnly | E::OtherServer => ErrorCode::READ_ONLY,
        E::StagingUnusable => ErrorCode::DENIED,
        E::NotDurable(_) => ErrorCode::DISK,
        E::NoSpace { .. } => ErrorCode::NO_SPACE,
        E::Unsupported(_) => ErrorCode::UNSUPPORTED,
        E::Changed => ErrorCode::CHANGED,
        E::Cancelled => ErrorCode::CANCELLED,
        E::Limit(_) => ErrorCode::LIMIT,
        E::Internal(_) => ErrorCode::INTERNAL,
        E::Below { error, .. } => code_of_store(error),
        E::System { .. } => error.errno().map_or(ErrorCode::DISK, code_of_errno),
    }
}

/// Maps an error of the system; unlisted ones count as disk errors.
fn code_of_errno(errno: Errno) -> ErrorCode {
    match errno {
        Errno::NOENT => ErrorCode::NOT_FOUND,
        Errno::EXIST => ErrorCode::EXISTS,
        Errno::NOTDIR => ErrorCode::NOT_DIRECTORY,
        Errno::ISDIR => ErrorCode::IS_DIRECTORY,
        Errno::NOTEMPTY => ErrorCode::NOT_EMPTY,
        // ELOOP: a symbolic link, which isn't followed. ENXIO: an attempt to open a socket.
        Errno::LOOP | Errno::NXIO => ErrorCode::SPECIAL_FILE,
        Errno::XDEV => ErrorCode::OTHER_FILE_SYSTEM,
        Errno::ACCESS | Errno::PERM => ErrorCode::DENIED,
        Errno::ROFS => ErrorCode::READ_ONLY,
        Errno::NOSPC => ErrorCode::NO_SPACE,
        Errno::DQUOT => ErrorCode::QUOTA,
        // From file systems with stricter rules for names than those of the protocol.
        Errno::NAMETOOLONG | Errno::ILSEQ => ErrorCode::INVALID_PATH,
        Errno::BUSY | Errno::TXTBSY | Errno::AGAIN => ErrorCode::BUSY,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::FBIG | Errno::MLINK => ErrorCode::LIMIT,
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL => ErrorCode::UNSUPPORTED,
        _ => ErrorCode::DISK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_have_distinct_codes() {
        let code = |errno: Errno| Error::from(store::Error::system("testing")(errno)).code();
        assert_eq!(code(Errno::NOENT), ErrorCode::NOT_FOUND);
        assert_eq!(code(Errno::DQUOT), ErrorCode::QUOTA);
        assert_eq!(code(Errno::IO), ErrorCode::DISK);
        assert_eq!(code(Errno::ROFS), ErrorCode::READ_ONLY);
    }
}
