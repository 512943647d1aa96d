//! Symbolic links, and further names of a file (hard links).
//!
//! Both are made in the staging directory first, and get their names by a rename: so they replace
//! what has the name in one step, and only as the precondition says. Symbolic links are never
//! followed, neither here nor anywhere else in the store.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::{EntryKind, LinkTarget, Precondition, Time};
use rustix::fs::{AtFlags, OFlags, linkat, symlinkat, utimensat};
use rustix::io::Errno;

use super::Error;
use super::attributes::times_of;
use super::batch::{Applied, Commit, Visible};
use super::faults::Fault;
use super::metadata::Metadata;
use super::publish::{Destination, require, require_replaceable};
use super::resolve::open_beneath;
use super::staging::StagedEntry;

impl<'root> Commit<'root> {
    /// Applies [`Change::Symlink`](super::batch::Change::Symlink).
    pub(super) fn make_symlink(
        &mut self,
        target: &Destination,
        text: &LinkTarget,
        modified: Option<Time>,
    ) -> Result<Applied<'root>, Error> {
        let Some((_, above)) = target.path.names().split_last() else {
            return Err(Error::IsDirectory);
        };
        // The directories above it are no links, as this store opens no path through one.
        if !text.stays_within(above.len()) {
            return Err(Error::LeadsOut);
        }
        let staging = self.inner.writable()?;
        let (slot, parent, mut new_directories) = self.target_slot(target)?;
        let found = slot.metadata()?;
        require_link_replaceable(&target.precondition, found.as_ref())?;
        self.inner.faults.let_others_in();
        let name = staging.new_name()?;
        let creating = Error::system("creating a symbolic link");
        symlinkat(
            OsStr::from_bytes(text.as_bytes()),
            &staging.directory,
            &*name,
        )
        .map_err(creating)?;
        let entry = StagedEntry::new(Arc::clone(&staging), name);
        if let Some(modified) = modified {
            let (times, flags) = (times_of(modified), AtFlags::SYMLINK_NOFOLLOW);
            // A time that the file system doesn't have is no reason to go without the link.
            let _ = utimensat(&staging.directory, &*entry.name, &times, flags);
        }
        entry.publish(&slot, &target.precondition)?;
        new_directories.keep();
        // A link can't be synced itself. It is made before the rename in the same file system, so
        // that the sync of the directory, which makes the one durable, makes the other so.
        let visible = Visible::Named(Arc::clone(&slot.directory), slot.name.to_owned());
        let sync = self.touch(parent, Fault::PlaceSync);
        Ok(Applied::new(visible, sync).with(new_directories))
    }

    /// Applies [`Change::Link`](super::batch::Change::Link).
    pub(super) fn link(
        &mut self,
        (from, source): (&RemotePath, &Precondition),
        target: &Destination,
    ) -> Result<Applied<'root>, Error> {
        if target.path.is_root() {
            return Err(Error::IsDirectory);
        }
        let (original, _) = self.existing_slot(from)?;
        let metadata = original.metadata()?.ok_or(Error::NotFound)?;
        require(source, Some(&metadata))?;
        match metadata.kind {
            EntryKind::Directory if !metadata.is_foreign => return Err(Error::NotEmpty),
            _ => metadata.require_file()?,
        }
        let (slot, parent, mut new_directories) = self.target_slot(target)?;
        let found = slot.metadata()?;
        require_replaceable(&target.precondition, found.as_ref())?;
        self.inner.faults.let_others_in();
        // rename(2) of one name of a file to another does nothing and leaves both.
        if found.is_none_or(|found| found.id != metadata.id) {
            let staging = self.inner.writable()?;
            let name = staging.new_name()?;
            // Without AT_SYMLINK_FOLLOW: whatever has the name gets the other name itself.
            let flags = AtFlags::empty();
            linkat(
                &original.directory,
                original.name,
                &staging.directory,
                &*name,
                flags,
            )
            .map_err(linking)?;
            let entry = StagedEntry::new(Arc::clone(&staging), name);
            let opening = || Error::system("opening a linked file");
            let access = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
            let file = open_beneath(&staging.directory, &*entry.name, access).map_err(opening())?;
            // Another program, which doesn't use our locks, may have put something else there.
            if Metadata::of(&file).map_err(opening())?.id != metadata.id {
                return Err(Error::Conflict);
            }
            // It may be a file that another program has written and not synced.
            let synced = self.inner.faults.sync(Fault::FileSync, &file);
            synced.map_err(Error::system("syncing a file"))?;
            entry.publish(&slot, &target.precondition)?;
        }
        new_directories.keep();
        let visible = Visible::Named(Arc::clone(&slot.directory), slot.name.to_owned());
        let sync = self.touch(parent, Fault::PlaceSync);
        Ok(Applied::new(visible, sync).with(new_directories))
    }
}

/// The error of link(2): where the system lets the file have no further name, a copy will do.
fn linking(errno: Errno) -> Error {
    match errno {
        Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV => {
            Error::Unsupported("give a file another name")
        }
        errno => Error::system("giving a file another name")(errno),
    }
}

/// Checks that a symbolic link may take the name: it is unused, or names a file or link.
fn require_link_replaceable(
    precondition: &Precondition,
    metadata: Option<&Metadata>,
) -> Result<(), Error> {
    require(precondition, metadata)?;
    match metadata {
        Some(found) if found.kind == EntryKind::Symlink && !found.is_foreign => Ok(()),
        found => found.map_or(Ok(()), Metadata::require_file),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use quire_shared::ErrorCode;
    use quire_shared::protocol::Version;

    use super::super::batch::Change;
    use super::super::fixture::{StoreFixture, code, path};
    use super::super::{Committed, Parents};
    use super::*;

    const ANY: Precondition = Precondition::Any;
    const ABSENT: Precondition = Precondition::Absent;

    fn commit(fixture: &StoreFixture, change: Change) -> Result<Version, Error> {
        let result: Result<Committed, Error> = fixture.root.commit(vec![change]).remove(0);
        result.map(|committed| committed.version.unwrap())
    }

    fn target(name: &str, precondition: &Precondition) -> Destination {
        Destination {
            path: path(name),
            precondition: precondition.clone(),
            parents: Parents::MadeBelow(0),
        }
    }

    fn make(
        fixture: &StoreFixture,
        name: &str,
        text: &[u8],
        precondition: &Precondition,
    ) -> Result<Version, Error> {
        let change = Change::Symlink {
            target: target(name, precondition),
            text: LinkTarget::new(text).unwrap(),
            modified: Some(Time {
                seconds: 5,
                nanoseconds: 7,
            }),
        };
        commit(fixture, change)
    }

    fn link(
        fixture: &StoreFixture,
        from: &str,
        to: &str,
        precondition: &Precondition,
    ) -> Result<Version, Error> {
        let change = Change::Link {
            from: path(from),
            source: ANY,
            target: target(to, precondition),
        };
        commit(fixture, change)
    }

    // P71
    #[test]
    fn a_link_is_made_with_its_text_and_time_and_not_if_it_leads_out() {
        let fixture = StoreFixture::new();
        let version = make(&fixture, "d/e/link", b"../../x\xff", &ABSENT).unwrap();
        assert_eq!(version, fixture.version("d/e/link"));
        let local = fixture.local("d/e/link");
        let text = std::fs::read_link(&local).unwrap();
        assert_eq!(text.as_os_str().as_bytes(), b"../../x\xff");
        let metadata = std::fs::symlink_metadata(&local).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (5, 7));
        for text in [
            &b"../../../x"[..],
            b"/etc/passwd",
            b"a/../../..",
            b"",
            b"a\0b",
        ] {
            let refused = make(&fixture, "d/e/out", text, &ANY);
            assert_eq!(code(refused), ErrorCode::INVALID_PATH, "{text:?}");
        }
        assert!(std::fs::symlink_metadata(fixture.local("d/e/out")).is_err());
        assert_eq!(fixture.staged_count(), 0);
    }

    // P72
    #[test]
    fn a_link_replaces_files_and_links_as_the_precondition_says_and_never_directories() {
        let fixture = StoreFixture::new();
        fixture.write("f", "x");
        fixture.write("d/f", "x");
        symlink("old", fixture.local("l")).unwrap();
        for name in ["f", "l"] {
            assert_eq!(code(make(&fixture, name, b"a", &ABSENT)), ErrorCode::EXISTS);
            let stale = Precondition::Match(fixture.version("d/f"));
            assert_eq!(
                code(make(&fixture, name, b"a", &stale)),
                ErrorCode::CONFLICT
            );
            let seen = Precondition::Match(fixture.version(name));
            make(&fixture, name, b"a", &seen).unwrap();
            make(&fixture, name, b"b", &ANY).unwrap();
            let text = std::fs::read_link(fixture.local(name)).unwrap();
            assert_eq!(text, OsStr::new("b"));
        }
        assert_eq!(
            code(make(&fixture, "d", b"a", &ANY)),
            ErrorCode::IS_DIRECTORY
        );
        assert_eq!(
            code(make(&fixture, "", b"a", &ANY)),
            ErrorCode::IS_DIRECTORY
        );
        assert_eq!(
            code(make(&fixture, "l/x", b"a", &ANY)),
            ErrorCode::NOT_DIRECTORY
        );
        assert_eq!(fixture.staged_count(), 0);
    }

    // P73
    #[test]
    fn a_file_gets_another_name_under_both_conditions() {
        let fixture = StoreFixture::new();
        fixture.write("a", "x");
        fixture.write("b", "old");
        symlink("a", fixture.local("l")).unwrap();
        let before = fixture.version("a");
        assert_eq!(code(link(&fixture, "a", "b", &ABSENT)), ErrorCode::EXISTS);
        let version = link(&fixture, "a", "b", &ANY).unwrap();
        let inode = |name: &str| std::fs::metadata(fixture.local(name)).unwrap().ino();
        assert_eq!(inode("a"), inode("b"));
        assert_eq!(version, fixture.version("a"), "they are one file");
        assert_ne!(version, before, "its time of change is another");
        let again = link(&fixture, "a", "b", &ANY).unwrap();
        assert_eq!(again, version);
        link(&fixture, "a", "n/e/w", &ABSENT).unwrap();
        assert_eq!(fixture.read("n/e/w"), "x");
        assert_eq!(code(link(&fixture, "n", "c", &ANY)), ErrorCode::NOT_EMPTY);
        assert_eq!(
            code(link(&fixture, "l", "c", &ANY)),
            ErrorCode::SPECIAL_FILE
        );
        assert_eq!(
            code(link(&fixture, "a", "l", &ANY)),
            ErrorCode::SPECIAL_FILE
        );
        assert_eq!(
            code(link(&fixture, "a", "n", &ANY)),
            ErrorCode::IS_DIRECTORY
        );
        assert_eq!(code(link(&fixture, "x", "c", &ANY)), ErrorCode::NOT_FOUND);
        assert_eq!(fixture.staged_count(), 0);
    }
}
