//! Recursive deletion of directories.
//!
//! A directory is first renamed into the staging directory, in one step; its content is removed
//! there afterwards. A nested directory that isn't empty is moved up into the staging directory and
//! queued. So a tree of any depth and width takes one handle and a pair of counters.
//! Nothing is followed: every step acts on a name in an open directory, and mounts are left alone.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, fchmod, renameat_with, unlinkat};
use rustix::io::Errno;

use super::Error;
use super::cancel;
use super::metadata::Metadata;
use super::outcomes::RECORDS_NAME;
use super::parts;
use super::resolve::{Slot, open_beneath};
use super::staging::Staging;

/// Deleted directory whose content is still to be removed. If it is dropped instead, the content
/// stays until the next server starts on this root.
#[derive(Debug)]
#[must_use = "the content still takes up space"]
pub(in crate::files) struct Trash {
    staging: Arc<Staging>,
    name: String,
}

impl Trash {
    /// Moves the directory at `slot` into the staging directory.
    pub(super) fn take(slot: &Slot<'_>, staging: Arc<Staging>) -> Result<Self, Error> {
        let name = staging.new_name()?;
        let Staging {
            directory,
            root_device,
            ..
        } = &*staging;
        let moved = move_away(&slot.directory, slot.name, directory, &name, *root_device);
        moved.map_err(Error::system("moving a directory to the staging directory"))?;
        Ok(Self { staging, name })
    }

    /// Removes the directory and its content.
    ///
    /// # Errors
    /// If an entry can't be removed; the others are removed all the same. If the server stops, the
    /// rest stays until the next start.
    pub(super) fn remove(self) -> Result<(), Error> {
        let staging = &*self.staging;
        staging.ending.run(|| remove_tree(staging, &self.name))
    }
}

/// Removes what a killed server left in the staging directory.
pub(super) fn clear(staging: &Staging) -> Result<(), Error> {
    let mut trees = Trees::new(staging)?;
    let kept = [staging.session.as_str(), parts::PREFIX, RECORDS_NAME].map(str::as_bytes);
    if let Err(errno) = trees.empty(&staging.directory, &kept) {
        trees.failed.get_or_insert(errno);
    }
    trees.finish()
}

/// Removes the directory `name` in the staging directory, with its content.
pub(super) fn remove_tree(staging: &Staging, name: &str) -> Result<(), Error> {
    let mut trees = Trees::new(staging)?;
    trees.remove(name);
    trees.finish()
}

/// Queue of directories to remove, kept as names in the staging directory. Their numbers lie
/// between two counters, so that a queue of any length takes no memory.
struct Trees<'a> {
    staging: &'a OwnedFd,
    root_device: u64,
    /// Random prefix of the numbered names, so that they never collide with existing names.
    prefix: String,
    /// Number of the next directory to remove.
    removed: u64,
    /// Number for the next directory to queue.
    queued: u64,
    /// First error; the other entries are removed all the same.
    failed: Option<Errno>,
}

impl<'a> Trees<'a> {
    fn new(staging: &'a Staging) -> Result<Self, Error> {
        Ok(Self {
            staging: &staging.directory,
            root_device: staging.root_device,
            prefix: staging.new_name()?,
            removed: 0,
            queued: 0,
            failed: None,
        })
    }

    /// Removes the queued directories, and those that they add to the queue.
    fn finish(mut self) -> Result<(), Error> {
        while self.removed < self.queued {
            cancel::check()?;
            let name = self.numbered(self.removed);
            self.removed += 1;
            self.remove(&name);
        }
        cancel::check()?;
        match self.failed {
            Some(errno) => Err(Error::system("removing a directory")(errno)),
            None => Ok(()),
        }
    }

    fn numbered(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// Removes one directory that may not be empty.
    fn remove(&mut self, name: &str) {
        let removed = open_for_removal(self.staging, name, self.root_device)
            .and_then(|directory| self.empty(&directory, &[]))
            .and_then(|()| unlinkat(self.staging, name, AtFlags::REMOVEDIR));
        if let Err(errno) = removed {
            self.failed.get_or_insert(errno);
        }
    }

    /// Empties `directory` by removing or queueing its entries. readdir(3) may skip entries while
    /// others are removed. So passes are repeated until one finds nothing to do. What has a name
    /// that begins with one of `kept` stays, which in the staging directory is what this server made
    /// and what may go on.
    fn empty(&mut self, directory: &OwnedFd, kept: &[&[u8]]) -> Result<(), Errno> {
        for _ in 0..PASSES_MAX {
            let mut is_changed = false;
            for entry in Dir::read_from(directory)? {
                // The caller asks again, and returns the error.
                if cancel::check().is_err() {
                    return Ok(());
                }
                let entry = entry?;
                let name = entry.file_name();
                let is_kept = kept.iter().any(|kept| name.to_bytes().starts_with(kept));
                if is_kept || matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                match self.remove_or_queue(directory, name) {
                    Ok(()) => is_changed = true,
                    // Read twice, or removed by another program.
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

    /// Removes `name` from `directory`. A directory that isn't empty is moved up and queued.
    fn remove_or_queue(&mut self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        match unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            removed => return removed,
        }
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            removed => return removed,
        }
        let numbered = self.numbered(self.queued);
        move_away(directory, name, self.staging, &numbered, self.root_device)?;
        self.queued += 1;
        Ok(())
    }
}

/// Moves the directory `name` into the staging directory, as `to`.
fn move_away(
    directory: &OwnedFd,
    name: impl rustix::path::Arg + Copy,
    staging: &OwnedFd,
    to: &str,
    root_device: u64,
) -> Result<(), Errno> {
    let rename = || renameat_with(directory, name, staging, to, RenameFlags::empty());
    match rename() {
        // Moving a directory rewrites its `..`, which needs write permission on it.
        Err(Errno::ACCESS) => {
            open_for_removal(directory, name, root_device)?;
            rename()
        }
        renamed => renamed,
    }
}

/// Opens the directory `name`, and gives its owner all permissions.
fn open_for_removal(
    directory: &OwnedFd,
    name: impl rustix::path::Arg + Copy,
    root_device: u64,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let opened = open_beneath(directory, name, flags)?;
    let metadata = Metadata::of(&opened)?;
    // A subvolume counts as another file system, and its content isn't removed.
    if metadata.id.device != root_device {
        return Err(Errno::XDEV);
    }
    if !Mode::from_raw_mode(metadata.mode).contains(Mode::RWXU) {
        fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

/// Most passes over one directory. More would be needed only if other programs keep adding entries.
const PASSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use quire_shared::ErrorCode;
    use quire_shared::protocol::Precondition;

    use super::super::fixture::{StoreFixture, code, path};

    #[test]
    fn a_directory_loses_its_name_at_once_and_its_content_afterwards() {
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
    fn depth_and_width_of_a_tree_take_no_handles() {
        let fixture = StoreFixture::new();
        let mut deep = fixture.local("d");
        std::fs::create_dir(&deep).unwrap();
        // The path is longer than PATH_MAX, so the tree is created from the inside out.
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
