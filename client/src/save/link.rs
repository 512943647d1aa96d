//! Links in a directory that arrives as a tree.
//!
//! A link that replaces something is made beside it and renamed, so that the name always stands for the
//! one or the other. Nothing follows a link that is there already.

use std::fs;
use std::io;
use std::path::Path;

use quire_certs::replace_file::{parent, sync_directory};
use quire_shared::protocol::{LinkTarget, Preserve, Time};
use tempfile::NamedTempFile;

use super::staged::DOWNLOAD_PREFIX;
use super::{SaveOptions, inside_tree};
use crate::error::ClientError;
use crate::local_file::LocalId;

/// Makes the symbolic link `path`, whose target was found not to lead out. Blocks.
///
/// # Errors
/// [`ClientError::LocalExists`] if something is there and is not to be replaced, or why it can't be
/// made.
pub(crate) fn save_symlink(
    path: &Path,
    target: &LinkTarget,
    modified: Option<Time>,
    options: SaveOptions,
) -> Result<(), ClientError> {
    let modified = modified.filter(|_| options.preserve != Preserve::Nothing);
    let make = |path: &Path| {
        symlink(target, path)?;
        if let Some(modified) = modified {
            // A time that the file system doesn't have is no reason to go without the link.
            let _ = set_link_time(path, modified);
        }
        Ok(())
    };
    save(path, options, make)
}

/// Makes `path` another name of the file `original`. Blocks.
///
/// # Errors
/// As [`save_symlink`].
pub(crate) fn save_hard_link(
    original: &Path,
    path: &Path,
    options: SaveOptions,
) -> Result<(), ClientError> {
    // Of which rename(2) would leave both names.
    let id = LocalId::at(original);
    if id.is_some() && id == LocalId::at(path) {
        return Ok(());
    }
    // It doesn't follow a link that has the name of the original by now, but links that itself.
    save(path, options, |path| fs::hard_link(original, path))
}

fn save(
    path: &Path,
    options: SaveOptions,
    mut make: impl FnMut(&Path) -> io::Result<()>,
) -> Result<(), ClientError> {
    inside_tree(path, options)?;
    let made = match options.overwrite {
        // Fails if the name is taken.
        false => make(path),
        true => beside(path, make),
    };
    let made = made.and_then(|()| match options.sync {
        true => sync_directory(parent(path)),
        false => Ok(()),
    });
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(ClientError::LocalExists(path.to_owned()))
        }
        made => made.map_err(|error| ClientError::disk(path, "create", error)),
    }
}

/// Makes a link beside `path`, and renames it. A rename replaces no directory.
fn beside(path: &Path, mut make: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let made: NamedTempFile<()> = tempfile::Builder::new()
        .prefix(DOWNLOAD_PREFIX)
        .rand_bytes(RANDOM_CHARACTERS)
        .make_in(parent(path), &mut make)?;
    made.persist(path).map_err(|error| error.error)
}

#[cfg(unix)]
fn symlink(target: &LinkTarget, path: &Path) -> io::Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    std::os::unix::fs::symlink(OsStr::from_bytes(target.as_bytes()), path)
}

/// Other systems tell links to files from links to directories, which the target doesn't.
#[cfg(not(unix))]
fn symlink(_: &LinkTarget, _: &Path) -> io::Result<()> {
    let reason = "symbolic links are made on Unix only";
    Err(io::Error::new(io::ErrorKind::Unsupported, reason))
}

#[cfg(unix)]
fn set_link_time(path: &Path, modified: Time) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.min(NANOSECONDS_MAX).into(),
        },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(not(unix))]
fn set_link_time(_: &Path, _: Time) -> io::Result<()> {
    Ok(())
}

/// Random characters in the name of a link that is to replace something.
const RANDOM_CHARACTERS: usize = 16;

/// Largest count of nanoseconds within a second.
#[cfg(unix)]
const NANOSECONDS_MAX: u32 = 999_999_999;
