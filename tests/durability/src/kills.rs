//! `kill -9`, and a stop, at any moment of a mixed load: nothing torn, nothing acknowledged lost,
//! nothing left over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::Notify;

use crate::workload::{Found, Plan};
use quire_test_harness::client::{fetch, store};
use quire_test_harness::content::Random;
use quire_test_harness::programs::Programs;
use quire_test_harness::server::STAGING;
use quire_test_harness::{Tree, assert_same, within};

/// Sends the signal to a server under load, `rounds` times; returns the durations of the starts
/// afterwards, sorted.
async fn end(programs: &Programs, rounds: u64, signal: Signal) -> Vec<Duration> {
    let mut starts = Vec::new();
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        let tree = Tree::new();
        let plans: Vec<_> = (0..WORKERS)
            .map(|worker| Arc::new(Plan::random(worker, STEPS, seed)))
            .collect();
        plans.iter().for_each(|plan| plan.lay_out(&tree.root()));
        let acknowledged = work_until(signal, programs, &tree, &plans, &mut random).await;
        let mut found = Found::default();
        for (plan, count) in plans.iter().zip(&acknowledged) {
            plan.check(&tree.root(), *count, &mut found);
        }
        assert!(found.is_nothing(), "round {seed}: {found:?}");
        starts.push(start_again(programs, &tree).await);
    }
    starts.sort();
    starts
}

/// Runs workers until the server gets the signal, after a random number of steps and a random time;
/// returns how many steps each had acknowledged.
async fn work_until(
    signal: Signal,
    programs: &Programs,
    tree: &Tree,
    plans: &[Arc<Plan>],
    random: &mut Random,
) -> Vec<u64> {
    let server = programs.serve(&tree.root());
    let enough = random.below(STEPS * plans.len()) as u64;
    let (all, reached) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let mut running = tokio::task::JoinSet::new();
    let mut counts = Vec::new();
    for plan in plans {
        let plan = Arc::clone(plan);
        let client = programs.client(&server).await;
        let count = Arc::new(AtomicU64::new(0));
        counts.push(Arc::clone(&count));
        let (all, reached) = (Arc::clone(&all), Arc::clone(&reached));
        running.spawn(async move {
            let acknowledged = |done| {
                count.store(done, Ordering::Relaxed);
                if all.fetch_add(1, Ordering::Relaxed) >= enough {
                    reached.notify_one();
                }
            };
            // Fails when the server is gone.
            let _ = plan.carry_out(&client, acknowledged).await;
        });
    }
    within("enough steps", reached.notified()).await;
    // Somewhere within the steps in progress.
    tokio::time::sleep(Duration::from_micros(random.below(LAST_STEP_MICROS) as u64)).await;
    server.signal(signal);
    let ended = tokio::time::timeout(STOP_LIMIT, server.end()).await;
    let (status, _) = ended.expect("the server waits for what never ends");
    if signal == Signal::TERM {
        // Requests in progress were answered or cut off; either way nothing of them is left.
        assert_eq!(status, Some(0));
        assert!(!tree.has(STAGING), "left: {:?}", tree.names(STAGING));
    }
    // The clients would wait for an answer until the connection times out.
    running.shutdown().await;
    counts
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect()
}

/// Starts a server where another was killed, which must leave nothing of it; returns how long it
/// took to listen.
async fn start_again(programs: &Programs, tree: &Tree) -> Duration {
    let start = Instant::now();
    let server = programs.serve(&tree.root());
    let took = start.elapsed();
    assert!(!tree.has(STAGING), "left: {:?}", tree.names(STAGING));
    let client = programs.client(&server).await;
    store(&client, "after", b"the kill").await.unwrap();
    assert_same(fetch(&client, "after").await.unwrap(), b"the kill");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_has_lost_nothing_that_it_acknowledged() {
    if let Some(programs) = Programs::find() {
        end(&programs, 40, Signal::KILL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
#[expect(clippy::print_stderr, reason = "the full runs are read by people")]
async fn a_thousand_kills_lose_nothing() {
    if let Some(programs) = Programs::find() {
        let starts = end(&programs, 1000, Signal::KILL).await;
        let (median, slowest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
        eprintln!("1000 kills; a start after one took {median:?}, the slowest {slowest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stopped_under_load_has_done_what_it_acknowledged_and_nothing_by_halves() {
    if let Some(programs) = Programs::find() {
        end(&programs, 20, Signal::TERM).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn two_hundred_stops_under_load_lose_nothing() {
    if let Some(programs) = Programs::find() {
        end(&programs, 200, Signal::TERM).await;
    }
}

/// Clients at once.
const WORKERS: u64 = 3;

/// A stop lets running requests finish, which doesn't take long here.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Most steps of each before the kill.
const STEPS: usize = 20;

/// About as long as the longest step takes, in microseconds.
const LAST_STEP_MICROS: usize = 20_000;
