//! Early data: which requests a client may send with its first packets, and what an attacker can do with
//! a recording of them.

use std::net::Ipv4Addr;
use std::time::Duration;

use quire_certs::{Role, StateDir, load_or_create};
use quire_client::ClientError;
use quire_client::Connector;
use quire_client::ErrorKind;
use quire_server::Config;
use quire_server::auth::authorized_keys::AuthorizedKeys;
use quire_server::config::limits::{Seconds, ValidateAddresses};
use quire_shared::ErrorCode;
use quire_shared::digest::DigestKind;
use quire_shared::pairing::Pair;
use quire_shared::protocol::{Get, GetMany, GetTree, PutMany, Request};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use quire_test_harness::client::{
    cached, copy, delete, fetch, get, hash, list_names, make_directory, path, put, rename, stat,
    store,
};
use quire_test_harness::gate::{DatagramGate, Lets, is_early_data};
use quire_test_harness::log::Log;
use quire_test_harness::raw::refusal_on;
use quire_test_harness::tree::scratch;
use quire_test_harness::{Raw, TestServer, Tree, within};

/// A connector that reconnects to `server` through `gate`.
fn connector(server: &TestServer, gate: &DatagramGate) -> Connector {
    server.connector(gate.address(), &server.keys().writer)
}

/// A first connection, which leaves a session ticket for the next ones.
async fn visit(connector: &Connector) {
    let client = connector.connect().await.unwrap();
    client.ping().await.unwrap();
    assert!(client.handshake().is_some());
    client.close().await;
}

// P4
#[tokio::test]
async fn a_client_that_comes_back_is_answered_within_one_round_trip() {
    for prove in [ValidateAddresses::UnderLoad, ValidateAddresses::Always] {
        let tree = Tree::new().file("f", "content");
        let server = TestServer::builder(&tree)
            .limits(|limits| limits.validate_addresses = prove)
            .start()
            .await;
        let gate = DatagramGate::to(server.address()).await;
        for request in ["get", "stat", "list", "cache", "ping"] {
            let connector = connector(&server, &gate);
            visit(&connector).await;
            gate.let_pass(Lets::FirstFlights);
            let client = connector.connect().await.unwrap();
            let answered = async {
                match request {
                    "get" => assert_eq!(fetch(&client, "f").await.unwrap(), b"content"),
                    "stat" => assert_eq!(client.stat(stat("f")).await.unwrap().size, 7),
                    "list" => assert_eq!(list_names(&client, "").await.unwrap(), ["f"]),
                    "cache" => drop(cached(&client).await.unwrap()),
                    _ => assert!(client.ping().await.unwrap().writable),
                }
            };
            within(request, answered).await;
            gate.let_pass(Lets::All);
            client.close().await;
        }
        server.stop().await;
    }
}

// P4
#[tokio::test]
async fn what_changes_something_waits_for_the_end_of_the_handshake() {
    let tree = Tree::new().file("a", "content").directory("d");
    let server = TestServer::start(&tree).await;
    let gate = DatagramGate::to(server.address()).await;
    let connector = connector(&server, &gate);
    for number in 0..6 {
        visit(&connector).await;
        let client = connector.connect().await.unwrap();
        assert!(client.handshake().is_none(), "a session was continued");
        match number {
            0 => drop(client.rename(rename("a", "b")).await.unwrap()),
            1 => drop(client.copy(copy("b", "c")).await.unwrap()),
            2 => drop(client.delete(delete("b")).await.unwrap()),
            3 => drop(client.make_directory(make_directory("e")).await.unwrap()),
            4 => drop(store(&client, "f", b"new").await.unwrap()),
            _ => drop(client.hash(hash("f", DigestKind::Blake3)).await.unwrap()),
        }
        client.close().await;
    }
    let names = tree.names("");
    assert!(
        names.ends_with(&["c", "d", "e", "f"].map(str::to_owned)),
        "{names:?}"
    );
    server.stop().await;
}

/// Requests that must not be early data.
fn late_requests() -> Vec<Request> {
    let tree = GetTree {
        path: path(""),
        digest: DigestKind::Xxh3,
        enclose_max: 0,
        details: Default::default(),
        describe_linked: false,
    };
    vec![
        put("new", 0).into(),
        rename("f", "g").into(),
        delete("f").into(),
        make_directory("d").into(),
        copy("f", "g").into(),
        hash("f", DigestKind::Blake3).into(),
        tree.into(),
        PutMany {}.into(),
        GetMany::default().into(),
        Pair { proof: [0; 32] }.into(),
    ]
}

// P4
#[tokio::test]
async fn what_changes_something_is_refused_before_the_end_of_the_handshake() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::start(&tree).await;
    let gate = DatagramGate::to(server.address()).await;
    for request in late_requests() {
        gate.let_pass(Lets::FirstFlights);
        let raw = Raw::connect_again(&server, &server.keys().writer, gate.address()).await;
        let (mut send, mut recv) = raw.begin(request).await;
        let _ = send.finish();
        assert_eq!(refusal_on(&mut recv).await, ErrorCode::TOO_EARLY);
        gate.let_pass(Lets::All);
        raw.close().await;
    }
    assert_eq!(tree.names(""), ["f"]);
    server.stop().await;
}

// P4
#[tokio::test]
async fn a_file_with_holes_waits_for_the_end_of_the_handshake() {
    let tree = Tree::new();
    let file = std::fs::File::create(tree.path("f")).unwrap();
    file.set_len(SPARSE_BYTES).unwrap();
    let server = TestServer::start(&tree).await;
    let gate = DatagramGate::to(server.address()).await;
    gate.let_pass(Lets::FirstFlights);
    let raw = Raw::connect_again(&server, &server.keys().writer, gate.address()).await;
    let request = Get {
        takes_extents: true,
        ..get("f")
    };
    let (mut send, mut recv) = raw.begin(request).await;
    let _ = send.finish();
    assert_eq!(refusal_on(&mut recv).await, ErrorCode::TOO_EARLY);
    gate.let_pass(Lets::All);
    raw.close().await;
    // The client asks again by itself.
    let connector = connector(&server, &gate);
    visit(&connector).await;
    let client = connector.connect().await.unwrap();
    assert!(client.handshake().is_none(), "a session was continued");
    let download = client.download(path("f"));
    assert_eq!(download.to_vec().await.unwrap().len() as u64, SPARSE_BYTES);
    client.close().await;
    server.stop().await;
}

/// Replays recorded first packets with `request` many times: no request but the first is carried out,
/// and nothing changes.
async fn replay(request: Request) {
    let tree = Tree::new().file("f", "content");
    let what = format!("{request:?}");
    let server = TestServer::builder(&tree)
        .limits(|limits| {
            limits.handshakes = 1000;
            limits.connections_per_address = 1000;
            limits.handshake_time = Seconds(Duration::from_secs(1));
        })
        .start()
        .await;
    let gate = DatagramGate::to(server.address()).await;
    gate.let_pass(Lets::Nothing);
    let raw = Raw::connect_again(&server, &server.keys().writer, gate.address()).await;
    let log = server.log();
    let before = taken_up(&log);
    // The handshake's first packet leaves before the request's.
    gate.kept(|kept| !kept.is_empty()).await;
    let (mut send, _recv) = raw.begin(request).await;
    send.finish().unwrap();
    let recorded = gate
        .kept(|kept| kept.iter().any(|kept| is_early_data(kept)))
        .await;
    for _ in 0..2 {
        let mut thieves = Vec::new();
        for _ in 0..REPLAYS {
            let thief = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            for datagram in &recorded {
                thief.send_to(datagram, server.address()).await.unwrap();
            }
            thieves.push(thief);
        }
        // The replays get no answer, because for the server all of this is one connection.
        within("an answer", thieves[0].recv(&mut [0; 2048]))
            .await
            .unwrap();
        server.idle().await;
    }
    drop(raw);
    server.stop().await;
    // For all but the first the ticket was used.
    assert_eq!(taken_up(&log) - before, 1, "{what}");
    assert_eq!(tree.names(""), ["f"], "{what}");
    assert_eq!(tree.read("f"), b"content", "{what}");
}

/// Number of requests that were read, carried out or not.
fn taken_up(log: &Log) -> usize {
    let is_request = |line: &&String| line.contains(": asked ") || line.contains("handshake was");
    log.lines().iter().filter(is_request).count()
}

// P4
#[tokio::test]
async fn recorded_first_packets_change_nothing_and_are_good_once() {
    let requests = late_requests().into_iter().chain([get("f").into()]);
    let replays: JoinSet<()> = requests.map(replay).collect();
    replays.join_all().await;
}

// P4
#[tokio::test]
async fn a_server_that_forgot_the_session_is_asked_again() {
    let tree = Tree::new().file("f", "content");
    let state = scratch();
    let directory = StateDir::open(Some(&state.path().join("quire"))).unwrap();
    let of_one_identity = |config: &mut Config| {
        config.identity = load_or_create(&directory, Role::Server).unwrap();
    };
    let mut access = AuthorizedKeys::default();
    let server = TestServer::builder(&tree)
        .with(of_one_identity)
        .with(|config| access = config.access.clone())
        .start()
        .await;
    let gate = DatagramGate::to(server.address()).await;
    let connector = connector(&server, &gate);
    visit(&connector).await;
    server.stop().await;
    let server = TestServer::builder(&tree)
        .with(of_one_identity)
        .with(|config| config.access = access)
        .start()
        .await;
    gate.lead_to(server.address());
    let client = connector.connect().await.unwrap();
    assert!(
        client.handshake().is_none(),
        "a session was to be continued"
    );
    assert_eq!(fetch(&client, "f").await.unwrap(), b"content");
    store(&client, "g", b"new").await.unwrap();
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_reported_as_at_the_first_time() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let connector = server.connector(server.address(), &server.keys().writer);
    visit(&connector).await;
    server.stop().await;
    let client = connector.connect().await.unwrap();
    for result in [
        client.ping().await.map(drop),
        client.delete(delete("f")).await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(error, ClientError::CannotConnect { .. }),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
    let error = connector.connect().await.unwrap_err();
    assert!(
        matches!(error, ClientError::CannotConnect { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_handshake_that_went_well_stays_so_however_late_the_first_request_comes() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::start(&tree).await;
    for _ in 0..8 {
        let connector = server.connector(server.address(), &server.keys().writer);
        visit(&connector).await;
        let client = connector.connect().await.unwrap();
        // Larger datagrams are probed once there are keys.
        within("the end of a handshake", async {
            while client.path().sent_plpmtud_probes == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::time::resume();
        assert_eq!(fetch(&client, "f").await.unwrap(), b"content");
        client.close().await;
    }
    server.stop().await;
}

/// Size of a file that is one hole, in bytes.
const SPARSE_BYTES: u64 = 4 * 1024 * 1024;

/// How often recorded packets are sent, twice.
const REPLAYS: usize = 50;
