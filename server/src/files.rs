//! Operations on files, independent of the front end.
//!
//! A front end decodes a request, calls one operation of [`Files`] with a [`Caller`], and encodes
//! the result. An operation checks the rights, charges the quota, takes the locks, does its work in
//! the store and announces the change, in this order. The announcement also invalidates the cache.
//! The store is private to this module, so no front end can bypass these steps.
//!
//! No lock is held while a body is transferred. An operation that holds locks takes no further
//! ones: together with the fixed order of `locks`, that rules out deadlocks.

mod batch_upload;
mod cache;
mod caller;
mod changes;
mod chunk_cache;
mod chunk_listing;
mod commit;
mod content;
mod digest_cache;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod links;
mod locks;
mod named_reads;
mod outcomes;
pub(crate) mod quota;
pub(crate) mod scope;
mod store;
mod tree_walk;
mod upload;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quire_certs::Fingerprint;
use quire_shared::RemotePath;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::{
    Attributes, Chmod, Copied, Copy, Delete, DetailKinds, Get, List, MakeDirectory, Rename, Stat,
    Version,
};
use tokio::sync::{broadcast, oneshot};
use tracing::{Instrument, error};

use crate::auth::access::Access;
use crate::metrics::Metrics;

pub use batch_upload::{BatchItem, BatchUpload};
pub use cache::{CacheConfig, CacheSnapshot};
pub use caller::Caller;
pub use changes::ChangeNotice;
pub use chunk_listing::{ChunkListPart, ChunkListing};
pub use content::{ByteRange, Content};
pub use error::Error;
pub use locks::Hold;
pub use named_reads::{FileVisitor, NamedReads};
pub(crate) use store::PART_TARGETS_BYTES_MAX;
pub use store::{
    Committed, Error as StoreError, Fault, Faults, Listing, ListingPart, OpenError, OpenFile,
    Options, ReadOnlyReason, SinceOpened,
};
pub use tree_walk::{TreeEntry, TreeWalk, Visitor};
pub use upload::{DeltaUpload, Upload};

use cache::Cache;
use changes::Changes;
use chunk_cache::ChunkCache;
use commit::Pending;
use digest_cache::DigestCache;
use locks::LockTable;
use quota::{QuotaLimits, Quotas};
use scope::Parents;
use store::{Change, CopySource, Destination, LeftOut, Store};

/// Operations on the served directory. Clones share its state.
#[derive(Debug, Clone)]
pub struct Files(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    store: Store,
    locks: LockTable,
    cache: Cache,
    digests: DigestCache,
    chunks: ChunkCache,
    quotas: Quotas,
    changes: Changes,
    metrics: Arc<Metrics>,
}

/// Settings of the operations.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// Path of the served directory.
    pub(crate) root: PathBuf,
    /// Options of the store.
    pub(crate) options: Options,
    /// Settings of the content cache.
    pub(crate) cache: CacheConfig,
    /// Limits of each key.
    pub(crate) quota: QuotaLimits,
    /// Time that an operation waits for the lock of a path.
    pub(crate) lock_limit: Duration,
}

/// Checks that the directory at `path` can be served, without changing anything. Blocks.
///
/// # Errors
/// The reason why it can't be served.
pub(crate) fn check_root(path: &Path) -> Result<(), OpenError> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    Store::open(path, options).map(drop)
}

/// Digest of a file, with the attributes of the version that it belongs to.
#[derive(Debug)]
pub struct FileDigest {
    /// Digest of the whole content.
    pub digest: Digest,
    /// Attributes of the file when it was read.
    pub attributes: Attributes,
    /// Whether the file grew meanwhile, so that the digest is only of what it had at the beginning.
    pub grew: bool,
}

impl Files {
    /// Opens the served directory. Blocks; for the start of the program.
    ///
    /// # Errors
    /// The reason why the directory can't be served.
    pub fn open(config: &FilesConfig) -> Result<Self, OpenError> {
        let metrics = Arc::<Metrics>::default();
        let faults = config.options.faults;
        Ok(Self(Arc::new(Parts {
            store: Store::open(&config.root, config.options)?,
            locks: LockTable::new(config.lock_limit).with_faults(faults),
            cache: Cache::new(config.cache),
            digests: DigestCache::new(),
            chunks: ChunkCache::new(),
            quotas: Quotas::new(config.quota, Arc::clone(&metrics)),
            changes: Changes::new(),
            metrics,
        })))
    }

    /// Counters of reached limits, shared by the operations and the front ends.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Whether `path`, existing or not, lies in the served directory. Files with keys or rights
    /// must not: a client that may put there could give itself rights. Blocks.
    ///
    /// # Errors
    /// If the system can't resolve the path.
    pub(crate) fn contains_path(&self, path: &Path) -> io::Result<bool> {
        self.store().contains_path(path)
    }

    /// Reason why every change is refused, if the directory is read-only.
    pub fn read_only(&self) -> Option<ReadOnlyReason> {
        self.store().read_only()
    }

    /// Number of locked paths; 0 when no operation is running.
    pub(crate) fn locked_paths(&self) -> usize {
        self.locks().len()
    }

    /// Makes the caller for a client with these rights. `None` is for clients without a key, or
    /// with one without rights of its own; all of these share one quota.
    pub fn caller(&self, access: Arc<Access>, key: Option<Fingerprint>) -> Caller {
        Caller::new(access, self.0.quotas.of(key), self.locks().new_owner(), key)
    }

    /// Subscribes to all later changes. A change is announced when it is durable.
    pub fn subscribe(&self) -> broadcast::Receiver<ChangeNotice> {
        self.0.changes.subscribe()
    }

    /// Locks `path` and everything below it for operations of `caller` only, until the result is
    /// dropped.
    ///
    /// # Errors
    /// If the caller may not change the path, or the lock timed out.
    pub async fn hold(&self, caller: &Caller, path: &RemotePath) -> Result<Hold, Error> {
        caller.access.make_directory(path)?;
        Ok(self.locks().hold(caller.owner, path).await?)
    }

    /// Whether the caller may change anything, and the directory isn't read-only.
    ///
    /// # Errors
    /// If the caller has no rights at all.
    pub fn is_writable(&self, caller: &Caller) -> Result<bool, Error> {
        caller.access.any()?;
        Ok(caller.access.may_change() && self.read_only().is_none())
    }

    /// Snapshot of the cache, with the entries that the caller may list.
    ///
    /// # Errors
    /// If the caller has no rights at all.
    pub fn cached(&self, caller: &Caller) -> Result<CacheSnapshot, Error> {
        caller.access.any()?;
        let mut snapshot = self.cache().list();
        snapshot
            .entries
            .retain(|entry| caller.access.may_list(&entry.path));
        Ok(snapshot)
    }

    /// Bytes of cached content in memory. Includes invalidated content that is still being sent.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cache().list().live
    }

    /// Reads the attributes of a path. A symbolic link isn't followed.
    ///
    /// # Errors
    /// If it is refused, or the path doesn't exist.
    pub async fn stat(&self, caller: &Caller, request: &Stat) -> Result<Attributes, Error> {
        let path = &request.path;
        caller.access.stat(path)?;
        let _guard = self.locks().shared(caller.owner, path).await?;
        let found = self.store().stat(path, request.details).await?;
        Ok(caller.shown(path, found))
    }

    /// Opens the content of a file.
    ///
    /// # Errors
    /// If it is refused, the path isn't a file of the version asked for, or the range is outside
    /// it.
    pub async fn get(&self, caller: &Caller, request: &Get) -> Result<Content, Error> {
        let path = &request.path;
        caller.access.get(path)?;
        let guard = self.locks().shared(caller.owner, path).await?;
        let file = self.store().open_file(path, request.details).await?;
        // A put replaces a file and never writes to it, so an open file is a stable snapshot.
        drop(guard);
        content::require_version(&request.precondition, &file.attributes)?;
        let range = ByteRange {
            digest_from_start: request.digest_from_start,
            takes_extents: request.takes_extents,
            offset: request.offset,
            length: request.length,
        };
        Content::new(file, path, range, request.digest, self.cache()).await
    }

    /// Digest of a file, from the digest cache or computed. Dropping the future stops the work.
    ///
    /// # Errors
    /// If it is refused, the path isn't a file, or the file changes while it is read.
    pub async fn hash(
        &self,
        caller: &Caller,
        path: &RemotePath,
        kind: DigestKind,
    ) -> Result<FileDigest, Error> {
        caller.access.get(path)?;
        let guard = self.locks().shared(caller.owner, path).await?;
        let file = self.store().open_file(path, DetailKinds::default()).await?;
        drop(guard);
        let known = self.0.digests.get(&file.attributes.version, kind);
        // The version of a file whose size lies says nothing of its content.
        if let Some(digest) = known.filter(|_| file.content().is_none()) {
            return Ok(FileDigest {
                digest,
                attributes: file.attributes,
                grew: false,
            });
        }
        let (digest, state, attributes) = file.hash(kind).await?;
        if state == SinceOpened::Same && file.content().is_none() {
            // A rename during the reading makes another version of the same content, so the digest
            // is stored under the version after the reading.
            self.0.digests.put(&attributes.version, kind, &digest);
        }
        Ok(FileDigest {
            digest,
            attributes,
            grew: state == SinceOpened::Grown,
        })
    }

    /// Opens a directory for listing.
    ///
    /// # Errors
    /// If it is refused, or the path isn't a directory that can be read.
    pub async fn list(&self, caller: &Caller, request: List) -> Result<Listing, Error> {
        let List { path, after } = request;
        let filter = caller.access.list(&path)?;
        let _guard = self.locks().shared(caller.owner, &path).await?;
        Ok(self.store().list(&path, after, filter).await?)
    }

    /// Makes a directory, and its missing parents if the request asks for them.
    ///
    /// # Errors
    /// If it is refused, the quota is used up, or what exists at the path conflicts.
    pub async fn make_directory(
        &self,
        caller: &Caller,
        request: MakeDirectory,
    ) -> Result<Version, Error> {
        caller.access.make_directory(&request.path)?;
        let first = self.first_attempt(caller, request.change_id, &request);
        let named = match first.await? {
            Ok(named) => named,
            Err(outcome) => return outcome.version(),
        };
        let reservation = caller.quota.reserve(0, 1)?;
        let paths = [&request.path];
        let guard = self.locks().exclusive(caller.owner, &paths).await?;
        let target = Destination {
            parents: caller.access.parents(&request.path, request.make_parents),
            path: request.path,
            precondition: request.precondition,
        };
        let pending = Pending::new(Change::Directory { target }).named(named);
        self.commit_version(pending.charged(reservation), guard)
            .await
    }

    /// Renames a file or directory, under exclusive locks on both names. Of two clients that rename
    /// one file, the second therefore gets "not found".
    ///
    /// # Errors
    /// If it is refused, or a precondition of one of the names isn't met.
    pub async fn rename(&self, caller: &Caller, request: Rename) -> Result<Version, Error> {
        let target = caller
            .access
            .rename(&request.from, &request.to, &request.target)?;
        let first = self.first_attempt(caller, request.change_id, &request);
        let named = match first.await? {
            Ok(named) => named,
            Err(outcome) => return outcome.version(),
        };
        let Rename {
            from, to, source, ..
        } = request;
        let guard = self.locks().exclusive(caller.owner, &[&from, &to]).await?;
        let change = Change::Rename {
            from,
            to,
            source,
            target,
        };
        self.commit_version(Pending::new(change).named(named), guard)
            .await
    }

    /// Deletes a file or directory. A directory disappears at once; its space is freed afterwards,
    /// whether or not anybody waits for this future.
    ///
    /// # Errors
    /// If it is refused, a precondition of the name isn't met, or a part of a directory can't be
    /// removed.
    pub async fn delete(&self, caller: &Caller, request: Delete) -> Result<(), Error> {
        caller.access.delete(&request.path)?;
        let first = self.first_attempt(caller, request.change_id, &request);
        let Ok(named) = first.await? else {
            return Ok(());
        };
        if request.recursive {
            self.store().check_removable(&request.path).await?;
        }
        let paths = [&request.path];
        let guard = self.locks().exclusive(caller.owner, &paths).await?;
        let change = Change::Delete {
            path: request.path,
            recursive: request.recursive,
            precondition: request.precondition,
        };
        let files = self.clone();
        let (answer, answered) = oneshot::channel();
        let deleting = async move {
            let pending = Pending::new(change).named(named);
            let committed = files.commit_one(pending, guard).await;
            let (trash, result) = match committed {
                Ok(committed) => (committed.trash, Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Fails if the caller has gone.
            let _ = answer.send(result);
            let Some(trash) = trash else { return };
            match files.store().remove(trash).await {
                Ok(()) | Err(store::Error::Cancelled) => {}
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    error!(error, "could not remove a deleted directory from staging");
                }
            }
        };
        self.store().background().spawn(deleting.in_current_span());
        let lost = |_| store::Error::Internal("a deletion ended without a result");
        answered.await.map_err(lost)?
    }

    /// Changes the permission bits of a file or directory, and perhaps its details.
    ///
    /// # Errors
    /// If it is refused, or the precondition of the name isn't met.
    pub async fn chmod(&self, caller: &Caller, request: Chmod) -> Result<Version, Error> {
        caller.access.chmod(&request.path)?;
        caller
            .access
            .own(&request.path, request.details.as_deref())?;
        let paths = [&request.path];
        let guard = self.locks().exclusive(caller.owner, &paths).await?;
        let change = Change::Chmod {
            path: request.path,
            mode: request.mode,
            details: request.details.into(),
            precondition: request.precondition,
        };
        self.commit_version(Pending::new(change), guard).await
    }

    /// Copies a file or directory on the server. The copy is made in staging, without a lock on the
    /// target: that lock is taken only to publish the copy. Dropping the future stops the work.
    ///
    /// # Errors
    /// If it is refused, the quota is used up, or a precondition of one of the names isn't met.
    pub async fn copy(&self, caller: &Caller, request: Copy) -> Result<Copied, Error> {
        if let Some(version) = self.link(caller, &request).await? {
            return Ok(Copied {
                is_hard_link: true,
                ..Copied::new(version, 0, Vec::new())
            });
        }
        let (from, to, recursive) = (&request.from, &request.to, request.recursive);
        let precondition = caller.access.copy(from, to, recursive, &request.target)?;
        if request.details.owner || request.details.group {
            caller.access.set_owner(to)?;
        }
        let first = self.first_attempt(caller, request.change_id, &request);
        let named = match first.await? {
            Ok(named) => named,
            Err(outcome) => return outcome.copied(),
        };
        let Copy {
            from,
            to,
            source,
            preserve,
            details,
            ..
        } = request;
        let target = Destination {
            path: to,
            precondition,
            parents: Parents::MustExist,
        };
        let staged = {
            let _guard = self.locks().shared(caller.owner, &from).await?;
            let source = CopySource {
                path: from,
                recursive,
                precondition: source,
                preserve,
                details,
            };
            self.store().stage_copy(source, target.clone()).await?
        };
        let LeftOut { count, names } = staged.left_out.clone();
        let reservation = caller.quota.reserve(staged.bytes(), staged.entries())?;
        let guard = self
            .locks()
            .exclusive(caller.owner, &[&target.path])
            .await?;
        let pending = Pending::new(Change::Copy { target, staged });
        let pending = pending.charged(reservation).named(named);
        let version = self.commit_version(pending, guard).await?;
        Ok(Copied::new(version, count, names))
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    fn locks(&self) -> &LockTable {
        &self.0.locks
    }

    fn cache(&self) -> &Cache {
        &self.0.cache
    }
}
