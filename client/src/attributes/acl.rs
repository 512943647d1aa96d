//! POSIX access control lists of local files, as the bytes of an extended attribute (acl(5)).
//!
//! A list is carried from a file to the one that replaces it, so nothing needs to know its entries.

use std::fs::File;
use std::io;
use std::path::Path;

/// Reads the access list of the file `path`; `None` if permission bits say all.
#[cfg(target_os = "linux")]
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use rustix::io::Errno;
    let mut list = vec![0; SMALL_BYTES];
    let length = match rustix::fs::getxattr(path, ACCESS, &mut list) {
        Err(Errno::RANGE) => {
            list.resize(XATTR_BYTES_MAX, 0);
            rustix::fs::getxattr(path, ACCESS, &mut list)
        }
        length => length,
    };
    match length {
        Ok(length) => {
            list.truncate(length);
            Ok(Some(list))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives `file` the access list `list`, or removes the one that it has got from its directory.
#[cfg(target_os = "linux")]
pub(super) fn write(file: &File, list: Option<&[u8]>) -> io::Result<()> {
    use rustix::fs::{XattrFlags, fremovexattr, fsetxattr};
    use rustix::io::Errno;
    let written = match list {
        Some(list) => fsetxattr(file, ACCESS, list, XattrFlags::empty()),
        None => match fremovexattr(file, ACCESS) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            removed => removed,
        },
    };
    Ok(written?)
}

/// Other systems have lists of other kinds, which are not kept.
#[cfg(not(target_os = "linux"))]
pub(super) fn read(_: &Path) -> io::Result<Option<Vec<u8>>> {
    Ok(None)
}

/// Other systems have lists of other kinds, which are not kept.
#[cfg(not(target_os = "linux"))]
pub(super) fn write(_: &File, _: Option<&[u8]>) -> io::Result<()> {
    Ok(())
}

/// The attribute that has the access list.
#[cfg(target_os = "linux")]
const ACCESS: &str = "system.posix_acl_access";

/// Bytes of a list that is usual: some sixty entries.
#[cfg(target_os = "linux")]
const SMALL_BYTES: usize = 512;

/// Largest extended attribute that Linux has, in bytes.
#[cfg(target_os = "linux")]
const XATTR_BYTES_MAX: usize = 64 * 1024;
