//! The stream that carries small files and directories to the server, and its answers back.
//!
//! Batches are sent as they come. Meanwhile the outcomes of earlier items arrive, in the order in
//! which the server completes them. A bounded number is unanswered at any time. See PROTOCOL.md,
//! "put-many".

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quinn::WriteError;
use quire_shared::codec::DecodeError;
use quire_shared::protocol::{
    LastItem, Outcome, PutItem, PutMany, Reply, Request, SetAttributes, Version,
};
use quire_transport::stream::message_buffer::MessageBuffer;
use quire_transport::stream::{Priority, Receiver, SendError, Sender};
use tokio::sync::{Semaphore, mpsc};

use super::engine::{Moved, Transfer, local_name};
use super::job::StoreOptions;
use super::pack::{BATCH_ITEMS_MAX, ItemBatch, SentFile, SentItem};
use super::remote_dir::{CompleteDir, RemoteDirState};
use crate::download::PartUse;
use crate::error::ClientError;
use crate::exchange::Connection;

/// What is to be delivered.
pub(super) struct PackerRx {
    pub(super) batches: mpsc::Receiver<ItemBatch>,
    /// Ends when the last directory is complete.
    pub(super) complete: mpsc::UnboundedReceiver<CompleteDir>,
}

/// Delivers all that comes, on a stream that is opened for the first of it.
///
/// # Errors
/// If the server refuses the request as a whole, or the stream breaks. What was answered before
/// is as it was answered; the rest is unknown.
pub(super) async fn deliver(
    connection: &Connection,
    mut packer_rx: PackerRx,
    options: StoreOptions,
    transfer: &Transfer,
) -> Result<(), ClientError> {
    let Some(first) = packer_rx.next().await else {
        return Ok(());
    };
    let (mut sender, mut receiver) = connection.open().await?;
    let delivery = Delivery {
        items: Mutex::default(),
        room: Semaphore::new(UNANSWERED_MAX),
        options,
        transfer,
        connection,
    };
    let sending = delivery.send(&mut sender, first, packer_rx);
    let receiving = delivery.receive(&mut receiver);
    let delivered = async {
        tokio::pin!(sending, receiving);
        tokio::select! {
            biased;
            received = &mut receiving => {
                received?;
                // All that was sent is answered, and the server takes no more.
                Err(ClientError::Truncated)
            }
            sent = &mut sending => {
                sent?;
                receiving.await
            }
        }
    };
    let result = delivered.await;
    // Nobody knows what became of these.
    let unanswered = delivery.items().waiting.len();
    transfer.add_failed(unanswered as u64);
    result
}

/// Has the attributes set that `next` returns, until there are no more.
///
/// # Errors
/// As [`deliver`]; also what `next` returns.
pub(super) async fn deliver_attributes(
    connection: &Connection,
    mut next: impl FnMut() -> Result<Option<SetAttributes>, ClientError>,
    options: StoreOptions,
    transfer: &Transfer,
) -> Result<(), ClientError> {
    let (batches, packed) = mpsc::channel(1);
    let (_, complete) = mpsc::unbounded_channel();
    let packing = async {
        let mut batch = ItemBatch::default();
        while let Some(set) = next()? {
            batch.add_attributes(CompleteDir { set, parent: None });
            if batch.items.len() >= BATCH_ITEMS_MAX
                && batches.send(std::mem::take(&mut batch)).await.is_err()
            {
                return Ok(());
            }
        }
        if !batch.items.is_empty() {
            // Fails only after the stream broke, which is reported.
            let _ = batches.send(batch).await;
        }
        drop(batches);
        Ok(())
    };
    let packer_rx = PackerRx {
        batches: packed,
        complete,
    };
    let (packed, delivered) =
        tokio::join!(packing, deliver(connection, packer_rx, options, transfer));
    delivered?;
    packed
}

impl PackerRx {
    /// What is to be sent next. The attributes of complete directories go first.
    async fn next(&mut self) -> Option<ItemBatch> {
        tokio::select! {
            biased;
            Some(complete) = self.complete.recv() => {
                let mut batch = ItemBatch::default();
                batch.add_attributes(complete);
                while let Ok(complete) = self.complete.try_recv() {
                    batch.add_attributes(complete);
                }
                Some(batch)
            }
            Some(batch) = self.batches.recv() => Some(batch),
            else => None,
        }
    }
}

/// What was sent and has no answer yet.
struct Delivery<'a> {
    items: Mutex<SentItems>,
    room: Semaphore,
    options: StoreOptions,
    transfer: &'a Transfer,
    connection: &'a Connection,
}

#[derive(Default)]
struct SentItems {
    /// How many were sent so far.
    count: u64,
    waiting: HashMap<u64, SentItem>,
}

impl Delivery<'_> {
    async fn send(
        &self,
        sender: &mut Sender,
        first: ItemBatch,
        packer_rx: PackerRx,
    ) -> Result<(), ClientError> {
        match self.send_all(sender, first, packer_rx).await {
            // A server that stops reading says why in its reply.
            Ok(()) | Err(SendError::Write(WriteError::Stopped(_))) => Ok(()),
            Err(error) => Err(self.connection.send_error(error)),
        }
    }

    async fn send_all(
        &self,
        sender: &mut Sender,
        first: ItemBatch,
        mut packer_rx: PackerRx,
    ) -> Result<(), SendError> {
        sender.send(&Request::from(PutMany {})).await?;
        sender.set_priority(Priority::Bulk);
        let mut next = Some(first);
        while let Some(batch) = next {
            let content = batch.content;
            let bytes = self.enter(batch).await;
            sender.send_bytes(bytes).await?;
            self.transfer
                .counter()
                .fetch_add(content, Ordering::Relaxed);
            next = packer_rx.next().await;
        }
        sender.send(&PutItem::Last(LastItem {})).await?;
        // Fails only for a stream that the server stopped meanwhile.
        let _ = sender.finish();
        Ok(())
    }

    /// Notes what is sent, once there is room for it, and gives its bytes.
    async fn enter(&self, batch: ItemBatch) -> Bytes {
        let counted = batch.items.iter().filter(|item| item.is_counted()).count();
        let room = u32::try_from(counted).unwrap_or(u32::MAX);
        // It is never closed.
        if let Ok(room) = self.room.acquire_many(room).await {
            room.forget();
        }
        let mut items = self.items();
        for item in batch.items {
            let index = items.count;
            items.count += 1;
            items.waiting.insert(index, item);
        }
        Bytes::from(batch.bytes)
    }

    /// Hears what became of everything that was sent.
    async fn receive(&self, receiver: &mut Receiver) -> Result<(), ClientError> {
        let mut buffer = MessageBuffer::default();
        loop {
            while let Some(reply) = buffer.message().map_err(ClientError::Unexpected)? {
                match reply {
                    Reply::Ok(outcome) => self.answer(outcome)?,
                    Reply::Failed(failure) => return Err(self.connection.refusal(failure)),
                }
            }
            match receiver.receive_into(&mut buffer).await {
                Ok(true) => {}
                Ok(false) if buffer.is_empty() && self.items().waiting.is_empty() => return Ok(()),
                Ok(false) => return Err(ClientError::Truncated),
                Err(error) => return Err(self.connection.receive_error(error)),
            }
        }
    }

    /// Reports what became of one item.
    fn answer(&self, outcome: Outcome) -> Result<(), ClientError> {
        let item = self.items().waiting.remove(&outcome.index);
        let item = item.ok_or(ClientError::Unexpected(DecodeError::Malformed))?;
        if item.is_counted() {
            self.room.add_permits(1);
        }
        let result = outcome.result.into_result();
        let keep = self.options.keep;
        let result = result.map_err(|failure| ClientError::of_failure(failure).of_details(keep));
        match item {
            SentItem::File(file) => {
                let result = result.map(|changed| changed.version);
                self.end(file, result);
            }
            SentItem::Directory(directory) => {
                let keeps_own = outcome.existed && !self.options.overwrite;
                match result {
                    Ok(_) => {
                        directory.set_state(match keeps_own {
                            true => RemoteDirState::Kept,
                            false => RemoteDirState::Made,
                        });
                        self.transfer.add_directory();
                    }
                    // It is reported when it is known what is below it.
                    Err(error) => directory.fail(error.of_directory()),
                }
            }
            SentItem::Attributes { path, .. } => {
                if let Err(error) = result {
                    self.transfer.fail(path, error);
                }
            }
        }
        Ok(())
    }

    fn end(&self, file: SentFile, result: Result<Version, ClientError>) {
        // What is below a directory that couldn't be made isn't reported one by one.
        if result.is_err() && file.directory.is_missing() {
            file.directory.leave_out(1);
            return;
        }
        if let (Some(first), Ok(version)) = (&file.first, &result) {
            first.arrived(version);
        }
        let name = file.remote.clone();
        let moved = result.map(|version| Moved {
            name: local_name(&file.local),
            local: file.local,
            remote: file.remote,
            bytes: file.bytes,
            digest: file.digest,
            digest_kind: self.options.digest,
            version,
            grew: file.grew,
            part: PartUse::None,
        });
        self.transfer.end(name, moved);
    }

    fn items(&self) -> MutexGuard<'_, SentItems> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SentItem {
    /// Whether it takes up room among the unanswered. The attributes of directories don't: there
    /// are no more of them than of those directories, and who waits for room may wait for them.
    fn is_counted(&self) -> bool {
        !matches!(self, Self::Attributes { .. })
    }
}

/// SentItems without an answer: with files of 4 KiB, more than twice what the stream's window holds.
const UNANSWERED_MAX: usize = 4096;
