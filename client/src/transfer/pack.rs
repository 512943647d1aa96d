//! A blocking thread that walks local directories and packs what it finds for the server.
//!
//! Directories and small files go into batches for the one stream that carries them all, a few of
//! them ahead of the network; larger files become jobs. A directory comes before what is in it, and
//! nothing waits for the server to have made it.

use std::fs::{self, FileType, Metadata, ReadDir};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_shared::codec;
use quire_shared::digest::Digest;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{
    MakeDirectory, Message, Precondition, Put, PutItem, SetAttributes, Trailer,
};
use quire_shared::{Name, RemotePath};
use tokio::sync::mpsc;

use super::engine::Transfer;
use super::job::{FileUpload, StoreOptions, UploadJob};
use super::remote_dir::{CompleteDir, RemoteDir, RemoteDirState};
use crate::attributes;
use crate::error::ClientError;
use crate::upload::{Links, LocalFile};

/// SentItems as they travel, and what is to be known when they are answered, in the same order.
#[derive(Debug, Default)]
pub(super) struct ItemBatch {
    pub(super) bytes: Vec<u8>,
    pub(super) items: Vec<SentItem>,
    /// How many bytes of content there are in it.
    pub(super) content: u64,
}

/// Something that was sent, and is to be answered.
#[derive(Debug)]
pub(super) enum SentItem {
    File(SentFile),
    Directory(Arc<RemoteDir>),
    /// The attributes of a directory that is complete.
    Attributes {
        path: RemotePath,
        /// Is complete only when this is answered.
        _parent: Option<Arc<RemoteDir>>,
    },
}

/// A file that was sent.
#[derive(Debug)]
pub(super) struct SentFile {
    pub(super) local: PathBuf,
    pub(super) remote: RemotePath,
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    pub(super) directory: Arc<RemoteDir>,
}

impl ItemBatch {
    /// Adds the attributes of a directory.
    pub(super) fn add_attributes(&mut self, complete: CompleteDir) {
        let path = complete.set.path.clone();
        self.append(&PutItem::Attributes(complete.set));
        self.items.push(SentItem::Attributes {
            path,
            _parent: complete.parent,
        });
    }

    /// Adds a message. A path within its limits makes none that is over its own.
    pub(super) fn append(&mut self, message: &impl Message) {
        let appended = codec::append(message, &mut self.bytes);
        debug_assert!(appended.is_ok(), "{appended:?}");
    }
}

/// Where a walk puts what it finds.
#[derive(Debug)]
pub(super) struct PackerTx {
    pub(super) batches: mpsc::Sender<ItemBatch>,
    pub(super) complete: mpsc::UnboundedSender<CompleteDir>,
    pub(super) jobs: mpsc::Sender<FileUpload>,
}

/// Finds what is to be stored.
#[derive(Debug)]
pub(super) struct UploadPacker {
    options: StoreOptions,
    transfer: Arc<Transfer>,
    packer_tx: PackerTx,
    batch: ItemBatch,
    /// The size of the batch at hand: small at first, so that the first bytes leave at once.
    batch_bytes: usize,
}

/// A local directory that is being walked.
struct LocalLevel {
    local: PathBuf,
    entries: ReadDir,
    directory: Arc<RemoteDir>,
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
    pub(super) fn new(options: StoreOptions, transfer: Arc<Transfer>, packer_tx: PackerTx) -> Self {
        Self {
            options,
            transfer,
            packer_tx,
            batch: ItemBatch::default(),
            batch_bytes: BATCH_FIRST_BYTES,
        }
    }

    /// Walks through `items`. Blocks.
    pub(super) fn run(mut self, items: Vec<UploadJob>) -> Result<(), Stopped> {
        for UploadJob { from, to } in items {
            // The user named it, so a link is followed.
            match fs::metadata(&from) {
                Ok(metadata) if metadata.is_dir() && self.options.recursive => {
                    let mut levels = Vec::from_iter(self.enter(from, to, &metadata, None)?);
                    while let Some(level) = levels.last_mut() {
                        match self.entry(level)? {
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
                    from,
                    to,
                    links: Links::Follow,
                    directory: None,
                })?,
            }
        }
        self.flush()
    }

    /// Takes one entry of a directory.
    fn entry(&mut self, level: &mut LocalLevel) -> Result<Descent, Stopped> {
        if level.directory.is_missing() {
            return Ok(Descent::End);
        }
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
        match self.found(level, &entry, &path) {
            Ok(progress) => progress,
            Err(error) => {
                self.transfer.fail(path, error);
                Ok(Descent::Same)
            }
        }
    }

    fn found(
        &mut self,
        level: &LocalLevel,
        entry: &fs::DirEntry,
        path: &Path,
    ) -> Result<Result<Descent, Stopped>, ClientError> {
        let looking = |error| ClientError::disk(path, "look at", error);
        let kind: FileType = entry.file_type().map_err(looking)?;
        if kind.is_dir() {
            let to = remote_entry(level, entry)?;
            let metadata = entry.metadata().map_err(looking)?;
            let parent = Some(Arc::clone(&level.directory));
            let below = self.enter(path.to_owned(), to, &metadata, parent);
            return Ok(below.map(|below| below.map_or(Descent::Same, Descent::Deeper)));
        }
        if !kind.is_file() {
            self.transfer.skip(path);
            return Ok(Ok(Descent::Same));
        }
        let to = remote_entry(level, entry)?;
        let stored = self.file(path.to_owned(), to, &level.directory);
        Ok(stored.map(|()| Descent::Same))
    }

    /// Has a directory made on the server, and begins to list it here.
    fn enter(
        &mut self,
        from: PathBuf,
        to: RemotePath,
        metadata: &Metadata,
        parent: Option<Arc<RemoteDir>>,
    ) -> Result<Option<LocalLevel>, Stopped> {
        let entries = match fs::read_dir(&from) {
            Ok(entries) => entries,
            Err(error) => {
                let error = ClientError::disk(&from, "list", error);
                self.transfer.fail(&*from, error);
                return Ok(None);
            }
        };
        let is_root = to.is_root();
        let attributes = (!is_root).then(|| SetAttributes {
            path: to.clone(),
            modified: attributes::modified(metadata),
            mode: attributes::mode(metadata),
        });
        let make = MakeDirectory {
            path: to.clone(),
            make_parents: parent.is_none(),
            precondition: Precondition::Any,
        };
        let complete = self.packer_tx.complete.clone();
        let directory = RemoteDir::new(to, attributes, parent, complete);
        if is_root {
            // It always exists, and can't be created.
            directory.set_state(RemoteDirState::Kept);
            self.transfer.add_directory();
        } else {
            self.batch.append(&PutItem::Directory(make));
            let sent = SentItem::Directory(Arc::clone(&directory));
            self.batch.items.push(sent);
        }
        self.flush_if_full()?;
        Ok(Some(LocalLevel {
            local: from,
            entries,
            directory,
        }))
    }

    /// Packs a file that was found, or makes a job of it if it is large.
    fn file(
        &mut self,
        from: PathBuf,
        to: RemotePath,
        directory: &Arc<RemoteDir>,
    ) -> Result<(), Stopped> {
        let file = match LocalFile::open_now(from.clone(), Links::Refuse) {
            Ok(file) => file,
            Err(error) => {
                self.transfer.fail(to, error);
                return Ok(());
            }
        };
        if file.size() > ENCLOSED_BYTES_MAX as u64 {
            return self.send_job(FileUpload {
                from,
                to,
                links: Links::Refuse,
                directory: Some(Arc::clone(directory)),
            });
        }
        self.transfer.start(&*from);
        self.transfer.expect(file.size());
        match self.pack(&file, &to) {
            Ok(digest) => {
                self.batch.content += file.size();
                self.batch.items.push(SentItem::File(SentFile {
                    local: from,
                    remote: to,
                    bytes: file.size(),
                    digest,
                    directory: Arc::clone(directory),
                }));
            }
            Err(error) => self.transfer.fail(to, error),
        }
        self.flush_if_full()
    }

    /// Adds a file as it travels. One that changes meanwhile is not sent.
    fn pack(&mut self, file: &LocalFile, to: &RemotePath) -> Result<Digest, ClientError> {
        let start = self.batch.bytes.len();
        let put = self.options.put(file, to.clone(), false);
        self.batch.append(&PutItem::File(put));
        let body = self.batch.bytes.len();
        if let Err(error) = file.read_into(&mut self.batch.bytes) {
            self.batch.bytes.truncate(start);
            return Err(error);
        }
        let body = self.batch.bytes.get(body..).unwrap_or_default();
        let digest = self.options.digest.of(body);
        self.batch.append(&Trailer {
            digest: digest.clone(),
        });
        Ok(digest)
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
        let batch = std::mem::take(&mut self.batch);
        self.packer_tx
            .batches
            .blocking_send(batch)
            .map_err(|_| Stopped)
    }
}

impl StoreOptions {
    /// The offer of a local file.
    pub(super) fn put(&self, file: &LocalFile, path: RemotePath, make_parents: bool) -> Put {
        Put {
            path,
            size: Some(file.size()),
            modified: file.modified(),
            mode: file.mode(),
            digest: self.digest,
            precondition: match self.overwrite {
                true => Precondition::Any,
                false => Precondition::Absent,
            },
            make_parents,
        }
    }
}

/// The name on the server of an entry of a local directory.
fn remote_entry(level: &LocalLevel, entry: &fs::DirEntry) -> Result<RemotePath, ClientError> {
    let path = entry.path();
    let Ok(name) = entry.file_name().into_string() else {
        return Err(ClientError::Unsuitable {
            path,
            reason: "has a name that isn't UTF-8, which can't travel",
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
const BATCH_ITEMS_MAX: usize = 256;
