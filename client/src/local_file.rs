//! Local files to be uploaded: what is opened, how much of it is read, and whether it changed.
//!
//! The size of a file is a promise only on disk: files of `/proc` and `/sys` have any. So a small
//! file is read to its end before its size is declared. A file that only grows while it is read
//! is uploaded as it was at the beginning, if a second reading shows the same bytes.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use quire_shared::digest::{Digest, DigestKind, Hasher};
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{Details, Time};
use quire_transport::body::extents::{ExtentReader, has_holes, may_have_holes};
use quire_transport::body::journal::add_first;
use tokio::sync::OwnedSemaphorePermit;

use crate::attributes;
use crate::blocking::blocking;
use crate::details::Keep;
use crate::error::ClientError;
use crate::upload::UploadBody;

/// A local file that was opened, and its metadata at that time.
#[derive(Debug, Clone)]
pub struct LocalFile {
    file: Arc<File>,
    path: PathBuf,
    metadata: Metadata,
    room: Option<Arc<OwnedSemaphorePermit>>,
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
            room: None,
        })
    }

    /// Keeps `room` until the file was read to its end.
    pub(crate) fn holding(self, room: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            room: room.map(Arc::new),
            ..self
        }
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

    /// The details that it has now. Blocks.
    ///
    /// # Errors
    /// If they can't be read, or are over a limit.
    pub(crate) fn details(&self, keep: Keep) -> Result<Option<Box<Details>>, ClientError> {
        keep.of_file(&self.file, &self.path)
    }

    /// Its name here.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a small file to its end, and decides how another one is to be sent. Blocks.
    ///
    /// # Errors
    /// If it can't be read, or has changed since it was opened otherwise than by growing.
    pub(crate) fn read(&self) -> Result<FileContent, ClientError> {
        let size = self.size();
        if size > ENCLOSED_BYTES_MAX as u64 {
            return Ok(FileContent::Declared);
        }
        let reading = |error| ClientError::disk(&self.path, "read", error);
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        (&*self.file)
            .take(ENCLOSED_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(reading)?;
        let snapshot = self.snapshot();
        let holds = snapshot.holds().map_err(reading)?;
        match (holds, bytes.len() > ENCLOSED_BYTES_MAX) {
            (true, false) => Ok(FileContent::Whole { bytes, grew: false }),
            (true, true) => Ok(FileContent::Undeclared),
            (false, true) => Ok(FileContent::Declared),
            (false, false) => {
                bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
                let grew = snapshot.verify(&DigestKind::Xxh3.of(&bytes), DigestKind::Xxh3)?;
                Ok(FileContent::Whole { bytes, grew })
            }
        }
    }

    fn snapshot(&self) -> FileSnapshot {
        FileSnapshot {
            file: Arc::clone(&self.file),
            path: self.path.clone(),
            size: self.metadata.len(),
            modified: self.metadata.modified().ok(),
        }
    }

    /// The file as content of a put that declares [`LocalFile::size`].
    pub fn into_content(self) -> UploadBody<FromStart> {
        self.into_content_from(0)
    }

    /// As [`into_content`](Self::into_content), without the first `offset` bytes.
    pub(crate) fn into_content_from(self, offset: u64) -> UploadBody<FromStart> {
        let snapshot = Some(self.snapshot());
        let mut body = self.into_stream();
        body.source.position = offset;
        UploadBody { snapshot, ..body }
    }

    /// How much of it is outside its holes, in bytes, if it has some that are worth telling: about
    /// what it takes up of the disk. Blocks.
    pub(crate) fn outside_holes(&self) -> Option<u64> {
        let (size, allocated) = (self.size(), allocated(&self.metadata));
        let has_holes = may_have_holes(size, allocated) && has_holes(&self.file, size);
        has_holes.then_some(allocated)
    }

    /// Reads its extents from `offset` on.
    pub(crate) fn extents(&self, offset: u64, hasher: Hasher) -> ExtentReader {
        ExtentReader::new(Arc::clone(&self.file), offset, self.size(), hasher)
    }

    /// Adds the first `length` bytes to a digest. Blocks.
    ///
    /// # Errors
    /// If they can't be read, or aren't there any more.
    pub(crate) fn add_to(self, mut hasher: Hasher, length: u64) -> Result<Hasher, ClientError> {
        let added = add_first(&self.file, &mut hasher, length, || true);
        match added.map_err(|error| ClientError::disk(&self.path, "read", error))? {
            true => Ok(hasher),
            false => Err(ClientError::LocalChanged(self.path)),
        }
    }

    /// The file as content of a put that declares no size, up to its end.
    pub(crate) fn into_stream(self) -> UploadBody<FromStart> {
        UploadBody {
            source: FromStart {
                file: self.file,
                position: 0,
                _room: self.room,
            },
            path: self.path,
            snapshot: None,
        }
    }
}

/// Bytes of the disk that a file takes up.
#[cfg(unix)]
fn allocated(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.blocks().saturating_mul(512)
}

/// Other systems don't say.
#[cfg(not(unix))]
fn allocated(metadata: &Metadata) -> u64 {
    metadata.len()
}

/// How a local file is sent.
#[derive(Debug)]
pub(crate) enum FileContent {
    /// It was read to its end, or to its former end if it grew.
    Whole { bytes: Vec<u8>, grew: bool },
    /// It has the size that it had when it was opened.
    Declared,
    /// It has more than its size says, as files of `/proc`.
    Undeclared,
}

/// A file that is read from its start, wherever it was read to before.
#[derive(Debug)]
pub struct FromStart {
    file: Arc<File>,
    position: u64,
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

impl FromStart {
    /// Goes on reading at `position`.
    pub(crate) fn seek_to(&mut self, position: u64) {
        self.position = position;
    }
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.file).seek(SeekFrom::Start(self.position))?;
        let read = (&*self.file).read(buffer)?;
        self.position += read as u64;
        Ok(read)
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
    /// Looks at what has the path.
    pub(crate) fn look(self, path: &Path) -> io::Result<Metadata> {
        match self {
            Self::Follow => fs::metadata(path),
            Self::Refuse => fs::symlink_metadata(path),
        }
    }

    #[cfg(unix)]
    pub(crate) fn apply(self, options: &mut fs::OpenOptions) {
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
    pub(crate) fn apply(self, _: &mut std::fs::OpenOptions) {}
}

/// Size and modification time when the file was opened, compared again after the last read.
#[derive(Debug)]
pub(crate) struct FileSnapshot {
    file: Arc<File>,
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
}

impl FileSnapshot {
    fn holds(&self) -> io::Result<bool> {
        let now = self.file.metadata()?;
        Ok(now.len() == self.size && now.modified().ok() == self.modified)
    }

    /// Checks that the bytes with this digest were those of the file when it was opened. Returns
    /// whether it has grown since. Blocks.
    ///
    /// # Errors
    /// [`ClientError::LocalChanged`] if they may be a mixture of old and new.
    pub(crate) fn verify(&self, digest: &Digest, kind: DigestKind) -> Result<bool, ClientError> {
        let reading = |error| ClientError::disk(&self.path, "read", error);
        if self.holds().map_err(reading)? {
            return Ok(false);
        }
        let again = self.digest_again(kind).map_err(reading)?;
        match again.as_ref() == Some(digest) {
            true => Ok(self.file.metadata().map_err(reading)?.len() > self.size),
            false => Err(ClientError::LocalChanged(self.path.clone())),
        }
    }

    /// The digest of as many bytes as there were at the beginning, if there still are.
    fn digest_again(&self, kind: DigestKind) -> io::Result<Option<Digest>> {
        let mut hasher = kind.hasher();
        let is_whole = add_first(&self.file, &mut hasher, self.size, || true)?;
        Ok(is_whole.then(|| hasher.finish()))
    }
}

/// The identity of a local file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LocalId {
    device: u64,
    inode: u64,
}

impl LocalId {
    /// The identity of what has the path, which is not followed.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().as_ref().and_then(Self::of)
    }

    /// The identity of what this is about; none on systems that don't say.
    #[cfg(unix)]
    pub(crate) fn of(metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn of(_: &Metadata) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    /// Opens a file with the content `content`, alters it, and reads it.
    fn read_altered(alter: impl FnOnce(&Path)) -> Result<FileContent, ClientError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "content").unwrap();
        let file = LocalFile::open_now(path.clone(), Links::Refuse).unwrap();
        alter(&path);
        file.read()
    }

    fn append(path: &Path, bytes: &[u8]) {
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
    }

    #[test]
    fn a_file_that_only_grew_or_was_touched_is_what_it_was_at_the_beginning() {
        let touch = |path: &Path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        };
        for (content, has_grown) in [
            (read_altered(|path| append(path, b"more")), true),
            (read_altered(touch), false),
            (read_altered(|_| ()), false),
        ] {
            let FileContent::Whole { bytes, grew } = content.unwrap() else {
                panic!("not read");
            };
            assert_eq!((&*bytes, grew), (&b"content"[..], has_grown));
        }
        let much = vec![0; ENCLOSED_BYTES_MAX];
        let content = read_altered(|path| append(path, &much)).unwrap();
        assert!(matches!(content, FileContent::Declared), "{content:?}");
    }

    #[test]
    fn a_file_that_shrinks_or_is_written_over_has_changed() {
        let error = read_altered(|path| fs::write(path, "cont").unwrap()).unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
        // What a second reading shows is not what was sent.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "content").unwrap();
        let file = LocalFile::open_now(path.clone(), Links::Refuse).unwrap();
        let snapshot = file.snapshot();
        fs::write(&path, "CONTENT and more").unwrap();
        let sent = DigestKind::Xxh3.of(b"content");
        let error = snapshot.verify(&sent, DigestKind::Xxh3).unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
    }

    #[test]
    fn a_file_that_is_renamed_or_replaced_has_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "content").unwrap();
        let file = LocalFile::open_now(path.clone(), Links::Refuse).unwrap();
        fs::rename(&path, directory.path().join("g")).unwrap();
        fs::write(&path, "other").unwrap();
        assert!(file.snapshot().holds().unwrap());
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
