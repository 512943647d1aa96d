//! Upload of a file's content.
//!
//! The content is written to a staged file that has no name yet, without a lock; only publishing
//! the file takes one. A client gets success when the content is durable.

use std::io;

use bytes::Bytes;
use quire_shared::digest::Digest;
use quire_shared::protocol::{Put, Version};
use quire_transport::body::{BodySink, Received, WriteBehind};

use super::Files;
use super::caller::Caller;
use super::commit::Pending;
use super::error::Error;
use super::quota::Metered;
use super::store::{self, Change, Destination, GivenAttributes, StagedFile};

/// Upload of new content for a file. Dropping it before [`commit`](Self::commit) discards the
/// content.
#[derive(Debug)]
pub struct Upload {
    files: Files,
    caller: Caller,
    request: Put,
    target: Destination,
    writing: WriteBehind<Metered<StagedFile>>,
}

impl Files {
    /// Starts an upload, after all checks that are possible without the content: a client with a
    /// large body gets a refusal early.
    ///
    /// # Errors
    /// If it is refused, the quota is used up, the precondition isn't met, or space is lacking.
    pub async fn put(&self, caller: &Caller, request: Put) -> Result<Upload, Error> {
        let precondition = caller.access.create(&request.path, &request.precondition)?;
        let target = Destination {
            parents: caller.access.parents(&request.path, request.make_parents),
            path: request.path.clone(),
            precondition,
        };
        let ahead = request.size.unwrap_or(0);
        let reservation = caller.quota.reserve(ahead, 1)?;
        let guard = self.locks().shared(caller.owner, &target.path).await?;
        let staged = self.store().stage(target.clone(), request.size).await?;
        drop(guard);
        let metered = Metered {
            sink: staged,
            reservation,
            ahead,
        };
        Ok(Upload {
            files: self.clone(),
            caller: caller.clone(),
            writing: WriteBehind::new(metered, request.digest.hasher()),
            request,
            target,
        })
    }
}

impl BodySink for Upload {
    async fn write(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        self.writing.write(chunks).await
    }

    async fn settle(&mut self) -> io::Result<()> {
        self.writing.settle().await
    }
}

impl Upload {
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
        if computed != *digest {
            return Err(Error::Damaged);
        }
        let Metered {
            sink, reservation, ..
        } = metered;
        let Put {
            modified,
            mode,
            preserve,
            ..
        } = self.request;
        let given = GivenAttributes::new(modified, mode, preserve);
        let target = self.target.clone();
        let staged = self.files.store().seal(sink, target, given).await?;
        let paths = [&self.target.path];
        let guard = self
            .files
            .locks()
            .exclusive(self.caller.owner, &paths)
            .await?;
        let change = Change::File {
            target: self.target,
            staged,
        };
        let pending = Pending::new(change).charged(reservation);
        self.files.commit_version(pending, guard).await
    }
}
