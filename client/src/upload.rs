//! Uploads of single files.
//!
//! A server may refuse an upload after its header, while the body is still being sent. So the client
//! waits for the reply from the start. A file that changes while it is read is not published, because
//! its digest would confirm a mixture of old and new. See PROTOCOL.md, "Put".

use std::fs::{File, Metadata};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use quinn::WriteError;
use quire_shared::codec::DecodeError;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::{Changed, Precondition, Put, Request, Time, Trailer, Version};
use quire_shared::{ErrorCode, RemotePath};
use quire_transport::body::{self, SendBodyError};
use quire_transport::stream::{Priority, SendError, Sender};

use crate::attributes;
use crate::blocking::blocking;
use crate::error::ClientError;
use crate::exchange::{Connection, read_to_end};

/// An upload that is being prepared; see [`Client::upload`](crate::Client::upload).
#[derive(Debug)]
pub struct UploadRequest<'a> {
    connection: &'a Connection,
    put: Put,
    moved: Option<&'a AtomicU64>,
}

impl<'a> UploadRequest<'a> {
    pub(crate) fn new(connection: &'a Connection, path: RemotePath) -> Self {
        let put = Put {
            path,
            precondition: Precondition::Absent,
            ..Put::default()
        };
        Self {
            connection,
            put,
            moved: None,
        }
    }

    /// Whether a file of that name on the server is replaced.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.put.precondition = match overwrite {
            true => Precondition::Any,
            false => Precondition::Absent,
        };
        self
    }

    /// Replaces exactly this version of the file, or fails with
    /// [`Conflict`](crate::ErrorKind::Conflict).
    #[must_use]
    pub fn replace(mut self, version: Version) -> Self {
        self.put.precondition = Precondition::Match(version);
        self
    }

    /// The kind of digest that verifies the content.
    #[must_use]
    pub fn digest(mut self, kind: DigestKind) -> Self {
        self.put.digest = kind;
        self
    }

    /// Whether missing parent directories are made.
    #[must_use]
    pub fn make_parents(mut self, make_parents: bool) -> Self {
        self.put.make_parents = make_parents;
        self
    }

    /// Counts the bytes in `moved` as they are sent.
    #[must_use]
    pub fn progress(mut self, moved: &'a AtomicU64) -> Self {
        self.moved = Some(moved);
        self
    }

    /// Uploads the regular file `source`, with its modification time and permission bits. A
    /// symbolic link is followed.
    ///
    /// # Errors
    /// The server's refusal, a broken connection, why reading failed, or [`ClientError::Changed`]
    /// if the file changed meanwhile. Nothing is published then.
    pub async fn from_file(mut self, source: impl AsRef<Path>) -> Result<Stored, ClientError> {
        let file = LocalFile::open(source.as_ref(), Links::Follow).await?;
        self.put.size = Some(file.size());
        self.put.modified = file.modified();
        self.put.mode = file.mode();
        self.send(file.into_content()).await
    }

    /// Uploads `bytes`.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection. Nothing is published then.
    pub async fn from_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Result<Stored, ClientError> {
        let bytes = bytes.into();
        self.put.size = Some(bytes.len() as u64);
        self.send(UploadBody::stream(Cursor::new(bytes), "memory"))
            .await
    }

    /// Uploads what `reader` yields up to its end.
    ///
    /// # Errors
    /// The server's refusal, a broken connection, or why reading failed. Nothing is published then.
    pub async fn from_reader<R: Read + Send + 'static>(
        self,
        reader: R,
    ) -> Result<Stored, ClientError> {
        self.send(UploadBody::stream(reader, "reader")).await
    }

    async fn send<R: Read + Send + 'static>(
        self,
        body: UploadBody<R>,
    ) -> Result<Stored, ClientError> {
        let uncounted = AtomicU64::new(0);
        let moved = self.moved.unwrap_or(&uncounted);
        put(self.connection, self.put, body, moved).await
    }
}

/// The content of an upload.
#[derive(Debug)]
pub struct UploadBody<R> {
    source: R,
    /// The name in errors of reading.
    path: PathBuf,
    unchanged: Option<Unchanged>,
}

/// Content that the server has published and synced to disk.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The digest that was sent, and that the server verified.
    pub digest: Digest,
    /// The kind of that digest.
    pub digest_kind: DigestKind,
    /// The version that the file has now.
    pub version: Version,
}

/// A local file that was opened, and its metadata at that time.
#[derive(Debug)]
pub struct LocalFile {
    file: Arc<File>,
    path: PathBuf,
    metadata: Metadata,
}

impl LocalFile {
    /// Opens the regular file `path`, without waiting for the other end of a FIFO.
    ///
    /// # Errors
    /// Names `path` when it can't be opened or is no regular file.
    pub async fn open(path: &Path, links: Links) -> Result<Self, ClientError> {
        let path = path.to_owned();
        blocking(move || Self::open_now(path, links)).await
    }

    /// [`open`](Self::open), in this thread.
    pub(crate) fn open_now(path: PathBuf, links: Links) -> Result<Self, ClientError> {
        let mut options = File::options();
        options.read(true);
        links.apply(&mut options);
        let file = options
            .open(&path)
            .map_err(|error| ClientError::disk(&path, "open", error))?;
        let metadata = file
            .metadata()
            .map_err(|error| ClientError::disk(&path, "look at", error))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(ClientError::LocalDirectory(path));
        }
        if !kind.is_file() {
            return Err(ClientError::LocalSpecial(path));
        }
        Ok(Self {
            file: Arc::new(file),
            path,
            metadata,
        })
    }

    /// The size when it was opened, in bytes.
    pub fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// The modification time when it was opened.
    pub fn modified(&self) -> Option<Time> {
        attributes::modified(&self.metadata)
    }

    /// The permission bits when it was opened.
    pub fn mode(&self) -> Option<u32> {
        attributes::mode(&self.metadata)
    }

    /// Adds all of the file to `bytes`, in this thread.
    ///
    /// # Errors
    /// If it can't be read, or has changed since it was opened.
    pub(crate) fn read_into(&self, bytes: &mut Vec<u8>) -> Result<(), ClientError> {
        let size = self.size();
        bytes.reserve(usize::try_from(size).unwrap_or(0));
        let read = (&*self.file)
            .take(size)
            .read_to_end(bytes)
            .map_err(|error| ClientError::disk(&self.path, "read", error))?;
        let holds = self.unchanged().holds();
        let holds = holds.map_err(|error| ClientError::disk(&self.path, "look at", error))?;
        if read as u64 == size && holds {
            Ok(())
        } else {
            Err(ClientError::Changed)
        }
    }

    fn unchanged(&self) -> Unchanged {
        Unchanged {
            file: Arc::clone(&self.file),
            size: self.metadata.len(),
            modified: self.metadata.modified().ok(),
        }
    }

    /// The file as content of a put that declares [`LocalFile::size`].
    pub fn into_content(self) -> UploadBody<Arc<File>> {
        UploadBody {
            unchanged: Some(self.unchanged()),
            source: self.file,
            path: self.path,
        }
    }
}

/// Treatment of a symbolic link where a file is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Open its target, because the user named the link.
    Follow,
    /// Refuse it. In a directory walk, a link may have replaced a file since the listing.
    Refuse,
}

impl Links {
    #[cfg(unix)]
    fn apply(self, options: &mut std::fs::OpenOptions) {
        use std::os::unix::fs::OpenOptionsExt;

        use rustix::fs::OFlags;
        // Without NONBLOCK, opening a FIFO waits until another process writes to it.
        let flags = match self {
            Self::Follow => OFlags::NONBLOCK,
            Self::Refuse => OFlags::NONBLOCK | OFlags::NOFOLLOW,
        };
        options.custom_flags(flags.bits().cast_signed());
    }

    #[cfg(not(unix))]
    fn apply(self, _: &mut std::fs::OpenOptions) {}
}

impl<R: Read + Send + 'static> UploadBody<R> {
    /// Content from a reader such as a pipe; `name` is shown when reading fails.
    pub fn stream(source: R, name: &str) -> Self {
        Self {
            source,
            path: name.into(),
            unchanged: None,
        }
    }
}

/// Size and modification time when the file was opened, compared again after the last read.
#[derive(Debug)]
struct Unchanged {
    file: Arc<File>,
    size: u64,
    modified: Option<SystemTime>,
}

impl Unchanged {
    fn holds(&self) -> std::io::Result<bool> {
        let now = self.file.metadata()?;
        Ok(now.len() == self.size && now.modified().ok() == self.modified)
    }
}

pub(crate) async fn put<R: Read + Send + 'static>(
    connection: &Connection,
    put: Put,
    content: UploadBody<R>,
    moved: &AtomicU64,
) -> Result<Stored, ClientError> {
    let digest_kind = put.digest;
    let (mut sender, mut receiver) = connection.open().await?;
    let answer = async {
        let changed = connection.answer::<Changed>(&mut receiver).await?;
        read_to_end(&mut receiver).await;
        Ok(changed)
    };
    let sending = send(connection, &mut sender, put, content, moved);
    tokio::pin!(answer, sending);
    let sent = tokio::select! {
        biased;
        early = &mut answer => {
            // Dropping what is being sent resets the stream.
            return match early {
                Err(error) => Err(error),
                Ok(_) => Err(ClientError::Unexpected(DecodeError::Malformed)),
            };
        }
        sent = &mut sending => sent,
    };
    let digest = match sent {
        Ok(digest) => digest,
        // A server that stops reading sends the reason in its reply.
        Err(Unsent::Stopped) => {
            return match answer.await {
                Err(error) => Err(error),
                Ok(_) => Err(ClientError::Unexpected(DecodeError::Malformed)),
            };
        }
        Err(Unsent::Failed(error)) => return Err(error),
    };
    Ok(Stored {
        digest,
        digest_kind,
        version: answer.await?.version,
    })
}

/// Why a request or its body was not sent completely.
enum Unsent {
    /// The server sent `STOP_SENDING`; its reply has the reason.
    Stopped,
    Failed(ClientError),
}

impl Unsent {
    fn send(connection: &Connection, error: SendError) -> Self {
        match error {
            SendError::Write(WriteError::Stopped(_)) => Self::Stopped,
            error => Self::Failed(connection.send_error(error)),
        }
    }
}

/// Sends request, body and trailer. The stream is reset unless all of it was sent.
async fn send<R: Read + Send + 'static>(
    connection: &Connection,
    sender: &mut Sender,
    put: Put,
    content: UploadBody<R>,
    moved: &AtomicU64,
) -> Result<Digest, Unsent> {
    let UploadBody {
        source,
        path,
        unchanged,
    } = content;
    let size = put.size;
    let hasher = put.digest.hasher();
    sender
        .send(&Request::from(put))
        .await
        .map_err(|error| Unsent::send(connection, error))?;
    sender.set_priority(Priority::of_body(size));
    let digest = match body::send(sender, source, size.into(), hasher, moved).await {
        Ok(digest) => digest,
        Err(SendBodyError::Send(error)) => return Err(Unsent::send(connection, error)),
        Err(SendBodyError::Short { .. }) => return Err(changed(sender)),
        Err(SendBodyError::Disk(error)) => {
            sender.reset(ErrorCode::CANCELLED);
            return Err(Unsent::Failed(ClientError::disk(&path, "read", error)));
        }
        Err(_) => return Err(Unsent::Failed(ClientError::Truncated)),
    };
    if let Some(unchanged) = unchanged {
        let holds = blocking(move || {
            unchanged
                .holds()
                .map_err(|error| ClientError::disk(&path, "look at", error))
        });
        if !holds.await.map_err(Unsent::Failed)? {
            return Err(changed(sender));
        }
    }
    sender
        .send(&Trailer {
            digest: digest.clone(),
        })
        .await
        .map_err(|error| Unsent::send(connection, error))?;
    // Fails only for a stream that the server stopped meanwhile; its reply has the reason.
    let _ = sender.finish();
    Ok(digest)
}

fn changed(sender: &mut Sender) -> Unsent {
    sender.reset(ErrorCode::CHANGED);
    Unsent::Failed(ClientError::Changed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_grows_shrinks_or_is_touched_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let alterations: [fn(&Path); 3] = [
            |path| {
                let mut file = File::options().append(true).open(path).unwrap();
                file.write_all(b"more").unwrap();
            },
            |path| {
                let file = File::options().write(true).open(path).unwrap();
                file.set_len(1).unwrap();
            },
            |path| {
                let file = File::options().write(true).open(path).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            },
        ];
        for alter in alterations {
            fs::write(&path, "content").unwrap();
            let file = LocalFile::open_now(path.clone(), Links::Refuse).unwrap();
            let unchanged = file.into_content().unchanged.unwrap();
            assert!(unchanged.holds().unwrap());
            alter(&path);
            assert!(!unchanged.holds().unwrap());
        }
    }

    #[test]
    fn a_file_that_is_renamed_or_replaced_has_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "content").unwrap();
        let file = LocalFile::open_now(path.clone(), Links::Refuse).unwrap();
        let unchanged = file.into_content().unchanged.unwrap();
        fs::rename(&path, directory.path().join("g")).unwrap();
        fs::write(&path, "other").unwrap();
        assert!(unchanged.holds().unwrap());
    }

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let error = LocalFile::open_now(directory.path().to_owned(), Links::Follow).unwrap_err();
        #[cfg(unix)]
        {
            assert!(error.to_string().contains("is a directory"), "{error}");
            let error = LocalFile::open_now("/dev/null".into(), Links::Follow).unwrap_err();
            assert!(error.to_string().contains("neither"), "{error}");
            let file = directory.path().join("f");
            let link = directory.path().join("l");
            fs::write(&file, "").unwrap();
            std::os::unix::fs::symlink(&file, &link).unwrap();
            LocalFile::open_now(link.clone(), Links::Follow).unwrap();
            LocalFile::open_now(link, Links::Refuse).unwrap_err();
        }
        drop(error);
    }
}
