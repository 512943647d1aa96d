//! The served directory.
//!
//! [`Root`] is the only code of the server that touches it. The kernel confines every path to the
//! root (`openat2`), without following a symbolic link or entering another file system; what
//! follows acts on one name in an open directory, so that a path that was legal when checked can't
//! become illegal when used. Files are never changed in place: an open file is a stable snapshot.
//!
//! All of it blocks and belongs on blocking threads. Locks between requests are the caller's.

mod batch;
mod copy;
pub mod faults;
#[cfg(test)]
mod fixture;
mod group_commit;
mod listing;
mod metadata;
mod namespace;
mod new_directories;
mod open;
mod publish;
mod read_dir;
mod resolve;
mod staging;
mod trash;
mod walk;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quire_shared::RemotePath;
use quire_shared::protocol::{Attributes, EntryKind, Version};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::path::Arg;

use crate::error::RequestError;
use crate::store::faults::{Fault, Faults};

pub use batch::{CarriedOut, Change};
pub use copy::StagedCopy;
pub use listing::Listing;
pub use metadata::is_quiet;
pub use open::{OpenRootError, ReadOnlyReason, RootOptions};
pub use resolve::Parents;
pub use staging::StagedFile;
pub use trash::Discarded;
pub use walk::{Step, Visited, Walk};

use group_commit::GroupCommit;
use metadata::{Facts, FileId};
use new_directories::Unsynced;
use resolve::{Place, open_beneath};
use staging::Staging;

/// The served directory; clones stand for the same one.
#[derive(Debug, Clone)]
pub struct Root {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: Arc<OwnedFd>,
    id: FileId,
    read_only: Option<ReadOnlyReason>,
    /// Set for good once a change became visible that may not be durable.
    failed: AtomicBool,
    /// Made at the first change.
    staging: Mutex<Option<Arc<Staging>>>,
    commits: GroupCommit,
    unsynced: Unsynced,
    faults: Faults,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The file; it stays what it was, whatever happens to its name.
    pub file: File,
    /// What it was like when it was opened.
    pub attributes: Attributes,
}

impl Root {
    /// Whether every change is refused, and why.
    pub fn read_only(&self) -> Option<ReadOnlyReason> {
        if self.inner.failed.load(Ordering::Relaxed) {
            return Some(ReadOnlyReason::NotDurable);
        }
        self.inner.read_only
    }

    /// What is known of `path`. A symbolic link is described, not followed.
    ///
    /// # Errors
    /// If there is nothing, or the way there is none.
    pub fn stat(&self, path: &RemotePath) -> Result<Attributes, RequestError> {
        Ok(self.inner.facts(path)?.attributes())
    }

    /// Opens the regular file at `path` for reading.
    ///
    /// # Errors
    /// If there is none. Nothing but a regular file is ever opened: a FIFO would block, a device
    /// might act.
    pub fn open_file(&self, path: &RemotePath) -> Result<OpenFile, RequestError> {
        if path.is_root() {
            return Err(RequestError::IsDirectory);
        }
        let place = self.inner.place(path, OFlags::PATH)?;
        place
            .facts()?
            .ok_or(RequestError::NotFound)?
            .require_file()?;
        OpenFile::open(&place.directory, place.name)
    }

    /// What an open file is like now. It changed while it was sent if size or modification time
    /// moved; its version moves as well when it is only renamed or deleted.
    ///
    /// # Errors
    /// If the system fails.
    pub fn attributes_of(&self, file: &File) -> Result<Attributes, RequestError> {
        let facts = Facts::of(file).map_err(RequestError::system("looking at a file"))?;
        Ok(facts.attributes())
    }
}

impl Inner {
    /// The staging directory, if anything may be changed; this server is then the one that writes.
    fn writable(&self) -> Result<Arc<Staging>, RequestError> {
        if self.read_only.is_some() || self.failed.load(Ordering::Relaxed) {
            return Err(RequestError::ReadOnly);
        }
        let mut slot = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(staging) = &*slot {
            return Ok(Arc::clone(staging));
        }
        let mut staging = Staging::make(&self.directory, self.id.device)?;
        staging.faults = self.faults;
        let staging = Arc::new(staging);
        *slot = Some(Arc::clone(&staging));
        Ok(staging)
    }

    /// Makes the changes in `directory` durable, together with those of others. If that fails the
    /// root is read-only for good: the kernel may have forgotten what it could not write. `site` is
    /// the fault that leaves this sync out.
    fn sync(&self, site: Fault, directory: &OwnedFd, id: FileId) -> Result<(), RequestError> {
        let synced = self
            .commits
            .sync(id, || match self.faults.sync(site, directory) {
                // File systems that write directories at once and have no call for it.
                Err(Errno::INVAL) => Ok(()),
                synced => synced,
            });
        synced.map_err(|errno| self.not_durable(errno))
    }

    /// The version of what was just changed. The change is visible already, so that a system that
    /// can't even look at it has made it uncertain.
    fn version_of(&self, file: impl AsFd) -> Result<Version, RequestError> {
        let facts = Facts::of(file).map_err(|errno| self.not_durable(errno))?;
        Ok(facts.version())
    }

    /// The version of what was just put at `place`, as [`Inner::version_of`].
    fn version_at(&self, place: &Place<'_>) -> Result<Version, RequestError> {
        let found = Facts::at(&place.directory, place.name, self.id.device);
        let facts = found.map_err(|errno| self.not_durable(errno))?;
        // If nothing is there, a program that doesn't know our locks took it away.
        Ok(facts.ok_or(RequestError::Conflict)?.version())
    }

    /// Ends all changes, because of one that is visible but not durable.
    fn not_durable(&self, errno: Errno) -> RequestError {
        self.failed.store(true, Ordering::Relaxed);
        RequestError::NotDurable(errno.into())
    }
}

impl OpenFile {
    fn open(directory: &OwnedFd, name: impl Arg + Copy) -> Result<Self, RequestError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file =
            open_beneath(directory, name, flags).map_err(RequestError::system("opening a file"))?;
        // The name may have been given to something else since it was looked at.
        let facts = Facts::of(&file).map_err(RequestError::system("looking at a file"))?;
        facts.require_file()?;
        Ok(Self {
            file: file.into(),
            attributes: facts.attributes(),
        })
    }
}

impl Facts {
    fn require_file(&self) -> Result<(), RequestError> {
        match self.kind {
            _ if self.elsewhere => Err(RequestError::OtherFileSystem),
            EntryKind::File => Ok(()),
            EntryKind::Directory => Err(RequestError::IsDirectory),
            EntryKind::Symlink | EntryKind::Other => Err(RequestError::SpecialFile),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use quire_shared::ErrorCode;
    use rustix::fs::Mode;

    use super::fixture::{Fixture, code, path};
    use super::*;

    fn make_fifo(at: &Path) {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, at, mode).unwrap();
    }

    #[test]
    fn an_open_file_stays_what_it_was() {
        let fixture = Fixture::new();
        fixture.write("d/a", "before");
        let mut opened = fixture.root.open_file(&path("d/a")).unwrap();
        assert_eq!(opened.attributes, fixture.root.stat(&path("d/a")).unwrap());
        fixture.put("d/a", "after", &Default::default()).unwrap();
        let mut content = String::new();
        opened.file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "before");
        let after = fixture.root.attributes_of(&opened.file).unwrap();
        assert_eq!(after.size, opened.attributes.size);
        assert_eq!(after.modified, opened.attributes.modified);
    }

    #[test]
    fn links_lead_nowhere() {
        let fixture = Fixture::new();
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
        let fixture = Fixture::new();
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
    fn names_are_bytes_of_any_length_up_to_the_limit() {
        let fixture = Fixture::new();
        for name in ["x".repeat(255), "é".repeat(127), "a\nb\u{1b}[2J".into()] {
            fixture.put(&name, "x", &Default::default()).unwrap();
            assert_eq!(fixture.read(&name), "x");
        }
    }

    #[test]
    fn a_read_only_root_refuses_changes_and_stays_untouched() {
        let fixture = Fixture::new();
        fixture.write("a", "x");
        let options = RootOptions {
            read_only: true,
            ..Default::default()
        };
        let root = Root::open(&fixture.local(""), options).unwrap();
        assert_eq!(root.read_only(), Some(ReadOnlyReason::Asked));
        let any = Default::default();
        assert_eq!(code(root.stage(None)), ErrorCode::READ_ONLY);
        assert_eq!(
            code(root.check(&path("b"), &any, Parents::MustExist, None)),
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
    fn a_change_that_may_not_be_durable_is_the_last() {
        let fixture = Fixture::new();
        let inner = &fixture.root.inner;
        let site = Fault::PlaceSync;
        inner.sync(site, &inner.directory, inner.id).unwrap();
        assert_eq!(fixture.root.read_only(), None);
        // A handle that only looks can't be synced.
        let (handle, id) = inner.directory(&RemotePath::ROOT, OFlags::PATH).unwrap();
        assert_eq!(code(inner.sync(site, &handle, id)), ErrorCode::DISK);
        assert_eq!(fixture.root.read_only(), Some(ReadOnlyReason::NotDurable));
        assert_eq!(code(fixture.root.stage(None)), ErrorCode::READ_ONLY);
    }

    #[test]
    fn links_that_come_and_go_lead_nowhere() {
        let fixture = Fixture::new();
        fixture.write("d/file", "inside");
        std::fs::write(fixture.outside("file"), "outside").unwrap();
        symlink(fixture.outside(""), fixture.local("link")).unwrap();
        let (going_on, is_over) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // Moved in here, so that it is dropped, and the other thread ends, on a failure as well.
            let _going_on = going_on;
            let (d, link) = (fixture.local("d"), fixture.local("link"));
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
                // Each may succeed or not, but only inside.
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
