//! Reading the names in a directory, in the order of their bytes.
//!
//! A directory may be larger than memory. Each pass over it keeps the next names only; the
//! following pass continues after the last of them.

use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::OwnedFd;

use quire_shared::Name;
use quire_shared::path::Unnameable;
use quire_shared::path::{PathError, RESERVED_PREFIX};
use quire_shared::protocol::Time;
use rustix::fs::Dir;

use super::EntryFilter;
use super::Error;
use super::cancel;
use super::metadata::Metadata;

/// Iterator over the names in a directory. The caller keeps the directory open, and passes the same
/// one to every call.
#[derive(Debug)]
pub(super) struct ReadDir {
    /// Last name that was returned.
    after: Option<Name>,
    /// Next names, in order.
    next: VecDeque<Name>,
    /// Whether more names follow after `next`.
    has_more: bool,
    /// Names that can't be sent, because they aren't UTF-8 or not legal.
    unnameable: Unnameable,
    names_per_pass: usize,
    /// Filter of the names to return; `None` returns all.
    filter: Option<EntryFilter>,
}

impl ReadDir {
    /// Reads the names in `directory` from the first after `after`, leaving out those that `filter`
    /// hides.
    pub(super) fn read(
        directory: &OwnedFd,
        after: Option<Name>,
        filter: Option<EntryFilter>,
    ) -> Result<Self, Error> {
        let mut names = Self {
            after,
            next: VecDeque::new(),
            has_more: false,
            unnameable: Unnameable::default(),
            names_per_pass: NAMES_PER_PASS,
            filter,
        };
        names.scan(directory)?;
        Ok(names)
    }

    /// Reads all names in `directory`, with at most `names_per_pass` names per pass.
    #[cfg(test)]
    pub(super) fn with_pass(directory: &OwnedFd, names_per_pass: usize) -> Self {
        let mut names = Self::read(directory, None, None).unwrap();
        names.names_per_pass = names_per_pass;
        names.scan_once(directory).unwrap();
        names
    }

    /// Returns the next name and advances, unless no name is left or `is_wanted` refuses it.
    pub(super) fn next_if(
        &mut self,
        directory: &OwnedFd,
        is_wanted: impl FnOnce(&Name) -> bool,
    ) -> Result<Option<Name>, Error> {
        if self.next.is_empty() && self.has_more {
            self.scan(directory)?;
        }
        let name = self.next.pop_front_if(|name| is_wanted(name));
        if name.is_some() {
            self.after.clone_from(&name);
        }
        Ok(name)
    }

    /// Whether no name is left. Only valid after [`next_if`](Self::next_if) returned `None`.
    pub(super) fn is_at_end(&self) -> bool {
        self.next.is_empty()
    }

    /// The names in the directory that can't be sent.
    pub(super) fn unnameable(&self) -> &Unnameable {
        &self.unnameable
    }

    /// Frees all but the next [`NAMES_KEPT`] names; the others will be read again.
    pub(super) fn trim(&mut self) {
        if self.next.len() > NAMES_KEPT {
            self.next.truncate(NAMES_KEPT);
            self.next.shrink_to_fit();
            self.has_more = true;
        }
    }

    /// Reads the next names. If the directory changes during a pass, the pass is repeated, up
    /// to [`SCANS_MAX`] passes in all.
    fn scan(&mut self, directory: &OwnedFd) -> Result<(), Error> {
        for _ in 1..SCANS_MAX {
            let before = changed(directory)?;
            self.scan_once(directory)?;
            if changed(directory)? == before {
                return Ok(());
            }
        }
        self.scan_once(directory)
    }

    /// Makes one pass over the directory, which keeps the smallest names after the last one
    /// returned.
    fn scan_once(&mut self, directory: &OwnedFd) -> Result<(), Error> {
        let mut smallest = BinaryHeap::new();
        self.has_more = false;
        self.unnameable = Unnameable::default();
        let reading = || Error::system("reading a directory");
        for entry in Dir::read_from(directory).map_err(reading())? {
            cancel::check()?;
            let entry = entry.map_err(reading())?;
            let name = match entry.file_name().to_str().map(Name::new) {
                Ok(Ok(name)) => name,
                // Reserved for quire, or `.` and `..`.
                Ok(Err(PathError::Reserved | PathError::Relative)) => continue,
                Ok(Err(_)) | Err(_) => {
                    let bytes = entry.file_name().to_bytes();
                    let is_reserved = bytes.starts_with(RESERVED_PREFIX.as_bytes());
                    // A caller that may not see unlisted names must not learn their number either.
                    if !is_reserved && self.filter.as_ref().is_none_or(EntryFilter::has_others) {
                        self.unnameable.add(bytes);
                    }
                    continue;
                }
            };
            let was_returned = self.after.as_ref().is_some_and(|after| name <= *after);
            let is_hidden = self
                .filter
                .as_ref()
                .is_some_and(|filter| !filter.contains(&name));
            if was_returned || is_hidden {
                continue;
            }
            smallest.push(name);
            // A max-heap: what is dropped is the largest of the smallest names.
            if smallest.len() > self.names_per_pass {
                smallest.pop();
                self.has_more = true;
            }
        }
        let mut names = smallest.into_sorted_vec();
        // A directory that changes while it is read may show a name twice.
        names.dedup();
        self.next = names.into();
        Ok(())
    }
}

/// Reads the change time of `directory`.
fn changed(directory: &OwnedFd) -> Result<Time, Error> {
    let metadata = Metadata::of(directory);
    Ok(metadata
        .map_err(Error::system("reading the metadata of a directory"))?
        .changed)
}

/// Names kept by one pass: a few megabytes at usual lengths. A directory of a million entries takes
/// ten passes.
const NAMES_PER_PASS: usize = 100_000;

/// Names kept of a directory while a directory below it is walked. With as many levels as a path
/// can have, that is some ten megabytes in all.
const NAMES_KEPT: usize = 1024;

/// Most passes over a directory that changes during each of them.
const SCANS_MAX: usize = 3;
