//! Why an operation on files fails, and its classification.

use quire_shared::ErrorCode;
use rustix::io::Errno;

use super::locks::Busy;
use super::store;
use crate::auth::access::Denial;

/// Why an operation was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller lacks the right.
    #[error("not authorized")]
    NotAuthorized,
    /// The caller has used up what it may store in a day.
    #[error("the daily quota is used up")]
    Quota,
    /// The path stayed locked for too long.
    #[error("the path is in use by another request")]
    Busy,
    /// The content has another digest than its sender announced.
    #[error("length or digest doesn't match")]
    Damaged,
    /// The range lies outside the file.
    #[error("range outside the file")]
    Range,
    /// The served directory says no.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The class of the error, as a number of the protocol. Front ends that speak something else
    /// translate it; nothing but this says what a client may know of an error.
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
        E::RootItself | E::InvalidPath(_) => ErrorCode::INVALID_PATH,
        E::ReadOnly | E::OtherServer => ErrorCode::READ_ONLY,
        E::StagingUnusable => ErrorCode::DENIED,
        E::NotDurable(_) => ErrorCode::DISK,
        E::NoSpace { .. } => ErrorCode::NO_SPACE,
        E::Unsupported(_) => ErrorCode::UNSUPPORTED,
        E::Changed => ErrorCode::CHANGED,
        E::Cancelled => ErrorCode::CANCELLED,
        E::Limit(_) => ErrorCode::LIMIT,
        E::Internal(_) => ErrorCode::INTERNAL,
        E::System { .. } => error.errno().map_or(ErrorCode::DISK, code_of_errno),
    }
}

/// The class of a system's error. What has no place here is trouble with the disk.
fn code_of_errno(errno: Errno) -> ErrorCode {
    match errno {
        Errno::NOENT => ErrorCode::NOT_FOUND,
        Errno::EXIST => ErrorCode::EXISTS,
        Errno::NOTDIR => ErrorCode::NOT_DIRECTORY,
        Errno::ISDIR => ErrorCode::IS_DIRECTORY,
        Errno::NOTEMPTY => ErrorCode::NOT_EMPTY,
        // A symbolic link where none is followed, or a socket that was opened.
        Errno::LOOP | Errno::NXIO => ErrorCode::SPECIAL_FILE,
        Errno::XDEV => ErrorCode::OTHER_FILE_SYSTEM,
        Errno::ACCESS | Errno::PERM => ErrorCode::DENIED,
        Errno::ROFS => ErrorCode::READ_ONLY,
        Errno::NOSPC => ErrorCode::NO_SPACE,
        Errno::DQUOT => ErrorCode::QUOTA,
        // File systems with narrower rules for names than ours.
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
    fn errors_of_the_system_are_told_apart() {
        let code = |errno: Errno| Error::from(store::Error::system("testing")(errno)).code();
        assert_eq!(code(Errno::NOENT), ErrorCode::NOT_FOUND);
        assert_eq!(code(Errno::DQUOT), ErrorCode::QUOTA);
        assert_eq!(code(Errno::IO), ErrorCode::DISK);
        assert_eq!(code(Errno::ROFS), ErrorCode::READ_ONLY);
    }
}
