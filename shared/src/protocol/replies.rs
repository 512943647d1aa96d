//! Messages from the server, in the order of the requests.

use minicbor::{Decode, Decoder, Encode, Encoder};

use super::{DetailKinds, Details, HardLinkId, LinkTarget, Message, Time, Version};
use crate::digest::Digest;
use crate::error_code::ErrorCode;
use crate::limits::{DETAILED_BYTES_MAX, PAGE_BYTES_MAX, PHRASE_BYTES_MAX, REPLY_BYTES_MAX};
use crate::path::{Name, RawName, RemotePath};

/// The answer to a request: its result, or the reason for a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<T> {
    /// The request was carried out, or its body follows.
    Ok(T),
    /// The request was not carried out, and nothing has changed. Only after [`ErrorCode::DISK`] it
    /// is unknown whether something has changed.
    Failed(Failure),
}

impl<T> Reply<T> {
    /// Converts the reply to a result.
    ///
    /// # Errors
    /// The failure that the peer reported.
    pub fn into_result(self) -> Result<T, Failure> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Failed(failure) => Err(failure),
        }
    }
}

impl<C, T: Encode<C>> Encode<C> for Reply<T> {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(2)?;
        match self {
            Self::Ok(value) => value.encode(e.u8(0)?, context),
            Self::Failed(failure) => failure.encode(e.u8(1)?, context),
        }
    }
}

impl<'b, C, T: Decode<'b, C>> Decode<'b, C> for Reply<T> {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        if d.array()? != Some(2) {
            return Err(minicbor::decode::Error::message("not a reply").at(position));
        }
        match d.u8()? {
            0 => T::decode(d, context).map(Self::Ok),
            1 => Failure::decode(d, context).map(Self::Failed),
            other => Err(minicbor::decode::Error::unknown_variant(i64::from(other)).at(position)),
        }
    }
}

impl<T: Message> Message for Reply<T> {
    const BYTES_MAX: usize = T::BYTES_MAX;
}

/// Why a request was not carried out: a code, and a phrase for readers that don't know the code.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failure {
    /// The number of the [`ErrorCode`].
    #[n(0)]
    pub(super) number: u16,
    /// The code's phrase.
    #[n(1)]
    #[cbor(default)]
    pub(super) phrase: String,
    /// What the code is about, below the path that the request names.
    #[n(2)]
    pub(super) below: Option<RemotePath>,
}

impl Failure {
    /// Makes a failure with this version's phrase for `code`.
    pub fn new(code: ErrorCode) -> Self {
        Self {
            number: code.number(),
            phrase: code.to_string(),
            below: None,
        }
    }

    /// Adds what the code is about, below the path that the request names. A path that is too long
    /// for a reply is left out.
    #[must_use]
    pub fn about(mut self, below: Option<RemotePath>) -> Self {
        self.below = below.filter(|path| encoded_bytes(path) <= BELOW_BYTES_MAX);
        self
    }

    /// Returns what the code is about, below the path that the request names, if it says so.
    pub fn below(&self) -> Option<&RemotePath> {
        self.below.as_ref()
    }

    /// Returns the code.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::from_number(self.number)
    }

    /// Returns this version's phrase for the code, or the peer's phrase for an unknown code. The
    /// latter is untrusted text: wrap it in [`Escaped`](crate::Escaped) to show it.
    pub fn phrase(&self) -> &str {
        match self.code().phrase() {
            Some(phrase) => phrase,
            None => {
                // The limit may fall into the middle of a character.
                let end = self.phrase.floor_char_boundary(PHRASE_BYTES_MAX);
                self.phrase.get(..end).unwrap_or_default()
            }
        }
    }
}

/// Upper bound of the bytes of a path.
fn encoded_bytes(path: &RemotePath) -> usize {
    let names = path.names().iter();
    let names = names.map(|name| name.as_str().len() + NAME_FRAME_BYTES);
    names.sum::<usize>() + NAME_FRAME_BYTES
}

/// Most bytes of the paths below that of a request, so that they fit into any reply.
const BELOW_BYTES_MAX: usize = 2048;

/// Most bytes of the head of a name or path.
const NAME_FRAME_BYTES: usize = 3;

/// Gives replies with a fixed set of fields their limit.
macro_rules! replies {
    ($max:expr, $($name:ident)*) => {
        $(impl Message for $name {
            const BYTES_MAX: usize = $max;
        })*
    };
}

replies! { REPLY_BYTES_MAX, Pong Trailer Changed Copied Done Hashed }
replies! { DETAILED_BYTES_MAX, GetHeader Attributes }

/// Describes the server.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pong {
    /// Name and version of the server program, for display only.
    #[n(0)]
    #[cbor(default)]
    pub software: String,
    /// Whether this client may change anything.
    #[n(1)]
    #[cbor(default)]
    pub writable: bool,
    /// What the server measured of the transfer that was named.
    #[n(2)]
    pub measured: Option<Measured>,
    /// Which details the server knows. Others it ignores, wherever it is asked for them or given them.
    #[n(3)]
    #[cbor(default, skip_if = "DetailKinds::is_empty")]
    pub details: DetailKinds,
    /// For how many seconds back the server remembers changes with an identifier of this client's
    /// key. Absent if it doesn't.
    #[n(4)]
    pub remembers: Option<u64>,
}

/// What an end of a transfer measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Measured {
    /// What limited the transfer; see the table in PROTOCOL.md.
    #[n(0)]
    pub limit: u8,
    /// Packets of this end that were lost, in millionths.
    #[n(1)]
    pub lost: u32,
    /// Packets of this end that later ones overtook, in millionths.
    #[n(2)]
    pub late: u32,
    /// Delay by jitter, in microseconds.
    #[n(3)]
    pub jitter: u32,
}

/// The header before the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetHeader {
    /// The version of the file that these bytes belong to.
    #[n(0)]
    pub version: Version,
    /// The size of the whole file, in bytes.
    #[n(1)]
    pub size: u64,
    /// The length of the body that follows, in bytes.
    #[n(2)]
    pub length: u64,
    /// The time of the last modification of the content.
    #[n(3)]
    pub modified: Time,
    /// The permission bits.
    #[n(4)]
    pub mode: u32,
    /// Whether the body comes in extents. Never unless the request allows it.
    #[n(5)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub in_extents: bool,
    /// The details that the request asks for.
    #[n(6)]
    pub details: Option<Box<Details>>,
}

/// The trailer after a body, which proves that all of it was sent. The end of a stream proves
/// nothing, because quinn also finishes the stream of a sender that gave up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Trailer {
    /// The digest of the body's bytes, of the kind that the request named.
    #[n(0)]
    pub digest: Digest,
    /// Whether the file grew meanwhile, so that the body is only what it had at the beginning.
    #[n(1)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub grew: bool,
}

/// Confirms that something was created, replaced or renamed, durably.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Changed {
    /// The new version of what has the name.
    #[n(0)]
    pub version: Version,
}

/// Confirms that a copy was made, durably.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Copied {
    /// The version of the copy.
    #[n(0)]
    pub version: Version,
    /// Number of symbolic links, special files and other file systems that were left out.
    #[n(1)]
    #[cbor(default)]
    pub left_out: u64,
    /// The first of them, below the original.
    #[n(2)]
    #[cbor(default)]
    pub names: Vec<RemotePath>,
    /// Whether it is another name of the original instead of a copy.
    #[n(3)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub is_hard_link: bool,
}

impl Copied {
    /// Makes a confirmation with as many of `names` as fit.
    pub fn new(version: Version, left_out: u64, names: Vec<RemotePath>) -> Self {
        let mut bytes = 0;
        let names = names.into_iter().take_while(|path| {
            bytes += encoded_bytes(path);
            bytes <= BELOW_BYTES_MAX
        });
        Self {
            version,
            left_out,
            names: names.collect(),
            is_hard_link: false,
        }
    }
}

/// Confirms that a change was carried out, durably.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Done {}

/// The type of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum EntryKind {
    /// A regular file.
    #[n(0)]
    File,
    /// A directory.
    #[n(1)]
    Directory,
    /// A symbolic link, which the server never follows.
    #[n(2)]
    Symlink,
    /// A FIFO, socket or device, or something on another file system.
    #[n(3)]
    Other,
}

/// Metadata of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attributes {
    /// The type of the entry.
    #[n(0)]
    pub kind: EntryKind,
    /// The size of a file in bytes; 0 for everything else.
    #[n(1)]
    #[cbor(default)]
    pub size: u64,
    /// The time of the last modification of the content.
    #[n(2)]
    pub modified: Time,
    /// The permission bits.
    #[n(3)]
    #[cbor(default)]
    pub mode: u32,
    /// The current version.
    #[n(4)]
    pub version: Version,
    /// The target of a symbolic link.
    #[n(5)]
    pub target: Option<LinkTarget>,
    /// The identity of a file that has more names than this one.
    #[n(6)]
    pub hard_link: Option<HardLinkId>,
    /// The details that the request asks for.
    #[n(7)]
    pub details: Option<Box<Details>>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// The name.
    #[n(0)]
    pub name: Name,
    /// Metadata of the entry.
    #[n(1)]
    pub attributes: Attributes,
}

/// A page of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Page {
    /// The entries, in the order of their names' bytes.
    #[n(0)]
    #[cbor(default)]
    pub entries: Vec<Entry>,
    /// Number of entries that are left out because their names aren't UTF-8. On the last page only.
    #[n(1)]
    #[cbor(default)]
    pub unnameable: u64,
    /// Whether this is the last page.
    #[n(2)]
    #[cbor(default)]
    pub last: bool,
    /// Some of the names that are left out. On the last page only.
    #[n(3)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub raw_names: Vec<RawName>,
}

impl Message for Page {
    const BYTES_MAX: usize = PAGE_BYTES_MAX;
}

/// The digest of a file, computed by the server.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hashed {
    /// The digest, of the kind that the request named.
    #[n(0)]
    pub digest: Digest,
    /// The size of the file, in bytes.
    #[n(1)]
    pub size: u64,
    /// The version that the digest belongs to.
    #[n(2)]
    pub version: Version,
    /// Whether the file grew meanwhile, so that the digest is only of what it had at the beginning.
    #[n(3)]
    #[cbor(default, skip_if = "std::ops::Not::not")]
    pub grew: bool,
}

/// A file in the memory cache of the server.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CacheEntry {
    /// The path by which the file was last downloaded.
    #[n(0)]
    pub path: RemotePath,
    /// The size of its content, in bytes.
    #[n(1)]
    pub bytes: u64,
    /// Number of downloads that were served from memory.
    #[n(2)]
    pub hits: u64,
    /// Number of requests that are sending the file now.
    #[n(3)]
    pub readers: u64,
}

/// A page of the listing of the memory cache.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct CachePage {
    /// The entries, most recently used first.
    #[n(0)]
    #[cbor(default)]
    pub entries: Vec<CacheEntry>,
    /// Capacity of the cache, in bytes; 0 if it is off.
    #[n(1)]
    #[cbor(default)]
    pub limit: u64,
    /// Whether this is the last page.
    #[n(2)]
    #[cbor(default)]
    pub last: bool,
}

impl Message for CachePage {
    const BYTES_MAX: usize = PAGE_BYTES_MAX;
}
