//! `--links=keep`: the same links at the other side, made, replaced, compared and refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use quire_client::ClientError;
use quire_client::transfer::sync::{SyncJob, SyncOptions, SyncReport, SyncSide};
use quire_client::transfer::{GiveUp, Leave, LinkPolicy};
use quire_shared::ErrorCode;
use quire_shared::protocol::{EntryKind, LinkTarget, MakeSymlink, Precondition};
use quire_test_harness::client::{path, refusal, rename, stat, store};
use quire_test_harness::tree::scratch;
use quire_test_harness::{TestServer, Tree};

use crate::sync::deleting;

use super::{LinkNotes, fetch_links, fetching, store_links, storing, target, with_rights};

fn link(at: &str, text: &str) -> MakeSymlink {
    MakeSymlink {
        path: path(at),
        target: LinkTarget::new(text.as_bytes()).unwrap(),
        make_parents: false,
        precondition: Precondition::Any,
        modified: None,
    }
}

/// A tree with links of all kinds that stay in it.
fn linked_tree() -> Tree {
    Tree::new()
        .file("t/f", "content")
        .directory("t/d/e")
        .link("t/to-file", "f")
        .link("t/to-directory", "d")
        .link("t/nowhere", "missing/x")
        .link("t/d/e/up", "../../f")
}

const LINKS: [&str; 4] = ["d/e/up", "nowhere", "to-directory", "to-file"];

// P71, P72
#[tokio::test]
async fn links_are_stored_and_fetched_with_their_targets() {
    let source = linked_tree();
    let tree = Tree::new();
    let (server, client) = with_rights(&tree, "write+link").await;
    let skipped = store_links(&client, &source.path("t"), "s", storing(LinkPolicy::Skip)).await;
    assert_eq!((skipped.linked.len(), skipped.transfer.skipped()), (0, 4));
    let keep = storing(LinkPolicy::Keep);
    let stored = store_links(&client, &source.path("t"), "t", keep).await;
    assert_eq!(stored.failures, Vec::<String>::new());
    assert_eq!(stored.linked, LINKS.map(|name| format!("/t/{name}")));
    assert_eq!((stored.transfer.links(), stored.transfer.skipped()), (4, 0));
    let local = scratch();
    let to = local.path().join("t");
    let keep = fetching(LinkPolicy::Keep);
    let fetched = fetch_links(&client, "t", &to, keep).await;
    assert_eq!(fetched.failures, Vec::<String>::new());
    assert_eq!(fetched.linked, LINKS.map(|name| format!("/t/{name}")));
    for name in LINKS {
        let original = source.path("t").join(name);
        let time = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().mtime_nsec();
        for copy in [tree.path("t").join(name), to.join(name)] {
            assert_eq!(target(&copy), target(&original), "{name}");
            assert_eq!(time(&copy), time(&original), "{name}");
        }
        let told = client.stat(stat(&format!("t/{name}"))).await.unwrap();
        assert_eq!(
            told.target.unwrap().as_bytes(),
            target(&original).as_bytes()
        );
    }
    client.close().await;
    server.stop().await;
}

// P72
#[tokio::test]
async fn existing_names_are_kept_left_or_replaced_as_for_files() {
    let source = linked_tree();
    let tree = Tree::new()
        .file("t/to-file", "a file")
        .directory("t/to-directory")
        .link("t/nowhere", "missing/x");
    let (server, client) = with_rights(&tree, "write+link").await;
    let from = source.path("t");
    let stored = store_links(&client, &from, "t", storing(LinkPolicy::Keep)).await;
    let exists =
        ["nowhere", "to-directory", "to-file"].map(|name| format!("/t/{name}: already exists"));
    assert_eq!(stored.failures, exists);
    assert_eq!(tree.read("t/to-file"), b"a file");
    let update = quire_client::transfer::StoreOptions {
        leave: Leave::Newer,
        overwrite: true,
        ..storing(LinkPolicy::Keep)
    };
    let stored = store_links(&client, &from, "t", update).await;
    // A directory is never replaced; what is the same stays.
    assert_eq!(stored.failures, ["/t/to-directory: is a directory"]);
    assert_eq!(stored.linked, ["/t/to-file"]);
    assert_eq!(target(&tree.path("t/to-file")), "f");
    let local = scratch();
    let to = local.path().join("t");
    fs::create_dir_all(to.join("to-directory")).unwrap();
    fs::write(to.join("to-file"), "a file").unwrap();
    symlink("other", to.join("nowhere")).unwrap();
    let fetched = fetch_links(&client, "t", &to, fetching(LinkPolicy::Keep)).await;
    assert_eq!(fetched.failures.len(), 2, "{:?}", fetched.failures);
    assert_eq!(target(&to.join("nowhere")), "other");
    let mut force = fetching(LinkPolicy::Keep);
    force.save.overwrite = true;
    let fetched = fetch_links(&client, "t", &to, force).await;
    assert_eq!(fetched.failures, Vec::<String>::new());
    assert_eq!(target(&to.join("nowhere")), "missing/x");
    assert_eq!(target(&to.join("to-file")), "f");
    assert!(to.join("to-directory").symlink_metadata().unwrap().is_dir());
    let left: Vec<_> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_str().unwrap().starts_with(".quire"))
    );
    client.close().await;
    server.stop().await;
}

// P16, P71
#[tokio::test]
async fn links_need_their_own_right_and_never_lead_out() {
    let source = linked_tree();
    let tree = Tree::new()
        .directory("d")
        .directory("no")
        .file("d/f", "old");
    let (server, client) = with_rights(&tree, "write+link,/no=write").await;
    for text in ["../../x", "/etc/passwd", "a/../../..", "", "a\0b", "x/.."] {
        let refused = client.make_symlink(link("d/l", text)).await.unwrap_err();
        assert_eq!(
            refused.to_string().split(':').next().unwrap(),
            "a symbolic link that would lead out of the served directory",
            "{text:?}"
        );
    }
    client.stat(stat("d/l")).await.unwrap_err();
    client.make_symlink(link("d/l", "../x")).await.unwrap();
    let missing = client.make_symlink(link("n/l", "x")).await;
    assert_eq!(refusal(missing), ErrorCode::NOT_FOUND);
    let parents = MakeSymlink {
        make_parents: true,
        precondition: Precondition::Absent,
        ..link("n/l", "x")
    };
    client.make_symlink(parents.clone()).await.unwrap();
    assert_eq!(
        refusal(client.make_symlink(parents).await),
        ErrorCode::EXISTS
    );
    assert_eq!(
        refusal(client.make_symlink(link("n/l/x", "x")).await),
        ErrorCode::NOT_DIRECTORY
    );
    // The server follows it no more than any other.
    assert_eq!(
        refusal(store(&client, "d/l/f", b"x").await),
        ErrorCode::NOT_DIRECTORY
    );
    let refused = client.make_symlink(link("no/l", "x")).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::NoLinkRight { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("`link`"), "{refused}");
    let keep = storing(LinkPolicy::Keep);
    let stored = store_links(&client, &source.path("t"), "no/t", keep).await;
    assert_eq!(stored.failures.len(), 4, "{:?}", stored.failures);
    assert_eq!(tree.read("no/t/f"), b"content");
    // A link may be renamed, wherever it leads from there.
    client.rename(rename("d/l", "l")).await.unwrap();
    assert_eq!(target(&tree.path("l")), "../x");
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_exists_is_left_for_a_link_but_a_directory_is_an_error_in_both_directions() {
    let source = Tree::new()
        .directory("t")
        .link("t/file", "x")
        .link("t/directory", "x");
    let tree = Tree::new()
        .file("t/file", "a file")
        .directory("t/directory");
    let (server, client) = with_rights(&tree, "write+link").await;
    let existing = quire_client::transfer::StoreOptions {
        leave: Leave::Existing,
        ..storing(LinkPolicy::Keep)
    };
    let stored = store_links(&client, &source.path("t"), "t", existing).await;
    assert_eq!(stored.failures, ["/t/directory: already exists"]);
    assert_eq!(tree.read("t/file"), b"a file");
    client.close().await;
    server.stop().await;

    let (server, client) = with_rights(&source, "read").await;
    let local = scratch();
    let to = local.path().join("t");
    fs::create_dir_all(to.join("directory")).unwrap();
    fs::write(to.join("file"), "a file").unwrap();
    let existing = quire_client::transfer::FetchOptions {
        leave: Leave::Existing,
        ..fetching(LinkPolicy::Keep)
    };
    let fetched = fetch_links(&client, "t", &to, existing).await;
    assert_eq!(fetched.failures.len(), 1, "{:?}", fetched.failures);
    assert!(fetched.failures[0].contains("directory"));
    assert_eq!(fs::read(to.join("file")).unwrap(), b"a file");
    client.close().await;
    server.stop().await;
}

/// Syncs with links kept; returns the steps and failures.
async fn sync_links(
    source: &SyncSide,
    target: &SyncSide,
    options: SyncOptions,
) -> (Vec<String>, Vec<String>) {
    let notes = LinkNotes::new();
    let steps = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&steps);
    let report = SyncReport::new(std::sync::Arc::clone(&notes.transfer), move |step| {
        let kind = match step.kind {
            EntryKind::Symlink => "@",
            _ => "",
        };
        let line = format!("{} {}{kind}", step.action.name(), step.path.to_relative());
        log.lock().unwrap().push(line);
    });
    let job = SyncJob {
        source: source.clone(),
        target: target.clone(),
        options: SyncOptions {
            links: LinkPolicy::Keep,
            ..options
        },
    };
    job.run(&GiveUp, &report).await;
    let steps = steps.lock().unwrap().clone();
    (steps, notes.end().failures)
}

#[tokio::test]
async fn a_sync_makes_links_and_finds_them_the_same() {
    let source = linked_tree();
    let tree = Tree::new();
    let (server, client) = with_rights(&tree, "write+link").await;
    let here = SyncSide::Local(source.path("t"));
    let there = SyncSide::Server(client.clone(), path("deep/t"));
    let local = scratch();
    let back = SyncSide::Local(local.path().join("t"));
    let none = Vec::<String>::new();
    let new = [
        "new d",
        "new d/e",
        "new d/e/up@",
        "new f",
        "new nowhere@",
        "new to-directory@",
        "new to-file@",
    ];
    let dry = SyncOptions {
        dry_run: true,
        ..SyncOptions::default()
    };
    assert_eq!(sync_links(&here, &there, dry).await.0, new);
    assert!(!tree.path("deep").exists());
    for (from, to) in [(&here, &there), (&there, &back)] {
        assert_eq!(
            sync_links(from, to, SyncOptions::default()).await,
            (new.map(str::to_owned).to_vec(), none.clone())
        );
        assert_eq!(
            sync_links(from, to, SyncOptions::default()).await,
            (none.clone(), none.clone())
        );
    }
    for name in LINKS {
        let text = target(&source.path("t").join(name));
        assert_eq!(target(&tree.path("deep/t").join(name)), text);
        assert_eq!(target(&local.path().join("t").join(name)), text);
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_sync_replaces_and_deletes_links_and_keeps_them_in() {
    let source = linked_tree();
    let tree = Tree::new();
    let (server, client) = with_rights(&tree, "write+link").await;
    let here = SyncSide::Local(source.path("t"));
    let there = SyncSide::Server(client.clone(), path("deep/t"));
    let local = scratch();
    let back = SyncSide::Local(local.path().join("t"));
    let none = Vec::<String>::new();
    for (from, to) in [(&here, &there), (&there, &back)] {
        let (_, failures) = sync_links(from, to, SyncOptions::default()).await;
        assert_eq!(failures, none);
    }
    // Another target, one that is gone, and a link in the place of a file.
    fs::remove_file(source.path("t/to-file")).unwrap();
    fs::remove_file(source.path("t/nowhere")).unwrap();
    fs::remove_file(source.path("t/f")).unwrap();
    symlink("d", source.path("t/to-file")).unwrap();
    symlink("d/f", source.path("t/f")).unwrap();
    // This one leads out below the root of the sync, though not of the server.
    symlink("../x", source.path("t/out")).unwrap();
    let (steps, failures) = sync_links(&here, &there, SyncOptions::default()).await;
    assert_eq!(steps, ["new out@", "changed to-file@"]);
    assert_eq!(
        failures.len(),
        1,
        "a file isn't replaced by a link: {failures:?}"
    );
    let (steps, failures) = sync_links(&here, &there, deleting()).await;
    assert_eq!(
        (steps, failures),
        (
            vec![
                "deleted f".to_owned(),
                "new f@".to_owned(),
                "deleted nowhere@".to_owned()
            ],
            none.clone()
        )
    );
    let backup = SyncOptions {
        backup: Some(SyncSide::Local(local.path().join("old"))),
        ..deleting()
    };
    let (_, failures) = sync_links(&there, &back, backup).await;
    assert_eq!(
        failures,
        [
            "/deep/t/out: a symbolic link that would lead out of the directory that is synced: its target is ../x"
        ]
    );
    assert_eq!(target(&local.path().join("t/to-file")), "d");
    assert_eq!(target(&local.path().join("old/to-file")), "f");
    assert!(local.path().join("t/out").symlink_metadata().is_err());
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn links_go_from_one_server_to_another() {
    let source = linked_tree();
    let target_tree = Tree::new();
    let one = TestServer::start(&source).await;
    let (other, to) = with_rights(&target_tree, "write+link").await;
    let from = one.client().await;
    let (steps, failures) = sync_links(
        &SyncSide::Server(from.clone(), path("t")),
        &SyncSide::Server(to.clone(), path("t")),
        SyncOptions::default(),
    )
    .await;
    assert_eq!((steps.len(), failures), (7, Vec::new()));
    for name in LINKS {
        assert_eq!(
            target(&target_tree.path("t").join(name)),
            target(&source.path("t").join(name))
        );
    }
    drop((from, to));
    one.stop().await;
    other.stop().await;
}
