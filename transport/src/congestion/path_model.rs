//! The model of the path: delivery rate, smallest round trip, and bursts of acknowledgements.
//!
//! The controller computes its window from this model. Only measurements change the model.

use std::time::{Duration, Instant};

use super::delivery_rate::Sample;
use super::filters::{Bursts, MaxRate, MinRoundTrip};

/// The sending pattern, which decides how samples are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// At a growing rate.
    Growing,
    /// At the rate of the model.
    Steady,
    /// Temporarily faster or slower than that.
    Varying,
}

/// The model of one path.
#[derive(Debug, Clone, Default)]
pub(super) struct PathModel {
    pub(super) rates: MaxRate,
    pub(super) round_trip_min: MinRoundTrip,
    /// Round trip of a filled path without a queue, if it is larger than the smallest: jitter that
    /// keeps the order holds back a stream of packets by almost its maximum.
    loaded: Option<Duration>,
    /// Bytes by which acknowledgements run ahead of the rate, because aggregation holds them back.
    bursts: Bursts,
    burst_start: Option<(Instant, f64)>,
}

impl PathModel {
    /// Updates the model from a batch of acknowledgements.
    pub(super) fn observe(&mut self, now: Instant, sample: &Sample, sending: Sending) {
        self.round_trip_min.insert(now, sample.round_trip);
        self.observe_rate(sample, sending == Sending::Growing);
        if sending == Sending::Steady {
            self.observe_burst(now, sample);
        } else {
            self.burst_start = None;
        }
    }

    /// Updates the delivery rate: from every sample while it grows, later from one per round,
    /// because the largest of many noisy samples is too large.
    fn observe_rate(&mut self, sample: &Sample, is_growing: bool) {
        let (rate, app_limited) = match sample.round {
            Some(ended) if !is_growing => (Some(ended.rate), ended.app_limited),
            _ if is_growing => (sample.rate, sample.app_limited),
            _ => (None, true),
        };
        if let Some(rate) = rate
            && (!app_limited || rate > self.rates.get())
        {
            self.rates.insert(sample.rounds, rate);
        }
    }

    /// Measures how far acknowledgements run ahead of the rate while it is steady.
    fn observe_burst(&mut self, now: Instant, sample: &Sample) {
        let (start, acked) = self.burst_start.unwrap_or((now, 0.0));
        let expected = self.rates.get() * now.saturating_duration_since(start).as_secs_f64();
        let acked = acked + sample.acked as f64;
        self.burst_start = Some(if acked <= expected {
            (now, 0.0)
        } else {
            (start, acked)
        });
        self.bursts.insert(sample.rounds, acked - expected);
    }

    /// Returns the bandwidth-delay product, rate × round trip without a queue, in bytes.
    pub(super) fn pipe(&self) -> f64 {
        self.rates.get() * self.round_trip().as_secs_f64()
    }

    /// Returns the round trip of packets that find no queue.
    pub(super) fn round_trip(&self) -> Duration {
        let smallest = self.round_trip_min.get().unwrap_or_default();
        self.loaded.map_or(smallest, |loaded| loaded.max(smallest))
    }

    /// Returns the model with the round trips only.
    pub(super) fn without_rates(&self) -> Self {
        Self {
            round_trip_min: self.round_trip_min.clone(),
            loaded: self.loaded,
            ..Self::default()
        }
    }

    /// Returns by how much packets that find no queue are later than the earliest.
    pub(super) fn jitter(&self) -> Duration {
        self.round_trip() - self.round_trip_min.get().unwrap_or_default()
    }

    /// Whether jitter has been seen.
    pub(super) fn knows_jitter(&self) -> bool {
        self.loaded.is_some()
    }

    /// Takes the smallest round trip as that without a queue again.
    pub(super) fn forget_jitter(&mut self) {
        self.loaded = None;
    }

    /// Takes a round trip as one without a queue, although it may be above the smallest.
    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.loaded = Some(round_trip);
    }

    /// Takes a smaller round trip as the one without a queue.
    pub(super) fn lower_round_trip(&mut self, round_trip: Duration) {
        self.loaded = self.loaded.map(|loaded| loaded.min(round_trip));
    }

    /// Returns the bytes to keep in flight beyond the bandwidth-delay product, so that jitter
    /// doesn't leave the path idle.
    pub(super) fn slack(&self) -> f64 {
        let time = if self.is_local() { SLACK_LOCAL } else { SLACK };
        let covered = self.rates.get() * self.jitter().as_secs_f64();
        let burst = (self.bursts.get() - covered).min(self.pipe() * BURST_SHARE_MAX);
        (self.rates.get() * time.as_secs_f64()).max(burst)
    }

    /// Whether the path is so short that scheduling dominates its round trip, not propagation.
    pub(super) fn is_local(&self) -> bool {
        self.round_trip_min
            .get()
            .is_some_and(|smallest| smallest < LOCAL_ROUND_TRIP)
    }

    /// Whether a round trip is above the smallest by more than noise.
    pub(super) fn is_above_smallest(&self, round_trip: Duration) -> bool {
        let smallest = self.round_trip_min.get().unwrap_or_default();
        round_trip > smallest + smallest / DELAY_DIVISOR
    }

    /// Returns the round trip above which there is a queue.
    pub(super) fn delay_limit(&self) -> Duration {
        self.round_trip() + self.delay_margin()
    }

    /// Returns how far above [`round_trip`](Self::round_trip) one may be without a queue.
    pub(super) fn delay_margin(&self) -> Duration {
        let allowed = if self.is_local() {
            SLACK_LOCAL
        } else {
            Duration::ZERO
        };
        allowed + (self.round_trip() / DELAY_DIVISOR).max(DELAY_MIN)
    }
}

/// The largest burst, as a share of the bandwidth-delay product. Stronger aggregation costs rate,
/// not queue.
const BURST_SHARE_MAX: f64 = 0.5;

/// An eighth of the round trip above the smallest is a queue, as in HyStart++ (RFC 9406).
const DELAY_DIVISOR: u32 = 8;

/// The smallest delay that counts as a queue: above the noise of timers and busy machines.
const DELAY_MIN: Duration = Duration::from_millis(3);

/// Round trips below this consist of wake-ups and of waiting for a processor.
const LOCAL_ROUND_TRIP: Duration = Duration::from_millis(2);

/// Jitter to cover: timers and schedulers are accurate to about a millisecond.
const SLACK: Duration = Duration::from_micros(1250);

/// Jitter to cover on a local path: the time that a busy receiver may leave its socket unread. At 1
/// Gbit/s this is 600 KB, which switches buffer; where they don't, the overflow lowers the window.
const SLACK_LOCAL: Duration = Duration::from_millis(5);

/// Rounds down to whole bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float-to-integer cast saturates, which is what is wanted"
)]
pub(super) fn whole_bytes(bytes: f64) -> u64 {
    bytes as u64
}
