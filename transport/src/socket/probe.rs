//! Probe of a server that has gone silent while requests wait.
//!
//! A server that was restarted answers packets of its old connections with a stateless reset (RFC
//! 9000, §10.3). But a client that waits for an answer sends nothing between its keep-alives, and
//! the intervals of its retransmissions double. So its last datagram is sent again and again while
//! a request waits and nothing arrives. A server that knows the connection drops a packet that it
//! has seen before. That changes no state, and needs no reply.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::AsyncUdpSocket;
use quinn::udp::Transmit;
use tokio::sync::Notify;

/// Handle of a client's socket that counts the requests that wait. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Probe(Arc<ProbeState>);

#[derive(Debug, Default)]
struct ProbeState {
    /// Requests that wait for the server.
    waiting: AtomicUsize,
    /// Wakes the task when the first request waits.
    begun: Notify,
    /// Datagrams that have arrived.
    received: AtomicU64,
    last: Mutex<Option<LastDatagram>>,
}

#[derive(Debug)]
struct LastDatagram {
    sent: Instant,
    destination: SocketAddr,
    src_ip: Option<IpAddr>,
    bytes: Vec<u8>,
}

/// A request that waits for the server, until this is dropped.
#[derive(Debug)]
pub(crate) struct WaitingRequest(Probe);

impl Probe {
    /// Counts a request.
    pub(crate) fn wait(&self) -> WaitingRequest {
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.begun.notify_one();
        }
        WaitingRequest(self.clone())
    }

    pub(super) fn received(&self, datagrams: usize) {
        self.0
            .received
            .fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    /// Keeps a datagram to send it again: one every [`KEEP_INTERVAL`], because any of a connection
    /// will do.
    pub(super) fn sent(&self, transmit: &Transmit<'_>) {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        let Some(datagram) = transmit.contents.get(..size.min(transmit.contents.len())) else {
            return;
        };
        // Packets of the handshake have a long header; no reset answers them.
        if datagram.first().is_none_or(|byte| byte & LONG_HEADER != 0) {
            return;
        }
        let now = Instant::now();
        // Another thread that sends at the same time keeps its own.
        let Some(mut last) = self.0.last.try_lock() else {
            return;
        };
        if last
            .as_ref()
            .is_some_and(|last| now.duration_since(last.sent) < KEEP_INTERVAL)
        {
            return;
        }
        let mut bytes = last.take().map(|last| last.bytes).unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(datagram);
        *last = Some(LastDatagram {
            sent: now,
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            bytes,
        });
    }

    /// Probes the server while requests wait and nothing arrives. Never completes.
    pub(super) async fn run(self, socket: Arc<dyn AsyncUdpSocket>) {
        loop {
            while self.0.waiting.load(Ordering::Relaxed) == 0 {
                self.0.begun.notified().await;
            }
            let before = self.0.received.load(Ordering::Relaxed);
            tokio::time::sleep(PROBE_INTERVAL).await;
            let is_silent = self.0.received.load(Ordering::Relaxed) == before;
            if is_silent && self.0.waiting.load(Ordering::Relaxed) > 0 {
                self.send_again(&*socket);
            }
        }
    }

    fn send_again(&self, socket: &dyn AsyncUdpSocket) {
        let last = self.0.last.lock();
        let Some(last) = &*last else { return };
        // A probe that the kernel doesn't take now is followed by another.
        let _ = socket.try_send(&Transmit {
            destination: last.destination,
            ecn: None,
            contents: &last.bytes,
            segment_size: None,
            src_ip: last.src_ip,
        });
    }
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bit of the first byte that marks a long header (RFC 9000, §17.2).
const LONG_HEADER: u8 = 0x80;

/// Silence after which the server is probed: two such intervals and a round trip are less than a
/// second, and most answers come sooner.
const PROBE_INTERVAL: Duration = Duration::from_millis(300);

/// Interval at which a datagram is kept: a copy of each would cost as much as sending it.
const KEEP_INTERVAL: Duration = Duration::from_millis(100);
