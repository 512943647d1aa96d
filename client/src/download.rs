//! Downloads of single files.
//!
//! A file is received under a temporary name beside its target. It gets its own name once length
//! and digest have been verified; a failure before that leaves nothing behind. No local path comes
//! from the server. See PROTOCOL.md, "Get".

use std::fs;
use std::io::{self, IoSlice, Write};
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use quire_certs::replace_file::PendingFile;
use quire_shared::RemotePath;
use quire_shared::codec::DecodeError;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::path::RESERVED_PREFIX;
use quire_shared::protocol::{Attributes, Get, GetHeader, Precondition, Time, Trailer, Version};
use quire_transport::body::{self, ReceiveBodyError};
use quire_transport::stream::Receiver;

use crate::attributes;
use crate::blocking::blocking;
use crate::error::ClientError;
use crate::exchange::{Connection, read_to_end};

/// A download that is being prepared; see [`Client::download`](crate::Client::download).
#[derive(Debug)]
pub struct DownloadRequest<'a> {
    connection: &'a Connection,
    get: Get,
    options: SaveOptions,
    moved: Option<&'a AtomicU64>,
}

impl<'a> DownloadRequest<'a> {
    pub(crate) fn new(connection: &'a Connection, path: RemotePath) -> Self {
        let get = Get {
            path,
            ..Get::default()
        };
        Self {
            connection,
            get,
            options: SaveOptions::default(),
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

    /// Counts the bytes in `moved` as they arrive.
    #[must_use]
    pub fn progress(mut self, moved: &'a AtomicU64) -> Self {
        self.moved = Some(moved);
        self
    }

    /// Downloads into the file `target`, with the modification time and permission bits of the file
    /// on the server. The umask applies to the permission bits.
    ///
    /// # Errors
    /// The server's refusal, a broken connection, or why writing failed. Then no part of the content
    /// stays on disk.
    pub async fn to_file(self, target: impl AsRef<Path>) -> Result<Fetched, ClientError> {
        let download = get(self.connection, self.get).await?;
        let uncounted = AtomicU64::new(0);
        let moved = self.moved.unwrap_or(&uncounted);
        download.save(target.as_ref(), self.options, moved).await
    }

    /// Downloads into memory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn to_vec(self) -> Result<Vec<u8>, ClientError> {
        match self.to_writer(Vec::new()).await {
            Ok((bytes, _)) => Ok(bytes),
            Err(WriteToError::Client(error)) => Err(error),
            // Writing to memory fails only if it is exhausted.
            Err(WriteToError::Sink(error)) => {
                Err(ClientError::disk(Path::new("memory"), "write to", error))
            }
        }
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
    let mut receiver = connection.send(get).await?;
    let header: GetHeader = connection.answer(&mut receiver).await?;
    let available = header.size.saturating_sub(offset);
    if header.length != wanted.map_or(available, |wanted| wanted.min(available)) {
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
}

/// How a downloaded file is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions {
    /// Whether a local file of that name is replaced.
    pub overwrite: bool,
    /// Whether content and name are synced to disk before the end is reported.
    pub sync: bool,
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
        mut self,
        sink: W,
        moved: &AtomicU64,
    ) -> Result<(W, Fetched), WriteToError> {
        let received = body::receive(
            &mut self.receiver,
            sink,
            body::Length::Declared(self.header.length),
            self.digest.hasher(),
            moved,
        )
        .await
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
        };
        Ok((received.sink, fetched))
    }

    /// Receives the content into the file `target`, with the modification time and permission bits
    /// of the file on the server. The umask applies to the permission bits.
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
        let header = self.header.clone();
        let target = target.to_owned();
        let unfinished = {
            let target = target.clone();
            blocking(move || Unfinished::create(&target, options)).await?
        };
        let (unfinished, fetched) = match self.write_to(unfinished, moved).await {
            Ok(written) => written,
            Err(WriteToError::Client(error)) => return Err(error),
            Err(WriteToError::Sink(error)) => {
                return Err(ClientError::disk(&target, "write", error));
            }
        };
        blocking(move || unfinished.publish(header.modified, header.mode)).await?;
        Ok(fetched)
    }
}

/// Writes the file `target` from content that is verified and in memory. Blocks.
///
/// # Errors
/// As [`Download::save`].
pub(crate) fn save_whole(
    target: &Path,
    content: &[u8],
    attributes: &Attributes,
    options: SaveOptions,
) -> Result<(), ClientError> {
    let mut unfinished = Unfinished::create(target, options)?;
    unfinished
        .write_all(content)
        .map_err(|error| ClientError::disk(target, "write", error))?;
    unfinished.publish(attributes.modified, attributes.mode)
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

/// Temporary file of a download, removed on drop. The blocking thread that writes to it owns it, so
/// that it is removed only after the last write.
#[derive(Debug)]
struct Unfinished {
    file: PendingFile,
    target: PathBuf,
    options: SaveOptions,
}

impl Unfinished {
    fn create(target: &Path, options: SaveOptions) -> Result<Self, ClientError> {
        // This check only avoids a useless transfer; `publish` checks again, without a race.
        match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => {
                return Err(ClientError::Unsuitable {
                    path: target.to_owned(),
                    reason: "is a directory",
                });
            }
            Ok(_) if !options.overwrite => {
                return Err(ClientError::LocalExists(target.to_owned()));
            }
            Ok(_) | Err(_) => {}
        }
        let file = PendingFile::create(target, RESERVED_PREFIX)
            .map_err(|error| ClientError::disk(target, "create", error))?;
        Ok(Self {
            file,
            target: target.to_owned(),
            options,
        })
    }

    /// Sets the attributes, then renames the file to its target.
    fn publish(self, modified: Time, mode: u32) -> Result<(), ClientError> {
        let Self {
            file,
            target,
            options,
        } = self;
        attributes::set_mode(file.file(), mode)
            .and_then(|()| attributes::set_modified(file.file(), modified))
            .map_err(|error| ClientError::disk(&target, "set the attributes of", error))?;
        match file.publish(&target, options.overwrite, options.sync) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ClientError::LocalExists(target))
            }
            Err(error) => Err(ClientError::disk(&target, "create", error)),
        }
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.file_mut().write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.file.file_mut().write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.file_mut().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: Time = Time {
        seconds: 1_000_000_000,
        nanoseconds: 500,
    };

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_whole_file_has_its_name_time_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        let mut file = Unfinished::create(&target, SaveOptions::default()).unwrap();
        file.write_all(b"abc").unwrap();
        assert!(!target.exists());
        file.publish(MODIFIED, 0o4750).unwrap();
        assert_eq!(names(directory.path()), ["f"]);
        assert_eq!(fs::read(&target).unwrap(), b"abc");
        let metadata = fs::metadata(&target).unwrap();
        let since = metadata
            .modified()
            .unwrap()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!(since.as_secs(), 1_000_000_000);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = metadata.permissions().mode() & 0o7777;
            assert_eq!(mode & !0o750, 0, "{mode:o}: no more than the server said");
            assert_eq!(mode & 0o700, 0o700, "{mode:o}");
        }
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        let mut file = Unfinished::create(&target, SaveOptions::default()).unwrap();
        file.write_all(b"abc").unwrap();
        let [name] = names(directory.path()).try_into().unwrap();
        assert!(name.starts_with(RESERVED_PREFIX));
        drop(file);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_replaced_only_with_overwrite() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        let file = Unfinished::create(&target, SaveOptions::default()).unwrap();
        fs::write(&target, "theirs").unwrap();
        let error = file.publish(MODIFIED, 0o644).unwrap_err();
        assert!(matches!(error, ClientError::LocalExists(_)), "{error}");
        let error = Unfinished::create(&target, SaveOptions::default()).unwrap_err();
        assert!(matches!(error, ClientError::LocalExists(_)), "{error}");
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert_eq!(names(directory.path()), ["f"]);
        let options = SaveOptions {
            overwrite: true,
            sync: true,
        };
        let file = Unfinished::create(&target, options).unwrap();
        file.publish(MODIFIED, 0o644).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn a_directory_as_target_and_a_missing_parent_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let overwrite = SaveOptions {
            overwrite: true,
            sync: false,
        };
        let error = Unfinished::create(directory.path(), overwrite).unwrap_err();
        assert!(error.to_string().ends_with("is a directory"), "{error}");
        let missing = directory.path().join("missing/f");
        let error = Unfinished::create(&missing, overwrite).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("missing/f") && !text.contains(RESERVED_PREFIX),
            "{text}"
        );
    }
}
