//! `GetMany`: many files that the client names on one stream, sent on that stream.
//!
//! A blocking thread opens and reads the files that were named so far, and packs them into batches.
//! One batch is packed while another is being sent and more names arrive.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;
use quire_shared::RemotePath;
use quire_shared::codec::DecodeError;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{GetHeader, GetItem, GetMany, GotItem, Reply};
use quire_transport::stream::message_buffer::MessageBuffer;
use quire_transport::stream::{Priority, ReceiveError, Receiver, SendError, Sender};

use super::get::header;
use crate::files::{Caller, Error, FileVisitor, Files, OpenFile, StoreError};
use crate::quic::enclosures::{Enclosed, Enclosures};
use crate::quic::error::RequestError;
use crate::quic::reply::failure_of_item;

/// Answers each item, until the client has sent the last one.
pub(crate) async fn serve(
    request: GetMany,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let reads = files.named_reads(caller, request.details)?;
    sender.set_priority(Priority::Bulk);
    let mut names = NamesAhead::default();
    let mut packer = ItemPacker::new(&request);
    loop {
        while names.paths.is_empty() && packer.batch.is_empty() && !names.has_ended {
            names.receive(receiver).await?;
        }
        if names.paths.is_empty() && packer.batch.is_empty() {
            break;
        }
        let (batch, next) = packer.next();
        let packing = reads.open(mem::take(&mut names.paths), next);
        let working = async { tokio::join!(send(sender, batch), packing) };
        tokio::pin!(working);
        let (sent, packed) = loop {
            tokio::select! {
                done = &mut working => break done,
                received = names.receive(receiver), if names.has_room() => received?,
            }
        };
        sent?;
        let (rest, packed) = packed?;
        packer = packed;
        names.put_back(rest)?;
    }
    sender.finish_and_wait().await?;
    Ok(())
}

/// Sends a batch. An empty one is no part of a reply.
async fn send(sender: &mut Sender, batch: Bytes) -> Result<(), SendError> {
    match batch.is_empty() {
        true => Ok(()),
        false => sender.send_bytes(batch).await,
    }
}

/// Receives what the client names, ahead of the reads.
#[derive(Default)]
struct NamesAhead {
    buffer: MessageBuffer,
    /// Files that aren't being read yet.
    paths: VecDeque<RemotePath>,
    /// Memory of these and of those that are being read, in bytes.
    bytes: usize,
    /// Whether the last item was decoded.
    is_last_known: bool,
    /// Whether the stream has ended.
    has_ended: bool,
}

impl NamesAhead {
    /// Whether more is to be received.
    fn has_room(&self) -> bool {
        !self.has_ended && self.bytes < NAMED_BYTES
    }

    /// Receives what has arrived, or waits for it.
    async fn receive(&mut self, receiver: &mut Receiver) -> Result<(), ReceiveError> {
        self.has_ended = !receiver.receive_into(&mut self.buffer).await?;
        self.decode()
    }

    /// Takes back what is left of the paths that were to be read.
    fn put_back(&mut self, mut rest: VecDeque<RemotePath>) -> Result<(), ReceiveError> {
        rest.append(&mut self.paths);
        self.paths = rest;
        self.bytes = self.paths.iter().map(memory_of).sum();
        // What stayed in the buffer because there was no room.
        self.decode()
    }

    /// Decodes all complete items that there is room for.
    fn decode(&mut self) -> Result<(), ReceiveError> {
        while self.bytes < NAMED_BYTES {
            if self.is_last_known {
                return match self.buffer.is_empty() {
                    true => Ok(()),
                    false => Err(DecodeError::TrailingBytes.into()),
                };
            }
            match self.buffer.message()? {
                Some(GetItem::File(file)) => {
                    self.bytes += memory_of(&file.path);
                    self.paths.push_back(file.path);
                }
                Some(GetItem::Last(_)) => self.is_last_known = true,
                None if self.has_ended => return Err(ReceiveError::Truncated),
                None => break,
            }
        }
        Ok(())
    }
}

/// Returns about how much memory a path takes, in bytes.
fn memory_of(path: &RemotePath) -> usize {
    let names = path.names().iter();
    let names = names.map(|name| name.as_str().len() + NAME_FRAME_BYTES);
    NAME_FRAME_BYTES + names.sum::<usize>()
}

/// Encodes the answers to items as one batch after another.
struct ItemPacker {
    batch: Enclosures,
    request: GetMany,
    /// Number of the next item.
    index: u64,
    is_advised: bool,
}

impl ItemPacker {
    fn new(request: &GetMany) -> Self {
        Self {
            batch: Enclosures::new(request.digest),
            request: request.clone(),
            index: 0,
            is_advised: false,
        }
    }

    /// Returns the batch, and a packer of the next one.
    fn next(self) -> (Bytes, Self) {
        let next = Self {
            batch: Enclosures::new(self.request.digest),
            ..self
        };
        (self.batch.into_bytes().into(), next)
    }

    /// Appends a file with its content. One that is too large, or changes meanwhile, is appended
    /// without it, and the client can fetch it with a `Get`.
    fn file(&mut self, file: &OpenFile) -> Result<(), RequestError> {
        let attributes = &file.attributes;
        let size = attributes.size;
        let size_max = self.request.enclose_max.min(ENCLOSED_BYTES_MAX as u64);
        if size <= size_max {
            let whole = self.answer(Reply::Ok(header(attributes, size)));
            match self.batch.enclose(&whole, file)? {
                Enclosed::Whole => return Ok(()),
                // Without its content it would look like an empty file.
                Enclosed::Changed if size == 0 => return self.failure(StoreError::Changed.into()),
                Enclosed::Changed => {}
                Enclosed::Failed(error) => return self.failure(error.into()),
            }
        }
        let described = self.answer(Reply::Ok(header(attributes, 0)));
        self.batch.append(&described)
    }

    fn failure(&mut self, error: Error) -> Result<(), RequestError> {
        let failure = failure_of_item(error, &mut self.is_advised);
        let answer = self.answer(Reply::Failed(failure));
        self.batch.append(&answer)
    }

    fn answer(&self, result: Reply<GetHeader>) -> Reply<GotItem> {
        let index = self.index;
        Reply::Ok(GotItem { index, result })
    }
}

impl FileVisitor for ItemPacker {
    fn opened(&mut self, file: Result<OpenFile, Error>) -> Result<(), Error> {
        let packed = match file {
            Ok(file) => self.file(&file),
            Err(error) => self.failure(error),
        };
        self.index += 1;
        // Every answer fits into a message, so this is a defect.
        packed.map_err(|_| StoreError::Internal("an answer to an item is too long").into())
    }

    fn is_full(&self) -> bool {
        self.batch.is_full()
    }
}

/// Memory for the files that were named and aren't read yet, in bytes, and one more of them: some
/// five hundred paths of usual length, which is more than one batch takes.
const NAMED_BYTES: usize = 128 * 1024;

/// Most bytes of memory that a name takes besides its text, and an empty path as well.
const NAME_FRAME_BYTES: usize = 48;

#[cfg(test)]
mod tests;
