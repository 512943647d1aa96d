//! Content cache: whole files in memory, with least-recently-used eviction.
//!
//! The key of an entry is the file's version, which the caller reads from the open file. So a file
//! that another program changed is a miss. The budget counts live bytes: those of entries, of fills
//! in progress, and of invalidated content that is still being sent. An entry in use is never
//! evicted, and a file that doesn't fit beside the entries in use isn't cached. Concurrent requests
//! for one missing file share one fill: the file is read once, and all of them follow that.

mod content;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use quire_shared::RemotePath;
use quire_shared::protocol::{CacheEntry, Version};

pub(crate) use content::FillFailed;
use content::{CacheBudget, CachedContent, Permit};

/// Settings of the cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// Maximum number of live bytes at any time; 0 disables the cache.
    pub limit: u64,
    /// Size of the largest file that is cached, in bytes; `limit` applies as well.
    pub file_max: u64,
}

/// Content cache of one server. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    store: Arc<CacheStore>,
}

impl Cache {
    /// Makes an empty cache.
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self {
            store: Arc::new(CacheStore {
                budget: Arc::new(CacheBudget::new(config.limit)),
                file_max: config.file_max.min(config.limit),
                state: Mutex::new(CacheState {
                    entries: LruCache::unbounded(),
                    paths: BTreeMap::new(),
                    evictable: 0,
                }),
            }),
        }
    }

    /// Looks up the file that was just opened as `path` and has this `version` and `size`.
    ///
    /// `admit` tells whether a miss may become an entry. It is false for a file that changed a
    /// moment ago, or if the request wants too little of the file. Empty files are never cached:
    /// there is nothing to save.
    pub(crate) fn open(
        &self,
        version: &Version,
        size: u64,
        path: &RemotePath,
        admit: bool,
    ) -> Lookup {
        if self.store.budget.limit == 0 {
            return Lookup::Bypass;
        }
        let mut state = self.store.lock();
        if let Some(content) = state.hit(version, path) {
            return Lookup::Hit(self.store.reader(content));
        }
        // An entry of this path has another version: of another file, or of this one before a
        // change.
        state.invalidate(path);
        if !admit || size == 0 || size > self.store.file_max {
            return Lookup::Bypass;
        }
        let charge = charge(size, path).min(self.store.budget.limit);
        let Some(permit) = state.reserve(&self.store.budget, charge) else {
            return Lookup::Bypass;
        };
        let content = Arc::new(CachedContent::new(version.clone(), size, permit));
        state.insert(Arc::clone(&content), path);
        drop(state);
        let fill = FillGuard {
            store: Arc::clone(&self.store),
            content: Arc::clone(&content),
        };
        Lookup::Fill(fill, self.store.reader(content))
    }

    /// Invalidates the entries of `path` and below it, because the path was renamed, replaced or
    /// deleted. Requests that read them continue.
    pub(crate) fn invalidate(&self, path: &RemotePath) {
        let mut state = self.store.lock();
        while let Some(below) = state.first_below(path) {
            state.invalidate(&below);
        }
    }

    /// Snapshot of the cache. A fill in progress is not among the entries.
    pub(crate) fn list(&self) -> CacheSnapshot {
        let state = self.store.lock();
        let entries = state.entries.iter().map(|(_, entry)| entry);
        let listed: Vec<_> = entries
            .filter(|entry| entry.complete)
            .map(|entry| {
                let path = Arc::clone(&entry.path);
                (path, entry.content.size, entry.hits, entry.leases)
            })
            .collect();
        drop(state);
        let listed = listed.into_iter();
        CacheSnapshot {
            entries: listed
                .map(|(path, bytes, hits, readers)| CacheEntry {
                    path: RemotePath::clone(&path),
                    bytes,
                    hits,
                    readers,
                })
                .collect(),
            limit: self.store.budget.limit,
            live: self.store.budget.live(),
        }
    }
}

/// Result of a lookup: where the bytes of an open file come from.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// From memory. Another request may still be filling the entry.
    Hit(CachedReader),
    /// From memory, after a miss: the caller has to read the file into the guard.
    Fill(FillGuard, CachedReader),
    /// From the file: it isn't cached, and this request doesn't fill an entry.
    Bypass,
}

/// Contents of the cache at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// Entries, most recently used first. Their readers are the requests whose bytes are not all
    /// sent yet.
    pub entries: Vec<CacheEntry>,
    /// Maximum number of live bytes.
    pub limit: u64,
    /// Live bytes: entries, fills in progress, and invalidated content that is still being sent.
    pub live: u64,
}

/// Reader of one cached file, from a position on. It follows a fill in progress.
#[derive(Debug)]
pub(crate) struct CachedReader {
    lease: Arc<Lease>,
    position: u64,
}

impl CachedReader {
    /// Sets the position to `offset`, in bytes from the start of the file.
    pub(crate) fn seek(&mut self, offset: u64) {
        self.position = offset;
    }

    /// Position of the next piece, in bytes from the start of the file.
    #[cfg(test)]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the content is known to be that of the file's version. Until then, the caller has to
    /// check its own open file after the last piece, as if it had read that.
    pub(crate) fn is_complete(&self) -> bool {
        self.lease.content.ended() == Some(Ok(()))
    }

    /// Returns the contiguous bytes at the position, `None` at the end of the file. Waits for a
    /// fill in progress. The bytes keep the entry in use until they are dropped. Cancel-safe:
    /// dropping the future loses nothing.
    ///
    /// # Errors
    /// If the fill has failed.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, FillFailed> {
        let content = &self.lease.content;
        while self.position < content.size {
            // Registered before the check, so that bytes pushed right after the check wake it, too.
            let grown = content.grown.notified();
            if let Some(bytes) = content.at(self.position)? {
                self.position += bytes.len() as u64;
                return Ok(Some(Bytes::from_owner(LeasedBytes {
                    bytes,
                    _lease: Arc::clone(&self.lease),
                })));
            }
            grown.await;
        }
        Ok(None)
    }
}

/// Fill of an entry, to be done on any thread. Dropping it before [`finish`](Self::finish) makes
/// the fill fail for all readers. Other requests wait for what is pushed here, so pushing must not
/// wait for the caller's own reader.
#[derive(Debug)]
pub(crate) struct FillGuard {
    store: Arc<CacheStore>,
    content: Arc<CachedContent>,
}

impl FillGuard {
    /// Whether a request still follows the fill. If all have gone, the rest needn't be read.
    pub(crate) fn has_readers(&self) -> bool {
        let mut state = self.store.lock();
        let in_table = usize::from(state.entry_of(&self.content).is_some());
        // Besides the guard and the table, only leases refer to the content.
        Arc::strong_count(&self.content) > 1 + in_table
    }

    /// Appends the next bytes of the file. Readers get them in the same pieces.
    ///
    /// # Errors
    /// If they exceed the file's size: the fill has then failed.
    pub(crate) fn push(&self, bytes: Vec<u8>) -> Result<(), FillFailed> {
        let pushed = self.content.push(bytes);
        if let Err(failed) = pushed {
            self.store.end_fill(&self.content, Err(failed))?;
        }
        pushed
    }

    /// Ends the fill with the file's version after the last byte was read. Returns whether the
    /// content is complete and of the version that was opened.
    pub(crate) fn finish(self, after: &Version) -> bool {
        let same = *after == self.content.version;
        let end = if same {
            Ok(())
        } else {
            Err(FillFailed::Changed)
        };
        self.store.end_fill(&self.content, end).is_ok()
    }
}

impl Drop for FillGuard {
    fn drop(&mut self) {
        if self.content.ended().is_none() {
            let _ = self
                .store
                .end_fill(&self.content, Err(FillFailed::Abandoned));
        }
    }
}

/// Use of an entry by one request, shared with the bytes that the request is sending. An entry with
/// leases is never evicted.
#[derive(Debug)]
struct Lease {
    store: Arc<CacheStore>,
    content: Arc<CachedContent>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.lock().release(&self.content);
    }
}

/// Bytes of an entry that keep their lease until they are dropped, which is after the transport has
/// sent them.
struct LeasedBytes {
    bytes: Bytes,
    _lease: Arc<Lease>,
}

impl AsRef<[u8]> for LeasedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug)]
struct CacheStore {
    budget: Arc<CacheBudget>,
    file_max: u64,
    /// Nothing that locks this mutex in its `drop` may be dropped while it is locked. So entries
    /// hold no [`Lease`], only a count of them.
    state: Mutex<CacheState>,
}

impl CacheStore {
    /// Makes a reader whose lease is counted already.
    fn reader(self: &Arc<Self>, content: Arc<CachedContent>) -> CachedReader {
        CachedReader {
            lease: Arc::new(Lease {
                store: Arc::clone(self),
                content,
            }),
            position: 0,
        }
    }

    /// Ends a fill, for the table and the readers atomically.
    fn end_fill(
        &self,
        content: &Arc<CachedContent>,
        end: Result<(), FillFailed>,
    ) -> Result<(), FillFailed> {
        let mut state = self.lock();
        let end = content.end(end);
        match end {
            Ok(()) => state.complete(content),
            Err(_) => state.discard(content),
        }
        end
    }

    /// Locks the state. A panic elsewhere doesn't poison it: no critical section leaves it
    /// inconsistent.
    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock()
    }
}

#[derive(Debug)]
struct CacheState {
    entries: LruCache<Version, CachedFile>,
    /// Version of the entry that was last read under each path. There is one path per entry.
    paths: BTreeMap<Arc<RemotePath>, Version>,
    /// Bytes that evicting all evictable entries would return to the budget.
    evictable: u64,
}

#[derive(Debug)]
struct CachedFile {
    content: Arc<CachedContent>,
    path: Arc<RemotePath>,
    hits: u64,
    /// Requests that read the entry, or whose bytes are still being sent.
    leases: u64,
    complete: bool,
}

impl CachedFile {
    /// Whether the entry is unused: no request reads, sends or fills it.
    fn is_evictable(&self) -> bool {
        self.complete && self.leases == 0
    }
}

impl CacheState {
    /// Makes the entry of this version the most recently used, and counts a lease.
    fn hit(&mut self, version: &Version, path: &RemotePath) -> Option<Arc<CachedContent>> {
        let entry = self.entries.get_mut(version)?;
        if entry.is_evictable() {
            self.evictable -= entry.content.charge();
        }
        entry.hits += 1;
        entry.leases += 1;
        let content = Arc::clone(&entry.content);
        if *entry.path != *path {
            self.set_path(version, path);
        }
        Some(content)
    }

    /// Sets the path of an entry that was read under another path than before.
    fn set_path(&mut self, version: &Version, path: &RemotePath) {
        self.invalidate(path);
        if let Some(entry) = self.entries.peek_mut(version) {
            let path = Arc::new(path.clone());
            let before = std::mem::replace(&mut entry.path, Arc::clone(&path));
            self.paths.remove(&before);
            self.paths.insert(path, version.clone());
        }
    }

    /// Adds an entry whose fill starts, with a lease for its first reader.
    fn insert(&mut self, content: Arc<CachedContent>, path: &RemotePath) {
        let path = Arc::new(path.clone());
        let version = content.version.clone();
        self.paths.insert(Arc::clone(&path), version.clone());
        let entry = CachedFile {
            content,
            path,
            hits: 0,
            leases: 1,
            complete: false,
        };
        self.entries.put(version, entry);
    }

    /// Reserves `charge` bytes of the budget. Evicts as many entries as needed, the least recently
    /// used first, but none if all evictable ones would not be enough.
    fn reserve(&mut self, budget: &Arc<CacheBudget>, charge: u64) -> Option<Permit> {
        let in_use = budget.live().saturating_sub(self.evictable);
        if in_use.saturating_add(charge) > budget.limit {
            return None;
        }
        for _ in 0..=self.entries.len() {
            let permit = budget.permit(charge);
            if permit.is_some() {
                return permit;
            }
            let (version, entry) = self.entries.pop_lru()?;
            // A second reference is that of a lease which is being dropped: it has been counted
            // off, but its memory isn't free yet.
            if entry.is_evictable() && Arc::strong_count(&entry.content) == 1 {
                self.evictable -= entry.content.charge();
                self.paths.remove(&entry.path);
            } else {
                // In use now, so it goes back as the most recently used.
                self.entries.put(version, entry);
            }
        }
        None
    }

    /// Counts off a lease.
    fn release(&mut self, content: &Arc<CachedContent>) {
        if let Some(entry) = self.entry_of(content) {
            entry.leases -= 1;
            if entry.is_evictable() {
                self.evictable += content.charge();
            }
        }
    }

    /// Marks the entry of a content as complete.
    fn complete(&mut self, content: &Arc<CachedContent>) {
        if let Some(entry) = self.entry_of(content) {
            entry.complete = true;
            if entry.is_evictable() {
                self.evictable += content.charge();
            }
        }
    }

    /// Removes the entry of a content whose fill has failed.
    fn discard(&mut self, content: &Arc<CachedContent>) {
        if let Some(entry) = self.entry_of(content) {
            let path = Arc::clone(&entry.path);
            self.invalidate(&path);
        }
    }

    /// Finds the entry of exactly this content, not of one that replaced it.
    fn entry_of(&mut self, content: &Arc<CachedContent>) -> Option<&mut CachedFile> {
        let entry = self.entries.peek_mut(&content.version)?;
        Arc::ptr_eq(&entry.content, content).then_some(entry)
    }

    /// Removes the entry last read under exactly this path. Its bytes stay live until its last
    /// lease is dropped.
    fn invalidate(&mut self, path: &RemotePath) {
        let version = self.paths.remove(path);
        if let Some(entry) = version.and_then(|version| self.entries.pop(&version))
            && entry.is_evictable()
        {
            self.evictable -= entry.content.charge();
        }
    }

    /// Finds the first cached path that is `path` or lies below it.
    fn first_below(&self, path: &RemotePath) -> Option<Arc<RemotePath>> {
        // Paths are ordered by their components, so those below a path come right after it.
        let (first, _) = self.paths.range::<RemotePath, _>(path..).next()?;
        path.contains(first).then(|| Arc::clone(first))
    }
}

/// Charge of a file to the budget, in bytes: its size, or the overhead of its entry if that is
/// more. Hence the sizes of larger files add up exactly to the limit. And with files of any size,
/// content and overhead together stay within twice the limit.
fn charge(size: u64, path: &RemotePath) -> u64 {
    let names = path.names().iter();
    let path_bytes: u64 = names
        .map(|name| NAME_BYTES + name.as_str().len() as u64)
        .sum();
    size.max(ENTRY_BYTES + path_bytes)
}

/// Overhead of an entry without its content and the text of its path, in bytes; measured and
/// rounded up.
const ENTRY_BYTES: u64 = 1024;

/// Overhead of a path component without its text, in bytes: a pointer with a length, and that of
/// the allocator.
const NAME_BYTES: u64 = 32;

#[cfg(test)]
mod tests;
