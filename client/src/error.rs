//! What can go wrong for the client, divided by what its user can do about it.
//!
//! Every message is one line in lower case that can follow a name and a colon. What came from the
//! other side is escaped. [`ClientError::exit`] is the one mapping to exit codes.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use quinn::ConnectionError;
use quire_certs::{CertsError, Fingerprint};
use quire_shared::codec::DecodeError;
use quire_shared::path::PathError;
use quire_shared::protocol::Failure;
use quire_shared::{ErrorChain, ErrorCode, Escaped};

use crate::connect::Attempts;
use crate::known_servers::{KnownServersError, ServerId};
use crate::tls::TlsSetupError;
use crate::trust::{Refusal, TrustError};

/// Why the client could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The host has no address.
    #[error("unknown host {}", Escaped(.host))]
    UnknownHost {
        /// The host as it was given.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// None of the host's addresses answered.
    #[error("cannot connect to {server}: tried {tried}")]
    CannotConnect {
        /// Whom the user meant.
        server: ServerId,
        /// What was tried and how it went.
        tried: Attempts,
    },
    /// The server is not known to be the one that the user means.
    #[error("{}{}", ErrorChain(.0.as_ref()), trust_hint(.0))]
    NotTrusted(#[from] Box<Refusal>),
    /// Who is trusted can't be told.
    #[error("{}", ErrorChain(.0))]
    Trust(#[from] TrustError),
    /// A server can't be remembered.
    #[error("{}", ErrorChain(.0))]
    KnownServers(#[from] KnownServersError),
    /// This client's own key can't be had.
    #[error("{}", ErrorChain(.0))]
    Identity(#[from] CertsError),
    /// This client's own key can't be used.
    #[error("{}", ErrorChain(.0))]
    Tls(#[from] TlsSetupError),
    /// The system gives us no UDP socket.
    #[error("{}", ErrorChain(.0.as_ref()))]
    Socket(#[source] Box<dyn Error + Send + Sync>),
    /// The server does not let this client's key in.
    #[error(
        "not authorized: the key of this client is {fingerprint}; the operator of the server can \
         let it in with the line `{fingerprint} read` or `{fingerprint} write` in authorized-keys"
    )]
    NotAuthorized {
        /// This client's own fingerprint.
        fingerprint: Fingerprint,
    },
    /// A pairing code is no good, or the server doesn't know it.
    #[error(
        "not paired: the code is mistyped, used, too old, or not of this server; \
         have another made there with `quire-server pair`"
    )]
    NotPaired,
    /// The key is let in, but has no right to this.
    #[error(
        "not authorized: the key of this client, {fingerprint}, has no right to do that there; \
         the operator of the server grants rights by path in authorized-keys"
    )]
    NoRight {
        /// This client's own fingerprint.
        fingerprint: Fingerprint,
    },
    /// The server refused the request.
    #[error("{}", Escaped(.0.phrase()))]
    Refused(Failure),
    /// The connection broke.
    #[error("connection lost: {}", Escaped(&.0.to_string()))]
    Lost(ConnectionError),
    /// The server ended the connection and said why.
    #[error("the server closed the connection: {0}")]
    Closed(ErrorCode),
    /// The content ended before its announced length.
    #[error("the server ended the stream too early")]
    Truncated,
    /// The server sent something that the protocol doesn't allow.
    #[error("the server sent something unexpected: {0}")]
    Unexpected(DecodeError),
    /// The content changed while it was on its way, at either end.
    #[error("changed while it was being sent")]
    Changed,
    /// What arrived isn't what was sent.
    #[error("arrived damaged: its digest doesn't match")]
    Damaged,
    /// Something with that name exists here, and was not to be replaced.
    #[error("{} already exists (--force replaces it)", shown(.0))]
    LocalExists(PathBuf),
    /// The system refused an operation on a local file.
    #[error("cannot {action} {}: {source}", shown(.path))]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something local is not what it has to be.
    #[error("{} {reason}", shown(.path))]
    Unsuitable {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        reason: &'static str,
    },
    /// A local name can't be one on the server.
    #[error("{}: {source}", shown(.path))]
    LocalName {
        /// The file or directory.
        path: PathBuf,
        /// The rule that it breaks.
        #[source]
        source: PathError,
    },
    /// A name on the server can't be one on this system.
    #[error("{}: this system can't have a file of that name", Escaped(.0))]
    ForeignName(String),
    /// So many names in a directory of the server aren't UTF-8.
    #[error("{0} of its names can't travel because they aren't UTF-8")]
    Unnameable(u64),
    /// Something with that name exists on the server, and was not to be replaced.
    #[error("already exists (--force replaces it)")]
    RemoteExists,
    /// A directory was met where only `-r` may go.
    #[error("is a directory (-r takes it with all that is below it)")]
    NeedsRecursive,
}

impl ClientError {
    /// What the program's exit status says of this.
    pub fn exit(&self) -> Exit {
        match self {
            Self::UnknownHost { .. }
            | Self::CannotConnect { .. }
            | Self::NotTrusted(_)
            | Self::Lost(_) => Exit::Unreachable,
            Self::NotAuthorized { .. } | Self::NoRight { .. } | Self::NotPaired => Exit::Refused,
            Self::Refused(failure) => Exit::of_code(failure.code()),
            Self::Closed(code) => match Exit::of_code(*code) {
                Exit::Refused => Exit::Refused,
                _ => Exit::Unreachable,
            },
            Self::Truncated | Self::Changed | Self::Damaged => Exit::Damaged,
            Self::LocalExists(_) | Self::RemoteExists => Exit::Conflict,
            Self::Disk { source, .. } => Exit::of_disk(source),
            Self::Trust(_)
            | Self::KnownServers(_)
            | Self::Identity(_)
            | Self::Tls(_)
            | Self::Socket(_)
            | Self::Unexpected(_)
            | Self::Unsuitable { .. }
            | Self::LocalName { .. }
            | Self::ForeignName(_)
            | Self::Unnameable(_)
            | Self::NeedsRecursive => Exit::Failed,
        }
    }

    /// Whether the connection is gone, so that no further request can succeed.
    pub fn is_connection_lost(&self) -> bool {
        matches!(
            self,
            Self::Lost(_) | Self::Closed(_) | Self::NotAuthorized { .. }
        )
    }

    /// The code with which the server refused the request, if it did.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(failure) => Some(failure.code()),
            Self::NoRight { .. } => Some(ErrorCode::NOT_AUTHORIZED),
            Self::RemoteExists => Some(ErrorCode::EXISTS),
            Self::NeedsRecursive => Some(ErrorCode::NOT_EMPTY),
            _ => None,
        }
    }

    /// The same refusal with the flag that would have avoided it: one that replaces, or one that
    /// takes whole directories.
    pub fn with_flag(self) -> Self {
        match self.code() {
            Some(ErrorCode::EXISTS) => Self::RemoteExists,
            Some(ErrorCode::NOT_EMPTY) => Self::NeedsRecursive,
            _ => self,
        }
    }

    /// What became of the attempt to `action` the local `path`.
    pub fn disk(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Disk {
            path: path.to_owned(),
            action,
            source,
        }
    }

    /// What a failure means that concerns one of many files, and not the connection.
    pub fn of_failure(failure: Failure) -> Self {
        match failure.code() {
            ErrorCode::CHANGED => Self::Changed,
            ErrorCode::DAMAGED => Self::Damaged,
            _ => Self::Refused(failure),
        }
    }

    /// What a code means that came instead of a reply, in a reset or a stop.
    pub fn of_code(code: ErrorCode) -> Self {
        Self::of_failure(Failure::new(code))
    }
}

/// The exit status of the program; the numbers are part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// Something failed that no other status tells.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no such file or directory.
    NotFound = 3,
    /// It exists already, changed meanwhile, or is busy.
    Conflict = 4,
    /// The rights don't suffice.
    Refused = 5,
    /// No connection, no trust, or the connection was lost.
    Unreachable = 6,
    /// Content was damaged, or changed on the way.
    Damaged = 7,
    /// The user interrupted it: 128 and the number of SIGINT, as shells count.
    Interrupted = 130,
    /// The system ended it: 128 and the number of SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// What the server's refusal means for the exit status.
    pub fn of_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NOT_FOUND => Self::NotFound,
            ErrorCode::EXISTS | ErrorCode::CONFLICT | ErrorCode::BUSY => Self::Conflict,
            ErrorCode::NOT_AUTHORIZED | ErrorCode::READ_ONLY | ErrorCode::DENIED => Self::Refused,
            ErrorCode::SHUTTING_DOWN => Self::Unreachable,
            ErrorCode::CHANGED | ErrorCode::DAMAGED => Self::Damaged,
            _ => Self::Failed,
        }
    }

    fn of_disk(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Conflict,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Refused,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What the user can do about a server that nothing vouches for.
fn trust_hint(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unknown { .. } => {
            "; if that is the fingerprint that the server showed at its start, connect once from a \
             terminal and say so, or use --trust-on-first-use"
        }
        Refusal::Changed { .. }
        | Refusal::NotPinned { .. }
        | Refusal::WrongName { .. }
        | Refusal::NotByCa { .. }
        | Refusal::NotProved { .. }
        | Refusal::Malformed { .. } => "",
    }
}

/// A local path, safe to show.
pub fn shown(path: &Path) -> String {
    Escaped(&path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_documented_exit_status() {
        let exits = |exit: Exit| {
            ErrorCode::ALL
                .iter()
                .copied()
                .filter(|code| Exit::of_code(*code) == exit)
                .collect::<Vec<_>>()
        };
        assert_eq!(exits(Exit::NotFound), [ErrorCode::NOT_FOUND]);
        assert_eq!(
            exits(Exit::Conflict),
            [ErrorCode::EXISTS, ErrorCode::CONFLICT, ErrorCode::BUSY]
        );
        assert_eq!(
            exits(Exit::Refused),
            [
                ErrorCode::NOT_AUTHORIZED,
                ErrorCode::READ_ONLY,
                ErrorCode::DENIED
            ]
        );
        assert_eq!(
            exits(Exit::Damaged),
            [ErrorCode::CHANGED, ErrorCode::DAMAGED]
        );
        assert_eq!(exits(Exit::Unreachable), [ErrorCode::SHUTTING_DOWN]);
        assert_eq!(Exit::of_code(ErrorCode::NO_SPACE), Exit::Failed);
        assert!(exits(Exit::Done).is_empty());
    }

    #[test]
    fn local_failures_have_the_status_of_the_same_failure_on_the_server() {
        let exit = |kind: io::ErrorKind| {
            ClientError::disk(Path::new("f"), "open", io::Error::from(kind)).exit()
        };
        assert_eq!(exit(io::ErrorKind::NotFound), Exit::NotFound);
        assert_eq!(exit(io::ErrorKind::AlreadyExists), Exit::Conflict);
        assert_eq!(exit(io::ErrorKind::PermissionDenied), Exit::Refused);
        assert_eq!(exit(io::ErrorKind::StorageFull), Exit::Failed);
        assert_eq!(ClientError::LocalExists("f".into()).exit(), Exit::Conflict);
    }

    #[test]
    fn messages_are_one_line_whatever_the_names() {
        let path = Path::new("a\nb\u{1b}[2J");
        let errors = [
            ClientError::disk(path, "open", io::ErrorKind::NotFound.into()),
            ClientError::LocalExists(path.to_owned()),
            ClientError::ForeignName("a\nb\u{202e}".to_owned()),
            ClientError::UnknownHost {
                host: "a\nb".to_owned(),
                source: io::ErrorKind::NotFound.into(),
            },
            ClientError::LocalName {
                path: path.to_owned(),
                source: PathError::Empty,
            },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}
