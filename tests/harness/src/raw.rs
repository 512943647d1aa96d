//! A QUIC connection without the client library, for tests that send arbitrary bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use quire_certs::Identity;
use quire_client::trust::ServerVerifier;
use quire_shared::ErrorCode;
use quire_shared::codec::{self, PREFIX_BYTES};
use quire_shared::protocol::ALPN;
use quire_shared::protocol::{Done, Message, Ping, Pong, Reply, Request};
use quire_transport::congestion::CongestionControl;
use quire_transport::error_code::from_quic;
use quire_transport::{close, tls};
use rustls::ConfigBuilder;
use rustls::client::WantsClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::server::TestServer;
use super::within;

/// A connection to a server. Clones of the connection keep it open.
#[derive(Debug)]
pub struct Raw {
    endpoint: Endpoint,
    /// The connection itself.
    pub connection: Connection,
}

impl Raw {
    /// Connects with the key `identity`.
    pub async fn connect(server: &TestServer, identity: &Identity) -> Self {
        Self::try_connect(server, Some(identity), ALPN)
            .await
            .unwrap()
    }

    /// Connects with or without a key, and with any ALPN identifier.
    pub async fn try_connect(
        server: &TestServer,
        identity: Option<&Identity>,
        alpn: &[u8],
    ) -> Result<Self, ConnectionError> {
        let builder = tls_config(server);
        let mut config = match identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain().to_vec(), identity.private_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Self::try_connect_with(server, quic_config(server, config)).await
    }

    /// Connects twice with the key `identity`: the second time through `gate`, as a resumption of the
    /// first, without waiting for the end of the handshake.
    pub async fn connect_again(server: &TestServer, identity: &Identity, gate: SocketAddr) -> Self {
        let mut config = tls_config(server)
            .with_client_auth_cert(identity.chain().to_vec(), identity.private_key())
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_early_data = true;
        let config = quic_config(server, config);
        let first = Self::try_connect_with(server, config.clone())
            .await
            .unwrap();
        // The session ticket comes with the first packets after the handshake.
        first
            .ask::<Pong>(&encoded(Ping::default()))
            .await
            .into_result()
            .unwrap();
        let endpoint = first.endpoint.clone();
        first.close().await;
        let connecting = endpoint.connect_with(config, gate, "localhost").unwrap();
        let (connection, _) = connecting.into_0rtt().expect("a session to continue");
        Self {
            endpoint,
            connection,
        }
    }

    /// Connects with a certificate and a key that may not belong together.
    pub async fn try_connect_as(
        server: &TestServer,
        key: CertifiedKey,
    ) -> Result<Self, ConnectionError> {
        let resolver = Arc::new(SingleCertAndKey::from(key));
        let mut config = tls_config(server).with_client_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self::try_connect_with(server, quic_config(server, config)).await
    }

    async fn try_connect_with(
        server: &TestServer,
        config: ClientConfig,
    ) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let connecting = endpoint
            .connect_with(config, server.address(), "localhost")
            .unwrap();
        let connection = within("a connection", connecting).await?;
        Ok(Self {
            endpoint,
            connection,
        })
    }

    /// Opens a stream.
    pub async fn open(&self) -> (SendStream, RecvStream) {
        within("a stream", self.connection.open_bi()).await.unwrap()
    }

    /// Opens a stream and sends a request on it, without finishing the sending half.
    pub async fn begin(&self, request: impl Into<Request>) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.open().await;
        send.write_all(&codec::encode(&request.into()).unwrap())
            .await
            .unwrap();
        (send, recv)
    }

    /// Sends `bytes` and FIN, and receives a reply.
    pub async fn ask<M: Message>(&self, bytes: &[u8]) -> Reply<M> {
        let (mut send, mut recv) = self.open().await;
        // A server that has read enough may stop the rest.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        reply(&mut recv).await.expect("a reply")
    }

    /// Sends `bytes` and FIN, and receives the code of the refusal.
    pub async fn refusal(&self, bytes: &[u8]) -> ErrorCode {
        match self.ask::<Done>(bytes).await {
            Reply::Ok(_) => panic!("expected a refusal of {bytes:02x?}"),
            Reply::Failed(failure) => failure.code(),
        }
    }

    /// Closes the connection as a client that has finished.
    pub async fn close(self) {
        close::close(&self.connection, 0_u32.into(), b"");
        within("the end of a connection", self.endpoint.wait_idle()).await;
    }
}

fn quic_config(server: &TestServer, config: rustls::ClientConfig) -> ClientConfig {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    config.transport_config(quire_transport::config::client(
        server.address(),
        CongestionControl::default(),
    ));
    config
}

fn tls_config(server: &TestServer) -> ConfigBuilder<rustls::ClientConfig, WantsClientCert> {
    let verifier = Arc::new(ServerVerifier::pinned(server.id(), server.fingerprint()));
    rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(tls::VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

/// A length prefix and `payload`.
pub fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A request with its length prefix.
pub fn encoded(request: impl Into<Request>) -> Vec<u8> {
    codec::encode(&request.into()).unwrap()
}

/// Receives one message, or the error in its place.
pub async fn message<M: Message>(recv: &mut RecvStream) -> Result<M, quinn::ReadExactError> {
    let receiving = async {
        let mut prefix = [0; PREFIX_BYTES];
        recv.read_exact(&mut prefix).await?;
        let mut bytes = vec![0; codec::decode_length::<M>(prefix).unwrap()];
        recv.read_exact(&mut bytes).await?;
        Ok(codec::decode(&bytes).unwrap())
    };
    within("a message", receiving).await
}

/// Receives one reply, or the error in its place.
pub async fn reply<M: Message>(recv: &mut RecvStream) -> Result<Reply<M>, quinn::ReadExactError> {
    message(recv).await
}

/// Receives the code of a refusal, as a reply or as a reset.
pub async fn refusal_on(recv: &mut RecvStream) -> ErrorCode {
    match reply::<Done>(recv).await {
        Ok(Reply::Failed(failure)) => failure.code(),
        Ok(Reply::Ok(done)) => panic!("expected a refusal, got {done:?}"),
        Err(quinn::ReadExactError::ReadError(quinn::ReadError::Reset(code))) => from_quic(code),
        Err(error) => panic!("expected a refusal, got {error}"),
    }
}
