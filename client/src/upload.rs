//! Uploads of single files.
//!
//! A server may refuse an upload after its header, while the body is still being sent. So the client
//! waits for the reply from the start. A file that changes while it is read is not published, because
//! its digest would confirm a mixture of old and new. One that only grows is published as it was at
//! the beginning. See PROTOCOL.md, "Put".

mod resume;

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn::WriteError;
use quire_shared::codec::DecodeError;
use quire_shared::digest::{Digest, DigestKind, Hasher};
use quire_shared::protocol::{Changed, Precondition, Preserve, Put, Request, Trailer, Version};
use quire_shared::{ErrorCode, RemotePath};
use quire_transport::body::extents::{ExtentReader, send_extents};
use quire_transport::body::journal::PART_BYTES_MIN;
use quire_transport::body::{self, SendBodyError};
use quire_transport::stream::{Priority, Receiver, SendError, Sender};

use crate::blocking::blocking;
use crate::delta::{self, Delta};
use crate::details::Keep;
use crate::download::PartUse;
use crate::error::ClientError;
use crate::exchange::{Connection, read_to_end};
use crate::local_file::{FileContent, FileSnapshot};

pub use crate::local_file::{FromStart, Links, LocalFile};

/// An upload that is being prepared; see [`Client::upload`](crate::Client::upload).
#[derive(Debug)]
pub struct UploadRequest<'a> {
    connection: &'a Connection,
    put: Put,
    keep: Keep,
    delta: Delta,
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
            keep: Keep::default(),
            delta: Delta::default(),
            moved: None,
        }
    }

    /// Whether a file of that name on the server is replaced.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.put.precondition = Precondition::of_target(overwrite);
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

    /// Which attributes of a local file the server sets.
    #[must_use]
    pub fn preserve(mut self, preserve: Preserve) -> Self {
        self.put.preserve = preserve;
        self
    }

    /// Which details of a local file the server sets as well.
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Whether only what changed is sent of a large file that is replaced.
    #[must_use]
    pub fn delta(mut self, delta: Delta) -> Self {
        self.delta = delta;
        self
    }

    /// Counts the bytes in `moved` as they are sent.
    #[must_use]
    pub fn progress(mut self, moved: &'a AtomicU64) -> Self {
        self.moved = Some(moved);
        self
    }

    /// Uploads the regular file `source`, with its modification time and permission bits. A
    /// symbolic link is followed. Of a file that grows meanwhile, the bytes are uploaded that it had
    /// at the beginning, and [`Stored::grew`] says so.
    ///
    /// Of a file of 1 MiB or more, an upload goes on where an earlier one with the same options was
    /// interrupted, if the server has kept that; [`Stored::part`] says so. It also says how much of a
    /// file that was replaced didn't have to be sent.
    ///
    /// # Errors
    /// The server's refusal, a broken connection, why reading failed, or
    /// [`ClientError::LocalChanged`] if the file changed meanwhile. Nothing is published then.
    pub async fn from_file(mut self, source: impl AsRef<Path>) -> Result<Stored, ClientError> {
        let mut file = LocalFile::open(source.as_ref(), Links::Follow).await?;
        self.put.modified = file.modified();
        self.put.mode = file.mode();
        let keep = self.keep;
        if !keep.is_nothing() {
            let reading = blocking(move || Ok((file.details(keep)?, file)));
            (self.put.details, file) = reading.await?;
        }
        let uncounted = AtomicU64::new(0);
        let moved = self.moved.unwrap_or(&uncounted);
        put_file(self.connection, self.put, file, self.delta, moved).await
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
    pub(crate) source: R,
    /// The name in errors of reading.
    pub(crate) path: PathBuf,
    /// What a file was when it was opened.
    pub(crate) snapshot: Option<FileSnapshot>,
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
    /// Its length, in bytes.
    pub bytes: u64,
    /// Whether the local file grew meanwhile, so that this is only the beginning of it.
    pub grew: bool,
    /// What of the file was on the server already.
    pub part: PartUse,
}

impl<R: Read + Send + 'static> UploadBody<R> {
    /// Content from a reader such as a pipe; `name` is shown when reading fails.
    pub fn stream(source: R, name: &str) -> Self {
        Self {
            source,
            path: name.into(),
            snapshot: None,
        }
    }
}

/// Uploads a local file; `put` has everything but its size.
pub(crate) async fn put_file(
    connection: &Connection,
    mut put: Put,
    file: LocalFile,
    delta: Delta,
    moved: &AtomicU64,
) -> Result<Stored, ClientError> {
    let reading = blocking(move || {
        let content = file.read()?;
        Ok((file, content))
    });
    let (file, content) = reading.await?;
    match content {
        FileContent::Whole { bytes, grew } => {
            put.size = Some(bytes.len() as u64);
            let body = UploadBody {
                source: Cursor::new(bytes),
                path: file.path().to_owned(),
                snapshot: None,
            };
            let stored = self::put(connection, put, body, moved).await?;
            Ok(Stored { grew, ..stored })
        }
        FileContent::Declared => {
            put.size = Some(file.size());
            if put.precondition != Precondition::Absent
                && let Some(stored) = delta::put(connection, &put, &file, delta, moved).await?
            {
                return Ok(stored);
            }
            if file.size() >= PART_BYTES_MIN && put.modified.is_some() {
                return resume::put(connection, put, file, moved).await;
            }
            self::put(connection, put, file.into_content(), moved).await
        }
        FileContent::Undeclared => {
            put.size = None;
            self::put(connection, put, file.into_stream(), moved).await
        }
    }
}

pub(crate) async fn put<R: Read + Send + 'static>(
    connection: &Connection,
    put: Put,
    content: UploadBody<R>,
    moved: &AtomicU64,
) -> Result<Stored, ClientError> {
    let (sender, receiver) = connection.open().await?;
    let outgoing = Outgoing {
        length: put.size,
        digest_kind: put.digest,
        hasher: put.digest.hasher(),
        known_digest: None,
        extents: None,
        request: Some(put.into()),
        content,
    };
    outgoing.send(connection, sender, receiver, moved).await
}

/// What is sent of an upload.
pub(crate) struct Outgoing<R> {
    /// The request, unless it has been sent.
    pub(crate) request: Option<Request>,
    /// The length of the body, if it is known.
    pub(crate) length: Option<u64>,
    pub(crate) digest_kind: DigestKind,
    /// Hasher of the file, which has what comes before the body.
    pub(crate) hasher: Hasher,
    /// The digest of the file, if the body isn't its content.
    pub(crate) known_digest: Option<Digest>,
    /// Reads a file that is sent in extents, instead of what `content` reads.
    pub(crate) extents: Option<ExtentReader>,
    pub(crate) content: UploadBody<R>,
}

impl<R: Read + Send + 'static> Outgoing<R> {
    /// Sends everything, and waits for the answer.
    pub(crate) async fn send(
        self,
        connection: &Connection,
        mut sender: Sender,
        mut receiver: Receiver,
        moved: &AtomicU64,
    ) -> Result<Stored, ClientError> {
        let digest_kind = self.digest_kind;
        let answer = async {
            let changed = connection.answer::<Changed>(&mut receiver).await?;
            read_to_end(&mut receiver).await;
            Ok(changed)
        };
        let sending = send(connection, &mut sender, self, moved);
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
        let sent = match sent {
            Ok(sent) => sent,
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
            digest: sent.digest,
            digest_kind,
            version: answer.await?.version,
            bytes: sent.bytes,
            grew: sent.grew,
            part: PartUse::None,
        })
    }
}

/// A body that was sent with its trailer.
struct SentBody {
    digest: Digest,
    bytes: u64,
    grew: bool,
}

/// A reader that counts its bytes.
#[derive(Debug)]
struct CountedReader<R> {
    source: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
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
    outgoing: Outgoing<R>,
    moved: &AtomicU64,
) -> Result<SentBody, Unsent> {
    let Outgoing {
        request,
        length,
        digest_kind,
        hasher,
        known_digest,
        extents,
        content: UploadBody {
            source,
            path,
            snapshot,
        },
    } = outgoing;
    if let Some(request) = request {
        let sent = sender.send(&request).await;
        sent.map_err(|error| Unsent::send(connection, error))?;
    }
    sender.set_priority(Priority::of_body(length));
    let bytes = Arc::<AtomicU64>::default();
    let source = CountedReader {
        source,
        bytes: Arc::clone(&bytes),
    };
    let sent = match extents {
        Some(reader) => {
            bytes.store(length.unwrap_or(0), Ordering::Relaxed);
            send_extents(sender, reader, moved).await
        }
        None => body::send(sender, source, length.into(), hasher, moved).await,
    };
    let digest = match sent {
        Ok(digest) => digest,
        Err(SendBodyError::Send(error)) => return Err(Unsent::send(connection, error)),
        Err(SendBodyError::Short { .. }) => {
            return Err(changed(sender, ClientError::LocalChanged(path)));
        }
        Err(SendBodyError::Disk(error)) => {
            sender.reset(ErrorCode::CANCELLED);
            return Err(Unsent::Failed(ClientError::disk(&path, "read", error)));
        }
        Err(_) => return Err(Unsent::Failed(ClientError::Truncated)),
    };
    let digest = known_digest.unwrap_or(digest);
    let mut grew = false;
    if let Some(snapshot) = snapshot {
        let digest = digest.clone();
        grew = blocking(move || snapshot.verify(&digest, digest_kind))
            .await
            .map_err(|error| changed(sender, error))?;
    }
    sender
        .send(&Trailer {
            digest: digest.clone(),
            grew,
        })
        .await
        .map_err(|error| Unsent::send(connection, error))?;
    // Fails only for a stream that the server stopped meanwhile; its reply has the reason.
    let _ = sender.finish();
    Ok(SentBody {
        digest,
        bytes: bytes.load(Ordering::Relaxed),
        grew,
    })
}

fn changed(sender: &mut Sender, error: ClientError) -> Unsent {
    sender.reset(ErrorCode::CHANGED);
    Unsent::Failed(error)
}
