//! Directories made on the way to something, until their own names are durable.
//!
//! They count as unsynced for everybody, so that nobody's change below them is acknowledged before
//! a power cut would leave them where they are.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quire_shared::{Name, RemotePath};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, unlinkat};
use rustix::io::Errno;

use super::Inner;
use super::metadata::FileId;
use super::resolve::{DIRECTORY_MODE, Place};
use crate::error::RequestError;
use crate::store::faults::Fault;

impl Inner {
    /// The directories in which those on the way to `path` were just made, by this request or by
    /// others. They are opened before the change at `path` becomes visible, because nothing may fail
    /// after that but the syncs.
    pub(super) fn unsynced_above(&self, path: &RemotePath) -> Result<UnsyncedAbove, RequestError> {
        let (_, parents) = path.names().split_last().ok_or(RequestError::RootItself)?;
        self.unsynced_on_the_way(parents)
    }

    /// The same for changes in the directory to which `names` lead.
    pub(super) fn unsynced_on_the_way(
        &self,
        names: &[Name],
    ) -> Result<UnsyncedAbove, RequestError> {
        let mut above = UnsyncedAbove(Vec::new());
        if self.unsynced.lock().is_empty() {
            return Ok(above);
        }
        let (mut directory, mut id) = self.directory(&RemotePath::ROOT, OFlags::RDONLY)?;
        for name in names {
            let (child, child_id) = self.child(&directory, name)?;
            let is_unsynced = self.unsynced.lock().contains(&child_id);
            if is_unsynced {
                above.0.push((directory, id));
            }
            (directory, id) = (child, child_id);
        }
        Ok(above)
    }

    /// Makes a change at `place` durable, and the directories above it that were just made.
    pub(super) fn settle(
        &self,
        place: &Place<'_>,
        above: &UnsyncedAbove,
    ) -> Result<(), RequestError> {
        self.settle_directory(&place.directory, place.directory_id, above)
    }

    /// The same for all changes in a directory.
    pub(super) fn settle_directory(
        &self,
        directory: &OwnedFd,
        id: FileId,
        above: &UnsyncedAbove,
    ) -> Result<(), RequestError> {
        self.sync(Fault::PlaceSync, directory, id)?;
        for (directory, id) in &above.0 {
            self.sync(Fault::ParentSync, directory, *id)?;
        }
        Ok(())
    }
}

/// Directories to sync once a change further down is visible.
#[derive(Debug)]
pub(super) struct UnsyncedAbove(Vec<(OwnedFd, FileId)>);

/// Directories whose entry in their parent may not be durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced(Mutex<HashSet<FileId>>);

impl Unsynced {
    fn lock(&self) -> MutexGuard<'_, HashSet<FileId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directories that one request made. When dropped they are removed unless the request came to
/// use them; either way they don't count as unsynced any more.
#[derive(Debug)]
pub(super) struct MadeDirectories<'root> {
    root: &'root Inner,
    is_used: bool,
    /// Outermost first: the parent, the name in it, and what was made.
    made: Vec<(OwnedFd, String, FileId)>,
}

impl<'root> MadeDirectories<'root> {
    pub(super) fn new(root: &'root Inner) -> Self {
        Self {
            root,
            is_used: false,
            made: Vec::new(),
        }
    }

    /// Keeps the directories: something was put into the innermost.
    pub(super) fn keep(&mut self) {
        self.is_used = true;
    }

    pub(super) fn make(
        &mut self,
        parent: OwnedFd,
        name: &Name,
    ) -> Result<(OwnedFd, FileId), RequestError> {
        // Held until the new directory is among the unsynced: who finds it, finds it there.
        let mut unsynced = self.root.unsynced.lock();
        match mkdirat(&parent, name.as_str(), Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.root.child(&parent, name),
            Err(errno) => return Err(RequestError::system("making a directory")(errno)),
        }
        let (child, id) = match self.root.child(&parent, name) {
            Ok(made) => made,
            Err(error) => {
                // Nobody else has come to use it: its name is a moment old.
                let _ = unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR);
                return Err(error);
            }
        };
        unsynced.insert(id);
        drop(unsynced);
        self.made.push((parent, name.as_str().to_owned(), id));
        Ok((child, id))
    }
}

impl Drop for MadeDirectories<'_> {
    fn drop(&mut self) {
        for (parent, name, id) in self.made.drain(..).rev() {
            // Fails if somebody else uses the directory already, which then has to stay, and stays
            // among the unsynced: nobody has made its name durable.
            let is_done = self.is_used || unlinkat(&parent, name, AtFlags::REMOVEDIR).is_ok();
            if is_done {
                self.root.unsynced.lock().remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quire_shared::protocol::Precondition;

    use super::super::fixture::{Fixture, path};
    use super::super::resolve::Parents;
    use super::*;

    #[test]
    fn a_new_directory_that_others_use_stays_unsynced_when_its_maker_fails() {
        let fixture = Fixture::new();
        let inner = &fixture.root.inner;
        let (used, unused) = (path("used/x"), path("unused/x"));
        let mut made = MadeDirectories::new(inner);
        inner
            .place_making(&used, Parents::MadeBelow(0), &mut made)
            .unwrap();
        inner
            .place_making(&unused, Parents::MadeBelow(0), &mut made)
            .unwrap();
        fixture.put("used/other", "x", &Precondition::Any).unwrap();
        drop(made);
        assert!(fixture.exists("used") && !fixture.exists("unused"));
        // Whoever comes next has to make its name durable.
        assert_eq!(inner.unsynced_above(&used).unwrap().0.len(), 1);
        assert_eq!(inner.unsynced.lock().len(), 1);
    }
}
