//! Transfers cut at random bytes, a thousand each way, and by killed programs: nothing of them is left
//! after a short time. `cut_puts` and `cut_gets` check the same at every byte of small files.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use quire_client::download::SaveOptions;
use quire_shared::ErrorCode;
use quire_transport::error_code::to_quic;
use rustix::process::Signal;
use tokio::task::JoinSet;

use super::cut_gets::{Cut, answer, breaks_off, fail_to_save};
use super::cut_puts::whole;
use quire_test_harness::client::{get, put};
use quire_test_harness::content::Random;
use quire_test_harness::programs::Programs;
use quire_test_harness::server::STAGING;
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{LARGE, TestServer, Tree, assert_same, content, within};

#[expect(clippy::print_stderr, reason = "these runs are read by people")]
fn report(text: &str) {
    eprintln!("{text}");
}

fn is_staged(tree: &Tree) -> bool {
    tree.has(STAGING) && !tree.names(STAGING).is_empty()
}

/// Waits until nothing is staged in `tree`; returns how long that took.
async fn until_nothing_is_staged(tree: &Tree) -> Duration {
    let start = Instant::now();
    let empty = async {
        while is_staged(tree) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("staged files to vanish", empty).await;
    start.elapsed()
}

/// Returns the longest time that a staged file remained, and how many existed when their upload was cut.
async fn cut_puts(count: usize) -> (Duration, usize) {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let mut random = Random::new(1);
    let body = content(1, 200_000);
    let bytes = whole(put("f", body.len()), &body);
    let header = bytes.len() - body.len();
    let (mut slowest, mut staged) = (Duration::ZERO, 0);
    for number in 0..count {
        let mut raw = Some(server.raw().await);
        let (mut send, mut recv) = raw.as_ref().unwrap().open().await;
        let cut = random.below(bytes.len());
        send.write_all(&bytes[..cut]).await.unwrap();
        // The others are cut wherever the server happens to be.
        if number % 8 < 4 && cut > header {
            within("a staged file", async {
                while !is_staged(&tree) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        staged += usize::from(is_staged(&tree));
        let start = Instant::now();
        let mut closing = JoinSet::new();
        match number % 4 {
            0 => send.finish().unwrap(),
            1 => send.reset(to_quic(ErrorCode::CANCELLED)).unwrap(),
            2 => {
                recv.stop(to_quic(ErrorCode::CANCELLED)).unwrap();
                // As when a client's task is dropped.
                drop(send);
            }
            _ => drop(closing.spawn(raw.take().unwrap().close())),
        }
        until_nothing_is_staged(&tree).await;
        slowest = slowest.max(start.elapsed());
        closing.join_all().await;
        if let Some(raw) = raw {
            raw.close().await;
        }
        // Uploads that the server started only now are gone as well.
        until_nothing_is_staged(&tree).await;
        assert_same(tree.read("f"), "old");
    }
    server.stop().await;
    (slowest, staged)
}

async fn cut_gets(count: usize) {
    let mut random = Random::new(2);
    let bytes = answer(&content(1, 200_000));
    for number in 0..count {
        let part = &bytes[..random.below(bytes.len())];
        let cut = match number % 3 {
            0 => Cut::End,
            1 => Cut::Reset(ErrorCode::DISK),
            _ => Cut::Close(0),
        };
        let fake = breaks_off(part, cut);
        let client = fake.client().await;
        fail_to_save(&client).await;
        client.close().await;
        fake.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_cut_at_random_bytes_publish_nothing() {
    cut_puts(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_cut_at_random_bytes_leave_nothing() {
    cut_gets(100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_thousand_cuts_each_way_leave_nothing() {
    let (slowest, staged) = cut_puts(1000).await;
    cut_gets(1000).await;
    report(&format!(
        "1000 cuts each way; of {staged} staged files the last was gone {slowest:?} after its cut"
    ));
    assert!(
        staged >= 400,
        "only {staged} were staged when they were cut"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for the idle limit"]
async fn uploads_whose_client_was_killed_are_gone_after_the_idle_limit() {
    const CLIENTS: usize = 100;
    let Some(programs) = Programs::find() else {
        return;
    };
    let (tree, local) = (Tree::new(), scratch());
    let file = local.path().join("file");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    // The connections of killed clients count until the idle limit.
    let server = programs.serve_with(&tree.root(), &["--connections-per-address", "128"]);
    let file = file.to_str().unwrap();
    for number in 0..CLIENTS {
        let before = if tree.has(STAGING) {
            tree.names(STAGING).len()
        } else {
            0
        };
        let target = format!("{}/f{number}", server.host());
        let mut client = programs.begin(&["put", file, &target]);
        let staged = async {
            while !tree.has(STAGING) || tree.names(STAGING).len() <= before {
                tokio::task::yield_now().await;
            }
        };
        within("a staged file", staged).await;
        client.kill().unwrap();
        client.wait().unwrap();
    }
    let gone = tokio::time::timeout(IDLE_LIMIT, until_nothing_is_staged(&tree)).await;
    let took = gone.expect("staged files stay after the idle limit");
    report(&format!(
        "{CLIENTS} killed clients; their staged files were gone after {took:?}"
    ));
    let published = tree.names("").into_iter().filter(|name| name != STAGING);
    assert_eq!(published.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for the idle limit"]
async fn downloads_whose_server_was_killed_leave_nothing() {
    const DOWNLOADS: usize = 100;
    let Some(programs) = Programs::find() else {
        return;
    };
    let (tree, local) = (Tree::new().file("f", content(1, LARGE)), scratch());
    let server = programs.serve(&tree.root());
    let mut running = JoinSet::new();
    for number in 0..DOWNLOADS {
        let client = programs.client(&server).await;
        let download = client.get(get("f")).await.unwrap();
        let target = local.path().join(number.to_string());
        running.spawn(async move {
            let moved = AtomicU64::new(0);
            download
                .save(&target, SaveOptions::default(), &moved)
                .await
                .is_err()
        });
    }
    server.signal(Signal::KILL);
    server.end().await;
    let failed = within("the ends of the downloads", running.join_all()).await;
    let failed = failed.into_iter().filter(|failed| *failed).count();
    let left = names(local.path());
    report(&format!(
        "{failed} of {DOWNLOADS} downloads were in progress when the server was killed"
    ));
    assert!(failed > 0, "all were complete before the kill");
    assert_eq!(left.len(), DOWNLOADS - failed, "{left:?}");
}

/// A silent connection ends after half a minute; the rest is for a busy machine.
const IDLE_LIMIT: Duration = Duration::from_secs(35);
