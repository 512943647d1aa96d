//! Content of a file for a client: from the cache as far as it is there, else from the open file.

use std::io;

use bytes::{Buf, Bytes};
use quire_shared::RemotePath;
use quire_shared::digest::{Digest, DigestKind, Hasher};
use quire_shared::protocol::{Attributes, Precondition};
use quire_transport::body::extents::{Extent, ExtentReader};
use tokio::task::JoinHandle;

use super::cache::{Cache, CachedReader, FillGuard, Lookup};
use super::error::Error;
use super::store::{self, FileReader, OpenFile, SinceOpened};

/// Byte range of a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteRange {
    /// Start, in bytes.
    pub offset: u64,
    /// Maximum length, in bytes; `None` for the rest of the file.
    pub length: Option<u64>,
    /// Whether the digest is of the bytes before the range as well.
    pub digest_from_start: bool,
    /// Whether the content of a file with holes may come in extents.
    pub takes_extents: bool,
}

/// Content of a file, or a range of it: one version, even if the path is changed meanwhile.
#[derive(Debug)]
pub struct Content {
    file: OpenFile,
    length: u64,
    /// Offset of the first byte that the digest is of.
    start: u64,
    /// Offset of the next byte in the file.
    position: u64,
    /// Offset of the first byte to send; earlier ones are only for the digest.
    sent_from: u64,
    /// Number of bytes still to come.
    rest: u64,
    source: ByteSource,
    /// Task that reads the file into the cache, if this request started it.
    fill: Option<JoinHandle<()>>,
    /// Whether any byte came from the file itself, or from a cache entry that isn't complete yet.
    from_file: bool,
    digest: DigestKind,
    /// Whether the file was found to have grown meanwhile.
    grew: bool,
}

/// Source of the next bytes.
#[derive(Debug)]
enum ByteSource {
    Cache(CachedReader, Hasher),
    File(FileReader),
    /// A file with holes, whose content is sent in extents.
    Extents(ExtentReader),
    /// Whole content that was read when the file was opened.
    Memory(Bytes, Hasher),
    /// None: placeholder while the source is replaced.
    Failed,
}

impl Content {
    pub(super) async fn new(
        file: OpenFile,
        path: &RemotePath,
        range: ByteRange,
        digest: DigestKind,
        cache: &Cache,
    ) -> Result<Self, Error> {
        let Attributes { version, size, .. } = &file.attributes;
        let available = size.checked_sub(range.offset).ok_or(Error::Range)?;
        let length = range.length.unwrap_or(available).min(available);
        let sent_from = range.offset;
        let start = if range.digest_from_start {
            0
        } else {
            sent_from
        };
        let to_read = sent_from - start + length;
        let extents = match range.takes_extents && to_read > 0 {
            true => file.read_extents(start, digest.hasher()).await?,
            false => None,
        };
        // Reading a whole file for a small part of it would cost more than it saves.
        let admit = length >= size / 2 && store::is_quiet(version);
        let lookup = match (file.content(), &extents) {
            // Its version says nothing of its content; or it is read where its data is.
            (Some(_), _) | (_, Some(_)) => Lookup::Bypass,
            (None, None) => cache.open(version, *size, path, admit),
        };
        let (cached, fill) = match lookup {
            Lookup::Hit(reader) => (Some(reader), None),
            Lookup::Fill(guard, reader) => (Some(reader), Some(fill(&file, guard))),
            Lookup::Bypass => (None, None),
        };
        let from_file = cached.is_none();
        let hasher = digest.hasher();
        let source = match (extents, cached, file.content()) {
            (Some(reader), _, _) => ByteSource::Extents(reader),
            (None, Some(mut reader), _) => {
                reader.seek(start);
                ByteSource::Cache(reader, hasher)
            }
            (None, None, Some(content)) => ByteSource::Memory(content.clone(), hasher),
            (None, None, None) => ByteSource::File(file.read(start, to_read, hasher)?),
        };
        Ok(Self {
            file,
            length,
            start,
            position: start,
            sent_from,
            rest: to_read,
            source,
            fill,
            from_file,
            digest,
            grew: false,
        })
    }

    /// Attributes of the file when it was opened.
    pub fn attributes(&self) -> &Attributes {
        &self.file.attributes
    }

    /// Length of the content, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the next piece, `None` after the last. A piece from the disk has at most about
    /// `piece_max` bytes.
    ///
    /// # Errors
    /// If reading fails, or the file was truncated.
    pub async fn next(&mut self, piece_max: usize) -> Result<Option<Bytes>, Error> {
        loop {
            let unsent = self.sent_from.saturating_sub(self.position);
            let Some(mut piece) = self.read(piece_max).await? else {
                return Ok(None);
            };
            let unsent = usize::try_from(unsent).unwrap_or(usize::MAX);
            if unsent < piece.len() {
                piece.advance(unsent);
                return Ok(Some(piece));
            }
        }
    }

    /// Reads the next piece, also one that isn't to be sent.
    async fn read(&mut self, piece_max: usize) -> Result<Option<Bytes>, Error> {
        if self.rest == 0 {
            return Ok(None);
        }
        if let ByteSource::Cache(reader, hasher) = &mut self.source {
            // If the fill failed, the rest is read from this request's own file handle.
            if let Ok(Some(mut piece)) = reader.piece().await {
                piece.truncate(usize::try_from(self.rest).unwrap_or(usize::MAX));
                hasher.update(&piece);
                // Set anew for each piece: by the last one, the entry may be complete and checked.
                self.from_file = !reader.is_complete();
                self.advance(piece.len() as u64);
                return Ok(Some(piece));
            }
            self.from_file = true;
            if let ByteSource::Cache(_, hasher) =
                std::mem::replace(&mut self.source, ByteSource::Failed)
            {
                self.source = ByteSource::File(self.file.read(self.position, self.rest, hasher)?);
            }
        }
        if let ByteSource::Memory(content, hasher) = &mut self.source {
            let start = usize::try_from(self.position).unwrap_or(usize::MAX);
            let rest = usize::try_from(self.rest).unwrap_or(usize::MAX);
            let mut piece = content.slice(start.min(content.len())..);
            piece.truncate(rest.min(piece_max));
            hasher.update(&piece);
            self.advance(piece.len() as u64);
            return Ok(Some(piece));
        }
        let piece = match &mut self.source {
            ByteSource::File(reading) => {
                let piece = reading.next(piece_max).await;
                let piece = piece.map_err(store::Error::system("reading"))?;
                piece.ok_or(store::Error::Changed)?
            }
            ByteSource::Extents(reading) => {
                match reading.next(piece_max).await.map_err(reading_failed)? {
                    Some(piece) => piece,
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        self.advance(piece.len() as u64);
        Ok(Some(piece))
    }

    /// Whether it is sent in extents: [`next`](Self::next) returns the data of the one that
    /// [`extent`](Self::extent) found.
    pub fn is_in_extents(&self) -> bool {
        matches!(self.source, ByteSource::Extents(_))
    }

    /// Finds the next extent to send; `None` after the last.
    ///
    /// # Errors
    /// If reading fails, or the file was truncated.
    pub async fn extent(&mut self) -> Result<Option<Extent>, Error> {
        // What isn't sent is read in extents of its own, of which none reaches into the body.
        while self.position < self.sent_from {
            self.find_extent(self.sent_from).await?;
            while self.read(UNSENT_PIECE).await?.is_some() {}
        }
        self.find_extent(self.sent_from + self.length).await
    }

    /// Finds the next extent before `end`. The data of the one before has been read.
    async fn find_extent(&mut self, end: u64) -> Result<Option<Extent>, Error> {
        let ByteSource::Extents(reader) = &mut self.source else {
            return Ok(None);
        };
        reader.go_on(end);
        let extent = reader.extent().await.map_err(reading_failed)?;
        if let Some(extent) = extent {
            self.advance(extent.hole);
        }
        Ok(extent)
    }

    fn advance(&mut self, bytes: u64) {
        self.position += bytes;
        self.rest -= bytes;
    }

    /// Returns the digest of the content if all of it was read and belongs to the version in the
    /// attributes, else `None`. Bytes from a complete cache entry do. For others, the size and
    /// modification time of the file must not have changed since it was opened. Of a file that
    /// only grew, the content is read again: it still has to have the same digest.
    ///
    /// # Errors
    /// If a system call fails.
    pub async fn finish(&mut self) -> Result<Option<Digest>, Error> {
        if let Some(fill) = self.fill.take() {
            fill.await
                .map_err(|_| store::Error::Internal("filling the cache panicked"))?;
        }
        let digest = match std::mem::replace(&mut self.source, ByteSource::Failed) {
            ByteSource::Cache(_, hasher) | ByteSource::Memory(_, hasher) => Some(hasher.finish()),
            ByteSource::File(reading) => reading.digest(),
            ByteSource::Extents(reading) => reading.digest(),
            ByteSource::Failed => None,
        };
        let Some(digest) = digest.filter(|_| self.rest == 0) else {
            return Ok(None);
        };
        if !self.from_file {
            return Ok(Some(digest));
        }
        let range = self.start..self.position;
        let state = self.file.verify(range, self.digest, &digest).await?;
        self.grew = state == Some(SinceOpened::Grown);
        Ok(state.map(|_| digest))
    }

    /// Whether the file had grown when [`finish`](Self::finish) looked, so that the content is only
    /// what it had at the beginning.
    pub fn grew(&self) -> bool {
        self.grew
    }
}

/// The error of reading extents: a file that has become shorter isn't what it was.
fn reading_failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => store::Error::Changed.into(),
        _ => store::Error::system("reading")(error).into(),
    }
}

/// Reads the whole file into the cache, in a task beside the request.
fn fill(file: &OpenFile, guard: FillGuard) -> JoinHandle<()> {
    // If reading fails, dropping the guard makes the fill fail for all readers.
    let push = |guard: &mut FillGuard, piece| guard.has_readers() && guard.push(piece).is_ok();
    file.read_aside(guard, push, |guard, after| {
        guard.finish(&after.version);
    })
}

/// Checks the precondition of a read.
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

/// Bytes of a piece that is read for the digest alone.
const UNSENT_PIECE: usize = 512 * 1024;
