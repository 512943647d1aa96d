//! The served directory, with an asynchronous interface.
//!
//! [`Store`] hands file work to blocking threads; `root` and its siblings do that work, and are the
//! only code of the server that touches the directory. This module is private to `files`: a front
//! end can't reach the directory without the rights, quotas and locks that `files` applies.
//!
//! The store knows paths, versions and attributes, but no message of the wire and no callers.

mod batch;
mod copy;
mod entry_filter;
mod error;
pub(super) mod faults;
#[cfg(test)]
mod fixture;
mod group_commit;
mod listing;
mod metadata;
mod namespace;
mod new_directories;
mod open;
mod open_file;
mod publish;
mod read_dir;
mod resolve;
mod root;
mod staging;
mod trash;
mod walk;

use std::io;
use std::path::Path;
use std::sync::Arc;

use quire_shared::protocol::{Attributes, Time};
use quire_shared::{Name, RemotePath};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub use batch::Committed;
pub use entry_filter::EntryFilter;
pub use error::Error;
pub use faults::{Fault, Faults};
pub use listing::{Listing, ListingPart};
pub use open::{OpenError, Options, ReadOnlyReason};
pub use open_file::OpenFile;
pub use resolve::Parents;
pub use trash::Trash;

pub(super) use batch::Change;
pub(super) use copy::{CopySource, StagedCopy};
pub(super) use metadata::is_quiet;
pub(super) use open_file::Range;
pub(super) use publish::Destination;
pub(super) use staging::StagedFile;
pub(super) use walk::{Visited, Walk, WalkStep};

use root::Root;

/// The served directory; clones stand for the same one.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: Root,
    /// Admits changes, so that many that wait for the disk leave threads to the readers.
    changes: Arc<Semaphore>,
}

impl Store {
    /// Opens the directory at `path`. Blocks; belongs at the start of the program.
    ///
    /// # Errors
    /// Why the directory can't be served.
    pub(super) fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        Ok(Self {
            root: Root::open(path, options)?,
            changes: Arc::new(Semaphore::new(CHANGES_MAX)),
        })
    }

    /// See [`Root::read_only`].
    pub(super) fn read_only(&self) -> Option<ReadOnlyReason> {
        self.root.read_only()
    }

    /// See [`Root::contains_path`]. Blocks; belongs at the start of the program.
    ///
    /// # Errors
    /// If that can't be found out.
    pub(super) fn contains_path(&self, path: &Path) -> io::Result<bool> {
        self.root.contains_path(path)
    }

    /// What is known of `path`. A symbolic link is described, not followed.
    ///
    /// # Errors
    /// If there is nothing, or a directory on the way is missing.
    pub(super) async fn stat(&self, path: &RemotePath) -> Result<Attributes, Error> {
        let path = path.clone();
        self.read(move |root| root.stat(&path)).await
    }

    /// Opens the regular file at `path` for reading.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn open_file(&self, path: &RemotePath) -> Result<OpenFile, Error> {
        let path = path.clone();
        self.read(move |root| root.open_file(&path)).await
    }

    /// Begins to list the directory at `path` with the first name after `after`.
    ///
    /// # Errors
    /// If there is no directory, or it can't be read.
    pub(super) async fn list(
        &self,
        path: &RemotePath,
        after: Option<Name>,
        filter: Option<EntryFilter>,
    ) -> Result<Listing, Error> {
        let path = path.clone();
        self.read(move |root| root.list(&path, after, filter)).await
    }

    /// Begins a walk in the directory at `path`, and says what is known of that.
    ///
    /// # Errors
    /// If there is no directory, or it can't be read.
    pub(super) async fn walk(
        &self,
        path: &RemotePath,
        filter: Option<EntryFilter>,
    ) -> Result<(Walk, Attributes), Error> {
        let path = path.clone();
        self.read(move |root| root.walk(&path, filter)).await
    }

    /// Refuses what can be refused before any content has come, and makes room for it.
    ///
    /// # Errors
    /// Those of a commit of the content, and too little space for `size`.
    pub(super) async fn stage(
        &self,
        target: Destination,
        size: Option<u64>,
    ) -> Result<StagedFile, Error> {
        let staged = self.change(move |root| {
            root.check(&target, size)?;
            root.stage(size)
        });
        staged.await
    }

    /// Stages many files in one blocking task: first all are written by `write`, then synced, so
    /// that they share what the disk does to keep them.
    pub(super) async fn stage_all<T, E>(
        &self,
        contents: Vec<T>,
        write: impl Fn(T, &Stager<'_>) -> Result<StagedFile, E> + Send + 'static,
    ) -> Result<Vec<Result<StagedFile, E>>, Error>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let staged = self.change(move |root| {
            let stager = Stager(root);
            let contents = contents.into_iter();
            let mut staged: Vec<_> = contents.map(|content| write(content, &stager)).collect();
            for file in staged.iter().flatten() {
                file.start_writing();
            }
            for result in &mut staged {
                if let Ok(file) = result
                    && let Err(error) = file.sync()
                {
                    *result = Err(error.into());
                }
            }
            Ok(staged)
        });
        staged.await
    }

    /// Sets time and permissions of a staged file, where known, and makes it durable.
    ///
    /// # Errors
    /// If the system fails. The content is lost then.
    pub(super) async fn seal(
        &self,
        staged: StagedFile,
        modified: Option<Time>,
        mode: Option<u32>,
    ) -> Result<StagedFile, Error> {
        let sealed = self.change(move |_| {
            staged.seal(modified, mode)?;
            Ok(staged)
        });
        sealed.await
    }

    /// Copies what `source` names into staging. Dropping the future ends the work.
    ///
    /// # Errors
    /// If it can't be copied, or not to `target`.
    pub(super) async fn stage_copy(
        &self,
        source: CopySource,
        target: Destination,
    ) -> Result<StagedCopy, Error> {
        let wanted = copy::Wanted::default();
        let cancelled = wanted.cancelled();
        let staged = self.change(move |root| root.stage_copy(&source, &target, &cancelled));
        staged.await
    }

    /// Carries out changes, whose locks the caller holds, in one blocking task, and then `done` in
    /// the same task. What succeeded is durable. The work goes on when the future is dropped.
    ///
    /// # Errors
    /// Only for a defect; each change has a result of its own.
    pub(super) async fn commit<D: Send + 'static>(
        &self,
        changes: Vec<Change>,
        done: impl FnOnce(Vec<Result<Committed, Error>>) -> D + Send + 'static,
    ) -> Result<D, Error> {
        self.change(move |root| Ok(done(root.commit(changes))))
            .await
    }

    /// Frees the space of a directory that was deleted.
    ///
    /// # Errors
    /// If something can't be removed; the rest is.
    pub(super) async fn remove(&self, trash: Trash) -> Result<(), Error> {
        self.change(move |_| trash.remove()).await
    }

    /// Runs file work that only reads.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let root = self.root.clone();
        blocking(move || work(&root)).await
    }

    /// Runs file work that changes something, and so may wait for the disk, in one of the few
    /// blocking threads that are set aside for it.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.changes).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Internal("the gate of changes is closed"))?;
        self.read(move |root| {
            let result = work(root);
            drop(permit);
            result
        })
        .await
    }
}

/// Runs file work in a blocking thread.
///
/// # Errors
/// Those of the work, or that it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work)
        .await
        .map_err(|_| Error::Internal("a blocking task ended without a result"))?
}

/// Makes staged files on a blocking thread.
#[derive(Debug)]
pub(super) struct Stager<'root>(&'root Root);

impl Stager<'_> {
    /// Makes a private file for new content of `bytes` bytes.
    ///
    /// # Errors
    /// If nothing may be changed, or the space isn't there.
    pub(super) fn stage(&self, bytes: u64) -> Result<StagedFile, Error> {
        self.0.stage(Some(bytes))
    }
}

/// Changes at once: enough for directory syncs to be shared by many, an eighth of the threads
/// that tokio keeps for blocking work.
const CHANGES_MAX: usize = 64;
