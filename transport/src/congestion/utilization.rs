//! Window utilization: only a filled window makes the delivery rate a measurement of the path.
//!
//! A round that leaves its window unfilled was limited by this end: by the application, or by a
//! process that missed its timers, which quinn's pacer doesn't make up for. In the latter case a
//! larger window makes the pacer faster, as long as fewer bytes are in flight than intended.

/// Tracks the share of the window that is in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Utilization {
    /// Bytes in flight at the acknowledgement of each byte of the round, summed up.
    sum: f64,
    acked: f64,
    /// Factor of the window.
    boost: f64,
}

impl Default for Utilization {
    fn default() -> Self {
        Self {
            sum: 0.0,
            acked: 0.0,
            boost: 1.0,
        }
    }
}

impl Utilization {
    /// Records that `acked` bytes were acknowledged and `in_flight` remain.
    pub(super) fn observe(&mut self, in_flight: f64, acked: f64) {
        self.sum += (in_flight + acked) * acked;
        self.acked += acked;
    }

    /// Ends a round with this window. Returns whether the window was filled.
    pub(super) fn end_round(&mut self, window: f64, is_startup: bool, app_limited: bool) -> bool {
        let mean = self.sum / self.acked.max(1.0);
        self.sum = 0.0;
        self.acked = 0.0;
        let share = if is_startup { SHARE_STARTUP } else { SHARE };
        let is_filled = mean >= share * window / self.boost;
        self.boost = if is_filled || is_startup || app_limited {
            (self.boost / BOOST_STEP).max(1.0)
        } else {
            (self.boost * BOOST_STEP).min(BOOST_MAX)
        };
        is_filled
    }

    /// Returns the window that brings `target` bytes into flight.
    pub(super) fn window(&self, target: f64, in_flight: f64) -> f64 {
        if in_flight < target {
            target * self.boost
        } else {
            target
        }
    }
}

/// Average share of a filled window that is in flight. A smooth sender reaches 95 %.
const SHARE: f64 = 0.88;

/// The same during start-up, where the window grows ahead of the bytes in flight.
const SHARE_STARTUP: f64 = 0.4;

/// Largest factor of the window. quinn's pacer drops its credit for timers that fire more than
/// about 2 ms late, and a busy machine is late by a few times that.
const BOOST_MAX: f64 = 2.0;

/// Change of the factor per round.
const BOOST_STEP: f64 = 1.15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfilled_window_is_boosted_until_it_is_filled() {
        let mut utilization = Utilization::default();
        for _ in 0..20 {
            utilization.observe(500.0, 100.0);
            assert!(!utilization.end_round(1000.0 * utilization.boost, false, false));
        }
        assert_eq!(utilization.window(1000.0, 600.0), 1000.0 * BOOST_MAX);
        assert_eq!(utilization.window(1000.0, 1000.0), 1000.0);
        for _ in 0..20 {
            utilization.observe(900.0, 100.0);
            assert!(utilization.end_round(1000.0 * utilization.boost, false, false));
        }
        assert_eq!(utilization.window(1000.0, 600.0), 1000.0);
    }

    #[test]
    fn a_slow_application_gets_no_boost() {
        let mut utilization = Utilization::default();
        utilization.observe(100.0, 100.0);
        assert!(!utilization.end_round(1000.0, false, true));
        assert_eq!(utilization.window(1000.0, 200.0), 1000.0);
    }
}
