//! TLS settings of the server.
//!
//! Every client key is accepted if it signs the handshake, and so are clients without a key: TLS
//! only authenticates. Rights are decided afterwards, from [`peer_chain`], so that an unknown
//! client can get an error that tells it what to ask for.

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quire_certs::Identity;
use quire_shared::protocol::ALPN;
use quire_transport::tls;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use thiserror::Error;

/// Makes the TLS settings with which quinn accepts connections as `identity`.
///
/// # Errors
/// If rustls can't use the key.
pub fn server_config(identity: &Identity) -> Result<QuicServerConfig, TlsError> {
    Ok(QuicServerConfig::try_from(rustls_config(identity)?)?)
}

/// Certificate chain of the client, `None` if it sent none. The first certificate is that of the
/// key that signed the handshake.
///
/// A resumed session has the chain of its original handshake.
pub(crate) fn peer_chain(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    Some(*chain)
}

/// Reason why the TLS settings could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// rustls refused the identity.
    #[error("this identity can't be used for TLS")]
    Config(#[from] Error),
    /// The provider lacks the suite that protects QUIC's first packets.
    #[error("the crypto provider lacks QUIC's initial cipher suite")]
    InitialSuite(#[from] NoInitialCipherSuite),
}

fn rustls_config(identity: &Identity) -> Result<ServerConfig, Error> {
    let provider = tls::provider();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(tls::VERSIONS)?
        .with_client_cert_verifier(Arc::new(AnyKey { provider }))
        .with_single_cert(identity.chain().to_vec(), identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // QUIC allows only this value or 0 (RFC 9001, section 4.6.1). An attacker can replay 0-RTT
    // data, so requests that change something are refused in it. Tickets refer to sessions in the
    // server's memory, so that each is valid only once.
    config.max_early_data_size = u32::MAX;
    // Decompression would process bytes of a peer that isn't authenticated yet.
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(config)
}

/// Accepts every key that signs the handshake.
#[derive(Debug)]
struct AnyKey {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyKey {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Names, dates and issuers aren't checked: the key is looked up by its fingerprint.
        ParsedCertificate::try_from(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls::verify_possession(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use quire_certs::Fingerprint;
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection,
        client::ResolvesClientCert,
        crypto::ring::sign::any_supported_type,
        pki_types::ServerName,
        sign::{CertifiedKey, SingleCertAndKey},
    };

    use super::*;

    fn identity() -> Identity {
        Identity::generate(&["localhost".to_owned()]).unwrap()
    }

    /// A client that trusts `server` and shows `certificate`, signing with the key of `signer`.
    fn client(server: &Identity, shown: Option<(&Identity, &Identity)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(server.chain()[0].clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(tls::VERSIONS)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, signer)) => {
                let key = any_supported_type(&signer.private_key()).unwrap();
                let key = CertifiedKey::new(certificate.chain().to_vec(), key);
                let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(key));
                builder.with_client_cert_resolver(resolver)
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    /// The server's end of a handshake, after as many flights as it takes.
    fn handshake(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
    ) -> Result<ServerConnection, Error> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        while client.wants_write() || server.wants_write() {
            let mut flight = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut flight).unwrap();
            }
            server.read_tls(&mut flight.as_slice()).unwrap();
            server.process_new_packets()?;
            flight.clear();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            client.read_tls(&mut flight.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!server.is_handshaking());
        Ok(server)
    }

    fn seen(server: &ServerConnection) -> Option<Fingerprint> {
        let leaf = server.peer_certificates()?.first()?;
        Some(Fingerprint::of_certificate(leaf).unwrap())
    }

    #[test]
    fn any_key_is_accepted_and_known_afterwards() {
        let own = identity();
        let server = Arc::new(rustls_config(&own).unwrap());
        for _ in 0..3 {
            let stranger = Identity::generate(&[]).unwrap();
            let client = Arc::new(client(&own, Some((&stranger, &stranger))));
            let connection = handshake(&client, &server).unwrap();
            assert_eq!(seen(&connection), Some(stranger.fingerprint()));
            assert_eq!(connection.alpn_protocol(), Some(ALPN));
        }
    }

    #[test]
    fn a_client_without_a_key_is_accepted_and_has_no_chain() {
        let own = identity();
        let server = Arc::new(rustls_config(&own).unwrap());
        let connection = handshake(&Arc::new(client(&own, None)), &server).unwrap();
        assert_eq!(seen(&connection), None);
    }

    #[test]
    fn a_copied_certificate_without_its_key_is_refused() {
        let own = identity();
        let server = Arc::new(rustls_config(&own).unwrap());
        let [victim, thief] = [(); 2].map(|()| Identity::generate(&[]).unwrap());
        let client = Arc::new(client(&own, Some((&victim, &thief))));
        assert_eq!(
            handshake(&client, &server).unwrap_err(),
            Error::InvalidCertificate(rustls::CertificateError::BadSignature)
        );
    }

    #[test]
    fn a_resumed_session_still_shows_the_key() {
        let own = identity();
        let server = Arc::new(rustls_config(&own).unwrap());
        let user = Identity::generate(&[]).unwrap();
        let client = Arc::new(client(&own, Some((&user, &user))));
        let first = handshake(&client, &server).unwrap();
        assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
        let second = handshake(&client, &server).unwrap();
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(seen(&second), Some(user.fingerprint()));
    }

    #[test]
    fn another_protocol_is_refused() {
        let own = identity();
        let server = Arc::new(rustls_config(&own).unwrap());
        let mut client = client(&own, None);
        client.alpn_protocols = vec![b"h3".to_vec()];
        assert_eq!(
            handshake(&Arc::new(client), &server).unwrap_err(),
            Error::NoApplicationProtocol
        );
    }

    #[test]
    fn invalid_der_is_not_a_certificate() {
        let verifier = AnyKey {
            provider: tls::provider(),
        };
        let invalid = CertificateDer::from(&b"\x30\x03abc"[..]);
        verifier
            .verify_client_cert(&invalid, &[], UnixTime::now())
            .unwrap_err();
    }

    #[tokio::test]
    async fn a_quinn_connection_has_the_chain_of_the_client() {
        let own = identity();
        let user = Identity::generate(&[]).unwrap();
        let crypto = Arc::new(server_config(&own).unwrap());
        let any = "127.0.0.1:0".parse().unwrap();
        let server =
            quinn::Endpoint::server(quinn::ServerConfig::with_crypto(crypto), any).unwrap();
        let address = server.local_addr().unwrap();
        for shown in [Some(&user), None] {
            let client = client(&own, shown.map(|user| (user, user)));
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
            let mut endpoint = quinn::Endpoint::client(any).unwrap();
            endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
            let (client, server) =
                tokio::join!(endpoint.connect(address, "localhost").unwrap(), async {
                    server.accept().await.unwrap().await
                });
            let _client = client.unwrap();
            let server = server.unwrap();
            let chain = peer_chain(&server).unwrap_or_default();
            let key = chain
                .first()
                .map(|leaf| Fingerprint::of_certificate(leaf).unwrap());
            assert_eq!(key, shown.map(Identity::fingerprint));
        }
    }
}
