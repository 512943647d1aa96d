//! Congestion control: quire's own controller, and the choice between it and those of quinn.
//!
//! CUBIC treats every loss as congestion and collapses on long lossy paths. The BBR of quinn is
//! version 1, which ignores loss and floods short queues. The controller of quire keeps a model of
//! the path, its delivery rate and smallest round trip, as BBR does (draft-ietf-ccwg-bbr). It keeps
//! little more than their product in flight.
//!
//! - **Loss.** Only a round that loses clearly more than usual, with more in flight than the path
//!   holds, is a sign of congestion. It bounds the bytes in flight, like the long-term bound of
//!   BBRv3. A burst of losses changes nothing (`loss`).
//! - **Reordering.** A packet is lost when others were acknowledged for half a round trip, as in
//!   RACK (RFC 8985), not when three overtook it ([`PACKET_THRESHOLD`], [`TIME_THRESHOLD`]).
//! - **Start-up.** The window grows with acknowledged bytes. Packet trains tell how fast it may
//!   grow, and the first signs of a queue end start-up, as in HyStart++ (RFC 9406) (`startup`).
//! - **Jitter.** Delay that comes and goes, and doesn't keep the rate from growing, is no queue. The
//!   round trip of the model then includes it (`jitter`).
//! - **Stalls.** A stall of either end or of the path makes the round trip jump, whereas a queue
//!   makes it grow (`filters`). Start-up only slows down during a stall. If it ended too early, the
//!   first probe that finds more bandwidth resumes it.
//! - **Outages.** After persistent congestion (RFC 9002, §7.6) start-up begins again, from the
//!   initial window: the rest of a burst would empty the minimum window again (`control`).
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
mod jitter;
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
use std::time::{Duration, Instant};

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

/// Returns the delay by jitter that `controller` has found on its path: zero for those of quinn,
/// which don't look for it.
pub(crate) fn jitter(controller: Box<dyn Controller>) -> Duration {
    match controller.into_any().downcast::<QuireController>() {
        Ok(own) => own.control.jitter(),
        Err(_) => Duration::ZERO,
    }
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

/// Packets that are acknowledged before an earlier one counts as lost (RFC 9002, §6.1.1, recommends
/// 3). Wi-Fi and multipath routes deliver packets late by many more. This is 30 ms of full packets at
/// 100 Mbit/s, and on faster paths soon after a round trip.
pub(crate) const PACKET_THRESHOLD: u32 = 256;

/// Round trips after which a packet is lost if a later one was acknowledged (RFC 9002, §6.1.2,
/// recommends 9/8; RACK, RFC 8985, adapts from 5/4 to 2). quinn can't adapt it to a connection.
pub(crate) const TIME_THRESHOLD: f32 = 1.5;

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn persistent_congestion_starts_over_from_the_initial_window() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut control = Control::new(start, 1200);
        let initial = control.window();
        for round in 0..4 {
            control.on_sent(at(40 * round));
            control.on_ack(at(40 * round + 40), at(40 * round), initial, false);
            control.on_end_acks(at(40 * round + 40), initial, false);
        }
        assert!(control.window() > initial, "the window has grown");
        control.on_congestion(at(900), at(400), true, 12_000);
        assert_eq!(control.window(), initial);
    }
}
