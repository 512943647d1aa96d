//! Closing a connection so that the peer hears of it.
//!
//! quinn-proto up to 0.11.19 subjects the packet with `CONNECTION_CLOSE` to congestion control. A
//! closed connection processes no acknowledgements, so a full congestion window never drains: the
//! packet is never sent, and the peer waits for its idle timeout (quinn issue 2785; fixed after
//! 0.11.19). Every transfer that is cut off gets there, and on paths with a large MTU a single MTU
//! probe is enough.
//!
//! As a workaround every congestion controller is wrapped in an `Openable`, and [`close`] opens its
//! window first. The wrapper also counts acknowledged bytes; that stays when the workaround goes.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn::{Connection, VarInt};
use quinn_proto::RttEstimator;

/// Closes `connection` with `code`. Everything in progress on it fails.
pub fn close(connection: &Connection, code: VarInt, reason: &[u8]) {
    // quinn only hands out a copy of the controller, but the copy shares the switch of the
    // original.
    if let Ok(controller) = connection
        .congestion_state()
        .into_any()
        .downcast::<Openable>()
    {
        controller.is_open.store(true, Ordering::Relaxed);
    }
    connection.close(code, reason);
}

/// Waits until the peer has answered the close of `connection` with its own `CONNECTION_CLOSE`.
///
/// That takes a round trip. `Endpoint::wait_idle` waits for the closing state to end, three probe
/// timeouts (RFC 9000, §10.2): half a second on a path of 80 ms, which a program that ends need not
/// wait for. If the answer is lost this never returns, so callers bound it with `wait_idle`.
pub async fn answered(connection: &Connection) {
    // quinn has no event for this frame, so poll its counter.
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    while connection.stats().frame_rx.connection_close == 0 {
        poll.tick().await;
    }
}

/// Returns the counter of bytes that the peer has acknowledged on all paths of `connection`,
/// without the overhead of packets.
pub(crate) fn acknowledged(connection: &Connection) -> Arc<AtomicU64> {
    let controller = connection.congestion_state().into_any();
    match controller.downcast::<Openable>() {
        Ok(controller) => controller.acknowledged,
        Err(_) => Arc::default(),
    }
}

/// Returns a copy of the wrapped controller.
#[cfg(test)]
pub(crate) fn controller_of(connection: &Connection) -> Box<dyn Controller> {
    let state = connection.congestion_state().into_any();
    state.downcast::<Openable>().unwrap().controller
}

/// Wraps the controllers of another factory, so that [`close`] can open their windows.
///
/// Each connection needs a factory of its own, because all controllers of a factory share the
/// counter. quinn builds a controller for each path of the connection.
pub(crate) struct OpenableFactory {
    inner: Arc<dyn ControllerFactory + Send + Sync>,
    acknowledged: Arc<AtomicU64>,
}

impl OpenableFactory {
    pub(crate) fn new(inner: Arc<dyn ControllerFactory + Send + Sync>) -> Self {
        Self {
            inner,
            acknowledged: Arc::default(),
        }
    }
}

impl ControllerFactory for OpenableFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Openable {
            controller: Arc::clone(&self.inner).build(now, current_mtu),
            is_open: Arc::default(),
            acknowledged: Arc::clone(&self.acknowledged),
        })
    }
}

/// A congestion controller whose window can be opened permanently.
struct Openable {
    controller: Box<dyn Controller>,
    is_open: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Controller for Openable {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.controller.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        // A peer that acknowledges only keep-alives must not look like one that receives data.
        let content = bytes.saturating_sub(PACKET_OVERHEAD);
        self.acknowledged.fetch_add(content, Ordering::Relaxed);
        self.controller.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.controller
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.controller
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.controller.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.is_open.load(Ordering::Relaxed) {
            return WINDOW_OPEN;
        }
        self.controller.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.controller.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            controller: self.controller.clone_box(),
            is_open: Arc::clone(&self.is_open),
            acknowledged: Arc::clone(&self.acknowledged),
        })
    }

    fn initial_window(&self) -> u64 {
        self.controller.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Overhead of a packet, in bytes: a header of at most 25 (RFC 9000, §17.3), an AEAD tag of 16
/// (RFC 9001, §5.3), and the headers of its frames.
const PACKET_OVERHEAD: u64 = 64;

/// Short compared with the round trip of any path on which the wait matters.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// An open window, in bytes: more than can be in flight, and above the 4 GiB up to which quinn
/// paces.
const WINDOW_OPEN: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use quinn::ConnectionError;
    use quinn::congestion::CubicConfig;

    use super::*;
    use crate::loopback::Loopback;

    #[test]
    fn a_copy_opens_the_window_of_the_controller_in_use() {
        let factory = Arc::new(OpenableFactory::new(Arc::new(CubicConfig::default())));
        let in_use = factory.build(Instant::now(), 1200);
        assert_eq!(in_use.window(), in_use.initial_window());
        let copy = in_use.clone_box().into_any().downcast::<Openable>();
        copy.ok().unwrap().is_open.store(true, Ordering::Relaxed);
        assert_eq!(in_use.window(), WINDOW_OPEN);
    }

    #[tokio::test]
    async fn acknowledged_bytes_are_counted() {
        const BYTES: usize = 100_000;
        let both = Loopback::connect().await;
        let counted = acknowledged(&both.client);
        let before = counted.load(Ordering::Relaxed);
        let (mut send, _recv) = both.client.open_bi().await.unwrap();
        send.write_all(&[7; BYTES]).await.unwrap();
        send.finish().unwrap();
        send.stopped().await.unwrap();
        let during = counted.load(Ordering::Relaxed) - before;
        assert!(during >= BYTES as u64 * 9 / 10, "{during}");
    }

    #[tokio::test]
    async fn an_answered_close_is_known_to_the_peer() {
        let both = Loopback::connect().await;
        close(&both.client, 7_u8.into(), b"");
        answered(&both.client).await;
        let reason = both.server.close_reason();
        let Some(ConnectionError::ApplicationClosed(close)) = reason else {
            panic!("{reason:?}");
        };
        assert_eq!(close.error_code, 7_u8.into());
    }
}
