//! Who writes which part: one request at a time, the latest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::UploadSource;

/// Uploads that are being received, by the names of their parts.
#[derive(Debug, Default, Clone)]
pub(in crate::files::store) struct ActiveUploads(Arc<Mutex<HashMap<String, ActiveState>>>);

#[derive(Debug, Default, Clone)]
struct ActiveState {
    superseded: CancellationToken,
    ended: CancellationToken,
}

impl ActiveUploads {
    /// Waits until the part of `source` is free, which its writer is asked for.
    pub(in crate::files::store) async fn enter(&self, source: &UploadSource) -> ActiveUpload {
        let name = source.name();
        loop {
            let earlier = match self.take(&name) {
                Ok(active) => return active,
                Err(earlier) => earlier,
            };
            earlier.superseded.cancel();
            earlier.ended.cancelled().await;
        }
    }

    /// Takes a part that nobody writes, so that it can be removed.
    pub(super) fn take_idle(&self, name: &str) -> Option<ActiveUpload> {
        self.take(name).ok()
    }

    fn take(&self, name: &str) -> Result<ActiveUpload, ActiveState> {
        match self.0.lock().entry(name.to_owned()) {
            Entry::Occupied(earlier) => Err(earlier.get().clone()),
            Entry::Vacant(free) => Ok(ActiveUpload {
                state: free.insert(ActiveState::default()).clone(),
                uploads: self.clone(),
                name: name.to_owned(),
            }),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }
}

/// The only writer of a part, until it is dropped.
#[derive(Debug)]
pub(in crate::files) struct ActiveUpload {
    uploads: ActiveUploads,
    name: String,
    state: ActiveState,
}

impl ActiveUpload {
    /// Completes when a later request for the same upload waits.
    pub(in crate::files) fn superseded(&self) -> &CancellationToken {
        &self.state.superseded
    }
}

impl Drop for ActiveUpload {
    fn drop(&mut self) {
        self.uploads.0.lock().remove(&self.name);
        self.state.ended.cancel();
    }
}
