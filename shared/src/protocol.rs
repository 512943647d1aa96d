//! The conversation: every message, in the order in which they travel.
//!
//! One request is one client-initiated bidirectional stream. The client sends a [`Request`], the
//! server a [`Reply`] to it; `Get` and `Put` carry a body as raw bytes between messages. Messages
//! are CBOR maps with integer keys: unknown keys are skipped and missing optional ones defaulted,
//! so that ends of different age work together. Requests and what both sides name stand here, the
//! answers in `replies`, and what carries many files on one stream in `many`. See PROTOCOL.md,
//! "Messages".

mod many;
mod replies;
mod tagged;

use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::digest::DigestKind;
use crate::limits::{REQUEST_BYTES_MAX, VERSION_BYTES_MAX};
use crate::octets::octets;
use crate::pairing::{Pair, Paired};
use crate::path::{Name, RemotePath};

use tagged::tagged;

pub use many::{
    GetTree, LastItem, Left, Missed, Outcome, PutItem, PutMany, SetAttributes, TreeItem,
};
pub use replies::{
    Attributes, CacheEntry, CachePage, Changed, Done, Entry, EntryKind, Failure, GetHeader, Hashed,
    Page, Pong, Reply, Trailer,
};

/// The protocol's name in TLS (RFC 7301); it carries the version.
pub const ALPN: &[u8] = b"quire/1";

/// The UDP port a server listens on, and a client connects to, unless told otherwise.
pub const PORT: u16 = 4433;

/// Something that travels as one length-prefixed message.
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> {
    /// The most bytes its encoding may have, checked before anything is allocated.
    const BYTES_MAX: usize;
}

/// A message that is a request, and the first message of the answer to it.
pub trait RequestMessage: Into<Request> {
    /// What the server's first [`Reply`] carries if it doesn't refuse.
    type Answer: Message;
}

/// Declares each request once: its number on the wire, its message, the first message of the
/// answer, and whether it may be sent as early data.
macro_rules! requests {
    ($($number:literal $name:ident -> $answer:ty, early: $early:literal, $doc:literal;)*) => {
        tagged! {
            /// What a client asks for: the first message on a stream.
            Request {
                $($number $name($name) $doc;)*
            }
        }

        impl Request {
            /// The name of the request in PROTOCOL.md and in logs.
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
    1 Ping -> Pong, early: true, "Is the server there, and what is it?";
    2 Get -> GetHeader, early: true, "The content of a file, or a range of it.";
    3 Put -> Changed, early: false, "A new content for a file.";
    4 List -> Page, early: true, "The entries of a directory.";
    5 Stat -> Attributes, early: true, "What is known of a file or directory.";
    6 Rename -> Changed, early: false, "A new name for a file or directory.";
    7 Delete -> Done, early: false, "The end of a file or directory.";
    8 MakeDirectory -> Changed, early: false, "A new directory.";
    9 Copy -> Changed, early: false, "A second file or directory, made by the server.";
    10 Hash -> Hashed, early: false, "The digest of a file, computed by the server.";
    11 ListCache -> CachePage, early: true, "What the server's memory cache holds.";
    12 GetTree -> Attributes, early: false, "A directory with all that is below it.";
    13 PutMany -> Outcome, early: false, "Many files and directories.";
    22 Pair -> Paired, early: false, "Let this key in, by proof of a code.";
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
pub struct ListCache {}

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
    /// Nanoseconds after that second; what is 10⁹ or more is taken for 10⁹ − 1.
    #[n(1)]
    pub nanoseconds: u32,
}

#[cfg(test)]
mod tests;
