//! Opening a directory to serve it.
//!
//! Some checks run before the first request. The kernel must be able to confine paths, and the root
//! must not contain the server's keys. A directory without write access is served read-only.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio_util::task::TaskTracker;

use super::cancel::CancelFlag;
use super::faults::Faults;
use super::group_commit::GroupCommit;
use super::metadata::Metadata;
use super::new_directories::PendingSyncs;
use super::outcomes::ChangeMemory;
use super::parts::ActiveUploads;
use super::resolve::open_beneath;
use super::root::{Inner, Root};

/// Options of a root.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Refuse every change.
    pub read_only: bool,
    /// How long the parts of interrupted uploads are kept; none if zero.
    pub keep_uploads: Duration,
    /// Faults that tests inject.
    pub faults: Faults,
}

impl Root {
    /// Opens the directory at `path`, and has the staging directory removed that a killed server
    /// left in it.
    ///
    /// # Errors
    /// If there is no such directory, it can't be read, or the kernel is too old to confine paths.
    pub(super) fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| OpenError::new(path, errno))?;
        // A trial call: `openat2` must work before any path of a client is resolved with it.
        match open_beneath(&directory, ".", OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => {}
            // Seccomp filters return EPERM for system calls that they don't know.
            Err(errno @ (Errno::NOSYS | Errno::PERM)) => {
                return Err(OpenError::NoConfinement(errno.into()));
            }
            Err(errno) => return Err(OpenError::new(path, errno)),
        }
        let id = Metadata::of(&directory)
            .map_err(|errno| OpenError::new(path, errno))?
            .id;
        let read_only = ReadOnlyReason::find(&directory, options);
        let directory = Arc::new(directory);
        let inner = Inner {
            directory,
            id,
            read_only,
            failed: AtomicBool::new(false),
            is_locked: AtomicBool::new(false),
            is_refusal_logged: AtomicBool::new(false),
            is_removal_logged: AtomicBool::new(false),
            staging: Mutex::new(None),
            commits: GroupCommit::default(),
            pending_syncs: PendingSyncs::default(),
            faults: options.faults,
            uploads: ActiveUploads::default(),
            keep_uploads: options.keep_uploads,
            memory: Arc::new(ChangeMemory::default()),
            ending: CancelFlag::default(),
            background: TaskTracker::new(),
        };
        let root = Self {
            inner: Arc::new(inner),
        };
        // Locks the root, so that a server that starts later knows of this one.
        root.read_only();
        if read_only.is_none() {
            root.sweep();
        }
        Ok(root)
    }

    /// Checks whether `path` lies in the served directory, or would if it were created. Files with
    /// keys and rights must not: a client with rights to read or write could read or replace them.
    ///
    /// # Errors
    /// If an ancestor of `path` can't be resolved or opened.
    pub(super) fn contains_path(&self, path: &Path) -> io::Result<bool> {
        let absolute = std::path::absolute(path)?;
        for ancestor in existing(&absolute)?.ancestors() {
            let metadata = Metadata::of(rustix::fs::open(
                ancestor,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )?)?;
            if metadata.id == self.inner.id {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reason why every change below a root is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnlyReason {
    /// The configuration says so.
    Asked,
    /// The server's user has no write access to the directory.
    NotWritable,
    /// A change could not be made durable.
    NotDurable,
    /// Another server writes to the directory. This one may once that has ended.
    OtherServer,
}

impl ReadOnlyReason {
    /// Tests write access once, at the start.
    fn find(directory: &OwnedFd, options: Options) -> Option<Self> {
        if options.read_only {
            return Some(Self::Asked);
        }
        let access = Access::WRITE_OK | Access::EXEC_OK;
        // EACCESS: with the effective user, as every later change has it, not with the real one.
        match rustix::fs::accessat(directory, c".", access, AtFlags::EACCESS) {
            Ok(()) => None,
            Err(_) => Some(Self::NotWritable),
        }
    }
}

impl std::fmt::Display for ReadOnlyReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asked => "requested by the configuration",
            Self::NotWritable => "no write access to the directory",
            Self::NotDurable => "a change could not be made durable",
            Self::OtherServer => {
                "another server writes to the directory; changes are possible once it has ended"
            }
        })
    }
}

/// Reason why a directory can't be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing exists at the path.
    #[error("{}: no such directory", .0.display())]
    Missing(PathBuf),
    /// The path names something other than a directory.
    #[error("{}: not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// The server's user has no read access.
    #[error("{}: permission denied", .0.display())]
    Denied(PathBuf),
    /// A system call failed.
    #[error("{} can't be opened", path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The kernel can't confine paths to a directory.
    #[error(
        "this system lacks openat2 (Linux 5.6), which is needed to confine clients to the root"
    )]
    NoConfinement(#[source] io::Error),
}

impl OpenError {
    fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT => Self::Missing(path),
            Errno::NOTDIR => Self::NotDirectory(path),
            Errno::ACCESS | Errno::PERM => Self::Denied(path),
            errno => Self::System {
                path,
                source: errno.into(),
            },
        }
    }
}

/// Longest part of `path` that exists, with symbolic links resolved.
fn existing(path: &Path) -> io::Result<PathBuf> {
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            resolved => return resolved,
        }
    }
    Ok(PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::fixture::{StoreFixture, is_bound_by_permissions};
    use super::*;

    #[test]
    fn a_root_that_cannot_be_served_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let open = |path: &Path| Root::open(path, Options::default()).unwrap_err();
        let missing = directory.path().join("missing");
        let error = open(&missing);
        assert!(matches!(error, OpenError::Missing(_)), "{error}");
        assert!(error.to_string().contains("missing: no such directory"));
        std::fs::write(&missing, "").unwrap();
        assert!(matches!(open(&missing), OpenError::NotDirectory(_)));
        if is_bound_by_permissions() {
            let closed = directory.path().join("closed");
            std::fs::create_dir(&closed).unwrap();
            std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
            assert!(matches!(open(&closed), OpenError::Denied(_)));
            std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn paths_in_the_root_are_recognized() {
        let fixture = StoreFixture::new();
        let contains = |path: &Path| fixture.root.contains_path(path).unwrap();
        assert!(contains(&fixture.local("")));
        assert!(contains(&fixture.local("not/made/yet")));
        assert!(!contains(&fixture.outside("")));
        assert!(!contains(&fixture.outside("not/made/yet")));
        assert!(!contains(Path::new("/")));
        symlink(fixture.local(""), fixture.outside("link")).unwrap();
        assert!(contains(&fixture.outside("link/keys")));
    }

    #[test]
    fn a_root_that_cannot_be_written_to_is_served_read_only() {
        if !is_bound_by_permissions() {
            return;
        }
        let fixture = StoreFixture::new();
        std::fs::set_permissions(fixture.local(""), PermissionsExt::from_mode(0o555)).unwrap();
        let root = fixture.another_server();
        assert_eq!(root.read_only(), Some(ReadOnlyReason::NotWritable));
    }
}
