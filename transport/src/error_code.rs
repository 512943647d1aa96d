//! Error codes of quire as application error codes of QUIC (RFC 9000, §20.2).
//!
//! `RESET_STREAM`, `STOP_SENDING` and `CONNECTION_CLOSE` carry a code as a variable-length integer.
//! `quire-shared` knows nothing of QUIC, so the conversion is here.

use quinn::VarInt;
use quire_shared::ErrorCode;

/// Converts a code for a QUIC frame.
pub fn to_quic(code: ErrorCode) -> VarInt {
    VarInt::from(code.number())
}

/// Converts a code from a QUIC frame. A number above 16 bits is no code of quire and becomes
/// [`ErrorCode::INTERNAL`].
pub fn from_quic(code: VarInt) -> ErrorCode {
    u16::try_from(code.into_inner()).map_or(ErrorCode::INTERNAL, ErrorCode::from_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for code in ErrorCode::ALL {
            assert_eq!(from_quic(to_quic(*code)), *code);
        }
    }

    #[test]
    fn a_number_that_fits_no_code_is_an_internal_error() {
        assert_eq!(from_quic(VarInt::MAX), ErrorCode::INTERNAL);
    }
}
