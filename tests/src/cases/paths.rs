//! Paths that lose, repeat, reorder and hold up what is sent, or change: what arrives is whole, or
//! there is an error in good time.

use std::time::{Duration, Instant};

use quire_client::{Client, ClientError};

use crate::harness::arena::say;
use crate::harness::client::{fetch, list_names, store};
use crate::harness::relay::{Path, Relay};
use crate::harness::{KIB, TestServer, Tree, assert_same, content, within};

async fn connect(server: &TestServer, relay: &Relay) -> Result<Client, ClientError> {
    let connector = server.connector(relay.address(), &server.keys().writer);
    connector.connect().await
}

/// Moves `bytes` each way over `path`, and says how long that took.
async fn moves(path: Path, bytes: usize, seed: u64) {
    let (down, up) = (content(seed, bytes), content(seed + 1, bytes));
    let tree = Tree::new().file("down", &down);
    let server = TestServer::start(&tree).await;
    // A handshake has a limit of its own, which it may well meet where much of it is lost.
    let relay = Relay::start(server.address(), Path::GOOD, seed).await;
    let client = connect(&server, &relay).await.unwrap();
    relay.set(path);
    let start = Instant::now();
    assert_same(fetch(&client, "down").await.unwrap(), &down);
    within("a put", store(&client, "up", &up)).await.unwrap();
    assert_same(tree.read("up"), &up);
    assert_eq!(list_names(&client, "").await.unwrap(), ["down", "up"]);
    say(&format!(
        "{path:?}: {bytes} bytes each way in {:?}",
        start.elapsed()
    ));
    relay.set(Path::GOOD);
    client.close().await;
    server.stop().await;
}

const fn lossy(lost: usize) -> Path {
    Path {
        lost,
        repeated: 2,
        held_up: 5,
        ..Path::GOOD
    }
}

#[tokio::test]
async fn what_goes_over_a_bad_path_arrives_whole() {
    for lost in [0, 1, 5, 10] {
        moves(lossy(lost), 512 * KIB, lost as u64).await;
    }
    moves(lossy(30), 64 * KIB, 30).await;
}

#[tokio::test]
async fn a_path_for_the_smallest_datagrams_only_carries_everything() {
    let path = Path {
        size_max: 1200,
        ..Path::GOOD
    };
    moves(path, 2048 * KIB, 1).await;
}

#[tokio::test]
#[ignore = "minutes"]
async fn what_goes_over_any_bad_path_arrives_whole() {
    for lost in [0, 1, 5, 10, 30] {
        for repeated in [0, 10] {
            for held_up in [0, 10, 30] {
                for size_max in [1200, 65_535] {
                    let path = Path {
                        lost,
                        repeated,
                        held_up,
                        size_max,
                    };
                    for seed in 0..3 {
                        moves(path, if lost < 30 { 1024 * KIB } else { 128 * KIB }, seed).await;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_whose_address_changes_goes_on() {
    let bytes = content(1, 4096 * KIB);
    let tree = Tree::new().file("f", &bytes);
    let server = TestServer::start(&tree).await;
    let relay = Relay::start(server.address(), Path::GOOD, 1).await;
    let client = connect(&server, &relay).await.unwrap();
    // An address may change once the handshake is over on both ends (RFC 9000, §9).
    client.ping().await.unwrap();
    for _ in 0..5 {
        relay.rebind();
        assert_same(fetch(&client, "f").await.unwrap(), &bytes);
        relay.rebind();
        store(&client, "g", &bytes).await.unwrap();
        let (fetched, ()) = tokio::join!(fetch(&client, "f"), async { relay.rebind() });
        assert_same(fetched.unwrap(), &bytes);
    }
    assert_same(tree.read("g"), &bytes);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
#[ignore = "30 s"]
async fn a_path_that_ends_is_an_error_at_the_idle_timeout() {
    let tree = Tree::new().file("f", content(1, 64 * KIB * KIB));
    let server = TestServer::start(&tree).await;
    let relay = Relay::start(server.address(), Path::GOOD, 1).await;
    let client = connect(&server, &relay).await.unwrap();
    let nothing = Path {
        lost: 100,
        ..Path::GOOD
    };
    let start = Instant::now();
    let fetching = fetch(&client, "f");
    let (fetched, ()) = tokio::join!(fetching, async { relay.set(nothing) });
    let error = fetched.expect_err("nothing arrives any more");
    let took = start.elapsed();
    say(&format!("an error after {took:?}: {error}"));
    assert!(took < Duration::from_secs(40), "{took:?}");
    client.close().await;
    server.stop().await;
}
