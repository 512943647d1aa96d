//! The walk through a local directory, in a thread of its own, some entries ahead.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use quire_shared::protocol::{EntryKind, Time};
use quire_shared::{Name, RemotePath};

use super::{LeftDirectory, WalkItem, WalkedEntry};
use crate::attributes;
use crate::details::Keep;
use crate::error::ClientError;
use crate::local_file::LocalId;
use crate::save::is_left_over;
use crate::transfer::leave::kind_of;
use crate::transfer::links::{LinkPolicy, followed, key_of, read_target};
use crate::transfer::sync::filter::Filter;

/// The attributes of the directory `path`; none if there is nothing.
pub(super) fn directory(path: &Path, keep: Keep) -> Result<Option<WalkedEntry>, ClientError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Some(WalkedEntry {
            details: keep.of_directory(path).ok().flatten(),
            ..walked(&metadata, path, Keep::default())
        })),
        Ok(metadata) => Ok(Some(walked(&metadata, path, Keep::default()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ClientError::disk(path, "look at", error)),
    }
}

/// Begins to walk. What `filter` excludes isn't looked into.
pub(super) fn begin(
    path: PathBuf,
    filter: Arc<Filter>,
    links: LinkPolicy,
    keep: Keep,
) -> Receiver<Vec<WalkItem>> {
    let (items, walked) = sync_channel(BATCHES_AHEAD);
    let walker = LocalWalker {
        items,
        batch: Vec::new(),
        filter,
        keep,
        links,
    };
    // It ends with the walk, or with the receiver.
    drop(tokio::task::spawn_blocking(move || {
        let _ = walker.run(path);
    }));
    walked
}

struct LocalWalker {
    items: SyncSender<Vec<WalkItem>>,
    batch: Vec<WalkItem>,
    filter: Arc<Filter>,
    keep: Keep,
    links: LinkPolicy,
}

/// A local directory that is being walked.
struct WalkedDirectory {
    local: PathBuf,
    path: RemotePath,
    /// What is still to come, the last first.
    names: Vec<Name>,
    left: LeftDirectory,
    /// Tells it from others, where links are followed.
    id: Option<LocalId>,
}

/// Nobody wants more of the walk.
struct Unwanted;

impl LocalWalker {
    fn run(mut self, top: PathBuf) -> Result<(), Unwanted> {
        let id = fs::metadata(&top).ok().as_ref().and_then(LocalId::of);
        let mut levels = vec![WalkedDirectory::open(top, RemotePath::ROOT, id)];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                let left = levels.pop().map(|level| level.left).unwrap_or_default();
                self.push(WalkItem::Left(left))?;
                continue;
            };
            let local = level.local.join(name.as_str());
            let metadata = match fs::symlink_metadata(&local) {
                Ok(metadata) => metadata,
                // It is gone since the directory was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let error = ClientError::disk(&local, "look at", error);
                    self.push(WalkItem::Missed(name, error))?;
                    continue;
                }
            };
            let (entry, id) = match self.entry(&local, metadata, &levels) {
                Ok(found) => found,
                Err(error) => {
                    self.push(WalkItem::Missed(name, error))?;
                    continue;
                }
            };
            let Some(level) = levels.last() else { break };
            if entry.kind != EntryKind::Directory {
                self.push(WalkItem::Entry(name, entry))?;
                continue;
            }
            let path = level.path.join(name.clone());
            match path {
                Ok(path) if self.filter.excludes(&path, true) => {
                    self.push(WalkItem::Entered(name, entry))?;
                    self.push(WalkItem::Left(LeftDirectory::default()))?;
                }
                Ok(path) => {
                    self.push(WalkItem::Entered(name, entry))?;
                    levels.push(WalkedDirectory::open(local, path, id));
                }
                Err(source) => {
                    let error = ClientError::LocalName {
                        path: local,
                        source,
                    };
                    self.push(WalkItem::Missed(name, error))?;
                }
            }
        }
        self.send()
    }

    /// What is compared of an entry, and the identity of a directory. Links are read or followed if the
    /// policy says so.
    fn entry(
        &self,
        local: &Path,
        metadata: Metadata,
        levels: &[WalkedDirectory],
    ) -> Result<(WalkedEntry, Option<LocalId>), ClientError> {
        let is_link = metadata.is_symlink();
        let metadata = match is_link && self.links == LinkPolicy::Follow {
            true => followed(local, levels.iter().map(|level| level.id))?,
            false => metadata,
        };
        let mut entry = walked(&metadata, local, self.keep);
        if is_link && self.links == LinkPolicy::Keep {
            // Where it is needed it is read again, which tells why it can't be.
            entry.target = read_target(local).ok();
        }
        Ok((entry, LocalId::of(&metadata)))
    }

    fn push(&mut self, item: WalkItem) -> Result<(), Unwanted> {
        self.batch.push(item);
        match self.batch.len() < BATCH_ITEMS {
            true => Ok(()),
            false => self.send(),
        }
    }

    fn send(&mut self) -> Result<(), Unwanted> {
        let batch = std::mem::take(&mut self.batch);
        self.items.send(batch).map_err(|_| Unwanted)
    }
}

impl WalkedDirectory {
    fn open(local: PathBuf, path: RemotePath, id: Option<LocalId>) -> Self {
        let mut names = Vec::new();
        let mut left = LeftDirectory::default();
        let listed = list(&local, &mut names, &mut left);
        left.failure = listed
            .err()
            .map(|error| ClientError::disk(&local, "list", error));
        names.sort_unstable_by(|first, second| second.cmp(first));
        Self {
            local,
            path,
            names,
            left,
            id,
        }
    }
}

fn list(local: &Path, names: &mut Vec<Name>, left: &mut LeftDirectory) -> io::Result<()> {
    for entry in fs::read_dir(local)? {
        let name = entry?.file_name();
        match (name.to_str(), name.to_str().map(Name::new)) {
            (_, Some(Ok(name))) => names.push(name),
            // What quire has left itself is nobody's loss.
            (Some(name), _) if is_left_over(name) => left.has_excluded = true,
            _ => left.unnameable.add(name.as_encoded_bytes()),
        }
    }
    Ok(())
}

fn walked(metadata: &Metadata, path: &Path, keep: Keep) -> WalkedEntry {
    let kind = kind_of(metadata);
    WalkedEntry {
        kind,
        size: match kind {
            EntryKind::File => metadata.len(),
            EntryKind::Directory | EntryKind::Symlink | EntryKind::Other => 0,
        },
        modified: attributes::modified(metadata).unwrap_or(UNKNOWN_TIME),
        mode: attributes::mode(metadata).unwrap_or(0),
        version: None,
        details: keep.of_entry(path, metadata),
        target: None,
        key: key_of(metadata),
    }
}

/// The time of a file on a system that has none.
const UNKNOWN_TIME: Time = Time {
    seconds: 0,
    nanoseconds: 0,
};

/// Entries that are handed over together.
const BATCH_ITEMS: usize = 512;

/// Batches that wait to be compared.
const BATCHES_AHEAD: usize = 4;
