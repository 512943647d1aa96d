//! Bottleneck analysis: what limited a transfer, from measurements at one end.
//!
//! Each end measures how long its bodies waited for its own disk and for the peer, and how much
//! processor time it used. Only the sender sees losses and full windows. A receiver can therefore
//! say no more than that it was the path or the sender.
//!
//! A body waits for a blocking thread, which reads and hashes. What such threads spend computing is
//! no wait for the disk, so [`file_work`] measures both. Syncs are measured as well, and at the
//! sender the wait for answers, which come when the receiver has synced.

mod process;

use std::fmt;
use std::time::{Duration, Instant};

use quire_shared::Side;

use crate::flow::{ConnectionFlow, Direction, windows};
use process::CALLS_PER_SAMPLE;
pub(crate) use process::add_process;
pub use process::{file_sync, file_work};

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
    /// The receiver doesn't take the data, or make it durable, fast enough: mostly its disk.
    Receiver,
    /// The syncs with which the receiver makes the data durable.
    ReceiverSync,
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
    /// Time that streams of this end waited for data from the peer, summed likewise: at a sender,
    /// for answers.
    pub(crate) answers: Duration,
    /// Time of blocking work on files, and how much of it was computing or waiting for a processor,
    /// summed over threads; of a sample.
    pub(crate) file_work: Duration,
    pub(crate) file_processor: Duration,
    /// Time of syncs, summed over threads.
    pub(crate) syncs: Duration,
    /// Processor time of this process; zero where the system doesn't report it.
    pub(crate) processor: Duration,
    /// Bytes of all packets sent.
    pub(crate) sent_bytes: u64,
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
        let stream_window = u64::from(windows::stream_window(Side::Server));
        if self.disk() > self.network {
            Bottleneck::SenderDisk
        } else if self.is_busy() {
            Bottleneck::SenderProcessor
        } else if self.is_most(self.answers) && self.is_most(self.idle()) {
            // Nothing was left to send, and the answers were still to come.
            Bottleneck::ReceiverSync
        } else if self.is_stopped() {
            match self.fills(stream_window) {
                true => Bottleneck::Window,
                false => Bottleneck::Receiver,
            }
        } else if self.send_window < self.in_flight_max && self.fills(self.send_window) {
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
        if self.is_most(self.syncs) {
            Bottleneck::ReceiverSync
        } else if self.disk() > self.network {
            Bottleneck::Receiver
        } else if self.is_busy() {
            Bottleneck::ReceiverProcessor
        } else {
            sender.unwrap_or(Bottleneck::Elsewhere)
        }
    }

    /// Returns the time that bodies waited for the disk itself. Blocking threads also compute, and
    /// wait for a processor, which is all that they do with files in memory.
    fn disk(&self) -> Duration {
        if self.file_work.is_zero() {
            return self.disk;
        }
        let blocked = self.file_work.saturating_sub(self.file_processor);
        self.disk.min(blocked * CALLS_PER_SAMPLE)
    }

    /// Returns the time in which no body waited: at a sender mostly for answers, after its last byte.
    fn idle(&self) -> Duration {
        self.elapsed.saturating_sub(self.disk + self.network)
    }

    /// Whether `time` is more than half of the whole.
    fn is_most(&self, time: Duration) -> bool {
        2 * time > self.elapsed
    }

    /// Whether about a window of data left in each round trip. A window that is smaller than the
    /// path needs is always full; in one that fills because the receiver is slow, less moves.
    #[expect(clippy::cast_precision_loss, reason = "a rough comparison")]
    fn fills(&self, window: u64) -> bool {
        let trips = self.elapsed.as_secs_f64() / self.round_trip.as_secs_f64().max(1e-6);
        self.sent_bytes as f64 >= trips * window as f64 / 2.0
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
            Self::ReceiverSync => "the syncs to the disk of the receiver",
            Self::SenderProcessor => "the processor of the sender",
            Self::ReceiverProcessor => "the processor of the receiver",
            Self::Window => "the flow-control windows",
        })
    }
}

/// Shows the figures on one line.
impl fmt::Display for TransferStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk();
        let waited = (disk + self.network).as_secs_f64().max(f64::MIN_POSITIVE);
        write!(
            f,
            "waited {:.0} % for the disk, {:.0} % for the other side; processor {:.0} % of a core; \
             round trip {:.1} ms; {:.2} % lost of what was sent here",
            100.0 * disk.as_secs_f64() / waited,
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
            answers: now.answers.saturating_sub(before.answers),
            file_work: now.file_work.saturating_sub(before.file_work),
            file_processor: now.file_processor.saturating_sub(before.file_processor),
            syncs: now.syncs.saturating_sub(before.syncs),
            sent_bytes: now.sent_bytes.saturating_sub(before.sent_bytes),
            processor: now.processor.saturating_sub(before.processor),
            sent: now.sent.saturating_sub(before.sent),
            lost: now.lost.saturating_sub(before.lost),
            stopped: now.stopped.saturating_sub(before.stopped),
            ..now
        }
    }
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
        answers: Duration::ZERO,
        file_work: Duration::ZERO,
        file_processor: Duration::ZERO,
        syncs: Duration::ZERO,
        processor: Duration::from_secs(1),
        sent_bytes: 150_000_000,
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
                    sent_bytes: 4_000_000_000,
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
    fn on_a_fast_path_neither_windows_nor_memory_are_blamed() {
        let cases = [
            (
                // On a local path the congestion window says nothing.
                Bottleneck::Receiver,
                TransferStats {
                    stopped: 10_000,
                    in_flight_max: 40_000_000,
                    round_trip: Duration::from_micros(200),
                    ..UNHURRIED
                },
            ),
            (
                Bottleneck::ReceiverSync,
                TransferStats {
                    network: Duration::from_secs(1),
                    answers: Duration::from_secs(8),
                    ..UNHURRIED
                },
            ),
            (
                // The threads that read spent their time computing: the files are in memory.
                Bottleneck::Path,
                TransferStats {
                    disk: Duration::from_secs(20),
                    file_work: Duration::from_secs(20),
                    file_processor: Duration::from_secs(19),
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
        let syncing = TransferStats {
            syncs: Duration::from_secs(8),
            ..UNHURRIED
        };
        assert_eq!(syncing.of_receiver(None), Bottleneck::ReceiverSync);
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
}
