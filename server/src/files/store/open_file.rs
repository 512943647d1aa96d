//! A regular file that is open for reading.
//!
//! Files are never changed in place by the server, so an open file is a stable snapshot, whatever
//! happens to its name. Another program may still write to it, which size and time tell.

use std::fs::File;
use std::io::{self, Read};
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
use super::{Error, blocking};

/// A regular file that is open for reading; clones share it.
#[derive(Debug, Clone)]
pub struct OpenFile {
    pub(super) file: Arc<File>,
    /// What it was like when it was opened.
    pub attributes: Attributes,
}

impl OpenFile {
    pub(super) fn open(directory: &OwnedFd, name: impl Arg + Copy) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = open_beneath(directory, name, flags).map_err(Error::system("opening a file"))?;
        // The name may have been given to something else since it was looked at.
        let metadata = Metadata::of(&file).map_err(Error::system("looking at a file"))?;
        metadata.require_file()?;
        Ok(Self {
            file: Arc::new(file.into()),
            attributes: metadata.attributes(),
        })
    }

    /// Begins to read `length` bytes from `offset` on.
    pub(in crate::files) fn read(
        &self,
        offset: u64,
        length: u64,
        hasher: Hasher,
    ) -> ReadAhead<Range> {
        let range = Range {
            file: Arc::clone(&self.file),
            offset,
        };
        ReadAhead::start(range, length, hasher)
    }

    /// Appends the whole file to `bytes`, and says whether that is the content of one version.
    /// Blocks.
    ///
    /// # Errors
    /// If reading fails.
    pub fn read_to_end(&self, bytes: &mut Vec<u8>) -> Result<bool, Error> {
        let size = self.attributes.size;
        bytes.reserve(usize::try_from(size).unwrap_or(0));
        let read = (&*self.file)
            .take(size)
            .read_to_end(bytes)
            .map_err(Error::system("reading"))?;
        Ok(read as u64 == size && self.is_unchanged_now()?)
    }

    /// Reads the whole file on a blocking thread, piece by piece into `push`, as long as that takes
    /// them; then `done` hears what the file is like now. Uses positions, so that others may read
    /// the same handle meanwhile.
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

    /// The digest of the whole file, and what it was like afterwards. Dropping the future ends the
    /// work.
    ///
    /// # Errors
    /// If reading fails, or the file changed meanwhile.
    pub(in crate::files) async fn hash(
        &self,
        kind: DigestKind,
    ) -> Result<(Digest, Attributes), Error> {
        let mut hasher = kind.hasher();
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
        if (after.size, after.modified) != (self.attributes.size, self.attributes.modified) {
            return Err(Error::Changed);
        }
        Ok((hasher.finish(), after))
    }

    /// Whether neither size nor modification time have moved since the file was opened. (Its change
    /// time moves when it is renamed or deleted, which is no change of its content.)
    ///
    /// # Errors
    /// If the system fails.
    pub(in crate::files) async fn is_unchanged(&self) -> Result<bool, Error> {
        let file = self.clone();
        blocking(move || file.is_unchanged_now()).await
    }

    pub(super) fn is_unchanged_now(&self) -> Result<bool, Error> {
        let after = self.attributes_now()?;
        let before = &self.attributes;
        Ok((after.size, after.modified) == (before.size, before.modified))
    }

    /// What the file is like now.
    pub(super) fn attributes_now(&self) -> Result<Attributes, Error> {
        let metadata = Metadata::of(&*self.file).map_err(Error::system("looking at a file"))?;
        Ok(metadata.attributes())
    }
}

/// Reads an open file from some offset on, without its cursor, which several readers share.
#[derive(Debug)]
pub(crate) struct Range {
    file: Arc<File>,
    offset: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Hashes the next pieces of `file`; says whether the last was among them.
fn hash_pieces(mut file: &File, hasher: &mut Hasher) -> Result<bool, Error> {
    let mut buffer = vec![0; PIECE];
    for _ in 0..PIECES_PER_STEP {
        let read = file.read(&mut buffer).map_err(Error::system("reading"))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(true);
        };
        hasher.update(bytes);
    }
    Ok(false)
}

/// Bytes per read: as large as the pieces of a body, and enough for every digest at full speed.
const PIECE: usize = 512 * 1024;

/// Reads between two chances to stop a digest: some tens of milliseconds of work.
const PIECES_PER_STEP: usize = 64;
