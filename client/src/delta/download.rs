//! Downloads that take from the local file that they replace what it has, and fetch the rest.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use quire_shared::chunks::{Chunk, ChunkId};
use quire_shared::digest::{Digest, DigestKind, Hasher};
use quire_shared::protocol::{Attributes, ChunkHead, Chunks, Get, Precondition, Stat};
use quire_transport::body::{Received, WriteBehind};
use tokio::task::JoinSet;

use super::chunk_list::RemoteChunks;
use super::local_chunks::LocalChunks;
use super::{Delta, compare, is_enough, leads_to_whole};
use crate::blocking::blocking;
use crate::download::{self, Fetched, FileFetch, PartUse, ReceivedFile};
use crate::error::ClientError;
use crate::exchange::Connection;
use crate::local_file::LocalFile;
use crate::save::{SaveStart, SaveTarget, Unfinished};
use crate::upload::Links;

/// How a file is made of an older one here and of what is fetched.
#[derive(Debug)]
pub(crate) struct DownloadPlan {
    head: ChunkHead,
    /// What the server says of the file.
    attributes: Attributes,
    digest: Digest,
    old: LocalFile,
    segments: Vec<Segment>,
}

/// A part of the file, in its order. Only the digest of the whole file proves that its chunks are
/// still those that were compared; to look at each again would take as long as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// Where it comes from.
    source: Source,
    length: u64,
}

/// Where a part comes from, and at which offset it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Here(u64),
    Server(u64),
}

/// Compares the file with `old`, which it would replace. `None` if the whole file has to be fetched.
///
/// # Errors
/// As a download of the whole file.
pub(crate) async fn plan(
    fetch: &FileFetch<'_>,
    old: Option<&Path>,
) -> Result<Option<DownloadPlan>, ClientError> {
    let Some(old) = old.filter(|_| fetch.delta != Delta::Never) else {
        return Ok(None);
    };
    // What can't be read is replaced as a whole.
    let Ok(old) = LocalFile::open(old, Links::Refuse).await else {
        return Ok(None);
    };
    if !fetch.delta.is_worth(fetch.connection, old.size()) {
        return Ok(None);
    }
    match compared(fetch, old).await {
        // What is wrong shows again.
        Err(error) if leads_to_whole(&error) || error.code().is_some() => Ok(None),
        Err(ClientError::LocalChanged(_) | ClientError::Disk { .. }) => Ok(None),
        plan => plan,
    }
}

async fn compared(
    fetch: &FileFetch<'_>,
    old: LocalFile,
) -> Result<Option<DownloadPlan>, ClientError> {
    let request = Chunks {
        path: fetch.get.path.clone(),
        digest: fetch.get.digest,
        precondition: fetch.get.precondition.clone(),
    };
    let Some(mut list) = RemoteChunks::open(fetch.connection, request).await? else {
        return Ok(None);
    };
    let head = list.head().clone();
    if !fetch.delta.is_worth(fetch.connection, head.size) {
        return Ok(None);
    }
    let unused = DigestKind::default().hasher();
    let mut local = LocalChunks::start(old.clone(), head.parameters, unused);
    let comparing = async {
        let mut wanted = Vec::new();
        while let Some(chunks) = list.next().await? {
            wanted.extend(chunks);
        }
        let ids: HashSet<_> = wanted.iter().map(|chunk| chunk.id).collect();
        let mut there = HashMap::new();
        let is_common = |chunk: Chunk, offset| {
            let is_wanted = ids.contains(&chunk.id);
            if is_wanted {
                there.entry(chunk.id).or_insert(offset);
            }
            is_wanted
        };
        let probed = compare(&mut local, is_common).await;
        Ok::<_, ClientError>(probed.map(|_| segments(&wanted, &there)))
    };
    let found = comparing.await;
    // In any case before something else reads the file.
    local.end().await?;
    let digest = list.digest();
    let (Some(segments), Some(digest)) = (found?, digest) else {
        return Ok(None);
    };
    if !is_enough(bytes_here(&segments), head.size) {
        return Ok(None);
    }
    let path = fetch.get.path.clone();
    let details = fetch.get.details;
    let attributes: Attributes = fetch.connection.ask(Stat { path, details }).await?;
    let plan = DownloadPlan {
        head,
        attributes,
        digest,
        old,
        segments,
    };
    Ok(Some(plan).filter(|plan| plan.attributes.version == plan.head.version))
}

/// Joins chunks that follow each other where they come from.
fn segments(wanted: &[Chunk], there: &HashMap<ChunkId, u64>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut offset = 0;
    for chunk in wanted {
        let length = u64::from(chunk.length);
        let source = match there.get(&chunk.id) {
            Some(here) => Source::Here(*here),
            None => Source::Server(offset),
        };
        offset += length;
        match segments.last_mut() {
            Some(last) if last.goes_on(source) && last.length + length <= SEGMENT_BYTES_MAX => {
                last.length += length;
            }
            _ => segments.push(Segment { source, length }),
        }
    }
    segments
}

impl Segment {
    /// Whether `source` is where it would go on.
    fn goes_on(&self, source: Source) -> bool {
        match (self.source, source) {
            (Source::Here(start), Source::Here(next))
            | (Source::Server(start), Source::Server(next)) => start + self.length == next,
            _ => false,
        }
    }

    /// Writes the bytes of this segment, if they are as many. Blocks.
    fn write(&self, bytes: &[u8], sink: &mut Unfinished, hasher: &mut Hasher) -> io::Result<u64> {
        if bytes.len() as u64 != self.length {
            return Err(io::ErrorKind::InvalidData.into());
        }
        hasher.update(bytes);
        sink.write_all(bytes)?;
        Ok(self.length)
    }
}

fn bytes_here(segments: &[Segment]) -> u64 {
    let here = segments.iter().filter_map(|segment| match segment.source {
        Source::Here(_) => Some(segment.length),
        Source::Server(_) => None,
    });
    here.sum()
}

impl DownloadPlan {
    /// Size of the file, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.head.size
    }

    /// Makes the file, without giving it its name. `None` if the whole file has to be fetched, because
    /// one of the two has changed, or the list is not that of the file.
    ///
    /// # Errors
    /// As a download of the whole file.
    pub(crate) async fn receive(
        self,
        fetch: &FileFetch<'_>,
        target: SaveTarget,
        moved: &AtomicU64,
    ) -> Result<Option<ReceivedFile>, ClientError> {
        let mode = self.attributes.mode;
        // It can't be continued: the next download compares again, which costs less than to fetch
        // what is here.
        let unfinished = blocking(move || target.create(mode, SaveStart::Nothing(None))).await?;
        match self.assemble(fetch, unfinished, moved).await {
            Err(error) if leads_to_whole(&error) => Ok(None),
            received => received.map(Some),
        }
    }

    async fn assemble(
        self,
        fetch: &FileFetch<'_>,
        unfinished: Unfinished,
        moved: &AtomicU64,
    ) -> Result<ReceivedFile, ClientError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => ClientError::Damaged,
            _ => ClientError::disk(fetch.target, "write", error),
        };
        let copied = bytes_here(&self.segments);
        moved.fetch_add(copied, Ordering::Relaxed);
        let mut fetches = Fetches::of(&self, fetch);
        let mut writing = WriteBehind::new(unfinished, fetch.get.digest.hasher());
        for segment in self.segments {
            fetches.start_more();
            let written = match segment.source {
                Source::Here(offset) => {
                    let old = self.old.clone();
                    let copy = move |sink: &mut Unfinished, hasher: &mut Hasher| {
                        let bytes = read_range(old, offset, segment.length);
                        segment.write(&bytes, sink, hasher)
                    };
                    writing.write_with(copy).await
                }
                Source::Server(offset) => {
                    let bytes = fetches.receive(offset).await?;
                    moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    let save = move |sink: &mut Unfinished, hasher: &mut Hasher| {
                        segment.write(&bytes, sink, hasher)
                    };
                    writing.write_with(save).await
                }
            };
            written.map_err(failed)?;
        }
        let Received {
            sink: unfinished,
            digest,
            length,
        } = writing.finish().await.map_err(failed)?;
        if digest != self.digest || length != self.head.size {
            return Err(ClientError::Damaged);
        }
        Ok(ReceivedFile {
            modified: self.attributes.modified,
            details: unfinished.keep().told(self.attributes.details)?,
            unfinished,
            fetched: Fetched {
                bytes: length,
                digest,
                digest_kind: fetch.get.digest,
                version: self.head.version,
                grew: false,
                part: PartUse::Copied(copied),
            },
        })
    }
}

/// Reads a range of the old file. What can't be read any more is left out, so that it isn't taken for
/// what was there. Blocks.
fn read_range(old: LocalFile, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let source = old.into_content_from(offset).source;
    match source.take(length).read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(_) => Vec::new(),
    }
}

/// What is fetched, some of it ahead of the place that is written.
struct Fetches {
    connection: Connection,
    /// A request for a range of the file, of the version that was compared.
    get: Get,
    /// Offsets and lengths.
    waiting: VecDeque<(u64, u64)>,
    running: JoinSet<Result<(u64, Vec<u8>), ClientError>>,
    /// What has come, by its offset.
    ready: HashMap<u64, Vec<u8>>,
    /// Bytes of what is running or ready.
    bytes: u64,
}

impl Fetches {
    fn of(plan: &DownloadPlan, fetch: &FileFetch<'_>) -> Self {
        let segments = plan.segments.iter();
        let waiting = segments.filter_map(|segment| match segment.source {
            Source::Server(offset) => Some((offset, segment.length)),
            Source::Here(_) => None,
        });
        Self {
            connection: fetch.connection.clone(),
            get: Get {
                path: fetch.get.path.clone(),
                precondition: Precondition::Match(plan.head.version.clone()),
                ..Get::default()
            },
            waiting: waiting.collect(),
            running: JoinSet::new(),
            ready: HashMap::new(),
            bytes: 0,
        }
    }

    /// Asks for as much as may be on its way.
    fn start_more(&mut self) {
        while let Some((offset, length)) = self.waiting.front().copied() {
            let count = self.running.len() + self.ready.len();
            let has_room = self.bytes + length <= AHEAD_BYTES_MAX && count < AHEAD_MAX;
            if !has_room && self.bytes > 0 {
                return;
            }
            self.waiting.pop_front();
            self.bytes += length;
            let get = Get {
                offset,
                length: Some(length),
                ..self.get.clone()
            };
            self.running
                .spawn(fetch_range(self.connection.clone(), get));
        }
    }

    /// Receives the range at `offset`, which is the first that was asked for and not received.
    async fn receive(&mut self, offset: u64) -> Result<Vec<u8>, ClientError> {
        loop {
            if let Some(bytes) = self.ready.remove(&offset) {
                self.bytes -= bytes.len() as u64;
                return Ok(bytes);
            }
            // Only a runtime that ends loses one.
            let lost = ClientError::Truncated;
            let Some(Ok(fetched)) = self.running.join_next().await else {
                return Err(lost);
            };
            let (at, bytes) = fetched?;
            self.ready.insert(at, bytes);
        }
    }
}

/// Fetches a range, and returns it with its offset.
async fn fetch_range(connection: Connection, get: Get) -> Result<(u64, Vec<u8>), ClientError> {
    let (offset, wanted) = (get.offset, get.length);
    let download = download::get(&connection, get).await?;
    let bytes = download.into_vec(&AtomicU64::new(0)).await?;
    // A file of that version has as many.
    match Some(bytes.len() as u64) == wanted {
        true => Ok((offset, bytes)),
        false => Err(ClientError::Damaged),
    }
}

/// Bytes of a segment, unless a chunk has more: one request, and one piece in memory.
const SEGMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes that are fetched ahead; enough for a round trip of 100 ms at 1 Gbit/s.
const AHEAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Ranges that are fetched at once. A short range costs a round trip, which they share.
const AHEAD_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_the_order_of_the_file() {
        let chunk = |name: &str, length| Chunk {
            length,
            id: ChunkId::of(name.as_bytes()),
        };
        let mib = 1024 * 1024;
        let (a, b, c) = (chunk("a", mib), chunk("b", 2 * mib), chunk("c", 3 * mib));
        let there = HashMap::from([(a.id, 0), (b.id, u64::from(mib))]);
        let found = segments(&[a, b, c, chunk("d", mib), chunk("e", mib), b], &there);
        let shown = found
            .iter()
            .map(|segment| (segment.source, segment.length / u64::from(mib)));
        let at = |offset: u32| u64::from(offset * mib);
        let expected = [
            (Source::Here(0), 3),
            (Source::Server(at(3)), 4),
            (Source::Server(at(7)), 1),
            (Source::Here(at(1)), 2),
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
        assert_eq!(bytes_here(&found), at(5));
    }
}
