//! Many files and directories at once.
//!
//! The files of a batch are written and synced without a lock, then all of them get their names
//! under their locks, and share the syncs of their directories. A result is given when its change is
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
use super::store::{self, Change, Committed, Destination, StagedFile, Stager};

/// Many changes by one caller, batch after batch.
#[derive(Debug)]
pub struct BatchUpload {
    files: Files,
    caller: Caller,
    /// Directories that these batches have made, and whose attributes they may therefore set.
    made: HashSet<RemotePath>,
}

/// One change of a batch.
#[derive(Debug)]
pub enum BatchItem {
    /// A file, its content, and the digest that its sender announced.
    File(Put, Bytes, Digest),
    /// A directory to be made.
    Directory(MakeDirectory),
    /// Attributes of a directory.
    Attributes(SetAttributes),
}

impl Files {
    /// Begins to take batches.
    ///
    /// # Errors
    /// If the caller may change nothing at all, or nothing may be changed.
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
    /// Carries out a batch, and gives a result for each of its items, in their order. Paths that
    /// are in use delay no more than their own items.
    ///
    /// # Errors
    /// Only for a defect of the server.
    pub async fn commit(
        &mut self,
        items: Vec<BatchItem>,
    ) -> Result<Vec<Result<Committed, Error>>, Error> {
        let admitted = items.into_iter().map(|item| self.admit(item)).collect();
        let pending = stage(admitted, &self.files).await?;
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

    /// Checks the caller's rights and charges its quota.
    fn admit(&mut self, item: BatchItem) -> Result<Prepared, Error> {
        let Caller { access, quota, .. } = &self.caller;
        let target = |path: RemotePath, precondition, make_parents| Destination {
            parents: access.parents(&path, make_parents),
            path,
            precondition,
        };
        Ok(match item {
            BatchItem::File(put, body, digest) => {
                let precondition = access.create(&put.path, &put.precondition)?;
                let reservation = quota.reserve(body.len() as u64, 1)?;
                let target = target(put.path.clone(), precondition, put.make_parents);
                Prepared::File(NewFile { put, body, digest }, target, reservation)
            }
            BatchItem::Directory(make) => {
                access.make_directory(&make.path)?;
                let target = target(make.path, make.precondition, make.make_parents);
                let pending = Pending::new(Change::Directory { target });
                Prepared::Ready(pending.charged(quota.reserve(0, 1)?))
            }
            BatchItem::Attributes(set) => {
                let is_own = self.made.remove(&set.path);
                access.set_attributes(&set.path, is_own)?;
                Prepared::Ready(Pending::new(Change::Attributes {
                    path: set.path,
                    modified: set.modified,
                    mode: set.mode,
                }))
            }
        })
    }
}

/// An item that the caller has the right to.
enum Prepared {
    File(NewFile, Destination, Reservation),
    Ready(Pending),
}

/// A file of a batch.
struct NewFile {
    put: Put,
    body: Bytes,
    digest: Digest,
}

/// Puts the files of a batch on disk without their names.
async fn stage(
    admitted: Vec<Result<Prepared, Error>>,
    files: &Files,
) -> Result<Vec<Result<Pending, Error>>, Error> {
    let mut contents = Vec::new();
    let mut waiting = Vec::new();
    for item in admitted {
        waiting.push(item.map(|item| match item {
            Prepared::File(file, target, reservation) => {
                contents.push(file);
                Err((target, reservation))
            }
            Prepared::Ready(pending) => Ok(pending),
        }));
    }
    let mut staged = match contents.is_empty() {
        true => Vec::new(),
        false => files.store().stage_all(contents, write).await?,
    }
    .into_iter();
    let mut finish = |item: Result<Pending, (Destination, Reservation)>| match item {
        Ok(pending) => Ok(pending),
        Err((target, reservation)) => {
            let missing = store::Error::Internal("a batch with a file too few");
            let staged = staged.next().unwrap_or(Err(missing.into()))?;
            let pending = Pending::new(Change::File { target, staged });
            Ok(pending.charged(reservation))
        }
    };
    Ok(waiting
        .into_iter()
        .map(|item| item.and_then(&mut finish))
        .collect())
}

/// Writes one file, and doesn't sync it. Blocks.
fn write(file: NewFile, stager: &Stager<'_>) -> Result<StagedFile, Error> {
    let NewFile { put, body, digest } = file;
    let mut hasher = put.digest.hasher();
    hasher.update(&body);
    if hasher.finish() != digest {
        return Err(Error::Damaged);
    }
    let mut staged = stager.stage(body.len() as u64)?;
    staged
        .write_all(&body)
        .map_err(store::Error::system("writing"))?;
    staged.set_attributes(put.modified, put.mode)?;
    Ok(staged)
}

/// The directory that a change will make.
fn made_by(pending: &Result<Pending, Error>) -> Option<RemotePath> {
    match &pending.as_ref().ok()?.change {
        Change::Directory { target } => Some(target.path.clone()),
        _ => None,
    }
}

/// Directories remembered as made: far more than are being filled at once. Of one that is not
/// remembered the attributes can be set only with the right to replace.
const MADE_MAX: usize = 4096;
