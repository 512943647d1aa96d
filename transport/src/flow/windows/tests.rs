//! The window policy, without a connection.

use super::*;

const MIB: u64 = 1024 * 1024;

fn windows(send: u64, receive: u64) -> Windows {
    Windows { send, receive }
}

/// A fully used path of `megabits` per second and `milliseconds`.
fn path(megabits: u32, milliseconds: u64, loss: f64) -> PathEstimate {
    let round_trip = Duration::from_millis(milliseconds);
    let rate = f64::from(megabits) * 125_000.0;
    let in_flight = u64::from(megabits) * 125 * milliseconds;
    PathEstimate {
        round_trip,
        round_trip_min: round_trip,
        datagram: 1452,
        in_flight_max: in_flight * 5 / 4,
        loss,
        rate,
    }
}

#[test]
fn a_long_lossy_path_has_windows_for_a_byte_that_is_lost_three_times() {
    let path = path(500, 200, 0.02);
    let window = send(&path, 1, Side::Client);
    assert!(window as f64 >= 4.0 * 12.5e6, "{window}");
    assert!(window <= SEND_WINDOW_MAX);
    assert!((window / path.datagram) as f64 * path.loss < 1024.0);
    assert!(reordered_max(Side::Client) as f64 >= 4.0 * 12.5e6);
    assert!(receive(&path, 1, Side::Client) as f64 >= 2.0 * 12.5e6);
    assert!(receive(&path, 64, Side::Client) as f64 >= 2.0 * 12.5e6);
}

#[test]
fn more_loss_makes_the_send_window_smaller() {
    let windows = [0.01, 0.05, 0.1, 0.9].map(|loss| send(&path(900, 200, loss), 1, Side::Client));
    assert!(
        windows.is_sorted_by(|a, b| a > b || *b == SEND_WINDOW),
        "{windows:?}"
    );
    assert_eq!(windows[3], SEND_WINDOW);
}

#[test]
fn a_local_network_has_windows_of_the_size_of_socket_buffers() {
    let path = path(10_000, 1, 0.01);
    assert_eq!(send(&path, 1, Side::Client), SEND_WINDOW);
    assert_eq!(receive(&path, 64, Side::Server), RECEIVE_WINDOW_LOCAL);
}

#[test]
fn a_stream_that_is_not_read_leaves_room_for_the_others() {
    for path in [path(1000, 0, 0.0), path(1, 500, 0.0)] {
        for bodies in 1..=FEW_BODIES {
            for side in [Side::Client, Side::Server] {
                let stream = u64::from(stream_window(side));
                assert!(receive(&path, bodies, side) >= stream + 4 * MIB);
            }
        }
    }
}

#[test]
fn an_idle_connection_takes_nothing_of_the_budget() {
    let path = path(500, 200, 0.02);
    let budget = WindowBudget::new(100 * MIB);
    let mut grant = budget.grant();
    let side = Side::Server;
    let wanted = windows(send(&path, 0, side), receive(&path, 0, side));
    assert_eq!(wanted, minimum(side));
    assert_eq!(grant.fit(wanted, wanted.receive, side), wanted);
    assert_eq!(budget.0.load(Ordering::Relaxed), 100 * MIB);
}

#[test]
fn the_budget_is_never_exceeded_and_comes_back() {
    let budget = WindowBudget::new(10 * MIB);
    let left = || budget.0.load(Ordering::Relaxed);
    let side = Side::Server;
    let Windows {
        send,
        receive: base,
    } = minimum(side);
    let mut first = budget.grant();
    let mut second = budget.grant();
    let fits = first.fit(windows(send + 2 * MIB, base + 4 * MIB), base, side);
    assert_eq!(fits, windows(send + 2 * MIB, base + 4 * MIB));
    assert_eq!(left(), 3 * MIB, "half as much again is read ahead");
    let fits = second.fit(windows(send + MIB, base + 9 * MIB), base, side);
    assert_eq!(fits, windows(send + MIB, base + 3 * MIB / 2));
    assert_eq!(left(), 0);
    drop(first);
    assert_eq!(left(), 7 * MIB);
    let fits = second.fit(windows(send, base + 9 * MIB), base + 3 * MIB / 2, side);
    assert_eq!(fits, windows(send, base + 9 * MIB));
    drop(second);
    assert_eq!(left(), 10 * MIB);
}

#[test]
fn reordered_bytes_are_bounded_and_count_against_the_budget() {
    let budget = WindowBudget::new(100 * MIB);
    let left = || budget.0.load(Ordering::Relaxed);
    for side in [Side::Client, Side::Server] {
        let mut grant = budget.grant();
        assert!(grant.reserve_reordered(5 * MIB / 2, side));
        assert_eq!(left(), 97 * MIB);
        assert!(grant.reserve_reordered(reordered_max(side) - 1, side));
        assert!(!grant.reserve_reordered(reordered_max(side), side));
        assert!(grant.reserve_reordered(0, side));
        assert_eq!(left(), 100 * MIB);
    }
    let mut first = budget.grant();
    first.reserve_reordered(60 * MIB, Side::Client);
    let mut second = budget.grant();
    assert!(
        !second.reserve_reordered(60 * MIB, Side::Client),
        "the budget is used up"
    );
    assert!(
        second.reserve_reordered(0, Side::Client),
        "one read is always allowed"
    );
}

#[test]
fn credit_that_the_peer_still_has_is_not_given_to_others() {
    let budget = WindowBudget::new(10 * MIB);
    let left = || budget.0.load(Ordering::Relaxed);
    let Windows {
        send,
        receive: base,
    } = minimum(Side::Server);
    let mut grant = budget.grant();
    let mut window = ReceiveWindow::new(base);
    let mut want = |window: &mut ReceiveWindow, bytes| {
        let fits = grant.fit(windows(send, bytes), window.granted(), Side::Server);
        window.want(fits.receive);
    };
    want(&mut window, base + 8 * MIB);
    assert_eq!(left(), 2 * MIB);
    want(&mut window, base);
    assert_eq!((window.wanted(), left()), (base, 2 * MIB));
    window.read(5 * MIB);
    want(&mut window, base);
    assert_eq!(left(), 7 * MIB);
    window.read(5 * MIB);
    want(&mut window, base);
    assert_eq!(left(), 10 * MIB);
}

#[test]
fn a_thousand_connections_without_budget_take_little() {
    let minimum = minimum(Side::Server);
    assert!(1024 * (minimum.send + minimum.receive) <= 192 * MIB);
    let mut grant = WindowBudget::new(0).grant();
    let wanted = windows(SEND_WINDOW, 24 * MIB);
    assert_eq!(grant.fit(wanted, minimum.receive, Side::Server), minimum);
}

#[test]
fn a_rise_of_loss_counts_at_once_and_decays_slowly() {
    let mut losses = LossEstimate::default();
    assert!(losses.share() >= LOSS_UNKNOWN);
    losses.update(10_000, 0);
    assert!(losses.share() <= LOSS_MIN);
    losses.update(20_000, 3_000);
    assert!(losses.share() >= 0.3);
    losses.update(20_100, 3_000);
    losses.update(30_000, 3_000);
    assert!(losses.share() > 0.2);
    for packets in 1..50 {
        losses.update(30_000 + packets * 10_000, 3_000);
    }
    assert!(losses.share() <= LOSS_MIN);
}

#[test]
fn the_rate_is_the_largest_of_the_last_round_trips() {
    let start = Instant::now();
    let trip = Duration::from_millis(100);
    let mut rate = RateEstimate::new(start);
    rate.add(1_000_000);
    rate.update(start + trip / 2, trip);
    assert_eq!(rate.largest(), 0.0, "no round trip has passed");
    rate.update(start + trip, trip);
    assert!((rate.largest() - 1e7).abs() < 1.0);
    for round in 2..20 {
        rate.add(1000);
        rate.update(start + trip * round, trip);
    }
    assert!((rate.largest() - 1e4).abs() < 1.0);
}

#[test]
fn a_window_that_changes_often_never_extends_more_credit_than_its_largest() {
    let small = 8 * MIB;
    let large = 40 * MIB;
    let mut window = ReceiveWindow::new(small);
    // The total credit of the peer and what quinn withholds, as `set_receive_window` computes it.
    let mut granted = small;
    let mut debt = 0;
    let mut told = small;
    let mut read = 0;
    for round in 0..1000 {
        let wanted = if round % 2 == 0 { large } else { small };
        if let Some(new) = window.want(wanted) {
            if new > told {
                granted += new - told;
            } else {
                debt += told - new;
            }
            told = new;
        }
        assert!(granted - read <= large, "round {round}");
        if round % 2 == 0 {
            assert!(granted - read >= large - MIB, "round {round}");
        }
        window.read(MIB);
        read += MIB;
        granted += MIB - debt.min(MIB);
        debt -= debt.min(MIB);
    }
}

#[test]
fn small_changes_are_not_announced() {
    assert_eq!(hysteresis(32 * MIB, 30 * MIB), 32 * MIB);
    assert_eq!(hysteresis(32 * MIB, 33 * MIB), 32 * MIB);
    assert_eq!(hysteresis(32 * MIB, 40 * MIB), 40 * MIB);
    assert_eq!(hysteresis(32 * MIB, 20 * MIB), 20 * MIB);
}
