//! `PutMany`: many files and directories on one stream.
//!
//! Items are committed in batches, one at a time, while the next batch is being received. An
//! outcome is sent when its change is durable.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use quire_shared::codec::DecodeError;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{Changed, Outcome, Put, PutItem, Reply, Trailer};
use quire_transport::stream::message_buffer::MessageBuffer;
use quire_transport::stream::{ReceiveError, Receiver, Sender};

use crate::files::{BatchItem, BatchUpload, Caller, Committed, Error, Files, StoreError};
use crate::quic::error::RequestError;
use crate::quic::reply::{append, failure};

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
    let mut decoder = ItemDecoder::default();
    let mut has_more = true;
    // Number of the item whose outcome is sent next.
    let mut index = 0;
    loop {
        if upload.is_idle() && !decoder.items.is_empty() {
            upload.start(decoder.take());
        }
        // Decodes what stayed in the buffer because the last batch was full.
        decoder.decode()?;
        if !has_more && upload.is_idle() && decoder.items.is_empty() {
            return decoder.end();
        }
        tokio::select! {
            received = receiver.receive_into(&mut decoder.buffer), if has_more && decoder.has_room() => {
                has_more = received?;
                decoder.decode()?;
            }
            results = upload.results() => {
                let mut outcomes = Vec::new();
                for result in results? {
                    append(&Reply::Ok(outcome(index, result)?), &mut outcomes)?;
                    index += 1;
                }
                sender.send_bytes(Bytes::from(outcomes)).await?;
            }
        }
    }
}

fn outcome(index: u64, result: Result<Committed, Error>) -> Result<Outcome, RequestError> {
    let (result, existed) = match result {
        Ok(committed) => {
            let nothing = || Error::from(StoreError::Internal("an item that left nothing"));
            let version = committed.version.ok_or_else(nothing)?;
            (Reply::Ok(Changed { version }), committed.existed)
        }
        Err(error) => (Reply::Failed(failure(error)), false),
    };
    Ok(Outcome {
        index,
        result,
        existed,
    })
}

/// Decodes the items of the stream into the next batch.
#[derive(Default)]
struct ItemDecoder {
    buffer: MessageBuffer,
    state: DecodeState,
    /// Items of the next batch.
    items: Vec<BatchItem>,
    /// Bytes of content in `items`.
    bytes: usize,
}

/// What the decoder expects next.
#[derive(Default)]
enum DecodeState {
    #[default]
    Item,
    Body(Put, usize),
    Trailer(Put, Bytes),
    /// Nothing: the last item was decoded.
    End,
}

impl ItemDecoder {
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
        while self.has_room() && self.step()? {}
        Ok(())
    }

    /// Decodes the next message or body; `false` if more bytes are needed for that.
    fn step(&mut self) -> Result<bool, DecodeError> {
        match std::mem::take(&mut self.state) {
            DecodeState::Item => match self.buffer.message()? {
                Some(item) => self.item(item)?,
                None => return Ok(false),
            },
            DecodeState::Body(put, size) => match self.buffer.body(size) {
                Some(body) => self.state = DecodeState::Trailer(put, body),
                None => {
                    self.state = DecodeState::Body(put, size);
                    return Ok(false);
                }
            },
            DecodeState::Trailer(put, body) => match self.buffer.message()? {
                Some(Trailer { digest }) => {
                    self.bytes += body.len();
                    self.items.push(BatchItem::File(put, body, digest));
                }
                None => {
                    self.state = DecodeState::Trailer(put, body);
                    return Ok(false);
                }
            },
            DecodeState::End => {
                self.state = DecodeState::End;
                return match self.buffer.is_empty() {
                    true => Ok(false),
                    false => Err(DecodeError::TrailingBytes),
                };
            }
        }
        Ok(true)
    }

    fn item(&mut self, item: PutItem) -> Result<(), DecodeError> {
        match item {
            PutItem::File(put) => {
                let size = put.size.ok_or(DecodeError::Malformed)?;
                let bytes = usize::try_from(size).unwrap_or(usize::MAX);
                let limit = ENCLOSED_BYTES_MAX;
                if bytes > limit {
                    return Err(DecodeError::TooLong { bytes, limit });
                }
                self.state = DecodeState::Body(put, bytes);
            }
            PutItem::Directory(make) => self.items.push(BatchItem::Directory(make)),
            PutItem::Attributes(set) => self.items.push(BatchItem::Attributes(set)),
            PutItem::Last(_) => self.state = DecodeState::End,
        }
        Ok(())
    }

    /// Checks that the stream ended after the last item.
    fn end(&self) -> Result<(), RequestError> {
        match self.state {
            DecodeState::End => Ok(()),
            DecodeState::Item | DecodeState::Body(..) | DecodeState::Trailer(..) => {
                Err(ReceiveError::Truncated.into())
            }
        }
    }
}

/// Bytes of content in a batch, plus the end of its last file.
const BATCH_BYTES: usize = 512 * 1024;

/// Items in a batch. Limits the open files: each file of a batch is open until it is published.
const BATCH_ITEMS: usize = 128;
