//! CUBIC mode: sharing a path with loss-based senders such as TCP CUBIC (RFC 9438).
//!
//! A sender that keeps the queue short starves beside one that fills it. While a competing flow
//! keeps a queue filled, the window follows the CUBIC function, so that this flow takes about as
//! much as one more CUBIC sender. Loss counts only while the queue is long, so random loss doesn't.

use std::time::{Duration, Instant};

/// The window of a CUBIC sender on this path, in bytes.
#[derive(Debug, Clone)]
pub(super) struct CubicMode {
    window: f64,
    window_max: f64,
    epoch: Instant,
    /// Window of a Reno sender since the epoch (RFC 9438, §4.3), the minimum on short paths.
    reno: f64,
    cut_at: Option<Instant>,
    round_trip_max: Duration,
}

impl CubicMode {
    /// Starts from the current window.
    pub(super) fn new(now: Instant, window: f64) -> Self {
        Self {
            window,
            window_max: window,
            epoch: now,
            reno: window,
            cut_at: None,
            round_trip_max: Duration::ZERO,
        }
    }

    /// Returns the window, in bytes.
    pub(super) fn window(&self) -> f64 {
        self.window
    }

    /// Grows the window for acknowledged bytes.
    pub(super) fn on_ack(&mut self, now: Instant, acked: f64, round_trip: Duration, mtu: f64) {
        self.round_trip_max = self.round_trip_max.max(round_trip);
        let elapsed = now.saturating_duration_since(self.epoch) + round_trip;
        let to_plateau = ((self.window_max - self.window_after_cut()) / mtu / SCALE)
            .max(0.0)
            .cbrt();
        let from_plateau = elapsed.as_secs_f64() - to_plateau;
        let target = self.window_max + SCALE * from_plateau.powi(3) * mtu;
        let target = target.clamp(self.window, GROWTH_MAX * self.window);
        self.reno += RENO_GROWTH * mtu * acked / self.window;
        let step = (target - self.window) * acked / self.window;
        self.window = (self.window + step).max(self.reno);
    }

    /// Handles the loss of packets sent at `sent`: at most once per round trip, and only while the
    /// queue is long.
    pub(super) fn on_lost(
        &mut self,
        now: Instant,
        sent: Instant,
        round_trip: Duration,
        round_trip_min: Duration,
    ) {
        let queue_long = (self.round_trip_max.saturating_sub(round_trip_min)) / 2;
        if self.cut_at.is_some_and(|cut| sent <= cut) || round_trip < round_trip_min + queue_long {
            return;
        }
        // Fast convergence (RFC 9438, §4.7): leave room for a new flow.
        self.window_max = if self.window < self.window_max {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.window *= BETA;
        self.reno = self.window;
        self.epoch = now;
        self.cut_at = Some(now);
        self.round_trip_max = round_trip;
    }

    /// Returns the window at the start of the current epoch.
    fn window_after_cut(&self) -> f64 {
        if self.cut_at.is_some() {
            self.window_max * BETA
        } else {
            self.window_max
        }
    }
}

/// The constant `C` of RFC 9438, §4.1, in packets per second cubed.
const SCALE: f64 = 0.4;

/// The share of the window that remains after a loss (RFC 9438, §4.6).
const BETA: f64 = 0.7;

/// Growth of the Reno window, in packets per round trip (RFC 9438, §4.3).
const RENO_GROWTH: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The limit of the target as a multiple of the window (RFC 9438, §4.2).
const GROWTH_MAX: f64 = 1.5;
