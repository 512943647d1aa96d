//! A stream that carries many files, handed in batches to a blocking thread.
//!
//! The network's side collects bytes while a blocking thread makes files of the last ones, so that
//! thousands of small files cost few changes between the two. A small file is in memory and proved
//! right before anything of it is on disk.

use std::path::PathBuf;

use quire_shared::RemotePath;
use quire_shared::protocol::{Attributes, Reply, Trailer};
use quire_transport::bottleneck::file_work;
use quire_transport::flow::ConnectionFlow;
use quire_transport::stream::Receiver;
use quire_transport::stream::message_buffer::MessageBuffer;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;

use super::engine::{Moved, Transfer};
use super::job::{FetchOptions, FileDownload};
use crate::blocking::joined;
use crate::download::PartUse;
use crate::error::ClientError;
use crate::exchange::Connection;
use crate::save::save_whole;

/// Makes files of what has arrived. Its work blocks.
pub(super) trait Unpack: Send + 'static {
    /// Goes on with what has arrived, as far as it is whole.
    ///
    /// # Errors
    /// If it is something that the protocol doesn't allow.
    fn unpack(&mut self, arrived: MessageBuffer) -> Result<(), ClientError>;

    /// Whether all has arrived that was to come.
    fn is_complete(&self) -> bool;

    /// Lets go of what will not be complete. Failures are reported here.
    fn give_up(&mut self);
}

/// Receives a stream to its end.
///
/// # Errors
/// If the stream breaks or brings something wrong. What arrived before stays.
pub(super) async fn receive<U: Unpack>(
    connection: &Connection,
    mut receiver: Receiver,
    unpacker: U,
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
                    abandon(unpacker).await;
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
    if unpacker.is_complete() {
        return Ok(());
    }
    abandon(unpacker).await;
    Err(ClientError::Truncated)
}

/// Lets go of what will not be complete.
async fn abandon<U: Unpack>(mut unpacker: Box<U>) {
    // It reports its failures itself.
    let _ = tokio::task::spawn_blocking(move || unpacker.give_up()).await;
}

/// An unpacker that is free, or at work in a blocking thread.
enum Worker<U> {
    Idle(Box<U>),
    Busy(JoinHandle<Result<Box<U>, ClientError>>),
}

impl<U: Unpack> Worker<U> {
    fn start(mut unpacker: Box<U>, arrived: MessageBuffer) -> Self {
        let unpacking = move || match unpacker.unpack(arrived) {
            Ok(()) => Ok(unpacker),
            Err(error) => {
                unpacker.give_up();
                Err(error)
            }
        };
        Self::Busy(tokio::task::spawn_blocking(|| file_work(unpacking)))
    }

    /// Waits for the end of the work at hand; for ever, if there is none.
    async fn finished(&mut self) -> Result<Box<U>, ClientError> {
        match self {
            Self::Idle(_) => std::future::pending().await,
            Self::Busy(task) => joined(task).await,
        }
    }

    async fn idle(self) -> Result<Box<U>, ClientError> {
        match self {
            Self::Idle(unpacker) => Ok(unpacker),
            Self::Busy(mut task) => joined(&mut task).await,
        }
    }
}

/// Takes the files that are fetched by themselves.
#[derive(Debug, Clone)]
pub(super) struct DownloadQueue {
    pub(super) jobs: mpsc::Sender<FileDownload>,
    /// The flow of the connection that the others arrive on.
    pub(super) flow: ConnectionFlow,
}

impl DownloadQueue {
    /// Queues a job. If the queue is full, no more of the stream is read until jobs have ended, and
    /// those need the window that the stream would fill. Blocks.
    pub(super) fn push(&self, job: FileDownload) {
        if let Err(TrySendError::Full(job)) = self.jobs.try_send(job) {
            let _held = self.flow.hold();
            // Fails only after the connection was lost, which has been reported.
            let _ = self.jobs.blocking_send(job);
        }
    }
}

/// A file that has arrived among others on a stream, with its trailer.
#[derive(Debug)]
pub(super) struct ArrivedFile<'a> {
    pub(super) remote: RemotePath,
    pub(super) attributes: Attributes,
    pub(super) body: &'a [u8],
    pub(super) trailer: Reply<Trailer>,
}

impl ArrivedFile<'_> {
    /// Saves the file if it is whole, and reports the result. Blocks.
    pub(super) fn save(
        self,
        local: Result<PathBuf, ClientError>,
        options: FetchOptions,
        transfer: &Transfer,
    ) {
        let name = self.remote.clone();
        transfer.start(&name);
        transfer.end(name, local.and_then(|local| self.save_to(local, options)));
    }

    fn save_to(self, local: PathBuf, options: FetchOptions) -> Result<Moved, ClientError> {
        let trailer = self.trailer.into_result();
        let trailer = trailer.map_err(ClientError::of_failure)?;
        if options.digest.of(self.body) != trailer.digest {
            return Err(ClientError::Damaged);
        }
        save_whole(&local, self.body, &self.attributes, options.save)?;
        Ok(Moved {
            name: self.remote.to_string(),
            local,
            remote: self.remote,
            bytes: self.body.len() as u64,
            digest: trailer.digest,
            digest_kind: options.digest,
            version: self.attributes.version,
            grew: trailer.grew,
            part: PartUse::None,
        })
    }
}

/// Bytes collected while files are made of others: some sixty small files, which take about as
/// long as a hundred times handing them over.
const BATCH: usize = 256 * 1024;
