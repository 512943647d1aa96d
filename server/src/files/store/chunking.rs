//! Cutting the content of an open file into chunks.
//!
//! The work is split into steps, each of which begins at a cut and keeps nothing but a position: a
//! client that doesn't read its pages keeps no memory, and the number of steps at once is bounded.

use std::os::unix::fs::FileExt;

use quire_shared::chunks::{Chunk, ChunkParameters, Chunker};
use quire_shared::digest::Hasher;
use tokio::sync::Semaphore;

use super::open_file::OpenFile;
use super::{Error, blocking, cancel};

/// How far a file has been cut.
#[derive(Debug)]
pub(in crate::files) struct ChunkScan {
    parameters: ChunkParameters,
    /// Digest of what was cut off.
    pub(in crate::files) hasher: Hasher,
    /// Offset of the next chunk.
    position: u64,
}

impl ChunkScan {
    pub(in crate::files) fn new(parameters: ChunkParameters, hasher: Hasher) -> Self {
        Self {
            parameters,
            hasher,
            position: 0,
        }
    }

    /// Cuts some more chunks off, and returns them. Dropping the future stops the work.
    ///
    /// # Errors
    /// If reading fails, or the file has become shorter.
    pub(in crate::files) async fn next(
        mut self,
        file: &OpenFile,
    ) -> Result<(Self, Vec<Chunk>), Error> {
        let _turn = STEPS.acquire().await;
        let file = file.clone();
        blocking(move || {
            let chunks = self.step(&file)?;
            Ok((self, chunks))
        })
        .await
    }

    /// Whether all of `file` has been cut.
    pub(in crate::files) fn is_done(&self, file: &OpenFile) -> bool {
        self.position == file.attributes.size
    }

    fn step(&mut self, file: &OpenFile) -> Result<Vec<Chunk>, Error> {
        let Self {
            parameters,
            hasher,
            position,
        } = self;
        let size = file.attributes.size;
        let step = STEP_BYTES.max(u64::from(parameters.max) * CHUNKS_PER_STEP_MIN);
        let end = size.min(*position + step);
        let mut next = *position;
        let mut chunks = Vec::new();
        let mut found = |chunk: Chunk, bytes: &[u8]| {
            hasher.update(bytes);
            *position += bytes.len() as u64;
            chunks.push(chunk);
        };
        let mut chunker = Chunker::new(*parameters);
        let mut buffer = vec![0; PIECE_BYTES];
        while next < end {
            cancel::check()?;
            let rest = usize::try_from(end - next).unwrap_or(PIECE_BYTES);
            let piece = buffer.get_mut(..rest.min(PIECE_BYTES)).unwrap_or_default();
            let read = read_at(file, piece, next)?;
            if read == 0 {
                return Err(Error::Changed);
            }
            chunker.push(piece.get(..read).unwrap_or_default(), &mut found);
            next += read as u64;
        }
        // What is left before a step's end is read again by the next step, which begins at a cut.
        if end == size {
            chunker.finish(&mut found);
        }
        Ok(chunks)
    }
}

fn read_at(file: &OpenFile, piece: &mut [u8], position: u64) -> Result<usize, Error> {
    let Some(content) = file.content() else {
        let read = file.file.read_at(piece, position);
        return read.map_err(Error::system("reading"));
    };
    let start = usize::try_from(position).unwrap_or(usize::MAX);
    let rest = content.get(start..).unwrap_or_default();
    let read = rest.len().min(piece.len());
    for (to, from) in piece.iter_mut().zip(rest) {
        *to = *from;
    }
    Ok(read)
}

/// Steps at once, over all clients: what they hold in memory is bounded, and they leave processors to
/// others.
static STEPS: Semaphore = Semaphore::const_new(8);

/// Bytes per step, after which others get their turn: some tens of milliseconds of work.
const STEP_BYTES: u64 = 32 * 1024 * 1024;

/// Longest chunks per step at least, so that little is read twice.
const CHUNKS_PER_STEP_MIN: u64 = 16;

/// Bytes per read.
const PIECE_BYTES: usize = 512 * 1024;
