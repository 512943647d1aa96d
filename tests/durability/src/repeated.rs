//! Changes of the program whose server is killed at each step of them, and started again.
//!
//! The program asks again, and each change is made once. The steps are system calls: the sync of what
//! the server notes before the change, the change, and the sync of what has changed.

use std::process::{Output, Stdio};

use crate::strace::{Call, Strace};
use quire_shared::protocol::{ChangeId, MakeDirectory, Rename};
use quire_test_harness::client::{make_directory, rename};
use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::{Tree, within};

fn tree() -> Tree {
    Tree::new().file("a", "content").file("d/f", "content")
}

/// Has the server make a change with an identifier, so that its file of records is there.
async fn prepare(programs: &Programs, server: &ServerProcess) {
    let client = programs.client(server).await;
    let make = MakeDirectory {
        change_id: Some(ChangeId::new([1; ChangeId::BYTES])),
        ..make_directory("m")
    };
    client.make_directory(make).await.unwrap();
    client.close().await;
}

/// Runs the program with these arguments, where HOST stands for the server, which is killed in its
/// first call of this name. `None` where that can't be done.
async fn killed_in(
    programs: &Programs,
    tree: &Tree,
    arguments: &[&str],
    call: &str,
) -> Option<Output> {
    let server = programs.serve(&tree.root());
    let (port, host) = (server.port(), server.host());
    prepare(programs, &server).await;
    let options = ["-e".to_owned(), format!("inject={call}:signal=KILL:when=1")];
    let trace = programs.state.path().join("trace");
    let strace = Strace::attach(&server, &options, &trace)?;
    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| argument.replace("HOST", &host))
        .collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut client = programs.command(&arguments);
    client.stdout(Stdio::piped()).stderr(Stdio::piped());
    let client = client.spawn().unwrap();
    let (status, _) = server.end().await;
    assert_eq!(status, None, "{arguments:?} calls no {call}");
    drop(strace);
    let again = programs.serve_at(port, &tree.root());
    let ended = tokio::task::spawn_blocking(|| client.wait_with_output().unwrap());
    let output = within("the end of the program", ended).await.unwrap();
    drop(again);
    Some(output)
}

#[tokio::test]
async fn a_change_is_made_once_wherever_its_server_is_killed() {
    let Some(programs) = Programs::find() else {
        return;
    };
    // The arguments, the call that makes the change, and what is there afterwards.
    let changes: [(&[&str], &str, &[&str]); 4] = [
        (
            &["rename", "HOST/a", "HOST/new"],
            "renameat2",
            &["d", "m", "new"],
        ),
        (&["delete", "HOST/a"], "unlinkat", &["d", "m"]),
        (&["mkdir", "HOST/new"], "mkdirat", &["a", "d", "m", "new"]),
        (
            &["copy", "-r", "HOST/d", "HOST/new"],
            "renameat2",
            &["a", "d", "m", "new"],
        ),
    ];
    for (arguments, change, expected) in changes {
        for call in ["fdatasync", change, "fsync"] {
            let tree = tree();
            let Some(output) = killed_in(&programs, &tree, arguments, call).await else {
                return;
            };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{arguments:?}, {call}: {said}");
            assert!(said.contains("connected again"), "{said}");
            let mut names = tree.names("");
            names.retain(|name| !name.starts_with('.'));
            assert_eq!(names, expected, "{arguments:?}, {call}");
        }
    }
}

#[tokio::test]
async fn what_is_noted_before_a_change_is_durable_before_it() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = tree();
    let server = programs.serve(&tree.root());
    prepare(&programs, &server).await;
    let client = programs.client(&server).await;
    client.ping().await.unwrap();
    let options = ["-e".to_owned(), "trace=fdatasync,renameat2".to_owned()];
    let options = [&options[..], &["-s".to_owned(), "4096".to_owned()]].concat();
    let trace = programs.state.path().join("trace");
    let Some(strace) = Strace::attach(&server, &options, &trace) else {
        return;
    };
    let rename = Rename {
        change_id: Some(ChangeId::new([2; ChangeId::BYTES])),
        ..rename("a", "new")
    };
    client.rename(rename).await.unwrap();
    let calls = strace.detach();
    client.close().await;
    let first = |name: &str, about: &str| {
        let is_it = |call: &Call| call.name == name && call.rest.contains(about);
        calls.iter().position(is_it).expect(name)
    };
    assert!(first("fdatasync", "/changes") < first("renameat2", "new"));
}
