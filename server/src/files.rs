//! What can be done with files, whoever asks.
//!
//! A front end decodes a request, calls one operation of [`Files`] with a [`Caller`], and encodes
//! the outcome. Inside an operation are, in this order: the rights, the quota, the locks, the work in
//! the store, the notice of the change, which also clears the cache. The store is private to this
//! module, so that no front end can reach the directory past them.
//!
//! No lock is held while bytes of a body move, and an operation that holds locks asks for no others.

mod batch_upload;
pub(crate) mod cache;
mod caller;
mod changes;
mod commit;
mod content;
mod digest_cache;
mod error;
pub(crate) mod locks;
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
use quire_shared::protocol::{Attributes, Copy, Delete, Get, List, MakeDirectory, Rename, Version};
use tokio::sync::broadcast;
use tracing::debug;

use crate::auth::access::Access;
use crate::metrics::Metrics;

pub use batch_upload::{BatchItem, BatchUpload};
pub use cache::{CacheConfig, CacheSnapshot};
pub use caller::Caller;
pub use changes::ChangeNotice;
pub use content::{ByteRange, Content};
pub use error::Error;
pub use locks::Hold;
pub use store::{
    Error as StoreError, Fault, Faults, Listing, ListingPart, OpenError, OpenFile, Options,
    ReadOnlyReason,
};
pub use tree_walk::{TreeEntry, TreeWalk, Visitor};
pub use upload::Upload;

pub use store::{Committed, Trash};

use cache::Cache;
use changes::Changes;
use commit::Pending;
use digest_cache::DigestCache;
use locks::LockTable;
use quota::{QuotaLimits, Quotas};
use scope::Parents;
use store::{Change, CopySource, Destination, Store};

/// What can be done with the served directory. Clones stand for the same one.
#[derive(Debug, Clone)]
pub struct Files(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    store: Store,
    locks: LockTable,
    cache: Cache,
    digests: DigestCache,
    quotas: Quotas,
    changes: Changes,
    metrics: Arc<Metrics>,
}

/// How the served directory is used.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// The directory.
    pub(crate) root: PathBuf,
    /// How it is opened.
    pub(crate) options: Options,
    /// Memory for file contents.
    pub(crate) cache: CacheConfig,
    /// What the clients of one key may use.
    pub(crate) quota: QuotaLimits,
    /// Time that an operation waits for the lock of a path.
    pub(crate) lock_limit: Duration,
}

/// Checks that the directory at `path` can be served, without changing anything. Blocks.
///
/// # Errors
/// Why it can't.
pub(crate) fn check_root(path: &Path) -> Result<(), OpenError> {
    let options = Options {
        read_only: true,
        faults: Faults::default(),
    };
    Store::open(path, options).map(drop)
}

/// The digest of a file, and of which version of it.
#[derive(Debug)]
pub struct FileDigest {
    /// The digest.
    pub digest: Digest,
    /// What the file was like.
    pub attributes: Attributes,
}

impl Files {
    /// Opens the served directory. Blocks; belongs at the start of the program.
    ///
    /// # Errors
    /// Why the directory can't be served.
    pub fn open(config: &FilesConfig) -> Result<Self, OpenError> {
        let metrics = Arc::<Metrics>::default();
        let faults = config.options.faults;
        Ok(Self(Arc::new(Parts {
            store: Store::open(&config.root, config.options)?,
            locks: LockTable::new(config.lock_limit).with_faults(faults),
            cache: Cache::new(config.cache),
            digests: DigestCache::new(),
            quotas: Quotas::new(config.quota, Arc::clone(&metrics)),
            changes: Changes::new(),
            metrics,
        })))
    }

    /// How often limits were met, by operations and by the front ends that count there too.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Whether `path`, or where it would be made, lies in the served directory. Keys and rights
    /// must not: a client that may put there could give itself rights. Blocks.
    ///
    /// # Errors
    /// If that can't be found out.
    pub fn contains_path(&self, path: &Path) -> io::Result<bool> {
        self.store().contains_path(path)
    }

    /// Why every change is refused, if it is.
    pub fn read_only(&self) -> Option<ReadOnlyReason> {
        self.store().read_only()
    }

    /// How many paths are locked now; 0 when no operation runs.
    pub fn locked_paths(&self) -> usize {
        self.locks().len()
    }

    /// A client with these rights. All who show no `key`, or one without rights of its own, share
    /// one quota.
    pub fn caller(&self, access: Arc<Access>, key: Option<Fingerprint>) -> Caller {
        Caller::new(access, self.0.quotas.of(key), self.locks().new_owner())
    }

    /// Hears of every change from now on, after it is durable.
    pub fn subscribe(&self) -> broadcast::Receiver<ChangeNotice> {
        self.0.changes.subscribe()
    }

    /// Keeps everyone but `caller` from changing `path` and what is below it, until the result is
    /// dropped.
    ///
    /// # Errors
    /// If the caller may not change it, or it stayed in use.
    pub async fn hold(&self, caller: &Caller, path: &RemotePath) -> Result<Hold, Error> {
        caller.access.make_directory(path)?;
        Ok(self.locks().hold(caller.owner, path).await?)
    }

    /// Whether the caller may change anything, and the server too.
    ///
    /// # Errors
    /// If the caller has no rights at all.
    pub fn is_writable(&self, caller: &Caller) -> Result<bool, Error> {
        caller.access.any()?;
        Ok(caller.access.may_change() && self.read_only().is_none())
    }

    /// What the cache holds, as far as the caller may see the names.
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

    /// How many bytes the cache keeps in memory, those included that it has forgotten but that are
    /// still being sent.
    pub fn cached_bytes(&self) -> u64 {
        self.cache().list().live
    }

    /// What is known of a path. A symbolic link is described, not followed.
    ///
    /// # Errors
    /// The refusal, or that nothing has the name.
    pub async fn stat(&self, caller: &Caller, path: &RemotePath) -> Result<Attributes, Error> {
        caller.access.stat(path)?;
        let _guard = self.locks().shared(caller.owner, path).await?;
        Ok(self.store().stat(path).await?)
    }

    /// The content of a file. The lock covers the opening alone: an open file is a stable snapshot.
    ///
    /// # Errors
    /// The refusal, that there is no file or not that version, or a range outside it.
    pub async fn get(&self, caller: &Caller, request: &Get) -> Result<Content, Error> {
        let path = &request.path;
        caller.access.get(path)?;
        let guard = self.locks().shared(caller.owner, path).await?;
        let file = self.store().open_file(path).await?;
        drop(guard);
        content::require_version(&request.precondition, &file.attributes)?;
        let range = ByteRange {
            offset: request.offset,
            length: request.length,
        };
        Content::new(file, path, range, request.digest.hasher(), self.cache())
    }

    /// The digest of a file, computed unless it is known from before. Dropping the future ends the
    /// work.
    ///
    /// # Errors
    /// The refusal, that there is no file, or that it changed meanwhile.
    pub async fn hash(
        &self,
        caller: &Caller,
        path: &RemotePath,
        kind: DigestKind,
    ) -> Result<FileDigest, Error> {
        caller.access.get(path)?;
        let guard = self.locks().shared(caller.owner, path).await?;
        let file = self.store().open_file(path).await?;
        drop(guard);
        if let Some(digest) = self.0.digests.get(&file.attributes.version, kind) {
            let attributes = file.attributes;
            return Ok(FileDigest { digest, attributes });
        }
        let (digest, attributes) = file.hash(kind).await?;
        // A rename meanwhile makes another version of the same content.
        self.0.digests.put(&attributes.version, kind, &digest);
        Ok(FileDigest { digest, attributes })
    }

    /// Begins to list a directory.
    ///
    /// # Errors
    /// The refusal, or that there is no directory that can be read.
    pub async fn list(&self, caller: &Caller, request: List) -> Result<Listing, Error> {
        let List { path, after } = request;
        let filter = caller.access.list(&path)?;
        let _guard = self.locks().shared(caller.owner, &path).await?;
        Ok(self.store().list(&path, after, filter).await?)
    }

    /// Makes a directory, and missing parents if that is asked for.
    ///
    /// # Errors
    /// The refusal, a used-up quota, or what has the name.
    pub async fn make_directory(
        &self,
        caller: &Caller,
        request: MakeDirectory,
    ) -> Result<Version, Error> {
        caller.access.make_directory(&request.path)?;
        let reservation = caller.quota.reserve(0, 1)?;
        let paths = [&request.path];
        let guard = self.locks().exclusive(caller.owner, &paths).await?;
        let target = Destination {
            parents: caller.access.parents(&request.path, request.make_parents),
            path: request.path,
            precondition: request.precondition,
        };
        let pending = Pending::new(Change::Directory { target });
        self.commit_version(pending.charged(reservation), guard)
            .await
    }

    /// Renames under exclusive locks on both names: of two clients that rename one file, the second
    /// finds nothing under the old name.
    ///
    /// # Errors
    /// The refusal, or what doesn't hold for one of the names.
    pub async fn rename(&self, caller: &Caller, request: Rename) -> Result<Version, Error> {
        let Rename {
            from,
            to,
            source,
            target,
        } = request;
        let target = caller.access.rename(&from, &to, &target)?;
        let guard = self.locks().exclusive(caller.owner, &[&from, &to]).await?;
        let change = Change::Rename {
            from,
            to,
            source,
            target,
        };
        self.commit_version(Pending::new(change), guard).await
    }

    /// Removes a name. A directory loses it at once; its space is freed by
    /// [`remove`](Self::remove), which the front end calls after it has answered.
    ///
    /// # Errors
    /// The refusal, or what doesn't hold for the name.
    pub async fn delete(&self, caller: &Caller, request: Delete) -> Result<Option<Trash>, Error> {
        caller.access.delete(&request.path)?;
        let paths = [&request.path];
        let guard = self.locks().exclusive(caller.owner, &paths).await?;
        let change = Change::Delete {
            path: request.path,
            recursive: request.recursive,
            precondition: request.precondition,
        };
        Ok(self.commit_one(Pending::new(change), guard).await?.trash)
    }

    /// Frees the space of a directory that was deleted.
    ///
    /// # Errors
    /// If something can't be removed; the rest is.
    pub async fn remove(&self, trash: Trash) -> Result<(), Error> {
        Ok(self.store().remove(trash).await?)
    }

    /// Makes a second file or directory without sending anything. The copy is made in staging
    /// without a lock on the target, which is taken only to publish it. Dropping the future ends
    /// the work.
    ///
    /// # Errors
    /// The refusal, a used-up quota, or what doesn't hold for one of the names.
    pub async fn copy(&self, caller: &Caller, request: Copy) -> Result<Version, Error> {
        let Copy {
            from,
            to,
            recursive,
            source,
            target,
        } = request;
        let precondition = caller.access.copy(&from, &to, recursive, &target)?;
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
            };
            self.store().stage_copy(source, target.clone()).await?
        };
        if staged.skipped() > 0 {
            let skipped = staged.skipped();
            debug!(skipped, "passed over what is neither file nor directory");
        }
        let reservation = caller.quota.reserve(staged.bytes(), staged.entries())?;
        let guard = self
            .locks()
            .exclusive(caller.owner, &[&target.path])
            .await?;
        let pending = Pending::new(Change::Copy { target, staged });
        self.commit_version(pending.charged(reservation), guard)
            .await
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
