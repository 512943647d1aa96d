//! A bulk sender that models quinn: its loss detection, its pacer, its calls to the controller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::control::Control;
use super::super::{PACKET_THRESHOLD, TIME_THRESHOLD};
use super::cubic::TcpCubic;
use super::{MILLISECOND, PACKET, SECOND};

/// The congestion controller of a sender.
pub(in super::super) enum WindowControl {
    Quire(Box<Control>),
    Cubic(TcpCubic),
}

/// The data that the application provides.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Supply {
    Endless,
    Packets(u64),
    /// Packets per second until a time, endless thereafter.
    TrickleUntil(f64, u64),
}

/// The sending side of a connection.
pub(in super::super) struct SimulatedSender {
    pub(in super::super) starts_at: u64,
    pub(in super::super) control: WindowControl,
    base: Instant,
    supply: Supply,
    sent_new: u64,
    retransmit: u64,
    in_flight: u64,
    unacked: BTreeMap<u64, u64>,
    next_packet: u64,
    largest_acked: u64,
    smoothed: Option<f64>,
    variance: f64,
    latest: f64,
    app_limited: bool,
    tokens: f64,
    tokens_window: u64,
    refilled: u64,
    last_sent: u64,
    probes: u32,
    probe_backoff: u32,
    wake_at: u64,
}

impl SimulatedSender {
    pub(in super::super) fn quire(starts_at: u64, supply: Supply) -> Self {
        let base = Instant::now();
        let start = base + Duration::from_nanos(starts_at);
        Self::new(
            starts_at,
            supply,
            base,
            WindowControl::Quire(Box::new(Control::new(start, PACKET as u16))),
        )
    }

    pub(in super::super) fn cubic(starts_at: u64) -> Self {
        let control = WindowControl::Cubic(TcpCubic::new());
        Self::new(starts_at, Supply::Endless, Instant::now(), control)
    }

    fn new(starts_at: u64, supply: Supply, base: Instant, control: WindowControl) -> Self {
        Self {
            starts_at,
            control,
            base,
            supply,
            sent_new: 0,
            retransmit: 0,
            in_flight: 0,
            unacked: BTreeMap::new(),
            next_packet: 0,
            largest_acked: 0,
            smoothed: None,
            variance: 0.0,
            latest: 333.0 * MILLISECOND as f64,
            app_limited: false,
            tokens: 10.0 * PACKET as f64,
            tokens_window: 0,
            refilled: starts_at,
            last_sent: starts_at,
            probes: 0,
            probe_backoff: 0,
            wake_at: 0,
        }
    }

    /// Whether all packets of a limited flow are acknowledged.
    pub(in super::super) fn is_done(&self) -> bool {
        matches!(self.supply, Supply::Packets(count) if self.sent_new >= count)
            && self.retransmit == 0
            && self.unacked.is_empty()
    }

    pub(in super::super) fn window(&self) -> u64 {
        match &self.control {
            WindowControl::Quire(control) => control.window(),
            WindowControl::Cubic(cubic) => cubic.window(),
        }
    }

    pub(super) fn on_ack(&mut self, now: u64, packets: &[u64]) {
        let mut newest = None;
        for &packet in packets {
            let Some(sent) = self.unacked.remove(&packet) else {
                continue;
            };
            self.in_flight -= PACKET;
            newest = newest.max(Some((packet, sent)));
            let at = self.instant(now);
            let sent_at = self.instant(sent);
            match &mut self.control {
                WindowControl::Quire(control) => {
                    control.on_ack(at, sent_at, PACKET, self.app_limited);
                }
                WindowControl::Cubic(cubic) => cubic.on_ack(now, now - sent),
            }
        }
        let Some((packet, sent)) = newest else { return };
        self.largest_acked = self.largest_acked.max(packet);
        let at = self.instant(now);
        if let WindowControl::Quire(control) = &mut self.control {
            control.on_end_acks(at, self.in_flight, self.app_limited);
        }
        self.update_round_trip((now - sent) as f64);
        self.detect_losses(now, true);
        self.probe_backoff = 0;
    }

    pub(super) fn on_wake(&mut self, now: u64) {
        if self.wake_at <= now {
            self.wake_at = 0;
        }
        self.detect_losses(now, false);
        if !self.unacked.is_empty() && now >= self.probe_time() {
            self.probes = 2;
            self.probe_backoff += 1;
        }
    }

    fn update_round_trip(&mut self, sample: f64) {
        self.latest = sample;
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variance = sample / 2.0;
            }
            Some(smoothed) => {
                self.variance += ((smoothed - sample).abs() - self.variance) / 4.0;
                self.smoothed = Some(smoothed + (sample - smoothed) / 8.0);
            }
        }
    }

    fn smoothed(&self) -> f64 {
        self.smoothed.unwrap_or(self.latest)
    }

    fn loss_delay(&self) -> u64 {
        ((self.smoothed().max(self.latest) * f64::from(TIME_THRESHOLD)) as u64).max(MILLISECOND)
    }

    /// Returns the interval of probes without back-off.
    fn probe_interval(&self) -> u64 {
        let wait = self.smoothed() + (4.0 * self.variance).max(1e6) + 25.0 * MILLISECOND as f64;
        wait as u64
    }

    fn probe_time(&self) -> u64 {
        self.last_sent + (self.probe_interval() << self.probe_backoff.min(16))
    }

    /// Whether lost packets without an acknowledged one between them span the time of persistent
    /// congestion (RFC 9002, §7.6).
    fn is_persistent(&self, lost: &[(u64, u64)]) -> bool {
        let span_min = 3 * self.probe_interval();
        let mut first = None;
        let mut last = 0;
        self.smoothed.is_some()
            && lost.iter().any(|&(packet, sent)| {
                let start = match first {
                    Some(start) if packet == last + 1 => start,
                    _ => {
                        first = Some(sent);
                        sent
                    }
                };
                last = packet;
                sent - start > span_min
            })
    }

    fn detect_losses(&mut self, now: u64, by_ack: bool) {
        let delay = self.loss_delay();
        let largest = self.largest_acked;
        let lost: Vec<(u64, u64)> = self
            .unacked
            .range(..largest)
            .filter(|&(&packet, &sent)| {
                packet + u64::from(PACKET_THRESHOLD) <= largest || now >= sent + delay
            })
            .map(|(&packet, &sent)| (packet, sent))
            .collect();
        let Some(&(_, newest_sent)) = lost.last() else {
            return;
        };
        let is_persistent = by_ack && self.is_persistent(&lost);
        for (packet, _) in &lost {
            self.unacked.remove(packet);
            self.in_flight -= PACKET;
            self.retransmit += 1;
        }
        let at = self.instant(now);
        let sent_at = self.instant(newest_sent);
        match &mut self.control {
            WindowControl::Quire(control) => {
                control.on_congestion(at, sent_at, is_persistent, lost.len() as u64 * PACKET);
            }
            WindowControl::Cubic(cubic) => cubic.on_lost(now, newest_sent),
        }
    }

    /// Returns the packets to send now, and the time of the next call.
    pub(super) fn poll(&mut self, now: u64) -> (Vec<u64>, Option<u64>) {
        let mut packets = Vec::new();
        let mut wake = u64::MAX;
        let mut blocked = false;
        loop {
            if !self.has_data(now) {
                // A probe without new data repeats data, or is a PING.
                if self.probes > 0 && !self.unacked.is_empty() {
                    self.probes -= 1;
                    self.retransmit += 1;
                    packets.push(self.send_one(now));
                    continue;
                }
                if let Supply::TrickleUntil(rate, _) = self.supply {
                    wake = wake.min(now + (1e9 / rate) as u64);
                }
                break;
            }
            if self.probes > 0 {
                self.probes -= 1;
            } else if self.in_flight + PACKET >= self.window() {
                blocked = true;
                break;
            } else if let Some(at) = self.pacing_delay(now) {
                blocked = true;
                wake = wake.min(at);
                break;
            }
            packets.push(self.send_one(now));
        }
        self.app_limited = !blocked;
        if !self.unacked.is_empty() {
            wake = wake.min(self.probe_time());
            if let Some((_, &sent)) = self.unacked.range(..self.largest_acked).next() {
                wake = wake.min(sent + self.loss_delay());
            }
        }
        let wake = wake.max(now + 1);
        let due = wake < u64::MAX && (self.wake_at == 0 || wake < self.wake_at);
        if due {
            self.wake_at = wake;
        }
        (packets, due.then_some(wake))
    }

    fn has_data(&self, now: u64) -> bool {
        self.retransmit > 0
            || match self.supply {
                Supply::Endless => true,
                Supply::Packets(count) => self.sent_new < count,
                Supply::TrickleUntil(rate, until) => {
                    now >= until || (self.sent_new as f64) < rate * now as f64 / SECOND as f64
                }
            }
    }

    fn send_one(&mut self, now: u64) -> u64 {
        if self.retransmit > 0 {
            self.retransmit -= 1;
        } else {
            self.sent_new += 1;
        }
        let packet = self.next_packet;
        self.next_packet += 1;
        self.in_flight += PACKET;
        self.unacked.insert(packet, now);
        self.last_sent = now;
        self.tokens -= PACKET as f64;
        let at = self.instant(now);
        if let WindowControl::Quire(control) = &mut self.control {
            control.on_sent(at);
        }
        packet
    }

    /// The token bucket of quinn: 1.25 × window / smoothed round trip, in bursts of about 2 ms.
    fn pacing_delay(&mut self, now: u64) -> Option<u64> {
        if matches!(self.control, WindowControl::Cubic(_)) {
            return None;
        }
        let window = self.window();
        let per_nanosecond = 1.25 * window as f64 / self.smoothed();
        let packet = PACKET as f64;
        let capacity = (window as f64 * 2.0 * MILLISECOND as f64 / self.smoothed())
            .clamp(10.0 * packet, 256.0 * packet);
        if window != self.tokens_window {
            self.tokens_window = window;
            self.tokens = self.tokens.min(capacity);
        }
        if self.tokens >= packet {
            return None;
        }
        self.tokens = (self.tokens + (now - self.refilled) as f64 * per_nanosecond).min(capacity);
        self.refilled = now;
        (self.tokens < packet).then(|| now + ((capacity - self.tokens) / per_nanosecond) as u64 + 1)
    }

    fn instant(&self, at: u64) -> Instant {
        self.base + Duration::from_nanos(at)
    }
}
