//! Giving new content its name, and the conditions for that.
//!
//! Content appears by a rename in one step and whole, after it is durable itself; the result
//! waits until the directory is durable as well, and every directory made on the way.

use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::Precondition;
use rustix::fs::OFlags;

use super::Error;
use super::batch::{Applied, Commit, Visible};
use super::faults::Fault;
use super::metadata::Metadata;
use super::resolve::{Parents, require_writable};
use super::root::Root;
use super::staging::StagedFile;

/// A name for something new, and on which conditions it may have it.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// The name.
    pub path: RemotePath,
    /// What must hold for it.
    pub precondition: Precondition,
    /// Which missing directories above it may be made.
    pub parents: Parents,
}

impl Root {
    /// Refuses new content for `target` as far as that is possible before it has been received.
    ///
    /// # Errors
    /// Those of a commit, and too little space for `size` bytes.
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
    pub(super) fn publish_file(
        &mut self,
        target: &Destination,
        staged: StagedFile,
    ) -> Result<Applied<'root>, Error> {
        if target.path.is_root() {
            return Err(Error::IsDirectory);
        }
        let (slot, parent, mut made) = self.target_slot(target)?;
        require_replaceable(&target.precondition, slot.metadata()?.as_ref())?;
        self.inner.faults.let_others_in();
        let file = staged.publish(&slot, &target.precondition)?;
        made.keep();
        let sync = self.touch(parent, Fault::PlaceSync);
        let visible = Visible::Open(Arc::new(file.into()));
        Ok(Applied::new(visible, sync).with(made))
    }
}

/// Checks `precondition` against what has the name.
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

/// Checks that a file may take the name: nobody has it, or a file that may be replaced.
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
    fn the_kernel_refuses_what_came_after_the_look() {
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
            "the version answered is the one published"
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
    fn parents_are_made_on_demand_and_not_left_over() {
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
        let mut made = NewDirectories::new(&fixture.root.inner);
        let to = path("m/n/o");
        fixture
            .root
            .inner
            .slot_making_parents(&to, Parents::MadeBelow(0), &mut made)
            .unwrap();
        assert!(fixture.exists("m/n"));
        drop(made);
        assert!(!fixture.exists("m"));
    }

    #[test]
    fn directories_are_made_only_as_far_up_as_allowed() {
        let fixture = StoreFixture::new();
        fixture.write("d/a", "x");
        for (name, depth, is_made) in [
            ("d/e/f", 1, true),
            ("g/h/i", 0, true),
            ("j/k/l", 1, false),
            ("d/m/n/o", 2, false),
            ("d/e/p/q", 2, true),
        ] {
            let (to, parents) = (path(name), Parents::MadeBelow(depth));
            let checked = fixture.root.check_put(&to, &ANY, parents, None);
            assert_eq!(checked.is_ok(), is_made, "{name}");
            let staged = fixture.staged("x");
            let published = fixture.root.publish(staged, &to, &ANY, parents);
            assert_eq!(published.is_ok(), is_made, "{name}");
            let made = fixture.root.make_directory(&to, parents, &ANY);
            let expected = if is_made {
                ErrorCode::EXISTS
            } else {
                ErrorCode::NOT_FOUND
            };
            assert_eq!(code(made), expected, "{name}");
        }
        assert!(!fixture.exists("j") && !fixture.exists("d/m"));
    }

    #[test]
    fn a_put_can_be_refused_from_its_header() {
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
        assert!(!fixture.exists("e"), "checking makes nothing");
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
    fn many_at_once_publish_below_parents_they_all_make() {
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
