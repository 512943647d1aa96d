//! New names, new directories, and the end of things.
//!
//! Each change is one system call on (directory, name) pairs; the answer waits until the
//! directories are durable. The caller holds the locks of the paths.

use quire_shared::RemotePath;
use quire_shared::protocol::{EntryKind, Precondition, Version};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, unlinkat};
use rustix::io::Errno;

use super::Root;
use super::metadata::Facts;
use super::new_directories::MadeDirectories;
use super::publish::{require, require_replaceable};
use super::resolve::{DIRECTORY_MODE, Parents, Place};
use super::staging::rename;
use super::trash::Discarded;
use crate::error::RequestError;
use crate::store::faults::Fault;

impl Root {
    /// Gives what has the name `from` the name `to`, where `source` and `target` must hold. A file
    /// replaces a file if `target` allows it; a directory replaces nothing, not even an empty one.
    /// Symbolic links and special files are renamed like files, never followed.
    ///
    /// # Errors
    /// If a precondition doesn't hold, the names don't fit together, or the system fails. Nothing
    /// has changed then, but for [`RequestError::NotDurable`].
    pub fn rename(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        source: &Precondition,
        target: &Precondition,
    ) -> Result<Version, RequestError> {
        self.inner.writable()?;
        if to.is_root() {
            return Err(RequestError::RootItself);
        }
        let old = self.inner.place(from, OFlags::RDONLY)?;
        let moved = old.facts()?.ok_or(RequestError::NotFound)?;
        require(source, Some(&moved))?;
        require_movable(&moved)?;
        if from == to {
            require(target, Some(&moved))?;
            return Ok(moved.version());
        }
        if from.contains(to) && moved.kind == EntryKind::Directory {
            return Err(RequestError::IntoItself);
        }
        let new = self.inner.place(to, OFlags::RDONLY)?;
        let replaced = new.facts()?;
        require_target(&moved, target, replaced.as_ref())?;
        let above = self.inner.unsynced_above(to)?;
        if replaced.is_some_and(|replaced| replaced.id == moved.id) {
            // Two names of one file: rename(2) would say yes and leave both.
            unlinkat(&old.directory, old.name, AtFlags::empty())
                .map_err(RequestError::system("removing the old of two names"))?;
        } else {
            rename(&old.directory, old.name, &new, target)?;
        }
        self.inner.settle(&new, &above)?;
        if old.directory_id != new.directory_id {
            let site = Fault::OldDirectorySync;
            self.inner.sync(site, &old.directory, old.directory_id)?;
        }
        self.inner.version_at(&new)
    }

    /// Removes what has the name `path`: a file, symbolic link or special file by its name alone,
    /// a directory with all that is in it if `recursive`. Without that even an empty directory is
    /// refused, as rm(1) does. What is left to do for a directory is returned: it has lost its
    /// name for good, but still takes up space.
    ///
    /// # Errors
    /// If there is nothing, `precondition` doesn't hold, or the system fails. Nothing has changed
    /// then, but for [`RequestError::NotDurable`].
    pub fn delete(
        &self,
        path: &RemotePath,
        recursive: bool,
        precondition: &Precondition,
    ) -> Result<Option<Discarded>, RequestError> {
        let staging = self.inner.writable()?;
        let place = self.inner.place(path, OFlags::RDONLY)?;
        let facts = place.facts()?.ok_or(RequestError::NotFound)?;
        require(precondition, Some(&facts))?;
        require_movable(&facts)?;
        let discarded = match facts.kind {
            EntryKind::Directory if !recursive => return Err(RequestError::NotEmpty),
            EntryKind::Directory => Some(Discarded::take(&place, staging)?),
            EntryKind::File | EntryKind::Symlink | EntryKind::Other => {
                unlinkat(&place.directory, place.name, AtFlags::empty())
                    .map_err(RequestError::system("removing a name"))?;
                None
            }
        };
        let site = Fault::DeleteSync;
        self.inner
            .sync(site, &place.directory, place.directory_id)?;
        Ok(discarded)
    }

    /// Makes a directory at `path`. With [`Precondition::Any`], and with the version that it has, a
    /// directory that is there already is as good as a new one.
    ///
    /// # Errors
    /// If `precondition` doesn't hold, something else has the name, or the system fails. Nothing
    /// has changed then, but for [`RequestError::NotDurable`].
    pub fn make_directory(
        &self,
        path: &RemotePath,
        parents: Parents,
        precondition: &Precondition,
    ) -> Result<Version, RequestError> {
        self.inner.writable()?;
        if path.is_root() {
            return existing_directory(precondition, &self.inner.facts(path)?);
        }
        let mut made = MadeDirectories::new(&self.inner);
        let place = self
            .inner
            .place_to_change(path, parents, precondition, &mut made)?;
        let above = self.inner.unsynced_above(path)?;
        if let Some(existing) = make_at(&place, precondition)? {
            return Ok(existing);
        }
        made.keep();
        self.inner.settle(&place, &above)?;
        self.inner.version_at(&place)
    }
}

/// Makes a directory at `place`, or gives the version of one that is there and as good.
pub(super) fn make_at(
    place: &Place<'_>,
    precondition: &Precondition,
) -> Result<Option<Version>, RequestError> {
    let existing = match place.facts()? {
        Some(facts) => facts,
        None => {
            require(precondition, None)?;
            let mode = Mode::from_raw_mode(DIRECTORY_MODE);
            match mkdirat(&place.directory, place.name, mode) {
                Ok(()) => return Ok(None),
                // A program that doesn't know our locks was faster.
                Err(Errno::EXIST) => place.facts()?.ok_or(RequestError::Conflict)?,
                Err(errno) => return Err(RequestError::system("making a directory")(errno)),
            }
        }
    };
    existing_directory(precondition, &existing).map(Some)
}

/// The answer to who wants a directory where there is something already.
fn existing_directory(precondition: &Precondition, facts: &Facts) -> Result<Version, RequestError> {
    require(precondition, Some(facts))?;
    match facts.kind {
        _ if facts.elsewhere => Err(RequestError::OtherFileSystem),
        EntryKind::Directory => Ok(facts.version()),
        EntryKind::File | EntryKind::Symlink | EntryKind::Other => Err(RequestError::Exists),
    }
}

/// Checks that what is moved may take the name that `replaced` has.
fn require_target(
    moved: &Facts,
    target: &Precondition,
    replaced: Option<&Facts>,
) -> Result<(), RequestError> {
    match replaced {
        Some(_) if moved.kind == EntryKind::Directory => Err(RequestError::Exists),
        _ => require_replaceable(target, replaced),
    }
}

/// Checks that no other file system hangs on the name.
fn require_movable(facts: &Facts) -> Result<(), RequestError> {
    if facts.elsewhere {
        return Err(RequestError::OtherFileSystem);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use quire_shared::ErrorCode;

    use super::super::fixture::{Fixture, code, path};
    use super::*;

    const ANY: Precondition = Precondition::Any;
    const ABSENT: Precondition = Precondition::Absent;

    fn rename(
        fixture: &Fixture,
        from: &str,
        to: &str,
        target: &Precondition,
    ) -> Result<Version, RequestError> {
        fixture.root.rename(&path(from), &path(to), &ANY, target)
    }

    #[test]
    fn a_file_gets_a_new_name_and_version() {
        let fixture = Fixture::new();
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
        let fixture = Fixture::new();
        fixture.write("a", "new");
        fixture.write("b", "old");
        assert_eq!(code(rename(&fixture, "a", "b", &ABSENT)), ErrorCode::EXISTS);
        let of_a = Precondition::Match(fixture.version("a"));
        let of_b = Precondition::Match(fixture.version("b"));
        let (a, b) = (path("a"), path("b"));
        let root = &fixture.root;
        assert_eq!(code(root.rename(&a, &b, &of_b, &of_b)), ErrorCode::CONFLICT);
        assert_eq!(code(root.rename(&a, &b, &of_a, &of_a)), ErrorCode::CONFLICT);
        assert_eq!(fixture.read("b"), "old");
        root.rename(&a, &b, &of_a, &of_b).unwrap();
        assert_eq!(fixture.read("b"), "new");
    }

    #[test]
    fn a_name_renamed_to_itself_changes_nothing() {
        let fixture = Fixture::new();
        fixture.write("a", "x");
        let before = fixture.version("a");
        assert_eq!(rename(&fixture, "a", "a", &ANY).unwrap(), before);
        assert_eq!(code(rename(&fixture, "a", "a", &ABSENT)), ErrorCode::EXISTS);
        assert_eq!(code(rename(&fixture, "b", "b", &ANY)), ErrorCode::NOT_FOUND);
    }

    #[test]
    fn the_old_of_two_names_of_one_file_goes() {
        let fixture = Fixture::new();
        fixture.write("a", "x");
        std::fs::hard_link(fixture.local("a"), fixture.local("b")).unwrap();
        assert_eq!(code(rename(&fixture, "a", "b", &ABSENT)), ErrorCode::EXISTS);
        let version = rename(&fixture, "a", "b", &ANY).unwrap();
        assert!(!fixture.exists("a"));
        assert_eq!(fixture.version("b"), version);
    }

    #[test]
    fn directories_move_but_replace_nothing() {
        let fixture = Fixture::new();
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
    fn deleting_takes_the_name_and_not_what_it_points_to() {
        let fixture = Fixture::new();
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
    fn directories_are_made_once() {
        let fixture = Fixture::new();
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
