//! The list of the chunks of a file on the server, as it is received.

use std::collections::VecDeque;

use quire_shared::chunks::{CHUNKS_MAX, Chunk};
use quire_shared::codec::DecodeError;
use quire_shared::digest::Digest;
use quire_shared::protocol::{ChunkHead, ChunkPage, Chunks};
use quire_transport::stream::Receiver;

use crate::error::ClientError;
use crate::exchange::{Connection, read_to_end};

/// A list of chunks that is being received. Dropping it stops the server's work on it.
#[derive(Debug)]
pub(super) struct RemoteChunks {
    connection: Connection,
    receiver: Receiver,
    head: ChunkHead,
    /// Bytes and number of the chunks so far.
    bytes: u64,
    count: u64,
    /// Pages that came and were not taken yet.
    pages: VecDeque<ChunkPage>,
    digest: Option<Digest>,
}

impl RemoteChunks {
    /// Asks for the list, and receives what it is of. `None` if this version can't cut in that way.
    ///
    /// # Errors
    /// The server's refusal, a broken connection, or a page that the protocol doesn't allow.
    pub(super) async fn open(
        connection: &Connection,
        request: Chunks,
    ) -> Result<Option<Self>, ClientError> {
        let mut receiver = connection.send(request).await?;
        let mut page: ChunkPage = connection.answer(&mut receiver).await?;
        let head = page.head.take().ok_or_else(unexpected)?;
        let list = Self {
            connection: connection.clone(),
            receiver,
            bytes: 0,
            count: 0,
            pages: [page].into(),
            digest: None,
            head,
        };
        Ok(Some(list).filter(|list| list.head.parameters.is_known()))
    }

    /// What the list is of.
    pub(super) fn head(&self) -> &ChunkHead {
        &self.head
    }

    /// The digest of the whole file, when all chunks have come.
    pub(super) fn digest(self) -> Option<Digest> {
        self.digest
    }

    /// Returns the next chunks, `None` after the last.
    ///
    /// # Errors
    /// [`ClientError::Changed`], a broken connection, or chunks that aren't those of such a file.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Chunk>>, ClientError> {
        if self.digest.is_some() {
            return Ok(None);
        }
        let page = match self.pages.pop_front() {
            Some(first) => first,
            None => {
                let page: ChunkPage = self.connection.answer(&mut self.receiver).await?;
                // Otherwise a server could keep the client busy with empty pages forever.
                if page.head.is_some() || (page.chunks.is_empty() && page.digest.is_none()) {
                    return Err(unexpected());
                }
                page
            }
        };
        let chunks: Vec<_> = page.chunks.iter().collect();
        let longest = self.head.parameters.max;
        for chunk in &chunks {
            if chunk.length == 0 || chunk.length > longest {
                return Err(unexpected());
            }
            self.bytes = self.bytes.saturating_add(chunk.length.into());
        }
        self.count += chunks.len() as u64;
        if self.bytes > self.head.size || self.count > CHUNKS_MAX {
            return Err(unexpected());
        }
        if page.digest.is_some() {
            if self.bytes != self.head.size {
                return Err(unexpected());
            }
            read_to_end(&mut self.receiver).await;
        }
        self.digest = page.digest;
        Ok(Some(chunks))
    }
}

fn unexpected() -> ClientError {
    ClientError::Unexpected(DecodeError::Malformed)
}
