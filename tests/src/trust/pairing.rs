//! Pairing by a code, and attempts without one.

use std::fs;
use std::time::Duration;

use quire_certs::StateDir;
use quire_client::ClientError;
use quire_client::ErrorKind;
use quire_server::auth::keyring::KeysFile;
use quire_server::auth::pairing::offer;
use quire_server::auth::rules::Rules;
use quire_shared::ErrorCode;
use quire_shared::pairing::{Paired, PairingCode};
use quire_shared::protocol::{Done, Failure, Pong, Reply, Request};
use tempfile::TempDir;

use quire_test_harness::client::{fetch, refusal, store};
use quire_test_harness::fake::{self, FakeServer};
use quire_test_harness::raw::encoded;
use quire_test_harness::tree::scratch;
use quire_test_harness::{Raw, TestServer, Tree, within};

/// A server with a state directory in which codes are offered.
struct Host {
    server: TestServer,
    state: StateDir,
    _directory: TempDir,
}

impl Host {
    async fn start(tree: &Tree) -> Self {
        let directory = scratch();
        let state = StateDir::open(Some(&directory.path().join("state"))).unwrap();
        let (path, keys) = (state.path().to_owned(), state.file("authorized-keys"));
        let server = TestServer::builder(tree)
            .with(|config| {
                config.state_dir = Some(path);
                config.authorized_keys = Some(KeysFile::optional(keys));
            })
            .start()
            .await;
        Self {
            server,
            state,
            _directory: directory,
        }
    }

    fn offer(&self, rights: &str) -> PairingCode {
        let rights: Rules = rights.parse().unwrap();
        offer(&self.state, &rights, "a test", Duration::from_secs(600)).unwrap()
    }
}

#[tokio::test]
async fn a_code_lets_one_key_in_for_good() {
    let tree = Tree::new().file("f", "content");
    let host = Host::start(&tree).await;
    let code = host.offer("read,/in=create");
    let stranger = &host.server.keys().stranger;
    let client = host.server.connect(stranger).await.unwrap();
    client.pair(&code).await.unwrap();
    // On the same connection, and on the next one.
    within("the rights", async {
        while fetch(&client, "f").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.close().await;
    let again = host.server.connect(stranger).await.unwrap();
    fetch(&again, "f").await.unwrap();
    let stored = store(&again, "g", b"x").await;
    assert_eq!(refusal(stored), ErrorCode::NOT_AUTHORIZED);
    again.close().await;
    let line = fs::read_to_string(host.state.file("authorized-keys")).unwrap();
    let expected = format!("{} read,/in=create a test\n", stranger.fingerprint());
    assert_eq!(line, expected);

    // The code is used up.
    let other = quire_certs::Identity::generate(&[]).unwrap();
    let client = host.server.connect(&other).await.unwrap();
    let error = client.pair(&code).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    client.close().await;
    host.server.stop().await;
}

// P3
#[tokio::test]
async fn a_client_without_the_code_gets_nothing_and_a_few_tries_invalidate_it() {
    let tree = Tree::new().file("f", "content");
    let host = Host::start(&tree).await;
    let code = host.offer("write");
    let stranger = &host.server.keys().stranger;
    let raw = Raw::connect(&host.server, stranger).await;
    // Not even a ping.
    let pong = raw
        .ask::<Pong>(&encoded(quire_shared::protocol::Ping::default()))
        .await;
    let Reply::Failed(failure) = pong else {
        panic!("answered")
    };
    assert_eq!(failure.code(), ErrorCode::NOT_AUTHORIZED);
    raw.close().await;
    let wrong = PairingCode::new([7; 10]);
    let client = host.server.connect(stranger).await.unwrap();
    for _ in 0..5 {
        let error = client.pair(&wrong).await.unwrap_err();
        assert!(matches!(error, ClientError::NotPaired), "{error}");
    }
    let error = client.pair(&code).await.unwrap_err();
    assert!(matches!(error, ClientError::NotPaired), "{error}");
    client.close().await;
    assert!(!host.state.file("authorized-keys").exists());
    // The operator is told what happened, and what to do.
    for text in [
        "withdrawn after 5",
        "no pairing code is open",
        "makes a new code",
    ] {
        let log = host.server.log().lines();
        let is_told = |line: &String| line.starts_with("WARN") && line.contains(text);
        assert!(log.iter().any(is_told), "{text}: {log:?}");
    }
    host.server.stop().await;
}

// P3
#[tokio::test]
async fn an_attacker_in_the_middle_gains_nothing_from_a_proof() {
    let tree = Tree::new();
    let host = Host::start(&tree).await;
    let code = host.offer("write");
    // An attacker that relays the messages of client and server to each other.
    let middle = Raw::connect(&host.server, &host.server.keys().stranger).await;
    let (told, hears) = tokio::sync::oneshot::channel();
    let fake = FakeServer::start(async move |connection| {
        let (request, mut send, _recv) = fake::request(&connection).await;
        let Request::Pair(pair) = request else {
            panic!("{request:?}")
        };
        let answer = middle.ask::<Paired>(&encoded(pair.clone())).await;
        told.send(matches!(answer, Reply::Failed(_))).unwrap();
        middle.close().await;
        // Its best guess: the client's own proof, reflected.
        let echo = Paired { proof: pair.proof };
        fake::send(&mut send, &Reply::Ok(echo)).await;
        let _ = send.finish();
    });
    let client = fake.client().await;
    let error = client.pair(&code).await.unwrap_err();
    assert!(matches!(error, ClientError::NotPaired), "{error}");
    assert!(hears.await.unwrap(), "the server took a foreign proof");
    client.close().await;
    fake.stop().await;
    assert!(!host.state.file("authorized-keys").exists());
    host.server.stop().await;
}

#[tokio::test]
async fn a_server_without_a_pending_code_refuses_every_client() {
    let fake = FakeServer::start(async |connection| {
        let (_, mut send, _recv) = fake::request(&connection).await;
        let failure = Failure::new(ErrorCode::NOT_AUTHORIZED);
        fake::send(&mut send, &Reply::<Done>::Failed(failure)).await;
        let _ = send.finish();
    });
    let client = fake.client().await;
    let error = client.pair(&PairingCode::new([1; 10])).await.unwrap_err();
    assert!(matches!(error, ClientError::NotPaired), "{error}");
    client.close().await;
    fake.stop().await;
}
