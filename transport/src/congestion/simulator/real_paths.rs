//! Paths that do more than lose single packets: bursts of losses, reordering, jitter, outages, and
//! several flows at once.
//!
//! Both directions are impaired alike, so acknowledgements suffer as well. Shares are those of the
//! file in the rate of the link, start-up and headers included: 86 % is what a clean path gives.

use super::impairments::Impairments;
use super::scenarios::mebibytes;
use super::sender::{Supply, WindowControl};
use super::{FlowRecord, MILLISECOND, Network, SECOND, SimulatedLink, SimulatedSender};

/// A link of 100 Mbit/s and 40 ms that impairs both directions.
fn link(impair: impl Fn(&mut Impairments)) -> SimulatedLink {
    let mut link = SimulatedLink::new(100.0, 40.0, 1.0);
    impair(&mut link.forward);
    impair(&mut link.back);
    link
}

/// Losses of 2 % on average, in bursts of so many packets on average.
fn bursts(length: f64) -> impl Fn(&mut Impairments) {
    let ends = 1.0 / length;
    move |way| way.bursts = Some((0.02 * ends / (1.0 - 0.02), ends))
}

/// One transfer of 20 MiB for each seed.
struct Transfers {
    /// In rising order.
    shares: Vec<f64>,
    /// Mean share of packets that the queue dropped.
    drops: f64,
}

impl Transfers {
    fn over(link: &SimulatedLink) -> Self {
        let rate = link.bytes_per_second();
        let mut shares = Vec::new();
        let mut drops = 0.0;
        for seed in 1..=SEEDS {
            let sender = SimulatedSender::quire(0, mebibytes(MEBIBYTES));
            let mut network = Network::new(link.clone(), vec![sender], seed);
            network.run(60 * SECOND);
            let end = network.records[0].finished.expect("the transfer ends");
            shares.push((MEBIBYTES << 20) as f64 * 1e9 / end as f64 / rate);
            drops += network.records[0].drop_share() / SEEDS as f64;
        }
        shares.sort_by(f64::total_cmp);
        Self { shares, drops }
    }

    /// Checks the smallest share, the median, and the drops.
    #[track_caller]
    fn hold(&self, smallest: f64, median: f64, drops: f64) {
        let middle = self.shares[self.shares.len() / 2];
        assert!(
            self.shares[0] >= smallest && middle >= median && self.drops <= drops,
            "shares {:?}, drops {}",
            self.shares,
            self.drops
        );
    }
}

const SEEDS: u64 = 8;
const MEBIBYTES: u64 = 20;

#[test]
fn a_burst_of_losses_says_nothing_about_the_rate() {
    for length in [4.0, 10.0, 20.0] {
        Transfers::over(&link(bursts(length))).hold(0.72, 0.8, 0.001);
    }
}

#[test]
fn a_burst_that_is_longer_than_the_window_ends() {
    let mut link = SimulatedLink::new(2.0, 40.0, 1.0);
    bursts(20.0)(&mut link.forward);
    bursts(20.0)(&mut link.back);
    let sender = SimulatedSender::quire(0, mebibytes(1));
    let mut network = Network::new(link, vec![sender], 3);
    network.run(60 * SECOND);
    assert!(network.records[0].finished.is_some());
}

#[test]
fn bursts_and_a_shallow_queue_together_are_told_apart() {
    let mut link = link(bursts(20.0));
    link.queue_max *= 0.3;
    Transfers::over(&link).hold(0.72, 0.78, 0.012);
}

#[test]
fn packets_that_are_overtaken_are_not_lost() {
    for (share, late) in [(0.05, 4), (0.1, 4), (0.25, 1), (0.25, 10)] {
        let link = link(|way| way.late = (share, late * MILLISECOND));
        Transfers::over(&link).hold(0.72, 0.75, 0.001);
    }
    let link = link(|way| {
        way.jitter = 2 * MILLISECOND;
        way.in_order = false;
    });
    Transfers::over(&link).hold(0.78, 0.8, 0.001);
}

#[test]
fn jitter_is_no_queue() {
    for (jitter, smallest, median) in [(10, 0.4, 0.74), (20, 0.65, 0.7), (30, 0.6, 0.65)] {
        let link = link(|way| way.jitter = jitter * MILLISECOND);
        Transfers::over(&link).hold(smallest, median, 0.05);
    }
}

#[test]
fn jitter_is_measured_where_there_is_some() {
    let found = |jitter: u64| {
        let link = link(|way| way.jitter = jitter * MILLISECOND);
        let found = (1..=SEEDS).map(|seed| {
            let sender = SimulatedSender::quire(0, mebibytes(MEBIBYTES));
            let mut network = Network::new(link.clone(), vec![sender], seed);
            network.run(60 * SECOND);
            match &network.senders[0].control {
                WindowControl::Quire(control) => control.jitter().as_nanos() as u64,
                WindowControl::Cubic(_) => unreachable!("it is ours"),
            }
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable();
        found
    };
    assert_eq!(found(0), [0; SEEDS as usize]);
    for jitter in [10, 20, 30] {
        // Both directions add their own.
        let (least, most) = (jitter * MILLISECOND * 3 / 4, 2 * jitter * MILLISECOND);
        let found = found(jitter);
        let is_near = |found: &u64| (least..=most).contains(found);
        assert!(found.iter().all(is_near), "{jitter} ms: {found:?}");
    }
}

#[test]
fn short_outages_are_survived_at_full_rate() {
    let link = link(|way| way.outages = (20 * MILLISECOND, SECOND));
    Transfers::over(&link).hold(0.75, 0.78, 0.001);
}

#[test]
fn the_rate_is_found_again_after_an_outage_of_many_round_trips() {
    let link = link(|way| way.outages = (500 * MILLISECOND, 3 * SECOND));
    let sender = SimulatedSender::quire(0, Supply::Endless);
    let mut network = Network::new(link, vec![sender], 1);
    network.run(12 * SECOND);
    let share = network.records[0].rate(0, 12 * SECOND) / network.link.bytes_per_second();
    assert!(share > 0.7, "{share} of at most 0.83");
}

/// Runs `ours` flows and a CUBIC one, and returns the share of the CUBIC flow as a multiple of its
/// fair share.
fn cubic_beside(ours: u64, queue: f64, cubic_first: bool) -> f64 {
    let (start, cubic_start) = if cubic_first { (2, 0) } else { (0, 2) };
    let mut senders: Vec<_> = (0..ours)
        .map(|n| SimulatedSender::quire(start * SECOND + n * 50 * MILLISECOND, Supply::Endless))
        .collect();
    senders.push(SimulatedSender::cubic(cubic_start * SECOND));
    let link = SimulatedLink::new(100.0, 40.0, queue);
    let mut network = Network::new(link, senders, 7);
    network.run(32 * SECOND);
    let rate = |record: &FlowRecord| record.rate(12 * SECOND, 32 * SECOND);
    let all: f64 = network.records.iter().map(rate).sum();
    network.records.last().map_or(0.0, rate) / all * (ours + 1) as f64
}

#[test]
fn a_cubic_flow_keeps_a_part_of_its_share_beside_several_of_ours() {
    // A single run depends on which flow happens to lose, so their mean counts.
    for (ours, mean_min) in [(1, 1.0), (4, 0.6), (8, 0.3)] {
        let runs = [(1.0, true), (1.0, false), (4.0, true), (4.0, false)];
        let shares = runs.map(|(queue, cubic_first)| cubic_beside(ours, queue, cubic_first));
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!(mean > mean_min, "{shares:?} of its share beside {ours}");
    }
}
