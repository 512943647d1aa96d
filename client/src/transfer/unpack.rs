//! A directory of the server that arrives on one stream, turned into local files.
//!
//! The network's side collects bytes while a blocking thread makes files of the last ones, so that
//! thousands of small files cost few changes between the two. Names come from the server one by
//! one, each below the directory that was entered last: nothing it sends leads out of the one that
//! was asked for. A small file is in memory and proved right before anything of it is on disk. See
//! PROTOCOL.md, "get-tree".

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quire_shared::codec::DecodeError;
use quire_shared::path::PathError;
use quire_shared::path::Unnameable;
use quire_shared::protocol::{Attributes, Entry, EntryKind, Left, Reply, Trailer, TreeItem};
use quire_shared::{Name, RemotePath};
use quire_transport::bottleneck::file_work;
use quire_transport::flow::ConnectionFlow;
use quire_transport::stream::Receiver;
use quire_transport::stream::item_decoder::{Item, ItemDecoder};
use quire_transport::stream::message_buffer::MessageBuffer;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;

use super::engine::{Moved, SkipReason, Transfer, local_entry};
use super::item_name::ItemName;
use super::job::{FetchOptions, FileDownload};
use super::local_dir::{LocalDir, finish};
use crate::blocking::joined;
use crate::download::PartUse;
use crate::error::ClientError;
use crate::exchange::Connection;
use crate::save::save_whole;
use crate::upload::Links;

/// Receives a whole tree.
///
/// # Errors
/// If the stream breaks or brings something that is no tree. What arrived before stays.
pub(super) async fn receive(
    connection: &Connection,
    mut receiver: Receiver,
    unpacker: Unpacker,
) -> Result<(), ClientError> {
    let mut buffer = MessageBuffer::default();
    let mut worker = Worker::Idle(Box::new(unpacker));
    let mut goes_on = true;
    while goes_on {
        tokio::select! {
            received = receiver.receive_into(&mut buffer), if buffer.len() < BATCH => match received {
                Ok(more) => goes_on = more,
                Err(error) => {
                    let unpacker = worker.idle().await?;
                    unpacker.abandon().await;
                    return Err(connection.receive_error(error));
                }
            },
            unpacker = worker.finished() => worker = Worker::Idle(unpacker?),
        }
        worker = match worker {
            Worker::Idle(unpacker) if !buffer.is_empty() => {
                Worker::start(unpacker, std::mem::take(&mut buffer))
            }
            worker => worker,
        };
    }
    let unpacker = Worker::start(worker.idle().await?, buffer).idle().await?;
    if unpacker.levels.is_empty() {
        return Ok(());
    }
    unpacker.abandon().await;
    Err(ClientError::Truncated)
}

/// An unpacker that is free, or at work in a blocking thread.
enum Worker {
    Idle(Box<Unpacker>),
    Busy(JoinHandle<Result<Box<Unpacker>, ClientError>>),
}

impl Worker {
    fn start(mut unpacker: Box<Unpacker>, arrived: MessageBuffer) -> Self {
        let unpacking = move || match unpacker.unpack(arrived) {
            Ok(()) => Ok(unpacker),
            Err(error) => {
                unpacker.leave_all();
                Err(error)
            }
        };
        Self::Busy(tokio::task::spawn_blocking(|| file_work(unpacking)))
    }

    /// Waits for the end of the work at hand; for ever, if there is none.
    async fn finished(&mut self) -> Result<Box<Unpacker>, ClientError> {
        match self {
            Self::Idle(_) => std::future::pending().await,
            Self::Busy(task) => joined(task).await,
        }
    }

    async fn idle(self) -> Result<Box<Unpacker>, ClientError> {
        match self {
            Self::Idle(unpacker) => Ok(unpacker),
            Self::Busy(mut task) => joined(&mut task).await,
        }
    }
}

/// Takes the files of a tree that are fetched by themselves.
#[derive(Debug)]
pub(super) struct DownloadQueue {
    pub(super) jobs: mpsc::Sender<FileDownload>,
    /// The flow of the connection that the tree arrives on.
    pub(super) flow: ConnectionFlow,
}

impl DownloadQueue {
    /// Queues a job. If the queue is full, no more of the tree is read until jobs have ended, and
    /// those need the window that the tree would fill. Blocks.
    fn push(&self, job: FileDownload) {
        if let Err(TrySendError::Full(job)) = self.jobs.try_send(job) {
            let _held = self.flow.hold();
            // Fails only after the connection was lost, which has been reported.
            let _ = self.jobs.blocking_send(job);
        }
    }
}

/// Makes files of what has arrived. Its work blocks.
#[derive(Debug)]
pub(super) struct Unpacker {
    /// The directories that the server is in, outermost first; none once it has left the last.
    levels: Vec<TreeLevel>,
    decoder: ItemDecoder<TreeItem>,
    options: FetchOptions,
    transfer: Arc<Transfer>,
    queue: DownloadQueue,
}

#[derive(Debug)]
struct TreeLevel {
    remote: RemotePath,
    /// The last name that came, after which all others are.
    last: Option<Name>,
    /// The directory here; none if it couldn't be made, and all below it is left out.
    local: Option<Arc<LocalDir>>,
    /// Why it couldn't be made, unless that is the fault of the directory above.
    failure: Option<(ItemName, ClientError)>,
    /// Files and directories below it that are left out.
    below: u64,
}

impl TreeLevel {
    fn new(remote: RemotePath, local: Option<Arc<LocalDir>>) -> Self {
        Self {
            remote,
            last: None,
            local,
            failure: None,
            below: 0,
        }
    }
}

impl Unpacker {
    /// An unpacker of the directory `remote` into `top`.
    pub(super) fn new(
        remote: RemotePath,
        top: LocalDir,
        options: FetchOptions,
        transfer: Arc<Transfer>,
        queue: DownloadQueue,
    ) -> Self {
        Self {
            levels: vec![TreeLevel::new(remote, Some(Arc::new(top)))],
            decoder: ItemDecoder::new(body_size),
            options,
            transfer,
            queue,
        }
    }

    /// Lets go of directories that will not be complete.
    async fn abandon(mut self: Box<Self>) {
        // They report their failures themselves.
        let _ = tokio::task::spawn_blocking(move || self.leave_all()).await;
    }

    fn leave_all(&mut self) {
        while let Some(level) = self.levels.pop() {
            self.leave(level);
        }
    }

    /// Ends a directory: sets its attributes, or reports that it is missing with all below it.
    fn leave(&mut self, level: TreeLevel) {
        match (level.local, level.failure) {
            (Some(directory), _) => finish(directory, &self.transfer),
            (None, Some((name, error))) => {
                self.transfer.fail_with_below(name, error, level.below);
            }
            (None, None) => {
                if let Some(above) = self.levels.last_mut() {
                    above.below += 1 + level.below;
                }
            }
        }
    }

    /// Goes on with what has arrived, as far as it is whole.
    ///
    /// # Errors
    /// If it is something that the protocol doesn't allow.
    fn unpack(&mut self, arrived: MessageBuffer) -> Result<(), ClientError> {
        self.decoder.buffer.append(arrived);
        while !self.levels.is_empty() {
            match self.decoder.item().map_err(ClientError::Unexpected)? {
                Some(item) => self.item(item)?,
                None => return Ok(()),
            }
        }
        self.decoder.expect_end().map_err(ClientError::Unexpected)
    }

    fn item(&mut self, item: Item<TreeItem, Reply<Trailer>>) -> Result<(), ClientError> {
        let (item, enclosed) = item;
        match item {
            TreeItem::Described(entry) => self.described(&entry),
            TreeItem::Enclosed(entry) => {
                let (body, trailer) = enclosed.ok_or(MALFORMED)?;
                self.file(entry, &body, trailer)
            }
            TreeItem::Entered(entry) => self.entered(entry),
            TreeItem::Missed(missed) => {
                if let Some((from, _)) = self.wanted(&missed.name)? {
                    let error = ClientError::of_failure(missed.failure);
                    self.transfer.fail(from, error);
                }
                Ok(())
            }
            TreeItem::Left(left) => {
                self.left(left);
                Ok(())
            }
        }
    }

    /// Something that is fetched by itself, or not at all.
    fn described(&mut self, entry: &Entry) -> Result<(), ClientError> {
        let Some((from, directory)) = self.wanted(&entry.name)? else {
            return Ok(());
        };
        match entry.attributes.kind {
            EntryKind::File => {}
            EntryKind::Directory => return Err(MALFORMED),
            EntryKind::Symlink => {
                self.transfer.skip(from, SkipReason::SymbolicLink);
                return Ok(());
            }
            EntryKind::Other => {
                self.transfer.skip(from, SkipReason::SpecialFile);
                return Ok(());
            }
        }
        let to = match local_entry(&directory.path, &entry.name) {
            Ok(to) => to,
            Err(error) => {
                self.transfer.fail(from, error);
                return Ok(());
            }
        };
        if let Ok(found) = fs::symlink_metadata(&to) {
            if self.is_left(&entry.attributes, &found) {
                self.transfer.add_present(entry.attributes.size);
                return Ok(());
            }
            if !self.options.save.overwrite {
                self.transfer.fail(from, ClientError::LocalExists(to));
                return Ok(());
            }
        }
        self.transfer.expect(entry.attributes.size);
        let job = FileDownload {
            from,
            to,
            described_size: Some(entry.attributes.size),
            directory: Some(directory),
        };
        self.queue.push(job);
        Ok(())
    }

    fn entered(&mut self, entry: Entry) -> Result<(), ClientError> {
        if entry.attributes.kind != EntryKind::Directory {
            return Err(MALFORMED);
        }
        let level = match self.entry_path(&entry.name)? {
            (above, None, _) => TreeLevel::new(above, None),
            (above, Some(_), Err(rule)) => {
                let name = format!("{above}/{}", entry.name);
                TreeLevel {
                    failure: Some((name.into(), ClientError::RemotePath(rule))),
                    ..TreeLevel::new(above, None)
                }
            }
            (_, Some(parent), Ok(remote)) => self.make_directory(remote, entry, parent),
        };
        self.levels.push(level);
        Ok(())
    }

    fn make_directory(&self, remote: RemotePath, entry: Entry, parent: Arc<LocalDir>) -> TreeLevel {
        let save = self.options.save;
        let made = local_entry(&parent.path, &entry.name).and_then(|path| {
            let (attributes, parent) = (entry.attributes, Some(parent));
            LocalDir::make(path, attributes, save, parent, Links::Refuse)
        });
        match made {
            Ok(directory) => {
                self.transfer.add_directory();
                TreeLevel::new(remote, Some(Arc::new(directory)))
            }
            Err(error) => TreeLevel {
                failure: Some(((&remote).into(), error)),
                ..TreeLevel::new(remote, None)
            },
        }
    }

    fn left(&mut self, left: Left) {
        let Some(level) = self.levels.pop() else {
            return;
        };
        if level.local.is_some() {
            let name = || &level.remote;
            if let Some(failure) = left.failure {
                self.transfer.fail(name(), ClientError::of_failure(failure));
            }
            if left.unnameable > 0 {
                let error = ClientError::Unnameable(Unnameable {
                    count: left.unnameable,
                    names: left.raw_names,
                });
                self.transfer.fail(name(), error);
            }
        }
        self.leave(level);
    }

    /// A file that has arrived whole.
    fn file(
        &mut self,
        entry: Entry,
        body: &[u8],
        trailer: Reply<Trailer>,
    ) -> Result<(), ClientError> {
        let bytes = body.len() as u64;
        self.transfer.expect(bytes);
        self.transfer.counter().fetch_add(bytes, Ordering::Relaxed);
        let Some((remote, directory)) = self.wanted(&entry.name)? else {
            return Ok(());
        };
        let local = local_entry(&directory.path, &entry.name);
        if self.options.leave.looks()
            && let Ok(local) = &local
            && let Ok(found) = fs::symlink_metadata(local)
            && self.is_left(&entry.attributes, &found)
        {
            self.transfer.add_present(0);
            return Ok(());
        }
        let name = remote.clone();
        self.transfer.start(&name);
        let saved = local.and_then(|local| {
            let trailer = self.save(&local, &entry.attributes, body, trailer)?;
            Ok((local, trailer))
        });
        let moved = saved.map(|(local, trailer)| Moved {
            name: name.to_string(),
            local,
            remote,
            bytes,
            digest: trailer.digest,
            digest_kind: self.options.digest,
            version: entry.attributes.version,
            grew: trailer.grew,
            part: PartUse::None,
        });
        self.transfer.end(name, moved);
        Ok(())
    }

    fn is_left(&self, wanted: &Attributes, found: &fs::Metadata) -> bool {
        self.options.leave.leaves(&wanted.into(), &found.into())
    }

    fn save(
        &self,
        local: &Path,
        attributes: &Attributes,
        body: &[u8],
        trailer: Reply<Trailer>,
    ) -> Result<Trailer, ClientError> {
        let trailer = trailer.into_result().map_err(ClientError::of_failure)?;
        if self.options.digest.of(body) != trailer.digest {
            return Err(ClientError::Damaged);
        }
        save_whole(local, body, attributes, self.options.save)?;
        Ok(trailer)
    }

    /// The path of `name` in the directory at hand, and the directory here; nothing if it is left
    /// out together with its directory, or because no path can name it, which is reported.
    fn wanted(&mut self, name: &Name) -> Result<Option<(RemotePath, Arc<LocalDir>)>, ClientError> {
        match self.entry_path(name)? {
            (_, Some(directory), Ok(path)) => Ok(Some((path, directory))),
            (above, Some(_), Err(rule)) => {
                let error = ClientError::RemotePath(rule);
                self.transfer.fail(format!("{above}/{name}"), error);
                Ok(None)
            }
            (_, None, _) => {
                if let Some(level) = self.levels.last_mut() {
                    level.below += 1;
                }
                Ok(None)
            }
        }
    }

    /// The path of the directory at hand, the directory here, and the path of `name` in it. A name is
    /// taken only if it follows the last one, so that none comes twice.
    fn entry_path(&mut self, name: &Name) -> Result<EntryPath, ClientError> {
        let level = self.levels.last_mut().ok_or(MALFORMED)?;
        if level.last.as_ref().is_some_and(|last| last >= name) {
            return Err(MALFORMED);
        }
        level.last = Some(name.clone());
        let path = level.remote.join(name.clone());
        Ok((level.remote.clone(), level.local.clone(), path))
    }
}

type EntryPath = (
    RemotePath,
    Option<Arc<LocalDir>>,
    Result<RemotePath, PathError>,
);

/// Returns the size of the body that follows `item`. Only a file has one.
pub(super) fn body_size(item: &TreeItem) -> Result<Option<u64>, DecodeError> {
    match item {
        TreeItem::Enclosed(entry) if entry.attributes.kind == EntryKind::File => {
            Ok(Some(entry.attributes.size))
        }
        TreeItem::Enclosed(_) => Err(DecodeError::Malformed),
        TreeItem::Described(_) | TreeItem::Entered(_) | TreeItem::Missed(_) | TreeItem::Left(_) => {
            Ok(None)
        }
    }
}

/// What a server that breaks a rule has sent.
const MALFORMED: ClientError = ClientError::Unexpected(DecodeError::Malformed);

/// Bytes collected while files are made of others: some sixty small files, which take about as
/// long as a hundred times handing them over.
const BATCH: usize = 256 * 1024;
