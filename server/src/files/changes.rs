//! What became visible and is durable, told to all who want to hear of it.

use quire_shared::RemotePath;
use tokio::sync::broadcast;

use super::store;

/// A change that is visible and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeNotice {
    /// The path has new content, or is a new directory.
    Written(RemotePath),
    /// The directory has other attributes.
    Attributes(RemotePath),
    /// What had the first name has the second.
    Renamed(RemotePath, RemotePath),
    /// The path, and all that was below it, is gone.
    Deleted(RemotePath),
}

impl ChangeNotice {
    /// What `change` will have changed once it is committed.
    pub(super) fn by(change: &store::Change) -> Self {
        use store::Change;
        match change {
            Change::File { target, .. }
            | Change::Copy { target, .. }
            | Change::Directory { target } => Self::Written(target.path.clone()),
            Change::Attributes { path, .. } => Self::Attributes(path.clone()),
            Change::Rename { from, to, .. } => Self::Renamed(from.clone(), to.clone()),
            Change::Delete { path, .. } => Self::Deleted(path.clone()),
        }
    }

    /// The paths whose content may be another than before.
    pub fn paths(&self) -> impl Iterator<Item = &RemotePath> {
        let (first, second) = match self {
            Self::Written(path) | Self::Deleted(path) => (Some(path), None),
            Self::Attributes(_) => (None, None),
            Self::Renamed(from, to) => (Some(from), Some(to)),
        };
        first.into_iter().chain(second)
    }
}

/// The one place from which changes are announced, in the order of their commits for each path.
#[derive(Debug, Clone)]
pub(super) struct Changes(broadcast::Sender<ChangeNotice>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// Announces a change whose paths are still locked.
    pub(super) fn announce(&self, changed: ChangeNotice) {
        // Fails only if nobody listens.
        let _ = self.0.send(changed);
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<ChangeNotice> {
        self.0.subscribe()
    }
}

/// Changes that a listener may be behind before it misses some, which it then hears.
const BACKLOG: usize = 4096;
