//! Closing a connection so that the other side hears of it.
//!
//! quinn-proto holds back the packet that closes a connection like any other while the congestion
//! window is full and data waits, and once closed it takes no acknowledgement that would empty the
//! window: the packet never leaves, and the peer waits for its idle timeout (quinn's issue 2785;
//! mended after 0.11.19). Any transfer that is cut off gets there, and on paths with a large MTU a
//! probe for it suffices. So every window here can be opened wide, which [`close`] does first.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn::{Connection, VarInt};
use quinn_proto::RttEstimator;

/// Closes `connection`: whatever is under way on it fails, and the other side hears `code`.
pub fn close(connection: &Connection, code: VarInt, reason: &[u8]) {
    // A copy of the controller, which shares its switch with the one in use.
    if let Ok(controller) = connection
        .congestion_state()
        .into_any()
        .downcast::<Openable>()
    {
        controller.is_open.store(true, Ordering::Relaxed);
    }
    connection.close(code, reason);
}

/// Waits until the other side has answered the close of `connection` with its own, a round trip
/// later. quinn considers a connection idle only three probe timeouts after it was closed, half a
/// second on a path of 80 ms; that is for what may still arrive, and no concern of a program that
/// ends. An answer that is lost leaves that as the time to wait.
pub async fn answered(connection: &Connection) {
    // quinn has no event for it.
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    while connection.stats().frame_rx.connection_close == 0 {
        look.tick().await;
    }
}

/// Counts what the other side of `connection` has acknowledged, on any path, in bytes of packets
/// without what each packet costs.
pub(crate) fn acknowledged(connection: &Connection) -> Arc<AtomicU64> {
    let controller = connection.congestion_state().into_any();
    match controller.downcast::<Openable>() {
        Ok(controller) => controller.acknowledged,
        Err(_) => Arc::default(),
    }
}

/// A copy of the controller in use, which decides behind the switch.
#[cfg(test)]
pub(crate) fn controller_of(connection: &Connection) -> Box<dyn Controller> {
    let state = connection.congestion_state().into_any();
    state.downcast::<Openable>().unwrap().controller
}

/// Makes the controllers of another factory such that [`close`] can open their windows. Each
/// connection has its own, which makes a controller for each of its paths.
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

/// A controller whose window can be opened wide, once and for all.
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

/// What a packet has beside its content, in bytes: at most 25 of header (RFC 9000, §17.3), 16 of
/// tag, and what its frames begin with.
const PACKET_OVERHEAD: u64 = 64;

/// Short against the round trip of any path on which waiting matters.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// More than can be under way, and more than quinn paces (4 GiB).
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
    async fn what_has_arrived_is_counted() {
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
    async fn an_answered_close_is_known_to_the_other_side() {
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
