//! Message encoding: a length of four bytes, big-endian, then that many bytes of CBOR (RFC 8949).
//!
//! The length is compared with the limit of the message type before anything is allocated. A
//! message is decoded as a whole or not at all. See PROTOCOL.md, "Messages".

use crate::error_code::ErrorCode;
use crate::path::PathError;
use crate::protocol::{DetailError, Message};

/// Size of the length prefix, in bytes.
pub const PREFIX_BYTES: usize = 4;

/// Encodes a message with its length prefix.
///
/// # Errors
/// [`DecodeError::TooLong`] if the message is over the limit of its type. Callers have to prevent
/// that, for example by closing a page early.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Vec::new();
    append(message, &mut bytes)?;
    Ok(bytes)
}

/// Appends a message with its length prefix to `bytes`. After an error `bytes` is unchanged.
///
/// # Errors
/// As [`encode`].
pub fn append<M: Message>(message: &M, bytes: &mut Vec<u8>) -> Result<(), DecodeError> {
    let start = bytes.len();
    let appended = append_unless_too_long(message, start, bytes);
    if appended.is_err() {
        bytes.truncate(start);
    }
    appended
}

fn append_unless_too_long<M: Message>(
    message: &M,
    start: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    // The length is known only after encoding, so the prefix is filled in afterwards.
    bytes.extend_from_slice(&[0; PREFIX_BYTES]);
    // Can't fail: writing to a `Vec` is infallible, and no encoder of this crate returns an error.
    minicbor::encode(message, &mut *bytes).map_err(|_| DecodeError::Malformed)?;
    let length = bytes.len() - start - PREFIX_BYTES;
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= M::BYTES_MAX);
    let prefix = prefix.ok_or(DecodeError::TooLong {
        bytes: length,
        limit: M::BYTES_MAX,
    })?;
    if let Some(place) = bytes.get_mut(start..start + PREFIX_BYTES) {
        place.copy_from_slice(&prefix.to_be_bytes());
    }
    Ok(())
}

/// Decodes the length prefix of an `M`.
///
/// # Errors
/// [`DecodeError::TooLong`] if the length is over the limit of `M`.
pub fn decode_length<M: Message>(prefix: [u8; PREFIX_BYTES]) -> Result<usize, DecodeError> {
    let limit = M::BYTES_MAX;
    let bytes = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if bytes > limit {
        Err(DecodeError::TooLong { bytes, limit })
    } else {
        Ok(bytes)
    }
}

/// Decodes a message from `bytes`, which exclude the length prefix.
///
/// # Errors
/// The rule of the protocol that the peer broke.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let message = decoder
        .decode::<M>()
        .map_err(|error| DecodeError::from_cbor(&error))?;
    if decoder.position() != bytes.len() {
        return Err(DecodeError::TrailingBytes);
    }
    Ok(message)
}

/// A message that breaks a rule of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end in the middle of the message.
    #[error("message ends too early")]
    Truncated,
    /// The message is followed by more bytes.
    #[error("bytes follow the message")]
    TrailingBytes,
    /// The message is over the limit of its type.
    #[error("message of {bytes} bytes, over its limit of {limit}")]
    TooLong {
        /// The announced length, in bytes.
        bytes: usize,
        /// The limit of the message type, in bytes.
        limit: usize,
    },
    /// This version doesn't know the kind of request, reply, digest or precondition.
    #[error("message of unknown kind")]
    UnknownKind,
    /// A path or a name breaks a rule of [`path`](crate::path).
    #[error("invalid path")]
    InvalidPath(#[source] PathError),
    /// A detail of a file breaks a rule.
    #[error("malformed message: {0}")]
    Detail(#[source] DetailError),
    /// The bytes are not CBOR, or not the expected message.
    #[error("malformed message")]
    Malformed,
}

impl DecodeError {
    fn from_cbor(error: &minicbor::decode::Error) -> Self {
        use std::error::Error;
        if error.is_end_of_input() {
            return Self::Truncated;
        }
        if error.is_unknown_variant() {
            return Self::UnknownKind;
        }
        // The decoders of paths and details hide their own errors in minicbor's.
        match error
            .source()
            .and_then(|source| source.downcast_ref::<PathError>())
        {
            Some(rule) => Self::InvalidPath(*rule),
            None => match error.source().and_then(|source| source.downcast_ref()) {
                Some(rule) => Self::Detail(*rule),
                None => Self::Malformed,
            },
        }
    }

    /// Returns the error code to answer the sender with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated | Self::TrailingBytes | Self::Detail(_) | Self::Malformed => {
                ErrorCode::MALFORMED
            }
            Self::TooLong { .. } => ErrorCode::MESSAGE_TOO_LONG,
            Self::UnknownKind => ErrorCode::UNSUPPORTED,
            Self::InvalidPath(_) => ErrorCode::INVALID_PATH,
        }
    }
}
