//! Loss: overflow of a short queue, or noise of the path.
//!
//! The controller learns the usual share of lost packets, which has no effect. A round that loses
//! clearly more shows an overflow only if more was in flight than the path holds without a queue.
//! The overflow bounds the bytes in flight to what fitted, and never to less than the path holds.
//! Each later probe tries a slightly higher bound.
//!
//! Otherwise it was a burst of losses, which says nothing about the rate. If it goes on round after
//! round, the path delivers less than its model says, as behind a policer: then the rate that was
//! delivered becomes that of the model.

use super::delivery_rate::Round;

/// The usual loss, and the bound after an overflow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LossBound {
    usual: f64,
    /// Consecutive rounds with heavy loss.
    excesses: u32,
    ceiling: Option<f64>,
}

/// What the loss of a round shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// No more than usual.
    Usual,
    /// More than usual, but no more was in flight than the path holds.
    Burst,
    /// A queue overflowed.
    Overflow,
    /// The path has become slower than its model, without a queue to show it.
    Slower,
}

impl LossBound {
    /// Returns the most bytes that may be in flight.
    pub(super) fn ceiling(&self) -> f64 {
        self.ceiling.unwrap_or(f64::INFINITY)
    }

    /// Removes the bound.
    pub(super) fn remove(&mut self) {
        self.ceiling = None;
    }

    /// Returns the most bytes that a probe may have in flight.
    pub(super) fn probe_ceiling(&self) -> f64 {
        self.ceiling() * CEILING_GROWTH
    }

    /// Judges the loss of a round. `window` bytes were in flight on a path with a bandwidth-delay
    /// product of `pipe`.
    pub(super) fn judge(&mut self, round: &Round, mtu: u64, window: f64, pipe: f64) -> Loss {
        let share = round.loss();
        let is_excess =
            share > EXCESS_SHARE + EXCESS_FACTOR * self.usual && round.lost > EXCESS_PACKETS * mtu;
        if !is_excess {
            self.usual += (share - self.usual) / FAST_AVERAGE;
            self.excesses = 0;
            return Loss::Usual;
        }
        if window > pipe * QUEUELESS {
            return Loss::Overflow;
        }
        // A path that keeps losing more, however little is sent, is a worse path.
        self.usual += (share - self.usual) / SLOW_AVERAGE;
        self.excesses = if share > SLOWER_SHARE {
            self.excesses + 1
        } else {
            0
        };
        if self.excesses >= SLOWER_ROUNDS {
            self.excesses = 0;
            return Loss::Slower;
        }
        Loss::Burst
    }

    /// Sets the bound after a round with `window` bytes in flight lost `share` to overflow. `pipe`
    /// is the bandwidth-delay product, which always fits.
    pub(super) fn lower(&mut self, window: f64, share: f64, pipe: f64) {
        let fitted = window * (1.0 - share).max(CUT_MAX);
        self.ceiling = Some(self.ceiling().min(fitted.max(pipe)));
    }

    /// Sets the bound after an ECN mark on packets that were sent with `window` bytes in flight.
    pub(super) fn lower_for_mark(&mut self, window: f64) {
        self.ceiling = Some(self.ceiling().min(window * MARK_LEAVES));
    }

    /// Raises the bound after a probe without overflow. Removes it from `enough` on.
    pub(super) fn raise(&mut self, enough: f64) {
        let raised = self.probe_ceiling();
        self.ceiling = (raised < enough).then_some(raised);
    }
}

/// Loss above a multiple of the usual that isn't chance: the share at which BBRv3 reacts.
const EXCESS_SHARE: f64 = 0.02;

/// The multiple of the usual loss that is tolerated.
const EXCESS_FACTOR: f64 = 2.0;

/// Lost packets that are too few to compute a share.
const EXCESS_PACKETS: u64 = 4;

/// Rounds over which the usual share is averaged, without overflow.
const FAST_AVERAGE: f64 = 8.0;

/// Rounds over which the usual share is averaged, if the round looks like an overflow.
const SLOW_AVERAGE: f64 = 16.0;

/// Multiple of the bandwidth-delay product up to which bytes in flight cause no queue.
const QUEUELESS: f64 = 1.1;

/// Share of the window that one round leaves at least: that of CUBIC (RFC 9438, §4.6).
const CUT_MAX: f64 = 0.7;

/// Loss that shows a slower path, if it lasts.
const SLOWER_SHARE: f64 = 0.1;

/// Consecutive rounds of such loss.
const SLOWER_ROUNDS: u32 = 2;

/// Factor of the bound during a probe. With one probe in about eight rounds, a path without any
/// queue drops less than 1 % because of it.
const CEILING_GROWTH: f64 = 1.05;

/// Share of the window that an ECN mark leaves (RFC 8511).
const MARK_LEAVES: f64 = 0.85;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn round(delivered: u64, lost: u64) -> Round {
        Round {
            rate: 0.0,
            delivered: delivered * 1000,
            lost: lost * 1000,
            round_trip_min: Duration::ZERO,
            round_trip_mean: Duration::ZERO,
            app_limited: false,
        }
    }

    const PIPE: f64 = 1e6;

    #[test]
    fn usual_loss_is_no_excess_but_a_sudden_rise_is() {
        let mut bound = LossBound::default();
        for _ in 0..50 {
            let loss = bound.judge(&round(1000, 19), 1000, PIPE, PIPE);
            assert_eq!(loss, Loss::Usual);
        }
        let sudden = round(1000, 100);
        assert_eq!(bound.judge(&sudden, 1000, 2.0 * PIPE, PIPE), Loss::Overflow);
        assert_eq!(bound.judge(&sudden, 1000, PIPE, PIPE), Loss::Burst);
        assert_eq!(
            bound.judge(&round(10, 3), 1000, 2.0 * PIPE, PIPE),
            Loss::Usual,
            "too few packets to tell"
        );
    }

    #[test]
    fn heavy_loss_that_lasts_shows_a_slower_path_and_then_becomes_usual() {
        let mut bound = LossBound::default();
        let mut judged = (0..40).map(|_| bound.judge(&round(850, 150), 1000, PIPE, PIPE));
        assert_eq!(judged.next(), Some(Loss::Burst));
        assert_eq!(judged.next(), Some(Loss::Slower));
        assert_eq!(judged.last(), Some(Loss::Usual));
    }

    #[test]
    fn a_window_above_the_path_explains_any_loss() {
        let mut bound = LossBound::default();
        for _ in 0..40 {
            let loss = bound.judge(&round(900, 100), 1000, 3.0 * PIPE, PIPE);
            assert_eq!(loss, Loss::Overflow);
        }
    }

    #[test]
    fn probes_remove_the_bound() {
        let mut bound = LossBound::default();
        bound.lower(1_200_000.0, 0.2, 900_000.0);
        assert!((bound.ceiling() - 960_000.0).abs() < 1.0);
        bound.lower(1_000_000.0, 0.2, 900_000.0);
        assert!(
            (bound.ceiling() - 900_000.0).abs() < 1.0,
            "the path holds that"
        );
        for _ in 0..20 {
            bound.raise(1_200_000.0);
        }
        assert_eq!(bound.ceiling(), f64::INFINITY);
    }
}
