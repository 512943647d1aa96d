//! Copies made by the server itself.
//!
//! A copy is made in two steps, because the first may take long and needs no lock on the target:
//! [`Root::stage_copy`] builds it in the staging directory and makes it durable,
//! [`Root::publish_copy`] gives it its name. Blocks are shared where the file system can do that.
//! Symbolic links, special files and other file systems are passed over and counted.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::path::RESERVED_PREFIX;
use quire_shared::protocol::{EntryKind, Precondition, Version};
use rustix::fs::{Dir, Mode, OFlags, copy_file_range, fchmod, ioctl_ficlone, mkdirat, openat};
use rustix::io::Errno;

use super::metadata::Facts;
use super::publish::{require, require_replaceable};
use super::resolve::{Parents, open_beneath};
use super::staging::{StagedEntry, StagedFile, Staging, random_name, set_modified};
use super::{OpenFile, Root};
use crate::error::RequestError;
use crate::store::faults::{Fault, Faults};

/// A copy without a name. It vanishes when dropped, unless it was published.
#[derive(Debug)]
pub struct StagedCopy {
    content: Content,
    skipped: u64,
    bytes: u64,
    entries: u64,
}

#[derive(Debug)]
enum Content {
    File(StagedFile),
    Directory {
        entry: StagedEntry,
        directory: OwnedFd,
        mode: Mode,
    },
}

impl Root {
    /// Copies what is at `from`, where `source` must hold, in order to publish it at `to`. Modes
    /// and modification times are kept. `is_wanted` is asked between steps.
    ///
    /// # Errors
    /// If the precondition doesn't hold, `from` is a directory and the copy isn't `recursive`, a
    /// file changes while it is copied, the copy isn't wanted any more, or the system fails.
    pub fn stage_copy(
        &self,
        (from, to): (&RemotePath, &RemotePath),
        recursive: bool,
        source: &Precondition,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<StagedCopy, RequestError> {
        let staging = self.inner.writable()?;
        let facts = self.inner.facts(from)?;
        require(source, Some(&facts))?;
        if facts.elsewhere {
            return Err(RequestError::OtherFileSystem);
        }
        let mut copier = Copier {
            staging,
            home: self.inner.id.device,
            is_wanted,
            skipped: 0,
            bytes: 0,
            entries: 1,
        };
        let content = match facts.kind {
            EntryKind::Directory if from.contains(to) => return Err(RequestError::IntoItself),
            EntryKind::Directory if !recursive => return Err(RequestError::NotEmpty),
            EntryKind::Directory => {
                let (directory, _) = self.inner.directory(from, OFlags::RDONLY)?;
                copier.stage_tree(directory)?
            }
            EntryKind::File => {
                let file = self.open_file(from)?;
                // What was opened need not be what was looked at.
                if matches!(source, Precondition::Match(version) if *version != file.attributes.version)
                {
                    return Err(RequestError::Conflict);
                }
                copier.stage_file(file)?
            }
            EntryKind::Symlink | EntryKind::Other => return Err(RequestError::SpecialFile),
        };
        Ok(StagedCopy {
            content,
            skipped: copier.skipped,
            bytes: copier.bytes,
            entries: copier.entries,
        })
    }

    /// Gives a copy the name `path`, where `precondition` must hold. A file replaces a file if that
    /// allows it; a directory replaces nothing. The caller holds the lock of `path`.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    pub fn publish_copy(
        &self,
        copy: StagedCopy,
        path: &RemotePath,
        precondition: &Precondition,
    ) -> Result<Version, RequestError> {
        let (entry, directory, mode) = match copy.content {
            Content::File(staged) => {
                return self.publish(staged, path, precondition, Parents::MustExist);
            }
            Content::Directory {
                entry,
                directory,
                mode,
            } => (entry, directory, mode),
        };
        self.inner.writable()?;
        let place = self.inner.place(path, OFlags::RDONLY)?;
        let facts = place.facts()?;
        if facts.is_some() {
            return Err(RequestError::Exists);
        }
        require_replaceable(precondition, None)?;
        let above = self.inner.unsynced_above(path)?;
        entry.publish(&place, precondition)?;
        // Not before: to move a directory is to change it, which its permissions may forbid.
        fchmod(&directory, mode).map_err(|errno| self.inner.not_durable(errno))?;
        let site = Fault::PublishedDirectorySync;
        let synced = self.inner.faults.sync(site, &directory);
        synced.map_err(|errno| self.inner.not_durable(errno))?;
        self.inner.settle(&place, &above)?;
        self.inner.version_of(&directory)
    }
}

impl StagedCopy {
    /// How many symbolic links, special files and other file systems were passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How many bytes were copied.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many files and directories the copy consists of.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

/// One copy being made.
struct Copier<'a> {
    staging: Arc<Staging>,
    home: u64,
    is_wanted: &'a dyn Fn() -> bool,
    skipped: u64,
    bytes: u64,
    entries: u64,
}

/// A directory whose entries are being copied.
struct Level {
    source: OwnedFd,
    entries: Dir,
    facts: Facts,
    target: OwnedFd,
}

impl Copier<'_> {
    fn stage_file(&mut self, mut source: OpenFile) -> Result<Content, RequestError> {
        let mut staged = StagedFile::new(Arc::clone(&self.staging))?;
        let attributes = &source.attributes;
        self.copy_content(&mut source.file, &mut staged.file, attributes.size)?;
        require_unchanged(&source)?;
        staged.seal(Some(attributes.modified), Some(attributes.mode))?;
        self.bytes = attributes.size;
        Ok(Content::File(staged))
    }

    /// Copies a directory, with one level on the stack for each directory that is not complete.
    fn stage_tree(&mut self, source: OwnedFd) -> Result<Content, RequestError> {
        let name = random_name()?;
        let making = RequestError::system("making a staged directory");
        let staging = Arc::clone(&self.staging);
        mkdirat(&staging.directory, &name, Mode::RWXU).map_err(making)?;
        let entry = StagedEntry::new(staging, name);
        let target = open_directory(&entry.staging.directory, &*entry.name)?;
        let top = Level::new(source, target)?;
        let mode = Mode::from_raw_mode(top.facts.mode);
        let mut levels = vec![top];
        loop {
            let Some(level) = levels.last_mut() else {
                return Err(RequestError::Internal("a copy without its top directory"));
            };
            if let Some(next) = self.copy_entries(level)? {
                if levels.len() == LEVELS_MAX {
                    return Err(RequestError::Limit("directories within each other"));
                }
                levels.push(next);
                continue;
            }
            let is_top = levels.len() == 1;
            let Some(level) = levels.pop() else {
                return Err(RequestError::Internal("a copy without its top directory"));
            };
            let directory = level.finish(is_top, self.staging.faults)?;
            if is_top {
                return Ok(Content::Directory {
                    entry,
                    directory,
                    mode,
                });
            }
        }
    }

    /// Copies entries until one is a directory, which is returned, empty as yet.
    fn copy_entries(&mut self, level: &mut Level) -> Result<Option<Level>, RequestError> {
        let looking = || RequestError::system("looking at an entry");
        while let Some(entry) = level.entries.read() {
            let entry = entry.map_err(RequestError::system("reading a directory"))?;
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if matches!(bytes, b"." | b"..") || bytes.starts_with(RESERVED_PREFIX.as_bytes()) {
                continue;
            }
            let Some(facts) = Facts::at(&level.source, name, self.home).map_err(looking())? else {
                continue;
            };
            match facts.kind {
                EntryKind::File if !facts.elsewhere => self.copy_file(level, name)?,
                EntryKind::Directory if !facts.elsewhere => {
                    let making = RequestError::system("making a staged directory");
                    let source = open_directory(&level.source, name)?;
                    mkdirat(&level.target, name, Mode::RWXU).map_err(making)?;
                    self.entries += 1;
                    let target = open_directory(&level.target, name)?;
                    return Level::new(source, target).map(Some);
                }
                EntryKind::File | EntryKind::Directory | EntryKind::Symlink | EntryKind::Other => {
                    self.skipped += 1;
                }
            }
        }
        Ok(None)
    }

    fn copy_file(&mut self, level: &Level, name: &CStr) -> Result<(), RequestError> {
        let mut source = OpenFile::open(&level.source, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut target: File = openat(&level.target, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(RequestError::system("making a staged file"))?
            .into();
        let attributes = &source.attributes;
        self.copy_content(&mut source.file, &mut target, attributes.size)?;
        require_unchanged(&source)?;
        fchmod(&target, Mode::from_raw_mode(attributes.mode))
            .map_err(RequestError::system("setting permissions"))?;
        set_modified(&target, attributes.modified)?;
        self.bytes = self.bytes.saturating_add(attributes.size);
        self.entries += 1;
        let synced = self.staging.faults.sync(Fault::CopiedFileSync, &target);
        synced.map_err(RequestError::system("making a file durable"))
    }

    /// Copies `size` bytes: by sharing their blocks, else within the kernel, else by hand.
    fn copy_content(
        &self,
        source: &mut File,
        target: &mut File,
        size: u64,
    ) -> Result<(), RequestError> {
        self.require_wanted()?;
        if ioctl_ficlone(&*target, &*source).is_ok() {
            return Ok(());
        }
        let mut left = size;
        while left > 0 {
            self.require_wanted()?;
            let step = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            match copy_file_range(&*source, None, &*target, None, step) {
                // Either the file became shorter, or this is how the kernel declines.
                Ok(0) => break,
                Ok(copied) => left = left.saturating_sub(copied as u64),
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
                Err(errno) => return Err(RequestError::system("copying")(errno)),
            }
        }
        // Both files stand where the kernel left off.
        while left > 0 {
            self.require_wanted()?;
            let mut step = source.by_ref().take(left.min(STEP_BYTES as u64));
            match io::copy(&mut step, target).map_err(RequestError::system("copying"))? {
                0 => return Err(RequestError::Changed),
                copied => left -= copied,
            }
        }
        Ok(())
    }

    fn require_wanted(&self) -> Result<(), RequestError> {
        if (self.is_wanted)() {
            return Ok(());
        }
        Err(RequestError::Cancelled)
    }
}

impl Level {
    fn new(source: OwnedFd, target: OwnedFd) -> Result<Self, RequestError> {
        let facts = Facts::of(&source).map_err(RequestError::system("looking at a directory"))?;
        let entries =
            Dir::read_from(&source).map_err(RequestError::system("reading a directory"))?;
        Ok(Self {
            source,
            entries,
            facts,
            target,
        })
    }

    /// Completes the copy of a directory whose entries are all there. The topmost gets its
    /// permissions when it gets its name.
    fn finish(self, is_top: bool, faults: Faults) -> Result<OwnedFd, RequestError> {
        if !is_top {
            fchmod(&self.target, Mode::from_raw_mode(self.facts.mode))
                .map_err(RequestError::system("setting permissions"))?;
        }
        set_modified(&self.target, self.facts.modified)?;
        let synced = faults.sync(Fault::CopiedDirectorySync, &self.target);
        synced.map_err(RequestError::system("making a directory durable"))?;
        Ok(self.target)
    }
}

/// Refuses a copy that may be a mixture of two contents.
fn require_unchanged(source: &OpenFile) -> Result<(), RequestError> {
    let now = Facts::of(&source.file).map_err(RequestError::system("looking at a file"))?;
    if now.size != source.attributes.size || now.modified != source.attributes.modified {
        return Err(RequestError::Changed);
    }
    Ok(())
}

fn open_directory(
    directory: impl AsFd,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, RequestError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_beneath(directory, name, flags).map_err(RequestError::system("opening a directory"))
}

/// Bytes copied before it is asked again whether they are wanted: a moment on any disk.
const STEP_BYTES: usize = 16 * 1024 * 1024;

/// Most directories within each other in a copied tree. Each one takes three file handles while it
/// is copied, of the usual 1024 of a process.
const LEVELS_MAX: usize = 64;

#[cfg(test)]
mod tests;
