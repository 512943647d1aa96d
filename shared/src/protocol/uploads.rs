//! Messages of uploads that go on where an earlier one was interrupted.
//!
//! The server keeps what came of a large file, bound to the client's key, the path, the size, the
//! modification time and the condition. See PROTOCOL.md, "Uploads that go on".

use minicbor::{Decode, Encode};

use super::{Message, Put, Time};
use crate::limits::{PAGE_BYTES_MAX, REPLY_BYTES_MAX};
use crate::path::RemotePath;

/// Uploads a file from where an earlier upload of it was interrupted. Reply: [`PutOffset`]; then the
/// bytes from there on and a [`Trailer`](super::Trailer), as for [`Put`], and in the end a second
/// reply with [`Changed`](super::Changed).
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct ResumePut {
    /// The upload. Size and modification time are those of the whole file, and given.
    #[n(0)]
    pub put: Put,
    /// How many bytes of a file with holes are outside them, if the client would send the body in
    /// extents: about what the file takes of the disk.
    #[n(1)]
    pub in_extents: Option<u64>,
}

/// Where an upload goes on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PutOffset {
    /// How many bytes the server has, from the beginning of the file.
    #[n(0)]
    pub offset: u64,
    /// Whether the body is to come in extents. Never unless the request offers it.
    #[n(1)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub in_extents: bool,
}

impl Message for PutOffset {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// Lists what interrupted uploads of the client's key have left, or removes it. Reply:
/// [`UploadPage`]s up to the last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Uploads {
    /// The file, or a directory above it.
    #[n(0)]
    pub path: RemotePath,
    /// Whether what is listed is removed, unless it is being received.
    #[n(1)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub remove: bool,
}

/// What an interrupted upload has left.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UnfinishedUpload {
    /// The path that the file will have.
    #[n(0)]
    pub path: RemotePath,
    /// The size of the whole file, in bytes.
    #[n(1)]
    pub size: u64,
    /// How many of them are there.
    #[n(2)]
    pub received: u64,
    /// When the last of them came.
    #[n(3)]
    pub last: Time,
    /// When the server removes them.
    #[n(4)]
    pub expires: Time,
    /// Whether more are being received.
    #[n(5)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub is_active: bool,
}

/// A page of the list of unfinished uploads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct UploadPage {
    /// The uploads, in the order of their paths.
    #[n(0)]
    #[cbor(default)]
    pub entries: Vec<UnfinishedUpload>,
    /// Whether this is the last page.
    #[n(1)]
    #[cbor(default)]
    pub last: bool,
}

impl Message for UploadPage {
    const BYTES_MAX: usize = PAGE_BYTES_MAX;
}
