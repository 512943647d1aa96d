//! TLS settings of both ends: crypto provider, version and cipher suites.
//!
//! The provider is chosen only here. It is never installed process-wide, so that a program that
//! embeds a crate of quire keeps its own choice.

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

/// The TLS versions in use: QUIC requires TLS 1.3 (RFC 9001, §4.2).
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// Returns the crypto provider of every connection.
///
/// It is `ring`, which seals packets about a seventh faster than `aws-lc-rs` where measured. Other
/// processors may differ, and `ring` has no post-quantum key exchange.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: cipher_suites(has_aes()).to_vec(),
        ..ring::default_provider()
    })
}

/// Verifies that the peer signed the handshake with the private key of `certificate`.
///
/// Certificate verifiers must call this: without it, anyone with a copy of a certificate could use
/// it.
///
/// # Errors
/// The error of rustls if the signature is wrong.
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

/// Orders the cipher suites, fastest first.
///
/// AES-128 has ten rounds and AES-256 fourteen. Both are much faster than ChaCha20, but only on a
/// processor with instructions for AES.
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

/// Whether this processor has instructions for AES and for the carry-less multiplication of GCM.
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
    fn cipher_suites_are_ordered_by_speed_on_this_processor() {
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
    fn the_provider_offers_exactly_these_suites() {
        assert_eq!(
            names(&provider().cipher_suites),
            names(&cipher_suites(has_aes()))
        );
    }

    #[test]
    fn only_tls_1_3_is_offered() {
        let versions: Vec<_> = VERSIONS.iter().map(|version| version.version).collect();
        assert_eq!(versions, [rustls::ProtocolVersion::TLSv1_3]);
    }
}
