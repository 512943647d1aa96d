//! Pairing: mutual proof of a one-time code that a person carries from the server to the client.
//!
//! The code is a secret of 80 random bits. It can't be guessed or searched, so no PAKE is needed to
//! protect it. Each end proves that it knows the code with a keyed digest over keying material of
//! the TLS connection (an exporter, RFC 8446, §7.5). A machine in the middle has two connections
//! with different keying material, so a proof for one of them is useless on the other. See
//! PROTOCOL.md, "pair".

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::limits::REPLY_BYTES_MAX;
use crate::protocol::Message;
use crate::side::Side;

/// Asks the server to authorize the client's key, with proof of a pairing code.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pair {
    /// Proof that the client knows the code.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub proof: Proof,
}

/// Confirms that the client's key is authorized from now on.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Paired {
    /// Proof that the server knows the code.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub proof: Proof,
}

impl Message for Paired {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// A keyed BLAKE3 digest over keying material.
pub type Proof = [u8; 32];

/// Omits the proof, which must not be logged.
impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair")
    }
}

/// Omits the proof, which must not be logged.
impl fmt::Debug for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paired")
    }
}

/// The one-time code that a person carries from the server to the client.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingCode([u8; CODE_BYTES]);

impl PairingCode {
    /// Makes a code of random bytes, which must come from the system's random generator.
    pub fn new(random: [u8; CODE_BYTES]) -> Self {
        Self(random)
    }

    /// Derives the key that proofs are made with.
    pub fn key(&self) -> PairingKey {
        PairingKey(blake3::derive_key(KEY_CONTEXT, &self.0))
    }
}

/// Shows the code in groups of four characters, which are easy to read aloud.
impl fmt::Display for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self
            .0
            .iter()
            .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        for position in (0..CHARACTERS).rev() {
            let value = usize::try_from(bits >> (5 * position) & 31).unwrap_or_default();
            let character = ALPHABET.get(value).copied().unwrap_or(b'0');
            write!(f, "{}", char::from(character))?;
            if position % 4 == 0 && position > 0 {
                f.write_str("-")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode")
    }
}

/// Accepts the code in any case, with or without dashes, and with O, I and L for 0, 1 and 1.
impl FromStr for PairingCode {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let mut bits = 0_u128;
        let mut count = 0;
        for character in text.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
            let canonical = match character.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let is_it = |known: &u8| char::from(*known) == canonical;
            let value = ALPHABET.iter().position(is_it).ok_or(CodeError)?;
            bits = bits << 5 | value as u128;
            count += 1;
        }
        // 16 characters of 5 bits are exactly 80 bits; the second test guards that arithmetic.
        if count != CHARACTERS || bits >> (8 * CODE_BYTES) != 0 {
            return Err(CodeError);
        }
        let bytes = bits.to_be_bytes();
        let code = bytes.last_chunk::<CODE_BYTES>().ok_or(CodeError)?;
        Ok(Self(*code))
    }
}

/// The error for a text that is no pairing code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code has 16 letters and digits, as in 7K3M-9QWX-2HRT-B4NP")]
pub struct CodeError;

/// The key that proofs are made with. The server stores this instead of the code.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingKey([u8; 32]);

impl PairingKey {
    /// Restores a stored key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the key for storage.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Computes the proof for one end of a connection from the keying `material` of that end.
    pub fn proof(&self, material: &[u8; MATERIAL_BYTES]) -> Proof {
        *blake3::keyed_hash(&self.0, material).as_bytes()
    }

    /// Whether `proof` is the proof for `material`. Compares in constant time.
    pub fn proves(&self, material: &[u8; MATERIAL_BYTES], proof: Proof) -> bool {
        // `blake3::Hash` compares in constant time; arrays don't.
        blake3::Hash::from(self.proof(material)) == blake3::Hash::from(proof)
    }
}

impl fmt::Debug for PairingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingKey")
    }
}

impl Side {
    /// Returns the context of the TLS exporter for this end (RFC 8446, §7.5). Each end proves with
    /// keying material of its own, so that neither can echo the proof of the other.
    pub fn context(self) -> &'static [u8] {
        match self {
            Self::Client => b"client",
            Self::Server => b"server",
        }
    }
}

/// Size of a code, in bytes: 80 bits.
pub const CODE_BYTES: usize = 10;

const CHARACTERS: usize = CODE_BYTES * 8 / 5;

/// Crockford's base 32: no letters that look like digits, and no U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The label of the TLS exporter for pairing (RFC 8446, §7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-quire-pairing";

/// Keying material of a proof, in bytes.
pub const MATERIAL_BYTES: usize = 32;

/// The context string of BLAKE3's key derivation, which no other use of BLAKE3 may share.
const KEY_CONTEXT: &str = "quire/1 pairing code";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_write_it() {
        let code = PairingCode::new([0, 1, 2, 3, 4, 250, 251, 252, 253, 254]);
        let shown = code.to_string();
        assert_eq!(shown, "000G-40R4-ZBXZ-SZFY");
        for text in [
            shown.clone(),
            shown.to_lowercase(),
            shown.replace('-', ""),
            shown.replace('-', " "),
            shown.replace('0', "o"),
        ] {
            assert_eq!(text.parse(), Ok(code.clone()), "{text}");
        }
        for text in [
            "",
            "000G-40R4-ZBXZ-SZF",
            "000G-40R4-ZBXZ-SZFYY",
            "000G-40R4-ZBXZ-SZFU",
        ] {
            assert_eq!(text.parse::<PairingCode>(), Err(CodeError), "{text}");
        }
        assert!(!format!("{code:?}{:?}", code.key()).contains("000G"));
    }
}
