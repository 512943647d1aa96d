//! Reading a stream from quinn, in order or in order of arrival.
//!
//! quinn can put a stream in order, but it closes the connection if more than 1,024 pieces with
//! gaps between them are buffered, and extends no flow-control credit while the first gap is open.
//! On a long path with much loss, both slow a transfer down. A large stream on such a path is
//! therefore read in order of arrival and reassembled here, within a memory budget.
//!
//! On a local network gaps hardly occur. There quinn's ordered read is better: it returns many
//! chunks for one acquisition of the connection's lock.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadError, RecvStream};

use crate::flow::ReorderBudget;
use crate::stream::message_buffer::MessageBuffer;
use crate::stream::reassembly::Reassembly;

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Unordered {
    pub(super) stream: RecvStream,
    /// Bytes to return next, in order.
    pub(super) ready: VecDeque<Bytes>,
    /// Bytes read in order, before the switch.
    taken: u64,
    /// Whether the last ordered read emptied quinn's buffer.
    is_drained: bool,
    unordered: Option<UnorderedReads>,
}

/// State of reads in order of arrival.
#[derive(Debug)]
struct UnorderedReads {
    reassembly: Reassembly,
    budget: ReorderBudget,
    has_room: bool,
}

impl Unordered {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            ready: VecDeque::new(),
            taken: 0,
            is_drained: false,
            unordered: None,
        }
    }

    /// Whether [`Unordered::switch_to_unordered`] can be called.
    ///
    /// quinn refuses to go back to ordered reads, and after the switch it may return bytes twice
    /// that an ordered read would have dropped. So the switch waits until its buffer is empty.
    pub(super) fn can_be_unordered(&self) -> bool {
        !self.is_unordered() && self.is_drained
    }

    /// Whether the stream is read in order of arrival.
    pub(super) fn is_unordered(&self) -> bool {
        self.unordered.is_some()
    }

    /// Reads the stream in order of arrival from now on.
    pub(super) fn switch_to_unordered(&mut self, budget: ReorderBudget) {
        self.unordered = Some(UnorderedReads {
            reassembly: Reassembly::after(self.taken),
            budget,
            has_room: true,
        });
    }

    /// Reads what quinn has buffered, and waits only if that is nothing. Returns the number of
    /// bytes, which may all be behind a gap, or `None` at the end of the stream.
    pub(super) async fn read(&mut self) -> Result<Option<usize>, ReadError> {
        if let Some(unordered) = &self.unordered
            && !unordered.has_room
            && !is_next(&mut self.stream, unordered.reassembly.next()).await?
        {
            return Ok(None);
        }
        poll_fn(|context| self.poll_read(context)).await
    }

    /// Copies some of what quinn has buffered, in order, and waits only if that is nothing. Returns
    /// the number of bytes, or `None` at the end of the stream.
    ///
    /// The copy bounds the size of a read. For a slow reader quinn merges thousands of chunks; it
    /// would return megabytes at once and extend as much credit to the peer.
    pub(super) async fn read_into(
        &mut self,
        buffer: &mut MessageBuffer,
    ) -> Result<Option<usize>, ReadError> {
        let read = |context: &mut Context<'_>| {
            buffer.fill(BYTES_AT_ONCE, |space| {
                pin!(self.stream.read(space)).poll(context)
            })
        };
        let came = poll_fn(read).await?;
        let bytes = came.unwrap_or(0);
        self.is_drained = bytes < BYTES_AT_ONCE;
        self.taken += bytes as u64;
        Ok(came)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<usize>, ReadError>> {
        let Some(unordered) = &mut self.unordered else {
            return self.poll_read_in_order(context);
        };
        let came = ready!(unordered.poll_read(context, &mut self.stream))?;
        self.ready
            .extend(std::iter::from_fn(|| unordered.reassembly.take()));
        unordered.has_room = unordered.budget.set(unordered.reassembly.held());
        Poll::Ready(Ok(came))
    }

    fn poll_read_in_order(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<usize>, ReadError>> {
        let mut chunks = [const { Bytes::new() }; CHUNKS_AT_ONCE];
        let polled = pin!(self.stream.read_chunks(&mut chunks)).poll(context);
        let Some(count) = ready!(polled)? else {
            return Poll::Ready(Ok(None));
        };
        self.is_drained = count < CHUNKS_AT_ONCE;
        let bytes = chunks.iter().take(count).map(Bytes::len).sum();
        self.taken += bytes as u64;
        self.ready.extend(chunks.into_iter().take(count));
        Poll::Ready(Ok(Some(bytes)))
    }
}

impl UnorderedReads {
    /// Reads as much as there is room for. Returns the number of bytes, or `None` at the end.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut RecvStream,
    ) -> Poll<Result<Option<usize>, ReadError>> {
        // Without room one chunk is still read: it may fill the first gap and so free memory.
        let limit = if self.has_room { CHUNKS_AT_ONCE } else { 1 };
        let mut bytes = 0;
        for _ in 0..limit {
            if bytes >= BYTES_AT_ONCE {
                break;
            }
            match pin!(stream.read_chunk(BYTES_AT_ONCE, false)).poll(context) {
                Poll::Ready(Ok(Some(chunk))) => {
                    bytes += chunk.bytes.len();
                    self.reassembly.add(chunk.offset, chunk.bytes);
                }
                // Returned at once: quinn reports an error only once, and the end of the stream
                // afterwards.
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                ended_or_pending if bytes == 0 => return ended_or_pending.map_ok(|_| None),
                _ => break,
            }
        }
        Poll::Ready(Ok(Some(bytes)))
    }
}

/// Waits until the first buffered chunk begins at or before `next`. Returns false at the end of the
/// stream.
async fn is_next(stream: &mut RecvStream, next: u64) -> Result<bool, ReadError> {
    loop {
        // A read of zero bytes returns the offset of the first chunk and takes nothing.
        match stream.read_chunk(0, false).await? {
            None => return Ok(false),
            Some(first) if first.offset <= next => return Ok(true),
            // quinn doesn't wake a reader while its buffer is not empty, so poll.
            Some(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// Chunks per read: the packets of 1.4 KiB in one segmented send of 64 KiB.
const CHUNKS_AT_ONCE: usize = 48;

/// Bytes per read: about as many as those chunks have.
const BYTES_AT_ONCE: usize = 64 * 1024;

/// Interval at which a stream without memory checks whether its first gap was filled: a fraction of
/// the round trips that such a gap lasts.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
