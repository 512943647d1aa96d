//! State directory: private directory for a program's keys and the keys that it trusts.
//!
//! Owner and permissions are checked, because another user who could write there could decide which
//! keys are trusted. Others may list the directory, as systemd's `StateDirectory=` lets them by
//! default, but they can't read the private files in it. Files are created and replaced atomically.

use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;

use crate::{CertsError, FileLock, pem::io_error, replace_file};

/// A directory that exists, belongs to this user and can't be changed by others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory `path`, or the platform's when `None`, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// Names the directory when it can't be made, belongs to another user or can be changed by
    /// others.
    pub fn open(path: Option<&Path>) -> Result<Self, CertsError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => Self::default_path()?,
        };
        create_private(&path)?;
        let metadata = fs::metadata(&path).map_err(|e| io_error(&path, "look at it", e))?;
        if !metadata.is_dir() {
            return Err(CertsError::NotADirectory { path });
        }
        check_private(&path, &metadata, OTHERS_WRITE_BITS, DIR_MODE)?;
        Ok(Self { path })
    }

    /// Default path of the state directory.
    ///
    /// # Errors
    ///
    /// [`CertsError::NoStateDir`] when the platform names no home directory.
    pub fn default_path() -> Result<PathBuf, CertsError> {
        let strategy =
            etcetera::choose_base_strategy().map_err(|_no_home| CertsError::NoStateDir)?;
        // Only Windows has no such directory. Its cache directory is local to the machine, as private
        // keys have to be, and nothing cleans it up.
        let base = strategy.state_dir().unwrap_or_else(|| strategy.cache_dir());
        Ok(base.join(DIR_NAME))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the file `name` for reading; `None` if there is none. Refuses a file that belongs to
    /// another user or that others may read.
    ///
    /// # Errors
    ///
    /// Names the file and says what is wrong with it.
    pub(crate) fn open_private(&self, name: &str) -> Result<Option<File>, CertsError> {
        let path = self.file(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&path, "open it", error)),
        };
        // The metadata of the open file: `path` may name another file by now.
        let metadata = file
            .metadata()
            .map_err(|error| io_error(&path, "look at it", error))?;
        check_private(&path, &metadata, OTHERS_BITS, FILE_MODE)?;
        Ok(Some(file))
    }

    /// Stores `content` durably as the new file `name`. Returns `false` if the file exists, which then
    /// stays as it is.
    ///
    /// # Errors
    ///
    /// Names the file or directory that could not be written.
    pub fn create(&self, name: &str, content: &[u8]) -> Result<bool, CertsError> {
        let path = self.file(name);
        replace_file::create(&path, content).map_err(|error| io_error(&path, "create it", error))
    }

    /// Stores `content` durably as the file `name`, and replaces an existing one.
    ///
    /// # Errors
    ///
    /// Names the file that could not be written.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), CertsError> {
        let path = self.file(name);
        replace_file::replace(&path, content).map_err(|error| io_error(&path, "replace it", error))
    }

    /// Waits for the exclusive right to change the file `name` and holds it until dropped.
    /// For a program that reads, edits and [replaces](Self::replace) a file that others edit too.
    ///
    /// # Errors
    ///
    /// Names the file whose lock can't be made or taken.
    pub fn lock(&self, name: &str) -> Result<FileLock, CertsError> {
        let path = self.file(name);
        FileLock::acquire(&path).map_err(|error| io_error(&path, "lock it", error))
    }
}

/// Creates the directory and its parents; the caller checks what exists already.
fn create_private(path: &Path) -> Result<(), CertsError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(DIR_MODE);
    }
    match builder.create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(io_error(path, "make this directory", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Refuses a file or directory of another user, or with any of the permission bits `refused`.
#[cfg(unix)]
fn check_private(
    path: &Path,
    metadata: &fs::Metadata,
    refused: u32,
    wanted: u32,
) -> Result<(), CertsError> {
    use std::os::unix::fs::MetadataExt as _;

    let expected = rustix::process::geteuid().as_raw();
    if metadata.uid() != expected {
        return Err(CertsError::ForeignOwner {
            path: path.to_owned(),
            owner: metadata.uid(),
            expected,
        });
    }
    if metadata.mode() & refused != 0 {
        return Err(CertsError::LooseMode {
            path: path.to_owned(),
            mode: metadata.mode() & PERMISSION_BITS,
            wanted,
        });
    }
    Ok(())
}

/// Accepts everything: on Windows the inherited access list denies other users.
#[cfg(not(unix))]
fn check_private(_: &Path, _: &fs::Metadata, _: u32, _: u32) -> Result<(), CertsError> {
    Ok(())
}

/// Name of the directory below the platform's directory for state.
const DIR_NAME: &str = "quire";

/// Mode of the directory: only for its owner.
const DIR_MODE: u32 = 0o700;

/// Mode of the files: only for their owner.
const FILE_MODE: u32 = 0o600;

/// Permission bits of group and others.
const OTHERS_BITS: u32 = 0o077;

/// The bits among them with which a directory can be changed.
const OTHERS_WRITE_BITS: u32 = 0o022;

/// The part of `st_mode` that `chmod` sets.
#[cfg(unix)]
const PERMISSION_BITS: u32 = 0o7777;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn state_dir(base: &TempDir) -> StateDir {
        StateDir::open(Some(&base.path().join("a/b/state"))).unwrap()
    }

    fn read(dir: &StateDir, name: &str) -> String {
        std::io::read_to_string(dir.open_private(name).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn the_default_ends_in_the_programs_name() {
        assert!(StateDir::default_path().unwrap().ends_with(DIR_NAME));
    }

    #[test]
    fn it_is_created_with_its_parents_and_found_again() {
        let base = TempDir::new().unwrap();
        let dir = state_dir(&base);
        assert!(dir.path().is_dir());
        assert_eq!(state_dir(&base), dir);
    }

    #[test]
    fn create_never_replaces_and_replace_does() {
        let base = TempDir::new().unwrap();
        let dir = state_dir(&base);
        assert!(dir.open_private("f").unwrap().is_none());
        assert!(dir.create("f", b"one").unwrap());
        assert!(!dir.create("f", b"two").unwrap());
        assert_eq!(read(&dir, "f"), "one");
        dir.replace("f", b"three").unwrap();
        assert_eq!(read(&dir, "f"), "three");
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 1, "nothing staged is left behind");
    }

    #[test]
    fn a_file_at_its_path_is_refused() {
        let base = TempDir::new().unwrap();
        let path = base.path().join("file");
        fs::write(&path, "").unwrap();
        assert!(matches!(
            StateDir::open(Some(&path)),
            Err(CertsError::NotADirectory { .. })
        ));
        assert!(matches!(
            StateDir::open(Some(&path.join("below"))),
            Err(CertsError::Io { .. })
        ));
    }

    #[test]
    fn a_lock_makes_read_and_replace_one_step() {
        let base = TempDir::new().unwrap();
        let dir = state_dir(&base);
        dir.create("count", b"").unwrap();
        let rounds = 20;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let _lock = dir.lock("count").unwrap();
                        let longer = read(&dir, "count") + "x";
                        dir.replace("count", longer.as_bytes()).unwrap();
                    }
                });
            }
        });
        assert_eq!(read(&dir, "count").len(), 4 * rounds);
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

        use super::*;

        fn set_mode(path: &Path, mode: u32) {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn mode(path: &Path) -> u32 {
            fs::metadata(path).unwrap().mode() & PERMISSION_BITS
        }

        #[test]
        fn everything_it_creates_is_private() {
            let base = TempDir::new().unwrap();
            let dir = state_dir(&base);
            dir.create("created", b"").unwrap();
            dir.replace("replaced", b"").unwrap();
            let _lock = dir.lock("locked").unwrap();
            assert_eq!(mode(dir.path()), DIR_MODE);
            for name in ["created", "replaced", "locked.lock"] {
                assert_eq!(mode(&dir.file(name)), FILE_MODE, "{name}");
            }
        }

        #[test]
        fn a_directory_that_others_can_change_is_refused_by_name() {
            let base = TempDir::new().unwrap();
            let path = state_dir(&base).path().to_owned();
            for loose in [0o775, 0o720, 0o702, 0o770, 0o707] {
                set_mode(&path, loose);
                let error = StateDir::open(Some(&path)).unwrap_err();
                assert!(matches!(error, CertsError::LooseMode { mode, .. } if mode == loose));
                let text = error.to_string();
                assert!(
                    text.contains("state") && text.contains("chmod 700"),
                    "{text}"
                );
            }
            for accepted in [0o500, 0o755, 0o750, 0o711] {
                set_mode(&path, accepted);
                StateDir::open(Some(&path)).unwrap();
            }
        }

        #[test]
        fn a_file_open_to_others_is_refused_by_name() {
            let base = TempDir::new().unwrap();
            let dir = state_dir(&base);
            dir.create("secret", b"").unwrap();
            for loose in [0o640, 0o604, 0o660, 0o602, 0o666] {
                set_mode(&dir.file("secret"), loose);
                let error = dir.open_private("secret").unwrap_err();
                assert!(matches!(error, CertsError::LooseMode { mode, .. } if mode == loose));
                let text = error.to_string();
                assert!(
                    text.contains("secret") && text.contains("chmod 600"),
                    "{text}"
                );
            }
            set_mode(&dir.file("secret"), 0o400);
            dir.open_private("secret").unwrap().unwrap();
        }

        #[test]
        fn files_of_another_user_are_refused_by_name() {
            // Giving files away takes a right that most users lack; `/` then belongs to another.
            let base = TempDir::new().unwrap();
            let dir = state_dir(&base);
            dir.create("secret", b"").unwrap();
            let stranger = rustix::process::geteuid().as_raw() + 1;
            if std::os::unix::fs::chown(dir.file("secret"), Some(stranger), None).is_err() {
                let error = StateDir::open(Some(Path::new("/"))).unwrap_err();
                assert!(matches!(error, CertsError::ForeignOwner { owner: 0, .. }));
                return;
            }
            let error = dir.open_private("secret").unwrap_err();
            assert!(error.to_string().contains("secret"), "{error}");
            assert!(matches!(error, CertsError::ForeignOwner { owner, .. } if owner == stranger));
            std::os::unix::fs::chown(dir.path(), Some(stranger), None).unwrap();
            let error = StateDir::open(Some(dir.path())).unwrap_err();
            assert!(matches!(error, CertsError::ForeignOwner { .. }));
        }
    }
}
