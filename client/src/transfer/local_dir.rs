//! Local directories while they are being filled.
//!
//! A directory gets its own modification time and mode when the last file below it has arrived,
//! because anything made in it would change the one and might be forbidden by the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_shared::protocol::{Attributes, Details, Preserve, Time};

use super::engine::Transfer;
use crate::attributes;
use crate::details::{self, Keep};
use crate::error::ClientError;
use crate::save::SaveOptions;
use crate::upload::Links;

/// What a directory gets of its original.
#[derive(Debug, Clone)]
pub(super) struct GivenToDir {
    pub(super) modified: Time,
    pub(super) mode: u32,
    pub(super) details: Option<Box<Details>>,
}

impl GivenToDir {
    /// Takes what the server told of a directory.
    ///
    /// # Errors
    /// If details are missing that are to be kept.
    pub(super) fn told(attributes: &Attributes, keep: Keep) -> Result<Self, ClientError> {
        Ok(Self {
            details: keep.told(attributes.details.clone())?,
            ..attributes.into()
        })
    }
}

impl From<&Attributes> for GivenToDir {
    fn from(attributes: &Attributes) -> Self {
        Self {
            modified: attributes.modified,
            mode: attributes.mode,
            details: None,
        }
    }
}

/// A local directory that is being filled. Every download into it holds a reference.
#[derive(Debug)]
pub(super) struct LocalDir {
    pub(super) path: PathBuf,
    attributes: GivenToDir,
    /// Whether it was made here. One that was there before keeps its permissions.
    is_new: bool,
    /// One that was there before keeps its own time as well, unless it is to be overwritten.
    keeps_time: bool,
    preserve: Preserve,
    parent: Option<Arc<Self>>,
}

impl LocalDir {
    /// Makes the directory here, or finds it. While it is being filled, its owner may write to it.
    pub(super) fn make(
        path: PathBuf,
        attributes: GivenToDir,
        save: SaveOptions,
        parent: Option<Arc<Self>>,
        links: Links,
    ) -> Result<Self, ClientError> {
        let mode = match save.preserve {
            Preserve::Nothing => attributes::PERMISSION_BITS,
            Preserve::Usual | Preserve::Exact => attributes.mode,
        };
        let is_new = match create_directory(&path, mode) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                require_directory(&path, links)?;
                false
            }
            Err(error) => return Err(ClientError::disk(&path, "make the directory", error)),
        };
        Ok(Self {
            path,
            attributes,
            is_new,
            keeps_time: !is_new && !save.overwrite,
            preserve: save.preserve,
            parent,
        })
    }

    /// Gives a directory that was there before the attributes of its original. Blocks.
    pub(super) fn restore(
        path: PathBuf,
        attributes: GivenToDir,
        save: SaveOptions,
    ) -> Result<(), ClientError> {
        let directory = Self {
            path,
            attributes,
            is_new: false,
            keeps_time: false,
            preserve: save.preserve,
            parent: None,
        };
        directory.set_attributes()
    }

    fn set_attributes(&self) -> Result<(), ClientError> {
        let given = self.attributes.details.as_deref();
        let is_unchanged = self.preserve == Preserve::Nothing && given.is_none();
        if self.keeps_time || is_unchanged {
            return Ok(());
        }
        let mode = self.attributes.mode;
        let failed = |error| ClientError::disk(&self.path, "set the attributes of", error);
        let directory = open_directory(&self.path).map_err(failed)?;
        // Before the mode, which may keep the owner from them.
        details::set(&self.path, &directory, given)?;
        if self.preserve == Preserve::Nothing {
            return Ok(());
        }
        attributes::set_modified(&directory, self.attributes.modified)
            .and_then(|()| match (self.preserve, self.is_new) {
                (Preserve::Exact, _) => attributes::set_exact_mode(&directory, mode),
                (_, true) => attributes::restrict_owner(&directory, mode),
                (_, false) => Ok(()),
            })
            .map_err(failed)
    }
}

/// Checks what is in the place of a directory.
fn require_directory(path: &Path, links: Links) -> Result<(), ClientError> {
    let reason = match links {
        Links::Refuse if path.is_symlink() => "is a symbolic link in the place of a directory",
        _ if path.is_dir() => return Ok(()),
        _ => "is in the way of a directory",
    };
    let path = path.to_owned();
    Err(ClientError::Unsuitable { path, reason })
}

/// Creates a directory with these permission bits, as far as the umask or the default ACL of its
/// parent lets it, and at first with those that its owner needs.
#[cfg(unix)]
fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mode = mode & attributes::PERMISSION_BITS | attributes::OWNER_BITS;
    fs::DirBuilder::new().mode(mode).create(path)
}

#[cfg(not(unix))]
fn create_directory(path: &Path, _: u32) -> io::Result<()> {
    fs::create_dir(path)
}

#[cfg(not(windows))]
fn open_directory(path: &Path) -> io::Result<fs::File> {
    fs::File::open(path)
}

/// Windows opens a directory only with a special flag, and sets times only with a special right.
#[cfg(windows)]
fn open_directory(path: &Path) -> io::Result<fs::File> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_WRITE_ATTRIBUTES: u32 = 0x100;
    const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
    fs::OpenOptions::new()
        .access_mode(FILE_WRITE_ATTRIBUTES)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
}

/// Drops a reference to `directory`. The last one sets its attributes, then drops the reference to
/// its parent, which is thereby complete after all of its children. Blocks.
pub(super) fn finish(directory: Arc<LocalDir>, transfer: &Transfer) {
    let mut next = Arc::into_inner(directory);
    while let Some(mut directory) = next {
        next = directory.parent.take().and_then(Arc::into_inner);
        if let Err(error) = directory.set_attributes() {
            transfer.fail(&*directory.path, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(mode: u32) -> GivenToDir {
        GivenToDir {
            modified: Time {
                seconds: 1_000_000_000,
                nanoseconds: 0,
            },
            mode,
            details: None,
        }
    }

    fn seconds(path: &Path) -> u64 {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        modified
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    }

    #[test]
    fn directories_get_their_attributes_after_all_that_is_below_them() {
        let base = tempfile::tempdir().unwrap();
        let transfer = Transfer::new(|_| {});
        let path = base.path().join("a");
        let outer = Arc::new(
            LocalDir::make(
                path.clone(),
                attributes(0o500),
                SaveOptions::default(),
                None,
                Links::Refuse,
            )
            .unwrap(),
        );
        let parent = Some(Arc::clone(&outer));
        let below = path.join("b");
        let inner = Arc::new(
            LocalDir::make(
                below.clone(),
                attributes(0o700),
                SaveOptions::default(),
                parent,
                Links::Refuse,
            )
            .unwrap(),
        );
        let job = Arc::clone(&inner);
        finish(outer, &transfer);
        finish(inner, &transfer);
        assert_ne!(seconds(&path), 1_000_000_000);
        fs::write(below.join("f"), "").unwrap();
        finish(job, &transfer);
        assert_eq!(seconds(&path), 1_000_000_000);
        assert_eq!(seconds(&below), 1_000_000_000);
        assert_eq!(transfer.failed(), 0);
    }

    #[test]
    fn a_directory_that_was_there_keeps_its_attributes_and_a_file_is_in_the_way() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a");
        fs::create_dir(&path).unwrap();
        let there = LocalDir::make(
            path.clone(),
            attributes(0o700),
            SaveOptions::default(),
            None,
            Links::Refuse,
        )
        .unwrap();
        there.set_attributes().unwrap();
        assert_ne!(seconds(&path), 1_000_000_000);
        let overwrite = SaveOptions {
            overwrite: true,
            ..SaveOptions::default()
        };
        let forced = LocalDir::make(
            path.clone(),
            attributes(0o700),
            overwrite,
            None,
            Links::Refuse,
        )
        .unwrap();
        forced.set_attributes().unwrap();
        assert_eq!(seconds(&path), 1_000_000_000);
        let file = base.path().join("f");
        fs::write(&file, "").unwrap();
        LocalDir::make(file, attributes(0o700), overwrite, None, Links::Refuse).unwrap_err();
    }
}
