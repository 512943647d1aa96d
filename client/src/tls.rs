//! TLS configuration of the client; [`trust`](crate::trust) verifies the server.

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig};
use quire_certs::Identity;
use quire_shared::protocol::ALPN;
use quire_transport::tls;
use rustls::{ClientConfig, Error};
use thiserror::Error;

use crate::trust::ServerVerifier;

/// Creates the TLS configuration to connect as `identity` to a server that `verifier` accepts.
///
/// # Errors
///
/// When rustls finds the key unusable.
pub(crate) fn client_config(
    identity: &Identity,
    verifier: Arc<ServerVerifier>,
) -> Result<QuicClientConfig, TlsSetupError> {
    Ok(QuicClientConfig::try_from(rustls_config(
        identity, verifier,
    )?)?)
}

/// Why there is no TLS configuration.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// rustls refused the identity.
    #[error("this identity can't be used for TLS")]
    Config(#[from] Error),
    /// The provider lacks the suite that protects QUIC's first packets.
    #[error("the crypto provider lacks QUIC's initial cipher suite")]
    InitialSuite(#[from] NoInitialCipherSuite),
}

/// The configuration of rustls in [`client_config`].
pub(crate) fn rustls_config(
    identity: &Identity,
    verifier: Arc<ServerVerifier>,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(tls::VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain().to_vec(), identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Only requests that change nothing are sent as early data, see `handshake.rs`.
    config.enable_early_data = true;
    // Decompression would process data of a peer that isn't authenticated yet.
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(config)
}
