//! Links in directories that are transferred: what becomes of them, and what tells local files apart.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use quire_shared::RemotePath;
use quire_shared::protocol::LinkTarget;

use super::first_names::FileKey;
use super::item_name::ItemName;
use crate::error::ClientError;
use crate::local_file::LocalId;
use crate::upload::Links;

/// What becomes of symbolic links in a directory that is transferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkPolicy {
    /// They are left out.
    #[default]
    Skip,
    /// A link with the same target is made, unless that would lead out of where it is made.
    Keep,
    /// What they lead to is transferred. For local directories only: a server follows no link.
    Follow,
}

impl LinkPolicy {
    /// What becomes of a local link where a file is expected.
    pub(super) fn of_files(self) -> Links {
        match self {
            Self::Follow => Links::Follow,
            Self::Keep | Self::Skip => Links::Refuse,
        }
    }
}

/// A link that was made.
#[derive(Debug)]
pub struct Linked {
    /// Its name here; `-` if both are on servers.
    pub local: PathBuf,
    /// Its name on the server.
    pub remote: RemotePath,
    /// What it is.
    pub kind: LinkKind,
}

/// What kind of link it is.
#[derive(Debug)]
pub enum LinkKind {
    /// A symbolic link to this target.
    Symbolic(LinkTarget),
    /// Another name of the file that has this one.
    Hard(ItemName),
    /// A copy of that file, made by a server that makes no other names.
    Copy(ItemName),
}

/// Reads the target of a local symbolic link.
pub(super) fn read_target(path: &Path) -> Result<LinkTarget, ClientError> {
    let target = fs::read_link(path).map_err(|error| ClientError::disk(path, "read", error))?;
    let target = LinkTarget::new(target.as_os_str().as_encoded_bytes());
    target.ok_or_else(|| ClientError::Unsuitable {
        path: path.to_owned(),
        reason: "is a symbolic link whose target is too long to be sent",
    })
}

/// Looks at what a local symbolic link leads to. `above` has the directories from the top to the one
/// with the link: a link to one of them would lead round for ever.
pub(super) fn followed(
    path: &Path,
    mut above: impl Iterator<Item = Option<LocalId>>,
) -> Result<Metadata, ClientError> {
    let metadata = fs::metadata(path).map_err(|error| ClientError::disk(path, "follow", error))?;
    let id = LocalId::of(&metadata);
    let leads_round = |id| above.any(|above| above == Some(id));
    if metadata.is_dir() && id.is_none_or(leads_round) {
        return Err(ClientError::Unsuitable {
            path: path.to_owned(),
            reason: "is a symbolic link to a directory that it lies in",
        });
    }
    Ok(metadata)
}

/// What tells a local file with several names from others; none for one with a single name.
#[cfg(unix)]
pub(super) fn key_of(metadata: &Metadata) -> Option<FileKey> {
    use std::os::unix::fs::MetadataExt;
    let has_others = metadata.is_file() && metadata.nlink() > 1;
    let id = LocalId::of(metadata).filter(|_| has_others);
    id.map(FileKey::Local)
}

/// Other systems don't say.
#[cfg(not(unix))]
pub(super) fn key_of(_: &Metadata) -> Option<FileKey> {
    None
}
