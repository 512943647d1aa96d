//! A decoder for a stream of items, some of which enclose a body.
//!
//! A body follows the message of its item as raw bytes, and is followed by a trailer. See
//! PROTOCOL.md, "Many files on one stream".

use bytes::Bytes;
use quire_shared::codec::DecodeError;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::Message;

use crate::stream::message_buffer::MessageBuffer;

/// An item, and the body and the trailer that follow its message, if any do.
pub type Item<M, T> = (M, Option<(Bytes, T)>);

/// Returns how many bytes of a body follow a message; `None` if neither a body nor a trailer does.
pub type BodySize<M> = fn(&M) -> Result<Option<u64>, DecodeError>;

/// Takes items from the bytes that have arrived, as soon as they are complete.
#[derive(Debug)]
pub struct ItemDecoder<M> {
    /// The bytes that have arrived and are not taken yet.
    pub buffer: MessageBuffer,
    body_size: BodySize<M>,
    /// An item that is not complete, and the length of its body.
    message: Option<(M, usize)>,
    /// Its body, if that has arrived.
    body: Option<Bytes>,
}

impl<M: Message> ItemDecoder<M> {
    /// Makes a decoder of items with bodies of `body_size`.
    pub fn new(body_size: BodySize<M>) -> Self {
        Self {
            buffer: MessageBuffer::default(),
            body_size,
            message: None,
            body: None,
        }
    }

    /// Takes the next item; `None` if it hasn't arrived completely.
    ///
    /// # Errors
    /// If the bytes aren't an `M` or a `T`, or the body is over [`ENCLOSED_BYTES_MAX`]. The latter
    /// is detected as soon as the message has arrived.
    pub fn item<T: Message>(&mut self) -> Result<Option<Item<M, T>>, DecodeError> {
        let (message, bytes) = match self.message.take() {
            Some(incomplete) => incomplete,
            None => {
                let Some(message) = self.buffer.message()? else {
                    return Ok(None);
                };
                let Some(size) = (self.body_size)(&message)? else {
                    return Ok(Some((message, None)));
                };
                let bytes = usize::try_from(size).unwrap_or(usize::MAX);
                let limit = ENCLOSED_BYTES_MAX;
                if bytes > limit {
                    return Err(DecodeError::TooLong { bytes, limit });
                }
                (message, bytes)
            }
        };
        let body = self.body.take().or_else(|| self.buffer.body(bytes));
        let trailer = match body {
            Some(_) => self.buffer.message()?,
            None => None,
        };
        match (body, trailer) {
            (Some(body), Some(trailer)) => Ok(Some((message, Some((body, trailer))))),
            (body, _) => {
                self.message = Some((message, bytes));
                self.body = body;
                Ok(None)
            }
        }
    }

    /// Checks that nothing follows the last item.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] if there are bytes in the buffer.
    pub fn expect_end(&self) -> Result<(), DecodeError> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(DecodeError::TrailingBytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_shared::codec;
    use quire_shared::protocol::{Done, Get, Ping, Request};

    /// The length of a range stands for the size of a body.
    fn body_size(request: &Request) -> Result<Option<u64>, DecodeError> {
        match request {
            Request::Get(get) => get.length.map(Some).ok_or(DecodeError::Malformed),
            _ => Ok(None),
        }
    }

    fn enclosing(length: Option<u64>) -> Request {
        Request::from(Get {
            length,
            ..Get::default()
        })
    }

    fn decoder(bytes: &[u8]) -> ItemDecoder<Request> {
        let mut decoder = ItemDecoder::new(body_size);
        decoder.buffer.push(bytes);
        decoder
    }

    #[test]
    fn items_are_taken_as_soon_as_they_are_complete() {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        let mut ends = Vec::new();
        for body in [Some(&b"hello"[..]), None, Some(b""), Some(b"x")] {
            let message = match body {
                Some(body) => enclosing(Some(body.len() as u64)),
                None => Request::from(Ping::default()),
            };
            codec::append(&message, &mut bytes).unwrap();
            if let Some(body) = body {
                bytes.extend(body);
                codec::append(&Done {}, &mut bytes).unwrap();
            }
            ends.push(bytes.len());
            expected.push((message, body.map(|body| (Bytes::from(body), Done {}))));
        }
        for piece in 1..=bytes.len() {
            let mut decoder = decoder(b"");
            let mut items = Vec::new();
            let mut arrived = 0;
            for piece in bytes.chunks(piece) {
                decoder.buffer.push(piece);
                arrived += piece.len();
                while let Some(item) = decoder.item::<Done>().unwrap() {
                    items.push(item);
                }
                let complete = ends.iter().filter(|end| **end <= arrived).count();
                assert_eq!(items.len(), complete);
            }
            assert_eq!(items, expected);
            decoder.expect_end().unwrap();
        }
    }

    // P11
    #[test]
    fn a_body_over_the_limit_or_without_a_size_is_refused_by_its_message_alone() {
        let limit = ENCLOSED_BYTES_MAX;
        let item = |size: Option<u64>| {
            let bytes = codec::encode(&enclosing(size)).unwrap();
            decoder(&bytes).item::<Done>()
        };
        assert_eq!(item(Some(limit as u64)), Ok(None));
        let bytes = limit + 1;
        let error = DecodeError::TooLong { bytes, limit };
        assert_eq!(item(Some(bytes as u64)), Err(error));
        assert_eq!(item(None), Err(DecodeError::Malformed));
    }

    #[test]
    fn bytes_that_are_no_trailer_or_follow_the_last_item_are_refused() {
        let mut bytes = codec::encode(&enclosing(Some(1))).unwrap();
        bytes.extend([b'x', 0, 0, 0, 1, 0xff]);
        let decoded = decoder(&bytes).item::<Done>();
        assert_eq!(decoded, Err(DecodeError::Malformed));
        assert_eq!(decoder(b"x").expect_end(), Err(DecodeError::TrailingBytes));
    }
}
