//! Test fixture: a root in a temporary directory.

use std::io::Write;
use std::path::PathBuf;

use quire_shared::protocol::{DetailKinds, Precondition, Preserve, Version};
use quire_shared::{ErrorCode, RemotePath};
use tempfile::TempDir;

use super::batch::{Change, Committed};
use super::cancel::CancelOnDrop;
use super::copy::{CopySource, StagedCopy};
use super::open::Options;
use super::permissions::GivenAttributes;
use super::publish::Destination;
use super::root::Root;
use super::staged_file::StagedFile;
use super::trash::Trash;
use super::{Error, Parents};

/// Root in a temporary directory, with a directory beside it that no client may reach.
pub(super) struct StoreFixture {
    directory: TempDir,
    pub(super) root: Root,
}

impl StoreFixture {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        std::fs::create_dir(directory.path().join("outside")).unwrap();
        let root = open(&directory, options);
        Self { directory, root }
    }

    /// Ends the server of this root, and opens it again as another would.
    pub(super) fn restarted(self, options: Options) -> Self {
        let Self { directory, root } = self;
        drop(root);
        let root = open(&directory, options);
        Self { directory, root }
    }

    /// Local path of `path` in the root.
    pub(super) fn local(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    /// Local path of `path` in the directory beside the root.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.directory.path().join("outside").join(path)
    }

    /// Writes a file directly, as another program would.
    pub(super) fn write(&self, path: &str, content: &str) {
        std::fs::create_dir_all(self.local(path).parent().unwrap()).unwrap();
        std::fs::write(self.local(path), content).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.local(path)).unwrap()
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.local(path).symlink_metadata().is_ok()
    }

    /// Opens the same root again, as a second server would.
    pub(super) fn another_server(&self) -> Root {
        open(&self.directory, Options::default())
    }

    /// Stages and seals `content`.
    pub(super) fn staged(&self, content: &str) -> StagedFile {
        let mut staged = self.root.stage(Some(content.len() as u64)).unwrap();
        staged.write_all(content.as_bytes()).unwrap();
        staged.sync().unwrap();
        staged
    }

    /// Stages and seals a file for `at`.
    pub(super) fn staged_for(&self, at: &str, given: GivenAttributes) -> StagedFile {
        let mut staged = self.staged("content");
        let target = target(&path(at), &Precondition::Any, Parents::MustExist);
        let set = self
            .root
            .set_attributes(&mut staged, &target, given, &mut None);
        set.unwrap();
        staged
    }

    /// Publishes a file with these attributes at `at`.
    pub(super) fn put_with(&self, at: &str, given: GivenAttributes) -> Result<Version, Error> {
        let staged = self.staged_for(at, given);
        let precondition = Precondition::Any;
        self.root
            .publish(staged, &path(at), &precondition, Parents::MustExist)
    }

    pub(super) fn set_attributes(
        &self,
        at: &str,
        given: GivenAttributes,
        is_new: bool,
    ) -> Result<Version, Error> {
        self.root.version_after(Change::Attributes {
            path: path(at),
            given,
            is_new,
        })
    }

    pub(super) fn chmod(
        &self,
        at: &str,
        mode: u32,
        precondition: &Precondition,
    ) -> Result<Version, Error> {
        let path = path(at);
        let precondition = precondition.clone();
        self.root.version_after(Change::Chmod {
            path,
            mode,
            details: Default::default(),
            precondition,
        })
    }

    /// Copies a file or directory, in place of a file.
    pub(super) fn copy(
        &self,
        (from, to): (&str, &str),
        preserve: Preserve,
    ) -> Result<Version, Error> {
        let source = CopySource {
            path: path(from),
            recursive: true,
            precondition: Precondition::Any,
            preserve,
            details: DetailKinds::default(),
        };
        let target = target(&path(to), &Precondition::Any, Parents::MustExist);
        let staged = self.root.stage_copy(&source, &target)?;
        self.root.version_after(Change::Copy { target, staged })
    }

    /// Publishes `content` at `at`.
    pub(super) fn put(
        &self,
        at: &str,
        content: &str,
        precondition: &Precondition,
    ) -> Result<Version, Error> {
        let staged = self.staged(content);
        self.root
            .publish(staged, &path(at), precondition, Parents::MustExist)
    }

    pub(super) fn version(&self, at: &str) -> Version {
        self.root.stat(&path(at)).unwrap().version
    }

    /// Number of entries in the staging directory.
    pub(super) fn staged_count(&self) -> usize {
        std::fs::read_dir(self.local(super::staging::STAGING_NAME)).map_or(0, Iterator::count)
    }
}

fn open(directory: &TempDir, options: Options) -> Root {
    Root::open(&directory.path().join("root"), options).unwrap()
}

pub(super) fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

/// Error code of a failed result.
#[track_caller]
pub(super) fn code<T>(result: Result<T, Error>) -> ErrorCode {
    match result {
        Ok(_) => panic!("succeeded, but should have failed"),
        Err(error) => crate::files::Error::from(error).code(),
    }
}

/// Checks whether permissions apply to this user, and prints why a test is skipped if not.
#[expect(clippy::print_stdout, reason = "the test runner shows it")]
pub(super) fn is_bound_by_permissions() -> bool {
    let is_bound = !rustix::process::geteuid().is_root();
    if !is_bound {
        println!("skipped: permissions don't apply to root");
    }
    is_bound
}

/// Helpers for single changes, each as a batch of one.
impl Root {
    fn commit_one(&self, change: Change) -> Result<Committed, Error> {
        self.commit(vec![change]).remove(0)
    }

    fn version_after(&self, change: Change) -> Result<Version, Error> {
        Ok(self.commit_one(change)?.version.unwrap())
    }

    pub(super) fn publish(
        &self,
        staged: StagedFile,
        path: &RemotePath,
        precondition: &Precondition,
        parents: Parents,
    ) -> Result<Version, Error> {
        let target = target(path, precondition, parents);
        self.version_after(Change::File { target, staged })
    }

    pub(super) fn publish_copy(
        &self,
        staged: StagedCopy,
        path: &RemotePath,
        precondition: &Precondition,
    ) -> Result<Version, Error> {
        let target = target(path, precondition, Parents::MustExist);
        self.version_after(Change::Copy { target, staged })
    }

    pub(super) fn make_directory(
        &self,
        path: &RemotePath,
        parents: Parents,
        precondition: &Precondition,
    ) -> Result<Version, Error> {
        let target = target(path, precondition, parents);
        self.version_after(Change::Directory { target })
    }

    pub(super) fn rename(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        source: &Precondition,
        target: &Precondition,
    ) -> Result<Version, Error> {
        self.version_after(Change::Rename {
            from: from.clone(),
            to: to.clone(),
            source: source.clone(),
            target: target.clone(),
        })
    }

    pub(super) fn delete(
        &self,
        path: &RemotePath,
        recursive: bool,
        precondition: &Precondition,
    ) -> Result<Option<Trash>, Error> {
        let change = Change::Delete {
            path: path.clone(),
            recursive,
            precondition: precondition.clone(),
        };
        Ok(self.commit_one(change)?.trash)
    }

    pub(super) fn check_put(
        &self,
        path: &RemotePath,
        precondition: &Precondition,
        parents: Parents,
        size: Option<u64>,
    ) -> Result<(), Error> {
        self.check(&target(path, precondition, parents), size)
    }

    pub(super) fn copy_to_staging(
        &self,
        (from, to): (&RemotePath, &RemotePath),
        recursive: bool,
        source: &Precondition,
        cancelled: bool,
    ) -> Result<StagedCopy, Error> {
        let source = CopySource {
            path: from.clone(),
            recursive,
            precondition: source.clone(),
            preserve: Preserve::Usual,
            details: DetailKinds::default(),
        };
        let target = target(to, &Precondition::Any, Parents::MustExist);
        let guard = CancelOnDrop::default();
        let flag = guard.flag();
        let _guard = (!cancelled).then_some(guard);
        flag.run(|| self.stage_copy(&source, &target))
    }
}

fn target(path: &RemotePath, precondition: &Precondition, parents: Parents) -> Destination {
    Destination {
        path: path.clone(),
        precondition: precondition.clone(),
        parents,
    }
}
