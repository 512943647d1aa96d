//! `--hard-links`: a file with several names is sent once, and has them at the other side as well.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use quire_client::transfer::sync::{SyncJob, SyncOptions, SyncReport, SyncSide};
use quire_client::transfer::{FetchOptions, GiveUp, LinkPolicy, StoreOptions};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Copy, GetTree, Precondition};
use quire_test_harness::client::{copy, path, refusal, stat};
use quire_test_harness::tree::scratch;
use quire_test_harness::{KIB, LARGE, TestServer, Tree, content};

use crate::sync::deleting;

use super::{LinkNotes, fetch_links, fetching, store_links, storing, with_rights};

fn storing_names() -> StoreOptions {
    StoreOptions {
        hard_links: true,
        ..storing(LinkPolicy::Skip)
    }
}

fn fetching_names() -> FetchOptions {
    FetchOptions {
        hard_links: true,
        ..fetching(LinkPolicy::Skip)
    }
}

/// Names of one small file, of one large file, and a file of its own.
fn tree_of_names() -> Tree {
    let tree = Tree::new()
        .file("t/a", "small")
        .file("t/d/large", content(1, LARGE))
        .file("t/alone", "alone")
        .directory("t/z");
    for (from, to) in [
        ("t/a", "t/b"),
        ("t/a", "t/d/c"),
        ("t/a", "t/z/d"),
        ("t/d/large", "t/e"),
        ("t/d/large", "t/z/large"),
    ] {
        fs::hard_link(tree.path(from), tree.path(to)).unwrap();
    }
    tree
}

/// The names of each file in a directory, and its content.
fn names_by_file(top: &Path) -> Vec<(Vec<String>, Vec<u8>)> {
    let mut files = BTreeMap::<u64, Vec<String>>::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            match metadata.is_dir() {
                true => waiting.push(path),
                false => {
                    let name = path.strip_prefix(top).unwrap().to_str().unwrap();
                    files
                        .entry(metadata.ino())
                        .or_default()
                        .push(name.to_owned());
                }
            }
        }
    }
    let mut files: Vec<_> = files
        .into_values()
        .map(|mut names| {
            names.sort();
            let content = fs::read(top.join(&names[0])).unwrap();
            (names, content)
        })
        .collect();
    files.sort();
    files
}

// P73
#[tokio::test]
async fn names_of_one_file_are_stored_and_fetched_as_such() {
    let source = tree_of_names();
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let expected = names_by_file(&source.path("t"));
    assert_eq!(expected.len(), 3);
    let once = (LARGE + "small".len() + "alone".len()) as u64;
    let from = source.path("t");
    let stored = store_links(&client, &from, "t", storing_names()).await;
    assert_eq!(stored.failures, Vec::<String>::new());
    assert_eq!(names_by_file(&tree.path("t")), expected);
    assert_eq!((stored.transfer.files(), stored.transfer.links()), (3, 5));
    assert_eq!(stored.transfer.moved(), once);
    let time = |path: &Path| fs::metadata(path).unwrap().mtime_nsec();
    for directory in ["t", "t/d", "t/z"] {
        assert_eq!(time(&tree.path(directory)), time(&source.path(directory)));
    }
    let local = scratch();
    let to = local.path().join("t");
    let fetched = fetch_links(&client, "t", &to, fetching_names()).await;
    assert_eq!(fetched.failures, Vec::<String>::new());
    assert_eq!(names_by_file(&to), expected);
    assert_eq!(fetched.transfer.moved(), once);
    // Without the flag each is a file of its own.
    let stored = store_links(&client, &from, "own", storing(LinkPolicy::Skip)).await;
    assert_eq!((stored.transfer.files(), stored.transfer.links()), (8, 0));
    assert_eq!(names_by_file(&tree.path("own")).len(), 8);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn existing_names_are_refused_left_or_replaced_and_no_link_gets_another_content() {
    let source = tree_of_names();
    let tree = Tree::new().file("t/a", "another").file("t/b", "old");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let from = source.path("t");
    let stored = store_links(&client, &from, "t", storing_names()).await;
    assert_eq!(
        stored.failures,
        ["/t/a", "/t/b"].map(|name| format!("{name}: already exists"))
    );
    // Those whose first name wasn't stored have its content all the same, and not what was there.
    for name in ["t/d/c", "t/z/d"] {
        assert_eq!(tree.read(name), b"small", "{name}");
    }
    assert_eq!(tree.read("t/a"), b"another");
    let force = StoreOptions {
        overwrite: true,
        ..storing_names()
    };
    let stored = store_links(&client, &from, "t", force).await;
    assert_eq!(stored.failures, Vec::<String>::new());
    assert_eq!(names_by_file(&tree.path("t")), names_by_file(&from));
    client.close().await;
    server.stop().await;
}

/// Syncs with hard links kept; returns steps, failures and bytes that were moved.
async fn sync_names(
    source: &SyncSide,
    target: &SyncSide,
    options: SyncOptions,
) -> (Vec<String>, Vec<String>, u64) {
    let notes = LinkNotes::new();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&steps);
    let report = SyncReport::new(Arc::clone(&notes.transfer), move |step| {
        let line = format!("{} {}", step.action.name(), step.path.to_relative());
        log.lock().unwrap().push(line);
    });
    let job = SyncJob {
        source: source.clone(),
        target: target.clone(),
        options: SyncOptions {
            hard_links: true,
            ..options
        },
    };
    job.run(&GiveUp, &report).await;
    let steps = steps.lock().unwrap().clone();
    let moved = notes.transfer.moved();
    (steps, notes.end().failures, moved)
}

#[tokio::test]
async fn a_sync_keeps_names_of_one_file_in_step() {
    let source = tree_of_names();
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let local = scratch();
    let here = SyncSide::Local(source.path("t"));
    let there = SyncSide::Server(client.clone(), path("t"));
    let back = SyncSide::Local(local.path().join("t"));
    let none = Vec::<String>::new();
    let both_sides = [(&here, &there), (&there, &back)];
    let check = |when: &str| {
        let expected = names_by_file(&source.path("t"));
        assert_eq!(names_by_file(&tree.path("t")), expected, "{when}");
        assert_eq!(names_by_file(&local.path().join("t")), expected, "{when}");
    };
    for (from, to) in both_sides {
        let (steps, failures, moved) = sync_names(from, to, SyncOptions::default()).await;
        assert_eq!((steps.len(), failures), (10, none.clone()));
        assert_eq!(moved, (LARGE + 10) as u64);
        let again = sync_names(from, to, SyncOptions::default()).await;
        assert_eq!(again, (none.clone(), none.clone(), 0));
    }
    check("made");
    // The content changes: it is sent once, and all names have it.
    fs::write(source.path("t/a"), "changed").unwrap();
    for (from, to) in both_sides {
        let (steps, failures, moved) = sync_names(from, to, SyncOptions::default()).await;
        let changed = ["changed a", "changed b", "changed d/c", "changed z/d"];
        assert_eq!(
            (steps, failures),
            (changed.map(str::to_owned).to_vec(), none.clone())
        );
        assert_eq!(moved, 7);
    }
    check("changed");
    // Names that became files of their own at the targets are joined again, and no content moves.
    for top in [tree.path("t"), local.path().join("t")] {
        let time = fs::metadata(top.join("b")).unwrap().modified().unwrap();
        fs::remove_file(top.join("b")).unwrap();
        fs::write(top.join("b"), "changed").unwrap();
        let file = fs::File::options().write(true).open(top.join("b")).unwrap();
        file.set_modified(time).unwrap();
    }
    for (from, to) in both_sides {
        let (steps, failures, moved) = sync_names(from, to, SyncOptions::default()).await;
        assert_eq!(
            (steps, failures, moved),
            (vec!["changed b".to_owned()], none.clone(), 0)
        );
    }
    check("joined");
    // Two names of one file go, and another comes.
    fs::remove_file(source.path("t/z/d")).unwrap();
    fs::remove_file(source.path("t/d/c")).unwrap();
    fs::hard_link(source.path("t/a"), source.path("t/y")).unwrap();
    for (from, to) in both_sides {
        let (_, failures, moved) = sync_names(from, to, deleting()).await;
        assert_eq!((failures, moved), (none.clone(), 0));
    }
    check("deleted");
    client.close().await;
    server.stop().await;
}

/// More than wait in a queue, between files of their own, so that no batch is full when it is waited for.
#[tokio::test]
async fn many_names_of_few_files_come_to_an_end() {
    let source = Tree::new()
        .file("t/a/0", "small")
        .file("t/a/1", content(1, LARGE));
    for number in 2..900 {
        let first = source.path(&format!("t/a/{}", number % 2));
        fs::hard_link(first, source.path(&format!("t/a/{number}"))).unwrap();
        if number % 100 == 0 {
            source.write(&format!("t/b/{number}"), "alone");
        }
    }
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let from = source.path("t");
    let stored = store_links(&client, &from, "t", storing_names()).await;
    assert_eq!(stored.failures, Vec::<String>::new());
    let local = scratch();
    let to = local.path().join("t");
    let fetched = fetch_links(&client, "t", &to, fetching_names()).await;
    assert_eq!(fetched.failures, Vec::<String>::new());
    let expected = names_by_file(&from);
    assert_eq!(names_by_file(&tree.path("t")), expected);
    assert_eq!(names_by_file(&to), expected);
    for transfer in [stored.transfer, fetched.transfer] {
        assert_eq!((transfer.links(), transfer.files()), (898, 10));
        assert_eq!(transfer.moved(), transfer.expected());
    }
    client.close().await;
    server.stop().await;
}

// P73, P16, P31
#[tokio::test]
async fn a_copy_becomes_another_name_only_where_it_opens_nothing() {
    let tree = Tree::new()
        .file("a", "x")
        .file("there", "old")
        .file("read/r", "r")
        .directory("d");
    let rules = "write,/read=read";
    let (server, client) = with_rights(&tree, rules).await;
    let linking = |from: &str, to: &str| Copy {
        hard_link: true,
        ..copy(from, to)
    };
    let inode = |name: &str| fs::metadata(tree.path(name)).unwrap().ino();
    let before = client.stat(stat("a")).await.unwrap();
    assert_eq!(before.hard_link, None);
    let linked = client.copy(linking("a", "b")).await.unwrap();
    assert!(linked.is_hard_link);
    assert_eq!(inode("a"), inode("b"));
    let (a, b) = (
        client.stat(stat("a")).await.unwrap(),
        client.stat(stat("b")).await.unwrap(),
    );
    assert_eq!(
        (&a.version, a.hard_link.clone()),
        (&linked.version, b.hard_link)
    );
    assert!(a.hard_link.is_some());
    assert_ne!(before.version, a.version);
    // A client that may not replace the original could chmod it through the other name.
    let copied = client.copy(linking("read/r", "r")).await.unwrap();
    assert!(!copied.is_hard_link);
    assert_ne!(inode("read/r"), inode("r"));
    let absent = Copy {
        target: Precondition::Absent,
        ..linking("a", "there")
    };
    assert_eq!(refusal(client.copy(absent).await), ErrorCode::EXISTS);
    let stale = Copy {
        source: Precondition::Match(before.version),
        ..linking("a", "there")
    };
    assert_eq!(refusal(client.copy(stale).await), ErrorCode::CONFLICT);
    assert_eq!(
        refusal(client.copy(linking("d", "e")).await),
        ErrorCode::NOT_EMPTY
    );
    assert_eq!(
        refusal(client.copy(linking("a", "read/n")).await),
        ErrorCode::NOT_AUTHORIZED
    );
    assert_eq!(tree.read("there"), b"old");
    client.close().await;
    server.stop().await;
}

// P42
#[tokio::test]
async fn files_with_several_names_come_without_content_if_asked() {
    let tree = Tree::new().file("t/a", "x").file("t/c", "y");
    fs::hard_link(tree.path("t/a"), tree.path("t/b")).unwrap();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for (describe_linked, enclosed) in [(false, 3), (true, 1)] {
        let get = GetTree {
            path: path("t"),
            enclose_max: 4 * KIB as u64,
            describe_linked,
            ..GetTree::default()
        };
        let (mut send, mut recv) = raw.begin(get).await;
        send.finish().unwrap();
        let bytes = recv.read_to_end(1 << 20).await.unwrap();
        // A body follows each enclosed item, and a trailer with the digest.
        let bodies = bytes
            .windows(4)
            .filter(|item| item == b"\x82\x01\xa2\x00")
            .count();
        assert_eq!(bodies, enclosed, "{bytes:02x?}");
    }
    raw.close().await;
    server.stop().await;
}
