//! Handle of the served directory, and what its operations share.
//!
//! The kernel confines every path to the root (`openat2`), and neither follows symbolic links nor
//! enters other file systems. The next step acts on one name in an open directory. So a path can't
//! lead elsewhere between check and use. Files are never changed in place: an open file is a stable
//! snapshot.
//!
//! All of it blocks and belongs on blocking threads. The caller holds the locks of paths.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use quire_shared::RemotePath;
use quire_shared::protocol::{Attributes, Version};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::Error;
use super::cancel::CancelFlag;
use super::faults::{Fault, Faults};
use super::group_commit::GroupCommit;
use super::metadata::{FileId, Metadata};
use super::new_directories::PendingSyncs;
use super::open::ReadOnlyReason;
use super::open_file::OpenFile;
use super::outcomes::ChangeMemory;
use super::parts::ActiveUploads;
use super::staging::Staging;

/// Handle of the served directory; clones refer to the same one.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) inner: Arc<Inner>,
}

/// State that the clones of a [`Root`] share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) id: FileId,
    pub(super) read_only: Option<ReadOnlyReason>,
    /// Set, and never reset, once a change became visible that may not be durable.
    pub(super) failed: AtomicBool,
    /// Set once this server has locked the root against others that write.
    pub(super) is_locked: AtomicBool,
    /// Set once the log says that another server writes to the root.
    pub(super) is_refusal_logged: AtomicBool,
    /// Created at the first change, so that a root without changes stays untouched.
    pub(super) staging: Mutex<Option<Arc<Staging>>>,
    pub(super) commits: GroupCommit,
    pub(super) pending_syncs: PendingSyncs,
    pub(super) faults: Faults,
    /// Set once it was logged that the root was removed.
    pub(super) is_removal_logged: AtomicBool,
    /// Uploads that are being received and may go on later, and how long they may.
    pub(super) uploads: ActiveUploads,
    pub(super) keep_uploads: Duration,
    /// Changes that clients named.
    pub(super) memory: Arc<ChangeMemory>,
    /// Set when the server stops: the next start removes what is left in the staging directory.
    pub(super) ending: CancelFlag,
    /// Work that outlives the requests that began it. A server that stops waits for it.
    pub(super) background: TaskTracker,
}

impl Root {
    /// Returns the reason why every change is refused, if it is.
    pub(super) fn read_only(&self) -> Option<ReadOnlyReason> {
        if self.inner.failed.load(Ordering::Relaxed) {
            return Some(ReadOnlyReason::NotDurable);
        }
        if self.inner.read_only.is_some() {
            return self.inner.read_only;
        }
        (!self.inner.is_only_writer()).then_some(ReadOnlyReason::OtherServer)
    }

    /// Ends removals early.
    pub(super) fn end_removals(&self) {
        self.inner.ending.set();
    }

    /// Reads the attributes of `path`. A symbolic link is described, not followed.
    ///
    /// # Errors
    /// If nothing has the name, or a component above it isn't a directory of this file system.
    pub(super) fn stat(&self, path: &RemotePath) -> Result<Attributes, Error> {
        if path.is_root() {
            return Ok(self.inner.metadata(path)?.attributes());
        }
        let slot = self.inner.slot(path, OFlags::PATH)?;
        slot.attributes()?.ok_or(Error::NotFound)
    }

    /// Opens the regular file at `path` for reading.
    ///
    /// # Errors
    /// If there is no regular file at `path`. Nothing else is opened: opening a FIFO would block,
    /// and opening a device may have side effects.
    pub(super) fn open_file(&self, path: &RemotePath) -> Result<OpenFile, Error> {
        if path.is_root() {
            return Err(Error::IsDirectory);
        }
        let slot = self.inner.slot(path, OFlags::PATH)?;
        slot.metadata()?.ok_or(Error::NotFound)?.require_file()?;
        OpenFile::open(&slot.directory, slot.name)
    }
}

impl Inner {
    /// Returns the staging directory, unless the root is read-only. Its lock is held, so that no
    /// other server writes to the root.
    pub(super) fn writable(&self) -> Result<Arc<Staging>, Error> {
        if self.read_only.is_some() || self.failed.load(Ordering::Relaxed) {
            return Err(Error::ReadOnly);
        }
        if !self.is_only_writer() {
            if !self.is_refusal_logged.swap(true, Ordering::Relaxed) {
                warn!(
                    "refused a change: another server writes to this directory; changes are \
                     possible here once it has ended"
                );
            }
            return Err(Error::OtherServer);
        }
        let staging = self.current_staging()?;
        self.memory.load(self, Some(&staging));
        Ok(staging)
    }

    fn current_staging(&self) -> Result<Arc<Staging>, Error> {
        let mut current = self.staging.lock();
        if let Some(staging) = &*current {
            return Ok(Arc::clone(staging));
        }
        let staging = self.prepared(Staging::make(&self.directory, self.id.device)?);
        *current = Some(Arc::clone(&staging));
        Ok(staging)
    }

    /// Shares a staging directory that was found with all requests.
    pub(super) fn share(&self, staging: Staging) -> Arc<Staging> {
        let staging = self.prepared(staging);
        *self.staging.lock() = Some(Arc::clone(&staging));
        self.memory.load(self, Some(&staging));
        staging
    }

    fn prepared(&self, mut staging: Staging) -> Arc<Staging> {
        staging.faults = self.faults;
        staging.ending = self.ending.clone();
        staging.background = self.background.clone();
        Arc::new(staging)
    }

    /// Locks the root against other servers that write, unless that is done, and returns whether it
    /// is locked. The lock lasts as long as the root is open.
    fn is_only_writer(&self) -> bool {
        if self.is_locked.load(Ordering::Relaxed) {
            return true;
        }
        match flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return false,
            // File systems without this lock may still lock the staging directory.
            Ok(()) | Err(_) => self.is_locked.store(true, Ordering::Relaxed),
        }
        if self.is_refusal_logged.load(Ordering::Relaxed) {
            info!("the other server has ended: changes are possible now");
        }
        true
    }

    /// Replaces the error that something is missing, if the reason is that the root was removed.
    pub(super) fn blame_root(&self, error: Error) -> Error {
        let is_missing = matches!(error, Error::NotFound) || error.errno() == Some(Errno::NOENT);
        match is_missing {
            true => self.require_root().err().unwrap_or(error),
            false => error,
        }
    }

    /// Checks that the root has a name still. Otherwise it looks like an empty directory.
    pub(super) fn require_root(&self) -> Result<(), Error> {
        let metadata = Metadata::of(&self.directory)
            .map_err(Error::system("reading the metadata of the root"))?;
        if !metadata.is_removed {
            return Ok(());
        }
        if !self.is_removal_logged.swap(true, Ordering::Relaxed) {
            error!(
                "the served directory was removed, and all requests fail; restart the server when \
                 there is one to serve"
            );
        }
        Err(Error::RootRemoved)
    }

    /// Makes the changes in `directory` durable, together with those of other requests. If the sync
    /// fails, the root stays read-only: the kernel may have dropped the pages that it couldn't
    /// write. `site` names the fault that leaves this sync out.
    pub(super) fn sync(&self, site: Fault, directory: &OwnedFd, id: FileId) -> Result<(), Error> {
        let synced = self
            .commits
            .sync(id, || directory_synced(self.faults.sync(site, directory)));
        synced.map_err(|errno| self.not_durable(errno))
    }

    /// Reads the version of a file just changed. The change is visible already, so that it counts
    /// as not durable if its metadata can't be read.
    pub(super) fn version_of(&self, file: impl AsFd) -> Result<Version, Error> {
        let metadata = Metadata::of(file).map_err(|errno| self.not_durable(errno))?;
        Ok(metadata.version())
    }

    /// Reads the version of what was just named `name` in `directory`, like [`Inner::version_of`].
    pub(super) fn version_at(&self, directory: &OwnedFd, name: &str) -> Result<Version, Error> {
        let metadata = Metadata::at(directory, name, self.id.device)
            .map_err(|errno| self.not_durable(errno))?;
        // Nothing is there if another program, which doesn't use our locks, removed it.
        Ok(metadata.ok_or(Error::Conflict)?.version())
    }

    /// Makes the root read-only, because a change became visible and then `error` happened.
    pub(super) fn visible_only(&self, error: &Error) -> Error {
        match error.errno() {
            Some(errno) => self.not_durable(errno),
            None => self.not_durable(Errno::IO),
        }
    }

    /// Makes the root read-only, because a change is visible but not durable.
    pub(super) fn not_durable(&self, errno: Errno) -> Error {
        self.failed.store(true, Ordering::Relaxed);
        Error::NotDurable(errno.into())
    }
}

/// The result of the fsync of a directory. File systems that write directories synchronously have none
/// for them.
pub(super) fn directory_synced(synced: Result<(), Errno>) -> Result<(), Errno> {
    match synced {
        Err(Errno::INVAL) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use quire_shared::ErrorCode;
    use quire_shared::protocol::EntryKind;
    use rustix::fs::Mode;

    use super::super::Parents;
    use super::super::fixture::{StoreFixture, code, path};
    use super::super::open::Options;
    use super::*;

    fn make_fifo(at: &Path) {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, at, mode).unwrap();
    }

    #[test]
    fn an_open_file_keeps_its_content_after_a_put() {
        let fixture = StoreFixture::new();
        fixture.write("d/a", "before");
        let mut opened = fixture.root.open_file(&path("d/a")).unwrap();
        assert_eq!(opened.attributes, fixture.root.stat(&path("d/a")).unwrap());
        fixture.put("d/a", "after", &Default::default()).unwrap();
        let mut content = String::new();
        opened.file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "before");
        let after = opened.attributes_now().unwrap();
        assert_eq!(after.size, opened.attributes.size);
        assert_eq!(after.modified, opened.attributes.modified);
    }

    #[test]
    fn symbolic_links_are_never_followed() {
        let fixture = StoreFixture::new();
        fixture.write("inside/file", "x");
        std::fs::write(fixture.outside("secret"), "x").unwrap();
        symlink(fixture.outside("secret"), fixture.local("absolute")).unwrap();
        symlink("../outside/secret", fixture.local("upwards")).unwrap();
        symlink("../outside", fixture.local("directory")).unwrap();
        symlink("inside", fixture.local("within")).unwrap();
        symlink("nowhere", fixture.local("dangling")).unwrap();
        let root = &fixture.root;
        for name in ["absolute", "upwards", "directory", "within", "dangling"] {
            let attributes = root.stat(&path(name)).unwrap();
            assert_eq!(attributes.kind, EntryKind::Symlink, "{name}");
            let opened = root.open_file(&path(name));
            assert_eq!(code(opened), ErrorCode::SPECIAL_FILE, "{name}");
        }
        for name in ["directory/secret", "within/file", "dangling/x"] {
            let opened = root.open_file(&path(name));
            assert_eq!(code(opened), ErrorCode::NOT_DIRECTORY, "{name}");
            let put = fixture.put(name, "x", &Default::default());
            assert_eq!(code(put), ErrorCode::NOT_DIRECTORY, "{name}");
        }
        let staged = fixture.staged("x");
        let put = root.publish(
            staged,
            &path("directory/new/x"),
            &Default::default(),
            Parents::MadeBelow(0),
        );
        assert_eq!(code(put), ErrorCode::NOT_DIRECTORY);
        assert_eq!(std::fs::read_dir(fixture.outside("")).unwrap().count(), 1);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let fixture = StoreFixture::new();
        make_fifo(&fixture.local("fifo"));
        let _socket = std::os::unix::net::UnixListener::bind(fixture.local("socket")).unwrap();
        std::fs::create_dir(fixture.local("directory")).unwrap();
        let open = |name| code(fixture.root.open_file(&path(name)));
        assert_eq!(open("fifo"), ErrorCode::SPECIAL_FILE);
        assert_eq!(open("socket"), ErrorCode::SPECIAL_FILE);
        assert_eq!(open("directory"), ErrorCode::IS_DIRECTORY);
        assert_eq!(open(""), ErrorCode::IS_DIRECTORY);
        assert_eq!(open("fifo/x"), ErrorCode::NOT_DIRECTORY);
        assert_eq!(open("missing/x"), ErrorCode::NOT_FOUND);
        let kind = |name| fixture.root.stat(&path(name)).unwrap().kind;
        assert_eq!(kind("fifo"), EntryKind::Other);
        assert_eq!(kind(""), EntryKind::Directory);
    }

    #[test]
    fn names_of_any_characters_and_up_to_255_bytes_are_stored() {
        let fixture = StoreFixture::new();
        for name in ["x".repeat(255), "é".repeat(127), "a\nb\u{1b}[2J".into()] {
            fixture.put(&name, "x", &Default::default()).unwrap();
            assert_eq!(fixture.read(&name), "x");
        }
    }

    #[test]
    fn a_read_only_root_refuses_changes_and_stays_untouched() {
        let fixture = StoreFixture::new();
        fixture.write("a", "x");
        let options = Options {
            read_only: true,
            ..Default::default()
        };
        let root = Root::open(&fixture.local(""), options).unwrap();
        assert_eq!(root.read_only(), Some(ReadOnlyReason::Asked));
        let any = Default::default();
        assert_eq!(code(root.stage(None)), ErrorCode::READ_ONLY);
        assert_eq!(
            code(root.check_put(&path("b"), &any, Parents::MustExist, None)),
            ErrorCode::READ_ONLY
        );
        assert_eq!(
            code(root.delete(&path("a"), false, &any)),
            ErrorCode::READ_ONLY
        );
        assert_eq!(
            code(root.make_directory(&path("b"), Parents::MustExist, &any)),
            ErrorCode::READ_ONLY
        );
        assert_eq!(
            code(root.rename(&path("a"), &path("b"), &any, &any)),
            ErrorCode::READ_ONLY
        );
        assert_eq!(std::fs::read_dir(fixture.local("")).unwrap().count(), 1);
    }

    #[test]
    fn after_a_failed_sync_the_root_is_read_only() {
        let fixture = StoreFixture::new();
        let inner = &fixture.root.inner;
        let site = Fault::PlaceSync;
        inner.sync(site, &inner.directory, inner.id).unwrap();
        assert_eq!(fixture.root.read_only(), None);
        // fsync(2) fails on a handle opened with O_PATH.
        let (handle, id) = inner.directory(&RemotePath::ROOT, OFlags::PATH).unwrap();
        assert_eq!(code(inner.sync(site, &handle, id)), ErrorCode::DISK);
        assert_eq!(fixture.root.read_only(), Some(ReadOnlyReason::NotDurable));
        assert_eq!(code(fixture.root.stage(None)), ErrorCode::READ_ONLY);
    }

    #[test]
    fn symbolic_links_swapped_in_concurrently_are_never_followed() {
        let fixture = StoreFixture::new();
        fixture.write("d/file", "inside");
        std::fs::write(fixture.outside("file"), "outside").unwrap();
        symlink(fixture.outside(""), fixture.local("link")).unwrap();
        let (running, is_over) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // Moved in here, so that its drop ends the other thread, after a failed assertion as
            // well.
            let _running = running;
            let d = fixture.local("d");
            let link = fixture.local("link");
            scope.spawn(move || {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                while is_over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    let here = rustix::fs::CWD;
                    rustix::fs::renameat_with(here, &d, here, &link, flags).unwrap();
                }
            });
            for _ in 0..20 {
                for _ in 0..50 {
                    let Ok(mut opened) = fixture.root.open_file(&path("d/file")) else {
                        continue;
                    };
                    let mut content = String::new();
                    opened.file.read_to_string(&mut content).unwrap();
                    assert!(content == "inside" || content == "new", "{content}");
                }
                // Each may succeed or fail, but may only affect the root.
                let _ = fixture
                    .root
                    .delete(&path("d/file"), false, &Default::default());
                let _ = fixture.put("d/file", "new", &Default::default());
                let _ = fixture.put("d/other", "new", &Default::default());
            }
        });
        let outside = std::fs::read_to_string(fixture.outside("file")).unwrap();
        assert_eq!(outside, "outside");
        assert_eq!(std::fs::read_dir(fixture.outside("")).unwrap().count(), 1);
    }
}
