//! Errors of the store.
//!
//! Errors of system calls get their context here; `files::Error` maps all of them to codes.

use std::io;

use quire_shared::RemotePath;
use quire_shared::path::PathError;
use rustix::io::Errno;

/// Error of an operation of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing has the name.
    #[error("not found")]
    NotFound,
    /// Something has the name already.
    #[error("already exists")]
    Exists,
    /// The version of the file isn't the one that the precondition requires.
    #[error("precondition does not hold")]
    Conflict,
    /// A file was required, but the name is a directory's.
    #[error("is a directory")]
    IsDirectory,
    /// A directory was required.
    #[error("not a directory")]
    NotDirectory,
    /// A file or directory was required, but the name is a symbolic link's or special file's.
    #[error("neither a file nor a directory")]
    SpecialFile,
    /// A deletion or copy without `recursive` named a directory.
    #[error("is a directory, and the request is not recursive")]
    NotEmpty,
    /// The path leads to another file system than the root's.
    #[error("on another file system")]
    OtherFileSystem,
    /// A directory can't be moved or copied below itself.
    #[error("a directory can't go into itself")]
    IntoItself,
    /// The root itself can't be renamed, deleted or replaced.
    #[error("not allowed on the root itself")]
    RootItself,
    /// The target of a symbolic link isn't confined to the root.
    #[error("the target of a symbolic link would lead out of the root")]
    LeadsOut,
    /// A name makes a path that exceeds the limits of the protocol.
    #[error("not a legal path")]
    InvalidPath(#[source] PathError),
    /// The root was removed.
    #[error("the served directory was removed")]
    RootRemoved,
    /// The root is read-only.
    #[error("the root is served read-only")]
    ReadOnly,
    /// Another server writes to the same root.
    #[error("another server writes to this root")]
    OtherServer,
    /// The staging directory belongs to another user, is open to others, or isn't a directory.
    #[error("the staging directory is not a private directory of this user")]
    StagingUnusable,
    /// The change is visible, but may be lost in a power failure.
    #[error("the change is visible but may not be durable; further changes are refused")]
    NotDurable(#[source] io::Error),
    /// The file system has too little free space.
    #[error("{bytes} bytes don't fit on the file system")]
    NoSpace {
        /// Number of bytes to store.
        bytes: u64,
    },
    /// The file system lacks an operation for which there is no safe substitute.
    #[error("the file system can't {0}")]
    Unsupported(&'static str),
    /// The file changed while it was read.
    #[error("the file changed while it was read")]
    Changed,
    /// The caller dropped the operation.
    #[error("cancelled")]
    Cancelled,
    /// A limit was exceeded.
    #[error("over the limit of {0}")]
    Limit(&'static str),
    /// An entry below the directory of the request failed.
    #[error("{path}: {error}")]
    Below {
        /// The entry, relative to that directory.
        path: RemotePath,
        /// Its error.
        #[source]
        error: Box<Self>,
    },
    /// A system call failed.
    #[error("{doing} failed")]
    System {
        /// What the system call was part of.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A defect of the server, such as a blocking task that panicked.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Error {
    /// Wraps the error of a system call with what it was part of; for `map_err`.
    pub(crate) fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }

    /// Names the entry that the error is about, below the directory of the request.
    pub(super) fn below(self, path: RemotePath) -> Self {
        match self {
            // Not about an entry.
            Self::Cancelled => self,
            error => Self::Below {
                path,
                error: Box::new(error),
            },
        }
    }

    /// Returns the error number of a failed system call.
    pub(in crate::files) fn errno(&self) -> Option<Errno> {
        match self {
            Self::System { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }
}
