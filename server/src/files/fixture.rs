//! A served directory with one file, for tests of what a front end makes of it, and versions.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use quire_certs::Identity;
use quire_shared::RemotePath;
use quire_shared::protocol::Version;
use tempfile::TempDir;

use super::{Caller, Files};
use crate::auth::access::Access;
use crate::auth::authorized_keys::AuthorizedKeys;
use crate::config::Config;

/// The directory, with the file `f`.
#[derive(Debug)]
pub(crate) struct OneFile {
    root: TempDir,
    pub(crate) files: Files,
    /// A client that may read.
    pub(crate) caller: Caller,
}

/// What another program does to the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meddling {
    Nothing,
    Append,
    Touch,
    Truncate,
}

impl OneFile {
    pub(crate) fn new(content: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("f"), content).unwrap();
        let identity = Identity::generate(&[]).unwrap();
        let path = root.path().to_owned();
        let config = Config::new(path, identity, AuthorizedKeys::default());
        let files = Files::open(&config.files()).unwrap();
        let access = Access::new("read".parse().unwrap());
        let caller = files.caller(Arc::new(access), None);
        Self {
            root,
            files,
            caller,
        }
    }

    pub(crate) fn path() -> RemotePath {
        RemotePath::parse("f").unwrap()
    }

    pub(crate) fn meddle(&self, meddling: Meddling) {
        let path = self.root.path().join("f");
        match meddling {
            Meddling::Nothing => {}
            Meddling::Append => {
                let mut file = File::options().append(true).open(path).unwrap();
                file.write_all(b" and more").unwrap();
            }
            Meddling::Touch => {
                let file = File::options().write(true).open(path).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            }
            Meddling::Truncate => drop(File::create(path).unwrap()),
        }
    }
}

/// Makes a version like those of the store, of a file changed in that second of the Unix time.
pub(crate) fn version(inode: u64, second: i64) -> Version {
    let mut bytes = [0; 48];
    bytes[8..16].copy_from_slice(&inode.to_be_bytes());
    bytes[24..32].copy_from_slice(&second.to_be_bytes());
    bytes[32..40].copy_from_slice(&second.to_be_bytes());
    Version::new(&bytes).unwrap()
}
