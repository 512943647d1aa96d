//! Depth-first walk of a directory tree, with each directory's names in order.
//!
//! Only the current directory is open. A directory that the walk returns to is opened again, and is
//! left if it isn't the same any more. The caller holds the lock of each name that it visits.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use quire_shared::path::PathError;
use quire_shared::path::Unnameable;
use quire_shared::protocol::{Attributes, DetailKinds, EntryKind, Time};
use quire_shared::{Name, RemotePath};
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};

use super::details::add_details;
use super::metadata::{FileId, Metadata};
use super::open_file::OpenFile;
use super::read_dir::ReadDir;
use super::root::{Inner, Root};
use super::{EntryFilter, Error, cancel};

/// Walk in progress.
#[derive(Debug)]
pub(in crate::files) struct Walk {
    inner: Arc<Inner>,
    /// Directories that the walk is in, outermost first.
    levels: Vec<WalkLevel>,
    /// Innermost of them, open; `None` if the walk just returned to it.
    here: Option<OwnedFd>,
    /// Time of the beginning. Directories created later aren't entered: they may come from the very
    /// client that fetches the tree, and would never end.
    started: Time,
    /// Details that are read of all that is visited.
    details: DetailKinds,
    /// Whether files of several names are described only.
    describes_linked: bool,
}

#[derive(Debug)]
struct WalkLevel {
    path: RemotePath,
    id: FileId,
    names: ReadDir,
}

/// Next step of a walk.
#[derive(Debug)]
pub(in crate::files) enum WalkStep {
    /// Name in the current directory, and its path if that is within the limits of a path.
    Name(Name, Result<RemotePath, PathError>),
    /// The walk left the current directory.
    Left {
        /// Its names that can't be sent.
        unnameable: Unnameable,
        /// Error because of which the walk left before the last name.
        failure: Option<Error>,
    },
    /// End of the walk: it has left the directory where it started.
    End,
}

/// What a visited name refers to.
#[derive(Debug)]
pub(in crate::files) enum Visited {
    /// File within the size limit, open.
    File(OpenFile),
    /// Directory, which is the current one now.
    Directory(Attributes),
    /// Anything else, or a file over the size limit.
    Other(Attributes),
}

impl Root {
    /// Starts a walk in the directory at `path`, and returns that directory's attributes. Entries
    /// that `filter` hides are left out.
    ///
    /// # Errors
    /// If there is no directory at `path`, or it can't be read.
    pub(super) fn walk(
        &self,
        path: &RemotePath,
        filter: Option<EntryFilter>,
        details: DetailKinds,
    ) -> Result<(Walk, Attributes), Error> {
        let (directory, metadata) = self.inner.listed_directory(path)?;
        let level = WalkLevel {
            path: path.clone(),
            id: metadata.id,
            names: ReadDir::read(&directory, None, filter)?,
        };
        let attributes = add_details(metadata.attributes(), &metadata, &directory, details);
        let walk = Walk {
            inner: Arc::clone(&self.inner),
            levels: vec![level],
            here: Some(directory),
            started: now(ClockId::Realtime),
            details,
            describes_linked: false,
        };
        Ok((walk, attributes))
    }
}

impl Walk {
    /// Has files of several names described without their content, if `yes`.
    pub(in crate::files) fn describe_linked(&mut self, yes: bool) {
        self.describes_linked = yes;
    }

    /// Whether whatever is created from now on has a later time than the beginning.
    pub(in crate::files) fn is_past_start(&self) -> bool {
        now(ClockId::RealtimeCoarse) > self.started
    }

    /// Advances to the next name.
    ///
    /// # Errors
    /// Only if nobody waits for the walk any more.
    pub(in crate::files) fn step(&mut self) -> Result<WalkStep, Error> {
        cancel::check()?;
        let Some(level) = self.levels.last_mut() else {
            return Ok(WalkStep::End);
        };
        let name = match &mut self.here {
            Some(here) => level.names.next_if(here, |_| true),
            none => self.inner.reopen(level).and_then(|directory| {
                let here = none.insert(directory);
                level.names.next_if(here, |_| true)
            }),
        };
        Ok(match name {
            Ok(Some(name)) => {
                let path = level.path.join(name.clone());
                WalkStep::Name(name, path)
            }
            Ok(None) => self.leave(None),
            Err(error) => self.leave(Some(error)),
        })
    }

    /// Visits `name` in the current directory, and enters it if it is a directory; `filter` returns
    /// the filter of its entries. A file of at most `size_max` bytes is opened. `None` means that
    /// the name was removed since it was read.
    ///
    /// # Errors
    /// If the metadata can't be read, opening fails, or `filter` returns an error.
    pub(in crate::files) fn visit<E: From<Error>>(
        &mut self,
        name: &Name,
        path: RemotePath,
        size_max: Option<u64>,
        filter: impl FnOnce(&RemotePath) -> Result<Option<EntryFilter>, E>,
    ) -> Result<Option<Visited>, E> {
        let here = self.here.as_ref().ok_or(Error::NotFound)?;
        let metadata = Metadata::at(here, name.as_str(), self.inner.id.device)
            .map_err(Error::system("reading the metadata of an entry"))?;
        let Some(metadata) = metadata else {
            return Ok(None);
        };
        let is_new = metadata.born.is_some_and(|born| born > self.started);
        if is_new && metadata.kind == EntryKind::Directory {
            return Ok(None);
        }
        let mut attributes = metadata.attributes_at(here, name.as_str());
        let is_described = self.describes_linked && attributes.hard_link.is_some();
        let size_max = size_max.filter(|_| !is_described);
        Ok(Some(match attributes.kind {
            EntryKind::File if size_max.is_some_and(|max| attributes.size <= max) => {
                let opened = OpenFile::open(here, name.as_str())?;
                let opened = opened.with_details(self.details);
                // A larger file may have replaced it since its metadata was read.
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
                let attributes = add_details(attributes, &metadata, &directory, self.details);
                // Levels that wait keep few names, so that memory stays bounded at any depth.
                if let Some(level) = self.levels.last_mut() {
                    level.names.trim();
                }
                self.levels.push(WalkLevel { path, id, names });
                self.here = Some(directory);
                Visited::Directory(attributes)
            }
            EntryKind::File | EntryKind::Symlink | EntryKind::Other => {
                if !self.details.is_empty() {
                    attributes.details = metadata.details_at(here, name.as_str(), self.details);
                }
                Visited::Other(attributes)
            }
        }))
    }

    /// Leaves the current directory. Its parent is opened again at the next step.
    fn leave(&mut self, failure: Option<Error>) -> WalkStep {
        let left = self.levels.pop();
        self.here = None;
        WalkStep::Left {
            unnameable: left.map_or_else(Unnameable::default, |level| {
                level.names.unnameable().clone()
            }),
            failure,
        }
    }
}

/// Reads a clock. The kernel stamps files with the coarse one, which advances every few milliseconds,
/// and from Linux 6.13 on some with the fine one, which is ahead of it.
fn now(clock: ClockId) -> Time {
    let now = clock_gettime(clock);
    Time {
        seconds: now.tv_sec,
        nanoseconds: u32::try_from(now.tv_nsec).unwrap_or_default(),
    }
}

impl Inner {
    /// Opens the directory of a level again, if its path still names the same directory.
    fn reopen(&self, level: &WalkLevel) -> Result<OwnedFd, Error> {
        let (directory, id) = self.directory(&level.path, OFlags::RDONLY)?;
        if id == level.id {
            Ok(directory)
        } else {
            Err(Error::NotFound)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{StoreFixture, path};
    use super::*;

    #[test]
    fn a_directory_that_was_made_just_before_the_walk_is_visited() {
        let fixture = StoreFixture::new();
        for number in 0..200 {
            let name = number.to_string();
            // A change of what was just looked at makes the kernel use the fine clock.
            for content in ["", "content"] {
                fixture.write("file", content);
                fixture.local("file").metadata().unwrap();
            }
            std::fs::create_dir(fixture.local(&name)).unwrap();
            let (mut walk, _) = fixture
                .root
                .walk(&path(""), None, DetailKinds::default())
                .unwrap();
            let mut visited = Vec::new();
            loop {
                match walk.step().unwrap() {
                    WalkStep::Name(name, path) => {
                        let path = path.unwrap();
                        let found = walk.visit(&name, path, None, |_| Ok::<_, Error>(None));
                        visited.extend(found.unwrap().map(|_| name.as_str().to_owned()));
                    }
                    WalkStep::Left { .. } => {}
                    WalkStep::End => break,
                }
            }
            assert!(visited.contains(&name), "{name} is missing in {visited:?}");
        }
    }
}
