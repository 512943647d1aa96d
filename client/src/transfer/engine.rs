//! State of a transfer: what is counted, reported, and lost.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use quire_shared::RemotePath;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::Version;

use super::item_name::ItemName;
use super::links::Linked;
use crate::download::PartUse;
use crate::error::{ClientError, ErrorKind, shown};

/// The transfer of any number of files: counters, and the observer of its events.
pub struct Transfer {
    moved: AtomicU64,
    arrived: AtomicU64,
    expected: AtomicU64,
    foreseen: AtomicU64,
    foresees_all: AtomicBool,
    files: AtomicU64,
    directories: AtomicU64,
    skipped: AtomicU64,
    present: AtomicU64,
    /// Files that had arrived when the connection was made again.
    moved_before: AtomicU64,
    failed: AtomicU64,
    links: AtomicU64,
    first_failure: OnceLock<ErrorKind>,
    lost: Mutex<Option<LostConnection>>,
    told: Mutex<ToldNames>,
    observer: Box<dyn Fn(&TransferEvent) + Send + Sync>,
}

/// The loss of the connection: the first that has noticed it, and how many have.
pub(super) struct LostConnection {
    name: ItemName,
    pub(super) error: ClientError,
    failed: u64,
}

/// Hashes of the names of what was reported as failed or skipped, so that it isn't reported again when
/// the transfer goes on over another connection.
#[derive(Default)]
struct ToldNames {
    /// In this pass over the files.
    now: HashSet<u64>,
    /// In earlier ones.
    before: HashSet<u64>,
}

/// Something that happened during a transfer.
#[derive(Debug)]
pub enum TransferEvent {
    /// A file is being moved now.
    Started {
        /// The file, by its name where it comes from.
        name: ItemName,
    },
    /// A file has arrived whole.
    Moved(Moved),
    /// A file or directory could not be moved, or only in part.
    Failed {
        /// The file or directory.
        name: ItemName,
        /// Why.
        error: ClientError,
    },
    /// A link was made.
    Linked(Linked),
    /// There are more files with several names than so many, which are remembered. From now on each
    /// name of another is a file of its own.
    LinksFull(usize),
    /// Something was left out that is no failure.
    Skipped {
        /// Its name where it comes from.
        name: ItemName,
        /// Why.
        reason: SkipReason,
    },
}

/// Why something in a directory is left out, without being a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// A symbolic link, which is not followed.
    SymbolicLink,
    /// A FIFO, socket or device, or something on another file system.
    SpecialFile,
    /// A temporary file or directory that quire has left.
    LeftOver,
}

impl SkipReason {
    /// A word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SymbolicLink => "symlink",
            Self::SpecialFile => "special",
            Self::LeftOver => "left-over",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SymbolicLink => "a symbolic link",
            Self::SpecialFile => "neither a file nor a directory",
            Self::LeftOver => "left by an unfinished transfer",
        })
    }
}

/// A file that was moved.
#[derive(Debug)]
pub struct Moved {
    /// The file, by its name where it comes from, safe to show.
    pub name: String,
    /// Its name here.
    pub local: PathBuf,
    /// Its name on the server.
    pub remote: RemotePath,
    /// Its length, in bytes.
    pub bytes: u64,
    /// The digest of its content.
    pub digest: Digest,
    /// The kind of that digest.
    pub digest_kind: DigestKind,
    /// The version that it has on the server.
    pub version: Version,
    /// Whether the file grew meanwhile, so that this is only the beginning of it.
    pub grew: bool,
    /// What became of what an earlier transfer had left of it.
    pub part: PartUse,
}

impl Transfer {
    /// A transfer that passes each event to `observer` as it happens, from any thread.
    pub fn new(observer: impl Fn(&TransferEvent) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            moved: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            foreseen: AtomicU64::new(0),
            foresees_all: AtomicBool::new(false),
            files: AtomicU64::new(0),
            directories: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            present: AtomicU64::new(0),
            moved_before: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            links: AtomicU64::new(0),
            first_failure: OnceLock::new(),
            lost: Mutex::default(),
            told: Mutex::default(),
            observer: Box::new(observer),
        })
    }

    /// Bytes of content that were moved so far, those of unfinished files included.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Bytes of content that came for the files that have arrived.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Bytes of content in all the files found so far.
    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// Bytes of content in all that is to be moved, as far as a walk ahead has found it; and whether
    /// that walk is complete. Without such a walk, what the transfer itself has found.
    pub fn total(&self) -> (u64, bool) {
        let foreseen = self.foreseen.load(Ordering::Relaxed);
        let is_complete = self.foresees_all.load(Ordering::Relaxed);
        (foreseen.max(self.expected()), is_complete)
    }

    /// Files that have arrived.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Directories that were made, or existed already.
    pub fn directories(&self) -> u64 {
        self.directories.load(Ordering::Relaxed)
    }

    /// Symbolic links and special files that were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Files that an earlier transfer had moved, and that this one goes on from.
    pub fn present(&self) -> u64 {
        // After the loss of a connection, what this transfer had moved before is there as well.
        let moved_before = self.moved_before.load(Ordering::Relaxed);
        let present = self.present.load(Ordering::Relaxed);
        present.saturating_sub(moved_before)
    }

    /// Files and directories that could not be moved.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Symbolic and hard links that were made.
    pub fn links(&self) -> u64 {
        self.links.load(Ordering::Relaxed)
    }

    /// The kind of the first failure, if there was one.
    pub fn first_failure(&self) -> Option<ErrorKind> {
        self.first_failure.get().copied()
    }

    /// The counter of moved bytes, for an operation that belongs to this transfer.
    pub fn counter(&self) -> &AtomicU64 {
        &self.moved
    }

    /// Announces `bytes` more that are to be moved.
    pub fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Announces that all that is to be moved has been announced.
    pub fn foresee_no_more(&self) {
        self.foresees_all.store(true, Ordering::Relaxed);
    }

    /// Counts bytes that a walk ahead has found.
    pub(super) fn foresee(&self, bytes: u64) {
        self.foreseen.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Announces that a file is being moved now.
    pub fn start(&self, name: impl Into<ItemName>) {
        let name = name.into();
        (self.observer)(&TransferEvent::Started { name });
    }

    /// Reports how the transfer of a file ended.
    pub fn end(&self, name: impl Into<ItemName>, result: Result<Moved, ClientError>) {
        match result {
            Ok(moved) => {
                self.files.fetch_add(1, Ordering::Relaxed);
                let bytes = match moved.part {
                    PartUse::Continued(there) | PartUse::Copied(there) => {
                        moved.bytes.saturating_sub(there)
                    }
                    PartUse::None | PartUse::Discarded => moved.bytes,
                };
                self.arrived.fetch_add(bytes, Ordering::Relaxed);
                (self.observer)(&TransferEvent::Moved(moved));
            }
            Err(error) => self.fail(name, error),
        }
    }

    /// Reports how the making of a link ended.
    pub(super) fn end_link(&self, name: impl Into<ItemName>, result: Result<Linked, ClientError>) {
        match result {
            Ok(linked) => {
                self.links.fetch_add(1, Ordering::Relaxed);
                (self.observer)(&TransferEvent::Linked(linked));
            }
            Err(error) => self.fail(name, error),
        }
    }

    /// Tells that no more files with several names are remembered than `most`.
    pub(super) fn tell_links_full(&self, most: usize) {
        (self.observer)(&TransferEvent::LinksFull(most));
    }

    /// Reports a failure. The loss of the connection waits for [`give_up`](Self::give_up): until then
    /// another connection may be made.
    pub fn fail(&self, name: impl Into<ItemName>, error: ClientError) {
        let name = name.into();
        if error.is_connection_lost() {
            let mut lost = lock(&self.lost);
            match &mut *lost {
                Some(loss) => loss.failed += 1,
                None => {
                    *lost = Some(LostConnection {
                        name,
                        error,
                        failed: 1,
                    });
                }
            }
        } else if self.is_news(&name) {
            self.report(name, error, 1);
        }
    }

    /// Reports the loss of the connection, if it was lost: once, not for every file.
    pub fn give_up(&self) {
        if let Some(loss) = self.take_loss() {
            self.report_loss(loss);
        }
    }

    /// Returns the loss of the connection, if it was lost, and forgets it.
    pub(super) fn take_loss(&self) -> Option<LostConnection> {
        lock(&self.lost).take()
    }

    pub(super) fn report_loss(&self, loss: LostConnection) {
        self.report(loss.name, loss.error, loss.failed);
    }

    /// Prepares for another pass over the files, whose counts begin anew.
    pub(super) fn begin_again(&self) {
        for counter in [
            &self.moved,
            &self.expected,
            &self.foreseen,
            &self.directories,
            &self.skipped,
            &self.present,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        self.foresees_all.store(false, Ordering::Relaxed);
        self.moved_before.store(self.files(), Ordering::Relaxed);
        let mut told = lock(&self.told);
        let now = std::mem::take(&mut told.now);
        told.before.extend(now);
    }

    fn report(&self, name: ItemName, error: ClientError, failed: u64) {
        self.failed.fetch_add(failed, Ordering::Relaxed);
        self.first_failure.get_or_init(|| error.kind());
        (self.observer)(&TransferEvent::Failed { name, error });
    }

    fn is_news(&self, name: &ItemName) -> bool {
        let mut hasher = DefaultHasher::new();
        name.to_string().hash(&mut hasher);
        let hash = hasher.finish();
        let mut told = lock(&self.told);
        told.now.insert(hash);
        !told.before.contains(&hash)
    }

    /// Reports the failure of a directory together with `below` files and directories below it.
    pub(super) fn fail_with_below(
        &self,
        name: impl Into<ItemName>,
        error: ClientError,
        below: u64,
    ) {
        let error = match below {
            0 => error,
            below => ClientError::WithBelow {
                error: Box::new(error),
                below,
            },
        };
        let name = name.into();
        if error.is_connection_lost() {
            self.fail(name, error);
        } else if self.is_news(&name) {
            self.report(name, error, 1 + below);
        }
    }

    /// Counts what failed for a reason that is reported once for all.
    pub(super) fn add_failed(&self, count: u64) {
        self.failed.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a file of `bytes` that is there already.
    pub(super) fn add_present(&self, bytes: u64) {
        self.present.fetch_add(1, Ordering::Relaxed);
        self.expect(bytes);
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn skip(&self, name: impl Into<ItemName>, reason: SkipReason) {
        // What quire has left itself is nobody's loss.
        if reason != SkipReason::LeftOver {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        let name = name.into();
        if self.is_news(&name) {
            (self.observer)(&TransferEvent::Skipped { name, reason });
        }
    }

    pub(super) fn add_directory(&self) {
        self.directories.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        lock(&self.lost).is_some()
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("moved", &self.moved)
            .field("files", &self.files)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Locks state that is whole whenever a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a local file in events, safe to show.
pub(super) fn local_name(path: &Path) -> String {
    shown(path)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use quire_shared::ErrorCode;

    use super::*;

    #[test]
    fn the_first_failure_decides_and_a_lost_connection_is_told_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let transfer = Transfer::new(move |event| {
            if let TransferEvent::Failed { name, .. } = event {
                log.lock().unwrap().push(name.to_string());
            }
        });
        assert_eq!(transfer.first_failure(), None);
        transfer.fail("a".to_owned(), ClientError::of_code(ErrorCode::NOT_FOUND));
        transfer.fail(
            "b".to_owned(),
            ClientError::Lost(quinn::ConnectionError::TimedOut),
        );
        transfer.fail(
            "c".to_owned(),
            ClientError::Lost(quinn::ConnectionError::TimedOut),
        );
        assert_eq!(*seen.lock().unwrap(), ["a"]);
        transfer.give_up();
        assert_eq!(transfer.first_failure(), Some(ErrorKind::NotFound));
        assert_eq!(transfer.failed(), 3);
        assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
    }
}
