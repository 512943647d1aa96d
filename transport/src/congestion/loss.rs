//! Loss: overflow of a short queue, or noise of the path.
//!
//! The controller learns the usual share of lost packets, which has no effect. Only a round that
//! loses clearly more than usual shows that the queue overflowed. It bounds the bytes in flight to
//! what fitted. Each later probe tries a slightly higher bound.

use super::delivery_rate::Round;

/// The usual loss, and the bound after an overflow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LossBound {
    usual: f64,
    ceiling: Option<f64>,
}

impl LossBound {
    /// Returns the most bytes that may be in flight.
    pub(super) fn ceiling(&self) -> f64 {
        self.ceiling.unwrap_or(f64::INFINITY)
    }

    /// Whether there is a bound.
    pub(super) fn is_bound(&self) -> bool {
        self.ceiling.is_some()
    }

    /// Returns the most bytes that a probe may have in flight.
    pub(super) fn probe_ceiling(&self) -> f64 {
        self.ceiling() * CEILING_GROWTH
    }

    /// Whether a round lost clearly more than usual. `window` bytes were in flight on a path with a
    /// bandwidth-delay product of `pipe`.
    ///
    /// If they can't have overflowed a queue, the loss counts as usual: a path that keeps losing
    /// more, however little is sent, is a worse path and not a full queue.
    pub(super) fn is_excess(&mut self, round: &Round, mtu: u64, window: f64, pipe: f64) -> bool {
        let share = round.loss();
        let is_excess =
            share > EXCESS_SHARE + EXCESS_FACTOR * self.usual && round.lost > EXCESS_PACKETS * mtu;
        if !is_excess {
            self.usual += (share - self.usual) / FAST_AVERAGE;
        } else if window < pipe * QUEUELESS {
            self.usual += (share - self.usual) / SLOW_AVERAGE;
        }
        is_excess
    }

    /// Sets the bound after a round with `window` bytes in flight lost `share` to overflow. `pipe`
    /// is the bandwidth-delay product.
    pub(super) fn lower(&mut self, window: f64, share: f64, pipe: f64) {
        let fitted = window * (1.0 - share).max(CUT_MAX);
        self.ceiling = Some(self.ceiling().min(fitted.max(pipe * PIPE_SHARE_MIN)));
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

/// The smallest bound, as a share of the bandwidth-delay product. If half of it overflows, the
/// estimate of the product is wrong.
const PIPE_SHARE_MIN: f64 = 0.5;

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
            app_limited: false,
        }
    }

    const PIPE: f64 = 1e6;

    #[test]
    fn usual_loss_is_no_excess_but_a_sudden_rise_is() {
        let mut bound = LossBound::default();
        for _ in 0..50 {
            assert!(!bound.is_excess(&round(1000, 19), 1000, PIPE, PIPE));
        }
        assert!(bound.is_excess(&round(1000, 100), 1000, PIPE, PIPE));
        assert!(
            !bound.is_excess(&round(10, 3), 1000, PIPE, PIPE),
            "too few packets to tell"
        );
    }

    #[test]
    fn steady_heavy_loss_is_accepted_unless_the_window_explains_it() {
        for (window, accepted) in [(PIPE, true), (3.0 * PIPE, false)] {
            let mut bound = LossBound::default();
            let heavy = round(900, 100);
            let excesses = (0..40)
                .filter(|_| bound.is_excess(&heavy, 1000, window, PIPE))
                .count();
            assert_eq!(excesses < 15, accepted, "{excesses}");
        }
    }

    #[test]
    fn probes_remove_the_bound() {
        let mut bound = LossBound::default();
        bound.lower(1_000_000.0, 0.2, 900_000.0);
        assert!((bound.ceiling() - 800_000.0).abs() < 1.0);
        for _ in 0..20 {
            bound.raise(1_200_000.0);
        }
        assert_eq!(bound.ceiling(), f64::INFINITY);
    }
}
