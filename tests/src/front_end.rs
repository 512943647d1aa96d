//! The seam between front ends and operations: a second front end beside QUIC, in few lines.
//!
//! It speaks one line per request over TCP: `GET path`, `LIST path` and `PUT path size`, the last
//! with so many bytes behind it. There is no line in it about rights, quotas or locks, and yet they
//! hold, because `quire_server::files::Files` is all that it can call.

mod layers;
mod line_protocol;

use std::time::Duration;

use line_protocol::LineServer;
use quire_server::config::limits::Limit;
use quire_server::files::ChangeNotice;
use quire_shared::RemotePath;
use quire_test_harness::client::{fetch, store};
use quire_test_harness::{TestServer, Tree, files};

#[tokio::test]
async fn a_second_front_end_serves_the_same_files() {
    let tree = Tree::new().file("a", "content").file("d/b", "x");
    let server = TestServer::start(&tree).await;
    let front_end = LineServer::start(server.files(), "write").await;
    let mut changes = server.files().subscribe();

    assert_eq!(front_end.ask("GET /a", b"").await, "ok 7\ncontent");
    assert_eq!(front_end.ask("LIST /", b"").await, "ok 2\na\nd\n");
    assert_eq!(front_end.ask("PUT /d/new 3", b"new").await, "ok 0\n");

    let new = RemotePath::parse("d/new").unwrap();
    assert_eq!(changes.recv().await.unwrap(), ChangeNotice::Written(new));
    let client = server.client().await;
    assert_eq!(fetch(&client, "d/new").await.unwrap(), b"new");
    store(&client, "d/old", b"by QUIC").await.unwrap();
    assert_eq!(front_end.ask("GET /d/old", b"").await, "ok 7\nby QUIC");

    drop(client);
    front_end.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_caller_without_rights_is_refused() {
    let tree = Tree::new().file("a", "content").file("private/b", "x");
    let server = TestServer::start(&tree).await;
    let front_end = LineServer::start(server.files(), "read,/private=none").await;

    assert_eq!(front_end.ask("GET /a", b"").await, "ok 7\ncontent");
    assert_eq!(front_end.ask("PUT /a 1", b"x").await, "error 13\n");
    // What the rules hide is answered like a name that doesn't exist.
    let missing = front_end.ask("GET /missing", b"").await;
    assert_eq!(front_end.ask("GET /private/b", b"").await, missing);
    assert_eq!(front_end.ask("LIST /", b"").await, "ok 1\na\n");
    assert_eq!(tree.read("a"), b"content");

    front_end.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_caller_over_quota_is_refused() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.daily_bytes = Limit(Some(10)))
        .start()
        .await;
    let front_end = LineServer::start(server.files(), "write").await;

    assert_eq!(front_end.ask("PUT /a 8", b"12345678").await, "ok 0\n");
    assert_eq!(front_end.ask("PUT /b 3", b"123").await, "error 29\n");
    assert_eq!(front_end.ask("PUT /b 2", b"12").await, "ok 0\n");

    front_end.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_caller_against_a_lock_is_refused() {
    let tree = Tree::new().file("d/a", "content");
    let server = TestServer::builder(&tree)
        .with(|config| config.lock_limit = Duration::from_millis(20))
        .start()
        .await;
    let front_end = LineServer::start(server.files(), "write").await;
    let holder = files::caller(server.files(), "write");
    let directory = RemotePath::parse("d").unwrap();

    let hold = server.files().hold(&holder, &directory).await.unwrap();
    assert_eq!(front_end.ask("PUT /d/a 1", b"x").await, "error 16\n");
    assert_eq!(front_end.ask("GET /d/a", b"").await, "error 16\n");
    // Its own operations pass.
    let of_holder = LineServer::start_as(server.files(), holder).await;
    assert_eq!(of_holder.ask("PUT /d/a 3", b"new").await, "ok 0\n");
    drop(hold);
    assert_eq!(front_end.ask("GET /d/a", b"").await, "ok 3\nnew");

    front_end.stop().await;
    of_holder.stop().await;
    server.stop().await;
}
