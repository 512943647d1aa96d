//! Listing of a directory, page by page.
//!
//! If the directory changes during a listing, an entry may appear under its old or its new name. No
//! name appears twice, and no unfinished file appears.

use std::os::fd::OwnedFd;

use quire_shared::limits::LINK_TARGET_BYTES_MAX;
use quire_shared::path::Unnameable;
use quire_shared::protocol::{Entry, EntryKind};
use quire_shared::{Name, RemotePath};
use rustix::fs::OFlags;

use super::metadata::Metadata;
use super::read_dir::ReadDir;
use super::root::{Inner, Root};
use super::{EntryFilter, Error, blocking, cancel};

/// Listing in progress. It keeps the directory open, so that it continues even if that is renamed.
#[derive(Debug)]
pub struct Listing {
    directory: OwnedFd,
    root_device: u64,
    names: ReadDir,
}

impl Root {
    /// Starts a listing of the directory at `path`, from the first name after `after`. Entries that
    /// `filter` hides are left out.
    ///
    /// # Errors
    /// If there is no directory at `path`, or it can't be read.
    pub(super) fn list(
        &self,
        path: &RemotePath,
        after: Option<Name>,
        filter: Option<EntryFilter>,
    ) -> Result<Listing, Error> {
        let (directory, _) = self.inner.listed_directory(path)?;
        let names = ReadDir::read(&directory, after, filter)?;
        Ok(Listing {
            directory,
            root_device: self.inner.id.device,
            names,
        })
    }
}

impl Inner {
    /// Opens the directory at `path` to read its names.
    pub(super) fn listed_directory(&self, path: &RemotePath) -> Result<(OwnedFd, Metadata), Error> {
        // Opening fails alike for files and symbolic links; only the metadata tells them apart.
        if path.is_root() {
            self.require_root()?;
        } else {
            let metadata = self.metadata(path)?;
            match metadata.kind {
                _ if metadata.is_foreign => return Err(Error::OtherFileSystem),
                EntryKind::Directory => {}
                EntryKind::File => return Err(Error::NotDirectory),
                EntryKind::Symlink | EntryKind::Other => return Err(Error::SpecialFile),
            }
        }
        let (directory, _) = self.directory(path, OFlags::RDONLY)?;
        let metadata = Metadata::of(&directory);
        let metadata = metadata.map_err(Error::system("reading the metadata of a directory"))?;
        Ok((directory, metadata))
    }
}

/// Consecutive entries of a listing.
#[derive(Debug)]
pub struct ListingPart {
    /// Entries, in the order of the bytes of their names.
    pub entries: Vec<Entry>,
    /// Whether this is the last part.
    pub is_last: bool,
    /// Names in the directory that can't be sent, such as names that aren't UTF-8. None in all
    /// parts but the last.
    pub unnameable: Unnameable,
}

impl Listing {
    /// Reads the next entries, up to the first name that `fits` refuses, and returns them with the
    /// rest of the listing.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub async fn next(
        mut self,
        mut fits: impl FnMut(&Name) -> bool + Send + 'static,
    ) -> Result<(ListingPart, Self), Error> {
        blocking(move || Ok((self.next_part(&mut fits)?, self))).await
    }

    /// Does the work of [`next`](Self::next). Blocks.
    pub(super) fn next_part(
        &mut self,
        fits: &mut dyn FnMut(&Name) -> bool,
    ) -> Result<ListingPart, Error> {
        let mut entries = Vec::new();
        let mut targets = 0;
        let mut is_last = false;
        while targets < TARGETS_BYTES {
            let Some(name) = self.names.next_if(&self.directory, &mut *fits)? else {
                is_last = self.names.is_at_end();
                break;
            };
            cancel::check()?;
            let metadata = Metadata::at(&self.directory, name.as_str(), self.root_device)
                .map_err(Error::system("reading the metadata of an entry"))?;
            // `None` if the name was removed since it was read.
            if let Some(metadata) = metadata {
                let attributes = metadata.attributes_at(&self.directory, name.as_str());
                let target = attributes.target.as_ref();
                targets += target.map_or(0, |target| target.as_bytes().len() + TARGET_FRAME_BYTES);
                entries.push(Entry { name, attributes });
            }
        }
        let unnameable = match is_last {
            true => self.names.unnameable().clone(),
            false => Unnameable::default(),
        };
        Ok(ListingPart {
            entries,
            is_last,
            unnameable,
        })
    }
}

/// Targets of symbolic links that end a part, in bytes. A part exceeds it by one target at most.
const TARGETS_BYTES: usize = 16 * 1024;

/// Bytes that a target takes besides its own, at most: a key and the head of a byte string.
const TARGET_FRAME_BYTES: usize = 6;

/// Most bytes that the targets of symbolic links take in a part, which the names leave free.
pub(crate) const PART_TARGETS_BYTES_MAX: usize =
    TARGETS_BYTES + LINK_TARGET_BYTES_MAX + TARGET_FRAME_BYTES;

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use quire_shared::ErrorCode;

    use super::super::fixture::{StoreFixture, code, path};
    use super::*;

    /// Reads all parts, each with as many entries as fit into a page of the protocol.
    fn pages(mut listing: Listing) -> Vec<ListingPart> {
        let mut pages: Vec<ListingPart> = Vec::new();
        while pages.last().is_none_or(|page| !page.is_last) {
            let mut bytes = 0;
            let mut fits = |name: &Name| {
                bytes += 112 + name.as_str().len();
                bytes <= quire_shared::limits::PAGE_BYTES_MAX
            };
            pages.push(listing.next_part(&mut fits).unwrap());
        }
        pages
    }

    fn names(pages: &[ListingPart]) -> Vec<&str> {
        let entries = pages.iter().flat_map(|page| &page.entries);
        entries.map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn entries_are_in_order_with_their_attributes() {
        let fixture = StoreFixture::new();
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
        assert_eq!(pages[0].unnameable.count, 1);
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
        let fixture = StoreFixture::new();
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
        let fixture = StoreFixture::new();
        let expected: Vec<String> = (0..1000)
            .map(|number| format!("{number:04}{}", "x".repeat(100)))
            .collect();
        for name in &expected {
            fixture.write(name, "");
        }
        let mut listing = fixture.root.list(&RemotePath::ROOT, None, None).unwrap();
        listing.names = ReadDir::with_pass(&listing.directory, 70);
        let pages = pages(listing);
        assert!(pages.len() > 2);
        assert_eq!(names(&pages), expected);
    }

    #[test]
    fn a_page_does_not_end_with_a_pass() {
        let fixture = StoreFixture::new();
        for name in ["a", "b", "c", "d"] {
            fixture.write(name, "");
        }
        let mut listing = fixture.root.list(&RemotePath::ROOT, None, None).unwrap();
        listing.names = ReadDir::with_pass(&listing.directory, 2);
        std::fs::remove_file(fixture.local("b")).unwrap();
        let pages = pages(listing);
        assert_eq!(pages.len(), 1);
        assert_eq!(names(&pages), ["a", "c", "d"]);
        let must_exist = super::super::Parents::MustExist;
        let created = fixture
            .root
            .make_directory(&path("e"), must_exist, &Default::default());
        created.unwrap();
        let pages = self::pages(fixture.root.list(&path("e"), None, None).unwrap());
        assert_eq!((pages.len(), pages[0].entries.len()), (1, 0));
    }
}
