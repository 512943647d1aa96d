//! What a sync is going to do: the records that a comparison makes and that are carried out.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use minicbor::{Decode, Encode};
use quire_shared::RemotePath;
use quire_shared::protocol::{Details, EntryKind, LinkTarget, Precondition, Time, Version};

use super::spool::Spool;
use super::walk::WalkedEntry;

/// A file to be transferred, named below the directory that is synced.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct PlannedFile {
    #[n(0)]
    pub(super) path: RemotePath,
    /// Size of the source, in bytes.
    #[n(1)]
    pub(super) size: u64,
    /// Modification time of the source.
    #[n(2)]
    pub(super) modified: Time,
    #[n(3)]
    pub(super) mode: u32,
    #[n(4)]
    pub(super) state: PlannedState,
    /// The version that is replaced, on a server.
    #[n(5)]
    pub(super) replaces: Option<Version>,
    /// A hash of the details of the source; the same for all if none are kept.
    #[n(6)]
    pub(super) details: u64,
    /// Size and modification time of what is replaced, if it has other names, with which its version
    /// changes.
    #[n(7)]
    pub(super) replaced: Option<(u64, Time)>,
    /// Whether others in the plan are further names of it.
    #[n(8)]
    pub(super) is_first: bool,
    /// The first name of the file, if this is another.
    #[n(9)]
    pub(super) other_of: Option<RemotePath>,
}

/// Why a file is in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum PlannedState {
    /// Nothing has its name at the target.
    #[n(0)]
    New,
    /// What is at the target differs.
    #[n(1)]
    Changed,
    /// What is at the target has the same size, and digests are to be compared.
    #[n(2)]
    Unknown,
}

impl PlannedFile {
    /// The condition on what it replaces on a server: what the comparison has seen.
    pub(super) fn precondition(&self) -> Precondition {
        precondition(self.state, self.replaces.as_ref())
    }

    /// What a file keeps when it gets another name.
    pub(super) fn key(&self) -> u64 {
        key(self.size, self.modified, self.details)
    }
}

fn key(size: u64, modified: Time, details: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (size, modified.seconds, modified.nanoseconds, details).hash(&mut hasher);
    hasher.finish()
}

/// A directory of the source.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct PlannedDirectory {
    #[n(0)]
    pub(super) path: RemotePath,
    #[n(1)]
    pub(super) modified: Time,
    #[n(2)]
    pub(super) mode: u32,
    /// Whether it has to be made at the target.
    #[n(3)]
    pub(super) is_new: bool,
    #[n(4)]
    pub(super) details: Option<Box<Details>>,
}

/// A step through what is transferred. A directory comes before what is in it.
#[derive(Debug, Clone, Encode, Decode)]
pub(super) enum TransferStep {
    #[n(0)]
    Enter(#[n(0)] PlannedDirectory),
    #[n(1)]
    File(#[n(0)] PlannedFile),
    #[n(2)]
    Leave,
    #[n(3)]
    Link(#[n(0)] PlannedLink),
}

/// A symbolic link to be made.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct PlannedLink {
    #[n(0)]
    pub(super) path: RemotePath,
    #[n(1)]
    pub(super) target: LinkTarget,
    /// Modification time of the link at the source.
    #[n(2)]
    pub(super) modified: Time,
    #[n(3)]
    pub(super) state: PlannedState,
    /// The version that is replaced, on a server.
    #[n(4)]
    pub(super) replaces: Option<Version>,
}

impl PlannedLink {
    /// As [`PlannedFile::precondition`].
    pub(super) fn precondition(&self) -> Precondition {
        precondition(self.state, self.replaces.as_ref())
    }
}

/// The condition on what is replaced on a server: what the comparison has seen.
fn precondition(state: PlannedState, replaces: Option<&Version>) -> Precondition {
    match (state, replaces) {
        (PlannedState::New, _) => Precondition::Absent,
        (_, Some(version)) => Precondition::Match(version.clone()),
        (_, None) => Precondition::Any,
    }
}

/// Something to be deleted at the target.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct PlannedDeletion {
    #[n(0)]
    pub(super) path: RemotePath,
    #[n(1)]
    pub(super) kind: EntryKind,
    /// How many entries a directory has, which go with it.
    #[n(2)]
    pub(super) below: u64,
    /// Size of a file, in bytes.
    #[n(3)]
    pub(super) size: u64,
    #[n(4)]
    pub(super) modified: Time,
    /// The version that was seen, on a server.
    #[n(5)]
    pub(super) version: Option<Version>,
    /// As of a [`PlannedFile`].
    #[n(6)]
    pub(super) details: u64,
    /// Whether it is a file that has other names, whose version changes with those.
    #[n(7)]
    pub(super) has_other_names: bool,
}

impl PlannedDeletion {
    /// The deletion of what was found at `path`, with `below` entries in it.
    pub(super) fn of(path: RemotePath, found: &WalkedEntry, below: u64) -> Self {
        Self {
            path,
            kind: found.kind,
            below,
            size: found.size,
            modified: found.modified,
            version: found.version.clone(),
            details: found.details_hash(),
            has_other_names: found.key.is_some(),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }

    /// As [`PlannedFile::key`].
    pub(super) fn key(&self) -> u64 {
        key(self.size, self.modified, self.details)
    }
}

/// New permissions and details of a file that is not transferred.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct PlannedMode {
    #[n(0)]
    pub(super) path: RemotePath,
    /// Its permissions then, which may be those that it has.
    #[n(1)]
    pub(super) mode: u32,
    #[n(2)]
    pub(super) version: Option<Version>,
    /// Whether the permissions change.
    #[n(3)]
    pub(super) sets_mode: bool,
    /// Details to be set.
    #[n(4)]
    pub(super) details: Option<Box<Details>>,
}

/// A directory that is only at the source, and all that is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewDirectory {
    /// Equal for directories with the same names, sizes and times in them.
    pub(super) fingerprint: u64,
    /// Where its steps begin and end.
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// What a comparison has found.
#[derive(Debug, Default)]
pub(super) struct SyncPlan {
    /// What is to be transferred, in the order of the walk.
    pub(super) transfers: Spool<TransferStep>,
    /// What has to go before, because something of another kind takes its name.
    pub(super) conflicts: Spool<PlannedDeletion>,
    /// What has to go in the end.
    pub(super) deletions: Spool<PlannedDeletion>,
    /// Directories at both sides that get their attributes in the end, the inner ones first.
    pub(super) directories: Spool<PlannedDirectory>,
    pub(super) modes: Spool<PlannedMode>,
    /// What is only at the target, and may have another name at the source.
    pub(super) gone: Gone,
    pub(super) new_directories: Vec<NewDirectory>,
    /// Files that are the same on both sides.
    pub(super) same: FileCount,
    /// Bytes of all files among the transfers.
    pub(super) bytes: u64,
    /// Whether digests of some of them are to be compared.
    pub(super) has_unknown: bool,
    /// Whether the source has nothing at all, and the target something.
    pub(super) is_source_empty: bool,
}

/// A number of files, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FileCount {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl FileCount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// Files and directories that are only at the target.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) entries: Spool<PlannedDeletion>,
    /// Where the file with such a size and time is among the entries.
    files: HashMap<u64, u64>,
    /// Where the directory of such a fingerprint is among the entries.
    directories: HashMap<u64, u64>,
}

impl Gone {
    pub(super) fn has_no_files(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a file. Of several with the same size and time, one is enough: contents are compared.
    pub(super) fn add_file(&mut self, file: &PlannedDeletion) -> std::io::Result<()> {
        if file.size > 0 && self.files.len() < GONE_MAX {
            let begin = self.entries.push(file)?;
            self.files.insert(file.key(), begin);
        }
        Ok(())
    }

    pub(super) fn add_directory(
        &mut self,
        fingerprint: u64,
        directory: &PlannedDeletion,
    ) -> std::io::Result<()> {
        if self.directories.len() < GONE_MAX {
            let begin = self.entries.push(directory)?;
            self.directories.insert(fingerprint, begin);
        }
        Ok(())
    }

    /// Takes the file that may be `file` under its old name.
    pub(super) fn take_file(
        &mut self,
        file: &PlannedFile,
    ) -> std::io::Result<Option<PlannedDeletion>> {
        let Some(begin) = self.files.remove(&file.key()) else {
            return Ok(None);
        };
        let found = self.entries.read_at(begin)?;
        // After a truncation another may be in its place.
        Ok(found.filter(|found| !found.is_directory() && found.key() == file.key()))
    }

    /// Takes the directory that may have had another name.
    pub(super) fn take_directory(
        &mut self,
        fingerprint: u64,
    ) -> std::io::Result<Option<PlannedDeletion>> {
        let Some(begin) = self.directories.remove(&fingerprint) else {
            return Ok(None);
        };
        let found = self.entries.read_at(begin)?;
        Ok(found.filter(PlannedDeletion::is_directory))
    }
}

/// Files or directories that are remembered because they may have another name at the source: their
/// table takes some ten megabytes. What is beyond is transferred and deleted.
const GONE_MAX: usize = 500_000;
