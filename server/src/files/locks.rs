//! Lock table: a read-write lock for each path in use.
//!
//! A request locks its own paths shared or exclusive, and all their ancestors shared. So a
//! directory can't be renamed or deleted while a request below it is running. A request takes all
//! its locks in one call, each of them once and in the order of the paths. That rules out
//! deadlocks, as long as no request locks again while it holds a [`LockGuard`]. Entries of the
//! table are counted, and removed with their last user.

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

/// Locks of all paths in use on one server. Clones share the table.
#[derive(Debug, Clone)]
pub(crate) struct LockTable {
    entries: Arc<Mutex<Entries>>,
    holds: Arc<Mutex<Vec<Weak<HeldPath>>>>,
    owners: Arc<AtomicU64>,
    wait_max: Duration,
    faults: Faults,
}

/// Owner of locks. Operations of one owner are not blocked by its own [holds](LockTable::hold).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl LockTable {
    /// Makes an empty table, in which a request waits at most `wait_max` for all of its locks.
    pub(crate) fn new(wait_max: Duration) -> Self {
        Self {
            entries: Arc::default(),
            holds: Arc::default(),
            owners: Arc::default(),
            wait_max,
            faults: Faults::default(),
        }
    }

    /// Adds the faults that a test injects.
    pub(crate) fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Makes an owner without holds.
    pub(crate) fn new_owner(&self) -> Owner {
        Owner(self.owners.fetch_add(1, Ordering::Relaxed))
    }

    /// Locks `path` for reading: others may read it, too, but not change or delete it.
    ///
    /// # Errors
    /// [`Busy`] if the lock was not free in time.
    pub(crate) async fn shared(&self, owner: Owner, path: &RemotePath) -> Result<LockGuard, Busy> {
        self.acquire(owner, &[path], &[]).await
    }

    /// Like [`shared`](Self::shared), from any thread, but without waiting.
    pub(crate) fn try_shared(&self, owner: Owner, path: &RemotePath) -> Option<LockGuard> {
        self.try_acquire(owner, &[path], &[])
    }

    /// Locks each of `paths` and everything below it for a change.
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

    /// Like [`exclusive`](Self::exclusive), from any thread, but without waiting.
    pub(crate) fn try_exclusive(&self, owner: Owner, paths: &[&RemotePath]) -> Option<LockGuard> {
        self.try_acquire(owner, &[], paths)
    }

    /// Locks some paths for reading and others for a change, in one call. A path in both is locked
    /// for a change. Dropping the future releases the locks that it has got so far.
    ///
    /// # Errors
    /// [`Busy`] if the locks were not all free in time; none of them is held then.
    pub(crate) async fn acquire(
        &self,
        owner: Owner,
        shared: &[&RemotePath],
        exclusive: &[&RemotePath],
    ) -> Result<LockGuard, Busy> {
        let Some(split) = self.split(owner, shared, exclusive) else {
            return self.take_in_time(shared, exclusive).await;
        };
        let Split { outside, held } = split;
        let taking = async {
            let mut guard = self.take(&outside.shared, &outside.exclusive).await;
            // Locks within holds come after those of the table itself, hold by hold in the order of
            // their paths: again one global order, so that no two requests block each other.
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
        let Some(split) = self.split(owner, shared, exclusive) else {
            return self.try_take(shared, exclusive);
        };
        let Split { outside, held } = split;
        let mut guard = self.try_take(&outside.shared, &outside.exclusive)?;
        for (hold, paths) in held {
            let within = hold.within.try_take(&paths.shared, &paths.exclusive)?;
            guard.within.push((Arc::clone(&hold), within));
        }
        Some(guard)
    }

    /// Locks `path` and everything below it for `owner`. Only the owner's operations can run there;
    /// they exclude each other as usual, in a lock table of the hold.
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

    /// Assigns each path to the hold of `owner` that contains it, or to none. `None` if the owner holds
    /// nothing, as almost all do.
    fn split<'path>(
        &self,
        owner: Owner,
        shared: &[&'path RemotePath],
        exclusive: &[&'path RemotePath],
    ) -> Option<Split<'path>> {
        let holds: Vec<Arc<HeldPath>> = {
            let all = self.holds.lock();
            let live = all.iter().filter_map(Weak::upgrade);
            live.filter(|hold| hold.owner == owner).collect()
        };
        if holds.is_empty() {
            return None;
        }
        let mut split = Split::default();
        for (paths, is_shared) in [(shared, true), (exclusive, false)] {
            for path in paths {
                let hold = holds.iter().find(|hold| hold.path.contains(path));
                match hold {
                    Some(hold) => split.add(hold, path, is_shared),
                    None => split.outside.add(path, is_shared),
                }
            }
        }
        split.held.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        Some(split)
    }

    /// Takes locks outside of holds; without a timer if all are free.
    async fn take_in_time(
        &self,
        shared: &[&RemotePath],
        exclusive: &[&RemotePath],
    ) -> Result<LockGuard, Busy> {
        let (mut guard, locks) = self.enter(shared, exclusive);
        let taken = guard.take_free(&locks);
        if taken < locks.len() {
            let waiting = guard.take_waiting(&locks, taken);
            timeout(self.wait_max, waiting).await.map_err(|_| Busy)?;
        }
        Ok(guard)
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

    /// Counts a user of each lock, and returns the locks in order. The guard doesn't hold them yet,
    /// but counts the users off when it is dropped.
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

    /// Number of paths in use, including ancestors.
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().0.len()
    }

    /// Whether no path is in use.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lists the locks of a request in the order in which to take them, each path once.
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
            // The last key of the chain is the path itself, the others are its ancestors.
            if let Some(want) = wants.last_mut() {
                want.mode = mode;
            }
        }
        // One global order of locks rules out deadlocks: no two requests can each hold a lock that
        // the other one waits for.
        wants.sort_unstable_by(|a, b| {
            let keys = a.key.as_bytes().cmp(b.key.as_bytes());
            keys.then_with(|| b.mode.cmp(&a.mode))
        });
        // Of equal keys the exclusive one comes first, and the first one is kept.
        wants.dedup_by(|later, earlier| later.key == earlier.key);
        wants
    }
}

/// Locks of one request; dropping it releases them. It can be moved into a blocking thread, so that
/// paths stay locked during work that outlives its request.
#[derive(Debug)]
#[must_use = "dropping this releases the locks"]
pub(crate) struct LockGuard {
    shared: Vec<OwnedRwLockReadGuard<()>>,
    exclusive: Vec<OwnedRwLockWriteGuard<()>>,
    wants: Vec<Want>,
    entries: Arc<Mutex<Entries>>,
    /// Locks within holds of the same owner. Each keeps its hold alive.
    within: Vec<(Arc<HeldPath>, Self)>,
}

impl LockGuard {
    /// Takes locks in order up to the first that isn't free, and returns how many it took.
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

    /// Takes all locks after the first `taken`, in order, and waits for each.
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
        // The locks within a hold first: a hold must outlive the operations within it.
        for (hold, within) in self.within.drain(..) {
            drop(within);
            drop(hold);
        }
        // Release the locks before the entries. If an entry were removed while its lock is held,
        // the next request would get a second lock for the same path.
        self.shared.clear();
        self.exclusive.clear();
        let mut entries = self.entries.lock();
        for want in &self.wants {
            entries.leave(&want.key);
        }
    }
}

/// Lock on a path for all operations of one owner. It ends when this is dropped and no operation of
/// the owner is running there.
#[derive(Debug)]
#[must_use = "dropping this releases the path"]
pub struct Hold(#[expect(dead_code, reason = "kept for its drop")] Arc<HeldPath>);

#[derive(Debug)]
struct HeldPath {
    owner: Owner,
    path: RemotePath,
    /// Locks of the owner's operations on the path and below it. A table of its own, because the
    /// exclusive lock in `_outer` would block them.
    within: LockTable,
    _outer: LockGuard,
}

/// Paths to lock, by the table in which their locks are.
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

/// Timeout while waiting for locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path stayed in use by other requests")]
pub(crate) struct Busy;

/// Entries of the table, with counts of their users. Behind a synchronous mutex, so that a guard
/// can count off its users in `drop`.
#[derive(Debug, Default)]
struct Entries(HashMap<Key, LockEntry>);

impl Entries {
    /// Counts a user of `key`, and returns its lock.
    fn enter(&mut self, key: &Key) -> Arc<RwLock<()>> {
        let entry = self.0.entry(key.clone()).or_default();
        entry.users += 1;
        Arc::clone(&entry.lock)
    }

    /// Counts off a user of `key`, and removes an entry without users.
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
    /// Number of requests that hold the lock or wait for it.
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

/// Key of a lock: a path or an ancestor of one. It is the first `len` bytes of a text that all keys
/// of one path share.
#[derive(Debug, Clone)]
struct Key {
    text: Arc<str>,
    len: usize,
}

impl Key {
    /// Makes the keys of the root, of each ancestor of `path`, and of `path` itself, in this order.
    fn chain(path: &RemotePath) -> Vec<Self> {
        // No name contains a slash, so different paths have different texts.
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
