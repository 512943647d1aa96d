//! Publishing new content under its name, and the preconditions for that.
//!
//! Content is durable before it is published. One rename then makes it visible as a whole. The
//! result waits until the parent directory is durable as well, and every directory created above
//! it.

use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::Precondition;
use rustix::fs::OFlags;

use super::batch::{Applied, Commit, Visible};
use super::faults::Fault;
use super::metadata::Metadata;
use super::permissions::permissions_of;
use super::resolve::require_writable;
use super::root::Root;
use super::staged_file::StagedFile;
use super::{Error, Parents};

/// Target of a change: a name, and the conditions for it.
#[derive(Debug, Clone)]
pub(in crate::files) struct Destination {
    /// The name.
    pub path: RemotePath,
    /// Precondition for the name.
    pub precondition: Precondition,
    /// Policy for missing directories above it.
    pub parents: Parents,
}

impl Root {
    /// Checks what can be checked of a change of `target` before its content has been received.
    ///
    /// # Errors
    /// The errors of a commit, and too little free space for `size` bytes.
    pub(super) fn check(&self, target: &Destination, size: Option<u64>) -> Result<(), Error> {
        let Destination {
            path,
            precondition,
            parents,
        } = target;
        let staging = self.inner.writable()?;
        if path.is_root() {
            return Err(Error::IsDirectory);
        }
        match self.inner.slot(path, OFlags::PATH) {
            Err(Error::NotFound) if *parents != Parents::MustExist => {
                require(precondition, None)?;
                self.inner.could_make_parents(path, *parents)?;
            }
            slot => {
                let slot = slot?;
                require_replaceable(precondition, slot.metadata()?.as_ref())?;
                require_writable(&slot.directory)?;
            }
        }
        size.map_or(Ok(()), |size| staging.require_room(size))
    }
}

impl<'root> Commit<'root> {
    /// Applies [`Change::File`](super::batch::Change::File).
    pub(super) fn publish_file(
        &mut self,
        target: &Destination,
        staged: StagedFile,
    ) -> Result<Applied<'root>, Error> {
        if target.path.is_root() {
            return Err(Error::IsDirectory);
        }
        let (slot, parent, mut new_directories) = self.target_slot(target)?;
        let replaced = slot.metadata()?;
        require_replaceable(&target.precondition, replaced.as_ref())?;
        self.inner.faults.let_others_in();
        let inherited = parent.inherited()?;
        staged.settle_permissions(|given, defaults| {
            let replaced = replaced.as_ref().map(|metadata| (&slot, metadata));
            permissions_of(replaced, inherited, given, defaults)
        })?;
        let file = staged.publish(&slot, &target.precondition)?;
        new_directories.keep();
        let sync = self.touch(parent, Fault::PlaceSync);
        let visible = Visible::Open(Arc::new(file.into()));
        Ok(Applied::new(visible, sync).with(new_directories))
    }
}

/// Checks `precondition` against the metadata of what has the name; `None` if nothing has it.
pub(super) fn require(
    precondition: &Precondition,
    metadata: Option<&Metadata>,
) -> Result<(), Error> {
    match (precondition, metadata) {
        (Precondition::Any, _) | (Precondition::Absent, None) => Ok(()),
        (Precondition::Absent, Some(_)) => Err(Error::Exists),
        (Precondition::Match(version), Some(metadata)) if metadata.version() == *version => Ok(()),
        (Precondition::Match(_), _) => Err(Error::Conflict),
    }
}

/// Checks that a file may take the name: it is unused, or names a file that may be replaced.
pub(super) fn require_replaceable(
    precondition: &Precondition,
    metadata: Option<&Metadata>,
) -> Result<(), Error> {
    require(precondition, metadata)?;
    metadata.map_or(Ok(()), Metadata::require_file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use quire_shared::ErrorCode;

    use super::super::fixture::{StoreFixture, code, path};
    use super::super::new_directories::NewDirectories;
    use super::*;

    const ANY: Precondition = Precondition::Any;
    const ABSENT: Precondition = Precondition::Absent;

    #[test]
    fn a_name_that_must_be_absent_is_never_replaced() {
        let fixture = StoreFixture::new();
        fixture.put("a", "first", &ABSENT).unwrap();
        assert_eq!(code(fixture.put("a", "second", &ABSENT)), ErrorCode::EXISTS);
        assert_eq!(fixture.read("a"), "first");
        assert_eq!(fixture.staged_count(), 0);
    }

    #[test]
    fn a_file_created_after_the_check_is_not_replaced() {
        let fixture = StoreFixture::new();
        let staged = fixture.staged("late");
        let to = path("a");
        let slot = fixture.root.inner.slot(&to, OFlags::RDONLY).unwrap();
        fixture.write("a", "first");
        assert_eq!(code(staged.publish(&slot, &ABSENT)), ErrorCode::EXISTS);
        assert_eq!(fixture.read("a"), "first");
        assert_eq!(fixture.staged_count(), 0);
    }

    #[test]
    fn a_version_matches_until_the_next_change() {
        let fixture = StoreFixture::new();
        let first = fixture.put("a", "first", &ANY).unwrap();
        assert_eq!(
            first,
            fixture.version("a"),
            "the version returned is the one published"
        );
        let matching = Precondition::Match(first);
        let second = fixture.put("a", "second", &matching).unwrap();
        assert_eq!(
            code(fixture.put("a", "third", &matching)),
            ErrorCode::CONFLICT
        );
        assert_eq!(fixture.read("a"), "second");
        std::fs::remove_file(fixture.local("a")).unwrap();
        let matching = Precondition::Match(second);
        assert_eq!(
            code(fixture.put("a", "fourth", &matching)),
            ErrorCode::CONFLICT
        );
        assert!(!fixture.exists("a"));
    }

    #[test]
    fn only_files_are_replaced() {
        let fixture = StoreFixture::new();
        std::fs::create_dir(fixture.local("d")).unwrap();
        symlink("x", fixture.local("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(fixture.local("socket")).unwrap();
        let put = |name| code(fixture.put(name, "x", &ANY));
        assert_eq!(put("d"), ErrorCode::IS_DIRECTORY);
        assert_eq!(put(""), ErrorCode::IS_DIRECTORY);
        assert_eq!(put("link"), ErrorCode::SPECIAL_FILE);
        assert_eq!(put("socket"), ErrorCode::SPECIAL_FILE);
        assert_eq!(put("missing/a"), ErrorCode::NOT_FOUND);
        assert_eq!(put("link/a"), ErrorCode::NOT_DIRECTORY);
        assert_eq!(fixture.staged_count(), 0);
    }

    #[test]
    fn missing_parents_are_created_and_removed_again_if_unused() {
        let fixture = StoreFixture::new();
        fixture.write("file", "x");
        let publish = |name: &str, precondition: &Precondition| {
            let staged = fixture.staged("x");
            fixture
                .root
                .publish(staged, &path(name), precondition, Parents::MadeBelow(0))
        };
        publish("a/b/c", &ABSENT).unwrap();
        assert_eq!(fixture.read("a/b/c"), "x");
        assert_eq!(code(publish("file/b/c", &ANY)), ErrorCode::NOT_DIRECTORY);
        let matching = Precondition::Match(fixture.version("file"));
        assert_eq!(code(publish("n/b/c", &matching)), ErrorCode::CONFLICT);
        assert!(!fixture.exists("n"));
        let mut new_directories = NewDirectories::new(&fixture.root.inner);
        let to = path("m/n/o");
        fixture
            .root
            .inner
            .slot_making_parents(&to, Parents::MadeBelow(0), &mut new_directories)
            .unwrap();
        assert!(fixture.exists("m/n"));
        drop(new_directories);
        assert!(!fixture.exists("m"));
    }

    #[test]
    fn parents_are_created_only_below_the_allowed_depth() {
        let fixture = StoreFixture::new();
        fixture.write("d/a", "x");
        for (name, depth, is_created) in [
            ("d/e/f", 1, true),
            ("g/h/i", 0, true),
            ("j/k/l", 1, false),
            ("d/m/n/o", 2, false),
            ("d/e/p/q", 2, true),
        ] {
            let to = path(name);
            let parents = Parents::MadeBelow(depth);
            let checked = fixture.root.check_put(&to, &ANY, parents, None);
            assert_eq!(checked.is_ok(), is_created, "{name}");
            let staged = fixture.staged("x");
            let published = fixture.root.publish(staged, &to, &ANY, parents);
            assert_eq!(published.is_ok(), is_created, "{name}");
            let created = fixture.root.make_directory(&to, parents, &ANY);
            let expected = if is_created {
                ErrorCode::EXISTS
            } else {
                ErrorCode::NOT_FOUND
            };
            assert_eq!(code(created), expected, "{name}");
        }
        assert!(!fixture.exists("j") && !fixture.exists("d/m"));
    }

    #[test]
    fn a_put_is_refused_before_its_content_is_received() {
        let fixture = StoreFixture::new();
        fixture.write("d/a", "x");
        let check = |name: &str, precondition: &Precondition, make_parents| {
            let parents = if make_parents {
                Parents::MadeBelow(0)
            } else {
                Parents::MustExist
            };
            fixture
                .root
                .check_put(&path(name), precondition, parents, Some(1))
        };
        check("d/a", &ANY, false).unwrap();
        check("d/b", &ABSENT, false).unwrap();
        check("e/f/g", &ABSENT, true).unwrap();
        assert!(!fixture.exists("e"), "checking creates nothing");
        assert_eq!(code(check("d/a", &ABSENT, false)), ErrorCode::EXISTS);
        assert_eq!(code(check("d", &ANY, false)), ErrorCode::IS_DIRECTORY);
        assert_eq!(code(check("", &ANY, false)), ErrorCode::IS_DIRECTORY);
        assert_eq!(code(check("e/f/g", &ANY, false)), ErrorCode::NOT_FOUND);
        assert_eq!(code(check("d/a/g", &ANY, true)), ErrorCode::NOT_DIRECTORY);
        let matching = Precondition::Match(fixture.version("d"));
        assert_eq!(code(check("d/a", &matching, false)), ErrorCode::CONFLICT);
        assert_eq!(code(check("e/f", &matching, true)), ErrorCode::CONFLICT);
        let huge = fixture
            .root
            .check_put(&path("b"), &ANY, Parents::MustExist, Some(u64::MAX));
        assert_eq!(code(huge), ErrorCode::NO_SPACE);
    }

    #[test]
    fn concurrent_puts_create_the_same_parents() {
        let fixture = StoreFixture::new();
        std::thread::scope(|scope| {
            for number in 0..16 {
                let fixture = &fixture;
                scope.spawn(move || {
                    let to = path(&format!("a/b/{}/{number}", number % 3));
                    let staged = fixture.staged("x");
                    fixture
                        .root
                        .publish(staged, &to, &ABSENT, Parents::MadeBelow(0))
                        .unwrap();
                });
            }
        });
        for number in 0..16 {
            assert_eq!(fixture.read(&format!("a/b/{}/{number}", number % 3)), "x");
        }
    }
}
