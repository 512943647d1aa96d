//! Copies made by the server itself.
//!
//! A copy is made in two steps, because the first may take long and needs no lock on the target:
//! [`Root::stage_copy`] builds it in the staging directory and makes it durable, and a commit gives
//! it its name. Blocks are shared where the file system can do that.
//! Symbolic links, special files and other file systems are passed over and counted.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quire_shared::RemotePath;
use quire_shared::path::RESERVED_PREFIX;
use quire_shared::protocol::{EntryKind, Precondition};
use rustix::fs::{Dir, Mode, OFlags, copy_file_range, fchmod, ioctl_ficlone, mkdirat, openat};
use rustix::io::Errno;

use super::Error;
use super::batch::{Applied, Commit, Visible};
use super::faults::{Fault, Faults};
use super::metadata::Metadata;
use super::open_file::OpenFile;
use super::publish::{Destination, require, require_replaceable};
use super::resolve::open_beneath;
use super::root::Root;
use super::staging::{StagedEntry, StagedFile, Staging, random_name, set_modified};

/// What to copy.
#[derive(Debug, Clone)]
pub(crate) struct CopySource {
    /// The name.
    pub path: RemotePath,
    /// Whether a directory may be copied, with all that is in it.
    pub recursive: bool,
    /// What must hold for the name.
    pub precondition: Precondition,
}

/// Ends a copy on a blocking thread when the request that waits for it is dropped.
#[derive(Debug, Default)]
pub(super) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    /// Becomes true when the copy isn't wanted any more.
    pub(super) fn cancelled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A copy without a name. It vanishes when dropped, unless it was published.
#[derive(Debug)]
pub(crate) struct StagedCopy {
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
        mode: Mode,
    },
}

impl Root {
    /// Copies what `source` names into staging, in order to publish it as `target`. Modes and
    /// modification times are kept. `cancelled` is looked at between steps.
    ///
    /// # Errors
    /// If a precondition doesn't hold, the source is a directory and the copy isn't recursive, a
    /// file changes while it is copied, the copy is cancelled, or the system fails.
    pub(super) fn stage_copy(
        &self,
        source: &CopySource,
        target: &Destination,
        cancelled: &AtomicBool,
    ) -> Result<StagedCopy, Error> {
        let staging = self.inner.writable()?;
        let CopySource {
            path: from,
            recursive,
            precondition,
        } = source;
        let metadata = self.inner.metadata(from)?;
        // What can be refused is refused before anything is copied.
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
            staging,
            root_device: self.inner.id.device,
            cancelled,
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
                // What was opened need not be what was looked at.
                if matches!(precondition, Precondition::Match(version) if *version != file.attributes.version)
                {
                    return Err(Error::Conflict);
                }
                copier.stage_file(&file)?
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
    pub(super) fn publish_copy(
        &mut self,
        target: &Destination,
        staged: StagedCopy,
    ) -> Result<Applied<'root>, Error> {
        let (entry, directory, mode) = match staged.content {
            CopyContent::File(staged) => return self.publish_file(target, staged),
            CopyContent::Directory {
                entry,
                directory,
                mode,
            } => (entry, directory, mode),
        };
        let (slot, parent, mut made) = self.target_slot(target)?;
        if slot.metadata()?.is_some() {
            return Err(Error::Exists);
        }
        require_replaceable(&target.precondition, None)?;
        entry.publish(&slot, &target.precondition)?;
        made.keep();
        // Not before: to move a directory is to change it, which its permissions may forbid.
        fchmod(&directory, mode).map_err(|errno| self.inner.not_durable(errno))?;
        let site = Fault::PublishedDirectorySync;
        let synced = self.inner.faults.sync(site, &directory);
        synced.map_err(|errno| self.inner.not_durable(errno))?;
        let sync = self.touch(parent, Fault::PlaceSync);
        Ok(Applied::new(Visible::Open(Arc::new(directory)), sync).with(made))
    }
}

impl StagedCopy {
    /// How many symbolic links, special files and other file systems were passed over.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How many bytes were copied.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many files and directories the copy consists of.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }
}

/// One copy being made.
struct Copier<'a> {
    staging: Arc<Staging>,
    root_device: u64,
    cancelled: &'a AtomicBool,
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
    fn stage_file(&mut self, source: &OpenFile) -> Result<CopyContent, Error> {
        let mut staged = StagedFile::new(Arc::clone(&self.staging))?;
        let attributes = &source.attributes;
        self.copy_content(&source.file, &mut staged.file, attributes.size)?;
        require_unchanged(source)?;
        staged.seal(Some(attributes.modified), Some(attributes.mode))?;
        self.bytes = attributes.size;
        Ok(CopyContent::File(staged))
    }

    /// Copies a directory, with one level on the stack for each directory that is not complete.
    fn stage_tree(&mut self, source: OwnedFd) -> Result<CopyContent, Error> {
        let name = random_name()?;
        let making = Error::system("making a staged directory");
        let staging = Arc::clone(&self.staging);
        mkdirat(&staging.directory, &name, Mode::RWXU).map_err(making)?;
        let entry = StagedEntry::new(staging, name);
        let target = open_directory(&entry.staging.directory, &*entry.name)?;
        let top = CopyLevel::new(source, target)?;
        let mode = Mode::from_raw_mode(top.metadata.mode);
        let mut levels = vec![top];
        loop {
            let Some(level) = levels.last_mut() else {
                return Err(Error::Internal("a copy without its top directory"));
            };
            if let Some(next) = self.copy_entries(level)? {
                if levels.len() == LEVELS_MAX {
                    return Err(Error::Limit("directories within each other"));
                }
                levels.push(next);
                continue;
            }
            let is_top = levels.len() == 1;
            let Some(level) = levels.pop() else {
                return Err(Error::Internal("a copy without its top directory"));
            };
            let directory = level.finish(is_top, self.staging.faults)?;
            if is_top {
                return Ok(CopyContent::Directory {
                    entry,
                    directory,
                    mode,
                });
            }
        }
    }

    /// Copies entries until one is a directory, which is returned, empty as yet.
    fn copy_entries(&mut self, level: &mut CopyLevel) -> Result<Option<CopyLevel>, Error> {
        let looking = || Error::system("looking at an entry");
        while let Some(entry) = level.entries.read() {
            let entry = entry.map_err(Error::system("reading a directory"))?;
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if matches!(bytes, b"." | b"..") || bytes.starts_with(RESERVED_PREFIX.as_bytes()) {
                continue;
            }
            let Some(metadata) =
                Metadata::at(&level.source, name, self.root_device).map_err(looking())?
            else {
                continue;
            };
            match metadata.kind {
                EntryKind::File if !metadata.is_foreign => self.copy_file(level, name)?,
                EntryKind::Directory if !metadata.is_foreign => {
                    let making = Error::system("making a staged directory");
                    let source = open_directory(&level.source, name)?;
                    mkdirat(&level.target, name, Mode::RWXU).map_err(making)?;
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

    fn copy_file(&mut self, level: &CopyLevel, name: &CStr) -> Result<(), Error> {
        let source = OpenFile::open(&level.source, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut target: File = openat(&level.target, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::system("making a staged file"))?
            .into();
        let attributes = &source.attributes;
        self.copy_content(&source.file, &mut target, attributes.size)?;
        require_unchanged(&source)?;
        fchmod(&target, Mode::from_raw_mode(attributes.mode))
            .map_err(Error::system("setting permissions"))?;
        set_modified(&target, attributes.modified)?;
        self.bytes = self.bytes.saturating_add(attributes.size);
        self.entries += 1;
        let synced = self.staging.faults.sync(Fault::CopiedFileSync, &target);
        synced.map_err(Error::system("making a file durable"))
    }

    /// Copies `size` bytes: by sharing their blocks, else within the kernel, else by hand.
    fn copy_content(&self, mut source: &File, target: &mut File, size: u64) -> Result<(), Error> {
        self.check_cancelled()?;
        if ioctl_ficlone(&*target, source).is_ok() {
            return Ok(());
        }
        let mut left = size;
        while left > 0 {
            self.check_cancelled()?;
            let step = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            match copy_file_range(source, None, &*target, None, step) {
                // Either the file became shorter, or this is how the kernel declines.
                Ok(0) => break,
                Ok(copied) => left = left.saturating_sub(copied as u64),
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
                Err(errno) => return Err(Error::system("copying")(errno)),
            }
        }
        // Both files stand where the kernel left off.
        while left > 0 {
            self.check_cancelled()?;
            let mut step = source.by_ref().take(left.min(STEP_BYTES as u64));
            match io::copy(&mut step, target).map_err(Error::system("copying"))? {
                0 => return Err(Error::Changed),
                copied => left -= copied,
            }
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}

impl CopyLevel {
    fn new(source: OwnedFd, target: OwnedFd) -> Result<Self, Error> {
        let metadata = Metadata::of(&source).map_err(Error::system("looking at a directory"))?;
        let entries = Dir::read_from(&source).map_err(Error::system("reading a directory"))?;
        Ok(Self {
            source,
            entries,
            metadata,
            target,
        })
    }

    /// Completes the copy of a directory whose entries are all there. The topmost gets its
    /// permissions when it gets its name.
    fn finish(self, is_top: bool, faults: Faults) -> Result<OwnedFd, Error> {
        if !is_top {
            fchmod(&self.target, Mode::from_raw_mode(self.metadata.mode))
                .map_err(Error::system("setting permissions"))?;
        }
        set_modified(&self.target, self.metadata.modified)?;
        let synced = faults.sync(Fault::CopiedDirectorySync, &self.target);
        synced.map_err(Error::system("making a directory durable"))?;
        Ok(self.target)
    }
}

/// Refuses a copy that may be a mixture of two contents.
fn require_unchanged(source: &OpenFile) -> Result<(), Error> {
    match source.is_unchanged_now()? {
        true => Ok(()),
        false => Err(Error::Changed),
    }
}

fn open_directory(
    directory: impl AsFd,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_beneath(directory, name, flags).map_err(Error::system("opening a directory"))
}

/// Bytes copied before it is asked again whether they are wanted: a moment on any disk.
const STEP_BYTES: usize = 16 * 1024 * 1024;

/// Most directories within each other in a copied tree. Each one takes three file handles while it
/// is copied, of the usual 1024 of a process.
const LEVELS_MAX: usize = 64;

#[cfg(test)]
mod tests;
