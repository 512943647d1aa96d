//! Commit of a batch of changes, which share the syncs that make them durable. It is the only way
//! to change the served directory; a single change is a batch of one.
//!
//! Each change is applied by itself, and fails alone. Then each changed directory is synced once,
//! and only then does any change have a result. The caller holds the locks.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use quire_shared::protocol::{LinkTarget, Precondition, Time, Version};
use quire_shared::{Name, RemotePath};

use super::copy::StagedCopy;
use super::faults::Fault;
use super::metadata::FileId;
use super::new_directories::{NewDirectories, ParentSyncs};
use super::permissions::{GivenAttributes, GivenDetails, Inherited};
use super::publish::Destination;
use super::resolve::Slot;
use super::root::{Inner, Root};
use super::staged_file::StagedFile;
use super::trash::Trash;
use super::{Error, Parents};

/// A change of the served directory.
#[derive(Debug)]
pub(in crate::files) enum Change {
    /// Publishes staged content, which is durable already, under a name. An existing file is
    /// replaced if the precondition allows it.
    File {
        /// The name.
        target: Destination,
        /// The content.
        staged: StagedFile,
    },
    /// Publishes a staged copy under a name. A copied file replaces a file if the precondition
    /// allows it; a copied directory replaces nothing.
    Copy {
        /// The name.
        target: Destination,
        /// The copy.
        staged: StagedCopy,
    },
    /// Makes a symbolic link. An existing file or link is replaced if the precondition allows it.
    Symlink {
        /// The name.
        target: Destination,
        /// What the link says.
        text: LinkTarget,
        /// The modification time of the link itself.
        modified: Option<Time>,
    },
    /// Gives a file another name. An existing file is replaced if the precondition allows it.
    Link {
        /// The name that the file has.
        from: RemotePath,
        /// Precondition for that name.
        source: Precondition,
        /// The other name.
        target: Destination,
    },
    /// Creates a directory. An existing directory counts as success under [`Precondition::Any`],
    /// and under [`Precondition::Match`] with its version.
    Directory {
        /// The directory.
        target: Destination,
    },
    /// Sets the modification time, permissions and details of a directory, where given.
    Attributes {
        /// The directory.
        path: RemotePath,
        /// Its attributes.
        given: GivenAttributes,
        /// Whether it was made for this: only then it gets permissions that aren't exact. A
        /// directory that was made earlier in the same batch counts as well.
        is_new: bool,
    },
    /// Sets the permissions of a file or directory, and perhaps its details.
    Chmod {
        /// The name.
        path: RemotePath,
        /// The permission bits.
        mode: u32,
        /// Details to set as well.
        details: GivenDetails,
        /// Precondition for the name.
        precondition: Precondition,
    },
    /// Renames a file or directory. A file replaces a file if `target` allows it; a directory
    /// replaces nothing, not even an empty directory. Symbolic links and special files are renamed
    /// like files, never followed.
    Rename {
        /// The old name.
        from: RemotePath,
        /// The new name.
        to: RemotePath,
        /// Precondition for the old name.
        source: Precondition,
        /// Precondition for the new name.
        target: Precondition,
    },
    /// Removes a file, symbolic link or special file; with `recursive` also a directory and its
    /// content. Without `recursive` even an empty directory is refused, as by rm(1).
    Delete {
        /// The name.
        path: RemotePath,
        /// Whether a directory may be removed.
        recursive: bool,
        /// Precondition for the name.
        precondition: Precondition,
    },
}

/// A change that is durable.
#[derive(Debug)]
pub struct Committed {
    /// Version that the name has now; `None` after a deletion.
    pub version: Option<Version>,
    /// Whether the change asked for a directory that existed already.
    pub existed: bool,
    /// Deleted directory whose content still takes up space.
    pub(in crate::files) trash: Option<Trash>,
}

impl Root {
    /// Applies `changes` one after another, syncs, and returns a result for each. A change that
    /// succeeded is durable. One that failed has changed nothing, except with
    /// [`Error::NotDurable`].
    ///
    /// Other programs don't use the locks of paths. Against them `Absent` still holds, because the
    /// kernel checks it; `Match` leaves a window between the check and the rename.
    pub(super) fn commit(&self, changes: Vec<Change>) -> Vec<Result<Committed, Error>> {
        let mut commit = Commit {
            inner: &self.inner,
            parent: None,
            changed: Vec::new(),
            made: HashSet::new(),
        };
        let changes = changes.into_iter();
        let applied: Vec<_> = changes.map(|change| commit.apply(change)).collect();
        commit.sync();
        let applied = applied.into_iter();
        let results = applied.map(|applied| commit.result(applied?));
        let results = results.map(|result| result.map_err(|error| self.inner.blame_root(error)));
        results.collect()
    }
}

/// Commit in progress.
pub(super) struct Commit<'root> {
    pub(super) inner: &'root Inner,
    /// Directory of the last change, kept open because the next change is mostly in it too.
    parent: Option<OpenParent>,
    changed: Vec<ChangedDirectory>,
    /// Directories made in this batch.
    pub(super) made: HashSet<RemotePath>,
}

/// Directory that holds a changed name, open so that it can be synced.
#[derive(Clone)]
pub(super) struct OpenParent {
    pub(super) names: Vec<Name>,
    pub(super) directory: Arc<OwnedFd>,
    pub(super) id: FileId,
    /// Directories above it to sync as well.
    pub(super) parent_syncs: Arc<ParentSyncs>,
    /// What it decides about new files in it, once that was asked for.
    inherited: Arc<OnceLock<Inherited>>,
}

impl OpenParent {
    pub(super) fn new(
        names: Vec<Name>,
        directory: Arc<OwnedFd>,
        id: FileId,
        parent_syncs: ParentSyncs,
    ) -> Self {
        Self {
            names,
            directory,
            id,
            parent_syncs: Arc::new(parent_syncs),
            inherited: Arc::default(),
        }
    }

    /// This directory for a change that removes a name from it. Unlike adding one, that needs no
    /// sync of the directories above.
    pub(super) fn for_removal(self) -> Self {
        Self {
            parent_syncs: Arc::default(),
            ..self
        }
    }

    /// Reads what the directory decides about new files in it.
    pub(super) fn inherited(&self) -> Result<&Inherited, Error> {
        if let Some(known) = self.inherited.get() {
            return Ok(known);
        }
        let inherited = Inherited::of(&self.directory)?;
        Ok(self.inherited.get_or_init(|| inherited))
    }
}

/// Directory to sync, with the outcome of the sync.
struct ChangedDirectory {
    parent: OpenParent,
    site: Fault,
    failure: Option<Error>,
    is_durable: bool,
}

/// Change that is visible, but not durable yet.
pub(super) struct Applied<'root> {
    pub(super) visible: Visible,
    /// Indexes in [`Commit::changed`] of the directories to sync: one, or both of a rename.
    pub(super) syncs: [Option<usize>; 2],
    /// Keeps the directories created for the change marked as pending until the batch is synced,
    /// when this is dropped.
    pub(super) _new_directories: Option<NewDirectories<'root>>,
}

/// What a change left under its name.
pub(super) enum Visible {
    /// Open file or directory that has the name now.
    Open(Arc<OwnedFd>),
    /// Name in a directory, whose version is read after the sync.
    Named(Arc<OwnedFd>, String),
    /// Directory that existed already, in this version.
    Existing(Version),
    /// Name that didn't have to change, in this version.
    Unchanged(Version),
    /// Nothing: the name was deleted.
    Gone(Option<Trash>),
}

impl<'root> Applied<'root> {
    /// Creates the record of a change in one directory.
    pub(super) fn new(visible: Visible, sync: usize) -> Self {
        Self {
            visible,
            syncs: [Some(sync), None],
            _new_directories: None,
        }
    }

    /// Adds the directories that were created for the change.
    pub(super) fn with(self, new_directories: NewDirectories<'root>) -> Self {
        Self {
            _new_directories: Some(new_directories),
            ..self
        }
    }
}

impl<'root> Commit<'root> {
    fn apply(&mut self, change: Change) -> Result<Applied<'root>, Error> {
        self.inner.writable()?;
        match change {
            Change::File { target, staged } => self.publish_file(&target, staged),
            Change::Copy { target, staged } => self.publish_copy(&target, staged),
            Change::Symlink {
                target,
                text,
                modified,
            } => self.make_symlink(&target, &text, modified),
            Change::Link {
                from,
                source,
                target,
            } => self.link((&from, &source), &target),
            Change::Directory { target } => self.make_directory(&target),
            Change::Attributes {
                path,
                given,
                is_new,
            } => self.set_attributes(&path, given, is_new),
            Change::Chmod {
                path,
                mode,
                details,
                precondition,
            } => self.chmod(&path, mode, &details, &precondition),
            Change::Rename {
                from,
                to,
                source,
                target,
            } => self.rename((&from, &source), (&to, &target)),
            Change::Delete {
                path,
                recursive,
                precondition,
            } => self.delete(&path, recursive, &precondition),
        }
    }

    /// Resolves the target to its slot and parent directory, and creates missing parents where the
    /// target allows it.
    pub(super) fn target_slot<'path>(
        &mut self,
        target: &'path Destination,
    ) -> Result<(Slot<'path>, OpenParent, NewDirectories<'root>), Error> {
        let mut new_directories = NewDirectories::new(self.inner);
        let Destination {
            path,
            precondition,
            parents,
        } = target;
        let (slot, parent) = self.slot(path, *parents, precondition, &mut new_directories)?;
        Ok((slot, parent, new_directories))
    }

    /// Resolves a name whose parent directory has to exist.
    pub(super) fn existing_slot<'path>(
        &mut self,
        path: &'path RemotePath,
    ) -> Result<(Slot<'path>, OpenParent), Error> {
        let mut new_directories = NewDirectories::new(self.inner);
        self.slot(
            path,
            Parents::MustExist,
            &Precondition::Any,
            &mut new_directories,
        )
    }

    fn slot<'path>(
        &mut self,
        path: &'path RemotePath,
        allowed: Parents,
        precondition: &Precondition,
        new_directories: &mut NewDirectories<'root>,
    ) -> Result<(Slot<'path>, OpenParent), Error> {
        let (name, parents) = path.names().split_last().ok_or(Error::RootItself)?;
        self.inner.refuse_staging(path)?;
        let known = self.parent.take().filter(|known| known.names == parents);
        let parent = match known {
            Some(parent) => parent,
            None => {
                let slot =
                    self.inner
                        .slot_to_change(path, allowed, precondition, new_directories)?;
                let parent_syncs = self.inner.parent_syncs_on(parents)?;
                let names = parents.to_vec();
                OpenParent::new(names, slot.directory, slot.directory_id, parent_syncs)
            }
        };
        self.parent = Some(parent.clone());
        let directory = Arc::clone(&parent.directory);
        let slot = self.inner.slot_in(directory, parent.id, name.as_str());
        Ok((slot, parent))
    }

    /// Records that a directory was changed and has to be synced. Returns its index in
    /// [`Commit::changed`]; each pair of directory and site is synced once.
    pub(super) fn touch(&mut self, parent: OpenParent, site: Fault) -> usize {
        let is_same =
            |changed: &ChangedDirectory| changed.parent.id == parent.id && changed.site == site;
        let known = self.changed.iter().rposition(is_same);
        known.unwrap_or_else(|| {
            self.changed.push(ChangedDirectory {
                parent,
                site,
                failure: None,
                is_durable: false,
            });
            self.changed.len() - 1
        })
    }

    /// Syncs every changed directory, and the pending directories above it.
    fn sync(&mut self) {
        for changed in &mut self.changed {
            let OpenParent {
                directory,
                id,
                parent_syncs,
                ..
            } = &changed.parent;
            let synced = self.inner.sync(changed.site, directory, *id);
            match synced.and_then(|()| parent_syncs.sync(self.inner)) {
                Ok(()) => changed.is_durable = true,
                Err(error) => changed.failure = Some(error),
            }
        }
    }

    /// Determines the result of a change, once its directories are synced or failed.
    fn result(&mut self, applied: Applied<'_>) -> Result<Committed, Error> {
        for number in applied.syncs.into_iter().flatten() {
            self.require_durable(number)?;
        }
        let committed = |version, existed| Committed {
            version: Some(version),
            existed,
            trash: None,
        };
        Ok(match applied.visible {
            Visible::Open(file) => committed(self.inner.version_of(&file)?, false),
            Visible::Named(directory, name) => {
                committed(self.inner.version_at(&directory, &name)?, false)
            }
            Visible::Existing(version) => committed(version, true),
            Visible::Unchanged(version) => committed(version, false),
            Visible::Gone(trash) => Committed {
                version: None,
                existed: false,
                trash,
            },
        })
    }

    /// Checks that the directory at this index was synced.
    fn require_durable(&mut self, number: usize) -> Result<(), Error> {
        let changed = self.changed.get_mut(number);
        let Some(changed) = changed else {
            return Err(Error::Internal("a change without its directory"));
        };
        // The first change takes the error itself; the others that share the sync get the one
        // below.
        if let Some(failure) = changed.failure.take() {
            return Err(failure);
        }
        // After any failed sync: the directory that isn't durable may be above this one.
        if !changed.is_durable || self.inner.failed.load(Ordering::Relaxed) {
            let error = io::Error::other("a directory synced for several changes");
            return Err(Error::NotDurable(error));
        }
        Ok(())
    }
}
