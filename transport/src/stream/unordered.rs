//! How the bytes of a stream are taken from quinn, and put in order.
//!
//! quinn orders a stream by itself, but gives the whole connection up beyond 1,024 pieces with gaps
//! between them, and gives no more credit while the first gap is open: on a long path that loses
//! much, both budget a transfer back. So a stream that has proved large, on a path that isn't local,
//! is taken in the order of its arrival and put in order here, as far as memory for it is granted.
//! On a local network there are no gaps worth the name, and quinn's own way takes many chunks in
//! one turn, of which each takes the lock of the connection.

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
    /// What is to be handed on next, in its order.
    pub(super) ready: VecDeque<Bytes>,
    /// Bytes taken while quinn put them in order.
    taken: u64,
    /// Whether quinn had no more to give in order.
    is_drained: bool,
    unordered: Option<UnorderedReads>,
}

/// What is needed to take bytes in the order of their arrival.
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

    /// Whether [`Unordered::switch_to_unordered`] can be called: quinn may budget bytes twice that it would have
    /// dropped when reading in order, and holds none behind a first gap.
    pub(super) fn can_be_unordered(&self) -> bool {
        !self.is_unordered() && self.is_drained
    }

    /// Whether bytes are taken in the order of their arrival.
    pub(super) fn is_unordered(&self) -> bool {
        self.unordered.is_some()
    }

    /// Takes bytes in the order of their arrival from now on.
    pub(super) fn switch_to_unordered(&mut self, budget: ReorderBudget) {
        self.unordered = Some(UnorderedReads {
            reassembly: Reassembly::after(self.taken),
            budget,
            has_room: true,
        });
    }

    /// Takes what quinn has, and waits only if that is nothing; gives how many bytes came, which
    /// may all belong behind a gap, or nothing at the end of the stream.
    pub(super) async fn read(&mut self) -> Result<Option<usize>, ReadError> {
        if let Some(unordered) = &self.unordered
            && !unordered.has_room
            && !is_next(&mut self.stream, unordered.reassembly.next()).await?
        {
            return Ok(None);
        }
        poll_fn(|context| self.poll_read(context)).await
    }

    /// Copies some of what quinn has, in order, and waits only if that is nothing; gives how many
    /// bytes came, or nothing at the end of the stream.
    ///
    /// A reader that lags is better served so: quinn merges thousands of its chunks, and would give
    /// megabytes at once, for which it grants as much again to the other side.
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
    /// Takes what there is room for; gives how many bytes that was, or nothing at the end.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut RecvStream,
    ) -> Poll<Result<Option<usize>, ReadError>> {
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
                // quinn says so once, and calls the stream ended from then on.
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                ended_or_pending if bytes == 0 => return ended_or_pending.map_ok(|_| None),
                _ => break,
            }
        }
        Poll::Ready(Ok(Some(bytes)))
    }
}

/// Waits until the byte at `next` is the first that quinn would give, whatever lies behind it; no
/// if the stream has ended.
async fn is_next(stream: &mut RecvStream, next: u64) -> Result<bool, ReadError> {
    loop {
        // Where a chunk begins is told also if none of it is taken.
        match stream.read_chunk(0, false).await? {
            None => return Ok(false),
            Some(first) if first.offset <= next => return Ok(true),
            // quinn wakes nobody while it has something to give.
            Some(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// UnorderedReads taken from quinn in one turn: what one send of 64 KiB brings in packets of 1.4 KiB.
const CHUNKS_AT_ONCE: usize = 48;

/// Bytes taken in one turn where it matters how many: as many as those chunks mostly have.
const BYTES_AT_ONCE: usize = 64 * 1024;

/// How often a stream that has no more memory looks whether its first gap was filled: a fraction of
/// the round trips that such a gap lasts.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
