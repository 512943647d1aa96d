//! Regular file that is open for reading.
//!
//! The server never changes files in place, so an open file is a stable snapshot, whatever happens
//! to its name. Other programs may still write to it, which its size and modification time show.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use quire_shared::digest::{Digest, DigestKind, Hasher};
use quire_shared::protocol::Attributes;
use quire_transport::body::ReadAhead;
use rustix::fs::OFlags;
use rustix::path::Arg;
use tokio::task::{JoinHandle, spawn_blocking};

use super::metadata::Metadata;
use super::resolve::open_beneath;
use super::{Error, blocking, cancel};

/// Regular file that is open for reading; clones share the handle and its cursor.
#[derive(Debug, Clone)]
pub struct OpenFile {
    pub(super) file: Arc<File>,
    /// Attributes when it was opened.
    pub attributes: Attributes,
}

impl OpenFile {
    /// Opens the regular file `name` in `directory`.
    pub(super) fn open(directory: &OwnedFd, name: impl Arg + Copy) -> Result<Self, Error> {
        // NONBLOCK: a FIFO that took the name since the check must not block the open. NOCTTY: a
        // terminal must not become the controlling one.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = open_beneath(directory, name, flags).map_err(Error::system("opening a file"))?;
        // The name may refer to something else since the caller checked it.
        let metadata =
            Metadata::of(&file).map_err(Error::system("reading the metadata of a file"))?;
        metadata.require_file()?;
        Ok(Self {
            file: Arc::new(file.into()),
            attributes: metadata.attributes(),
        })
    }

    /// Starts reading `length` bytes from `offset`, ahead of the consumer. Moves the cursor of the
    /// file, so that only one such reader may be in use.
    ///
    /// # Errors
    /// If a system call fails.
    pub(in crate::files) fn read(
        &self,
        offset: u64,
        length: u64,
        hasher: Hasher,
    ) -> Result<FileReader, Error> {
        // Not by positions: a `File` is read into memory that was never zeroed, which a reader
        // around `pread` has to zero first, at the cost of a twentieth of a large get.
        let mut file = self.file.try_clone().map_err(Error::system("reading"))?;
        file.seek(SeekFrom::Start(offset))
            .map_err(Error::system("reading"))?;
        Ok(ReadAhead::start(file, length, hasher))
    }

    /// Appends the whole file to `bytes`, and returns whether that is the content of one version.
    /// Blocks.
    ///
    /// # Errors
    /// If reading fails.
    pub(crate) fn read_to_end(&self, bytes: &mut Vec<u8>) -> Result<bool, Error> {
        let size = self.attributes.size;
        bytes.reserve(usize::try_from(size).unwrap_or(0));
        let read = (&*self.file)
            .take(size)
            .read_to_end(bytes)
            .map_err(Error::system("reading"))?;
        Ok(read as u64 == size && self.is_unchanged_now()?)
    }

    /// Reads the whole file on a blocking thread, and passes each piece to `push` until that
    /// returns `false`. After the last piece, `done` gets the file's attributes of that moment. It
    /// reads by position, so that others can read the same handle at the same time.
    pub(in crate::files) fn read_aside<P: Send + 'static>(
        &self,
        mut sink: P,
        push: impl Fn(&mut P, Vec<u8>) -> bool + Send + 'static,
        done: impl FnOnce(P, &Attributes) + Send + 'static,
    ) -> JoinHandle<()> {
        let file = self.clone();
        spawn_blocking(move || {
            let size = file.attributes.size;
            let mut position = 0;
            while position < size {
                let rest = usize::try_from(size - position).unwrap_or(PIECE);
                let mut piece = vec![0; rest.min(PIECE)];
                if file.file.read_exact_at(&mut piece, position).is_err() {
                    return;
                }
                position += piece.len() as u64;
                if !push(&mut sink, piece) {
                    return;
                }
            }
            if let Ok(after) = file.attributes_now() {
                done(sink, &after);
            }
        })
    }

    /// Computes the digest of the whole file, and returns it with the attributes afterwards.
    /// Dropping the future cancels the work after the current piece.
    ///
    /// # Errors
    /// If reading fails, or the file changed while it was read.
    pub(in crate::files) async fn hash(
        &self,
        kind: DigestKind,
    ) -> Result<(Digest, Attributes), Error> {
        let mut hasher = kind.hasher();
        // Split, so that long files don't keep threads from other requests.
        loop {
            let file = Arc::clone(&self.file);
            let hashing = blocking(move || {
                let ended = hash_pieces(&file, &mut hasher)?;
                Ok((hasher, ended))
            });
            let (advanced, ended) = hashing.await?;
            hasher = advanced;
            if ended {
                break;
            }
        }
        let file = self.clone();
        let after = blocking(move || file.attributes_now()).await?;
        if !self.has_content_of(&after) {
            return Err(Error::Changed);
        }
        Ok((hasher.finish(), after))
    }

    /// Checks that neither size nor modification time changed since the file was opened. The change
    /// time doesn't count: renaming or deleting a file sets it, and leaves the content.
    ///
    /// # Errors
    /// If a system call fails.
    pub(in crate::files) async fn is_unchanged(&self) -> Result<bool, Error> {
        let file = self.clone();
        blocking(move || file.is_unchanged_now()).await
    }

    /// Does the work of [`is_unchanged`](Self::is_unchanged). Blocks.
    pub(super) fn is_unchanged_now(&self) -> Result<bool, Error> {
        Ok(self.has_content_of(&self.attributes_now()?))
    }

    fn has_content_of(&self, now: &Attributes) -> bool {
        let before = &self.attributes;
        (now.size, now.modified) == (before.size, before.modified)
    }

    /// Reads the file's attributes as they are now.
    pub(super) fn attributes_now(&self) -> Result<Attributes, Error> {
        let metadata =
            Metadata::of(&*self.file).map_err(Error::system("reading the metadata of a file"))?;
        Ok(metadata.attributes())
    }
}

/// Reader of a part of an open file.
pub(in crate::files) type FileReader = ReadAhead<File>;

/// Hashes the next pieces of `file`, and returns whether the end was reached.
fn hash_pieces(mut file: &File, hasher: &mut Hasher) -> Result<bool, Error> {
    let mut buffer = vec![0; PIECE];
    for _ in 0..PIECES_PER_STEP {
        cancel::check()?;
        let read = file.read(&mut buffer).map_err(Error::system("reading"))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(true);
        };
        hasher.update(bytes);
    }
    Ok(false)
}

/// Bytes per read: as large as the pieces of a body, and enough to run every digest at full speed.
const PIECE: usize = 512 * 1024;

/// Reads per step of a digest, after which others get the thread: some tens of milliseconds of work.
const PIECES_PER_STEP: usize = 64;
