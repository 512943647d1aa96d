//! The content of a file on its way to a client: out of memory as far as it is there, else from the
//! open file.

use bytes::Bytes;
use quire_shared::RemotePath;
use quire_shared::digest::{Digest, Hasher};
use quire_shared::protocol::{Attributes, Precondition};
use quire_transport::body::ReadAhead;
use tokio::task::JoinHandle;

use super::cache::{Cache, CachedReader, FillGuard, Lookup};
use super::error::Error;
use super::store::{self, OpenFile, Range};

/// Which part of a file is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteRange {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is at most; to the end of the file if not given.
    pub length: Option<u64>,
}

/// The content of a file, or a part of it: one version, whatever happens to the name meanwhile.
#[derive(Debug)]
pub struct Content {
    file: OpenFile,
    length: u64,
    /// Where the next byte is in the file.
    position: u64,
    /// How many bytes are to come.
    rest: u64,
    source: ByteSource,
    /// Puts the file into the cache, if no other request does.
    fill: Option<JoinHandle<()>>,
    /// Whether any byte came from the file itself and not from a checked cache entry.
    from_file: bool,
}

/// Where the next bytes come from.
#[derive(Debug)]
enum ByteSource {
    Cache(CachedReader, Hasher),
    File(ReadAhead<Range>),
    /// Nowhere: something failed.
    Failed,
}

impl Content {
    pub(super) fn new(
        file: OpenFile,
        path: &RemotePath,
        range: ByteRange,
        hasher: Hasher,
        cache: &Cache,
    ) -> Result<Self, Error> {
        let Attributes { version, size, .. } = &file.attributes;
        let available = size.checked_sub(range.offset).ok_or(Error::Range)?;
        let length = range.length.unwrap_or(available).min(available);
        // Reading a whole file for a small part of it would cost more than it saves.
        let admit = length >= size / 2 && store::is_quiet(version);
        let (cached, fill) = match cache.open(version, *size, path, admit) {
            Lookup::Hit(reader) => (Some(reader), None),
            Lookup::Fill(guard, reader) => (Some(reader), Some(fill(&file, guard))),
            Lookup::Bypass => (None, None),
        };
        let from_file = cached.is_none();
        let source = match cached {
            Some(mut reader) => {
                reader.seek(range.offset);
                ByteSource::Cache(reader, hasher)
            }
            None => ByteSource::File(file.read(range.offset, length, hasher)),
        };
        Ok(Self {
            file,
            length,
            position: range.offset,
            rest: length,
            source,
            fill,
            from_file,
        })
    }

    /// What the file was like when it was opened.
    pub fn attributes(&self) -> &Attributes {
        &self.file.attributes
    }

    /// How many bytes the content has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes, in pieces of at most about `piece_max` bytes when they come from the disk;
    /// `None` after the last.
    ///
    /// # Errors
    /// If reading fails, or the file became shorter.
    pub async fn next(&mut self, piece_max: usize) -> Result<Option<Bytes>, Error> {
        if self.rest == 0 {
            return Ok(None);
        }
        if let ByteSource::Cache(reader, hasher) = &mut self.source {
            // A fill that failed leaves the rest to our own handle on the same file.
            if let Ok(Some(mut piece)) = reader.piece().await {
                piece.truncate(usize::try_from(self.rest).unwrap_or(usize::MAX));
                hasher.update(&piece);
                // Asked after the last piece: by then the content may be known to be good.
                self.from_file = !reader.is_complete();
                self.took(piece.len());
                return Ok(Some(piece));
            }
            self.from_file = true;
            if let ByteSource::Cache(_, hasher) =
                std::mem::replace(&mut self.source, ByteSource::Failed)
            {
                self.source = ByteSource::File(self.file.read(self.position, self.rest, hasher));
            }
        }
        let ByteSource::File(reading) = &mut self.source else {
            return Ok(None);
        };
        let piece = reading.next(piece_max).await;
        let piece = piece.map_err(store::Error::system("reading"))?;
        let piece = piece.ok_or(store::Error::Changed)?;
        self.took(piece.len());
        Ok(Some(piece))
    }

    fn took(&mut self, bytes: usize) {
        self.position += bytes as u64;
        self.rest -= bytes as u64;
    }

    /// The digest of the bytes, once all have been taken, if all of them are of the version that the
    /// attributes name. Bytes from a checked cache entry are; for others the file must not have
    /// moved in size or modification time meanwhile.
    ///
    /// # Errors
    /// If the system fails.
    pub async fn finish(self) -> Result<Option<Digest>, Error> {
        if let Some(fill) = self.fill {
            fill.await
                .map_err(|_| store::Error::Internal("filling the cache panicked"))?;
        }
        let digest = match self.source {
            ByteSource::Cache(_, hasher) => Some(hasher.finish()),
            ByteSource::File(reading) => reading.digest(),
            ByteSource::Failed => None,
        };
        if self.rest > 0 || self.from_file && !self.file.is_unchanged().await? {
            return Ok(None);
        }
        Ok(digest)
    }
}

/// Reads the whole file into the cache, beside the request.
fn fill(file: &OpenFile, guard: FillGuard) -> JoinHandle<()> {
    // Dropping the guard tells the readers that nothing more comes.
    let push = |guard: &mut FillGuard, piece| guard.push(piece).is_ok();
    file.read_aside(guard, push, |guard, after| {
        guard.finish(&after.version);
    })
}

/// Checks what a request says of the version that it wants to read.
pub(super) fn require_version(
    precondition: &Precondition,
    attributes: &Attributes,
) -> Result<(), Error> {
    match precondition {
        Precondition::Any => Ok(()),
        Precondition::Absent => Err(store::Error::Exists.into()),
        Precondition::Match(version) if *version == attributes.version => Ok(()),
        Precondition::Match(_) => Err(store::Error::Conflict.into()),
    }
}
