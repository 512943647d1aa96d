//! The link model: one direction of the emulated link, with no I/O and no clock of its own.
//!
//! A packet offered at time `now` goes through, in this order:
//!
//! 1. a policer, which drops what exceeds its rate and burst;
//! 2. a drop-tail transmission queue, served at a constant rate or by a trace. The packet is
//!    refused when the bytes that still wait (or are being sent) and its own bytes exceed the
//!    queue. A constant rate is kept as a virtual clock: `busy_until` is the moment at which the
//!    last accepted packet has left the sender's interface;
//! 3. loss, at random or because the packet left in an outage: it has used its share of the
//!    link, then disappears;
//! 4. the propagation delay and the jitter; longer for a packet chosen to arrive late;
//! 5. duplication: the packet arrives twice.
//!
//! All times are nanoseconds on one monotonic clock.

mod loss;
mod policer;
#[cfg(test)]
mod tests;
mod trace;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use loss::LossProcess;
pub use loss::{Gilbert, Outage};
use policer::Bucket;
pub use policer::Policer;
use trace::Schedule;
pub use trace::{OPPORTUNITY_BYTES, Trace};

const BITS_TIMES_NANOS: u64 = 8 * 1_000_000_000;

#[derive(Clone, Debug)]
pub struct Config {
    /// Bits per second of IP packets; `None` is no limit. The mean of the trace if there is one.
    pub rate: Option<u64>,
    /// When packets may leave, instead of at the constant rate.
    pub trace: Option<Arc<Trace>>,
    pub policer: Option<Policer>,
    pub delay_ns: u64,
    /// Drop-tail limit in bytes. Without a rate: the most bytes in flight at once.
    pub queue_bytes: u64,
    pub loss: f64,
    pub burst_loss: Option<Gilbert>,
    pub outage: Option<Outage>,
    /// Most of the random delay of every packet that keeps the order.
    pub jitter_ns: u64,
    /// Most of the random delay of every packet that lets packets overtake.
    pub jitter_reorder_ns: u64,
    pub reorder: f64,
    /// How much later than usual a packet arrives that `reorder` chose.
    pub reorder_delay_ns: u64,
    pub duplicate: f64,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Packets that the sender's kernel handed to the link.
    pub sent: u64,
    pub sent_bytes: u64,
    /// Packets beyond the policer's rate and burst.
    pub policed: u64,
    pub queue_dropped: u64,
    /// Packets lost at random.
    pub lost: u64,
    /// Packets that left the queue in an outage and were not lost at random.
    pub outage_lost: u64,
    /// Packets handed over for delivery, duplicates not counted.
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub duplicated: u64,
    /// Packets delivered after one that was sent later.
    pub reordered: u64,
    /// Most bytes seen waiting in the queue, the newest packet included.
    pub max_queue_bytes: u64,
}

/// What became of a packet offered to the link. A packet that goes no further is given back,
/// so that its buffer can be used again.
#[derive(Debug, PartialEq)]
pub enum Fate<P> {
    Accepted,
    Policed(P),
    QueueFull(P),
    Lost(P),
}

#[derive(Debug, PartialEq)]
pub struct Arrival<P> {
    pub due: u64,
    pub len: usize,
    pub packet: P,
    /// Deliver the packet a second time.
    pub twice: bool,
    /// Number of the packet among those sent.
    place: u64,
}

/// A packet that others may overtake, ordered by its due time and then by its place.
struct LateDelivery<P>(Arrival<P>);

impl<P> PartialEq for LateDelivery<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl<P> Eq for LateDelivery<P> {}
impl<P> PartialOrd for LateDelivery<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<P> Ord for LateDelivery<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.due, self.0.place).cmp(&(other.0.due, other.0.place))
    }
}

pub struct LinkModel<P> {
    config: Config,
    bucket: Option<Bucket>,
    schedule: Option<Schedule>,
    busy_until: u64,
    /// Part of a nanosecond of transmission time carried over to the next packet, in units of
    /// 1/rate, so that the rate is exact in the long run.
    remainder: u64,
    /// With a trace: when the packets in the queue leave, and their bytes.
    waiting: VecDeque<(u64, u64)>,
    waiting_bytes: u64,
    /// In-order packets: due times never decrease, so a queue is enough.
    in_order: VecDeque<Arrival<P>>,
    late: BinaryHeap<Reverse<LateDelivery<P>>>,
    in_flight_bytes: u64,
    newest_delivered: u64,
    losses: LossProcess,
    // One stream of random numbers per purpose: switching duplication on does not change
    // which packets are lost.
    reorder_rng: Pcg64,
    duplicate_rng: Pcg64,
    jitter_rng: Pcg64,
    jitter_reorder_rng: Pcg64,
    counters: Counters,
}

impl<P> LinkModel<P> {
    pub fn new(config: Config) -> Self {
        let seed = config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rng = |purpose: u64| Pcg64::seed_from_u64(seed ^ purpose);
        LinkModel {
            bucket: config.policer.map(Bucket::new),
            schedule: config.trace.clone().map(Schedule::new),
            busy_until: 0,
            remainder: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_order: VecDeque::new(),
            late: BinaryHeap::new(),
            in_flight_bytes: 0,
            newest_delivered: 0,
            losses: LossProcess::new(config.loss, config.burst_loss, rng),
            reorder_rng: rng(3),
            duplicate_rng: rng(4),
            jitter_rng: rng(5),
            jitter_reorder_rng: rng(6),
            counters: Counters::default(),
            config,
        }
    }

    /// Offers a packet of `len` bytes. `now` must not decrease from one call to the next.
    pub fn offer(&mut self, now: u64, len: usize, packet: P) -> Fate<P> {
        let bytes = len as u64;
        self.counters.sent += 1;
        self.counters.sent_bytes += bytes;

        if let Some(bucket) = &mut self.bucket
            && !bucket.admits(now, bytes)
        {
            self.counters.policed += 1;
            return Fate::Policed(packet);
        }
        let backlog = self.backlog_bytes(now);
        if backlog + bytes > self.config.queue_bytes {
            self.counters.queue_dropped += 1;
            return Fate::QueueFull(packet);
        }
        self.counters.max_queue_bytes = self.counters.max_queue_bytes.max(backlog + bytes);
        self.enqueue(now, bytes);

        let outage = self.config.outage;
        if self.losses.takes_next() {
            self.counters.lost += 1;
            return Fate::Lost(packet);
        }
        if outage.is_some_and(|outage| outage.covers(self.busy_until)) {
            self.counters.outage_lost += 1;
            return Fate::Lost(packet);
        }
        self.send_off(len, packet);
        Fate::Accepted
    }

    /// Lets a packet into the queue: from now on `busy_until` is when it leaves.
    fn enqueue(&mut self, now: u64, bytes: u64) {
        if let Some(schedule) = &mut self.schedule {
            self.busy_until = schedule.departure(now, bytes);
            self.waiting.push_back((self.busy_until, bytes));
            self.waiting_bytes += bytes;
            return;
        }
        if self.busy_until < now {
            self.busy_until = now;
            self.remainder = 0;
        }
        if let Some(rate) = self.config.rate {
            let work = bytes * BITS_TIMES_NANOS + self.remainder;
            self.busy_until += work / rate;
            self.remainder = work % rate;
        }
    }

    /// Puts a packet on its way that leaves the queue at `busy_until`.
    fn send_off(&mut self, len: usize, packet: P) {
        let chosen =
            |probability: f64, rng: &mut Pcg64| probability > 0.0 && rng.random_bool(probability);
        let delayed = chosen(self.config.reorder, &mut self.reorder_rng);
        let twice = chosen(self.config.duplicate, &mut self.duplicate_rng);
        let mut due = self.busy_until + self.config.delay_ns;
        if self.config.jitter_ns > 0 {
            due += self.jitter_rng.random_range(0..=self.config.jitter_ns);
        }
        if self.config.jitter_reorder_ns > 0 {
            let most = self.config.jitter_reorder_ns;
            due += self.jitter_reorder_rng.random_range(0..=most);
        }
        if delayed {
            due += self.config.reorder_delay_ns;
        }
        let keeps_order = !delayed && self.config.jitter_reorder_ns == 0;
        if keeps_order && let Some(before) = self.in_order.back() {
            due = due.max(before.due);
        }
        self.in_flight_bytes += len as u64;
        let arrival = Arrival {
            due,
            len,
            packet,
            twice,
            place: self.counters.sent,
        };
        if keeps_order {
            self.in_order.push_back(arrival);
        } else {
            self.late.push(Reverse(LateDelivery(arrival)));
        }
    }

    /// When the next packet is due, if any is in flight.
    pub fn next_due(&self) -> Option<u64> {
        let in_order = self.in_order.front().map(|arrival| arrival.due);
        let late = self.late.peek().map(|Reverse(late)| late.0.due);
        match (in_order, late) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes the next packet whose time has come. Never early.
    pub fn pop_due(&mut self, now: u64) -> Option<Arrival<P>> {
        let due = self.next_due()?;
        if due > now {
            return None;
        }
        let late_first = self
            .late
            .peek()
            .is_some_and(|Reverse(late)| late.0.due == due);
        let arrival = if late_first {
            self.late.pop().map(|Reverse(late)| late.0)
        } else {
            self.in_order.pop_front()
        }?;
        self.in_flight_bytes -= arrival.len as u64;
        self.counters.delivered += 1;
        self.counters.delivered_bytes += arrival.len as u64;
        self.counters.duplicated += u64::from(arrival.twice);
        self.counters.reordered += u64::from(arrival.place < self.newest_delivered);
        self.newest_delivered = self.newest_delivered.max(arrival.place);
        Some(arrival)
    }

    pub fn in_flight(&self) -> u64 {
        (self.in_order.len() + self.late.len()) as u64
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes accepted and not yet sent at `now`, rounded up; without a rate those in flight.
    fn backlog_bytes(&mut self, now: u64) -> u64 {
        if self.schedule.is_some() {
            while let Some((_, bytes)) = self.waiting.pop_front_if(|(leaves, _)| *leaves <= now) {
                self.waiting_bytes -= bytes;
            }
            return self.waiting_bytes;
        }
        let Some(rate) = self.config.rate else {
            return self.in_flight_bytes;
        };
        let wait = self.busy_until.saturating_sub(now);
        (u128::from(wait) * u128::from(rate)).div_ceil(u128::from(BITS_TIMES_NANOS)) as u64
    }
}

/// One bandwidth-delay product in bytes.
pub fn bdp_bytes(rate: u64, rtt_ns: u64) -> u64 {
    (u128::from(rate) * u128::from(rtt_ns) / u128::from(BITS_TIMES_NANOS)) as u64
}
