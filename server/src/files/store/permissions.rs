//! Owner, permission bits and ACL of what is stored.
//!
//! New content is created in the staging directory and renamed to its name. So the kernel gives it
//! nothing of what the directory of that name decides: default ACL, group, and with them whether
//! the umask counts. This module finds what open(2) or mkdir(2) would have given there. Content
//! that replaces a file gets what that file has.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use quire_shared::protocol::{Details, EntryKind, Precondition, Preserve, Time, Xattrs};
use quire_shared::{Name, RemotePath};
use quire_transport::details::accounts::{GROUPS, USERS};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown};
use rustix::io::Errno;

use super::Error;
use super::acl::{self, Acl};
use super::metadata::{FileId, MODE_MASK, Metadata};
use super::publish::Destination;
use super::resolve::{DIRECTORY_MODE, Slot, open_beneath};
use super::root::Inner;

/// Attributes that a request gives for a file or directory.
#[derive(Debug, Clone, Default)]
pub(in crate::files) struct GivenAttributes {
    pub(super) modified: Option<Time>,
    pub(super) mode: Option<u32>,
    pub(super) is_exact: bool,
    pub(super) details: GivenDetails,
}

/// Details that a request gives for a file or directory, with the numbers of this system.
#[derive(Debug, Clone, Default)]
pub(in crate::files) struct GivenDetails {
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
    /// All that it is to have.
    pub(super) xattrs: Option<Arc<Xattrs>>,
}

impl From<Option<Box<Details>>> for GivenDetails {
    fn from(details: Option<Box<Details>>) -> Self {
        let Details {
            owner,
            group,
            xattrs,
        } = details.map(|details| *details).unwrap_or_default();
        Self {
            owner: owner.map(|owner| USERS.id_of(&owner)),
            group: group.map(|group| GROUPS.id_of(&group)),
            xattrs: xattrs.map(Arc::new),
        }
    }
}

impl GivenAttributes {
    /// Takes of the attributes of a request what `preserve` says.
    pub(in crate::files) fn new(
        modified: Option<Time>,
        mode: Option<u32>,
        preserve: Preserve,
    ) -> Self {
        if preserve == Preserve::Nothing {
            return Self::default();
        }
        Self {
            modified,
            mode: mode.map(|mode| mode & MODE_MASK),
            is_exact: preserve == Preserve::Exact && mode.is_some(),
            details: GivenDetails::default(),
        }
    }

    /// Adds details, which are set whatever `preserve` says.
    pub(in crate::files) fn with_details(self, details: Option<Box<Details>>) -> Self {
        let details = details.into();
        Self { details, ..self }
    }

    /// Leaves the permission bits of a directory that existed before as they are, unless exactly
    /// these are asked for.
    pub(super) fn for_existing(self) -> Self {
        Self {
            mode: self.mode.filter(|_| self.is_exact),
            ..self
        }
    }
}

/// Owner and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owners {
    pub(super) user: u32,
    pub(super) group: u32,
}

/// What a file or directory gets if the server creates it where nothing else decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessDefaults {
    pub(super) owners: Owners,
    pub(super) umask: u32,
}

/// What a directory decides about what is created in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inherited {
    default_acl: Option<Acl>,
    /// Group of a directory that gives its group, because its setgid bit is set.
    group: Option<u32>,
}

impl Inherited {
    /// Reads what an open directory decides.
    pub(super) fn of(directory: &OwnedFd) -> Result<Self, Error> {
        let metadata = Metadata::of(directory)
            .map_err(Error::system("reading the metadata of a directory"))?;
        let default_acl =
            Acl::read(directory, acl::DEFAULT).map_err(Error::system("reading a default ACL"))?;
        Ok(Self {
            default_acl,
            group: (metadata.special_bits & SETGID != 0).then_some(metadata.group),
        })
    }
}

/// Owner, group, permission bits and ACL of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permissions {
    owners: Owners,
    /// With the setgid bit of a directory.
    mode: u32,
    acl: Option<Acl>,
    /// Default ACL of a directory.
    default_acl: Option<Acl>,
    /// Whether these are the permissions of a file that is replaced. Its group bits are meant for
    /// its group, and for no other.
    is_replacement: bool,
    /// Whether the request gives owner and group, so that it fails where they can't be set.
    is_given: (bool, bool),
}

impl Permissions {
    /// Those of a new file.
    pub(super) fn of_new_file(
        inherited: &Inherited,
        given: &GivenAttributes,
        defaults: &ProcessDefaults,
    ) -> Self {
        Self::of_new(inherited, given, FILE_MODE, defaults)
    }

    /// Those of a new directory, which hands down what it inherits.
    pub(super) fn of_new_directory(
        inherited: &Inherited,
        given: &GivenAttributes,
        defaults: &ProcessDefaults,
    ) -> Self {
        let mut new = Self::of_new(inherited, given, DIRECTORY_MODE, defaults);
        new.default_acl.clone_from(&inherited.default_acl);
        if inherited.group.is_some() {
            new.mode |= SETGID;
        }
        new
    }

    fn of_new(
        inherited: &Inherited,
        given: &GivenAttributes,
        mode_without: u32,
        defaults: &ProcessDefaults,
    ) -> Self {
        let mode = given.mode.unwrap_or(mode_without);
        let (mode, acl) = match &inherited.default_acl {
            _ if given.is_exact => (mode, None),
            None => (mode & !defaults.umask, None),
            // As open(2) does: a default ACL takes the place of the umask.
            Some(default) => {
                let access = default.for_new(mode);
                (access.mode(), Some(access).filter(|list| !list.is_mode()))
            }
        };
        Self {
            owners: Owners {
                group: inherited.group.unwrap_or(defaults.owners.group),
                ..defaults.owners
            },
            mode,
            acl,
            default_acl: None,
            is_replacement: false,
            is_given: (false, false),
        }
        .with_given(&given.details)
    }

    /// Takes the owner and group that a request gives.
    fn with_given(mut self, given: &GivenDetails) -> Self {
        self.is_given = (given.owner.is_some(), given.group.is_some());
        self.owners = Owners {
            user: given.owner.unwrap_or(self.owners.user),
            group: given.group.unwrap_or(self.owners.group),
        };
        self
    }

    /// Those of content that replaces the file at `slot`, which has `metadata`.
    fn of_replaced(
        slot: &Slot<'_>,
        metadata: &Metadata,
        given: &GivenAttributes,
    ) -> Result<Self, Error> {
        let mut old = Self {
            owners: Owners {
                user: metadata.owner,
                group: metadata.group,
            },
            mode: metadata.mode,
            acl: None,
            default_acl: None,
            is_replacement: true,
            is_given: (false, false),
        }
        .with_given(&given.details);
        if let Some(mode) = given.mode.filter(|_| given.is_exact) {
            old.mode = mode;
            return Ok(old);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        match open_beneath(&slot.directory, slot.name, flags) {
            Ok(file) => {
                old.acl = Acl::read(file, acl::ACCESS).map_err(Error::system("reading an ACL"))?;
            }
            // Removed by another program. The check under the lock of the path comes later.
            Err(Errno::NOENT) => {}
            // It may have an ACL, whose mask the group bits are then. They must not become the
            // permissions of the group.
            Err(Errno::ACCESS | Errno::PERM) => old.mode = for_other_group(old.mode),
            Err(errno) => return Err(Error::system("opening a file to read its ACL")(errno)),
        }
        Ok(old)
    }

    /// Sets these permissions on an open file or directory. `fresh` says that it was just created
    /// in the staging directory, and with what.
    pub(super) fn apply(
        &self,
        file: impl AsFd,
        fresh: Option<&ProcessDefaults>,
    ) -> Result<(), Error> {
        self.apply_owners(&file, fresh)?.apply_mode(file, fresh)
    }

    /// Sets owner, group and default ACL. Returns the permissions that are left to be set.
    pub(super) fn apply_owners(
        &self,
        file: impl AsFd,
        fresh: Option<&ProcessDefaults>,
    ) -> Result<Self, Error> {
        let mut rest = self.clone();
        let Owners { user, group } = self.owners;
        if fresh.is_none_or(|fresh| fresh.owners.group != group) {
            match fchown(&file, None, Some(Gid::from_raw(group))) {
                Ok(()) => {}
                Err(Errno::PERM) if self.is_given.1 => {
                    return Err(Error::system("setting the group that was given")(
                        Errno::PERM,
                    ));
                }
                // The server isn't in that group.
                Err(Errno::PERM) if self.is_replacement => {
                    rest.mode = for_other_group(self.mode);
                    rest.acl = self.acl.as_ref().map(Acl::for_other_group);
                }
                Err(Errno::PERM) => {}
                Err(errno) => return Err(Error::system("setting a group")(errno)),
            }
        }
        if fresh.is_none_or(|fresh| fresh.owners.user != user) {
            match fchown(&file, Some(Uid::from_raw(user)), None) {
                Err(Errno::PERM) if self.is_given.0 => {
                    return Err(Error::system("setting the owner that was given")(
                        Errno::PERM,
                    ));
                }
                // Only a privileged server can give a file away.
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(Error::system("setting an owner")(errno)),
            }
        }
        if let Some(default) = &self.default_acl {
            let written = default.write(&file, acl::DEFAULT);
            written.map_err(Error::system("setting a default ACL"))?;
        }
        Ok(rest)
    }

    /// Sets permission bits and ACL, once owner and group are set.
    pub(super) fn apply_mode(
        &self,
        file: impl AsFd,
        fresh: Option<&ProcessDefaults>,
    ) -> Result<(), Error> {
        let setting = || Error::system("setting permissions");
        let Some(list) = &self.acl else {
            if fresh.is_none() {
                Acl::remove(&file, acl::ACCESS).map_err(setting())?;
            }
            return fchmod(file, Mode::from_raw_mode(self.mode)).map_err(setting());
        };
        // The ACL sets the permission bits too, but not the one above them.
        if self.mode & SETGID != 0 {
            let own = self.mode & (SETGID | Mode::RWXU.as_raw_mode());
            fchmod(&file, Mode::from_raw_mode(own)).map_err(setting())?;
        }
        list.write(file, acl::ACCESS).map_err(setting())
    }
}

/// Directory of a target, kept open because the next target is mostly in it too.
#[derive(Debug)]
pub(super) struct TargetParent {
    names: Vec<Name>,
    /// `None` while it doesn't exist.
    directory: Option<(Arc<OwnedFd>, FileId)>,
    inherited: Inherited,
}

impl Inner {
    /// Determines the permissions of content for `target` before it is committed. `last` is the
    /// directory of the target before, if there was one.
    pub(super) fn permissions_at(
        &self,
        target: &Destination,
        given: &GivenAttributes,
        defaults: &ProcessDefaults,
        last: &mut Option<TargetParent>,
    ) -> Result<Permissions, Error> {
        let (name, names) = target.path.names().split_last().ok_or(Error::RootItself)?;
        let known = last.take().filter(|last| last.names == names);
        let parent = match known {
            Some(known) => known,
            None => self.target_parent(names)?,
        };
        let parent = last.insert(parent);
        let replaced = match &parent.directory {
            Some((directory, id)) if target.precondition != Precondition::Absent => {
                let slot = self.slot_in(Arc::clone(directory), *id, name.as_str());
                slot.metadata()?.map(|metadata| (slot, metadata))
            }
            _ => None,
        };
        let replaced = replaced.as_ref().map(|(slot, metadata)| (slot, metadata));
        permissions_of(replaced, &parent.inherited, given, defaults)
    }

    fn target_parent(&self, names: &[Name]) -> Result<TargetParent, Error> {
        let path = RemotePath::from_names(names.to_vec()).map_err(Error::InvalidPath)?;
        let (directory, inherited) = match self.directory(&path, OFlags::RDONLY) {
            Err(Error::NotFound) => (None, self.inherited_above(&path)?),
            opened => {
                let (directory, id) = opened?;
                let inherited = Inherited::of(&directory)?;
                (Some((Arc::new(directory), id)), inherited)
            }
        };
        Ok(TargetParent {
            names: names.to_vec(),
            directory,
            inherited,
        })
    }

    /// Reads what the nearest existing directory above `path` decides. Missing ones will hand it
    /// down once they are created.
    pub(super) fn inherited_above(&self, path: &RemotePath) -> Result<Inherited, Error> {
        let mut above = path.parent().unwrap_or_default();
        loop {
            match self.directory(&above, OFlags::RDONLY) {
                Err(Error::NotFound) if !above.is_root() => {
                    above = above.parent().unwrap_or_default();
                }
                opened => return Inherited::of(&opened?.0),
            }
        }
    }
}

/// Determines the permissions of content for a name where `replaced` is now.
pub(super) fn permissions_of(
    replaced: Option<(&Slot<'_>, &Metadata)>,
    inherited: &Inherited,
    given: &GivenAttributes,
    defaults: &ProcessDefaults,
) -> Result<Permissions, Error> {
    match replaced {
        Some((slot, file)) if file.kind == EntryKind::File && !file.is_foreign => {
            Permissions::of_replaced(slot, file, given)
        }
        // What is neither is refused when the content is committed.
        Some(_) | None => Ok(Permissions::of_new_file(inherited, given, defaults)),
    }
}

/// Permission bits of a file whose group isn't the one that they were made for: that group gets no
/// more than others.
fn for_other_group(mode: u32) -> u32 {
    let others = (mode & Mode::RWXO.as_raw_mode()) << 3;
    mode & (others | !Mode::RWXG.as_raw_mode())
}

/// The bit with which a directory gives its group to what is created in it.
const SETGID: u32 = Mode::SGID.as_raw_mode();

/// Permission bits of a new file whose request gives none, before the umask is applied.
const FILE_MODE: u32 = 0o666;

#[cfg(test)]
mod tests;
