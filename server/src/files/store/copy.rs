//! Server-side copy of files and directories.
//!
//! A copy takes two steps, because the first may take long and needs no lock on the target.
//! [`Root::stage_copy`] builds the copy in the staging directory and makes it durable; a commit
//! publishes it under its name. Blocks are shared where the file system can do that.
//! Symbolic links, special files and other file systems are skipped and counted.

mod content;

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use quire_shared::path::RESERVED_PREFIX;
use quire_shared::protocol::{Attributes, DetailKinds, EntryKind, Precondition, Preserve};
use quire_shared::{Name, RemotePath};
use rustix::fs::{Dir, Mode, OFlags, mkdirat, openat};

use super::Error;
use super::attributes::set_modified;
use super::batch::{Applied, Commit, Visible};
use super::cancel;
use super::details::add_details;
use super::faults::Fault;
use super::metadata::Metadata;
use super::open_file::OpenFile;
use super::permissions::{GivenAttributes, Inherited, Permissions};
use super::publish::{Destination, require, require_replaceable};
use super::resolve::open_beneath;
use super::root::Root;
use super::staged_file::{StagedFile, start_writeback};
use super::staging::{StagedEntry, Staging};

use content::copy_content;

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
    /// Details that the copy keeps as well.
    pub details: DetailKinds,
}

/// Staged copy that isn't published yet. It is removed when dropped, unless it was published.
#[derive(Debug)]
pub(in crate::files) struct StagedCopy {
    content: CopyContent,
    pub(in crate::files) left_out: LeftOut,
    bytes: u64,
    entries: u64,
}

/// Symbolic links, special files and other file systems that a copy leaves out.
#[derive(Debug, Default, Clone)]
pub(in crate::files) struct LeftOut {
    pub(in crate::files) count: u64,
    /// The first of them, below the original.
    pub(in crate::files) names: Vec<RemotePath>,
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
            details,
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
            details: *details,
            inherited: self.inner.inherited_above(&target.path)?,
            root_device: self.inner.id.device,
            left_out: LeftOut::default(),
            bytes: 0,
            entries: 1,
            names: Vec::new(),
            at: None,
            unsynced: Vec::new(),
        };
        let content = match metadata.kind {
            EntryKind::Directory if from.contains(&target.path) => return Err(Error::IntoItself),
            EntryKind::Directory if !recursive => return Err(Error::NotEmpty),
            EntryKind::Directory => {
                let (directory, _) = self.inner.directory(from, OFlags::RDONLY)?;
                copier.stage_tree(directory)?
            }
            EntryKind::File => {
                let file = self.open_file(from)?.with_details(*details);
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
            left_out: copier.left_out,
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
    details: DetailKinds,
    /// What the directory decides where the copy will be.
    inherited: Inherited,
    root_device: u64,
    left_out: LeftOut,
    bytes: u64,
    entries: u64,
    /// Names of the directories that are being copied, without the top. `None` for a name that
    /// isn't one of the protocol.
    names: Vec<Option<Name>>,
    /// Name of the entry that is being copied.
    at: Option<Name>,
    /// Files that aren't durable yet.
    unsynced: Vec<File>,
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
        let given = self.given(attributes)?;
        self.root
            .set_attributes(&mut staged, target, given, &mut None)?;
        staged.sync()?;
        self.bytes = attributes.size;
        Ok(CopyContent::File(staged))
    }

    /// Copies a directory tree. The stack has one level for each incomplete directory.
    fn stage_tree(&mut self, source: OwnedFd) -> Result<CopyContent, Error> {
        let name = self.staging.new_name()?;
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
            self.at = None;
            let copied = self.copy_entries(level);
            let copied = copied.map_err(|error| error.below(self.path_of_entry()))?;
            if let Some(next) = copied {
                if levels.len() == LEVELS_MAX {
                    return Err(Error::Limit("nested directories").below(self.path_of_entry()));
                }
                levels.push(next);
                self.names.push(self.at.take());
                continue;
            }
            let is_top = levels.len() == 1;
            let Some(level) = levels.pop() else {
                return Err(Error::Internal("a copy without its top directory"));
            };
            self.names.pop();
            let (directory, permissions) = self.finish(level, is_top)?;
            if is_top {
                self.sync_files()?;
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
            self.at = name.to_str().ok().and_then(|name| Name::new(name).ok());
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
                    self.leave_out();
                }
            }
        }
        Ok(None)
    }

    /// Counts the entry at hand as left out.
    fn leave_out(&mut self) {
        self.left_out.count += 1;
        if self.left_out.names.len() < LEFT_OUT_MAX {
            let path = self.path_of_entry();
            self.left_out.names.push(path);
        }
    }

    /// Path of the entry at hand below the original; that of the nearest directory if it can't be
    /// sent.
    fn path_of_entry(&self) -> RemotePath {
        let names = self.names.iter().chain([&self.at]);
        let names = names.map_while(Option::clone).collect();
        RemotePath::from_names(names).unwrap_or_default()
    }

    /// Copies one file of a directory, with mode and modification time. It is made durable together
    /// with others.
    fn copy_file(&mut self, level: &CopyLevel, name: &CStr) -> Result<(), Error> {
        let source = OpenFile::open(&level.source, name)?.with_details(self.details);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut target: File = openat(&level.target, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::system("creating a staged file"))?
            .into();
        let attributes = &source.attributes;
        copy_content(&source, &mut target)?;
        let given = self.given(attributes)?;
        given.details.set_xattrs(&target)?;
        let defaults = &self.staging.defaults;
        Permissions::of_new_file(&self.inherited, &given, defaults)
            .apply(&target, Some(defaults))?;
        if let Some(modified) = given.modified {
            set_modified(&target, modified)?;
        }
        self.bytes = self.bytes.saturating_add(attributes.size);
        self.entries += 1;
        self.unsynced.push(target);
        match self.unsynced.len() {
            UNSYNCED_MAX => self.sync_files(),
            _ => Ok(()),
        }
    }

    /// Makes the copied files durable that aren't yet. Writeback of all of them is started before
    /// the first is synced, so that they share the file system's journal commit.
    fn sync_files(&mut self) -> Result<(), Error> {
        for file in &self.unsynced {
            start_writeback(file);
        }
        for file in self.unsynced.drain(..) {
            let synced = self.staging.faults.sync(Fault::CopiedFileSync, &file);
            synced.map_err(Error::system("syncing a file"))?;
        }
        Ok(())
    }

    /// Completes the copy of a directory after its last entry. The top directory gets its
    /// permission bits when it is published.
    fn finish(&self, level: CopyLevel, is_top: bool) -> Result<(OwnedFd, Permissions), Error> {
        let CopyLevel {
            source,
            metadata,
            target,
            ..
        } = level;
        let attributes = metadata.attributes();
        let given = self.given(&add_details(attributes, &metadata, &source, self.details))?;
        given.details.set_xattrs(&target)?;
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
    fn given(&self, original: &Attributes) -> Result<GivenAttributes, Error> {
        let details = original.details.clone();
        let has_xattrs = details.as_ref().is_some_and(|found| found.xattrs.is_some());
        if self.details.xattrs && !has_xattrs {
            return Err(Error::Limit("extended attributes of a file"));
        }
        let (modified, mode) = (Some(original.modified), Some(original.mode));
        Ok(GivenAttributes::new(modified, mode, self.preserve).with_details(details))
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

fn open_directory(
    directory: impl AsFd,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_beneath(directory, name, flags).map_err(Error::system("opening a directory"))
}

/// Most entries that a copy names as left out; a reply has room for no more.
const LEFT_OUT_MAX: usize = 100;

/// Most copied files that wait to be synced. They are open until then.
const UNSYNCED_MAX: usize = 64;

/// Deepest nesting of directories in a copied tree. Each level takes three file handles while it is
/// copied, of the 1024 that a process usually has.
const LEVELS_MAX: usize = 64;

#[cfg(test)]
mod tests;
