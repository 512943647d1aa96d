//! How a client and a server that never met prove to each other that a person gave both one code.
//!
//! The code is a secret of 80 random bits, which nobody guesses nor searches through, so it needs
//! no protocol that protects short ones. Each end proves that it knows the code by a keyed digest
//! over keying material of the TLS connection between them (RFC 8446, §7.5): somebody in the
//! middle has two connections with different material, and no use for a proof made for one of
//! them. See PROTOCOL.md, "pair".

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::limits::REPLY_BYTES_MAX;
use crate::protocol::Message;
use crate::side::Side;

/// Asks to be let in, by proof of a code.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pair {
    /// That the client knows the code.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub proof: Proof,
}

/// Says that the client's key is let in from now on.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Paired {
    /// That the server knows the code.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub proof: Proof,
}

impl Message for Paired {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// A keyed digest.
pub type Proof = [u8; 32];

/// Without the proof, which belongs into no log.
impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair")
    }
}

/// Without the proof, which belongs into no log.
impl fmt::Debug for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paired")
    }
}

/// A code that a person carries from the server to the client.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingCode([u8; CODE_BYTES]);

impl PairingCode {
    /// A code of these random bytes.
    pub fn new(random: [u8; CODE_BYTES]) -> Self {
        Self(random)
    }

    /// What proofs are made with.
    pub fn key(&self) -> PairingKey {
        PairingKey(blake3::derive_key(KEY_CONTEXT, &self.0))
    }
}

/// In groups of four characters, as people read them out.
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

/// Takes what people make of a code: any case, with or without dashes, and letters for digits.
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
        if count != CHARACTERS || bits >> (8 * CODE_BYTES) != 0 {
            return Err(CodeError);
        }
        let bytes = bits.to_be_bytes();
        let code = bytes.last_chunk::<CODE_BYTES>().ok_or(CodeError)?;
        Ok(Self(*code))
    }
}

/// The text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code has 16 letters and digits, as in 7K3M-9QWX-2HRT-B4NP")]
pub struct CodeError;

/// What proofs are made with: all that the server keeps of a code.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingKey([u8; 32]);

impl PairingKey {
    /// A key that was kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key, to be kept.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The proof of the code for one end of a connection, by that end's keying `material`.
    pub fn proof(&self, material: &[u8; MATERIAL_BYTES]) -> Proof {
        *blake3::keyed_hash(&self.0, material).as_bytes()
    }

    /// Whether `proof` is that for `material`, in a time that tells nothing.
    pub fn proves(&self, material: &[u8; MATERIAL_BYTES], proof: Proof) -> bool {
        blake3::Hash::from(self.proof(material)) == blake3::Hash::from(proof)
    }
}

impl fmt::Debug for PairingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingKey")
    }
}

impl Side {
    /// The context of the TLS exporter for this end (RFC 8446, §7.5). Each end proves with keying
    /// material of its own, so that neither can echo the proof of the other.
    pub fn context(self) -> &'static [u8] {
        match self {
            Self::Client => b"client",
            Self::Server => b"server",
        }
    }
}

/// 80 bits.
pub const CODE_BYTES: usize = 10;

const CHARACTERS: usize = CODE_BYTES * 8 / 5;

/// Crockford's base 32: without letters that look like digits, nor U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The label of RFC 8446, §7.5, for the proofs of pairing.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-quire-pairing";

/// Bytes of keying material in a proof.
pub const MATERIAL_BYTES: usize = 32;

/// What sets this use of BLAKE3 apart from others.
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
