//! Generic segmentation offload (GSO): splits and combines the sends of quinn.
//!
//! quinn sends up to ten datagrams at a time, of any size. Sends above the size limit of UDP are
//! split here. Consecutive full sends to one peer are combined into the largest send that UDP
//! allows. A batch is flushed when it is full, or when a datagram arrives that doesn't fit into it.
//!
//! Otherwise a task flushes it. The first datagrams of a batch notify the task, and it lets all
//! ready tasks, including those of quinn, run once before. No timer is involved: on an idle machine
//! the flush follows at once. The task belongs to the socket and is aborted with it.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use parking_lot::{Mutex, MutexGuard};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::amplification::AmplificationLimit;
use super::gso_batch::{Afterwards, GsoBatch, SEND_BYTES_MAX};

/// A socket that splits and combines segmented sends.
#[derive(Debug)]
pub(super) struct GsoSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    lanes: Arc<Lanes>,
    amplification: AmplificationLimit,
    /// Size of the last datagram, as an estimate of the next.
    datagram_bytes: AtomicUsize,
    /// The task that flushes batches; aborted when the socket is dropped.
    _flusher: JoinSet<()>,
}

impl GsoSocket {
    /// Wraps `inner`. Must be called within a tokio runtime.
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, amplification: AmplificationLimit) -> Self {
        let lanes = Arc::new(Lanes::default());
        let mut flusher = JoinSet::new();
        flusher.spawn(flush_when_due(Arc::clone(&lanes), Arc::clone(&inner)));
        Self {
            inner,
            lanes,
            amplification,
            datagram_bytes: AtomicUsize::new(1),
            _flusher: flusher,
        }
    }
}

impl AsyncUdpSocket for GsoSocket {
    /// Returns the poller of the inner socket: a send blocks here only after the inner socket did.
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self
            .amplification
            .take(transmit.destination, transmit.contents.len())
        {
            tracing::trace!(remote = %transmit.destination, "not sent to an unvalidated address");
            return Ok(());
        }
        // Loaded first, because most sends change nothing and a store would invalidate the cache
        // line of other cores.
        let datagram_bytes = transmit.segment_size.unwrap_or(transmit.contents.len());
        if self.datagram_bytes.load(Ordering::Relaxed) != datagram_bytes {
            self.datagram_bytes.store(datagram_bytes, Ordering::Relaxed);
        }
        let afterwards = self
            .lanes
            .lane(transmit.destination)
            .push(&*self.inner, transmit)?;
        match afterwards {
            Afterwards::Flush => self.lanes.due.notify_one(),
            Afterwards::Nothing => {}
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = std::task::ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for meta in meta.iter().take(received) {
            self.amplification.received(meta.addr, meta.len);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Returns how many datagrams of the current size fit one send. This is only a hint, because
    /// quinn asks before the size is known. Larger sends are split.
    fn max_transmit_segments(&self) -> usize {
        let datagram_bytes = self.datagram_bytes.load(Ordering::Relaxed).max(1);
        (SEND_BYTES_MAX / datagram_bytes).clamp(1, self.inner.max_transmit_segments().max(1))
    }

    /// Returns how many of the largest datagrams a receive buffer of quinn holds.
    ///
    /// The kernel coalesces datagrams up to the size of the largest UDP datagram, so one is enough.
    /// The count that the kernel reports would make quinn allocate 128 MiB.
    fn max_receive_segments(&self) -> usize {
        COALESCED_DATAGRAMS_MAX
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl Drop for GsoSocket {
    /// Flushes: the last datagrams may carry the close of a connection.
    fn drop(&mut self) {
        if let Err(error) = self.lanes.flush(&*self.inner) {
            tracing::debug!(%error, "the last datagrams were not sent");
        }
    }
}

/// Batches by destination, so that connections on different cores rarely contend for a lock. All
/// datagrams to one destination use the same lane, which preserves their order.
#[derive(Debug, Default)]
struct Lanes {
    lanes: [Mutex<GsoBatch>; LANES],
    /// Notified when datagrams wait and no flush is scheduled.
    due: Notify,
}

impl Lanes {
    fn lane(&self, destination: SocketAddr) -> MutexGuard<'_, GsoBatch> {
        let index = usize::from(destination.port()) % LANES;
        #[expect(
            clippy::indexing_slicing,
            reason = "a remainder is less than its divisor"
        )]
        self.lanes[index].lock()
    }

    /// Flushes all lanes.
    ///
    /// # Errors
    /// `WouldBlock` at the first lane that the kernel doesn't accept.
    fn flush(&self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        self.lanes
            .iter()
            .try_for_each(|lane| lane.lock().flush(socket))
    }
}

/// Flushes after each notification, with retries while the socket blocks. Ends with the runtime.
async fn flush_when_due(lanes: Arc<Lanes>, socket: Arc<dyn AsyncUdpSocket>) {
    let mut poller = Arc::clone(&socket).create_io_poller();
    loop {
        lanes.due.notified().await;
        after_ready_tasks().await;
        while lanes.flush(&*socket).is_err() {
            if poll_fn(|cx| poller.as_mut().poll_writable(cx))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// Yields until all ready tasks have run once.
///
/// quinn yields after 20 datagrams and is ready again at once. So this combines two of its turns:
/// 40 datagrams of 1,472 bytes per send instead of 20. `tokio::task::yield_now` would poll for
/// network events first, which costs a system call each time.
async fn after_ready_tasks() {
    let mut queued = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut queued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Number of lanes: more than the cores that send at the same time on common machines.
const LANES: usize = 8;

/// The largest datagrams that one coalesced receive fills. Linux coalesces up to the length of one
/// IP packet. The limit of Windows is 65,535 bytes, just above the largest datagram.
const COALESCED_DATAGRAMS_MAX: usize = if cfg!(windows) { 2 } else { 1 };

#[cfg(test)]
mod tests;
