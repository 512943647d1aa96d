//! The names in a directory, in the order of their bytes.
//!
//! A directory may be larger than memory: each pass over it keeps the next names only, and the
//! next pass continues after the last of them.

use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::OwnedFd;

use quire_shared::Name;
use quire_shared::path::{PathError, RESERVED_PREFIX};
use quire_shared::protocol::Time;
use rustix::fs::Dir;

use super::EntryFilter;
use super::Error;
use super::metadata::Metadata;

/// The names that are still to come. The caller keeps the directory, and gives always the same.
#[derive(Debug)]
pub(super) struct ReadDir {
    /// The last name that was taken.
    after: Option<Name>,
    /// The next names, in order.
    next: VecDeque<Name>,
    /// Whether names follow those.
    has_more: bool,
    unnameable: u64,
    names_per_pass: usize,
    /// Which entries may be shown; `None` if all may.
    filter: Option<EntryFilter>,
}

impl ReadDir {
    /// The names in `directory`, from the first after `after` on, as if nothing were in it but what
    /// may be `filter`.
    pub(super) fn read(
        directory: &OwnedFd,
        after: Option<Name>,
        filter: Option<EntryFilter>,
    ) -> Result<Self, Error> {
        let mut names = Self {
            after,
            next: VecDeque::new(),
            has_more: false,
            unnameable: 0,
            names_per_pass: NAMES_PER_PASS,
            filter,
        };
        names.scan(directory)?;
        Ok(names)
    }

    /// All names in `directory`, so many in a pass.
    #[cfg(test)]
    pub(super) fn with_pass(directory: &OwnedFd, names_per_pass: usize) -> Self {
        let mut names = Self::read(directory, None, None).unwrap();
        names.names_per_pass = names_per_pass;
        names.scan_once(directory).unwrap();
        names
    }

    /// Takes the next name, unless there is none or it isn't wanted.
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

    /// Whether no name is left; asked after [`next_if`](Self::next_if) gave none.
    pub(super) fn is_at_end(&self) -> bool {
        self.next.is_empty()
    }

    /// How many names of the directory can't travel.
    pub(super) fn unnameable(&self) -> u64 {
        self.unnameable
    }

    /// Forgets what takes up much memory; it will be read again.
    pub(super) fn trim(&mut self) {
        if self.next.len() > NAMES_KEPT {
            self.next.truncate(NAMES_KEPT);
            self.next.shrink_to_fit();
            self.has_more = true;
        }
    }

    /// Reads the next names, again if the directory changes meanwhile, but not for ever.
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

    /// One pass over the directory: the smallest names after the last one, up to the limit.
    fn scan_once(&mut self, directory: &OwnedFd) -> Result<(), Error> {
        let mut smallest = BinaryHeap::new();
        self.has_more = false;
        self.unnameable = 0;
        let reading = || Error::system("reading a directory");
        for entry in Dir::read_from(directory).map_err(reading())? {
            let entry = entry.map_err(reading())?;
            let name = match entry.file_name().to_str().map(Name::new) {
                Ok(Ok(name)) => name,
                // Ours, or the directory itself and its parent.
                Ok(Err(PathError::Reserved | PathError::Relative)) => continue,
                Ok(Err(_)) | Err(_) => {
                    let bytes = entry.file_name().to_bytes();
                    let is_ours = bytes.starts_with(RESERVED_PREFIX.as_bytes());
                    if !is_ours && self.filter.as_ref().is_none_or(EntryFilter::has_others) {
                        self.unnameable += 1;
                    }
                    continue;
                }
            };
            let is_over = self.after.as_ref().is_some_and(|after| name <= *after);
            let is_hidden = self
                .filter
                .as_ref()
                .is_some_and(|filter| !filter.contains(&name));
            if is_over || is_hidden {
                continue;
            }
            smallest.push(name);
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

fn changed(directory: &OwnedFd) -> Result<Time, Error> {
    let metadata = Metadata::of(directory);
    Ok(metadata
        .map_err(Error::system("looking at a directory"))?
        .changed)
}

/// ReadDir kept by one pass: a few megabytes at usual lengths. A directory of a million entries takes
/// ten passes.
const NAMES_PER_PASS: usize = 100_000;

/// ReadDir kept of a directory while one below it is walked: with as many levels as a path can have,
/// some ten megabytes in all.
const NAMES_KEPT: usize = 1024;

/// How often a pass is repeated over a directory that changes.
const SCANS_MAX: usize = 3;
