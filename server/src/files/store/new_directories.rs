//! Directories created above the target of a change, until their own names are durable.
//!
//! They are pending for every request, not only for the one that created them. So no change below
//! them is acknowledged while a power cut could still remove them.

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
    /// Opens the parents of the pending directories on the path `names`, which this request or
    /// others created. They are opened before the change becomes visible: after that, nothing may
    /// fail but the syncs.
    pub(super) fn parent_syncs_on(&self, names: &[Name]) -> Result<ParentSyncs, Error> {
        let mut parent_syncs = ParentSyncs::default();
        if self.pending_syncs.lock().is_empty() {
            return Ok(parent_syncs);
        }
        let (mut directory, mut id) = self.directory(&RemotePath::ROOT, OFlags::RDONLY)?;
        for name in names {
            let (child, child_id) = self.child(&directory, name)?;
            let is_pending = self.pending_syncs.lock().contains(&child_id);
            if is_pending {
                parent_syncs.0.push((directory, id));
            }
            directory = child;
            id = child_id;
        }
        Ok(parent_syncs)
    }
}

/// Directories to sync once a change below them is visible.
#[derive(Debug, Default)]
pub(super) struct ParentSyncs(Vec<(OwnedFd, FileId)>);

impl ParentSyncs {
    /// Syncs these directories, which makes the names in them durable.
    pub(super) fn sync(&self, root: &Inner) -> Result<(), Error> {
        for (directory, id) in &self.0 {
            root.sync(Fault::ParentSync, directory, *id)?;
        }
        Ok(())
    }
}

/// Directories whose name in their parent may not be durable yet.
#[derive(Debug, Default)]
pub(super) struct PendingSyncs(Mutex<HashSet<FileId>>);

impl PendingSyncs {
    fn lock(&self) -> MutexGuard<'_, HashSet<FileId>> {
        self.0.lock()
    }
}

/// Directories that one request created. When dropped, they are removed unless the request used
/// them. Used or removed, they are no longer pending.
#[derive(Debug)]
pub(super) struct NewDirectories<'root> {
    root: &'root Inner,
    is_used: bool,
    /// Parent, name and identity of each directory, outermost first.
    created: Vec<(OwnedFd, String, FileId)>,
}

impl<'root> NewDirectories<'root> {
    pub(super) fn new(root: &'root Inner) -> Self {
        Self {
            root,
            is_used: false,
            created: Vec::new(),
        }
    }

    /// Keeps the directories: the innermost has an entry now.
    pub(super) fn keep(&mut self) {
        self.is_used = true;
    }

    /// Creates the directory `name` in `parent`, or opens it if it exists by now.
    pub(super) fn make(
        &mut self,
        parent: OwnedFd,
        name: &Name,
    ) -> Result<(OwnedFd, FileId), Error> {
        // Locked until the new directory is pending: a request that finds it must see that it is.
        let mut pending_syncs = self.root.pending_syncs.lock();
        match mkdirat(&parent, name.as_str(), Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.root.child(&parent, name),
            Err(errno) => return Err(Error::system("creating a directory")(errno)),
        }
        let (child, id) = match self.root.child(&parent, name) {
            Ok(opened) => opened,
            Err(error) => {
                // Fails if another request put an entry into it already.
                let _ = unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR);
                return Err(error);
            }
        };
        pending_syncs.insert(id);
        drop(pending_syncs);
        self.created.push((parent, name.as_str().to_owned(), id));
        Ok((child, id))
    }
}

impl Drop for NewDirectories<'_> {
    fn drop(&mut self) {
        for (parent, name, id) in self.created.drain(..).rev() {
            // Fails if another request uses the directory already. Then it stays, and stays
            // pending, since no sync has made its name durable.
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

    use super::super::Parents;
    use super::super::fixture::{StoreFixture, path};
    use super::*;

    #[test]
    fn a_new_directory_used_by_another_request_stays_pending_when_its_creator_fails() {
        let fixture = StoreFixture::new();
        let inner = &fixture.root.inner;
        let used = path("used/x");
        let unused = path("unused/x");
        let mut new_directories = NewDirectories::new(inner);
        inner
            .slot_making_parents(&used, Parents::MadeBelow(0), &mut new_directories)
            .unwrap();
        inner
            .slot_making_parents(&unused, Parents::MadeBelow(0), &mut new_directories)
            .unwrap();
        fixture.put("used/other", "x", &Precondition::Any).unwrap();
        drop(new_directories);
        assert!(fixture.exists("used") && !fixture.exists("unused"));
        // The next change below it has to make its name durable.
        assert_eq!(
            inner.parent_syncs_on(&used.names()[..1]).unwrap().0.len(),
            1
        );
        assert_eq!(inner.pending_syncs.lock().len(), 1);
    }
}
