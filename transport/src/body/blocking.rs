//! Reading ahead and writing behind on blocking threads.
//!
//! The blocking thread also computes the digest, while the bytes are in the cache of its processor.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use quire_shared::digest::{Digest, Hasher};

use super::extents::{HOLE_STEP, HoleWrite};
use super::{BodySink, Received};
use crate::bottleneck::file_work;

/// A source that reads one piece while the caller sends the one before.
#[derive(Debug)]
pub struct ReadAhead<R> {
    stage: ReadStage<R>,
    /// Bytes still to read.
    rest: u64,
}

#[derive(Debug)]
enum ReadStage<R> {
    Reading(JoinHandle<io::Result<(Bytes, SourceState<R>)>>),
    /// Everything was read, or the source has ended.
    Ended(Hasher),
    Failed,
}

/// State that moves into a blocking thread to read a piece, and back.
#[derive(Debug)]
struct SourceState<R> {
    source: R,
    hasher: Hasher,
    /// The size of the next piece: small at first, so that the first bytes leave at once.
    piece: usize,
}

impl<R: Read + Send + 'static> ReadAhead<R> {
    /// Starts to read up to `length` bytes of `source`.
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

    /// Returns the next bytes, or `None` at the end, and starts to read the piece after them, which
    /// has at most about `piece_max` bytes. The future is cancel safe.
    ///
    /// # Errors
    /// If reading fails. Later calls return `None`.
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

    /// Returns the digest of everything that was read. `None` unless [`next`](Self::next) has
    /// reached the end.
    pub fn digest(self) -> Option<Digest> {
        self.into_hasher().map(Hasher::finish)
    }

    /// Whether all that was asked for has been read.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest == 0
    }

    /// Returns the hasher, if [`next`](Self::next) has reached the end.
    pub(super) fn into_hasher(self) -> Option<Hasher> {
        match self.stage {
            ReadStage::Ended(hasher) => Some(hasher),
            ReadStage::Reading(_) | ReadStage::Failed => None,
        }
    }
}

/// Starts to read the next piece in a blocking thread.
fn read<R: Read + Send + 'static>(mut state: SourceState<R>, rest: u64) -> ReadStage<R> {
    let limit = rest.min(state.piece as u64);
    // Allocated here and not in the blocking thread. Allocators cache memory per thread, and there
    // may be hundreds of blocking threads, but only a few threads like this one, which also frees
    // it.
    let mut bytes = Vec::with_capacity(usize::try_from(limit).unwrap_or(state.piece));
    let reading = move || {
        (&mut state.source).take(limit).read_to_end(&mut bytes)?;
        state.hasher.update(&bytes);
        state.piece = (state.piece * 2).min(PIECE);
        Ok((Bytes::from(bytes), state))
    };
    ReadStage::Reading(spawn_blocking(|| file_work(reading)))
}

/// A destination that a blocking thread writes to while more bytes arrive.
#[derive(Debug)]
pub struct WriteBehind<W>(WriteStage<W>);

#[derive(Debug)]
enum WriteStage<W> {
    Idle(SinkState<W>),
    Writing(JoinHandle<io::Result<SinkState<W>>>),
    Failed,
}

/// State that moves into a blocking thread to write chunks, and back.
#[derive(Debug)]
struct SinkState<W> {
    sink: W,
    hasher: Hasher,
    written: u64,
}

impl<W: Write + Send + 'static> WriteBehind<W> {
    /// Creates a writer to `sink`.
    pub fn new(sink: W, hasher: Hasher) -> Self {
        Self(WriteStage::Idle(SinkState {
            sink,
            hasher,
            written: 0,
        }))
    }

    /// As [`new`](Self::new), after `prepare` has worked on the sink and the hasher on a blocking
    /// thread. Writes wait for that.
    pub fn prepare(
        sink: W,
        hasher: Hasher,
        prepare: impl FnOnce(&mut W, &mut Hasher) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let mut state = SinkState {
            sink,
            hasher,
            written: 0,
        };
        let preparing = move || {
            prepare(&mut state.sink, &mut state.hasher)?;
            Ok(state)
        };
        Self(WriteStage::Writing(spawn_blocking(|| file_work(preparing))))
    }

    /// Has `work` write to the sink and add that to the digest, on a blocking thread. Later writes
    /// wait for that. It returns how many bytes it has written.
    ///
    /// # Errors
    /// If writing earlier bytes failed.
    pub async fn write_with(
        &mut self,
        work: impl FnOnce(&mut W, &mut Hasher) -> io::Result<u64> + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.idle().await?;
        let working = move || {
            state.written += work(&mut state.sink, &mut state.hasher)?;
            Ok(state)
        };
        self.0 = WriteStage::Writing(spawn_blocking(|| file_work(working)));
        Ok(())
    }

    /// Waits for the last write, and returns the sink with digest and length.
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

    /// Takes the state, after the write in progress.
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

impl<W: HoleWrite + Send + 'static> BodySink for WriteBehind<W> {
    async fn write(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        let mut state = self.idle().await?;
        let writing = move || {
            for chunk in &chunks {
                state.hasher.update(chunk);
                state.written += chunk.len() as u64;
            }
            write_all(&mut state.sink, &chunks)?;
            Ok(state)
        };
        self.0 = WriteStage::Writing(spawn_blocking(|| file_work(writing)));
        Ok(())
    }

    async fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let mut rest = bytes;
        while rest > 0 {
            let step = rest.min(HOLE_STEP);
            rest -= step;
            let mut state = self.idle().await?;
            let skipping = move || {
                state.hasher.update_zeros(step);
                state.written += step;
                state.sink.skip(step)?;
                Ok(state)
            };
            self.0 = WriteStage::Writing(spawn_blocking(|| file_work(skipping)));
        }
        Ok(())
    }

    async fn settle(&mut self) -> io::Result<()> {
        let state = self.idle().await?;
        self.0 = WriteStage::Idle(state);
        Ok(())
    }
}

/// Writes all chunks with vectored writes.
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

/// The error for a blocking thread that ended without a result, because the runtime is stopping.
pub(super) fn interrupted(_: tokio::task::JoinError) -> io::Error {
    io::Error::other("interrupted by the end of the program")
}

/// Size of the first piece, in bytes: enough for the first round trip, and quick to read.
pub(super) const PIECE_FIRST: usize = 64 * 1024;

/// Size of a piece, in bytes. A hand-over to a blocking thread and back costs about 30 µs, a few
/// per cent of the time that the network needs for a piece of this size. A hundred concurrent
/// transfers still fit in memory.
pub(super) const PIECE: usize = 512 * 1024;
