//! Directories made on the way to something, until their own names are durable.
//!
//! They count as unsynced for everybody, so that nobody's change below them is acknowledged before
//! a power cut would leave them where they are.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use parking_lot::{Mutex, MutexGuard};

use quire_shared::{Name, RemotePath};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, unlinkat};
use rustix::io::Errno;

use super::Error;
use super::faults::Fault;
use super::metadata::FileId;
use super::resolve::DIRECTORY_MODE;
use super::root::Inner;

impl Inner {
    /// The directories on the way to a change in the directory `names` whose own entries were just
    /// made, by this request or by others. They are opened before the change becomes visible,
    /// because nothing may fail after that but the syncs.
    pub(super) fn parent_syncs_on(&self, names: &[Name]) -> Result<ParentSyncs, Error> {
        let mut above = ParentSyncs::default();
        if self.pending_syncs.lock().is_empty() {
            return Ok(above);
        }
        let (mut directory, mut id) = self.directory(&RemotePath::ROOT, OFlags::RDONLY)?;
        for name in names {
            let (child, child_id) = self.child(&directory, name)?;
            let is_pending = self.pending_syncs.lock().contains(&child_id);
            if is_pending {
                above.0.push((directory, id));
            }
            (directory, id) = (child, child_id);
        }
        Ok(above)
    }
}

/// Directories to sync once a change further down is visible.
#[derive(Debug, Default)]
pub(super) struct ParentSyncs(Vec<(OwnedFd, FileId)>);

impl ParentSyncs {
    /// Makes the entries of these directories durable.
    pub(super) fn sync(&self, root: &Inner) -> Result<(), Error> {
        for (directory, id) in &self.0 {
            root.sync(Fault::ParentSync, directory, *id)?;
        }
        Ok(())
    }
}

/// Directories whose entry in their parent may not be durable.
#[derive(Debug, Default)]
pub(super) struct PendingSyncs(Mutex<HashSet<FileId>>);

impl PendingSyncs {
    fn lock(&self) -> MutexGuard<'_, HashSet<FileId>> {
        self.0.lock()
    }
}

/// The directories that one request made. When dropped they are removed unless the request came to
/// use them; either way they don't count as unsynced any more.
#[derive(Debug)]
pub(super) struct NewDirectories<'root> {
    root: &'root Inner,
    is_used: bool,
    /// Outermost first: the parent, the name in it, and what was made.
    made: Vec<(OwnedFd, String, FileId)>,
}

impl<'root> NewDirectories<'root> {
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
    ) -> Result<(OwnedFd, FileId), Error> {
        // Held until the new directory is among the unsynced: who finds it, finds it there.
        let mut pending_syncs = self.root.pending_syncs.lock();
        match mkdirat(&parent, name.as_str(), Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.root.child(&parent, name),
            Err(errno) => return Err(Error::system("making a directory")(errno)),
        }
        let (child, id) = match self.root.child(&parent, name) {
            Ok(made) => made,
            Err(error) => {
                // Nobody else has come to use it: its name is a moment old.
                let _ = unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR);
                return Err(error);
            }
        };
        pending_syncs.insert(id);
        drop(pending_syncs);
        self.made.push((parent, name.as_str().to_owned(), id));
        Ok((child, id))
    }
}

impl Drop for NewDirectories<'_> {
    fn drop(&mut self) {
        for (parent, name, id) in self.made.drain(..).rev() {
            // Fails if somebody else uses the directory already, which then has to stay, and stays
            // among the unsynced: nobody has made its name durable.
            let is_done = self.is_used || unlinkat(&parent, name, AtFlags::REMOVEDIR).is_ok();
            if is_done {
                self.root.pending_syncs.lock().remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quire_shared::protocol::Precondition;

    use super::super::fixture::{StoreFixture, path};
    use super::super::resolve::Parents;
    use super::*;

    #[test]
    fn a_new_directory_that_others_use_stays_unsynced_when_its_maker_fails() {
        let fixture = StoreFixture::new();
        let inner = &fixture.root.inner;
        let (used, unused) = (path("used/x"), path("unused/x"));
        let mut made = NewDirectories::new(inner);
        inner
            .slot_making_parents(&used, Parents::MadeBelow(0), &mut made)
            .unwrap();
        inner
            .slot_making_parents(&unused, Parents::MadeBelow(0), &mut made)
            .unwrap();
        fixture.put("used/other", "x", &Precondition::Any).unwrap();
        drop(made);
        assert!(fixture.exists("used") && !fixture.exists("unused"));
        // Whoever comes next has to make its name durable.
        assert_eq!(
            inner.parent_syncs_on(&used.names()[..1]).unwrap().0.len(),
            1
        );
        assert_eq!(inner.pending_syncs.lock().len(), 1);
    }
}
