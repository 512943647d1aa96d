//! Parts: what interrupted uploads leave in the staging directory, so that the next upload of the
//! same file goes on.
//!
//! A part is a staged file whose name follows from the upload, with a
//! [journal](quire_transport::body::journal) beside it. It outlives its request and the server,
//! until it is published, removed by its client, or too old. One request at a time writes a part; a
//! later one of the same upload takes it over, because the client of the first may be gone without
//! the server knowing yet.

mod active;
mod source;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quire_shared::RemotePath;
use quire_shared::digest::Hasher;
use quire_shared::protocol::Time;
use quire_transport::body::journal::{Journal, PART_BYTES_MIN, PartRecord, add_first};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ftruncate, openat, unlinkat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::metadata::Metadata;
use super::root::Root;
use super::staged_file::StagedFile;
use super::staging::{StagedEntry, Staging};

pub(in crate::files) use active::ActiveUpload;
pub(in crate::files::store) use active::ActiveUploads;
pub(in crate::files) use source::UploadSource;

/// A part that waits for its upload to go on.
#[derive(Debug, Clone)]
pub(in crate::files) struct FoundPart {
    /// The upload.
    pub source: UploadSource,
    /// Bytes that are there.
    pub received: u64,
    /// When the last of them came.
    pub last: Time,
    /// When it is removed.
    pub expires: Time,
    /// Whether a request is writing it.
    pub is_active: bool,
    name: String,
}

impl Root {
    /// Opens the part that an earlier upload of `source` has left, or creates one, and reserves
    /// space for the rest. Of a file with holes, `data` bytes are outside them, and nothing is
    /// reserved.
    ///
    /// # Errors
    /// If the root is read-only, or the space isn't available.
    pub(super) fn stage_part(
        &self,
        source: &UploadSource,
        active: ActiveUpload,
        data: Option<u64>,
    ) -> Result<StagedFile, Error> {
        let staging = self.inner.writable()?;
        let name = source.name();
        let found = staging.reopen_part(source, &name);
        let (file, length, synced) = match found {
            Some(found) => found,
            None => {
                staging.remove_part(&name);
                self.make_room_for_part(&staging, source);
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = openat(&staging.directory, &name, flags, PRIVATE)
                    .map_err(Error::system("creating a staged file"))?;
                (File::from(file), 0, 0)
            }
        };
        // From here on, what can't go on is removed when the entry is dropped.
        let part = StagedPart {
            journal: None,
            active,
        };
        let mut entry = StagedEntry::of_part(Arc::clone(&staging), name, part);
        let journal = staging.begin_journal(source, &entry.name, length, synced);
        let journal = journal.map_err(Error::system("creating the journal of a staged file"))?;
        entry.begin_part(journal);
        let staged = StagedFile::of_part(file, entry);
        if let Some(data) = data {
            let there = Metadata::of(&staged.file).map_or(0, |metadata| metadata.allocated());
            staging.require_room(data.saturating_sub(there))?;
            return Ok(staged);
        }
        let rest = source.size - length;
        staging.require_room(rest)?;
        staged.reserve(length, rest)?;
        Ok(staged)
    }

    /// Returns the parts of `owner` at or below `path`, in the order of their paths, and removes
    /// them if `remove` says so, unless a request is writing them.
    ///
    /// # Errors
    /// If the staging directory can't be read.
    pub(super) fn parts(
        &self,
        owner: &str,
        path: &RemotePath,
        remove: bool,
    ) -> Result<Vec<FoundPart>, Error> {
        let Some(staging) = self.staging_if_any()? else {
            return Ok(Vec::new());
        };
        let mut parts = self.found_parts(&staging)?;
        parts.retain(|part| part.source.owner == owner && path.contains(&part.source.path));
        parts.sort_by(|one, other| one.source.path.cmp(&other.source.path));
        if remove {
            for part in parts.iter().filter(|part| !part.is_active) {
                self.remove_idle_part(&staging, &part.name);
            }
        }
        Ok(parts)
    }

    /// Removes parts that are too old.
    ///
    /// # Errors
    /// If the staging directory can't be read.
    pub(super) fn expire_parts(&self) -> Result<(), Error> {
        let now = time_of(SystemTime::now());
        if let Some(staging) = self.staging_if_any()? {
            for part in self.found_parts(&staging)? {
                if part.expires <= now {
                    self.remove_idle_part(&staging, &part.name);
                }
            }
        }
        Ok(())
    }

    pub(super) fn staging_if_any(&self) -> Result<Option<Arc<Staging>>, Error> {
        let inner = &self.inner;
        let current = inner.staging.lock().clone();
        if current.is_some() || inner.read_only.is_some() {
            return Ok(current);
        }
        match Staging::find(&inner.directory, inner.id.device)? {
            Some(staging) => Ok(Some(inner.share(staging))),
            None => Ok(None),
        }
    }

    /// All parts. What isn't one in spite of its name is removed.
    fn found_parts(&self, staging: &Staging) -> Result<Vec<FoundPart>, Error> {
        let reading = Error::system("reading the staging directory");
        let names = staging.part_names(PREFIX).map_err(reading)?;
        let mut parts = Vec::new();
        for name in names {
            let is_active = self.inner.uploads.contains(&name);
            match staging.look_at_part(&name) {
                Some((source, received, last)) => parts.push(FoundPart {
                    source,
                    received,
                    last,
                    expires: later(last, self.inner.keep_uploads),
                    is_active,
                    name,
                }),
                None => self.remove_idle_part(staging, &name),
            }
        }
        Ok(parts)
    }

    /// Removes the oldest parts of an owner that has as many as it may.
    fn make_room_for_part(&self, staging: &Staging, source: &UploadSource) {
        let Ok(names) = staging.part_names(&source.prefix()) else {
            return;
        };
        if names.len() < PARTS_MAX {
            return;
        }
        let changed = |name: &String| {
            let metadata = Metadata::at(&staging.directory, &**name, staging.root_device);
            metadata.ok().flatten().map(|metadata| metadata.changed)
        };
        let mut idle: Vec<_> = names
            .into_iter()
            .filter(|name| !self.inner.uploads.contains(name))
            .collect();
        idle.sort_by_key(changed);
        let surplus = idle.len().saturating_sub(PARTS_MAX - 1);
        for name in idle.iter().take(surplus) {
            self.remove_idle_part(staging, name);
        }
    }

    /// Removes a part unless a request is writing it.
    fn remove_idle_part(&self, staging: &Staging, name: &str) {
        if let Some(_taken) = self.inner.uploads.take_idle(name) {
            staging.remove_part(name);
        }
    }
}

impl Staging {
    /// Makes the parts that a killed server left ready to be found, and removes those that can't be
    /// continued.
    pub(super) fn settle_parts(&self, keep: Duration) {
        let now = time_of(SystemTime::now());
        for name in self.part_names(PREFIX).unwrap_or_default() {
            let received = self
                .look_at_part(&name)
                .filter(|(_, received, last)| {
                    *received >= PART_BYTES_MIN && later(*last, keep) > now
                })
                .map(|(_, received, _)| received);
            match received {
                Some(received) => self.end_at(&name, received),
                None => self.remove_part(&name),
            }
        }
    }

    /// Names of the parts that begin with `prefix`, also of those with nothing left but a journal.
    fn part_names(&self, prefix: &str) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if name.starts_with(prefix) {
                names.push(name.strip_suffix(JOURNAL).unwrap_or(name).to_owned());
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Upload, bytes that count, and time of the last change of a part, if it is one.
    fn look_at_part(&self, name: &str) -> Option<(UploadSource, u64, Time)> {
        let metadata = Metadata::at(&self.directory, name, self.root_device);
        let metadata = metadata.ok()??;
        metadata.require_file().ok()?;
        let record = self.read_journal(name)?;
        let source = UploadSource::parse(&record.subject)?;
        let received = record.durable(metadata.size).min(source.size);
        (source.name() == name).then_some((source, received, metadata.changed))
    }

    fn read_journal(&self, name: &str) -> Option<PartRecord> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let journal = openat(&self.directory, journal_of(name), flags, Mode::empty()).ok()?;
        PartRecord::read(&journal.into())
    }

    /// Opens the part of `source`, and returns it with the length that counts and what is durable.
    fn reopen_part(&self, source: &UploadSource, name: &str) -> Option<(File, u64, u64)> {
        let record = self.read_journal(name)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::empty()).ok()?;
        let mut file = File::from(file);
        let metadata = Metadata::of(&file).ok()?;
        metadata.require_file().ok()?;
        let length = record.durable(metadata.size).min(source.size);
        if record.subject != source.to_string() || length < PART_BYTES_MIN {
            return None;
        }
        file.set_len(length).ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some((file, length, record.synced.min(length)))
    }

    fn begin_journal(
        &self,
        source: &UploadSource,
        name: &str,
        length: u64,
        synced: u64,
    ) -> io::Result<Journal> {
        let journal = journal_of(name);
        let _ = unlinkat(&self.directory, &journal, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL;
        let lines = openat(&self.directory, &journal, flags | OFlags::CLOEXEC, PRIVATE)?;
        Journal::begin(lines.into(), &source.to_string(), length, synced)
    }

    /// Removes a part and its journal.
    pub(super) fn remove_part(&self, name: &str) {
        let _ = unlinkat(&self.directory, name, AtFlags::empty());
        self.remove_journal(name);
    }

    pub(super) fn remove_journal(&self, name: &str) {
        let _ = unlinkat(&self.directory, journal_of(name), AtFlags::empty());
    }

    /// Cuts a part off after `length` bytes, and gives back the space that was reserved for more. A
    /// part that has no more keeps its time of the last change.
    pub(super) fn end_at(&self, name: &str, length: u64) {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(part) = openat(&self.directory, name, flags, Mode::empty()) else {
            return;
        };
        let has_more = Metadata::of(&part).is_ok_and(|metadata| {
            metadata.size > length || metadata.allocated() > length + SURPLUS_BYTES
        });
        if has_more {
            let _ = ftruncate(part, length);
        }
    }
}

impl StagedFile {
    /// Adds the first `length` bytes of a part to a digest. Blocks.
    ///
    /// # Errors
    /// If reading fails, or another request has taken the part over.
    pub(in crate::files) fn read_into(
        &self,
        hasher: &mut Hasher,
        length: u64,
        superseded: &CancellationToken,
    ) -> io::Result<()> {
        match add_first(&self.file, hasher, length, || !superseded.is_cancelled())? {
            true => Ok(()),
            false => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

/// What makes a staged file the part of an upload.
#[derive(Debug)]
pub(super) struct StagedPart {
    /// `None` while the part isn't worth keeping: before it begins, and once it is given up, so that
    /// it is published or removed.
    pub(super) journal: Option<Journal>,
    pub(super) active: ActiveUpload,
}

fn journal_of(name: &str) -> String {
    format!("{name}{JOURNAL}")
}

fn later(time: Time, by: Duration) -> Time {
    let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    Time {
        seconds: time.seconds.saturating_add(seconds),
        ..time
    }
}

fn time_of(time: SystemTime) -> Time {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Time {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

/// Beginning of the names of parts and their journals. Other names in the staging directory begin
/// with a hexadecimal digit.
pub(super) const PREFIX: &str = "upload-";

/// End of the name of a journal, after the name of its part.
const JOURNAL: &str = ".journal";

/// Permissions of parts and journals.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Parts that one key may have; the oldest gives way to the next. More than a client uploads at
/// once.
const PARTS_MAX: usize = 64;

/// Bytes that a part may take up beyond its length: more than file systems round up.
const SURPLUS_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
