//! Temporary files of downloads: their names, and what is left of them after a kill.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use quire_certs::replace_file::{PendingFile, parent};
use quire_shared::digest::DigestKind;
use quire_shared::path::RESERVED_PREFIX;

/// Creates the temporary file for `target`, whose mode is `mode` as far as the umask or the default
/// ACL of the directory lets it. Returns as well whether it has the name that belongs to the target.
///
/// # Errors
/// The error of the system, without the temporary name, which a user doesn't know.
pub(super) fn create(target: &Path, mode: u32) -> io::Result<(PendingFile, bool)> {
    let open = |path: &Path| create_locked(path, mode);
    if let Some(name) = name(target) {
        for _ in 0..ATTEMPTS_MAX {
            match PendingFile::create_with(target, &name, false, open) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => return Ok((created?, true)),
            }
            if !is_removed(&parent(target).join(&name)) {
                break;
            }
        }
    }
    let created = PendingFile::create_with(target, DOWNLOAD_PREFIX, true, open);
    Ok((created?, false))
}

/// Opens and locks what a download of `target` has left, unless another process writes it. It is
/// removed on drop.
pub(super) fn reopen(target: &Path) -> Option<PendingFile> {
    let open = |path: &Path| {
        let mut options = File::options();
        options.read(true).write(true);
        crate::upload::Links::Refuse.apply(&mut options);
        let file = options.open(path)?;
        let is_free = is_own(&file) && file.try_lock().is_ok();
        // Otherwise it has been published under its own name since it was opened.
        match is_free && is_at(&file, path) {
            true => Ok(file),
            false => Err(ErrorKind::NotFound.into()),
        }
    };
    PendingFile::create_with(target, &name(target)?, false, open).ok()
}

/// The path of the temporary file that belongs to `target`.
pub(super) fn path(target: &Path) -> Option<PathBuf> {
    Some(parent(target).join(name(target)?))
}

/// The name of that file; none on systems where a name says nothing of what it stands for.
fn name(target: &Path) -> Option<String> {
    let name = target.file_name().filter(|_| cfg!(unix))?;
    let digest = DigestKind::Xxh3.of(name.as_encoded_bytes());
    Some(format!("{DOWNLOAD_PREFIX}{digest}"))
}

/// Whether `file` is a file of this user, under one name: what others prepare is not continued.
#[cfg(unix)]
pub(super) fn is_own(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let is_own = |metadata: std::fs::Metadata| {
        let user = rustix::process::geteuid().as_raw();
        metadata.is_file() && metadata.uid() == user && metadata.nlink() == 1
    };
    file.metadata().is_ok_and(is_own)
}

/// Other systems have only random names, which no other process looks for.
#[cfg(not(unix))]
pub(super) fn is_own(_: &File) -> bool {
    false
}

/// Whether a local file has the name of something that quire has left: an unfinished download, or
/// the directory in which a server stages files.
pub(crate) fn is_left_over(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(RESERVED_PREFIX) else {
        return false;
    };
    let is_random = rest.len() == RANDOM_CHARACTERS
        && rest
            .chars()
            .all(|character| character.is_ascii_alphanumeric());
    name == STAGING_NAME || name.starts_with(DOWNLOAD_PREFIX) || is_random
}

/// Creates a file that nobody else has, and locks it as long as it is open.
fn create_locked(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    set_mode(&mut options, mode);
    let file = options.open(path)?;
    match file.try_lock() {
        // Another process may have taken it for a left-over before it was locked.
        Ok(()) if is_named(&file) => Ok(file),
        Ok(()) | Err(std::fs::TryLockError::WouldBlock) => Err(ErrorKind::AlreadyExists.into()),
        // Without locks a left-over can't be told from a file in use, so both stay.
        Err(std::fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// Whether the new `file` still has its name. Costs no look-up of a path, for each of many files.
#[cfg(unix)]
fn is_named(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// Other systems have only random names, which no other process looks for.
#[cfg(not(unix))]
fn is_named(_: &File) -> bool {
    true
}

/// Removes the file `path` if no process has it locked. Returns whether the name may be free now.
fn is_removed(path: &Path) -> bool {
    let mut options = File::options();
    options.read(true);
    crate::upload::Links::Refuse.apply(&mut options);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) => return error.kind() == ErrorKind::NotFound,
    };
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file || file.try_lock().is_err() {
        return false;
    }
    // Otherwise it has been published under its own name since it was opened.
    !is_at(&file, path) || std::fs::remove_file(path).is_ok()
}

/// Whether `path` is the name of the open `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    let opened = file
        .metadata()
        .ok()
        .as_ref()
        .and_then(crate::local_file::LocalId::of);
    opened.is_some() && opened == crate::local_file::LocalId::at(path)
}

/// Other systems have only random names, which no other process looks for.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
pub(super) fn set_mode(options: &mut std::fs::OpenOptions, mode: u32) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(mode & crate::attributes::PERMISSION_BITS);
}

#[cfg(not(unix))]
pub(super) fn set_mode(_: &mut std::fs::OpenOptions, _: u32) {}

/// Prefix of the names of unfinished downloads.
pub(super) const DOWNLOAD_PREFIX: &str = ".quire-get-";

/// The directory in which a server stages files.
const STAGING_NAME: &str = ".quire-staging";

/// Random characters after the prefix in names of former versions.
const RANDOM_CHARACTERS: usize = 16;

/// Attempts to get the name that belongs to the target; then another name will do.
const ATTEMPTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let names = std::fs::read_dir(directory).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn what_is_left_is_removed_and_what_is_in_use_stays() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        let first = create(&target, 0o644).unwrap().0;
        let second = create(&target, 0o644).unwrap().0;
        assert_eq!(names(directory.path()).len(), 2);
        drop(second);
        let [left] = names(directory.path()).try_into().unwrap();
        drop(first);
        std::fs::write(directory.path().join(&left), "left").unwrap();
        let third = create(&target, 0o644).unwrap().0;
        assert_eq!(names(directory.path()), [left]);
        assert_eq!(third.file().metadata().unwrap().len(), 0);
        third.publish(&target, false, false).unwrap();
        assert_eq!(names(directory.path()), ["f"]);
    }

    #[test]
    fn names_that_quire_gives_are_told_from_others() {
        for name in [
            ".quire-staging",
            ".quire-0123456789abcdEF",
            ".quire-get-0123456789abcdEF",
        ] {
            assert!(is_left_over(name), "{name}");
        }
        for name in [".quire-x", ".quire-", "f", ".quire-0123456789abcdE-"] {
            assert!(!is_left_over(name), "{name}");
        }
    }
}
