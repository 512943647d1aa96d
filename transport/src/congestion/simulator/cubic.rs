//! TCP CUBIC as a competing flow: RFC 9438 with the delay exit of HyStart, unpaced, as in most
//! systems.

use super::{MILLISECOND, PACKET};

/// A TCP CUBIC sender. Windows are in packets.
pub(in super::super) struct TcpCubic {
    window: f64,
    threshold: f64,
    window_max: f64,
    epoch: Option<(u64, f64)>,
    reno: f64,
    cut_at: Option<u64>,
    round_trip_min: u64,
    late: u32,
}

impl TcpCubic {
    pub(super) fn new() -> Self {
        Self {
            window: 10.0,
            threshold: f64::INFINITY,
            window_max: 0.0,
            epoch: None,
            reno: 0.0,
            cut_at: None,
            round_trip_min: u64::MAX,
            late: 0,
        }
    }

    pub(super) fn window(&self) -> u64 {
        (self.window * PACKET as f64) as u64
    }

    pub(super) fn on_ack(&mut self, now: u64, round_trip: u64) {
        self.round_trip_min = self.round_trip_min.min(round_trip);
        if self.window < self.threshold {
            self.window += 1.0;
            let late = (self.round_trip_min / 8).clamp(4 * MILLISECOND, 16 * MILLISECOND);
            self.late = if round_trip > self.round_trip_min + late {
                self.late + 1
            } else {
                0
            };
            if self.late >= 8 && self.window > 16.0 {
                self.threshold = self.window;
            }
            return;
        }
        let (start, plateau_after) = *self.epoch.get_or_insert_with(|| {
            self.window_max = self.window_max.max(self.window);
            self.reno = self.window;
            (now, ((self.window_max - self.window) / 0.4).cbrt())
        });
        let elapsed = (now - start + round_trip) as f64 / 1e9;
        let target = self.window_max + 0.4 * (elapsed - plateau_after).powi(3);
        let target = target.clamp(self.window, 1.5 * self.window);
        self.reno += 0.53 / self.window;
        self.window = (self.window + (target - self.window) / self.window).max(self.reno);
    }

    pub(super) fn on_lost(&mut self, now: u64, sent: u64) {
        if self.cut_at.is_some_and(|cut| sent <= cut) {
            return;
        }
        self.window_max = if self.window < self.window_max {
            self.window * 0.85
        } else {
            self.window
        };
        self.window = (self.window * 0.7).max(2.0);
        self.threshold = self.window;
        self.epoch = None;
        self.cut_at = Some(now);
    }
}
