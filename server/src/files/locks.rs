//! The lock table: which request may touch which path right now.
//!
//! There is one lock for every path in use. A request takes the locks of all ancestors shared, so
//! that a directory can't be renamed or deleted while something beneath it is at work, and its own
//! paths shared or exclusive. It takes all of them in one call, in the order of the paths and each
//! of them once; therefore no two requests can wait for each other in a circle, as long as none
//! asks again while it holds a [`LockGuard`]. Entries are counted and vanish with their last user.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use quire_shared::RemotePath;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::timeout;

use super::store::{Fault, Faults};

/// All paths in use on one server. Clones share the table.
#[derive(Debug, Clone)]
pub(crate) struct LockTable {
    entries: Arc<Mutex<Entries>>,
    holds: Arc<Mutex<Vec<Weak<HeldPath>>>>,
    owners: Arc<AtomicU64>,
    wait_max: Duration,
    faults: Faults,
}

/// Who locks: operations of one owner pass the paths that it [holds](LockTable::hold).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl LockTable {
    /// An empty table whose requests wait no longer than `wait_max` for all of their locks.
    pub(crate) fn new(wait_max: Duration) -> Self {
        Self {
            entries: Arc::default(),
            holds: Arc::default(),
            owners: Arc::default(),
            wait_max,
            faults: Faults::default(),
        }
    }

    /// With the faults that a test wants.
    pub(crate) fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// An owner that holds nothing yet.
    pub(crate) fn new_owner(&self) -> Owner {
        Owner(self.owners.fetch_add(1, Ordering::Relaxed))
    }

    /// Locks `path` for reading: others may read it too, but not change what it names.
    ///
    /// # Errors
    /// [`Busy`] if the lock was not free in time.
    pub(crate) async fn shared(&self, owner: Owner, path: &RemotePath) -> Result<LockGuard, Busy> {
        self.acquire(owner, &[path], &[]).await
    }

    /// [`shared`](Self::shared), from any thread, if it can be had without waiting.
    pub(crate) fn try_shared(&self, owner: Owner, path: &RemotePath) -> Option<LockGuard> {
        self.try_acquire(owner, &[path], &[])
    }

    /// Locks each of `paths` and all that lies beneath it for a change.
    ///
    /// # Errors
    /// [`Busy`] if the locks were not all free in time.
    pub(crate) async fn exclusive(
        &self,
        owner: Owner,
        paths: &[&RemotePath],
    ) -> Result<LockGuard, Busy> {
        self.acquire(owner, &[], paths).await
    }

    /// [`exclusive`](Self::exclusive), from any thread, if all can be had without waiting.
    pub(crate) fn try_exclusive(&self, owner: Owner, paths: &[&RemotePath]) -> Option<LockGuard> {
        self.try_acquire(owner, &[], paths)
    }

    /// Locks some paths for reading and others for a change, in one go. A path in both is locked
    /// for a change. Dropping the future gives back whatever it had got.
    ///
    /// # Errors
    /// [`Busy`] if the locks were not all free in time; none of them is held then.
    pub(crate) async fn acquire(
        &self,
        owner: Owner,
        shared: &[&RemotePath],
        exclusive: &[&RemotePath],
    ) -> Result<LockGuard, Busy> {
        let Split { outside, held } = self.split(owner, shared, exclusive);
        let taking = async {
            let mut guard = self.take(&outside.shared, &outside.exclusive).await;
            for (hold, paths) in held {
                let within = hold.within.take(&paths.shared, &paths.exclusive).await;
                guard.within.push((Arc::clone(&hold), within));
            }
            guard
        };
        timeout(self.wait_max, taking).await.map_err(|_| Busy)
    }

    fn try_acquire(
        &self,
        owner: Owner,
        shared: &[&RemotePath],
        exclusive: &[&RemotePath],
    ) -> Option<LockGuard> {
        let Split { outside, held } = self.split(owner, shared, exclusive);
        let mut guard = self.try_take(&outside.shared, &outside.exclusive)?;
        for (hold, paths) in held {
            let within = hold.within.try_take(&paths.shared, &paths.exclusive)?;
            guard.within.push((Arc::clone(&hold), within));
        }
        Some(guard)
    }

    /// Locks `path` and all that lies beneath it for `owner`, whose own operations there go on: they
    /// lock each other out as always, in a table of the hold.
    ///
    /// # Errors
    /// [`Busy`] if the lock was not free in time.
    pub(crate) async fn hold(&self, owner: Owner, path: &RemotePath) -> Result<Hold, Busy> {
        let outer = self.exclusive(owner, &[path]).await?;
        let held = Arc::new(HeldPath {
            owner,
            path: path.clone(),
            within: Self::new(self.wait_max),
            _outer: outer,
        });
        let mut holds = self.holds.lock();
        holds.retain(|hold| hold.strong_count() > 0);
        holds.push(Arc::downgrade(&held));
        Ok(Hold(held))
    }

    /// Sorts paths by the hold of `owner` in which they lie, if they lie in one.
    fn split<'path>(
        &self,
        owner: Owner,
        shared: &[&'path RemotePath],
        exclusive: &[&'path RemotePath],
    ) -> Split<'path> {
        let mut split = Split::default();
        let mut holds: Vec<Arc<HeldPath>> = Vec::new();
        {
            let all = self.holds.lock();
            if !all.is_empty() {
                let live = all.iter().filter_map(Weak::upgrade);
                holds.extend(live.filter(|hold| hold.owner == owner));
            }
        }
        for (paths, is_shared) in [(shared, true), (exclusive, false)] {
            for path in paths {
                let hold = holds.iter().find(|hold| hold.path.contains(path));
                match hold {
                    Some(hold) => split.add(hold, path, is_shared),
                    None => split.outside.add(path, is_shared),
                }
            }
        }
        split
    }

    async fn take(&self, shared: &[&RemotePath], exclusive: &[&RemotePath]) -> LockGuard {
        let (mut guard, locks) = self.enter(shared, exclusive);
        let taken = guard.take_free(&locks);
        guard.take_waiting(&locks, taken).await;
        guard
    }

    fn try_take(&self, shared: &[&RemotePath], exclusive: &[&RemotePath]) -> Option<LockGuard> {
        let (mut guard, locks) = self.enter(shared, exclusive);
        (guard.take_free(&locks) == locks.len()).then_some(guard)
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
            let mut entries = self.entries.lock();
            wants.iter().map(|want| entries.enter(&want.key)).collect()
        };
        let guard = LockGuard {
            shared: Vec::with_capacity(wants.len()),
            exclusive: Vec::with_capacity(exclusive.len()),
            wants,
            entries: Arc::clone(&self.entries),
            within: Vec::new(),
        };
        (guard, locks)
    }

    /// How many paths are in use, ancestors included.
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().0.len()
    }

    /// Whether no path is in use.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
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
            let chain = Key::chain(path);
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
pub(crate) struct LockGuard {
    shared: Vec<OwnedRwLockReadGuard<()>>,
    exclusive: Vec<OwnedRwLockWriteGuard<()>>,
    wants: Vec<Want>,
    entries: Arc<Mutex<Entries>>,
    /// Locks within holds of the same owner, which last as long as these.
    within: Vec<(Arc<HeldPath>, Self)>,
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
        // Inside out: a hold must not end before what runs within it.
        for (hold, within) in self.within.drain(..) {
            drop(within);
            drop(hold);
        }
        // Locks first, entries after: an entry that vanished while its lock was held would give
        // the next request a second lock for the same path.
        self.shared.clear();
        self.exclusive.clear();
        let mut entries = self.entries.lock();
        for want in &self.wants {
            entries.leave(&want.key);
        }
    }
}

/// A path that its owner keeps others from changing, until this is dropped and no operation of the
/// owner runs there any more.
#[derive(Debug)]
#[must_use = "the path is free again as soon as this is dropped"]
pub struct Hold(#[expect(dead_code, reason = "what it owns ends with it")] Arc<HeldPath>);

#[derive(Debug)]
struct HeldPath {
    owner: Owner,
    path: RemotePath,
    /// Locks of the owner's operations on the path and beneath it.
    within: LockTable,
    _outer: LockGuard,
}

/// Paths to lock, by where their locks are.
#[derive(Debug, Default)]
struct Split<'path> {
    outside: PathsToLock<'path>,
    held: Vec<(Arc<HeldPath>, PathsToLock<'path>)>,
}

#[derive(Debug, Default)]
struct PathsToLock<'path> {
    shared: Vec<&'path RemotePath>,
    exclusive: Vec<&'path RemotePath>,
}

impl<'path> PathsToLock<'path> {
    fn add(&mut self, path: &'path RemotePath, is_shared: bool) {
        match is_shared {
            true => self.shared.push(path),
            false => self.exclusive.push(path),
        }
    }
}

impl<'path> Split<'path> {
    fn add(&mut self, hold: &Arc<HeldPath>, path: &'path RemotePath, is_shared: bool) {
        let mut held = self.held.iter_mut();
        match held.find(|(held, _)| Arc::ptr_eq(held, hold)) {
            Some((_, paths)) => paths.add(path, is_shared),
            None => {
                let mut paths = PathsToLock::default();
                paths.add(path, is_shared);
                self.held.push((Arc::clone(hold), paths));
            }
        }
    }
}

/// The locks were not free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path stayed in use by other requests")]
pub(crate) struct Busy;

/// The table's own state: who is counted, not who holds what. Synchronous on purpose.
#[derive(Debug, Default)]
struct Entries(HashMap<Key, LockEntry>);

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
struct LockEntry {
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

/// A path or an ancestor of one: the first bytes of the path's text, which they share.
#[derive(Debug, Clone)]
struct Key {
    text: Arc<str>,
    len: usize,
}

impl Key {
    /// The root, then each ancestor of `path`, then `path` itself.
    fn chain(path: &RemotePath) -> Vec<Self> {
        // No name contains a slash, so one text stands for one path.
        let text: Arc<str> = path.to_relative().into();
        let mut len: usize = 0;
        let mut chain = vec![Self {
            text: Arc::clone(&text),
            len,
        }];
        for name in path.names() {
            len += usize::from(len > 0) + name.as_str().len();
            chain.push(Self {
                text: Arc::clone(&text),
                len,
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
        self.as_bytes().hash(state);
    }
}

#[cfg(test)]
mod holds;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
