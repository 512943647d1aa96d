//! Regular file that is open for reading.
//!
//! The server never changes files in place, so an open file is a stable snapshot, whatever happens
//! to its name. Other programs may still write to it, which its size and modification time show.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use quire_shared::digest::{Digest, DigestKind, Hasher};
use quire_shared::protocol::{Attributes, DetailKinds};
use quire_transport::body::ReadAhead;
use quire_transport::body::extents::{ExtentReader, has_holes, may_have_holes};
use rustix::buffer::spare_capacity;
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
    /// Attributes when it was opened, with the size that the content then had.
    pub attributes: Attributes,
    /// Content of a file whose size lies, as it was when the file was opened.
    content: Option<Bytes>,
    /// Bytes of the disk that it took up then.
    allocated: u64,
    metadata: Metadata,
}

/// State of a file, compared with that when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinceOpened {
    /// Size and modification time are the same. The change time doesn't count: renaming or deleting
    /// a file sets it, and leaves the content.
    Same,
    /// It is longer, and what it had before may be the same.
    Grown,
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
        let file = Arc::new(File::from(file));
        let mut attributes = metadata.attributes();
        let content = match metadata.may_misstate_size() {
            true => misstated_content(&file, &attributes)?,
            false => None,
        };
        if let Some(content) = &content {
            attributes.size = content.len() as u64;
        }
        Ok(Self {
            file,
            attributes,
            content,
            allocated: metadata.allocated(),
            metadata,
        })
    }

    /// Reads its details of these kinds as well. Blocks.
    pub(in crate::files) fn with_details(mut self, kinds: DetailKinds) -> Self {
        if !kinds.is_empty() {
            self.attributes.details = self.metadata.details(&*self.file, kinds);
        }
        self
    }

    /// Content of a file whose size lies, which is read when it is opened: none of its attributes
    /// tells whether it is still the same.
    pub(in crate::files) fn content(&self) -> Option<&Bytes> {
        self.content.as_ref()
    }

    /// Starts reading extents from `offset` on, if the file has holes. See [`read`](Self::read).
    pub(in crate::files) async fn read_extents(
        &self,
        offset: u64,
        hasher: Hasher,
    ) -> Result<Option<ExtentReader>, Error> {
        let size = self.attributes.size;
        if self.content.is_some() || !may_have_holes(size, self.allocated) {
            return Ok(None);
        }
        let file = Arc::clone(&self.file);
        let is_sparse = blocking(move || Ok(has_holes(&file, size))).await?;
        let reader = || ExtentReader::new(Arc::clone(&self.file), offset, offset, hasher);
        Ok(is_sparse.then(reader))
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

    /// Appends the whole file to `bytes`, and returns the state of the file after that if it is the
    /// content of one version. Blocks.
    ///
    /// # Errors
    /// If reading fails.
    pub(crate) fn read_to_end(&self, bytes: &mut Vec<u8>) -> Result<Option<SinceOpened>, Error> {
        if let Some(content) = &self.content {
            bytes.extend_from_slice(content);
            return Ok(Some(SinceOpened::Same));
        }
        let size = self.attributes.size;
        let start = bytes.len();
        bytes.reserve(usize::try_from(size).unwrap_or(0));
        let read = (&*self.file)
            .take(size)
            .read_to_end(bytes)
            .map_err(Error::system("reading"))?;
        if read as u64 != size {
            return Ok(None);
        }
        let has_same = |file: &File| {
            let before = bytes.get(start..).unwrap_or_default();
            let mut now = vec![0; before.len()];
            let read = file.read_exact_at(&mut now, 0);
            read.map(|()| now == before)
                .map_err(Error::system("reading"))
        };
        match self.state_now()? {
            Some(SinceOpened::Grown) if !has_same(&self.file)? => Ok(None),
            state => Ok(state),
        }
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
                let Some(piece) = read_piece(&file.file, position, rest.min(PIECE)) else {
                    return;
                };
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

    /// Computes the digest of what the file had when it was opened, and returns it with the state
    /// of the file, and the attributes of the version that it belongs to. Dropping the future
    /// cancels the work after the current piece.
    ///
    /// # Errors
    /// If reading fails, or the file changed while it was read, otherwise than by growing.
    pub(in crate::files) async fn hash(
        &self,
        kind: DigestKind,
    ) -> Result<(Digest, SinceOpened, Attributes), Error> {
        let whole = 0..self.attributes.size;
        if let Some(content) = &self.content {
            return Ok((kind.of(content), SinceOpened::Same, self.attributes.clone()));
        }
        let digest = self.digest_of(whole.clone(), kind).await?;
        let digest = digest.ok_or(Error::Changed)?;
        let state = self.verify(whole, kind, &digest).await?;
        match state.ok_or(Error::Changed)? {
            SinceOpened::Same => {
                let file = self.clone();
                let after = blocking(move || file.attributes_now()).await?;
                Ok((digest, SinceOpened::Same, after))
            }
            SinceOpened::Grown => Ok((digest, SinceOpened::Grown, self.attributes.clone())),
        }
    }

    /// Determines the state of the file after `range` was read, which had `digest`; `None` if it is
    /// no longer certain that all of that was the content of one version.
    ///
    /// # Errors
    /// If a system call fails.
    pub(in crate::files) async fn verify(
        &self,
        range: Range<u64>,
        kind: DigestKind,
        digest: &Digest,
    ) -> Result<Option<SinceOpened>, Error> {
        let file = self.clone();
        let state = blocking(move || file.state_now()).await?;
        if state != Some(SinceOpened::Grown) {
            return Ok(state);
        }
        let again = self.digest_of(range, kind).await?;
        Ok(state.filter(|_| again.as_ref() == Some(digest)))
    }

    /// Compares the file with the state in which it was opened, as [`verify`](Self::verify) does, and
    /// reads its attributes.
    ///
    /// # Errors
    /// If a system call fails.
    pub(in crate::files) async fn look_again(
        &self,
    ) -> Result<(Option<SinceOpened>, Attributes), Error> {
        let file = self.clone();
        blocking(move || Ok((file.state_now()?, file.attributes_now()?))).await
    }

    /// Computes the digest of a range; `None` if the file ends before that.
    async fn digest_of(
        &self,
        range: Range<u64>,
        kind: DigestKind,
    ) -> Result<Option<Digest>, Error> {
        let mut hasher = kind.hasher();
        let mut next = range.start;
        // Split, so that long files don't keep threads from other requests.
        while next < range.end {
            let file = Arc::clone(&self.file);
            let step = next..range.end.min(next + STEP);
            next = step.end;
            let hashing = blocking(move || {
                let is_whole = hash_range(&file, step, &mut hasher)?;
                Ok((hasher, is_whole))
            });
            let (advanced, is_whole) = hashing.await?;
            if !is_whole {
                return Ok(None);
            }
            hasher = advanced;
        }
        Ok(Some(hasher.finish()))
    }

    /// Compares the file with the state in which it was opened; `None` if it changed otherwise than
    /// by growing. Blocks.
    pub(super) fn state_now(&self) -> Result<Option<SinceOpened>, Error> {
        if self.content.is_some() {
            return Ok(Some(SinceOpened::Same));
        }
        let before = &self.attributes;
        let now = self.attributes_now()?;
        Ok(match now.size.cmp(&before.size) {
            Ordering::Less => None,
            Ordering::Equal if now.modified == before.modified => Some(SinceOpened::Same),
            // Written over: what was read may be of either state, even if it is what is there now.
            Ordering::Equal => None,
            Ordering::Greater => Some(SinceOpened::Grown),
        })
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

/// Reads exactly `length` bytes at `position`, if they can be read, into memory that was never
/// zeroed: that would cost as much as the hash.
fn read_piece(file: &File, position: u64, length: usize) -> Option<Vec<u8>> {
    let mut piece = Vec::with_capacity(length);
    while piece.len() < length {
        let next = position + piece.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut piece), next) {
            Ok(0) => return None,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    // The memory may be larger than asked for, and the file as well by now.
    piece.truncate(length);
    Some(piece)
}

/// Hashes a range of `file`, and returns whether the file is long enough.
fn hash_range(file: &File, range: Range<u64>, hasher: &mut Hasher) -> Result<bool, Error> {
    let mut buffer = vec![0; PIECE];
    let mut next = range.start;
    while next < range.end {
        cancel::check()?;
        let rest = usize::try_from(range.end - next).unwrap_or(PIECE);
        let piece = buffer.get_mut(..rest.min(PIECE)).unwrap_or_default();
        let read = file
            .read_at(piece, next)
            .map_err(Error::system("reading"))?;
        if read == 0 {
            return Ok(false);
        }
        hasher.update(piece.get(..read).unwrap_or_default());
        next += read as u64;
    }
    Ok(true)
}

/// Reads a file to its end whose size may lie. `None` if the size is right.
fn misstated_content(file: &File, stated: &Attributes) -> Result<Option<Bytes>, Error> {
    let mut content = Vec::new();
    loop {
        cancel::check()?;
        let start = content.len();
        content.resize(start + SMALL_PIECE, 0);
        let piece = content.get_mut(start..).unwrap_or_default();
        let read = file
            .read_at(piece, start as u64)
            .map_err(Error::system("reading"))?;
        content.truncate(start + read);
        if read == 0 {
            break;
        }
        if content.len() > MISSTATED_CONTENT_MAX {
            return Err(Error::Limit(
                "content of a file that doesn't state its size",
            ));
        }
    }
    if content.len() as u64 == stated.size {
        return Ok(None);
    }
    // A usual file may have been written to meanwhile, and states the size that it has now.
    let now = Metadata::of(file).map_err(Error::system("reading the metadata of a file"))?;
    let is_misstated = now.may_misstate_size() && now.size == stated.size;
    Ok(is_misstated.then(|| content.into()))
}

/// Bytes per read: as large as the pieces of a body, and enough to run every digest at full speed.
const PIECE: usize = 512 * 1024;

/// Bytes per step of a digest, after which others get the thread: some tens of milliseconds of work.
const STEP: u64 = 32 * 1024 * 1024;

/// Bytes per read of a file whose size may lie: more than most of them have.
const SMALL_PIECE: usize = 16 * 1024;

/// Most content of a file whose size lies, in bytes: it is kept in memory while it is sent.
const MISSTATED_CONTENT_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::fixture::{StoreFixture, code, path};
    use super::super::open::Options;
    use super::super::root::Root;
    use super::*;

    const KIND: DigestKind = DigestKind::Xxh3;

    fn append(fixture: &StoreFixture, name: &str) {
        let mut options = File::options();
        let mut file = options.append(true).open(fixture.local(name)).unwrap();
        file.write_all(b"more").unwrap();
    }

    #[tokio::test]
    async fn of_a_file_that_grows_what_it_had_is_read_hashed_and_copied() {
        let fixture = StoreFixture::new();
        fixture.write("log", "begin");
        let opened = fixture.root.open_file(&path("log")).unwrap();
        append(&fixture, "log");
        let (digest, state, attributes) = opened.hash(KIND).await.unwrap();
        assert_eq!((digest, state), (KIND.of(b"begin"), SinceOpened::Grown));
        assert_eq!(attributes, opened.attributes);
        let mut bytes = b"before ".to_vec();
        let state = opened.read_to_end(&mut bytes).unwrap();
        assert_eq!(state, Some(SinceOpened::Grown));
        assert_eq!(bytes, b"before begin");
    }

    #[tokio::test]
    async fn a_file_that_is_written_over_or_cut_has_changed() {
        let fixture = StoreFixture::new();
        for (name, now) in [("over", "BEGIN and more"), ("cut", "beg")] {
            fixture.write(name, "begin");
            let opened = fixture.root.open_file(&path(name)).unwrap();
            let digest = KIND.of(b"begin");
            let verify = || opened.verify(0..5, KIND, &digest);
            assert_eq!(verify().await.unwrap(), Some(SinceOpened::Same));
            std::fs::write(fixture.local(name), now).unwrap();
            assert_eq!(verify().await.unwrap(), None, "{name}");
        }
        // Of the same length, and of another time.
        fixture.write("same", "begin");
        let opened = fixture.root.open_file(&path("same")).unwrap();
        let file = File::options().write(true).open(fixture.local("same"));
        let file = file.unwrap();
        file.write_all_at(b"B", 0).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let digest = KIND.of(b"begin");
        assert_eq!(opened.verify(0..5, KIND, &digest).await.unwrap(), None);
        file.set_len(2).unwrap();
        let error = opened.hash(KIND).await.unwrap_err();
        assert_eq!(code::<()>(Err(error)), quire_shared::ErrorCode::CHANGED);
    }

    #[tokio::test]
    async fn a_file_whose_size_lies_is_read_to_its_end() {
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        for (root, name) in [
            ("/proc/sys/kernel", "ostype"),
            ("/sys/kernel", "uevent_seqnum"),
        ] {
            let root = std::path::Path::new(root);
            let Ok(expected) = std::fs::read(root.join(name)) else {
                continue;
            };
            let opened = Root::open(root, options).unwrap();
            let file = opened.open_file(&path(name)).unwrap();
            assert_eq!(file.content().map(|bytes| &bytes[..]), Some(&expected[..]));
            assert_eq!(file.attributes.size, expected.len() as u64);
            let (digest, state, _) = file.hash(KIND).await.unwrap();
            assert_eq!((digest, state), (KIND.of(&expected), SinceOpened::Same));
        }
        let fixture = StoreFixture::new();
        fixture.write("empty", "");
        let file = File::create(fixture.local("hole")).unwrap();
        file.set_len(5000).unwrap();
        for name in ["empty", "hole"] {
            let opened = fixture.root.open_file(&path(name)).unwrap();
            assert!(opened.content().is_none(), "{name} says what it has");
        }
    }
}
