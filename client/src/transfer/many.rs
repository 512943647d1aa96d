//! The stream on which many files of the server are named one by one, and arrive.
//!
//! Files are named as they come, and arrive in the same order; a bounded number is named ahead. What
//! is too large for the stream, or what an old server doesn't send on it, is fetched by a request of
//! its own. See PROTOCOL.md, "get-many".

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::WriteError;
use quire_shared::codec::{self, DecodeError};
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{
    Attributes, EntryKind, GetFile, GetHeader, GetItem, GetMany, GotItem, LastItem, Reply, Request,
    Trailer,
};
use quire_transport::stream::item_decoder::ItemDecoder;
use quire_transport::stream::message_buffer::MessageBuffer;
use quire_transport::stream::{SendError, Sender};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::arrival::{ArrivedFile, DownloadQueue, Unpack, receive};
use super::engine::Transfer;
use super::job::{FetchOptions, FileDownload};
use super::local_dir::finish;
use super::unpack::MALFORMED;
use crate::blocking::blocking;
use crate::error::ClientError;
use crate::exchange::Connection;

/// Fetches the files of all `jobs` on one stream, which is opened for the first of them. Those that
/// can't be fetched that way go into `queue`. The caller has looked at what is in their places here.
pub(super) async fn fetch_many(
    connection: &Connection,
    mut jobs: mpsc::Receiver<FileDownload>,
    options: FetchOptions,
    transfer: &Arc<Transfer>,
    queue: DownloadQueue,
) {
    while let Some(first) = jobs.recv().await {
        let named = Arc::new(NamedJobs::default());
        let unpacker = ItemUnpacker {
            decoder: ItemDecoder::new(body_size),
            named: Arc::clone(&named),
            options,
            transfer: Arc::clone(transfer),
            queue: queue.clone(),
            connection: connection.clone(),
        };
        let first = named.enter(vec![first]);
        let Err(error) = exchange(connection, &mut jobs, first, unpacker).await else {
            continue;
        };
        let mut rest = named.take_all();
        // What is refused as a whole may be granted one by one.
        if error.code().is_none()
            && let Some(job) = rest.pop_front()
        {
            transfer.fail(&job.from, error);
            job.end(transfer).await;
        }
        for job in rest {
            // Fails only after the connection was lost, which has been reported.
            let _ = queue.jobs.send(job).await;
        }
        break;
    }
    while let Some(job) = jobs.recv().await {
        let _ = queue.jobs.send(job).await;
    }
}

/// Names jobs until no more come for now, and receives what the server sends for them.
async fn exchange(
    connection: &Connection,
    jobs: &mut mpsc::Receiver<FileDownload>,
    first: Bytes,
    unpacker: ItemUnpacker,
) -> Result<(), ClientError> {
    let named = Arc::clone(&unpacker.named);
    let get = GetMany {
        digest: unpacker.options.digest,
        enclose_max: ENCLOSED_BYTES_MAX as u64,
        details: unpacker.options.save.keep.kinds,
    };
    let (mut sender, receiver) = connection.open().await?;
    let sending = async {
        sender.send(&Request::from(get)).await?;
        named.send_all(&mut sender, first, jobs).await
    };
    let receiving = receive(connection, receiver, unpacker);
    tokio::pin!(sending, receiving);
    tokio::select! {
        biased;
        received = &mut receiving => {
            received?;
            // All that was named has come, and the server takes no more.
            Err(ClientError::Truncated)
        }
        sent = &mut sending => {
            // What has arrived is saved in any case.
            let received = receiving.await;
            match sent {
                // A server that stops reading says why in its reply.
                Ok(()) | Err(SendError::Write(WriteError::Stopped(_))) => received,
                Err(error) => received.and(Err(connection.send_error(error))),
            }
        }
    }
}

/// The jobs that were named and aren't answered yet.
#[derive(Debug)]
struct NamedJobs {
    waiting: Mutex<WaitingJobs>,
    room: Semaphore,
}

#[derive(Debug, Default)]
struct WaitingJobs {
    /// The number of the first of them.
    index: u64,
    jobs: VecDeque<FileDownload>,
}

impl Default for NamedJobs {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            room: Semaphore::new(UNANSWERED_MAX),
        }
    }
}

impl NamedJobs {
    /// Sends `first`, and names each job as it comes, while few enough are unanswered. Ends when no
    /// more come for now.
    async fn send_all(
        &self,
        sender: &mut Sender,
        first: Bytes,
        jobs: &mut mpsc::Receiver<FileDownload>,
    ) -> Result<(), SendError> {
        sender.send_bytes(first).await?;
        loop {
            // It is never closed, and only this function takes from it.
            drop(self.room.acquire_many(NAMED_AT_ONCE).await);
            let mut named = Vec::new();
            let coming = jobs.recv_many(&mut named, NAMED_AT_ONCE as usize);
            // A server takes a client that names nothing for too long for one that stalls.
            if timeout(IDLE_TIME, coming).await.unwrap_or(0) == 0 {
                break;
            }
            let bytes = self.enter(named);
            sender.send_bytes(bytes).await?;
        }
        sender.send(&GetItem::Last(LastItem {})).await?;
        // Fails only for a stream that the server stopped meanwhile.
        let _ = sender.finish();
        Ok(())
    }

    /// Notes jobs, and returns their items.
    fn enter(&self, jobs: Vec<FileDownload>) -> Bytes {
        self.room.forget_permits(jobs.len());
        let mut bytes = Vec::new();
        let mut waiting = self.waiting();
        for job in jobs {
            let path = job.from.clone();
            let appended = codec::append(&GetItem::File(GetFile { path }), &mut bytes);
            // A path within its limits makes no message that is over its own.
            debug_assert!(appended.is_ok(), "{appended:?}");
            waiting.jobs.push_back(job);
        }
        Bytes::from(bytes)
    }

    /// Takes the job that the answer `index` is for; `None` if it isn't the next one.
    fn answered(&self, index: u64) -> Option<FileDownload> {
        let mut waiting = self.waiting();
        if waiting.index != index {
            return None;
        }
        let job = waiting.jobs.pop_front()?;
        waiting.index += 1;
        self.room.add_permits(1);
        Some(job)
    }

    fn take_all(&self) -> VecDeque<FileDownload> {
        std::mem::take(&mut self.waiting().jobs)
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingJobs> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes files of the answers.
struct ItemUnpacker {
    decoder: ItemDecoder<Reply<GotItem>>,
    named: Arc<NamedJobs>,
    options: FetchOptions,
    transfer: Arc<Transfer>,
    queue: DownloadQueue,
    connection: Connection,
}

impl Unpack for ItemUnpacker {
    fn unpack(&mut self, arrived: MessageBuffer) -> Result<(), ClientError> {
        self.decoder.buffer.append(arrived);
        while let Some((reply, enclosed)) = self.decoder.item().map_err(ClientError::Unexpected)? {
            let got = reply.into_result();
            let got = got.map_err(|failure| self.connection.refusal(failure))?;
            let job = self.named.answered(got.index).ok_or(MALFORMED)?;
            self.answer(job, got.result, enclosed);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.decoder.buffer.is_empty() && self.named.waiting().jobs.is_empty()
    }

    /// What isn't answered is fetched by itself.
    fn give_up(&mut self) {}
}

impl ItemUnpacker {
    fn answer(
        &self,
        job: FileDownload,
        result: Reply<GetHeader>,
        enclosed: Option<(Bytes, Reply<Trailer>)>,
    ) {
        match (result.into_result(), enclosed) {
            (Ok(header), Some((body, trailer))) => {
                let bytes = body.len() as u64;
                if job.described_size.is_none() {
                    self.transfer.expect(bytes);
                }
                self.transfer.counter().fetch_add(bytes, Ordering::Relaxed);
                let file = ArrivedFile {
                    remote: job.from,
                    attributes: attributes(header),
                    body: &body,
                    trailer,
                };
                file.save(Ok(job.to), self.options, &self.transfer);
            }
            // It is too large, or changes at this moment.
            (Ok(_), None) => return self.queue.push(job),
            (Err(failure), _) => {
                let error = self.connection.refusal(failure);
                self.transfer.fail(&job.from, error);
            }
        }
        if let Some(directory) = job.directory {
            finish(directory, &self.transfer);
        }
    }
}

impl FileDownload {
    /// Lets go of its directory.
    pub(super) async fn end(self, transfer: &Arc<Transfer>) {
        if let Some(directory) = self.directory {
            let transfer = Arc::clone(transfer);
            // It reports its failures itself.
            let _ = blocking(move || {
                finish(directory, &transfer);
                Ok(())
            })
            .await;
        }
    }
}

fn attributes(header: GetHeader) -> Attributes {
    Attributes {
        kind: EntryKind::File,
        size: header.size,
        modified: header.modified,
        mode: header.mode,
        version: header.version,
        target: None,
        details: header.details,
        hard_link: None,
    }
}

/// Returns the size of the body that follows an answer.
fn body_size(reply: &Reply<GotItem>) -> Result<Option<u64>, DecodeError> {
    match reply {
        Reply::Ok(got) => got.body_size(),
        Reply::Failed(_) => Ok(None),
    }
}

/// Jobs without an answer: with files of 4 KiB, more than a path of a hundred milliseconds carries at
/// a gigabit.
const UNANSWERED_MAX: usize = 4096;

/// Jobs named in one step: few, so that an answer to some of them makes room for more.
const NAMED_AT_ONCE: u32 = 64;

/// How long a stream waits for the next job. The next one after that opens another.
const IDLE_TIME: Duration = Duration::from_secs(5);
