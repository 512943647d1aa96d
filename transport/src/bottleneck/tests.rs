//! Verdicts from figures.

use super::*;

/// Ten seconds in which bodies waited for the peer and nothing else stood out.
const UNHURRIED: TransferStats = TransferStats {
    elapsed: Duration::from_secs(10),
    disk: Duration::from_millis(100),
    network: Duration::from_secs(9),
    file_work: Duration::ZERO,
    file_processor: Duration::ZERO,
    syncs: Duration::ZERO,
    processor: Duration::from_secs(1),
    sent_bytes: 150_000_000,
    sent: 100_000,
    lost: 10,
    stopped: 0,
    acknowledged: Acknowledged {
        packets: 99_000,
        late: 20,
    },
    round_trip: Duration::from_millis(80),
    round_trip_min: Duration::from_millis(79),
    jitter: Duration::from_micros(300),
    in_flight_max: 2_500_000,
    send_window: 10_000_000,
    stream_window: 16 * 1024 * 1024,
};

#[test]
fn a_sender_that_only_waits_for_the_path_is_limited_by_it() {
    assert_eq!(UNHURRIED.of_sender(), Bottleneck::Path);
}

#[test]
fn each_figure_that_stands_out_is_the_bottleneck() {
    let cases = [
        (
            Bottleneck::SenderDisk,
            TransferStats {
                disk: Duration::from_secs(20),
                ..UNHURRIED
            },
        ),
        (
            Bottleneck::SenderProcessor,
            TransferStats {
                processor: Duration::from_millis(9_500),
                ..UNHURRIED
            },
        ),
        (
            Bottleneck::Receiver,
            TransferStats {
                stopped: 100,
                ..UNHURRIED
            },
        ),
        (
            Bottleneck::Window,
            TransferStats {
                stopped: 100,
                sent_bytes: 4_000_000_000,
                ..UNHURRIED
            },
        ),
        (
            Bottleneck::Window,
            TransferStats {
                send_window: 2_000_000,
                ..UNHURRIED
            },
        ),
    ];
    for (bottleneck, stats) in cases {
        assert_eq!(stats.of_sender(), bottleneck, "{stats:?}");
    }
}

#[test]
fn what_the_path_does_to_packets_is_named_last() {
    let cases = [
        (
            Bottleneck::Loss,
            TransferStats {
                lost: 2_000,
                ..UNHURRIED
            },
        ),
        (
            Bottleneck::Reordering,
            TransferStats {
                lost: 1_500,
                acknowledged: Acknowledged {
                    late: 5_000,
                    ..UNHURRIED.acknowledged
                },
                ..UNHURRIED
            },
        ),
        (
            Bottleneck::Jitter,
            TransferStats {
                jitter: Duration::from_millis(20),
                ..UNHURRIED
            },
        ),
        (
            Bottleneck::Path,
            TransferStats {
                stopped: 3,
                ..UNHURRIED
            },
        ),
    ];
    for (bottleneck, stats) in cases {
        assert_eq!(stats.of_sender(), bottleneck, "{stats:?}");
    }
}

#[test]
fn on_a_fast_path_neither_windows_nor_memory_are_blamed() {
    let cases = [
        (
            // On a local path the congestion window says nothing.
            Bottleneck::Receiver,
            TransferStats {
                stopped: 10_000,
                in_flight_max: 40_000_000,
                round_trip: Duration::from_micros(200),
                ..UNHURRIED
            },
        ),
        (
            // The threads that read spent their time computing: the files are in memory.
            Bottleneck::Path,
            TransferStats {
                disk: Duration::from_secs(20),
                file_work: Duration::from_secs(20),
                file_processor: Duration::from_secs(19),
                ..UNHURRIED
            },
        ),
    ];
    for (bottleneck, stats) in cases {
        assert_eq!(stats.of_sender(), bottleneck, "{stats:?}");
    }
}

#[test]
fn a_receiver_names_only_what_is_on_its_side() {
    let slow_disk = TransferStats {
        disk: Duration::from_secs(10),
        ..UNHURRIED
    };
    let busy = TransferStats {
        processor: Duration::from_secs(10),
        ..UNHURRIED
    };
    let syncing = TransferStats {
        syncs: Duration::from_secs(8),
        ..UNHURRIED
    };
    assert_eq!(syncing.of_receiver(), Bottleneck::ReceiverSync);
    assert_eq!(slow_disk.of_receiver(), Bottleneck::Receiver);
    assert_eq!(busy.of_receiver(), Bottleneck::ReceiverProcessor);
    assert_eq!(UNHURRIED.of_receiver(), Bottleneck::Elsewhere);
}

#[test]
fn the_numbers_of_limits_are_those_of_the_protocol() {
    for (number, limit) in (0..).zip(Bottleneck::ALL) {
        assert_eq!(limit.number(), number);
        assert_eq!(Bottleneck::from_number(number), limit);
    }
    assert_eq!(Bottleneck::Window.number(), 10);
    assert_eq!(Bottleneck::from_number(200), Bottleneck::Elsewhere);
}

#[test]
fn empty_measurements_divide_nothing_by_zero() {
    let stats = TransferStats::default();
    let verdict = Verdict {
        limit: stats.of_sender(),
        stats,
        faults: Some(stats.faults()),
    };
    assert!(!verdict.to_string().contains("NaN"), "{verdict}");
}

#[test]
fn a_verdict_is_one_line() {
    let line = |faults| {
        let verdict = Verdict {
            limit: Bottleneck::Path,
            stats: UNHURRIED,
            faults,
        };
        verdict.to_string()
    };
    let own = "the path: waited 1 % for the disk, 99 % for the other side; processor 10 % of a \
               core; round trip 80.0 ms";
    assert_eq!(line(None), own);
    assert_eq!(
        line(Some(UNHURRIED.faults())),
        format!("{own}, jitter 0.3 ms; 0.01 % lost, 0.02 % late")
    );
}
