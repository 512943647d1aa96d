//! Rights by path, as clients see them, and how they change during a connection.

use std::fs;
use std::path::PathBuf;

use quinn::ConnectionError;
use quire_client::ErrorKind;
use quire_client::{Client, ClientError};
use quire_server::auth::keyring::KeysFile;
use quire_shared::ErrorCode;
use quire_shared::protocol::{Delete, Put};
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{
    cached, copy, delete, fetch, list_names, make_directory, put, refusal, rename, stat, store,
    store_as,
};
use quire_test_harness::tree::scratch;
use quire_test_harness::{Raw, TestServer, Tree, within};

/// An authorized-keys file that a test edits.
struct KeysByRule {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl KeysByRule {
    fn new(text: &str) -> Self {
        let directory = scratch();
        let path = directory.path().join("authorized-keys");
        let keys = Self {
            _directory: directory,
            path,
        };
        keys.write(text);
        keys
    }

    /// Replaces the file in one step.
    fn write(&self, text: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    /// A server of `tree` that uses this file.
    async fn serve(&self, tree: &Tree) -> TestServer {
        let file = KeysFile::required(self.path.clone());
        let server = TestServer::builder(tree);
        let server = server.with(|config| config.authorized_keys = Some(file));
        server.start().await
    }
}

/// A server of `tree` that grants `rules` to an unknown key, and a connection with that key.
async fn with_rules(tree: &Tree, rules: &str) -> (TestServer, Client) {
    let server = TestServer::builder(tree).anonymous(rules).start().await;
    let client = server.connect(&server.keys().stranger).await.unwrap();
    (server, client)
}

// P39
#[tokio::test]
async fn a_drop_box_accepts_files_that_no_client_can_see() {
    let tree = Tree::new().file("in/old", "x").file("f", "x");
    let (server, client) = with_rules(&tree, "read,/in=create").await;
    store(&client, "in/new", b"content").await.unwrap();
    assert_eq!(tree.read("in/new"), b"content");
    // Answers don't tell whether a name exists.
    for name in ["in/old", "in/new", "in/absent"] {
        assert_eq!(refusal(fetch(&client, name).await), ErrorCode::NOT_FOUND);
        assert_eq!(refusal(client.stat(stat(name)).await), ErrorCode::NOT_FOUND);
        let deleted = client.delete(delete(name)).await;
        assert_eq!(refusal(deleted), ErrorCode::NOT_FOUND);
    }
    assert_eq!(
        refusal(list_names(&client, "in").await),
        ErrorCode::NOT_AUTHORIZED
    );
    assert_eq!(list_names(&client, "").await.unwrap(), ["f"]);
    // The right to create doesn't include to replace.
    let again = store(&client, "in/new", b"other").await;
    assert_eq!(refusal(again), ErrorCode::EXISTS);
    assert_eq!(tree.read("in/new"), b"content");
    client.close().await;
    server.stop().await;
}

// P39
#[tokio::test]
async fn what_may_not_be_shown_is_left_out() {
    let tree = Tree::new()
        .file("a/shown", "x")
        .file("a/private/deep/given", "x")
        .file("a/private/kept", "x")
        .file("b", "x");
    let rules = "write,/a/private=none,/a/private/deep=read";
    let (server, client) = with_rules(&tree, rules).await;
    assert_eq!(
        list_names(&client, "a").await.unwrap(),
        ["private", "shown"]
    );
    assert_eq!(list_names(&client, "a/private").await.unwrap(), ["deep"]);
    assert_eq!(
        list_names(&client, "a/private/deep").await.unwrap(),
        ["given"]
    );
    let kept = fetch(&client, "a/private/kept").await;
    assert_eq!(refusal(kept), ErrorCode::NOT_FOUND);
    fetch(&client, "a/private/deep/given").await.unwrap();
    // Paths that the owner fetched must not be visible to others.
    let owner = server.client().await;
    fetch(&owner, "a/private/kept").await.unwrap();
    fetch(&owner, "a/shown").await.unwrap();
    let is_private = |path: &str| path.starts_with("a/private/kept");
    let seen = cached(&client).await.unwrap().0;
    let seen: Vec<_> = seen.iter().map(|entry| entry.path.to_relative()).collect();
    assert!(!seen.iter().any(|path| is_private(path)), "{seen:?}");
    owner.close().await;
    client.close().await;
    server.stop().await;
}

// P39
#[tokio::test]
async fn a_directory_is_changed_only_with_the_right_to_all_that_is_below_it() {
    let tree = Tree::new()
        .file("a/private/x", "x")
        .file("a/y", "x")
        .file("b/z", "x");
    let (server, client) = with_rules(&tree, "write,/a/private=read,/c/d=none").await;
    let everything = |path: &str| Delete {
        recursive: true,
        ..delete(path)
    };
    for code in [
        refusal(client.delete(everything("a")).await),
        refusal(client.rename(rename("a", "e")).await),
        refusal(client.rename(rename("b", "c")).await),
        refusal(client.copy(copy("b", "c")).await),
        refusal(client.make_directory(make_directory("a/private/e")).await),
    ] {
        assert_eq!(code, ErrorCode::NOT_AUTHORIZED);
    }
    assert_eq!(tree.names(""), ["a", "b"]);
    client.delete(everything("b")).await.unwrap();
    client.delete(delete("a/y")).await.unwrap();
    assert_eq!(tree.names("a"), ["private"]);
    client.close().await;
    server.stop().await;
}

// P39
#[tokio::test]
async fn parents_are_made_only_where_the_client_may_create() {
    let tree = Tree::new().directory("in");
    let (server, client) = with_rules(&tree, "read,/in=put,/out/deep=put").await;
    let with_parents = |path: &str| Put {
        make_parents: true,
        ..put(path, 1)
    };
    store_as(&client, with_parents("in/a/b/c"), b"x")
        .await
        .unwrap();
    assert_eq!(tree.read("in/a/b/c"), b"x");
    let outside = store_as(&client, with_parents("out/deep/x"), b"x").await;
    assert_eq!(refusal(outside), ErrorCode::NOT_FOUND);
    assert!(!tree.has("out"));
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_key_that_is_taken_out_of_the_file_loses_its_connections() {
    let tree = Tree::new().file("f", "content");
    let keys = KeysByRule::new("");
    let server = keys.serve(&tree).await;
    let stranger = server.keys().stranger.clone();
    keys.write(&format!("{} write\n", stranger.fingerprint()));
    let client = server.connect(&stranger).await.unwrap();
    store(&client, "g", b"content").await.unwrap();
    let raw = Raw::connect(&server, &stranger).await;
    // A put in progress when the right is removed.
    let (mut send, _recv) = raw.begin(put("h", 100)).await;
    send.write_all(b"half of it").await.unwrap();

    keys.write("# no keys\n");
    let reason = within("the end", raw.connection.closed()).await;
    let ConnectionError::ApplicationClosed(close) = reason else {
        panic!("{reason}");
    };
    assert_eq!(close.error_code, to_quic(ErrorCode::NOT_AUTHORIZED));
    let error = within("the end", fetch(&client, "f")).await.unwrap_err();
    let ClientError::NotAuthorized { .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(error.kind(), ErrorKind::Refused);
    raw.close().await;
    client.close().await;
    // Connections with rights of their own stay.
    let writer = server.client().await;
    fetch(&writer, "g").await.unwrap();
    assert_eq!(refusal(fetch(&writer, "h").await), ErrorCode::NOT_FOUND);
    writer.close().await;
    server.stop().await;
}

// P4
#[tokio::test]
async fn a_key_that_was_taken_out_of_the_file_gets_nothing_when_it_comes_back() {
    let tree = Tree::new().file("f", "content");
    let keys = KeysByRule::new("");
    let server = keys.serve(&tree).await;
    let stranger = server.keys().stranger.clone();
    keys.write(&format!("{} write\n", stranger.fingerprint()));
    let connector = server.connector(server.address(), &stranger);
    let client = connector.connect().await.unwrap();
    fetch(&client, "f").await.unwrap();
    client.close().await;
    keys.write("# no keys\n");
    let client = connector.connect().await.unwrap();
    assert!(client.handshake().is_none(), "a session was continued");
    let error = fetch(&client, "f").await.unwrap_err();
    assert!(
        matches!(error, ClientError::NotAuthorized { .. }),
        "{error}"
    );
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn rights_change_under_a_connection_that_keeps_some() {
    let tree = Tree::new().file("f", "content");
    let keys = KeysByRule::new("");
    let server = keys.serve(&tree).await;
    let stranger = server.keys().stranger.clone();
    let grant = |rules: &str| keys.write(&format!("{} {rules}\n", stranger.fingerprint()));
    grant("write");
    let client = server.connect(&stranger).await.unwrap();
    assert!(client.ping().await.unwrap().writable);
    grant("read");
    // Each new connection makes the server check the file at once.
    let second = server.connect(&stranger).await.unwrap();
    assert!(!second.ping().await.unwrap().writable);
    let stored = within("the loss of a right", async {
        loop {
            let stored = store(&client, "f", b"other").await;
            if stored.is_err() {
                break stored;
            }
        }
    });
    assert_eq!(refusal(stored.await), ErrorCode::NOT_AUTHORIZED);
    second.close().await;
    // An unreadable file changes nothing.
    keys.write("rubbish\n");
    let third = server.connect(&stranger).await.unwrap();
    third.ping().await.unwrap();
    fetch(&client, "f").await.unwrap();
    third.close().await;
    client.close().await;
    server.stop_after_errors(&["rights are unchanged"]).await;
}
