//! Upload of a file's content.
//!
//! The content is written to a staged file that has no name yet, without a lock; only publishing
//! the file takes one. A client gets success when the content is durable.

mod delta;

use std::io;

use bytes::Bytes;
use quire_shared::RemotePath;
use quire_shared::digest::{Digest, Hasher};
use quire_shared::protocol::{Put, UnfinishedUpload, Version};
use quire_transport::body::journal::PART_BYTES_MIN;
use quire_transport::body::{BodySink, Received, WriteBehind};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Files;
use super::caller::Caller;
use super::commit::Pending;
use super::error::Error;
use super::quota::Metered;
use super::store::{self, Change, Destination, GivenAttributes, StagedFile, UploadSource};

pub use delta::DeltaUpload;

/// Upload of new content for a file. Dropping it before [`commit`](Self::commit) discards the
/// content, unless it can go on later.
#[derive(Debug)]
pub struct Upload {
    files: Files,
    caller: Caller,
    request: Put,
    target: Destination,
    writing: WriteBehind<Metered<StagedFile>>,
    offset: u64,
    takes_extents: bool,
    /// Ends the work on a part when the upload is dropped, or a later one takes the part over.
    superseded: CancellationToken,
    _ended: DropGuard,
}

/// How an upload is stored while it comes.
#[derive(Debug, Default)]
struct UploadPlan {
    /// What binds a part to it, if one is kept.
    source: Option<UploadSource>,
    /// The number of bytes outside the holes of its file, if it has some.
    data: Option<u64>,
}

impl Files {
    /// Starts an upload, after all checks that are possible without the content: a client with a
    /// large body gets a refusal early.
    ///
    /// # Errors
    /// If it is refused, the quota is used up, the precondition isn't met, or space is lacking.
    pub async fn put(&self, caller: &Caller, request: Put) -> Result<Upload, Error> {
        self.start_upload(caller, request, UploadPlan::default())
            .await
    }

    /// Starts an upload that goes on where an earlier one of the same file by the same client was
    /// interrupted. What comes of a large file is kept then, if the client has a key. Of a file with
    /// holes, `data` is the number of bytes outside them.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub async fn resume_put(
        &self,
        caller: &Caller,
        request: Put,
        data: Option<u64>,
    ) -> Result<Upload, Error> {
        let source = self.source_of(caller, &request);
        let plan = UploadPlan {
            source,
            // What is too long for that is too long for the disk as well, and refused at once.
            data: data.filter(|_| request.size <= Some(SPARSE_BYTES_MAX)),
        };
        self.start_upload(caller, request, plan).await
    }

    /// What binds a part to its upload; `None` if no part is kept.
    fn source_of(&self, caller: &Caller, request: &Put) -> Option<UploadSource> {
        let is_kept = !self.store().keeps_parts_for().is_zero();
        let size = request
            .size
            .filter(|size| is_kept && *size >= PART_BYTES_MIN)?;
        Some(UploadSource {
            owner: caller.key?.to_string(),
            path: request.path.clone(),
            size,
            modified: request.modified?,
            precondition: request.precondition.clone(),
        })
    }

    async fn start_upload(
        &self,
        caller: &Caller,
        request: Put,
        UploadPlan { source, data }: UploadPlan,
    ) -> Result<Upload, Error> {
        let precondition = caller.access.create(&request.path, &request.precondition)?;
        caller
            .access
            .own(&request.path, request.details.as_deref())?;
        let target = Destination {
            parents: caller.access.parents(&request.path, request.make_parents),
            path: request.path.clone(),
            precondition,
        };
        let size = request.size.unwrap_or(0);
        let is_part = source.is_some();
        let (staged, reservation) = match source {
            Some(source) => {
                // Before the lock, for which the one that is asked to make way may be waiting.
                let active = self.store().enter_upload(&source).await;
                let _guard = self.locks().shared(caller.owner, &target.path).await?;
                let staged = self
                    .store()
                    .stage_part(target.clone(), source, active, data);
                let staged = staged.await?;
                // What is there was charged when it came.
                let reservation = caller.quota.reserve(size - staged.length(), 1)?;
                (staged, reservation)
            }
            None => {
                let reservation = caller.quota.reserve(size, 1)?;
                let _guard = self.locks().shared(caller.owner, &target.path).await?;
                let staged = match data {
                    Some(data) => self.store().stage_sparse(target.clone(), data).await?,
                    None => self.store().stage(target.clone(), request.size).await?,
                };
                (staged, reservation)
            }
        };
        let given = request.details.as_ref();
        let xattrs = given.and_then(|details| details.xattrs.as_ref());
        let staged = match xattrs.filter(|xattrs| !xattrs.is_empty()) {
            Some(xattrs) => self.store().try_xattrs(staged, xattrs.clone()).await?,
            None => staged,
        };
        let offset = staged.length();
        let superseded = staged.superseded().unwrap_or_default();
        let metered = Metered {
            sink: staged,
            reservation,
            ahead: size - offset,
            stays_charged: is_part,
        };
        let hasher = request.digest.hasher();
        let stop = superseded.clone();
        let prepare = move |metered: &mut Metered<StagedFile>, hasher: &mut Hasher| {
            metered.sink.read_into(hasher, offset, &stop)
        };
        Ok(Upload {
            files: self.clone(),
            caller: caller.clone(),
            writing: match offset {
                0 => WriteBehind::new(metered, hasher),
                _ => WriteBehind::prepare(metered, hasher, prepare),
            },
            request,
            target,
            offset,
            takes_extents: data.is_some(),
            _ended: superseded.clone().drop_guard(),
            superseded,
        })
    }

    /// Returns what interrupted uploads of the caller's key have left at or below `path`, and
    /// removes it if `remove` says so, unless it is being received.
    ///
    /// # Errors
    /// If the caller may not change anything, or the staging directory can't be read.
    pub async fn unfinished_uploads(
        &self,
        caller: &Caller,
        path: RemotePath,
        remove: bool,
    ) -> Result<Vec<UnfinishedUpload>, Error> {
        caller.access.any()?;
        let Some(key) = caller.key else {
            return Ok(Vec::new());
        };
        let parts = self.store().parts(key.to_string(), path, remove).await?;
        let uploads = parts.into_iter().map(|part| UnfinishedUpload {
            path: part.source.path,
            size: part.source.size,
            received: part.received,
            last: part.last,
            expires: part.expires,
            is_active: part.is_active,
        });
        Ok(uploads.collect())
    }

    /// Removes what interrupted uploads have left, when it is too old.
    pub(crate) async fn keep_expiring_uploads(&self) {
        self.store().keep_expiring_parts().await;
    }
}

impl BodySink for Upload {
    async fn write(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        self.writing.write(chunks).await
    }

    async fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.writing.skip(bytes).await
    }

    async fn settle(&mut self) -> io::Result<()> {
        self.writing.settle().await
    }
}

impl Upload {
    /// How many bytes of the file are there already.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the body may come in extents, so that the file has the holes that the client's has.
    pub fn takes_extents(&self) -> bool {
        self.takes_extents
    }

    /// Completes when a later upload of the same file takes this one over.
    pub fn superseded(&self) -> CancellationToken {
        self.superseded.clone()
    }

    /// Discards the content, also of a part that would be kept otherwise.
    pub async fn discard(self) {
        if let Ok(Received { sink, .. }) = self.writing.finish().await {
            let Metered {
                mut sink,
                mut reservation,
                ..
            } = sink;
            sink.give_up_part();
            reservation.keep_nothing();
        }
    }

    /// Publishes the content and makes it durable, if its digest equals `digest`.
    ///
    /// # Errors
    /// If the digest differs, the precondition isn't met any more, or a system call fails.
    pub async fn commit(self, digest: &Digest) -> Result<Version, Error> {
        let written = self.writing.finish().await;
        let Received {
            sink: metered,
            digest: computed,
            length: _,
        } = written.map_err(store::Error::system("writing"))?;
        let Metered {
            mut sink,
            mut reservation,
            ..
        } = metered;
        if computed != *digest {
            sink.give_up_part();
            reservation.keep_nothing();
            return Err(Error::Damaged);
        }
        let Put {
            modified,
            mode,
            preserve,
            details,
            ..
        } = self.request;
        let given = GivenAttributes::new(modified, mode, preserve).with_details(details);
        let target = self.target.clone();
        let mut staged = self.files.store().seal(sink, target, given).await?;
        let paths = [&self.target.path];
        let guard = self
            .files
            .locks()
            .exclusive(self.caller.owner, &paths)
            .await?;
        // From here on it is published, or refused for a reason that stays.
        staged.give_up_part();
        reservation.keep_nothing();
        let change = Change::File {
            target: self.target,
            staged,
        };
        let pending = Pending::new(change).charged(reservation);
        self.files.commit_version(pending, guard).await
    }
}

/// Longest file that is taken with holes, in bytes: as the longest of ext4. A hole of any length costs
/// its sender nothing, and the server the digest of so many zeros, which takes half an hour for this.
const SPARSE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024 * 1024;
