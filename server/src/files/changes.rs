//! Change notices: a broadcast of every change that is visible and durable.

use quire_shared::RemotePath;
use tokio::sync::broadcast;

use super::store;

/// Notice of a change that is visible and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeNotice {
    /// The path has new content, or is a new directory.
    Written(RemotePath),
    /// The file or directory has other attributes.
    Attributes(RemotePath),
    /// The first path was renamed to the second.
    Renamed(RemotePath, RemotePath),
    /// The path and everything below it was deleted.
    Deleted(RemotePath),
}

impl ChangeNotice {
    /// Makes the notice of `change`, for the time when it is committed.
    pub(super) fn by(change: &store::Change) -> Self {
        use store::Change;
        match change {
            Change::File { target, .. }
            | Change::Copy { target, .. }
            | Change::Symlink { target, .. }
            | Change::Link { target, .. }
            | Change::Directory { target } => Self::Written(target.path.clone()),
            Change::Attributes { path, .. } | Change::Chmod { path, .. } => {
                Self::Attributes(path.clone())
            }
            Change::Rename { from, to, .. } => Self::Renamed(from.clone(), to.clone()),
            Change::Delete { path, .. } => Self::Deleted(path.clone()),
        }
    }

    /// Paths whose content may have changed.
    pub fn paths(&self) -> impl Iterator<Item = &RemotePath> {
        let (first, second) = match self {
            Self::Written(path) | Self::Deleted(path) => (Some(path), None),
            Self::Attributes(_) => (None, None),
            Self::Renamed(from, to) => (Some(from), Some(to)),
        };
        first.into_iter().chain(second)
    }
}

/// Broadcaster of all changes, in the order of their commits for each path.
#[derive(Debug, Clone)]
pub(super) struct Changes(broadcast::Sender<ChangeNotice>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// Announces a change. Its paths have to be locked still, which keeps the order.
    pub(super) fn announce(&self, changed: ChangeNotice) {
        // Fails only if there is no subscriber.
        let _ = self.0.send(changed);
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<ChangeNotice> {
        self.0.subscribe()
    }
}

/// Number of changes that a subscriber may lag behind. Beyond it, the receiver reports how many it
/// missed.
const BACKLOG: usize = 4096;
