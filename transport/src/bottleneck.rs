//! What limited a transfer: a verdict for people, from what each end measured.
//!
//! Each end knows how long its bodies waited for its own disk and how long for the other side, and
//! how much of its processor went into it. Only the sender knows of losses and of windows that
//! were full, so a receiver can say no more than that it was the path or the sender.

use std::fmt;
use std::time::{Duration, Instant};

use quire_shared::Side;

use crate::flow::{ConnectionFlow, Direction, windows};

/// What limited a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// The rate of the path.
    Path,
    /// The path, or the sender: the receiver can't tell which.
    Elsewhere,
    /// Packets that the path loses.
    Loss,
    /// The disk that the content comes from.
    SenderDisk,
    /// The receiver, which takes no more: mostly its disk.
    Receiver,
    /// The processor of the sender.
    SenderProcessor,
    /// The processor of the receiver.
    ReceiverProcessor,
    /// Windows smaller than what the path holds.
    Window,
}

/// What one end measured from the begin of a transfer to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TransferStats {
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// How long bodies waited for this end's disk; of several at once the sum.
    pub(crate) disk: Duration,
    /// How long bodies waited for the other side, likewise.
    pub(crate) network: Duration,
    /// What the process used of the processor, where the system tells.
    pub(crate) processor: Duration,
    /// Packets that were sent.
    pub(crate) sent: u64,
    /// Packets that were lost.
    pub(crate) lost: u64,
    /// How often this end stopped because the other side's windows were full.
    pub(crate) stopped: u64,
    /// A round trip.
    pub(crate) round_trip: Duration,
    /// What the congestion controller lets be under way, in bytes.
    pub(crate) in_flight_max: u64,
    /// The window for sending, in bytes.
    pub(crate) send_window: u64,
}

impl TransferStats {
    /// What limited the transfer, as its sender sees it.
    pub(crate) fn of_sender(&self) -> Bottleneck {
        if self.disk > self.network {
            Bottleneck::SenderDisk
        } else if self.is_busy() {
            Bottleneck::SenderProcessor
        } else if self.is_stopped() {
            // What a window held was more than the path could have under way, so it filled because
            // nobody emptied it.
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

    /// What limited the transfer, as its receiver sees it who heard `sender` from the other side.
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

    /// Whether full windows stopped the sender in a good part of the round trips.
    fn is_stopped(&self) -> bool {
        let trips = self.elapsed.as_nanos() / self.round_trip.max(STOP_PERIOD_MIN).as_nanos();
        self.stopped > 1 && u128::from(self.stopped) >= trips / 4
    }

    /// The share of packets that were lost.
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
            Self::Window => "the windows for what is under way",
        })
    }
}

/// The figures that a verdict stands on, in one line.
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

/// Measures one end of a transfer, from its making on.
#[derive(Debug)]
pub struct Meter {
    flow: ConnectionFlow,
    direction: Direction,
    started: Instant,
    before: TransferStats,
}

impl Meter {
    /// Begins to measure what `traffic` sends.
    pub fn sending(flow: &ConnectionFlow) -> Self {
        Self::new(flow, Direction::Out)
    }

    /// Begins to measure what `traffic` receives.
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

    /// What limited the transfer until now, and the figures for it.
    pub fn read(&self) -> (Bottleneck, TransferStats) {
        let stats = self.stats();
        let bottleneck = match self.direction {
            Direction::Out => stats.of_sender(),
            Direction::In => stats.of_receiver(None),
        };
        (bottleneck, stats)
    }

    fn stats(&self) -> TransferStats {
        let (now, before) = (self.flow.stats(self.direction), &self.before);
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

/// What this process has used of the processor until now; nothing where the system doesn't tell.
pub(crate) fn processor_time() -> Duration {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

/// The share of one core from which on the processor is the limit: packets of a connection are
/// made by one thread at a time.
const BUSY_SHARE: f64 = 0.9;

/// The share of packets from which on losses are worth a word.
const LOSS_SHARE: f64 = 0.01;

/// On shorter round trips a window is filled and emptied more often than anybody waits for.
const STOP_PERIOD_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds in which bodies waited for the other side and nothing else was amiss.
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
    fn each_counter_that_stands_out_is_the_senders_verdict() {
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
    fn nothing_measured_is_no_division_by_zero() {
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
    fn time_goes_into_work() {
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
