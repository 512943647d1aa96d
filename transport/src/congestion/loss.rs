//! What loss means: overflow of a short queue, or noise of the path.
//!
//! The usual share of lost packets is learnt and costs nothing. Only a round that loses clearly
//! more than usual says that the queue overflowed, and bounds what may be under way to what
//! fitted; the bound is tried again, a little higher, by each later probe.

use super::delivery_rate::Round;

/// Usual loss and the bound that overflow has set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LossBound {
    usual: f64,
    ceiling: Option<f64>,
}

impl LossBound {
    /// Most that may be under way, in bytes.
    pub(super) fn ceiling(&self) -> f64 {
        self.ceiling.unwrap_or(f64::INFINITY)
    }

    /// Whether overflow has set a bound.
    pub(super) fn is_bound(&self) -> bool {
        self.ceiling.is_some()
    }

    /// Most that a probe may have under way, in bytes.
    pub(super) fn probe_ceiling(&self) -> f64 {
        self.ceiling() * CEILING_GROWTH
    }

    /// Whether a round lost clearly more than usual. `window` bytes were under way on a path that
    /// holds `pipe`; while they cannot have overflowed a queue, the usual share follows: a path
    /// that goes on losing more, however little is sent, is a worse path and not a full queue.
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

    /// A round with `window` bytes under way lost `share` to overflow; `pipe` is the path's own.
    pub(super) fn lower(&mut self, window: f64, share: f64, pipe: f64) {
        let fitted = window * (1.0 - share).max(CUT_MAX);
        self.ceiling = Some(self.ceiling().min(fitted.max(pipe * PIPE_SHARE_MIN)));
    }

    /// The path marked packets that were sent with `window` bytes under way.
    pub(super) fn lower_for_mark(&mut self, window: f64) {
        self.ceiling = Some(self.ceiling().min(window * MARK_LEAVES));
    }

    /// A probe went through; from `enough` on there is no bound.
    pub(super) fn raise(&mut self, enough: f64) {
        let raised = self.probe_ceiling();
        self.ceiling = (raised < enough).then_some(raised);
    }
}

/// Loss beyond twice the usual that is no longer chance: the share at which BBRv3 reacts.
const EXCESS_SHARE: f64 = 0.02;
const EXCESS_FACTOR: f64 = 2.0;

/// A handful of packets is no share of anything.
const EXCESS_PACKETS: u64 = 4;

/// Rounds the usual share is averaged over: ordinary rounds, and those that look like overflow.
const FAST_AVERAGE: f64 = 8.0;
const SLOW_AVERAGE: f64 = 16.0;

/// Up to this much of the pipe, what is under way makes no queue worth the name.
const QUEUELESS: f64 = 1.1;

/// CUBIC's cut (RFC 9438 §4.6), as the most one round may take away.
const CUT_MAX: f64 = 0.7;

/// Less than half the pipe is never the answer to overflow: the estimate of the pipe is wrong then.
const PIPE_SHARE_MIN: f64 = 0.5;

/// What a probe may add to the bound; with one probe in some eight rounds the drops this costs on
/// a path with no queue at all stay below one per cent.
const CEILING_GROWTH: f64 = 1.05;

/// RFC 8511: what an explicit congestion mark leaves of the window.
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
    fn bound_returns_to_none_by_probes() {
        let mut bound = LossBound::default();
        bound.lower(1_000_000.0, 0.2, 900_000.0);
        assert!((bound.ceiling() - 800_000.0).abs() < 1.0);
        for _ in 0..20 {
            bound.raise(1_200_000.0);
        }
        assert_eq!(bound.ceiling(), f64::INFINITY);
    }
}
