//! Secrets of a server's endpoint that are the same after a restart.
//!
//! A server that was restarted knows none of its earlier connections. To a packet of one of them it
//! answers with a stateless reset (RFC 9000, §10.3), whose token the client got from the earlier
//! process. So the keys of the tokens, and of the connection IDs by which such packets are told
//! from noise, are derived from a secret that lasts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};

/// Secret from which an endpoint derives its keys.
#[derive(Clone)]
pub struct EndpointSecret([u8; 32]);

impl std::fmt::Debug for EndpointSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndpointSecret")
    }
}

impl EndpointSecret {
    /// Derives the secret from the server's private key, which lasts as long as clients know the
    /// server. The key can't be computed from it.
    pub fn derive(private_key: &[u8]) -> Self {
        Self(blake3::derive_key(ENDPOINT_CONTEXT, private_key))
    }

    /// Sets the keys of the endpoint at `address`. Endpoints at other addresses have other keys:
    /// otherwise one of them would tell the tokens of connections to another (§21.11).
    pub(super) fn apply(&self, address: SocketAddr, config: &mut EndpointConfig) {
        let [a, b, c, d, e, f, g, h, ..] = self.key(CONNECTION_ID_CONTEXT, address);
        let key = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        config
            .reset_key(Arc::new(ResetKey(self.key(RESET_CONTEXT, address))))
            .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)))
            .min_reset_interval(RESET_INTERVAL_MIN);
    }

    fn key(&self, context: &str, address: SocketAddr) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher
            .update(&self.0)
            .update(address.to_string().as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Key of the stateless reset tokens.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0)
            .update(data)
            .finalize_xof()
            .fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // The comparison takes the same time for every signature.
        let is_valid = blake3::keyed_hash(&self.0, data) == *signature;
        is_valid.then_some(()).ok_or(CryptoError)
    }
}

const ENDPOINT_CONTEXT: &str = "quire 2026-11 secret of an endpoint";
const CONNECTION_ID_CONTEXT: &str = "quire 2026-11 key of connection IDs";
const RESET_CONTEXT: &str = "quire 2026-11 key of stateless reset tokens";

/// Interval between stateless resets: a thousand clients of a restarted server get theirs within a
/// second. A reset is smaller than the packet that it answers, so it amplifies nothing.
const RESET_INTERVAL_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn token(secret: &[u8], address: &str) -> [u8; 16] {
        let mut token = [0; 16];
        let secret = EndpointSecret::derive(secret);
        let key = secret.key(RESET_CONTEXT, address.parse().unwrap());
        ResetKey(key).sign(b"connection ID", &mut token);
        token
    }

    #[test]
    fn tokens_are_those_of_one_key_and_one_address() {
        assert_eq!(token(b"key", "[::1]:1"), token(b"key", "[::1]:1"));
        assert_ne!(token(b"key", "[::1]:1"), token(b"other", "[::1]:1"));
        assert_ne!(token(b"key", "[::1]:1"), token(b"key", "[::1]:2"));
    }

    #[test]
    fn a_signature_is_verified() {
        let key = ResetKey([7; 32]);
        let mut signature = vec![0; key.signature_len()];
        key.sign(b"data", &mut signature);
        key.verify(b"data", &signature).unwrap();
        assert!(key.verify(b"other", &signature).is_err());
    }
}
