//! The chunks of a local file, which a blocking thread cuts while the server's list arrives.

use std::io::Read;

use quire_shared::chunks::{Chunk, ChunkParameters, Chunker};
use quire_shared::digest::{Digest, Hasher};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::ClientError;
use crate::local_file::LocalFile;

/// A file that is being cut. Dropping it stops that.
#[derive(Debug)]
pub(super) struct LocalChunks {
    /// Without a bound of its own: a file has no more than
    /// [`CHUNKS_MAX`](quire_shared::chunks::CHUNKS_MAX) chunks of this size.
    found: mpsc::UnboundedReceiver<Vec<Chunk>>,
    cutting: JoinHandle<Result<Option<Digest>, ClientError>>,
    stop: DropGuard,
}

impl LocalChunks {
    /// Starts to cut what `file` had when it was opened, and to add it to a digest. Nothing else may
    /// read the file until [`end`](Self::end) has returned.
    pub(super) fn start(file: LocalFile, parameters: ChunkParameters, hasher: Hasher) -> Self {
        let (sender, found) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let is_stopped = {
            let stop = stop.clone();
            move || stop.is_cancelled()
        };
        Self {
            found,
            cutting: spawn_blocking(move || cut(file, parameters, hasher, &sender, is_stopped)),
            stop: stop.drop_guard(),
        }
    }

    /// Returns the next chunks, `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Vec<Chunk>> {
        self.found.recv().await
    }

    /// Stops the work, unless it is done, and waits for that. Returns the digest of the whole file, if
    /// all of it was cut.
    ///
    /// # Errors
    /// If the file can't be read, or has become shorter.
    pub(super) async fn end(self) -> Result<Option<Digest>, ClientError> {
        let Self {
            found,
            cutting,
            stop,
        } = self;
        drop((found, stop));
        // Only a runtime that ends loses it.
        cutting.await.unwrap_or(Ok(None))
    }
}

fn cut(
    file: LocalFile,
    parameters: ChunkParameters,
    mut hasher: Hasher,
    sender: &mpsc::UnboundedSender<Vec<Chunk>>,
    is_stopped: impl Fn() -> bool,
) -> Result<Option<Digest>, ClientError> {
    let path = file.path().to_owned();
    let mut rest = file.size();
    let mut source = file.into_content().source;
    let mut chunker = Chunker::new(parameters);
    let mut buffer = vec![0; PIECE_BYTES];
    while rest > 0 {
        if is_stopped() {
            return Ok(None);
        }
        let most = usize::try_from(rest).unwrap_or(PIECE_BYTES);
        let piece = buffer.get_mut(..most.min(PIECE_BYTES)).unwrap_or_default();
        let read = source.read(piece);
        let read = read.map_err(|error| ClientError::disk(&path, "read", error))?;
        if read == 0 {
            return Err(ClientError::LocalChanged(path));
        }
        let piece = piece.get(..read).unwrap_or_default();
        hasher.update(piece);
        rest -= read as u64;
        let mut chunks = Vec::new();
        chunker.push(piece, |chunk, _| chunks.push(chunk));
        // Fails only if nobody wants them any more, which the next look finds out.
        let _ = sender.send(chunks);
    }
    let mut chunks = Vec::new();
    chunker.finish(|chunk, _| chunks.push(chunk));
    let _ = sender.send(chunks);
    Ok(Some(hasher.finish()))
}

/// Bytes per read.
const PIECE_BYTES: usize = 512 * 1024;
