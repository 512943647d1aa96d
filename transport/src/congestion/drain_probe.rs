//! What a drained queue tells: whether the queue was ours, a neighbour's, or no queue at all.
//!
//! After a drain there is less under way than the path alone would hold. If the round trip is then
//! back at its smallest, the queue was ours. If it is not, somebody else keeps it filled; and if
//! it did not move at all, there is no queue and the path itself has become longer.

use std::time::Duration;

/// Watches the round trip from the start of a drain until its effect must have been seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct DrainProbe {
    /// The round in which to judge; unknown while the queue still drains.
    pub(super) due_round: Option<u64>,
    /// Smallest round trip since the drain began.
    pub(super) round_trip: Duration,
    /// Smallest round trip of the round before.
    pub(super) round_trip_before: Duration,
    /// DeliveryRate rate of the round before, in bytes per second.
    pub(super) rate_before: f64,
    /// Whether it was deep enough to take its round trip as the path's own.
    pub(super) renews: bool,
}

/// The conclusion from a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainOutcome {
    /// The path's own round trip was measured anew.
    Renewed,
    /// The queue was ours, and is gone.
    Clean,
    /// Another sender keeps the queue.
    CompetingFlow,
    /// The path has become longer.
    Longer,
    /// One observation is not enough.
    Unsure,
}

/// Counts what probes showed in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DrainProbes {
    still_queued: u32,
    flat: u32,
}

impl DrainProbes {
    /// Concludes from a dip on a path whose smallest round trip was `expected`.
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

/// A round trip this much above the smallest is timer and scheduling noise.
const CLEAN_NOISE: Duration = Duration::from_millis(2);

/// A drain that lets a tenth or more out of the pipe changes the round trip by more than this
/// factor, if there is a queue.
const FLAT: f64 = 1.05;

/// One dip may meet a burst of somebody else's.
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
    fn a_queue_that_goes_is_ours_and_one_that_stays_is_of_a_competing_flow() {
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
    fn a_round_trip_that_does_not_move_is_the_paths_own() {
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
