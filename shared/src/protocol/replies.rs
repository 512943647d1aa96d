//! The second half of the conversation: what a server answers, in the order of the requests.

use minicbor::{Decode, Decoder, Encode, Encoder};

use super::{Message, Time, Version};
use crate::digest::Digest;
use crate::error_code::ErrorCode;
use crate::limits::{PAGE_BYTES_MAX, PHRASE_BYTES_MAX, REPLY_BYTES_MAX};
use crate::path::{Name, RemotePath};

/// What every request is answered with: what it asked for, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<T> {
    /// The request was carried out, or its body follows.
    Ok(T),
    /// It was not, and nothing has changed; only after a `DISK` error that is unknown.
    Failed(Failure),
}

impl<T> Reply<T> {
    /// The reply as a result.
    ///
    /// # Errors
    /// The failure that the other side reported.
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

/// Why a request was not carried out: a code, and its fixed phrase for readers that don't know it.
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
}

impl Failure {
    /// A failure with this version's phrase for `code`.
    pub fn new(code: ErrorCode) -> Self {
        Self {
            number: code.number(),
            phrase: code.to_string(),
        }
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::from_number(self.number)
    }

    /// Our own phrase for the code where this version knows it, else that of the other side, which
    /// is text from the other side and has to be escaped where it is shown.
    pub fn phrase(&self) -> &str {
        match self.code().phrase() {
            Some(phrase) => phrase,
            None => {
                let end = self.phrase.floor_char_boundary(PHRASE_BYTES_MAX);
                self.phrase.get(..end).unwrap_or_default()
            }
        }
    }
}

/// Declares which replies have the limit for fixed sets of fields.
macro_rules! replies {
    ($($name:ident)*) => {
        $(impl Message for $name {
            const BYTES_MAX: usize = REPLY_BYTES_MAX;
        })*
    };
}

replies! { Pong GetHeader Trailer Changed Done Attributes Hashed }

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pong {
    /// Name and version of the server program, for people.
    #[n(0)]
    #[cbor(default)]
    pub software: String,
    /// Whether this client may change anything.
    #[n(1)]
    #[cbor(default)]
    pub writable: bool,
}

/// What precedes the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetHeader {
    /// The version that these bytes belong to.
    #[n(0)]
    pub version: Version,
    /// The size of the whole file, in bytes.
    #[n(1)]
    pub size: u64,
    /// How many raw bytes follow.
    #[n(2)]
    pub length: u64,
    /// When the content was last modified.
    #[n(3)]
    pub modified: Time,
    /// The permission bits.
    #[n(4)]
    pub mode: u32,
}

/// What follows a body: proof that it was sent whole. The end of a stream alone proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Trailer {
    /// The digest of the body's bytes, of the kind that the request named.
    #[n(0)]
    pub digest: Digest,
}

/// Something was made, replaced or renamed, and that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Changed {
    /// The version that the name has now.
    #[n(0)]
    pub version: Version,
}

/// Something was carried out, and that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Done {}

/// What a name stands for.
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

/// What is known of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Attributes {
    /// What it is.
    #[n(0)]
    pub kind: EntryKind,
    /// The size of a file's content in bytes, else 0.
    #[n(1)]
    #[cbor(default)]
    pub size: u64,
    /// When the content was last modified.
    #[n(2)]
    pub modified: Time,
    /// The permission bits.
    #[n(3)]
    #[cbor(default)]
    pub mode: u32,
    /// The version it has now.
    #[n(4)]
    pub version: Version,
}

/// A name in a directory, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// The name.
    #[n(0)]
    pub name: Name,
    /// What it stands for.
    #[n(1)]
    pub attributes: Attributes,
}

/// Some entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Page {
    /// The entries, in the order of their names' bytes.
    #[n(0)]
    #[cbor(default)]
    pub entries: Vec<Entry>,
    /// How many names of the directory can't travel, because they aren't UTF-8. On the last page.
    #[n(1)]
    #[cbor(default)]
    pub unnameable: u64,
    /// Whether no page follows.
    #[n(2)]
    #[cbor(default)]
    pub last: bool,
}

impl Message for Page {
    const BYTES_MAX: usize = PAGE_BYTES_MAX;
}

/// The digest of a file as the server computed it.
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
}

/// A file in the memory cache.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CacheEntry {
    /// The name under which it was last fetched.
    #[n(0)]
    pub path: RemotePath,
    /// The size of its content, in bytes.
    #[n(1)]
    pub bytes: u64,
    /// How often it was served from memory.
    #[n(2)]
    pub hits: u64,
    /// How many requests are sending it right now.
    #[n(3)]
    pub readers: u64,
}

/// Some entries of the memory cache.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct CachePage {
    /// The entries, most recently used first.
    #[n(0)]
    #[cbor(default)]
    pub entries: Vec<CacheEntry>,
    /// The most bytes the cache may hold; 0 if it is off.
    #[n(1)]
    #[cbor(default)]
    pub limit: u64,
    /// Whether no page follows.
    #[n(2)]
    #[cbor(default)]
    pub last: bool,
}

impl Message for CachePage {
    const BYTES_MAX: usize = PAGE_BYTES_MAX;
}
