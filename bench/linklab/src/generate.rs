//! Modelled traces of variable links: three mobile, three Wi-Fi, and steps; drawn from a seed.
//!
//! They stand in for recordings, which would be megabytes. Each model keeps what makes its kind
//! of link hard: rates that wander, silence at handovers, walls that cut a rate to a tenth, and
//! packets that come in bursts because a radio sends whole frames of them.

use clap::ValueEnum;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::model::{OPPORTUNITY_BYTES, Trace};

const BITS_PER_PACKET: f64 = (OPPORTUNITY_BYTES * 8) as f64;
const MS_PER_S: f64 = 1000.0;

/// What a modelled trace stands for.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum TraceKind {
    /// LTE from a car: some 20 Mbit/s that wander, half of the slots, handovers.
    LteDriving,
    /// 5G: 120 Mbit/s in line of sight, a tenth of it behind an obstacle.
    #[value(name = "5g-blockage")]
    NrBlockage,
    /// 3G on foot: some 5 Mbit/s in slots of 10 ms, stalls of up to 0.8 s.
    #[value(name = "3g-walking")]
    UmtsWalking,
    /// Wi-Fi near the access point: some 90 Mbit/s in bursts of 16 to 48 packets.
    WifiNear,
    /// Wi-Fi at the edge: rates that switch, frames that are repeated.
    WifiFar,
    /// Wi-Fi among other stations, which come and go.
    WifiContended,
    /// 100 and 25 Mbit/s in turn, two seconds each; the seed decides where it begins.
    Steps,
}

/// Draws a trace of this many seconds.
pub fn generate(kind: TraceKind, seed: u64, seconds: u64) -> Result<Trace, String> {
    let mut generator = Generator::new(kind, seed, seconds);
    match kind {
        TraceKind::LteDriving => generator.lte_driving(),
        TraceKind::NrBlockage => generator.nr_blockage(),
        TraceKind::UmtsWalking => generator.umts_walking(),
        TraceKind::WifiNear => generator.wifi_near(),
        TraceKind::WifiFar => generator.wifi_far(),
        TraceKind::WifiContended => generator.wifi_contended(),
        TraceKind::Steps => generator.steps(),
    }
    generator.finish()
}

/// A rate that wanders around a median: an Ornstein-Uhlenbeck process of its logarithm.
struct Wander {
    median_mbit: f64,
    sigma: f64,
    /// For how long a rate resembles itself.
    memory_ms: f64,
    deviation: f64,
}

impl Wander {
    fn new(median_mbit: f64, sigma: f64, memory_ms: f64, dice: &mut Dice) -> Self {
        let mut wander = Wander {
            median_mbit,
            sigma,
            memory_ms,
            deviation: 0.0,
        };
        wander.jump(dice);
        wander
    }

    /// Forgets the past, as after a change of cell.
    fn jump(&mut self, dice: &mut Dice) {
        self.deviation = self.sigma * dice.normal();
    }

    fn step(&mut self, ms: f64, dice: &mut Dice) {
        let share = ms / self.memory_ms;
        let noise = self.sigma * (2.0 * share).sqrt() * dice.normal();
        self.deviation += noise - share * self.deviation;
    }

    fn mbit(&self) -> f64 {
        self.median_mbit * self.deviation.exp()
    }
}

struct Dice(Pcg64);

impl Dice {
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.0.random::<f64>()).ln()
    }

    /// Standard normal: twelve uniform numbers have a variance of one.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.0.random::<f64>()).sum::<f64>() - 6.0
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.random::<f64>()
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }
}

/// A trace while it is drawn.
struct Generator {
    dice: Dice,
    end_ms: u64,
    opportunities: Vec<u64>,
    /// Part of a packet carried over to the next slot.
    credit: f64,
}

impl Generator {
    fn new(kind: TraceKind, seed: u64, seconds: u64) -> Self {
        let own = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (kind as u64 + 1);
        Generator {
            dice: Dice(Pcg64::seed_from_u64(own)),
            end_ms: seconds * 1000,
            opportunities: Vec::new(),
            credit: 0.0,
        }
    }

    /// The last opportunity is at the end, so that the trace lasts exactly as long as asked.
    fn finish(mut self) -> Result<Trace, String> {
        self.opportunities.retain(|ms| *ms <= self.end_ms);
        self.opportunities.push(self.end_ms);
        Trace::new(self.opportunities)
    }

    /// Serves a slot that carries `mbit` for `slot_ms`.
    fn serve(&mut self, ms: u64, mbit: f64, slot_ms: f64) {
        self.credit += mbit * 1e6 / BITS_PER_PACKET * slot_ms / MS_PER_S;
        let packets = self.credit.floor();
        self.credit -= packets;
        self.burst(ms as f64, packets as usize);
    }

    fn burst(&mut self, ms: f64, packets: usize) {
        let times = std::iter::repeat_n(ms as u64, packets);
        self.opportunities.extend(times);
    }

    fn lte_driving(&mut self) {
        const SCHEDULED: f64 = 0.5;
        const HANDOVER_EVERY_MS: f64 = 15_000.0;
        let mut fading = Wander::new(20.0, 0.6, 3000.0, &mut self.dice);
        let mut handover = self.dice.exponential(HANDOVER_EVERY_MS);
        let mut silent_until = 0.0;
        for ms in 0..self.end_ms {
            let now = ms as f64;
            fading.step(1.0, &mut self.dice);
            if now >= handover {
                fading.jump(&mut self.dice);
                silent_until = now + self.dice.between(40.0, 150.0);
                handover = silent_until + self.dice.exponential(HANDOVER_EVERY_MS);
            }
            // The cell gives a slot to one of its users at a time.
            if now >= silent_until && self.dice.happens(SCHEDULED) {
                self.serve(ms, fading.mbit().clamp(1.0, 75.0) / SCHEDULED, 1.0);
            }
        }
    }

    fn nr_blockage(&mut self) {
        const CLEAR_MBIT: f64 = 120.0;
        const BLOCKED_SHARE: f64 = 0.1;
        // How fast the power falls and comes back, in shares per millisecond.
        const TRANSITION: f64 = 1.0 / 15.0;
        // Of five slots one belongs to the other direction.
        const CYCLE: u64 = 5;
        const DOWN_SHARE: f64 = 0.8;
        let mut fading = Wander::new(CLEAR_MBIT, 0.15, 1000.0, &mut self.dice);
        let mut blocked = false;
        let mut change = self.dice.exponential(3000.0);
        let mut share = 1.0;
        for ms in 0..self.end_ms {
            if ms as f64 >= change {
                blocked = !blocked;
                let mean = if blocked { 700.0 } else { 3000.0 };
                change = ms as f64 + self.dice.exponential(mean);
            }
            fading.step(1.0, &mut self.dice);
            let wanted = if blocked { BLOCKED_SHARE } else { 1.0 };
            share += (wanted - share) * TRANSITION;
            if ms % CYCLE != 0 {
                self.serve(ms, fading.mbit() * share / DOWN_SHARE, 1.0);
            }
        }
    }

    fn umts_walking(&mut self) {
        const SLOT_MS: u64 = 10;
        const STALL_EVERY_MS: f64 = 20_000.0;
        let mut fading = Wander::new(5.0, 0.5, 5000.0, &mut self.dice);
        let mut stall = self.dice.exponential(STALL_EVERY_MS);
        let mut silent_until = 0.0;
        for ms in (0..self.end_ms).step_by(SLOT_MS as usize) {
            let now = ms as f64;
            fading.step(SLOT_MS as f64, &mut self.dice);
            if now >= stall {
                silent_until = now + self.dice.between(200.0, 800.0);
                stall = silent_until + self.dice.exponential(STALL_EVERY_MS);
            }
            if now >= silent_until {
                self.serve(ms, fading.mbit().clamp(0.5, 14.0), SLOT_MS as f64);
            }
        }
    }

    fn wifi_near(&mut self) {
        const AIR_MBIT: f64 = 300.0;
        let mut now = 0.0;
        while now < self.end_ms as f64 {
            let packets = self.dice.between(16.0, 49.0) as usize;
            now += self.dice.exponential(3.0) + air_ms(packets, AIR_MBIT);
            self.burst(now, packets);
        }
    }

    fn wifi_far(&mut self) {
        const AIR_MBIT: [f64; 4] = [6.5, 13.0, 26.0, 39.0];
        const FRAME_MS: f64 = 4.0;
        const FAILURE: f64 = 0.15;
        const REPETITIONS: i32 = 6;
        let mut now = 0.0;
        let mut rate = 2;
        let mut change = self.dice.exponential(800.0);
        while now < self.end_ms as f64 {
            if now >= change {
                let up = rate == 0 || rate + 1 < AIR_MBIT.len() && self.dice.happens(0.5);
                rate = if up { rate + 1 } else { rate - 1 };
                change = now + self.dice.exponential(800.0);
            }
            let packets = (AIR_MBIT[rate] * FRAME_MS * 1e3 / BITS_PER_PACKET).ceil() as usize;
            let air = air_ms(packets, AIR_MBIT[rate]);
            now += self.dice.exponential(1.0) + air;
            let mut repetition = 0;
            // Each repetition waits twice as long for the medium as the one before.
            while repetition < REPETITIONS && self.dice.happens(FAILURE) {
                now += self.dice.exponential(2f64.powi(repetition)) + air;
                repetition += 1;
            }
            self.burst(now, packets);
        }
    }

    fn wifi_contended(&mut self) {
        const AIR_MBIT: f64 = 120.0;
        const STATIONS_MAX: f64 = 6.0;
        const TURN_MS: f64 = 2.5;
        let mut now = 0.0;
        let mut others = 2;
        let mut change = 0.0;
        while now < self.end_ms as f64 {
            if now >= change {
                others = self.dice.between(0.0, STATIONS_MAX + 1.0) as u32;
                change = now + self.dice.exponential(1000.0);
            }
            now += self.dice.exponential(0.5);
            for _ in 0..others {
                now += self.dice.exponential(TURN_MS);
            }
            let packets = self.dice.between(8.0, 33.0) as usize;
            now += air_ms(packets, AIR_MBIT);
            self.burst(now, packets);
        }
    }

    fn steps(&mut self) {
        const STEP_MS: u64 = 2000;
        const MBIT: [f64; 2] = [100.0, 25.0];
        let begin = self.dice.between(0.0, (2 * STEP_MS) as f64) as u64;
        for ms in 0..self.end_ms {
            let step = (begin + ms) / STEP_MS % 2;
            self.serve(ms, MBIT[step as usize], 1.0);
        }
    }
}

fn air_ms(packets: usize, mbit: f64) -> f64 {
    packets as f64 * BITS_PER_PACKET / (mbit * 1e6) * MS_PER_S
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: u64 = 60;

    fn drawn(kind: TraceKind, seed: u64) -> Trace {
        generate(kind, seed, SECONDS).unwrap()
    }

    /// The longest silence in milliseconds, and the most packets of one millisecond.
    fn extremes(trace: &Trace) -> (u64, usize) {
        let times = trace.opportunities();
        let silence = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        let burst = times.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
        (silence.unwrap_or(0), burst.unwrap_or(0))
    }

    #[test]
    fn a_trace_follows_from_its_kind_and_its_seed() {
        for kind in TraceKind::value_variants() {
            let one = drawn(*kind, 1);
            assert_eq!(one, drawn(*kind, 1));
            assert_ne!(one, drawn(*kind, 2));
            assert_eq!(one.opportunities().last(), Some(&(SECONDS * 1000)));
        }
    }

    #[test]
    fn the_kinds_have_their_rates() {
        let expected = [
            (TraceKind::LteDriving, 10..40),
            (TraceKind::NrBlockage, 70..120),
            (TraceKind::UmtsWalking, 3..9),
            (TraceKind::WifiNear, 80..100),
            (TraceKind::WifiFar, 8..25),
            (TraceKind::WifiContended, 20..60),
            (TraceKind::Steps, 62..64),
        ];
        for (kind, mbit) in expected {
            for seed in 1..=10 {
                let rate = drawn(kind, seed).mean_rate() / 1_000_000;
                assert!(mbit.contains(&rate), "{kind:?} {seed}: {rate} Mbit/s");
            }
        }
    }

    #[test]
    fn mobile_links_fall_silent_and_wifi_sends_in_bursts() {
        assert!(extremes(&drawn(TraceKind::LteDriving, 1)).0 >= 40);
        assert!(extremes(&drawn(TraceKind::UmtsWalking, 1)).0 >= 200);
        for kind in [TraceKind::WifiNear, TraceKind::WifiContended] {
            assert!(extremes(&drawn(kind, 1)).1 >= 30, "{kind:?}");
        }
        assert!(extremes(&drawn(TraceKind::WifiFar, 1)).0 >= 15);
    }

    #[test]
    fn an_obstacle_cuts_the_rate_to_a_tenth() {
        let trace = drawn(TraceKind::NrBlockage, 1);
        let mut per_100ms = vec![0u64; 10 * SECONDS as usize + 1];
        for ms in trace.opportunities() {
            per_100ms[*ms as usize / 100] += 1;
        }
        let full = &per_100ms[..10 * SECONDS as usize];
        let most = full.iter().max().unwrap();
        let least = full.iter().min().unwrap();
        assert!(least * 6 < *most, "{least} of {most}");
    }
}
