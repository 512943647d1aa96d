//! What a transfer is asked to do, and the files that it moves one by one.

use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{LinkTarget, Precondition, Preserve, Time};

use super::first_names::{FirstName, FirstNameGuard, NameOfFile, OtherName};
use super::item_name::ItemName;
use super::leave::Leave;
use super::links::LinkPolicy;
use super::local_dir::LocalDir;
use super::remote_dir::RemoteDir;
use crate::client::Client;
use crate::delta::Delta;
use crate::details::Keep;
use crate::download::SaveOptions;
use crate::upload::Links;

/// Something on the server, and what it is to be here.
#[derive(Debug, Clone)]
pub struct DownloadJob {
    /// The file or directory on the server.
    pub from: RemotePath,
    /// Its name here.
    pub to: PathBuf,
    /// Whether only the content of the directory `from` is meant, which goes into `to`. Then `to` was
    /// named by itself, and may be a symbolic link to a directory.
    pub contents: bool,
}

/// How files are fetched.
#[derive(Debug, Clone, Copy, Default)]
pub struct FetchOptions {
    /// Whether directories are fetched, with all that is below them.
    pub recursive: bool,
    /// The kind of digest that proves a content.
    pub digest: DigestKind,
    /// How files are put on disk.
    pub save: SaveOptions,
    /// Which files that exist here are left, and no failure.
    pub leave: Leave,
    /// Whether a walk ahead counts what there is to fetch, for a display of the progress.
    pub survey: bool,
    /// Whether only what changed of large files is fetched.
    pub delta: Delta,
    /// What becomes of symbolic links in directories.
    pub links: LinkPolicy,
    /// Whether files with several names in a directory have them at the other side as well.
    pub hard_links: bool,
}

/// Something local, and what it is to be on the server.
#[derive(Debug, Clone)]
pub struct UploadJob {
    /// The local file or directory.
    pub from: PathBuf,
    /// Its name on the server.
    pub to: RemotePath,
}

/// How files are stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// Whether directories are stored, with all that is below them, and missing parents made.
    pub recursive: bool,
    /// Whether files that exist on the server are replaced.
    pub overwrite: bool,
    /// The kind of digest that proves a content.
    pub digest: DigestKind,
    /// Which files that exist on the server are left, and no failure.
    pub leave: Leave,
    /// Whether a walk ahead counts what there is to store, for a display of the progress.
    pub survey: bool,
    /// Whether only what changed of large files is sent.
    pub delta: Delta,
    /// Whether nothing on the server had the names of the items a moment ago, so that it isn't asked
    /// again what is there. The server decides in any case.
    pub are_new: bool,
    /// Which attributes of the local files the server sets.
    pub preserve: Preserve,
    /// Which details of them it sets as well.
    pub keep: Keep,
    /// What becomes of symbolic links in directories.
    pub links: LinkPolicy,
    /// Whether files with several names in a directory have them at the other side as well.
    pub hard_links: bool,
}

/// One file to be fetched by itself, or a link to be made.
#[derive(Debug)]
pub(super) struct FileDownload {
    pub(super) from: RemotePath,
    pub(super) to: PathBuf,
    pub(super) kind: DownloadKind,
    /// The size that the server described, already announced.
    pub(super) described_size: Option<u64>,
    pub(super) directory: Option<Arc<LocalDir>>,
}

/// What a download makes.
#[derive(Debug)]
pub(super) enum DownloadKind {
    /// A file, from its content. It may be the first name of one.
    File(Option<FirstNameGuard>),
    /// Another name of this file, or that failing a file.
    HardLink(Arc<FirstName>),
    /// A symbolic link.
    Symlink(SymlinkDownload),
}

impl DownloadKind {
    /// What a file is, which has this place among its names.
    pub(super) fn of(name: NameOfFile) -> Self {
        match name {
            NameOfFile::Alone => Self::File(None),
            NameOfFile::First(guard) => Self::File(Some(guard)),
            NameOfFile::Other(other) => Self::HardLink(other.first),
        }
    }
}

/// A symbolic link on the server.
#[derive(Debug)]
pub(super) struct SymlinkDownload {
    /// Its target, unless the server is of an earlier version and has to be asked for it.
    pub(super) target: Option<LinkTarget>,
    pub(super) modified: Time,
    /// How deep its directory is below the one that is fetched.
    pub(super) depth: usize,
}

/// What an upload makes.
#[derive(Debug)]
pub(super) enum UploadKind {
    /// A file, from its content. It may be the first name of one.
    File(Option<FirstNameGuard>),
    /// Another name of this file, or that failing a file.
    HardLink(OtherName),
    /// A symbolic link to this target, with this modification time.
    Symlink(LinkTarget, Option<Time>),
}

impl UploadKind {
    /// What a file is, which has this place among its names.
    pub(super) fn of(name: NameOfFile) -> Self {
        match name {
            NameOfFile::Alone => Self::File(None),
            NameOfFile::First(guard) => Self::File(Some(guard)),
            NameOfFile::Other(other) => Self::HardLink(other),
        }
    }
}

/// Where a file that is stored comes from.
#[derive(Debug, Clone)]
pub(super) enum UploadSource {
    Local(PathBuf),
    /// Another server, or the same.
    Server(Client, RemotePath),
}

impl UploadSource {
    pub(super) fn name(&self) -> ItemName {
        match self {
            Self::Local(path) => path.clone().into(),
            Self::Server(_, path) => path.into(),
        }
    }

    /// Its path here; `-` if it has none.
    pub(super) fn local(&self) -> PathBuf {
        match self {
            Self::Local(path) => path.clone(),
            Self::Server(..) => "-".into(),
        }
    }
}

/// One file to be stored by itself, or a link to be made.
#[derive(Debug)]
pub(super) struct FileUpload {
    pub(super) from: UploadSource,
    pub(super) to: RemotePath,
    pub(super) kind: UploadKind,
    /// What to do if a file is a symbolic link.
    pub(super) links: Links,
    /// The condition on what it replaces.
    pub(super) precondition: Precondition,
    /// The directory in which it was found.
    pub(super) directory: Option<Arc<RemoteDir>>,
}
