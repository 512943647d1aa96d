//! Names of files and directories in the events of a transfer.

use std::fmt;
use std::path::PathBuf;

use quire_shared::{EscapedPath, RemotePath};

/// The file or directory that an event is about: exact for programs, and safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemName {
    /// A path on the server.
    Remote(RemotePath),
    /// A local path.
    Local(PathBuf),
    /// Something that has no path, such as standard input. The text is safe to show.
    Other(String),
}

/// Shows the name with control characters and backslashes escaped.
impl fmt::Display for ItemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(path) => path.fmt(f),
            Self::Local(path) => EscapedPath(path).fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<RemotePath> for ItemName {
    fn from(path: RemotePath) -> Self {
        Self::Remote(path)
    }
}

impl From<&RemotePath> for ItemName {
    fn from(path: &RemotePath) -> Self {
        Self::Remote(path.clone())
    }
}

impl From<PathBuf> for ItemName {
    fn from(path: PathBuf) -> Self {
        Self::Local(path)
    }
}

impl From<&std::path::Path> for ItemName {
    fn from(path: &std::path::Path) -> Self {
        Self::Local(path.to_owned())
    }
}

impl From<String> for ItemName {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}
