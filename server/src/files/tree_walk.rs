//! Walk through a directory and everything below it.
//!
//! A blocking thread walks the tree and passes entries to a [`Visitor`] until that is full. A lock
//! is held only while each entry is opened. A lock that isn't free interrupts the walk, because
//! only the asynchronous side can wait for it. The walk bypasses the cache: it would evict the
//! files that single requests read repeatedly.

use quire_shared::path::Unnameable;
use quire_shared::protocol::{Attributes, Entry, EntryKind, GetTree};
use quire_shared::{Name, RemotePath};

use super::Files;
use super::caller::{Caller, without_xattrs};
use super::error::Error;
use super::locks::LockGuard;
use super::store::{self, OpenFile, Visited, Walk, WalkStep};

/// Entry of a walk, in its order: entries of a directory come between its `Entered` and its `Left`.
#[derive(Debug)]
pub enum TreeEntry {
    /// A directory; its entries follow.
    Entered(Entry),
    /// A small file that the caller may read; it is open.
    File(Name, OpenFile),
    /// Anything else, or a file that is too large for a walk.
    Described(Entry),
    /// An entry that failed or is refused.
    Missed(Name, Error),
    /// The end of the current directory.
    Left {
        /// Its entries whose names aren't valid on the wire.
        unnameable: Unnameable,
        /// Error that ended its listing early, if there was one.
        failure: Option<Error>,
    },
}

/// Receiver of the entries of a walk, on a blocking thread.
pub trait Visitor: Send + 'static {
    /// Receives one entry.
    ///
    /// # Errors
    /// An error ends the walk.
    fn found(&mut self, found: TreeEntry) -> Result<(), Error>;

    /// Whether the walk has to pause, so that the visitor can be emptied.
    fn is_full(&self) -> bool;
}

/// Walk in progress.
#[derive(Debug)]
pub struct TreeWalk {
    files: Files,
    caller: Caller,
    walk: Walk,
    /// Largest file that is opened, in bytes.
    size_max: u64,
    /// Entry whose lock wasn't free.
    locked: Option<(Name, RemotePath)>,
    has_ended: bool,
}

impl Files {
    /// Starts a walk in the directory of a request, and returns the directory's attributes. Files of
    /// at most `size_max` bytes are opened during the walk, unless they have several names and the
    /// request doesn't want their content.
    ///
    /// # Errors
    /// If it is refused, or the path isn't a directory that can be read.
    pub async fn walk(
        &self,
        caller: &Caller,
        request: &GetTree,
        size_max: u64,
    ) -> Result<(TreeWalk, Attributes), Error> {
        let path = &request.path;
        let filter = caller.access.list(path)?;
        let guard = self.locks().shared(caller.owner, path).await?;
        let (mut walk, attributes) = self.store().walk(path, filter, request.details).await?;
        drop(guard);
        walk.describe_linked(request.describe_linked);
        let attributes = caller.shown(path, attributes);
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
    /// Whether the walk is complete.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Continues the walk until the visitor is full, a lock isn't free, or the walk is complete.
    ///
    /// # Errors
    /// The error that ended the walk.
    pub async fn advance<V: Visitor>(mut self, mut visitor: V) -> Result<(Self, V), Error> {
        let waited = match self.locked.take() {
            Some((name, path)) => {
                let guard = self.files.locks().shared(self.caller.owner, &path).await;
                Some((name, path, guard))
            }
            None => None,
        };
        // A lock may be held on that thread even after the request has gone.
        let running = self.files.store().background().token();
        let walking = store::blocking(move || {
            let _running = running;
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
            match self.walk.step()? {
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

    /// Opens or describes the entry `name`, and passes it on; the lock is held until it is open.
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
                let attributes = match readable {
                    Ok(()) => attributes,
                    Err(_) => without_xattrs(attributes),
                };
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
