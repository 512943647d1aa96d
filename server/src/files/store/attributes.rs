//! Attributes of what exists already: times and permissions of directories, and chmod.
//!
//! The name stays, so it is the file or directory itself that [`Commit`] syncs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::{EntryKind, Precondition, Time};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, fchmod,
    fchown, futimens,
};
use rustix::io::Errno;

use super::Error;
use super::acl::{self, Acl};
use super::batch::{Applied, Commit, OpenParent, Visible};
use super::faults::Fault;
use super::metadata::{FileId, MODE_MASK, Metadata, NANOSECONDS_MAX};
use super::permissions::{GivenAttributes, GivenDetails};
use super::publish::require;
use super::resolve::{Slot, open_beneath};

impl<'root> Commit<'root> {
    /// Applies [`Change::Attributes`](super::batch::Change::Attributes).
    pub(super) fn set_attributes(
        &mut self,
        path: &RemotePath,
        given: GivenAttributes,
        is_new: bool,
    ) -> Result<Applied<'root>, Error> {
        if path.is_root() {
            return Err(Error::RootItself);
        }
        let given = match is_new || self.made.contains(path) {
            true => given,
            false => given.for_existing(),
        };
        self.inner.refuse_staging(path)?;
        let (directory, id) = self.inner.directory(path, OFlags::RDONLY)?;
        set_details(&directory, &given.details)?;
        if let Some(mode) = given.mode {
            let setting = || Error::system("setting permissions");
            let metadata = Metadata::of(&directory).map_err(setting())?;
            let mode = if given.is_exact {
                Acl::remove(&directory, acl::ACCESS).map_err(setting())?;
                mode
            } else {
                // The bits that mkdir(2) with this mode would have left, with an ACL as well.
                mode & metadata.mode
            };
            set_mode(&directory, mode | metadata.special_bits)?;
        }
        if let Some(modified) = given.modified {
            set_modified(&directory, modified)?;
        }
        self.changed_itself(path, directory, id)
    }

    /// Applies [`Change::Chmod`](super::batch::Change::Chmod).
    pub(super) fn chmod(
        &mut self,
        path: &RemotePath,
        mode: u32,
        details: &GivenDetails,
        precondition: &Precondition,
    ) -> Result<Applied<'root>, Error> {
        let (slot, _) = self.existing_slot(path)?;
        let metadata = slot.metadata()?.ok_or(Error::NotFound)?;
        require(precondition, Some(&metadata))?;
        let mode = mode & MODE_MASK;
        let mode = match metadata.kind {
            _ if metadata.is_foreign => return Err(Error::OtherFileSystem),
            // As by chmod(1): a directory goes on giving its group.
            EntryKind::Directory => mode | metadata.special_bits,
            EntryKind::File => mode,
            EntryKind::Symlink | EntryKind::Other => return Err(Error::SpecialFile),
        };
        let opened = open_whatever_mode(&slot, &metadata, mode)?;
        // Before the permissions, which may keep the owner from them.
        set_details(&opened, details)?;
        set_mode(&opened, mode)?;
        self.changed_itself(path, opened, metadata.id)
    }

    /// Records the change of the file or directory at `path`, which has to be synced itself.
    fn changed_itself(
        &mut self,
        path: &RemotePath,
        opened: OwnedFd,
        id: FileId,
    ) -> Result<Applied<'root>, Error> {
        let opened = Arc::new(opened);
        let parent_syncs = self.inner.parent_syncs_on(path.names())?;
        let itself = OpenParent::new(path.names().to_vec(), Arc::clone(&opened), id, parent_syncs);
        let sync = self.touch(itself, Fault::PlaceSync);
        Ok(Applied::new(Visible::Open(opened), sync))
    }
}

/// Sets the details of what exists already.
fn set_details(opened: &OwnedFd, details: &GivenDetails) -> Result<(), Error> {
    details.set_xattrs(opened)?;
    if details.owner.is_some() || details.group.is_some() {
        let (owner, group) = (
            details.owner.map(Uid::from_raw),
            details.group.map(Gid::from_raw),
        );
        fchown(opened, owner, group).map_err(Error::system("setting an owner"))?;
    }
    Ok(())
}

fn set_mode(opened: &OwnedFd, mode: u32) -> Result<(), Error> {
    fchmod(opened, Mode::from_raw_mode(mode)).map_err(Error::system("setting permissions"))
}

/// Opens the file or directory at `slot`, also if its permissions keep its owner from it, which
/// `mode` is about to change.
fn open_whatever_mode(slot: &Slot<'_>, metadata: &Metadata, mode: u32) -> Result<OwnedFd, Error> {
    let opening = || Error::system("opening a file to change its permissions");
    let open = |flags| open_beneath(&slot.directory, slot.name, flags | OFlags::NOFOLLOW);
    let access = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = match open(access) {
        Err(Errno::ACCESS) => {
            // fchmod(2) takes no such handle, but its name in /proc leads to what it refers to,
            // whatever has the name in the directory by now.
            let handle = open(OFlags::PATH).map_err(opening())?;
            require_same(&handle, metadata)?;
            let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
            let readable = Mode::from_raw_mode(mode) | Mode::RUSR;
            chmodat(CWD, name, readable, AtFlags::empty()).map_err(opening())?;
            open(access).map_err(opening())?
        }
        opened => opened.map_err(opening())?,
    };
    require_same(&opened, metadata)?;
    Ok(opened)
}

/// Sets the modification time of an open file or directory.
pub(super) fn set_modified(file: impl AsFd, modified: Time) -> Result<(), Error> {
    futimens(file, &times_of(modified)).map_err(Error::system("setting a modification time"))
}

/// The times to be set for a new modification time, whose other one stays.
pub(super) fn times_of(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.min(NANOSECONDS_MAX).into(),
        },
    }
}

/// Checks that another program didn't put something else in the place of what was looked at.
fn require_same(opened: &OwnedFd, metadata: &Metadata) -> Result<(), Error> {
    let reading = Error::system("reading the metadata of a file");
    let now = Metadata::of(opened).map_err(reading)?;
    if now.id != metadata.id || now.kind != metadata.kind {
        return Err(Error::Conflict);
    }
    Ok(())
}
