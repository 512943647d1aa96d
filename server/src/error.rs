//! Why one request fails, and the code that its peer hears.
//!
//! The mapping to [`ErrorCode`] below is the only one, and errors of the system are classified in
//! it and nowhere else. The peer gets the code; the error itself, with its causes, is for the log.

use std::io;

use quire_shared::ErrorCode;
use quire_shared::codec::DecodeError;
use quire_transport::body::{ReceiveBodyError, SendBodyError};
use quire_transport::stream::{ReceiveError, SendError};
use rustix::io::Errno;

use crate::files::locks::Busy;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nothing has the name.
    #[error("not found")]
    NotFound,
    /// Something has the name already.
    #[error("already exists")]
    Exists,
    /// What has the name is not the version that the client named.
    #[error("precondition does not hold")]
    Conflict,
    /// A file was needed.
    #[error("is a directory")]
    IsDirectory,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A file or directory was needed.
    #[error("neither a file nor a directory")]
    SpecialFile,
    /// A directory was named by a request that isn't recursive.
    #[error("is a directory, and the request is not recursive")]
    NotEmpty,
    /// The path lies on another file system than the root.
    #[error("on another file system")]
    OtherFileSystem,
    /// A directory was to be moved or copied below itself.
    #[error("a directory can't go into itself")]
    IntoItself,
    /// The root itself can't be renamed, deleted or replaced.
    #[error("not possible with the root itself")]
    RootItself,
    /// Nothing may be changed below the root.
    #[error("the root is served read-only")]
    ReadOnly,
    /// Another server writes to the same root.
    #[error("another server writes to this root")]
    OtherServer,
    /// The staging directory belongs to somebody else, or is none.
    #[error("the staging directory is not a private directory of this user")]
    StagingUnusable,
    /// The change is visible, but whether it would outlast a power failure is unknown.
    #[error("the change is visible but perhaps not durable; nothing more will be written")]
    NotDurable(#[source] io::Error),
    /// The file system has too little room.
    #[error("{bytes} bytes don't fit on the file system")]
    NoSpace {
        /// How many bytes were asked for.
        bytes: u64,
    },
    /// What the client may store in a day is used up.
    #[error("the daily quota is used up")]
    Quota,
    /// The file system lacks an operation for which there is no safe substitute.
    #[error("the file system can't {0}")]
    Unsupported(&'static str),
    /// The client has not the right to do this.
    #[error("not authorized")]
    NotAuthorized,
    /// A request that changes something came before the handshake was over.
    #[error("came before the handshake was over")]
    TooEarly,
    /// The path stayed locked for too long.
    #[error("the path is in use by another request")]
    Busy,
    /// The file changed while it was read.
    #[error("the file changed while it was read")]
    Changed,
    /// What was received has not the length or digest that was announced.
    #[error("length or digest doesn't match")]
    Damaged,
    /// The range lies outside the file.
    #[error("range outside the file")]
    Range,
    /// The other side took too long.
    #[error("took too long")]
    Timeout,
    /// The request was given up.
    #[error("cancelled")]
    Cancelled,
    /// The server is going down.
    #[error("shutting down")]
    ShuttingDown,
    /// The request is over a limit.
    #[error("over the limit of {0}")]
    Limit(&'static str),
    /// Sending failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Receiving failed.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The system refused something, or failed.
    #[error("{doing} failed")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A bug of ours, such as a blocking task that panicked.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl RequestError {
    /// Makes errors of the system that happen while `doing` something; for `map_err`.
    pub fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }

    /// Whether the operator should hear of it: our own defect, or trouble with the disk.
    pub fn is_ours(&self) -> bool {
        matches!(self.code(), ErrorCode::INTERNAL | ErrorCode::DISK)
    }

    /// Whether the client kept us waiting for too long.
    pub fn is_stall(&self) -> bool {
        matches!(
            self,
            Self::Send(SendError::Stalled(_)) | Self::Receive(ReceiveError::Stalled(_))
        )
    }

    /// The code that the peer hears.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::NOT_FOUND,
            Self::Exists => ErrorCode::EXISTS,
            Self::Conflict => ErrorCode::CONFLICT,
            Self::IsDirectory => ErrorCode::IS_DIRECTORY,
            Self::NotDirectory => ErrorCode::NOT_DIRECTORY,
            Self::SpecialFile => ErrorCode::SPECIAL_FILE,
            Self::NotEmpty => ErrorCode::NOT_EMPTY,
            Self::OtherFileSystem => ErrorCode::OTHER_FILE_SYSTEM,
            Self::IntoItself => ErrorCode::INTO_ITSELF,
            Self::RootItself => ErrorCode::INVALID_PATH,
            Self::ReadOnly | Self::OtherServer => ErrorCode::READ_ONLY,
            Self::StagingUnusable => ErrorCode::DENIED,
            Self::NotDurable(_) => ErrorCode::DISK,
            Self::NoSpace { .. } => ErrorCode::NO_SPACE,
            Self::Quota => ErrorCode::QUOTA,
            Self::Unsupported(_) => ErrorCode::UNSUPPORTED,
            Self::NotAuthorized => ErrorCode::NOT_AUTHORIZED,
            Self::TooEarly => ErrorCode::TOO_EARLY,
            Self::Busy => ErrorCode::BUSY,
            Self::Changed => ErrorCode::CHANGED,
            Self::Damaged => ErrorCode::DAMAGED,
            Self::Range => ErrorCode::RANGE,
            Self::Timeout | Self::Send(SendError::Stalled(_)) => ErrorCode::TIMEOUT,
            Self::Cancelled | Self::Send(SendError::Write(_)) => ErrorCode::CANCELLED,
            Self::ShuttingDown => ErrorCode::SHUTTING_DOWN,
            Self::Limit(_) => ErrorCode::LIMIT,
            Self::Send(_) | Self::Internal(_) => ErrorCode::INTERNAL,
            Self::Receive(error) => code_of_receiving(error),
            Self::System { source, .. } => code_of_system(source),
        }
    }
}

impl From<Busy> for RequestError {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

impl From<ReceiveBodyError> for RequestError {
    fn from(error: ReceiveBodyError) -> Self {
        match error {
            ReceiveBodyError::Disk(source) => Self::system("writing")(source),
            ReceiveBodyError::Receive(error) => Self::Receive(error),
            _ => Self::Internal("unknown error of a received body"),
        }
    }
}

impl From<SendBodyError> for RequestError {
    fn from(error: SendBodyError) -> Self {
        match error {
            SendBodyError::Disk(source) => Self::system("reading")(source),
            SendBodyError::Short { .. } => Self::Changed,
            SendBodyError::Send(error) => Self::Send(error),
            _ => Self::Internal("unknown error of a sent body"),
        }
    }
}

fn code_of_receiving(error: &ReceiveError) -> ErrorCode {
    match error {
        ReceiveError::Read(_) => ErrorCode::CANCELLED,
        ReceiveError::Stalled(_) => ErrorCode::TIMEOUT,
        ReceiveError::Decode(DecodeError::TooLong { .. }) => ErrorCode::MESSAGE_TOO_LONG,
        ReceiveError::Decode(DecodeError::UnknownKind) => ErrorCode::UNSUPPORTED,
        ReceiveError::Decode(DecodeError::InvalidPath(_)) => ErrorCode::INVALID_PATH,
        _ => ErrorCode::MALFORMED,
    }
}

/// The code for an error of the system. What has no place here is the disk's own trouble.
fn code_of_system(error: &io::Error) -> ErrorCode {
    let Some(errno) = Errno::from_io_error(error) else {
        return ErrorCode::DISK;
    };
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
        let code = |errno: Errno| RequestError::system("testing")(errno).code();
        assert_eq!(code(Errno::NOENT), ErrorCode::NOT_FOUND);
        assert_eq!(code(Errno::DQUOT), ErrorCode::QUOTA);
        assert_eq!(code(Errno::IO), ErrorCode::DISK);
        assert_eq!(code(Errno::ROFS), ErrorCode::READ_ONLY);
    }

    #[test]
    fn a_broken_message_is_blamed_on_its_rule() {
        let code = |error: DecodeError| RequestError::from(ReceiveError::from(error)).code();
        assert_eq!(
            code(DecodeError::TooLong { bytes: 2, limit: 1 }),
            ErrorCode::MESSAGE_TOO_LONG
        );
        assert_eq!(code(DecodeError::UnknownKind), ErrorCode::UNSUPPORTED);
        assert_eq!(code(DecodeError::TrailingBytes), ErrorCode::MALFORMED);
        let truncated = RequestError::from(ReceiveError::Truncated);
        assert_eq!(truncated.code(), ErrorCode::MALFORMED);
    }
}
