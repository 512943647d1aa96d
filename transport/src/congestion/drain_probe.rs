//! Drain probes: whether a queue is of this flow, of a competing flow, or no queue at all.
//!
//! After a drain, fewer bytes are in flight than the path alone holds. If the round trip is then
//! back at its minimum, the queue was of this flow. If not, a competing flow keeps it filled. If
//! the round trip didn't change at all, there is no queue, and the path itself has become longer.

use std::time::Duration;

/// Measures the round trip from the start of a drain until the effect must be visible.
#[derive(Debug, Clone, Copy)]
pub(super) struct DrainProbe {
    /// The round in which to evaluate the probe; `None` while the queue still drains.
    pub(super) due_round: Option<u64>,
    /// Smallest round trip since the drain began.
    pub(super) round_trip: Duration,
    /// Smallest round trip of the round before.
    pub(super) round_trip_before: Duration,
    /// Delivery rate of the round before, in bytes per second.
    pub(super) rate_before: f64,
    /// Whether the drain is deep enough to measure the smallest round trip anew.
    pub(super) renews: bool,
}

/// The outcome of a drain probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainOutcome {
    /// The smallest round trip was measured anew.
    Renewed,
    /// The queue was of this flow, and is gone.
    Clean,
    /// A competing flow keeps the queue filled.
    CompetingFlow,
    /// The path has become longer.
    Longer,
    /// One probe is not enough to tell.
    Unsure,
}

/// Counts the outcomes of consecutive drain probes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DrainProbes {
    still_queued: u32,
    flat: u32,
}

impl DrainProbes {
    /// Evaluates a probe on a path whose smallest round trip was `expected`.
    pub(super) fn evaluate(&mut self, probe: &DrainProbe, expected: Duration) -> DrainOutcome {
        if probe.renews {
            *self = Self::default();
            return DrainOutcome::Renewed;
        }
        if probe.round_trip <= expected + (expected / 10).max(CLEAN_NOISE) {
            *self = Self::default();
            return DrainOutcome::Clean;
        }
        self.still_queued += 1;
        let is_flat = probe.round_trip.mul_f64(FLAT) > probe.round_trip_before;
        self.flat = if is_flat { self.flat + 1 } else { 0 };
        if self.flat >= PROBES_TO_BELIEVE {
            *self = Self::default();
            DrainOutcome::Longer
        } else if self.still_queued >= PROBES_TO_BELIEVE {
            DrainOutcome::CompetingFlow
        } else {
            DrainOutcome::Unsure
        }
    }
}

/// Timer and scheduling noise of a round trip.
const CLEAN_NOISE: Duration = Duration::from_millis(2);

/// The smallest factor by which a drain of a tenth changes the round trip if there is a queue.
const FLAT: f64 = 1.05;

/// Consecutive probes with the same result that are needed, because a single one may coincide with
/// a burst of another flow.
const PROBES_TO_BELIEVE: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(before_ms: u64, after_ms: u64) -> DrainProbe {
        DrainProbe {
            due_round: None,
            round_trip: Duration::from_millis(after_ms),
            round_trip_before: Duration::from_millis(before_ms),
            rate_before: 0.0,
            renews: false,
        }
    }

    #[test]
    fn a_queue_that_drains_is_ours_and_one_that_stays_is_of_a_competing_flow() {
        let expected = Duration::from_millis(40);
        let mut probes = DrainProbes::default();
        assert_eq!(
            probes.evaluate(&probe(60, 41), expected),
            DrainOutcome::Clean
        );
        assert_eq!(
            probes.evaluate(&probe(75, 60), expected),
            DrainOutcome::Unsure
        );
        assert_eq!(
            probes.evaluate(&probe(75, 60), expected),
            DrainOutcome::CompetingFlow
        );
        assert_eq!(
            probes.evaluate(&probe(75, 62), expected),
            DrainOutcome::CompetingFlow
        );
        assert_eq!(
            probes.evaluate(&probe(75, 41), expected),
            DrainOutcome::Clean
        );
        assert_eq!(
            probes.evaluate(&probe(75, 60), expected),
            DrainOutcome::Unsure
        );
    }

    #[test]
    fn a_round_trip_that_does_not_change_is_that_of_the_path() {
        let expected = Duration::from_millis(40);
        let mut probes = DrainProbes::default();
        assert_eq!(
            probes.evaluate(&probe(80, 80), expected),
            DrainOutcome::Unsure
        );
        assert_eq!(
            probes.evaluate(&probe(80, 79), expected),
            DrainOutcome::Longer
        );
    }
}
