//! Limits on one client, and the answers when it exceeds them.

use std::time::{Duration, Instant};

use quinn::{ConnectionError, VarInt};
use quire_client::ClientError;
use quire_server::config::limits::{Limit, Seconds};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Copy, Ping, Pong, Put};
use quire_transport::error_code::to_quic;
use tokio::task::JoinSet;

use quire_test_harness::client::{copy, fetch, get, make_directory, put, refusal, store, store_as};
use quire_test_harness::raw::{encoded, refusal_on};
use quire_test_harness::{Raw, TestServer, Tree, within};

/// The shortest time that a limit can be set to.
const SECOND: Seconds = Seconds(Duration::from_secs(1));

async fn closing_code(raw: &Raw) -> VarInt {
    match within("the end", raw.connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        reason => panic!("{reason}"),
    }
}

#[tokio::test]
async fn a_put_whose_client_stalls_is_cut_off_and_leaves_nothing() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.stall_time = SECOND)
        .start()
        .await;
    let raw = server.raw().await;
    let (mut declared, mut answer) = raw.begin(put("f", 100)).await;
    declared.write_all(b"half of it").await.unwrap();
    let in_pieces = Put {
        size: None,
        ..put("f", 0)
    };
    let (_pieces, mut other) = raw.begin(in_pieces).await;
    assert_eq!(
        within("a reply", refusal_on(&mut answer)).await,
        ErrorCode::TIMEOUT
    );
    assert_eq!(
        within("a reply", refusal_on(&mut other)).await,
        ErrorCode::TIMEOUT
    );
    // The connection itself still works.
    let pong = raw.ask::<Pong>(&encoded(Ping::default())).await;
    pong.into_result().unwrap();
    assert_eq!(tree.read("f"), b"old");
    assert_eq!(server.limits_met(), "stall_time 2");
    let log = server.log().lines();
    let is_told = |line: &&String| {
        line.starts_with("WARN") && line.contains("--stall-time") && line.contains("Put")
    };
    assert_eq!(log.iter().filter(is_told).count(), 2, "{log:?}");
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_get_whose_client_takes_nothing_is_cut_off() {
    // More than any window of a stream.
    let tree = Tree::new().file("f", vec![7; 64 << 20]);
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.stall_time = SECOND)
        .start()
        .await;
    let raw = server.raw().await;
    let (_send, mut recv) = raw.begin(get("f")).await;
    let code = within("a reset", recv.received_reset()).await.unwrap();
    assert_eq!(code, Some(to_quic(ErrorCode::TIMEOUT)));
    assert_eq!(server.limits_met(), "stall_time 1");
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_no_request_asks_for_is_not_kept() {
    let tree = Tree::new().file("f", vec![7; 64 << 20]);
    let server = TestServer::start(&tree).await;
    let raw = Raw::connect(&server, &server.keys().reader).await;
    // The answer isn't read, so the request continues, and the data after it has no reader.
    let (mut send, _recv) = raw.begin(get("f")).await;
    let mut sent = 0;
    within("the end of the window", async {
        while raw.connection.stats().frame_tx.data_blocked == 0 {
            let writing = send.write(&[0; 4096]);
            let blocked = tokio::time::sleep(Duration::from_millis(10));
            tokio::select! {
                written = writing => sent += written.unwrap(),
                () = blocked => {}
            }
        }
    })
    .await;
    assert!(sent <= 256 * 1024, "{sent} bytes");
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_does_not_come_to_its_end_is_cut_off() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.request_time = SECOND)
        .start()
        .await;
    let raw = server.raw().await;
    let (mut send, mut recv) = raw.open().await;
    send.write_all(&[0, 0]).await.unwrap();
    assert_eq!(
        within("a reply", refusal_on(&mut recv)).await,
        ErrorCode::TIMEOUT
    );
    assert_eq!(server.limits_met(), "request_time 1");
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_connection_without_requests_is_closed() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.idle_time = SECOND)
        .start()
        .await;
    let raw = server.raw().await;
    assert_eq!(closing_code(&raw).await, to_quic(ErrorCode::TIMEOUT));
    assert_eq!(server.limits_met(), "idle_time 1");
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_proves_itself_for_the_second_half() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.connections_per_address = 2)
        .start()
        .await;
    let first = server.client().await;
    let second = server.client().await;
    assert_eq!(server.limits_met(), "retries 1");
    fetch(&second, "f").await.unwrap();
    let third = server.connect(&server.keys().writer).await;
    let error = third.expect_err("the address has its connections");
    assert!(
        matches!(error, ClientError::CannotConnect { .. })
            && error
                .to_string()
                .contains("takes no more connections for now"),
        "{error}"
    );
    assert_eq!(server.limits_met(), "connections_per_address 1, retries 2");
    first.close().await;
    // The server needs a moment to see the end of the first one.
    let again = within("room", async {
        loop {
            if let Ok(client) = server.connect(&server.keys().writer).await {
                break client;
            }
        }
    });
    again.await.close().await;
    second.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_keeps_cancelling_requests_is_disconnected() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.abort_rate = Limit(Some(10)))
        .start()
        .await;
    let raw = server.raw().await;
    let reason = within("the end", async {
        loop {
            let (mut send, _recv) = match raw.connection.open_bi().await {
                Ok(stream) => stream,
                Err(reason) => break reason,
            };
            let _ = send.write_all(&[0]).await;
            let _ = send.reset(to_quic(ErrorCode::CANCELLED));
        }
    });
    let ConnectionError::ApplicationClosed(close) = reason.await else {
        panic!("closed otherwise");
    };
    assert_eq!(close.error_code, to_quic(ErrorCode::LIMIT));
    assert_eq!(server.limits_met(), "abort_rate 1");
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn all_requests_may_be_begun_once_the_rights_are_known() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.early_requests = 1)
        .start()
        .await;
    let raw = server.raw().await;
    let mut streams = Vec::new();
    for _ in 0..quire_shared::limits::STREAMS_MAX {
        streams.push(raw.open().await);
    }
    drop(streams);
    raw.close().await;
    server.stop().await;
}

/// Checks that `what` takes at least this long, however fast the machine is.
async fn at_least(least: Duration, what: impl Future<Output = ()>) {
    let start = Instant::now();
    what.await;
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
}

#[tokio::test]
async fn transfers_of_a_key_share_its_rate() {
    let tree = Tree::new().file("f", vec![7; 128 << 10]);
    for is_total in [false, true] {
        let server = TestServer::builder(&tree)
            .limits(|limits| {
                let rate = Limit(Some(128 << 10));
                if is_total {
                    limits.rate = rate;
                } else {
                    limits.rate_per_key = rate;
                }
            })
            .start()
            .await;
        let (one, other) = (server.client().await, server.client().await);
        at_least(Duration::from_millis(1700), async {
            let stored = store(&other, "g", &[8; 128 << 10]);
            let (fetched, stored) = tokio::join!(fetch(&one, "f"), stored);
            assert_eq!(fetched.unwrap().len(), 128 << 10);
            stored.unwrap();
        })
        .await;
        one.close().await;
        other.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn requests_over_their_rate_wait() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.request_rate = Limit(Some(20)))
        .start()
        .await;
    let client = server.client().await;
    at_least(Duration::from_millis(700), async {
        for _ in 0..20 {
            client.ping().await.unwrap();
        }
    })
    .await;
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn of_many_puts_at_once_none_passes_the_quota() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.daily_bytes = Limit(Some(1000)))
        .start()
        .await;
    let (one, other) = (server.client().await, server.client().await);
    let mut puts = JoinSet::new();
    for number in 0..64 {
        let client = if number % 2 == 0 { &one } else { &other };
        let client = client.clone();
        puts.spawn(async move {
            let content = vec![7; 900];
            let put = Put {
                // Half of them don't declare a size.
                size: (number % 4 < 2).then_some(900),
                ..put(&format!("f{number}"), 900)
            };
            store_as(&client, put, &content).await
        });
    }
    let results = puts.join_all().await;
    let (stored, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert!(stored.len() <= 1, "{} were stored", stored.len());
    for result in refused {
        assert_eq!(refusal(result), ErrorCode::QUOTA);
    }
    assert!(
        tree.names("")
            .iter()
            .filter(|name| name.starts_with('f'))
            .count()
            <= 1
    );
    // The reservations of refused puts were returned.
    let rest = 1000 - 900 * stored.len();
    store(&one, "rest", &vec![7; rest]).await.unwrap();
    assert_eq!(refusal(store(&one, "more", b"x").await), ErrorCode::QUOTA);
    one.close().await;
    other.close().await;
    server.stop().await;
}

#[tokio::test]
async fn copies_and_directories_count_as_what_is_stored() {
    let tree = Tree::new().file("d/a", vec![7; 600]).file("d/b", "x");
    let server = TestServer::builder(&tree)
        .limits(|limits| {
            limits.daily_bytes = Limit(Some(1000));
            limits.daily_files = Limit(Some(5));
        })
        .start()
        .await;
    let client = server.client().await;
    let all = |to: &str| Copy {
        recursive: true,
        ..copy("d", to)
    };
    client.copy(all("e")).await.unwrap();
    assert_eq!(refusal(client.copy(all("g")).await), ErrorCode::QUOTA);
    client.make_directory(make_directory("h")).await.unwrap();
    client.copy(copy("d/b", "c")).await.unwrap();
    let more = client.make_directory(make_directory("i")).await;
    assert_eq!(refusal(more), ErrorCode::QUOTA);
    assert!(!tree.has("g") && !tree.has("i"));
    client.close().await;
    server.stop().await;
}
