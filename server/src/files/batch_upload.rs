//! Batches of changes: many files and directories at once.
//!
//! The files of a batch are written and synced without a lock. Then all changes are committed under
//! their locks, and share the syncs of their directories. A result is returned when its change is
//! durable.

use std::collections::HashSet;
use std::io::Write;

use bytes::Bytes;
use quire_shared::RemotePath;
use quire_shared::digest::Digest;
use quire_shared::protocol::{MakeDirectory, Put, SetAttributes};

use super::Files;
use super::caller::Caller;
use super::commit::Pending;
use super::error::Error;
use super::quota::Reservation;
use super::store::{self, Change, Committed, Destination, GivenAttributes, Stager};

/// Upload of many changes by one caller, batch after batch.
#[derive(Debug)]
pub struct BatchUpload {
    files: Files,
    caller: Caller,
    /// Directories that this upload has made. It may set their attributes without the right to
    /// replace; others keep their permissions.
    made: HashSet<RemotePath>,
}

/// One change of a batch.
#[derive(Debug)]
pub enum BatchItem {
    /// A file: request, content, and the digest from the client.
    File(Put, Bytes, Digest),
    /// A new directory.
    Directory(MakeDirectory),
    /// New attributes of a directory.
    Attributes(SetAttributes),
}

impl Files {
    /// Starts an upload of batches.
    ///
    /// # Errors
    /// If the caller has no right to change anything, or the directory is read-only.
    pub fn batches(&self, caller: &Caller) -> Result<BatchUpload, Error> {
        if !caller.access.may_change() {
            return Err(Error::NotAuthorized);
        }
        if self.read_only().is_some() {
            return Err(store::Error::ReadOnly.into());
        }
        Ok(BatchUpload {
            files: self.clone(),
            caller: caller.clone(),
            made: HashSet::new(),
        })
    }
}

impl BatchUpload {
    /// Commits a batch, and returns a result for each item, in their order. Locked paths delay only
    /// their own items.
    ///
    /// # Errors
    /// Only for a defect of the server.
    pub async fn commit(
        &mut self,
        items: Vec<BatchItem>,
    ) -> Result<Vec<Result<Committed, Error>>, Error> {
        let admitted = items.into_iter().map(|item| self.admit(item)).collect();
        let store = self.files.store();
        let pending = store.stage_all(admitted, prepare, Pending::staged).await?;
        let made: Vec<_> = pending.iter().map(made_by).collect();
        let results = self.files.commit_all(&self.caller, pending).await?;
        for (path, result) in made.into_iter().zip(&results) {
            let is_new = result.as_ref().is_ok_and(|committed| !committed.existed);
            if let Some(path) = path
                && is_new
                && self.made.len() < MADE_MAX
            {
                self.made.insert(path);
            }
        }
        Ok(results)
    }

    /// Checks the caller's rights and charges its quota, before anything is written.
    fn admit(&mut self, item: BatchItem) -> Result<AdmittedItem, Error> {
        let Caller { access, quota, .. } = &self.caller;
        let target = |path: RemotePath, precondition, make_parents| Destination {
            parents: access.parents(&path, make_parents),
            path,
            precondition,
        };
        Ok(match item {
            BatchItem::File(put, body, digest) => {
                let precondition = access.create(&put.path, &put.precondition)?;
                access.own(&put.path, put.details.as_deref())?;
                let reservation = quota.reserve(body.len() as u64, 1)?;
                let target = target(put.path.clone(), precondition, put.make_parents);
                AdmittedItem::File(put, body, digest, target, reservation)
            }
            BatchItem::Directory(make) => {
                access.make_directory(&make.path)?;
                let target = target(make.path, make.precondition, make.make_parents);
                let pending = Pending::new(Change::Directory { target });
                AdmittedItem::Ready(pending.charged(quota.reserve(0, 1)?))
            }
            BatchItem::Attributes(set) => {
                let is_own = self.made.remove(&set.path);
                access.set_attributes(&set.path, is_own)?;
                access.own(&set.path, set.details.as_deref())?;
                let given = GivenAttributes::new(set.modified, set.mode, set.preserve);
                let given = given.with_details(set.details);
                AdmittedItem::Ready(Pending::new(Change::Attributes {
                    path: set.path,
                    given,
                    is_new: is_own,
                }))
            }
        })
    }
}

/// Item that the caller has the right to, with its quota charged.
enum AdmittedItem {
    /// A file whose content has to be staged first.
    File(Put, Bytes, Digest, Destination, Reservation),
    /// A change that can be committed as it is.
    Ready(Pending),
}

/// Makes an item ready to be committed: writes the content of a file, without syncing it, because
/// the sync comes with the whole batch. Blocks.
fn prepare(item: AdmittedItem, stager: &Stager<'_>) -> Result<Pending, Error> {
    let (put, body, digest, target, reservation) = match item {
        AdmittedItem::File(put, body, digest, target, reservation) => {
            (put, body, digest, target, reservation)
        }
        AdmittedItem::Ready(pending) => return Ok(pending),
    };
    if put.digest.of(&body) != digest {
        return Err(Error::Damaged);
    }
    let mut staged = stager.stage(body.len() as u64)?;
    staged
        .write_all(&body)
        .map_err(store::Error::system("writing"))?;
    let given = GivenAttributes::new(put.modified, put.mode, put.preserve);
    let given = given.with_details(put.details);
    stager.set_attributes(&mut staged, &target, given)?;
    Ok(Pending::new(Change::File { target, staged }).charged(reservation))
}

/// Path of the directory that a change makes, if it makes one.
fn made_by(pending: &Result<Pending, Error>) -> Option<RemotePath> {
    match &pending.as_ref().ok()?.change {
        Change::Directory { target } => Some(target.path.clone()),
        _ => None,
    }
}

/// Maximum number of directories in [`BatchUpload::made`]: far more than are being filled at once.
/// Attributes of a directory beyond it can be set only with the right to replace, and its permissions
/// stay those of an empty new directory.
const MADE_MAX: usize = 4096;
