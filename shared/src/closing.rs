//! Closing a connection so that the other side hears of it.
//!
//! quinn-proto holds back the packet that closes a connection like any other while the congestion
//! window is full and data waits, and once closed it takes no acknowledgement that would empty the
//! window: the packet never leaves, and the peer waits for its idle timeout (quinn's issue 2785;
//! mended after 0.11.19). Any transfer that is cut off gets there, and on paths with a large MTU a
//! probe for it suffices. So every window here can be opened wide, which [`close`] does first.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// A copy of the controller in use, which decides behind the switch.
#[cfg(test)]
pub(crate) fn controller_of(connection: &Connection) -> Box<dyn Controller> {
    let state = connection.congestion_state().into_any();
    state.downcast::<Openable>().unwrap().controller
}

/// Makes the controllers of another factory such that [`close`] can open their windows.
pub(crate) struct OpenableFactory(pub(crate) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for OpenableFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Openable {
            controller: Arc::clone(&self.0).build(now, current_mtu),
            is_open: Arc::default(),
        })
    }
}

/// A controller whose window can be opened wide, once and for all.
struct Openable {
    controller: Box<dyn Controller>,
    is_open: Arc<AtomicBool>,
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
        })
    }

    fn initial_window(&self) -> u64 {
        self.controller.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

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
        let factory = Arc::new(OpenableFactory(Arc::new(CubicConfig::default())));
        let in_use = factory.build(Instant::now(), 1200);
        assert_eq!(in_use.window(), in_use.initial_window());
        let copy = in_use.clone_box().into_any().downcast::<Openable>();
        copy.ok().unwrap().is_open.store(true, Ordering::Relaxed);
        assert_eq!(in_use.window(), WINDOW_OPEN);
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
