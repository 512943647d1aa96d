//! Shutdown of a server: running requests finish, no new ones start, and the next server starts clean.

use quinn::ConnectionError;
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Changed, Trailer};
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{fetch, get, list_names, put, receive, refusal, store};
use quire_test_harness::raw::reply;
use quire_test_harness::server::STAGING;
use quire_test_harness::{LARGE, TestServer, Tree, assert_same, content, within};

#[tokio::test]
async fn a_server_that_stops_finishes_what_runs_and_takes_nothing_new() {
    let (old, new) = (content(1, LARGE), content(2, 300_000));
    let tree = Tree::new().file("f", &old);
    let server = TestServer::builder(&tree).cache(0).start().await;
    let (client, raw) = (server.client().await, server.raw().await);
    let idle = server.client().await;
    let download = client.get(get("f")).await.unwrap();
    let (mut send, mut recv) = raw.begin(put("g", new.len())).await;
    send.write_all(&new[..1000]).await.unwrap();
    // The put is in progress when its staged file exists.
    let staged = async {
        while !tree.has(STAGING) || tree.names(STAGING).is_empty() {
            client.ping().await.unwrap();
        }
    };
    within("the staged file", staged).await;

    server.begin_stop();
    // A connection without requests is closed first, which shows that the shutdown is in progress.
    let gone = async { while idle.ping().await.is_ok() {} };
    within("the stop", gone).await;
    // One that comes now is told the same, and at once.
    let late = server.connect(&server.keys().writer).await.unwrap();
    assert_eq!(refusal(late.ping().await), ErrorCode::SHUTTING_DOWN);
    late.close().await;
    receive_rest(download, &old).await;
    send.write_all(&new[1000..]).await.unwrap();
    let mut hasher = DigestKind::Xxh3.hasher();
    hasher.update(&new);
    let trailer = Trailer {
        digest: hasher.finish(),
        grew: false,
    };
    send.write_all(&codec::encode(&trailer).unwrap())
        .await
        .unwrap();
    send.finish().unwrap();
    reply::<Changed>(&mut recv)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    assert_same(tree.read("g"), &new);
    drop((send, recv));
    let reason = within("the end of the connection", raw.connection.closed()).await;
    assert!(
        matches!(&reason, ConnectionError::ApplicationClosed(close)
            if close.error_code == to_quic(ErrorCode::SHUTTING_DOWN)),
        "{reason}"
    );
    raw.close().await;
    client.close().await;
    idle.close().await;
    server.stop().await;
}

async fn receive_rest(download: quire_client::download::Download, expected: &[u8]) {
    let (got, _) = receive(download).await.unwrap();
    assert_same(got, expected);
}

#[tokio::test]
async fn a_client_of_a_server_that_has_stopped_hears_why() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    server.begin_stop();
    let refused = async {
        loop {
            if let Err(error) = client.ping().await {
                return error;
            }
        }
    };
    let error = within("the stop", refused).await;
    assert_eq!(refusal::<()>(Err(error)), ErrorCode::SHUTTING_DOWN);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_root_serves_but_does_not_write() {
    let tree = Tree::new().file("f", "old");
    let (one, other) = (
        TestServer::start(&tree).await,
        TestServer::start(&tree).await,
    );
    let (writer, late) = (one.client().await, other.client().await);
    assert!(writer.ping().await.unwrap().writable);
    assert!(!late.ping().await.unwrap().writable);
    store(&writer, "f", b"new").await.unwrap();
    assert_eq!(
        refusal(store(&late, "f", b"other").await),
        ErrorCode::READ_ONLY
    );
    assert_eq!(
        refusal(store(&late, "g", b"other").await),
        ErrorCode::READ_ONLY
    );
    assert_same(fetch(&late, "f").await.unwrap(), "new");
    assert_eq!(list_names(&late, "").await.unwrap(), ["f"]);
    // The first server's staging directory is unchanged.
    store(&writer, "f", b"newer").await.unwrap();
    writer.close().await;
    one.stop().await;
    // A process that another test starts right now holds the lock until it has become its program.
    let writable = async { while !late.ping().await.unwrap().writable {} };
    within("the lock of the server that has gone", writable).await;
    store(&late, "g", b"other").await.unwrap();
    assert_same(tree.read("g"), "other");
    late.close().await;
    other.stop().await;
}

// P24
#[tokio::test]
async fn a_server_clears_away_what_a_killed_one_left() {
    use std::os::unix::fs::PermissionsExt;
    let tree = Tree::new().file("f", "old");
    tree.write(&format!("{STAGING}/half a file"), "half");
    tree.write(&format!("{STAGING}/deleted/below/file"), "x");
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(tree.path(STAGING), private).unwrap();
    let server = TestServer::start(&tree).await;
    assert_eq!(tree.names(""), ["f"]);
    let client = server.client().await;
    store(&client, "f", b"new").await.unwrap();
    assert!(tree.names(STAGING).is_empty());
    client.close().await;
    server.stop().await;
    assert_eq!(tree.names(""), ["f"]);
}

#[tokio::test]
async fn a_root_that_cannot_be_served_is_told_at_the_start() {
    let tree = Tree::new().file("f", "content");
    let fails = async |root: &std::path::Path| match TestServer::builder_at(root).try_start().await
    {
        Err(error) => error.chain(),
        Ok(_) => panic!("{} is served", root.display()),
    };
    let missing = fails(&tree.path("missing")).await;
    assert!(
        missing.contains("missing") && missing.contains("no such directory"),
        "{missing}"
    );
    let file = fails(&tree.path("f")).await;
    assert!(file.ends_with("not a directory"), "{file}");
}

#[tokio::test]
async fn a_root_that_holds_the_secrets_of_the_server_is_refused() {
    let tree = Tree::new().directory("d/state").file("keys", "");
    for secret in ["d/state", "keys", "d/not/made/yet", ""] {
        let secret = tree.path(secret);
        let builder = TestServer::builder(&tree).with(|config| config.secrets.push(secret.clone()));
        match builder.try_start().await {
            Err(error) => assert!(error.chain().contains("must not lie"), "{}", error.chain()),
            Ok(_) => panic!("{} is served", secret.display()),
        }
    }
    let outside = tree.outside().join("state");
    let builder = TestServer::builder(&tree).with(|config| config.secrets.push(outside));
    builder.start().await.stop().await;
}
