//! What both ends decide alike about TLS: the crypto provider, the version, the cipher suites.
//!
//! The provider is chosen here and nowhere else, and never installed process-wide, so that a
//! program that embeds one of our crates keeps its own choice.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, Error, SupportedCipherSuite, SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider,
        ring::{self, cipher_suite},
    },
    pki_types::CertificateDer,
    version,
};

/// The TLS versions spoken: QUIC knows no older one.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// The cryptography of every connection.
///
/// `ring`, because it seals packets about a seventh faster than the alternative where measured;
/// other processors may differ, and it has no post-quantum key exchange.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: cipher_suites(has_aes()).to_vec(),
        ..ring::default_provider()
    })
}

/// Checks that the peer signed the handshake with the private key of `certificate`, which is what
/// makes a certificate more than a copied file. For certificate verifiers.
///
/// # Errors
///
/// As rustls reports it.
pub fn verify_possession(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    rustls::crypto::verify_tls13_signature(
        message,
        certificate,
        signature,
        &provider.signature_verification_algorithms,
    )
}

/// Fastest first. AES-128 needs ten rounds where AES-256 needs fourteen, and both beat ChaCha20
/// by far on a processor that has instructions for them, and only there.
fn cipher_suites(aes_hardware: bool) -> [SupportedCipherSuite; 3] {
    let aes_128 = cipher_suite::TLS13_AES_128_GCM_SHA256;
    let aes_256 = cipher_suite::TLS13_AES_256_GCM_SHA384;
    let chacha20 = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    if aes_hardware {
        [aes_128, aes_256, chacha20]
    } else {
        [chacha20, aes_128, aes_256]
    }
}

/// Whether this processor has instructions for both halves of AES-GCM.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite::{
        self, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };

    use super::*;

    fn names(suites: &[SupportedCipherSuite]) -> Vec<CipherSuite> {
        suites.iter().map(SupportedCipherSuite::suite).collect()
    }

    #[test]
    fn suites_are_ordered_by_what_the_processor_does_best() {
        assert_eq!(
            names(&cipher_suites(true)),
            [
                TLS13_AES_128_GCM_SHA256,
                TLS13_AES_256_GCM_SHA384,
                TLS13_CHACHA20_POLY1305_SHA256
            ]
        );
        assert_eq!(
            names(&cipher_suites(false)),
            [
                TLS13_CHACHA20_POLY1305_SHA256,
                TLS13_AES_128_GCM_SHA256,
                TLS13_AES_256_GCM_SHA384
            ]
        );
    }

    #[test]
    fn the_provider_offers_exactly_these() {
        assert_eq!(
            names(&provider().cipher_suites),
            names(&cipher_suites(has_aes()))
        );
    }

    #[test]
    fn only_tls_1_3_is_spoken() {
        let versions: Vec<_> = VERSIONS.iter().map(|version| version.version).collect();
        assert_eq!(versions, [rustls::ProtocolVersion::TLSv1_3]);
    }
}
