//! Transfers of many files that were named one by one.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quire_client::download::SaveOptions;
use quire_client::transfer::{self, DownloadJob, FetchOptions, Transfer};
use quire_client::{Client, ErrorKind};
use quire_shared::ErrorCode;
use quire_shared::limits::ENCLOSED_BYTES_MAX;

use super::{FailedEntry, noting_failures};
use quire_test_harness::client::path;
use quire_test_harness::tree::{HOSTILE_NAMES, names, scratch};
use quire_test_harness::{KIB, LARGE, TestServer, Tree, assert_same, content, within};

/// Fetches each of `wanted` to its own name in `to`; returns the names and codes of failures.
async fn fetch_each(
    client: &Client,
    wanted: &[String],
    to: &Path,
    overwrite: bool,
) -> (Arc<Transfer>, Vec<FailedEntry>) {
    let (transfer, failed) = noting_failures();
    let jobs = wanted.iter().map(|name| DownloadJob {
        from: path(name),
        to: to.join(path(name).name().unwrap().as_str()),
        contents: false,
    });
    let options = FetchOptions {
        save: SaveOptions {
            overwrite,
            ..SaveOptions::default()
        },
        ..FetchOptions::default()
    };
    let fetching = transfer::fetch(client, jobs.collect(), options, &transfer);
    within("many files", fetching).await;
    let mut failed = failed.lock().unwrap().clone();
    failed.sort_by(|(a, _), (b, _)| a.cmp(b));
    (transfer, failed)
}

/// How many requests of this kind the server has been asked.
fn asked(server: &TestServer, kind: &str) -> usize {
    let lines = server.log().lines();
    let is_asked = |line: &&String| line.contains(" asked") && line.contains(&format!("{kind}("));
    lines.iter().filter(is_asked).count()
}

#[tokio::test]
async fn many_operands_arrive_on_one_stream_with_contents_modes_and_times() {
    let tree = Tree::new();
    let mut wanted = Vec::new();
    let sizes = [0, 1, ENCLOSED_BYTES_MAX, ENCLOSED_BYTES_MAX + 1, LARGE];
    for size in sizes {
        wanted.push(format!("sizes/size-{size}"));
        tree.write(wanted.last().unwrap(), content(size as u64, size));
    }
    for (seed, name) in HOSTILE_NAMES.iter().enumerate() {
        wanted.push(format!("{seed}/{name}"));
        tree.write(wanted.last().unwrap(), content(seed as u64, 100));
    }
    for file in 0..500 {
        wanted.push(format!("many/{}/{file}", file % 7));
        tree.write(wanted.last().unwrap(), content(file, 5 * KIB));
    }
    let tree = tree.mode("many/0/0", 0o640);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::open(tree.path("many/1/1")).unwrap();
    file.set_modified(long_ago).unwrap();
    let present: Vec<_> = wanted.iter().map(|name| tree.read(name)).collect();
    wanted.push("missing/file".to_owned());
    wanted.push("sizes".to_owned());
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let client = server.client().await;
    let (transfer, failed) = fetch_each(&client, &wanted, here.path(), false).await;
    let refused = [
        ("/missing/file".to_owned(), Some(ErrorCode::NOT_FOUND)),
        ("/sizes".to_owned(), Some(ErrorCode::IS_DIRECTORY)),
    ];
    assert_eq!(failed, refused);
    assert_eq!(transfer.files(), present.len() as u64);
    assert_eq!(transfer.moved(), transfer.expected());
    assert_eq!(transfer.moved(), transfer.arrived());
    for (name, content) in wanted.iter().zip(present) {
        let local = here.path().join(path(name).name().unwrap().as_str());
        assert_same(fs::read(&local).unwrap(), content);
        let (local, remote) = (fs::metadata(local), fs::metadata(tree.path(name)));
        let (local, remote) = (local.unwrap(), remote.unwrap());
        assert_eq!(local.mtime_nsec(), remote.mtime_nsec(), "{name}");
        assert_eq!(local.mode(), remote.mode(), "{name}");
    }
    // Only the two that are too large have requests of their own.
    assert_eq!((asked(&server, "GetMany"), asked(&server, "Get")), (1, 2));
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_in_the_place_of_one_of_many_is_looked_at_before_its_content_comes() {
    let tree = Tree::new();
    let wanted: Vec<_> = (0..50).map(|file| format!("file-{file:02}")).collect();
    for name in &wanted {
        tree.write(name, content(1, 5 * KIB));
    }
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let client = server.client().await;
    fs::write(here.path().join("file-03"), "old").unwrap();
    fs::write(here.path().join("aim"), "old").unwrap();
    symlink("aim", here.path().join("file-04")).unwrap();
    let (transfer, failed) = fetch_each(&client, &wanted, here.path(), false).await;
    let expected = ["/file-03", "/file-04"].map(|name| (name.to_owned(), None));
    assert_eq!(failed, expected);
    assert_eq!(transfer.first_failure(), Some(ErrorKind::Conflict));
    assert_eq!(transfer.moved(), 48 * 5 * KIB as u64);
    assert_same(fs::read(here.path().join("file-03")).unwrap(), "old");
    let (_, failed) = fetch_each(&client, &wanted, here.path(), true).await;
    assert_eq!(failed, []);
    assert_eq!(names(here.path()).len(), 51);
    for name in ["aim", "file-03", "file-49"] {
        assert_same(
            fs::read(here.path().join(name)).unwrap(),
            content(1, 5 * KIB),
        );
    }
    assert!(here.path().join("file-04").is_symlink());
    assert_eq!(asked(&server, "GetMany"), 2);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn few_operands_are_asked_for_at_once() {
    let tree = Tree::new().file("a", "1").file("b", "2");
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let client = server.client().await;
    let wanted = ["a", "b"].map(str::to_owned);
    let (_, failed) = fetch_each(&client, &wanted, here.path(), false).await;
    assert_eq!(failed, []);
    assert_eq!((asked(&server, "GetMany"), asked(&server, "Get")), (0, 2));
    client.close().await;
    server.stop().await;
}
