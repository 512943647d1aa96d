//! POSIX access control lists, as the extended attributes that hold them (acl(5)).
//!
//! The kernel applies the default ACL of a directory to what is created in it. New content is
//! created elsewhere and renamed into place, so the server has to do the same.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// An access control list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<AclEntry>);

/// An entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    /// Bits of read, write and execute.
    permissions: u16,
    /// User or group of a named entry.
    id: u32,
}

impl Acl {
    /// Reads the list `name` of an open file; `None` if it has none, or the file system has no such
    /// lists.
    pub(super) fn read(file: impl AsFd, name: &CStr) -> Result<Option<Self>, Errno> {
        let mut small = [0; SMALL_BYTES];
        let bytes = match fgetxattr(&file, name, &mut small) {
            Err(Errno::RANGE) => {
                let mut large = vec![0; XATTR_BYTES_MAX];
                let length = fgetxattr(&file, name, &mut large)?;
                large.truncate(length);
                large
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            length => small.get(..length?).unwrap_or_default().to_vec(),
        };
        Self::decode(&bytes).map(Some).ok_or(Errno::INVAL)
    }

    /// Sets the list `name` of an open file.
    pub(super) fn write(&self, file: impl AsFd, name: &CStr) -> Result<(), Errno> {
        fsetxattr(file, name, &self.encode(), XattrFlags::empty())
    }

    /// Removes the list `name` of an open file, if there is one.
    pub(super) fn remove(file: impl AsFd, name: &CStr) -> Result<(), Errno> {
        match fremovexattr(file, name) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            removed => removed,
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, entries) = bytes.split_first_chunk()?;
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return None;
        }
        let entries = entries.iter().map(|entry| {
            let [tag_0, tag_1, bits_0, bits_1, id @ ..] = *entry;
            AclEntry {
                tag: u16::from_le_bytes([tag_0, tag_1]),
                permissions: u16::from_le_bytes([bits_0, bits_1]),
                id: u32::from_le_bytes(id),
            }
        });
        Some(Self(entries.collect()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend(entry.tag.to_le_bytes());
            bytes.extend(entry.permissions.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// The access list of something created with `mode` in a directory with this default list.
    pub(super) fn for_new(&self, mode: u32) -> Self {
        let group_class = self.group_class();
        let mut list = self.clone();
        for entry in &mut list.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                tag if tag == group_class => 3,
                OTHER => 0,
                _ => continue,
            };
            entry.permissions &= class(mode, shift);
        }
        list
    }

    /// This list where the group of the file isn't the one that it was made for: that group gets
    /// no more than others.
    pub(super) fn for_other_group(&self) -> Self {
        let others = self.permissions(OTHER);
        let mut list = self.clone();
        for entry in &mut list.0 {
            if entry.tag == GROUP_OBJ {
                entry.permissions &= others;
            }
        }
        list
    }

    /// The permission bits of a file with this list.
    pub(super) fn mode(&self) -> u32 {
        let class = |tag, shift| u32::from(self.permissions(tag)) << shift;
        class(USER_OBJ, 6) | class(self.group_class(), 3) | class(OTHER, 0)
    }

    /// Whether permission bits alone say the same.
    pub(super) fn is_mode(&self) -> bool {
        let is_basic = |entry: &AclEntry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER);
        self.0.iter().all(is_basic)
    }

    /// The entry that the permission bits of the group stand for.
    fn group_class(&self) -> u16 {
        let has_mask = self.0.iter().any(|entry| entry.tag == MASK);
        if has_mask { MASK } else { GROUP_OBJ }
    }

    fn permissions(&self, tag: u16) -> u16 {
        let entry = self.0.iter().find(|entry| entry.tag == tag);
        entry.map_or(0, |entry| entry.permissions)
    }
}

/// The three bits of a class in permission bits.
fn class(mode: u32, shift: u32) -> u16 {
    u16::try_from(mode >> shift & 0o7).unwrap_or_default()
}

/// The list of who may access a file or directory.
pub(super) const ACCESS: &CStr = c"system.posix_acl_access";

/// The list that what is created in a directory starts with.
pub(super) const DEFAULT: &CStr = c"system.posix_acl_default";

/// Version of the format of both attributes.
const VERSION: u32 = 2;

const ENTRY_BYTES: usize = 8;

/// Bytes of a list that is read without an allocation: some sixty entries.
const SMALL_BYTES: usize = 512;

/// Largest extended attribute that Linux has, in bytes.
const XATTR_BYTES_MAX: usize = 64 * 1024;

// Tags of entries.
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of entries with tag, permissions and user or group.
    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        let entry = |&(tag, permissions, id)| AclEntry {
            tag,
            permissions,
            id,
        };
        Acl(entries.iter().map(entry).collect())
    }

    const USER: u16 = 0x02;
    const NONE: u32 = u32::MAX;

    #[test]
    fn a_new_file_gets_of_a_default_list_what_its_mode_allows() {
        let default = acl(&[
            (USER_OBJ, 7, NONE),
            (USER, 7, 1000),
            (GROUP_OBJ, 5, NONE),
            (MASK, 7, NONE),
            (OTHER, 5, NONE),
        ]);
        let new = default.for_new(0o640);
        assert_eq!(new.mode(), 0o640);
        assert_eq!(new.permissions(USER), 7, "limited by the mask alone");
        assert_eq!(new.permissions(GROUP_OBJ), 5);
        assert!(!new.is_mode());
        assert_eq!(default.for_new(0o777).mode(), 0o775);
        let plain = acl(&[(USER_OBJ, 6, NONE), (GROUP_OBJ, 6, NONE), (OTHER, 0, NONE)]);
        assert!(plain.is_mode());
        assert_eq!(plain.for_new(0o646).mode(), 0o640);
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let list = acl(&[(USER_OBJ, 7, NONE), (USER, 4, 12), (OTHER, 1, NONE)]);
        let bytes = list.encode();
        assert_eq!(Acl::decode(&bytes), Some(list));
        assert_eq!(Acl::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Acl::decode(&[1, 0, 0, 0]), None);
        assert_eq!(Acl::decode(b""), None);
    }
}
