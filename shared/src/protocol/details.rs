//! What a file has beyond size, time and permission bits: owner, group and extended attributes; and the
//! requests about the attributes of one file.
//!
//! No details travel unless a request asks for them or gives them. See PROTOCOL.md, "Details".

use std::collections::BTreeMap;
use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder};

use super::Precondition;
use super::detail_error::DetailError;
use crate::limits::{ACCOUNT_NAME_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX};
use crate::path::RemotePath;

/// Reads the metadata of a file or directory. Reply: [`Attributes`](super::Attributes).
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Stat {
    /// The file or directory.
    #[n(0)]
    pub path: RemotePath,
    /// Which details of it the answer tells.
    #[n(1)]
    #[cbor(default, skip_if = "DetailKinds::is_empty")]
    pub details: DetailKinds,
}

impl Stat {
    /// Asks for no more than the usual attributes of `path`.
    pub fn of(path: RemotePath) -> Self {
        Self {
            path,
            details: DetailKinds::default(),
        }
    }
}

/// Changes the permission bits of a file or directory, and perhaps its details. Reply: [`Changed`](super::Changed).
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Chmod {
    /// The file or directory.
    #[n(0)]
    pub path: RemotePath,
    /// The permission bits to set, whatever the umask.
    #[n(1)]
    pub mode: u32,
    /// Condition on the file or directory.
    #[n(2)]
    #[cbor(default)]
    pub precondition: Precondition,
    /// Details to set as well, as in [`Put`](super::Put).
    #[n(3)]
    pub details: Option<Box<Details>>,
}

/// Which details a request asks for, or a server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DetailKinds {
    /// Extended attributes.
    pub xattrs: bool,
    /// The owner.
    pub owner: bool,
    /// The group.
    pub group: bool,
}

impl DetailKinds {
    /// None.
    pub const NONE: Self = Self {
        xattrs: false,
        owner: false,
        group: false,
    };

    /// All that this version knows.
    pub const ALL: Self = Self {
        xattrs: true,
        owner: true,
        group: true,
    };

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Those that are among `known` as well.
    #[must_use]
    pub fn and(self, known: Self) -> Self {
        Self {
            xattrs: self.xattrs && known.xattrs,
            owner: self.owner && known.owner,
            group: self.group && known.group,
        }
    }
}

impl<C> Encode<C> for DetailKinds {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let bit = |is_set, bit: u8| if is_set { bit } else { 0 };
        let owners = bit(self.owner, OWNER_BIT) | bit(self.group, GROUP_BIT);
        e.u8(bit(self.xattrs, XATTRS_BIT) | owners)?;
        Ok(())
    }
}

/// Bits of a later version are skipped.
impl<'b, C> Decode<'b, C> for DetailKinds {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bits = d.u32()?;
        let has = |bit: u8| bits & u32::from(bit) != 0;
        Ok(Self {
            xattrs: has(XATTRS_BIT),
            owner: has(OWNER_BIT),
            group: has(GROUP_BIT),
        })
    }
}

/// Details of a file or directory. What wasn't asked for, or isn't to be set, is absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Encode, Decode)]
#[cbor(map)]
pub struct Details {
    /// Its owner.
    #[n(0)]
    pub owner: Option<NamedId>,
    /// Its group.
    #[n(1)]
    pub group: Option<NamedId>,
    /// Its extended attributes of the namespace `user`. Absent as well, although they were asked for,
    /// if they are over a limit or can't be read.
    #[n(2)]
    pub xattrs: Option<Xattrs>,
}

impl Details {
    /// Whether they have an owner or a group.
    pub fn has_owner(&self) -> bool {
        self.owner.is_some() || self.group.is_some()
    }

    /// Boxes them, unless there are none.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// A user or a group of one end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct NamedId {
    /// Its number there.
    #[n(0)]
    #[cbor(decode_with = "account_id")]
    pub id: u32,
    /// Its name there, if it has one.
    #[n(1)]
    pub name: Option<AccountName>,
}

/// Decodes a number. The largest means to chown(2) that nothing is changed, and is nobody's.
fn account_id<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<u32, minicbor::decode::Error> {
    match d.u32()? {
        u32::MAX => Err(minicbor::decode::Error::custom(DetailError::AccountNumber)),
        id => Ok(id),
    }
}

/// The name of a user or group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName(String);

impl AccountName {
    /// Checks a name: neither empty nor too long, and without characters that no name has.
    pub fn new(name: &str) -> Option<Self> {
        let is_legal = !name.is_empty()
            && name.len() <= ACCOUNT_NAME_BYTES_MAX
            && !name.contains(|c: char| c.is_control() || c == ':');
        is_legal.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<C> Encode<C> for AccountName {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for AccountName {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let name = d.str()?;
        let illegal = || minicbor::decode::Error::custom(DetailError::AccountName);
        Self::new(name).ok_or_else(illegal)
    }
}

/// The name of an extended attribute of the namespace `user`; there are none of others here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct XattrName(Box<[u8]>);

impl XattrName {
    /// Checks a name.
    ///
    /// # Errors
    /// If it isn't in the namespace `user`, holds NUL, or is over its limit.
    pub fn new(name: &[u8]) -> Result<Self, DetailError> {
        match name.strip_prefix(USER_PREFIX) {
            None | Some([]) => Err(DetailError::NotUser),
            Some(_) if name.contains(&0) => Err(DetailError::Nul),
            Some(_) if name.len() > XATTR_NAME_BYTES_MAX => Err(DetailError::NameTooLong),
            Some(_) => Ok(Self(name.into())),
        }
    }

    /// The bytes of the name, with its namespace.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for XattrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Extended attributes of the namespace `user` of one file, within their limits.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Xattrs(BTreeMap<XattrName, Box<[u8]>>);

impl Xattrs {
    /// Adds an attribute.
    ///
    /// # Errors
    /// If there is one of that name, or it would be too much.
    pub fn insert(&mut self, name: XattrName, value: &[u8]) -> Result<(), DetailError> {
        let bytes = |(name, value): (&XattrName, &[u8])| name.0.len() + value.len();
        let before: usize = self.iter().map(bytes).sum();
        let is_over =
            self.0.len() >= XATTRS_MAX || before + name.0.len() + value.len() > XATTRS_BYTES_MAX;
        match self.0.contains_key(&name) {
            true => Err(DetailError::Twice),
            false if is_over => Err(DetailError::TooMany),
            false => {
                self.0.insert(name, value.into());
                Ok(())
            }
        }
    }

    /// The value of an attribute.
    pub fn get(&self, name: &XattrName) -> Option<&[u8]> {
        self.0.get(name).map(|value| &**value)
    }

    /// All of them, in the order of the bytes of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&XattrName, &[u8])> {
        self.0.iter().map(|(name, value)| (name, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The names only: values may be long, and nobody's business in a log.
impl fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<C> Encode<C> for Xattrs {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.map(self.0.len() as u64)?;
        for (name, value) in &self.0 {
            e.bytes(&name.0)?.bytes(value)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Xattrs {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let refused = minicbor::decode::Error::custom;
        let count = d.map()?;
        let count =
            count.ok_or_else(|| minicbor::decode::Error::message("not of definite length"))?;
        let mut xattrs = Self::default();
        for _ in 0..count {
            let name = XattrName::new(d.bytes()?).map_err(refused)?;
            xattrs.insert(name, d.bytes()?).map_err(refused)?;
        }
        Ok(xattrs)
    }
}

/// The namespace whose attributes mean nothing to the system, and anybody may set who may write.
pub const USER_PREFIX: &[u8] = b"user.";

const XATTRS_BIT: u8 = 1;
const OWNER_BIT: u8 = 1 << 1;
const GROUP_BIT: u8 = 1 << 2;
