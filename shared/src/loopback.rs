//! A connection over loopback, for tests of what needs a real stream.

use std::net::Ipv4Addr;
use std::sync::Arc;

use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;

use crate::congestion::CongestionControl;
use crate::socket::{self, SocketConfig};
use crate::stream::{Receiver, Sender};
use crate::transport;

/// Both ends of a connection.
#[derive(Debug)]
pub(crate) struct Loopback {
    pub(crate) client: Connection,
    pub(crate) server: Connection,
    /// Kept because connections end with their endpoints.
    _endpoints: [Endpoint; 2],
}

impl Loopback {
    /// Connects a client with a server on an unused port, with quire's transport settings.
    pub(crate) async fn connect() -> Self {
        let ours = CongestionControl::default();
        Self::connect_with(ours, ours).await
    }

    /// The same with the congestion control of each end.
    pub(crate) async fn connect_with(
        client_control: CongestionControl,
        server_control: CongestionControl,
    ) -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let server = bind();
        let mut config = ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
        let client = bind();
        config.transport_config(transport::server(
            client.local_addr().unwrap(),
            server_control,
        ));
        server.set_server_config(Some(config));
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let address = server.local_addr().unwrap();
        let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        config.transport_config(transport::client(address, client_control));
        let connecting = client.connect_with(config, address, "localhost").unwrap();
        let accepting = async { server.accept().await.unwrap().await };
        let (connected, accepted) = tokio::join!(connecting, accepting);
        Self {
            client: connected.unwrap(),
            server: accepted.unwrap(),
            _endpoints: [client, server],
        }
    }

    /// Runs both ends of one stream, which the client opens. The server's end begins with the
    /// first packet from the client.
    pub(crate) async fn talk<A, B>(
        &self,
        client: impl AsyncFnOnce(Sender, Receiver) -> A,
        server: impl AsyncFnOnce(Sender, Receiver) -> B,
    ) -> (A, B) {
        let opening = async {
            let (send, recv) = self.client.open_bi().await.unwrap();
            client(Sender::new(send), Receiver::new(recv)).await
        };
        let accepting = async {
            let (send, recv) = self.server.accept_bi().await.unwrap();
            server(Sender::new(send), Receiver::new(recv)).await
        };
        tokio::join!(opening, accepting)
    }
}

fn bind() -> Endpoint {
    let socket = socket::bind((Ipv4Addr::LOCALHOST, 0).into(), &SocketConfig::default()).unwrap();
    socket::endpoint(socket, None).unwrap()
}
