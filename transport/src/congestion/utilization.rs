//! Whether the window is filled: only then does the delivery rate say something about the path.
//!
//! A round that leaves its window unfilled was held up by this end: by the application, or by a
//! process that came too late for its timers, which quinn's pacer does not forgive. Against the
//! latter a larger window makes the pacer faster, as long as less is under way than was meant.

/// Follows how much of the window is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Utilization {
    /// Bytes under way when each byte of the round was acknowledged, summed up.
    sum: f64,
    acked: f64,
    /// What the window is multiplied by.
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
    /// `acked` bytes were acknowledged, `in_flight` remain under way.
    pub(super) fn observe(&mut self, in_flight: f64, acked: f64) {
        self.sum += (in_flight + acked) * acked;
        self.acked += acked;
    }

    /// Ends a round with this window, and says whether it was filled.
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

    /// The window that gets `target` bytes under way.
    pub(super) fn window(&self, target: f64, in_flight: f64) -> f64 {
        if in_flight < target {
            target * self.boost
        } else {
            target
        }
    }
}

/// Share of the window that must have been under way on average; a smooth sender reaches 95 %.
const SHARE: f64 = 0.88;

/// Start-up's window runs ahead of what is under way.
const SHARE_STARTUP: f64 = 0.4;

/// quinn's pacer forgets what a timer more than about 2 ms late should have sent; a busy machine is
/// late by a few times that.
const BOOST_MAX: f64 = 2.0;
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
    fn an_application_that_is_slow_earns_no_boost() {
        let mut utilization = Utilization::default();
        utilization.observe(100.0, 100.0);
        assert!(!utilization.end_round(1000.0, false, true));
        assert_eq!(utilization.window(1000.0, 200.0), 1000.0);
    }
}
