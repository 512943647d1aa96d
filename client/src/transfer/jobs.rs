//! The queue that moves a bounded number of files at once, and other work of which so much runs.
//!
//! A walk finds files and puts them into a short queue. It waits while the queue is full, so a tree
//! is never held in memory.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::engine::Transfer;

/// A queue from a walk to [`run_jobs`].
pub(super) fn job_queue<J>() -> (mpsc::Sender<J>, mpsc::Receiver<J>) {
    mpsc::channel(QUEUE_JOBS)
}

/// Does `work` on each job as it comes, a bounded number at once, until the walk ends or the
/// connection is lost.
pub(super) async fn run_jobs<J, F>(
    mut jobs: mpsc::Receiver<J>,
    transfer: &Transfer,
    work: impl Fn(J) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = AtOnce::new(JOBS_AT_ONCE);
    let mut is_walking = true;
    while is_walking || !running.is_empty() {
        tokio::select! {
            Some(()) = running.next() => {}
            job = jobs.recv(), if is_walking && running.has_room() => match job {
                Some(job) => running.start(work(job)),
                None => is_walking = false,
            },
        }
        if transfer.is_lost() {
            // What still runs can't succeed, and the walk ends at the closed queue.
            return;
        }
    }
}

/// Tasks that run, a bounded number at once. Dropping it cancels them.
#[derive(Debug)]
pub(super) struct AtOnce<T> {
    running: JoinSet<T>,
    most: usize,
}

impl<T: Send + 'static> AtOnce<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            running: JoinSet::new(),
            most,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.most
    }

    fn start(&mut self, task: impl Future<Output = T> + Send + 'static) {
        self.running.spawn(task);
    }

    /// Starts a task, once there is room for it, and returns what the one has returned whose place it
    /// took.
    pub(super) async fn add(
        &mut self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let ended = match self.has_room() {
            true => None,
            false => self.next().await,
        };
        self.start(task);
        ended
    }

    /// Waits for the end of a task, and passes on its panic; `None` if none runs.
    pub(super) async fn next(&mut self) -> Option<T> {
        loop {
            match self.running.join_next().await? {
                Ok(ended) => return Some(ended),
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }
}

/// Bounds the bytes of the files that are in transfer one by one on a local network.
///
/// There a few streams fill the path. More of them only take turns packet by packet, which costs
/// memory and wakes a task for each packet. On a longer path their number hides round trips.
#[derive(Debug, Clone)]
pub(super) struct ByteGate(Option<Arc<Semaphore>>);

impl ByteGate {
    pub(super) fn new(is_local: bool) -> Self {
        Self(is_local.then(|| Arc::new(Semaphore::new(LOCAL_KIB as usize))))
    }

    /// Waits until a file of `bytes` may be moved. It counts until the result is dropped, which is
    /// best done before what needs no network, such as a sync.
    pub(super) async fn enter(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let gate = self.0.clone()?;
        // Half of the room at most, so that the next large file begins before this one ends.
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        // It is never closed.
        gate.acquire_many_owned(kib.min(LOCAL_KIB / 2)).await.ok()
    }
}

/// Files in transfer at once: enough to keep a connection busy with small files over a round trip
/// of some ten milliseconds, and few enough that their buffers stay at some ten megabytes and a
/// third of the streams that a server grants stays free for other requests.
pub(super) const JOBS_AT_ONCE: usize = 32;

/// KiB of files in transfer at once on a local network: twice its send window, so that one file's
/// end and the next one's begin leave no gap.
const LOCAL_KIB: u32 = 4 * 1024;

/// Files found but not begun: enough that a walk that waits for a listing leaves no gap.
const QUEUE_JOBS: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_bounded_number_of_jobs_runs_at_once_and_all_run() {
        let transfer = Transfer::new(|_| {});
        let (queue, jobs) = job_queue();
        let (running, most, done) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let work = |()| {
            let (running, most, done) =
                (Arc::clone(&running), Arc::clone(&most), Arc::clone(&done));
            async move {
                most.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        let walk = async move {
            for _ in 0..1000 {
                queue.send(()).await.unwrap();
            }
        };
        tokio::join!(walk, run_jobs(jobs, &transfer, work));
        assert_eq!(done.load(Ordering::SeqCst), 1000);
        assert!(most.load(Ordering::SeqCst) <= JOBS_AT_ONCE as u64);
    }
}
