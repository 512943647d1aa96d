//! Proofs of a pairing code, bound to a connection by its keying material (RFC 8446, §7.5).

use quinn::Connection;
use quire_shared::Side;
use quire_shared::pairing::{EXPORTER_LABEL, MATERIAL_BYTES, PairingKey, Proof};

/// Computes the proof that the end `side` of `connection` knows the code.
///
/// # Errors
/// [`NoMaterial`] before the end of the handshake.
pub fn proof(key: &PairingKey, side: Side, connection: &Connection) -> Result<Proof, NoMaterial> {
    Ok(key.proof(&material(side, connection)?))
}

/// Verifies the proof of the end `side` of `connection`.
///
/// # Errors
/// As [`proof`].
pub fn proves(
    key: &PairingKey,
    side: Side,
    connection: &Connection,
    proof: Proof,
) -> Result<bool, NoMaterial> {
    Ok(key.proves(&material(side, connection)?, proof))
}

fn material(side: Side, connection: &Connection) -> Result<[u8; MATERIAL_BYTES], NoMaterial> {
    let mut material = [0; MATERIAL_BYTES];
    connection
        .export_keying_material(&mut material, EXPORTER_LABEL, side.context())
        .map_err(|_| NoMaterial)?;
    Ok(material)
}

/// The connection has no keying material yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection has no keying material")]
pub struct NoMaterial;

#[cfg(test)]
mod tests {
    use quire_shared::pairing::{CODE_BYTES, PairingCode};

    use super::*;
    use crate::loopback::Loopback;

    #[tokio::test]
    async fn a_proof_holds_for_its_code_its_side_and_its_connection_alone() {
        let one = Loopback::connect().await;
        let other = Loopback::connect().await;
        let key = PairingCode::new([1; CODE_BYTES]).key();
        let wrong = PairingCode::new([2; CODE_BYTES]).key();
        for side in [Side::Client, Side::Server] {
            let sent = proof(&key, side, &one.client).unwrap();
            assert!(proves(&key, side, &one.server, sent).unwrap());
            assert!(!proves(&wrong, side, &one.server, sent).unwrap());
            // A machine in the middle has a second connection.
            assert!(!proves(&key, side, &other.server, sent).unwrap());
        }
        let sent = proof(&key, Side::Client, &one.client).unwrap();
        assert!(!proves(&key, Side::Server, &one.client, sent).unwrap());
    }
}
