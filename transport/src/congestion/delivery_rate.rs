//! Delivery rate estimation (draft-cheng-iccrg-delivery-rate-estimation), per batch and per round.
//!
//! Each transmission is stored with the bytes delivered before it. Its acknowledgement then gives a
//! rate over a whole round trip, in which single early or late acknowledgements matter little.
//! quinn gives all packets of one transmission the same send time, so that is the key. Memory is
//! bounded; a missing entry only makes a sample span more time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The state of delivery at the time of a transmission.
#[derive(Debug, Clone, Copy)]
struct SendSnapshot {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// Send time of the packet that was acknowledged last.
    acked_sent: Instant,
    app_limited: bool,
}

/// Measurements of one batch of acknowledgements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Bytes newly acknowledged.
    pub(super) acked: u64,
    /// Delivery rate over about a round trip, in bytes per second; `None` if it can't be measured.
    pub(super) rate: Option<f64>,
    /// Round trip of the newest packet that was acknowledged until now.
    pub(super) round_trip: Duration,
    /// Whether the application may have limited the rate, and not the path.
    pub(super) app_limited: bool,
    /// The round that ended with this batch, if one did.
    pub(super) round: Option<Round>,
    /// Number of rounds that have ended.
    pub(super) rounds: u64,
}

/// One round: from the transmission of a packet to its acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    /// Delivery rate, in bytes per second.
    pub(super) rate: f64,
    /// Bytes acknowledged.
    pub(super) delivered: u64,
    /// Bytes declared lost.
    pub(super) lost: u64,
    pub(super) round_trip_min: Duration,
    /// Mean over the bytes acknowledged.
    pub(super) round_trip_mean: Duration,
    pub(super) app_limited: bool,
}

impl Round {
    /// Returns the share of bytes that were lost.
    pub(super) fn loss(&self) -> f64 {
        self.lost as f64 / (self.lost + self.delivered).max(1) as f64
    }
}

/// The estimator of one path.
#[derive(Debug, Clone)]
pub(super) struct DeliveryRate {
    snapshots: VecDeque<SendSnapshot>,
    delivered: u64,
    delivered_at: Instant,
    acked_sent: Instant,
    /// Round trip of that packet; zero before the first.
    round_trip: Duration,
    /// Transmissions before this many bytes were delivered are application-limited.
    app_limited_until: u64,
    batch_acked: u64,
    batch_sent: Option<Instant>,
    batch_app_limited: bool,
    round: u64,
    /// The round ends when a packet is acknowledged that was sent after this many bytes were
    /// delivered.
    round_end: u64,
    round_started: Instant,
    /// Send time of the newest packet that was acknowledged before the round.
    round_sent: Instant,
    round_delivered: u64,
    round_lost: u64,
    round_app_limited: bool,
    round_trip_min: Duration,
    /// Sum of round trips in seconds, weighted with the bytes acknowledged.
    round_trip_sum: f64,
}

impl DeliveryRate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            snapshots: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            acked_sent: now,
            round_trip: Duration::ZERO,
            app_limited_until: 0,
            batch_acked: 0,
            batch_sent: None,
            batch_app_limited: false,
            round: 0,
            round_end: 0,
            round_started: now,
            round_sent: now,
            round_delivered: 0,
            round_lost: 0,
            round_app_limited: false,
            round_trip_min: Duration::MAX,
            round_trip_sum: 0.0,
        }
    }

    /// Returns the number of rounds that have ended.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Returns the round trip of the newest packet that was acknowledged; zero before the first.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Returns the bytes acknowledged so far.
    pub(super) fn total(&self) -> u64 {
        self.delivered
    }

    /// Whether the loss of the current round is too high to be random.
    pub(super) fn is_flooded(&self, mtu: u64) -> bool {
        self.round_lost > FLOOD_PACKETS * mtu
            && self.round_lost.saturating_mul(FLOOD_DIVISOR) > self.round_delivered
    }

    /// Records a transmission.
    pub(super) fn on_sent(&mut self, now: Instant) {
        let known = self.snapshots.back().is_some_and(|last| last.sent >= now);
        if known || self.snapshots.len() >= SNAPSHOTS_MAX {
            return;
        }
        if self.snapshots.is_empty() && self.batch_sent.is_none() {
            // Nothing is in flight: idle time must not count in any rate.
            self.delivered_at = now;
            self.acked_sent = now;
            if self.round_delivered == 0 {
                self.round_started = now;
                self.round_sent = now;
            }
        }
        self.snapshots.push_back(SendSnapshot {
            sent: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            acked_sent: self.acked_sent,
            app_limited: self.delivered < self.app_limited_until,
        });
    }

    /// Records the acknowledgement of one packet of a batch.
    pub(super) fn on_ack(&mut self, sent: Instant, bytes: u64, app_limited: bool) {
        self.batch_acked += bytes;
        self.batch_app_limited |= app_limited;
        self.batch_sent = Some(self.batch_sent.map_or(sent, |newest| newest.max(sent)));
    }

    /// Records bytes that were declared lost.
    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.round_lost += bytes;
    }

    /// Ends a batch after which `in_flight` bytes remain, and returns its measurements.
    pub(super) fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
    ) -> Option<Sample> {
        let sent = self.batch_sent.take()?;
        let acked = std::mem::take(&mut self.batch_acked);
        let batch_app_limited = std::mem::take(&mut self.batch_app_limited) || app_limited;
        // A packet that was overtaken says nothing about the queue now.
        if sent >= self.acked_sent || self.round_trip.is_zero() {
            self.round_trip = now.saturating_duration_since(sent);
        }
        let round_trip = self.round_trip;
        self.delivered += acked;
        self.delivered_at = now;
        self.acked_sent = self.acked_sent.max(sent);
        if batch_app_limited {
            self.app_limited_until = self.delivered + in_flight;
        }
        let snapshot = self.take_snapshot(sent);
        if in_flight == 0 {
            self.snapshots.clear();
        }
        let limited = batch_app_limited || snapshot.is_some_and(|taken| taken.app_limited);
        self.round_delivered += acked;
        self.round_app_limited |= limited;
        self.round_trip_min = self.round_trip_min.min(round_trip);
        self.round_trip_sum += round_trip.as_secs_f64() * acked as f64;
        let rate = snapshot.and_then(|taken| self.rate_since(&taken, sent, now));
        let round = snapshot
            .filter(|taken| taken.delivered >= self.round_end)
            .map(|_| self.end_round(now));
        Some(Sample {
            acked,
            rate,
            round_trip,
            app_limited: limited,
            round,
            rounds: self.round,
        })
    }

    /// Returns the last snapshot not after `sent`, and drops older ones, which aren't needed again.
    fn take_snapshot(&mut self, sent: Instant) -> Option<SendSnapshot> {
        let after = self.snapshots.partition_point(|taken| taken.sent <= sent);
        let found = self.snapshots.get(after.checked_sub(1)?).copied();
        self.snapshots.drain(..after - 1);
        found
    }

    /// Returns the rate since `taken`, in bytes per second. It exceeds neither the rate of the
    /// acknowledgements nor that of the transmissions.
    fn rate_since(&self, taken: &SendSnapshot, sent: Instant, now: Instant) -> Option<f64> {
        let acked_over = now.saturating_duration_since(taken.delivered_at);
        let sent_over = sent.saturating_duration_since(taken.acked_sent);
        let interval = acked_over.max(sent_over);
        (interval > Duration::ZERO)
            .then(|| (self.delivered - taken.delivered) as f64 / interval.as_secs_f64())
    }

    /// Ends the current round and starts the next. Its rate, too, doesn't exceed the rate of the
    /// transmissions: what accumulated during a stall is acknowledged all at once.
    fn end_round(&mut self, now: Instant) -> Round {
        let acked_over = now.saturating_duration_since(self.round_started);
        let sent_over = self.acked_sent.saturating_duration_since(self.round_sent);
        let elapsed = acked_over.max(sent_over).max(TIME_MIN);
        let ended = Round {
            rate: self.round_delivered as f64 / elapsed.as_secs_f64(),
            delivered: self.round_delivered,
            lost: self.round_lost,
            round_trip_min: self.round_trip_min,
            round_trip_mean: Duration::from_secs_f64(
                self.round_trip_sum / self.round_delivered.max(1) as f64,
            ),
            app_limited: self.round_app_limited,
        };
        self.round += 1;
        self.round_end = self.delivered;
        self.round_started = now;
        self.round_sent = self.acked_sent;
        self.round_delivered = 0;
        self.round_lost = 0;
        self.round_app_limited = false;
        self.round_trip_min = Duration::MAX;
        self.round_trip_sum = 0.0;
        ended
    }
}

/// The most stored transmissions. With quinn's bursts of ten packets and more, this covers 50 MB in
/// flight; beyond that samples span more time.
const SNAPSHOTS_MAX: usize = 4096;

/// The shortest duration of a round, so that its rate is finite.
const TIME_MIN: Duration = Duration::from_micros(1);

/// Lost packets that may be one burst into a short queue.
const FLOOD_PACKETS: u64 = 16;

/// More than one byte lost in seven delivered is more than usable paths lose at random.
const FLOOD_DIVISOR: u64 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    /// Sends and acknowledges `packets` of 1,000 bytes, one per millisecond.
    fn steady(delivery: &mut DeliveryRate, start: Instant, packets: u32) -> Vec<Sample> {
        let mut samples = Vec::new();
        for tick in 0..packets + 50 {
            let now = start + Duration::from_millis(tick.into());
            if tick >= 50 {
                delivery.on_ack(now - ROUND_TRIP, 1_000, false);
                samples.extend(delivery.on_end_acks(now, 50_000, false));
            }
            if tick < packets {
                delivery.on_sent(now);
            }
        }
        samples
    }

    #[test]
    fn steady_delivery_gives_its_rate_and_counts_rounds() {
        let start = Instant::now();
        let mut delivery = DeliveryRate::new(start);
        let samples = steady(&mut delivery, start, 500);
        let rate = samples.last().and_then(|sample| sample.rate).unwrap();
        assert!((rate - 1e6).abs() < 3e4, "{rate}");
        assert!((9..=11).contains(&delivery.round()), "{}", delivery.round());
        assert_eq!(delivery.total(), 500_000);
    }

    #[test]
    fn a_batch_after_silence_does_not_look_like_a_faster_path() {
        let start = Instant::now();
        let mut delivery = DeliveryRate::new(start);
        for tick in 0..60 {
            delivery.on_sent(start + Duration::from_millis(tick));
        }
        let now = start + Duration::from_millis(110);
        for tick in 0..60 {
            delivery.on_ack(start + Duration::from_millis(tick), 1_000, false);
        }
        let rate = delivery.on_end_acks(now, 0, false).unwrap().rate.unwrap();
        assert!(rate < 1.1e6, "{rate}");
    }

    #[test]
    fn application_limited_samples_are_marked_until_their_packets_are_acknowledged() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut delivery = DeliveryRate::new(start);
        delivery.on_sent(at(0));
        delivery.on_ack(at(0), 1_000, true);
        assert!(
            delivery
                .on_end_acks(at(50), 1_000, true)
                .unwrap()
                .app_limited
        );
        delivery.on_sent(at(60));
        delivery.on_ack(at(60), 1_000, false);
        assert!(delivery.on_end_acks(at(110), 0, false).unwrap().app_limited);
        delivery.on_sent(at(120));
        delivery.on_ack(at(120), 1_000, false);
        assert!(!delivery.on_end_acks(at(170), 0, false).unwrap().app_limited);
    }

    #[test]
    fn memory_is_bounded_when_nothing_is_acknowledged() {
        let start = Instant::now();
        let mut delivery = DeliveryRate::new(start);
        for tick in 0..100_000 {
            delivery.on_sent(start + Duration::from_micros(tick));
        }
        assert_eq!(delivery.snapshots.len(), SNAPSHOTS_MAX);
    }
}
