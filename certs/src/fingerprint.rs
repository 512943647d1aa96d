//! Fingerprint of a public key, which users compare and files store.
//!
//! It covers only the public key and its algorithm, so that a renewed certificate keeps it. Each
//! fingerprint has exactly one text form, so that equal texts mean equal keys.

use std::{fmt, str::FromStr};

use rustls::{
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::CertsError;

/// SHA-256 of a SubjectPublicKeyInfo, written as base64url (RFC 4648 §5) without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; DIGEST_BYTES]);

impl Fingerprint {
    /// Length of the text form, in characters.
    pub(crate) const CHARS: usize = (DIGEST_BYTES * 8).div_ceil(CHAR_BITS as usize);

    /// The fingerprint of the key in `certificate`.
    ///
    /// # Errors
    ///
    /// [`CertsError::NotACertificate`] when it does not parse.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, CertsError> {
        let parsed =
            ParsedCertificate::try_from(certificate).map_err(CertsError::NotACertificate)?;
        Ok(Self::of_key(&parsed.subject_public_key_info()))
    }

    /// The fingerprint of a public key.
    pub(crate) fn of_key(key: &SubjectPublicKeyInfoDer<'_>) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(Self::CHARS);
        let mut pending = 0_u32;
        let mut bits = 0;
        for byte in self.0 {
            pending = pending << 8 | u32::from(byte);
            bits += 8;
            while bits >= CHAR_BITS {
                bits -= CHAR_BITS;
                text.push(symbol(pending >> bits & CHAR_MASK));
            }
            pending &= CHAR_MASK;
        }
        if bits > 0 {
            text.push(symbol(pending << (CHAR_BITS - bits) & CHAR_MASK));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let chars = text.chars().count();
        if chars != Self::CHARS {
            return Err(FingerprintError::Length(chars));
        }
        let mut digest = [0; DIGEST_BYTES];
        let mut bytes = digest.iter_mut();
        let mut pending = 0_u32;
        let mut bits = 0;
        for char in text.chars() {
            let value = value(char).ok_or(FingerprintError::Character(char))?;
            pending = pending << CHAR_BITS | value;
            bits += CHAR_BITS;
            if bits >= 8 {
                bits -= 8;
                let [.., byte] = (pending >> bits).to_be_bytes();
                if let Some(slot) = bytes.next() {
                    *slot = byte;
                }
                pending &= (1 << bits) - 1;
            }
        }
        // The last character has spare bits; unchecked, one key would have four spellings.
        if pending != 0 {
            return Err(FingerprintError::TrailingBits);
        }
        Ok(Self(digest))
    }
}

/// Why a text is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FingerprintError {
    /// Too short or too long, in characters.
    #[error("a fingerprint has {} characters, this has {}", Fingerprint::CHARS, .0)]
    Length(usize),
    /// A character outside base64url.
    #[error("{:?} cannot stand in a fingerprint", .0)]
    Character(char),
    /// The last character carries bits that belong to no byte.
    #[error("the last character of this fingerprint is wrong")]
    TrailingBits,
}

/// The character for six bits.
fn symbol(value: u32) -> char {
    ALPHABET
        .chars()
        .nth(value as usize)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The six bits of a character.
fn value(symbol: char) -> Option<u32> {
    ALPHABET
        .chars()
        .position(|candidate| candidate == symbol)
        .and_then(|position| u32::try_from(position).ok())
}

/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;

/// Bits that one base64 character carries.
const CHAR_BITS: u32 = 6;

/// Masks the bits of one character.
const CHAR_MASK: u32 = (1 << CHAR_BITS) - 1;

/// RFC 4648 §5: safe in file names and on command lines.
const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    /// What `openssl dgst -sha256 -binary | basenc --base64url` says of these two digests.
    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const ONES: &str = "__________________________________________8";

    #[test]
    fn known_digests_have_their_known_spelling() {
        assert_eq!(Fingerprint([0; DIGEST_BYTES]).to_string(), ZEROS);
        assert_eq!(Fingerprint([0xff; DIGEST_BYTES]).to_string(), ONES);
        // SHA-256 of the empty string.
        assert_eq!(
            Fingerprint::of_key(&SubjectPublicKeyInfoDer::from(Vec::new())).to_string(),
            "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
        );
    }

    #[test]
    fn parsing_undoes_display() {
        let mut byte = 7_u8;
        for _ in 0..200 {
            let digest = std::array::from_fn(|_| {
                byte = byte.wrapping_mul(77).wrapping_add(13);
                byte
            });
            let text = Fingerprint(digest).to_string();
            assert_eq!(text.len(), Fingerprint::CHARS);
            assert_eq!(text.parse(), Ok(Fingerprint(digest)));
        }
    }

    #[test]
    fn each_key_has_one_spelling() {
        for last in ALPHABET.chars() {
            let text = format!("{}{last}", &ZEROS[1..]);
            match text.parse::<Fingerprint>() {
                Ok(parsed) => assert_eq!(parsed.to_string(), text),
                Err(error) => assert_eq!(error, FingerprintError::TrailingBits),
            }
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let parse = |text: &str| text.parse::<Fingerprint>().unwrap_err();
        assert_eq!(parse(""), FingerprintError::Length(0));
        assert_eq!(parse(&ZEROS[1..]), FingerprintError::Length(42));
        assert_eq!(parse(&format!("{ZEROS}=")), FingerprintError::Length(44));
        for bad in ['+', '/', '=', ' ', '\n', 'é'] {
            let text = format!("{bad}{}", &ZEROS[1..]);
            assert_eq!(parse(&text), FingerprintError::Character(bad));
        }
    }

    #[test]
    fn debug_and_errors_are_readable() {
        let zeros: Fingerprint = ZEROS.parse().unwrap();
        assert_eq!(format!("{zeros:?}"), format!("Fingerprint({ZEROS})"));
        assert_eq!(
            FingerprintError::Length(3).to_string(),
            "a fingerprint has 43 characters, this has 3"
        );
    }

    #[test]
    fn a_renewed_certificate_keeps_the_fingerprint() {
        let key = rcgen::KeyPair::generate().unwrap();
        let issue = |name: &str| {
            rcgen::CertificateParams::new([name.to_owned()])
                .unwrap()
                .self_signed(&key)
                .unwrap()
        };
        let old = issue("old");
        let new = issue("new");
        assert_ne!(old.der(), new.der());
        assert_eq!(
            Fingerprint::of_certificate(old.der()).unwrap(),
            Fingerprint::of_certificate(new.der()).unwrap()
        );
    }

    #[test]
    fn keys_differ_and_a_malformed_certificate_has_none() {
        let [a, b] = [(); 2].map(|()| Identity::generate(&[]).unwrap().fingerprint());
        assert_ne!(a, b);
        let rubbish = CertificateDer::from(&b"\x30\x03abc"[..]);
        assert!(matches!(
            Fingerprint::of_certificate(&rubbish),
            Err(CertsError::NotACertificate(_))
        ));
    }
}
