//! `Get`: the content of a file, or a range of it.
//!
//! The lock covers the open alone. An open file is a stable snapshot, because files here are never
//! changed in place: whatever happens to the name while the bytes move, this request goes on.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use quire_shared::digest::{Digest, Hasher};
use quire_shared::protocol::{Attributes, Failure, Get, GetHeader, Precondition, Reply, Trailer};
use quire_shared::{ErrorCode, RemotePath};
use quire_transport::body::{self, Length};
use quire_transport::stream::{Priority, Sender};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::RequestError;
use crate::files::cache::{CachedReader, FillGuard, Lookup};
use crate::state::State;
use crate::store::{self, OpenFile, Root};

/// Sends a header, the bytes, and a trailer that says whether they are one whole version.
pub(crate) async fn serve(
    request: Get,
    state: &State,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let guard = state.locks.shared(&request.path).await?;
    let path = request.path.clone();
    let open = state.read(move |root| root.open_file(&path)).await?;
    drop(guard);
    check(&request.precondition, &open.attributes)?;
    let length = range(request.offset, request.length, open.attributes.size)?;
    let mut content = Content::new(open, &request.path, length, state)?;

    sender.send(&Reply::Ok(content.header(length))).await?;
    sender.set_priority(Priority::of_body(Some(length)));
    let digest = content
        .send(sender, request.offset, length, request.digest.hasher())
        .await?;
    let trailer = if content.verify_unchanged(state).await? {
        Reply::Ok(Trailer { digest })
    } else {
        Reply::Failed(Failure::new(ErrorCode::CHANGED))
    };
    sender.send(&trailer).await?;
    sender.finish_and_wait().await?;
    Ok(())
}

fn check(precondition: &Precondition, attributes: &Attributes) -> Result<(), RequestError> {
    match precondition {
        Precondition::Any => Ok(()),
        Precondition::Absent => Err(RequestError::Exists),
        Precondition::Match(version) if *version == attributes.version => Ok(()),
        Precondition::Match(_) => Err(RequestError::Conflict),
    }
}

/// How many bytes the range has: what was asked for, as far as the file goes.
fn range(offset: u64, length: Option<u64>, size: u64) -> Result<u64, RequestError> {
    let rest = size.checked_sub(offset).ok_or(RequestError::Range)?;
    Ok(length.unwrap_or(rest).min(rest))
}

/// Where the bytes of one request come from.
struct Content {
    /// The cached bytes, if the cache has or takes this file.
    cached: Option<CachedReader>,
    /// Puts the file into the cache, if nobody else does.
    fill: Option<JoinHandle<()>>,
    file: File,
    attributes: Attributes,
    /// Whether any byte came from the file itself and not from a checked cache entry.
    from_file: bool,
}

impl Content {
    fn new(
        open: OpenFile,
        path: &RemotePath,
        length: u64,
        state: &State,
    ) -> Result<Self, RequestError> {
        let OpenFile { file, attributes } = open;
        let Attributes { version, size, .. } = &attributes;
        // Reading a whole file for a small part of it would cost more than it saves.
        let admit = length >= size / 2 && store::is_quiet(version);
        let (cached, fill) = match state.cache.open(version, *size, path, admit) {
            Lookup::Hit(reader) => (Some(reader), None),
            Lookup::Fill(guard, reader) => {
                let source = file.try_clone().map_err(RequestError::system("reading"))?;
                let (root, size) = (state.root.clone(), *size);
                (
                    Some(reader),
                    Some(spawn_blocking(move || fill(guard, &source, size, &root))),
                )
            }
            Lookup::Bypass => (None, None),
        };
        Ok(Self {
            cached,
            fill,
            file,
            attributes,
            from_file: false,
        })
    }

    fn header(&self, length: u64) -> GetHeader {
        GetHeader {
            version: self.attributes.version.clone(),
            size: self.attributes.size,
            length,
            modified: self.attributes.modified,
            mode: self.attributes.mode,
        }
    }

    /// Sends `length` bytes from `offset` on, from memory as far as that goes.
    async fn send(
        &mut self,
        sender: &mut Sender,
        offset: u64,
        length: u64,
        mut hasher: Hasher,
    ) -> Result<Digest, RequestError> {
        let mut sent = 0;
        if let Some(mut reader) = self.cached.take() {
            reader.seek(offset);
            while sent < length {
                // A fill that failed leaves the rest to our own handle on the same file.
                let Ok(Some(mut piece)) = reader.piece().await else {
                    break;
                };
                let rest = usize::try_from(length - sent).unwrap_or(usize::MAX);
                piece.truncate(rest);
                hasher.update(&piece);
                sent += piece.len() as u64;
                sender.send_bytes(piece).await?;
            }
            self.from_file = !reader.is_complete();
        } else {
            self.from_file = true;
        }
        if sent == length {
            return Ok(hasher.finish());
        }
        self.from_file = true;
        let mut source = self
            .file
            .try_clone()
            .map_err(RequestError::system("reading"))?;
        source
            .seek(SeekFrom::Start(offset + sent))
            .map_err(RequestError::system("reading"))?;
        let rest = Length::Declared(length - sent);
        Ok(body::send(sender, source, rest, hasher, &AtomicU64::new(0)).await?)
    }

    /// Whether all bytes sent are of the version that the header names. Bytes from a checked cache
    /// entry are; for others the file must not have moved in size or modification time meanwhile.
    /// (Its change time moves when it is renamed or deleted, which is no change of its content.)
    async fn verify_unchanged(self, state: &State) -> Result<bool, RequestError> {
        if let Some(fill) = self.fill {
            fill.await
                .map_err(|_| RequestError::Internal("filling the cache panicked"))?;
        }
        if !self.from_file {
            return Ok(true);
        }
        let (file, before) = (self.file, self.attributes);
        let after = state.read(move |root| root.attributes_of(&file)).await?;
        Ok((after.size, after.modified) == (before.size, before.modified))
    }
}

/// Reads the whole file into the cache. Uses positions, not the cursor that the request may need.
fn fill(mut guard: FillGuard, file: &File, size: u64, root: &Root) {
    let mut position = 0;
    while position < size {
        let mut piece = vec![0; usize::try_from(size - position).unwrap_or(PIECE).min(PIECE)];
        // Dropping the guard tells the readers that nothing more comes.
        if file.read_exact_at(&mut piece, position).is_err() {
            return;
        }
        position += piece.len() as u64;
        if guard.push(piece).is_err() {
            return;
        }
    }
    if let Ok(after) = root.attributes_of(file) {
        guard.finish(&after.version);
    }
}

/// Bytes per read into the cache: as large as the pieces of a body.
const PIECE: usize = 512 * 1024;
