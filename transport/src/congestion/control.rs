//! The state machine of the controller: acknowledgements in, congestion window out.
//!
//! The window is the bandwidth-delay product of the path plus a little; it never fills the queue.
//! Once per cycle the controller raises it for a round to probe for more bandwidth. Then it lowers
//! the window until the queue must be empty, if this flow alone fills it. That confirms the
//! smallest round trip, and distinguishes a slower or longer path from a competing flow.

mod draining;

use std::time::{Duration, Instant};

use super::cubic_mode::CubicMode;
use super::delivery_rate::{DeliveryRate, Round, Sample};
use super::drain_probe::{DrainProbe, DrainProbes};
use super::filters::Delayed;
use super::jitter::{Growth, Swings};
use super::loss::{Loss, LossBound};
use super::path_model::{PathModel, Sending, whole_bytes};
use super::startup::{Startup, initial_window};
use super::utilization::Utilization;

/// A phase of the controller.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Growing until the path is full.
    Startup,
    /// Sending at the delivery rate of the path, which was `base` bytes per second at the start.
    Cruise { rounds_left: u32, base: f64 },
    /// Sending faster than the delivery rate so far, to see whether it exceeds `base`.
    Probe { rounds: u32, base: f64 },
    /// Letting the queue drain until `share` of the bandwidth-delay product is in flight.
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

/// The controller of one path.
#[derive(Debug, Clone)]
pub(super) struct Control {
    mtu: u64,
    phase: Phase,
    window: f64,
    window_last_round: f64,
    delivery: DeliveryRate,
    last_round: Option<Round>,
    /// The larger rate of the last two rounds, because a stall may have slowed one of them.
    rate_now: f64,
    model: PathModel,
    startup: Startup,
    /// End of start-up: the time, and the bytes delivered until then.
    startup_end: Option<(Instant, u64)>,
    /// Loss before this round is the overflow of start-up, not a sign of the path.
    overflow_ignored_until: u64,
    delayed: Delayed,
    swings: Swings,
    growth: Growth,
    /// Whether the round trip after start-up is still to be compared with that before.
    is_checking: bool,
    /// Number of consecutive rounds whose smallest round trip shows a queue.
    delayed_rounds: u32,
    /// Number of consecutive rounds without a loss.
    lossless_rounds: u32,
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
            startup: Startup::default(),
            startup_end: None,
            overflow_ignored_until: 0,
            delayed: Delayed::default(),
            swings: Swings::default(),
            growth: Growth::default(),
            is_checking: false,
            delayed_rounds: 0,
            lossless_rounds: 0,
            drain_probe: None,
            drain_probes: DrainProbes::default(),
            cubic_mode: None,
            loss: LossBound::default(),
            utilization: Utilization::default(),
        }
    }

    /// Returns the congestion window, in bytes.
    pub(super) fn window(&self) -> u64 {
        whole_bytes(self.window.max(self.window_min()))
    }

    /// Returns the delay that jitter adds to the round trips of a filled path.
    pub(super) fn jitter(&self) -> Duration {
        self.model.jitter()
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
            // A window that wasn't filled says nothing about the path, whatever the cause.
            round.app_limited |= !is_filled;
        }
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

    /// Handles loss, or with zero `lost` bytes an ECN mark.
    pub(super) fn on_congestion(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent: bool,
        lost: u64,
    ) {
        if is_persistent {
            // Persistent congestion (RFC 9002, §7.6), or an outage. The path may have become slower,
            // so start-up measures it again. The window is the initial one instead of the
            // minimum, because the rest of a burst of losses would empty that again.
            let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
            let model = self.model.without_rates();
            *self = Self {
                model,
                ..Self::new(now, mtu)
            };
            return;
        }
        let is_mark = lost == 0;
        self.delivery.on_lost(lost);
        let round_trip_min = self.model.round_trip_min.get().unwrap_or_default();
        if let Some(cubic) = &mut self.cubic_mode {
            cubic.on_lost(now, sent, self.delivery.round_trip(), round_trip_min);
        } else if is_mark {
            self.loss
                .lower_for_mark(self.window_last_round.min(self.window));
        }
        if self.phase == Phase::Startup && (is_mark || self.delivery.is_flooded(self.mtu)) {
            self.leave_startup(now);
        }
    }

    fn end_round(&mut self, round: &Round) {
        self.growth.end_round(round.rate, self.window_last_round);
        if self.phase == Phase::Startup
            && self.growth.is_proportional()
            && self.swings.is_jitter()
            && round.round_trip_mean > self.model.round_trip()
        {
            // A full path delivers no faster, so this isn't the round trip of a queue.
            self.model.set_round_trip(round.round_trip_mean);
        }
        let is_delayed = round.round_trip_min > self.model.delay_limit();
        self.delayed_rounds = if is_delayed {
            self.delayed_rounds + 1
        } else {
            0
        };
        self.lossless_rounds = match round.lost {
            0 => self.lossless_rounds + 1,
            _ => 0,
        };
        let window = self.window_last_round.max(self.window);
        self.window_last_round = self.window;
        self.rate_now = self
            .last_round
            .map_or(round.rate, |last| last.rate.max(round.rate));
        self.last_round = Some(*round);
        self.judge_loss(round, window);
    }

    /// Acts on the loss of a round in which up to `window` bytes were in flight.
    fn judge_loss(&mut self, round: &Round, window: f64) {
        let pipe = self.model.pipe();
        let loss = self.loss.judge(round, self.mtu, window, pipe);
        let is_own = self.phase == Phase::Startup
            || self.delivery.round() < self.overflow_ignored_until
            || self.cubic_mode.is_some();
        if is_own {
            return;
        }
        if loss != Loss::Usual && self.model.is_above_smallest(round.round_trip_min) {
            // Delay and loss together are a queue, of whatever flow, and no jitter.
            self.model.forget_jitter();
        }
        match loss {
            Loss::Usual | Loss::Burst => {}
            Loss::Overflow => self.loss.lower(window, round.loss(), pipe),
            Loss::Slower => self.model.rates.reset(self.delivery.round(), self.rate_now),
        }
    }

    /// Logs a line for the round.
    fn trace(&self, round: &Round, in_flight: u64) {
        tracing::trace!(
            round = self.delivery.round(),
            phase = ?self.phase,
            rate_mbit = round.rate * MEGABITS,
            model_mbit = self.model.rates.get() * MEGABITS,
            round_trip = ?round.round_trip_min,
            round_trip_min = ?self.model.round_trip_min.get(),
            round_trip_base = ?self.model.round_trip(),
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
        self.swings.observe(sample.round_trip, jump);
        let is_delayed = self.delayed.observe(now, sample.round_trip, limit, jump);
        match self.phase {
            Phase::Startup => {
                let rate = self.model.rates.get();
                let is_full = sample
                    .round
                    .is_some_and(|round| self.startup.is_full(&round, rate));
                if is_full || (is_delayed && !self.may_be_jitter(sample)) {
                    self.leave_startup(now);
                }
            }
            Phase::Cruise { rounds_left, base } => {
                if let Some(round) = sample.round {
                    // While the rate still grows by itself, the model isn't that of the path yet.
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
                    // Start-up ended too early, or the path changed: there may be much more. What
                    // was lost meanwhile was no overflow.
                    self.loss.remove();
                    self.phase = Phase::Startup;
                } else {
                    self.loss.raise(self.model.pipe() * PROBE_GAIN * PROBE_GAIN);
                    self.drain(DRAIN_SHARE);
                }
            }
            Phase::Drain { share } => {
                self.measure_drain(now);
                if in_flight <= self.drained(share) {
                    self.end_drain();
                }
            }
        }
    }

    /// Whether a delay in start-up may be jitter, and staying does no harm.
    fn may_be_jitter(&self, sample: &Sample) -> bool {
        let is_small = self.window < SMALL_WINDOW * self.mtu as f64
            && sample.round_trip < 2 * self.model.round_trip();
        let is_new =
            self.swings.is_jitter() && self.growth.is_proportional() && !self.model.knows_jitter();
        is_small || is_new
    }

    /// Decides at the end of a round whether to continue cruising.
    fn cruise(&mut self, now: Instant, rounds_left: u32, round: &Round) {
        if let Phase::Cruise {
            rounds_left: left, ..
        } = &mut self.phase
        {
            *left = rounds_left.saturating_sub(1);
        }
        if self.is_checking && self.swings.is_jitter() && rounds_left == 0 {
            self.is_checking = false;
            if (round.round_trip_mean + round.round_trip_min) / 2 > self.model.delay_limit() {
                // It wasn't a queue.
                self.model.set_round_trip(round.round_trip_mean);
                self.phase = Phase::Startup;
                return;
            }
        }
        if self.model.is_local() {
            // The window has slack enough to find more bandwidth, and a drain would leave the
            // processors idle.
            if rounds_left == 0 {
                self.loss.raise(self.model.pipe() + self.model.slack());
                self.begin_cruise(self.cruise_rounds());
            }
        } else if self.drain_probe.is_some() {
            // Wait for the outcome of the probe.
        } else if self.model.round_trip_min.is_expired(now) {
            self.drain(RENEW_SHARE);
        } else if self.cubic_mode.is_some() {
            if rounds_left == 0 {
                self.drain(DRAIN_SHARE);
            }
        } else if self.delayed_rounds >= DELAYED_ROUNDS {
            self.drain(DRAIN_SHARE);
        } else if rounds_left == 0 && !round.app_limited {
            // Not while application-limited: a probe that isn't filled shows nothing.
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

    fn set_window(&mut self, in_flight: f64, sample: &Sample) {
        if self.model.round_trip_min.get().is_none() {
            return;
        }
        let round_trip = self.model.round_trip();
        let model = self.model.pipe() + self.model.slack();
        self.window = match self.phase {
            Phase::Startup => {
                let is_used = in_flight + sample.acked as f64 > self.window * GROWING_SHARE;
                let is_delayed = sample.round_trip > self.model.delay_limit();
                let is_jitter = self.swings.is_jitter();
                let growth = self
                    .startup
                    .growth(self.window, round_trip, is_delayed, is_jitter);
                let grown = self.window + growth * sample.acked as f64;
                match is_used {
                    // The delay of a queue can't be told from jitter at once, so the queue must
                    // have a bound.
                    true if is_jitter => grown.min(JITTER_GAIN * model).max(self.window),
                    true => grown,
                    false => self.window,
                }
            }
            Phase::Cruise { .. } => {
                let alone = model.min(self.loss.ceiling());
                let shared = self.cubic_mode.as_ref().map_or(0.0, CubicMode::window);
                let target = alone.max(shared);
                self.utilization.window(target, in_flight)
            }
            Phase::Probe { .. } => (model * PROBE_GAIN).min(self.loss.probe_ceiling()),
            Phase::Drain { share } => self.drained(share),
        };
    }

    /// Returns a pseudo-random number of rounds, so that two connections don't probe in step.
    fn cruise_rounds(&self) -> u32 {
        let mixed = self.delivery.total().wrapping_mul(GOLDEN_RATIO_64) >> (u64::BITS - 2);
        CRUISE_ROUNDS_MIN + u32::try_from(mixed).unwrap_or(0)
    }

    fn window_min(&self) -> f64 {
        WINDOW_PACKETS_MIN * self.mtu as f64
    }
}

/// Converts bytes per second to megabits per second.
const MEGABITS: f64 = 8e-6;

/// The smallest window, in packets: enough for acknowledgements of two packets and to detect a
/// loss.
const WINDOW_PACKETS_MIN: f64 = 4.0;

/// Share of the start-up window that must be in flight for it to grow. Pacing holds up to half
/// back; less in flight than this means that the application is the limit.
const GROWING_SHARE: f64 = 0.33;

/// Window that fits into every queue, in packets.
const SMALL_WINDOW: f64 = 64.0;

/// Window of start-up as a multiple of the model where there is jitter, as the window of BBR.
const JITTER_GAIN: f64 = 2.0;

/// Window of a probe as a multiple of the model, as in BBR.
const PROBE_GAIN: f64 = 1.25;

/// Growth of the rate that a probe must find; less is noise.
const PROBE_GROWTH_MIN: f64 = 1.1;

/// Rounds of a probe: what is sent in one round shows in the delivery rate of the next.
const PROBE_ROUNDS: u32 = 2;

/// Fewest rounds between probes. With up to three more, a probe and a drain, a cycle fits into the
/// ten rounds of the rate filter.
const CRUISE_ROUNDS_MIN: u32 = 5;

/// 2⁶⁴ divided by the golden ratio: multiplication spreads the low bits over the word.
const GOLDEN_RATIO_64: u64 = 0x9E37_79B9_7F4A_7C15;

/// Share of the bandwidth-delay product to drain to: empties the queue for certain, and leaves the
/// path idle for a short time only.
const DRAIN_SHARE: f64 = 0.9;

/// Share to drain to when the smallest round trip is to be measured anew, as in BBRv3: deep enough
/// despite the share of a competing flow in the queue.
const RENEW_SHARE: f64 = 0.5;

/// Consecutive rounds with a queue after which it is drained out of turn.
const DELAYED_ROUNDS: u32 = 2;
