//! One download, one version: files that change while they are being sent.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use quire_client::ErrorKind;
use quire_client::download::SaveOptions;
use quire_client::upload::{Links, LocalFile};
use quire_client::{Client, ClientError};
use quire_shared::ErrorCode;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::Hash;
use tokio::task::JoinSet;

use quire_test_harness::client::{
    delete, fetch, get, hash, put, receive, refusal, rename, store, version,
};
use quire_test_harness::content::seed_of;
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{LARGE, TestServer, Tree, assert_same, content, within};

/// A file written long ago, so that any change of it shows in its times.
fn old_file(tree: Tree, name: &str, bytes: &[u8]) -> Tree {
    let tree = tree.file(name, bytes);
    let file = File::options().write(true).open(tree.path(name)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .unwrap();
    tree
}

// P20, P21
#[tokio::test]
async fn downloads_at_once_are_whole_and_of_one_version_while_files_are_replaced_and_renamed() {
    const FILES: u64 = 8;
    const DOWNLOADS: u64 = 64;
    const ROUNDS: u64 = 4;
    let size = |seed: u64| 150_000 + 1000 * usize::try_from(seed % 97).unwrap();
    let tree = (0..FILES).fold(Tree::new(), |tree, file| {
        tree.file(&format!("f{file}"), content(file, size(file)))
    });
    let server = TestServer::builder(&tree).cache(1 << 20).start().await;
    let client = server.client().await;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for file in 0..FILES {
        let (client, done) = (client.clone(), Arc::clone(&done));
        writers.spawn(async move {
            let name = format!("f{file}");
            let mut seed = file;
            while !done.load(Ordering::Relaxed) {
                seed += FILES;
                let next = if seed % 2 == 0 {
                    name.clone()
                } else {
                    format!("new{file}")
                };
                store(&client, &next, &content(seed, size(seed)))
                    .await
                    .unwrap();
                if next != name {
                    client.rename(rename(&next, &name)).await.unwrap();
                }
            }
            seed / FILES
        });
    }
    for round in 0..ROUNDS {
        let mut downloads = JoinSet::new();
        for download in 0..DOWNLOADS {
            let client = client.clone();
            downloads.spawn(async move {
                let file = (download + round) % FILES;
                (file, fetch(&client, &format!("f{file}")).await.unwrap())
            });
        }
        for (file, bytes) in within("all downloads", downloads.join_all()).await {
            let seed = seed_of(&bytes).expect("whole and of one version");
            assert_eq!(bytes.len(), size(seed));
            assert_eq!(seed % FILES, file, "the content of another file");
        }
    }
    done.store(true, Ordering::Relaxed);
    let replaced: u64 = within("the writers", writers.join_all()).await.iter().sum();
    assert!(replaced >= FILES, "nothing was replaced meanwhile");
    client.close().await;
    server.stop().await;
}

// P21
#[tokio::test]
async fn a_download_goes_on_undisturbed_when_its_file_is_replaced_renamed_or_deleted() {
    async fn change(kind: &str, client: &Client) {
        match kind {
            "replaced" => store(client, "f", b"new").await.map(|_| ()),
            "renamed" => client.rename(rename("f", "g")).await.map(|_| ()),
            _ => client.delete(delete("f")).await.map(|_| ()),
        }
        .unwrap();
    }
    let bytes = content(1, LARGE);
    for cache in [0, 64 << 20] {
        for kind in ["replaced", "renamed", "deleted"] {
            let tree = old_file(Tree::new(), "f", &bytes);
            let server = TestServer::builder(&tree).cache(cache).start().await;
            let client = server.client().await;
            let download = client.get(get("f")).await.unwrap();
            within("a change under a download", change(kind, &client)).await;
            let (got, _) = receive(download).await.unwrap();
            assert_same(got, &bytes);
            client.close().await;
            server.stop().await;
        }
    }
}

// P20, P22
#[tokio::test]
async fn a_file_changed_in_place_while_it_is_sent_ends_in_changed_and_no_file() {
    let changes: [fn(&Tree); 3] = [
        |tree| tree.overwrite("f", LARGE as u64 - 1, b"!"),
        |tree| tree.overwrite("f", 0, b"!"),
        |tree| tree.truncate("f", 1000),
    ];
    let bytes = content(1, LARGE);
    for change in changes {
        let tree = old_file(Tree::new(), "f", &bytes);
        let server = TestServer::builder(&tree).cache(0).start().await;
        let client = server.client().await;
        let local = scratch();
        let download = client.get(get("f")).await.unwrap();
        change(&tree);
        let (target, moved) = (local.path().join("f"), AtomicU64::new(0));
        let saving = download.save(&target, SaveOptions::default(), &moved);
        let error = within("a download", saving).await.unwrap_err();
        assert!(matches!(error, ClientError::Changed), "{error}");
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(names(local.path()).is_empty());
        client.close().await;
        server.stop().await;
    }
}

// P20
#[tokio::test]
async fn of_a_file_that_grows_while_it_is_sent_arrives_what_it_had() {
    let bytes = content(1, LARGE);
    for cache in [0, 64 << 20] {
        let tree = old_file(Tree::new(), "f", &bytes);
        let server = TestServer::builder(&tree).cache(cache).start().await;
        let client = server.client().await;
        let download = client.get(get("f")).await.unwrap();
        tree.append("f", b"more");
        let (got, fetched) = receive(download).await.unwrap();
        assert_same(got, &bytes);
        assert!(fetched.grew);
        client.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_file_changed_in_place_while_it_is_hashed_is_told() {
    let tree = Tree::new().file("f", "");
    // Large and sparse, so that hashing takes a while and creating it doesn't.
    tree.truncate("f", 64 << 20);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let asked: Hash = hash("f", DigestKind::Xxh3);
    let changing = async || -> std::convert::Infallible {
        loop {
            tree.overwrite("f", 0, b"!");
            client.ping().await.unwrap();
        }
    };
    let hashed = tokio::select! {
        hashed = client.hash(asked) => hashed,
        never = within("the digest of a file that changes", changing()) => match never {},
    };
    assert_eq!(refusal(hashed), ErrorCode::CHANGED);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_local_file_that_shrank_is_not_published_and_one_that_grew_as_it_was() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let bytes = content(1, 3 << 20);
    let store_altered = async |alter: fn(&Tree)| {
        let local = old_file(Tree::new(), "source", &bytes);
        let file = LocalFile::open(&local.path("source"), Links::Follow)
            .await
            .unwrap();
        let request = put("f", usize::try_from(file.size()).unwrap());
        alter(&local);
        client
            .put(request, file.into_content(), &AtomicU64::new(0))
            .await
    };
    let shrunk = store_altered(|local| local.truncate("source", 1000)).await;
    assert_eq!(refusal(shrunk), ErrorCode::CHANGED);
    assert_same(tree.read("f"), "old");
    let grown = store_altered(|local| local.append("source", b"more")).await;
    let grown = grown.unwrap();
    assert!(grown.grew);
    assert_eq!(grown.bytes, bytes.len() as u64);
    assert_same(tree.read("f"), &bytes);
    client.close().await;
    server.stop().await;
}

// P32
#[tokio::test]
async fn every_state_of_a_name_has_a_version_of_its_own() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let mut seen = std::collections::HashSet::new();
    for round in 0..200_u64 {
        // Same length and, as far as a client can set them, same times.
        let stored = store(&client, "f", &content(round, 100)).await.unwrap();
        assert!(seen.insert(stored.version.clone()), "a version came again");
        assert_eq!(version(&client, "f").await, stored.version);
    }
    let before = version(&client, "f").await;
    let renamed = client.rename(rename("f", "g")).await.unwrap().version;
    assert_eq!(version(&client, "g").await, renamed);
    let back = client.rename(rename("g", "f")).await.unwrap().version;
    assert_ne!(renamed, before);
    assert_ne!(renamed, back);
    client.close().await;
    server.stop().await;
}
