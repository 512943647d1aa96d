//! The two halves of a request's stream, as whole messages.
//!
//! quinn finishes a `SendStream` that is dropped, so an error path that merely returns would look
//! like a clean end. [`Sender`] turns that around: it resets when dropped, and only
//! [`Sender::finish`] ends the stream well. See PROTOCOL.md, "Streams".

pub mod message_buffer;
mod reassembly;
mod unordered;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, WriteError};

use crate::error_code::to_quic;
use crate::flow::stream_limits::{Stalled, StreamLimits};
use crate::flow::{ActiveBody, ConnectionFlow, Direction};
use crate::stream::message_buffer::MessageBuffer;
use quire_shared::codec::{self, DecodeError, PREFIX_BYTES};
use quire_shared::error_code::ErrorCode;
use quire_shared::protocol::Message;
use unordered::Unordered;

/// How urgent a stream is; quinn sends what waits on more urgent streams first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Bodies of large files.
    Bulk,
    /// Bodies that fit in a few packets.
    Small,
    /// Messages.
    Control,
}

impl Priority {
    /// The priority of a body of `length` bytes.
    pub fn of_body(length: Option<u64>) -> Self {
        match length {
            Some(length) if length <= SMALL_BODY_BYTES_MAX => Self::Small,
            _ => Self::Bulk,
        }
    }
}

/// The sending half of a request: resets on drop, so only an explicit `finish` looks like success.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream,
    flow: ConnectionFlow,
    limits: StreamLimits,
    priority: Priority,
    /// Counts the body among the connection's, if there is a large one.
    body: Option<ActiveBody>,
    sent: bool,
    finished: bool,
}

impl Sender {
    /// Takes charge of `stream`, which belongs to the connection of `traffic`.
    pub fn new(stream: SendStream, flow: &ConnectionFlow) -> Self {
        let mut sender = Self {
            stream,
            flow: flow.clone(),
            limits: StreamLimits::default(),
            priority: Priority::Control,
            body: None,
            sent: false,
            finished: false,
        };
        sender.set_priority(Priority::Control);
        sender
    }

    /// Sets how slow and how fast this half of the stream may be.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        self.limits = limits;
    }

    /// Orders this stream among the connection's others.
    pub fn set_priority(&mut self, priority: Priority) {
        self.priority = priority;
        self.body = (priority == Priority::Bulk).then(|| self.flow.begin_sending());
        // Fails only for a stream that is closed, whose order is of no interest.
        let _ = self.stream.set_priority(priority as i32);
    }

    /// Sends one message.
    ///
    /// # Errors
    /// If the other side stopped the stream, the connection is lost, or the message is too long.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), SendError> {
        let bytes = codec::encode(message).map_err(SendError::Message)?;
        self.sent = true;
        self.write(Bytes::from(bytes), Priority::Control).await
    }

    /// Waits for work on the disk that the body can't go on without.
    pub async fn disk<T>(&self, work: impl Future<Output = T>) -> T {
        self.flow.disk(Direction::Out, work).await
    }

    /// How much of a body to read from the disk at once, in bytes.
    pub fn piece_max(&self) -> usize {
        self.flow.piece_max()
    }

    /// Whether anything has gone out.
    pub fn has_sent(&self) -> bool {
        self.sent
    }

    /// Sends raw bytes: of a body, or of messages that were encoded before.
    ///
    /// # Errors
    /// If the other side stopped the stream or stalls, or the connection is lost.
    pub async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<(), SendError> {
        self.sent = true;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(self.limits.piece()));
            self.limits.take(piece.len()).await;
            self.write(piece, self.priority).await?;
        }
        Ok(())
    }

    /// Writes in as many steps as the other side's slowness makes it take. What is urgent doesn't
    /// wait until bulk leaves room.
    async fn write(&mut self, bytes: Bytes, priority: Priority) -> Result<(), SendError> {
        let flow = &self.flow;
        let mut rest = [bytes];
        while !rest.iter().all(Bytes::is_empty) {
            let writing = self.stream.write_chunks(&mut rest);
            let written = if priority == Priority::Bulk {
                let writing = flow.network(Direction::Out, flow.write_bulk(writing));
                let written = self.limits.wait(writing).await??;
                // Not only after a whole piece: the windows of a path that starts must be ahead.
                if let Some(body) = &self.body {
                    body.moved();
                }
                written
            } else {
                self.limits.wait(write_urgent(flow, writing)).await??
            };
            self.limits.moved(written.bytes);
        }
        Ok(())
    }

    /// Ends the stream well.
    ///
    /// # Errors
    /// If the stream was ended before.
    pub fn finish(&mut self) -> Result<(), SendError> {
        self.finished = true;
        self.stream
            .finish()
            .map_err(|_| SendError::Write(WriteError::ClosedStream))
    }

    /// Ends the stream well and waits until the other side has received all of it.
    ///
    /// # Errors
    /// If the other side stopped the stream or stalls, or the connection is lost.
    pub async fn finish_and_wait(&mut self) -> Result<(), SendError> {
        self.finish()?;
        let stopped = self.stream.stopped();
        let waited = self
            .limits
            .wait_for_finish(stopped, self.flow.acknowledged());
        match waited.await? {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(SendError::Write(WriteError::Stopped(code))),
            Err(quinn::StoppedError::ConnectionLost(error)) => {
                Err(SendError::Write(WriteError::ConnectionLost(error)))
            }
            Err(quinn::StoppedError::ZeroRttRejected) => {
                Err(SendError::Write(WriteError::ZeroRttRejected))
            }
        }
    }

    /// Waits until the other side wants no more of this stream, or the connection is lost.
    pub async fn given_up(&self) {
        // All outcomes say the same, but for an end that the other side has received, which
        // can't come before `finish`.
        let _ = self.stream.stopped().await;
    }

    /// Ends the stream badly: the other side hears `code`, and data not yet sent is dropped.
    pub fn reset(&mut self, code: ErrorCode) {
        self.finished = true;
        // Fails only for a stream that is over already.
        let _ = self.stream.reset(to_quic(code));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(ErrorCode::CANCELLED);
        }
    }
}

/// The receiving half of a request: stops with a code on drop, unless it was read to its end.
#[derive(Debug)]
pub struct Receiver {
    unordered: Unordered,
    flow: ConnectionFlow,
    limits: StreamLimits,
    /// Counts the body among the connection's, once it has proved large.
    body: Option<ActiveBody>,
    /// Whether that body must reckon with gaps.
    has_gaps: bool,
    /// Bytes that were read but not counted yet.
    uncounted: usize,
}

impl Receiver {
    /// Takes charge of `stream`, which belongs to the connection of `traffic`.
    pub fn new(stream: RecvStream, flow: &ConnectionFlow) -> Self {
        Self {
            unordered: Unordered::new(stream),
            flow: flow.clone(),
            limits: StreamLimits::default(),
            body: None,
            has_gaps: false,
            uncounted: 0,
        }
    }

    /// Sets how slow and how fast this half of the stream may be.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        self.limits = limits;
    }

    /// Receives one message.
    ///
    /// # Errors
    /// If the stream ends or breaks before the message is whole, or the bytes aren't an `M`.
    pub async fn receive<M: Message>(&mut self) -> Result<M, ReceiveError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.receive_exact(&mut prefix).await?;
        let mut bytes = vec![0; codec::decode_length::<M>(prefix)?];
        self.receive_exact(&mut bytes).await?;
        Ok(codec::decode(&bytes)?)
    }

    /// Receives the length of a body's next piece.
    ///
    /// # Errors
    /// If the stream ends or breaks before.
    pub(crate) async fn receive_length(&mut self) -> Result<u32, ReceiveError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.receive_exact(&mut prefix).await?;
        Ok(u32::from_be_bytes(prefix))
    }

    /// Receives up to `limit` raw bytes of a body, or nothing at its end.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn receive_bytes(&mut self, limit: usize) -> Result<Option<Bytes>, ReceiveError> {
        self.look_ahead().await?;
        let Some(mut chunk) = self.unordered.ready.pop_front() else {
            return Ok(None);
        };
        if chunk.len() > limit {
            self.unordered.ready.push_front(chunk.split_off(limit));
        }
        Ok(Some(chunk))
    }

    /// Makes room for a body of `length` bytes, if that is known, before the first of it has come:
    /// what nobody reads yet must leave room for other streams.
    pub fn expect_body(&mut self, length: Option<u64>) {
        if Priority::of_body(length) == Priority::Bulk {
            self.begin_body();
        }
    }

    fn begin_body(&mut self) {
        if self.body.is_none() {
            self.body = Some(self.flow.begin_receiving());
            self.has_gaps |= !self.flow.is_local();
        }
    }

    /// Receives some of what is there, and waits only if that is nothing; says whether the stream
    /// goes on.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn receive_into(&mut self, buffer: &mut MessageBuffer) -> Result<bool, ReceiveError> {
        if self.unordered.ready.is_empty() && !self.unordered.is_unordered() {
            let reading = self.unordered.read_into(buffer);
            let reading = self.flow.network(Direction::In, reading);
            let came = self.limits.wait(reading).await??;
            self.arrived(came.unwrap_or(0)).await;
            return Ok(came.is_some());
        }
        self.look_ahead().await?;
        let goes_on = !self.unordered.ready.is_empty();
        for chunk in self.unordered.ready.drain(..) {
            buffer.push(&chunk);
        }
        Ok(goes_on)
    }

    /// Waits for work on the disk that the body can't go on without.
    pub async fn disk<T>(&self, work: impl Future<Output = T>) -> T {
        self.flow.disk(Direction::In, work).await
    }

    /// Waits for the end of the stream.
    ///
    /// # Errors
    /// If bytes come instead, or the stream breaks.
    pub async fn expect_end(&mut self) -> Result<(), ReceiveError> {
        match self.receive_bytes(1).await? {
            None => Ok(()),
            Some(_) => Err(ReceiveError::Decode(DecodeError::TrailingBytes)),
        }
    }

    async fn receive_exact(&mut self, mut rest: &mut [u8]) -> Result<(), ReceiveError> {
        while !rest.is_empty() {
            let Some(chunk) = self.receive_bytes(rest.len()).await? else {
                return Err(ReceiveError::Truncated);
            };
            let (now, later) = rest.split_at_mut(chunk.len());
            now.copy_from_slice(&chunk);
            rest = later;
        }
        Ok(())
    }

    /// Sees to it that the next bytes of the stream are there, or its end.
    async fn look_ahead(&mut self) -> Result<(), ReceiveError> {
        while self.unordered.ready.is_empty() {
            let reading = self.unordered.read();
            let reading = self.flow.network(Direction::In, reading);
            let Some(bytes) = self.limits.wait(reading).await?? else {
                break;
            };
            self.arrived(bytes).await;
        }
        Ok(())
    }

    /// Accounts for bytes that have come, and waits until so many may.
    async fn arrived(&mut self, bytes: usize) {
        self.limits.moved(bytes);
        self.count(bytes);
        self.limits.take(bytes).await;
    }

    fn count(&mut self, bytes: usize) {
        self.uncounted += bytes;
        if self.uncounted < COUNT_STEP_BYTES {
            return;
        }
        self.flow.read(std::mem::take(&mut self.uncounted));
        match &self.body {
            Some(body) => body.moved(),
            None => self.begin_body(),
        }
        if self.has_gaps && self.unordered.can_be_unordered() {
            self.unordered
                .switch_to_unordered(self.flow.reorder_budget());
        }
    }

    /// Tells the other side to send no more, and why.
    pub fn stop(&mut self, code: ErrorCode) {
        // Fails only for a stream that is over already.
        let _ = self.unordered.stream.stop(to_quic(code));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.flow.read(self.uncounted);
        // Without this quinn would stop the stream with code 0, which is none of ours.
        self.stop(ErrorCode::CANCELLED);
    }
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The stream or the connection is broken.
    #[error("sending failed")]
    Write(#[from] WriteError),
    /// The message is over its own limit.
    #[error("message can't be sent")]
    Message(#[source] DecodeError),
    /// The other side takes too little of it in too long a time.
    #[error(transparent)]
    Stalled(#[from] Stalled),
}

/// Why a message or a body could not be received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The stream or the connection is broken.
    #[error("receiving failed")]
    Read(#[from] quinn::ReadError),
    /// The stream ended in the middle.
    #[error("the other side ended the stream too early")]
    Truncated,
    /// The other side sends too little in too long a time.
    #[error(transparent)]
    Stalled(#[from] Stalled),
    /// The bytes aren't what they should be.
    #[error("the other side sent something else than expected")]
    Decode(#[from] DecodeError),
}

/// Writes what shall not wait until bulk leaves room.
async fn write_urgent<T>(flow: &ConnectionFlow, writing: impl Future<Output = T>) -> T {
    let mut writing = pin!(writing);
    poll_fn(|context| match writing.as_mut().poll(context) {
        Poll::Pending => flow.write_urgent(|| writing.as_mut().poll(context)),
        written @ Poll::Ready(_) => written,
    })
    .await
}

/// Bodies up to this go ahead of larger ones: what one round trip carries at RFC 9002's initial
/// window (§7.2) of ten packets and a few doublings.
const SMALL_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Received bytes are counted in portions of this size, because chunks come by the ten thousand in
/// a second. Small bodies, which need no windows, never get there.
const COUNT_STEP_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests;
