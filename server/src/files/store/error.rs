//! Why the store can't do something.
//!
//! Errors of the system are classified here and nowhere else.

use std::io;

use quire_shared::path::PathError;
use rustix::io::Errno;

/// Why the store can't do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing has the name.
    #[error("not found")]
    NotFound,
    /// Something has the name already.
    #[error("already exists")]
    Exists,
    /// The name has another version than the precondition names.
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
    /// A directory was named by a change that isn't recursive.
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
    /// A name would make a path that no request can have.
    #[error("not a legal path")]
    InvalidPath(#[source] PathError),
    /// Nothing may be changed below the root.
    #[error("the root is served read-only")]
    ReadOnly,
    /// Another server writes to the same root.
    #[error("another server writes to this root")]
    OtherServer,
    /// The staging directory belongs to another user, or isn't a directory.
    #[error("the staging directory is not a private directory of this user")]
    StagingUnusable,
    /// The change is visible, but may not outlast a power failure.
    #[error("the change is visible but perhaps not durable; nothing more will be written")]
    NotDurable(#[source] io::Error),
    /// The file system has too little free space.
    #[error("{bytes} bytes don't fit on the file system")]
    NoSpace {
        /// How many bytes were asked for.
        bytes: u64,
    },
    /// The file system lacks an operation for which there is no safe substitute.
    #[error("the file system can't {0}")]
    Unsupported(&'static str),
    /// The file changed while it was read.
    #[error("the file changed while it was read")]
    Changed,
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
    /// The request is over a limit.
    #[error("over the limit of {0}")]
    Limit(&'static str),
    /// A system call failed.
    #[error("{doing} failed")]
    System {
        /// What was being done.
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
    /// Makes an error of a system call that failed while `doing` something; for `map_err`.
    pub fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }

    /// The system's error number, if a system call failed with one.
    pub(in crate::files) fn errno(&self) -> Option<Errno> {
        match self {
            Self::System { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }
}
