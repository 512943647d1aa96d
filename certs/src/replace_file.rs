//! Atomic, durable and locked replacement of a small file.
//!
//! Content is written under a temporary name in the same directory and then renamed. So a reader sees
//! the old file or the new one, and never a part of either. A program that reads, edits
//! and replaces a file holds the file's [`FileLock`] meanwhile. Otherwise it could overwrite a
//! concurrent edit of another program.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::Path,
};

use tempfile::NamedTempFile;

/// A file under a temporary name beside its target, removed on drop unless it is published.
/// Only this user may read it until its permissions are changed.
#[derive(Debug)]
pub struct PendingFile {
    file: NamedTempFile,
}

impl PendingFile {
    /// Creates an empty file in the directory of `target`; its name begins with `prefix`.
    ///
    /// # Errors
    /// The error of the system, without the temporary name, which a user doesn't know.
    pub fn create(target: &Path, prefix: &str) -> io::Result<Self> {
        let created = tempfile::Builder::new()
            .prefix(prefix)
            .rand_bytes(RANDOM_CHARACTERS)
            .tempfile_in(parent(target));
        Ok(Self {
            file: created.map_err(|error| without_path(&error))?,
        })
    }

    /// Creates the file `name` in the directory of `target` by `open`; with `is_random`, a random end
    /// is added to the name, and `open` is called again while the name is taken.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the name is taken; an error of the system.
    pub fn create_with(
        target: &Path,
        name: &str,
        is_random: bool,
        open: impl FnMut(&Path) -> io::Result<File>,
    ) -> io::Result<Self> {
        let created = tempfile::Builder::new()
            .prefix(name)
            .rand_bytes(if is_random { RANDOM_CHARACTERS } else { 0 })
            .make_in(parent(target), open);
        Ok(Self {
            file: created.map_err(|error| without_path(&error))?,
        })
    }

    /// Keeps the file under its temporary name when this is dropped.
    pub fn keep(&mut self) {
        self.file.disable_cleanup(true);
    }

    /// The open file.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The open file, for [`io::Write`].
    pub fn file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Renames the file to `target`. Syncs the content before and the directory after that if
    /// `is_durable`.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if `target` exists and `overwrite` is false; an error of the
    /// system.
    pub fn publish(self, target: &Path, overwrite: bool, is_durable: bool) -> io::Result<()> {
        if is_durable {
            self.file.as_file().sync_all()?;
        }
        let published = if overwrite {
            self.file.persist(target)
        } else {
            self.file.persist_noclobber(target)
        };
        published.map_err(|error| error.error)?;
        if is_durable {
            sync_directory(parent(target))?;
        }
        Ok(())
    }
}

/// Stores `content` durably as the new file `path`, readable by this user alone. Returns `false`
/// if the file exists, which then stays as it is.
///
/// # Errors
/// An error of the system.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<bool> {
    match stage(path, content)?.publish(path, false, true) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Stores `content` durably as the file `path`, readable by this user alone. Replaces an existing
/// file.
///
/// # Errors
/// An error of the system; the old file then stays.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    stage(path, content)?.publish(path, true, true)
}

/// Edits the text file `path` under its lock and replaces it durably; `edit` gets an empty text if
/// there is no such file. The permission bits stay, and a new file is for this user alone. If
/// `path` is a symbolic link, the file that it leads to is replaced.
///
/// # Errors
/// An error of the system, or [`ErrorKind::InvalidData`] if the file is not UTF-8.
pub fn edit(path: &Path, edit: impl FnOnce(&str) -> String) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
        resolved => resolved?,
    };
    let _lock = FileLock::acquire(&path)?;
    let before = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        read => Some(read?),
    };
    let staged = stage(
        &path,
        edit(before.as_deref().unwrap_or_default()).as_bytes(),
    )?;
    if before.is_some() {
        staged
            .file()
            .set_permissions(fs::metadata(&path)?.permissions())?;
    }
    staged.publish(&path, true, true)
}

fn stage(path: &Path, content: &[u8]) -> io::Result<PendingFile> {
    let mut staged = PendingFile::create(path, STAGED_PREFIX)?;
    staged.file_mut().write_all(content)?;
    Ok(staged)
}

/// The exclusive right to replace a file, among programs that ask for it; held until dropped.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Waits for the lock of the file `path`. Blocks.
    ///
    /// # Errors
    /// An error of the system on the lock file.
    pub(crate) fn acquire(path: &Path) -> io::Result<Self> {
        // A separate file, because a lock on `path` would be lost when `path` is replaced.
        let mut name = path.as_os_str().to_owned();
        name.push(LOCK_SUFFIX);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(LOCK_MODE);
        }
        let file = options.open(name)?;
        file.lock()?;
        Ok(Self { _file: file })
    }
}

/// The directory that holds `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The error in the system's own words: `tempfile` adds the temporary name.
fn without_path(error: &io::Error) -> io::Error {
    let text = error.to_string();
    let words = text.split(" at path \"").next().unwrap_or_default();
    io::Error::new(error.kind(), words)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// An error of the system.
#[cfg(unix)]
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Does nothing: Windows can't open a directory as a file, and its journal orders renames.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Random characters of a temporary name. 16 of 62 characters are 95 bits, which can't be guessed.
const RANDOM_CHARACTERS: usize = 16;

/// Prefix of the temporary names of files that this module writes itself.
const STAGED_PREFIX: &str = ".new-";

/// Suffix of the names of lock files.
const LOCK_SUFFIX: &str = ".lock";

/// Mode of lock files: another user who could open one could hold the lock forever.
#[cfg(unix)]
const LOCK_MODE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrent_edits_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        edit(&path, |text| format!("{text}x")).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap().len(), 40);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn an_edit_keeps_the_mode_and_the_link_and_a_new_file_is_private() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let link = directory.path().join("link");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        edit(&path, |_| "a".to_owned()).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        symlink(&path, &link).unwrap();
        edit(&link, |text| format!("{text}b")).unwrap();
        assert_eq!(mode(), 0o644);
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab");
        assert!(link.is_symlink());
    }
}
