//! The socket that quinn sees: sends of any size, split and gathered into what the kernel takes.
//!
//! quinn offers up to ten datagrams at a time, whatever their size. Too many bytes for one send
//! are split here; a run of full transmits to one peer is gathered into the largest send that UDP
//! allows. What is gathered leaves when it is full, when something else for that lane arrives, or
//! from one task per socket that is notified with the first datagrams and lets the tasks that are
//! ready, quinn's among them, run once before it. No timer is involved: on an idle machine it runs
//! at once. The task lives in the socket and is aborted with it.

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

/// A socket that splits and gathers segmented sends.
#[derive(Debug)]
pub(super) struct GsoSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    lanes: Arc<Lanes>,
    amplification: AmplificationLimit,
    /// Size of the datagram seen last: the best guess at those to come.
    datagram_bytes: AtomicUsize,
    /// The task that flushes; aborted when the socket is dropped.
    _flusher: JoinSet<()>,
}

impl GsoSocket {
    /// Wraps `inner`, to send what `credit` allows; within a tokio runtime only.
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
    /// The inner socket's: whenever a send here would block, one of the inner socket has just
    /// done so.
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self
            .amplification
            .take(transmit.destination, transmit.contents.len())
        {
            tracing::trace!(remote = %transmit.destination, "not sent to an unproved address");
            return Ok(());
        }
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

    /// As many datagrams of the current size as fit one send. Only a hint that saves quinn large
    /// buffers, since it asks before the size is known: what is too much is split.
    fn max_transmit_segments(&self) -> usize {
        let datagram_bytes = self.datagram_bytes.load(Ordering::Relaxed).max(1);
        (SEND_BYTES_MAX / datagram_bytes).clamp(1, self.inner.max_transmit_segments().max(1))
    }

    /// quinn multiplies this with the largest datagram to size its buffers. That is the largest
    /// that UDP carries, and so is the largest run of datagrams that the kernel coalesces: one is
    /// enough, where the kernel's own count would reserve 128 MiB.
    fn max_receive_segments(&self) -> usize {
        COALESCED_DATAGRAMS_MAX
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl Drop for GsoSocket {
    /// The last datagrams may tell the peer that the connection is closed.
    fn drop(&mut self) {
        if let Err(error) = self.lanes.flush(&*self.inner) {
            tracing::debug!(%error, "the last datagrams were not sent");
        }
    }
}

/// Batches by destination, so that connections on different cores seldom wait for each other.
/// All datagrams of one destination take the same lane, which keeps their order.
#[derive(Debug, Default)]
struct Lanes {
    lanes: [Mutex<GsoBatch>; LANES],
    /// Notified when datagrams wait that nobody is about to flush.
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

    /// Sends what waits in all lanes.
    ///
    /// # Errors
    /// `WouldBlock` at the first lane that the kernel refuses.
    fn flush(&self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        self.lanes
            .iter()
            .try_for_each(|lane| lane.lock().flush(socket))
    }
}

/// Flushes after each notification, as often as it takes; ends when the runtime stops.
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

/// Goes to the end of the scheduler's queue. quinn pauses after 20 datagrams and queues up again at
/// once, so this is what gathers two of its turns: 40 datagrams of 1,472 bytes a send instead of
/// 20. (`tokio::task::yield_now` would look for network events first, a system call each time.)
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

/// More than the cores that send at the same time on the machines we know.
const LANES: usize = 8;

/// Linux coalesces up to one IP packet's length. Windows' limit is 65,535 bytes, which is just
/// above one datagram of the largest size.
const COALESCED_DATAGRAMS_MAX: usize = if cfg!(windows) { 2 } else { 1 };

#[cfg(test)]
mod tests;
