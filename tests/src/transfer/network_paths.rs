//! Network paths that lose, repeat, reorder and delay datagrams, or change: data arrives whole, or an
//! error comes in time.

use std::collections::BTreeSet;
use std::path;
use std::time::{Duration, Instant};

use quire_client::transfer::Transfer;
use quire_client::{Client, ClientError};
use quire_shared::path::RESERVED_PREFIX;
use tokio::task::JoinSet;

use crate::tree::FailedEntry;
use crate::tree::get_trees::fetch_tree;
use crate::tree::put_trees::{described, store_tree};
use quire_test_harness::arena::say;
use quire_test_harness::client::{fetch, list_names, store};
use quire_test_harness::content::Random;
use quire_test_harness::relay::{BurstLosses, NetworkPath, Outages, Relay};
use quire_test_harness::{KIB, TestServer, Tree, assert_same, content, within};

async fn connect(server: &TestServer, relay: &Relay) -> Result<Client, ClientError> {
    let connector = server.connector(relay.address(), &server.keys().writer);
    connector.connect().await
}

/// The operations over a path.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Get,
    Put,
    GetTree,
    PutTree,
    List,
}

const OPERATIONS: [Operation; 5] = [
    Operation::Get,
    Operation::Put,
    Operation::GetTree,
    Operation::PutTree,
    Operation::List,
];

/// The files on both sides before an operation.
struct Sides {
    server: TestServer,
    tree: Tree,
    local: Tree,
    content: Vec<u8>,
}

impl Sides {
    /// Contents of `bytes` in one file or several, and at most as many names.
    async fn start(bytes: usize, seed: u64) -> Self {
        let content = content(seed, bytes);
        let tree = Tree::new().file("down", &content).directory("many");
        let local = Tree::new();
        for (number, piece) in content.chunks(content.len().div_ceil(FILES)).enumerate() {
            tree.write(&format!("d/{}/{number}", number % 3), piece);
            local.write(&format!("d/{}/{number}", number % 3), piece);
        }
        for number in 0..NAMES_MAX.min(bytes / BYTES_PER_NAME) {
            tree.write(&format!("many/{number:08}"), "");
        }
        let server = TestServer::start(&tree).await;
        Self {
            server,
            tree,
            local,
            content,
        }
    }

    /// Runs `operation`; returns its error, if any. What arrived is checked either way.
    async fn perform(&self, operation: Operation, client: &Client) -> Result<(), String> {
        let shown = |error: ClientError| error.to_string();
        match operation {
            Operation::Get => {
                let fetched = fetch(client, "down").await.map_err(shown)?;
                assert_same(fetched, &self.content);
            }
            Operation::Put => {
                let stored = within("a put", store(client, "up", &self.content)).await;
                if stored.is_ok() || self.tree.has("up") {
                    assert_same(self.tree.read("up"), &self.content);
                }
                stored.map_err(shown)?;
            }
            Operation::GetTree => {
                let (from, to) = (self.tree.path("d"), self.local.path("fetched"));
                let (transfer, failed) = fetch_tree(client, "d", &to).await;
                return same_trees(&from, &to, &transfer, &failed);
            }
            Operation::PutTree => {
                let (from, to) = (self.local.path("d"), self.tree.path("stored"));
                let (transfer, failed) = store_tree(client, &from, "stored", false).await;
                return same_trees(&from, &to, &transfer, &failed);
            }
            Operation::List => {
                let listed = within("a list", list_names(client, "many")).await;
                assert_eq!(listed.map_err(shown)?, self.tree.names("many"));
            }
        }
        Ok(())
    }
}

/// Checks that each file in `to` equals that in `from`, and that all exist unless some failed.
fn same_trees(
    from: &path::Path,
    to: &path::Path,
    transfer: &Transfer,
    failed: &[FailedEntry],
) -> Result<(), String> {
    let contents = |at: &path::Path| -> BTreeSet<_> {
        let found = if at.exists() {
            described(at)
        } else {
            Vec::new()
        };
        let contents = found.into_iter().map(|(path, .., content)| (path, content));
        // Files that the server hasn't removed yet.
        contents
            .filter(|(path, _)| !path.contains(RESERVED_PREFIX))
            .collect()
    };
    let (expected, arrived) = (contents(from), contents(to));
    let wrong: Vec<_> = arrived
        .difference(&expected)
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?} are not as they were");
    if transfer.failed() > 0 {
        return Err(format!("{} failed: {failed:?}", transfer.failed()));
    }
    assert_eq!(arrived.len(), expected.len());
    Ok(())
}

/// Runs `operation` over `path`, prints its duration, and returns its error.
async fn goes_over(
    path: NetworkPath,
    operation: Operation,
    bytes: usize,
    seed: u64,
) -> Result<(), String> {
    let sides = Sides::start(bytes, seed).await;
    // A handshake has a limit of its own, which it may exceed where many datagrams are lost.
    let relay = Relay::start(sides.server.address(), NetworkPath::GOOD, seed).await;
    let client = connect(&sides.server, &relay).await.unwrap();
    // An address may change once the handshake is confirmed on both ends (RFC 9000, §9).
    client.ping().await.unwrap();
    relay.set(path);
    let start = Instant::now();
    let ended = sides.perform(operation, &client).await;
    let took = start.elapsed();
    say(&format!(
        "{operation:?} of {bytes} bytes, {path:?}: {took:.1?}, {ended:?}"
    ));
    let ends_for_good = path.ends_after < usize::MAX && path.silent_for == usize::MAX;
    if !ends_for_good {
        relay.set(NetworkPath::GOOD);
    }
    client.close().await;
    sides.server.stop().await;
    ended
}

/// Runs each operation over each of `paths`, all at once; returns how many arrived whole, and the errors
/// of the others.
async fn all_over(paths: Vec<(NetworkPath, usize)>) -> (usize, Vec<String>) {
    let mut running = JoinSet::new();
    for (number, (path, bytes)) in paths.into_iter().enumerate() {
        for operation in OPERATIONS {
            running.spawn(goes_over(path, operation, bytes, number as u64));
        }
    }
    let ended = running.join_all().await;
    let whole = ended.iter().filter(|ended| ended.is_ok()).count();
    (whole, ended.into_iter().filter_map(Result::err).collect())
}

/// A path with Ethernet's MTU that loses `lost` of a hundred datagrams.
const fn lossy(lost: usize) -> NetworkPath {
    NetworkPath {
        lost,
        size_max: 1472,
        ..NetworkPath::GOOD
    }
}

/// A path that repeats, delays and reorders many datagrams.
const fn mixed_up(lost: usize) -> NetworkPath {
    NetworkPath {
        repeated: 10,
        held_up: 30,
        ..lossy(lost)
    }
}

/// A path that passes only the smallest MTU that QUIC requires.
const fn narrow(lost: usize) -> NetworkPath {
    NetworkPath {
        size_max: 1200,
        ..lossy(lost)
    }
}

/// A path that changes the client's address repeatedly, with as few datagrams as loopback needs: with
/// Ethernet's MTU changes come within milliseconds, and some downloads are lost.
const fn restless(lost: usize) -> NetworkPath {
    NetworkPath {
        lost,
        rebinds_every: 20,
        ..NetworkPath::GOOD
    }
}

/// A path that ends in the middle of an operation.
const fn ending(lost: usize) -> NetworkPath {
    NetworkPath {
        ends_after: 20,
        ..narrow(lost)
    }
}

/// A path that falls silent in both directions, until enough datagrams were lost that a sender that
/// doubles its intervals would wait for minutes.
const fn silent(lost: usize) -> NetworkPath {
    NetworkPath {
        ends_after: 12,
        silent_for: 40,
        delay: Duration::from_millis(5),
        ..lossy(lost)
    }
}

/// A path that loses datagrams in long bursts, which only other datagrams end.
const fn bursts() -> NetworkPath {
    NetworkPath {
        bursts: Some(BurstLosses {
            lost: 2,
            length: 20,
        }),
        delay: Duration::from_millis(10),
        ..lossy(0)
    }
}

/// A path with bursts of losses, outages and jitter at random.
fn capricious(random: &mut Random) -> NetworkPath {
    let millis = |most, random: &mut Random| Duration::from_millis(random.below(most) as u64);
    NetworkPath {
        bursts: Some(BurstLosses {
            lost: 1 + random.below(3),
            length: 1 + random.below(40),
        }),
        delay: millis(50, random),
        jitter: millis(30, random),
        outages: Some(Outages {
            every: Duration::from_secs(4) + millis(6000, random),
            lasts: millis(4000, random),
        }),
        ..lossy(0)
    }
}

/// Amount of data for a path that loses this many of a hundred datagrams.
const fn size_for(lost: usize) -> usize {
    if lost < 30 { 512 * KIB } else { 64 * KIB }
}

#[tokio::test]
async fn what_goes_over_a_bad_path_arrives_whole() {
    let lost = [0, 1, 5, 10, 30].map(mixed_up);
    let paths = lost.into_iter().chain([narrow(0), restless(0)]);
    let paths = paths.map(|path| (path, size_for(path.lost)));
    let (_, errors) = all_over(paths.collect()).await;
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test]
#[ignore = "minutes"]
async fn what_goes_over_any_bad_path_arrives_whole() {
    for path in [lossy, mixed_up, narrow, restless] {
        let paths = [0, 1, 5, 10, 30].map(|lost| (path(lost), 4 * size_for(lost)));
        let (whole, errors) = all_over(paths.to_vec()).await;
        say(&format!(
            "{whole} whole, {} errors: {errors:?}",
            errors.len()
        ));
        // At nearly a third of loss, limits for slow clients may be exceeded.
        assert!(whole >= 20, "{errors:?}");
    }
}

#[tokio::test]
#[ignore = "30 s"]
async fn a_path_that_ends_is_an_error_at_the_idle_timeout() {
    let paths = [0, 1, 5, 10, 30].map(|lost| (ending(lost), size_for(lost)));
    let (whole, errors) = all_over(paths.to_vec()).await;
    // Nothing arrives any more, and nothing waits for it forever.
    assert_eq!((whole, errors.len()), (0, 25), "{errors:?}");
}

#[tokio::test]
async fn what_goes_over_a_path_that_falls_silent_arrives_once_it_passes_again() {
    let paths = [0, 5].map(|lost| (silent(lost), size_for(lost)));
    let (_, errors) = all_over(paths.to_vec()).await;
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test]
async fn what_goes_over_a_path_with_bursts_of_losses_arrives_whole() {
    let paths = (0..3).map(|_| (bursts(), 4 * size_for(0)));
    let (_, errors) = all_over(paths.collect()).await;
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test]
#[ignore = "many minutes"]
async fn a_hundred_paths_with_bursts_outages_and_jitter_carry_everything() {
    let mut random = Random::new(SEED_OF_PATHS);
    let mut errors = Vec::new();
    for _ in 0..TRIALS / TRIALS_AT_ONCE {
        let paths = (0..TRIALS_AT_ONCE).map(|_| (capricious(&mut random), 4 * size_for(0)));
        errors.extend(all_over(paths.collect()).await.1);
        say(&format!("{} errors so far", errors.len()));
    }
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test]
async fn a_client_whose_address_changes_goes_on() {
    let bytes = content(1, 4096 * KIB);
    let tree = Tree::new().file("f", &bytes);
    let server = TestServer::start(&tree).await;
    let relay = Relay::start(server.address(), NetworkPath::GOOD, 1).await;
    let client = connect(&server, &relay).await.unwrap();
    // An address may change once the handshake is confirmed on both ends (RFC 9000, §9).
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

/// Files that a content is divided into where it is a tree.
const FILES: usize = 9;

/// About as many bytes as an entry of a list takes.
const BYTES_PER_NAME: usize = 64;

/// Names whose listing takes many datagrams.
const NAMES_MAX: usize = 2000;

/// Random paths, of which so many are tried at once.
const TRIALS: usize = 100;
const TRIALS_AT_ONCE: usize = 10;

/// Seed of the random paths.
const SEED_OF_PATHS: u64 = 14;
