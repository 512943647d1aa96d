//! Directories on the server while they are being filled.
//!
//! Every upload into a directory holds a reference to it. When the last reference is dropped, all
//! entries are there, and the directory gets its own modification time and mode. Earlier, a new
//! entry would change the time, and the mode might forbid it.

use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::SetAttributes;
use tokio::sync::{mpsc, watch};

/// A directory on the server.
#[derive(Debug)]
pub(super) struct RemoteDir {
    path: RemotePath,
    /// What it gets in the end, unless it keeps its own.
    attributes: Option<SetAttributes>,
    state: watch::Sender<RemoteDirState>,
    parent: Option<Arc<Self>>,
    complete: mpsc::UnboundedSender<CompleteDir>,
}

/// What became of a directory on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemoteDirState {
    /// The server has not answered yet.
    Pending,
    /// It is there, and gets its attributes.
    Made,
    /// It was there before, and keeps its own.
    Kept,
    /// It couldn't be made.
    Missing,
}

/// A directory that has all that is in it, and is to get its attributes.
#[derive(Debug)]
pub(super) struct CompleteDir {
    pub(super) set: SetAttributes,
    /// Is complete only after this one.
    pub(super) parent: Option<Arc<RemoteDir>>,
}

impl RemoteDir {
    pub(super) fn new(
        path: RemotePath,
        attributes: Option<SetAttributes>,
        parent: Option<Arc<Self>>,
        complete: mpsc::UnboundedSender<CompleteDir>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path,
            attributes,
            state: watch::Sender::new(RemoteDirState::Pending),
            parent,
            complete,
        })
    }

    pub(super) fn path(&self) -> &RemotePath {
        &self.path
    }

    pub(super) fn set_state(&self, state: RemoteDirState) {
        self.state.send_replace(state);
    }

    pub(super) fn is_missing(&self) -> bool {
        *self.state.borrow() == RemoteDirState::Missing
    }

    /// Whether the directory that it is in is missing, which has been told.
    pub(super) fn is_below_missing(&self) -> bool {
        self.parent.as_deref().is_some_and(Self::is_missing)
    }

    /// Waits until the server has answered, and says whether the directory is there.
    pub(super) async fn is_there(&self) -> bool {
        let mut state = self.state.subscribe();
        // It can't be gone: it is part of this.
        let answered = state
            .wait_for(|state| *state != RemoteDirState::Pending)
            .await;
        answered.is_ok_and(|state| *state != RemoteDirState::Missing)
    }
}

impl Drop for RemoteDir {
    fn drop(&mut self) {
        if *self.state.borrow() != RemoteDirState::Made {
            return;
        }
        if let Some(set) = self.attributes.take() {
            let parent = self.parent.take();
            // Fails only after the stream broke.
            let _ = self.complete.send(CompleteDir { set, parent });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote_dir(
        name: &str,
        parent: Option<Arc<RemoteDir>>,
        complete: &mpsc::UnboundedSender<CompleteDir>,
    ) -> Arc<RemoteDir> {
        let path = RemotePath::parse(name).unwrap();
        let set = SetAttributes {
            path: path.clone(),
            modified: None,
            mode: Some(0o700),
        };
        RemoteDir::new(path, Some(set), parent, complete.clone())
    }

    #[test]
    fn a_directory_is_complete_after_all_that_is_in_it() {
        let (sender, mut complete) = mpsc::unbounded_channel();
        let outer = remote_dir("a", None, &sender);
        let inner = remote_dir("a/b", Some(Arc::clone(&outer)), &sender);
        drop(sender);
        let file = Arc::clone(&inner);
        outer.set_state(RemoteDirState::Made);
        inner.set_state(RemoteDirState::Made);
        drop((outer, inner));
        complete.try_recv().unwrap_err();
        drop(file);
        let first = complete.try_recv().unwrap();
        assert_eq!(first.set.path.to_string(), "/a/b");
        complete.try_recv().unwrap_err();
        drop(first);
        let second = complete.try_recv().unwrap();
        assert_eq!(second.set.path.to_string(), "/a");
        drop(second);
        assert!(complete.is_closed() && complete.is_empty());
    }

    #[test]
    fn a_directory_that_was_there_or_is_missing_gets_nothing() {
        let (sender, mut complete) = mpsc::unbounded_channel();
        for state in [
            RemoteDirState::Pending,
            RemoteDirState::Kept,
            RemoteDirState::Missing,
        ] {
            let directory = remote_dir("a", None, &sender);
            directory.set_state(state);
            drop(directory);
            complete.try_recv().unwrap_err();
        }
    }
}
