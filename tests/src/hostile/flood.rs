//! Floods of first packets from addresses that never continue, and what they cost.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use quire_certs::Identity;
use quire_client::known_servers::ServerId;
use quire_client::trust::ServerVerifier;
use quire_server::config::limits::{Seconds, ValidateAddresses};
use quire_shared::protocol::ALPN;
use quire_transport::tls;
use tokio::net::UdpSocket;

use quire_test_harness::client::fetch;
use quire_test_harness::{TestServer, Tree, within};

/// First datagrams of this many connections, as a client sends them.
async fn first_datagrams(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = sink.local_addr().unwrap();
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let id = ServerId::new("127.0.0.1", address.port()).unwrap();
    let anybody = Identity::generate(&[]).unwrap().fingerprint();
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(tls::VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::pinned(id, anybody)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let mut datagrams = Vec::new();
    let mut connections = HashSet::new();
    // A dropped client would send a close, in a datagram that begins nothing.
    let mut kept = Vec::new();
    let mut buffer = vec![0; 2048];
    while datagrams.len() < count {
        kept.push(endpoint.connect_with(config.clone(), address, "localhost"));
        let received = within("a first datagram", sink.recv(&mut buffer))
            .await
            .unwrap();
        let datagram = &buffer[..received];
        // Unanswered, each is sent again, to the same destination (RFC 9000 §17.2: flags, version,
        // length of the connection ID, connection ID).
        let id = &datagram[6..][..datagram[5].into()];
        if connections.insert(id.to_vec()) {
            datagrams.push(datagram.to_vec());
        }
    }
    datagrams
}

/// Datagrams sent and received by one address.
struct SpoofedClient {
    socket: UdpSocket,
    sent: usize,
}

impl SpoofedClient {
    /// Sends `datagram` from an address of its own.
    async fn send(number: usize, datagram: &[u8], server: SocketAddr) -> Self {
        let [.., high, low] = u32::try_from(number + 1).unwrap().to_be_bytes();
        let address = Ipv4Addr::new(127, 1, high, low);
        let socket = UdpSocket::bind((address, 0)).await.unwrap();
        let sent = socket.send_to(datagram, server).await.unwrap();
        Self { socket, sent }
    }

    /// Bytes received so far.
    fn received(&self) -> usize {
        let mut buffer = vec![0; 65536];
        let mut received = 0;
        while let Ok(bytes) = self.socket.try_recv(&mut buffer) {
            received += bytes;
        }
        received
    }
}

#[tokio::test]
async fn a_flood_of_first_packets_locks_no_client_out_and_is_not_amplified() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::builder(&tree)
        .limits(|limits| {
            limits.handshakes = 64;
            limits.handshake_time = Seconds(Duration::from_secs(2));
        })
        .start()
        .await;
    let mut sources = Vec::new();
    for (number, datagram) in first_datagrams(FLOOD).await.iter().enumerate() {
        let source = SpoofedClient::send(number, datagram, server.address()).await;
        sources.push(source);
    }
    // In the middle of the flood, while handshakes are in progress that never end.
    let client = server.client().await;
    fetch(&client, "f").await.unwrap();
    let met = server.limits_met();
    let retries = met
        .split("retries ")
        .nth(1)
        .unwrap_or_else(|| panic!("{met}"));
    let retries: usize = retries.split(',').next().unwrap().parse().unwrap();
    assert!(retries >= FLOOD / 2, "{met}");
    client.close().await;
    within("the end of the handshakes", async {
        while !server.limits_met().contains("handshake_time") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Most receive only a Retry.
    let (sent, received) = totals(&sources);
    assert!(received < sent, "{received} bytes for {sent}");
    server.stop().await;
}

fn totals(sources: &[SpoofedClient]) -> (usize, usize) {
    let pairs = sources
        .iter()
        .map(|source| (source.sent, source.received()));
    pairs.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

#[tokio::test]
async fn an_address_that_has_to_be_validated_is_sent_no_more_than_it_sent() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.validate_addresses = ValidateAddresses::Always)
        .start()
        .await;
    let mut sources = Vec::new();
    for (number, datagram) in first_datagrams(50).await.iter().enumerate() {
        sources.push(SpoofedClient::send(1000 + number, datagram, server.address()).await);
    }
    let client = server.client().await;
    fetch(&client, "f").await.unwrap();
    client.close().await;
    assert_eq!(server.limits_met(), "retries 51");
    for source in &sources {
        let (sent, received) = (source.sent, source.received());
        assert!(
            received > 0 && received <= sent,
            "{received} bytes for {sent}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn an_address_with_one_first_packet_is_sent_three_times_as_much_at_most() {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| {
            limits.validate_addresses = ValidateAddresses::UnderLoad;
            // Long enough for two retransmissions by the server.
            limits.handshake_time = Seconds(Duration::from_secs(4));
        })
        .start()
        .await;
    let mut sources = Vec::new();
    for (number, datagram) in first_datagrams(5).await.iter().enumerate() {
        sources.push(SpoofedClient::send(2000 + number, datagram, server.address()).await);
    }
    within("the end of the handshakes", async {
        while server.limits_met() != "handshake_time 5" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for source in &sources {
        let (sent, received) = (source.sent, source.received());
        // An answer shows that it was taken for a client's first packet.
        assert!(received > sent, "{received} bytes for {sent}");
        assert!(received <= 3 * sent, "{received} bytes for {sent}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_datagram_of_an_unknown_version_gets_a_smaller_answer_and_a_short_one_none() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::start(&tree).await;
    let mut datagram = first_datagrams(1).await.remove(0);
    datagram[1..5].copy_from_slice(&0x1a2a_3a4a_u32.to_be_bytes());
    let short = SpoofedClient::send(3000, &datagram[..100], server.address()).await;
    let nearly = SpoofedClient::send(3001, &datagram[..1199], server.address()).await;
    let long = SpoofedClient::send(3002, &datagram, server.address()).await;
    within("an answer", long.socket.readable()).await.unwrap();
    assert!((1..=datagram.len()).contains(&long.received()));
    // The server has handled the earlier datagrams by then.
    assert_eq!(short.received() + nearly.received(), 0);
    server.stop().await;
}

/// More than a handshake can have, by far.
const FLOOD: usize = 400;
