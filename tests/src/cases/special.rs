//! What isn't a file or directory, or isn't the one that was asked for: an error at once, and no
//! thread that waits for what never comes.

use std::os::unix::net::UnixListener;

use quire_shared::ErrorCode;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::harness::arena::status;
use crate::harness::client::{
    copy, delete, fetch, hash, list, make_directory, refusal, rename, store,
};
use crate::harness::programs::Programs;
use crate::harness::{Tree, is_superuser, within};
use quire_shared::digest::DigestKind;

/// Rounds of eight to ten requests each.
const ROUNDS: usize = 100;

/// Threads for file work that are kept for the next.
const THREADS_MORE: u64 = 20;

#[tokio::test]
async fn what_is_no_file_is_refused_and_holds_no_thread() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "content").directory("d");
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, tree.path("fifo"), FileType::Fifo, mode, 0).unwrap();
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    let mut special = vec!["fifo", "socket"];
    // A terminal of nobody's, which waits for a line when it is opened and read.
    let terminal = rustix::fs::makedev(5, 0);
    let made = mknodat(
        CWD,
        tree.path("tty"),
        FileType::CharacterDevice,
        mode,
        terminal,
    );
    if is_superuser() && made.is_ok() {
        special.push("tty");
    }
    let server = programs.serve(&tree.root());
    let client = programs.client(&server).await;
    let threads = || status(server.pid(), "Threads");
    let before = threads();
    for round in 0..ROUNDS {
        for name in &special {
            let codes = within("refusals", async {
                [
                    refusal(fetch(&client, name).await),
                    refusal(client.hash(hash(name, DigestKind::Blake3)).await),
                    refusal(store(&client, name, b"x").await),
                    refusal(client.copy(copy(name, "copied")).await),
                ]
            });
            assert_eq!(codes.await, [ErrorCode::SPECIAL_FILE; 4], "{name}");
            let below = format!("{name}/x");
            for code in [
                refusal(list(&client, name).await),
                refusal(fetch(&client, &below).await),
                refusal(client.make_directory(make_directory(&below)).await),
                refusal(client.rename(rename("f", &below)).await),
                refusal(client.delete(delete(&below)).await),
            ] {
                let expected = [ErrorCode::SPECIAL_FILE, ErrorCode::NOT_DIRECTORY];
                assert!(
                    expected.contains(&code),
                    "{name}: {code:?} in round {round}"
                );
            }
        }
        for name in ["f/x", "f/x/y"] {
            assert_eq!(
                refusal(fetch(&client, name).await),
                ErrorCode::NOT_DIRECTORY
            );
        }
        assert_eq!(refusal(fetch(&client, "d").await), ErrorCode::IS_DIRECTORY);
        assert_eq!(refusal(list(&client, "f").await), ErrorCode::NOT_DIRECTORY);
    }
    // One that waits in each of a thousand requests would show.
    let after = threads();
    assert!(
        after < before + THREADS_MORE,
        "{before} threads, then {after}"
    );
    assert_eq!(tree.read("f"), b"content");
    client.close().await;
}
