//! Where a download is written: the target that a user named, or a file inside a tree.
//!
//! A file is written under a temporary name beside its target, and renamed once its content is
//! verified. That name is derived from the target and locked, so what a killed process has left is
//! recognized by the next download to the same place, which goes on from there ([`part`]). A FIFO or
//! device is no file to replace: the content goes into it.

use std::fs::{self, File, Metadata};
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};

use quire_certs::replace_file::PendingFile;
use quire_shared::RemotePath;
use quire_shared::protocol::{Attributes, Details, Preserve, Time};
use quire_transport::body::extents::{HoleWrite, leave_hole, write_zeros};
use quire_transport::body::journal::SyncAhead;
use quire_transport::bottleneck::file_sync;

use crate::attributes::{self, KeptAttributes};
use crate::details::{self, Keep};
use crate::error::ClientError;
use crate::upload::Links;

mod link;
mod part;
mod staged;

pub(crate) use link::{save_hard_link, save_symlink};
use part::PartJournal;
pub(crate) use part::{Part, PartSource, discard_part};
pub(crate) use staged::is_left_over;

/// How a downloaded file is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions {
    /// Whether a local file of that name is replaced.
    pub overwrite: bool,
    /// Whether content and name are synced to disk before the end is reported.
    pub sync: bool,
    /// Which attributes of the files on the server they get here.
    pub preserve: Preserve,
    /// Which details of them they get as well. A request for the file asks for the same.
    pub keep: Keep,
}

/// A target that was looked at and can be written to.
#[derive(Debug)]
pub(crate) struct SaveTarget {
    /// The name in errors.
    path: PathBuf,
    options: SaveOptions,
    kind: TargetKind,
}

#[derive(Debug)]
enum TargetKind {
    /// A FIFO or device, open for writing.
    Device(File),
    /// Nothing yet, or a file to be replaced: its path without links, and what stays of it.
    File(PathBuf, Option<KeptAttributes>),
}

impl SaveTarget {
    /// Looks at `path`, before anything is asked for that it couldn't take. A FIFO that was named
    /// is opened, which waits for a reader. Blocks.
    ///
    /// # Errors
    /// Names `path` if nothing may be written there.
    pub(crate) fn open(
        path: &Path,
        options: SaveOptions,
        links: Links,
    ) -> Result<Self, ClientError> {
        let kind = match links {
            Links::Follow => named(path, options)?,
            Links::Refuse => inside_tree(path, options)?,
        };
        Ok(Self {
            path: path.to_owned(),
            options,
            kind,
        })
    }

    /// Finds what an earlier download of `remote` to this target has left. Blocks.
    pub(crate) fn find_part(&self, remote: &RemotePath) -> Option<Part> {
        match &self.kind {
            TargetKind::File(target, kept) => Part::find(target, remote, kept.is_some()),
            TargetKind::Device(_) => None,
        }
    }

    /// Returns the path of the file that will be there, without links; none for a device.
    pub(crate) fn file_path(&self) -> Option<&Path> {
        match &self.kind {
            TargetKind::File(target, _) => Some(target),
            TargetKind::Device(_) => None,
        }
    }

    /// Returns the path of the file that is replaced, without links; none if there is none.
    pub(crate) fn replaced(&self) -> Option<&Path> {
        match &self.kind {
            TargetKind::File(target, Some(_)) => Some(target),
            TargetKind::File(_, None) | TargetKind::Device(_) => None,
        }
    }

    /// Begins to write. `mode` has the permission bits of the file on the server. Blocks.
    pub(crate) fn create(self, mode: u32, start: SaveStart) -> Result<Unfinished, ClientError> {
        let Self {
            path,
            options,
            kind,
        } = self;
        let sink = match kind {
            TargetKind::Device(file) => SaveSink::Device(file),
            TargetKind::File(target, kept) => {
                // Until it has the permissions of the file that it replaces, it is private.
                let mode_at_first = match (&kept, options.preserve) {
                    (Some(_), _) => PRIVATE,
                    (None, Preserve::Nothing) => NEW_FILE,
                    (None, Preserve::Usual | Preserve::Exact) => mode,
                };
                let (file, syncs) = match start {
                    SaveStart::Part(part) => (part.file, StagedSyncs::Recorded(part.journal)),
                    SaveStart::Nothing(source) => {
                        let (file, is_of_target) = staged::create(&target, mode_at_first)
                            .map_err(|error| ClientError::disk(&path, "create", error))?;
                        let source = source.filter(|_| is_of_target);
                        let begin = |source| PartJournal::begin(&target, source, kept.is_some());
                        let syncs = match source.as_ref().and_then(begin) {
                            Some(journal) => StagedSyncs::Recorded(journal),
                            None => StagedSyncs::Unrecorded(SyncAhead::default()),
                        };
                        (file, syncs)
                    }
                };
                SaveSink::Staged {
                    file,
                    syncs,
                    target,
                    kept,
                }
            }
        };
        Ok(Unfinished {
            path,
            options,
            sink,
            mode,
        })
    }
}

/// What a download begins with.
#[derive(Debug)]
pub(crate) enum SaveStart {
    /// Nothing. What comes can be continued later if it is told what it is.
    Nothing(Option<PartSource>),
    /// What an earlier one has left.
    Part(Part),
}

/// A target that the user named: a link is followed, and a device is written into.
fn named(path: &Path, options: SaveOptions) -> Result<TargetKind, ClientError> {
    let is_link = path.is_symlink();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(_) if is_link => {
            return Err(ClientError::Unsuitable {
                path: path.to_owned(),
                reason: "is a symbolic link that leads nowhere",
            });
        }
        // Whatever is wrong with it shows when the file is created.
        Err(_) => return Ok(TargetKind::File(path.to_owned(), None)),
    };
    if is_device(&metadata) {
        let opened = File::options().write(true).open(path);
        let opened = opened.map_err(|error| ClientError::disk(path, "open", error))?;
        return Ok(TargetKind::Device(opened));
    }
    require_replaceable(path, &metadata, options)?;
    let target = match is_link {
        true => fs::canonicalize(path).map_err(|error| ClientError::disk(path, "open", error))?,
        false => path.to_owned(),
    };
    let kept = KeptAttributes::of(&target, &metadata);
    let kept = kept.map_err(|error| ClientError::disk(path, "look at", error))?;
    Ok(TargetKind::File(target, Some(kept)))
}

/// A file in a directory that arrives as a tree: a link there is replaced, never followed.
fn inside_tree(path: &Path, options: SaveOptions) -> Result<TargetKind, ClientError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(TargetKind::File(path.to_owned(), None));
    };
    if metadata.is_symlink() {
        return match options.overwrite {
            true => Ok(TargetKind::File(path.to_owned(), None)),
            false => Err(ClientError::LocalExists(path.to_owned())),
        };
    }
    require_replaceable(path, &metadata, options)?;
    let kept = KeptAttributes::of(path, &metadata);
    let kept = kept.map_err(|error| ClientError::disk(path, "look at", error))?;
    Ok(TargetKind::File(path.to_owned(), Some(kept)))
}

/// Checks that what is there is a file, and may be replaced. It is checked again, without a race,
/// when the new file gets its name.
fn require_replaceable(
    path: &Path,
    metadata: &Metadata,
    options: SaveOptions,
) -> Result<(), ClientError> {
    let path = path.to_owned();
    if metadata.is_dir() {
        let reason = "is a directory";
        return Err(ClientError::Unsuitable { path, reason });
    }
    if !metadata.is_file() {
        let reason = "is neither a file nor a directory, and isn't replaced";
        return Err(ClientError::Unsuitable { path, reason });
    }
    match options.overwrite {
        true => Ok(()),
        false => Err(ClientError::LocalExists(path)),
    }
}

/// Whether it takes what is written into it, without being a file that has it afterwards.
#[cfg(unix)]
fn is_device(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
}

#[cfg(not(unix))]
fn is_device(_: &Metadata) -> bool {
    false
}

/// Content that is being written, without its name yet. The blocking thread that writes owns it, so
/// that a temporary file is removed only after the last write.
#[derive(Debug)]
pub(crate) struct Unfinished {
    path: PathBuf,
    options: SaveOptions,
    sink: SaveSink,
    /// Permission bits of the file on the server.
    mode: u32,
}

#[derive(Debug)]
enum SaveSink {
    Device(File),
    /// A temporary file, removed on drop unless it is worth to be continued.
    Staged {
        file: PendingFile,
        syncs: StagedSyncs,
        target: PathBuf,
        kept: Option<KeptAttributes>,
    },
}

/// Syncs while a file is being written.
#[derive(Debug)]
enum StagedSyncs {
    /// In a journal, so that the download can be continued.
    Recorded(PartJournal),
    Unrecorded(SyncAhead),
}

impl Unfinished {
    /// Which details the file gets.
    pub(crate) fn keep(&self) -> Keep {
        self.options.keep
    }

    /// Sets the attributes, then renames the file to its target. Blocks.
    pub(crate) fn publish(
        self,
        modified: Time,
        given: Option<&Details>,
    ) -> Result<(), ClientError> {
        let Self {
            path,
            options,
            sink,
            mode,
        } = self;
        let SaveSink::Staged {
            file,
            mut syncs,
            target,
            kept,
        } = sink
        else {
            return Ok(());
        };
        let apply_kept = || kept.as_ref().map_or(Ok(()), |kept| kept.apply(file.file()));
        let failed = |error| ClientError::disk(&path, "set the attributes of", error);
        apply_kept().map_err(failed)?;
        details::set(&path, file.file(), given)?;
        let set = || {
            match options.preserve {
                Preserve::Nothing => return Ok(()),
                Preserve::Usual => {}
                Preserve::Exact => attributes::set_exact_mode(file.file(), mode)?,
            }
            attributes::set_modified(file.file(), modified)
        };
        set().map_err(failed)?;
        let publish = || file.publish(&target, options.overwrite, options.sync);
        let published = match options.sync {
            true => file_sync(|| {
                match &mut syncs {
                    StagedSyncs::Recorded(journal) => journal.settle()?,
                    StagedSyncs::Unrecorded(syncs) => syncs.settle()?,
                }
                publish()
            }),
            false => publish(),
        };
        match published {
            Ok(()) => {
                if let StagedSyncs::Recorded(journal) = syncs {
                    journal.end();
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ClientError::LocalExists(path))
            }
            Err(error) => Err(ClientError::disk(&path, "create", error)),
        }
    }

    fn file(&mut self) -> &mut File {
        match &mut self.sink {
            SaveSink::Device(file) => file,
            SaveSink::Staged { file, .. } => file.file_mut(),
        }
    }

    fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        let SaveSink::Staged { file, syncs, .. } = &mut self.sink else {
            return Ok(());
        };
        match syncs {
            StagedSyncs::Recorded(journal) => journal.wrote(bytes, file),
            StagedSyncs::Unrecorded(syncs) if self.options.sync => syncs.wrote(bytes, file.file()),
            StagedSyncs::Unrecorded(_) => Ok(()),
        }
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file().write(bytes)?;
        self.wrote(written as u64)?;
        Ok(written)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.file().write_vectored(slices)?;
        self.wrote(written as u64)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// Writes a file inside a tree from content that is verified and in memory. Blocks.
///
/// # Errors
/// [`ClientError::LocalExists`] if `target` exists and is not to be replaced, or why writing failed.
pub(crate) fn save_whole(
    target: &Path,
    content: &[u8],
    attributes: &Attributes,
    options: SaveOptions,
) -> Result<(), ClientError> {
    let given = options.keep.told(attributes.details.clone())?;
    let save = SaveTarget::open(target, options, Links::Refuse)?;
    let mut unfinished = save.create(attributes.mode, SaveStart::Nothing(None))?;
    unfinished
        .write_all(content)
        .map_err(|error| ClientError::disk(target, "write", error))?;
    unfinished.publish(attributes.modified, given.as_deref())
}

impl HoleWrite for Unfinished {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.sink {
            SaveSink::Device(device) => write_zeros(device, bytes)?,
            SaveSink::Staged { file, .. } => leave_hole(file.file_mut(), bytes)?,
        }
        self.wrote(bytes)
    }
}

/// Permission bits of a file that only its owner may read.
const PRIVATE: u32 = 0o600;

/// Permission bits of a new file without others, before the umask is applied.
const NEW_FILE: u32 = 0o666;

#[cfg(test)]
mod tests;
