//! Filters: the largest recent delivery rate, the smallest recent round trip, and delay detection.
//!
//! The extremes expire, because a path may become slower or longer. Rates expire by rounds, so that
//! an idle connection keeps its estimate. Round trips expire by time, because routes change in
//! time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The largest value of the last [`RATE_ROUNDS`] rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct MaxRate {
    /// Pairs of round and rate, in falling order of the rates; at most one per round.
    entries: VecDeque<(u64, f64)>,
}

impl MaxRate {
    /// Adds a rate of `round`, and drops expired ones.
    pub(super) fn insert(&mut self, round: u64, rate: f64) {
        while self.entries.back().is_some_and(|&(_, kept)| kept <= rate) {
            self.entries.pop_back();
        }
        // A smaller value of the same round would never be the largest before it expires.
        if self.entries.back().is_none_or(|&(kept, _)| kept != round) {
            self.entries.push_back((round, rate));
        }
        self.expire(round);
    }

    /// Drops rates from [`RATE_ROUNDS`] rounds before `round` or earlier, but keeps at least one.
    fn expire(&mut self, round: u64) {
        while self.entries.len() > 1
            && self
                .entries
                .front()
                .is_some_and(|&(seen, _)| seen + RATE_ROUNDS <= round)
        {
            self.entries.pop_front();
        }
    }

    /// Replaces all rates by one.
    pub(super) fn reset(&mut self, round: u64, rate: f64) {
        self.entries.clear();
        self.entries.push_back((round, rate));
    }

    /// Returns the largest rate, in bytes per second; zero before the first.
    pub(super) fn get(&self) -> f64 {
        self.entries.front().map_or(0.0, |&(_, rate)| rate)
    }
}

/// The burst that several recent rounds had in common. Aggregation causes one in every round, a
/// stall only a single one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bursts {
    round: u64,
    /// The largest burst of each recent round, in bytes.
    largest: [f64; BURST_ROUNDS],
}

impl Bursts {
    /// Adds a burst of `bytes` in `round`.
    pub(super) fn insert(&mut self, round: u64, bytes: f64) {
        if round != self.round {
            self.round = round;
            self.largest.rotate_right(1);
            self.largest[0] = 0.0;
        }
        self.largest[0] = self.largest[0].max(bytes);
    }

    /// Returns the size of the burst to expect, in bytes.
    pub(super) fn get(&self) -> f64 {
        let mut sorted = self.largest;
        sorted.sort_by(f64::total_cmp);
        sorted[BURST_ROUNDS - BURSTS_TO_BELIEVE]
    }
}

/// The smallest round trip of the last [`ROUND_TRIP_AGE_MAX`].
#[derive(Debug, Clone, Default)]
pub(super) struct MinRoundTrip {
    value: Option<Duration>,
    /// When a sample last came close to the value.
    confirmed: Option<Instant>,
}

impl MinRoundTrip {
    /// Adds a sample. A sample within the noise of the minimum confirms it.
    pub(super) fn insert(&mut self, now: Instant, sample: Duration) {
        match self.value {
            Some(value) if sample > value + noise(value) => {}
            Some(value) => {
                self.value = Some(value.min(sample));
                self.confirmed = Some(now);
            }
            None => self.replace(now, sample),
        }
    }

    /// Replaces the minimum.
    pub(super) fn replace(&mut self, now: Instant, value: Duration) {
        self.value = Some(value);
        self.confirmed = Some(now);
    }

    /// Returns the smallest round trip; `None` before the first sample.
    pub(super) fn get(&self) -> Option<Duration> {
        self.value
    }

    /// Whether no sample has confirmed the value for [`ROUND_TRIP_AGE_MAX`].
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.confirmed
            .is_some_and(|seen| now.saturating_duration_since(seen) > ROUND_TRIP_AGE_MAX)
    }
}

/// Distinguishes a queue from delayed acknowledgements.
///
/// Two things besides a queue delay acknowledgements. Aggregation holds back several at a time, and
/// the next arrives on time a moment later. A stall of either end or of the path holds back
/// everything in flight: the round trip jumps, whereas a queue makes it grow gradually.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delayed {
    batches: u32,
    since: Option<Instant>,
    last: Duration,
    /// Acknowledgements until this time were held back by a stall and say nothing about a queue.
    held_up_until: Option<Instant>,
}

impl Delayed {
    /// Adds the round trip of a packet that is acknowledged now. Returns whether round trips have been
    /// over `limit` for long enough to show a queue. A round trip that is `jump` above the one
    /// before shows a stall.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        round_trip: Duration,
        limit: Duration,
        jump: Duration,
    ) -> bool {
        let last = std::mem::replace(&mut self.last, round_trip);
        if round_trip <= limit {
            self.batches = 0;
            self.since = None;
            return false;
        }
        // Only after a round trip on time: a queue that already exists stays one despite stalls.
        if self.since.is_none() && round_trip >= last + jump {
            self.held_up_until = Some(now + (round_trip - last));
        }
        if self.is_held_up(now) {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        self.batches += 1;
        self.batches >= DELAYED_BATCHES
            && now.saturating_duration_since(since) >= limit / DELAYED_SPAN_DIVISOR
    }

    /// Whether a stall held back what is acknowledged now.
    pub(super) fn is_held_up(&self, now: Instant) -> bool {
        self.held_up_until.is_some_and(|until| now <= until)
    }
}

/// Returns how far above the minimum a sample may be to confirm it: timer and scheduling noise.
fn noise(value: Duration) -> Duration {
    value / 64 + Duration::from_micros(200)
}

/// Rounds until a rate expires: more than a cycle of probing, so that the rate lasts from probe to
/// probe.
const RATE_ROUNDS: u64 = 10;

/// Rounds of bursts to remember: about [`RATE_ROUNDS`], but it does no harm to forget a burst
/// sooner.
const BURST_ROUNDS: usize = 8;

/// Rounds that must have a burst; fewer are chance.
const BURSTS_TO_BELIEVE: usize = 3;

/// Time until the smallest round trip expires, as in BBR: long enough for the queue of a competing
/// flow to have emptied once, short compared with the time between route changes.
const ROUND_TRIP_AGE_MAX: Duration = Duration::from_secs(10);

/// Delayed batches that show a queue. HyStart++ (RFC 9406) requires eight packets; a batch
/// acknowledges two or more.
const DELAYED_BATCHES: u32 = 4;

/// The share of a round trip for which the delay must last: an eighth. Longer would cost queue,
/// shorter would mistake aggregation for a queue.
const DELAYED_SPAN_DIVISOR: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_rate_expires_after_its_rounds() {
        let mut filter = MaxRate::default();
        filter.insert(0, 100.0);
        filter.insert(1, 50.0);
        filter.insert(1, 60.0);
        assert_eq!(filter.get(), 100.0);
        filter.insert(RATE_ROUNDS - 1, 40.0);
        assert_eq!(filter.get(), 100.0);
        filter.insert(RATE_ROUNDS, 10.0);
        assert_eq!(filter.get(), 60.0);
        filter.insert(10 * RATE_ROUNDS, 5.0);
        assert_eq!(filter.get(), 5.0);
    }

    #[test]
    fn the_smallest_round_trip_is_confirmed_by_samples_close_to_it() {
        let start = Instant::now();
        let mut filter = MinRoundTrip::default();
        filter.insert(start, Duration::from_millis(40));
        filter.insert(start, Duration::from_millis(60));
        assert_eq!(filter.get(), Some(Duration::from_millis(40)));
        let late = start + ROUND_TRIP_AGE_MAX + Duration::from_millis(1);
        assert!(filter.is_expired(late));
        filter.insert(late, Duration::from_micros(40_300));
        assert!(!filter.is_expired(late));
        assert_eq!(filter.get(), Some(Duration::from_millis(40)));
        filter.replace(late, Duration::from_millis(90));
        assert_eq!(filter.get(), Some(Duration::from_millis(90)));
    }

    #[test]
    fn a_burst_counts_when_it_recurs() {
        let mut filter = Bursts::default();
        filter.insert(1, 900.0);
        filter.insert(2, 20.0);
        filter.insert(2, 30.0);
        filter.insert(3, 40.0);
        assert_eq!(filter.get(), 30.0);
        for round in 4..12 {
            filter.insert(round, 10.0);
        }
        assert_eq!(filter.get(), 10.0);
    }

    const LIMIT: Duration = Duration::from_millis(90);
    const JUMP: Duration = Duration::from_millis(10);

    /// Whether these round trips, in milliseconds and one every 4 ms, show a queue.
    fn is_delayed(round_trips: impl IntoIterator<Item = u64>) -> bool {
        let start = Instant::now();
        let mut delayed = Delayed::default();
        delayed.observe(start, Duration::ZERO, LIMIT, JUMP);
        round_trips.into_iter().zip(1..).any(|(round_trip, tick)| {
            let now = start + Duration::from_millis(1000 + 4 * tick);
            delayed.observe(now, Duration::from_millis(round_trip), LIMIT, JUMP)
        })
    }

    #[test]
    fn a_queue_is_distinguished_from_a_stall() {
        let grows = (80..130).step_by(2);
        assert!(is_delayed(grows), "a queue grows gradually");
        let stall = [80, 120, 116, 112, 108, 104, 100, 96, 92, 88, 84, 80];
        assert!(!is_delayed(stall), "the delay of a stall decays at once");
        let into_a_queue = [80, 120].into_iter().chain([110; 20]);
        assert!(
            is_delayed(into_a_queue),
            "a queue that remains after a stall is a queue"
        );
    }
}
