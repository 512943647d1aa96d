//! Extended attributes of local files: those of the namespace `user`, and no others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use quire_shared::protocol::Xattrs;

/// Reads the attributes of an open file; none on a file system without them. `None` if they are over a
/// limit of the protocol.
///
/// # Errors
/// If a system call fails, or this system has no such attributes.
pub fn read(file: impl AsFd) -> io::Result<Option<Xattrs>> {
    system::read_from(&OpenXattrs(file.as_fd()))
}

/// As [`read`], of the file or directory at `path`, which isn't a symbolic link.
///
/// # Errors
/// As [`read`].
pub fn read_at(path: &Path) -> io::Result<Option<Xattrs>> {
    system::read_from(&NamedXattrs(path))
}

/// Gives an open file exactly these attributes. What is right already is left alone, and what isn't
/// among them is removed.
///
/// # Errors
/// If a system call fails. The error is [`io::ErrorKind::Unsupported`] if there are some to set, and the
/// file system has none.
pub fn write(file: impl AsFd, wanted: &Xattrs) -> io::Result<()> {
    system::write_to(file.as_fd(), wanted)
}

/// Those of an open file.
struct OpenXattrs<'a>(BorrowedFd<'a>);

/// Those of what has a path.
struct NamedXattrs<'a>(&'a Path);

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::BorrowedFd;

    use quire_shared::limits::XATTRS_BYTES_MAX;
    use quire_shared::protocol::{USER_PREFIX, XattrName, Xattrs};
    use rustix::fs::{
        Mode, XattrFlags, fchmod, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, lgetxattr,
        llistxattr,
    };
    use rustix::io::Errno;

    use super::{NamedXattrs, OpenXattrs};

    /// What has attributes.
    pub(super) trait HasXattrs {
        fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno>;
        fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno>;
    }

    impl HasXattrs for OpenXattrs<'_> {
        fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
            flistxattr(self.0, buffer)
        }

        fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
            fgetxattr(self.0, name, buffer)
        }
    }

    impl HasXattrs for NamedXattrs<'_> {
        fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
            llistxattr(self.0, buffer)
        }

        fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
            lgetxattr(self.0, name, buffer)
        }
    }

    pub(super) fn read_from(file: &impl HasXattrs) -> io::Result<Option<Xattrs>> {
        let names = match names_of(file) {
            // A file system without any.
            Err(Errno::OPNOTSUPP) => return Ok(Some(Xattrs::default())),
            names => names?,
        };
        let mut xattrs = Xattrs::default();
        for name in names {
            let mut value = vec![0; XATTRS_BYTES_MAX];
            let length = match file.get(name.as_bytes(), &mut value) {
                Err(Errno::RANGE) => return Ok(None),
                // Removed since it was listed.
                Err(Errno::NODATA) => continue,
                length => length?,
            };
            let value = value.get(..length).unwrap_or_default();
            if xattrs.insert(name, value).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(xattrs))
    }

    /// The names in the namespace `user`.
    fn names_of(file: &impl HasXattrs) -> Result<Vec<XattrName>, Errno> {
        let mut small = [0; SMALL_LIST_BYTES];
        let mut large = Vec::new();
        let list = match file.list(&mut small) {
            Err(Errno::RANGE) => {
                large.resize(LIST_BYTES_MAX, 0);
                let length = file.list(&mut large)?;
                large.get(..length)
            }
            length => small.get(..length?),
        };
        let names = list.unwrap_or_default().split(|byte| *byte == 0);
        let names = names.filter(|name| name.starts_with(USER_PREFIX));
        Ok(names.filter_map(|name| XattrName::new(name).ok()).collect())
    }

    pub(super) fn write_to(file: BorrowedFd<'_>, wanted: &Xattrs) -> io::Result<()> {
        match replace(file, wanted) {
            // Those of a file that its owner may not write to can't be set, although it is open.
            Err(Errno::ACCESS) => {
                let mode = Mode::from_raw_mode(fstat(file)?.st_mode & PERMISSION_MASK);
                fchmod(file, mode | Mode::WUSR | Mode::RUSR)?;
                let replaced = replace(file, wanted);
                fchmod(file, mode)?;
                Ok(replaced?)
            }
            replaced => Ok(replaced?),
        }
    }

    fn replace(file: BorrowedFd<'_>, wanted: &Xattrs) -> Result<(), Errno> {
        let opened = OpenXattrs(file);
        let present = match names_of(&opened) {
            Err(Errno::OPNOTSUPP) if wanted.is_empty() => return Ok(()),
            present => present?,
        };
        for name in &present {
            if wanted.get(name).is_none() {
                match fremovexattr(file, name.as_bytes()) {
                    Ok(()) | Err(Errno::NODATA) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for (name, value) in wanted.iter() {
            let mut now = vec![0; value.len() + 1];
            let is_same = present.contains(name)
                && opened
                    .get(name.as_bytes(), &mut now)
                    .is_ok_and(|length| now.get(..length) == Some(value));
            if !is_same {
                fsetxattr(file, name.as_bytes(), value, XattrFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Bytes of a list that is usual: some twenty names.
    const SMALL_LIST_BYTES: usize = 512;

    /// Longest list of names that Linux has, in bytes.
    const LIST_BYTES_MAX: usize = 64 * 1024;

    /// Permission bits, with those above them.
    const PERMISSION_MASK: u32 = 0o7777;
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::BorrowedFd;

    use quire_shared::protocol::Xattrs;

    /// Other systems have attributes without this namespace, which are not kept.
    pub(super) fn read_from<T>(_: &T) -> io::Result<Option<Xattrs>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn write_to(_: BorrowedFd<'_>, wanted: &Xattrs) -> io::Result<()> {
        match wanted.is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use quire_shared::protocol::XattrName;
    use rustix::fs::{XattrFlags, fsetxattr};

    use super::*;

    fn xattrs(pairs: &[(&str, &[u8])]) -> Xattrs {
        let mut xattrs = Xattrs::default();
        for (name, value) in pairs {
            let name = XattrName::new(name.as_bytes()).unwrap();
            xattrs.insert(name, value).unwrap();
        }
        xattrs
    }

    /// A file on a file system that has attributes.
    #[expect(
        clippy::print_stderr,
        reason = "a test that tries nothing must not look like a success"
    )]
    fn file() -> Option<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new().unwrap();
        match fsetxattr(&file, "user.try", b"", XattrFlags::empty()) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                eprintln!("skipped: the temporary directory has no extended attributes");
                return None;
            }
            set => set.unwrap(),
        }
        Some(file)
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_stays() {
        let Some(file) = file() else { return };
        let first = xattrs(&[("user.a", b"1"), ("user.b", b""), ("user.c", &[0, 255])]);
        write(&file, &first).unwrap();
        assert_eq!(read(&file).unwrap(), Some(first.clone()));
        assert_eq!(read_at(file.path()).unwrap(), Some(first));
        let second = xattrs(&[("user.b", b"2")]);
        write(&file, &second).unwrap();
        assert_eq!(read(&file).unwrap(), Some(second));
        write(&file, &Xattrs::default()).unwrap();
        assert_eq!(read(&file).unwrap(), Some(Xattrs::default()));
    }

    #[test]
    fn those_of_a_file_that_may_only_be_read_are_set_and_its_permissions_stay() {
        let Some(file) = file() else { return };
        let path = file.path();
        std::fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
        let opened = File::open(path).unwrap();
        let wanted = xattrs(&[("user.a", b"1")]);
        write(&opened, &wanted).unwrap();
        assert_eq!(read(&opened).unwrap(), Some(wanted));
        let mode = opened.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o444);
    }

    #[test]
    fn more_than_the_protocol_carries_is_told_as_such() {
        let Some(file) = file() else { return };
        for number in 0..65 {
            let name = format!("user.{number}");
            fsetxattr(&file, &*name, b"", XattrFlags::empty()).unwrap();
        }
        assert_eq!(read(&file).unwrap(), None);
    }
}
