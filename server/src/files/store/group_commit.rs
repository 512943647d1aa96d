//! Group commit: one fsync of a directory for all threads that changed it meanwhile.
//!
//! A sync makes durable what happened before it started. A thread that comes while one is running
//! therefore waits for the next. All waiting threads share that one, failure included. A directory
//! whose sync failed is never synced again: the kernel may report success the second time although
//! the data was dropped.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use rustix::io::Errno;

use super::metadata::FileId;

/// Syncs that are running or awaited, one entry for each directory.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    directories: Mutex<HashMap<FileId, Arc<DirectorySync>>>,
}

#[derive(Debug, Default)]
struct DirectorySync {
    progress: Mutex<SyncProgress>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct SyncProgress {
    /// Number of syncs started so far. A sync's own number is the count including itself.
    started: u64,
    is_running: bool,
    /// Number of the sync that failed, and its error. No later one starts.
    failed: Option<(u64, Errno)>,
    #[cfg(test)]
    waiting: usize,
}

impl GroupCommit {
    /// Waits for a sync of the directory `id` that starts after this call. Runs `sync` itself
    /// unless another thread does.
    pub(super) fn sync(
        &self,
        id: FileId,
        sync: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let directory = Arc::clone(self.directories.lock().entry(id).or_default());
        let synced = directory.sync(sync);
        let mut directories = self.directories.lock();
        // Other threads clone under this lock. Two references, the map's and this one, mean that no
        // other thread has one.
        if Arc::strong_count(&directory) == 2 {
            directories.remove(&id);
        }
        // Dropped under the lock as well, or the next thread to leave would still count it.
        drop(directory);
        drop(directories);
        synced
    }
}

impl DirectorySync {
    fn sync(&self, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut progress = self.progress.lock();
        // Not the sync that is running, if any: it may have read the directory before the change.
        let number = progress.started + 1;
        while progress.is_running {
            #[cfg(test)]
            {
                progress.waiting += 1;
            }
            self.ended.wait(&mut progress);
            // The sync has ended if it started and isn't the one that is running now.
            if progress.started >= number && !(progress.started == number && progress.is_running) {
                return progress.outcome(number);
            }
        }
        if progress.failed.is_some() {
            return progress.outcome(number);
        }
        // This thread carries the sync out, for itself and for all that wait by then.
        progress.started = number;
        progress.is_running = true;
        drop(progress);
        let synced = sync();
        let mut progress = self.progress.lock();
        progress.is_running = false;
        if let Err(errno) = synced {
            progress.failed = Some((number, errno));
        }
        self.ended.notify_all();
        synced
    }
}

impl SyncProgress {
    /// Outcome of the sync `number`, which failed if it or an earlier one did.
    fn outcome(&self, number: u64) -> Result<(), Errno> {
        match self.failed {
            Some((failed, errno)) if failed <= number => Err(errno),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const ID: FileId = FileId {
        device: 1,
        inode: 1,
    };
    const WAITERS: usize = 8;

    /// Runs a sync that lasts until [`WAITERS`] threads wait for the next one. Returns the number
    /// of syncs, and the waiters' outcomes if the next sync ends with `next`.
    fn crowd(first: Result<(), Errno>, next: Result<(), Errno>) -> (usize, Vec<Result<(), Errno>>) {
        let commits = GroupCommit::default();
        let syncs = AtomicUsize::new(0);
        let outcomes = thread::scope(|scope| {
            let (started, has_started) = mpsc::channel();
            let leader = scope.spawn({
                let commits = &commits;
                let syncs = &syncs;
                move || {
                    commits.sync(ID, || {
                        syncs.fetch_add(1, Ordering::Relaxed);
                        started.send(()).unwrap();
                        let directory = Arc::clone(&commits.directories.lock()[&ID]);
                        while directory.progress.lock().waiting < WAITERS {
                            thread::yield_now();
                        }
                        first
                    })
                }
            });
            has_started.recv().unwrap();
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| {
                    scope.spawn(|| {
                        commits.sync(ID, || {
                            syncs.fetch_add(1, Ordering::Relaxed);
                            next
                        })
                    })
                })
                .collect();
            assert_eq!(leader.join().unwrap(), first);
            waiters
                .into_iter()
                .map(|waiter| waiter.join().unwrap())
                .collect()
        });
        assert!(commits.directories.lock().is_empty(), "entries are removed");
        (syncs.into_inner(), outcomes)
    }

    #[test]
    fn threads_that_come_during_a_sync_share_the_next() {
        let (syncs, outcomes) = crowd(Ok(()), Ok(()));
        assert_eq!(syncs, 2);
        assert_eq!(outcomes, vec![Ok(()); WAITERS]);
    }

    #[test]
    fn a_failure_reaches_all_threads_that_shared_the_sync() {
        let (syncs, outcomes) = crowd(Ok(()), Err(Errno::IO));
        assert_eq!(syncs, 2);
        assert_eq!(outcomes, vec![Err(Errno::IO); WAITERS]);
    }

    #[test]
    fn a_failed_sync_fails_all_waiting_threads_and_is_not_repeated() {
        let (syncs, outcomes) = crowd(Err(Errno::IO), Ok(()));
        assert_eq!(syncs, 1);
        assert_eq!(outcomes, vec![Err(Errno::IO); WAITERS]);
    }

    #[test]
    fn directories_do_not_wait_for_each_other() {
        let commits = GroupCommit::default();
        let other = FileId {
            device: 1,
            inode: 2,
        };
        let outcome = commits.sync(ID, || commits.sync(other, || Ok(())));
        assert_eq!(outcome, Ok(()));
    }
}
