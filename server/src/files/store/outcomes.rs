//! Memory of changes that clients named, so that one that is asked for again is not made again.
//!
//! Before such a change is made, an intent is stored with what has its path, its witness. Afterwards
//! the outcome is. After a kill or a power cut, an intent without an outcome is decided by looking:
//! the change was made if its path has something else now. So only the intent is synced.
//!
//! The records are one file in the staging directory, which is rewritten when it has grown. What is
//! known is in memory too. Records hold paths, so they are private and never logged.

mod record;
mod recovery;
mod table;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use quire_certs::Fingerprint;
use quire_shared::RemotePath;
use quire_shared::digest::Digest;
use quire_transport::bottleneck::file_sync;
use rustix::fs::{AtFlags, Mode, OFlags, fdatasync, fsync, ftruncate, openat, renameat, unlinkat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::batch::{Change, Committed};
use super::metadata::{FileId, Metadata};
use super::root::{Inner, Root, directory_synced};
use super::staging::Staging;
use super::{Error, Store};

pub(in crate::files) use record::{ChangeKey, Outcome};

use record::{ChangeRecord, Intent, MadeChange, WitnessIdentity};
use table::{Known, OutcomeTable};

/// Changes that were made, and those that are being made.
#[derive(Debug, Default)]
pub(in crate::files) struct ChangeMemory {
    /// Locked before the table. It is held while the file is written, which may take a while.
    file: Mutex<Option<RecordFile>>,
    table: Mutex<OutcomeTable>,
    /// Set once what an earlier server has stored is known.
    is_loaded: AtomicBool,
}

/// The file of records, open to append.
#[derive(Debug, Clone)]
struct RecordFile {
    file: Arc<File>,
    id: FileId,
    /// Its length, and that at which it is rewritten.
    bytes: u64,
    limit: u64,
}

/// What to do with a change that a client asks for.
#[derive(Debug)]
pub(in crate::files) enum Claim {
    /// Make it.
    Mine(NamedChange),
    /// Ask again when the token is cancelled: another request is making it.
    Running(CancellationToken),
    /// Answer with this: it was made.
    Made(Outcome),
    /// Refuse it: another request had this name.
    Other,
}

/// A change that only the holder makes. If this is dropped before the change is made, another may
/// make it.
#[derive(Debug)]
pub(in crate::files) struct NamedChange {
    memory: Arc<ChangeMemory>,
    key: ChangeKey,
    request: Digest,
    ended: CancellationToken,
    is_made: bool,
}

impl Drop for NamedChange {
    fn drop(&mut self) {
        if !self.is_made {
            self.memory.table.lock().remove(&self.key);
        }
        self.ended.cancel();
    }
}

impl ChangeMemory {
    /// Whether what an earlier server has stored is known.
    pub(in crate::files) fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
    }

    /// Looks a change up, and enters it if nothing is known of it.
    pub(in crate::files) fn claim(self: &Arc<Self>, key: ChangeKey, request: Digest) -> Claim {
        match self.table.lock().enter(key, &request) {
            Known::Nothing(ended) => Claim::Mine(NamedChange {
                memory: Arc::clone(self),
                key,
                request,
                ended,
                is_made: false,
            }),
            Known::Running(ended) => Claim::Running(ended),
            Known::Made(made) => Claim::Made(made.outcome),
            Known::Other => Claim::Other,
        }
    }

    /// For how many seconds back all changes of `owner` are known.
    pub(in crate::files) fn reach(&self, owner: &Fingerprint) -> Option<u64> {
        let table = self.table.lock();
        self.is_loaded().then(|| table.reach(owner, now()))
    }

    /// Forgets what is old, and removes the file if nothing is left.
    pub(super) fn expire(&self, staging: &Staging) {
        let mut file = self.file.lock();
        let mut table = self.table.lock();
        table.expire(now());
        if self.is_loaded() && table.is_empty() {
            *file = None;
            let _ = unlinkat(&staging.directory, RECORDS_NAME, AtFlags::empty());
        }
    }

    /// Stores that a change begins, durably.
    fn begin(&self, inner: &Inner, staging: &Staging, intent: Intent) -> Result<(), Error> {
        let mut bytes = Vec::new();
        ChangeRecord::Intent(intent.clone()).append(&mut bytes);
        let mut file = self.file.lock();
        {
            let mut table = self.table.lock();
            table.expire(now());
            // Before it is written, so that it is in a file that is rewritten meanwhile.
            table.begin(intent);
        }
        let appended = match &mut *file {
            Some(current) if current.bytes < current.limit => current.append(&bytes),
            current => self
                .rewrite(inner, staging)
                .map(|rewritten| *current = Some(rewritten)),
        };
        if let Err(error) = appended {
            *file = None;
            return match error.errno() {
                // A change that frees space must be possible: it is known to this process only.
                Some(Errno::NOSPC | Errno::DQUOT) => forget_durably(inner, staging),
                _ => Err(error),
            };
        }
        let Some(RecordFile { file: open, id, .. }) = file.clone() else {
            return Err(Error::Internal("a file of records that isn't open"));
        };
        drop(file);
        let synced = inner.commits.sync(id, || file_sync(|| fdatasync(&open)));
        synced.map_err(|errno| inner.not_durable(errno))
    }

    /// Stores how a change ended.
    fn end(&self, record: &ChangeRecord) {
        let mut bytes = Vec::new();
        record.append(&mut bytes);
        let mut file = self.file.lock();
        let appended = file.as_mut().map(|file| file.append(&bytes));
        if let Some(Err(_)) = appended {
            // The next change writes a new file. Until then, the intent is enough.
            *file = None;
        }
    }

    /// Writes a new file with all that counts, in place of the old one.
    fn rewrite(&self, inner: &Inner, staging: &Staging) -> Result<RecordFile, Error> {
        let bytes = self.table.lock().file();
        let name = staging.new_name()?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL;
        let file = openat(&staging.directory, &name, flags | OFlags::CLOEXEC, PRIVATE)
            .map_err(Error::system("creating a file of records"))?;
        let mut file = File::from(file);
        let renamed = file
            .write_all(&bytes)
            .map_err(Error::system("writing a file of records"))
            .and_then(|()| {
                file_sync(|| fsync(&file)).map_err(|errno| inner.not_durable(errno))?;
                renameat(&staging.directory, &name, &staging.directory, RECORDS_NAME)
                    .map_err(Error::system("renaming a file of records"))
            });
        if let Err(error) = renamed {
            let _ = unlinkat(&staging.directory, &name, AtFlags::empty());
            return Err(error);
        }
        // The staging directory itself may be new.
        for directory in [&staging.directory, &*inner.directory] {
            let synced = directory_synced(file_sync(|| fsync(directory)));
            synced.map_err(|errno| inner.not_durable(errno))?;
        }
        let id = Metadata::of(&file)
            .map_err(Error::system("reading the metadata of a file of records"))?
            .id;
        let length = bytes.len() as u64;
        Ok(RecordFile {
            file: Arc::new(file),
            id,
            bytes: length,
            limit: FILE_BYTES.max(2 * length),
        })
    }
}

impl RecordFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // One call, so that nothing else comes between.
        (&*self.file)
            .write_all(bytes)
            .map_err(Error::system("writing a file of records"))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl Store {
    /// Changes that clients named.
    pub(in crate::files) fn memory(&self) -> &Arc<ChangeMemory> {
        self.root.memory()
    }

    /// Reads what an earlier server has stored of changes that clients named.
    ///
    /// # Errors
    /// If the root is read-only.
    pub(in crate::files) async fn load_memory(&self) -> Result<(), Error> {
        match self.memory().is_loaded() {
            true => Ok(()),
            false => self.change(|root| root.inner.writable().map(drop)).await,
        }
    }
}

impl Root {
    /// What clients named.
    pub(super) fn memory(&self) -> &Arc<ChangeMemory> {
        &self.inner.memory
    }

    /// Forgets outcomes that are old.
    ///
    /// # Errors
    /// If the staging directory can't be opened.
    pub(super) fn expire_outcomes(&self) -> Result<(), Error> {
        if let Some(staging) = self.staging_if_any()? {
            self.inner.memory.expire(&staging);
        }
        Ok(())
    }

    /// As [`commit`](Self::commit); `named` remembers the change if it is the only one.
    pub(super) fn commit_as(
        &self,
        mut changes: Vec<Change>,
        named: Option<Box<NamedChange>>,
    ) -> Vec<Result<Committed, Error>> {
        match (named, changes.pop()) {
            (Some(named), Some(change)) => vec![self.commit_named(change, *named)],
            (_, last) => {
                changes.extend(last);
                self.commit(changes)
            }
        }
    }

    fn commit_named(&self, change: Change, mut named: NamedChange) -> Result<Committed, Error> {
        let memory = Arc::clone(&named.memory);
        let staging = self.inner.writable()?;
        let (intent, is_possible) = self.inner.intent(&change, &named)?;
        let mut made = intent.change.clone();
        if is_possible {
            memory.begin(&self.inner, &staging, intent)?;
        }
        let nothing = || Err(Error::Internal("a change without a result"));
        let result = self.commit(vec![change]).pop().unwrap_or_else(nothing);
        match &result {
            Ok(committed) => {
                made.time = now();
                made.outcome.version.clone_from(&committed.version);
                let record = ChangeRecord::Made(made.clone());
                // Before it is written, so that it is in a file that is rewritten meanwhile.
                memory.table.lock().add(made);
                named.is_made = true;
                memory.end(&record);
            }
            // It may have been made: the next start looks.
            Err(Error::NotDurable(_)) => {}
            Err(_) if is_possible => memory.end(&ChangeRecord::Failed(named.key)),
            Err(_) => {}
        }
        result
    }
}

impl Inner {
    /// What is stored of `change` before it is made, and whether it can succeed at all.
    fn intent(&self, change: &Change, named: &NamedChange) -> Result<(Intent, bool), Error> {
        let mut outcome = Outcome::default();
        let (witness, target) = match change {
            Change::Rename { from, to, .. } => (from, Some(to)),
            Change::Delete { path, .. } => (path, None),
            Change::Directory { target } => (&target.path, Some(&target.path)),
            Change::Copy { target, staged } => {
                outcome.left_out = staged.left_out.count;
                (&target.path, Some(&target.path))
            }
            Change::File { .. }
            | Change::Symlink { .. }
            | Change::Link { .. }
            | Change::Attributes { .. }
            | Change::Chmod { .. } => {
                return Err(Error::Internal("a change that has no name"));
            }
        };
        let before = self.identity(witness)?;
        let needs_something = matches!(change, Change::Rename { .. } | Change::Delete { .. });
        let intent = Intent {
            change: MadeChange {
                key: named.key,
                request: named.request.clone(),
                time: now(),
                outcome,
            },
            witness: witness.clone(),
            before,
            target: target.cloned(),
        };
        Ok((intent, before.is_some() || !needs_something))
    }

    /// What has `path` now, if anything.
    fn identity(&self, path: &RemotePath) -> Result<Option<WitnessIdentity>, Error> {
        match self.metadata(path) {
            Ok(metadata) => Ok(Some(WitnessIdentity::of(&metadata))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::NotFound) || error.errno() == Some(Errno::NOENT)
}

/// Leaves a file without records, so that the next server knows that it knows nothing. That takes
/// no space.
fn forget_durably(inner: &Inner, staging: &Staging) -> Result<(), Error> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&staging.directory, RECORDS_NAME, flags, Mode::empty()) {
        Ok(file) => ftruncate(&file, 0)
            .and_then(|()| file_sync(|| fdatasync(&file)))
            .map_err(|errno| inner.not_durable(errno)),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::system("opening a file of records")(errno)),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Name of the file of records in the staging directory. Names of other entries begin with a
/// hexadecimal digit and have no `h` in them, or with the prefix of uploads.
pub(super) const RECORDS_NAME: &str = "changes";

/// Permissions of the file.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Length at which the file is rewritten, in bytes, unless half of that counts: thousands of changes.
const FILE_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
