//! Messages: requests, replies, and the types that both use.
//!
//! Each request has a client-initiated bidirectional stream of its own. The client sends a
//! [`Request`], and the server answers with a [`Reply`]. [`Get`] and [`Put`] carry the bytes of a
//! file between messages.
//!
//! Messages are CBOR maps with integer keys. A decoder skips unknown keys and gives missing
//! optional keys their defaults, so that different versions work together. See PROTOCOL.md,
//! "Messages".
//!
//! Requests are in this file, replies in `replies`, and the parts of requests for many files in
//! `many`.

mod change_id;
mod delta;
mod detail_error;
mod details;
mod links;
mod many;
mod replies;
mod tagged;
mod uploads;

use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::digest::DigestKind;
use crate::limits::{REQUEST_BYTES_MAX, VERSION_BYTES_MAX};
use crate::octets::octets;
use crate::pairing::{Pair, Paired};
use crate::path::{Name, RemotePath};

use tagged::tagged;

pub use change_id::ChangeId;
pub use delta::{ChunkHead, ChunkPage, Chunks, CopyStep, DataStep, DeltaStep, PutDelta};
pub use detail_error::DetailError;
pub use details::{
    AccountName, Chmod, DetailKinds, Details, NamedId, Stat, USER_PREFIX, XattrName, Xattrs,
};
pub use links::{HardLinkId, LinkTarget, MakeSymlink};
pub use many::{
    GetFile, GetItem, GetMany, GetTree, GotItem, LastItem, Left, Missed, Outcome, PutItem, PutMany,
    SetAttributes, TreeItem,
};
pub use replies::{
    Attributes, CacheEntry, CachePage, Changed, Copied, Done, Entry, EntryKind, Failure, GetHeader,
    Hashed, Measured, Page, Pong, Reply, Trailer,
};
pub use uploads::{PutOffset, ResumePut, UnfinishedUpload, UploadPage, Uploads};

/// The ALPN identifier of the protocol (RFC 7301), which includes its version.
pub const ALPN: &[u8] = b"quire/1";

/// The default UDP port.
pub const PORT: u16 = 4433;

/// A type that is sent as one length-prefixed message.
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> {
    /// Limit of the encoding, in bytes. Receivers check it before they allocate.
    const BYTES_MAX: usize;
}

/// The message of a request.
pub trait RequestMessage: Into<Request> {
    /// The content of the first [`Reply`] if the server doesn't refuse.
    type Answer: Message;
}

/// Declares each request once: its number on the wire, its message, the content of the first reply,
/// and whether it may be sent as early data.
macro_rules! requests {
    ($($number:literal $name:ident -> $answer:ty, early: $early:literal, $doc:literal;)*) => {
        tagged! {
            /// A request: the first message on a stream.
            Request {
                $($number $name($name) $doc;)*
            }
        }

        impl Request {
            /// Returns the name of the request for logs.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }

            /// Whether the request may be sent, and carried out, as 0-RTT data (RFC 8446, §2.3).
            ///
            /// An attacker can replay such a request, so it has to change nothing and to be cheap
            /// (PROTOCOL.md, P4).
            pub const fn may_be_early(&self) -> bool {
                match self {
                    // It has to read what it doesn't send.
                    Self::Get(get) if get.digest_from_start => false,
                    $(Self::$name(_) => $early,)*
                }
            }
        }

        $(
            impl From<$name> for Request {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }

            impl RequestMessage for $name {
                type Answer = $answer;
            }
        )*
    };
}

requests! {
    1 Ping -> Pong, early: true, "Checks that the server answers, and describes it.";
    2 Get -> GetHeader, early: true, "Downloads a file, or a range of it.";
    3 Put -> Changed, early: false, "Uploads a file.";
    4 List -> Page, early: true, "Lists a directory.";
    5 Stat -> Attributes, early: true, "Reads the metadata of a file or directory.";
    6 Rename -> Changed, early: false, "Renames a file or directory.";
    7 Delete -> Done, early: false, "Deletes a file or directory.";
    8 MakeDirectory -> Changed, early: false, "Creates a directory.";
    9 Copy -> Copied, early: false, "Copies a file or directory on the server.";
    10 Hash -> Hashed, early: false, "Computes the digest of a file on the server.";
    11 ListCache -> CachePage, early: true, "Lists the memory cache of the server.";
    12 GetTree -> Attributes, early: false, "Downloads a directory with everything below it.";
    13 PutMany -> Outcome, early: false, "Uploads many files and directories.";
    14 Chmod -> Changed, early: false, "Changes the permission bits of a file or directory.";
    15 ResumePut -> PutOffset, early: false, "Uploads a file from where an upload was interrupted.";
    16 Uploads -> UploadPage, early: false, "Lists or removes what interrupted uploads have left.";
    17 GetMany -> GotItem, early: false, "Downloads many files that the client names.";
    18 Chunks -> ChunkPage, early: false, "Lists the chunks of a file.";
    19 PutDelta -> Changed, early: false, "Uploads a file from a part that the server has.";
    20 MakeSymlink -> Changed, early: false, "Makes a symbolic link.";
    22 Pair -> Paired, early: false, "Authorizes the client's key by proof of a pairing code.";
}

impl Message for Request {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

/// Checks that the server answers, and asks what limited a transfer. Reply: [`Pong`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Ping {
    /// The transfer to be judged, which has just ended.
    #[n(0)]
    pub transfer: Option<EndedTransfer>,
}

/// A transfer on the connection of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EndedTransfer {
    /// Whether the client sent.
    #[n(0)]
    pub is_upload: bool,
    /// Its duration, in microseconds.
    #[n(1)]
    pub micros: u64,
}

/// Downloads a file or a range of it. Reply: [`GetHeader`], the bytes that it announces, then a
/// second reply with a [`Trailer`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Get {
    /// The file.
    #[n(0)]
    pub path: RemotePath,
    /// Offset of the first byte.
    #[n(1)]
    #[cbor(default)]
    pub offset: u64,
    /// Number of bytes; up to the end of the file if absent.
    #[n(2)]
    pub length: Option<u64>,
    /// The kind of digest in the trailer of the server.
    #[n(3)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// Condition on the file. A range that continues an earlier one names the version of that.
    #[n(4)]
    #[cbor(default)]
    pub precondition: Precondition,
    /// Whether the digest is of all bytes from the first of the file on, also of those before the
    /// range, so that it proves a download that goes on.
    #[n(5)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub digest_from_start: bool,
    /// Whether the body may come in extents, if the file has holes.
    #[n(6)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub takes_extents: bool,
    /// Which details of the file the header tells.
    #[n(7)]
    #[cbor(default, skip_if = "DetailKinds::is_empty")]
    pub details: DetailKinds,
}

/// Uploads a file: the body follows, then a [`Trailer`]. Reply: [`Changed`], after the content is
/// durable and visible under its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Put {
    /// The file.
    #[n(0)]
    pub path: RemotePath,
    /// The size of the body, in bytes. If absent, the body is sent in length-prefixed pieces.
    #[n(1)]
    pub size: Option<u64>,
    /// The modification time to set; the time of the request if absent.
    #[n(2)]
    pub modified: Option<Time>,
    /// The permission bits to set, as far as `preserve` says; those of an empty new file if absent.
    #[n(3)]
    pub mode: Option<u32>,
    /// The kind of digest in the trailer of the client.
    #[n(4)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// Condition on what has this path now.
    #[n(5)]
    #[cbor(default)]
    pub precondition: Precondition,
    /// Whether to create missing parent directories.
    #[n(6)]
    #[cbor(default)]
    pub make_parents: bool,
    /// Which of the given attributes the file gets.
    #[n(7)]
    #[cbor(default)]
    pub preserve: Preserve,
    /// Details to set, whatever `preserve` says. Extended attributes that are given are all that the
    /// file has then.
    #[n(8)]
    pub details: Option<Box<Details>>,
}

/// Lists a directory in the order of the names' bytes. Reply: [`Page`]s up to the last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct List {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// Lists only names after this one.
    #[n(1)]
    pub after: Option<Name>,
}

/// Renames a file or directory; the new path may be anywhere below the root. Reply: [`Changed`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Rename {
    /// The current path.
    #[n(0)]
    pub from: RemotePath,
    /// The new path.
    #[n(1)]
    pub to: RemotePath,
    /// Condition on what is renamed.
    #[n(2)]
    #[cbor(default)]
    pub source: Precondition,
    /// Condition on what has the new path now. It is replaced if the condition allows it.
    #[n(3)]
    #[cbor(default)]
    pub target: Precondition,
    /// Makes a repetition safe. Ignored for a client without a key of its own.
    #[n(4)]
    pub change_id: Option<ChangeId>,
}

/// Deletes a file or directory. Reply: [`Done`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Delete {
    /// The file or directory.
    #[n(0)]
    pub path: RemotePath,
    /// Whether to delete a directory with everything below it.
    #[n(1)]
    #[cbor(default)]
    pub recursive: bool,
    /// Condition on the file or directory.
    #[n(2)]
    #[cbor(default)]
    pub precondition: Precondition,
    /// Makes a repetition safe. Ignored for a client without a key of its own.
    #[n(3)]
    pub change_id: Option<ChangeId>,
}

/// Creates a directory. Reply: [`Changed`]. With [`Precondition::Any`] the request also succeeds if
/// the directory exists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct MakeDirectory {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// Whether to create missing parent directories.
    #[n(1)]
    #[cbor(default)]
    pub make_parents: bool,
    /// Condition on what has this path now.
    #[n(2)]
    #[cbor(default)]
    pub precondition: Precondition,
    /// Makes a repetition safe. Ignored for a client without a key of its own.
    #[n(3)]
    pub change_id: Option<ChangeId>,
}

/// Copies a file or directory on the server. Reply: [`Copied`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Copy {
    /// The path of the original.
    #[n(0)]
    pub from: RemotePath,
    /// The path of the copy.
    #[n(1)]
    pub to: RemotePath,
    /// Whether to copy a directory with everything below it.
    #[n(2)]
    #[cbor(default)]
    pub recursive: bool,
    /// Condition on the original.
    #[n(3)]
    #[cbor(default)]
    pub source: Precondition,
    /// Condition on what has the path of the copy now. A file is replaced if the condition allows
    /// it.
    #[n(4)]
    #[cbor(default)]
    pub target: Precondition,
    /// Which attributes of the original the copy gets.
    #[n(5)]
    #[cbor(default)]
    pub preserve: Preserve,
    /// Which details of the original the copy gets as well.
    #[n(6)]
    #[cbor(default, skip_if = "DetailKinds::is_empty")]
    pub details: DetailKinds,
    /// Whether the name of the copy becomes another name of the same file, where the server can do
    /// that and the client may replace the original.
    #[n(7)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub hard_link: bool,
    /// Makes a repetition safe. Ignored for a client without a key of its own.
    #[n(8)]
    pub change_id: Option<ChangeId>,
}

/// Computes the digest of a file on the server. Reply: [`Hashed`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Hash {
    /// The file.
    #[n(0)]
    pub path: RemotePath,
    /// The kind of digest.
    #[n(1)]
    #[cbor(default)]
    pub digest: DigestKind,
}

/// Lists the memory cache of the server. Reply: [`CachePage`]s up to the last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct ListCache {}

/// Which attributes of an original a file or directory gets that is made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Preserve {
    /// The modification time. What is new also gets the permission bits, as far as the umask or the
    /// default ACL of its directory lets it; what is replaced keeps its own.
    #[default]
    #[n(0)]
    Usual,
    /// The modification time, and exactly these permission bits, as `cp -p` does.
    #[n(1)]
    Exact,
    /// None: the permission bits of an empty new file or directory, and the time of the request.
    #[n(2)]
    Nothing,
}

/// A condition on what has a path. The server checks it again while it holds the lock of the path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Precondition {
    /// No condition.
    #[default]
    Any,
    /// Nothing has this path.
    Absent,
    /// A file or directory of exactly this version has this path.
    Match(Version),
}

impl Precondition {
    /// Returns the condition for what has the path of a new file or directory already.
    pub const fn of_target(may_exist: bool) -> Self {
        match may_exist {
            true => Self::Any,
            false => Self::Absent,
        }
    }
}

impl<C> Encode<C> for Precondition {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match self {
            Self::Any => e.array(1)?.u8(0)?,
            Self::Absent => e.array(1)?.u8(1)?,
            Self::Match(version) => return version.encode(e.array(2)?.u8(2)?, context),
        };
        Ok(())
    }
}

/// Written by hand: a derived decoder of a flat enum doesn't read surplus elements of the array, so
/// they would be taken for the next key of the surrounding map.
impl<'b, C> Decode<'b, C> for Precondition {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        let length = d.array()?;
        match (d.u16()?, length) {
            (0, Some(1)) => Ok(Self::Any),
            (1, Some(1)) => Ok(Self::Absent),
            (2, Some(2)) => Ok(Self::Match(Decode::decode(d, context)?)),
            (0..=2, _) => Err(minicbor::decode::Error::message("not a precondition").at(position)),
            (kind, _) => {
                Err(minicbor::decode::Error::unknown_variant(i64::from(kind)).at(position))
            }
        }
    }
}

octets! {
    /// An opaque token for one state of a file: equal tokens, equal content. A rename gives a new
    /// one. Only the server knows what its bytes mean.
    pub struct Version, max: VERSION_BYTES_MAX, too_long: "version token over its limit"
}

impl Version {
    /// Makes a token of these bytes; `None` if there are more than [`VERSION_BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= VERSION_BYTES_MAX).then(|| Self(bytes.into()))
    }
}

/// A point in time: seconds since 1970-01-01 00:00 UTC, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    #[n(0)]
    pub seconds: i64,
    /// Nanoseconds after that second. Receivers take values of 10⁹ and above for 10⁹ − 1.
    #[n(1)]
    pub nanoseconds: u32,
}

#[cfg(test)]
mod tests;
