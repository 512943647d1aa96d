//! Bottleneck analysis: what limited a transfer, from measurements at one end.
//!
//! Each end measures how long its bodies waited for its own disk and for the peer, and how much
//! processor time it used. Only the sender sees losses and full windows. A receiver can therefore
//! say no more than that it was the path or the sender.

use std::fmt;
use std::time::{Duration, Instant};

use quire_shared::Side;

use crate::flow::{ConnectionFlow, Direction, windows};

/// What limited a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// The capacity of the path.
    Path,
    /// The path or the sender: the receiver can't tell which.
    Elsewhere,
    /// Packet loss on the path.
    Loss,
    /// The disk of the sender.
    SenderDisk,
    /// The receiver doesn't read fast enough: mostly its disk.
    Receiver,
    /// The processor of the sender.
    SenderProcessor,
    /// The processor of the receiver.
    ReceiverProcessor,
    /// Windows below the bandwidth-delay product of the path.
    Window,
}

/// Measurements of one end during a transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TransferStats {
    /// Duration of the transfer.
    pub(crate) elapsed: Duration,
    /// Time that bodies waited for the disk of this end, summed over concurrent bodies.
    pub(crate) disk: Duration,
    /// Time that bodies waited for the peer or the path, summed likewise.
    pub(crate) network: Duration,
    /// Processor time of this process; zero where the system doesn't report it.
    pub(crate) processor: Duration,
    /// Packets sent.
    pub(crate) sent: u64,
    /// Packets declared lost.
    pub(crate) lost: u64,
    /// Number of times that flow control of the peer blocked this end.
    pub(crate) stopped: u64,
    /// The smoothed round-trip time.
    pub(crate) round_trip: Duration,
    /// The congestion window, in bytes.
    pub(crate) in_flight_max: u64,
    /// The send window, in bytes.
    pub(crate) send_window: u64,
}

impl TransferStats {
    /// Returns what limited the transfer, as seen by its sender.
    pub(crate) fn of_sender(&self) -> Bottleneck {
        if self.disk > self.network {
            Bottleneck::SenderDisk
        } else if self.is_busy() {
            Bottleneck::SenderProcessor
        } else if self.is_stopped() {
            // A full window that is larger than the congestion window filled up because the
            // receiver didn't read, and not because the path needs a larger one.
            match self.in_flight_max < u64::from(windows::stream_window(Side::Server)) / 2 {
                true => Bottleneck::Receiver,
                false => Bottleneck::Window,
            }
        } else if self.send_window < self.in_flight_max {
            Bottleneck::Window
        } else if self.loss() >= LOSS_SHARE {
            Bottleneck::Loss
        } else {
            Bottleneck::Path
        }
    }

    /// Returns what limited the transfer, as seen by its receiver. `sender` is what the sender
    /// reported, if it did.
    pub(crate) fn of_receiver(&self, sender: Option<Bottleneck>) -> Bottleneck {
        if self.disk > self.network {
            Bottleneck::Receiver
        } else if self.is_busy() {
            Bottleneck::ReceiverProcessor
        } else {
            sender.unwrap_or(Bottleneck::Elsewhere)
        }
    }

    fn is_busy(&self) -> bool {
        self.processor.as_secs_f64() >= BUSY_SHARE * self.elapsed.as_secs_f64()
    }

    /// Whether flow control blocked the sender in at least a quarter of the round trips.
    fn is_stopped(&self) -> bool {
        let trips = self.elapsed.as_nanos() / self.round_trip.max(STOP_PERIOD_MIN).as_nanos();
        self.stopped > 1 && u128::from(self.stopped) >= trips / 4
    }

    /// Returns the share of packets that were lost.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }
}

impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path => "the path",
            Self::Elsewhere => "the path or the sender",
            Self::Loss => "the packets that the path loses",
            Self::SenderDisk => "the disk of the sender",
            Self::Receiver => "the disk of the receiver",
            Self::SenderProcessor => "the processor of the sender",
            Self::ReceiverProcessor => "the processor of the receiver",
            Self::Window => "the flow-control windows",
        })
    }
}

/// Shows the figures on one line.
impl fmt::Display for TransferStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waited = (self.disk + self.network)
            .as_secs_f64()
            .max(f64::MIN_POSITIVE);
        write!(
            f,
            "waited {:.0} % for the disk, {:.0} % for the other side; processor {:.0} % of a core; \
             round trip {:.1} ms; {:.2} % lost of what was sent here",
            100.0 * self.disk.as_secs_f64() / waited,
            100.0 * self.network.as_secs_f64() / waited,
            100.0 * self.processor.as_secs_f64()
                / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            1000.0 * self.round_trip.as_secs_f64(),
            100.0 * self.loss(),
        )
    }
}

/// Measures one end of a transfer from its creation on.
#[derive(Debug)]
pub struct Meter {
    flow: ConnectionFlow,
    direction: Direction,
    started: Instant,
    before: TransferStats,
}

impl Meter {
    /// Starts to measure what the connection of `flow` sends.
    pub fn sending(flow: &ConnectionFlow) -> Self {
        Self::new(flow, Direction::Out)
    }

    /// Starts to measure what the connection of `flow` receives.
    pub fn receiving(flow: &ConnectionFlow) -> Self {
        Self::new(flow, Direction::In)
    }

    fn new(flow: &ConnectionFlow, direction: Direction) -> Self {
        Self {
            flow: flow.clone(),
            direction,
            started: Instant::now(),
            before: flow.stats(direction),
        }
    }

    /// Returns what limited the transfer until now, with the figures.
    pub fn read(&self) -> (Bottleneck, TransferStats) {
        let stats = self.stats();
        let bottleneck = match self.direction {
            Direction::Out => stats.of_sender(),
            Direction::In => stats.of_receiver(None),
        };
        (bottleneck, stats)
    }

    fn stats(&self) -> TransferStats {
        let now = self.flow.stats(self.direction);
        let before = &self.before;
        TransferStats {
            elapsed: self.started.elapsed(),
            disk: now.disk.saturating_sub(before.disk),
            network: now.network.saturating_sub(before.network),
            processor: now.processor.saturating_sub(before.processor),
            sent: now.sent.saturating_sub(before.sent),
            lost: now.lost.saturating_sub(before.lost),
            stopped: now.stopped.saturating_sub(before.stopped),
            ..now
        }
    }
}

/// Returns the processor time of this process; zero where the system doesn't report it.
pub(crate) fn processor_time() -> Duration {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

/// Share of one core from which the processor is the bottleneck: only one thread at a time builds
/// packets of a connection.
const BUSY_SHARE: f64 = 0.9;

/// Share of lost packets from which loss is the bottleneck.
const LOSS_SHARE: f64 = 0.01;

/// Shorter round trips count as this long: on them a window fills and drains so often that being
/// blocked costs nothing.
const STOP_PERIOD_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds in which bodies waited for the peer and nothing else stood out.
    const UNHURRIED: TransferStats = TransferStats {
        elapsed: Duration::from_secs(10),
        disk: Duration::from_millis(100),
        network: Duration::from_secs(9),
        processor: Duration::from_secs(1),
        sent: 100_000,
        lost: 10,
        stopped: 0,
        round_trip: Duration::from_millis(80),
        in_flight_max: 2_500_000,
        send_window: 10_000_000,
    };

    #[test]
    fn a_sender_that_only_waits_for_the_path_is_limited_by_it() {
        assert_eq!(UNHURRIED.of_sender(), Bottleneck::Path);
    }

    #[test]
    fn each_figure_that_stands_out_is_the_bottleneck() {
        let cases = [
            (
                Bottleneck::SenderDisk,
                TransferStats {
                    disk: Duration::from_secs(20),
                    ..UNHURRIED
                },
            ),
            (
                Bottleneck::SenderProcessor,
                TransferStats {
                    processor: Duration::from_millis(9_500),
                    ..UNHURRIED
                },
            ),
            (
                Bottleneck::Receiver,
                TransferStats {
                    stopped: 100,
                    ..UNHURRIED
                },
            ),
            (
                Bottleneck::Window,
                TransferStats {
                    stopped: 100,
                    in_flight_max: 40_000_000,
                    ..UNHURRIED
                },
            ),
            (
                Bottleneck::Window,
                TransferStats {
                    send_window: 2_000_000,
                    ..UNHURRIED
                },
            ),
            (
                Bottleneck::Loss,
                TransferStats {
                    lost: 2_000,
                    ..UNHURRIED
                },
            ),
            (
                Bottleneck::Path,
                TransferStats {
                    stopped: 3,
                    ..UNHURRIED
                },
            ),
        ];
        for (bottleneck, stats) in cases {
            assert_eq!(stats.of_sender(), bottleneck, "{stats:?}");
        }
    }

    #[test]
    fn a_receiver_blames_itself_first_and_else_believes_the_sender() {
        let slow_disk = TransferStats {
            disk: Duration::from_secs(10),
            ..UNHURRIED
        };
        let busy = TransferStats {
            processor: Duration::from_secs(10),
            ..UNHURRIED
        };
        let reported = Some(Bottleneck::Loss);
        assert_eq!(slow_disk.of_receiver(reported), Bottleneck::Receiver);
        assert_eq!(busy.of_receiver(reported), Bottleneck::ReceiverProcessor);
        assert_eq!(UNHURRIED.of_receiver(reported), Bottleneck::Loss);
        assert_eq!(UNHURRIED.of_receiver(None), Bottleneck::Elsewhere);
    }

    #[test]
    fn empty_measurements_divide_nothing_by_zero() {
        let nothing = TransferStats::default();
        assert!(!nothing.to_string().contains("NaN"), "{nothing}");
        nothing.of_sender();
    }

    #[test]
    fn the_figures_are_one_line() {
        assert_eq!(
            UNHURRIED.to_string(),
            "waited 1 % for the disk, 99 % for the other side; processor 10 % of a core; \
             round trip 80.0 ms; 0.01 % lost of what was sent here"
        );
    }

    #[test]
    fn processor_time_grows_with_work() {
        let before = processor_time();
        let mut hasher = quire_shared::digest::DigestKind::Blake3.hasher();
        hasher.update(&vec![0; 1 << 20]);
        assert!(
            cfg!(not(unix)) || processor_time() > before,
            "{}",
            hasher.finish()
        );
    }
}
