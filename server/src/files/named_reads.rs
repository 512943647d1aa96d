//! Reads of many files that a caller names one by one.
//!
//! A blocking thread opens one file after another and passes each to a [`FileVisitor`] until that is
//! full. A lock is held only while its file is opened. A lock that isn't free interrupts the work,
//! because only the asynchronous side can wait for it. The cache is bypassed, as by a walk: the
//! files would evict those that single requests read repeatedly.

use std::collections::VecDeque;

use quire_shared::RemotePath;
use quire_shared::protocol::DetailKinds;

use super::Files;
use super::caller::Caller;
use super::error::Error;
use super::locks::LockGuard;
use super::store::{self, OpenFile};

/// Receiver of the files that were opened, on a blocking thread.
pub trait FileVisitor: Send + 'static {
    /// Receives the next file, or the reason why it wasn't opened.
    ///
    /// # Errors
    /// An error ends the reads.
    fn opened(&mut self, file: Result<OpenFile, Error>) -> Result<(), Error>;

    /// Whether the reads have to pause, so that the visitor can be emptied.
    fn is_full(&self) -> bool;
}

/// Reads of many files by one caller.
#[derive(Debug)]
pub struct NamedReads {
    files: Files,
    caller: Caller,
    /// Details that are read of each file.
    details: DetailKinds,
}

impl Files {
    /// Prepares reads of many files, with their details of these kinds.
    ///
    /// # Errors
    /// If the caller has no rights at all.
    pub fn named_reads(&self, caller: &Caller, details: DetailKinds) -> Result<NamedReads, Error> {
        caller.access.any()?;
        Ok(NamedReads {
            files: self.clone(),
            caller: caller.clone(),
            details,
        })
    }
}

impl NamedReads {
    /// Opens the files at `paths` in their order until the visitor is full, or a lock other than the
    /// first isn't free. Returns the paths that are left.
    ///
    /// # Errors
    /// The error that ended the reads. That of a single file goes to the visitor.
    pub async fn open<V: FileVisitor>(
        &self,
        mut paths: VecDeque<RemotePath>,
        mut visitor: V,
    ) -> Result<(VecDeque<RemotePath>, V), Error> {
        let Some(mut path) = paths.pop_front() else {
            return Ok((paths, visitor));
        };
        let Self {
            files,
            caller,
            details,
        } = self;
        let mut locked = match caller.access.get(&path) {
            Ok(()) => {
                let waiting = files.locks().shared(caller.owner, &path);
                waiting.await.map_err(Error::from)
            }
            Err(refusal) => Err(refusal.into()),
        };
        let (files, caller, details) = (files.clone(), caller.clone(), *details);
        // A lock may be held on that thread even after the request has gone.
        let running = files.store().background().token();
        let reading = move || {
            let _running = running;
            loop {
                store::check_cancelled()?;
                visitor
                    .opened(locked.and_then(|guard| files.open_locked(&path, details, guard)))?;
                let Some(next) = paths.pop_front() else {
                    break;
                };
                let next_locked = match visitor.is_full() {
                    true => None,
                    false => files.try_lock_read(&caller, &next),
                };
                let Some(next_locked) = next_locked else {
                    paths.push_front(next);
                    break;
                };
                (path, locked) = (next, next_locked);
            }
            Ok((paths, visitor))
        };
        store::blocking(move || Ok(reading())).await?
    }
}

impl Files {
    /// Checks the right to read `path`, and locks it. `None` if the lock isn't free.
    fn try_lock_read(
        &self,
        caller: &Caller,
        path: &RemotePath,
    ) -> Option<Result<LockGuard, Error>> {
        match caller.access.get(path) {
            Ok(()) => self.locks().try_shared(caller.owner, path).map(Ok),
            Err(refusal) => Some(Err(refusal.into())),
        }
    }

    /// Opens a file whose lock is held until then. Blocks.
    fn open_locked(
        &self,
        path: &RemotePath,
        details: DetailKinds,
        guard: LockGuard,
    ) -> Result<OpenFile, Error> {
        let opened = self.store().open_file_here(path, details);
        drop(guard);
        Ok(opened?)
    }
}
