//! `--links=follow`: what links lead to is sent, and no walk goes round for ever.

use std::fs;

use quire_client::transfer::GiveUp;
use quire_client::transfer::LinkPolicy;
use quire_client::transfer::sync::{SyncJob, SyncOptions, SyncReport, SyncSide};
use quire_test_harness::client::path;
use quire_test_harness::programs::Programs;
use quire_test_harness::{TestServer, Tree};

use super::{LinkNotes, store_links, storing};

fn tree_to_follow() -> Tree {
    let tree = Tree::new()
        .file("t/f", "content")
        .file("t/d/in", "inside")
        .link("t/to-file", "f")
        .link("t/to-directory", "d")
        .link("t/d/round", "..")
        .link("t/nowhere", "missing")
        .link("t/itself", "itself");
    fs::write(tree.outside().join("far"), "far").unwrap();
    let outside = tree.outside().join("far");
    tree.link("t/outside", outside)
}

/// What is stored: files and directories only.
fn check_followed(tree: &Tree, to: &str, failures: &[String]) {
    for (name, content) in [
        ("to-file", "content"),
        ("to-directory/in", "inside"),
        ("d/in", "inside"),
        ("outside", "far"),
    ] {
        let path = tree.path(to).join(name);
        assert!(path.symlink_metadata().unwrap().is_file(), "{name}");
        assert_eq!(fs::read_to_string(path).unwrap(), content);
    }
    for name in ["d/round", "to-directory/round", "nowhere", "itself"] {
        let at = format!("t/{name}");
        assert!(
            failures.iter().any(|failure| failure.contains(&at)),
            "{name}: {failures:?}"
        );
        assert!(tree.path(to).join(name).symlink_metadata().is_err());
    }
    assert_eq!(failures.len(), 4, "{failures:?}");
}

#[tokio::test]
async fn a_put_sends_what_links_lead_to() {
    let source = tree_to_follow();
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let follow = storing(LinkPolicy::Follow);
    let stored = store_links(&client, &source.path("t"), "new", follow).await;
    check_followed(&tree, "new", &stored.failures);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_sync_sends_what_links_lead_to_and_finds_it_again() {
    let source = tree_to_follow();
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for checksum in [false, false, true] {
        let notes = LinkNotes::new();
        let report = SyncReport::new(std::sync::Arc::clone(&notes.transfer), |_| {});
        let job = SyncJob {
            source: SyncSide::Local(source.path("t")),
            target: SyncSide::Server(client.clone(), path("new")),
            options: SyncOptions {
                links: LinkPolicy::Follow,
                checksum,
                ..SyncOptions::default()
            },
        };
        let is_again = tree.path("new").exists();
        job.run(&GiveUp, &report).await;
        assert_eq!(notes.transfer.files(), if is_again { 0 } else { 5 });
        check_followed(&tree, "new", &notes.end().failures);
    }
    client.close().await;
    server.stop().await;
}

#[test]
fn a_server_is_not_asked_to_follow_links() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("d/f", "x");
    let server = programs.serve(&tree.root());
    for command in [
        "get -r --links=follow $HOST/d down",
        "sync --links=follow $HOST/d down",
    ] {
        let ran = programs.shell(&server, &format!("quire {command}"));
        let text = String::from_utf8(ran.stderr).unwrap();
        assert!(text.contains("the server never follows links"), "{text}");
        assert_eq!(ran.status.code(), Some(2), "{command}");
    }
}
