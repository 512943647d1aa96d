//! One side of a sync: a local directory, or one on a server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::{
    Chmod, Copy, Delete, DetailKinds, Hash, List, MakeDirectory, Precondition, Preserve, Rename,
};
use quire_shared::{ErrorCode, RemotePath};

use super::plan::{PlannedDeletion, PlannedMode};
use crate::attributes;
use crate::blocking::blocking;
use crate::client::Client;
use crate::details;
use crate::error::ClientError;
use crate::local_file::LocalFile;
use crate::transfer::item_name::ItemName;
use crate::transfer::local_entry::local_entry;
use crate::transfer::store::version_if_same;
use crate::upload::Links;

/// The directory at one side of a sync.
#[derive(Debug, Clone)]
pub enum SyncSide {
    /// A local directory.
    Local(PathBuf),
    /// A directory on a server.
    Server(Client, RemotePath),
}

/// A path on either side.
enum SidePath {
    Local(PathBuf),
    Server(Client, RemotePath),
}

impl SyncSide {
    /// The same directory over another connection.
    pub(super) fn over(&self, client: &Client) -> Self {
        match self {
            Self::Local(path) => Self::Local(path.clone()),
            Self::Server(_, path) => Self::Server(client.clone(), path.clone()),
        }
    }

    /// The name of `path`, which is below this directory.
    pub(super) fn name_of(&self, path: &RemotePath) -> ItemName {
        match self {
            Self::Local(directory) => {
                let names = path.names().iter().map(|name| name.as_str());
                let path = names.fold(directory.clone(), |path, name| path.join(name));
                ItemName::Local(path)
            }
            Self::Server(_, directory) => match joined_path(directory, path) {
                Ok(path) => ItemName::Remote(path),
                Err(_) => ItemName::Other(format!("{directory}{path}")),
            },
        }
    }

    /// The error if this side has no directory.
    pub(super) fn not_found(&self) -> ClientError {
        match self {
            Self::Local(path) => ClientError::disk(path, "look at", io::ErrorKind::NotFound.into()),
            Self::Server(..) => ClientError::of_code(ErrorCode::NOT_FOUND),
        }
    }

    /// The error if it isn't one.
    pub(super) fn not_a_directory(&self) -> ClientError {
        match self {
            Self::Local(path) => ClientError::Unsuitable {
                path: path.clone(),
                reason: "is not a directory",
            },
            Self::Server(..) => ClientError::of_code(ErrorCode::NOT_DIRECTORY),
        }
    }

    /// The path of `other` below this directory, if it is there.
    pub(super) fn relative(&self, other: &Self) -> Option<RemotePath> {
        match (self, other) {
            (Self::Local(this), Self::Local(other)) => {
                let absolute = |path: &Path| std::path::absolute(path).ok();
                let (this, other) = absolute(this).zip(absolute(other))?;
                let below = other.strip_prefix(this).ok()?.to_str()?;
                RemotePath::parse(below).ok()
            }
            (Self::Server(_, this), Self::Server(_, other)) => other.strip_prefix(this),
            _ => None,
        }
    }

    fn path(&self, path: &RemotePath) -> Result<SidePath, ClientError> {
        Ok(match self {
            Self::Local(directory) => SidePath::Local(local_path(directory, path)?),
            Self::Server(client, directory) => {
                SidePath::Server(client.clone(), joined_path(directory, path)?)
            }
        })
    }

    /// Computes the digest of a file; `links` says what a local link is.
    pub(super) async fn digest(
        &self,
        path: &RemotePath,
        digest: DigestKind,
        links: Links,
    ) -> Result<Digest, ClientError> {
        match self.path(path)? {
            SidePath::Local(path) => {
                let hash = move || {
                    let file = LocalFile::open_now(path, links)?;
                    let size = file.size();
                    Ok(file.add_to(digest.hasher(), size)?.finish())
                };
                blocking(hash).await
            }
            SidePath::Server(client, path) => Ok(client.hash(Hash { path, digest }).await?.digest),
        }
    }

    /// Gives what is at `from` the name `to` below the directory `side`, which is on the same server or
    /// local as well. Nothing is replaced unless `replaces`. Missing parents are made.
    pub(super) async fn rename(
        &self,
        from: &RemotePath,
        (side, to): (&Self, &RemotePath),
        replaces: bool,
    ) -> Result<(), ClientError> {
        match (self.path(from)?, side.path(to)?) {
            (SidePath::Local(from), SidePath::Local(to)) => {
                blocking(move || rename_locally(&from, &to, replaces)).await
            }
            (SidePath::Server(client, from), SidePath::Server(_, to)) => {
                let rename = Rename {
                    from,
                    to: to.clone(),
                    source: Precondition::Any,
                    target: Precondition::of_target(replaces),
                    change_id: None,
                };
                let renaming = || client.rename(rename.clone());
                with_parent(&client, &to, renaming).await.map(drop)
            }
            _ => Err(ClientError::of_code(ErrorCode::UNSUPPORTED)),
        }
    }

    /// Copies the file `path` to the same name below `side`, as [`rename`](Self::rename) renames. On a
    /// server the copy has these details as well.
    pub(super) async fn copy(
        &self,
        path: &RemotePath,
        side: &Self,
        details: DetailKinds,
    ) -> Result<(), ClientError> {
        match (self.path(path)?, side.path(path)?) {
            (SidePath::Local(from), SidePath::Local(to)) => {
                blocking(move || copy_locally(&from, &to)).await
            }
            (SidePath::Server(client, from), SidePath::Server(_, to)) => {
                let copy = Copy {
                    from,
                    to: to.clone(),
                    recursive: false,
                    source: Precondition::Any,
                    target: Precondition::Any,
                    preserve: Preserve::Exact,
                    details,
                    change_id: None,
                    hard_link: false,
                };
                let copying = || client.copy(copy.clone());
                with_parent(&client, &to, copying).await.map(drop)
            }
            _ => Err(ClientError::of_code(ErrorCode::UNSUPPORTED)),
        }
    }

    /// Deletes what a comparison has seen. It is no failure if it is gone by now.
    pub(super) async fn delete(&self, deletion: &PlannedDeletion) -> Result<(), ClientError> {
        match self.path(&deletion.path)? {
            SidePath::Local(path) => {
                let deletion = deletion.clone();
                blocking(move || delete_locally(&path, &deletion)).await
            }
            SidePath::Server(client, path) => {
                let precondition = match (&deletion.version, deletion.is_directory()) {
                    // The time of a directory changes with everything that is deleted in it.
                    (_, true) | (None, _) => Precondition::Any,
                    (Some(version), false) => Precondition::Match(version.clone()),
                };
                if deletion.is_directory() && deletion.below == 0 {
                    require_empty(&client, &path).await?;
                }
                let mut delete = Delete {
                    path,
                    recursive: deletion.is_directory(),
                    precondition,
                    change_id: None,
                };
                let mut deleted = client.delete(delete.clone()).await;
                let seen = (deletion.size, deletion.modified);
                for _ in 0..OTHER_VERSIONS_MAX {
                    let is_conflict =
                        matches!(&deleted, Err(error) if error.code() == Some(ErrorCode::CONFLICT));
                    if !is_conflict || !deletion.has_other_names {
                        break;
                    }
                    // The file has lost or got another name since it was seen, perhaps by this sync.
                    let Some(now) = version_if_same(&client, &delete.path, &seen).await else {
                        break;
                    };
                    delete.precondition = Precondition::Match(now);
                    deleted = client.delete(delete.clone()).await;
                }
                match deleted {
                    Err(error) if error.code() == Some(ErrorCode::NOT_FOUND) => Ok(()),
                    deleted => deleted.map(drop),
                }
            }
        }
    }

    /// Sets permission bits and details of a file.
    pub(super) async fn set_mode(&self, planned: &PlannedMode) -> Result<(), ClientError> {
        let (mode, details) = (planned.mode, planned.details.clone());
        let sets_mode = planned.sets_mode;
        match self.path(&planned.path)? {
            SidePath::Local(path) => {
                let set = move || {
                    let failed = |error| ClientError::disk(&path, "set the attributes of", error);
                    let file = fs::File::open(&path).map_err(failed)?;
                    details::set(&path, &file, details.as_deref())?;
                    match sets_mode {
                        true => attributes::set_exact_mode(&file, mode).map_err(failed),
                        false => Ok(()),
                    }
                };
                blocking(set).await
            }
            SidePath::Server(client, path) => {
                let precondition = match &planned.version {
                    Some(version) => Precondition::Match(version.clone()),
                    None => Precondition::Any,
                };
                let chmod = Chmod {
                    path,
                    mode,
                    precondition,
                    details,
                };
                client.chmod(chmod).await.map(drop)
            }
        }
    }
}

/// The path of what is at `path` below a local directory.
pub(super) fn local_path(directory: &Path, path: &RemotePath) -> Result<PathBuf, ClientError> {
    let mut names = path.names().iter();
    names.try_fold(directory.to_owned(), |path, name| local_entry(&path, name))
}

/// The path of what is at `path` below a directory of a server.
pub(super) fn joined_path(
    directory: &RemotePath,
    path: &RemotePath,
) -> Result<RemotePath, ClientError> {
    directory.join_path(path).map_err(ClientError::RemotePath)
}

/// Checks that nothing has stayed in a directory that was to be emptied, or has come into it.
async fn require_empty(client: &Client, path: &RemotePath) -> Result<(), ClientError> {
    let list = List {
        path: path.clone(),
        after: None,
    };
    let mut listing = match client.list(list).await {
        Err(error) if error.code() == Some(ErrorCode::NOT_FOUND) => return Ok(()),
        listing => listing?,
    };
    match listing.next().await? {
        None if listing.unnameable().count == 0 => Ok(()),
        _ => Err(ClientError::of_code(ErrorCode::NOT_EMPTY)),
    }
}

/// Makes a request for something with the path `to`, again after its parents were made if it fails
/// because they are missing.
async fn with_parent<T, F: Future<Output = Result<T, ClientError>>>(
    client: &Client,
    to: &RemotePath,
    request: impl Fn() -> F,
) -> Result<T, ClientError> {
    match request().await {
        Err(error) if error.code() == Some(ErrorCode::NOT_FOUND) => {}
        done => return done,
    }
    let make = MakeDirectory {
        path: to.parent().unwrap_or_default(),
        make_parents: true,
        precondition: Precondition::Any,
        change_id: None,
    };
    client.make_directory(make).await?;
    request().await
}

fn make_local_parent(path: &Path) -> Result<(), ClientError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent)
        .map_err(|error| ClientError::disk(parent, "make the directory", error))
}

fn rename_locally(from: &Path, to: &Path, replaces: bool) -> Result<(), ClientError> {
    make_local_parent(to)?;
    if !replaces && to.symlink_metadata().is_ok() {
        return Err(ClientError::LocalExists(to.to_owned()));
    }
    fs::rename(from, to).map_err(|error| ClientError::disk(from, "rename", error))
}

fn copy_locally(from: &Path, to: &Path) -> Result<(), ClientError> {
    make_local_parent(to)?;
    // What has the name is replaced, and never written into.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ClientError::disk(to, "replace", error));
        }
        Ok(()) | Err(_) => {}
    }
    // The old content is never written into, so a second name is a copy of it.
    let copied = fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop));
    copied.map_err(|error| ClientError::disk(from, "copy", error))
}

fn delete_locally(path: &Path, deletion: &PlannedDeletion) -> Result<(), ClientError> {
    let deleted = fs::symlink_metadata(path).and_then(|found| match deletion.is_directory() {
        true if deletion.below > 0 => fs::remove_dir_all(path),
        true => fs::remove_dir(path),
        false => {
            let is_as_seen = !found.is_file()
                || (found.len() == deletion.size
                    && attributes::modified(&found) == Some(deletion.modified));
            match is_as_seen {
                true => fs::remove_file(path),
                false => Err(io::Error::other("it has changed since it was compared")),
            }
        }
    });
    match deleted {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        deleted => deleted.map_err(|error| ClientError::disk(path, "delete", error)),
    }
}

/// How often the deletion of a name is tried whose file gets other versions with its other names: more
/// often than deletions run at once, each of which ends one of these rounds.
const OTHER_VERSIONS_MAX: usize = 64;
