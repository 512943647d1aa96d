//! The entries of a directory, page by page.
//!
//! A directory that changes meanwhile may show an entry's old or new name, but never one twice,
//! and never an unfinished file.

use std::os::fd::OwnedFd;

use quire_shared::limits::PAGE_BYTES_MAX;
use quire_shared::protocol::{Entry, EntryKind, Page};
use quire_shared::{Name, RemotePath};
use rustix::fs::OFlags;

use super::metadata::Facts;
use super::read_dir::Names;
use super::{Inner, Root};
use crate::auth::rules::ShownEntries;
use crate::error::RequestError;

/// A listing under way; it holds the directory open, wherever that may be moved.
#[derive(Debug)]
pub struct Listing {
    directory: OwnedFd,
    home: u64,
    names: Names,
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
        let (directory, _) = self.inner.listed_directory(path)?;
        let names = Names::read(&directory, after, shown)?;
        Ok(Listing {
            directory,
            home: self.inner.id.device,
            names,
        })
    }
}

impl Inner {
    /// Opens the directory at `path` to read its names.
    pub(super) fn listed_directory(
        &self,
        path: &RemotePath,
    ) -> Result<(OwnedFd, Facts), RequestError> {
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
        let facts = Facts::of(&directory);
        let facts = facts.map_err(RequestError::system("looking at a directory"))?;
        Ok((directory, facts))
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
            let fits = |name: &Name| bytes + entry_bytes(name) <= PAGE_BYTES_MAX;
            let Some(name) = self.names.next_if(&self.directory, fits)? else {
                break;
            };
            let found = Facts::at(&self.directory, name.as_str(), self.home)
                .map_err(RequestError::system("looking at an entry"))?;
            // Gone since its name was read.
            if let Some(facts) = found {
                bytes += entry_bytes(&name);
                page.entries.push(Entry {
                    name,
                    attributes: facts.attributes(),
                });
            }
        }
        page.last = self.names.is_at_end();
        if page.last {
            page.unnameable = self.names.unnameable();
        }
        Ok(page)
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use quire_shared::ErrorCode;
    use quire_shared::codec;
    use quire_shared::limits::{NAME_BYTES_MAX, VERSION_BYTES_MAX};
    use quire_shared::protocol::{Attributes, Reply, Time, Version};

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
        listing.names = Names::with_pass(&listing.directory, 70);
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
        listing.names = Names::with_pass(&listing.directory, 2);
        std::fs::remove_file(fixture.local("b")).unwrap();
        let pages = pages(listing);
        assert_eq!(pages.len(), 1);
        assert_eq!(names(&pages), ["a", "c", "d"]);
        let empty = fixture.root.make_directory(
            &path("e"),
            crate::store::Parents::MustExist,
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
