//! Check that a directory can be deleted with everything below it, before it is.
//!
//! A deletion is one step, so it must not begin if a part could not be removed: mounted file
//! systems, files with the attribute `i` or `a` (chattr), and directories of other users. What
//! happens later than the check is left in the staging directory until the next start.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use quire_shared::protocol::EntryKind;
use quire_shared::{Name, RemotePath};
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use super::metadata::Metadata;
use super::resolve::{open_beneath, require_writable};
use super::root::Root;
use super::{Error, cancel};

/// A directory that is being checked.
struct CheckedLevel {
    /// Its name in the directory above; `None` for the first, and for a name that isn't UTF-8.
    name: Option<Name>,
    directory: OwnedFd,
    entries: Dir,
    /// Whether its entries can be removed, by its owner after a chmod.
    is_changeable: bool,
}

impl Root {
    /// Checks that the directory at `path` can be removed with everything below it. What is no
    /// directory passes.
    ///
    /// # Errors
    /// [`Error::Below`] with the first entry that can't be removed, or the error of a system call.
    pub(super) fn check_removable(&self, path: &RemotePath) -> Result<(), Error> {
        // The deletion itself returns the error.
        let Ok((directory, _)) = self.inner.directory(path, OFlags::RDONLY) else {
            return Ok(());
        };
        let Some(top) = CheckedLevel::new(None, directory) else {
            return Ok(());
        };
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            cancel::check()?;
            let Some(Ok(entry)) = level.entries.read() else {
                levels.pop();
                continue;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match self.check_entry(level, name) {
                Ok(Some(below)) if levels.len() < LEVELS_MAX => levels.push(below),
                Ok(_) => {}
                Err(error) => return Err(error.below(path_of(&levels, name))),
            }
        }
        Ok(())
    }

    /// Checks one entry, and opens it if it is a directory.
    fn check_entry(
        &self,
        level: &CheckedLevel,
        name: &CStr,
    ) -> Result<Option<CheckedLevel>, Error> {
        let metadata = Metadata::at(&level.directory, name, self.inner.id.device)
            .map_err(Error::system("reading the metadata of an entry"))?;
        let Some(metadata) = metadata else {
            return Ok(None);
        };
        if metadata.is_foreign {
            return Err(Error::OtherFileSystem);
        }
        if metadata.is_immutable || !level.is_changeable {
            return Err(Error::system("removing a directory")(Errno::PERM));
        }
        if metadata.kind != EntryKind::Directory {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        // One that can't be read can be removed if it is empty, or belongs to the server's user.
        let opened = open_beneath(&level.directory, name, flags).ok();
        let own_name = name.to_str().ok().and_then(|name| Name::new(name).ok());
        Ok(opened.and_then(|opened| CheckedLevel::new(own_name, opened)))
    }
}

impl CheckedLevel {
    fn new(name: Option<Name>, directory: OwnedFd) -> Option<Self> {
        let is_own = |metadata: Metadata| metadata.owner == rustix::process::geteuid().as_raw();
        let metadata = Metadata::of(directory.as_fd());
        let is_changeable = metadata.is_ok_and(is_own) || require_writable(&directory).is_ok();
        let entries = Dir::read_from(&directory).ok()?;
        Some(Self {
            name,
            directory,
            entries,
            is_changeable,
        })
    }
}

/// Path of the entry `name` in the innermost directory, relative to the outermost; that of the
/// nearest directory if it can't be sent.
fn path_of(levels: &[CheckedLevel], name: &CStr) -> RemotePath {
    let names = levels.iter().skip(1).map(|level| level.name.clone());
    let last = name.to_str().ok().and_then(|name| Name::new(name).ok());
    let names = names.chain([last]).map_while(|name| name).collect();
    RemotePath::from_names(names).unwrap_or_default()
}

/// Deepest nesting that is checked. Each level takes two file handles.
const LEVELS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use quire_shared::ErrorCode;
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

    use super::super::fixture::{StoreFixture, code, path};
    use super::*;

    #[test]
    #[expect(clippy::print_stdout, reason = "the test runner shows it")]
    fn a_directory_with_a_part_that_cannot_be_removed_is_refused_by_its_name() {
        let fixture = StoreFixture::new();
        for name in ["d/a", "d/b/c/kept", "d/b/other"] {
            fixture.write(name, "x");
        }
        fixture.root.check_removable(&path("d")).unwrap();
        fixture.root.check_removable(&path("d/a")).unwrap();
        fixture.root.check_removable(&path("nothing")).unwrap();
        let kept = std::fs::File::open(fixture.local("d/b/c/kept")).unwrap();
        let flags = ioctl_getflags(&kept).unwrap_or(IFlags::empty());
        if ioctl_setflags(&kept, flags | IFlags::IMMUTABLE).is_err() {
            println!("skipped: only root can make files immutable, and not on this file system");
            return;
        }
        let refused = fixture.root.check_removable(&path("d"));
        ioctl_setflags(&kept, flags).unwrap();
        match &refused {
            Err(Error::Below { path: below, .. }) => assert_eq!(*below, path("b/c/kept")),
            other => panic!("{other:?}"),
        }
        assert_eq!(code(refused), ErrorCode::DENIED);
        fixture.root.check_removable(&path("d")).unwrap();
    }
}
