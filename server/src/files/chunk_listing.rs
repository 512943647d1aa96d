//! List of a file's chunks, for a client that has another version of it.

use std::collections::VecDeque;
use std::sync::Arc;

use quire_shared::chunks::{Chunk, ChunkParameters};
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::{ChunkHead, Chunks, DetailKinds};

use super::Files;
use super::caller::Caller;
use super::chunk_cache::{ChunkCache, ChunkList, GatheredList};
use super::content::require_version;
use super::error::Error;
use super::store::{self, ChunkScan, OpenFile, SinceOpened};

/// Chunks of a file, in its order. Dropping it stops the work.
#[derive(Debug)]
pub struct ChunkListing {
    file: OpenFile,
    parameters: ChunkParameters,
    kind: DigestKind,
    source: ChunkSource,
}

#[derive(Debug)]
enum ChunkSource {
    /// A remembered list, and how many of its chunks have been returned.
    Known(Arc<ChunkList>, usize),
    /// The file.
    Read {
        scan: ChunkScan,
        /// Found and not returned yet.
        ready: VecDeque<Chunk>,
        gathered: GatheredList,
    },
    /// None: the end, or placeholder while the file is read.
    Ended,
}

/// Next part of a list.
#[derive(Debug)]
pub struct ChunkListPart {
    /// The next chunks; there may be none.
    pub chunks: Vec<Chunk>,
    /// Digest of the whole file, with the last chunks.
    pub digest: Option<Digest>,
}

impl Files {
    /// Opens a file whose chunks are to be listed. As reading it, that takes the right to get it.
    ///
    /// # Errors
    /// If it is refused, the path isn't a file of the version asked for, or the file is too large.
    pub async fn chunks(&self, caller: &Caller, request: &Chunks) -> Result<ChunkListing, Error> {
        caller.access.get(&request.path)?;
        let guard = self.locks().shared(caller.owner, &request.path).await?;
        let file = self
            .store()
            .open_file(&request.path, DetailKinds::default())
            .await?;
        drop(guard);
        require_version(&request.precondition, &file.attributes)?;
        let parameters = ChunkParameters::for_size(file.attributes.size);
        let parameters = parameters.ok_or(store::Error::Limit("size of a file with chunks"))?;
        let kind = request.digest;
        let cache: &ChunkCache = &self.0.chunks;
        let known = cache.get(&file.attributes.version, kind);
        // The version of a file whose size lies says nothing of its content.
        let source = match known.filter(|_| file.content().is_none()) {
            Some(list) => ChunkSource::Known(list, 0),
            None => ChunkSource::Read {
                scan: ChunkScan::new(parameters, kind.hasher()),
                ready: VecDeque::new(),
                gathered: GatheredList::new(cache.clone()),
            },
        };
        Ok(ChunkListing {
            file,
            parameters,
            kind,
            source,
        })
    }
}

impl ChunkListing {
    /// What the list is of.
    pub fn head(&self) -> ChunkHead {
        ChunkHead {
            version: self.file.attributes.version.clone(),
            size: self.file.attributes.size,
            parameters: self.parameters,
        }
    }

    /// Returns up to `most` more chunks, as soon as there are some. After the part with the digest,
    /// parts are empty.
    ///
    /// # Errors
    /// If reading fails, or the file has changed since it was opened.
    pub async fn next(&mut self, most: usize) -> Result<ChunkListPart, Error> {
        match std::mem::replace(&mut self.source, ChunkSource::Ended) {
            ChunkSource::Ended => Ok(ChunkListPart {
                chunks: Vec::new(),
                digest: None,
            }),
            ChunkSource::Known(list, start) => {
                let end = list.chunks.len().min(start + most);
                let chunks = list.chunks.get(start..end).unwrap_or_default().to_vec();
                let is_last = end == list.chunks.len();
                let digest = is_last.then(|| list.digest.clone());
                if !is_last {
                    self.source = ChunkSource::Known(list, end);
                }
                Ok(ChunkListPart { chunks, digest })
            }
            ChunkSource::Read {
                mut scan,
                mut ready,
                mut gathered,
            } => {
                if ready.is_empty() && !scan.is_done(&self.file) {
                    let (advanced, found) = scan.next(&self.file).await?;
                    gathered.add(&found);
                    ready.extend(found);
                    scan = advanced;
                }
                let chunks = ready.drain(..ready.len().min(most)).collect();
                if !ready.is_empty() || !scan.is_done(&self.file) {
                    self.source = ChunkSource::Read {
                        scan,
                        ready,
                        gathered,
                    };
                    let digest = None;
                    return Ok(ChunkListPart { chunks, digest });
                }
                let digest = scan.hasher.finish();
                self.end(gathered, &digest).await?;
                let digest = Some(digest);
                Ok(ChunkListPart { chunks, digest })
            }
        }
    }

    /// Checks that the file is what it was, and remembers its list.
    async fn end(&self, gathered: GatheredList, digest: &Digest) -> Result<(), Error> {
        let (state, attributes) = self.file.look_again().await?;
        // Who compares two versions wants one of them whole: one that has grown is another.
        if state != Some(SinceOpened::Same) {
            return Err(store::Error::Changed.into());
        }
        if self.file.content().is_none() {
            // A rename meanwhile makes another version of the same content.
            gathered.store(&attributes.version, self.kind, digest.clone());
        }
        Ok(())
    }
}
