//! The congestion controllers of a connection, wrapped: what else needs their windows and events.
//!
//! quinn offers no other way to send beyond the window. [`close`](crate::close) opens it for good.
//! [`probe`](crate::flow) lets one datagram out of a full one, as a probe timeout does (RFC 9002,
//! §6.2.4). The wrapper also counts what the peer acknowledges, and what the path has reordered,
//! which quinn doesn't report.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// What the controllers of a connection have in common: quinn builds one for each of its paths.
#[derive(Debug, Default)]
pub(crate) struct ControllerHandle {
    is_open: AtomicBool,
    /// Number of datagrams that were let out of a full window.
    let_out: AtomicU64,
    /// Bytes acknowledged, without the overhead of packets.
    acknowledged: AtomicU64,
    /// Number of times that something was acknowledged.
    acknowledgements: AtomicU64,
    packets: AtomicU64,
    late: AtomicU64,
}

/// Packets that the peer has acknowledged, on all paths of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) packets: u64,
    /// Those of them that later ones overtook.
    pub(crate) late: u64,
}

impl ControllerHandle {
    /// Returns the handle of `connection`. One that was configured elsewhere has none, so nothing
    /// happens on it.
    pub(crate) fn of(connection: &Connection) -> Arc<Self> {
        let controller = connection.congestion_state().into_any();
        match controller.downcast::<HandledController>() {
            Ok(controller) => controller.handle,
            Err(_) => Arc::default(),
        }
    }

    /// Opens the window for good.
    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Lets one more datagram out, even if the window is full.
    pub(crate) fn let_out(&self) {
        self.let_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counter of bytes that the peer has acknowledged on all paths, without the
    /// overhead of packets.
    pub(crate) fn acknowledged(&self) -> &AtomicU64 {
        &self.acknowledged
    }

    /// Returns the packets that the peer has acknowledged.
    pub(crate) fn packets(&self) -> Acknowledged {
        Acknowledged {
            packets: self.packets.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }

    /// Returns how often the peer has acknowledged something.
    pub(crate) fn acknowledgements(&self) -> u64 {
        self.acknowledgements.load(Ordering::Relaxed)
    }
}

/// Wraps the controllers of another factory.
///
/// Each connection needs a factory of its own, because all controllers of a factory share the
/// handle.
pub(crate) struct HandledFactory {
    inner: Arc<dyn ControllerFactory + Send + Sync>,
    handle: Arc<ControllerHandle>,
}

impl HandledFactory {
    pub(crate) fn new(inner: Arc<dyn ControllerFactory + Send + Sync>) -> Self {
        Self {
            inner,
            handle: Arc::default(),
        }
    }
}

impl ControllerFactory for HandledFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(HandledController {
            controller: Arc::clone(&self.inner).build(now, current_mtu),
            mtu: current_mtu,
            in_flight: 0,
            let_out: self.handle.let_out.load(Ordering::Relaxed),
            newest: now,
            newest_before: now,
            acknowledged: Acknowledged::default(),
            handle: Arc::clone(&self.handle),
        })
    }
}

/// A congestion controller whose window can be opened.
struct HandledController {
    controller: Box<dyn Controller>,
    mtu: u16,
    /// Bytes in flight. Packets that only acknowledge count until the next acknowledgement.
    in_flight: u64,
    /// Datagrams that had been let out when something was sent last.
    let_out: u64,
    /// When the newest acknowledged packet was sent, also without what the acknowledgement that is
    /// being read says.
    newest: Instant,
    newest_before: Instant,
    /// What the acknowledgement that is being read says.
    acknowledged: Acknowledged,
    handle: Arc<ControllerHandle>,
}

impl Controller for HandledController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight += bytes;
        self.let_out = self.handle.let_out.load(Ordering::Relaxed);
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
        self.handle
            .acknowledged
            .fetch_add(content, Ordering::Relaxed);
        self.acknowledged.packets += 1;
        self.acknowledged.late += u64::from(sent < self.newest_before);
        self.newest = self.newest.max(sent);
        self.controller.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        let Acknowledged { packets, late } = std::mem::take(&mut self.acknowledged);
        self.newest_before = self.newest;
        let handle = &self.handle;
        handle.acknowledgements.fetch_add(1, Ordering::Relaxed);
        handle.packets.fetch_add(packets, Ordering::Relaxed);
        handle.late.fetch_add(late, Ordering::Relaxed);
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
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        self.controller
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.controller.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.handle.is_open.load(Ordering::Relaxed) {
            return WINDOW_OPEN;
        }
        let window = self.controller.window();
        if self.handle.let_out.load(Ordering::Relaxed) == self.let_out {
            return window;
        }
        // quinn sends a datagram if the window is larger than the bytes in flight with it.
        window.max(self.in_flight + 2 * u64::from(self.mtu))
    }

    fn metrics(&self) -> ControllerMetrics {
        self.controller.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            controller: self.controller.clone_box(),
            mtu: self.mtu,
            // quinn copies the controller for another path, where nothing is in flight yet.
            in_flight: 0,
            let_out: self.let_out,
            newest: self.newest,
            newest_before: self.newest_before,
            acknowledged: Acknowledged::default(),
            handle: Arc::clone(&self.handle),
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

/// An open window, in bytes: more than can be in flight, and above the 4 GiB up to which quinn
/// paces.
const WINDOW_OPEN: u64 = 1 << 40;

/// Returns a copy of the controller of `connection`, without the wrapper.
pub(crate) fn controller_of(connection: &Connection) -> Option<Box<dyn Controller>> {
    let state = connection.congestion_state().into_any();
    let wrapper = state.downcast::<HandledController>().ok()?;
    Some(wrapper.controller)
}

#[cfg(test)]
mod tests {
    use quinn::congestion::CubicConfig;

    use super::*;
    use crate::loopback::Loopback;

    /// A controller of `MTU`, and its handle.
    fn controller() -> (Box<dyn Controller>, Arc<ControllerHandle>) {
        let factory = Arc::new(HandledFactory::new(Arc::new(CubicConfig::default())));
        let handle = Arc::clone(&factory.handle);
        (factory.build(Instant::now(), MTU), handle)
    }

    const MTU: u16 = 1200;

    #[test]
    fn the_handle_opens_the_window_of_the_controller_in_use() {
        let (in_use, handle) = controller();
        assert_eq!(in_use.window(), in_use.initial_window());
        handle.open();
        assert_eq!(in_use.window(), WINDOW_OPEN);
    }

    #[test]
    fn one_datagram_is_let_out_of_a_full_window() {
        let (mut controller, handle) = controller();
        let window = controller.window();
        let datagram = u64::from(MTU);
        let now = Instant::now();
        controller.on_sent(now, window, 1);
        handle.let_out();
        // As quinn compares them.
        assert!(window + datagram < controller.window());
        controller.on_sent(now, datagram, 2);
        assert_eq!(controller.window(), window);
        handle.let_out();
        assert!(window + 2 * datagram < controller.window());
        assert!(window + 3 * datagram >= controller.window());
    }

    #[test]
    fn a_datagram_that_finds_room_needs_no_larger_window() {
        let (mut controller, handle) = controller();
        let now = Instant::now();
        controller.on_sent(now, controller.window(), 1);
        controller.on_end_acks(now, 0, false, Some(1));
        handle.let_out();
        assert_eq!(controller.window(), controller.initial_window());
    }

    #[tokio::test]
    async fn acknowledged_bytes_are_counted() {
        const BYTES: usize = 100_000;
        let both = Loopback::connect().await;
        let handle = ControllerHandle::of(&both.client);
        let before = handle.acknowledged().load(Ordering::Relaxed);
        let acknowledgements = handle.acknowledgements();
        let (mut send, _recv) = both.client.open_bi().await.unwrap();
        send.write_all(&[7; BYTES]).await.unwrap();
        send.finish().unwrap();
        send.stopped().await.unwrap();
        let during = handle.acknowledged().load(Ordering::Relaxed) - before;
        assert!(during >= BYTES as u64 * 9 / 10, "{during}");
        assert!(handle.acknowledgements() > acknowledgements);
    }
}
