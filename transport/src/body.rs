//! Bodies: the raw bytes of a file on their way between a reader or writer and a stream.
//!
//! Both ends send and receive bodies in the same way, so the code stands here once. It works on
//! what the caller has opened, and opens nothing itself. File work is done in blocking threads, a
//! large piece at a time, one piece ahead of the network; a digest of exactly these bytes is
//! computed on the way. See PROTOCOL.md, "Bodies".

use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::stream::{ReceiveError, Receiver, SendError, Sender};
use quire_shared::codec::DecodeError;
use quire_shared::digest::{Digest, Hasher};
use quire_shared::limits::PIECE_BYTES_MAX;

/// How long a body is, as its sender announced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Exactly so many raw bytes.
    Declared(u64),
    /// Unknown before its end: length-prefixed pieces, the last of them empty.
    Pieces,
}

impl From<Option<u64>> for Length {
    fn from(size: Option<u64>) -> Self {
        size.map_or(Self::Pieces, Self::Declared)
    }
}

/// Sends all that `source` has, or exactly the declared length of it.
///
/// `moved` counts the bytes that went out, for whoever shows progress.
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
    let mut reading = ReadAhead::start(
        Source {
            source,
            hasher,
            piece: PIECE_FIRST,
        },
        rest,
    );
    loop {
        let (piece, mut source) = sender.disk(reading.finish()).await?;
        let ended = piece.is_empty();
        rest = rest.saturating_sub(piece.len() as u64);
        match length {
            Length::Declared(_) if rest == 0 => {
                send_piece(sender, length, piece, moved).await?;
                return Ok(source.hasher.finish());
            }
            Length::Declared(_) if ended => return Err(SendBodyError::Short { missing: rest }),
            Length::Pieces if ended => {
                sender.send_bytes(Bytes::from_static(&[0; 4])).await?;
                return Ok(source.hasher.finish());
            }
            Length::Declared(_) | Length::Pieces => {
                source.piece = source.piece.min(sender.piece_max().max(PIECE_FIRST));
                reading = ReadAhead::start(source, rest);
                send_piece(sender, length, piece, moved).await?;
            }
        }
    }
}

async fn send_piece(
    sender: &mut Sender,
    length: Length,
    piece: Bytes,
    moved: &AtomicU64,
) -> Result<(), SendBodyError> {
    if piece.is_empty() {
        return Ok(());
    }
    if length == Length::Pieces {
        let prefix = u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes();
        sender.send_bytes(Bytes::copy_from_slice(&prefix)).await?;
    }
    let bytes = piece.len() as u64;
    sender.send_bytes(piece).await?;
    moved.fetch_add(bytes, Ordering::Relaxed);
    Ok(())
}

/// What travels into a blocking thread to read one piece, and back.
struct Source<R> {
    source: R,
    hasher: Hasher,
    /// The size of the next piece: small at first, so that the first bytes leave at once.
    piece: usize,
}

/// One piece being read while another one is being sent.
struct ReadAhead<R>(JoinHandle<io::Result<(Bytes, Source<R>)>>);

impl<R: Read + Send + 'static> ReadAhead<R> {
    fn start(mut source: Source<R>, rest: u64) -> Self {
        let limit = rest.min(source.piece as u64);
        // Taken here and not in the blocking thread: allocators keep what each thread has used, and
        // there may be hundreds of those threads, while this is one of a few that also frees it.
        let mut bytes = Vec::with_capacity(usize::try_from(limit).unwrap_or(source.piece));
        Self(spawn_blocking(move || {
            (&mut source.source).take(limit).read_to_end(&mut bytes)?;
            source.hasher.update(&bytes);
            source.piece = (source.piece * 2).min(PIECE);
            Ok((Bytes::from(bytes), source))
        }))
    }

    async fn finish(self) -> Result<(Bytes, Source<R>), SendBodyError> {
        match self.0.await {
            Ok(read) => read.map_err(SendBodyError::Disk),
            Err(_) => Err(SendBodyError::Disk(interrupted())),
        }
    }
}

/// Receives a body into `sink`, and gives `sink` back with the digest and the length.
///
/// `sink` belongs to a blocking thread while that writes to it. A caller that is cancelled leaves
/// it to be dropped there, so a guard that removes an unfinished file belongs inside it.
///
/// # Errors
/// If receiving or writing fails, or the body ends before its declared length.
pub async fn receive<W: Write + Send + 'static>(
    receiver: &mut Receiver,
    sink: W,
    length: Length,
    hasher: Hasher,
    moved: &AtomicU64,
) -> Result<Received<W>, ReceiveBodyError> {
    let mut writer = WriteBehind::Idle(Sink {
        sink,
        hasher,
        written: 0,
    });
    match length {
        Length::Declared(length) => {
            writer = receive_raw(receiver, writer, length, moved).await?;
        }
        Length::Pieces => loop {
            let piece = match receiver.receive_length().await {
                Ok(piece) => piece,
                Err(error) => return Err(writer.abandon(error).await),
            };
            if piece == 0 {
                break;
            }
            if piece as usize > PIECE_BYTES_MAX {
                let (bytes, limit) = (piece as usize, PIECE_BYTES_MAX);
                let too_long = ReceiveError::Decode(DecodeError::TooLong { bytes, limit });
                return Err(writer.abandon(too_long).await);
            }
            writer = receive_raw(receiver, writer, u64::from(piece), moved).await?;
        },
    }
    let Sink {
        sink,
        hasher,
        written,
    } = writer.idle().await?;
    Ok(Received {
        sink,
        digest: hasher.finish(),
        length: written,
    })
}

/// A body that has arrived.
#[derive(Debug)]
pub struct Received<W> {
    /// Where it was written to.
    pub sink: W,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length, in bytes.
    pub length: u64,
}

async fn receive_raw<W: Write + Send + 'static>(
    receiver: &mut Receiver,
    mut writer: WriteBehind<W>,
    length: u64,
    moved: &AtomicU64,
) -> Result<WriteBehind<W>, ReceiveBodyError> {
    let mut rest = length;
    let mut batch = Batch::default();
    while rest > 0 {
        let limit = usize::try_from(rest).unwrap_or(usize::MAX);
        let chunk = match receiver.receive_bytes(limit).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Err(writer.abandon(ReceiveError::Truncated).await),
            Err(error) => return Err(writer.abandon(error).await),
        };
        rest -= chunk.len() as u64;
        moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        batch.push(chunk);
        if batch.is_full() {
            let sink = receiver.disk(writer.idle()).await?;
            writer = WriteBehind::start(sink, std::mem::take(&mut batch));
        }
    }
    if !batch.chunks.is_empty() {
        writer = WriteBehind::start(receiver.disk(writer.idle()).await?, batch);
    }
    Ok(writer)
}

/// Chunks as the network delivered them, to be written in one call.
#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.chunks.push(chunk);
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH || self.chunks.len() >= CHUNKS_PER_WRITE
    }

    fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        let mut slices: Vec<_> = self
            .chunks
            .iter()
            .map(|chunk| IoSlice::new(chunk))
            .collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            match sink.write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What travels into a blocking thread to write one batch, and back.
struct Sink<W> {
    sink: W,
    hasher: Hasher,
    written: u64,
}

/// A sink that is free, or being written to while more arrives.
enum WriteBehind<W> {
    Idle(Sink<W>),
    Writing(JoinHandle<io::Result<Sink<W>>>),
}

impl<W: Write + Send + 'static> WriteBehind<W> {
    fn start(mut sink: Sink<W>, batch: Batch) -> Self {
        Self::Writing(spawn_blocking(move || {
            for chunk in &batch.chunks {
                sink.hasher.update(chunk);
            }
            batch.write_to(&mut sink.sink)?;
            sink.written += batch.bytes as u64;
            Ok(sink)
        }))
    }

    /// Lets go of the sink, once nothing is written to it any more: whoever hears of the error
    /// finds no trace of what a guard in the sink removes.
    async fn abandon(self, error: ReceiveError) -> ReceiveBodyError {
        drop(self.idle().await);
        error.into()
    }

    async fn idle(self) -> Result<Sink<W>, ReceiveBodyError> {
        match self {
            Self::Idle(sink) => Ok(sink),
            Self::Writing(task) => match task.await {
                Ok(sink) => sink.map_err(ReceiveBodyError::Disk),
                Err(_) => Err(ReceiveBodyError::Disk(interrupted())),
            },
        }
    }
}

/// Stands for a blocking thread that ended without a result: the runtime is stopping.
fn interrupted() -> io::Error {
    io::Error::other("interrupted by the end of the program")
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
    /// The stream or the connection is broken, or the other side stalls.
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
    /// The stream or the connection is broken, or the body is not what was announced.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

/// The first piece of a file that is read: enough for the first round trip.
const PIECE_FIRST: usize = 64 * 1024;

/// Bytes per piece: handing one to a blocking thread and back costs about 30 µs, which this makes
/// a few per cent of the time the network needs for it, while a hundred transfers at once still
/// fit in memory.
const PIECE: usize = 512 * 1024;

/// Bytes per write: half a piece, because chunks of many transfers lie mixed in the buffers that the
/// socket filled, and each keeps its whole buffer in memory until it is written.
const BATCH: usize = PIECE / 2;

/// Chunks per write: `IOV_MAX` of Linux, the most that one vectored write takes.
const CHUNKS_PER_WRITE: usize = 1024;

const _: () = assert!(PIECE <= PIECE_BYTES_MAX);

#[cfg(test)]
mod tests;
