//! The content cache: whole files in memory, the least recently used thrown out first.
//!
//! An entry is found by its file's identity, which the caller reads from the open file; so a file
//! that changed behind the server's back is simply not found. The budget counts live bytes: those
//! of entries, of files on their way in, and of forgotten ones that are still being sent. An entry
//! in use is never thrown out, and what doesn't fit beside those in use is not cached. Concurrent
//! requests for one missing file read it once, and all of them follow that one reading.

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

/// What an operator may choose.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// The most bytes that may be live at any time; 0 turns the cache off.
    pub limit: u64,
    /// The largest file that is cached, in bytes. `limit` holds besides.
    pub file_max: u64,
}

/// The cache of one server. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    store: Arc<CacheStore>,
}

impl Cache {
    /// An empty cache.
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self {
            store: Arc::new(CacheStore {
                budget: Arc::new(CacheBudget::new(config.limit)),
                file_max: config.file_max.min(config.limit),
                state: Mutex::new(CacheState {
                    entries: LruCache::unbounded(),
                    paths: BTreeMap::new(),
                    idle: 0,
                }),
            }),
        }
    }

    /// Looks for the file that was just opened as `path` and has this `version` and `size`.
    ///
    /// `admit` says whether a miss may become an entry: false for a file that changed a moment
    /// ago, or of which too little is wanted to read it whole. Empty files are never
    /// cached: there is nothing to save.
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
        // Another file had this name when it was cached, or this one before it changed.
        state.forget(path);
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

    /// Lets go of what was cached under `path` or beneath it, because it was renamed, replaced or
    /// deleted. Whoever reads it goes on undisturbed.
    pub(crate) fn forget(&self, path: &RemotePath) {
        let mut state = self.store.lock();
        while let Some(beneath) = state.first_beneath(path) {
            state.forget(&beneath);
        }
    }

    /// What the cache holds now. A file that is still being read into it is not among the entries.
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

/// Where the bytes of an open file come from.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// From memory. They may still be on their way there, read by somebody else.
    Hit(CachedReader),
    /// From memory, once the caller has read the file into the guard.
    Fill(FillGuard, CachedReader),
    /// From the file: it isn't cached and won't be.
    Bypass,
}

/// What the cache holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// The entries, most recently used first. Their readers are the requests whose bytes are not
    /// all sent yet.
    pub entries: Vec<CacheEntry>,
    /// The most bytes that may be live.
    pub limit: u64,
    /// The bytes that are live: entries, files on their way in, and what was forgotten while it
    /// was being sent.
    pub live: u64,
}

/// Follows the content of one file from some position on.
#[derive(Debug)]
pub(crate) struct CachedReader {
    lease: Arc<Lease>,
    position: u64,
}

impl CachedReader {
    /// Goes to `offset`, in bytes from the start of the file.
    pub(crate) fn seek(&mut self, offset: u64) {
        self.position = offset;
    }

    /// Where the next piece begins, in bytes from the start of the file.
    #[cfg(test)]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the content is known to be that of the file's version. Until it is, the caller
    /// must look at its own open file after the last piece, as if it had read that.
    pub(crate) fn is_complete(&self) -> bool {
        self.lease.content.ended() == Some(Ok(()))
    }

    /// The bytes at the position, as many as lie together; `None` at the end of the file. Waits
    /// if they are still to come. The bytes keep the entry in use until they are dropped.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// Why they will not come, as soon as that is known.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, FillFailed> {
        let content = &self.lease.content;
        while self.position < content.size {
            // Made before the look, so that it also hears of what comes right after the look.
            let grown = content.grown.notified();
            if let Some(bytes) = content.at(self.position)? {
                self.position += bytes.len() as u64;
                return Ok(Some(Bytes::from_owner(Lent {
                    bytes,
                    _lease: Arc::clone(&self.lease),
                })));
            }
            grown.await;
        }
        Ok(None)
    }
}

/// The duty to read a file into the cache, from any thread. Dropped before
/// [`finish`](Self::finish), it tells the readers that the rest will not come. Others follow what
/// is pushed here, so it must not wait for the caller's own reader.
#[derive(Debug)]
pub(crate) struct FillGuard {
    store: Arc<CacheStore>,
    content: Arc<CachedContent>,
}

impl FillGuard {
    /// Adds the next bytes of the file. The readers get them in the same pieces.
    ///
    /// # Errors
    /// If there are more than the file's size: the fill has then failed.
    pub(crate) fn push(&self, bytes: Vec<u8>) -> Result<(), FillFailed> {
        let pushed = self.content.push(bytes);
        if let Err(failed) = pushed {
            self.store.end_fill(&self.content, Err(failed))?;
        }
        pushed
    }

    /// Ends the fill with the file's version as it is after the last byte was read, and says
    /// whether the content is good: whole and of the version it was opened as.
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

/// One request's use of an entry, shared with the bytes it was lent.
#[derive(Debug)]
struct Lease {
    store: Arc<CacheStore>,
    content: Arc<CachedContent>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.lock().leave(&self.content);
    }
}

/// Bytes on their way to a reader.
struct Lent {
    bytes: Bytes,
    _lease: Arc<Lease>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug)]
struct CacheStore {
    budget: Arc<CacheBudget>,
    file_max: u64,
    /// Nothing that takes this mutex when dropped is dropped under it: entries hold no lease.
    state: Mutex<CacheState>,
}

impl CacheStore {
    /// A reader whose lease is counted already.
    fn reader(self: &Arc<Self>, content: Arc<CachedContent>) -> CachedReader {
        CachedReader {
            lease: Arc::new(Lease {
                store: Arc::clone(self),
                content,
            }),
            position: 0,
        }
    }

    /// Ends a fill for the table and the readers at once.
    fn end_fill(
        &self,
        content: &Arc<CachedContent>,
        end: Result<(), FillFailed>,
    ) -> Result<(), FillFailed> {
        let mut state = self.lock();
        let end = content.end(end);
        match end {
            Ok(()) => state.complete(content),
            Err(_) => state.abandon(content),
        }
        end
    }

    /// The state, also after a panic elsewhere: no critical section leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock()
    }
}

#[derive(Debug)]
struct CacheState {
    entries: LruCache<Version, CachedFile>,
    /// The entry that was last fetched under each path: as many as there are entries.
    paths: BTreeMap<Arc<RemotePath>, Version>,
    /// What throwing out all idle entries would give back to the budget, in bytes.
    idle: u64,
}

#[derive(Debug)]
struct CachedFile {
    content: Arc<CachedContent>,
    path: Arc<RemotePath>,
    hits: u64,
    /// Requests that read it or whose bytes are still being sent.
    leases: u64,
    complete: bool,
}

impl CachedFile {
    /// Whether nobody uses it, neither to send it nor to fill it.
    fn is_idle(&self) -> bool {
        self.complete && self.leases == 0
    }
}

impl CacheState {
    /// Makes the entry of this version the most recently used, and counts one more lease.
    fn hit(&mut self, version: &Version, path: &RemotePath) -> Option<Arc<CachedContent>> {
        let entry = self.entries.get_mut(version)?;
        if entry.is_idle() {
            self.idle -= entry.content.charge();
        }
        entry.hits += 1;
        entry.leases += 1;
        let content = Arc::clone(&entry.content);
        if *entry.path != *path {
            self.rename(version, path);
        }
        Some(content)
    }

    /// Notes that an entry was fetched under another path than before.
    fn rename(&mut self, version: &Version, path: &RemotePath) {
        self.forget(path);
        if let Some(entry) = self.entries.peek_mut(version) {
            let path = Arc::new(path.clone());
            let before = std::mem::replace(&mut entry.path, Arc::clone(&path));
            self.paths.remove(&before);
            self.paths.insert(path, version.clone());
        }
    }

    /// Adds a content whose fill begins, with a lease for the first reader.
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

    /// A permit for `charge` bytes, for which idle entries go, the least recently used first and
    /// as many as needed; none go if all of them would not be enough.
    fn reserve(&mut self, budget: &Arc<CacheBudget>, charge: u64) -> Option<Permit> {
        let in_use = budget.live().saturating_sub(self.idle);
        if in_use.saturating_add(charge) > budget.limit {
            return None;
        }
        for _ in 0..=self.entries.len() {
            let permit = budget.permit(charge);
            if permit.is_some() {
                return permit;
            }
            let (version, entry) = self.entries.pop_lru()?;
            // The count tells of a lease that is just about to let go of the memory.
            if entry.is_idle() && Arc::strong_count(&entry.content) == 1 {
                self.idle -= entry.content.charge();
                self.paths.remove(&entry.path);
            } else {
                // In use this very moment: nothing is more recently used.
                self.entries.put(version, entry);
            }
        }
        None
    }

    /// Counts one lease less.
    fn leave(&mut self, content: &Arc<CachedContent>) {
        if let Some(entry) = self.entry_of(content) {
            entry.leases -= 1;
            if entry.is_idle() {
                self.idle += content.charge();
            }
        }
    }

    /// Notes that a content is whole.
    fn complete(&mut self, content: &Arc<CachedContent>) {
        if let Some(entry) = self.entry_of(content) {
            entry.complete = true;
            if entry.is_idle() {
                self.idle += content.charge();
            }
        }
    }

    /// Takes out a content that will never be whole.
    fn abandon(&mut self, content: &Arc<CachedContent>) {
        if let Some(entry) = self.entry_of(content) {
            let path = Arc::clone(&entry.path);
            self.forget(&path);
        }
    }

    /// The entry of exactly this content; not of another that took its place.
    fn entry_of(&mut self, content: &Arc<CachedContent>) -> Option<&mut CachedFile> {
        let entry = self.entries.peek_mut(&content.version)?;
        Arc::ptr_eq(&entry.content, content).then_some(entry)
    }

    /// Takes out the entry last fetched under exactly this path.
    fn forget(&mut self, path: &RemotePath) {
        let version = self.paths.remove(path);
        if let Some(entry) = version.and_then(|version| self.entries.pop(&version))
            && entry.is_idle()
        {
            self.idle -= entry.content.charge();
        }
    }

    /// The first of the cached paths that are `path` or lie beneath it.
    fn first_beneath(&self, path: &RemotePath) -> Option<Arc<RemotePath>> {
        // Paths are ordered by their components, so what lies beneath one comes right after it.
        let (first, _) = self.paths.range::<RemotePath, _>(path..).next()?;
        path.contains(first).then(|| Arc::clone(first))
    }
}

/// What a file costs the budget: its bytes, or what the cache's books about it take if that is
/// more. Hence files add up exactly to the limit, and however small they are, all memory together
/// stays within twice the limit.
fn charge(size: u64, path: &RemotePath) -> u64 {
    let names = path.names().iter();
    let path_bytes: u64 = names
        .map(|name| NAME_BYTES + name.as_str().len() as u64)
        .sum();
    size.max(ENTRY_BYTES + path_bytes)
}

/// What an entry takes beside its content and the text of its path, in bytes; measured and rounded
/// up.
const ENTRY_BYTES: u64 = 1024;

/// What a component of a path takes beside its text, in bytes: a pointer with a length, and the
/// allocator's own.
const NAME_BYTES: u64 = 32;

#[cfg(test)]
mod tests;
