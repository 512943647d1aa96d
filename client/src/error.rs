//! Errors of the client library.
//!
//! Every message is one line in lower case that can follow a name and a colon. Text from the other
//! side is escaped. [`ClientError::kind`] sorts them into a few kinds.

mod kind;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use quinn::ConnectionError;
use quire_certs::{CertsError, Fingerprint};
use quire_shared::codec::DecodeError;
use quire_shared::path::PathError;
use quire_shared::path::Unnameable;
use quire_shared::protocol::{Failure, LinkTarget};
use quire_shared::{ErrorChain, ErrorCode, Escaped, EscapedBytes, EscapedPath, Printable};

use crate::attempt::Attempts;
use crate::details::DetailsFailure;
use crate::known_servers::{KnownServersError, ServerId};
use crate::tls::TlsSetupError;
use crate::transfer::sync::PatternError;
use crate::trust::{Refusal, TrustError};

pub use kind::ErrorKind;

/// Why an operation of the client failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The host has no address.
    #[error("unknown host {}: {}", Escaped(.host), ErrorChain(.source))]
    UnknownHost {
        /// The host as it was given.
        host: String,
        /// The error of the resolver.
        #[source]
        source: io::Error,
    },
    /// None of the host's addresses answered.
    #[error("cannot connect to {server}: tried {attempts}")]
    CannotConnect {
        /// The server.
        server: ServerId,
        /// The addresses that were tried, and how each attempt ended.
        attempts: Attempts,
    },
    /// The identity of the server could not be verified.
    #[error("{}", ErrorChain(.0.as_ref()))]
    NotTrusted(#[from] Box<Refusal>),
    /// The keys and authorities to trust can't be read.
    #[error("{}", ErrorChain(.0))]
    Trust(#[from] TrustError),
    /// A server's key can't be added to the known servers.
    #[error("{}", ErrorChain(.0))]
    KnownServers(#[from] KnownServersError),
    /// This client's own key can't be read or generated.
    #[error("{}", ErrorChain(.0))]
    Identity(#[from] CertsError),
    /// This client's own key can't be used.
    #[error("{}", ErrorChain(.0))]
    Tls(#[from] TlsSetupError),
    /// The system refused a UDP socket.
    #[error("{}", ErrorChain(.0.as_ref()))]
    Socket(#[source] Box<dyn Error + Send + Sync>),
    /// The server grants this client's key no access.
    #[error(
        "not authorized: the key of this client is {fingerprint}; the operator of the server can \
         grant it access with the line `{fingerprint} read` or `{fingerprint} write` in \
         authorized-keys"
    )]
    NotAuthorized {
        /// This client's own fingerprint.
        fingerprint: Fingerprint,
    },
    /// The server doesn't accept the pairing code, or doesn't know it.
    #[error("not paired: the code is mistyped, used, expired, or from another server")]
    NotPaired,
    /// The key has access, but no right to this operation.
    #[error(
        "not authorized: the key of this client, {fingerprint}, has no right to do that there; \
         the operator of the server grants rights by path in authorized-keys"
    )]
    NoRight {
        /// This client's own fingerprint.
        fingerprint: Fingerprint,
    },
    /// The server refused the request.
    #[error("{}", refused(.0))]
    Refused(Failure),
    /// Something on the server that is no directory has the path of one, which replaces nothing.
    #[error("already exists, and is not a directory")]
    InTheWay,
    /// The connection broke.
    #[error("connection lost: {}", lost(.0))]
    Lost(ConnectionError),
    /// The server closed the connection with this code.
    #[error("the server closed the connection: {0}")]
    Closed(ErrorCode),
    /// The answer to a change was lost, and it can't be made again.
    #[error("{0}; it is not known whether the change was made")]
    OutcomeUnknown(#[source] Box<Self>),
    /// The server answers again, and may have made a change without knowing it.
    #[error("connection lost, and the server does not remember changes")]
    Forgetful,
    /// The content ended before its announced length.
    #[error("the server ended the stream too early")]
    Truncated,
    /// The server sent something that the protocol doesn't allow.
    #[error("the server sent something unexpected: {0}")]
    Unexpected(DecodeError),
    /// The content changed on the server during the transfer.
    #[error("changed on the server while it was being sent")]
    Changed,
    /// A local file changed during the transfer, otherwise than by growing.
    #[error("{} changed here while it was being sent", shown(.0))]
    LocalChanged(PathBuf),
    /// The digest doesn't match the content that arrived.
    #[error("arrived damaged: its digest doesn't match")]
    Damaged,
    /// A local file of that name exists, and was not to be replaced.
    #[error("{} already exists", shown(.0))]
    LocalExists(PathBuf),
    /// The system refused an operation on a local file.
    #[error("cannot {action} {}: {source}", shown(.path))]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// A local directory where a file was expected.
    #[error("{} is a directory", shown(.0))]
    LocalDirectory(PathBuf),
    /// A local FIFO, socket or device where a file was expected.
    #[error("{} is neither a file nor a directory", shown(.0))]
    LocalSpecial(PathBuf),
    /// A local file or directory can't be used.
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
    /// A path on the server that no request can name.
    #[error("{0}")]
    RemotePath(PathError),
    /// A directory that failed together with what is below it.
    #[error("{error}, and with it {below} below it")]
    WithBelow {
        /// Why the directory failed.
        error: Box<Self>,
        /// How many files and directories are below it.
        below: u64,
    },
    /// A name on the server can't be one on this system.
    #[error("{}: this system can't have a file of that name", Escaped(.0))]
    ForeignName(String),
    /// Names in a directory of the server that aren't UTF-8.
    #[error("{}", unnameable_text(.0))]
    Unnameable(Unnameable),
    /// A rule of a filter can't be used.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Details of a file can't be kept.
    #[error(transparent)]
    Details(#[from] DetailsFailure),
    /// A file at one side of a sync, and something else at the other.
    #[error("is of another kind at the target, and stays: only a sync that deletes replaces it")]
    OtherKind,
    /// A symbolic link that isn't made because of its target.
    #[error("a symbolic link that would lead out of {place}: its target is {}", EscapedBytes(.target.as_bytes()))]
    LinkLeadsOut {
        /// What it would lead out of.
        place: &'static str,
        /// Its target.
        target: LinkTarget,
    },
    /// A symbolic link whose target the server doesn't tell.
    #[error("a symbolic link whose target the server doesn't tell: it may be too long")]
    NoLinkTarget,
    /// A symbolic link for a server that makes none.
    #[error("a symbolic link, and the server is of an earlier version, which makes none")]
    LinksUnsupported,
    /// A symbolic link for a server that doesn't let this client make any there.
    #[error(
        "not authorized: a symbolic link needs the rights to `link` and to `create`, and `write` \
         doesn't include `link`; the key of this client is {fingerprint}"
    )]
    NoLinkRight {
        /// This client's own fingerprint.
        fingerprint: Fingerprint,
    },
    /// A sync that would delete all there is.
    #[error("the source is empty, so that everything at the target would be deleted")]
    SourceEmpty,
    /// A sync that would delete more than it may.
    #[error("{count} files and directories would be deleted, more than {max}; nothing was changed")]
    TooManyDeletions {
        /// How many it would delete.
        count: u64,
        /// How many it may.
        max: u64,
    },
    /// A sync that replaced nothing, because the old files can't be kept.
    #[error("nothing was transferred, because {failed} couldn't be backed up")]
    NoBackup {
        /// How many.
        failed: u64,
    },
    /// A sync that didn't delete, because something isn't at the target.
    #[error("nothing was deleted, because {failed} failed before")]
    NothingDeleted {
        /// How many files and directories.
        failed: u64,
    },
}

impl ClientError {
    /// Classifies the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownHost { .. }
            | Self::CannotConnect { .. }
            | Self::NotTrusted(_)
            | Self::Forgetful
            | Self::Lost(_) => ErrorKind::Unreachable,
            Self::NotAuthorized { .. }
            | Self::NoRight { .. }
            | Self::NoLinkRight { .. }
            | Self::NotPaired => ErrorKind::Refused,
            Self::Refused(failure) => failure.code().into(),
            Self::Closed(code) => match ErrorKind::from(*code) {
                ErrorKind::Refused => ErrorKind::Refused,
                _ => ErrorKind::Unreachable,
            },
            Self::Truncated | Self::Changed | Self::LocalChanged(_) | Self::Damaged => {
                ErrorKind::Damaged
            }
            Self::LocalExists(_)
            | Self::InTheWay
            | Self::OtherKind
            | Self::SourceEmpty
            | Self::TooManyDeletions { .. } => ErrorKind::Conflict,
            Self::WithBelow { error, .. } | Self::OutcomeUnknown(error) => error.kind(),
            Self::Disk { source, .. } => ErrorKind::of_disk(source),
            Self::Trust(_)
            | Self::KnownServers(_)
            | Self::Identity(_)
            | Self::Tls(_)
            | Self::Socket(_)
            | Self::Unexpected(_)
            | Self::LocalDirectory(_)
            | Self::LocalSpecial(_)
            | Self::Unsuitable { .. }
            | Self::LocalName { .. }
            | Self::RemotePath(_)
            | Self::ForeignName(_)
            | Self::Unnameable(_)
            | Self::Pattern(_)
            | Self::LinkLeadsOut { .. }
            | Self::NoLinkTarget
            | Self::LinksUnsupported
            | Self::NoBackup { .. }
            | Self::Details(_)
            | Self::NothingDeleted { .. } => ErrorKind::Other,
        }
    }

    /// Whether the connection is gone, so that no further request can succeed.
    pub fn is_connection_lost(&self) -> bool {
        matches!(
            self,
            Self::Lost(_) | Self::Closed(_) | Self::NotAuthorized { .. } | Self::OutcomeUnknown(_)
        )
    }

    /// Whether the loss of a connection may be over when another is made.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Lost(error) => *error != ConnectionError::LocallyClosed,
            Self::Closed(code) => matches!(*code, ErrorCode::SHUTTING_DOWN | ErrorCode::TIMEOUT),
            _ => false,
        }
    }

    /// Whether what has come until then may be continued later.
    pub(crate) fn leaves_a_part(&self) -> bool {
        let may_come_later = |code| {
            [
                ErrorCode::NOT_AUTHORIZED,
                ErrorCode::BUSY,
                ErrorCode::TIMEOUT,
                ErrorCode::CANCELLED,
                ErrorCode::SHUTTING_DOWN,
                ErrorCode::LIMIT,
                ErrorCode::QUOTA,
            ]
            .contains(&code)
        };
        self.is_connection_lost() || self.code().is_some_and(may_come_later)
    }

    /// The code with which the server refused the request, if it did.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(failure) => Some(failure.code()),
            Self::NoRight { .. } | Self::NoLinkRight { .. } => Some(ErrorCode::NOT_AUTHORIZED),
            Self::LinksUnsupported => Some(ErrorCode::UNSUPPORTED),
            Self::InTheWay => Some(ErrorCode::EXISTS),
            Self::Details(DetailsFailure::NotStored) => Some(ErrorCode::UNSUPPORTED),
            Self::WithBelow { error, .. } => error.code(),
            _ => None,
        }
    }

    /// The local file or directory that the message names, if it is about one.
    pub fn local_path(&self) -> Option<&Path> {
        match self {
            Self::LocalExists(path)
            | Self::LocalChanged(path)
            | Self::LocalDirectory(path)
            | Self::LocalSpecial(path)
            | Self::Disk { path, .. }
            | Self::Unsuitable { path, .. }
            | Self::LocalName { path, .. } => Some(path),
            Self::WithBelow { error, .. } => error.local_path(),
            _ => None,
        }
    }

    /// The error for a failed attempt to `action` the local `path`.
    pub fn disk(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Disk {
            path: path.to_owned(),
            action,
            source,
        }
    }

    /// The error for a failure that concerns one of many files, and not the connection.
    pub(crate) fn of_failure(failure: Failure) -> Self {
        match failure.code() {
            _ if failure.below().is_some() => Self::Refused(failure),
            ErrorCode::CHANGED => Self::Changed,
            ErrorCode::DAMAGED => Self::Damaged,
            _ => Self::Refused(failure),
        }
    }

    /// This error as the answer to a directory that was to be made, or to exist.
    pub(crate) fn of_directory(self) -> Self {
        match self.code() {
            Some(ErrorCode::EXISTS) => Self::InTheWay,
            _ => self,
        }
    }

    /// The error for a code that came instead of a reply, in `RESET_STREAM` or `STOP_SENDING`.
    pub fn of_code(code: ErrorCode) -> Self {
        Self::of_failure(Failure::new(code))
    }
}

/// What a refusal means to a user.
fn refused(failure: &Failure) -> String {
    let phrase = Printable(failure.phrase());
    match failure.below() {
        Some(below) => format!("{}: {phrase}", Printable(&below.to_relative())),
        None => phrase.to_string(),
    }
}

/// What the end of a connection means to a user.
fn lost(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Reset => "the server doesn't know it any more: it was restarted, or this \
                                   machine was asleep"
            .to_owned(),
        ConnectionError::TimedOut => "the server doesn't answer any more".to_owned(),
        error => Printable(&error.to_string()).to_string(),
    }
}

/// The names that can't be sent, as far as they are known.
fn unnameable_text(left_out: &Unnameable) -> String {
    let names = left_out.names.iter();
    let names: Vec<_> = names
        .map(|name| EscapedBytes(name.as_bytes()).to_string())
        .collect();
    let count = left_out.count;
    let text = format!("{count} of its names can't be sent because they aren't UTF-8");
    match names.len() as u64 {
        0 => text,
        known if known < count => format!("{text}: {} and others", names.join(", ")),
        _ => format!("{text}: {}", names.join(", ")),
    }
}

/// A local path with control characters escaped.
pub(crate) fn shown(path: &Path) -> String {
    EscapedPath(path).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_documented_kind() {
        let codes = |kind: ErrorKind| {
            ErrorCode::ALL
                .iter()
                .copied()
                .filter(|code| ErrorKind::from(*code) == kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(codes(ErrorKind::NotFound), [ErrorCode::NOT_FOUND]);
        assert_eq!(
            codes(ErrorKind::Conflict),
            [ErrorCode::EXISTS, ErrorCode::CONFLICT, ErrorCode::BUSY]
        );
        assert_eq!(
            codes(ErrorKind::Refused),
            [
                ErrorCode::NOT_AUTHORIZED,
                ErrorCode::READ_ONLY,
                ErrorCode::DENIED
            ]
        );
        assert_eq!(
            codes(ErrorKind::Damaged),
            [ErrorCode::CHANGED, ErrorCode::DAMAGED]
        );
        assert_eq!(codes(ErrorKind::Unreachable), [ErrorCode::SHUTTING_DOWN]);
        assert_eq!(ErrorKind::from(ErrorCode::NO_SPACE), ErrorKind::Other);
    }

    #[test]
    fn local_failures_have_the_kind_of_the_same_failure_on_the_server() {
        let of = |kind: io::ErrorKind| {
            ClientError::disk(Path::new("f"), "open", io::Error::from(kind)).kind()
        };
        assert_eq!(of(io::ErrorKind::NotFound), ErrorKind::NotFound);
        assert_eq!(of(io::ErrorKind::AlreadyExists), ErrorKind::Conflict);
        assert_eq!(of(io::ErrorKind::PermissionDenied), ErrorKind::Refused);
        assert_eq!(of(io::ErrorKind::StorageFull), ErrorKind::Other);
        let exists = ClientError::LocalExists("f".into());
        assert_eq!(exists.kind(), ErrorKind::Conflict);
    }

    #[test]
    fn messages_are_one_line_for_any_name() {
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
