//! `PutMany`: many files and directories on one stream.
//!
//! Items are committed in batches, one at a time, while the next batch is being received. An
//! outcome is sent when its change is durable.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use quire_shared::codec::DecodeError;
use quire_shared::protocol::{Changed, Outcome, PutItem, Reply, Trailer};
use quire_transport::stream::item_decoder::ItemDecoder;
use quire_transport::stream::{ReceiveError, Receiver, Sender};

use crate::files::{BatchItem, BatchUpload, Caller, Committed, Error, Files, StoreError};
use crate::quic::error::RequestError;
use crate::quic::reply::{append, failure_of_item};

/// Receives items and replies to each, until the client has sent the last one.
pub(crate) async fn serve(
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let mut upload = CommitStage::Idle(files.batches(caller)?);
    let received = receive(&mut upload, sender, receiver).await;
    if let CommitStage::Committing(committing) = upload {
        // The stream has failed, but a batch that has begun is committed all the same.
        let _ = committing.await;
    }
    received?;
    sender.finish_and_wait().await?;
    Ok(())
}

type Results = Result<Vec<Result<Committed, Error>>, Error>;

/// State of the commits: a batch is being committed, or none is.
enum CommitStage {
    Idle(BatchUpload),
    Committing(Pin<Box<dyn Future<Output = (BatchUpload, Results)> + Send>>),
    /// Placeholder while `start` moves the upload; never seen elsewhere.
    Taken,
}

impl CommitStage {
    fn is_idle(&self) -> bool {
        matches!(self, Self::Idle(_))
    }

    /// Starts to commit a batch.
    fn start(&mut self, items: Vec<BatchItem>) {
        if let Self::Idle(mut upload) = std::mem::replace(self, Self::Taken) {
            *self = Self::Committing(Box::pin(async move {
                let results = upload.commit(items).await;
                (upload, results)
            }));
        }
    }

    /// Waits for the results of the batch; never completes if there is none.
    async fn results(&mut self) -> Results {
        let Self::Committing(committing) = self else {
            return std::future::pending().await;
        };
        let (upload, results) = committing.await;
        *self = Self::Idle(upload);
        results
    }
}

async fn receive(
    upload: &mut CommitStage,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let mut next = NextBatch::new();
    let mut has_more = true;
    // Number of the item whose outcome is sent next.
    let mut index = 0;
    let mut is_advised = false;
    loop {
        if upload.is_idle() && !next.items.is_empty() {
            upload.start(next.take());
        }
        // Decodes what stayed in the buffer because the last batch was full.
        next.decode()?;
        if !has_more && upload.is_idle() && next.items.is_empty() {
            return match next.has_ended {
                true => Ok(()),
                false => Err(ReceiveError::Truncated.into()),
            };
        }
        tokio::select! {
            received = receiver.receive_into(&mut next.decoder.buffer), if has_more && next.has_room() => {
                has_more = received?;
                next.decode()?;
            }
            results = upload.results() => {
                let mut outcomes = Vec::new();
                for result in results? {
                    let outcome = outcome(index, result, &mut is_advised)?;
                    append(&Reply::Ok(outcome), &mut outcomes)?;
                    index += 1;
                }
                sender.send_bytes(Bytes::from(outcomes)).await?;
            }
        }
    }
}

fn outcome(
    index: u64,
    result: Result<Committed, Error>,
    is_advised: &mut bool,
) -> Result<Outcome, RequestError> {
    let (result, existed) = match result {
        Ok(committed) => {
            let nothing = || Error::from(StoreError::Internal("an item that left nothing"));
            let version = committed.version.ok_or_else(nothing)?;
            (Reply::Ok(Changed { version }), committed.existed)
        }
        Err(error) => (Reply::Failed(failure_of_item(error, is_advised)), false),
    };
    Ok(Outcome {
        index,
        result,
        existed,
    })
}

/// Decodes the items of the stream into the next batch.
struct NextBatch {
    decoder: ItemDecoder<PutItem>,
    /// Whether the last item was decoded.
    has_ended: bool,
    items: Vec<BatchItem>,
    /// Bytes of content in `items`.
    bytes: usize,
}

impl NextBatch {
    fn new() -> Self {
        Self {
            decoder: ItemDecoder::new(body_size),
            has_ended: false,
            items: Vec::new(),
            bytes: 0,
        }
    }

    /// Whether the next batch has room for another item.
    fn has_room(&self) -> bool {
        self.bytes < BATCH_BYTES && self.items.len() < BATCH_ITEMS
    }

    fn take(&mut self) -> Vec<BatchItem> {
        self.bytes = 0;
        std::mem::take(&mut self.items)
    }

    /// Decodes all complete items that the batch has room for.
    fn decode(&mut self) -> Result<(), ReceiveError> {
        while self.has_room() {
            if self.has_ended {
                return Ok(self.decoder.expect_end()?);
            }
            let Some(item) = self.decoder.item()? else {
                break;
            };
            match item {
                (PutItem::File(put), Some((body, Trailer { digest, .. }))) => {
                    self.bytes += body.len();
                    self.items.push(BatchItem::File(put, body, digest));
                }
                (PutItem::File(_), None) => return Err(DecodeError::Malformed.into()),
                (PutItem::Directory(make), _) => self.items.push(BatchItem::Directory(make)),
                (PutItem::Attributes(set), _) => self.items.push(BatchItem::Attributes(set)),
                (PutItem::Last(_), _) => self.has_ended = true,
            }
        }
        Ok(())
    }
}

/// Returns the size of the body that follows `item`. A file on this stream has to declare its own.
fn body_size(item: &PutItem) -> Result<Option<u64>, DecodeError> {
    match item {
        PutItem::File(put) => put.size.map(Some).ok_or(DecodeError::Malformed),
        PutItem::Directory(_) | PutItem::Attributes(_) | PutItem::Last(_) => Ok(None),
    }
}

/// Bytes of content in a batch, plus the end of its last file.
const BATCH_BYTES: usize = 512 * 1024;

/// Items in a batch. Limits the open files: each file of a batch is open until it is published.
const BATCH_ITEMS: usize = 128;
