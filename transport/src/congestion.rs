//! Congestion control: quire's own controller, and the choice between it and quinn's.
//!
//! quinn's CUBIC takes any loss for congestion and collapses on long lossy paths; its BBR, the first
//! version, takes none and floods short queues. Ours keeps a model of the path, delivery rate and smallest
//! round trip, as BBR does (draft-ietf-ccwg-bbr), and keeps little more than this under way.
//!
//! - Loss counts only where a round loses clearly more than the path usually does; it then bounds
//!   what is under way, as BBRv3's short and long term bounds do ([`loss`]).
//! - Start-up grows by what is acknowledged and reads how fast it may from packet trains; it ends
//!   with the first signs of a queue, as in HyStart++ (RFC 9406) ([`startup`]).
//! - A stall, of either end or of the path, is no queue: it makes the round trip jump, where a queue
//!   makes it grow ([`filters`]). Start-up only slows down meanwhile, as in HyStart++; one that was
//!   left too early is taken up again by the first probe that finds more.
//! - One probe for more rate in some eight rounds, and a drain after it, in the order of BBR's cycle
//!   ([`control`]). The drain also tells, as Copa does (Arun, Balakrishnan, NSDI 2018), whether a
//!   neighbour keeps the queue filled; only then we share as CUBIC (RFC 9438) ([`dip`], [`neighbour`]).
//! - quinn paces at 1.25 × window / smoothed round trip, so the window alone steers the rate, and
//!   what is under way is what the window says: no burst is larger than quinn's pacer allows
//!   (RFC 9002 §7.7).
//!
//! With the log at trace level for `quire_transport::congestion`, a line for each round says what was
//! measured and decided.
//!
//! quinn calls `on_ack` for each packet, then `on_end_acks`, then `on_congestion_event` with what
//! these acknowledgements prove lost; an ECN mark comes as such an event with no bytes. Changes of
//! the MTU, black holes included, are no congestion and come as `on_mtu_update`.

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

use control::{Control, initial_window};

/// How a connection finds the rate it sends at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// Our own: fast on lossy and long paths, with a short queue.
    #[default]
    Quire,
    /// quinn's CUBIC: like most TCP, slow wherever packets are lost at random.
    Cubic,
    /// quinn's BBR, the first version: fast, but floods short queues.
    Bbr,
}

impl CongestionControl {
    /// Every choice, in the order to show them.
    pub const ALL: [Self; 3] = [Self::Quire, Self::Cubic, Self::Bbr];

    /// What `quinn::TransportConfig::congestion_controller_factory` takes.
    pub(crate) fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Quire => Arc::new(QuireCongestion),
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
        }
    }

    /// The name on the command line.
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

/// The name is not one of [`CongestionControl::ALL`].
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

/// Makes quire's own controllers.
struct QuireCongestion;

impl ControllerFactory for QuireCongestion {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(QuireController {
            mtu: current_mtu,
            control: Control::new(now, current_mtu),
        })
    }
}

/// One path's controller, as quinn sees it.
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
    fn names_are_parsed_as_they_are_shown() {
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
