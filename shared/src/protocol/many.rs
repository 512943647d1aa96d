//! Many files on one stream: the parts of which such a request or its answer is made.
//!
//! Each part is a message of its own, and each file has its own header, bytes, digest and status,
//! so that one bad file fails alone. See PROTOCOL.md, "Many files on one stream".

use minicbor::{Decode, Decoder, Encode, Encoder};

use super::replies::{Changed, Entry, Failure, Reply};
use super::tagged::tagged;
use super::{MakeDirectory, Message, Put, Time};
use crate::digest::DigestKind;
use crate::limits::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::path::{Name, RemotePath};

/// Asks for a directory with all that is below it. Reply: [`Attributes`](super::Attributes) of the
/// directory, then one [`TreeItem`] after another up to the [`Left`] of the directory itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetTree {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// The digest that the files' trailers shall carry.
    #[n(1)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// The size of the largest file whose content is sent along, in bytes.
    #[n(2)]
    #[cbor(default)]
    pub enclose_max: u64,
}

tagged! {
    /// A step of the walk through a directory.
    TreeItem {
        0 Described(Entry) "Something whose content isn't sent along.";
        1 Enclosed(Entry) "A file: its content follows as raw bytes, then a reply with a trailer.";
        2 Entered(Entry) "A directory: what follows is in it, up to its `Left`.";
        3 Missed(Missed) "Something that can't be sent.";
        4 Left(Left) "The end of the directory at hand.";
    }
}

impl Message for TreeItem {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// A name in a directory, and why what has it can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Missed {
    /// The name.
    #[n(0)]
    pub name: Name,
    /// Why.
    #[n(1)]
    pub failure: Failure,
}

/// The end of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Left {
    /// How many of its names can't travel, because they aren't UTF-8.
    #[n(0)]
    #[cbor(default)]
    pub unnameable: u64,
    /// Why the rest of it is missing, if it is.
    #[n(1)]
    pub failure: Option<Failure>,
}

/// Offers many files and directories: one [`PutItem`] after another follows, up to the last.
/// Reply: an [`Outcome`] for each that is answered, in the order in which they are completed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct PutMany {}

tagged! {
    /// One of many things that are put.
    PutItem {
        0 File(Put) "A file, whose size is told: its content follows as raw bytes, then a trailer.";
        1 Directory(MakeDirectory) "A directory to be made before any later item is carried out.";
        2 Attributes(SetAttributes) "Times and permissions of a directory.";
        3 Last(LastItem) "No more come.";
    }
}

impl Message for PutItem {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

/// Asks for times and permissions of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetAttributes {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// The modification time to set; left as it is if absent.
    #[n(1)]
    pub modified: Option<Time>,
    /// The permission bits to set; left as they are if absent.
    #[n(2)]
    pub mode: Option<u32>,
}

/// Ends the items of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct LastItem {}

/// What became of one of many things that were put.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Outcome {
    /// Which: 0 is the first that came.
    #[n(0)]
    pub index: u64,
    /// What a request for it alone would have been answered.
    #[n(1)]
    pub result: Reply<Changed>,
    /// Whether it is a directory that was there already.
    #[n(2)]
    #[cbor(default)]
    pub existed: bool,
}

impl Message for Outcome {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}
