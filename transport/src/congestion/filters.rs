//! Filters: the largest delivery rate of the last rounds, the smallest recent round trip, lateness.
//!
//! The extremes forget by themselves, because a path may become slower or longer. Rates age by round, so
//! that an idle connection keeps its estimate; the round trip ages by time, because routes do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The largest value of the last [`RATE_ROUNDS`] rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct MaxRate {
    /// Values in falling order with the round they were seen in; at most one per round.
    entries: VecDeque<(u64, f64)>,
}

impl MaxRate {
    /// Takes in a rate seen in `round`, and forgets what is too old.
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

    /// Forgets what was seen more than [`RATE_ROUNDS`] rounds before `round`, but never everything.
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

    /// Replaces all that was seen by one rate.
    pub(super) fn reset(&mut self, round: u64, rate: f64) {
        self.entries.clear();
        self.entries.push_back((round, rate));
    }

    /// The largest rate in bytes per second; zero before the first.
    pub(super) fn get(&self) -> f64 {
        self.entries.front().map_or(0.0, |&(_, rate)| rate)
    }
}

/// The burst that several of the last rounds have seen: aggregation makes one in every round, a
/// stall makes one that does not come back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bursts {
    round: u64,
    /// The largest of each of the last rounds.
    largest: [f64; BURST_ROUNDS],
}

impl Bursts {
    /// Takes in a burst of so many bytes seen in `round`.
    pub(super) fn insert(&mut self, round: u64, bytes: f64) {
        if round != self.round {
            self.round = round;
            self.largest.rotate_right(1);
            self.largest[0] = 0.0;
        }
        self.largest[0] = self.largest[0].max(bytes);
    }

    /// Bytes to expect of a burst.
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
    /// Takes in a sample; one within the noise of the minimum confirms it.
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

    /// Forgets the past: the path has this round trip now.
    pub(super) fn replace(&mut self, now: Instant, value: Duration) {
        self.value = Some(value);
        self.confirmed = Some(now);
    }

    /// The smallest round trip, if any was seen.
    pub(super) fn get(&self) -> Option<Duration> {
        self.value
    }

    /// Whether no sample has confirmed the value for [`ROUND_TRIP_AGE_MAX`].
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.confirmed
            .is_some_and(|seen| now.saturating_duration_since(seen) > ROUND_TRIP_AGE_MAX)
    }
}

/// Tells a queue from late acknowledgements.
///
/// Two things besides a queue make round trips late. Aggregation holds acknowledgements back many
/// at a time, and has the next on time a moment later. A stall, of either end or of the path, holds
/// back all that is under way: the round trip jumps, where a queue makes it grow bit by bit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delayed {
    batches: u32,
    since: Option<Instant>,
    last: Duration,
    /// Until then acknowledgements arrive that a stall held up; they say nothing about a queue.
    held_up_until: Option<Instant>,
}

impl Delayed {
    /// Whether round trips have been over `limit` often enough and for long enough, by an
    /// acknowledgement of a packet sent at `sent`; one that is `jump` later than that before it
    /// shows a stall.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        sent: Instant,
        limit: Duration,
        jump: Duration,
    ) -> bool {
        let round_trip = now.saturating_duration_since(sent);
        let last = std::mem::replace(&mut self.last, round_trip);
        if round_trip <= limit {
            self.batches = 0;
            self.since = None;
            return false;
        }
        // Only after a round trip on time: a queue that stands is one, stalls or not.
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

    /// Whether what is acknowledged now was held up by a stall.
    pub(super) fn is_held_up(&self, now: Instant) -> bool {
        self.held_up_until.is_some_and(|until| now <= until)
    }
}

/// How far above the minimum a sample still counts as the same: timer and scheduling noise.
fn noise(value: Duration) -> Duration {
    value / 64 + Duration::from_micros(200)
}

/// Longer than one cycle of probing, so that the rate survives from probe to probe.
const RATE_ROUNDS: u64 = 10;

/// As many as [`RATE_ROUNDS`], but a burst does not hurt if it is forgotten sooner.
const BURST_ROUNDS: usize = 8;

/// Fewer rounds with a burst than this are chance.
const BURSTS_TO_BELIEVE: usize = 3;

/// As in BBR: long enough for a neighbour's queue to have emptied once, short against route changes.
const ROUND_TRIP_AGE_MAX: Duration = Duration::from_secs(10);

/// As in HyStart (RFC 9406), which asks for eight packets; acknowledgements cover two or more.
const DELAYED_BATCHES: u32 = 4;

/// The share of a round trip that lateness must last for: longer costs queue, shorter mistakes
/// aggregation for one.
const DELAYED_SPAN_DIVISOR: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_rate_is_forgotten_after_its_rounds() {
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
    fn smallest_round_trip_is_confirmed_by_samples_close_to_it() {
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
    fn a_burst_counts_when_it_comes_back() {
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

    /// Whether lateness is seen when these round trips, in milliseconds, come one every 4 ms.
    fn is_delayed(round_trips: impl IntoIterator<Item = u64>) -> bool {
        let start = Instant::now();
        let mut delayed = Delayed::default();
        delayed.observe(start, start, LIMIT, JUMP);
        round_trips.into_iter().zip(1..).any(|(round_trip, tick)| {
            let now = start + Duration::from_millis(1000 + 4 * tick);
            let sent = now - Duration::from_millis(round_trip);
            delayed.observe(now, sent, LIMIT, JUMP)
        })
    }

    #[test]
    fn a_queue_is_told_from_a_stall() {
        let grows = (80..130).step_by(2);
        assert!(is_delayed(grows), "a queue grows bit by bit");
        let stall = [80, 120, 116, 112, 108, 104, 100, 96, 92, 88, 84, 80];
        assert!(!is_delayed(stall), "what a stall held up comes off at once");
        let into_a_queue = [80, 120].into_iter().chain([110; 20]);
        assert!(
            is_delayed(into_a_queue),
            "a queue that a stall leaves is one"
        );
    }
}
