//! What a path does to packets besides its rate and queue: loses them in bursts, makes them late,
//! lets them overtake each other, or stops for a moment.
//!
//! Each direction has its own state and random numbers. The emulator in `bench/linklab` models the
//! same with real packets.

use super::{SECOND, draw};

/// The impairments of one direction of a link.
#[derive(Debug, Clone)]
pub(in super::super) struct Impairments {
    /// Share of packets lost independently of each other.
    pub(super) loss: f64,
    /// Probabilities that a burst of losses begins with a packet, and that it ends with one
    /// (Gilbert's model).
    pub(super) bursts: Option<(f64, f64)>,
    /// Share of packets that arrive late, and by how much.
    pub(super) late: (f64, u64),
    /// Each packet is late by up to this time, at random.
    pub(super) jitter: u64,
    /// Whether packets that are late hold back those behind them, instead of being overtaken.
    pub(super) in_order: bool,
    /// Length and interval of outages, in which every packet is lost.
    pub(super) outages: (u64, u64),
    random: u64,
    in_burst: bool,
    last_arrival: u64,
}

impl Default for Impairments {
    fn default() -> Self {
        Self {
            loss: 0.0,
            bursts: None,
            late: (0.0, 0),
            jitter: 0,
            in_order: true,
            outages: (0, SECOND),
            random: 1,
            in_burst: false,
            last_arrival: 0,
        }
    }
}

impl Impairments {
    /// Starts the random numbers from a seed.
    pub(super) fn seed(&mut self, seed: u64) {
        self.random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for _ in 0..4 {
            draw(&mut self.random);
        }
    }

    /// Whether a packet that leaves the queue at `at` is lost.
    pub(super) fn loses(&mut self, at: u64) -> bool {
        if let Some((begins, ends)) = self.bursts {
            let change = if self.in_burst { ends } else { begins };
            if draw(&mut self.random) < change {
                self.in_burst = !self.in_burst;
            }
        }
        let (length, interval) = self.outages;
        // The first outage is in the middle of the first interval.
        let is_out = (at + interval / 2) % interval < length;
        self.in_burst || is_out || (self.loss > 0.0 && draw(&mut self.random) < self.loss)
    }

    /// Returns when a packet arrives that would arrive at `at` without delay.
    pub(super) fn arrival(&mut self, at: u64) -> u64 {
        let (share, late) = self.late;
        let mut arrival = at;
        if late > 0 && draw(&mut self.random) < share {
            arrival += late;
        }
        if self.jitter > 0 {
            arrival += (draw(&mut self.random) * self.jitter as f64) as u64;
        }
        if self.in_order && late == 0 {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        arrival
    }
}
