//! Rename, delete and mkdir.
//!
//! Each change is one system call on (directory, name) pairs. [`Commit`] syncs the directories
//! afterwards.

use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::{EntryKind, Precondition, Version};
use rustix::fs::{AtFlags, Mode, mkdirat, unlinkat};
use rustix::io::Errno;

use super::Error;
use super::batch::{Applied, Commit, Visible};
use super::faults::Fault;
use super::metadata::Metadata;
use super::publish::{Destination, require, require_replaceable};
use super::resolve::{DIRECTORY_MODE, Slot, require_writable};
use super::staging::rename;
use super::trash::Trash;

impl<'root> Commit<'root> {
    /// Applies [`Change::Rename`](super::batch::Change::Rename).
    pub(super) fn rename(
        &mut self,
        (from, source): (&RemotePath, &Precondition),
        (to, target): (&RemotePath, &Precondition),
    ) -> Result<Applied<'root>, Error> {
        if to.is_root() {
            return Err(Error::RootItself);
        }
        let (old, old_parent) = self.existing_slot(from)?;
        let moved = old.metadata()?.ok_or(Error::NotFound)?;
        require(source, Some(&moved))?;
        require_movable(&moved)?;
        if from == to {
            require(target, Some(&moved))?;
            return Ok(Applied {
                visible: Visible::Unchanged(moved.version()),
                syncs: [None; 2],
                _new_directories: None,
            });
        }
        if from.contains(to) && moved.kind == EntryKind::Directory {
            return Err(Error::IntoItself);
        }
        let (new, new_parent) = self.existing_slot(to)?;
        let replaced = new.metadata()?;
        require_target(&moved, target, replaced.as_ref())?;
        if replaced.is_some_and(|replaced| replaced.id == moved.id) {
            // Two hard links to one file: rename(2) returns success and leaves both names.
            unlinkat(&old.directory, old.name, AtFlags::empty())
                .map_err(Error::system("removing the old name of a file"))?;
        } else {
            rename(&old.directory, old.name, &new, target)?;
        }
        let visible = Visible::Named(Arc::clone(&new.directory), new.name.to_owned());
        let is_same_directory = old_parent.id == new_parent.id;
        let new_sync = self.touch(new_parent, Fault::PlaceSync);
        let old_sync = (!is_same_directory)
            .then(|| self.touch(old_parent.for_removal(), Fault::OldDirectorySync));
        Ok(Applied {
            visible,
            syncs: [Some(new_sync), old_sync],
            _new_directories: None,
        })
    }

    /// Applies [`Change::Delete`](super::batch::Change::Delete).
    pub(super) fn delete(
        &mut self,
        path: &RemotePath,
        recursive: bool,
        precondition: &Precondition,
    ) -> Result<Applied<'root>, Error> {
        let staging = self.inner.writable()?;
        let (slot, parent) = self.existing_slot(path)?;
        let metadata = slot.metadata()?.ok_or(Error::NotFound)?;
        require(precondition, Some(&metadata))?;
        require_movable(&metadata)?;
        let trash = match metadata.kind {
            EntryKind::Directory if !recursive => return Err(Error::NotEmpty),
            EntryKind::Directory => {
                require_writable(&slot.directory)?;
                Some(Trash::take(&slot, staging)?)
            }
            EntryKind::File | EntryKind::Symlink | EntryKind::Other => {
                unlinkat(&slot.directory, slot.name, AtFlags::empty())
                    .map_err(Error::system("removing a name"))?;
                None
            }
        };
        let sync = self.touch(parent.for_removal(), Fault::DeleteSync);
        Ok(Applied::new(Visible::Gone(trash), sync))
    }

    /// Applies [`Change::Directory`](super::batch::Change::Directory).
    pub(super) fn make_directory(&mut self, target: &Destination) -> Result<Applied<'root>, Error> {
        if target.path.is_root() {
            let root = self.inner.metadata(&target.path)?;
            let version = existing_directory(&target.precondition, &root)?;
            return Ok(Applied {
                visible: Visible::Existing(version),
                syncs: [None; 2],
                _new_directories: None,
            });
        }
        let (slot, parent, mut new_directories) = self.target_slot(target)?;
        let visible = match make_at(&slot, &target.precondition)? {
            Some(existing) => Visible::Existing(existing),
            None => {
                new_directories.keep();
                self.made.insert(target.path.clone());
                Visible::Named(Arc::clone(&slot.directory), slot.name.to_owned())
            }
        };
        // Sync for an existing directory too: another request may have created it a moment ago.
        let sync = self.touch(parent, Fault::PlaceSync);
        Ok(Applied::new(visible, sync).with(new_directories))
    }
}

/// Creates a directory at `slot`, or returns the version of an existing one that satisfies
/// `precondition`.
fn make_at(slot: &Slot<'_>, precondition: &Precondition) -> Result<Option<Version>, Error> {
    let existing = match slot.metadata()? {
        Some(metadata) => metadata,
        None => {
            require(precondition, None)?;
            let mode = Mode::from_raw_mode(DIRECTORY_MODE);
            match mkdirat(&slot.directory, slot.name, mode) {
                Ok(()) => return Ok(None),
                // Another program, which doesn't use our locks, created the name meanwhile.
                Err(Errno::EXIST) => slot.metadata()?.ok_or(Error::Conflict)?,
                Err(errno) => return Err(Error::system("creating a directory")(errno)),
            }
        }
    };
    existing_directory(precondition, &existing).map(Some)
}

/// Returns the version of what has the name of a wanted directory, if that is a directory.
fn existing_directory(precondition: &Precondition, metadata: &Metadata) -> Result<Version, Error> {
    require(precondition, Some(metadata))?;
    match metadata.kind {
        _ if metadata.is_foreign => Err(Error::OtherFileSystem),
        EntryKind::Directory => Ok(metadata.version()),
        EntryKind::File | EntryKind::Symlink | EntryKind::Other => Err(Error::Exists),
    }
}

/// Checks that a moved file or directory may take the name that `replaced` has.
fn require_target(
    moved: &Metadata,
    target: &Precondition,
    replaced: Option<&Metadata>,
) -> Result<(), Error> {
    match replaced {
        Some(_) if moved.kind == EntryKind::Directory => Err(Error::Exists),
        _ => require_replaceable(target, replaced),
    }
}

/// Checks that no other file system is mounted on the name.
fn require_movable(metadata: &Metadata) -> Result<(), Error> {
    if metadata.is_foreign {
        return Err(Error::OtherFileSystem);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use quire_shared::ErrorCode;

    use super::super::Parents;
    use super::super::fixture::{StoreFixture, code, path};
    use super::*;

    const ANY: Precondition = Precondition::Any;
    const ABSENT: Precondition = Precondition::Absent;

    fn rename(
        fixture: &StoreFixture,
        from: &str,
        to: &str,
        target: &Precondition,
    ) -> Result<Version, Error> {
        fixture.root.rename(&path(from), &path(to), &ANY, target)
    }

    #[test]
    fn a_file_gets_a_new_name_and_version() {
        let fixture = StoreFixture::new();
        fixture.write("d/a", "x");
        let before = fixture.version("d/a");
        let after = rename(&fixture, "d/a", "b", &ABSENT).unwrap();
        assert!(!fixture.exists("d/a"));
        assert_eq!(fixture.read("b"), "x");
        assert_eq!(after, fixture.version("b"));
        assert_ne!(after, before);
        assert_eq!(
            code(rename(&fixture, "d/a", "c", &ANY)),
            ErrorCode::NOT_FOUND
        );
    }

    #[test]
    fn preconditions_hold_for_both_names() {
        let fixture = StoreFixture::new();
        fixture.write("a", "new");
        fixture.write("b", "old");
        assert_eq!(code(rename(&fixture, "a", "b", &ABSENT)), ErrorCode::EXISTS);
        let of_a = Precondition::Match(fixture.version("a"));
        let of_b = Precondition::Match(fixture.version("b"));
        let a = path("a");
        let b = path("b");
        let root = &fixture.root;
        assert_eq!(code(root.rename(&a, &b, &of_b, &of_b)), ErrorCode::CONFLICT);
        assert_eq!(code(root.rename(&a, &b, &of_a, &of_a)), ErrorCode::CONFLICT);
        assert_eq!(fixture.read("b"), "old");
        root.rename(&a, &b, &of_a, &of_b).unwrap();
        assert_eq!(fixture.read("b"), "new");
    }

    #[test]
    fn renaming_a_name_to_itself_changes_nothing() {
        let fixture = StoreFixture::new();
        fixture.write("a", "x");
        let before = fixture.version("a");
        assert_eq!(rename(&fixture, "a", "a", &ANY).unwrap(), before);
        assert_eq!(code(rename(&fixture, "a", "a", &ABSENT)), ErrorCode::EXISTS);
        assert_eq!(code(rename(&fixture, "b", "b", &ANY)), ErrorCode::NOT_FOUND);
    }

    #[test]
    fn renaming_onto_a_hard_link_of_the_same_file_removes_the_old_name() {
        let fixture = StoreFixture::new();
        fixture.write("a", "x");
        std::fs::hard_link(fixture.local("a"), fixture.local("b")).unwrap();
        assert_eq!(code(rename(&fixture, "a", "b", &ABSENT)), ErrorCode::EXISTS);
        let version = rename(&fixture, "a", "b", &ANY).unwrap();
        assert!(!fixture.exists("a"));
        assert_eq!(fixture.version("b"), version);
    }

    #[test]
    fn directories_can_be_renamed_but_replace_nothing() {
        let fixture = StoreFixture::new();
        fixture.write("d/x", "x");
        fixture.write("file", "x");
        std::fs::create_dir(fixture.local("empty")).unwrap();
        assert_eq!(
            code(rename(&fixture, "d", "empty", &ANY)),
            ErrorCode::EXISTS
        );
        assert_eq!(code(rename(&fixture, "d", "file", &ANY)), ErrorCode::EXISTS);
        assert_eq!(
            code(rename(&fixture, "file", "d", &ANY)),
            ErrorCode::IS_DIRECTORY
        );
        assert_eq!(
            code(rename(&fixture, "d", "d/y", &ANY)),
            ErrorCode::INTO_ITSELF
        );
        assert_eq!(
            code(rename(&fixture, "d", "d/y/z", &ANY)),
            ErrorCode::INTO_ITSELF
        );
        assert_eq!(
            code(rename(&fixture, "d/x", "d", &ANY)),
            ErrorCode::IS_DIRECTORY
        );
        assert_eq!(
            code(rename(&fixture, "file", "file/y", &ANY)),
            ErrorCode::NOT_DIRECTORY
        );
        assert_eq!(
            code(rename(&fixture, "", "y", &ANY)),
            ErrorCode::INVALID_PATH
        );
        assert_eq!(
            code(rename(&fixture, "d", "", &ANY)),
            ErrorCode::INVALID_PATH
        );
        rename(&fixture, "d", "empty/e", &ANY).unwrap();
        assert_eq!(fixture.read("empty/e/x"), "x");
    }

    #[test]
    fn deleting_removes_the_name_and_leaves_the_target_of_a_link() {
        let fixture = StoreFixture::new();
        fixture.write("a", "x");
        std::fs::write(fixture.outside("kept"), "x").unwrap();
        symlink(fixture.outside("kept"), fixture.local("link")).unwrap();
        let stale = Precondition::Match(fixture.version("link"));
        let delete =
            |name: &str, precondition| fixture.root.delete(&path(name), false, precondition);
        assert_eq!(code(delete("a", &stale)), ErrorCode::CONFLICT);
        assert!(delete("a", &ANY).unwrap().is_none());
        assert!(delete("link", &stale).unwrap().is_none());
        assert_eq!(code(delete("a", &ANY)), ErrorCode::NOT_FOUND);
        assert_eq!(code(delete("", &ANY)), ErrorCode::INVALID_PATH);
        assert!(!fixture.exists("a") && !fixture.exists("link"));
        assert!(fixture.outside("kept").exists());
    }

    #[test]
    fn creating_an_existing_directory_returns_its_version() {
        let fixture = StoreFixture::new();
        fixture.write("file", "x");
        let make = |name: &str, make_parents, precondition: &Precondition| {
            let parents = if make_parents {
                Parents::MadeBelow(0)
            } else {
                Parents::MustExist
            };
            fixture
                .root
                .make_directory(&path(name), parents, precondition)
        };
        let version = make("d", false, &ABSENT).unwrap();
        assert_eq!(version, fixture.version("d"));
        assert_eq!(make("d", false, &ANY).unwrap(), version);
        assert_eq!(
            make("d", false, &Precondition::Match(version.clone())).unwrap(),
            version
        );
        assert_eq!(code(make("d", false, &ABSENT)), ErrorCode::EXISTS);
        assert_eq!(
            code(make("e", false, &Precondition::Match(version))),
            ErrorCode::CONFLICT
        );
        assert_eq!(code(make("file", false, &ANY)), ErrorCode::EXISTS);
        assert_eq!(code(make("e/f", false, &ANY)), ErrorCode::NOT_FOUND);
        assert_eq!(code(make("", false, &ABSENT)), ErrorCode::EXISTS);
        make("", false, &ANY).unwrap();
        make("e/f/g", true, &ABSENT).unwrap();
        assert!(fixture.local("e/f/g").is_dir());
    }
}
