//! Parts of files: what an interrupted download leaves, so that the next one to the same target goes
//! on.
//!
//! The part is the temporary file of the download, and a journal beside it says of which file and
//! version it is. Bytes that were written stay in the page cache when a process ends, so the length
//! of the part counts as long as the system has not been started again. After that only what was
//! synced counts, and the journal records a length only after the sync of so many bytes. In the end
//! the digest of the whole decides, so damage to a part, or to its journal, costs time only.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quire_certs::replace_file::PendingFile;
use quire_shared::RemotePath;
use quire_shared::digest::Hasher;
use quire_shared::protocol::Version;

use super::staged;

/// What a part is the beginning of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartSource {
    /// The file on the server.
    pub(crate) path: RemotePath,
    /// Its version.
    pub(crate) version: Version,
    /// Its size, in bytes.
    pub(crate) size: u64,
}

/// What an earlier download of a target has left. It stays on disk when this is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) file: PendingFile,
    pub(super) journal: Journal,
    version: Version,
    length: u64,
}

impl Part {
    /// Finds the part of the remote file `path` that was left for `target`, if nobody else is
    /// writing it. `is_private` says which permissions it must have been made with. Blocks.
    pub(super) fn find(target: &Path, path: &RemotePath, is_private: bool) -> Option<Self> {
        let mut file = staged::reopen(target)?;
        let journal = journal_path(target)?;
        let facts = Facts::parse(&read(&journal)?)?;
        let written = file.file().metadata().ok()?.len();
        let is_same_start = !facts.boot.is_empty() && facts.boot == boot();
        let durable = match is_same_start {
            true => written,
            false => written.min(facts.synced),
        };
        let length = durable.min(facts.size);
        let is_of_this = facts.path == name_of(path) && facts.is_private == is_private;
        if !is_of_this || length < PART_BYTES_MIN {
            return None;
        }
        file.file().set_len(length).ok()?;
        file.file_mut().seek(SeekFrom::End(0)).ok()?;
        file.keep();
        // From now on, what is written counts as long as the system isn't started again.
        let facts = Facts {
            boot: boot(),
            synced: facts.synced.min(length),
            ..facts
        };
        Some(Self {
            file,
            journal: Journal::create(journal, &facts, length)?,
            version: facts.version,
            length,
        })
    }

    /// The version of the file that it is the beginning of.
    pub(crate) fn version(&self) -> &Version {
        &self.version
    }

    /// Its length, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads it, and adds it to a digest. Blocks.
    pub(crate) fn add_to(&mut self, mut hasher: Hasher) -> io::Result<Hasher> {
        let file = self.file.file_mut();
        file.seek(SeekFrom::Start(0))?;
        let mut rest = self.length;
        let mut piece = vec![0; PIECE_BYTES];
        while rest > 0 {
            let room = usize::try_from(rest)
                .unwrap_or(PIECE_BYTES)
                .min(PIECE_BYTES);
            let room = piece.get_mut(..room).unwrap_or_default();
            file.read_exact(room)?;
            hasher.update(room);
            rest -= room.len() as u64;
        }
        Ok(hasher)
    }
}

/// The journal of a part that is being written. The file is removed on drop, unless so much was
/// written that the part is kept.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    lines: Arc<File>,
    is_syncing: Arc<AtomicBool>,
    written: u64,
    /// Bytes written when the last sync began.
    begun: u64,
}

impl Journal {
    /// Begins the journal of a part of `source`; none if that is too small, or can't be written. A
    /// download without a journal only can't be continued.
    pub(super) fn begin(target: &Path, source: &PartSource, is_private: bool) -> Option<Self> {
        if source.size < PART_BYTES_MIN {
            return None;
        }
        Self::create(journal_path(target)?, &Facts::of(source, is_private), 0)
    }

    /// Writes a new journal of a part that has `written` bytes.
    fn create(path: PathBuf, facts: &Facts, written: u64) -> Option<Self> {
        // Another's file of that name, or a link, is replaced and never written into.
        let _ = std::fs::remove_file(&path);
        let mut options = File::options();
        options.append(true).create_new(true);
        staged::set_mode(&mut options, super::PRIVATE);
        let lines = Arc::new(options.open(&path).ok()?);
        let journal = Self {
            path,
            lines: Arc::clone(&lines),
            is_syncing: Arc::default(),
            written,
            begun: written,
        };
        (&*lines).write_all(facts.to_string().as_bytes()).ok()?;
        Some(journal)
    }

    /// Notes that `bytes` more were written to `file`. From time to time a thread syncs them.
    pub(super) fn wrote(&mut self, bytes: u64, file: &mut PendingFile) {
        let before = self.written;
        self.written += bytes;
        if before < PART_BYTES_MIN && self.is_kept() {
            file.keep();
        }
        if self.written - self.begun < SYNC_BYTES || self.is_syncing.load(Ordering::Acquire) {
            return;
        }
        let Ok(file) = file.file().try_clone() else {
            return;
        };
        self.begun = self.written;
        self.is_syncing.store(true, Ordering::Release);
        let (length, lines) = (self.written, Arc::clone(&self.lines));
        let is_syncing = Arc::clone(&self.is_syncing);
        std::thread::spawn(move || {
            // Without the line, less counts after a power cut.
            if file.sync_data().is_ok() {
                let _ = (&*lines).write_all(format!("{SYNCED}{length}\n").as_bytes());
            }
            is_syncing.store(false, Ordering::Release);
        });
    }

    fn is_kept(&self) -> bool {
        self.written >= PART_BYTES_MIN
    }

    /// Forgets the part, which has got its name.
    pub(super) fn end(mut self) {
        self.written = 0;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_kept() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes what an earlier download of `target` has left. Blocks.
pub(crate) fn discard_part(target: &Path) {
    let part = staged::reopen(target);
    // Another process may be writing it.
    let is_gone = part.is_some() || staged::path(target).is_some_and(|path| !path.exists());
    if let Some(journal) = journal_path(target).filter(|_| is_gone) {
        let _ = std::fs::remove_file(journal);
    }
}

/// What a journal says.
struct Facts {
    /// The start of the system at which the part was written, by its ID; empty where there is none.
    boot: String,
    size: u64,
    version: Version,
    path: String,
    is_private: bool,
    synced: u64,
}

impl Facts {
    fn of(source: &PartSource, is_private: bool) -> Self {
        Self {
            boot: boot(),
            size: source.size,
            version: source.version.clone(),
            path: name_of(&source.path),
            is_private,
            synced: 0,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // A line that was cut off has no end.
        let mut lines = text.split_inclusive('\n');
        let mut field = |name: &str| lines.next()?.strip_suffix('\n')?.strip_prefix(name);
        let boot = field(BOOT)?.to_owned();
        let size = field(SIZE)?.parse().ok()?;
        let version = version_of(field(VERSION)?)?;
        let path = field(PATH)?.to_owned();
        let is_private = field(PRIVATE)?.parse().ok()?;
        let mut synced = 0;
        while let Some(length) = field(SYNCED) {
            synced = length.parse().ok()?;
        }
        Some(Self {
            boot,
            size,
            version,
            path,
            is_private,
            synced,
        })
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            boot,
            size,
            version,
            path,
            is_private,
            synced,
        } = self;
        writeln!(
            f,
            "{BOOT}{boot}\n{SIZE}{size}\n{VERSION}{version}\n{PATH}{path}\n{PRIVATE}{is_private}\n\
             {SYNCED}{synced}"
        )
    }
}

/// The beginnings of the lines of a journal.
const BOOT: &str = "boot ";
const SIZE: &str = "size ";
const VERSION: &str = "version ";
const PATH: &str = "path ";
const PRIVATE: &str = "private ";
const SYNCED: &str = "synced ";

fn version_of(text: &str) -> Option<Version> {
    let digit = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(digit).collect();
    Version::new(&bytes?)
}

/// A path on one line.
fn name_of(path: &RemotePath) -> String {
    format!("{:?}", path.to_string())
}

/// The ID that Linux gives to each start of the system.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

/// Reads a journal, which is small.
fn read(path: &Path) -> Option<String> {
    let mut options = File::options();
    options.read(true);
    crate::upload::Links::Refuse.apply(&mut options);
    let file = options.open(path).ok()?;
    if !staged::is_own(&file) {
        return None;
    }
    let mut text = String::new();
    file.take(JOURNAL_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

fn journal_path(target: &Path) -> Option<PathBuf> {
    Some(staged::path(target)?.with_extension("journal"))
}

/// Files that are smaller are fetched anew, and less of a file isn't kept: that takes less than a
/// second on all but the slowest paths.
const PART_BYTES_MIN: u64 = 1024 * 1024;

/// Bytes from one sync of a part to the next: what is to be fetched again after a power cut.
const SYNC_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes that are read at once for a digest.
const PIECE_BYTES: usize = 1024 * 1024;

/// Bytes of the longest journal that is read: of files of some terabytes.
const JOURNAL_BYTES_MAX: u64 = 1024 * 1024;
