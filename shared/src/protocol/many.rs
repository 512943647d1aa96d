//! Messages of the requests that carry many files on one stream.
//!
//! A stream costs a round trip of latency and some packets, which is too much for thousands of
//! small files. Each file still has a header, a digest and a status of its own, so that one bad
//! file fails alone. See PROTOCOL.md, "Many files on one stream".

use minicbor::{Decode, Decoder, Encode, Encoder};

use super::replies::{Changed, Entry, Failure, GetHeader, Reply};
use super::tagged::tagged;
use super::{DetailKinds, Details, MakeDirectory, Message, Preserve, Put, Time};
use crate::codec::DecodeError;
use crate::digest::DigestKind;
use crate::limits::{DETAILED_BYTES_MAX, REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::path::{Name, RawName, RemotePath};

/// Downloads a directory with everything below it. Reply: [`Attributes`](super::Attributes) of the
/// directory, then [`TreeItem`]s up to the [`Left`] of the directory itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct GetTree {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// The kind of digest in the trailers of the files.
    #[n(1)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// The largest file whose content is sent on this stream, in bytes.
    #[n(2)]
    #[cbor(default)]
    pub enclose_max: u64,
    /// Which details of files and directories the entries tell.
    #[n(3)]
    #[cbor(default, skip_if = "DetailKinds::is_empty")]
    pub details: DetailKinds,
    /// Whether files of several names are described without their content, so that it isn't sent
    /// once for each.
    #[n(4)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub describe_linked: bool,
}

tagged! {
    /// A step of the server's walk through the directory.
    TreeItem {
        0 Described(Entry) "A file or other entry without its content.";
        1 Enclosed(Entry) "A file: its content follows as raw bytes, then a reply with a trailer.";
        2 Entered(Entry) "A directory: what follows is in it, up to its `Left`.";
        3 Missed(Missed) "An entry that can't be sent.";
        4 Left(Left) "The end of the current directory.";
    }
}

impl Message for TreeItem {
    const BYTES_MAX: usize = DETAILED_BYTES_MAX;
}

/// An entry that can't be sent, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Missed {
    /// The name.
    #[n(0)]
    pub name: Name,
    /// The reason.
    #[n(1)]
    pub failure: Failure,
}

/// The end of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Left {
    /// Number of entries that are left out because their names aren't UTF-8.
    #[n(0)]
    #[cbor(default)]
    pub unnameable: u64,
    /// Why the rest of the directory is missing, if it is.
    #[n(1)]
    pub failure: Option<Failure>,
    /// Some of the names that are left out.
    #[n(2)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub raw_names: Vec<RawName>,
}

/// Uploads many files and directories: [`PutItem`]s follow, up to [`PutItem::Last`]. Reply: an
/// [`Outcome`] for each item that is answered, in the order of their completion.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct PutMany {}

tagged! {
    /// An item of an upload of many files.
    PutItem {
        0 File(Put) "A file with a declared size: its content follows as raw bytes, then a trailer.";
        1 Directory(MakeDirectory) "A directory to create before any later item is carried out.";
        2 Attributes(SetAttributes) "Times and permissions of a directory.";
        3 Last(LastItem) "The end of the items.";
    }
}

impl Message for PutItem {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

/// Sets time, permissions and details of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetAttributes {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// The modification time to set; unchanged if absent.
    #[n(1)]
    pub modified: Option<Time>,
    /// The permission bits to set, as far as `preserve` says; unchanged if absent.
    #[n(2)]
    pub mode: Option<u32>,
    /// Which of these attributes the directory gets.
    #[n(3)]
    #[cbor(default)]
    pub preserve: Preserve,
    /// Details to set, as in [`Put`].
    #[n(4)]
    pub details: Option<Box<Details>>,
}

/// Ends the items of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct LastItem {}

/// The result of one item of an upload of many files.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Outcome {
    /// Number of the item: 0 is the first on the stream.
    #[n(0)]
    pub index: u64,
    /// The answer that a request for this item alone would have got.
    #[n(1)]
    pub result: Reply<Changed>,
    /// Whether the item is a directory that existed already.
    #[n(2)]
    #[cbor(default)]
    pub existed: bool,
}

impl Message for Outcome {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// Downloads many files: [`GetItem`]s follow, up to [`GetItem::Last`]. Reply: a [`GotItem`] for each
/// file, in the order of the items, and after most of them the content and a reply with a
/// [`Trailer`](super::Trailer).
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct GetMany {
    /// The kind of digest in the trailers of the files.
    #[n(0)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// The largest file whose content is sent on this stream, in bytes.
    #[n(1)]
    #[cbor(default)]
    pub enclose_max: u64,
    /// Which details of the files the answers tell.
    #[n(2)]
    #[cbor(default, skip_if = "DetailKinds::is_empty")]
    pub details: DetailKinds,
}

tagged! {
    /// An item of a download of many files.
    GetItem {
        0 File(GetFile) "A file to send.";
        1 Last(LastItem) "The end of the items.";
    }
}

impl Message for GetItem {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

/// Names a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct GetFile {
    /// The file.
    #[n(0)]
    pub path: RemotePath,
}

/// The answer to one item of a download of many files.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GotItem {
    /// Number of the item: 0 is the first on the stream.
    #[n(0)]
    pub index: u64,
    /// The file, or the answer that a request for this item alone would have got. If the length is
    /// the size, so many raw bytes follow, then a reply with a trailer. Else it is 0, and nothing
    /// follows.
    #[n(1)]
    pub result: Reply<GetHeader>,
}

impl Message for GotItem {
    const BYTES_MAX: usize = DETAILED_BYTES_MAX;
}

impl GotItem {
    /// Returns how many bytes of a body follow; `None` if neither a body nor a trailer does.
    ///
    /// # Errors
    /// If the file is announced with only a part of its content.
    pub fn body_size(&self) -> Result<Option<u64>, DecodeError> {
        match &self.result {
            Reply::Ok(header) if header.length == header.size => Ok(Some(header.length)),
            Reply::Ok(header) if header.length == 0 => Ok(None),
            Reply::Ok(_) => Err(DecodeError::Malformed),
            Reply::Failed(_) => Ok(None),
        }
    }
}
