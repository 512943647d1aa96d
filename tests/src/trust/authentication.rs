//! Authentication of both ends, and the answers to those that fail it.

use std::path::Path;

use quinn::ConnectionError;
use quire_certs::{Identity, Role, StateDir, load_or_create, replace};
use quire_client::ErrorKind;
use quire_client::known_servers::{KnownServers, ServerId};
use quire_client::trust::{Refusal, ServerVerifier};
use quire_client::{Client, ClientError};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Get, Hash, List, Ping, Reply};
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{
    copy, delete, fetch, get, list, make_directory, refusal, rename, stat, store,
};
use quire_test_harness::raw::encoded;
use quire_test_harness::tree::scratch;
use quire_test_harness::{Raw, TestServer, Tree, within};

fn state_dir(directory: &tempfile::TempDir) -> StateDir {
    StateDir::open(Some(&directory.path().join("state"))).unwrap()
}

async fn connect(server: &TestServer, dir: &StateDir) -> Result<Client, ClientError> {
    let verifier = ServerVerifier::new(server.id(), dir).unwrap();
    Client::connect(&server.id(), &server.keys().writer, verifier).await
}

#[track_caller]
fn refusal_of(result: Result<Client, ClientError>) -> Refusal {
    match result.expect_err("it is trusted") {
        error @ ClientError::NotTrusted(_) if error.kind() != ErrorKind::Unreachable => {
            panic!("wrong exit status: {error}")
        }
        ClientError::NotTrusted(refusal) => *refusal,
        error => panic!("{error}"),
    }
}

// P2
#[tokio::test]
async fn a_server_is_unknown_until_accepted_and_known_from_then_on() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let directory = scratch();
    let dir = state_dir(&directory);
    let refusal = refusal_of(connect(&server, &dir).await);
    let Refusal::Unknown { seen, .. } = refusal else {
        panic!("{refusal}");
    };
    assert_eq!(seen, server.fingerprint());

    // Trust on first use pins the key that was shown, and remembers it.
    let verifier = ServerVerifier::pinned(server.id(), seen);
    let pinned = Client::connect(&server.id(), &server.keys().writer, verifier)
        .await
        .unwrap();
    pinned.ping().await.unwrap();
    KnownServers::new(dir.clone())
        .add(&server.id(), seen)
        .unwrap();
    let known = connect(&server, &dir).await.unwrap();
    known.ping().await.unwrap();
    pinned.close().await;
    known.close().await;
    server.stop().await;
}

// P2
#[tokio::test]
async fn a_server_whose_key_has_changed_is_refused_with_both_fingerprints() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let directory = scratch();
    let dir = state_dir(&directory);
    let old = Identity::generate(&[]).unwrap().fingerprint();
    KnownServers::new(dir.clone())
        .add(&server.id(), old)
        .unwrap();
    let error = connect(&server, &dir).await.expect_err("it is trusted");
    let shown = error.to_string();
    assert!(shown.contains(&old.to_string()), "{shown}");
    assert!(shown.contains(&server.fingerprint().to_string()), "{shown}");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let verifier = ServerVerifier::pinned(server.id(), old);
    let pinned = Client::connect(&server.id(), &server.keys().writer, verifier).await;
    assert!(matches!(refusal_of(pinned), Refusal::NotPinned { .. }));
    server.stop().await;
}

#[tokio::test]
async fn a_server_with_the_same_state_directory_is_trusted() {
    let tree = Tree::new();
    let directory = scratch();
    let dir = state_dir(&directory);
    let own = load_or_create(&dir, Role::Server).unwrap();
    let server = TestServer::builder(&tree)
        .with(|config| config.identity = own)
        .start()
        .await;
    let client = connect(&server, &dir).await.unwrap();
    client.ping().await.unwrap();
    client.close().await;
    // With another identity in its place the running server is unknown.
    replace(&dir, Role::Server).unwrap();
    let refusal = refusal_of(connect(&server, &dir).await);
    assert!(matches!(refusal, Refusal::Unknown { .. }), "{refusal}");
    server.stop().await;
}

#[tokio::test]
async fn an_authority_is_enough_and_only_for_the_right_name() {
    let tree = Tree::new();
    let directory = scratch();
    let dir = state_dir(&directory);
    // A self-signed certificate.
    let own = load_or_create(&dir, Role::Server).unwrap();
    let ca = Role::Server.path(&dir);
    let server = TestServer::builder(&tree)
        .with(|config| config.identity = own)
        .start()
        .await;
    let by_ca = async |id: &ServerId, ca: &Path| {
        let verifier = ServerVerifier::with_ca(id.clone(), ca).unwrap();
        Client::connect(id, &server.keys().writer, verifier).await
    };
    let client = by_ca(&server.id(), &ca).await.unwrap();
    client.ping().await.unwrap();
    client.close().await;
    let other = scratch();
    let other_dir = state_dir(&other);
    load_or_create(&other_dir, Role::Server).unwrap();
    let refusal = refusal_of(by_ca(&server.id(), &Role::Server.path(&other_dir)).await);
    assert!(matches!(refusal, Refusal::NotByCa { .. }), "{refusal}");
    let loopback = ServerId::new("127.0.0.2", server.id().port()).unwrap();
    assert_ne!(loopback, server.id());
    server.stop().await;
}

#[tokio::test]
async fn a_server_with_a_certificate_for_another_name_is_refused() {
    let tree = Tree::new();
    let directory = scratch();
    let dir = state_dir(&directory);
    load_or_create(&dir, Role::Client).unwrap();
    // A client's certificate is for no name at all.
    let nameless = Identity::from_pem_file(&Role::Client.path(&dir)).unwrap();
    let server = TestServer::builder(&tree)
        .with(|config| config.identity = nameless)
        .start()
        .await;
    let verifier = ServerVerifier::with_ca(server.id(), &Role::Client.path(&dir)).unwrap();
    let refusal = refusal_of(Client::connect(&server.id(), &server.keys().writer, verifier).await);
    assert!(matches!(refusal, Refusal::WrongName { .. }), "{refusal}");
    server.stop().await;
}

// P3
#[tokio::test]
async fn an_unknown_key_is_refused_with_its_fingerprint() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::start(&tree).await;
    let stranger = &server.keys().stranger;
    let client = server.connect(stranger).await.unwrap();
    let error = within("the end", fetch(&client, "f")).await.unwrap_err();
    assert!(
        matches!(error, ClientError::NotAuthorized { .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&stranger.fingerprint().to_string()),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Refused);
    client.close().await;

    let raw = Raw::connect(&server, stranger).await;
    let reason = within("the end", raw.connection.closed()).await;
    let ConnectionError::ApplicationClosed(close) = reason else {
        panic!("{reason}");
    };
    assert_eq!(close.error_code, to_quic(ErrorCode::NOT_AUTHORIZED));
    raw.close().await;
    server.stop().await;
}

// P3
#[tokio::test]
async fn a_client_without_a_certificate_has_the_rights_of_the_anonymous() {
    let tree = Tree::new().file("f", "content");
    for rights in ["none", "read", "write"] {
        let server = TestServer::builder(&tree).anonymous(rights).start().await;
        let raw = Raw::try_connect(&server, None, b"quire/1").await.unwrap();
        if rights == "none" {
            let reason = within("the end", raw.connection.closed()).await;
            assert!(
                matches!(reason, ConnectionError::ApplicationClosed(_)),
                "{reason}"
            );
        } else {
            let pong = raw
                .ask::<quire_shared::protocol::Pong>(&encoded(Ping::default()))
                .await;
            let Reply::Ok(pong) = pong else {
                panic!("refused")
            };
            assert_eq!(pong.writable, rights == "write");
        }
        raw.close().await;
        // An unknown key is no better than none.
        let client = server.connect(&server.keys().stranger).await.unwrap();
        match rights {
            "none" => assert_eq!(
                refusal(fetch(&client, "f").await),
                ErrorCode::NOT_AUTHORIZED
            ),
            "read" => {
                fetch(&client, "f").await.unwrap();
                let stored = store(&client, "f", b"content").await;
                assert_eq!(refusal(stored), ErrorCode::NOT_AUTHORIZED);
            }
            _ => drop(store(&client, "f", b"content").await.unwrap()),
        }
        client.close().await;
        // Nor does a right of all clients take one from a known client.
        let reader = server.connect(&server.keys().reader).await.unwrap();
        fetch(&reader, "f").await.unwrap();
        reader.close().await;
        server.stop().await;
    }
}

// P16
#[tokio::test]
async fn a_key_that_may_only_read_changes_nothing() {
    let tree = Tree::new().file("f", "content").directory("d");
    let server = TestServer::start(&tree).await;
    let reader = server.connect(&server.keys().reader).await.unwrap();
    let get: Get = get("f");
    let hash: Hash = quire_test_harness::client::hash("f", get.digest);
    let everything: List = List {
        path: get.path.clone().parent().unwrap(),
        after: None,
    };
    reader.list(everything).await.unwrap();
    list(&reader, "d").await.unwrap();
    fetch(&reader, "f").await.unwrap();
    reader.stat(stat("f")).await.unwrap();
    reader.hash(hash).await.unwrap();
    reader.cache().await.unwrap();
    for code in [
        refusal(store(&reader, "g", b"x").await),
        refusal(reader.rename(rename("f", "g")).await),
        refusal(reader.delete(delete("f")).await),
        refusal(reader.make_directory(make_directory("e")).await),
        refusal(reader.copy(copy("f", "g")).await),
    ] {
        assert_eq!(code, ErrorCode::NOT_AUTHORIZED);
    }
    assert_eq!(tree.names(""), ["d", "f"]);
    reader.close().await;
    server.stop().await;
}

// P1
#[tokio::test]
async fn a_client_of_another_protocol_is_refused_in_the_handshake() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let writer = server.keys().writer.clone();
    for alpn in [&b"h3"[..], b"quire/2", b"quire"] {
        let error = Raw::try_connect(&server, Some(&writer), alpn)
            .await
            .unwrap_err();
        let code = match &error {
            ConnectionError::ConnectionClosed(close) => close.error_code,
            ConnectionError::TransportError(error) => error.code,
            error => panic!("{error}"),
        };
        // The alert no_application_protocol of RFC 7301, §3.2.
        assert_eq!(code, quinn::TransportErrorCode::crypto(120), "{error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_key_is_known_by_itself_and_not_by_its_certificate() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    // The certificate of a client that may write, with the key of one that may not.
    let (writer, stranger) = (&server.keys().writer, &server.keys().stranger);
    let signer = rustls::crypto::ring::sign::any_supported_type(&stranger.private_key()).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(writer.chain().to_vec(), signer);
    assert!(stolen.keys_match().is_err());
    let refused = Raw::try_connect_as(&server, stolen).await;
    match refused {
        Err(ConnectionError::ConnectionClosed(_) | ConnectionError::TransportError(_)) => {}
        Err(error) => panic!("{error}"),
        // The handshake is complete for the client before the server has checked its signature.
        Ok(raw) => {
            let reason = within("the end", raw.connection.closed()).await;
            assert!(
                matches!(reason, ConnectionError::ConnectionClosed(_)),
                "{reason}"
            );
            raw.close().await;
        }
    }
    server.stop().await;
}

// P4
#[tokio::test]
async fn a_session_that_is_continued_is_authorized_anew() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    for (identity, is_writable) in [
        (&server.keys().writer, true),
        (&server.keys().reader, false),
    ] {
        let again = Raw::connect_again(&server, identity, server.address()).await;
        let pong = again
            .ask::<quire_shared::protocol::Pong>(&encoded(Ping::default()))
            .await;
        assert_eq!(pong.into_result().unwrap().writable, is_writable);
        again.close().await;
    }
    server.stop().await;
}
