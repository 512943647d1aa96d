//! The one way to change the served directory: a batch of changes, which share the syncs that make
//! them durable. A single change is a batch of one.
//!
//! Each change is applied by itself, and fails alone; then each directory that was changed is
//! synced once, and only then is there a result for any of them. The caller holds the locks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quire_shared::protocol::{Precondition, Time, Version};
use quire_shared::{Name, RemotePath};

use super::Error;
use super::copy::StagedCopy;
use super::faults::Fault;
use super::metadata::FileId;
use super::new_directories::{NewDirectories, ParentSyncs};
use super::publish::Destination;
use super::resolve::{Parents, Slot};
use super::root::{Inner, Root};
use super::staging::StagedFile;
use super::trash::Trash;

/// A change of the served directory.
#[derive(Debug)]
pub(crate) enum Change {
    /// Gives staged content, which is durable, its name. A file that has it is replaced if the
    /// precondition allows it.
    File {
        /// The name.
        target: Destination,
        /// The content.
        staged: StagedFile,
    },
    /// Gives a staged copy its name. A copied file replaces a file if the precondition allows it; a
    /// copied directory replaces nothing.
    Copy {
        /// The name.
        target: Destination,
        /// The copy.
        staged: StagedCopy,
    },
    /// Makes a directory. With [`Precondition::Any`], and with the version that it has, a directory
    /// that exists already is as good as a new one.
    Directory {
        /// The directory.
        target: Destination,
    },
    /// Sets time and permissions of a directory, where they are given.
    Attributes {
        /// The directory.
        path: RemotePath,
        /// Its modification time.
        modified: Option<Time>,
        /// Its permissions.
        mode: Option<u32>,
    },
    /// Renames. A file replaces a file if `target` allows it; a directory replaces nothing, not even
    /// an empty one. Symbolic links and special files are renamed like files, never followed.
    Rename {
        /// The old name.
        from: RemotePath,
        /// The new name.
        to: RemotePath,
        /// What must hold for the old name.
        source: Precondition,
        /// What must hold for the new name.
        target: Precondition,
    },
    /// Removes a name: a file, symbolic link or special file, or a directory with all that is in it
    /// if `recursive`. Without that even an empty directory is refused, as rm(1) does.
    Delete {
        /// The name.
        path: RemotePath,
        /// Whether a directory may go.
        recursive: bool,
        /// What must hold for the name.
        precondition: Precondition,
    },
}

/// A change that is durable.
#[derive(Debug)]
pub struct Committed {
    /// The version that the name has now, unless it is gone.
    pub version: Option<Version>,
    /// Whether it is a directory that existed already.
    pub existed: bool,
    /// A directory that lost its name for good, but still takes up space.
    pub trash: Option<Trash>,
}

impl Root {
    /// Carries out `changes`, one after another, and gives a result for each. What succeeded is
    /// durable; what failed has changed nothing, but for [`Error::NotDurable`].
    ///
    /// Against programs that don't know the locks of paths, `Absent` is still certain, and `Match`
    /// is as good as the moment between looking and renaming.
    pub(super) fn commit(&self, changes: Vec<Change>) -> Vec<Result<Committed, Error>> {
        let mut commit = Commit {
            inner: &self.inner,
            parent: None,
            changed: Vec::new(),
        };
        let changes = changes.into_iter();
        let applied: Vec<_> = changes.map(|change| commit.apply(change)).collect();
        commit.sync();
        let applied = applied.into_iter();
        applied.map(|applied| commit.result(applied?)).collect()
    }
}

/// Changes that are being carried out.
pub(super) struct Commit<'root> {
    pub(super) inner: &'root Inner,
    /// The directory of the last change, which is mostly that of the next.
    parent: Option<OpenParent>,
    changed: Vec<ChangedDirectory>,
}

/// The directory that holds a name, open so that it can be synced.
#[derive(Clone)]
pub(super) struct OpenParent {
    pub(super) names: Vec<Name>,
    pub(super) directory: Arc<OwnedFd>,
    pub(super) id: FileId,
    pub(super) above: Arc<ParentSyncs>,
}

/// A directory to sync, and how that went.
struct ChangedDirectory {
    parent: OpenParent,
    site: Fault,
    failure: Option<Error>,
    is_durable: bool,
}

/// A change that is visible.
pub(super) struct Applied<'root> {
    pub(super) visible: Visible,
    /// The numbers of the directories that have to be durable: one, or both of a rename.
    pub(super) syncs: [Option<usize>; 2],
    /// Count as not durable until this is dropped.
    pub(super) _made: Option<NewDirectories<'root>>,
}

/// What a change left.
pub(super) enum Visible {
    /// The file or directory that has the name now.
    Open(Arc<OwnedFd>),
    /// A name in a directory.
    Named(Arc<OwnedFd>, String),
    /// A directory that existed, in this version.
    Existing(Version),
    /// A name that didn't have to change, in this version.
    Unchanged(Version),
    /// Nothing.
    Gone(Option<Trash>),
}

impl<'root> Applied<'root> {
    /// A change in one directory.
    pub(super) fn new(visible: Visible, sync: usize) -> Self {
        Self {
            visible,
            syncs: [Some(sync), None],
            _made: None,
        }
    }

    /// The same, for which directories were made.
    pub(super) fn with(self, made: NewDirectories<'root>) -> Self {
        Self {
            _made: Some(made),
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
            Change::Directory { target } => self.make_directory(&target),
            Change::Attributes {
                path,
                modified,
                mode,
            } => self.set_attributes(&path, modified, mode),
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

    /// The slot of the target, its directory, and what was made on the way there.
    pub(super) fn target_slot<'path>(
        &mut self,
        target: &'path Destination,
    ) -> Result<(Slot<'path>, OpenParent, NewDirectories<'root>), Error> {
        let mut made = NewDirectories::new(self.inner);
        let Destination {
            path,
            precondition,
            parents,
        } = target;
        let (slot, parent) = self.slot(path, *parents, precondition, &mut made)?;
        Ok((slot, parent, made))
    }

    /// The slot of a name whose directory has to exist.
    pub(super) fn existing_slot<'path>(
        &mut self,
        path: &'path RemotePath,
    ) -> Result<(Slot<'path>, OpenParent), Error> {
        let mut made = NewDirectories::new(self.inner);
        self.slot(path, Parents::MustExist, &Precondition::Any, &mut made)
    }

    fn slot<'path>(
        &mut self,
        path: &'path RemotePath,
        allowed: Parents,
        precondition: &Precondition,
        made: &mut NewDirectories<'root>,
    ) -> Result<(Slot<'path>, OpenParent), Error> {
        let (name, parents) = path.names().split_last().ok_or(Error::RootItself)?;
        self.inner.refuse_staging(path)?;
        let known = self.parent.take().filter(|known| known.names == parents);
        let parent = match known {
            Some(parent) => parent,
            None => {
                let slot = self
                    .inner
                    .slot_to_change(path, allowed, precondition, made)?;
                OpenParent {
                    names: parents.to_vec(),
                    directory: slot.directory,
                    id: slot.directory_id,
                    above: Arc::new(self.inner.parent_syncs_on(parents)?),
                }
            }
        };
        self.parent = Some(parent.clone());
        let directory = Arc::clone(&parent.directory);
        let slot = self.inner.slot_in(directory, parent.id, name.as_str());
        Ok((slot, parent))
    }

    /// Notes that a directory was changed and has to be synced, and gives its number.
    pub(super) fn touch(&mut self, parent: OpenParent, site: Fault) -> usize {
        let is_it =
            |changed: &ChangedDirectory| changed.parent.id == parent.id && changed.site == site;
        let known = self.changed.iter().rposition(is_it);
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

    /// Makes all that was done durable.
    fn sync(&mut self) {
        for changed in &mut self.changed {
            let OpenParent {
                names: _,
                directory,
                id,
                above,
            } = &changed.parent;
            let synced = self.inner.sync(changed.site, directory, *id);
            match synced.and_then(|()| above.sync(self.inner)) {
                Ok(()) => changed.is_durable = true,
                Err(error) => changed.failure = Some(error),
            }
        }
    }

    /// The result of a change, now that its directories are durable or not.
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

    fn require_durable(&mut self, number: usize) -> Result<(), Error> {
        let changed = self.changed.get_mut(number);
        let Some(changed) = changed else {
            return Err(Error::Internal("a change without its directory"));
        };
        if let Some(failure) = changed.failure.take() {
            return Err(failure);
        }
        // A directory that isn't durable may be above this one.
        if !changed.is_durable || self.inner.failed.load(Ordering::Relaxed) {
            let error = io::Error::other("a directory synced for several changes");
            return Err(Error::NotDurable(error));
        }
        Ok(())
    }
}
