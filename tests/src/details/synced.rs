//! A sync that keeps details: what differs in nothing else gets them, and a second run does nothing.

use std::fs;

use quire_client::transfer::sync::{SyncAction, SyncOptions};
use quire_test_harness::client::path;
use quire_test_harness::tree::scratch;
use quire_test_harness::{KIB, TestServer, Tree, content};

use super::{XATTRS, expected, has_xattrs, remove_xattr, set_xattr, xattrs_of};
use crate::sync::{deleting, local, server, succeed, sync};

fn keeping() -> SyncOptions {
    SyncOptions {
        keep: XATTRS,
        ..deleting()
    }
}

#[tokio::test]
async fn what_differs_in_attributes_alone_gets_them_and_a_second_run_does_nothing() {
    let tree = Tree::new();
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    let (source, down) = (here.path().join("source"), here.path().join("down"));
    fs::create_dir_all(source.join("d/e")).unwrap();
    for (name, bytes) in [("d/f", 100), ("d/g", 2 * KIB * KIB), ("h", 10)] {
        fs::write(source.join(name), content(1, bytes)).unwrap();
        set_xattr(&source.join(name), "user.a", name.as_bytes());
    }
    set_xattr(&source.join("d/e"), "user.a", b"directory");
    let marked = ["d/f", "d/g", "h", "d/e"];
    for round in 0..4 {
        match round {
            // On one side only, on the other only, and of another value.
            1 => {
                for name in marked {
                    set_xattr(&source.join(name), "user.b", b"2");
                }
            }
            2 => {
                for name in marked {
                    remove_xattr(&source.join(name), "user.a");
                    set_xattr(&tree.path("up").join(name), "user.c", b"3");
                    set_xattr(&down.join(name), "user.b", b"other");
                }
            }
            // Nothing, without content and with other permissions.
            _ => {}
        }
        for (from, to, place) in [
            (local(&source), server(&client, "up"), tree.path("up")),
            (server(&client, "up"), local(&down), down.clone()),
        ] {
            let first = succeed(from.clone(), to.clone(), keeping()).await;
            if round > 0 {
                assert_eq!(first.moved, 0, "round {round}: {:?}", first.lines());
            }
            if round == 1 || round == 2 {
                let details = ["details d/f", "details d/g", "details h"];
                assert_eq!(first.lines(), details, "round {round}");
                assert!(
                    first
                        .steps
                        .iter()
                        .all(|step| step.action == SyncAction::Details)
                );
            }
            for name in marked {
                let (source, target) = (source.join(name), place.join(name));
                assert_eq!(
                    xattrs_of(&target),
                    xattrs_of(&source),
                    "round {round}: {name}"
                );
            }
            let second = succeed(from, to, keeping()).await;
            assert_eq!(second.lines(), Vec::<String>::new(), "round {round}");
            assert_eq!(second.moved, 0);
        }
    }
    client.close().await;
    test.stop().await;
}

#[tokio::test]
async fn without_the_flag_nothing_of_them_is_compared_or_kept() {
    let tree = Tree::new();
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    fs::write(here.path().join("f"), "x").unwrap();
    set_xattr(&here.path().join("f"), "user.a", b"1");
    let sides = || (local(here.path()), server(&client, "up"));
    let (from, to) = sides();
    succeed(from, to, deleting()).await;
    assert_eq!(xattrs_of(&tree.path("up/f")), expected(&[]));
    let (from, to) = sides();
    let again = succeed(from, to, deleting()).await;
    assert_eq!(again.lines(), Vec::<String>::new());
    client.close().await;
    test.stop().await;
}

#[tokio::test]
async fn what_has_another_name_and_other_attributes_is_not_taken_for_the_same() {
    let tree = Tree::new();
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    fs::create_dir(here.path().join("old")).unwrap();
    for (name, bytes) in [("old/a", 100), ("old/b", 200), ("c", 300)] {
        fs::write(here.path().join(name), content(1, bytes)).unwrap();
        set_xattr(&here.path().join(name), "user.a", b"1");
    }
    let sides = || (local(here.path()), server(&client, "up"));
    let (from, to) = sides();
    succeed(from, to, keeping()).await;
    // One directory and one file with another name only; one file with other attributes as well.
    fs::rename(here.path().join("old"), here.path().join("new")).unwrap();
    fs::rename(here.path().join("c"), here.path().join("d")).unwrap();
    set_xattr(&here.path().join("d"), "user.a", b"2");
    let (from, to) = sides();
    let renamed = succeed(from, to, keeping()).await;
    assert_eq!(renamed.lines(), ["renamed old/ new/", "new d", "deleted c"]);
    assert_eq!(xattrs_of(&tree.path("up/d")), expected(&[("user.a", b"2")]));
    assert_eq!(
        xattrs_of(&tree.path("up/new/a")),
        expected(&[("user.a", b"1")])
    );
    let (from, to) = sides();
    let again = succeed(from, to, keeping()).await;
    assert_eq!(again.lines(), Vec::<String>::new());
    client.close().await;
    test.stop().await;
}

#[tokio::test]
async fn from_one_server_to_another_they_are_kept() {
    let (one, other) = (Tree::new().file("d/f", "x").directory("d/e"), Tree::new());
    if !has_xattrs(&one.root()) {
        return;
    }
    for name in ["d/f", "d/e"] {
        set_xattr(&one.path(name), "user.a", b"1");
    }
    let (first, second) = (
        TestServer::start(&one).await,
        TestServer::start(&other).await,
    );
    let (from, to) = (first.client().await, second.client().await);
    let sides = || (server(&from, "d"), server(&to, "d"));
    let (source, target) = sides();
    succeed(source, target, keeping()).await;
    for name in ["d/f", "d/e"] {
        assert_eq!(
            xattrs_of(&other.path(name)),
            expected(&[("user.a", b"1")]),
            "{name}"
        );
    }
    let (source, target) = sides();
    let again = succeed(source, target, keeping()).await;
    assert_eq!(again.lines(), Vec::<String>::new());
    from.close().await;
    to.close().await;
    first.stop().await;
    second.stop().await;
}

// P63
#[tokio::test]
async fn a_file_whose_attributes_cannot_be_told_stays_as_it_is_and_is_an_error() {
    let tree = Tree::new().file("up/f", "x");
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    let down = here.path().join("down");
    succeed(server(&client, "up"), local(&down), keeping()).await;
    set_xattr(&down.join("f"), "user.mine", b"1");
    for number in 0..65 {
        set_xattr(&tree.path("up/f"), &format!("user.{number}"), b"");
    }
    let failed = sync(server(&client, "up"), local(&down), keeping()).await;
    assert_eq!(failed.failures.len(), 1, "{:?}", failed.failures);
    assert!(failed.failures[0].starts_with(&path("up/f").to_string()));
    assert_eq!(xattrs_of(&down.join("f")), expected(&[("user.mine", b"1")]));
    client.close().await;
    test.stop().await;
}
