//! A buffer for messages and short bodies, which are taken as soon as they are complete.
//!
//! Where thousands of small files share a stream, an `await` for each message and each body would
//! cost more than the work on them. This buffer collects bytes as they arrive. Any thread can then
//! take as many complete messages as there are, without waiting.

use std::task::Poll;

use bytes::{Bytes, BytesMut};

use quire_shared::codec::{self, DecodeError, PREFIX_BYTES};
use quire_shared::protocol::Message;

/// Bytes that have arrived and are not taken yet.
#[derive(Debug, Default)]
pub struct MessageBuffer {
    bytes: BytesMut,
}

impl MessageBuffer {
    /// Appends bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Calls `read` with `room` bytes of free space, and keeps as many as `read` returns.
    pub(crate) fn fill<E>(
        &mut self,
        room: usize,
        read: impl FnOnce(&mut [u8]) -> Poll<Result<Option<usize>, E>>,
    ) -> Poll<Result<Option<usize>, E>> {
        let length = self.bytes.len();
        // Zeroed, because `unsafe` is forbidden here; that costs little beside decryption.
        self.bytes.resize(length + room, 0);
        let read = read(self.bytes.get_mut(length..).unwrap_or_default());
        let used = match &read {
            Poll::Ready(Ok(Some(used))) => *used,
            Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => 0,
        };
        self.bytes.truncate(length + used);
        read
    }

    /// Appends the bytes of another buffer.
    pub fn append(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
        } else {
            self.push(&other.bytes);
        }
    }

    /// Returns the number of bytes in the buffer.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the next message; `None` if it hasn't arrived completely.
    ///
    /// # Errors
    /// If the bytes aren't an `M`, or the message is over its limit. The latter is detected as soon
    /// as the length prefix has arrived.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, DecodeError> {
        let Some(prefix) = self.bytes.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let end = PREFIX_BYTES + codec::decode_length::<M>(*prefix)?;
        let Some(whole) = self.bytes.get(PREFIX_BYTES..end) else {
            return Ok(None);
        };
        let message = codec::decode(whole)?;
        bytes::Buf::advance(&mut self.bytes, end);
        Ok(Some(message))
    }

    /// Takes the next `length` bytes of a body; `None` if they haven't all arrived.
    pub fn body(&mut self, length: usize) -> Option<Bytes> {
        (self.bytes.len() >= length).then(|| self.bytes.split_to(length).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_shared::digest::DigestKind;
    use quire_shared::protocol::{Done, Ping, Pong, Request, Trailer};

    #[test]
    fn messages_and_bodies_are_taken_as_soon_as_they_are_complete() {
        let trailer = Trailer {
            digest: DigestKind::Xxh3.hasher().finish(),
            grew: false,
        };
        let bytes = [
            codec::encode(&Request::from(Ping::default())).unwrap(),
            b"hello".to_vec(),
            codec::encode(&trailer).unwrap(),
        ]
        .concat();
        for piece in 1..bytes.len() {
            let mut buffer = MessageBuffer::default();
            let mut request = None;
            let mut body = None;
            let mut end = None;
            for piece in bytes.chunks(piece) {
                buffer.push(piece);
                if request.is_none() {
                    request = buffer.message::<Request>().unwrap();
                }
                if request.is_some() && body.is_none() {
                    body = buffer.body(5);
                }
                if body.is_some() && end.is_none() {
                    end = buffer.message::<Trailer>().unwrap();
                }
            }
            assert_eq!(request, Some(Ping::default().into()));
            assert_eq!(body.as_deref(), Some(&b"hello"[..]));
            assert_eq!(end.as_ref(), Some(&trailer));
            assert!(buffer.is_empty());
        }
    }

    // P11
    #[test]
    fn a_message_over_its_limit_is_refused_by_its_length_alone() {
        let mut buffer = MessageBuffer::default();
        buffer.push(&u32::MAX.to_be_bytes());
        let error = buffer.message::<Pong>().unwrap_err();
        assert!(matches!(error, DecodeError::TooLong { .. }));
    }

    // P12
    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let mut buffer = MessageBuffer::default();
        buffer.push(&[0, 0, 0, 1, 0xff]);
        assert_eq!(buffer.message::<Done>(), Err(DecodeError::Malformed));
    }
}
