//! Tests of the link model, without a link.

use super::*;

const MS: u64 = 1_000_000;

fn config() -> Config {
    Config {
        rate: Some(100_000_000),
        trace: None,
        policer: None,
        delay_ns: 10 * MS,
        queue_bytes: 96_000,
        loss: 0.0,
        burst_loss: None,
        outage: None,
        jitter_ns: 0,
        jitter_reorder_ns: 0,
        reorder: 0.0,
        reorder_delay_ns: 0,
        duplicate: 0.0,
        seed: 1,
    }
}

fn drain(model: &mut LinkModel<u64>) -> Vec<Arrival<u64>> {
    std::iter::from_fn(|| model.pop_due(u64::MAX)).collect()
}

#[test]
fn packets_leave_at_the_rate_and_arrive_after_the_delay() {
    let mut model = LinkModel::new(config());
    for n in 0..10 {
        assert_eq!(model.offer(1000, 1500, n), Fate::Accepted);
    }
    // 1500 bytes at 100 Mbit/s take 120 microseconds.
    assert_eq!(model.next_due(), Some(1000 + 120_000 + 10 * MS));
    assert_eq!(model.pop_due(1000 + 120_000 + 10 * MS - 1), None);
    for (n, arrival) in drain(&mut model).into_iter().enumerate() {
        assert_eq!(arrival.packet, n as u64);
        assert_eq!(arrival.due, 1000 + 120_000 * (n as u64 + 1) + 10 * MS);
    }
    // An idle link sends at once.
    assert_eq!(model.offer(500 * MS, 1500, 99), Fate::Accepted);
    assert_eq!(model.next_due(), Some(510 * MS + 120_000));
}

#[test]
fn a_rate_that_does_not_divide_a_second_is_exact_in_the_long_run() {
    let mut model = LinkModel::new(Config {
        rate: Some(70_000_007),
        delay_ns: 0,
        queue_bytes: u64::MAX,
        ..config()
    });
    let packets = 1_000_000;
    for n in 0..packets {
        model.offer(0, 1400, n);
    }
    let last = drain(&mut model).last().map(|arrival| arrival.due);
    let exact = u128::from(packets) * 1400 * u128::from(BITS_TIMES_NANOS) / 70_000_007;
    assert_eq!(last, Some(exact as u64));
}

#[test]
fn the_queue_drops_its_tail_and_drains_at_the_rate() {
    let mut model = LinkModel::new(config());
    // 96 000 bytes hold 64 full packets.
    for n in 0..64 {
        assert_eq!(model.offer(0, 1500, n), Fate::Accepted);
    }
    assert_eq!(model.offer(0, 1500, 64), Fate::QueueFull(64));
    assert_eq!(model.offer(0, 40, 65), Fate::QueueFull(65));
    // After one transmission time there is room for exactly one packet.
    assert_eq!(model.offer(119_999, 1500, 66), Fate::QueueFull(66));
    assert_eq!(model.offer(120_000, 1500, 67), Fate::Accepted);
    assert_eq!(model.offer(120_000, 1500, 68), Fate::QueueFull(68));
    assert_eq!(model.counters().max_queue_bytes, 96_000);
    assert_eq!(model.counters().queue_dropped, 4);
    assert_eq!(drain(&mut model).len(), 65);
}

#[test]
fn an_overloaded_link_carries_exactly_its_rate() {
    let mut model = LinkModel::new(config());
    // 200 Mbit/s offered to a link of 100 Mbit/s for one second.
    for n in 0..16_667 {
        model.offer(n * 60_000, 1500, n);
    }
    let delivered = drain(&mut model).len() as u64;
    // One second of link time is 8333 packets, then the queue of 64 drains.
    assert!((8333..=8333 + 64).contains(&delivered), "{delivered}");
}

#[test]
fn random_loss_has_its_probability_and_its_seed() {
    let lost = |seed| {
        let mut model = LinkModel::new(Config {
            rate: None,
            queue_bytes: u64::MAX,
            loss: 0.01,
            seed,
            ..config()
        });
        (0..1_000_000)
            .filter(|n| matches!(model.offer(*n, 1500, *n), Fate::Lost(_)))
            .collect::<Vec<_>>()
    };
    let one = lost(1);
    // The standard deviation is 100.
    assert!((9_600..=10_400).contains(&one.len()), "{}", one.len());
    assert_eq!(one, lost(1));
    assert_ne!(one, lost(2));
}

#[test]
fn gilbert_loss_has_its_mean_and_its_burst_length() {
    let mut model = LinkModel::new(Config {
        rate: None,
        queue_bytes: u64::MAX,
        burst_loss: Some(Gilbert {
            p: 0.005,
            r: 0.25,
            loss_bad: 1.0,
            loss_good: 0.0,
        }),
        ..config()
    });
    let packets = 2_000_000u64;
    let (mut lost, mut bursts, mut before) = (0u64, 0u64, false);
    for n in 0..packets {
        let now = matches!(model.offer(n, 1500, n), Fate::Lost(_));
        lost += u64::from(now);
        bursts += u64::from(now && !before);
        before = now;
    }
    let mean = lost as f64 / packets as f64;
    let length = lost as f64 / bursts as f64;
    assert!((mean - 0.005 / 0.255).abs() < 0.001, "{mean}");
    assert!((length - 4.0).abs() < 0.15, "{length}");
}

#[test]
fn late_packets_are_overtaken_and_duplicates_counted() {
    let mut model = LinkModel::new(Config {
        queue_bytes: u64::MAX,
        reorder: 0.1,
        reorder_delay_ns: MS,
        duplicate: 0.05,
        ..config()
    });
    for n in 0..10_000 {
        model.offer(n * 200_000, 1500, n);
    }
    let arrived = drain(&mut model);
    assert!(arrived.is_sorted_by_key(|arrival| arrival.due));
    let overtaken = arrived
        .windows(2)
        .filter(|pair| pair[0].packet > pair[1].packet)
        .count();
    assert!((700..=1100).contains(&overtaken), "{overtaken}");
    let counters = model.counters();
    assert!((850..=1150).contains(&counters.reordered));
    assert!((400..=600).contains(&counters.duplicated));
}

#[test]
fn every_packet_is_accounted_for() {
    let mut model = LinkModel::new(Config {
        loss: 0.02,
        reorder: 0.01,
        reorder_delay_ns: 5 * MS,
        duplicate: 0.01,
        ..config()
    });
    for n in 0..50_000u64 {
        let now = n * 100_000;
        model.offer(now, 200 + (n % 1300) as usize, n);
        while model.pop_due(now).is_some() {}
        let c = model.counters();
        assert_eq!(
            c.sent,
            c.policed + c.queue_dropped + c.lost + c.outage_lost + c.delivered + model.in_flight()
        );
    }
    drain(&mut model);
    assert_eq!(model.in_flight(), 0);
    assert_eq!(model.in_flight_bytes, 0);
}

#[test]
fn the_bandwidth_delay_product() {
    assert_eq!(bdp_bytes(200_000_000, 80 * MS), 2_000_000);
    assert_eq!(bdp_bytes(100_000_000_000, 10_000 * MS), 125_000_000_000);
}

/// Packets of 1500 bytes, one each `gap_ns`, through a link without a limit of its queue.
fn arrivals(config: Config, packets: u64, gap_ns: u64) -> (Vec<Arrival<u64>>, Counters) {
    let mut model = LinkModel::new(Config {
        queue_bytes: u64::MAX,
        ..config
    });
    for n in 0..packets {
        model.offer(n * gap_ns, 1500, n);
    }
    let arrived = drain(&mut model);
    (arrived, model.counters())
}

/// How much later than without jitter each packet arrived.
fn extra_delays(arrived: &[Arrival<u64>], gap_ns: u64) -> Vec<u64> {
    let plain = |n: u64| n * gap_ns + 120_000 + 10 * MS;
    arrived.iter().map(|a| a.due - plain(a.packet)).collect()
}

#[test]
fn jitter_delays_every_packet_and_keeps_the_order() {
    let jitter = Config {
        jitter_ns: 10 * MS,
        ..config()
    };
    let (arrived, counters) = arrivals(jitter.clone(), 10_000, 120_000);
    assert!(arrived.is_sorted_by_key(|arrival| (arrival.due, arrival.packet)));
    assert_eq!(counters.reordered, 0);
    let delays = extra_delays(&arrived, 120_000);
    assert!(delays.iter().all(|delay| *delay <= 10 * MS));
    // Packets that come apart by more than the jitter have it unchanged: uniform.
    let (arrived, _) = arrivals(jitter, 10_000, 20 * MS);
    let delays = extra_delays(&arrived, 20 * MS);
    let mean = delays.iter().sum::<u64>() / 10_000;
    assert!((4_850_000..=5_150_000).contains(&mean), "{mean}");
}

#[test]
fn reordering_jitter_is_uniform_and_lets_packets_overtake() {
    let jitter = Config {
        jitter_reorder_ns: 2 * MS,
        ..config()
    };
    let (arrived, counters) = arrivals(jitter, 10_000, 120_000);
    let delays = extra_delays(&arrived, 120_000);
    let mean = delays.iter().sum::<u64>() / 10_000;
    assert!((970_000..=1_030_000).contains(&mean), "{mean}");
    assert!(delays.iter().all(|delay| *delay <= 2 * MS));
    // With 16 packets in 2 ms most are overtaken.
    assert!(counters.reordered > 5_000, "{}", counters.reordered);
}

#[test]
fn a_quarter_of_the_packets_late_by_10_ms() {
    let late = Config {
        reorder: 0.25,
        reorder_delay_ns: 10 * MS,
        ..config()
    };
    let (arrived, counters) = arrivals(late, 40_000, 120_000);
    assert_eq!(arrived.len(), 40_000);
    assert!(
        (9_700..=10_300).contains(&counters.reordered),
        "{}",
        counters.reordered
    );
}

#[test]
fn an_outage_loses_what_leaves_the_queue_while_it_lasts() {
    let silence = Config {
        outage: Some(Outage {
            length_ns: 20 * MS,
            period_ns: 1000 * MS,
            phase_ns: 995 * MS,
        }),
        ..config()
    };
    let (arrived, counters) = arrivals(silence, 100_000, 120_000);
    // Twelve seconds: 1/50 of each is silent.
    assert!(
        (1_990..=2_010).contains(&counters.outage_lost),
        "{}",
        counters.outage_lost
    );
    let left = arrived.iter().map(|a| a.due - 10 * MS);
    assert!(
        left.map(|time| time % (1000 * MS))
            .all(|t| (15 * MS..995 * MS).contains(&t))
    );
}

#[test]
fn a_policer_passes_its_burst_and_then_its_rate() {
    let mut model = LinkModel::new(Config {
        rate: None,
        policer: Some(Policer {
            rate: 12_000_000,
            burst_bytes: 15_000,
        }),
        queue_bytes: u64::MAX,
        ..config()
    });
    let passed = |model: &mut LinkModel<u64>, now: u64, packets: u64| {
        let all = (0..packets).map(|n| model.offer(now, 1500, n));
        all.filter(|fate| *fate == Fate::Accepted).count()
    };
    assert_eq!(passed(&mut model, 0, 20), 10);
    // 12 Mbit/s are one packet in a millisecond.
    assert_eq!(passed(&mut model, MS, 3), 1);
    assert_eq!(passed(&mut model, 4 * MS, 9), 3);
    assert_eq!(passed(&mut model, 1000 * MS, 20), 10);
    assert_eq!(model.counters().policed, 28);
}

fn on_trace(times: Vec<u64>) -> LinkModel<u64> {
    LinkModel::new(Config {
        trace: Some(Arc::new(Trace::new(times).unwrap())),
        delay_ns: 0,
        queue_bytes: 6_000,
        ..config()
    })
}

#[test]
fn packets_leave_at_the_times_of_the_trace_which_repeats() {
    let mut model = on_trace(vec![2, 2, 5, 10]);
    let mut leaves = |now: u64, len: usize| {
        assert_eq!(model.offer(now, len, 0), Fate::Accepted);
        drain(&mut model)[0].due / MS
    };
    assert_eq!(leaves(0, 1500), 2);
    assert_eq!(leaves(0, 1500), 2);
    // Two halves share an opportunity; a whole packet then needs what is left and the next.
    assert_eq!(leaves(2 * MS, 750), 5);
    assert_eq!(leaves(2 * MS, 500), 5);
    assert_eq!(leaves(2 * MS, 1500), 10);
    assert_eq!(leaves(2 * MS, 1500), 12);
    // What nobody uses is gone, however long that takes.
    assert_eq!(leaves(1_000_002 * MS + 1, 1500), 1_000_005);
    assert_eq!(leaves(1_000_006 * MS, 1500), 1_000_010);
}

#[test]
fn the_queue_before_a_trace_is_what_has_not_left() {
    let mut model = on_trace(vec![2, 2, 5, 10]);
    for n in 0..4 {
        assert_eq!(model.offer(MS, 1500, n), Fate::Accepted);
    }
    assert_eq!(model.offer(MS, 40, 4), Fate::QueueFull(4));
    assert_eq!(model.offer(2 * MS, 1500, 5), Fate::Accepted);
    assert_eq!(model.offer(2 * MS, 1500, 6), Fate::Accepted);
    assert_eq!(model.offer(2 * MS, 1500, 7), Fate::QueueFull(7));
    assert_eq!(model.counters().max_queue_bytes, 6_000);
}

#[test]
fn a_trace_says_what_is_wrong_with_it() {
    assert_eq!(
        Trace::parse("1\n2\n2\n").unwrap().opportunities(),
        [1, 2, 2]
    );
    assert_eq!(Trace::parse("1\n5\n").unwrap().mean_rate(), 4_800_000);
    for wrong in ["", "0\n", "5\n4\n", "1\ntwo\n", "-1\n"] {
        assert!(Trace::parse(wrong).is_err(), "{wrong:?}");
    }
}
