//! Bottleneck analysis: what limited a transfer, from measurements at one end.
//!
//! Each end measures how long its bodies waited for its own disk and for the peer, and how much
//! processor time it used. Only the sender sees full windows and what the path does to packets, and
//! only the receiver knows of its syncs. So a client asks the server after a transfer, whose
//! [`Meters`] answer; then the verdict of the receiver counts, if it found the limit on its side,
//! and else that of the sender.
//!
//! A body waits for a blocking thread, which reads and hashes. What such threads spend computing is
//! no wait for the disk, so [`file_work`] measures both. Syncs are measured as well. These and the
//! processor time are of the whole process, so a server that is busy for others blames itself.

mod process;

use std::fmt;
use std::time::{Duration, Instant};

use quire_shared::protocol::{EndedTransfer, Measured};

use crate::controller::Acknowledged;
use crate::flow::{ConnectionFlow, Direction};
use process::CALLS_PER_SAMPLE;
pub(crate) use process::add_process;
pub use process::{file_sync, file_work};

/// What limited a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// The capacity of the path.
    Path,
    /// The path or the other end: this one can't tell which.
    Elsewhere,
    /// Packet loss on the path.
    Loss,
    /// Packets that overtake others on the path.
    Reordering,
    /// Delay that the path adds to some packets.
    Jitter,
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

impl Bottleneck {
    /// All that an end can name, by their numbers in messages.
    const ALL: [Self; 11] = [
        Self::Elsewhere,
        Self::Path,
        Self::Loss,
        Self::Reordering,
        Self::Jitter,
        Self::SenderDisk,
        Self::Receiver,
        Self::ReceiverSync,
        Self::SenderProcessor,
        Self::ReceiverProcessor,
        Self::Window,
    ];

    fn number(self) -> u8 {
        let position = Self::ALL.iter().position(|one| *one == self);
        position.and_then(|at| u8::try_from(at).ok()).unwrap_or(0)
    }

    /// Returns what has a number; what a newer peer names is elsewhere.
    fn from_number(number: u8) -> Self {
        let known = Self::ALL.get(usize::from(number));
        known.copied().unwrap_or(Self::Elsewhere)
    }
}

/// What a path did to the packets of a sender.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct PathFaults {
    /// Share that was lost.
    lost: f64,
    /// Share that later packets overtook.
    late: f64,
    /// Delay by jitter.
    jitter: Duration,
}

/// What limited a transfer, with the figures of this end, and those of the path if the sender has
/// told them. Shown on one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What limited it.
    pub limit: Bottleneck,
    stats: TransferStats,
    faults: Option<PathFaults>,
}

/// Measurements of one end during a transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TransferStats {
    /// Duration of the transfer.
    pub(crate) elapsed: Duration,
    /// Time that bodies waited for the disk of this end, summed over concurrent bodies.
    pub(crate) disk: Duration,
    /// Time that bodies waited for the peer or the path, summed likewise.
    pub(crate) network: Duration,
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
    /// Packets that the peer acknowledged, and those of them that came after later ones.
    pub(crate) acknowledged: Acknowledged,
    /// The smoothed round-trip time, and the smallest.
    pub(crate) round_trip: Duration,
    pub(crate) round_trip_min: Duration,
    /// What of it is jitter, if the controller has found any.
    pub(crate) jitter: Duration,
    /// The congestion window, in bytes.
    pub(crate) in_flight_max: u64,
    /// The largest send window, in bytes; without bodies it is smaller.
    pub(crate) send_window: u64,
    /// The receive window of a stream at the peer, in bytes.
    pub(crate) stream_window: u64,
}

impl TransferStats {
    /// Returns what limited the transfer, as seen by its sender.
    fn of_sender(&self) -> Bottleneck {
        if self.disk() > self.network {
            Bottleneck::SenderDisk
        } else if self.is_busy() {
            Bottleneck::SenderProcessor
        } else if self.is_stopped() {
            match self.fills(self.stream_window) {
                true => Bottleneck::Window,
                false => Bottleneck::Receiver,
            }
        } else if self.send_window < self.in_flight_max && self.fills(self.send_window) {
            Bottleneck::Window
        } else {
            self.limit_of_path()
        }
    }

    /// Returns what limited the transfer, as seen by its receiver.
    fn of_receiver(&self) -> Bottleneck {
        if self.is_most(self.syncs) {
            Bottleneck::ReceiverSync
        } else if self.disk() > self.network {
            Bottleneck::Receiver
        } else if self.is_busy() {
            Bottleneck::ReceiverProcessor
        } else {
            Bottleneck::Elsewhere
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

    /// Returns what of the path limited a transfer that nothing else did.
    fn limit_of_path(&self) -> Bottleneck {
        let PathFaults { lost, late, jitter } = self.faults();
        // Packets that are very late count as lost.
        if late >= FAULT_SHARE && late >= lost {
            Bottleneck::Reordering
        } else if lost >= FAULT_SHARE {
            Bottleneck::Loss
        } else if jitter >= self.jitter_tolerated() {
            Bottleneck::Jitter
        } else {
            Bottleneck::Path
        }
    }

    /// Returns the jitter that costs nothing, or that acknowledgements make: they come once in
    /// several packets.
    #[expect(clippy::cast_precision_loss, reason = "a rough comparison")]
    fn jitter_tolerated(&self) -> Duration {
        let packets = self.elapsed.as_secs_f64() / self.sent.max(1) as f64;
        let acknowledgement = Duration::from_secs_f64(packets * ACKNOWLEDGED_PACKETS);
        acknowledgement.max(self.round_trip_min / 4).max(JITTER_MIN)
    }

    /// Returns what the path did to the packets of this end.
    #[expect(clippy::cast_precision_loss, reason = "shares")]
    fn faults(&self) -> PathFaults {
        let Acknowledged { packets, late } = self.acknowledged;
        PathFaults {
            lost: self.lost as f64 / self.sent.max(1) as f64,
            late: late as f64 / packets.max(1) as f64,
            jitter: self.jitter,
        }
    }
}

impl From<&Measured> for PathFaults {
    fn from(measured: &Measured) -> Self {
        Self {
            lost: f64::from(measured.lost) / MILLION,
            late: f64::from(measured.late) / MILLION,
            jitter: Duration::from_micros(measured.jitter.into()),
        }
    }
}

impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path => "the path",
            Self::Elsewhere => "the path or the other side",
            Self::Loss => "the packets that the path loses",
            Self::Reordering => "the path, which reorders packets",
            Self::Jitter => "the path, whose delay varies",
            Self::SenderDisk => "the disk of the sender",
            Self::Receiver => "the disk of the receiver",
            Self::ReceiverSync => "the syncs to the disk of the receiver",
            Self::SenderProcessor => "the processor of the sender",
            Self::ReceiverProcessor => "the processor of the receiver",
            Self::Window => "the flow-control windows",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let disk = stats.disk();
        let waited = (disk + stats.network).as_secs_f64().max(f64::MIN_POSITIVE);
        write!(
            f,
            "{}: waited {:.0} % for the disk, {:.0} % for the other side; processor {:.0} % of a core; \
             round trip {:.1} ms",
            self.limit,
            100.0 * disk.as_secs_f64() / waited,
            100.0 * stats.network.as_secs_f64() / waited,
            100.0 * stats.processor.as_secs_f64()
                / stats.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            1000.0 * stats.round_trip.as_secs_f64(),
        )?;
        let Some(PathFaults { lost, late, jitter }) = self.faults else {
            return Ok(());
        };
        let (lost, late) = (100.0 * lost, 100.0 * late);
        let jitter = 1000.0 * jitter.as_secs_f64();
        write!(
            f,
            ", jitter {jitter:.1} ms; {lost:.2} % lost, {late:.2} % late"
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

    /// Returns how to ask the peer about the transfer until now.
    pub fn question(&self) -> EndedTransfer {
        EndedTransfer {
            is_upload: self.direction == Direction::Out,
            micros: whole(self.started.elapsed().as_micros()),
        }
    }

    /// Returns what limited the transfer until now. `peer` is what the other end has measured, if
    /// it has told that.
    pub fn judge(&self, peer: Option<&Measured>) -> Verdict {
        let stats = self.stats();
        let theirs = peer.map_or(Bottleneck::Elsewhere, |peer| {
            Bottleneck::from_number(peer.limit)
        });
        let (sender, receiver, faults) = match self.direction {
            Direction::Out => (stats.of_sender(), theirs, Some(stats.faults())),
            Direction::In => (theirs, stats.of_receiver(), peer.map(PathFaults::from)),
        };
        let limit = match receiver {
            Bottleneck::Elsewhere => sender,
            found => found,
        };
        Verdict {
            limit,
            stats,
            faults,
        }
    }

    fn stats(&self) -> TransferStats {
        let now = self.flow.stats(self.direction);
        let before = &self.before;
        TransferStats {
            elapsed: self.started.elapsed(),
            disk: now.disk.saturating_sub(before.disk),
            network: now.network.saturating_sub(before.network),
            file_work: now.file_work.saturating_sub(before.file_work),
            file_processor: now.file_processor.saturating_sub(before.file_processor),
            syncs: now.syncs.saturating_sub(before.syncs),
            sent_bytes: now.sent_bytes.saturating_sub(before.sent_bytes),
            processor: now.processor.saturating_sub(before.processor),
            sent: now.sent.saturating_sub(before.sent),
            lost: now.lost.saturating_sub(before.lost),
            stopped: now.stopped.saturating_sub(before.stopped),
            acknowledged: Acknowledged {
                packets: now.acknowledged.packets - before.acknowledged.packets,
                late: now.acknowledged.late - before.acknowledged.late,
            },
            ..now
        }
    }
}

/// Measures both directions of a connection for a peer that asks.
#[derive(Debug)]
pub struct Meters {
    sending: Meter,
    receiving: Meter,
}

impl Meters {
    /// Starts to measure.
    pub fn new(flow: &ConnectionFlow) -> Self {
        Self {
            sending: Meter::sending(flow),
            receiving: Meter::receiving(flow),
        }
    }

    /// Returns what was measured of a transfer with the peer, and measures the next one.
    pub fn measured(&mut self, transfer: EndedTransfer) -> Measured {
        let meter = match transfer.is_upload {
            true => &mut self.receiving,
            false => &mut self.sending,
        };
        let mut stats = meter.stats();
        // What was before the transfer is no part of it.
        stats.elapsed = stats.elapsed.min(Duration::from_micros(transfer.micros));
        *meter = Meter::new(&meter.flow, meter.direction);
        let limit = match transfer.is_upload {
            true => stats.of_receiver(),
            false => stats.of_sender(),
        };
        let faults = stats.faults();
        Measured {
            limit: limit.number(),
            lost: millionths(faults.lost),
            late: millionths(faults.late),
            jitter: whole(faults.jitter.as_micros()),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is between zero and one"
)]
fn millionths(share: f64) -> u32 {
    (share * MILLION) as u32
}

fn whole<T: TryFrom<u128> + From<u32>>(number: u128) -> T {
    T::try_from(number).unwrap_or_else(|_| T::from(u32::MAX))
}

const MILLION: f64 = 1e6;

/// Share of one core from which the processor is the bottleneck: only one thread at a time builds
/// packets of a connection.
const BUSY_SHARE: f64 = 0.9;

/// Share of lost or late packets from which they are what is to be said of the path.
const FAULT_SHARE: f64 = 0.01;

/// Jitter below which it is noise of the machines.
const JITTER_MIN: Duration = Duration::from_millis(2);

/// Packets for which a round trip may be longer than that of the first, until all of them are
/// acknowledged: quinn acknowledges ten at once, and the next packet may have waited as long.
const ACKNOWLEDGED_PACKETS: f64 = 20.0;

/// Shorter round trips count as this long: on them a window fills and drains so often that being
/// blocked costs nothing.
const STOP_PERIOD_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
