//! Paths that the controller must perform well on, each with required figures.
//!
//! Shares are relative to the rate of the link, queues to the bandwidth-delay product. The bounds
//! leave some room, so that a harmless change of a constant breaks no test.

use super::sender::Supply;
use super::{
    FlowRecord, LinkChange, MILLISECOND, Network, SECOND, SLOT, SimulatedLink, SimulatedSender,
    StalledPart, Stalls,
};

const SEED: u64 = 7;

/// Payload of a packet, in bytes; the rest is headers.
const PAYLOAD: u64 = 1420;

pub(super) fn mebibytes(count: u64) -> Supply {
    Supply::Packets((count << 20).div_ceil(PAYLOAD))
}

fn run(link: SimulatedLink, senders: Vec<SimulatedSender>, end: u64) -> Network {
    let mut network = Network::new(link, senders, SEED);
    network.run(end);
    network
}

/// Runs a single sender of quire.
fn alone(link: SimulatedLink, supply: Supply, end: u64) -> Network {
    run(link, vec![SimulatedSender::quire(0, supply)], end)
}

/// Returns the share of the link that a flow got between two times.
fn share(network: &Network, flow: usize, from: u64, to: u64) -> f64 {
    network.records[flow].rate(from, to) / network.link.bytes_per_second()
}

/// Checks share of the rate, drops and queue of a limited transfer, including start-up.
#[track_caller]
fn hold(network: &Network, share_min: f64, drops_max: f64, queue_max: f64) {
    let record: &FlowRecord = &network.records[0];
    let end = record.finished.expect("the transfer ends");
    let share = record.delivered as f64 * 1e9 / end as f64 / network.link.bytes_per_second();
    let drops = record.drop_share();
    let queue = network.queue_median(0, end) as f64 / network.link.round_trip as f64;
    assert!(
        share >= share_min && drops <= drops_max && queue <= queue_max,
        "share {share:.3} of {share_min}, drops {drops:.4} of {drops_max}, queue {queue:.3} of {queue_max}"
    );
}

fn bytes_per_nanosecond(megabits: f64) -> f64 {
    megabits * 1e6 / 8.0 / 1e9
}

#[test]
fn random_loss_alone_costs_nothing_but_itself() {
    for loss in [0.0, 0.001, 0.005, 0.01] {
        let link = SimulatedLink::new(200.0, 80.0, 1.0).loss(loss);
        hold(&alone(link, mebibytes(96), 60 * SECOND), 0.86, 0.01, 0.2);
    }
}

#[test]
fn a_short_transfer_is_not_spent_in_start_up() {
    for loss in [0.0, 0.001, 0.01] {
        let link = SimulatedLink::new(200.0, 80.0, 1.0).loss(loss);
        let network = alone(link, mebibytes(24), 60 * SECOND);
        let end = network.records[0].finished.unwrap();
        assert!(end < 1_650 * MILLISECOND, "{end} ns at loss {loss}");
        assert!(network.records[0].drop_share() < 0.01);
    }
}

#[test]
fn a_long_lossy_path_is_filled() {
    let link = SimulatedLink::new(500.0, 200.0, 1.0).loss(0.02);
    let network = alone(link, Supply::Endless, 6 * SECOND);
    assert!(share(&network, 0, 3 * SECOND, 6 * SECOND) > 0.9);
    assert!(network.records[0].drop_share() < 0.01);
}

#[test]
fn a_fast_path_with_little_loss_is_filled() {
    let link = SimulatedLink::new(900.0, 20.0, 1.0).loss(0.0001);
    hold(&alone(link, mebibytes(128), 60 * SECOND), 0.88, 0.01, 0.2);
}

#[test]
fn shallow_and_deep_queues_see_few_drops_and_little_standing() {
    for (queue, drops_max) in [(0.1, 0.02), (0.3, 0.01), (1.0, 0.005), (4.0, 0.001)] {
        let link = SimulatedLink::new(100.0, 40.0, queue);
        hold(
            &alone(link, mebibytes(48), 60 * SECOND),
            0.9,
            drops_max,
            0.2,
        );
    }
}

#[test]
fn a_shallow_queue_and_random_loss_together_are_told_apart() {
    let link = SimulatedLink::new(200.0, 80.0, 0.3).loss(0.01);
    hold(&alone(link, mebibytes(96), 60 * SECOND), 0.85, 0.02, 0.2);
}

#[test]
fn a_path_four_times_slower_is_recognised_within_two_seconds() {
    let slower = LinkChange::Rate(bytes_per_nanosecond(50.0));
    let link = SimulatedLink::new(200.0, 40.0, 1.0).change(3 * SECOND, slower);
    let network = alone(link, Supply::Endless, 8 * SECOND);
    assert!(share(&network, 0, 4 * SECOND, 8 * SECOND) > 0.92);
    let queue = network.queue_median(5 * SECOND, 8 * SECOND);
    assert!(queue < 8 * MILLISECOND, "{queue}");
    assert!(network.records[0].drop_share() < 0.01);
}

#[test]
fn a_path_four_times_faster_is_found_within_two_seconds() {
    let faster = LinkChange::Rate(bytes_per_nanosecond(200.0));
    let link = SimulatedLink::new(50.0, 40.0, 4.0).change(3 * SECOND, faster);
    let network = alone(link, Supply::Endless, 8 * SECOND);
    assert!(share(&network, 0, 5 * SECOND, 8 * SECOND) > 0.9);
    assert!(network.records[0].drop_share() < 0.01);
}

#[test]
fn a_route_change_is_followed_both_ways() {
    for (before, after) in [(40_u32, 80_u32), (80, 40)] {
        let route = LinkChange::RoundTrip(u64::from(after) * MILLISECOND);
        let link = SimulatedLink::new(100.0, before.into(), 1.0).change(3 * SECOND, route);
        let network = alone(link, Supply::Endless, 8 * SECOND);
        let share = share(&network, 0, 5 * SECOND, 8 * SECOND);
        assert!(share > 0.92, "{share} from {before} to {after} ms");
        let queue = network.queue_median(5 * SECOND, 8 * SECOND);
        assert!(
            queue < u64::from(after) * MILLISECOND / 5,
            "{queue} from {before} to {after} ms"
        );
    }
}

#[test]
fn bulk_after_an_application_limited_phase_finds_the_rate() {
    let supply = Supply::TrickleUntil(500.0, 3 * SECOND);
    let network = alone(SimulatedLink::new(100.0, 40.0, 1.0), supply, 6 * SECOND);
    assert!(share(&network, 0, 4 * SECOND, 6 * SECOND) > 0.92);
    assert!(network.records[0].drop_share() < 0.01);
}

#[test]
fn aggregated_and_sparse_acknowledgements_do_not_throttle() {
    let mut aggregated = SimulatedLink::new(100.0, 40.0, 1.0);
    aggregated.aggregation = 10 * MILLISECOND;
    let mut sparse = SimulatedLink::new(100.0, 40.0, 1.0);
    sparse.ack_every = 40;
    for link in [aggregated, sparse] {
        let network = alone(link, Supply::Endless, 6 * SECOND);
        let share = share(&network, 0, 2 * SECOND, 6 * SECOND);
        assert!(share > 0.9, "{share}");
        let queue = network.queue_median(2 * SECOND, 6 * SECOND);
        assert!(queue < 10 * MILLISECOND, "{queue}");
    }
}

#[test]
fn quire_and_cubic_share_a_path_in_either_order_of_start() {
    for (ours, theirs) in [(2 * SECOND, 0), (0, 2 * SECOND)] {
        let senders = vec![
            SimulatedSender::quire(ours, Supply::Endless),
            SimulatedSender::cubic(theirs),
        ];
        let network = run(SimulatedLink::new(100.0, 40.0, 1.0), senders, 32 * SECOND);
        let [quire, cubic] = [0, 1].map(|flow| share(&network, flow, 12 * SECOND, 32 * SECOND));
        assert!(quire > 0.25 && cubic > 0.4, "quire {quire}, cubic {cubic}");
        assert!(network.records[0].drop_share() < 0.01);
    }
}

#[test]
fn two_connections_of_quire_share_a_path() {
    let senders = vec![
        SimulatedSender::quire(0, Supply::Endless),
        SimulatedSender::quire(2 * SECOND, Supply::Endless),
    ];
    let network = run(SimulatedLink::new(100.0, 40.0, 1.0), senders, 16 * SECOND);
    let [first, second] = [0, 1].map(|flow| share(&network, flow, 8 * SECOND, 16 * SECOND));
    assert!(
        first > 0.25 && second > 0.25 && first + second > 0.92,
        "{first}, {second}"
    );
}

#[test]
fn a_local_network_is_never_throttled() {
    let mut link = SimulatedLink::new(5_000.0, 0.2, 1.0);
    link.queue_max = 4e6;
    hold(
        &alone(link, mebibytes(64), 10 * SECOND),
        0.95,
        0.001,
        f64::INFINITY,
    );
}

#[test]
fn a_local_network_with_short_buffers_sees_few_drops() {
    let mut link = SimulatedLink::new(1_000.0, 0.3, 1.0);
    link.queue_max = 200e3;
    hold(
        &alone(link, mebibytes(64), 10 * SECOND),
        0.9,
        0.05,
        f64::INFINITY,
    );
}

#[test]
fn the_simulation_is_repeatable() {
    let link = || SimulatedLink::new(50.0, 20.0, 1.0).loss(0.01);
    let [first, second] = [(); 2].map(|()| alone(link(), mebibytes(4), SECOND).records.remove(0));
    assert_eq!(first.slots, second.slots);
    assert_eq!(first.slots.iter().sum::<u64>(), first.delivered);
    assert!(first.slots.len() as u64 <= SECOND / SLOT + 1);
}

/// Returns mean share and mean drops of short transfers with a stall of `part` about every 60 ms.
fn with_stalls(part: StalledPart) -> (f64, f64) {
    let mut shares = 0.0;
    let mut drops = 0.0;
    for seed in 1..=STALLED_RUNS {
        let mut link = SimulatedLink::new(200.0, 80.0, 1.0).loss(0.01);
        link.stalls = Stalls::random(part, 60 * MILLISECOND, 60 * SECOND, seed.into());
        let network = alone(link, mebibytes(24), 60 * SECOND);
        let record = &network.records[0];
        let end = record.finished.expect("the transfer ends");
        let rate = record.delivered as f64 * 1e9 / end as f64;
        shares += rate / network.link.bytes_per_second();
        drops += record.drop_share();
    }
    (
        shares / f64::from(STALLED_RUNS),
        drops / f64::from(STALLED_RUNS),
    )
}

const STALLED_RUNS: u32 = 8;

#[test]
fn stalls_of_either_end_or_of_the_link_do_not_end_start_up_for_good() {
    for (part, share_min) in [
        (StalledPart::Sender, 0.51),
        (StalledPart::Receiver, 0.57),
        (StalledPart::Link, 0.48),
    ] {
        let (share, drops) = with_stalls(part);
        assert!(
            share > share_min && drops < 0.045,
            "{part:?}: {share}, {drops}"
        );
    }
}

#[test]
fn occasional_stalls_leave_no_queue_behind() {
    for part in StalledPart::ALL {
        let mut link = SimulatedLink::new(200.0, 80.0, 1.0).loss(0.001);
        link.stalls = Stalls::random(part, 500 * MILLISECOND, 8 * SECOND, SEED);
        let network = alone(link, Supply::Endless, 8 * SECOND);
        let share = share(&network, 0, 2 * SECOND, 8 * SECOND);
        let queue = network.queue_median(2 * SECOND, 8 * SECOND);
        assert!(
            share > 0.85 && queue < 8 * MILLISECOND,
            "{part:?}: {share}, {queue}"
        );
    }
}
