//! Commit of changes: makes them visible and durable under their locks, and announces them.

use std::time::Duration;

use quire_shared::RemotePath;
use quire_shared::protocol::Version;

use super::Files;
use super::caller::Caller;
use super::changes::ChangeNotice;
use super::error::Error;
use super::locks::LockGuard;
use super::quota::Reservation;
use super::store::{self, Change, Committed, NamedChange, StagedFile};

impl Files {
    /// Commits changes, and returns a result for each. If some of the locks aren't free, each
    /// change is committed by itself, so that it waits only for its own locks.
    pub(super) async fn commit_all(
        &self,
        caller: &Caller,
        pending: Vec<Result<Pending, Error>>,
    ) -> Result<Vec<Result<Committed, Error>>, Error> {
        let paths: Vec<_> = pending.iter().flatten().map(Pending::path).collect();
        if let Some(guard) = self.locks().try_exclusive(caller.owner, &paths) {
            return self.commit(pending, guard).await;
        }
        let mut results = Vec::with_capacity(pending.len());
        for one in pending {
            let path = one.as_ref().ok().map(Pending::path);
            let locked = self.locks().exclusive(caller.owner, path.as_slice()).await;
            match locked {
                Ok(guard) => results.extend(self.commit(vec![one], guard).await?),
                Err(busy) => results.push(Err(busy.into())),
            }
        }
        Ok(results)
    }

    /// Commits one change that leaves a file or directory, and returns its version.
    pub(super) async fn commit_version(
        &self,
        pending: Pending,
        guard: LockGuard,
    ) -> Result<Version, Error> {
        let committed = self.commit_one(pending, guard).await?;
        let nothing = store::Error::Internal("a change that left nothing");
        Ok(committed.version.ok_or(nothing)?)
    }

    pub(super) async fn commit_one(
        &self,
        pending: Pending,
        guard: LockGuard,
    ) -> Result<Committed, Error> {
        let results = self.commit(vec![Ok(pending)], guard).await?;
        let nothing = store::Error::Internal("a change without a result");
        results.into_iter().next().unwrap_or(Err(nothing.into()))
    }

    /// Commits changes; every change becomes visible here. The blocking thread holds the locks
    /// until the changes are durable and announced, even if the request is cancelled. A server that
    /// stops waits for that.
    pub(super) async fn commit(
        &self,
        pending: Vec<Result<Pending, Error>>,
        guard: LockGuard,
    ) -> Result<Vec<Result<Committed, Error>>, Error> {
        let mut changes = Vec::new();
        let mut notices = Vec::new();
        let mut named = None;
        for one in pending {
            notices.push(one.map(
                |Pending {
                     change,
                     reservation,
                     named: this,
                 }| {
                    // A batch has none.
                    named = this;
                    let changed = ChangeNotice::by(&change);
                    changes.push(change);
                    (changed, reservation)
                },
            ));
        }
        let files = self.clone();
        let running = self.store().background().token();
        let done = move |results: Vec<Result<Committed, store::Error>>| {
            let mut results = results.into_iter();
            let results = notices.into_iter().map(|notice| {
                let (changed, reservation) = notice?;
                let nothing = store::Error::Internal("a change without a result");
                let result = results.next().unwrap_or(Err(nothing));
                files.announce(changed, &result);
                let committed = result?;
                if let Some(reservation) = reservation {
                    reservation.keep();
                }
                Ok(committed)
            });
            let results: Vec<_> = results.collect();
            drop(guard);
            drop(running);
            results
        };
        Ok(self.store().commit(changes, named, done).await?)
    }

    /// Ends the work that outlives its requests, because the server stops: commits run to their
    /// end, and the next start removes the rest of deleted directories.
    pub(crate) async fn finish(&self) {
        let background = self.store().background();
        background.close();
        let waited = tokio::time::timeout(REMOVALS_TIME, background.wait()).await;
        if waited.is_err() {
            self.store().end_removals();
            background.wait().await;
        }
    }

    fn announce(&self, changed: ChangeNotice, result: &Result<Committed, store::Error>) {
        // A change that could not be made durable is visible all the same, so the cache must not
        // keep the old content. Subscribers are told of durable changes only.
        let is_visible = match result {
            Ok(committed) => !committed.existed,
            Err(error) => matches!(error, store::Error::NotDurable(_)),
        };
        if is_visible {
            for path in changed.paths() {
                self.cache().invalidate(path);
            }
        }
        if is_visible && result.is_ok() {
            self.0.changes.announce(changed);
        }
    }
}

/// Change that the caller has the right to, with its charge to the caller's quota.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) change: Change,
    reservation: Option<Reservation>,
    /// Set if the change is remembered.
    named: Option<Box<NamedChange>>,
}

impl Pending {
    pub(super) fn new(change: Change) -> Self {
        Self {
            change,
            reservation: None,
            named: None,
        }
    }

    pub(super) fn charged(self, reservation: Reservation) -> Self {
        Self {
            reservation: Some(reservation),
            ..self
        }
    }

    /// Has the change remembered under its name.
    pub(super) fn named(self, named: Option<NamedChange>) -> Self {
        let named = named.map(Box::new);
        Self { named, ..self }
    }

    /// File that has to be durable before the change is committed, if there is one.
    pub(super) fn staged(&self) -> Option<&StagedFile> {
        match &self.change {
            Change::File { staged, .. } => Some(staged),
            _ => None,
        }
    }

    /// Path that is locked for a change in a batch.
    pub(super) fn path(&self) -> &RemotePath {
        match &self.change {
            Change::File { target, .. }
            | Change::Copy { target, .. }
            | Change::Symlink { target, .. }
            | Change::Link { target, .. }
            | Change::Directory { target } => &target.path,
            Change::Attributes { path, .. }
            | Change::Chmod { path, .. }
            | Change::Delete { path, .. } => path,
            Change::Rename { to, .. } => to,
        }
    }
}

/// Time for removals when the server stops: enough for some ten thousand files.
const REMOVALS_TIME: Duration = Duration::from_millis(500);
