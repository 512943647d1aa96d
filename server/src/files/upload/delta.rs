//! Upload of a file of which the server has a part: in another version, which has the path now.

use std::io;

use bytes::Bytes;
use quire_shared::digest::Digest;
use quire_shared::protocol::{CopyStep, DetailKinds, Precondition, PutDelta, Version};
use quire_transport::body::BodySink;

use super::{Files, Upload};
use crate::files::caller::Caller;
use crate::files::content::require_version;
use crate::files::error::Error;
use crate::files::store::{self, OpenFile, SinceOpened};

/// Upload that is made of ranges of an older version and of new bytes, in the order of the file.
#[derive(Debug)]
pub struct DeltaUpload {
    upload: Upload,
    base: OpenFile,
    /// Bytes that are still to come.
    left: u64,
}

impl Files {
    /// Starts an upload that copies from the version `base` of the file that it replaces. Who may not
    /// get that file may not do so, because the digest would confirm a guess of its content.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and if the file isn't that version any more.
    pub async fn put_delta(
        &self,
        caller: &Caller,
        request: PutDelta,
    ) -> Result<DeltaUpload, Error> {
        let PutDelta { put, base } = request;
        caller.access.get(&put.path)?;
        caller.access.create(&put.path, &put.precondition)?;
        let guard = self.locks().shared(caller.owner, &put.path).await?;
        let file = self
            .store()
            .open_file(&put.path, DetailKinds::default())
            .await?;
        // It stays what it is while it is open, whatever becomes of the name.
        drop(guard);
        require_version(&Precondition::Match(base), &file.attributes)?;
        let left = put.size.unwrap_or(0);
        Ok(DeltaUpload {
            upload: self.put(caller, put).await?,
            base: file,
            left,
        })
    }
}

impl DeltaUpload {
    /// How many bytes are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Notes that `length` new bytes come next.
    ///
    /// # Errors
    /// If that is more than is still to come.
    pub fn expect(&mut self, length: u64) -> Result<(), Error> {
        self.left = self.left.checked_sub(length).ok_or(Error::Damaged)?;
        Ok(())
    }

    /// Copies a range of the older version. May return before it is copied.
    ///
    /// # Errors
    /// If that version ends before, it is more than is still to come, or writing failed.
    pub async fn copy(&mut self, step: CopyStep) -> Result<(), Error> {
        let CopyStep { offset, length } = step;
        let end = offset.checked_add(length);
        let end = end.filter(|end| *end <= self.base.attributes.size);
        let end = end.ok_or(Error::Range)?;
        self.expect(length)?;
        let (base, stop) = (self.base.clone(), self.upload.superseded());
        let copying = self.upload.writing.write_with(move |metered, hasher| {
            metered.write_with(length, |staged| {
                staged.copy_from(&base, offset..end, hasher, || !stop.is_cancelled())
            })?;
            Ok(length)
        });
        copying.await.map_err(written)
    }

    /// See [`Upload::commit`].
    ///
    /// # Errors
    /// As there; [`store::Error::Changed`] if the digest differs because another program has written
    /// to the older version meanwhile.
    pub async fn commit(self, digest: &Digest) -> Result<Version, Error> {
        let base = self.base;
        match self.upload.commit(digest).await {
            Err(Error::Damaged) => match base.look_again().await? {
                (Some(SinceOpened::Same), _) => Err(Error::Damaged),
                _ => Err(store::Error::Changed.into()),
            },
            committed => committed,
        }
    }
}

/// The error of a failed write, which may be that of an earlier step.
fn written(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => store::Error::Changed.into(),
        _ => store::Error::system("writing")(error).into(),
    }
}

impl BodySink for DeltaUpload {
    async fn write(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        self.upload.write(chunks).await
    }

    async fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.upload.skip(bytes).await
    }

    async fn settle(&mut self) -> io::Result<()> {
        self.upload.settle().await
    }
}
