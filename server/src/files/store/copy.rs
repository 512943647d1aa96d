//! Server-side copy of files and directories.
//!
//! A copy takes two steps, because the first may take long and needs no lock on the target.
//! [`Root::stage_copy`] builds the copy in the staging directory and makes it durable; a commit
//! publishes it under its name. Blocks are shared where the file system can do that.
//! Symbolic links, special files and other file systems are skipped and counted.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::path::RESERVED_PREFIX;
use quire_shared::protocol::{EntryKind, Precondition, Preserve, Time};
use rustix::fs::{Dir, Mode, OFlags, copy_file_range, ioctl_ficlone, mkdirat, openat};
use rustix::io::Errno;

use super::Error;
use super::attributes::set_modified;
use super::batch::{Applied, Commit, Visible};
use super::cancel;
use super::faults::Fault;
use super::metadata::Metadata;
use super::open_file::{FileState, OpenFile};
use super::permissions::{GivenAttributes, Inherited, Permissions};
use super::publish::{Destination, require, require_replaceable};
use super::resolve::open_beneath;
use super::root::Root;
use super::staging::{StagedEntry, StagedFile, Staging, random_name};

/// Source of a copy.
#[derive(Debug, Clone)]
pub(in crate::files) struct CopySource {
    /// The name.
    pub path: RemotePath,
    /// Whether a directory may be copied, with its content.
    pub recursive: bool,
    /// Precondition for the name.
    pub precondition: Precondition,
    /// Attributes that the copy keeps.
    pub preserve: Preserve,
}

/// Staged copy that isn't published yet. It is removed when dropped, unless it was published.
#[derive(Debug)]
pub(in crate::files) struct StagedCopy {
    content: CopyContent,
    skipped: u64,
    bytes: u64,
    entries: u64,
}

#[derive(Debug)]
enum CopyContent {
    File(StagedFile),
    Directory {
        entry: StagedEntry,
        directory: OwnedFd,
        /// Permissions that are set when the directory has its name.
        permissions: Permissions,
    },
}

impl Root {
    /// Copies what `source` names into the staging directory, to be published as `target`. The copy
    /// can be cancelled between its steps.
    ///
    /// # Errors
    /// If a precondition doesn't hold, or the source is a directory and the copy isn't recursive.
    /// If a file changes while it is copied, the copy is cancelled, or a system call fails.
    pub(super) fn stage_copy(
        &self,
        source: &CopySource,
        target: &Destination,
    ) -> Result<StagedCopy, Error> {
        let staging = self.inner.writable()?;
        let CopySource {
            path: from,
            recursive,
            precondition,
            preserve,
        } = source;
        let metadata = self.inner.metadata(from)?;
        // Checked again at the commit; checked here so that no long copy is wasted.
        if metadata.kind != EntryKind::Directory {
            self.check(target, None)?;
        } else if !from.contains(&target.path) && self.stat(&target.path).is_ok() {
            return Err(Error::Exists);
        }
        require(precondition, Some(&metadata))?;
        if metadata.is_foreign {
            return Err(Error::OtherFileSystem);
        }
        let mut copier = Copier {
            root: self,
            staging,
            preserve: *preserve,
            inherited: self.inner.inherited_above(&target.path)?,
            root_device: self.inner.id.device,
            skipped: 0,
            bytes: 0,
            entries: 1,
        };
        let content = match metadata.kind {
            EntryKind::Directory if from.contains(&target.path) => return Err(Error::IntoItself),
            EntryKind::Directory if !recursive => return Err(Error::NotEmpty),
            EntryKind::Directory => {
                let (directory, _) = self.inner.directory(from, OFlags::RDONLY)?;
                copier.stage_tree(directory)?
            }
            EntryKind::File => {
                let file = self.open_file(from)?;
                // The opened file need not be the one whose metadata was read.
                if matches!(precondition, Precondition::Match(version) if *version != file.attributes.version)
                {
                    return Err(Error::Conflict);
                }
                copier.stage_file(&file, target)?
            }
            EntryKind::Symlink | EntryKind::Other => return Err(Error::SpecialFile),
        };
        Ok(StagedCopy {
            content,
            skipped: copier.skipped,
            bytes: copier.bytes,
            entries: copier.entries,
        })
    }
}

impl<'root> Commit<'root> {
    /// Applies [`Change::Copy`](super::batch::Change::Copy).
    pub(super) fn publish_copy(
        &mut self,
        target: &Destination,
        staged: StagedCopy,
    ) -> Result<Applied<'root>, Error> {
        let (entry, directory, permissions) = match staged.content {
            CopyContent::File(staged) => return self.publish_file(target, staged),
            CopyContent::Directory {
                entry,
                directory,
                permissions,
            } => (entry, directory, permissions),
        };
        let defaults = entry.staging.defaults;
        let (slot, parent, mut new_directories) = self.target_slot(target)?;
        if slot.metadata()?.is_some() {
            return Err(Error::Exists);
        }
        require_replaceable(&target.precondition, None)?;
        entry.publish(&slot, &target.precondition)?;
        new_directories.keep();
        // Not before the rename: moving a directory rewrites its `..`, which its mode may forbid.
        permissions
            .apply_mode(&directory, Some(&defaults))
            .map_err(|error| self.inner.visible_only(&error))?;
        let site = Fault::PublishedDirectorySync;
        let synced = self.inner.faults.sync(site, &directory);
        synced.map_err(|errno| self.inner.not_durable(errno))?;
        let sync = self.touch(parent, Fault::PlaceSync);
        Ok(Applied::new(Visible::Open(Arc::new(directory)), sync).with(new_directories))
    }
}

impl StagedCopy {
    /// Number of symbolic links, special files and other file systems that were skipped.
    pub(in crate::files) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Number of bytes copied.
    pub(in crate::files) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of files and directories in the copy, its top included.
    pub(in crate::files) fn entries(&self) -> u64 {
        self.entries
    }
}

/// Copy in progress.
struct Copier<'a> {
    root: &'a Root,
    staging: Arc<Staging>,
    preserve: Preserve,
    /// What the directory decides where the copy will be.
    inherited: Inherited,
    root_device: u64,
    skipped: u64,
    bytes: u64,
    entries: u64,
}

/// A directory whose entries are being copied.
struct CopyLevel {
    source: OwnedFd,
    entries: Dir,
    metadata: Metadata,
    target: OwnedFd,
}

impl Copier<'_> {
    /// Copies one file into the staging directory and makes it durable.
    fn stage_file(
        &mut self,
        source: &OpenFile,
        target: &Destination,
    ) -> Result<CopyContent, Error> {
        let mut staged = StagedFile::new(Arc::clone(&self.staging))?;
        let attributes = &source.attributes;
        copy_content(source, &mut staged.file)?;
        let given = self.given(attributes.modified, attributes.mode);
        self.root
            .set_attributes(&mut staged, target, given, &mut None)?;
        staged.sync()?;
        self.bytes = attributes.size;
        Ok(CopyContent::File(staged))
    }

    /// Copies a directory tree. The stack has one level for each incomplete directory.
    fn stage_tree(&mut self, source: OwnedFd) -> Result<CopyContent, Error> {
        let name = random_name()?;
        let creating = Error::system("creating a staged directory");
        let staging = Arc::clone(&self.staging);
        mkdirat(&staging.directory, &name, Mode::RWXU).map_err(creating)?;
        let entry = StagedEntry::new(staging, name);
        let target = open_directory(&entry.staging.directory, &*entry.name)?;
        let top = CopyLevel::new(source, target)?;
        let mut levels = vec![top];
        loop {
            let Some(level) = levels.last_mut() else {
                return Err(Error::Internal("a copy without its top directory"));
            };
            if let Some(next) = self.copy_entries(level)? {
                if levels.len() == LEVELS_MAX {
                    return Err(Error::Limit("nested directories"));
                }
                levels.push(next);
                continue;
            }
            let is_top = levels.len() == 1;
            let Some(level) = levels.pop() else {
                return Err(Error::Internal("a copy without its top directory"));
            };
            let (directory, permissions) = self.finish(level, is_top)?;
            if is_top {
                return Ok(CopyContent::Directory {
                    entry,
                    directory,
                    permissions,
                });
            }
        }
    }

    /// Copies entries up to the next directory, which is created empty and returned as a level.
    fn copy_entries(&mut self, level: &mut CopyLevel) -> Result<Option<CopyLevel>, Error> {
        while let Some(entry) = level.entries.read() {
            cancel::check()?;
            let entry = entry.map_err(Error::system("reading a directory"))?;
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if matches!(bytes, b"." | b"..") || bytes.starts_with(RESERVED_PREFIX.as_bytes()) {
                continue;
            }
            let metadata = Metadata::at(&level.source, name, self.root_device)
                .map_err(Error::system("reading the metadata of an entry"))?;
            // `None` if the name was removed since it was read.
            let Some(metadata) = metadata else {
                continue;
            };
            match metadata.kind {
                EntryKind::File if !metadata.is_foreign => self.copy_file(level, name)?,
                EntryKind::Directory if !metadata.is_foreign => {
                    let creating = Error::system("creating a staged directory");
                    let source = open_directory(&level.source, name)?;
                    mkdirat(&level.target, name, Mode::RWXU).map_err(creating)?;
                    self.entries += 1;
                    let target = open_directory(&level.target, name)?;
                    return CopyLevel::new(source, target).map(Some);
                }
                EntryKind::File | EntryKind::Directory | EntryKind::Symlink | EntryKind::Other => {
                    self.skipped += 1;
                }
            }
        }
        Ok(None)
    }

    /// Copies one file of a directory, with mode and modification time, and makes it durable.
    fn copy_file(&mut self, level: &CopyLevel, name: &CStr) -> Result<(), Error> {
        let source = OpenFile::open(&level.source, name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut target: File = openat(&level.target, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::system("creating a staged file"))?
            .into();
        let attributes = &source.attributes;
        copy_content(&source, &mut target)?;
        let given = self.given(attributes.modified, attributes.mode);
        let defaults = &self.staging.defaults;
        Permissions::of_new_file(&self.inherited, &given, defaults)
            .apply(&target, Some(defaults))?;
        if let Some(modified) = given.modified {
            set_modified(&target, modified)?;
        }
        self.bytes = self.bytes.saturating_add(attributes.size);
        self.entries += 1;
        let synced = self.staging.faults.sync(Fault::CopiedFileSync, &target);
        synced.map_err(Error::system("syncing a file"))
    }

    /// Completes the copy of a directory after its last entry. The top directory gets its
    /// permission bits when it is published.
    fn finish(&self, level: CopyLevel, is_top: bool) -> Result<(OwnedFd, Permissions), Error> {
        let CopyLevel {
            metadata, target, ..
        } = level;
        let given = self.given(metadata.modified, metadata.mode);
        let defaults = &self.staging.defaults;
        let permissions = Permissions::of_new_directory(&self.inherited, &given, defaults)
            .apply_owners(&target, Some(defaults))?;
        if !is_top {
            permissions.apply_mode(&target, Some(defaults))?;
        }
        if let Some(modified) = given.modified {
            set_modified(&target, modified)?;
        }
        let faults = self.staging.faults;
        let synced = faults.sync(Fault::CopiedDirectorySync, &target);
        synced.map_err(Error::system("syncing a directory"))?;
        Ok((target, permissions))
    }

    /// The attributes of an original, as far as its copy keeps them.
    fn given(&self, modified: Time, mode: u32) -> GivenAttributes {
        GivenAttributes::new(Some(modified), Some(mode), self.preserve)
    }
}

impl CopyLevel {
    fn new(source: OwnedFd, target: OwnedFd) -> Result<Self, Error> {
        let metadata =
            Metadata::of(&source).map_err(Error::system("reading the metadata of a directory"))?;
        let entries = Dir::read_from(&source).map_err(Error::system("reading a directory"))?;
        Ok(Self {
            source,
            entries,
            metadata,
            target,
        })
    }
}

/// Copies what a file had when it was opened: by sharing blocks, else within the kernel, else with
/// read and write.
///
/// # Errors
/// If a system call fails, or the file changed meanwhile, otherwise than by growing.
fn copy_content(source: &OpenFile, target: &mut File) -> Result<(), Error> {
    let size = source.attributes.size;
    if let Some(content) = source.content() {
        return target.write_all(content).map_err(Error::system("copying"));
    }
    copy_bytes(&source.file, target, size)?;
    match source.state_now()? {
        Some(FileState::Same) => Ok(()),
        Some(FileState::Grown) if has_same_bytes(&source.file, target, size)? => Ok(()),
        Some(FileState::Grown) | None => Err(Error::Changed),
    }
}

/// Copies the first `size` bytes.
fn copy_bytes(mut source: &File, target: &mut File, size: u64) -> Result<(), Error> {
    cancel::check()?;
    // FICLONE shares the blocks of the whole file, copy on write, as Btrfs and XFS can. It
    // takes no size. After any error the content is copied instead.
    if ioctl_ficlone(&*target, source).is_ok() {
        // It may have grown since it was opened.
        return target.set_len(size).map_err(Error::system("copying"));
    }
    let mut left = size;
    while left > 0 {
        cancel::check()?;
        let step = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        match copy_file_range(source, None, &*target, None, step) {
            // The file became shorter, or the kernel can't copy it: for /proc it returns 0.
            Ok(0) => break,
            Ok(copied) => left = left.saturating_sub(copied as u64),
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
            Err(errno) => return Err(Error::system("copying")(errno)),
        }
    }
    // The cursors of both files are where copy_file_range left them.
    while left > 0 {
        cancel::check()?;
        let mut step = Read::by_ref(&mut source).take(left.min(STEP_BYTES as u64));
        match io::copy(&mut step, target).map_err(Error::system("copying"))? {
            0 => return Err(Error::Changed),
            copied => left -= copied,
        }
    }
    Ok(())
}

/// Whether two files begin with the same `size` bytes.
fn has_same_bytes(one: &File, other: &File, size: u64) -> Result<bool, Error> {
    let mut from_one = vec![0; PIECE_BYTES];
    let mut from_other = vec![0; PIECE_BYTES];
    let mut next = 0;
    while next < size {
        cancel::check()?;
        let rest = usize::try_from(size - next).unwrap_or(PIECE_BYTES);
        from_one.truncate(rest);
        from_other.truncate(rest);
        let reading = || Error::system("comparing a copy");
        one.read_exact_at(&mut from_one, next).map_err(reading())?;
        other
            .read_exact_at(&mut from_other, next)
            .map_err(reading())?;
        if from_one != from_other {
            return Ok(false);
        }
        next += from_one.len() as u64;
    }
    Ok(true)
}

fn open_directory(
    directory: impl AsFd,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_beneath(directory, name, flags).map_err(Error::system("opening a directory"))
}

/// Bytes copied between two checks for cancellation: a moment on any disk.
const STEP_BYTES: usize = 16 * 1024 * 1024;

/// Bytes compared at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Deepest nesting of directories in a copied tree. Each level takes three file handles while it is
/// copied, of the 1024 that a process usually has.
const LEVELS_MAX: usize = 64;

#[cfg(test)]
mod tests;
