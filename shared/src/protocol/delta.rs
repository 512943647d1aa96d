//! Messages of transfers that send only what changed.
//!
//! The server lists the chunks of a file that it has. The client compares them with those of a local
//! file, and fetches the ranges that it lacks, or sends what the server lacks. See PROTOCOL.md, "Delta
//! transfers".

use minicbor::{Decode, Decoder, Encode, Encoder};

use super::tagged::tagged;
use super::{Message, Precondition, Put, Version};
use crate::chunks::{ChunkParameters, PackedChunks};
use crate::digest::{Digest, DigestKind};
use crate::limits::{PAGE_BYTES_MAX, REPLY_BYTES_MAX};
use crate::path::RemotePath;

/// Lists the chunks of a file. Reply: [`ChunkPage`]s up to the one with the digest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Chunks {
    /// The file.
    #[n(0)]
    pub path: RemotePath,
    /// The kind of digest on the last page.
    #[n(1)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// Condition on the file.
    #[n(2)]
    #[cbor(default)]
    pub precondition: Precondition,
}

/// What a list of chunks is of.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChunkHead {
    /// The version of the file.
    #[n(0)]
    pub version: Version,
    /// Its size, in bytes.
    #[n(1)]
    pub size: u64,
    /// How it is cut.
    #[n(2)]
    pub parameters: ChunkParameters,
}

/// A page of the list of a file's chunks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct ChunkPage {
    /// What the list is of. On the first page only.
    #[n(0)]
    pub head: Option<ChunkHead>,
    /// The next chunks, in the order of the file.
    #[n(1)]
    #[cbor(default, skip_if = "PackedChunks::is_empty")]
    pub chunks: PackedChunks,
    /// The digest of the whole file. On the last page only.
    #[n(2)]
    pub digest: Option<Digest>,
}

impl Message for ChunkPage {
    const BYTES_MAX: usize = PAGE_BYTES_MAX;
}

/// Uploads a file of which the server has a part: [`DeltaStep`]s follow until they make the whole
/// size, then a [`Trailer`](super::Trailer). Reply: [`Changed`](super::Changed).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PutDelta {
    /// The upload. The size is given.
    #[n(0)]
    pub put: Put,
    /// The version of the file that has the path now, whose content is copied.
    #[n(1)]
    pub base: Version,
}

tagged! {
    /// The next bytes of a file that is made from another version of it.
    DeltaStep {
        0 Copy(CopyStep) "Bytes of that version.";
        1 Data(DataStep) "New bytes, which follow.";
    }
}

impl Message for DeltaStep {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// A range of the base that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CopyStep {
    /// Offset of the first byte.
    #[n(0)]
    pub offset: u64,
    /// Number of bytes.
    #[n(1)]
    pub length: u64,
}

/// New bytes, which follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DataStep {
    /// Number of bytes.
    #[n(0)]
    pub length: u64,
}
