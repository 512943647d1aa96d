//! Directories to serve, created for one test and removed with it.
//!
//! They are in memory (tmpfs) where the system has that, because most tests would wait for the disk
//! otherwise: the server answers when a change is durable.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::content::{SIZES, content};

/// A directory to serve, and one beside it that must not be reachable.
#[derive(Debug)]
pub struct Tree {
    directory: TempDir,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty directory.
    pub fn new() -> Self {
        let tree = Self {
            directory: scratch(),
        };
        fs::create_dir(tree.root()).unwrap();
        fs::create_dir(tree.outside()).unwrap();
        tree
    }

    /// The directory to serve.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// The directory beside it.
    pub fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    /// The local path of `name` in the served directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Adds a file, and its parent directories.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(name, content);
        self
    }

    /// Adds a directory.
    pub fn directory(self, name: &str) -> Self {
        fs::create_dir_all(self.path(name)).unwrap();
        self
    }

    /// Adds a symbolic link.
    pub fn link(self, name: &str, target: impl AsRef<Path>) -> Self {
        symlink(target, self.path(name)).unwrap();
        self
    }

    /// Adds a FIFO.
    pub fn fifo(self, name: &str) -> Self {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, self.path(name), FileType::Fifo, mode, 0).unwrap();
        self
    }

    /// Sets the permission bits of `name`.
    pub fn mode(self, name: &str, mode: u32) -> Self {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Adds one file of each of [`SIZES`], named after its size; the seed is the size.
    pub fn with_sizes(self) -> Self {
        SIZES.iter().fold(self, |tree, &size| {
            tree.file(&format!("size-{size}"), content(size as u64, size))
        })
    }

    /// Replaces a file as another program on this machine would.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Overwrites bytes of a file from `offset` on, in place.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options()
            .write(true)
            .open(self.path(name))
            .unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Appends to a file.
    pub fn append(&self, name: &str, bytes: &[u8]) {
        let mut file = fs::File::options()
            .append(true)
            .open(self.path(name))
            .unwrap();
        file.write_all(bytes).unwrap();
    }

    /// Makes a file shorter.
    pub fn truncate(&self, name: &str, len: u64) {
        let file = fs::File::options()
            .write(true)
            .open(self.path(name))
            .unwrap();
        file.set_len(len).unwrap();
    }

    /// The content of a file.
    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Whether the name exists.
    pub fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    /// The names in a directory, sorted by their bytes, including those of quire itself.
    pub fn names(&self, name: &str) -> Vec<String> {
        names(&self.path(name))
    }
}

/// The names in `directory`, sorted by their bytes.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    names
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// A directory for one test.
pub fn scratch() -> TempDir {
    let memory = Path::new(MEMORY);
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.unwrap()
}

/// Where Linux mounts a tmpfs.
const MEMORY: &str = "/dev/shm";

/// Legal file names that some program or system treats specially.
pub const HOSTILE_NAMES: &[&str] = &[
    " ",
    " leading and trailing ",
    "-rf",
    "...",
    "..hidden",
    "%2e%2e",
    "C:\\Windows",
    "aux",
    "back\\slash",
    "bell\u{7}",
    "carriage\rreturn",
    "e\u{301}",
    "é",
    "glob*?[a]",
    "new\nline",
    "quote'\"`$(id)",
    "right\u{202e}to left",
    "tab\there",
    "\u{1b}[31mred",
    "日本語",
    "🦀",
];
