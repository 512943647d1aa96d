//! Congestion control: quire's own controller, and the choice between it and those of quinn.
//!
//! CUBIC treats every loss as congestion and collapses on long lossy paths. The BBR of quinn is
//! version 1, which ignores loss and floods short queues. The controller of quire keeps a model of
//! the path, its delivery rate and smallest round trip, as BBR does (draft-ietf-ccwg-bbr). It keeps
//! little more than their product in flight.
//!
//! - **Loss.** Only a round that loses clearly more than usual is a sign of congestion. It bounds
//!   the bytes in flight, like the short-term and long-term bounds of BBRv3 (`loss`).
//! - **Start-up.** The window grows with acknowledged bytes. Packet trains tell how fast it may
//!   grow, and the first signs of a queue end start-up, as in HyStart++ (RFC 9406) (`startup`).
//! - **Stalls.** A stall of either end or of the path makes the round trip jump, whereas a queue
//!   makes it grow (`filters`). Start-up only slows down during a stall. If it ended too early, the
//!   first probe that finds more bandwidth resumes it.
//! - **Probes.** Once in about eight rounds the controller probes for more bandwidth and then
//!   drains the queue, in the order of BBR's cycle (`control`).
//! - **Competing flows.** The drain also shows whether a competing flow keeps the queue filled, as
//!   in Copa (Arun and Balakrishnan, NSDI 2018). Only then the window follows CUBIC (RFC 9438)
//!   (`drain_probe`, `cubic_mode`).
//! - **Pacing.** quinn paces at 1.25 × window / smoothed round trip (RFC 9002, §7.7). So the window
//!   alone controls the rate, and no burst is larger than quinn's pacer allows.
//!
//! At trace level for `quire_transport::congestion`, the log has a line for each round with what
//! was measured and decided.
//!
//! quinn calls `on_ack` for each packet, then `on_end_acks`, then `on_congestion_event` with the
//! bytes that these acknowledgements show as lost. An ECN mark is such an event with zero bytes.
//! Changes of the MTU, including black holes, are no congestion and arrive as `on_mtu_update`.

mod control;
mod cubic_mode;
mod delivery_rate;
mod drain_probe;
mod filters;
mod loss;
mod path_model;
#[cfg(test)]
mod simulator;
mod startup;
mod utilization;

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

use control::Control;
use startup::initial_window;

/// A congestion control algorithm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// The controller of quire: fast on long and lossy paths, with a short queue.
    #[default]
    Quire,
    /// CUBIC of quinn (RFC 9438): slow on paths with random loss, like most TCP.
    Cubic,
    /// BBR version 1 of quinn: fast, but floods short queues.
    Bbr,
}

impl CongestionControl {
    /// All algorithms, in the order to show them.
    pub const ALL: [Self; 3] = [Self::Quire, Self::Cubic, Self::Bbr];

    /// Creates the factory for `quinn::TransportConfig::congestion_controller_factory`.
    pub(crate) fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Quire => Arc::new(QuireCongestion),
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
        }
    }

    /// Returns the name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quire => "quire",
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }
}

impl fmt::Display for CongestionControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error for a name that is not one of [`CongestionControl::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown congestion control; expected quire, cubic or bbr")]
pub struct UnknownCongestionControl;

impl FromStr for CongestionControl {
    type Err = UnknownCongestionControl;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.name() == name)
            .ok_or(UnknownCongestionControl)
    }
}

/// Creates the controllers of quire.
struct QuireCongestion;

impl ControllerFactory for QuireCongestion {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(QuireController {
            mtu: current_mtu,
            control: Control::new(now, current_mtu),
        })
    }
}

/// The controller of one path, behind quinn's interface.
#[derive(Debug, Clone)]
struct QuireController {
    mtu: u16,
    control: Control,
}

impl Controller for QuireController {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.control.on_sent(now);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.control.on_ack(now, sent, bytes, app_limited);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.control.on_end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.control
            .on_congestion(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.control.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.control.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        initial_window(self.mtu)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_as_they_are_shown() {
        for choice in CongestionControl::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!(
            "reno".parse::<CongestionControl>(),
            Err(UnknownCongestionControl)
        );
    }

    #[test]
    fn every_choice_builds_a_controller_with_room_to_start() {
        for choice in CongestionControl::ALL {
            let controller = choice.factory().build(Instant::now(), 1200);
            assert!(controller.window() >= 10 * 1200, "{choice}");
            assert_eq!(controller.clone_box().window(), controller.window());
        }
    }

    #[test]
    fn persistent_congestion_starts_over_from_the_smallest_window() {
        let start = Instant::now();
        let mut controller = CongestionControl::Quire.factory().build(start, 1200);
        let before = controller.window();
        controller.on_congestion_event(start, start, true, 12_000);
        assert!(controller.window() < before / 4);
        assert!(controller.window() >= 2 * 1200);
    }
}
