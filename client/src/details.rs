//! Which details of files a transfer keeps, and how they are read and set here.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use quire_shared::ErrorCode;
use quire_shared::protocol::{DetailKinds, Details, NamedId};
use quire_transport::details::accounts::{GROUPS, USERS};

use crate::error::ClientError;

/// What a transfer keeps of files beside content, time and permissions. Nothing by default.
///
/// A server of an earlier version keeps none of it, and doesn't say so:
/// [`Client::require_details`](crate::Client::require_details) finds out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// The details.
    pub kinds: DetailKinds,
    /// Whether owners and groups are kept by their numbers, and not by their names.
    pub numeric_ids: bool,
}

/// Why details of a file can't be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DetailsFailure {
    /// The server doesn't know them, and would ignore them.
    #[error(
        "the server is of an earlier version, which doesn't keep that; nothing was transferred"
    )]
    Unknown,
    /// One side doesn't tell the extended attributes of a file.
    #[error(
        "its extended attributes can't be read, or are too much to be sent: 64, of 8 KiB at most"
    )]
    NotTold,
    /// The server can't store a file with the extended attributes that it is to have.
    #[error("not supported by the server, whose file system seems to have no extended attributes")]
    NotStored,
}

impl Keep {
    /// Keeps nothing.
    pub const NOTHING: Self = Self {
        kinds: DetailKinds::NONE,
        numeric_ids: false,
    };

    /// Whether nothing is kept.
    pub(crate) fn is_nothing(self) -> bool {
        self.kinds.is_empty()
    }

    /// Reads the details of an open file or directory, whose name in errors is `path`. Blocks.
    ///
    /// # Errors
    /// If they can't be read, or are over a limit.
    pub(crate) fn of_file(
        self,
        file: &File,
        path: &Path,
    ) -> Result<Option<Box<Details>>, ClientError> {
        if self.is_nothing() {
            return Ok(None);
        }
        let reading = |error| ClientError::disk(path, "read the attributes of", error);
        let metadata = file.metadata().map_err(reading)?;
        let mut details = self.owners(&metadata);
        if self.kinds.xattrs {
            let found = system::read_xattrs(file).map_err(reading)?;
            details.xattrs = Some(found.ok_or_else(|| ClientError::Unsuitable {
                path: path.to_owned(),
                reason: "has more extended attributes than can be sent: 64, of 8 KiB together",
            })?);
        }
        Ok(details.boxed())
    }

    /// As [`of_file`](Self::of_file), of the directory `path`. A link is followed.
    ///
    /// # Errors
    /// As [`of_file`](Self::of_file).
    pub(crate) fn of_directory(self, path: &Path) -> Result<Option<Box<Details>>, ClientError> {
        if self.is_nothing() {
            return Ok(None);
        }
        let opened = File::open(path).map_err(|error| ClientError::disk(path, "open", error))?;
        self.of_file(&opened, path)
    }

    /// Reads the details of what has the path `path`, for a comparison: what can't be told is absent.
    /// Blocks.
    pub(crate) fn of_entry(self, path: &Path, metadata: &Metadata) -> Option<Box<Details>> {
        if self.is_nothing() {
            return None;
        }
        let mut details = self.owners(metadata);
        if self.kinds.xattrs && !metadata.is_symlink() {
            details.xattrs = system::read_xattrs_at(path).ok().flatten();
        }
        details.boxed()
    }

    fn owners(self, metadata: &Metadata) -> Details {
        let (owner, group) = system::owners(metadata);
        let details = Details {
            owner,
            group,
            xattrs: None,
        };
        self.pick(details)
    }

    /// Leaves of details what is kept.
    pub(crate) fn pick(self, details: Details) -> Details {
        let account = |is_kept: bool, account: Option<NamedId>| {
            let account = account.filter(|_| is_kept);
            account.map(|NamedId { id, name }| NamedId {
                id,
                name: name.filter(|_| !self.numeric_ids),
            })
        };
        Details {
            owner: account(self.kinds.owner, details.owner),
            group: account(self.kinds.group, details.group),
            xattrs: details.xattrs.filter(|_| self.kinds.xattrs),
        }
    }

    /// Takes what the server told of a file.
    ///
    /// # Errors
    /// If something is missing that is to be kept.
    pub(crate) fn told(
        self,
        details: Option<Box<Details>>,
    ) -> Result<Option<Box<Details>>, ClientError> {
        if self.is_nothing() {
            return Ok(None);
        }
        let picked = self.pick(details.map(|details| *details).unwrap_or_default());
        match self.is_told(&picked) {
            true => Ok(picked.boxed()),
            false => Err(DetailsFailure::NotTold.into()),
        }
    }

    /// Whether nothing is missing.
    pub(crate) fn is_told(self, details: &Details) -> bool {
        details.xattrs.is_some() == self.kinds.xattrs
            && details.owner.is_some() == self.kinds.owner
            && details.group.is_some() == self.kinds.group
    }
}

/// Sets details of an open file or directory, whose name in errors is `path`. Blocks.
///
/// # Errors
/// If the system refuses, as it refuses owners to all but root.
pub(crate) fn set(path: &Path, file: &File, details: Option<&Details>) -> Result<(), ClientError> {
    let Some(details) = details else {
        return Ok(());
    };
    // Before the owner, who may be another then.
    if let Some(xattrs) = &details.xattrs {
        let set = system::write_xattrs(file, xattrs);
        set.map_err(|error| ClientError::disk(path, "set the extended attributes of", error))?;
    }
    if details.has_owner() {
        let set = system::set_owners(file, details);
        set.map_err(|error| ClientError::disk(path, "set owner and group of", error))?;
    }
    Ok(())
}

impl ClientError {
    /// This error as the answer to something that was stored with these details.
    pub(crate) fn of_details(self, keep: Keep) -> Self {
        match self.code() {
            Some(ErrorCode::UNSUPPORTED) if keep.kinds.xattrs => DetailsFailure::NotStored.into(),
            _ => self,
        }
    }
}

/// The number here of an account of the other end.
pub(crate) fn id_here(account: &NamedId, is_group: bool) -> u32 {
    let table = if is_group { &GROUPS } else { &USERS };
    table.id_of(account)
}

#[cfg(unix)]
mod system {
    use std::os::unix::fs::{MetadataExt, fchown};

    use quire_shared::protocol::Xattrs;
    use quire_transport::details::xattrs;

    use super::{Details, File, GROUPS, Metadata, NamedId, Path, USERS, id_here, io};

    pub(super) fn owners(metadata: &Metadata) -> (Option<NamedId>, Option<NamedId>) {
        let (owner, group) = (metadata.uid(), metadata.gid());
        (Some(USERS.account(owner)), Some(GROUPS.account(group)))
    }

    pub(super) fn set_owners(file: &File, details: &Details) -> io::Result<()> {
        let owner = details.owner.as_ref().map(|owner| id_here(owner, false));
        let group = details.group.as_ref().map(|group| id_here(group, true));
        fchown(file, owner, group)
    }

    pub(super) fn read_xattrs(file: &File) -> io::Result<Option<Xattrs>> {
        xattrs::read(file)
    }

    pub(super) fn read_xattrs_at(path: &Path) -> io::Result<Option<Xattrs>> {
        xattrs::read_at(path)
    }

    pub(super) fn write_xattrs(file: &File, wanted: &Xattrs) -> io::Result<()> {
        xattrs::write(file, wanted)
    }
}

/// Other systems have owners and attributes of other kinds, which are not kept.
#[cfg(not(unix))]
mod system {
    use super::{Details, File, Metadata, NamedId, Path, io};
    use quire_shared::protocol::Xattrs;

    const UNSUPPORTED: io::ErrorKind = io::ErrorKind::Unsupported;

    pub(super) fn owners(_: &Metadata) -> (Option<NamedId>, Option<NamedId>) {
        (None, None)
    }

    pub(super) fn set_owners(_: &File, _: &Details) -> io::Result<()> {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn read_xattrs(_: &File) -> io::Result<Option<Xattrs>> {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn read_xattrs_at(_: &Path) -> io::Result<Option<Xattrs>> {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn write_xattrs(_: &File, _: &Xattrs) -> io::Result<()> {
        Err(UNSUPPORTED.into())
    }
}
