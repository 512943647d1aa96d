//! The model of the path: its rate, its round trip, and how unevenly acknowledgements come.
//!
//! Everything the controller sends by is computed from these; they change by measurement alone.

use std::time::{Duration, Instant};

use super::delivery_rate::Sample;
use super::filters::{Bursts, MaxRate, MinRoundTrip};

/// How the sender sends, which says what its samples are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Faster all the time.
    Growing,
    /// At the rate of the model.
    Steady,
    /// For a moment faster or slower than that.
    Varying,
}

/// See the module header.
#[derive(Debug, Clone, Default)]
pub(super) struct PathModel {
    pub(super) rates: MaxRate,
    pub(super) round_trip_min: MinRoundTrip,
    /// Bytes by which acknowledgements ran ahead of the rate: what aggregation holds back.
    bursts: Bursts,
    burst_start: Option<(Instant, f64)>,
}

impl PathModel {
    /// Takes in what a batch of acknowledgements says.
    pub(super) fn observe(&mut self, now: Instant, sample: &Sample, sending: Sending) {
        self.round_trip_min.insert(now, sample.round_trip);
        self.observe_rate(sample, sending == Sending::Growing);
        if sending == Sending::Steady {
            self.observe_burst(now, sample);
        } else {
            self.burst_start = None;
        }
    }

    /// Takes in the delivery rate: each sample while it grows, later one a round, because the
    /// largest of many noisy samples is too large.
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

    /// Follows how far acknowledgements run ahead of the rate while it is steady.
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

    /// Rate × smallest round trip, in bytes.
    pub(super) fn pipe(&self) -> f64 {
        self.rates.get() * self.round_trip_min.get().unwrap_or_default().as_secs_f64()
    }

    /// Bytes to have under way beyond the pipe, so that jitter does not let it run dry.
    pub(super) fn slack(&self) -> f64 {
        let time = if self.is_local() { SLACK_LOCAL } else { SLACK };
        let burst = self.bursts.get().min(self.pipe() * BURST_SHARE_MAX);
        (self.rates.get() * time.as_secs_f64()).max(burst)
    }

    /// A path so short that scheduling, not propagation, makes its round trip.
    pub(super) fn is_local(&self) -> bool {
        self.round_trip_min
            .get()
            .is_some_and(|smallest| smallest < LOCAL_ROUND_TRIP)
    }

    /// A later round trip than this shows a queue.
    pub(super) fn delay_limit(&self) -> Duration {
        self.round_trip_min.get().unwrap_or_default() + self.delay_margin()
    }

    /// How far above the smallest a round trip may be without a queue.
    pub(super) fn delay_margin(&self) -> Duration {
        let smallest = self.round_trip_min.get().unwrap_or_default();
        let allowed = if self.is_local() {
            SLACK_LOCAL
        } else {
            Duration::ZERO
        };
        allowed + (smallest / DELAY_DIVISOR).max(DELAY_MIN)
    }
}

/// Aggregation beyond half a pipe is paid for in rate, not in queue.
const BURST_SHARE_MAX: f64 = 0.5;

/// As in HyStart (RFC 9406), an eighth of the round trip is a queue.
const DELAY_DIVISOR: u32 = 8;

/// And nothing below the noise of timers and busy machines is.
const DELAY_MIN: Duration = Duration::from_millis(3);

/// Below this, round trips are made of wake-ups and of waiting for a processor.
const LOCAL_ROUND_TRIP: Duration = Duration::from_millis(2);

/// Timers and schedulers are exact to about a millisecond.
const SLACK: Duration = Duration::from_micros(1250);

/// On a local path, the longest that a busy receiver may be away from its socket without the
/// sender noticing. At 1 Gbit/s this is 600 KB, which switches hold; where they do not, the
/// overflow lowers the window.
const SLACK_LOCAL: Duration = Duration::from_millis(5);
