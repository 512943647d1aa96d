//! Special files, and files of another kind than requested: an error at once, and no thread that waits
//! forever.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use quire_client::Client;
use quire_shared::ErrorCode;
use quire_shared::digest::DigestKind;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use quire_test_harness::arena::{say, status};
use quire_test_harness::client::{
    copy, delete, fetch, hash, list, make_directory, refusal, rename, store,
};
use quire_test_harness::programs::Programs;
use quire_test_harness::{Tree, is_superuser, within};

/// Awaits the answer to a request, and records the slowest.
async fn timed<T>(slowest: &mut Duration, answer: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let answer = within("a refusal", answer).await;
    *slowest = start.elapsed().max(*slowest);
    answer
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_holds_no_thread() {
    refusals(100).await;
}

#[tokio::test]
#[ignore = "tens of seconds"]
async fn what_is_no_file_is_refused_a_thousand_times() {
    refusals(1000).await;
}

/// This many rounds of some ten requests about each special file.
async fn refusals(rounds: usize) {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "content").directory("d");
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    let special = make_special(&tree);
    let server = programs.serve(&tree.root());
    let client = programs.client(&server).await;
    let threads = || status(server.pid(), "Threads");
    let before = threads();
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        for name in &special {
            refused(&client, name, &mut slowest).await;
        }
        refused_in_between(&client, &mut slowest).await;
    }
    // A thread stuck in one of some thousand requests would show.
    let after = threads();
    say(&format!(
        "{rounds} rounds about {special:?} and others: the slowest refusal after {slowest:.1?}, \
         {before} threads before, {after} after"
    ));
    assert!(
        after < before + THREADS_MORE,
        "{before} threads, then {after}"
    );
    assert_eq!(tree.read("f"), b"content");
    client.close().await;
}

/// Creates the special files that this user may create, beside the socket; returns all names.
fn make_special(tree: &Tree) -> Vec<&'static str> {
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, tree.path("fifo"), FileType::Fifo, mode, 0).unwrap();
    let mut special = vec!["fifo", "socket"];
    // A terminal of its own, which waits for a line when it is opened and read.
    let terminal = rustix::fs::makedev(5, 0);
    let kind = FileType::CharacterDevice;
    let made = mknodat(CWD, tree.path("tty"), kind, mode, terminal);
    if is_superuser() && made.is_ok() {
        special.push("tty");
    }
    special
}

/// Checks that the server refuses all requests about `name`, and below it.
async fn refused(client: &Client, name: &str, slowest: &mut Duration) {
    let codes = [
        refusal(timed(slowest, fetch(client, name)).await),
        refusal(timed(slowest, client.hash(hash(name, DigestKind::Blake3))).await),
        refusal(timed(slowest, store(client, name, b"x")).await),
        refusal(timed(slowest, client.copy(copy(name, "copied"))).await),
    ];
    assert_eq!(codes, [ErrorCode::SPECIAL_FILE; 4], "{name}");
    let below = format!("{name}/x");
    let make = make_directory(&below);
    for code in [
        refusal(timed(slowest, list(client, name)).await),
        refusal(timed(slowest, fetch(client, &below)).await),
        refusal(timed(slowest, client.make_directory(make)).await),
        refusal(timed(slowest, client.rename(rename("f", &below))).await),
        refusal(timed(slowest, client.delete(delete(&below))).await),
    ] {
        let expected = [ErrorCode::SPECIAL_FILE, ErrorCode::NOT_DIRECTORY];
        assert!(expected.contains(&code), "{name}: {code:?}");
    }
}

/// Checks that the server refuses a file for a directory, and the reverse.
async fn refused_in_between(client: &Client, slowest: &mut Duration) {
    for name in ["f/x", "f/x/y"] {
        let code = refusal(timed(slowest, fetch(client, name)).await);
        assert_eq!(code, ErrorCode::NOT_DIRECTORY);
    }
    let code = refusal(timed(slowest, fetch(client, "d")).await);
    assert_eq!(code, ErrorCode::IS_DIRECTORY);
    let code = refusal(timed(slowest, list(client, "f")).await);
    assert_eq!(code, ErrorCode::NOT_DIRECTORY);
}

/// Threads that are kept for further file work.
const THREADS_MORE: u64 = 20;
