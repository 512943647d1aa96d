//! Jitter: delay that the path adds to some packets, told from a queue.
//!
//! Jitter makes round trips rise and fall within a round, by more than noise. On a path that keeps
//! the order it also holds back a stream of packets by almost its maximum, because each packet waits
//! for those before it. So the round trip of a filled path without a queue is larger than the
//! smallest one. Two things show that it isn't a queue: the rate still grows with the window, which
//! it doesn't on a full path, or the round trip stays after the queue was drained.

use std::time::Duration;

/// Counts how often the round trip has risen and fallen again. A queue only grows while the window
/// does, and what a stall held back comes once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Swings {
    /// The extreme since the last turn.
    extreme: Duration,
    falling: bool,
    count: u32,
}

impl Swings {
    /// Adds a round trip. Changes below `margin` are noise.
    pub(super) fn observe(&mut self, round_trip: Duration, margin: Duration) {
        if self.falling {
            self.extreme = self.extreme.min(round_trip);
            if round_trip > self.extreme + margin {
                self.falling = false;
                self.extreme = round_trip;
            }
        } else {
            self.extreme = self.extreme.max(round_trip);
            if round_trip + margin < self.extreme {
                self.falling = true;
                self.extreme = round_trip;
                self.count += 1;
            }
        }
    }

    /// Whether the path has jitter.
    pub(super) fn is_jitter(&self) -> bool {
        self.count >= SWINGS_OF_JITTER
    }
}

/// Compares how the delivery rate and the window have grown from one round to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Growth {
    rate: f64,
    window: f64,
    is_proportional: bool,
}

impl Growth {
    /// Adds a round with a delivery rate, which the window of the round before allowed.
    pub(super) fn end_round(&mut self, rate: f64, window: f64) {
        let by_window = (window / self.window * PROPORTIONAL).max(GROWING);
        self.is_proportional = self.rate > 0.0 && rate >= self.rate * by_window;
        self.rate = rate;
        self.window = window;
    }

    /// Whether the rate has grown with the window, so that the path isn't full.
    pub(super) fn is_proportional(&self) -> bool {
        self.is_proportional
    }
}

/// Falls of the round trip that show jitter. A single one is the end of a stall.
const SWINGS_OF_JITTER: u32 = 2;

/// Share of the growth of the window that the rate must have grown by; the rest is noise.
const PROPORTIONAL: f64 = 0.9;

/// Growth of the rate from round to round that a full path doesn't have, as in BBR.
const GROWING: f64 = 1.25;

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_millis(5);

    /// Whether these round trips, in milliseconds, show jitter.
    fn is_jitter(round_trips: impl IntoIterator<Item = u64>) -> bool {
        let mut swings = Swings::default();
        for round_trip in round_trips {
            swings.observe(Duration::from_millis(round_trip), MARGIN);
        }
        swings.is_jitter()
    }

    #[test]
    fn a_queue_grows_a_stall_comes_once_and_jitter_again_and_again() {
        assert!(!is_jitter((40..120).step_by(3)), "a queue");
        assert!(!is_jitter([40, 90, 80, 70, 60, 50, 40, 41, 40]), "a stall");
        assert!(!is_jitter([40, 43, 40, 44, 41, 43, 40]), "noise");
        assert!(is_jitter([40, 52, 44, 57, 41]), "jitter");
    }

    #[test]
    fn the_rate_of_a_full_path_does_not_grow_with_the_window() {
        let mut growth = Growth::default();
        growth.end_round(1e6, 1e5);
        assert!(
            !growth.is_proportional(),
            "there is nothing to compare with"
        );
        growth.end_round(2e6, 2e5);
        assert!(growth.is_proportional());
        growth.end_round(2.5e6, 4e5);
        assert!(!growth.is_proportional());
    }
}
