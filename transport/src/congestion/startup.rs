//! Start-up: finding the rate of a path of unknown speed within few round trips.
//!
//! The window grows with what is acknowledged, as in slow start, but faster while the path is
//! known to be far from full. That knowledge comes from packet trains: packets that leave together
//! arrive spread out by the slowest link, and so do their acknowledgements. Such estimates are
//! rough (interrupts and aggregation bend them), so they only choose how fast to grow; that the
//! path is full is seen from the round trip or from a delivery rate that no longer follows.

use std::time::{Duration, Instant};

use super::delivery_rate::Round;

/// The train that is being acknowledged.
#[derive(Debug, Clone, Copy)]
struct Train {
    sent: Instant,
    first_acked: Instant,
    last_acked: Instant,
    /// Bytes acknowledged after the first acknowledgement.
    bytes: u64,
}

/// State of start-up; see the module header.
#[derive(Debug, Clone, Default)]
pub(super) struct Startup {
    train: Option<Train>,
    /// Largest rates, in bytes per second, that trains of the current start-up arrived with.
    trains: Vec<f64>,
    full_rate: f64,
    stale_rounds: u32,
}

impl Startup {
    /// One packet was acknowledged.
    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, mtu: u64) {
        match &mut self.train {
            Some(train) if train.sent == sent => {
                if now > train.first_acked {
                    train.bytes += bytes;
                    train.last_acked = now;
                }
            }
            _ => {
                self.end_train(mtu);
                self.train = Some(Train {
                    sent,
                    first_acked: now,
                    last_acked: now,
                    bytes: 0,
                });
            }
        }
    }

    fn end_train(&mut self, mtu: u64) {
        let Some(train) = self.train.take() else {
            return;
        };
        let spread = train
            .last_acked
            .saturating_duration_since(train.first_acked);
        if train.bytes >= TRAIN_PACKETS_MIN * mtu && spread > Duration::ZERO {
            if self.trains.len() >= TRAINS_MAX {
                self.trains.remove(0);
            }
            self.trains.push(train.bytes as f64 / spread.as_secs_f64());
        }
    }

    /// What the trains say about the path's rate, in bytes per second: their upper quartile, because noise mostly spreads trains further.
    fn train_rate(&self) -> Option<f64> {
        let mut rates = self.trains.clone();
        rates.sort_by(f64::total_cmp);
        rates
            .get(rates.len() * 3 / 4)
            .copied()
            .filter(|_| rates.len() >= TRAINS_MIN)
    }

    /// Bytes to grow the window by for each byte acknowledged, which was late or not.
    pub(super) fn growth(&self, window: f64, round_trip: Duration, is_delayed: bool) -> f64 {
        if is_delayed {
            return GROWTH_DELAYED;
        }
        let Some(rate) = self.train_rate() else {
            return GROWTH_UNKNOWN;
        };
        let filled = window / (rate * round_trip.as_secs_f64());
        if filled < ALMOST_EMPTY {
            GROWTH_JUMP
        } else if filled < FAR_FROM_FULL {
            GROWTH_FAST
        } else if filled < CLOSE_TO_FULL {
            GROWTH_NEAR
        } else {
            GROWTH_CLOSE
        }
    }

    /// Whether the delivery rate has stopped growing, seen at the end of a round.
    pub(super) fn is_full(&mut self, round: &Round, rate: f64) -> bool {
        if rate >= self.full_rate * RATE_GROWTH_MIN {
            self.full_rate = rate;
            self.stale_rounds = 0;
        } else if !round.app_limited {
            self.stale_rounds += 1;
        }
        self.stale_rounds >= STALE_ROUNDS
    }
}

/// Shorter trains are dominated by timer noise.
const TRAIN_PACKETS_MIN: u64 = 4;

/// Trains a median is taken of: few enough to follow, enough to bear outliers.
const TRAINS_MAX: usize = 15;

/// Fewer trains are an anecdote.
const TRAINS_MIN: usize = 2;

/// Below this share of the pipe the window may jump: even trains that flatter the path fivefold
/// then fill no more than the pipe.
const ALMOST_EMPTY: f64 = 0.2;

/// Reaches [`ALMOST_EMPTY`] of most paths one round after the first trains.
const GROWTH_JUMP: f64 = 12.0;

/// Below this share of the pipe the window may grow fast and still not overshoot in one round.
const FAR_FROM_FULL: f64 = 0.4;

/// Above this share of the pipe growth is slowed, so that the queue stays short when it is found.
const CLOSE_TO_FULL: f64 = 0.8;

/// With quinn's pacing this is a factor of about 1.5 a round.
const GROWTH_CLOSE: f64 = 0.5;

/// With quinn's pacing this is a factor of about 3.3 a round.
const GROWTH_FAST: f64 = 4.0;

/// With quinn's pacing this is a factor of about 2 a round, the most that a queue of one
/// bandwidth-delay product bears without loss.
const GROWTH_NEAR: f64 = 1.25;

/// As in the conservative slow start of HyStart++ (RFC 9406), which divides growth by four: it may
/// be a queue, it may be a stall.
const GROWTH_DELAYED: f64 = 0.25;

/// Without trains to go by: a factor of about 2.2 a round.
const GROWTH_UNKNOWN: f64 = 1.5;

/// As in BBR: a path that still has room lets the rate grow by more than this a round.
const RATE_GROWTH_MIN: f64 = 1.25;

/// Rounds without such growth after which the path is full.
const STALE_ROUNDS: u32 = 2;
