//! Drains: emptying the queue of this flow, and what the round trip then shows.

use std::time::{Duration, Instant};

use super::super::cubic_mode::CubicMode;
use super::super::drain_probe::{DrainOutcome, DrainProbe};
use super::super::jitter::Swings;
use super::super::startup::Startup;
use super::{Control, Phase, RENEW_SHARE};

impl Control {
    pub(super) fn leave_startup(&mut self, now: Instant) {
        self.startup = Startup::default();
        self.startup_end = Some((now, self.delivery.total()));
        self.overflow_ignored_until = self.delivery.round() + OVERFLOW_IGNORED_ROUNDS;
        self.phase = Phase::Drain { share: 1.0 };
    }

    /// Starts to drain the queue and to measure the effect.
    pub(super) fn drain(&mut self, share: f64) {
        self.phase = Phase::Drain { share };
        self.delayed_rounds = 0;
        let before = self.last_round;
        self.drain_probe = Some(DrainProbe {
            due_round: None,
            round_trip: Duration::MAX,
            round_trip_before: before
                .map_or_else(|| self.delivery.round_trip(), |round| round.round_trip_min),
            rate_before: self.rate_now,
            renews: share <= RENEW_SHARE,
        });
    }

    /// Measures the rate while the queue of start-up drains, at the full rate of the path. Samples
    /// over a whole round trip don't show that rate yet, because it grew throughout the round trip.
    pub(super) fn measure_drain(&mut self, now: Instant) {
        let Some((start, delivered)) = self.startup_end else {
            return;
        };
        let elapsed = now.saturating_duration_since(start);
        if elapsed > self.model.round_trip() / 2 {
            let rate = (self.delivery.total() - delivered) as f64 / elapsed.as_secs_f64();
            if rate > self.model.rates.get() {
                self.model.rates.reset(self.delivery.round(), rate);
            }
        }
    }

    /// Acts on the outcome of a drain probe.
    pub(super) fn conclude(&mut self, now: Instant, probe: &DrainProbe) {
        let expected = self.model.round_trip();
        let mean = self
            .last_round
            .map_or(expected, |round| round.round_trip_mean);
        let outcome = match self.drain_probes.evaluate(probe, expected) {
            DrainOutcome::Unsure | DrainOutcome::CompetingFlow
                if self.swings.is_jitter() && self.lossless_rounds >= LOSSLESS_ROUNDS =>
            {
                DrainOutcome::Longer
            }
            outcome => outcome,
        };
        match outcome {
            DrainOutcome::Renewed => {
                self.model.round_trip_min.replace(now, probe.round_trip);
                self.model.lower_round_trip(mean);
            }
            DrainOutcome::Clean => {
                self.model.lower_round_trip(mean);
                self.cubic_mode = None;
                // The queue was of this flow, so a rate far below the model is that of a slower
                // path.
                let was_queued = probe.round_trip_before > self.model.delay_limit();
                if was_queued && probe.rate_before < self.model.rates.get() * SLOWER_PATH {
                    self.model
                        .rates
                        .reset(self.delivery.round(), probe.rate_before);
                }
            }
            DrainOutcome::CompetingFlow if self.cubic_mode.is_none() => {
                self.cubic_mode = Some(CubicMode::new(now, self.window));
            }
            DrainOutcome::Longer => {
                self.cubic_mode = None;
                self.model.set_round_trip(mean);
            }
            DrainOutcome::CompetingFlow | DrainOutcome::Unsure => {}
        }
    }

    /// Goes on once the queue must be empty.
    pub(super) fn end_drain(&mut self) {
        self.is_checking = self.startup_end.take().is_some();
        let rounds_left = match self.is_checking {
            // The queue of start-up must be gone before the round trip can be compared.
            true if self.swings.is_jitter() => 1,
            true => 0,
            false => self.cruise_rounds(),
        };
        self.swings = Swings::default();
        self.begin_cruise(rounds_left);
        if let Some(probe) = &mut self.drain_probe {
            probe.due_round = Some(self.delivery.round() + DRAIN_PROBE_ROUNDS);
        }
    }

    /// Returns the bytes in flight at `share` of the bandwidth-delay product. A real drain uses the
    /// current rate, because the largest rate may be out of date.
    pub(super) fn drained(&self, share: f64) -> f64 {
        let largest = self.model.rates.get();
        let rate = self
            .last_round
            .filter(|round| share < 1.0 && !round.app_limited)
            .map_or(largest, |_| self.rate_now.min(largest));
        let pipe = rate * self.model.round_trip().as_secs_f64();
        (pipe * share).max(self.window_min())
    }
}

/// Rounds until a drain probe is due: one for packets already in flight, and one for packets sent
/// into the drained queue.
const DRAIN_PROBE_ROUNDS: u64 = 2;

/// Rounds for which the overflow of start-up is still reported: as long as its queue drains.
const OVERFLOW_IGNORED_ROUNDS: u64 = 4;

/// A delivery rate below this share of the largest, with a queue of this flow, is that of a slower
/// path. A smaller drop is the start of a competing flow, to which the rate filter adapts by
/// itself.
const SLOWER_PATH: f64 = 0.7;

/// Rounds without loss after which delay that comes and goes is jitter: other flows that made it
/// would have filled the queue in this time.
const LOSSLESS_ROUNDS: u32 = 10;
