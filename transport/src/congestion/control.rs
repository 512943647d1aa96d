//! The controller proper: from what the acknowledgements say to the window.
//!
//! The window is `rate × round trip` of the path plus a little, never what the queue would hold.
//! Once per cycle it is raised for a round to look for more rate, then lowered until the queue must
//! be empty if it is only ours: that confirms the smallest round trip, and tells a path that became
//! slower or longer from a neighbour that fills the queue.

use std::time::{Duration, Instant};

use super::cubic_mode::CubicMode;
use super::delivery_rate::{DeliveryRate, Round, Sample};
use super::drain_probe::{DrainOutcome, DrainProbe, DrainProbes};
use super::filters::Delayed;
use super::loss::LossBound;
use super::path_model::{PathModel, Sending};
use super::startup::Startup;
use super::utilization::Utilization;

/// What the controller is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Growing until the path is full.
    Startup,
    /// Sending as fast as the path delivers, which was `base` when it began.
    Cruise { rounds_left: u32, base: f64 },
    /// Sending more than the path has delivered so far, to see whether it delivers more than `base`.
    Probe { rounds: u32, base: f64 },
    /// Letting the queue drain until `share` of the pipe is under way.
    Drain { share: f64 },
}

impl Phase {
    fn sending(self) -> Sending {
        match self {
            Self::Startup => Sending::Growing,
            Self::Cruise { .. } => Sending::Steady,
            Self::Probe { .. } | Self::Drain { .. } => Sending::Varying,
        }
    }
}

/// State of the controller of one path; see the module header.
#[derive(Debug, Clone)]
pub(super) struct Control {
    mtu: u64,
    phase: Phase,
    window: f64,
    window_last_round: f64,
    delivery: DeliveryRate,
    last_round: Option<Round>,
    /// Of the last two rounds the larger rate: one alone may have stood still for a while.
    rate_now: f64,
    model: PathModel,
    round_trip: Duration,
    startup: Startup,
    /// When start-up ended, and what had been delivered.
    startup_end: Option<(Instant, u64)>,
    /// No overflow counts against the path before this round: it is start-up's.
    overflow_ignored_until: u64,
    delayed: Delayed,
    /// Consecutive rounds whose smallest round trip shows a queue.
    delayed_rounds: u32,
    drain_probe: Option<DrainProbe>,
    drain_probes: DrainProbes,
    cubic_mode: Option<CubicMode>,
    loss: LossBound,
    utilization: Utilization,
}

impl Control {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        let window = initial_window(mtu) as f64;
        Self {
            mtu: mtu.into(),
            phase: Phase::Startup,
            window,
            window_last_round: window,
            delivery: DeliveryRate::new(now),
            last_round: None,
            rate_now: 0.0,
            model: PathModel::default(),
            round_trip: Duration::ZERO,
            startup: Startup::default(),
            startup_end: None,
            overflow_ignored_until: 0,
            delayed: Delayed::default(),
            delayed_rounds: 0,
            drain_probe: None,
            drain_probes: DrainProbes::default(),
            cubic_mode: None,
            loss: LossBound::default(),
            utilization: Utilization::default(),
        }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> u64 {
        whole_bytes(self.window.max(self.window_min()))
    }

    pub(super) fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
        if self.phase == Phase::Startup {
            self.window = self.window.max(initial_window(mtu) as f64);
        }
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        self.delivery.on_sent(now);
    }

    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        if self.phase == Phase::Startup {
            self.startup.on_ack(now, sent, bytes, self.mtu);
        }
        self.delivery.on_ack(sent, bytes, app_limited);
    }

    pub(super) fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let Some(mut sample) = self.delivery.on_end_acks(now, in_flight, app_limited) else {
            return;
        };
        self.utilization
            .observe(in_flight as f64, sample.acked as f64);
        if let Some(round) = &mut sample.round {
            let is_startup = self.phase == Phase::Startup;
            let window = self.window.min(self.window_last_round);
            let is_filled = self
                .utilization
                .end_round(window, is_startup, round.app_limited);
            round.app_limited |= !is_filled;
        }
        self.round_trip = sample.round_trip;
        self.model.observe(now, &sample, self.phase.sending());
        if let Some(probe) = &mut self.drain_probe {
            probe.round_trip = probe.round_trip.min(sample.round_trip);
        }
        if let Some(cubic) = &mut self.cubic_mode {
            cubic.on_ack(now, sample.acked as f64, sample.round_trip, self.mtu as f64);
        }
        if let Some(round) = sample.round {
            self.end_round(&round);
            self.trace(&round, in_flight);
        }
        self.advance(now, in_flight as f64, &sample);
        if let Some(probe) = self.drain_probe
            && probe
                .due_round
                .is_some_and(|round| self.delivery.round() >= round)
        {
            self.drain_probe = None;
            self.conclude(now, &probe);
        }
        self.set_window(in_flight as f64, &sample);
    }

    /// Packets were lost or, with no bytes, marked by the path.
    pub(super) fn on_congestion(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent: bool,
        lost: u64,
    ) {
        if is_persistent {
            // Nothing came through for long: whatever was known is of another path.
            let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
            *self = Self::new(now, mtu);
            self.window = self.window_min();
            return;
        }
        let is_mark = lost == 0;
        self.delivery.on_lost(lost);
        let round_trip_min = self.model.round_trip_min.get().unwrap_or_default();
        if let Some(cubic) = &mut self.cubic_mode {
            cubic.on_lost(now, sent, self.round_trip, round_trip_min);
        } else if is_mark {
            self.loss
                .lower_for_mark(self.window_last_round.min(self.window));
        }
        if self.phase == Phase::Startup && (is_mark || self.delivery.is_flooded(self.mtu)) {
            self.leave_startup(now);
        }
    }

    fn end_round(&mut self, round: &Round) {
        let is_delayed = round.round_trip_min > self.model.delay_limit();
        self.delayed_rounds = if is_delayed {
            self.delayed_rounds + 1
        } else {
            0
        };
        let window = self.window_last_round.max(self.window);
        self.window_last_round = self.window;
        self.rate_now = self
            .last_round
            .map_or(round.rate, |last| last.rate.max(round.rate));
        self.last_round = Some(*round);
        let is_own = self.phase == Phase::Startup
            || self.delivery.round() < self.overflow_ignored_until
            || self.cubic_mode.is_some();
        let pipe = self.model.pipe();
        if self.loss.is_excess(round, self.mtu, window, pipe) && !is_own {
            self.loss.lower(window, round.loss(), pipe);
            if matches!(self.phase, Phase::Probe { .. }) {
                self.drain(DRAIN_SHARE);
            }
        }
    }

    /// One line for each round, for whoever wants to know what a path did.
    fn trace(&self, round: &Round, in_flight: u64) {
        tracing::trace!(
            round = self.delivery.round(),
            phase = ?self.phase,
            rate_mbit = round.rate * MEGABITS,
            model_mbit = self.model.rates.get() * MEGABITS,
            round_trip = ?round.round_trip_min,
            round_trip_min = ?self.model.round_trip_min.get(),
            window = self.window(),
            in_flight = in_flight,
            delivered = round.delivered,
            lost = round.lost,
            app_limited = round.app_limited,
            ceiling = self.loss.ceiling(),
            cubic_mode = self.cubic_mode.is_some(),
            "round"
        );
    }

    /// Moves from phase to phase.
    fn advance(&mut self, now: Instant, in_flight: f64, sample: &Sample) {
        let limit = self.model.delay_limit();
        let jump = self.model.delay_margin();
        let is_delayed = self.delayed.observe(now, sample.sent, limit, jump);
        match self.phase {
            Phase::Startup => {
                let rate = self.model.rates.get();
                let is_full = sample
                    .round
                    .is_some_and(|round| self.startup.is_full(&round, rate));
                if is_delayed || is_full {
                    self.leave_startup(now);
                }
            }
            Phase::Cruise { rounds_left, base } => {
                if let Some(round) = sample.round {
                    // A rate that grows by itself is not yet the path's.
                    let is_growing = self.model.rates.get() > base * PROBE_GROWTH_MIN;
                    let rounds_left = if is_growing { 0 } else { rounds_left };
                    self.cruise(now, rounds_left, &round);
                }
            }
            Phase::Probe { rounds, base } => {
                let rounds = rounds + u32::from(sample.round.is_some());
                let rate = self.model.rates.get();
                if rounds >= 1 && is_delayed {
                    self.drain(DRAIN_SHARE);
                } else if rounds < PROBE_ROUNDS {
                    self.phase = Phase::Probe { rounds, base };
                } else if rate > base * PROBE_GROWTH_MIN {
                    self.phase = if self.loss.is_bound() {
                        Phase::Probe {
                            rounds: 1,
                            base: rate,
                        }
                    } else {
                        // Much more may be there: start-up ended too early, or the path changed.
                        Phase::Startup
                    };
                } else {
                    self.loss.raise(self.model.pipe() * PROBE_GAIN * PROBE_GAIN);
                    self.drain(DRAIN_SHARE);
                }
            }
            Phase::Drain { share } => {
                self.measure_drain(now);
                if in_flight <= self.drained(share) {
                    let is_first = self.startup_end.take().is_some();
                    let rounds_left = if is_first { 0 } else { self.cruise_rounds() };
                    self.begin_cruise(rounds_left);
                    if let Some(probe) = &mut self.drain_probe {
                        probe.due_round = Some(self.delivery.round() + DRAIN_PROBE_ROUNDS);
                    }
                }
            }
        }
    }

    /// Decides at the end of a round whether to go on cruising.
    fn cruise(&mut self, now: Instant, rounds_left: u32, round: &Round) {
        if let Phase::Cruise {
            rounds_left: left, ..
        } = &mut self.phase
        {
            *left = rounds_left.saturating_sub(1);
        }
        if self.model.is_local() {
            // The window is generous as it is, and a drain would idle the processors.
            if rounds_left == 0 {
                self.loss.raise(self.model.pipe() + self.model.slack());
                self.begin_cruise(self.cruise_rounds());
            }
        } else if self.drain_probe.is_some() {
            // Its outcome decides.
        } else if self.model.round_trip_min.is_expired(now) {
            self.drain(RENEW_SHARE);
        } else if self.cubic_mode.is_some() {
            if rounds_left == 0 {
                self.drain(DRAIN_SHARE);
            }
        } else if self.delayed_rounds >= DELAYED_ROUNDS {
            self.drain(DRAIN_SHARE);
        } else if rounds_left == 0 && !round.app_limited {
            // A probe that the application does not fill would tell nothing.
            self.phase = Phase::Probe {
                rounds: 0,
                base: self.model.rates.get(),
            };
        }
    }

    fn begin_cruise(&mut self, rounds_left: u32) {
        let base = self.model.rates.get();
        self.phase = Phase::Cruise { rounds_left, base };
    }

    fn leave_startup(&mut self, now: Instant) {
        self.startup = Startup::default();
        self.startup_end = Some((now, self.delivery.total()));
        self.overflow_ignored_until = self.delivery.round() + OVERFLOW_IGNORED_ROUNDS;
        self.phase = Phase::Drain { share: 1.0 };
    }

    /// Starts to drain the queue and to watch what comes of it.
    fn drain(&mut self, share: f64) {
        self.phase = Phase::Drain { share };
        self.delayed_rounds = 0;
        let before = self.last_round;
        self.drain_probe = Some(DrainProbe {
            due_round: None,
            round_trip: Duration::MAX,
            round_trip_before: before.map_or(self.round_trip, |round| round.round_trip_min),
            rate_before: self.rate_now,
            renews: share <= RENEW_SHARE,
        });
    }

    /// After start-up the queue delivers at the path's full rate, which no sample of a whole round
    /// trip shows yet, because the rate was growing all through it.
    fn measure_drain(&mut self, now: Instant) {
        let Some((start, delivered)) = self.startup_end else {
            return;
        };
        let elapsed = now.saturating_duration_since(start);
        if elapsed > self.model.round_trip_min.get().unwrap_or_default() / 2 {
            let rate = (self.delivery.total() - delivered) as f64 / elapsed.as_secs_f64();
            if rate > self.model.rates.get() {
                self.model.rates.reset(self.delivery.round(), rate);
            }
        }
    }

    /// Acts on what a dip has shown.
    fn conclude(&mut self, now: Instant, probe: &DrainProbe) {
        let expected = self.model.round_trip_min.get().unwrap_or(probe.round_trip);
        match self.drain_probes.evaluate(probe, expected) {
            DrainOutcome::Renewed => self.model.round_trip_min.replace(now, probe.round_trip),
            DrainOutcome::Clean => {
                self.cubic_mode = None;
                let was_queued = probe.round_trip_before > self.model.delay_limit();
                if was_queued && probe.rate_before < self.model.rates.get() * SLOWER_PATH {
                    self.model
                        .rates
                        .reset(self.delivery.round(), probe.rate_before);
                }
            }
            DrainOutcome::CompetingFlow if self.cubic_mode.is_none() => {
                self.cubic_mode = Some(CubicMode::new(now, self.window));
            }
            DrainOutcome::Longer => {
                self.cubic_mode = None;
                self.model.round_trip_min.replace(now, probe.round_trip);
            }
            DrainOutcome::CompetingFlow | DrainOutcome::Unsure => {}
        }
    }

    fn set_window(&mut self, in_flight: f64, sample: &Sample) {
        let Some(round_trip_min) = self.model.round_trip_min.get() else {
            return;
        };
        let model = self.model.pipe() + self.model.slack();
        self.window = match self.phase {
            Phase::Startup => {
                let is_used = in_flight + sample.acked as f64 > self.window * GROWING_SHARE;
                let is_delayed = sample.round_trip > self.model.delay_limit();
                let growth = self.startup.growth(self.window, round_trip_min, is_delayed);
                self.window
                    + if is_used {
                        growth * sample.acked as f64
                    } else {
                        0.0
                    }
            }
            Phase::Cruise { .. } => {
                let shared = self.cubic_mode.as_ref().map_or(0.0, CubicMode::window);
                let target = shared.max(model.min(self.loss.ceiling()));
                self.utilization.window(target, in_flight)
            }
            Phase::Probe { .. } => (model * PROBE_GAIN).min(self.loss.probe_ceiling()),
            Phase::Drain { share } => self.drained(share),
        };
    }

    /// Bytes under way when `share` of the pipe is filled. A real drain goes by the rate of now, as
    /// the largest rate may be of the past.
    fn drained(&self, share: f64) -> f64 {
        let largest = self.model.rates.get();
        let rate = self
            .last_round
            .filter(|round| share < 1.0 && !round.app_limited)
            .map_or(largest, |_| self.rate_now.min(largest));
        let pipe = rate
            * self
                .model
                .round_trip_min
                .get()
                .unwrap_or_default()
                .as_secs_f64();
        (pipe * share).max(self.window_min())
    }

    /// A different number of rounds each time, so that two connections do not probe in step.
    fn cruise_rounds(&self) -> u32 {
        let mixed = self.delivery.total().wrapping_mul(GOLDEN_RATIO_64) >> (u64::BITS - 2);
        CRUISE_ROUNDS_MIN + u32::try_from(mixed).unwrap_or(0)
    }

    fn window_min(&self) -> f64 {
        WINDOW_PACKETS_MIN * self.mtu as f64
    }
}

/// Megabits per second in a byte per second.
const MEGABITS: f64 = 8e-6;

/// The window before anything is known, in bytes.
pub(super) fn initial_window(mtu: u16) -> u64 {
    INITIAL_PACKETS * u64::from(mtu)
}

/// Rounds down to whole bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float-to-integer cast saturates, which is what is wanted"
)]
fn whole_bytes(bytes: f64) -> u64 {
    bytes as u64
}

/// RFC 9002 §7.2 recommends ten, unpaced. quinn paces these over the first round trip, in bursts of
/// ten, so that the path sees no larger burst than it would from ten, and large content networks
/// have long started with as many.
const INITIAL_PACKETS: u64 = 32;

/// Enough for acknowledgements in pairs and one loss to show themselves.
const WINDOW_PACKETS_MIN: f64 = 4.0;

/// Share of the start-up window that must be under way for it to grow: pacing keeps up to half
/// back, and what is less than that is the application's doing.
const GROWING_SHARE: f64 = 0.33;

/// As in BBR: a probe for a quarter more.
const PROBE_GAIN: f64 = 1.25;

/// Less growth than this is noise.
const PROBE_GROWTH_MIN: f64 = 1.1;

/// What is sent in one round shows in the delivery rate of the next.
const PROBE_ROUNDS: u32 = 2;

/// With up to three more, a probe and a drain, a cycle fits the memory of the rate filter.
const CRUISE_ROUNDS_MIN: u32 = 5;

/// Spreads the low bits over the word: 2^64 divided by the golden ratio.
const GOLDEN_RATIO_64: u64 = 0x9E37_79B9_7F4A_7C15;

/// Empties the queue with certainty, and leaves the path idle for little time.
const DRAIN_SHARE: f64 = 0.9;

/// As in BBRv3: deep enough to see past a neighbour's share of the queue.
const RENEW_SHARE: f64 = 0.5;

/// One round for the packets sent into the drained queue, one for those already under way.
const DRAIN_PROBE_ROUNDS: u64 = 2;

/// Rounds with a queue that the window does not explain, before it is drained out of turn.
const DELAYED_ROUNDS: u32 = 2;

/// Start-up's overflow is reported for as long as its queue takes to drain.
const OVERFLOW_IGNORED_ROUNDS: u64 = 4;

/// A delivery rate this far below the largest, at a queue of our own, is a slower path; less is the
/// coming of a neighbour, to whom the filter gives way in its own time.
const SLOWER_PATH: f64 = 0.7;
