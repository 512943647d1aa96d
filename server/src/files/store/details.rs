//! Details of what is stored: owner, group and extended attributes, where a request asks for them or gives
//! them.

use std::os::fd::{AsFd, OwnedFd};

use quire_shared::RemotePath;
use quire_shared::protocol::{Attributes, DetailKinds, Details, EntryKind, Xattrs};
use quire_transport::details::accounts::{GROUPS, USERS};
use quire_transport::details::xattrs;
use rustix::fs::OFlags;
use rustix::path::Arg;

use super::metadata::Metadata;
use super::permissions::GivenDetails;
use super::resolve::open_beneath;
use super::root::Root;
use super::staged_file::StagedFile;
use super::{Error, Store};

impl Store {
    /// Sets the extended attributes that a request gives on the staged file, before its content comes,
    /// so that a file system that has none is found out early.
    ///
    /// # Errors
    /// If they can't be set.
    pub(in crate::files) async fn try_xattrs(
        &self,
        staged: StagedFile,
        xattrs: Xattrs,
    ) -> Result<StagedFile, Error> {
        self.change(move |_| {
            set_xattrs(&staged.file, &xattrs)?;
            Ok(staged)
        })
        .await
    }
}

impl Root {
    /// As [`stat`](Self::stat), with the details of these kinds.
    ///
    /// # Errors
    /// If nothing has the name, or a directory above it is missing.
    pub(super) fn stat_with_details(
        &self,
        path: &RemotePath,
        kinds: DetailKinds,
    ) -> Result<Attributes, Error> {
        let attributes = self.stat(path)?;
        let metadata = self.inner.metadata(path)?;
        if attributes.kind == EntryKind::Directory {
            let (directory, _) = self.inner.directory(path, OFlags::RDONLY)?;
            return Ok(add_details(attributes, &metadata, &directory, kinds));
        }
        let slot = self.inner.slot(path, OFlags::PATH)?;
        let details = metadata.details_at(&slot.directory, slot.name, kinds);
        Ok(Attributes {
            details,
            ..attributes
        })
    }
}

impl Metadata {
    /// The details of the file or directory that is open as `file`. Extended attributes that can't be
    /// read or told are left out.
    pub(super) fn details(&self, file: impl AsFd, kinds: DetailKinds) -> Option<Box<Details>> {
        let xattrs = match kinds.xattrs {
            true => xattrs::read(file).ok().flatten(),
            false => None,
        };
        self.with_owners(xattrs, kinds)
    }

    /// As [`details`](Self::details), of `name` in `directory`, which is opened only if it has to be.
    pub(super) fn details_at(
        &self,
        directory: &OwnedFd,
        name: impl Arg + Copy,
        kinds: DetailKinds,
    ) -> Option<Box<Details>> {
        let has_xattrs = !self.is_foreign && self.kind == EntryKind::File;
        let xattrs = match kinds.xattrs && has_xattrs {
            true => open_beneath(directory, name, READING)
                .ok()
                .and_then(|file| xattrs::read(file).ok().flatten()),
            false => None,
        };
        self.with_owners(xattrs, kinds)
    }

    fn with_owners(&self, xattrs: Option<Xattrs>, kinds: DetailKinds) -> Option<Box<Details>> {
        let details = Details {
            owner: kinds.owner.then(|| USERS.account(self.owner)),
            group: kinds.group.then(|| GROUPS.account(self.group)),
            xattrs,
        };
        details.boxed()
    }
}

/// The details of an open directory, beside its attributes.
pub(super) fn add_details(
    attributes: Attributes,
    metadata: &Metadata,
    directory: &OwnedFd,
    kinds: DetailKinds,
) -> Attributes {
    Attributes {
        details: match kinds.is_empty() {
            true => None,
            false => metadata.details(directory, kinds),
        },
        ..attributes
    }
}

impl GivenDetails {
    /// Sets the extended attributes of an open file or directory, if there are some given.
    pub(super) fn set_xattrs(&self, file: impl AsFd) -> Result<(), Error> {
        self.xattrs
            .as_ref()
            .map_or(Ok(()), |xattrs| set_xattrs(file, xattrs))
    }
}

fn set_xattrs(file: impl AsFd, xattrs: &Xattrs) -> Result<(), Error> {
    let set = xattrs::write(file, xattrs);
    set.map_err(|error| match error.kind() {
        std::io::ErrorKind::Unsupported => Error::Unsupported("store extended attributes"),
        _ => Error::system("setting extended attributes")(error),
    })
}

/// How a file is opened whose extended attributes are read. See
/// [`OpenFile::open`](super::open_file::OpenFile::open).
const READING: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::NOFOLLOW);
