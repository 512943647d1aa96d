//! Messages as bytes: a length of four bytes, big-endian, then that many bytes of CBOR (RFC 8949).
//!
//! The length is held against the message's own limit before anything is allocated, and a message
//! is decoded whole or not at all. See PROTOCOL.md, "Messages".

use crate::error_code::ErrorCode;
use crate::path::PathError;
use crate::protocol::Message;

/// The bytes of a length prefix.
pub const PREFIX_BYTES: usize = 4;

/// The message with its length prefix.
///
/// # Errors
/// If the message is longer than its own limit, which its sender has to prevent.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Vec::new();
    append(message, &mut bytes)?;
    Ok(bytes)
}

/// Adds the message with its length prefix to `bytes`, which are as before if that fails.
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
    bytes.extend_from_slice(&[0; PREFIX_BYTES]);
    // Writing to memory can't fail, and our own encoders never refuse.
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

/// The length that a prefix announces for an `M`.
///
/// # Errors
/// If it is over the message's limit.
pub fn decode_length<M: Message>(prefix: [u8; PREFIX_BYTES]) -> Result<usize, DecodeError> {
    let limit = M::BYTES_MAX;
    let bytes = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if bytes > limit {
        Err(DecodeError::TooLong { bytes, limit })
    } else {
        Ok(bytes)
    }
}

/// The message that `bytes`, without their length prefix, stand for.
///
/// # Errors
/// What the other side did wrong.
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

/// What the other side did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the message does.
    #[error("message ends too early")]
    Truncated,
    /// Bytes follow the message.
    #[error("bytes follow the message")]
    TrailingBytes,
    /// The message is over its limit.
    #[error("message of {bytes} bytes, over its limit of {limit}")]
    TooLong {
        /// The announced length.
        bytes: usize,
        /// The message's own limit.
        limit: usize,
    },
    /// The kind of request or reply is none that this version knows.
    #[error("message of unknown kind")]
    UnknownKind,
    /// A path breaks a rule.
    #[error("invalid path")]
    InvalidPath(#[source] PathError),
    /// Anything else that isn't the expected message.
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
        match error
            .source()
            .and_then(|source| source.downcast_ref::<PathError>())
        {
            Some(rule) => Self::InvalidPath(*rule),
            None => Self::Malformed,
        }
    }

    /// The code that the sender of the message hears.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated | Self::TrailingBytes | Self::Malformed => ErrorCode::MALFORMED,
            Self::TooLong { .. } => ErrorCode::MESSAGE_TOO_LONG,
            Self::UnknownKind => ErrorCode::UNSUPPORTED,
            Self::InvalidPath(_) => ErrorCode::INVALID_PATH,
        }
    }
}
