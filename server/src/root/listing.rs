//! The entries of a directory, page by page, in the order of their names' bytes.
//!
//! A directory may be larger than memory: each pass over it keeps the next names only, and the
//! next pass continues after the last of them. A directory that changes meanwhile may show an
//! entry's old or new name, but never one twice, and never an unfinished file.

use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::OwnedFd;

use quire_shared::limits::PAGE_BYTES_MAX;
use quire_shared::path::{PathError, RESERVED_PREFIX};
use quire_shared::protocol::{Entry, EntryKind, Page, Time};
use quire_shared::{Name, RemotePath};
use rustix::fs::{Dir, OFlags};

use super::facts::Facts;
use super::{Inner, Root};
use crate::error::RequestError;
use crate::rules::ShownEntries;

/// A listing under way; it holds the directory open, wherever that may be moved.
#[derive(Debug)]
pub struct Listing {
    directory: OwnedFd,
    home: u64,
    /// The last name that was looked at.
    after: Option<Name>,
    /// The next names, in order.
    names: VecDeque<Name>,
    /// Whether names follow those.
    has_more: bool,
    unnameable: u64,
    names_per_pass: usize,
    /// Which entries may be shown; `None` if all may.
    shown: Option<ShownEntries>,
}

impl Root {
    /// Begins to list the directory at `path`, with the first name after `after`, as if nothing
    /// were in it but what may be `shown`.
    ///
    /// # Errors
    /// If there is no directory, or it can't be read.
    pub fn list(
        &self,
        path: &RemotePath,
        after: Option<Name>,
        shown: Option<ShownEntries>,
    ) -> Result<Listing, RequestError> {
        let mut listing = Listing {
            directory: self.inner.listed_directory(path)?,
            home: self.inner.id.device,
            after,
            names: VecDeque::new(),
            has_more: false,
            unnameable: 0,
            names_per_pass: NAMES_PER_PASS,
            shown,
        };
        listing.scan()?;
        Ok(listing)
    }
}

impl Inner {
    fn listed_directory(&self, path: &RemotePath) -> Result<OwnedFd, RequestError> {
        if !path.is_root() {
            let facts = self.facts(path)?;
            match facts.kind {
                _ if facts.elsewhere => return Err(RequestError::OtherFileSystem),
                EntryKind::Directory => {}
                EntryKind::File => return Err(RequestError::NotDirectory),
                EntryKind::Symlink | EntryKind::Other => return Err(RequestError::SpecialFile),
            }
        }
        let (directory, _) = self.directory(path, OFlags::RDONLY)?;
        Ok(directory)
    }
}

impl Listing {
    /// The next entries, as many as fit into a page; the last page says so.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub fn next_page(&mut self) -> Result<Page, RequestError> {
        let mut page = Page::default();
        let mut bytes = PAGE_FRAME_BYTES;
        loop {
            let Some(name) = self.next_name(bytes)? else {
                break;
            };
            let found = Facts::at(&self.directory, name.as_str(), self.home)
                .map_err(RequestError::system("looking at an entry"))?;
            // Gone since its name was read.
            if let Some(facts) = found {
                bytes += entry_bytes(&name);
                page.entries.push(Entry {
                    name: name.clone(),
                    attributes: facts.attributes(),
                });
            }
            self.after = Some(name);
        }
        page.last = self.names.is_empty();
        if page.last {
            page.unnameable = self.unnameable;
        }
        Ok(page)
    }

    /// Takes the next name, unless there is none or it doesn't fit beside `bytes`.
    fn next_name(&mut self, bytes: usize) -> Result<Option<Name>, RequestError> {
        if self.names.is_empty() && self.has_more {
            self.scan()?;
        }
        let fits = |name: &mut Name| bytes + entry_bytes(name) <= PAGE_BYTES_MAX;
        Ok(self.names.pop_front_if(fits))
    }

    /// Reads the next names, again if the directory changes meanwhile, but not for ever.
    fn scan(&mut self) -> Result<(), RequestError> {
        for _ in 1..SCANS_MAX {
            let before = self.changed()?;
            self.read_names()?;
            if self.changed()? == before {
                return Ok(());
            }
        }
        self.read_names()
    }

    fn changed(&self) -> Result<Time, RequestError> {
        let facts = Facts::of(&self.directory);
        Ok(facts
            .map_err(RequestError::system("looking at a directory"))?
            .changed)
    }

    /// One pass over the directory: the smallest names after the last one, up to the limit.
    fn read_names(&mut self) -> Result<(), RequestError> {
        let mut smallest = BinaryHeap::new();
        self.has_more = false;
        self.unnameable = 0;
        let reading = || RequestError::system("reading a directory");
        for entry in Dir::read_from(&self.directory).map_err(reading())? {
            let entry = entry.map_err(reading())?;
            let name = match entry.file_name().to_str().map(Name::new) {
                Ok(Ok(name)) => name,
                // Ours, or the directory itself and its parent.
                Ok(Err(PathError::Reserved | PathError::Relative)) => continue,
                Ok(Err(_)) | Err(_) => {
                    let bytes = entry.file_name().to_bytes();
                    let is_ours = bytes.starts_with(RESERVED_PREFIX.as_bytes());
                    if !is_ours && self.shown.as_ref().is_none_or(ShownEntries::has_others) {
                        self.unnameable += 1;
                    }
                    continue;
                }
            };
            let is_over = self.after.as_ref().is_some_and(|after| name <= *after);
            let is_hidden = self
                .shown
                .as_ref()
                .is_some_and(|shown| !shown.contains(&name));
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
        self.names = names.into();
        Ok(())
    }
}

/// Upper bound of what an entry takes up in a page.
fn entry_bytes(name: &Name) -> usize {
    name.as_str().len() + ENTRY_FRAME_BYTES
}

/// Upper bound of what an entry takes up besides its name: heads of the maps and of the name,
/// kind, size, time, mode, and the version.
const ENTRY_FRAME_BYTES: usize = 112;

/// Upper bound of what a page takes up besides its entries.
const PAGE_FRAME_BYTES: usize = 64;

/// Names kept by one pass: a few megabytes at usual lengths. A directory of a million entries takes
/// ten passes.
const NAMES_PER_PASS: usize = 100_000;

/// How often a pass is repeated over a directory that changes.
const SCANS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use quire_shared::ErrorCode;
    use quire_shared::codec;
    use quire_shared::limits::{NAME_BYTES_MAX, VERSION_BYTES_MAX};
    use quire_shared::protocol::{Attributes, Reply, Version};

    use super::super::fixture::{Fixture, code, path};
    use super::*;

    fn pages(mut listing: Listing) -> Vec<Page> {
        let mut pages = vec![listing.next_page().unwrap()];
        while !pages.last().unwrap().last {
            pages.push(listing.next_page().unwrap());
        }
        pages
    }

    fn names(pages: &[Page]) -> Vec<&str> {
        let entries = pages.iter().flat_map(|page| &page.entries);
        entries.map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn entries_are_in_order_and_described() {
        let fixture = Fixture::new();
        for name in ["b", "a\nb", "é", "Z", "a"] {
            fixture.write(name, "content");
        }
        fixture.write(".quire-download", "x");
        fixture.write("d/x", "x");
        symlink("/etc", fixture.local("link")).unwrap();
        std::fs::write(fixture.local("").join(OsStr::from_bytes(b"\xff")), "x").unwrap();
        let _staged = fixture.staged("x");
        let pages = pages(fixture.root.list(&RemotePath::ROOT, None, None).unwrap());
        assert_eq!(names(&pages), ["Z", "a", "a\nb", "b", "d", "link", "é"]);
        assert_eq!(pages[0].unnameable, 1);
        for entry in &pages[0].entries {
            let alone = fixture.root.stat(&path(entry.name.as_str())).unwrap();
            assert_eq!(entry.attributes, alone);
        }
        assert_eq!(pages[0].entries[5].attributes.kind, EntryKind::Symlink);
        let after = Some(Name::new("a").unwrap());
        let rest = self::pages(fixture.root.list(&RemotePath::ROOT, after, None).unwrap());
        assert_eq!(names(&rest), ["a\nb", "b", "d", "link", "é"]);
    }

    #[test]
    fn only_directories_are_listed() {
        let fixture = Fixture::new();
        fixture.write("file", "x");
        symlink(".", fixture.local("link")).unwrap();
        let list = |name| code(fixture.root.list(&path(name), None, None));
        assert_eq!(list("file"), ErrorCode::NOT_DIRECTORY);
        assert_eq!(list("link"), ErrorCode::SPECIAL_FILE);
        assert_eq!(list("link/x"), ErrorCode::NOT_DIRECTORY);
        assert_eq!(list("missing"), ErrorCode::NOT_FOUND);
    }

    #[test]
    fn a_directory_larger_than_a_pass_and_a_page_is_complete() {
        let fixture = Fixture::new();
        let expected: Vec<String> = (0..1000)
            .map(|number| format!("{number:04}{}", "x".repeat(100)))
            .collect();
        for name in &expected {
            fixture.write(name, "");
        }
        let mut listing = fixture.root.list(&RemotePath::ROOT, None, None).unwrap();
        listing.names_per_pass = 70;
        listing.read_names().unwrap();
        let pages = pages(listing);
        assert!(pages.len() > 2);
        assert_eq!(names(&pages), expected);
    }

    #[test]
    fn a_page_ends_with_the_directory_and_not_with_a_pass() {
        let fixture = Fixture::new();
        for name in ["a", "b", "c", "d"] {
            fixture.write(name, "");
        }
        let mut listing = fixture.root.list(&RemotePath::ROOT, None, None).unwrap();
        listing.names_per_pass = 2;
        listing.read_names().unwrap();
        std::fs::remove_file(fixture.local("b")).unwrap();
        let pages = pages(listing);
        assert_eq!(pages.len(), 1);
        assert_eq!(names(&pages), ["a", "c", "d"]);
        let empty = fixture.root.make_directory(
            &path("e"),
            crate::root::Parents::MustExist,
            &Default::default(),
        );
        empty.unwrap();
        let pages = self::pages(fixture.root.list(&path("e"), None, None).unwrap());
        assert_eq!((pages.len(), pages[0].entries.len()), (1, 0));
    }

    #[test]
    fn no_entry_is_longer_than_its_estimate() {
        let mut page = Page {
            unnameable: u64::MAX,
            ..Page::default()
        };
        let empty = codec::encode(&Reply::Ok(page.clone())).unwrap().len();
        assert!(empty + 8 <= PAGE_FRAME_BYTES, "with the count of entries");
        let name = Name::new("x".repeat(NAME_BYTES_MAX)).unwrap();
        let estimate = entry_bytes(&name);
        page.entries.push(Entry {
            name,
            attributes: Attributes {
                kind: EntryKind::Other,
                size: u64::MAX,
                modified: Time {
                    seconds: i64::MIN,
                    nanoseconds: u32::MAX,
                },
                mode: u32::MAX,
                version: Version::new(&[0xff; VERSION_BYTES_MAX]).unwrap(),
            },
        });
        let full = codec::encode(&Reply::Ok(page)).unwrap().len();
        assert!(full - empty <= estimate, "{}", full - empty);
    }
}
