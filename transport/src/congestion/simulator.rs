//! A deterministic network simulator for tests of the controller.
//!
//! One bottleneck link (rate, delay, tail-drop queue, seeded random loss) carries any number of
//! senders. A [`sender::SimulatedSender`] calls its controller as quinn does and paces with quinn's
//! formula, so results apply to real connections. Times are nanoseconds since the start.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "simulated times and sizes are positive and far below 2^53"
)]

mod cubic;
mod impairments;
mod real_paths;
mod scenarios;
mod sender;
mod stalls;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use impairments::Impairments;
pub(super) use sender::SimulatedSender;
use stalls::{StalledPart, Stalls};

pub(super) const MILLISECOND: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000 * MILLISECOND;

/// Size of a packet on the link, in bytes.
pub(super) const PACKET: u64 = 1480;

/// A change of the link.
#[derive(Debug, Clone, Copy)]
pub(super) enum LinkChange {
    Rate(f64),
    RoundTrip(u64),
}

/// The bottleneck link.
#[derive(Debug, Clone)]
pub(super) struct SimulatedLink {
    /// Bytes per nanosecond.
    pub(super) rate: f64,
    /// Propagation delay in both directions together.
    pub(super) round_trip: u64,
    /// Size of the queue, in bytes.
    pub(super) queue_max: f64,
    /// What happens to data on its way, and to acknowledgements.
    pub(super) forward: Impairments,
    pub(super) back: Impairments,
    /// Interval at which held-back acknowledgements arrive; zero without aggregation.
    pub(super) aggregation: u64,
    /// Packets per acknowledgement.
    pub(super) ack_every: usize,
    pub(super) changes: Vec<(u64, LinkChange)>,
    stalls: Stalls,
}

impl SimulatedLink {
    /// Creates a link from megabits per second, milliseconds, and a queue in bandwidth-delay
    /// products.
    pub(super) fn new(megabits: f64, round_trip_ms: f64, queue: f64) -> Self {
        let rate = megabits * 1e6 / 8.0 / 1e9;
        let round_trip = (round_trip_ms * 1e6) as u64;
        Self {
            rate,
            round_trip,
            queue_max: (queue * rate * round_trip as f64).max(64.0 * PACKET as f64),
            forward: Impairments::default(),
            back: Impairments::default(),
            aggregation: 0,
            ack_every: 2,
            changes: Vec::new(),
            stalls: Stalls::default(),
        }
    }

    pub(super) fn loss(mut self, loss: f64) -> Self {
        self.forward.loss = loss;
        self
    }

    pub(super) fn change(mut self, at: u64, change: LinkChange) -> Self {
        self.changes.push((at, change));
        self
    }

    /// Returns the rate in bytes per second.
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.rate * 1e9
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NetworkEvent {
    /// A packet of a flow reaches its receiver.
    Arrive {
        flow: usize,
        packet: u64,
    },
    /// The timer of the receiver for a delayed acknowledgement.
    AckTimer {
        flow: usize,
        armed: u64,
    },
    /// An acknowledgement of these packets reaches the sender.
    Ack {
        flow: usize,
        packets: Vec<u64>,
    },
    /// The sender may send, or has a timer due.
    Wake {
        flow: usize,
    },
    Sample,
    Change(usize),
}

impl NetworkEvent {
    /// Returns the part that this event happens at, whose stalls delay it.
    fn part(&self) -> Option<StalledPart> {
        match self {
            Self::Arrive { .. } | Self::AckTimer { .. } => Some(StalledPart::Receiver),
            Self::Ack { .. } | Self::Wake { .. } => Some(StalledPart::Sender),
            Self::Sample | Self::Change(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct SimulatedReceiver {
    unacked: Vec<u64>,
    largest: Option<u64>,
    armed: u64,
}

/// The statistics of one flow.
#[derive(Debug, Default, Clone)]
pub(super) struct FlowRecord {
    pub(super) delivered: u64,
    pub(super) sent: u64,
    pub(super) dropped: u64,
    /// Time at which the last byte of a limited flow was acknowledged.
    pub(super) finished: Option<u64>,
    /// Bytes delivered per 100 ms.
    pub(super) slots: Vec<u64>,
}

impl FlowRecord {
    /// Returns the rate between two times, in bytes per second.
    pub(super) fn rate(&self, from: u64, to: u64) -> f64 {
        let slots = (from / SLOT) as usize..(to / SLOT) as usize;
        let bytes: u64 = slots
            .map(|slot| self.slots.get(slot).copied().unwrap_or(0))
            .sum();
        bytes as f64 * 1e9 / (to - from) as f64
    }

    pub(super) fn drop_share(&self) -> f64 {
        self.dropped as f64 / self.sent.max(1) as f64
    }
}

/// The network and its senders.
pub(super) struct Network {
    pub(super) link: SimulatedLink,
    pub(super) now: u64,
    pub(super) senders: Vec<SimulatedSender>,
    pub(super) records: Vec<FlowRecord>,
    receivers: Vec<SimulatedReceiver>,
    events: BinaryHeap<Reverse<(u64, u64, NetworkEvent)>>,
    sequence: u64,
    busy_until: u64,
    /// Waiting time in the queue, in nanoseconds, sampled every millisecond.
    pub(super) queue: Vec<u64>,
}

impl Network {
    pub(super) fn new(link: SimulatedLink, senders: Vec<SimulatedSender>, seed: u64) -> Self {
        let flows = senders.len();
        let mut network = Self {
            link,
            now: 0,
            records: vec![FlowRecord::default(); flows],
            receivers: (0..flows).map(|_| SimulatedReceiver::default()).collect(),
            senders,
            events: BinaryHeap::new(),
            sequence: 0,
            busy_until: 0,
            queue: Vec::new(),
        };
        network.link.forward.seed(seed);
        network.link.back.seed(seed + 1);
        for flow in 0..flows {
            network.schedule(network.senders[flow].starts_at, NetworkEvent::Wake { flow });
        }
        for index in 0..network.link.changes.len() {
            network.schedule(network.link.changes[index].0, NetworkEvent::Change(index));
        }
        network.schedule(0, NetworkEvent::Sample);
        network
    }

    /// Runs until `end`, or until every limited flow is done.
    pub(super) fn run(&mut self, end: u64) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > end || self.senders.iter().all(SimulatedSender::is_done) {
                break;
            }
            self.now = at;
            let release = event
                .part()
                .map_or(at, |part| self.link.stalls.release(part, at));
            if release > at {
                self.schedule(release, event);
            } else {
                self.handle(event);
            }
        }
    }

    /// Returns the median waiting time in the queue between two times, in nanoseconds.
    pub(super) fn queue_median(&self, from: u64, to: u64) -> u64 {
        let range =
            (from / MILLISECOND) as usize..self.queue.len().min((to / MILLISECOND) as usize);
        let mut waits = self.queue[range].to_vec();
        waits.sort_unstable();
        waits[waits.len() / 2]
    }

    fn schedule(&mut self, at: u64, event: NetworkEvent) {
        self.sequence += 1;
        self.events
            .push(Reverse((at.max(self.now), self.sequence, event)));
    }

    fn handle(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Arrive { flow, packet } => self.arrive(flow, packet),
            NetworkEvent::AckTimer { flow, armed } => {
                if self.receivers[flow].armed == armed {
                    self.acknowledge(flow);
                }
            }
            NetworkEvent::Ack { flow, packets } => {
                self.senders[flow].on_ack(self.now, &packets);
                self.transmit(flow);
            }
            NetworkEvent::Wake { flow } => {
                self.senders[flow].on_wake(self.now);
                self.transmit(flow);
            }
            NetworkEvent::Sample => {
                self.queue.push(self.busy_until.saturating_sub(self.now));
                self.schedule(self.now + MILLISECOND, NetworkEvent::Sample);
            }
            NetworkEvent::Change(index) => match self.link.changes[index].1 {
                LinkChange::Rate(rate) => {
                    let waiting = self.busy_until.saturating_sub(self.now) as f64 * self.link.rate;
                    self.busy_until = self.now + (waiting / rate) as u64;
                    self.link.rate = rate;
                }
                LinkChange::RoundTrip(round_trip) => self.link.round_trip = round_trip,
            },
        }
    }

    /// Sends what the sender may send now, through the queue and the loss of the link.
    fn transmit(&mut self, flow: usize) {
        let (packets, wake) = self.senders[flow].poll(self.now);
        let resumes = self.link.stalls.release(StalledPart::Link, self.now);
        self.busy_until = self.busy_until.max(resumes);
        for packet in packets {
            self.records[flow].sent += 1;
            let start = self.busy_until.max(self.now);
            let waiting = (start - resumes) as f64 * self.link.rate;
            if waiting + PACKET as f64 > self.link.queue_max {
                self.records[flow].dropped += 1;
                continue;
            }
            self.busy_until = start + (PACKET as f64 / self.link.rate) as u64;
            if self.link.forward.loses(self.busy_until) {
                continue;
            }
            let at = self.busy_until + self.link.round_trip / 2;
            let at = self.link.stalls.release(StalledPart::Link, at);
            let at = self.link.forward.arrival(at);
            self.schedule(at, NetworkEvent::Arrive { flow, packet });
        }
        if let Some(at) = wake {
            self.schedule(at, NetworkEvent::Wake { flow });
        }
        if self.senders[flow].is_done() && self.records[flow].finished.is_none() {
            self.records[flow].finished = Some(self.now);
        }
    }

    fn arrive(&mut self, flow: usize, packet: u64) {
        let record = &mut self.records[flow];
        record.delivered += PACKET;
        let slot = (self.now / SLOT) as usize;
        if record.slots.len() <= slot {
            record.slots.resize(slot + 1, 0);
        }
        record.slots[slot] += PACKET;
        let receiver = &mut self.receivers[flow];
        let gap = receiver
            .largest
            .is_some_and(|largest| packet != largest + 1);
        receiver.largest = Some(packet.max(receiver.largest.unwrap_or(0)));
        receiver.unacked.push(packet);
        if gap || receiver.unacked.len() >= self.link.ack_every {
            self.acknowledge(flow);
        } else if receiver.unacked.len() == 1 {
            self.sequence += 1;
            receiver.armed = self.sequence;
            let armed = self.sequence;
            self.schedule(
                self.now + ACK_DELAY_MAX,
                NetworkEvent::AckTimer { flow, armed },
            );
        }
    }

    fn acknowledge(&mut self, flow: usize) {
        self.receivers[flow].armed = 0;
        if self.receivers[flow].unacked.is_empty() || self.link.back.loses(self.now) {
            // The next acknowledgement covers the packets of a lost one.
            return;
        }
        let packets = std::mem::take(&mut self.receivers[flow].unacked);
        let at = self.now + self.link.round_trip / 2;
        let at = match self.link.aggregation {
            0 => at,
            every => at.div_ceil(every) * every,
        };
        let at = self.link.stalls.release(StalledPart::Link, at);
        let at = self.link.back.arrival(at);
        self.schedule(at, NetworkEvent::Ack { flow, packets });
    }
}

/// Returns a pseudo-random number in 0..1 (xorshift64*). `state` must not be 0.
fn draw(state: &mut u64) -> f64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
}

const SLOT: u64 = 100 * MILLISECOND;

/// The default of `max_ack_delay` (RFC 9000, §18.2), which quinn uses.
const ACK_DELAY_MAX: u64 = 25 * MILLISECOND;
