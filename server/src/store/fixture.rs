//! A root in a temporary directory, for the tests of this module.

use std::io::Write;
use std::path::PathBuf;

use quire_shared::protocol::{Precondition, Version};
use quire_shared::{ErrorCode, RemotePath};
use tempfile::TempDir;

use super::{Parents, Root, RootOptions, StagedFile};
use crate::error::RequestError;

/// A root, with a directory beside it that no client may reach.
pub(super) struct Fixture {
    directory: TempDir,
    pub(super) root: Root,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        std::fs::create_dir(directory.path().join("outside")).unwrap();
        let root = open(&directory);
        Self { directory, root }
    }

    /// Where `path` of the root is on disk.
    pub(super) fn local(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    /// Where `path` of the directory beside the root is on disk.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.directory.path().join("outside").join(path)
    }

    /// Makes a file behind the server's back.
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

    /// A second server on the same root.
    pub(super) fn another_server(&self) -> Root {
        open(&self.directory)
    }

    /// Sealed content without a name.
    pub(super) fn staged(&self, content: &str) -> StagedFile {
        let mut staged = self.root.stage(Some(content.len() as u64)).unwrap();
        staged.write_all(content.as_bytes()).unwrap();
        staged.seal(None, None).unwrap();
        staged
    }

    /// Puts `content` at `at`.
    pub(super) fn put(
        &self,
        at: &str,
        content: &str,
        precondition: &Precondition,
    ) -> Result<Version, RequestError> {
        let staged = self.staged(content);
        self.root
            .publish(staged, &path(at), precondition, Parents::MustExist)
    }

    pub(super) fn version(&self, at: &str) -> Version {
        self.root.stat(&path(at)).unwrap().version
    }

    /// How many entries the staging directory has.
    pub(super) fn staged_count(&self) -> usize {
        std::fs::read_dir(self.local(super::staging::STAGING_NAME)).map_or(0, Iterator::count)
    }
}

fn open(directory: &TempDir) -> Root {
    Root::open(&directory.path().join("root"), RootOptions::default()).unwrap()
}

pub(super) fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

/// The code of a failure.
#[track_caller]
pub(super) fn code<T>(result: Result<T, RequestError>) -> ErrorCode {
    match result {
        Ok(_) => panic!("succeeded where it should fail"),
        Err(error) => error.code(),
    }
}

/// Whether this user is bound by permissions at all; says so where a test is skipped for it.
#[expect(clippy::print_stdout, reason = "the test runner shows it")]
pub(super) fn is_bound_by_permissions() -> bool {
    let is_bound = !rustix::process::geteuid().is_root();
    if !is_bound {
        println!("skipped: permissions don't bind this user");
    }
    is_bound
}
