//! What a transfer is asked to do, and the files that it moves one by one.

use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Precondition, Preserve};

use super::item_name::ItemName;
use super::leave::Leave;
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
}

/// One file to be fetched by itself.
#[derive(Debug)]
pub(super) struct FileDownload {
    pub(super) from: RemotePath,
    pub(super) to: PathBuf,
    /// The size that the server described, already announced.
    pub(super) described_size: Option<u64>,
    pub(super) directory: Option<Arc<LocalDir>>,
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
}

/// One file to be stored by itself.
#[derive(Debug)]
pub(super) struct FileUpload {
    pub(super) from: UploadSource,
    pub(super) to: RemotePath,
    /// What to do if it is a symbolic link.
    pub(super) links: Links,
    /// The condition on what it replaces.
    pub(super) precondition: Precondition,
    /// The directory in which it was found.
    pub(super) directory: Option<Arc<RemoteDir>>,
}
