//! A directory with all that is below it, depth first, each directory's names in order.
//!
//! Only the directory at hand is open. One that the walk comes back to is opened anew, and is left
//! if it isn't the same any more. Each name is visited under its own lock, which is the caller's.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use quire_shared::protocol::{Attributes, EntryKind};
use quire_shared::{ErrorCode, Name, RemotePath};
use rustix::fs::OFlags;

use super::metadata::{Facts, FileId};
use super::read_dir::Names;
use super::{Inner, OpenFile, Root};
use crate::auth::rules::ShownEntries;
use crate::error::RequestError;

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    inner: Arc<Inner>,
    /// The directories that the walk is in, outermost first.
    levels: Vec<Level>,
    /// The innermost of them, unless the walk just came back to it.
    here: Option<OwnedFd>,
}

#[derive(Debug)]
struct Level {
    path: RemotePath,
    id: FileId,
    names: Names,
}

/// Where the walk goes next.
#[derive(Debug)]
pub enum Step {
    /// To this name in the directory at hand, whose whole path this is if it can be one.
    Name(Name, Result<RemotePath, ErrorCode>),
    /// Out of the directory at hand.
    Left {
        /// How many of its names can't travel.
        unnameable: u64,
        /// Why the rest of it is missing, if it is.
        failure: Option<RequestError>,
    },
    /// Nowhere: it has left the directory where it began.
    End,
}

/// What has a name.
#[derive(Debug)]
pub enum Visited {
    /// A file that was asked for, open.
    File(OpenFile),
    /// A directory; the walk is in it now.
    Directory(Attributes),
    /// Anything else.
    Other(Attributes),
}

impl Root {
    /// Begins a walk in the directory at `path`, and says what is known of that. Nothing is in it
    /// but what may be `shown`.
    ///
    /// # Errors
    /// If there is no directory, or it can't be read.
    pub fn walk(
        &self,
        path: &RemotePath,
        shown: Option<ShownEntries>,
    ) -> Result<(Walk, Attributes), RequestError> {
        let (directory, facts) = self.inner.listed_directory(path)?;
        let level = Level {
            path: path.clone(),
            id: facts.id,
            names: Names::read(&directory, None, shown)?,
        };
        let walk = Walk {
            inner: Arc::clone(&self.inner),
            levels: vec![level],
            here: Some(directory),
        };
        Ok((walk, facts.attributes()))
    }
}

impl Walk {
    /// Goes on to the next name.
    pub fn step(&mut self) -> Step {
        let Some(level) = self.levels.last_mut() else {
            return Step::End;
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
                Step::Name(name, path.map_err(|_| ErrorCode::INVALID_PATH))
            }
            Ok(None) => self.leave(None),
            Err(error) => self.leave(Some(error)),
        }
    }

    /// Looks at what has `name` in the directory at hand, and opens it if it is a directory, of which
    /// `shown` says what may be shown, or a file of at most `size_max` bytes. Nothing if it has gone
    /// since its name was read.
    ///
    /// # Errors
    /// If it can't be looked at or opened, or the refusal of `shown`.
    pub fn visit(
        &mut self,
        name: &Name,
        path: RemotePath,
        size_max: Option<u64>,
        shown: impl FnOnce(&RemotePath) -> Result<Option<ShownEntries>, RequestError>,
    ) -> Result<Option<Visited>, RequestError> {
        let here = self.here.as_ref().ok_or(RequestError::NotFound)?;
        let facts = Facts::at(here, name.as_str(), self.inner.id.device)
            .map_err(RequestError::system("looking at an entry"))?;
        let Some(attributes) = facts.map(|facts| facts.attributes()) else {
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
                let shown = shown(&path)?;
                let (directory, id) = self.inner.child(here, name)?;
                let names = Names::read(&directory, None, shown)?;
                if let Some(level) = self.levels.last_mut() {
                    level.names.trim();
                }
                self.levels.push(Level { path, id, names });
                self.here = Some(directory);
                Visited::Directory(attributes)
            }
            EntryKind::File | EntryKind::Symlink | EntryKind::Other => Visited::Other(attributes),
        }))
    }

    fn leave(&mut self, failure: Option<RequestError>) -> Step {
        let left = self.levels.pop();
        self.here = None;
        Step::Left {
            unnameable: left.map_or(0, |level| level.names.unnameable()),
            failure,
        }
    }
}

impl Inner {
    /// Opens the directory of a level again.
    fn reopen(&self, level: &Level) -> Result<OwnedFd, RequestError> {
        let (directory, id) = self.directory(&level.path, OFlags::RDONLY)?;
        if id == level.id {
            Ok(directory)
        } else {
            Err(RequestError::NotFound)
        }
    }
}
