//! The two halves of a request's stream.
//!
//! quinn finishes a `SendStream` that is dropped, so an early return after an error would look like
//! a complete stream. [`Sender`] does the opposite: it resets the stream when it is dropped, and
//! only [`Sender::finish`] ends it cleanly. See PROTOCOL.md, "Streams".

pub mod item_decoder;
pub mod message_buffer;
mod reassembly;
mod unordered;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, WriteError};

use crate::error_code::to_quic;
use crate::flow::stream_limits::{Stalled, StreamLimits};
use crate::flow::{ActiveBody, ConnectionFlow, Direction, OpenStream};
use crate::stream::message_buffer::MessageBuffer;
use quire_shared::codec::{self, DecodeError};
use quire_shared::error_code::ErrorCode;
use quire_shared::protocol::Message;
use unordered::Unordered;

/// The priority of a stream. quinn sends the data of streams with a higher priority first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Contents of large files.
    Bulk,
    /// Contents of small files.
    Small,
    /// Messages.
    Control,
}

impl Priority {
    /// Returns the priority of a body of `length` bytes; an unknown length counts as large.
    pub fn of_body(length: Option<u64>) -> Self {
        match length {
            Some(length) if length <= SMALL_BODY_BYTES_MAX => Self::Small,
            _ => Self::Bulk,
        }
    }
}

/// The sending half of a request's stream. Resets the stream on drop unless it was finished.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream,
    flow: ConnectionFlow,
    limits: StreamLimits,
    priority: Priority,
    /// Counts the body among those of the connection, if it is large.
    body: Option<ActiveBody>,
    sent: bool,
    finished: bool,
}

impl Sender {
    /// Wraps `stream`, which belongs to the connection of `flow`.
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

    /// Sets the stall timer and the rate limits of this half of the stream.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        self.limits = limits;
    }

    /// Sets the priority among the streams of the connection.
    pub fn set_priority(&mut self, priority: Priority) {
        self.priority = priority;
        self.body = (priority == Priority::Bulk).then(|| self.flow.begin_sending());
        // Fails only for a closed stream, which has no priority.
        let _ = self.stream.set_priority(priority as i32);
    }

    /// Sends one message.
    ///
    /// # Errors
    /// If the peer stopped the stream, the connection is lost, or the message is too long.
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

    /// Whether anything has been sent.
    pub fn has_sent(&self) -> bool {
        self.sent
    }

    /// Sends raw bytes: of a body, or of messages that are already encoded.
    ///
    /// # Errors
    /// If the peer stopped the stream or stalls, or the connection is lost.
    pub async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<(), SendError> {
        self.sent = true;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(self.limits.piece()));
            self.limits.take(piece.len()).await;
            self.write(piece, self.priority).await?;
        }
        Ok(())
    }

    /// Writes all bytes, as flow control allows. Data above bulk priority doesn't wait for bulk to
    /// leave room in the send window.
    async fn write(&mut self, bytes: Bytes, priority: Priority) -> Result<(), SendError> {
        let flow = &self.flow;
        let mut rest = [bytes];
        while !rest.iter().all(Bytes::is_empty) {
            let writing = self.stream.write_chunks(&mut rest);
            let written = if priority == Priority::Bulk {
                let writing = flow.network(Direction::Out, flow.write_bulk(writing));
                let written = self.limits.wait(writing).await??;
                // After each write and not after each piece: while a path starts up, the windows
                // have to grow ahead of it.
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

    /// Finishes the stream.
    ///
    /// # Errors
    /// If the stream was finished or reset before.
    pub fn finish(&mut self) -> Result<(), SendError> {
        self.finished = true;
        self.stream
            .finish()
            .map_err(|_| SendError::Write(WriteError::ClosedStream))
    }

    /// Finishes the stream and waits until the peer has acknowledged all of it.
    ///
    /// # Errors
    /// If the peer stopped the stream or stalls, or the connection is lost.
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

    /// Waits until the peer stops this stream, or the connection is lost. Never completes for a
    /// stream that the peer has received completely.
    pub fn given_up(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.stream.stopped();
        async move {
            if let Ok(None) = stopped.await {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resets the stream with `code`. Data that wasn't sent yet is dropped.
    pub fn reset(&mut self, code: ErrorCode) {
        self.finished = true;
        // Fails only for a stream that has ended already.
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

/// The receiving half of a request's stream. Stops the stream on drop unless it was read to its
/// end.
#[derive(Debug)]
pub struct Receiver {
    unordered: Unordered,
    flow: ConnectionFlow,
    limits: StreamLimits,
    /// Counts the body among those of the connection, once it has proved large.
    body: Option<ActiveBody>,
    /// Whether gaps are to be expected, because the path isn't local.
    has_gaps: bool,
    /// Bytes that were read but not reported to the flow yet.
    uncounted: usize,
    /// Has a silent peer probed as long as this stream lasts.
    _open: OpenStream,
}

impl Receiver {
    /// Wraps `stream`, which belongs to the connection of `flow`.
    pub fn new(stream: RecvStream, flow: &ConnectionFlow) -> Self {
        Self {
            unordered: Unordered::new(stream),
            flow: flow.clone(),
            limits: StreamLimits::default(),
            body: None,
            has_gaps: false,
            uncounted: 0,
            _open: flow.open_stream(),
        }
    }

    /// Sets the stall timer and the rate limits of this half of the stream.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        self.limits = limits;
    }

    /// Lets the peer stall for so much longer in total.
    pub fn allow_stall(&mut self, more: Duration) {
        self.limits.allow_stall(more);
    }

    /// Receives one message.
    ///
    /// # Errors
    /// If the stream ends or breaks before the message is complete, or the bytes aren't an `M`.
    pub async fn receive<M: Message>(&mut self) -> Result<M, ReceiveError> {
        let prefix = self.receive_array().await?;
        let mut bytes = vec![0; codec::decode_length::<M>(prefix)?];
        self.receive_exact(&mut bytes).await?;
        Ok(codec::decode(&bytes)?)
    }

    /// Receives the length of the next piece of a body.
    ///
    /// # Errors
    /// If the stream ends or breaks.
    pub(crate) async fn receive_length(&mut self) -> Result<u32, ReceiveError> {
        Ok(u32::from_be_bytes(self.receive_array().await?))
    }

    /// Receives `N` bytes: the beginning of an extent of a body.
    ///
    /// # Errors
    /// If the stream ends or breaks.
    pub(crate) async fn receive_array<const N: usize>(&mut self) -> Result<[u8; N], ReceiveError> {
        let mut bytes = [0; N];
        self.receive_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// Receives up to `limit` raw bytes of a body; `None` at the end of the stream.
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

    /// Announces a body of `length` bytes, before its first byte has arrived.
    ///
    /// The receive window then grows at once: a body that isn't read yet must leave room for other
    /// streams.
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

    /// Receives what has arrived into `buffer`, and waits only if that is nothing. Returns false at
    /// the end of the stream.
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
    /// If more bytes arrive, or the stream breaks.
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

    /// Waits until the next bytes are in `ready`, or the stream has ended.
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

    /// Accounts for bytes that have arrived, and waits as long as the rate limits demand.
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

    /// Tells the peer with `STOP_SENDING` to send no more.
    pub fn stop(&mut self, code: ErrorCode) {
        // Fails only for a stream that has ended already.
        let _ = self.unordered.stream.stop(to_quic(code));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.flow.read(self.uncounted);
        // Otherwise quinn stops the stream with code 0, which is no error code of quire.
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
    #[error("message can't be encoded")]
    Message(#[source] DecodeError),
    /// The peer stalls: it reads too little in too long a time.
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
    /// The stream ended in the middle of a message or a body.
    #[error("the other side ended the stream too early")]
    Truncated,
    /// The peer stalls: it sends too little in too long a time.
    #[error(transparent)]
    Stalled(#[from] Stalled),
    /// The bytes aren't the expected message.
    #[error("the other side sent an unexpected message")]
    Decode(#[from] DecodeError),
}

/// Writes data above bulk priority: in the room beyond the send window if the window is full.
async fn write_urgent<T>(flow: &ConnectionFlow, writing: impl Future<Output = T>) -> T {
    let mut writing = pin!(writing);
    poll_fn(|context| match writing.as_mut().poll(context) {
        Poll::Pending => flow.write_urgent(|| writing.as_mut().poll(context)),
        written @ Poll::Ready(_) => written,
    })
    .await
}

/// Bodies up to this size are sent before larger ones, in bytes: what a few round trips carry from
/// the initial window of ten packets on (RFC 9002, §7.2).
const SMALL_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Received bytes are reported to the flow in steps of this size, because chunks arrive at tens of
/// thousands per second. Small bodies, which need no windows, stay below it.
const COUNT_STEP_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests;
