//! The lock table: which request may touch which path right now.
//!
//! There is one lock for every path in use. A request takes the locks of all ancestors shared, so
//! that a directory can't be renamed or deleted while something beneath it is at work, and its own
//! paths shared or exclusive. It takes all of them in one call, in the order of the paths and each
//! of them once; therefore no two requests can wait for each other in a circle, as long as none
//! asks again while it holds a [`LockGuard`]. Entries are counted and vanish with their last user.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quire_shared::RemotePath;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::timeout;

use crate::store::faults::{Fault, Faults};

/// All paths in use on one server. Clones share the table.
#[derive(Debug, Clone)]
pub struct LockTable {
    entries: Arc<Mutex<Entries>>,
    hash_seed: RandomState,
    wait_max: Duration,
    faults: Faults,
}

impl LockTable {
    /// An empty table whose requests wait no longer than `wait_max` for all of their locks.
    pub fn new(wait_max: Duration) -> Self {
        Self {
            entries: Arc::default(),
            hash_seed: RandomState::new(),
            wait_max,
            faults: Faults::default(),
        }
    }

    /// With the faults that a test wants.
    pub(crate) fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Locks `path` for reading: others may read it too, nobody may change what it names.
    ///
    /// # Errors
    /// [`Busy`] if the lock was not free in time.
    pub async fn shared(&self, path: &RemotePath) -> Result<LockGuard, Busy> {
        self.acquire(&[path], &[]).await
    }

    /// [`shared`](Self::shared), from any thread, if it can be had without waiting.
    pub fn try_shared(&self, path: &RemotePath) -> Option<LockGuard> {
        let (mut guard, locks) = self.enter(&[path], &[]);
        (guard.take_free(&locks) == locks.len()).then_some(guard)
    }

    /// Locks each of `paths` and all that lies beneath it for a change.
    ///
    /// # Errors
    /// [`Busy`] if the locks were not all free in time.
    pub async fn exclusive(&self, paths: &[&RemotePath]) -> Result<LockGuard, Busy> {
        self.acquire(&[], paths).await
    }

    /// [`exclusive`](Self::exclusive), from any thread, if all can be had without waiting.
    pub fn try_exclusive(&self, paths: &[&RemotePath]) -> Option<LockGuard> {
        let (mut guard, locks) = self.enter(&[], paths);
        (guard.take_free(&locks) == locks.len()).then_some(guard)
    }

    /// Locks some paths for reading and others for a change, in one go. A path in both is locked
    /// for a change. Dropping the future gives back whatever it had got.
    ///
    /// # Errors
    /// [`Busy`] if the locks were not all free in time; none of them is held then.
    pub async fn acquire(
        &self,
        shared: &[&RemotePath],
        exclusive: &[&RemotePath],
    ) -> Result<LockGuard, Busy> {
        let (mut guard, locks) = self.enter(shared, exclusive);
        let taken = guard.take_free(&locks);
        if taken < locks.len() {
            timeout(self.wait_max, guard.take_waiting(&locks, taken))
                .await
                .map_err(|_| Busy)?;
        }
        Ok(guard)
    }

    /// Counts a user of each lock and gives the locks, in order. The guard, which holds none of
    /// them yet, owns the entries from here on.
    fn enter(
        &self,
        shared: &[&RemotePath],
        exclusive: &[&RemotePath],
    ) -> (LockGuard, Vec<Arc<RwLock<()>>>) {
        let wants = self.wants(shared, exclusive);
        let locks = {
            let mut entries = lock(&self.entries);
            wants.iter().map(|want| entries.enter(&want.key)).collect()
        };
        let guard = LockGuard {
            shared: Vec::with_capacity(wants.len()),
            exclusive: Vec::with_capacity(exclusive.len()),
            wants,
            entries: Arc::clone(&self.entries),
        };
        (guard, locks)
    }

    /// How many paths are in use, ancestors included.
    pub fn len(&self) -> usize {
        lock(&self.entries).0.len()
    }

    /// Whether no path is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to lock, in the order in which to lock it, each path once.
    fn wants(&self, shared: &[&RemotePath], exclusive: &[&RemotePath]) -> Vec<Want> {
        let mut wants = Vec::new();
        if self.faults.has(Fault::Locks) {
            return wants;
        }
        let shared = shared.iter().map(|path| (path, Mode::Shared));
        let exclusive = exclusive.iter().map(|path| (path, Mode::Exclusive));
        for (path, mode) in shared.chain(exclusive) {
            let chain = Key::chain(path, &self.hash_seed);
            wants.extend(chain.into_iter().map(|key| Want {
                key,
                mode: Mode::Shared,
            }));
            // The last key of the chain is the path itself.
            if let Some(want) = wants.last_mut() {
                want.mode = mode;
            }
        }
        wants.sort_unstable_by(|a, b| {
            let keys = a.key.as_bytes().cmp(b.key.as_bytes());
            keys.then_with(|| b.mode.cmp(&a.mode))
        });
        // The exclusive one of two equal keys stands first, and the first one stays.
        wants.dedup_by(|later, earlier| later.key == earlier.key);
        wants
    }
}

/// The locks of one request; dropping it frees them. It may move into a blocking thread, so that
/// work which outlives its request stays locked.
#[derive(Debug)]
#[must_use = "the locks are free again as soon as this is dropped"]
pub struct LockGuard {
    shared: Vec<OwnedRwLockReadGuard<()>>,
    exclusive: Vec<OwnedRwLockWriteGuard<()>>,
    wants: Vec<Want>,
    entries: Arc<Mutex<Entries>>,
}

impl LockGuard {
    /// Takes locks in order up to the first that isn't free, and says how many it took.
    fn take_free(&mut self, locks: &[Arc<RwLock<()>>]) -> usize {
        let mut taken = 0;
        for (want, lock) in self.wants.iter().zip(locks) {
            let lock = Arc::clone(lock);
            let free = match want.mode {
                Mode::Shared => lock.try_read_owned().map(|held| self.shared.push(held)),
                Mode::Exclusive => lock.try_write_owned().map(|held| self.exclusive.push(held)),
            };
            if free.is_err() {
                break;
            }
            taken += 1;
        }
        taken
    }

    /// Takes all locks but the first `taken` in order, waiting for each.
    async fn take_waiting(&mut self, locks: &[Arc<RwLock<()>>], taken: usize) {
        for (want, lock) in self.wants.iter().zip(locks).skip(taken) {
            let lock = Arc::clone(lock);
            match want.mode {
                Mode::Shared => self.shared.push(lock.read_owned().await),
                Mode::Exclusive => self.exclusive.push(lock.write_owned().await),
            }
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // Locks first, entries after: an entry that vanished while its lock was held would give
        // the next request a second lock for the same path.
        self.shared.clear();
        self.exclusive.clear();
        let mut entries = lock(&self.entries);
        for want in &self.wants {
            entries.leave(&want.key);
        }
    }
}

/// The locks were not free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path stayed in use by other requests")]
pub struct Busy;

/// The table's own state: who is counted, not who holds what. Synchronous on purpose.
#[derive(Debug, Default)]
struct Entries(HashMap<Key, Entry, BuildHasherDefault<Precomputed>>);

impl Entries {
    /// Counts one more user of `key` and gives its lock.
    fn enter(&mut self, key: &Key) -> Arc<RwLock<()>> {
        let entry = self.0.entry(key.clone()).or_default();
        entry.users += 1;
        Arc::clone(&entry.lock)
    }

    /// Counts one user of `key` less and forgets a path that nobody uses.
    fn leave(&mut self, key: &Key) {
        if let Some(entry) = self.0.get_mut(key) {
            entry.users -= 1;
            if entry.users == 0 {
                self.0.remove(key);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    lock: Arc<RwLock<()>>,
    /// Requests that hold the lock or wait for it.
    users: usize,
}

#[derive(Debug)]
struct Want {
    key: Key,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Shared,
    Exclusive,
}

/// A path or an ancestor of one: the first bytes of the path's text, which they share, and their
/// hash. So a path of many components costs one text, hashed once and outside the table's mutex.
#[derive(Debug, Clone)]
struct Key {
    text: Arc<str>,
    len: usize,
    hash: u64,
}

impl Key {
    /// The root, then each ancestor of `path`, then `path` itself.
    fn chain(path: &RemotePath, hash_seed: &RandomState) -> Vec<Self> {
        // No name contains a slash, so one text stands for one path.
        let text: Arc<str> = path.to_relative().into();
        let mut hasher = hash_seed.build_hasher();
        let mut chain = vec![Self {
            text: Arc::clone(&text),
            len: 0,
            hash: hasher.finish(),
        }];
        let mut len: usize = 0;
        for name in path.names() {
            hasher.write(name.as_str().as_bytes());
            hasher.write_u8(b'/');
            len += usize::from(len > 0) + name.as_str().len();
            chain.push(Self {
                text: Arc::clone(&text),
                len,
                hash: hasher.finish(),
            });
        }
        chain
    }

    fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes().get(..self.len).unwrap_or_default()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Hands on the hash a [`Key`] carries.
#[derive(Debug, Default)]
struct Precomputed(u64);

impl Hasher for Precomputed {
    fn write(&mut self, bytes: &[u8]) {
        // Only `write_u64` is called; this keeps the contract for anything else.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The entries, also after a panic elsewhere: no critical section leaves them half changed.
fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
