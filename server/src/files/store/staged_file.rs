//! Staged files: new content that has no name of its own yet.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use quire_shared::protocol::Precondition;
use quire_transport::body::extents::{HoleWrite, leave_hole};
use quire_transport::body::journal::{Journal, SyncAhead};
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, fadvise, fallocate, openat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::attributes::set_modified;
use super::faults::Fault;
use super::permissions::{GivenAttributes, Permissions, ProcessDefaults, TargetParent};
use super::publish::Destination;
use super::resolve::Slot;
use super::root::Root;
use super::staging::{StagedEntry, Staging};

/// Staged file: new content that isn't published yet. It is removed when dropped, unless it was
/// published.
#[derive(Debug)]
pub(in crate::files) struct StagedFile {
    pub(super) file: File,
    entry: StagedEntry,
    given: GivenAttributes,
    /// Permissions that were set; `None` if none were yet.
    permissions: Option<Permissions>,
    /// Without a journal.
    syncs: Box<SyncAhead>,
}

impl Root {
    /// Creates a private file for new content, and reserves space for `size` bytes, if given.
    ///
    /// # Errors
    /// If the root is read-only, or the space isn't available.
    pub(super) fn stage(&self, size: Option<u64>) -> Result<StagedFile, Error> {
        let staging = self.inner.writable()?;
        let size = size.unwrap_or(0);
        if size >= RESERVED_BYTES_MIN {
            staging.require_room(size)?;
        }
        let staged = StagedFile::new(staging)?;
        if size >= RESERVED_BYTES_MIN {
            staged.reserve(0, size)?;
        }
        Ok(staged)
    }

    /// Creates a private file for new content with holes, of which `data` bytes are outside them, as
    /// far as the client knows.
    ///
    /// # Errors
    /// If the root is read-only, or the space isn't available.
    pub(super) fn stage_sparse(&self, data: u64) -> Result<StagedFile, Error> {
        let staging = self.inner.writable()?;
        staging.require_room(data)?;
        // Nothing is reserved: where the data goes isn't known yet.
        StagedFile::new(staging)
    }

    /// Sets the attributes of a staged file: those that the request gives, and those that `target`
    /// decides. `last` remembers the directory of `target` for the next call.
    ///
    /// # Errors
    /// If a system call fails.
    pub(super) fn set_attributes(
        &self,
        staged: &mut StagedFile,
        target: &Destination,
        given: GivenAttributes,
        last: &mut Option<TargetParent>,
    ) -> Result<(), Error> {
        let defaults = &staged.entry.staging.defaults;
        let permissions = self.inner.permissions_at(target, &given, defaults, last)?;
        given.details.set_xattrs(&staged.file)?;
        permissions.apply(&staged.file, Some(defaults))?;
        staged.permissions = Some(permissions);
        let modified = given.modified;
        staged.given = given;
        match modified {
            Some(modified) => set_modified(&staged.file, modified),
            None => Ok(()),
        }
    }
}

impl StagedFile {
    /// Creates an empty file, readable by its owner only, under a random name.
    pub(super) fn new(staging: Arc<Staging>) -> Result<Self, Error> {
        let name = staging.new_name()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&staging.directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::system("creating a staged file"))?;
        Ok(Self {
            file: file.into(),
            entry: StagedEntry::new(staging, name),
            given: GivenAttributes::default(),
            permissions: None,
            syncs: Box::default(),
        })
    }

    /// Reserves space for `bytes` bytes behind the first `offset`.
    pub(super) fn reserve(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        // KEEP_SIZE: the length of the file stays the number of bytes written.
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, bytes) {
            // File systems without the call get no reservation. Writing zeros instead would cost as
            // much as writing the content.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(Error::system("reserving space")(errno)),
        }
    }

    /// Takes the opened part of an upload.
    pub(super) fn of_part(file: File, entry: StagedEntry) -> Self {
        Self {
            file,
            entry,
            given: GivenAttributes::default(),
            permissions: None,
            syncs: Box::default(),
        }
    }

    fn journal(&self) -> Option<&Journal> {
        self.entry.part.as_ref()?.journal.as_ref()
    }

    /// Length of the part that it goes on from, and with which it was opened, in bytes.
    pub(in crate::files) fn length(&self) -> u64 {
        self.journal().map_or(0, Journal::written)
    }

    /// The request that writes it, if it is the part of an upload.
    pub(in crate::files) fn superseded(&self) -> Option<CancellationToken> {
        let part = self.entry.part.as_ref()?;
        Some(part.active.superseded().clone())
    }

    /// Gives up what makes it the part of an upload: it is published or removed. Only if the server
    /// is killed before that, it can go on.
    pub(in crate::files) fn give_up_part(&mut self) {
        if let Some(part) = &mut self.entry.part {
            part.journal = None;
        }
    }

    /// Waits for the syncs that began while it was written.
    ///
    /// # Errors
    /// If one failed, so that the content is lost; see [`sync`](Self::sync).
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let part = self.entry.part.as_mut();
        let journal = part.and_then(|part| part.journal.as_mut());
        let settled = journal.map_or(Ok(()), Journal::settle);
        let settled = settled.and_then(|()| self.syncs.settle());
        settled.map_err(Error::system("syncing a file"))
    }

    fn wrote(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        let noted = written.and_then(|written| {
            self.note(written as u64)?;
            Ok(written)
        });
        if noted.is_err() {
            // Nothing is left that could go on.
            self.give_up_part();
        }
        noted
    }

    /// Notes, in the journal if there is one, that so many bytes more are there.
    pub(super) fn note(&mut self, bytes: u64) -> io::Result<()> {
        let part = self.entry.part.as_mut();
        match part.and_then(|part| part.journal.as_mut()) {
            Some(journal) => journal.wrote(bytes, &self.file),
            None => self.syncs.wrote(bytes, &self.file),
        }
    }

    /// Starts writeback of the content without waiting for it, where the system takes such hints.
    ///
    /// Call it for each of several files before the first is synced: writeback allocates their
    /// blocks. The journal commit that ends the first sync then covers all of them.
    pub(super) fn start_writing(&self) {
        start_writeback(&self.file);
    }

    /// Makes content and attributes durable.
    ///
    /// # Errors
    /// If a system call fails. The content is lost then: a repeated fsync may report success for
    /// pages that were never written.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let faults = self.entry.staging.faults;
        let synced = faults.sync(Fault::FileSync, &self.file);
        synced.map_err(Error::system("syncing a file"))
    }

    /// Determines the permissions with which the content may be published now, and sets them if
    /// others were set. The caller holds the lock of the path.
    ///
    /// # Errors
    /// If a system call fails.
    pub(super) fn settle_permissions(
        &self,
        find: impl FnOnce(&GivenAttributes, &ProcessDefaults) -> Result<Permissions, Error>,
    ) -> Result<(), Error> {
        let wanted = find(&self.given, &self.entry.staging.defaults)?;
        if self.permissions.as_ref() == Some(&wanted) {
            return Ok(());
        }
        // The replaced file or the directory has changed since the attributes were set.
        wanted.apply(&self.file, None)?;
        self.sync()
    }

    /// Publishes the content at `slot`. See [`StagedEntry::publish`].
    pub(super) fn publish(
        self,
        slot: &Slot<'_>,
        precondition: &Precondition,
    ) -> Result<File, Error> {
        self.entry.publish(slot, precondition)?;
        Ok(self.file)
    }
}

/// Starts writeback of a file without waiting for it.
pub(super) fn start_writeback(file: &File) {
    // POSIX_FADV_DONTNEED drops clean pages, but Linux first starts writeback of the dirty ones. It
    // is a hint: the sync that follows does what it left out, and reports its errors.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // writev(2), as below. Tests that trace or fail system calls can tell it from the write(2)
        // with which the runtime wakes its threads.
        let written = self.file.write_vectored(&[IoSlice::new(bytes)]);
        self.wrote(written)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.file.write_vectored(slices);
        self.wrote(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HoleWrite for StagedFile {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = leave_hole(&mut self.file, bytes).and_then(|()| self.note(bytes));
        if skipped.is_err() {
            self.give_up_part();
        }
        skipped
    }
}

/// Smallest size in bytes for which space is reserved. Below it, the first write fails as early if
/// there is no space.
const RESERVED_BYTES_MIN: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::super::fixture::StoreFixture;
    use super::*;

    #[test]
    fn a_reservation_does_not_change_the_length_of_a_file() {
        let fixture = StoreFixture::new();
        let staged = fixture.root.stage(Some(RESERVED_BYTES_MIN)).unwrap();
        assert_eq!(staged.file.metadata().unwrap().len(), 0);
    }
}
