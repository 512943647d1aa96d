//! Identifiers of changes.

use minicbor::{Decode, Decoder, Encode, Encoder};

/// Identifies a change among those of a client's key, so that a server that has made it answers a
/// repetition as it did before, instead of making it again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChangeId([u8; Self::BYTES]);

impl ChangeId {
    /// Length in bytes: enough that random identifiers never meet.
    pub const BYTES: usize = 16;

    /// Makes an identifier of random bytes.
    pub const fn new(random: [u8; Self::BYTES]) -> Self {
        Self(random)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// In hexadecimal.
impl std::fmt::Debug for ChangeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<C> Encode<C> for ChangeId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for ChangeId {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = d.bytes()?.try_into();
        let wrong = |_| minicbor::decode::Error::message("not an identifier of a change");
        bytes.map(Self).map_err(wrong)
    }
}
