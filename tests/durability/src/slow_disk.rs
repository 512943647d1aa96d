//! What `-v` names as the limit of a transfer with a disk that is slow at one thing: strace delays the
//! server's calls.

use std::time::Duration;

use quire_test_harness::programs::Programs;
use quire_test_harness::{KIB, Tree, content};

use crate::strace::Strace;

/// Returns what limited a transfer with a server whose `calls` take so much longer.
fn limit(programs: &Programs, calls: &str, delay: Duration, is_get: bool) -> Option<String> {
    let tree = Tree::new().file("f", content(1, 8 * 1024 * KIB));
    let server = programs.serve(&tree.root());
    let (local, remote) = (tree.root().join("f"), format!("{}/f", server.host()));
    let options = [
        "-e".to_owned(),
        format!("trace={calls}"),
        "-e".to_owned(),
        format!("inject={calls}:delay_enter={}", delay.as_micros()),
    ];
    let output = programs.state.path().join("trace");
    let strace = Strace::attach(&server, &options, &output)?;
    let limit = match is_get {
        true => programs.limit(&["get", &remote, "got"]),
        false => programs.limit(&["put", local.to_str().unwrap(), &format!("{remote}2")]),
    };
    drop(strace);
    Some(limit)
}

#[test]
fn the_limit_is_what_the_disk_is_slow_at() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let piece = Duration::from_millis(60);
    for (calls, delay, is_get, expected) in [
        ("pread64,preadv,read", piece, true, "the disk of the sender"),
        (
            "pwrite64,pwritev,writev",
            piece,
            false,
            "the disk of the receiver",
        ),
        (
            "fsync,fdatasync",
            Duration::from_secs(2),
            false,
            "the syncs to the disk of the receiver",
        ),
    ] {
        let Some(limit) = limit(&programs, calls, delay, is_get) else {
            return;
        };
        assert!(
            limit.starts_with(&format!("{expected}: ")),
            "{calls}: {limit}"
        );
    }
}
