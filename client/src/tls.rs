//! The client's TLS settings; which servers to trust is up to [`trust`](crate::trust).

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig};
use quire_certs::Identity;
use quire_shared::protocol::ALPN;
use quire_transport::tls;
use rustls::{ClientConfig, Error};
use thiserror::Error;

use crate::trust::ServerVerifier;

/// The TLS settings with which quinn connects as `identity` to a server that `verifier` accepts.
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

/// Why the TLS settings could not be made.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// rustls refused the identity.
    #[error("this identity can't be used for TLS")]
    Config(#[from] Error),
    /// The provider lacks the suite that protects QUIC's first packets.
    #[error("the crypto provider lacks QUIC's initial cipher suite")]
    InitialSuite(#[from] NoInitialCipherSuite),
}

/// The settings beneath [`client_config`].
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
    // Only what changes nothing is sent as early data, see `handshake.rs`.
    config.enable_early_data = true;
    // Decompression would run on bytes of a peer that has proved nothing yet.
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(config)
}
