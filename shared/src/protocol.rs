//! The conversation: every message, in the order in which they travel.
//!
//! One request is one client-initiated bidirectional stream. The client sends a [`Request`], the
//! server a [`Reply`] to it; `Get` and `Put` carry a body as raw bytes between messages. Messages
//! are CBOR maps with integer keys: unknown keys are skipped and missing optional ones defaulted,
//! so that ends of different age work together. See PROTOCOL.md, "Messages".

use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::digest::{Digest, DigestKind};
use crate::error_code::ErrorCode;
use crate::limits::{
    PAGE_BYTES_MAX, PHRASE_BYTES_MAX, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, VERSION_BYTES_MAX,
};
use crate::path::{Name, RemotePath};

/// Something that travels as one length-prefixed message.
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> {
    /// The most bytes its encoding may have, checked before anything is allocated.
    const BYTES_MAX: usize;
}

/// Declares the requests once: number on the wire, variant, and the message that it carries.
macro_rules! requests {
    ($($number:literal $name:ident $doc:literal;)*) => {
        /// What a client asks for; the first message on a stream.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request {
            $(#[doc = $doc] $name($name),)*
        }

        impl Request {
            /// The name of the request's kind, for logs.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }

        $(impl From<$name> for Request {
            fn from(request: $name) -> Self {
                Self::$name(request)
            }
        })*

        impl<C> Encode<C> for Request {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                context: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.array(2)?;
                match self {
                    $(Self::$name(request) => request.encode(e.u16($number)?, context),)*
                }
            }
        }

        impl<'b, C> Decode<'b, C> for Request {
            fn decode(
                d: &mut Decoder<'b>,
                context: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                let position = d.position();
                if d.array()? != Some(2) {
                    return Err(minicbor::decode::Error::message("not a request").at(position));
                }
                let position = d.position();
                match d.u16()? {
                    $($number => Ok(Self::$name(Decode::decode(d, context)?)),)*
                    kind => Err(minicbor::decode::Error::unknown_variant(i64::from(kind))
                        .at(position)),
                }
            }
        }
    };
}

requests! {
    1 Ping "Is the server there, and what is it?";
    2 Get "The content of a file, or a range of it.";
    3 Put "A new content for a file.";
    4 List "The entries of a directory.";
    5 Stat "What is known of a file or directory.";
    6 Rename "A new name for a file or directory.";
    7 Delete "The end of a file or directory.";
    8 MakeDirectory "A new directory.";
    9 Copy "A second file or directory, made by the server.";
    10 Hash "The digest of a file, computed by the server.";
    11 Cache "What the server's memory cache holds.";
}

impl Message for Request {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

/// Asks for nothing but an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Ping {}

/// Asks for bytes of a file. Reply: [`GetHeader`], then that many raw bytes, then a second reply,
/// with a [`Trailer`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Get {
    /// The file.
    #[n(0)]
    pub path: RemotePath,
    /// The first byte wanted.
    #[n(1)]
    #[cbor(default)]
    pub offset: u64,
    /// How many bytes are wanted; all to the end if absent.
    #[n(2)]
    pub length: Option<u64>,
    /// The digest that the trailer shall carry.
    #[n(3)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// What must hold for the file. A range that continues an earlier one names its version.
    #[n(4)]
    #[cbor(default)]
    pub precondition: Precondition,
}

/// Offers a new content for a file: the body follows, then a [`Trailer`]. Reply: [`Changed`], once
/// the content is durable and visible under its name.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Put {
    /// The file.
    #[n(0)]
    pub path: RemotePath,
    /// The length of the body. If absent, the body comes in length-prefixed pieces.
    #[n(1)]
    pub size: Option<u64>,
    /// The modification time to set; the time of the request if absent.
    #[n(2)]
    pub modified: Option<Time>,
    /// The permission bits to set; the server's default if absent.
    #[n(3)]
    pub mode: Option<u32>,
    /// The digest that the trailer will carry.
    #[n(4)]
    #[cbor(default)]
    pub digest: DigestKind,
    /// What must hold for the file that has the name now.
    #[n(5)]
    #[cbor(default)]
    pub precondition: Precondition,
    /// Whether missing parent directories are made.
    #[n(6)]
    #[cbor(default)]
    pub make_parents: bool,
}

/// Asks for the entries of a directory, in the order of their names' bytes. Reply: one [`Page`]
/// after another, until one says that it is the last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct List {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// Only names after this one.
    #[n(1)]
    pub after: Option<Name>,
}

/// Asks what is known of a file or directory. Reply: [`Attributes`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Stat {
    /// The file or directory.
    #[n(0)]
    pub path: RemotePath,
}

/// Asks for a new name, anywhere below the root. Reply: [`Changed`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rename {
    /// The name it has.
    #[n(0)]
    pub from: RemotePath,
    /// The name it shall have.
    #[n(1)]
    pub to: RemotePath,
    /// What must hold for what is renamed.
    #[n(2)]
    #[cbor(default)]
    pub source: Precondition,
    /// What must hold for what has the new name now; it is replaced if this allows it.
    #[n(3)]
    #[cbor(default)]
    pub target: Precondition,
}

/// Asks for the end of a file or directory. Reply: [`Done`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Delete {
    /// The file or directory.
    #[n(0)]
    pub path: RemotePath,
    /// Whether a directory goes, with all that is below it.
    #[n(1)]
    #[cbor(default)]
    pub recursive: bool,
    /// What must hold for it.
    #[n(2)]
    #[cbor(default)]
    pub precondition: Precondition,
}

/// Asks for a new directory. Reply: [`Changed`]. With [`Precondition::Any`] a directory that is
/// there already is as good as a new one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MakeDirectory {
    /// The directory.
    #[n(0)]
    pub path: RemotePath,
    /// Whether missing parent directories are made.
    #[n(1)]
    #[cbor(default)]
    pub make_parents: bool,
    /// What must hold for what has the name now.
    #[n(2)]
    #[cbor(default)]
    pub precondition: Precondition,
}

/// Asks the server to copy a file or directory without sending it. Reply: [`Changed`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Copy {
    /// What is copied.
    #[n(0)]
    pub from: RemotePath,
    /// The name of the copy.
    #[n(1)]
    pub to: RemotePath,
    /// Whether a directory is copied, with all that is below it.
    #[n(2)]
    #[cbor(default)]
    pub recursive: bool,
    /// What must hold for what is copied.
    #[n(3)]
    #[cbor(default)]
    pub source: Precondition,
    /// What must hold for what has the copy's name now; a file is replaced if this allows it.
    #[n(4)]
    #[cbor(default)]
    pub target: Precondition,
}

/// Asks for the digest of a file. Reply: [`Hashed`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
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

/// Asks what the memory cache holds. Reply: one [`CachePage`] after another, until the last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Cache {}

/// What must hold for a name before a request touches it; checked again under its lock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing: whatever is there, or isn't.
    #[default]
    Any,
    /// Nothing has this name.
    Absent,
    /// What has this name is exactly this version.
    Match(Version),
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

/// By hand, because a derived decoder of a flat enum leaves surplus elements of the array to be
/// taken for what follows it.
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

/// An opaque token for one state of a file: equal tokens, equal content. A rename gives a new one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Box<[u8]>);

impl Version {
    /// A token of these bytes, of which there may be [`VERSION_BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= VERSION_BYTES_MAX).then(|| Self(bytes.into()))
    }

    /// The token's bytes, which mean something to the server alone.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Shows the token in hexadecimal.
impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl<C> Encode<C> for Version {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Version {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::new(d.bytes()?)
            .ok_or_else(|| minicbor::decode::Error::message("version token over its limit"))
    }
}

/// A point in time: seconds since 1970-01-01 00:00 UTC, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    #[n(0)]
    pub seconds: i64,
    /// Nanoseconds after that second; what is 10⁹ or more is taken for 10⁹ − 1.
    #[n(1)]
    pub nanoseconds: u32,
}

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
    number: u16,
    /// The code's phrase.
    #[n(1)]
    #[cbor(default)]
    phrase: String,
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

#[cfg(test)]
mod tests;
