//! State of a transfer, and the queue that moves a bounded number of files at once.
//!
//! A walk finds files and puts them into a short queue. It waits while the queue is full, so a tree
//! is never held in memory.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::Version;
use quire_shared::{Name, RemotePath};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::item_name::ItemName;
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
    failed: AtomicU64,
    first_failure: OnceLock<ErrorKind>,
    lost: OnceLock<()>,
    observer: Box<dyn Fn(&TransferEvent) + Send + Sync>,
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
            failed: AtomicU64::new(0),
            first_failure: OnceLock::new(),
            lost: OnceLock::new(),
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
        self.present.load(Ordering::Relaxed)
    }

    /// Files and directories that could not be moved.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
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
                    PartUse::Continued(there) => moved.bytes.saturating_sub(there),
                    PartUse::None | PartUse::Discarded => moved.bytes,
                };
                self.arrived.fetch_add(bytes, Ordering::Relaxed);
                (self.observer)(&TransferEvent::Moved(moved));
            }
            Err(error) => self.fail(name, error),
        }
    }

    /// Reports a failure. The loss of the connection is reported once, not for every file.
    pub fn fail(&self, name: impl Into<ItemName>, error: ClientError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.get_or_init(|| error.kind());
        if error.is_connection_lost() && self.lost.set(()).is_err() {
            return;
        }
        let name = name.into();
        (self.observer)(&TransferEvent::Failed { name, error });
    }

    /// Reports the failure of a directory together with `below` files and directories below it.
    pub(super) fn fail_with_below(
        &self,
        name: impl Into<ItemName>,
        error: ClientError,
        below: u64,
    ) {
        self.add_failed(below);
        let error = match below {
            0 => error,
            below => ClientError::WithBelow {
                error: Box::new(error),
                below,
            },
        };
        self.fail(name, error);
    }

    /// Counts what failed for a reason that is reported once for all.
    pub(super) fn add_failed(&self, count: u64) {
        self.failed.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_present(&self) {
        self.present.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn skip(&self, name: impl Into<ItemName>, reason: SkipReason) {
        // What quire has left itself is nobody's loss.
        if reason != SkipReason::LeftOver {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        let name = name.into();
        (self.observer)(&TransferEvent::Skipped { name, reason });
    }

    pub(super) fn add_directory(&self) {
        self.directories.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
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

/// A queue from a walk to [`run_jobs`].
pub(super) fn job_queue<J>() -> (mpsc::Sender<J>, mpsc::Receiver<J>) {
    mpsc::channel(QUEUE_JOBS)
}

/// Does `work` on each job as it comes, a bounded number at once, until the walk ends or the
/// connection is lost.
pub(super) async fn run_jobs<J, F>(
    mut jobs: mpsc::Receiver<J>,
    transfer: &Transfer,
    work: impl Fn(J) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut is_walking = true;
    while is_walking || !running.is_empty() {
        tokio::select! {
            Some(ended) = running.join_next() => {
                if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            }
            job = jobs.recv(), if is_walking && running.len() < JOBS_AT_ONCE => match job {
                Some(job) => {
                    running.spawn(work(job));
                }
                None => is_walking = false,
            },
        }
        if transfer.is_lost() {
            // What still runs can't succeed, and the walk ends at the closed queue.
            return;
        }
    }
}

/// Bounds the bytes of the files that are in transfer one by one on a local network.
///
/// There a few streams fill the path. More of them only take turns packet by packet, which costs
/// memory and wakes a task for each packet. On a longer path their number hides round trips.
#[derive(Debug, Clone)]
pub(super) struct ByteGate(Option<Arc<Semaphore>>);

impl ByteGate {
    pub(super) fn new(is_local: bool) -> Self {
        Self(is_local.then(|| Arc::new(Semaphore::new(LOCAL_KIB as usize))))
    }

    /// Waits until a file of `bytes` may be moved. It counts until the result is dropped, which is
    /// best done before what needs no network, such as a sync.
    pub(super) async fn enter(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let gate = self.0.clone()?;
        // Half of the room at most, so that the next large file begins before this one ends.
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        // It is never closed.
        gate.acquire_many_owned(kib.min(LOCAL_KIB / 2)).await.ok()
    }
}

/// The path of the entry `name` in the local directory `directory`.
///
/// # Errors
/// [`ClientError::ForeignName`] for a name that this system can't have.
pub fn local_entry(directory: &Path, name: &Name) -> Result<PathBuf, ClientError> {
    if cfg!(windows) && is_refused_by_windows(name.as_str()) {
        return Err(ClientError::ForeignName(name.as_str().to_owned()));
    }
    match directory == Path::new(".") {
        true => Ok(name.as_str().into()),
        false => Ok(directory.join(name.as_str())),
    }
}

/// Whether Windows would take `name` for something else than a file of that name in the directory
/// where it is asked for: a path, a stream, a device, or a name that it shortens.
fn is_refused_by_windows(name: &str) -> bool {
    let is_reserved =
        |character: char| character.is_control() || r#"\:*?"<>|/"#.contains(character);
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    let is_device = match stem.to_ascii_uppercase().as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        stem => stem
            .strip_prefix("COM")
            .or_else(|| stem.strip_prefix("LPT"))
            .is_some_and(|number| {
                let mut characters = number.chars();
                characters
                    .next()
                    .is_some_and(|c| "0123456789¹²³".contains(c))
                    && characters.next().is_none()
            }),
    };
    is_device || name.contains(is_reserved) || name.ends_with(['.', ' '])
}

/// The name of a local file in events, safe to show.
pub(super) fn local_name(path: &Path) -> String {
    shown(path)
}

/// Files in transfer at once: enough to keep a connection busy with small files over a round trip
/// of some ten milliseconds, and few enough that their buffers stay at some ten megabytes and a
/// third of the streams that a server grants stays free for other requests.
const JOBS_AT_ONCE: usize = 32;

/// KiB of files in transfer at once on a local network: twice its send window, so that one file's
/// end and the next one's begin leave no gap.
const LOCAL_KIB: u32 = 4 * 1024;

/// Files found but not begun: enough that a walk that waits for a listing leaves no gap.
const QUEUE_JOBS: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use quire_shared::ErrorCode;

    use super::*;

    #[test]
    fn windows_names_are_told_apart() {
        for name in [
            "a:b", "a\\b", "con", "CON.txt", "aux.rs", "lpt1", "COM¹.x", "nul ", "x.", "x ", "a?",
            "a\nb",
        ] {
            assert!(is_refused_by_windows(name), "{name:?}");
        }
        for name in [
            "a",
            "console",
            "com",
            "com10",
            ".git",
            "é",
            "a b",
            "auxiliary.c",
        ] {
            assert!(!is_refused_by_windows(name), "{name:?}");
        }
    }

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
        assert_eq!(transfer.first_failure(), Some(ErrorKind::NotFound));
        assert_eq!(transfer.failed(), 3);
        assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_bounded_number_of_jobs_runs_at_once_and_all_run() {
        let transfer = Transfer::new(|_| {});
        let (queue, jobs) = job_queue();
        let (running, most, done) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let work = |()| {
            let (running, most, done) =
                (Arc::clone(&running), Arc::clone(&most), Arc::clone(&done));
            async move {
                most.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        let walk = async move {
            for _ in 0..1000 {
                queue.send(()).await.unwrap();
            }
        };
        tokio::join!(walk, run_jobs(jobs, &transfer, work));
        assert_eq!(done.load(Ordering::SeqCst), 1000);
        assert!(most.load(Ordering::SeqCst) <= JOBS_AT_ONCE as u64);
    }
}
