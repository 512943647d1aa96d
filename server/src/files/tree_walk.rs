//! A walk through a directory and all that is below it.
//!
//! A blocking thread walks and tells a [`Visitor`] what it finds, until that is full. A lock covers
//! the opening of each file alone. A lock that isn't free interrupts the walk, because only the
//! asynchronous side can wait for it. The cache is left alone: a walk would throw out of it what
//! single requests come back for.

use quire_shared::protocol::{Attributes, Entry, EntryKind};
use quire_shared::{Name, RemotePath};

use super::Files;
use super::caller::Caller;
use super::error::Error;
use super::locks::LockGuard;
use super::store::{self, OpenFile, Visited, Walk, WalkStep};

/// What a walk meets, in its order: a directory's entries come between its `Entered` and its `Left`.
#[derive(Debug)]
pub enum TreeEntry {
    /// A directory; its entries follow.
    Entered(Entry),
    /// A small file that the caller may read, open.
    File(Name, OpenFile),
    /// Anything else, or a file that is too large for a walk.
    Described(Entry),
    /// Something that can't be given.
    Missed(Name, Error),
    /// The end of the directory at hand.
    Left {
        /// How many of its names aren't UTF-8.
        unnameable: u64,
        /// Why the rest of it is missing, if it is.
        failure: Option<Error>,
    },
}

/// Takes what a walk finds, on a blocking thread.
pub trait Visitor: Send + 'static {
    /// Takes one thing.
    ///
    /// # Errors
    /// What ends the walk.
    fn found(&mut self, found: TreeEntry) -> Result<(), Error>;

    /// Whether the walk has to pause.
    fn is_full(&self) -> bool;
}

/// A walk in progress.
#[derive(Debug)]
pub struct TreeWalk {
    files: Files,
    caller: Caller,
    walk: Walk,
    /// Largest file that is opened, in bytes.
    size_max: u64,
    /// A name whose lock wasn't free.
    locked: Option<(Name, RemotePath)>,
    has_ended: bool,
}

impl Files {
    /// Begins a walk in the directory at `path`, and says what is known of that. Files of at most
    /// `size_max` bytes are opened on the way.
    ///
    /// # Errors
    /// The refusal, or that there is no directory that can be read.
    pub async fn walk(
        &self,
        caller: &Caller,
        path: &RemotePath,
        size_max: u64,
    ) -> Result<(TreeWalk, Attributes), Error> {
        let filter = caller.access.list(path)?;
        let guard = self.locks().shared(caller.owner, path).await?;
        let (walk, attributes) = self.store().walk(path, filter).await?;
        drop(guard);
        let walk = TreeWalk {
            files: self.clone(),
            caller: caller.clone(),
            walk,
            size_max,
            locked: None,
            has_ended: false,
        };
        Ok((walk, attributes))
    }
}

impl TreeWalk {
    /// Whether all has been found.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Walks on until the visitor is full, a lock isn't free, or the walk has ended.
    ///
    /// # Errors
    /// What ended the walk.
    pub async fn advance<V: Visitor>(mut self, mut visitor: V) -> Result<(Self, V), Error> {
        let waited = match self.locked.take() {
            Some((name, path)) => {
                let guard = self.files.locks().shared(self.caller.owner, &path).await;
                Some((name, path, guard))
            }
            None => None,
        };
        let walking = store::blocking(move || {
            let walked = match waited {
                Some((name, path, Ok(guard))) => self.visit(name, path, guard, &mut visitor),
                Some((name, _, Err(busy))) => visitor.found(TreeEntry::Missed(name, busy.into())),
                None => Ok(()),
            };
            let walked = walked.and_then(|()| self.walk_on(&mut visitor));
            Ok(walked.map(|()| (self, visitor)))
        });
        walking.await?
    }

    fn walk_on(&mut self, visitor: &mut impl Visitor) -> Result<(), Error> {
        while !visitor.is_full() {
            match self.walk.step() {
                WalkStep::Name(name, Ok(path)) => {
                    match self.files.locks().try_shared(self.caller.owner, &path) {
                        Some(guard) => self.visit(name, path, guard, visitor)?,
                        None => {
                            self.locked = Some((name, path));
                            return Ok(());
                        }
                    }
                }
                WalkStep::Name(name, Err(error)) => {
                    let error = store::Error::InvalidPath(error).into();
                    visitor.found(TreeEntry::Missed(name, error))?;
                }
                WalkStep::Left {
                    unnameable,
                    failure,
                } => visitor.found(TreeEntry::Left {
                    unnameable,
                    failure: failure.map(Error::from),
                })?,
                WalkStep::End => {
                    self.has_ended = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Looks at what has `name`; the lock is held until that is open.
    fn visit(
        &mut self,
        name: Name,
        path: RemotePath,
        guard: LockGuard,
        visitor: &mut impl Visitor,
    ) -> Result<(), Error> {
        let access = &self.caller.access;
        let readable = access.get(&path);
        let size_max = readable.is_ok().then_some(self.size_max);
        let visited = self.walk.visit(&name, path, size_max, |path| {
            access.list(path).map_err(Error::from)
        });
        drop(guard);
        let found = match visited {
            Ok(None) => return Ok(()),
            Ok(Some(Visited::File(file))) => TreeEntry::File(name, file),
            Ok(Some(Visited::Directory(attributes))) => {
                TreeEntry::Entered(Entry { name, attributes })
            }
            Ok(Some(Visited::Other(attributes))) => match readable {
                Err(refusal) if attributes.kind == EntryKind::File => {
                    TreeEntry::Missed(name, refusal.into())
                }
                _ => TreeEntry::Described(Entry { name, attributes }),
            },
            Err(error) => TreeEntry::Missed(name, error),
        };
        visitor.found(found)
    }
}
