//! Files on blocking threads, a large piece at a time, one piece ahead of the network or behind it.
//!
//! A digest of exactly the bytes that pass is computed by the same thread, while they are in its
//! processor's cache.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use quire_shared::digest::{Digest, Hasher};

use super::{BodySink, Received};

/// A source of which one piece is being read while another one is being sent.
#[derive(Debug)]
pub struct ReadAhead<R> {
    stage: ReadStage<R>,
    /// Bytes that are wanted and not read yet.
    rest: u64,
}

#[derive(Debug)]
enum ReadStage<R> {
    Reading(JoinHandle<io::Result<(Bytes, SourceState<R>)>>),
    /// All that was wanted has been read, or there is no more.
    Ended(Hasher),
    Failed,
}

/// What travels into a blocking thread to read one piece, and back.
#[derive(Debug)]
struct SourceState<R> {
    source: R,
    hasher: Hasher,
    /// The size of the next piece: small at first, so that the first bytes leave at once.
    piece: usize,
}

impl<R: Read + Send + 'static> ReadAhead<R> {
    /// Begins to read up to `length` bytes of `source`.
    pub fn start(source: R, length: u64, hasher: Hasher) -> Self {
        let stage = match length {
            0 => ReadStage::Ended(hasher),
            _ => {
                let piece = PIECE_FIRST;
                let state = SourceState {
                    source,
                    hasher,
                    piece,
                };
                read(state, length)
            }
        };
        Self {
            stage,
            rest: length,
        }
    }

    /// The next bytes, `None` at the end; meanwhile the piece after them is read, of at most about
    /// `piece_max` bytes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If reading fails; nothing more comes then.
    pub async fn next(&mut self, piece_max: usize) -> io::Result<Option<Bytes>> {
        let ReadStage::Reading(reading) = &mut self.stage else {
            return Ok(None);
        };
        let read_one = reading.await;
        self.stage = ReadStage::Failed;
        let (piece, mut state) = read_one.map_err(interrupted)??;
        self.rest = self.rest.saturating_sub(piece.len() as u64);
        state.piece = state.piece.min(piece_max.max(PIECE_FIRST));
        self.stage = match piece.is_empty() || self.rest == 0 {
            true => ReadStage::Ended(state.hasher),
            false => read(state, self.rest),
        };
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// The digest of all that was read, once [`next`](Self::next) has given the last byte of the
    /// length, or `None`.
    pub fn digest(self) -> Option<Digest> {
        match self.stage {
            ReadStage::Ended(hasher) => Some(hasher.finish()),
            ReadStage::Reading(_) | ReadStage::Failed => None,
        }
    }
}

/// Reads the next piece in a blocking thread.
fn read<R: Read + Send + 'static>(mut state: SourceState<R>, rest: u64) -> ReadStage<R> {
    let limit = rest.min(state.piece as u64);
    // Taken here and not in the blocking thread: allocators keep what each thread has used, and
    // there may be hundreds of those threads, while this is one of a few that also frees it.
    let mut bytes = Vec::with_capacity(usize::try_from(limit).unwrap_or(state.piece));
    ReadStage::Reading(spawn_blocking(move || {
        (&mut state.source).take(limit).read_to_end(&mut bytes)?;
        state.hasher.update(&bytes);
        state.piece = (state.piece * 2).min(PIECE);
        Ok((Bytes::from(bytes), state))
    }))
}

/// A sink that is free, or being written to while more arrives.
#[derive(Debug)]
pub struct WriteBehind<W>(WriteStage<W>);

#[derive(Debug)]
enum WriteStage<W> {
    Idle(SinkState<W>),
    Writing(JoinHandle<io::Result<SinkState<W>>>),
    Failed,
}

/// What travels into a blocking thread to write one batch, and back.
#[derive(Debug)]
struct SinkState<W> {
    sink: W,
    hasher: Hasher,
    written: u64,
}

impl<W: Write + Send + 'static> WriteBehind<W> {
    /// Writes to `sink`.
    pub fn new(sink: W, hasher: Hasher) -> Self {
        Self(WriteStage::Idle(SinkState {
            sink,
            hasher,
            written: 0,
        }))
    }

    /// Gives the sink back, once nothing is written to it any more.
    ///
    /// # Errors
    /// If writing failed.
    pub async fn finish(mut self) -> io::Result<Received<W>> {
        let SinkState {
            sink,
            hasher,
            written,
        } = self.idle().await?;
        Ok(Received {
            sink,
            digest: hasher.finish(),
            length: written,
        })
    }

    /// The sink, once nothing is written to it any more.
    async fn idle(&mut self) -> io::Result<SinkState<W>> {
        if let WriteStage::Writing(task) = &mut self.0 {
            let written = task.await.map_err(interrupted);
            self.0 = match written.flatten() {
                Ok(state) => WriteStage::Idle(state),
                Err(error) => {
                    self.0 = WriteStage::Failed;
                    return Err(error);
                }
            };
        }
        match std::mem::replace(&mut self.0, WriteStage::Failed) {
            WriteStage::Idle(state) => Ok(state),
            WriteStage::Writing(_) | WriteStage::Failed => {
                Err(io::Error::other("an earlier write failed"))
            }
        }
    }
}

impl<W: Write + Send + 'static> BodySink for WriteBehind<W> {
    async fn write(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        let mut state = self.idle().await?;
        self.0 = WriteStage::Writing(spawn_blocking(move || {
            for chunk in &chunks {
                state.hasher.update(chunk);
                state.written += chunk.len() as u64;
            }
            write_all(&mut state.sink, &chunks)?;
            Ok(state)
        }));
        Ok(())
    }

    async fn settle(&mut self) -> io::Result<()> {
        let state = self.idle().await?;
        self.0 = WriteStage::Idle(state);
        Ok(())
    }
}

/// Writes all chunks in as few calls as it takes.
fn write_all(sink: &mut impl Write, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
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

/// Stands for a blocking thread that ended without a result: the runtime is stopping.
fn interrupted(_: tokio::task::JoinError) -> io::Error {
    io::Error::other("interrupted by the end of the program")
}

/// The first piece of a file that is read: enough for the first round trip.
pub(super) const PIECE_FIRST: usize = 64 * 1024;

/// Bytes per piece: handing one to a blocking thread and back costs about 30 µs, which this makes
/// a few per cent of the time the network needs for it, while a hundred transfers at once still
/// fit in memory.
pub(super) const PIECE: usize = 512 * 1024;
