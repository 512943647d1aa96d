//! What `-v` names as the limit of a transfer, over paths that do one thing to datagrams each.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::relay::{NetworkPath, Relay};
use quire_test_harness::{KIB, Tree, content};

/// A path with the MTU of Ethernet and a round trip of 20 ms, whose rate limits a transfer if nothing
/// else does.
const PLAIN: NetworkPath = NetworkPath {
    rate: Some(2_000_000),
    delay: Duration::from_millis(10),
    size_max: 1472,
    ..NetworkPath::GOOD
};

const LOSSES: &str = "the packets that the path loses";
const REORDERING: &str = "the path, which reorders packets";

/// Asserts what limits a `get` and a `put` over `path`, where something is expected: the other direction
/// is left alone, and a busy machine may add jitter or fill the queue there.
async fn assert_limits(
    programs: &Arc<Programs>,
    server: &ServerProcess,
    path: NetworkPath,
    expected: [Option<&str>; 2],
) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let relay = Relay::start(address, path, 7).await;
    let remote = format!("127.0.0.1:{}/f", relay.address().port());
    let programs = Arc::clone(programs);
    // In processes of their own, because some figures are those of the whole process.
    let ran = tokio::task::spawn_blocking(move || {
        [["get", &remote, "got"], ["put", "got", &remote]].map(|command| programs.limit(&command))
    });
    let limits = ran.await.unwrap();
    for (limit, expected) in limits.iter().zip(expected) {
        let named = limit.split_once(": ").unwrap().0;
        let is_expected = expected.is_none_or(|expected| named == expected);
        assert!(is_expected, "{limits:?}, {path:?}");
    }
}

#[tokio::test]
async fn the_limit_is_what_the_path_does_to_packets() {
    let Some(programs) = Programs::find().map(Arc::new) else {
        return;
    };
    let tree = Tree::new().file("f", content(1, 4 * 1024 * KIB));
    let server = programs.serve(&tree.root());
    let there = NetworkPath {
        lost_there: 4,
        ..PLAIN
    };
    let back = NetworkPath {
        lost_back: 4,
        ..PLAIN
    };
    let late = NetworkPath {
        held_up: 20,
        ..PLAIN
    };
    let (losses, reordering) = (Some(LOSSES), Some(REORDERING));
    for (path, of_get, of_put) in [
        (there, None, losses),
        (back, losses, None),
        (late, reordering, reordering),
    ] {
        assert_limits(&programs, &server, path, [of_get, of_put]).await;
    }
}
