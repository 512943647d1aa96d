//! A neighbour that keeps the queue filled: sharing with loss-based senders such as TCP CUBIC.
//!
//! A sender that keeps the queue short starves beside one that fills it. While a queue stands
//! that is not ours, the window follows the CUBIC function of RFC 9438, so that we take about what
//! one more CUBIC sender would; losses count only while the queue is long, random ones do not.

use std::time::{Duration, Instant};

/// The window of a CUBIC sender on this path, in bytes.
#[derive(Debug, Clone)]
pub(super) struct CubicMode {
    window: f64,
    window_max: f64,
    epoch: Instant,
    /// Window of a Reno sender since the epoch: the floor of short paths.
    reno: f64,
    cut_at: Option<Instant>,
    round_trip_max: Duration,
}

impl CubicMode {
    /// Starts from the window that was in use.
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

    /// The window in bytes.
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

    /// Packets sent at `sent` were lost; counts once per round trip, and only with a long queue.
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
        // RFC 9438 §4.7, fast convergence: leave room for a newcomer.
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

    /// Where the current epoch began.
    fn window_after_cut(&self) -> f64 {
        if self.cut_at.is_some() {
            self.window_max * BETA
        } else {
            self.window_max
        }
    }
}

/// RFC 9438 §4.1: packets per second cubed.
const SCALE: f64 = 0.4;

/// RFC 9438 §4.6: what a loss leaves of the window.
const BETA: f64 = 0.7;

/// RFC 9438 §4.3: growth of the Reno-friendly window in packets per round trip.
const RENO_GROWTH: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// RFC 9438 §4.2: the most the target may exceed the window.
const GROWTH_MAX: f64 = 1.5;
