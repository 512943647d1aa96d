//! What an earlier server has stored, and the decision on changes that it may have made.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::Ordering;

use quire_shared::protocol::Version;
use rustix::fs::{AtFlags, Mode, OFlags, openat, syncfs, unlinkat};
use rustix::io::Errno;
use tracing::{info, warn};

use super::record::{ChangeKey, ChangeRecord, Intent, MadeChange, RECORD_BYTES_MAX, ReadRecords};
use super::{ChangeMemory, RECORDS_NAME, now};
use crate::files::store::Error;
use crate::files::store::root::Inner;
use crate::files::store::staging::Staging;

impl ChangeMemory {
    /// Reads what an earlier server has stored, unless that was done: before this one changes
    /// anything, because what is undecided is decided by looking. Without a staging directory there
    /// is nothing.
    pub(in crate::files::store) fn load(&self, inner: &Inner, staging: Option<&Staging>) {
        if self.is_loaded() {
            return;
        }
        let mut file = self.file.lock();
        if self.is_loaded() {
            return;
        }
        if let Some(staging) = staging {
            match self.recall(inner, staging) {
                Ok(false) => {}
                Ok(true) => match self.rewrite(inner, staging) {
                    Ok(rewritten) => *file = Some(rewritten),
                    // The next change tries again.
                    Err(error) => report(&error),
                },
                Err(error) => {
                    self.table.lock().note_loss(now());
                    report(&error);
                }
            }
        }
        self.is_loaded.store(true, Ordering::Release);
    }

    /// Enters what is stored; returns whether there is something to store again.
    fn recall(&self, inner: &Inner, staging: &Staging) -> Result<bool, Error> {
        let Some(bytes) = read_file(staging)? else {
            return Ok(false);
        };
        let ReadRecords { records, damaged } = ReadRecords::parse(&bytes);
        let mut table = self.table.lock();
        if damaged > 0 {
            info!(
                bytes = damaged,
                "ignored the damaged end of the records of changes"
            );
            // One record may be torn by a crash: then its change was not made. More than that is
            // lost.
            if damaged > RECORD_BYTES_MAX || records.is_empty() {
                table.note_loss(now());
            }
        }
        let mut was_made = false;
        for undecided in last_of_each(records) {
            match undecided {
                ChangeRecord::Made(made) => table.add(made),
                ChangeRecord::Failed(_) => {}
                ChangeRecord::Intent(intent) => {
                    if let Some(made) = decide(inner, intent) {
                        was_made = true;
                        table.add(made);
                    }
                }
            }
        }
        table.expire(now());
        let is_empty = table.is_empty();
        drop(table);
        if was_made {
            // It was not acknowledged, so it may not be durable yet.
            syncfs(&inner.directory).map_err(|errno| inner.not_durable(errno))?;
        }
        // A file without records stays while it says that something was lost.
        if is_empty && damaged == 0 {
            let _ = unlinkat(&staging.directory, RECORDS_NAME, AtFlags::empty());
        }
        Ok(!is_empty)
    }
}

/// The last record of each change, in the order of these.
fn last_of_each(records: Vec<ChangeRecord>) -> Vec<ChangeRecord> {
    let key_of = |record: &ChangeRecord| match record {
        ChangeRecord::Intent(intent) => intent.change.key,
        ChangeRecord::Made(made) => made.key,
        ChangeRecord::Failed(key) => *key,
    };
    let numbered = || records.iter().enumerate();
    let last: HashMap<ChangeKey, usize> = numbered()
        .map(|(number, record)| (key_of(record), number))
        .collect();
    let is_last: Vec<_> = numbered()
        .map(|(number, record)| last.get(&key_of(record)) == Some(&number))
        .collect();
    let records = records.into_iter().zip(is_last);
    let records = records.filter_map(|(record, is_last)| is_last.then_some(record));
    records.collect()
}

/// The change that was begun, if it was made: then something else has its path, or nothing.
fn decide(inner: &Inner, intent: Intent) -> Option<MadeChange> {
    // What can't be looked at isn't what was there.
    let now_there = inner.identity(&intent.witness).ok().flatten();
    let is_same = match (&intent.before, &now_there) {
        (Some(before), Some(now_there)) => before.is_same(now_there),
        (None, None) => true,
        _ => false,
    };
    if is_same {
        return None;
    }
    let version = intent.target.map(|target| {
        let metadata = inner.metadata(&target).ok();
        let version = metadata.map(|metadata| metadata.version());
        // Nothing has the version without bytes.
        version.or_else(|| Version::new(&[]))
    });
    let mut made = intent.change;
    made.outcome.version = version.flatten();
    Some(made)
}

fn read_file(staging: &Staging) -> Result<Option<Vec<u8>>, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(&staging.directory, RECORDS_NAME, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::system("opening the records of changes")(errno)),
    };
    let mut bytes = Vec::new();
    // A longer one is none of ours, and damaged where it is cut off.
    file.take(READ_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(Error::system("reading the records of changes"))?;
    Ok(Some(bytes))
}

fn report(error: &Error) {
    let error: &dyn std::error::Error = error;
    warn!(error, "the records of changes can't be used");
}

/// Most bytes that are read of a file: several times what all outcomes take.
const READ_BYTES_MAX: u64 = 128 * 1024 * 1024;
