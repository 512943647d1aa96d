//! A directory with all that is below it, depth first, each directory's names in order.
//!
//! Only the directory at hand is open. One that the walk comes back to is opened anew, and is left
//! if it isn't the same any more. Each name is visited under its own lock, which is the caller's.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use quire_shared::path::PathError;
use quire_shared::protocol::{Attributes, EntryKind};
use quire_shared::{Name, RemotePath};
use rustix::fs::OFlags;

use super::metadata::{FileId, Metadata};
use super::open_file::OpenFile;
use super::read_dir::ReadDir;
use super::root::{Inner, Root};
use super::{EntryFilter, Error};

/// A walk under way.
#[derive(Debug)]
pub(crate) struct Walk {
    inner: Arc<Inner>,
    /// The directories that the walk is in, outermost first.
    levels: Vec<WalkLevel>,
    /// The innermost of them, unless the walk just came back to it.
    here: Option<OwnedFd>,
}

#[derive(Debug)]
struct WalkLevel {
    path: RemotePath,
    id: FileId,
    names: ReadDir,
}

/// Where the walk goes next.
#[derive(Debug)]
pub(crate) enum WalkStep {
    /// To this name in the directory at hand, whose whole path this is if it can be one.
    Name(Name, Result<RemotePath, PathError>),
    /// Out of the directory at hand.
    Left {
        /// How many of its names can't travel.
        unnameable: u64,
        /// Why the rest of it is missing, if it is.
        failure: Option<Error>,
    },
    /// Nowhere: it has left the directory where it began.
    End,
}

/// What has a name.
#[derive(Debug)]
pub(crate) enum Visited {
    /// A file that was asked for, open.
    File(OpenFile),
    /// A directory; the walk is in it now.
    Directory(Attributes),
    /// Anything else.
    Other(Attributes),
}

impl Root {
    /// Begins a walk in the directory at `path`, and says what is known of that. Nothing is in it
    /// but what may be `filter`.
    ///
    /// # Errors
    /// If there is no directory, or it can't be read.
    pub(crate) fn walk(
        &self,
        path: &RemotePath,
        filter: Option<EntryFilter>,
    ) -> Result<(Walk, Attributes), Error> {
        let (directory, metadata) = self.inner.listed_directory(path)?;
        let level = WalkLevel {
            path: path.clone(),
            id: metadata.id,
            names: ReadDir::read(&directory, None, filter)?,
        };
        let walk = Walk {
            inner: Arc::clone(&self.inner),
            levels: vec![level],
            here: Some(directory),
        };
        Ok((walk, metadata.attributes()))
    }
}

impl Walk {
    /// Goes on to the next name.
    pub(crate) fn step(&mut self) -> WalkStep {
        let Some(level) = self.levels.last_mut() else {
            return WalkStep::End;
        };
        let name = match &mut self.here {
            Some(here) => level.names.next_if(here, |_| true),
            none => self.inner.reopen(level).and_then(|directory| {
                let here = none.insert(directory);
                level.names.next_if(here, |_| true)
            }),
        };
        match name {
            Ok(Some(name)) => {
                let path = level.path.join(name.clone());
                WalkStep::Name(name, path)
            }
            Ok(None) => self.leave(None),
            Err(error) => self.leave(Some(error)),
        }
    }

    /// Looks at what has `name` in the directory at hand, and opens it if it is a directory, of which
    /// `filter` says what may be shown, or a file of at most `size_max` bytes. Nothing if it has gone
    /// since its name was read.
    ///
    /// # Errors
    /// If it can't be looked at or opened, or the refusal of `filter`.
    pub(crate) fn visit<E: From<Error>>(
        &mut self,
        name: &Name,
        path: RemotePath,
        size_max: Option<u64>,
        filter: impl FnOnce(&RemotePath) -> Result<Option<EntryFilter>, E>,
    ) -> Result<Option<Visited>, E> {
        let here = self.here.as_ref().ok_or(Error::NotFound)?;
        let metadata = Metadata::at(here, name.as_str(), self.inner.id.device)
            .map_err(Error::system("looking at an entry"))?;
        let Some(attributes) = metadata.map(|metadata| metadata.attributes()) else {
            return Ok(None);
        };
        Ok(Some(match attributes.kind {
            EntryKind::File if size_max.is_some_and(|max| attributes.size <= max) => {
                let opened = OpenFile::open(here, name.as_str())?;
                // It may have been replaced by a larger one since it was looked at.
                if size_max.is_some_and(|max| opened.attributes.size <= max) {
                    Visited::File(opened)
                } else {
                    Visited::Other(opened.attributes)
                }
            }
            EntryKind::Directory => {
                let filter = filter(&path)?;
                let (directory, id) = self.inner.child(here, name)?;
                let names = ReadDir::read(&directory, None, filter)?;
                if let Some(level) = self.levels.last_mut() {
                    level.names.trim();
                }
                self.levels.push(WalkLevel { path, id, names });
                self.here = Some(directory);
                Visited::Directory(attributes)
            }
            EntryKind::File | EntryKind::Symlink | EntryKind::Other => Visited::Other(attributes),
        }))
    }

    fn leave(&mut self, failure: Option<Error>) -> WalkStep {
        let left = self.levels.pop();
        self.here = None;
        WalkStep::Left {
            unnameable: left.map_or(0, |level| level.names.unnameable()),
            failure,
        }
    }
}

impl Inner {
    /// Opens the directory of a level again.
    fn reopen(&self, level: &WalkLevel) -> Result<OwnedFd, Error> {
        let (directory, id) = self.directory(&level.path, OFlags::RDONLY)?;
        if id == level.id {
            Ok(directory)
        } else {
            Err(Error::NotFound)
        }
    }
}
