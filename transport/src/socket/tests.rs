//! Sockets and whole endpoints on loopback.

use std::sync::Arc;

use quinn::congestion::CubicConfig;
use quinn::{ClientConfig, Connection, TransportConfig, VarInt};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::mtu::path_payload_max;
use super::*;

#[test]
fn a_socket_without_shortfalls_has_buffers_as_large_as_requested() {
    let bound = bind_with_buffers(loopback_v4(), 64 << 10, 64 << 10).unwrap();
    assert_ne!(bound.local_addr().port(), 0);
    assert_eq!(bound.shortfalls(), []);
    let socket = Socket::from(bound.socket);
    assert!(BufferKind::Receive.granted(&socket).unwrap() >= 64 << 10);
    assert!(BufferKind::Send.granted(&socket).unwrap() >= 64 << 10);
}

#[test]
fn both_address_families_can_use_one_port() {
    let Ok(v6) = bind((Ipv6Addr::UNSPECIFIED, 0).into()) else {
        return; // A machine without IPv6.
    };
    let same_port = (Ipv4Addr::UNSPECIFIED, v6.local_addr().port()).into();
    // Another program may use the IPv4 port; a dual-stack socket would always block it.
    if let Err(error) = bind(same_port) {
        assert!(UdpSocket::bind(same_port).is_err(), "{error}");
        assert!(Socket::from(v6.socket).only_v6().unwrap());
    }
}

#[test]
fn an_address_in_use_is_named_in_the_error() {
    let first = bind(loopback_v4()).unwrap();
    let error = bind(first.local_addr()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {}", first.local_addr())
    );
}

#[test]
fn a_shortfall_names_the_setting() {
    let line = BufferShortfall {
        kind: BufferKind::Receive,
        asked: 4_194_304,
        granted: 212_992,
    };
    let line = line.to_string();
    assert!(line.starts_with("the UDP receive buffer is 212992 bytes instead of 4194304"));
    assert_eq!(
        cfg!(target_os = "linux"),
        line.ends_with("sysctl -w net.core.rmem_max=4194304"),
        "{line}"
    );
}

/// A send that the kernel refuses would appear as a black hole: no datagram of that size arrives.
/// quinn can't start with larger sizes, because the length of a handshake packet has 14 bits.
#[tokio::test]
async fn transfers_arrive_whole_at_every_mtu() {
    for payload in [1200, 1452, 4000, 8952, 16_000] {
        let pair = EndpointPair::connect(|transport| {
            let mut congestion = CubicConfig::default();
            // quinn never sends a datagram that is as large as the window.
            congestion.initial_window(10 * u64::from(payload));
            transport
                .congestion_controller_factory(Arc::new(congestion))
                .initial_mtu(payload)
                .min_mtu(payload)
                .mtu_discovery_config(None);
        })
        .await;
        let stats = pair.transfer(2 << 20).await;
        assert_eq!(stats.path.current_mtu, payload);
        assert_eq!(stats.path.black_holes_detected, 0, "at {payload}");
        pair.close().await;
    }
}

/// MTU discovery raises the MTU to that of loopback while data flows.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn datagrams_grow_to_the_mtu_of_the_path() {
    let expected = path_payload_max(loopback_v4()).unwrap();
    let pair = EndpointPair::connect(|transport| {
        transport.mtu_discovery_config(Some(mtu_discovery(loopback_v4())));
    })
    .await;
    let mut mtu = 0;
    // Each probe takes a round trip; the search halves its range with each.
    for _ in 0..20 {
        let stats = pair.transfer(1 << 20).await;
        assert_eq!(stats.path.black_holes_detected, 0);
        mtu = stats.path.current_mtu;
        if mtu >= expected - SEARCH_STEP {
            break;
        }
    }
    assert!(
        mtu >= expected - SEARCH_STEP,
        "stopped at {mtu} of {expected}"
    );
    pair.close().await;
}

/// Two connected endpoints.
struct EndpointPair {
    server: Endpoint,
    client: Endpoint,
    sender: Connection,
    receiver: Connection,
}

impl EndpointPair {
    async fn connect(configure: impl Fn(&mut TransportConfig)) -> Self {
        let transport = || {
            let mut transport = TransportConfig::default();
            configure(&mut transport);
            Arc::new(transport)
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
        server.transport_config(transport());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut client_config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        client_config.transport_config(transport());

        let server = super::server(
            bind(loopback_v4()).unwrap(),
            server,
            &AmplificationLimit::default(),
            &EndpointSecret::derive(b"key"),
        )
        .unwrap();
        let client = client(bind(loopback_v4()).unwrap()).unwrap();
        let connecting = client
            .connect_with(client_config, server.local_addr().unwrap(), "localhost")
            .unwrap();
        let accepting = async { server.accept().await.unwrap().await.unwrap() };
        let (receiver, sender) = tokio::join!(connecting, accepting);
        Self {
            client,
            sender,
            receiver: receiver.unwrap(),
            server,
        }
    }

    /// Transfers `len` bytes, checks them, and returns the statistics of the sender.
    async fn transfer(&self, len: usize) -> quinn::ConnectionStats {
        let sending = async {
            let mut stream = self.sender.open_uni().await.unwrap();
            stream.write_all(&pattern(len)).await.unwrap();
            stream.finish().unwrap();
            stream.stopped().await.unwrap();
        };
        let receiving = async {
            let mut stream = self.receiver.accept_uni().await.unwrap();
            stream.read_to_end(len).await.unwrap()
        };
        let ((), received) = tokio::join!(sending, receiving);
        assert!(received == pattern(len), "damaged on the way");
        self.sender.stats()
    }

    async fn close(self) {
        self.receiver.close(VarInt::from_u32(0), b"");
        self.client.wait_idle().await;
        self.server.wait_idle().await;
    }
}

/// Bytes with a period of a prime, so that a shift by whole packets is detected.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|position| u8::try_from(position % 251).unwrap())
        .collect()
}

fn loopback_v4() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Resolution of quinn's search, in bytes.
#[cfg(target_os = "linux")]
const SEARCH_STEP: u16 = 20;
