//! Staging directory: a private directory inside the root where new content is written before it is
//! published under its name.
//!
//! It lies on the root's own file system, so that publishing is a rename. Its lock makes one server
//! the only writer of a root. The server that holds the lock may clear the directory, since no
//! running server can need its content, except for the [parts](super::parts) of uploads that may go
//! on. The directory is removed with the last reference to it, if it is empty.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use quire_shared::protocol::Precondition;
use quire_transport::body::journal::Journal;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, fstatvfs, mkdirat, openat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::acl::{self, Acl};
use super::cancel::CancelFlag;
use super::faults::Faults;
use super::metadata::{FileId, MODE_MASK, Metadata};
use super::parts::StagedPart;
use super::permissions::{Owners, ProcessDefaults};
use super::resolve::{Slot, open_beneath};
use super::{Error, trash};

/// Staging directory, locked by this server.
#[derive(Debug)]
pub(super) struct Staging {
    root: Arc<OwnedFd>,
    pub(super) directory: OwnedFd,
    pub(super) id: FileId,
    pub(super) root_device: u64,
    /// What the server creates where nothing else decides, as in this directory.
    pub(super) defaults: ProcessDefaults,
    pub(super) faults: Faults,
    /// Random beginning of the names that this server gives. What has other names was left by a
    /// server that was killed.
    pub(super) session: String,
    /// Set when the server stops, so that removals end early.
    pub(super) ending: CancelFlag,
    /// Counts the entries, which a server that stops waits for.
    pub(super) background: TaskTracker,
}

impl Staging {
    /// Locks the staging directory of `root`, and creates it if it is missing.
    pub(super) fn make(root: &Arc<OwnedFd>, root_device: u64) -> Result<Self, Error> {
        for _ in 0..LOCK_ATTEMPTS {
            match mkdirat(root, STAGING_NAME, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(Error::system("creating the staging directory")(errno));
                }
            }
            // Nothing is found if another server removed the directory between the two calls.
            if let Some(staging) = Self::find(root, root_device)? {
                return Ok(staging);
            }
        }
        Err(Error::OtherServer)
    }

    /// Locks the staging directory of `root` if it exists. A killed server may have left something
    /// in it.
    pub(super) fn find(root: &Arc<OwnedFd>, root_device: u64) -> Result<Option<Self>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = match open_beneath(root, STAGING_NAME, flags) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                return Err(Error::StagingUnusable);
            }
            Err(errno) => return Err(Error::system("opening the staging directory")(errno)),
        };
        let reading = || Error::system("reading the metadata of the staging directory");
        let metadata = Metadata::of(&directory).map_err(reading())?;
        // Other users must neither read unpublished content nor add names.
        let is_ours = metadata.owner == rustix::process::geteuid().as_raw();
        if !is_ours
            || metadata.mode & !Mode::RWXU.as_raw_mode() != 0
            || metadata.id.device != root_device
        {
            return Err(Error::StagingUnusable);
        }
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::OtherServer),
            Err(errno) => return Err(Error::system("locking the staging directory")(errno)),
        }
        // The previous holder of the lock may have removed the directory before it released the
        // lock.
        let named = Metadata::at(root, STAGING_NAME, root_device).map_err(reading())?;
        if named.is_none_or(|named| named.id != metadata.id) {
            return Ok(None);
        }
        hand_nothing_down(&directory, &metadata)?;
        let defaults = process_defaults(&directory)?;
        Ok(Some(Self {
            root: Arc::clone(root),
            directory,
            id: metadata.id,
            root_device,
            defaults,
            faults: Faults::default(),
            session: random_name()?,
            ending: CancelFlag::default(),
            background: TaskTracker::new(),
        }))
    }

    /// Makes a name that can't be guessed, for something new in the directory.
    pub(super) fn new_name(&self) -> Result<String, Error> {
        Ok(format!("{}-{}", self.session, random_name()?))
    }

    /// Checks that `bytes` bytes fit on the file system, before anything is written.
    pub(super) fn require_room(&self, bytes: u64) -> Result<(), Error> {
        let reading = Error::system("reading the free space");
        let space = fstatvfs(&self.directory).map_err(reading)?;
        // File systems that don't count blocks report a total of zero.
        if space.f_blocks != 0 && bytes > space.f_bavail.saturating_mul(space.f_frsize) {
            return Err(Error::NoSpace { bytes });
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Still locked: the lock ends with the handle. Fails if the directory isn't empty; the next
        // start clears it then.
        let _ = unlinkat(&self.root, STAGING_NAME, AtFlags::REMOVEDIR);
    }
}

/// Entry of the staging directory, removed when dropped unless it was published, or is a part that
/// is worth keeping.
#[derive(Debug)]
pub(super) struct StagedEntry {
    pub(super) staging: Arc<Staging>,
    pub(super) name: String,
    is_published: bool,
    /// Set if the entry is the part of an upload.
    pub(super) part: Option<StagedPart>,
    /// The last field, so that it counts until nothing of the entry is left.
    _running: TaskTrackerToken,
}

impl StagedEntry {
    pub(super) fn new(staging: Arc<Staging>, name: String) -> Self {
        let running = staging.background.token();
        Self {
            staging,
            name,
            is_published: false,
            part: None,
            _running: running,
        }
    }

    pub(super) fn of_part(staging: Arc<Staging>, name: String, part: StagedPart) -> Self {
        let mut entry = Self::new(staging, name);
        entry.part = Some(part);
        entry
    }

    /// Lets the part go on later, as `journal` says.
    pub(super) fn begin_part(&mut self, journal: Journal) {
        if let Some(part) = &mut self.part {
            part.journal = Some(journal);
        }
    }

    /// Renames the entry to `slot`, under the caller's lock of that path. With
    /// [`Precondition::Absent`] nothing is replaced, even if other programs write to the directory.
    pub(super) fn publish(
        mut self,
        slot: &Slot<'_>,
        precondition: &Precondition,
    ) -> Result<(), Error> {
        let staging = &self.staging.directory;
        rename(staging, &self.name, slot, precondition)?;
        self.is_published = true;
        if self.part.is_some() {
            self.staging.remove_journal(&self.name);
        }
        Ok(())
    }
}

impl Drop for StagedEntry {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        let staging = &*self.staging;
        if let Some(StagedPart { journal, .. }) = &self.part {
            return match journal
                .as_ref()
                .filter(|journal| journal.is_worth_keeping())
            {
                Some(journal) => staging.end_at(&self.name, journal.written()),
                None => staging.remove_part(&self.name),
            };
        }
        // What can't be removed now is removed at the next start.
        if let Err(Errno::ISDIR) = unlinkat(&staging.directory, &self.name, AtFlags::empty()) {
            let _ = staging
                .ending
                .run(|| trash::remove_tree(staging, &self.name));
        }
    }
}

/// Renames `name` in `directory` to `slot`. Under [`Precondition::Absent`] nothing is replaced.
pub(super) fn rename(
    directory: &OwnedFd,
    name: &str,
    slot: &Slot<'_>,
    precondition: &Precondition,
) -> Result<(), Error> {
    let flags = match precondition {
        // The kernel checks and renames in one step, so that a file that another program creates
        // meanwhile isn't replaced.
        Precondition::Absent => RenameFlags::NOREPLACE,
        Precondition::Any | Precondition::Match(_) => RenameFlags::empty(),
    };
    match renameat_with(directory, name, &slot.directory, slot.name, flags) {
        Ok(()) => Ok(()),
        // The file system lacks RENAME_NOREPLACE. A check before a plain rename is no substitute:
        // it leaves a window in which a file can be created and would be replaced.
        Err(Errno::INVAL | Errno::NOSYS) if !flags.is_empty() => {
            Err(Error::Unsupported("rename without replacing"))
        }
        Err(Errno::INVAL) => Err(Error::IntoItself),
        Err(errno) => Err(Error::system("renaming")(errno)),
    }
}

/// Creates a random name of 128 bits, which can't be guessed.
fn random_name() -> Result<String, Error> {
    let mut bytes = [0; size_of::<u128>()];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(Error::system("generating a random name"))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Makes sure that what is created in the staging directory inherits nothing from the root, which
/// isn't the directory where it will be.
fn hand_nothing_down(directory: &OwnedFd, metadata: &Metadata) -> Result<(), Error> {
    let clearing = || Error::system("clearing what the staging directory inherits");
    Acl::remove(directory, acl::DEFAULT).map_err(clearing())?;
    if metadata.special_bits != 0 {
        fchmod(directory, Mode::RWXU).map_err(clearing())?;
    }
    Ok(())
}

/// Determines what the process gives to new files and directories, by creating a file. umask(2)
/// can't be read without being set, for all threads.
fn process_defaults(directory: &OwnedFd) -> Result<ProcessDefaults, Error> {
    let name = random_name()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let metadata = openat(directory, &name, flags, Mode::from_raw_mode(MODE_MASK))
        .and_then(Metadata::of)
        .map_err(Error::system("creating a file in the staging directory"));
    let _ = unlinkat(directory, &name, AtFlags::empty());
    let metadata = metadata?;
    Ok(ProcessDefaults {
        owners: Owners {
            user: metadata.owner,
            group: metadata.group,
        },
        umask: MODE_MASK & !metadata.mode,
    })
}

/// Name of the staging directory. Its prefix is reserved, so no remote path names it.
pub(super) const STAGING_NAME: &str = ".quire-staging";

/// Attempts to create and lock the staging directory, which another server may remove each time.
const LOCK_ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use quire_shared::ErrorCode;

    use super::super::ReadOnlyReason;
    use super::super::fixture::{StoreFixture, code, path};
    use super::*;

    #[test]
    fn a_staged_file_is_removed_unless_published() {
        let fixture = StoreFixture::new();
        let staged = fixture.staged("x");
        let metadata = std::fs::metadata(fixture.local(STAGING_NAME)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o700);
        assert_eq!(fixture.staged_count(), 1);
        drop(staged);
        assert_eq!(fixture.staged_count(), 0);
    }

    #[test]
    fn the_staging_directory_is_removed_with_the_server() {
        let fixture = StoreFixture::new();
        let staged = fixture.staged("x");
        let local = fixture.local(STAGING_NAME);
        assert!(local.exists());
        drop(staged);
        drop(fixture.root);
        assert!(!local.exists());
    }

    #[test]
    fn a_killed_servers_staging_directory_is_removed() {
        let fixture = StoreFixture::new();
        fixture.write(".quire-staging/0123", "half");
        fixture.write(".quire-staging/tree/deep/er", "half");
        std::fs::write(fixture.outside("kept"), "x").unwrap();
        symlink(
            fixture.outside(""),
            fixture.local(".quire-staging/tree/link"),
        )
        .unwrap();
        let private = PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(fixture.local(STAGING_NAME), private).unwrap();
        drop(fixture.another_server());
        assert!(!fixture.exists(STAGING_NAME));
        assert!(fixture.outside("kept").exists());
    }

    #[test]
    fn only_one_server_writes_to_a_root() {
        let fixture = StoreFixture::new();
        let staged = fixture.staged("x");
        let other = fixture.another_server();
        assert_eq!(fixture.staged_count(), 1, "not swept by the other");
        assert_eq!(code(other.stage(None)), ErrorCode::READ_ONLY);
        assert_eq!(
            code(other.make_directory(
                &path("d"),
                super::super::Parents::MustExist,
                &Default::default()
            )),
            ErrorCode::READ_ONLY
        );
        assert_eq!(other.read_only(), Some(ReadOnlyReason::OtherServer));
        drop(staged);
        drop(fixture.root);
        assert_eq!(other.read_only(), None);
        other.stage(None).unwrap();
    }

    #[test]
    fn a_server_knows_of_another_that_has_written_nothing_yet() {
        let fixture = StoreFixture::new();
        let other = fixture.another_server();
        assert_eq!(fixture.root.read_only(), None);
        assert_eq!(other.read_only(), Some(ReadOnlyReason::OtherServer));
        assert_eq!(code(other.stage(None)), ErrorCode::READ_ONLY);
    }

    #[test]
    fn a_staging_directory_that_is_not_private_is_refused() {
        let fixture = StoreFixture::new();
        symlink(fixture.outside(""), fixture.local(STAGING_NAME)).unwrap();
        assert_eq!(code(fixture.root.stage(None)), ErrorCode::DENIED);
        std::fs::remove_file(fixture.local(STAGING_NAME)).unwrap();
        std::fs::create_dir(fixture.local(STAGING_NAME)).unwrap();
        let open_to_all = PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(fixture.local(STAGING_NAME), open_to_all).unwrap();
        assert_eq!(code(fixture.root.stage(None)), ErrorCode::DENIED);
    }

    #[test]
    fn a_size_beyond_the_free_space_is_refused_at_once() {
        let fixture = StoreFixture::new();
        for size in [u64::MAX, i64::MAX as u64, 1 << 60] {
            assert_eq!(code(fixture.root.stage(Some(size))), ErrorCode::NO_SPACE);
        }
        assert_eq!(fixture.staged_count(), 0);
    }
}
