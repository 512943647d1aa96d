//! Bodies: the bytes of a file between a reader or writer and a stream.
//!
//! Both ends send and receive bodies in the same way. This module works on what the caller has
//! opened, and opens nothing itself. Blocking threads read and write, a large piece at a time, one
//! piece ahead of the network or behind it. They also compute the digest of exactly these bytes.
//! See PROTOCOL.md, "Bodies".

mod blocking;
pub mod extents;
pub mod journal;

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::stream::{ReceiveError, Receiver, SendError, Sender};
use quire_shared::codec::DecodeError;
use quire_shared::digest::{Digest, Hasher};
use quire_shared::limits::PIECE_BYTES_MAX;

pub use blocking::{ReadAhead, WriteBehind};

use blocking::PIECE;
use extents::HoleWrite;

/// The length of a body, as its sender announced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Exactly this many raw bytes.
    Declared(u64),
    /// Unknown in advance: length-prefixed pieces, of which the last is empty.
    Pieces,
}

impl From<Option<u64>> for Length {
    fn from(size: Option<u64>) -> Self {
        size.map_or(Self::Pieces, Self::Declared)
    }
}

/// Sends all of `source`, or exactly the declared length of it, and returns the digest.
///
/// `moved` counts the bytes that were sent, for a progress display.
///
/// # Errors
/// If reading or sending fails, or `source` has less than the declared length.
pub async fn send<R: Read + Send + 'static>(
    sender: &mut Sender,
    source: R,
    length: Length,
    hasher: Hasher,
    moved: &AtomicU64,
) -> Result<Digest, SendBodyError> {
    let mut rest = match length {
        Length::Declared(length) => length,
        Length::Pieces => u64::MAX,
    };
    let mut source = ReadAhead::start(source, rest, hasher);
    while rest > 0 {
        let piece = sender.disk(source.next(sender.piece_max())).await;
        let Some(piece) = piece.map_err(SendBodyError::Disk)? else {
            break;
        };
        rest = rest.saturating_sub(piece.len() as u64);
        send_piece(sender, length, piece, moved).await?;
    }
    match length {
        Length::Declared(_) if rest > 0 => return Err(SendBodyError::Short { missing: rest }),
        Length::Declared(_) => {}
        Length::Pieces => sender.send_bytes(Bytes::from_static(&[0; 4])).await?,
    }
    let cut_off = || io::Error::other("a body without its end");
    let digest = source.digest().ok_or_else(cut_off);
    digest.map_err(SendBodyError::Disk)
}

async fn send_piece(
    sender: &mut Sender,
    length: Length,
    piece: Bytes,
    moved: &AtomicU64,
) -> Result<(), SendBodyError> {
    if length == Length::Pieces {
        let prefix = u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes();
        sender.send_bytes(Bytes::copy_from_slice(&prefix)).await?;
    }
    let bytes = piece.len() as u64;
    sender.send_bytes(piece).await?;
    moved.fetch_add(bytes, Ordering::Relaxed);
    Ok(())
}

/// Receives a body into `sink`, and returns `sink` with the digest and the length.
///
/// While a blocking thread writes, it owns `sink`. If this future is dropped, that thread drops
/// `sink`, so a guard that removes an unfinished file belongs inside it.
///
/// # Errors
/// If receiving or writing fails, or the body ends before its declared length.
pub async fn receive<W: HoleWrite + Send + 'static>(
    receiver: &mut Receiver,
    sink: W,
    length: Length,
    hasher: Hasher,
    moved: &AtomicU64,
) -> Result<Received<W>, ReceiveBodyError> {
    let mut writer = WriteBehind::new(sink, hasher);
    receive_into(receiver, &mut writer, length, moved).await?;
    writer.finish().await.map_err(ReceiveBodyError::Disk)
}

/// A destination for the bytes of a body.
pub trait BodySink {
    /// Writes the next chunks. May return before they are written.
    ///
    /// # Errors
    /// If writing these or earlier ones failed.
    fn write(&mut self, chunks: Vec<Bytes>) -> impl Future<Output = io::Result<()>> + Send;

    /// Goes on `bytes` bytes further, with a hole. May return before that is done.
    ///
    /// # Errors
    /// If this or earlier writing failed.
    fn skip(&mut self, bytes: u64) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until no write is in progress.
    ///
    /// # Errors
    /// If writing failed.
    fn settle(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Receives a body into `sink`.
///
/// After an error no write is in progress: a caller that drops `sink` then can rely on a guard in
/// it to remove the unfinished file.
///
/// # Errors
/// If receiving or writing fails, or the body ends before its declared length.
pub async fn receive_into<S: BodySink>(
    receiver: &mut Receiver,
    sink: &mut S,
    length: Length,
    moved: &AtomicU64,
) -> Result<(), ReceiveBodyError> {
    let received = match length {
        Length::Declared(length) => receive_raw(receiver, sink, length, moved).await,
        Length::Pieces => receive_pieces(receiver, sink, moved).await,
    };
    settled(received, sink).await
}

/// Returns how receiving has ended, when no write is in progress any more.
async fn settled<S: BodySink>(
    received: Result<(), ReceiveBodyError>,
    sink: &mut S,
) -> Result<(), ReceiveBodyError> {
    if received.is_err() {
        // The first error is the one to report.
        let _ = sink.settle().await;
    }
    received
}

async fn receive_pieces<S: BodySink>(
    receiver: &mut Receiver,
    sink: &mut S,
    moved: &AtomicU64,
) -> Result<(), ReceiveBodyError> {
    loop {
        let piece = receiver.receive_length().await?;
        if piece == 0 {
            return Ok(());
        }
        let bytes = piece as usize;
        if bytes > PIECE_BYTES_MAX {
            let limit = PIECE_BYTES_MAX;
            let too_long = DecodeError::TooLong { bytes, limit };
            return Err(ReceiveError::Decode(too_long).into());
        }
        receive_raw(receiver, sink, u64::from(piece), moved).await?;
    }
}

/// A body that was received completely.
#[derive(Debug)]
pub struct Received<W> {
    /// The destination.
    pub sink: W,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length, in bytes.
    pub length: u64,
}

async fn receive_raw<S: BodySink>(
    receiver: &mut Receiver,
    sink: &mut S,
    length: u64,
    moved: &AtomicU64,
) -> Result<(), ReceiveBodyError> {
    let mut rest = length;
    let mut chunks = Vec::new();
    let mut bytes = 0;
    while rest > 0 {
        let limit = usize::try_from(rest).unwrap_or(usize::MAX);
        let chunk = receiver.receive_bytes(limit).await?;
        let chunk = chunk.ok_or(ReceiveError::Truncated)?;
        rest -= chunk.len() as u64;
        moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        bytes += chunk.len();
        chunks.push(chunk);
        if bytes >= BYTES_PER_WRITE || chunks.len() >= CHUNKS_PER_WRITE || rest == 0 {
            bytes = 0;
            let writing = sink.write(std::mem::take(&mut chunks));
            receiver
                .disk(writing)
                .await
                .map_err(ReceiveBodyError::Disk)?;
        }
    }
    Ok(())
}

/// Why a body could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendBodyError {
    /// Reading the source failed.
    #[error("reading failed")]
    Disk(#[source] io::Error),
    /// The source ended before the declared length.
    #[error("the file became shorter by {missing} bytes while it was sent")]
    Short {
        /// How many bytes were missing.
        missing: u64,
    },
    /// The stream or the connection is broken, or the peer stalls.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Why a body could not be received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveBodyError {
    /// Writing to the sink failed.
    #[error("writing failed")]
    Disk(#[source] io::Error),
    /// The stream or the connection is broken, or the body isn't as announced.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

/// Bytes per write: half a piece. Chunks of many transfers share the buffers of the socket, and
/// each chunk keeps its whole buffer in memory until it is written.
const BYTES_PER_WRITE: usize = PIECE / 2;

/// Chunks per write: `IOV_MAX` of Linux, the limit of a vectored write.
const CHUNKS_PER_WRITE: usize = 1024;

const _: () = assert!(PIECE <= PIECE_BYTES_MAX);

#[cfg(test)]
mod tests;
