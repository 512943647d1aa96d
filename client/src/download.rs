//! Downloads of single files.
//!
//! A file gets its name once length and digest have been verified. What an interruption before that
//! leaves is hidden, and continued by the next fetch to the same target. No local path comes from the
//! server. See PROTOCOL.md, "Get".

mod file_fetch;

use std::io::{self, Write};
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use quire_shared::codec::DecodeError;
use quire_shared::digest::{Digest, DigestKind, Hasher};
use quire_shared::protocol::{Details, Get, GetHeader, Precondition, Time, Trailer, Version};
use quire_shared::{ErrorCode, RemotePath};
use quire_transport::body::extents::{Filled, HoleWrite, receive_extents};
use quire_transport::body::{self, ReceiveBodyError};
use quire_transport::stream::Receiver;

use crate::blocking::blocking;
use crate::delta::Delta;
use crate::details::Keep;
use crate::error::ClientError;
use crate::exchange::{Connection, read_to_end};
use crate::save::{SaveStart, SaveTarget, Unfinished};
use crate::upload::Links;

pub use crate::save::SaveOptions;
pub(crate) use file_fetch::FileFetch;

/// A download that is being prepared; see [`Client::download`](crate::Client::download).
#[derive(Debug)]
pub struct DownloadRequest<'a> {
    connection: &'a Connection,
    get: Get,
    options: SaveOptions,
    delta: Delta,
    moved: Option<&'a AtomicU64>,
}

impl<'a> DownloadRequest<'a> {
    pub(crate) fn new(connection: &'a Connection, path: RemotePath) -> Self {
        let get = Get {
            path,
            takes_extents: true,
            ..Get::default()
        };
        Self {
            connection,
            get,
            options: SaveOptions::default(),
            delta: Delta::default(),
            moved: None,
        }
    }

    /// Receives only these bytes of the file. A range may end after the end of the file, but not
    /// begin there.
    #[must_use]
    pub fn range(mut self, range: impl RangeBounds<u64>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        self.get.offset = start;
        self.get.length = match range.end_bound() {
            Bound::Included(last) => Some(last.saturating_add(1).saturating_sub(start)),
            Bound::Excluded(end) => Some(end.saturating_sub(start)),
            Bound::Unbounded => None,
        };
        self
    }

    /// Fails with [`Conflict`](crate::ErrorKind::Conflict) unless the file has this version, as for
    /// a range that continues an earlier one.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.get.precondition = Precondition::Match(version);
        self
    }

    /// The kind of digest that verifies the content.
    #[must_use]
    pub fn digest(mut self, kind: DigestKind) -> Self {
        self.get.digest = kind;
        self
    }

    /// Whether a local file of the target's name is replaced.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.options.overwrite = overwrite;
        self
    }

    /// Whether content and name are synced to disk before the download counts as done.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.options.sync = sync;
        self
    }

    /// Which details of the file the local one gets as well.
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.options.keep = keep;
        self.get.details = keep.kinds;
        self
    }

    /// Whether only what changed is fetched of a large file, if a local one of that name is replaced.
    #[must_use]
    pub fn delta(mut self, delta: Delta) -> Self {
        self.delta = delta;
        self
    }

    /// Counts the bytes in `moved` as they arrive.
    #[must_use]
    pub fn progress(mut self, moved: &'a AtomicU64) -> Self {
        self.moved = Some(moved);
        self
    }

    /// Downloads into the file `target`, as [`Download::save`] does, from where an earlier download of
    /// the same version was interrupted.
    ///
    /// # Errors
    /// The server's refusal, a broken connection, or why writing failed. After the loss of the
    /// connection, what has come of a large file stays beside the target for the next download.
    pub async fn to_file(self, target: impl AsRef<Path>) -> Result<Fetched, ClientError> {
        let uncounted = AtomicU64::new(0);
        let file = FileFetch {
            connection: self.connection,
            get: self.get,
            target: target.as_ref(),
            options: self.options,
            delta: self.delta,
            links: Links::Follow,
        };
        let moved = self.moved.unwrap_or(&uncounted);
        let save = file.open().await?;
        file.receive(save, moved, |_| {}).await?.publish().await
    }

    /// Downloads into memory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn to_vec(self) -> Result<Vec<u8>, ClientError> {
        let download = get(self.connection, self.get).await?;
        let uncounted = AtomicU64::new(0);
        download.into_vec(self.moved.unwrap_or(&uncounted)).await
    }

    /// Downloads into `writer` and returns it once the content is verified. The bytes are written
    /// as they arrive, before verification.
    ///
    /// # Errors
    /// The server's refusal, a broken connection, or why writing failed.
    pub async fn to_writer<W: Write + Send + 'static>(
        self,
        writer: W,
    ) -> Result<(W, Fetched), WriteToError> {
        let download = get(self.connection, self.get).await?;
        let uncounted = AtomicU64::new(0);
        let moved = self.moved.unwrap_or(&uncounted);
        download.write_to(writer, moved).await
    }
}

/// Requests a file's content.
pub(crate) async fn get(connection: &Connection, get: Get) -> Result<Download, ClientError> {
    let offset = get.offset;
    let wanted = get.length;
    let digest = get.digest;
    let takes_extents = get.takes_extents;
    let mut receiver = connection.send(get.clone()).await?;
    let answered = connection.answer::<GetHeader>(&mut receiver).await;
    let header = match answered {
        // In early data a server doesn't send a file with holes; the handshake is over by now.
        Err(error) if error.code() == Some(ErrorCode::TOO_EARLY) => {
            receiver = connection.send(get).await?;
            connection.answer(&mut receiver).await?
        }
        answered => answered?,
    };
    let available = header.size.saturating_sub(offset);
    let is_as_asked = header.length == wanted.map_or(available, |wanted| wanted.min(available));
    if !is_as_asked || (header.in_extents && !takes_extents) {
        return Err(ClientError::Unexpected(DecodeError::Malformed));
    }
    Ok(Download {
        connection: connection.clone(),
        receiver,
        header,
        digest,
    })
}

/// A file's content that is about to be received. Dropping it sends `STOP_SENDING`.
#[derive(Debug)]
pub struct Download {
    connection: Connection,
    receiver: Receiver,
    header: GetHeader,
    digest: DigestKind,
}

/// Content that was received and verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its length, in bytes.
    pub bytes: u64,
    /// Its digest.
    pub digest: Digest,
    /// The kind of that digest.
    pub digest_kind: DigestKind,
    /// The version of the file that it belongs to.
    pub version: Version,
    /// Whether the file grew meanwhile, so that this is only what it had at the beginning.
    pub grew: bool,
    /// What became of the part that an earlier download had left.
    pub part: PartUse,
}

/// What of a file was there already: what an earlier, interrupted transfer had left, or another
/// version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PartUse {
    /// There was none.
    #[default]
    None,
    /// So many bytes were there, and only the others came.
    Continued(u64),
    /// It was damaged, or of another version, so that the whole file came anew.
    Discarded,
    /// So many bytes were copied from the version that was replaced, and only the others came.
    Copied(u64),
}

impl Download {
    /// Size, version and attributes of the file, which come before the content.
    pub fn header(&self) -> &GetHeader {
        &self.header
    }

    /// Receives the content into `sink` and returns it once the content is verified. The bytes are
    /// written as they arrive, before verification; `moved` counts them.
    ///
    /// # Errors
    /// [`ClientError::Changed`], [`ClientError::Damaged`], or why receiving or writing failed.
    pub async fn write_to<W: Write + Send + 'static>(
        self,
        sink: W,
        moved: &AtomicU64,
    ) -> Result<(W, Fetched), WriteToError> {
        let hasher = self.digest.hasher();
        let written = self.write_hashed(Filled(sink), hasher, moved).await;
        written.map(|(Filled(sink), fetched)| (sink, fetched))
    }

    /// Receives the content into memory; `moved` counts the bytes.
    pub(crate) async fn into_vec(self, moved: &AtomicU64) -> Result<Vec<u8>, ClientError> {
        match self.write_to(Vec::new(), moved).await {
            Ok((bytes, _)) => Ok(bytes),
            Err(WriteToError::Client(error)) => Err(error),
            // Writing to memory fails only if it is exhausted.
            Err(WriteToError::Sink(error)) => {
                Err(ClientError::disk(Path::new("memory"), "write to", error))
            }
        }
    }

    /// As [`write_to`](Self::write_to), with a hasher that has what the digest begins with.
    async fn write_hashed<W: HoleWrite + Send + 'static>(
        mut self,
        sink: W,
        hasher: Hasher,
        moved: &AtomicU64,
    ) -> Result<(W, Fetched), WriteToError> {
        let receiver = &mut self.receiver;
        let length = self.header.length;
        let received = match self.header.in_extents {
            true => receive_extents(receiver, sink, length, hasher, moved).await,
            false => {
                let length = body::Length::Declared(length);
                body::receive(receiver, sink, length, hasher, moved).await
            }
        }
        .map_err(|error| match error {
            ReceiveBodyError::Disk(error) => WriteToError::Sink(error),
            ReceiveBodyError::Receive(error) => self.connection.receive_error(error).into(),
            _ => ClientError::Truncated.into(),
        })?;
        let trailer: Trailer = self.connection.answer(&mut self.receiver).await?;
        read_to_end(&mut self.receiver).await;
        if trailer.digest != received.digest {
            return Err(ClientError::Damaged.into());
        }
        let fetched = Fetched {
            bytes: received.length,
            digest: received.digest,
            digest_kind: self.digest,
            version: self.header.version,
            grew: trailer.grew,
            part: PartUse::None,
        };
        Ok((received.sink, fetched))
    }

    /// Receives the content into the file `target`, with the modification time of the file on the
    /// server. A new file gets its permission bits, as far as the umask lets it; a file that is
    /// replaced keeps its own. If `target` is a symbolic link, the file that it leads to is
    /// replaced. If it is a FIFO or a device, the content goes into it, before verification.
    ///
    /// # Errors
    /// As [`Download::write_to`]; [`ClientError::LocalExists`] if `target` exists and is not to be
    /// replaced. Then no part of the content stays on disk.
    pub async fn save(
        self,
        target: &Path,
        options: SaveOptions,
        moved: &AtomicU64,
    ) -> Result<Fetched, ClientError> {
        let path = target.to_owned();
        let mode = self.header.mode;
        let unfinished = blocking(move || {
            let save = SaveTarget::open(&path, options, Links::Follow)?;
            save.create(mode, SaveStart::Nothing(None))
        });
        let (unfinished, hasher) = (unfinished.await?, self.digest.hasher());
        let received = self.receive_to(unfinished, hasher, target, moved);
        received.await?.publish().await
    }

    /// Receives the content into a target that was opened as `target`, without giving it its name.
    async fn receive_to(
        self,
        unfinished: Unfinished,
        hasher: Hasher,
        target: &Path,
        moved: &AtomicU64,
    ) -> Result<ReceivedFile, ClientError> {
        let modified = self.header.modified;
        let details = unfinished.keep().told(self.header.details.clone())?;
        let (unfinished, fetched) = match self.write_hashed(unfinished, hasher, moved).await {
            Ok(written) => written,
            Err(WriteToError::Client(error)) => return Err(error),
            Err(WriteToError::Sink(error)) => {
                return Err(ClientError::disk(target, "write", error));
            }
        };
        Ok(ReceivedFile {
            unfinished,
            modified,
            details,
            fetched,
        })
    }
}

/// A file that has arrived and was verified, under a temporary name.
#[derive(Debug)]
pub(crate) struct ReceivedFile {
    pub(crate) unfinished: Unfinished,
    pub(crate) modified: Time,
    pub(crate) details: Option<Box<Details>>,
    pub(crate) fetched: Fetched,
}

impl ReceivedFile {
    /// Gives it its attributes and its name, after a sync if that was asked for.
    pub(crate) async fn publish(self) -> Result<Fetched, ClientError> {
        let Self {
            unfinished,
            modified,
            details,
            fetched,
        } = self;
        blocking(move || unfinished.publish(modified, details.as_deref())).await?;
        Ok(fetched)
    }
}

/// Why content was not received.
#[derive(Debug, thiserror::Error)]
pub enum WriteToError {
    /// Writing to the sink failed.
    #[error("cannot write what was received")]
    Sink(#[source] io::Error),
    /// Receiving failed, or the content wasn't verified.
    #[error(transparent)]
    Client(#[from] ClientError),
}
