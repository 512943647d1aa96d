//! One-way synchronization: the directory at one side becomes what the directory at the other side is.
//!
//! A [comparison](compare) of both sides makes a plan, what it leaves open is [resolved](resolve) by
//! digests, and the plan is [carried out](apply): renames, transfers, and deletions last. A run that was
//! interrupted is completed by the next one, which finds what is there.

mod apply;
mod compare;
mod filter;
mod plan;
mod resolve;
mod side;
mod spool;
mod walk;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quire_shared::RemotePath;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{EntryKind, Preserve};

use super::engine::Transfer;
use super::links::LinkPolicy;
use super::reconnect::{Reconnect, passes};
use crate::client::Client;
use crate::delta::Delta;
use crate::details::Keep;
use crate::error::ClientError;

pub use filter::{Filter, FilterBuilder, PatternError};
pub use side::SyncSide;

/// How a sync goes about its work. By default it transfers what differs, and deletes nothing.
#[derive(Debug, Clone, Default)]
pub struct SyncOptions {
    /// What is left alone on both sides.
    pub filter: Arc<Filter>,
    /// Whether files of one size are compared by digest, instead of by modification time.
    pub checksum: bool,
    /// Whether what isn't at the source is deleted at the target.
    pub deletion: Option<SyncDeletion>,
    /// Where what is replaced or deleted goes instead: a directory at the side of the target.
    pub backup: Option<SyncSide>,
    /// Whether nothing is changed, and only reported.
    pub dry_run: bool,
    /// The kind of digest that proves a content.
    pub digest: DigestKind,
    /// Which attributes of the source the target gets.
    pub preserve: Preserve,
    /// Which details of the source it gets as well. Files that differ in nothing else get them alone.
    pub keep: Keep,
    /// Whether each local file is synced to disk before it counts as done.
    pub fsync: bool,
    /// Whether only what changed of a large file is sent.
    pub delta: Delta,
    /// What becomes of symbolic links.
    pub links: LinkPolicy,
    /// Whether files with several names at the source have them at the target as well.
    pub hard_links: bool,
}

/// Limits of what a sync deletes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SyncDeletion {
    /// The most files and directories; with more, nothing is changed.
    pub max: Option<u64>,
    /// Whether all is deleted if the source is empty.
    pub may_empty: bool,
}

impl SyncOptions {
    /// The backup directory, if it is below `target`.
    fn backup_below(&self, target: &SyncSide) -> Option<RemotePath> {
        target.relative(self.backup.as_ref()?)
    }
}

/// Something that a sync does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStep {
    /// What.
    pub action: SyncAction,
    /// The file or directory, below the directory that is synced.
    pub path: RemotePath,
    /// Its old name, if it is renamed.
    pub from: Option<RemotePath>,
    /// What it is. What is deleted counts as a file, unless it is a directory or a symbolic link.
    pub kind: EntryKind,
    /// Bytes of content that are to be transferred.
    pub bytes: u64,
}

/// What a sync does with a file or directory of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncAction {
    /// It is made.
    New,
    /// It is replaced, or changed in part.
    Changed,
    /// It gets another name.
    Renamed,
    /// It is deleted, with all that is in it.
    Deleted,
    /// It gets other permissions.
    Mode,
    /// It gets other details: extended attributes, owner or group.
    Details,
}

impl SyncAction {
    /// A word for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Renamed => "renamed",
            Self::Deleted => "deleted",
            Self::Mode => "mode",
            Self::Details => "details",
        }
    }
}

/// Counts what a sync does, and passes each step to an observer before it is done.
pub struct SyncReport {
    transfer: Arc<Transfer>,
    same: AtomicU64,
    saved: AtomicU64,
    renamed: AtomicU64,
    deleted: AtomicU64,
    observer: Box<dyn Fn(&SyncStep) + Send + Sync>,
}

impl SyncReport {
    /// A report whose transfers are those of `transfer`.
    pub fn new(
        transfer: Arc<Transfer>,
        observer: impl Fn(&SyncStep) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            transfer,
            same: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            renamed: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            observer: Box::new(observer),
        })
    }

    /// Files that were the same on both sides.
    pub fn same(&self) -> u64 {
        self.same.load(Ordering::Relaxed)
    }

    /// Bytes of files that were not transferred, because the target had them.
    pub fn saved(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    /// Files and directories that got another name.
    pub fn renamed(&self) -> u64 {
        self.renamed.load(Ordering::Relaxed)
    }

    /// Files and directories that were deleted.
    pub fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }

    fn step(&self, step: &SyncStep) {
        (self.observer)(step);
    }
}

impl fmt::Debug for SyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncReport")
            .field("transfer", &self.transfer)
            .field("renamed", &self.renamed)
            .field("deleted", &self.deleted)
            .finish_non_exhaustive()
    }
}

/// The two sides of a sync, and how it is done.
#[derive(Debug, Clone)]
pub struct SyncJob {
    /// What is read.
    pub source: SyncSide,
    /// What becomes the same. It is made if it doesn't exist.
    pub target: SyncSide,
    /// How.
    pub options: SyncOptions,
}

impl SyncJob {
    /// Makes the target what the source is. What fails is reported to the transfer of `report`. After the
    /// loss of the connection to the only server, it begins again over the one that `reconnect` makes.
    pub async fn run(self, reconnect: &impl Reconnect, report: &Arc<SyncReport>) {
        let transfer = &report.transfer;
        let (client, may_repeat) = match (&self.source, &self.target) {
            (SyncSide::Local(_), SyncSide::Server(client, _))
            | (SyncSide::Server(client, _), SyncSide::Local(_)) => (client.clone(), true),
            (SyncSide::Server(..), SyncSide::Server(client, _)) => (client.clone(), false),
            (SyncSide::Local(path), SyncSide::Local(_)) => {
                let path = path.clone();
                let reason = "is local, as the target is; a sync needs a server";
                transfer.fail(
                    &*path,
                    ClientError::Unsuitable {
                        path: path.clone(),
                        reason,
                    },
                );
                return;
            }
        };
        let job = &self;
        let pass = |client: Client, is_again| async move {
            let job = match may_repeat {
                true => job.over(&client),
                false => job.clone(),
            };
            if is_again {
                for counter in [&report.same, &report.saved] {
                    counter.store(0, Ordering::Relaxed);
                }
            }
            if let Err(error) = apply::run(&job, report).await {
                transfer.fail(job.target.name_of(&RemotePath::ROOT), error);
            }
        };
        passes(&client, reconnect, transfer, may_repeat, pass).await;
    }

    /// The same over another connection.
    fn over(&self, client: &Client) -> Self {
        let options = SyncOptions {
            backup: self.options.backup.as_ref().map(|side| side.over(client)),
            ..self.options.clone()
        };
        Self {
            source: self.source.over(client),
            target: self.target.over(client),
            options,
        }
    }
}
