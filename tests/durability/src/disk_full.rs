//! Disks that are really full, out of inodes or read-only, and a server without file handles.
//!
//! Nothing is acknowledged, the old content stays, the space is freed, and the next put works as soon
//! as there is room.
//!
//! `each_call` injects the same errors into every system call. EDQUOT is only there, because kernels
//! without quotas are common.

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::time::Instant;

use quire_client::{Client, ClientError};
use quire_shared::ErrorCode;
use quire_shared::protocol::Put;
use rustix::fs::statvfs;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tokio::task::JoinSet;

use crate::power::SmallDisk;
use quire_test_harness::client::{delete, fetch, make_directory, put, rename, store, store_as};
use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::raw::refusal_on;
use quire_test_harness::server::STAGING;
use quire_test_harness::tree::names;
use quire_test_harness::{TestServer, Tree, assert_same, content, within};

/// Expects a refusal for one of these reasons; returns how long it took.
#[expect(clippy::print_stderr, reason = "the full runs are read by people")]
async fn refused<T: Debug>(
    what: &str,
    codes: &[ErrorCode],
    request: impl Future<Output = Result<T, ClientError>>,
) {
    let start = Instant::now();
    let outcome = within(what, request).await;
    let took = start.elapsed();
    let error = outcome.expect_err(what);
    let code = error.code();
    assert!(
        code.is_some_and(|code| codes.contains(&code)),
        "{what}: {error}"
    );
    eprintln!("{what}: {error} after {took:?}");
}

/// Free blocks and inodes.
fn free(root: &Path) -> (u64, u64) {
    let found = statvfs(root).unwrap();
    (found.f_bfree, found.f_ffree)
}

fn assert_nothing_staged(root: &Path) {
    let left = names(&root.join(STAGING));
    assert!(left.is_empty(), "left in staging: {left:?}");
}

/// Takes all space but `left` bytes, as another program would; deleting the file `filler` frees it.
fn fill(root: &Path, left: u64) {
    let found = statvfs(root).unwrap();
    let take = found.f_bavail * found.f_frsize - left;
    let filler = std::fs::File::create(root.join("filler")).unwrap();
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, take).unwrap();
    filler.sync_all().unwrap();
}

/// A body of unknown length, as from a pipe.
fn undeclared(file: &str) -> Put {
    Put {
        size: None,
        ..put(file, 0)
    }
}

/// A server of `root` with the file `f` and its staging directory made, and a client.
async fn serve(root: &Path) -> (TestServer, Client) {
    std::fs::write(root.join("f"), "old").unwrap();
    let server = TestServer::builder_at(root).start().await;
    let client = server.client().await;
    store(&client, "warm", b"x").await.unwrap();
    (server, client)
}

/// Waits until the disk has all its blocks and inodes back. A process that a test beside this one starts
/// has copies of all open files until it is another program, so that a removed file may live as long.
async fn has_back(root: &Path, before: (u64, u64)) {
    let waiting = async {
        while free(root) != before {
            tokio::task::yield_now().await;
        }
    };
    within("blocks and inodes", waiting).await;
}

/// Checks that the refused changes succeed now.
async fn works_again(server: TestServer, client: Client) {
    store(&client, "f", b"new").await.unwrap();
    assert_same(fetch(&client, "f").await.unwrap(), "new");
    client.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gets_full_in_mid_body_keeps_the_old_content_and_gets_its_space_back() {
    let Some(disk) = SmallDisk::new(16 << 20, 128) else {
        return;
    };
    let root = disk.root();
    let (server, client) = serve(&root).await;
    fill(&root, 4 << 20);
    let before = free(&root);
    let body = content(1, 12 << 20);
    for _ in 0..3 {
        let storing = store_as(&client, undeclared("f"), &body);
        refused("a full disk in mid-body", &[ErrorCode::NO_SPACE], storing).await;
        assert_nothing_staged(&root);
        has_back(&root, before).await;
    }
    assert_same(fetch(&client, "f").await.unwrap(), "old");
    works_again(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_fit_is_refused_before_any_of_it_was_sent() {
    let Some(disk) = SmallDisk::new(16 << 20, 128) else {
        return;
    };
    let root = disk.root();
    let server = TestServer::builder_at(&root).start().await;
    let client = server.client().await;
    store(&client, "warm", b"x").await.unwrap();
    client.close().await;
    let raw = server.raw().await;
    fill(&root, 4 << 20);
    let before = free(&root);
    let (send, mut recv) = raw.begin(put("f", 8 << 20)).await;
    assert_eq!(refusal_on(&mut recv).await, ErrorCode::NO_SPACE);
    assert_nothing_staged(&root);
    has_back(&root, before).await;
    drop(send);
    raw.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_without_a_block_nothing_is_stored_and_room_can_be_made() {
    let Some(disk) = SmallDisk::new(16 << 20, 1024) else {
        return;
    };
    let root = disk.root();
    let (server, client) = serve(&root).await;
    fill(&root, 0);
    let full = &[ErrorCode::NO_SPACE];
    let large = content(1, 1 << 20);
    refused("a small put", full, store(&client, "f", b"new")).await;
    refused("a large put", full, store(&client, "f", &large)).await;
    let storing = store_as(&client, undeclared("f"), &large);
    refused("a put from a pipe", full, storing).await;
    let making = client.make_directory(make_directory("d"));
    refused("a directory", full, making).await;
    let copying = client.copy(quire_test_harness::client::copy("f", "g"));
    refused("a copy", full, copying).await;
    assert_nothing_staged(&root);
    assert_same(fetch(&client, "f").await.unwrap(), "old");
    // Neither needs space.
    client.rename(rename("f", "moved")).await.unwrap();
    client.delete(delete("filler")).await.unwrap();
    works_again(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_without_an_inode_nothing_is_stored_and_one_can_be_freed() {
    let Some(disk) = SmallDisk::new(16 << 20, 64) else {
        return;
    };
    let root = disk.root();
    let (server, client) = serve(&root).await;
    let mut taken = 0;
    while std::fs::write(root.join(format!("taken-{taken}")), "").is_ok() {
        taken += 1;
    }
    assert_eq!(free(&root).1, 0, "free inodes");
    let full = &[ErrorCode::NO_SPACE];
    refused("a new file", full, store(&client, "new", b"new")).await;
    refused("a new content", full, store(&client, "f", b"new")).await;
    let making = client.make_directory(make_directory("d"));
    refused("a new directory", full, making).await;
    assert_nothing_staged(&root);
    assert_same(fetch(&client, "f").await.unwrap(), "old");
    client.delete(delete("taken-0")).await.unwrap();
    works_again(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_remounted_read_only_is_read_and_written_again_after() {
    let Some(disk) = SmallDisk::new(16 << 20, 64) else {
        return;
    };
    let root = disk.root();
    let (server, client) = serve(&root).await;
    disk.remount("ro");
    let refusal = &[ErrorCode::READ_ONLY];
    refused("a put", refusal, store(&client, "f", b"new")).await;
    refused("a rename", refusal, client.rename(rename("f", "g"))).await;
    refused("a deletion", refusal, client.delete(delete("f"))).await;
    let making = client.make_directory(make_directory("d"));
    refused("a directory", refusal, making).await;
    assert_same(fetch(&client, "f").await.unwrap(), "old");
    disk.remount("rw");
    works_again(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gives_up_in_mid_body_has_the_old_content_when_it_comes_back() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let Some(mut disk) = SmallDisk::new(32 << 20, 64) else {
        return;
    };
    let root = disk.root();
    let server = programs.serve(&root);
    let client = programs.client(&server).await;
    store(&client, "f", b"old").await.unwrap();
    let (pipe, mut body) = std::io::pipe().unwrap();
    let storing = {
        let content = quire_client::upload::UploadBody::stream(pipe, "pipe");
        let (client, put) = (client.clone(), undeclared("f"));
        async move { client.put(put, content, &Default::default()).await }
    };
    let mut storing = JoinSet::from_iter([storing]);
    let bytes = content(1, 8 << 20);
    std::io::Write::write_all(&mut body, &bytes).unwrap();
    within("a staged file", async {
        while names(&root.join(STAGING)).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The kernel does this to a disk whose journal it can't write.
    disk.remount("abort");
    let rest = std::thread::spawn(move || {
        // Fails as soon as the client has the answer it needs.
        let _ = std::io::Write::write_all(&mut body, &bytes);
    });
    let codes = &[ErrorCode::DISK, ErrorCode::READ_ONLY];
    refused("a disk that gave up in mid-body", codes, async {
        storing.join_next().await.unwrap().unwrap()
    })
    .await;
    rest.join().unwrap();
    refused("the next put", codes, store(&client, "g", b"new")).await;
    assert_same(fetch(&client, "f").await.unwrap(), "old");
    drop((client, server));
    disk.mount().unwrap();
    let server = programs.serve(&root);
    let client = programs.client(&server).await;
    assert!(!root.join(STAGING).exists() || names(&root.join(STAGING)).is_empty());
    assert_same(fetch(&client, "f").await.unwrap(), "old");
    store(&client, "g", b"new").await.unwrap();
    client.close().await;
    drop(server);
}

/// Limits the number of the server's file handles.
fn limit_handles(server: &ServerProcess, handles: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(handles),
        maximum,
    };
    prlimit(Some(server.pid()), Resource::Nofile, limit).unwrap();
}

async fn handles_run_out(client: &Client, server: &ServerProcess) {
    limit_handles(server, 3);
    let limit = &[ErrorCode::LIMIT];
    refused("a put", limit, store(client, "f", b"new")).await;
    refused("a get", limit, fetch(client, "f")).await;
    refused("a rename", limit, client.rename(rename("f", "g"))).await;
    refused("a deletion", limit, client.delete(delete("f"))).await;
    limit_handles(server, 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_handles_refuses_and_works_on_when_it_has_some() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "old");
    let server = programs.serve(&tree.root());
    let client = programs.client(&server).await;
    store(&client, "warm", b"x").await.unwrap();
    handles_run_out(&client, &server).await;
    assert_same(tree.read("f"), "old");
    assert!(tree.names(STAGING).is_empty());
    store(&client, "f", b"new").await.unwrap();
    assert_same(fetch(&client, "f").await.unwrap(), "new");
    client.close().await;
}
