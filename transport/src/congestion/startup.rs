//! Start-up: finding the rate of an unknown path in few round trips.
//!
//! The window grows with acknowledged bytes, as in slow start, but faster while the path is far
//! from full. Packet trains show that: packets that are sent together arrive spread out by the
//! slowest link, and so do their acknowledgements. Interrupts and aggregation distort such
//! estimates. So they only choose the speed of growth. The round trip, or a delivery rate that no
//! longer grows, shows that the path is full.

use std::time::{Duration, Instant};

use super::delivery_rate::Round;

/// A packet train that is being acknowledged.
#[derive(Debug, Clone, Copy)]
struct Train {
    sent: Instant,
    first_acked: Instant,
    last_acked: Instant,
    /// Bytes acknowledged after the first acknowledgement.
    bytes: u64,
}

/// State of start-up.
#[derive(Debug, Clone, Default)]
pub(super) struct Startup {
    train: Option<Train>,
    /// Rates of the latest trains, in bytes per second.
    trains: Vec<f64>,
    full_rate: f64,
    stale_rounds: u32,
}

impl Startup {
    /// Records the acknowledgement of one packet.
    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, mtu: u64) {
        match &mut self.train {
            Some(train) if train.sent == sent => {
                // The first acknowledgement starts the clock, so its bytes don't count.
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

    /// Estimates the rate of the path from the trains, in bytes per second: their upper quartile,
    /// because noise mostly spreads trains further.
    fn train_rate(&self) -> Option<f64> {
        let mut rates = self.trains.clone();
        rates.sort_by(f64::total_cmp);
        rates
            .get(rates.len() * 3 / 4)
            .copied()
            .filter(|_| rates.len() >= TRAINS_MIN)
    }

    /// Returns the bytes by which the window grows for each acknowledged byte.
    pub(super) fn growth(
        &self,
        window: f64,
        round_trip: Duration,
        is_delayed: bool,
        is_jitter: bool,
    ) -> f64 {
        if is_delayed {
            return GROWTH_DELAYED;
        }
        if is_jitter {
            return GROWTH_JITTER;
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

    /// Whether the delivery rate has stopped growing. Called at the end of each round.
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

/// The shortest train, in packets; timer noise dominates shorter ones.
const TRAIN_PACKETS_MIN: u64 = 4;

/// The most trains in an estimate: few enough to be recent, enough to tolerate outliers.
const TRAINS_MAX: usize = 15;

/// The fewest trains in an estimate.
const TRAINS_MIN: usize = 2;

/// Below this share of the bandwidth-delay product the window may jump: even if the trains
/// overestimate the path fivefold, the window then fills no more than the path.
const ALMOST_EMPTY: f64 = 0.2;

/// Growth below [`ALMOST_EMPTY`]: leaves that range on most paths one round after the first trains.
const GROWTH_JUMP: f64 = 12.0;

/// Below this share of the bandwidth-delay product fast growth doesn't overshoot within one round.
const FAR_FROM_FULL: f64 = 0.4;

/// Above this share of the bandwidth-delay product growth is slow, so that the queue is short when
/// it is detected.
const CLOSE_TO_FULL: f64 = 0.8;

/// Growth above [`CLOSE_TO_FULL`]: with quinn's pacing a factor of about 1.5 per round.
const GROWTH_CLOSE: f64 = 0.5;

/// Growth below [`FAR_FROM_FULL`]: with quinn's pacing a factor of about 3.3 per round.
const GROWTH_FAST: f64 = 4.0;

/// Growth between the two: with quinn's pacing a factor of about 2 per round, the most that a queue
/// of one bandwidth-delay product takes without loss.
const GROWTH_NEAR: f64 = 1.25;

/// Growth while acknowledgements are delayed: a quarter, as in the conservative slow start of
/// HyStart++ (RFC 9406), because the delay may be a queue or a stall.
const GROWTH_DELAYED: f64 = 0.25;

/// Growth where there is jitter, which distorts the trains: that of slow start (RFC 9002, §7.3.1).
const GROWTH_JITTER: f64 = 1.0;

/// Growth without an estimate from trains: a factor of about 2.2 per round.
const GROWTH_UNKNOWN: f64 = 1.5;

/// Growth of the delivery rate per round on a path that isn't full, as in BBR.
const RATE_GROWTH_MIN: f64 = 1.25;

/// Rounds without such growth that show that the path is full.
const STALE_ROUNDS: u32 = 2;

/// Returns the initial congestion window, in bytes.
pub(super) fn initial_window(mtu: u16) -> u64 {
    INITIAL_PACKETS * u64::from(mtu)
}

/// Packets in the initial window. RFC 9002, §7.2, recommends ten, unpaced. quinn paces the window
/// over the first round trip in bursts of ten, so bursts are no larger than those of ten packets.
/// Large content delivery networks also start with about 32.
const INITIAL_PACKETS: u64 = 32;
