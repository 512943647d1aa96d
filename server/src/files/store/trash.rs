//! Removing directories with all that is in them.
//!
//! A directory first loses its name, in one step; its content goes afterwards, out of sight in
//! the staging directory. A directory within it that isn't empty is moved up beside it and waits
//! for its turn, so that one handle and one counter suffice for a tree of any depth and width.
//! Nothing is followed: every step is a name in an open directory, and mounts are left alone.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, fchmod, renameat_with, unlinkat};
use rustix::io::Errno;

use super::Error;
use super::metadata::Metadata;
use super::resolve::{Slot, open_beneath};
use super::staging::{Staging, random_name};

/// A directory that has lost its name and waits to be removed. Dropped, it waits until the next
/// server starts on this root.
#[derive(Debug)]
#[must_use = "the content still takes up space"]
pub struct Trash {
    staging: Arc<Staging>,
    name: String,
}

impl Trash {
    /// Moves the directory at `slot` out of sight.
    pub(super) fn take(slot: &Slot<'_>, staging: Arc<Staging>) -> Result<Self, Error> {
        let name = random_name()?;
        let flags = RenameFlags::empty();
        renameat_with(&slot.directory, slot.name, &staging.directory, &name, flags)
            .map_err(Error::system("moving a directory out of sight"))?;
        Ok(Self { staging, name })
    }

    /// Removes the directory and all that is in it.
    ///
    /// # Errors
    /// If something can't be removed; the rest is.
    pub fn remove(self) -> Result<(), Error> {
        remove_tree(
            &self.staging.directory,
            self.staging.root_device,
            &self.name,
        )
    }
}

/// Removes all that is in the staging directory.
pub(super) fn clear(staging: &OwnedFd, root_device: u64) -> Result<(), Error> {
    let mut trees = Trees::new(staging, root_device)?;
    if let Err(errno) = trees.empty(staging) {
        trees.failed.get_or_insert(errno);
    }
    trees.finish()
}

/// Removes the directory `name` in the staging directory, with all that is in it.
pub(super) fn remove_tree(staging: &OwnedFd, root_device: u64, name: &str) -> Result<(), Error> {
    let mut trees = Trees::new(staging, root_device)?;
    trees.remove(name);
    trees.finish()
}

/// Directories in the staging directory that wait to be removed: those whose numbers are between
/// two counters, however many they are.
struct Trees<'a> {
    staging: &'a OwnedFd,
    root_device: u64,
    /// Drawn anew each time, so that numbered names never meet any that are there already.
    prefix: String,
    removed: u64,
    found: u64,
    /// The first error; the rest is removed all the same.
    failed: Option<Errno>,
}

impl<'a> Trees<'a> {
    fn new(staging: &'a OwnedFd, root_device: u64) -> Result<Self, Error> {
        Ok(Self {
            staging,
            root_device,
            prefix: random_name()?,
            removed: 0,
            found: 0,
            failed: None,
        })
    }

    fn finish(mut self) -> Result<(), Error> {
        while self.removed < self.found {
            let name = self.numbered(self.removed);
            self.removed += 1;
            self.remove(&name);
        }
        match self.failed {
            Some(errno) => Err(Error::system("removing a directory")(errno)),
            None => Ok(()),
        }
    }

    fn numbered(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// Removes one directory that isn't known to be empty.
    fn remove(&mut self, name: &str) {
        let removed = open_for_removal(self.staging, name, self.root_device)
            .and_then(|directory| self.empty(&directory))
            .and_then(|()| unlinkat(self.staging, name, AtFlags::REMOVEDIR));
        if let Err(errno) = removed {
            self.failed.get_or_insert(errno);
        }
    }

    /// Removes what is in `directory`, or moves it up. Entries may be passed over while others are
    /// removed, so it takes passes until one finds nothing to do.
    fn empty(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        for _ in 0..PASSES_MAX {
            let mut is_changed = false;
            for entry in Dir::read_from(directory)? {
                let entry = entry?;
                let name = entry.file_name();
                let is_ours = name.to_bytes().starts_with(self.prefix.as_bytes());
                if is_ours || matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                match self.take_away(directory, name) {
                    Ok(()) => is_changed = true,
                    Err(Errno::NOENT) => {}
                    Err(errno) => {
                        self.failed.get_or_insert(errno);
                    }
                }
            }
            if !is_changed {
                break;
            }
        }
        Ok(())
    }

    /// Removes `name` from `directory`; if it is a directory with something in it, by moving it up.
    fn take_away(&mut self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        match unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            removed => return removed,
        }
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            removed => return removed,
        }
        let numbered = self.numbered(self.found);
        let rename = || {
            let flags = RenameFlags::empty();
            renameat_with(directory, name, self.staging, &numbered, flags)
        };
        match rename() {
            // Moving a directory is a change of it, which its own permissions may forbid.
            Err(Errno::ACCESS) => {
                open_for_removal(directory, name, self.root_device)?;
                rename()?;
            }
            renamed => renamed?,
        }
        self.found += 1;
        Ok(())
    }
}

/// Opens the directory `name`, and lets its owner do everything with it.
fn open_for_removal(
    directory: &OwnedFd,
    name: impl rustix::path::Arg + Copy,
    root_device: u64,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let opened = open_beneath(directory, name, flags)?;
    let metadata = Metadata::of(&opened)?;
    // A subvolume is another file system to us, and not ours to empty.
    if metadata.id.device != root_device {
        return Err(Errno::XDEV);
    }
    if !Mode::from_raw_mode(metadata.mode).contains(Mode::RWXU) {
        fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

/// How often a directory is read that isn't empty yet; more only if others keep filling it.
const PASSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use quire_shared::ErrorCode;
    use quire_shared::protocol::Precondition;

    use super::super::fixture::{StoreFixture, code, path};

    #[test]
    fn a_directory_goes_at_once_and_its_content_afterwards() {
        let fixture = StoreFixture::new();
        for name in [
            "d/a",
            "d/b/c/d/e",
            "d/b/c/f",
            "d/g/.quire-x",
            "d/line\nbreak",
        ] {
            fixture.write(name, "x");
        }
        std::fs::create_dir(fixture.local("d/empty")).unwrap();
        std::fs::write(fixture.outside("kept"), "x").unwrap();
        symlink(fixture.outside(""), fixture.local("d/b/link")).unwrap();
        let closed = PermissionsExt::from_mode(0o500);
        std::fs::set_permissions(fixture.local("d/b/c"), closed).unwrap();
        let delete = |recursive| {
            fixture
                .root
                .delete(&path("d"), recursive, &Precondition::Any)
        };
        assert_eq!(code(delete(false)), ErrorCode::NOT_EMPTY);
        let trash = delete(true).unwrap().unwrap();
        assert!(!fixture.exists("d"));
        assert_eq!(fixture.staged_count(), 1);
        trash.remove().unwrap();
        assert_eq!(fixture.staged_count(), 0);
        assert!(fixture.outside("kept").exists());
    }

    #[test]
    fn depth_and_width_cost_no_handles() {
        let fixture = StoreFixture::new();
        let mut deep = fixture.local("d");
        std::fs::create_dir(&deep).unwrap();
        // Longer than any path may be, which is why it is made from the inside out.
        for level in 0..500 {
            let outer = fixture.local("outer");
            std::fs::create_dir(&outer).unwrap();
            std::fs::rename(&deep, outer.join(format!("level-number-{level}"))).unwrap();
            deep = fixture.local("d");
            std::fs::rename(outer, &deep).unwrap();
        }
        for number in 0..300 {
            fixture.write(&format!("d/wide/{number}/x"), "x");
        }
        let delete = fixture.root.delete(&path("d"), true, &Precondition::Any);
        delete.unwrap().unwrap().remove().unwrap();
        assert_eq!(fixture.staged_count(), 0);
    }
}
