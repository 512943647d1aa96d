//! The served directory, with an asynchronous interface.
//!
//! [`Store`] runs file work on blocking threads. `root` and its siblings do that work, and are the
//! only code of the server that accesses the directory. This module is private to `files`: a front
//! end can't reach the directory without the rights, quotas and locks that `files` applies.
//!
//! The store knows paths, versions and attributes, but no protocol messages and no callers.

mod acl;
mod attributes;
mod batch;
mod cancel;
mod chunking;
mod copy;
mod details;
mod error;
pub(super) mod faults;
#[cfg(test)]
mod fixture;
mod group_commit;
mod links;
mod listing;
mod metadata;
mod namespace;
mod new_directories;
mod open;
mod open_file;
mod outcomes;
mod parts;
mod permissions;
mod publish;
mod read_dir;
mod removable;
mod resolve;
mod root;
mod staged_file;
mod staging;
mod sweep;
mod trash;
mod walk;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quire_shared::protocol::{Attributes, DetailKinds};
use quire_shared::{Name, RemotePath};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use batch::Committed;
pub use error::Error;
pub use faults::{Fault, Faults};
pub(crate) use listing::PART_TARGETS_BYTES_MAX;
pub use listing::{Listing, ListingPart};
pub use open::{OpenError, Options, ReadOnlyReason};
pub use open_file::{OpenFile, SinceOpened};

pub(super) use batch::Change;
pub(super) use cancel::check as check_cancelled;
pub(super) use chunking::ChunkScan;
pub(super) use copy::{CopySource, LeftOut, StagedCopy};
pub(super) use metadata::is_quiet;
pub(super) use open_file::FileReader;
pub(super) use outcomes::{ChangeKey, Claim, NamedChange, Outcome};
pub(super) use parts::{ActiveUpload, FoundPart, UploadSource};
pub(super) use permissions::GivenAttributes;
pub(super) use publish::Destination;
pub(super) use staged_file::StagedFile;
pub(super) use walk::{Visited, Walk, WalkStep};

use super::scope::{EntryFilter, Parents};
use cancel::CancelOnDrop;
use permissions::TargetParent;
use root::Root;

/// Handle of the served directory; clones refer to the same one.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: Root,
    /// Limits concurrent changes, so that changes waiting for the disk leave threads to reads.
    changes: Arc<Semaphore>,
}

impl Store {
    /// Opens the directory at `path`. Blocks; call it at the start of the program.
    ///
    /// # Errors
    /// If the directory can't be served.
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

    /// See [`Root::contains_path`]. Blocks; call it at the start of the program.
    ///
    /// # Errors
    /// If an ancestor of `path` can't be resolved or opened.
    pub(super) fn contains_path(&self, path: &Path) -> io::Result<bool> {
        self.root.contains_path(path)
    }

    /// Reads the attributes of `path`. A symbolic link is described, not followed.
    ///
    /// # Errors
    /// If nothing has the name, or a directory above it is missing.
    pub(super) async fn stat(
        &self,
        path: &RemotePath,
        details: DetailKinds,
    ) -> Result<Attributes, Error> {
        let path = path.clone();
        self.read(move |root| match details.is_empty() {
            true => root.stat(&path),
            false => root.stat_with_details(&path, details),
        })
        .await
    }

    /// Opens the regular file at `path` for reading, and reads its details of these kinds.
    ///
    /// # Errors
    /// If there is no regular file at `path`.
    pub(super) async fn open_file(
        &self,
        path: &RemotePath,
        details: DetailKinds,
    ) -> Result<OpenFile, Error> {
        let path = path.clone();
        self.read(move |root| Ok(root.open_file(&path)?.with_details(details)))
            .await
    }

    /// As [`open_file`](Self::open_file), on a blocking thread of [`blocking`].
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file).
    pub(super) fn open_file_here(
        &self,
        path: &RemotePath,
        details: DetailKinds,
    ) -> Result<OpenFile, Error> {
        let opened = self.root.open_file(path);
        let opened = opened.map_err(|error| self.root.inner.blame_root(error))?;
        Ok(opened.with_details(details))
    }

    /// Starts a listing of the directory at `path`, from the first name after `after`.
    ///
    /// # Errors
    /// If there is no directory at `path`, or it can't be read.
    pub(super) async fn list(
        &self,
        path: &RemotePath,
        after: Option<Name>,
        filter: Option<EntryFilter>,
    ) -> Result<Listing, Error> {
        let path = path.clone();
        self.read(move |root| root.list(&path, after, filter)).await
    }

    /// Starts a walk in the directory at `path`, and returns that directory's attributes. Of all that it
    /// visits, it reads the details of these kinds.
    ///
    /// # Errors
    /// If there is no directory at `path`, or it can't be read.
    pub(super) async fn walk(
        &self,
        path: &RemotePath,
        filter: Option<EntryFilter>,
        details: DetailKinds,
    ) -> Result<(Walk, Attributes), Error> {
        let path = path.clone();
        let started = self
            .read(move |root| root.walk(&path, filter, details))
            .await?;
        // What the caller creates once it knows of the walk must not look as if it had been there.
        while !started.0.is_past_start() {
            tokio::time::sleep(CLOCK_TICK).await;
        }
        Ok(started)
    }

    /// Checks what can be checked before any content is received, and creates a staged file for
    /// the content.
    ///
    /// # Errors
    /// The errors of a commit of the content, and too little free space for `size` bytes.
    pub(super) async fn stage(
        &self,
        target: Destination,
        size: Option<u64>,
    ) -> Result<StagedFile, Error> {
        self.change(move |root| {
            root.check(&target, size)?;
            root.stage(size)
        })
        .await
    }

    /// Waits until nobody else writes the part of `source`, for which its writer is asked.
    pub(super) async fn enter_upload(&self, source: &UploadSource) -> ActiveUpload {
        self.root.inner.uploads.enter(source).await
    }

    /// As [`stage`](Self::stage), for the part of an upload that an earlier one may have begun.
    ///
    /// # Errors
    /// As for [`stage`](Self::stage).
    pub(super) async fn stage_part(
        &self,
        target: Destination,
        source: UploadSource,
        active: ActiveUpload,
        data: Option<u64>,
    ) -> Result<StagedFile, Error> {
        self.change(move |root| {
            root.check(&target, None)?;
            root.stage_part(&source, active, data)
        })
        .await
    }

    /// As [`stage`](Self::stage), for a file with holes. See [`Root::stage_sparse`].
    ///
    /// # Errors
    /// As for [`stage`](Self::stage).
    pub(super) async fn stage_sparse(
        &self,
        target: Destination,
        data: u64,
    ) -> Result<StagedFile, Error> {
        self.change(move |root| {
            root.check(&target, None)?;
            root.stage_sparse(data)
        })
        .await
    }

    /// See [`Root::parts`].
    ///
    /// # Errors
    /// If the staging directory can't be read.
    pub(super) async fn parts(
        &self,
        owner: String,
        path: RemotePath,
        remove: bool,
    ) -> Result<Vec<FoundPart>, Error> {
        self.change(move |root| root.parts(&owner, &path, remove))
            .await
    }

    /// Removes parts that are too old, again and again.
    pub(super) async fn keep_expiring_parts(&self) {
        loop {
            tokio::time::sleep(EXPIRY_INTERVAL).await;
            let expire = |root: &Root| root.expire_parts().and_then(|()| root.expire_outcomes());
            if let Err(error) = self.change(expire).await {
                let error: &dyn std::error::Error = &error;
                warn!(
                    error,
                    "could not remove what is too old from the staging directory"
                );
            }
        }
    }

    /// How long parts are kept.
    pub(super) fn keeps_parts_for(&self) -> Duration {
        self.root.inner.keep_uploads
    }

    /// Prepares many changes in one blocking task. `prepare` writes the content of all of them
    /// before the first of the files that `staged` finds is synced, so that they share the file
    /// system's journal commit.
    ///
    /// # Errors
    /// Only for a defect; each change has a result of its own.
    pub(super) async fn stage_all<T, P, E>(
        &self,
        items: Vec<Result<T, E>>,
        prepare: impl Fn(T, &Stager<'_>) -> Result<P, E> + Send + 'static,
        staged: impl Fn(&P) -> Option<&StagedFile> + Send + 'static,
    ) -> Result<Vec<Result<P, E>>, Error>
    where
        T: Send + 'static,
        P: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.change(move |root| {
            let stager = Stager {
                root,
                last_parent: RefCell::default(),
            };
            let items = items.into_iter();
            let mut prepared: Vec<_> = items
                .map(|item| item.and_then(|item| prepare(item, &stager)))
                .collect();
            for file in prepared.iter().flatten().filter_map(&staged) {
                file.start_writing();
            }
            for result in &mut prepared {
                let file = result.as_ref().ok().and_then(&staged);
                if let Some(Err(error)) = file.map(StagedFile::sync) {
                    *result = Err(error.into());
                }
            }
            Ok(prepared)
        })
        .await
    }

    /// Sets the attributes of a staged file, which will be published as `target`, and makes it
    /// durable.
    ///
    /// # Errors
    /// If a system call fails. The content is lost then.
    pub(super) async fn seal(
        &self,
        mut staged: StagedFile,
        target: Destination,
        given: GivenAttributes,
    ) -> Result<StagedFile, Error> {
        self.change(move |root| {
            let sealed = root
                .set_attributes(&mut staged, &target, given, &mut None)
                .and_then(|()| staged.settle())
                .and_then(|()| staged.sync());
            match sealed {
                Ok(()) => Ok(staged),
                Err(error) => {
                    staged.give_up_part();
                    Err(error)
                }
            }
        })
        .await
    }

    /// Copies what `source` names into staging. Dropping the future cancels the copy.
    ///
    /// # Errors
    /// If the source can't be copied, or `target` can't take the copy.
    pub(super) async fn stage_copy(
        &self,
        source: CopySource,
        target: Destination,
    ) -> Result<StagedCopy, Error> {
        self.change(move |root| root.stage_copy(&source, &target))
            .await
    }

    /// Commits changes, whose locks the caller holds, and then runs `done`, in one blocking task.
    /// Changes that succeeded are durable. The task runs to its end when the future is dropped. One
    /// that is alone may be `named`.
    ///
    /// # Errors
    /// Only for a defect of the server; each change has a result of its own.
    pub(super) async fn commit<D: Send + 'static>(
        &self,
        changes: Vec<Change>,
        named: Option<Box<NamedChange>>,
        done: impl FnOnce(Vec<Result<Committed, Error>>) -> D + Send + 'static,
    ) -> Result<D, Error> {
        self.change(move |root| Ok(done(root.commit_as(changes, named))))
            .await
    }

    /// Checks that the directory at `path` can be removed with everything below it.
    ///
    /// # Errors
    /// If an entry can't be removed.
    pub(super) async fn check_removable(&self, path: &RemotePath) -> Result<(), Error> {
        let path = path.clone();
        self.read(move |root| root.check_removable(&path)).await
    }

    /// Frees the space of a deleted directory.
    ///
    /// # Errors
    /// If an entry can't be removed; the others are removed all the same.
    pub(super) async fn remove(&self, trash: trash::Trash) -> Result<(), Error> {
        self.change(move |_| trash.remove()).await
    }

    /// Work that outlives the requests that began it. A server that stops waits for it.
    pub(super) fn background(&self) -> &TaskTracker {
        &self.root.inner.background
    }

    /// Ends removals early, because the server stops. The next start removes the rest.
    pub(super) fn end_removals(&self) {
        self.root.end_removals();
    }

    /// Runs file work that only reads on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let root = self.root.clone();
        let running = self.background().token();
        let (result, _running) = blocking(move || {
            let result = work(&root).map_err(|error| root.inner.blame_root(error));
            drop(root);
            // Part of what is returned, so that work whose future is gone counts until its result
            // is dropped.
            Ok((result, running))
        })
        .await?;
        result
    }

    /// Runs file work that changes something, and so may wait for the disk, on a blocking thread.
    /// At most [`CHANGES_MAX`] run at once.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.changes).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Internal("the semaphore of changes is closed"))?;
        self.read(move |root| {
            let result = work(root);
            // Held by the task, not by the future: work that outlives its future still counts.
            drop(permit);
            result
        })
        .await
    }
}

/// Runs file work on a blocking thread. Dropping the future cancels the work at its next
/// [`check`](cancel::check).
///
/// # Errors
/// The errors of `work`, and [`Error::Internal`] if it panics.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // Lives as long as this future.
    let guard = CancelOnDrop::default();
    let flag = guard.flag();
    spawn_blocking(move || flag.run(work))
        .await
        .map_err(|_| Error::Internal("a blocking task ended without a result"))?
}

/// Creates staged files on a blocking thread.
#[derive(Debug)]
pub(super) struct Stager<'root> {
    root: &'root Root,
    last_parent: RefCell<Option<TargetParent>>,
}

impl Stager<'_> {
    /// Creates a private file for new content of `bytes` bytes.
    ///
    /// # Errors
    /// If the root is read-only, or the space isn't available.
    pub(super) fn stage(&self, bytes: u64) -> Result<StagedFile, Error> {
        let staged = self.root.stage(Some(bytes));
        staged.map_err(|error| self.root.inner.blame_root(error))
    }

    /// See [`Root::set_attributes`].
    pub(super) fn set_attributes(
        &self,
        staged: &mut StagedFile,
        target: &Destination,
        given: GivenAttributes,
    ) -> Result<(), Error> {
        let last = &mut *self.last_parent.borrow_mut();
        self.root.set_attributes(staged, target, given, last)
    }
}

/// Time between two looks for parts that are too old, so that one outlives its time by an hour at
/// most.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Time between two looks at the clock of the file system, which advances every 1 to 10 ms.
const CLOCK_TICK: Duration = Duration::from_millis(1);

/// Most changes that run at once: enough for many to share a directory sync. That is an eighth of
/// the 512 threads that tokio has for blocking work.
const CHANGES_MAX: usize = 64;
