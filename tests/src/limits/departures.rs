//! Requests whose client has gone: they end, whatever they do at the time.
//!
//! Each request of these tests would take hours, and so would the end of the server, which waits
//! for its requests.

use std::fs::File;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use quire_server::config::Config;
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{GetFile, GetItem, GetMany, GetTree, List, PutItem, PutMany, Request};
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{
    copy, delete_all, get, hash, make_directory, path, put, rename, stat,
};
use quire_test_harness::{Raw, TestServer, Tree, files, within};

const HOURS: Duration = Duration::from_secs(10 * 3600);

/// A server whose requests may take hours, of a tree with an endless file and a directory.
async fn patient_server(tree: &Tree) -> TestServer {
    let endless = File::create(tree.path("endless")).unwrap();
    endless.set_len(1 << 40).unwrap();
    let patient = |config: &mut Config| {
        config.drain = HOURS;
        config.lock_limit = HOURS;
    };
    TestServer::builder(tree).with(patient).start().await
}

/// Begins a request, and returns when the server carries it out.
async fn begin(
    server: &TestServer,
    raw: &Raw,
    request: impl Into<Request>,
) -> (SendStream, RecvStream) {
    let asked = || {
        let lines = server.log().lines();
        lines.iter().filter(|line| line.contains(" asked")).count()
    };
    let before = asked();
    let streams = raw.begin(request).await;
    let begun = async {
        while asked() == before {
            tokio::task::yield_now().await;
        }
    };
    within("a request", begun).await;
    streams
}

fn requests() -> Vec<Request> {
    let tree = GetTree {
        path: path("d"),
        digest: DigestKind::Xxh3,
        enclose_max: 0,
        details: Default::default(),
        describe_linked: false,
    };
    let list = List {
        path: path("d"),
        after: None,
    };
    vec![
        hash("endless", DigestKind::Xxh3).into(),
        copy("endless", "copy").into(),
        // The rest waits for locks.
        get("d/f").into(),
        hash("d/f", DigestKind::Xxh3).into(),
        put("d/new", 1).into(),
        list.into(),
        stat("d/f").into(),
        rename("d/f", "d/g").into(),
        delete_all("d").into(),
        make_directory("d/new").into(),
        copy("d/f", "copy").into(),
        tree.into(),
    ]
}

#[tokio::test]
async fn a_request_ends_when_its_client_cancels_it() {
    let tree = Tree::new().file("d/f", "content");
    let server = patient_server(&tree).await;
    let holder = files::caller(server.files(), "write");
    let hold = server.files().hold(&holder, &path("d")).await.unwrap();
    let raw = server.raw().await;
    for request in requests() {
        let (_send, mut recv) = begin(&server, &raw, request).await;
        recv.stop(to_quic(ErrorCode::CANCELLED)).unwrap();
    }
    // A batch whose commit waits for locks.
    let (mut send, mut recv) = begin(&server, &raw, PutMany {}).await;
    let item = PutItem::Directory(make_directory("d/new"));
    send.write_all(&codec::encode(&item).unwrap())
        .await
        .unwrap();
    recv.stop(to_quic(ErrorCode::CANCELLED)).unwrap();
    // A read that waits for a lock.
    let (mut send, mut recv) = begin(&server, &raw, GetMany::default()).await;
    let item = GetItem::File(GetFile { path: path("d/f") });
    send.write_all(&codec::encode(&item).unwrap())
        .await
        .unwrap();
    recv.stop(to_quic(ErrorCode::CANCELLED)).unwrap();
    server.begin_stop();
    within("the end of the requests", raw.connection.closed()).await;
    drop(hold);
    raw.close().await;
    server.stop().await;
    assert_eq!(tree.names("d"), ["f"]);
}

#[tokio::test]
async fn a_request_ends_when_its_client_closes_the_connection() {
    let tree = Tree::new().file("d/f", "content");
    let server = patient_server(&tree).await;
    let holder = files::caller(server.files(), "write");
    let hold = server.files().hold(&holder, &path("d")).await.unwrap();
    let held = server.locked_paths();
    let raw = server.raw().await;
    let mut streams = Vec::new();
    for request in requests() {
        streams.push(begin(&server, &raw, request).await);
    }
    raw.close().await;
    let unlocked = async {
        while server.locked_paths() > held {
            tokio::task::yield_now().await;
        }
    };
    within("the end of the requests", unlocked).await;
    drop(hold);
    server.stop().await;
    assert_eq!(tree.names("d"), ["f"]);
}
