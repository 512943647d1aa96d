//! A blocking thread that walks local directories and packs what it finds for the server.
//!
//! Directories and small files go into batches for the one stream that carries them all, a few of
//! them ahead of the network; larger files become jobs. A directory comes before what is in it, and
//! nothing waits for the server to have made it.

mod batch;
mod hard_links;
mod links;
mod offer;
mod planned;

use std::collections::HashMap;
use std::fs::{self, FileType, Metadata, ReadDir};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_shared::protocol::{
    Attributes, EntryKind, MakeDirectory, Precondition, Put, PutItem, SetAttributes, Trailer,
};
use quire_shared::{ErrorCode, Name, RemotePath};
use tokio::sync::mpsc;

use super::engine::{SkipReason, Transfer};
use super::first_names::{FileKey, FirstName, FirstNameGuard, FirstNames, NameOfFile};
use super::job::{FileUpload, StoreOptions, UploadJob, UploadKind, UploadSource};
use super::remote_dir::{CompleteDir, RemoteDir, RemoteDirState};
use super::survey::count_below;
use crate::error::ClientError;
use crate::local_file::{FileContent, LocalId};
use crate::save::is_left_over;
use crate::upload::{Links, LocalFile};

pub(super) use batch::{ItemBatch, SentFile, SentItem};
pub(super) use planned::PlannedUpload;

/// Where a walk puts what it finds.
#[derive(Debug)]
pub(super) struct PackerTx {
    pub(super) batches: mpsc::Sender<ItemBatch>,
    pub(super) complete: mpsc::UnboundedSender<CompleteDir>,
    pub(super) jobs: mpsc::Sender<FileUpload>,
}

/// Finds what is to be stored.
pub(super) struct UploadPacker {
    options: StoreOptions,
    transfer: Arc<Transfer>,
    packer_tx: PackerTx,
    batch: ItemBatch,
    /// The size of the batch at hand: small at first, so that the first bytes leave at once.
    batch_bytes: usize,
    /// Lists a directory on the server.
    look: Look,
    first_names: FirstNames<FileKey, Arc<FirstName>>,
    /// Whether the batch at hand has first names of files, for which others may wait.
    has_first_names: bool,
}

/// Lists a directory on the server, from a blocking thread. Nothing is there if it can't be read.
pub(super) type Look = Box<dyn Fn(&RemotePath) -> HashMap<Name, Attributes> + Send>;

/// A local directory that is being walked.
struct LocalLevel {
    local: PathBuf,
    entries: ReadDir,
    directory: Arc<RemoteDir>,
    /// What the directory on the server has, if that was to be looked at.
    there: HashMap<Name, Attributes>,
    /// Tells the directory from others, where the system can.
    id: Option<LocalId>,
}

impl LocalLevel {
    /// Whether the directory on the server has a directory of this name, as far as it was looked at.
    fn has_directory(&self, name: &Name) -> bool {
        let found = self.there.get(name);
        found.is_some_and(|found| found.kind == EntryKind::Directory)
    }
}

/// Where a local directory goes.
struct RemotePlace {
    path: RemotePath,
    parent: Option<Arc<RemoteDir>>,
    /// Whether there is a directory already, as far as it was looked at.
    is_there: bool,
}

/// A job, and whether there is a directory in its place on the server.
#[derive(Debug)]
pub(super) struct WalkedJob {
    pub(super) job: UploadJob,
    pub(super) is_there: bool,
}

/// The receivers are gone, so the walk ends.
#[derive(Debug)]
pub(super) struct Stopped;

/// Where a walk goes next.
enum Descent {
    Same,
    Deeper(LocalLevel),
    End,
}

impl UploadPacker {
    pub(super) fn new(
        options: StoreOptions,
        transfer: Arc<Transfer>,
        packer_tx: PackerTx,
        look: Look,
    ) -> Self {
        Self {
            look,
            options,
            transfer,
            packer_tx,
            batch: ItemBatch::default(),
            batch_bytes: BATCH_FIRST_BYTES,
            first_names: FirstNames::default(),
            has_first_names: false,
        }
    }

    /// Walks through `items`. Blocks.
    pub(super) fn run(mut self, items: Vec<WalkedJob>) -> Result<(), Stopped> {
        for WalkedJob { job, is_there } in items {
            let UploadJob { from, to } = job;
            // The user named it, so a link is followed.
            match fs::metadata(&from) {
                Ok(metadata) if metadata.is_dir() && self.options.recursive => {
                    let place = RemotePlace {
                        path: to,
                        parent: None,
                        is_there,
                    };
                    let mut levels = Vec::from_iter(self.enter(from, &metadata, place)?);
                    while let Some((level, above)) = levels.split_last_mut() {
                        match self.entry(level, above)? {
                            Descent::Deeper(below) => levels.push(below),
                            Descent::Same => {}
                            Descent::End => {
                                levels.pop();
                            }
                        }
                    }
                }
                // Whatever is wrong with it shows when it is opened.
                Ok(_) | Err(_) => self.send_job(FileUpload {
                    from: UploadSource::Local(from),
                    to,
                    kind: UploadKind::File(None),
                    links: Links::Follow,
                    precondition: self.precondition(),
                    directory: None,
                })?,
            }
        }
        self.flush()
    }

    /// Takes one entry of a directory.
    fn entry(&mut self, level: &mut LocalLevel, above: &[LocalLevel]) -> Result<Descent, Stopped> {
        let entry = match level.entries.next() {
            None => return Ok(Descent::End),
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                let error = ClientError::disk(&level.local, "list", error);
                self.transfer.fail(&*level.local, error);
                return Ok(Descent::End);
            }
        };
        let path = entry.path();
        match self.found((level, above), &entry, &path) {
            Ok(progress) => progress,
            Err(error) => {
                // All that is in a directory without a name on the server is lost with it.
                let below = match entry.file_type() {
                    Ok(kind) if kind.is_dir() => count_below(&path),
                    Ok(_) | Err(_) => 0,
                };
                self.transfer.fail_with_below(path, error, below);
                Ok(Descent::Same)
            }
        }
    }

    fn found(
        &mut self,
        (level, above): (&LocalLevel, &[LocalLevel]),
        entry: &fs::DirEntry,
        path: &Path,
    ) -> Result<Result<Descent, Stopped>, ClientError> {
        let looking = |error| ClientError::disk(path, "look at", error);
        let kind: FileType = entry.file_type().map_err(looking)?;
        if entry.file_name().to_str().is_some_and(is_left_over) {
            self.transfer.skip(path, SkipReason::LeftOver);
            return Ok(Ok(Descent::Same));
        }
        if kind.is_dir() {
            let metadata = entry.metadata().map_err(looking)?;
            return self.found_directory(level, entry, &metadata);
        }
        if kind.is_symlink() {
            return self.found_link((level, above), entry, path);
        }
        if !kind.is_file() {
            self.transfer.skip(path, SkipReason::SpecialFile);
            return Ok(Ok(Descent::Same));
        }
        let stored = self.found_file(level, entry, Links::Refuse)?;
        Ok(stored.map(|()| Descent::Same))
    }

    fn found_directory(
        &mut self,
        level: &LocalLevel,
        entry: &fs::DirEntry,
        metadata: &Metadata,
    ) -> Result<Result<Descent, Stopped>, ClientError> {
        let to = remote_entry(level, entry)?;
        let place = RemotePlace {
            is_there: to.name().is_some_and(|name| level.has_directory(name)),
            path: to,
            parent: Some(Arc::clone(&level.directory)),
        };
        let below = self.enter(entry.path(), metadata, place);
        Ok(below.map(|below| below.map_or(Descent::Same, Descent::Deeper)))
    }

    fn found_file(
        &mut self,
        level: &LocalLevel,
        entry: &fs::DirEntry,
        links: Links,
    ) -> Result<Result<(), Stopped>, ClientError> {
        if level.directory.is_missing() {
            level.directory.leave_out(1);
            return Ok(Ok(()));
        }
        let path = entry.path();
        let to = remote_entry(level, entry)?;
        let name_of = self.name_of((&path, links), &to);
        let found = to.name().and_then(|name| level.there.get(name));
        Ok(match found {
            Some(found) if self.is_left(&path, found, links) => {
                if let NameOfFile::First(guard) = &name_of {
                    guard.arrived(&found.version);
                }
                self.transfer.add_present(found.size);
                Ok(())
            }
            Some(_) if !self.options.overwrite => {
                self.transfer
                    .fail(to, ClientError::of_code(ErrorCode::EXISTS));
                Ok(())
            }
            Some(_) | None => {
                let place = (&level.directory, self.precondition());
                self.named_file((path, links), to, place, name_of)
            }
        })
    }

    /// Whether what was found in the place of the file `path` is left there.
    fn is_left(&self, path: &Path, found: &Attributes, links: Links) -> bool {
        let leave = self.options.leave;
        let is_left = |local: Metadata| leave.leaves(&(&local).into(), &found.into());
        leave.looks() && links.look(path).is_ok_and(is_left)
    }

    /// Has a directory made on the server, and begins to list it here.
    fn enter(
        &mut self,
        from: PathBuf,
        metadata: &Metadata,
        place: RemotePlace,
    ) -> Result<Option<LocalLevel>, Stopped> {
        let RemotePlace {
            path: to,
            parent,
            is_there,
        } = place;
        let entries = match fs::read_dir(&from) {
            Ok(entries) => entries,
            Err(error) => {
                let error = ClientError::disk(&from, "list", error);
                self.transfer.fail(&*from, error);
                return Ok(None);
            }
        };
        let attributes = self.attributes(&from, &to, metadata);
        let is_to_be_looked_at = self.options.leave.looks() || !self.options.overwrite;
        let there = match is_there && is_to_be_looked_at {
            true => (self.look)(&to),
            false => HashMap::new(),
        };
        let directory = self.directory(to, attributes, parent, true)?;
        Ok(Some(LocalLevel {
            local: from,
            entries,
            directory,
            there,
            id: LocalId::of(metadata),
        }))
    }

    /// Has a directory made on the server, if it `is_new`.
    fn directory(
        &mut self,
        to: RemotePath,
        attributes: Option<SetAttributes>,
        parent: Option<Arc<RemoteDir>>,
        is_new: bool,
    ) -> Result<Arc<RemoteDir>, Stopped> {
        let make = MakeDirectory {
            path: to.clone(),
            make_parents: parent.is_none(),
            precondition: Precondition::Any,
            change_id: None,
        };
        let is_there = !is_new || to.is_root();
        let is_missing = parent.as_deref().is_some_and(RemoteDir::is_missing);
        let complete = self.packer_tx.complete.clone();
        let transfer = Arc::clone(&self.transfer);
        let directory = RemoteDir::new(to, attributes, parent, complete, transfer);
        if is_missing {
            // Nothing of it is sent; what is in it is counted.
            directory.set_state(RemoteDirState::Missing);
        } else if is_there {
            // The root always exists, and can't be created.
            directory.set_state(RemoteDirState::Kept);
            if is_new {
                self.transfer.add_directory();
            }
        } else {
            self.batch.append(&PutItem::Directory(make));
            let sent = SentItem::Directory(Arc::clone(&directory));
            self.batch.items.push(sent);
        }
        self.flush_if_full()?;
        Ok(directory)
    }

    /// The condition on what a file replaces, where nothing else is known.
    fn precondition(&self) -> Precondition {
        Precondition::of_target(self.options.overwrite)
    }

    /// Packs a file that was found, or makes a job of it if it is large.
    fn file(
        &mut self,
        (from, links): (PathBuf, Links),
        to: RemotePath,
        (directory, precondition): (&Arc<RemoteDir>, Precondition),
        first: Option<FirstNameGuard>,
    ) -> Result<(), Stopped> {
        let file = match LocalFile::open_now(from.clone(), links) {
            Ok(file) => file,
            Err(error) => {
                self.transfer.fail(to, error);
                return Ok(());
            }
        };
        let offered = |content| Ok((content, self.options.put(&file, to.clone(), false)?));
        let (content, put) = match file.read().and_then(offered) {
            Ok(content) => content,
            Err(error) => {
                self.transfer.fail(to, error);
                return Ok(());
            }
        };
        let FileContent::Whole { bytes, grew } = content else {
            return self.send_job(FileUpload {
                from: UploadSource::Local(from),
                to,
                kind: UploadKind::File(first),
                links,
                precondition,
                directory: Some(Arc::clone(directory)),
            });
        };
        self.transfer.start(&*from);
        self.transfer.expect(bytes.len() as u64);
        let put = Put {
            size: Some(bytes.len() as u64),
            precondition,
            ..put
        };
        let digest = self.options.digest.of(&bytes);
        self.batch.append(&PutItem::File(put));
        self.batch.bytes.extend_from_slice(&bytes);
        self.batch.append(&Trailer {
            digest: digest.clone(),
            grew,
        });
        self.has_first_names |= first.is_some();
        self.batch.content += bytes.len() as u64;
        self.batch.items.push(SentItem::File(SentFile {
            local: from,
            remote: to,
            bytes: bytes.len() as u64,
            digest,
            grew,
            directory: Arc::clone(directory),
            first,
        }));
        self.flush_if_full()
    }

    fn send_job(&self, job: FileUpload) -> Result<(), Stopped> {
        self.packer_tx.jobs.blocking_send(job).map_err(|_| Stopped)
    }

    fn flush_if_full(&mut self) -> Result<(), Stopped> {
        let is_full =
            self.batch.bytes.len() >= self.batch_bytes || self.batch.items.len() >= BATCH_ITEMS_MAX;
        if is_full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        if self.batch.items.is_empty() {
            return Ok(());
        }
        self.batch_bytes = (self.batch_bytes * 2).min(BATCH_BYTES);
        self.has_first_names = false;
        let batch = std::mem::take(&mut self.batch);
        self.packer_tx
            .batches
            .blocking_send(batch)
            .map_err(|_| Stopped)
    }
}

/// The name on the server of an entry of a local directory.
fn remote_entry(level: &LocalLevel, entry: &fs::DirEntry) -> Result<RemotePath, ClientError> {
    let path = entry.path();
    let Ok(name) = entry.file_name().into_string() else {
        return Err(ClientError::Unsuitable {
            path,
            reason: "has a name that isn't UTF-8, which can't be sent",
        });
    };
    Name::new(name)
        .and_then(|name| level.directory.path().join(name))
        .map_err(|source| ClientError::LocalName { path, source })
}

/// The first batch: enough for the first round trip.
const BATCH_FIRST_BYTES: usize = 32 * 1024;

/// Bytes per batch: some sixty small files, which take many times as long to read as it takes to
/// hand them over.
const BATCH_BYTES: usize = 256 * 1024;

/// SentItems per batch, however small.
pub(super) const BATCH_ITEMS_MAX: usize = 256;
