//! Directories on the server while they are being filled.
//!
//! Every upload into a directory holds a reference to it. When the last reference is dropped, all
//! entries are there, and the directory gets its own modification time and mode. Earlier, a new
//! entry would change the time, and the mode might forbid it. A directory that couldn't be made is
//! reported then as well, with the number of what is below it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use quire_shared::RemotePath;
use quire_shared::protocol::SetAttributes;
use tokio::sync::{mpsc, watch};

use super::engine::Transfer;
use crate::error::ClientError;

/// A directory on the server.
#[derive(Debug)]
pub(super) struct RemoteDir {
    path: RemotePath,
    /// What it gets in the end, unless it keeps its own.
    attributes: Option<SetAttributes>,
    state: watch::Sender<RemoteDirState>,
    parent: Option<Arc<Self>>,
    complete: mpsc::UnboundedSender<CompleteDir>,
    /// Why it couldn't be made, unless that is the fault of its parent.
    failure: OnceLock<ClientError>,
    /// Files and directories below it that were not stored because it is missing.
    below: AtomicU64,
    transfer: Arc<Transfer>,
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
        transfer: Arc<Transfer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path,
            attributes,
            state: watch::Sender::new(RemoteDirState::Pending),
            parent,
            complete,
            failure: OnceLock::new(),
            below: AtomicU64::new(0),
            transfer,
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

    /// Notes that it couldn't be made.
    pub(super) fn fail(&self, error: ClientError) {
        if !self.parent.as_deref().is_some_and(Self::is_missing) {
            // An item has one outcome.
            let _ = self.failure.set(error);
        }
        self.set_state(RemoteDirState::Missing);
    }

    /// Counts what is not stored because the directory is missing.
    pub(super) fn leave_out(&self, count: u64) {
        self.below.fetch_add(count, Ordering::Relaxed);
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

impl RemoteDir {
    fn report(&mut self) {
        let below = *self.below.get_mut();
        match (self.failure.take(), &self.parent) {
            (Some(error), _) => {
                self.transfer.fail_with_below(&self.path, error, below);
            }
            (None, Some(parent)) => parent.leave_out(1 + below),
            (None, None) => {}
        }
    }
}

impl Drop for RemoteDir {
    fn drop(&mut self) {
        let state = *self.state.borrow();
        match state {
            RemoteDirState::Made => {}
            RemoteDirState::Missing => return self.report(),
            RemoteDirState::Pending | RemoteDirState::Kept => return,
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
            preserve: Default::default(),
            details: None,
        };
        let transfer = Transfer::new(|_| {});
        RemoteDir::new(path, Some(set), parent, complete.clone(), transfer)
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
    fn a_missing_directory_is_reported_once_with_all_that_is_below_it() {
        let (sender, _complete) = mpsc::unbounded_channel();
        let outer = remote_dir("a", None, &sender);
        let inner = remote_dir("a/b", Some(Arc::clone(&outer)), &sender);
        let transfer = Arc::clone(&outer.transfer);
        outer.fail(ClientError::of_code(quire_shared::ErrorCode::NOT_FOUND));
        inner.fail(ClientError::of_code(quire_shared::ErrorCode::NOT_FOUND));
        outer.leave_out(2);
        inner.leave_out(3);
        drop((inner, outer));
        assert_eq!(transfer.failed(), 1 + 2 + 1 + 3);
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
