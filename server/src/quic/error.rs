//! Errors of requests, and their error codes.
//!
//! The client gets only the code; the error itself, with its causes, is for the log.

use quinn::ReadError;
use quire_shared::ErrorCode;
use quire_shared::codec::DecodeError;
use quire_shared::protocol::Failure;
use quire_transport::body::ReceiveBodyError;
use quire_transport::stream::{ReceiveError, SendError};

use crate::auth::pairing::PairingError;
use crate::files::{Error, StoreError};

/// Reason why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The operation failed.
    #[error(transparent)]
    Files(#[from] Error),
    /// The client's key was not added by pairing.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// A request that changes something, or costs much, came in 0-RTT data, which can be a replay
    /// (RFC 9001, section 9.2).
    #[error("came before the handshake was complete, when it could be a replay")]
    TooEarly,
    /// The request took too long to arrive.
    #[error("the request took too long to arrive")]
    Timeout,
    /// The client cancelled the request.
    #[error("cancelled")]
    Cancelled,
    /// The client has begun the same upload again.
    #[error("a later upload of the same file goes on with what was received")]
    Superseded,
    /// Sending failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Receiving failed.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

impl RequestError {
    /// Whether the operator has to see it: a defect of the server, or a disk error.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.code(), ErrorCode::INTERNAL | ErrorCode::DISK)
    }

    /// Whether the client stalled the transfer for too long.
    pub(crate) fn is_stall(&self) -> bool {
        matches!(
            self,
            Self::Send(SendError::Stalled(_)) | Self::Receive(ReceiveError::Stalled(_))
        )
    }

    /// Whether the client reset the stream with `code`.
    pub(crate) fn is_reset_with(&self, code: ErrorCode) -> bool {
        let Self::Receive(ReceiveError::Read(ReadError::Reset(reason))) = self else {
            return false;
        };
        reason.into_inner() == u64::from(code.number())
    }

    /// What the operator can do about it, if the log is to say so at its default level.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        if self.is_stall() {
            return Some(
                "the client took or sent too little; --stall-time and --stall-rate say how much \
                 is too little",
            );
        }
        match self {
            Self::Pairing(PairingError::NotAuthorized | PairingError::NoCode) => {
                Some("`quire-server pair` makes a new code")
            }
            Self::Timeout => Some("--request-time says how long a request may take to arrive"),
            Self::Files(Error::Quota) => {
                Some("the key has used up what --daily-bytes or --daily-files grants it")
            }
            Self::Files(Error::Store(StoreError::NotDurable(_))) => Some(
                "check the disk and the log of the kernel; changes are refused until the server \
                 is started again",
            ),
            Self::Files(error) => match error.code() {
                ErrorCode::NO_SPACE => {
                    Some("the disk is full: free space on the file system of the served directory")
                }
                ErrorCode::QUOTA => Some("the disk quota of the server's user is used up"),
                ErrorCode::DISK => Some("check the disk and the log of the kernel"),
                ErrorCode::LIMIT if error.is_lack_of_handles() => Some(
                    "the server may not open more files: raise its limit, as with LimitNOFILE= of \
                     systemd",
                ),
                _ => None,
            },
            _ => None,
        }
    }

    /// Failure for the client: the code, and the entry that it is about.
    pub(crate) fn failure(&self) -> Failure {
        let below = match self {
            Self::Files(error) => error.below().cloned(),
            _ => None,
        };
        Failure::new(self.code()).about(below)
    }

    /// Error code for the client.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Files(error) => error.code(),
            Self::Pairing(error) => error.code(),
            Self::TooEarly => ErrorCode::TOO_EARLY,
            Self::Timeout | Self::Send(SendError::Stalled(_)) => ErrorCode::TIMEOUT,
            Self::Cancelled | Self::Superseded | Self::Send(SendError::Write(_)) => {
                ErrorCode::CANCELLED
            }
            Self::Send(_) => ErrorCode::INTERNAL,
            Self::Receive(error) => code_of_receiving(error),
        }
    }
}

impl From<ReceiveBodyError> for RequestError {
    fn from(error: ReceiveBodyError) -> Self {
        match error {
            ReceiveBodyError::Disk(source) => {
                Self::Files(StoreError::system("writing")(source).into())
            }
            ReceiveBodyError::Receive(error) => Self::Receive(error),
            _ => Self::Files(StoreError::Internal("unknown error of a received body").into()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_message_has_the_code_of_the_rule_that_it_breaks() {
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

    #[test]
    fn what_an_operator_can_mend_comes_with_advice() {
        use quire_transport::flow::stream_limits::Stalled;
        use rustix::io::Errno;
        let of = |errno: Errno| {
            let error = RequestError::from(Error::from(StoreError::system("testing")(errno)));
            error.advice().unwrap_or_default()
        };
        assert!(of(Errno::NOSPC).contains("free space"));
        assert!(of(Errno::IO).contains("check the disk"));
        assert!(of(Errno::MFILE).contains("LimitNOFILE"));
        assert_eq!(of(Errno::NOENT), "");
        let unsure = Error::from(StoreError::NotDurable(Errno::IO.into()));
        let advice = RequestError::from(unsure).advice().unwrap();
        assert!(advice.contains("started again"), "{advice}");
        let stalled = RequestError::Send(SendError::Stalled(Stalled));
        assert!(stalled.advice().unwrap().contains("--stall-time"));
    }
}
