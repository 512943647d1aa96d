//! Chunk cache: lists of chunks, by file version.
//!
//! Cutting a large file takes as long as reading it, and its list is wanted again by the next client
//! that fetches it, or when the same client stores the version after the next. A version tells
//! whether the file is unchanged, as for [digests](super::digest_cache).

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use quire_shared::chunks::Chunk;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::Version;

use super::store;

/// Chunks of a whole file, with its digest.
#[derive(Debug)]
pub(super) struct ChunkList {
    pub(super) chunks: Vec<Chunk>,
    pub(super) digest: Digest,
}

impl ChunkList {
    fn bytes(&self) -> usize {
        self.chunks.len() * size_of::<Chunk>() + ENTRY_BYTES
    }
}

/// Least-recently-used cache of lists. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct ChunkCache(Arc<Mutex<Lists>>);

#[derive(Debug)]
struct Lists {
    lists: LruCache<(Version, DigestKind), Arc<ChunkList>>,
    bytes: usize,
    /// Bytes of lists that are being made.
    gathered: usize,
}

impl ChunkCache {
    /// Makes an empty cache.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Lists {
            lists: LruCache::unbounded(),
            bytes: 0,
            gathered: 0,
        })))
    }

    /// Looks up the chunks of `version`, with a digest of that kind.
    pub(super) fn get(&self, version: &Version, kind: DigestKind) -> Option<Arc<ChunkList>> {
        self.0.lock().lists.get(&(version.clone(), kind)).cloned()
    }

    /// Stores the chunks of `version`, unless the file changed too recently.
    fn put(&self, version: &Version, kind: DigestKind, list: ChunkList) {
        if !store::is_quiet(version) || list.bytes() > LISTS_BYTES_MAX {
            return;
        }
        let mut lists = self.0.lock();
        lists.bytes += list.bytes();
        if let Some((_, replaced)) = lists.lists.push((version.clone(), kind), Arc::new(list)) {
            lists.bytes -= replaced.bytes();
        }
        while lists.bytes > LISTS_BYTES_MAX
            && let Some((_, evicted)) = lists.lists.pop_lru()
        {
            lists.bytes -= evicted.bytes();
        }
    }
}

/// A list that is being made. What many of them hold together is bounded: one for which there is no
/// room is given up, and only not remembered.
#[derive(Debug)]
pub(super) struct GatheredList {
    cache: ChunkCache,
    chunks: Vec<Chunk>,
    is_whole: bool,
}

impl GatheredList {
    pub(super) fn new(cache: ChunkCache) -> Self {
        Self {
            cache,
            chunks: Vec::new(),
            is_whole: true,
        }
    }

    /// Adds the next chunks of the file.
    pub(super) fn add(&mut self, chunks: &[Chunk]) {
        let more = size_of_val(chunks);
        let has_room = self.is_whole && {
            let mut lists = self.cache.0.lock();
            let has_room = lists.gathered + more <= LISTS_BYTES_MAX;
            lists.gathered += if has_room { more } else { 0 };
            has_room
        };
        match has_room {
            true => self.chunks.extend_from_slice(chunks),
            false => {
                self.is_whole = false;
                self.release();
            }
        }
    }

    /// Remembers the list as that of `version`.
    pub(super) fn store(mut self, version: &Version, kind: DigestKind, digest: Digest) {
        if self.is_whole {
            let mut chunks = self.release();
            chunks.shrink_to_fit();
            self.cache.put(version, kind, ChunkList { chunks, digest });
        }
    }

    fn release(&mut self) -> Vec<Chunk> {
        let chunks = std::mem::take(&mut self.chunks);
        self.cache.0.lock().gathered -= size_of_val(&*chunks);
        chunks
    }
}

impl Drop for GatheredList {
    fn drop(&mut self) {
        self.release();
    }
}

/// Most bytes of all lists that are remembered, and as many of those that are being made: the lists of
/// some hundred GiB of usual files.
const LISTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of an entry beside its chunks: version, digest, and what the maps need.
const ENTRY_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use quire_shared::chunks::ChunkId;

    use super::super::fixture::version;
    use super::*;

    const KIND: DigestKind = DigestKind::Xxh3;

    fn chunk() -> Chunk {
        Chunk {
            length: 1,
            id: ChunkId::of(b"x"),
        }
    }

    fn store(cache: &ChunkCache, version: &Version, chunks: usize) {
        let mut list = GatheredList::new(cache.clone());
        list.add(&vec![chunk(); chunks]);
        list.store(version, KIND, KIND.of(b""));
    }

    #[test]
    fn a_list_belongs_to_one_quiet_version_and_one_kind() {
        let cache = ChunkCache::new();
        store(&cache, &version(1, 10), 3);
        let found = cache.get(&version(1, 10), KIND).unwrap();
        assert_eq!(found.chunks, [chunk(); 3]);
        assert!(cache.get(&version(1, 10), DigestKind::Blake3).is_none());
        assert!(cache.get(&version(1, 11), KIND).is_none());
        store(&cache, &version(2, i64::MAX), 3);
        assert!(cache.get(&version(2, i64::MAX), KIND).is_none());
    }

    #[test]
    fn the_bytes_of_all_lists_are_bounded() {
        let cache = ChunkCache::new();
        let third = LISTS_BYTES_MAX / 3 / size_of::<Chunk>();
        for inode in 0..4 {
            store(&cache, &version(inode, 10), third);
        }
        let is_there = |inode| cache.get(&version(inode, 10), KIND).is_some();
        assert_eq!([0, 1, 2, 3].map(is_there), [false, false, true, true]);
        assert!(cache.0.lock().bytes <= LISTS_BYTES_MAX);
        // The same again replaces what is there.
        store(&cache, &version(3, 10), third);
        assert!(is_there(2));
        store(&cache, &version(9, 10), 4 * third);
        assert!(!is_there(9), "larger than all together may be");
    }

    #[test]
    fn lists_that_are_being_made_are_bounded_together() {
        let cache = ChunkCache::new();
        let half = vec![chunk(); LISTS_BYTES_MAX / 2 / size_of::<Chunk>()];
        let mut one = GatheredList::new(cache.clone());
        let mut other = GatheredList::new(cache.clone());
        one.add(&half);
        other.add(&half);
        assert!(other.is_whole);
        other.add(&half);
        assert!(!other.is_whole);
        one.add(&half[1..]);
        assert!(one.is_whole, "the other has given up its room");
        drop((one, other));
        assert_eq!(cache.0.lock().gathered, 0);
    }
}
