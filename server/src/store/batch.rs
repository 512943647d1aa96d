//! Many changes at once, which share the syncs that make them durable.
//!
//! Each change is carried out by itself, and fails alone; then each directory that was changed is
//! synced once, and only then is there an answer to any of them. The caller holds the locks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quire_shared::protocol::{MakeDirectory, Precondition, Put, SetAttributes, Version};
use quire_shared::{Name, RemotePath};
use rustix::fs::{Mode, OFlags, fchmod};

use super::metadata::{FileId, MODE_MASK};
use super::namespace::make_at;
use super::new_directories::{MadeDirectories, UnsyncedAbove};
use super::publish::require_replaceable;
use super::resolve::{Parents, Place};
use super::staging::{StagedFile, set_modified};
use super::{Inner, Root};
use crate::error::RequestError;

/// One of many changes.
#[derive(Debug)]
pub enum Change {
    /// A file whose content is durable.
    File(Put, Parents, StagedFile),
    /// A directory to be made.
    Directory(MakeDirectory, Parents),
    /// Times and permissions for a directory.
    Attributes(SetAttributes),
}

/// A change that is durable.
#[derive(Debug)]
pub struct CarriedOut {
    /// The version that the name has now.
    pub version: Version,
    /// Whether it is a directory that was there already.
    pub existed: bool,
}

impl Change {
    /// What is changed.
    pub fn path(&self) -> &RemotePath {
        match self {
            Self::File(put, ..) => &put.path,
            Self::Directory(make, _) => &make.path,
            Self::Attributes(set) => &set.path,
        }
    }
}

impl Root {
    /// Carries out `changes`, one after another, and says of each what became of it. What succeeded
    /// is durable.
    ///
    /// # Errors
    /// Of a file those of [`publish`](Self::publish), of a directory those of
    /// [`make_directory`](Self::make_directory). If a directory can't be made durable, all fail.
    pub fn carry_out(&self, changes: Vec<Change>) -> Vec<Result<CarriedOut, RequestError>> {
        let mut batch = Batch {
            inner: &self.inner,
            parent: None,
            touched: Vec::new(),
        };
        let changes = changes.into_iter();
        let applied: Vec<_> = changes.map(|change| batch.apply(change)).collect();
        batch.settle();
        applied
            .into_iter()
            .map(|applied| batch.outcome(applied?))
            .collect()
    }
}

/// Changes that are being carried out.
struct Batch<'root> {
    inner: &'root Inner,
    /// The directory of the last change, which is mostly that of the next.
    parent: Option<Parent>,
    touched: Vec<Touched>,
}

#[derive(Clone)]
struct Parent {
    names: Vec<Name>,
    directory: Arc<OwnedFd>,
    id: FileId,
    above: Arc<UnsyncedAbove>,
}

/// A directory that was changed, and how its sync failed.
struct Touched {
    parent: Parent,
    failure: Option<RequestError>,
    is_durable: bool,
}

/// A change that is visible.
struct Applied<'root> {
    /// The number of the directory among those touched.
    directory: usize,
    result: Visible,
    /// Count as unsynced until this is dropped.
    _made: MadeDirectories<'root>,
}

enum Visible {
    /// The file or directory that has the name now.
    Open(Arc<OwnedFd>),
    /// A directory that was there, in this version.
    Existing(Version),
}

impl<'root> Batch<'root> {
    fn apply(&mut self, change: Change) -> Result<Applied<'root>, RequestError> {
        self.inner.writable()?;
        match change {
            Change::File(put, parents, staged) => self.publish(&put, parents, staged),
            Change::Directory(make, parents) => self.make_directory(&make, parents),
            Change::Attributes(set) => self.set_attributes(&set),
        }
    }

    fn publish(
        &mut self,
        put: &Put,
        parents: Parents,
        staged: StagedFile,
    ) -> Result<Applied<'root>, RequestError> {
        let precondition = &put.precondition;
        let mut made = MadeDirectories::new(self.inner);
        let (place, parent) = self.place(&put.path, parents, precondition, &mut made)?;
        require_replaceable(precondition, place.facts()?.as_ref())?;
        let file = staged.publish(&place, precondition)?;
        made.keep();
        Ok(Applied {
            directory: self.touch(parent),
            result: Visible::Open(Arc::new(file.into())),
            _made: made,
        })
    }

    fn make_directory(
        &mut self,
        make: &MakeDirectory,
        parents: Parents,
    ) -> Result<Applied<'root>, RequestError> {
        let precondition = &make.precondition;
        let mut made = MadeDirectories::new(self.inner);
        let (place, parent) = self.place(&make.path, parents, precondition, &mut made)?;
        let result = match make_at(&place, precondition)? {
            Some(existing) => Visible::Existing(existing),
            None => {
                made.keep();
                let name = make.path.name().ok_or(RequestError::RootItself)?;
                let (directory, _) = self.inner.child(&place.directory, name)?;
                Visible::Open(Arc::new(directory))
            }
        };
        Ok(Applied {
            directory: self.touch(parent),
            result,
            _made: made,
        })
    }

    fn set_attributes(&mut self, set: &SetAttributes) -> Result<Applied<'root>, RequestError> {
        if set.path.is_root() {
            return Err(RequestError::RootItself);
        }
        self.inner.refuse_staging(&set.path)?;
        let (directory, id) = self.inner.directory(&set.path, OFlags::RDONLY)?;
        if let Some(mode) = set.mode {
            fchmod(&directory, Mode::from_raw_mode(mode & MODE_MASK))
                .map_err(RequestError::system("setting permissions"))?;
        }
        if let Some(modified) = set.modified {
            set_modified(&directory, modified)?;
        }
        let directory = Arc::new(directory);
        let itself = Parent {
            names: set.path.names().to_vec(),
            directory: Arc::clone(&directory),
            id,
            above: Arc::new(self.inner.unsynced_on_the_way(set.path.names())?),
        };
        Ok(Applied {
            directory: self.touch(itself),
            result: Visible::Open(directory),
            _made: MadeDirectories::new(self.inner),
        })
    }

    /// The place of `path`, and its directory.
    fn place<'path>(
        &mut self,
        path: &'path RemotePath,
        allowed: Parents,
        precondition: &Precondition,
        made: &mut MadeDirectories<'root>,
    ) -> Result<(Place<'path>, Parent), RequestError> {
        let (name, parents) = path.names().split_last().ok_or(RequestError::RootItself)?;
        self.inner.refuse_staging(path)?;
        let known = self.parent.take().filter(|known| known.names == parents);
        let parent = match known {
            Some(parent) => parent,
            None => {
                let place = self
                    .inner
                    .place_to_change(path, allowed, precondition, made)?;
                Parent {
                    names: parents.to_vec(),
                    directory: place.directory,
                    id: place.directory_id,
                    above: Arc::new(self.inner.unsynced_on_the_way(parents)?),
                }
            }
        };
        self.parent = Some(parent.clone());
        let directory = Arc::clone(&parent.directory);
        let place = self.inner.place_in(directory, parent.id, name.as_str());
        Ok((place, parent))
    }

    /// Notes that a directory was changed.
    fn touch(&mut self, parent: Parent) -> usize {
        let known = self
            .touched
            .iter()
            .rposition(|touched| touched.parent.id == parent.id);
        known.unwrap_or_else(|| {
            self.touched.push(Touched {
                parent,
                failure: None,
                is_durable: false,
            });
            self.touched.len() - 1
        })
    }

    /// Makes all that was done durable.
    fn settle(&mut self) {
        for touched in &mut self.touched {
            let Parent {
                names: _,
                directory,
                id,
                above,
            } = &touched.parent;
            match self.inner.settle_directory(directory, *id, above) {
                Ok(()) => touched.is_durable = true,
                Err(error) => touched.failure = Some(error),
            }
        }
    }

    /// What became of a change, now that its directory is durable or not.
    fn outcome(&mut self, applied: Applied<'_>) -> Result<CarriedOut, RequestError> {
        let touched = self.touched.get_mut(applied.directory);
        if let Some(failure) = touched.and_then(|touched| touched.failure.take()) {
            return Err(failure);
        }
        let is_durable = self
            .touched
            .get(applied.directory)
            .is_some_and(|it| it.is_durable);
        // A directory that isn't durable may be above this one.
        if !is_durable || self.inner.failed.load(Ordering::Relaxed) {
            let error = io::Error::other("a directory synced for several changes");
            return Err(RequestError::NotDurable(error));
        }
        match applied.result {
            Visible::Open(file) => Ok(CarriedOut {
                version: self.inner.version_of(&file)?,
                existed: false,
            }),
            Visible::Existing(version) => Ok(CarriedOut {
                version,
                existed: true,
            }),
        }
    }
}
