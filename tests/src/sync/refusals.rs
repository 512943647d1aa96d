//! What a sync refuses, and what it leaves when something fails.

use std::fs;

use quire_client::transfer::sync::{SyncDeletion, SyncOptions};
use quire_server::config::limits::Limit;
use quire_test_harness::tree::scratch;
use quire_test_harness::{TestServer, Tree};

use super::{deleting, local, server, snapshot, succeed, sync};

#[tokio::test]
async fn an_empty_source_deletes_nothing_unless_forced() {
    let tree = Tree::new().file("t/a", "a").file("t/d/b", "b");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    let before = snapshot(&tree.path("t"));
    let refused = sync(local(here.path()), server(&client, "t"), deleting()).await;
    assert_eq!(
        refused.failures,
        ["/t: the source is empty, so that everything at the target would be deleted"]
    );
    assert_eq!(snapshot(&tree.path("t")), before);
    let forced = SyncOptions {
        deletion: Some(SyncDeletion {
            max: None,
            may_empty: true,
        }),
        ..SyncOptions::default()
    };
    let done = succeed(local(here.path()), server(&client, "t"), forced).await;
    assert_eq!(done.lines(), ["deleted a", "deleted d/"]);
    assert_eq!(done.report.deleted(), 3);
    assert_eq!(tree.names("t"), Vec::<String>::new());
    drop((client, refused, done));
    test.stop().await;
}

#[tokio::test]
async fn too_many_deletions_change_nothing_and_renames_are_none() {
    let tree = Tree::new();
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    for name in ["kept", "d/1", "d/2", "e/1", "e/2"] {
        let path = here.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("content of {name}")).unwrap();
    }
    let side = || (local(here.path()), server(&client, "t"));
    let (from, to) = side();
    succeed(from, to, SyncOptions::default()).await;
    let before = snapshot(&tree.path("t"));
    // Two are renamed with their directory, and three go.
    fs::rename(here.path().join("d"), here.path().join("f")).unwrap();
    fs::remove_dir_all(here.path().join("e")).unwrap();
    fs::write(here.path().join("kept"), "changed").unwrap();
    let at_most = |max| SyncOptions {
        deletion: Some(SyncDeletion {
            max: Some(max),
            may_empty: false,
        }),
        ..SyncOptions::default()
    };
    let (from, to) = side();
    let refused = sync(from, to, at_most(2)).await;
    assert_eq!(
        refused.failures,
        ["/t: 3 files and directories would be deleted, more than 2; nothing was changed"]
    );
    assert_eq!(snapshot(&tree.path("t")), before);
    let (from, to) = side();
    succeed(from, to, at_most(3)).await;
    assert_eq!(snapshot(&tree.path("t")), snapshot(here.path()));
    drop((client, refused));
    test.stop().await;
}

#[tokio::test]
async fn a_file_in_the_place_of_a_directory_is_replaced_only_by_a_sync_that_deletes() {
    let tree = Tree::new().file("t/a", "file").file("t/b/in", "below");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    fs::create_dir(here.path().join("a")).unwrap();
    fs::write(here.path().join("a/in"), "below").unwrap();
    fs::write(here.path().join("b"), "file").unwrap();
    let refused = sync(
        local(here.path()),
        server(&client, "t"),
        SyncOptions::default(),
    )
    .await;
    let reason =
        "is of another kind at the target, and stays: only a sync that deletes replaces it";
    let expected = [format!("/t/a: {reason}"), format!("/t/b: {reason}")];
    assert_eq!(refused.failures, expected);
    assert_eq!(tree.read("t/b/in"), b"below");
    let done = succeed(local(here.path()), server(&client, "t"), deleting()).await;
    let expected = ["deleted a", "deleted b/", "new a/", "new a/in", "new b"];
    assert_eq!(done.lines(), expected);
    assert_eq!(snapshot(&tree.path("t")), snapshot(here.path()));
    drop((client, refused, done));
    test.stop().await;
}

#[tokio::test]
async fn nothing_is_deleted_after_a_failure_that_may_have_needed_it() {
    let tree = Tree::new().file("t/old", "the only copy at the target");
    let test = TestServer::builder(&tree)
        .limits(|limits| limits.daily_bytes = Limit(Some(60)))
        .start()
        .await;
    let client = test.client().await;
    let here = scratch();
    fs::write(here.path().join("new"), "x".repeat(100)).unwrap();
    let failed = sync(local(here.path()), server(&client, "t"), deleting()).await;
    assert_eq!(failed.failures.len(), 2, "{:?}", failed.failures);
    assert!(failed.failures[1].contains("nothing was deleted"));
    assert_eq!(tree.names("t"), ["old"]);
    drop((client, failed));
    test.stop().await;
}

#[tokio::test]
async fn nothing_is_replaced_without_the_backup_that_was_asked_for() {
    let tree = Tree::new()
        .file("t/f", "the only copy")
        .directory("backup/f");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    fs::write(here.path().join("f"), "new").unwrap();
    let down = scratch();
    fs::create_dir_all(down.path().join("backup/f/in")).unwrap();
    fs::write(down.path().join("f"), "the only copy here").unwrap();
    for (source, target, backup) in [
        (
            local(here.path()),
            server(&client, "t"),
            server(&client, "backup"),
        ),
        (
            server(&client, "t"),
            local(down.path()),
            local(&down.path().join("backup")),
        ),
    ] {
        let options = SyncOptions {
            backup: Some(backup),
            ..SyncOptions::default()
        };
        let failed = sync(source, target, options).await;
        assert_eq!(failed.failures.len(), 2, "{:?}", failed.failures);
        let why = "nothing was transferred, because 1 couldn't be backed up";
        assert!(failed.failures[1].contains(why), "{:?}", failed.failures);
    }
    assert_eq!(tree.read("t/f"), b"the only copy");
    let kept = fs::read(down.path().join("f")).unwrap();
    assert_eq!(kept, b"the only copy here");
    drop(client);
    test.stop().await;
}

#[tokio::test]
async fn sides_that_are_missing_or_no_directories_are_named() {
    let tree = Tree::new().file("f", "file");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    let (file, missing) = (here.path().join("f"), here.path().join("missing"));
    fs::write(&file, "").unwrap();
    for (source, target, expected) in [
        (local(&missing), server(&client, "t"), "missing"),
        (local(&file), server(&client, "t"), "is not a directory"),
        (
            local(here.path()),
            server(&client, "f"),
            "/f: not a directory",
        ),
        (server(&client, "x"), local(&missing), "/x: not found"),
        (server(&client, "f"), local(&missing), "/f: not a directory"),
        (local(here.path()), local(&missing), "a sync needs a server"),
    ] {
        let failed = sync(source, target, deleting()).await;
        assert_eq!(failed.failures.len(), 1, "{:?}", failed.failures);
        assert!(
            failed.failures[0].contains(expected),
            "{:?}",
            failed.failures
        );
        assert!(!missing.exists() && !tree.has("t"));
    }
    drop(client);
    test.stop().await;
}
