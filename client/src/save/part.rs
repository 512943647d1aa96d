//! Parts of files: what an interrupted download leaves, so that the next one to the same target goes
//! on.
//!
//! The part is the temporary file of the download, and a [journal](quire_transport::body::journal)
//! beside it says of which file and version it is.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use quire_certs::replace_file::PendingFile;
use quire_shared::RemotePath;
use quire_shared::digest::Hasher;
use quire_shared::protocol::Version;
use quire_transport::body::journal::{Journal, PART_BYTES_MIN, PartRecord, add_first};

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
    pub(super) journal: PartJournal,
    version: Version,
    length: u64,
}

impl Part {
    /// Finds the part of the remote file `path` that was left for `target`, if nobody else is
    /// writing it. `is_private` says which permissions it must have been made with. Blocks.
    pub(super) fn find(target: &Path, path: &RemotePath, is_private: bool) -> Option<Self> {
        let mut file = staged::reopen(target)?;
        let journal = journal_path(target)?;
        let record = read(&journal)?;
        let facts = Facts::parse(&record.subject)?;
        let written = file.file().metadata().ok()?.len();
        let length = record.durable(written).min(facts.size);
        let is_of_this = facts.path == name_of(path) && facts.is_private == is_private;
        if !is_of_this || length < PART_BYTES_MIN {
            return None;
        }
        file.file().set_len(length).ok()?;
        file.file_mut().seek(SeekFrom::End(0)).ok()?;
        file.keep();
        // From now on, what is written counts as long as the system isn't started again.
        let synced = record.synced.min(length);
        Some(Self {
            file,
            journal: PartJournal::create(journal, &facts, length, synced)?,
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
    pub(crate) fn add_to(&self, mut hasher: Hasher) -> io::Result<Hasher> {
        match add_first(self.file.file(), &mut hasher, self.length, || true)? {
            true => Ok(hasher),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The journal of a part that is being written. The file is removed on drop, unless so much was
/// written that the part is kept.
#[derive(Debug)]
pub(super) struct PartJournal {
    path: PathBuf,
    journal: Journal,
    is_ended: bool,
}

impl PartJournal {
    /// Begins the journal of a part of `source`; none if that is too small, or can't be written. A
    /// download without a journal only can't be continued.
    pub(super) fn begin(target: &Path, source: &PartSource, is_private: bool) -> Option<Self> {
        if source.size < PART_BYTES_MIN {
            return None;
        }
        Self::create(journal_path(target)?, &Facts::of(source, is_private), 0, 0)
    }

    /// Writes a new journal of a part that has `written` bytes.
    fn create(path: PathBuf, facts: &Facts, written: u64, synced: u64) -> Option<Self> {
        // Another's file of that name, or a link, is replaced and never written into.
        let _ = std::fs::remove_file(&path);
        let mut options = File::options();
        options.append(true).create_new(true);
        staged::set_mode(&mut options, super::PRIVATE);
        let lines = options.open(&path).ok()?;
        let Ok(journal) = Journal::begin(lines, &facts.to_string(), written, synced) else {
            let _ = std::fs::remove_file(&path);
            return None;
        };
        Some(Self {
            path,
            journal,
            is_ended: false,
        })
    }

    /// Notes that `bytes` more were written to `file`.
    pub(super) fn wrote(&mut self, bytes: u64, file: &mut PendingFile) -> io::Result<()> {
        let was_kept = self.journal.is_worth_keeping();
        self.journal.wrote(bytes, file.file())?;
        if !was_kept && self.journal.is_worth_keeping() {
            file.keep();
        }
        Ok(())
    }

    /// Waits for the sync in progress, whose error a later sync may not repeat.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        self.journal.settle()
    }

    /// Forgets the part, which has got its name.
    pub(super) fn end(mut self) {
        self.is_ended = true;
    }
}

impl Drop for PartJournal {
    fn drop(&mut self) {
        if self.is_ended || !self.journal.is_worth_keeping() {
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

/// Of what a part is, as its journal says.
struct Facts {
    size: u64,
    version: Version,
    path: String,
    is_private: bool,
}

impl Facts {
    fn of(source: &PartSource, is_private: bool) -> Self {
        Self {
            size: source.size,
            version: source.version.clone(),
            path: name_of(&source.path),
            is_private,
        }
    }

    fn parse(lines: &str) -> Option<Self> {
        let mut lines = lines.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name);
        Some(Self {
            size: field(SIZE)?.parse().ok()?,
            version: version_of(field(VERSION)?)?,
            path: field(PATH)?.to_owned(),
            is_private: field(PRIVATE)?.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            size,
            version,
            path,
            is_private,
        } = self;
        writeln!(
            f,
            "{SIZE}{size}\n{VERSION}{version}\n{PATH}{path}\n{PRIVATE}{is_private}"
        )
    }
}

/// The beginnings of its lines.
const SIZE: &str = "size ";
const VERSION: &str = "version ";
const PATH: &str = "path ";
const PRIVATE: &str = "private ";

fn version_of(text: &str) -> Option<Version> {
    let digit = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(digit).collect();
    Version::new(&bytes?)
}

/// A path on one line.
fn name_of(path: &RemotePath) -> String {
    format!("{:?}", path.to_string())
}

/// Reads a journal.
fn read(path: &Path) -> Option<PartRecord> {
    let mut options = File::options();
    options.read(true);
    crate::upload::Links::Refuse.apply(&mut options);
    let file = options.open(path).ok()?;
    if !staged::is_own(&file) {
        return None;
    }
    PartRecord::read(&file)
}

fn journal_path(target: &Path) -> Option<PathBuf> {
    Some(staged::path(target)?.with_extension("journal"))
}
