//! A directory of the server that arrives on one stream, turned into local files.
//!
//! Names come from the server one by one, each below the directory that was entered last: nothing it
//! sends leads out of the one that was asked for. See PROTOCOL.md, "get-tree".

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quire_shared::codec::DecodeError;
use quire_shared::path::PathError;
use quire_shared::path::Unnameable;
use quire_shared::protocol::{Attributes, Entry, EntryKind, Left, Reply, Trailer, TreeItem};
use quire_shared::{Name, RemotePath};
use quire_transport::stream::item_decoder::{Item, ItemDecoder};
use quire_transport::stream::message_buffer::MessageBuffer;

use super::arrival::{ArrivedFile, DownloadQueue, Unpack};
use super::engine::{SkipReason, Transfer};
use super::first_names::{FileKey, FirstName, FirstNames, NameOfFile};
use super::item_name::ItemName;
use super::job::{DownloadKind, FetchOptions, FileDownload, SymlinkDownload};
use super::links::LinkPolicy;
use super::local_dir::{GivenToDir, LocalDir, finish};
use super::local_entry::local_entry;
use crate::error::ClientError;
use crate::upload::Links;

/// Makes files of what has arrived. Its work blocks.
#[derive(Debug)]
pub(super) struct Unpacker {
    /// The directories that the server is in, outermost first; none once it has left the last.
    levels: Vec<TreeLevel>,
    decoder: ItemDecoder<TreeItem>,
    options: FetchOptions,
    transfer: Arc<Transfer>,
    queue: DownloadQueue,
    first_names: FirstNames<FileKey, Arc<FirstName>>,
}

#[derive(Debug)]
struct TreeLevel {
    remote: RemotePath,
    /// The last name that came, after which all others are.
    last: Option<Name>,
    /// The directory here; none if it couldn't be made, and all below it is left out.
    local: Option<Arc<LocalDir>>,
    /// Why it couldn't be made, unless that is the fault of the directory above.
    failure: Option<(ItemName, ClientError)>,
    /// Files and directories below it that are left out.
    below: u64,
}

impl TreeLevel {
    fn new(remote: RemotePath, local: Option<Arc<LocalDir>>) -> Self {
        Self {
            remote,
            last: None,
            local,
            failure: None,
            below: 0,
        }
    }
}

impl Unpack for Unpacker {
    fn unpack(&mut self, arrived: MessageBuffer) -> Result<(), ClientError> {
        self.decoder.buffer.append(arrived);
        while !self.levels.is_empty() {
            match self.decoder.item().map_err(ClientError::Unexpected)? {
                Some(item) => self.item(item)?,
                None => return Ok(()),
            }
        }
        self.decoder.expect_end().map_err(ClientError::Unexpected)
    }

    fn is_complete(&self) -> bool {
        self.levels.is_empty()
    }

    /// Lets go of directories that will not be complete.
    fn give_up(&mut self) {
        while let Some(level) = self.levels.pop() {
            self.leave(level);
        }
    }
}

impl Unpacker {
    /// An unpacker of the directory `remote` into `top`.
    pub(super) fn new(
        remote: RemotePath,
        top: LocalDir,
        options: FetchOptions,
        transfer: Arc<Transfer>,
        queue: DownloadQueue,
    ) -> Self {
        Self {
            levels: vec![TreeLevel::new(remote, Some(Arc::new(top)))],
            decoder: ItemDecoder::new(body_size),
            options,
            transfer,
            queue,
            first_names: FirstNames::default(),
        }
    }

    /// Ends a directory: sets its attributes, or reports that it is missing with all below it.
    fn leave(&mut self, level: TreeLevel) {
        match (level.local, level.failure) {
            (Some(directory), _) => finish(directory, &self.transfer),
            (None, Some((name, error))) => {
                self.transfer.fail_with_below(name, error, level.below);
            }
            (None, None) => {
                if let Some(above) = self.levels.last_mut() {
                    above.below += 1 + level.below;
                }
            }
        }
    }

    fn item(&mut self, item: Item<TreeItem, Reply<Trailer>>) -> Result<(), ClientError> {
        let (item, enclosed) = item;
        match item {
            TreeItem::Described(entry) => self.described(&entry),
            TreeItem::Enclosed(entry) => {
                let (body, trailer) = enclosed.ok_or(MALFORMED)?;
                self.file(entry, &body, trailer)
            }
            TreeItem::Entered(entry) => self.entered(&entry),
            TreeItem::Missed(missed) => {
                if let Some((from, _)) = self.wanted(&missed.name)? {
                    let error = ClientError::of_failure(missed.failure);
                    self.transfer.fail(from, error);
                }
                Ok(())
            }
            TreeItem::Left(left) => {
                self.left(left);
                Ok(())
            }
        }
    }

    /// Something that is fetched by itself, or not at all.
    fn described(&mut self, entry: &Entry) -> Result<(), ClientError> {
        let Some((from, directory)) = self.wanted(&entry.name)? else {
            return Ok(());
        };
        match entry.attributes.kind {
            EntryKind::File => {}
            EntryKind::Directory => return Err(MALFORMED),
            EntryKind::Symlink => {
                self.symlink(from, entry, directory);
                return Ok(());
            }
            EntryKind::Other => {
                self.transfer.skip(from, SkipReason::SpecialFile);
                return Ok(());
            }
        }
        let to = match local_entry(&directory.path, &entry.name) {
            Ok(to) => to,
            Err(error) => {
                self.transfer.fail(from, error);
                return Ok(());
            }
        };
        let name_of = self.name_of(entry, &from, &to);
        if let Ok(found) = fs::symlink_metadata(&to) {
            if self.is_left(&entry.attributes, &found) {
                if let NameOfFile::First(guard) = &name_of {
                    guard.arrived(&entry.attributes.version);
                }
                self.transfer.add_present(entry.attributes.size);
                return Ok(());
            }
            if !self.options.save.overwrite {
                self.transfer.fail(from, ClientError::LocalExists(to));
                return Ok(());
            }
        }
        if !matches!(name_of, NameOfFile::Other(_)) {
            self.transfer.expect(entry.attributes.size);
        }
        let job = FileDownload {
            from,
            to,
            kind: DownloadKind::of(name_of),
            described_size: Some(entry.attributes.size),
            directory: Some(directory),
        };
        self.queue.push(job);
        Ok(())
    }

    /// What a described file is among the names of its file.
    fn name_of(&mut self, entry: &Entry, from: &RemotePath, to: &Path) -> NameOfFile {
        let key = entry.attributes.hard_link.clone();
        match key.filter(|_| self.options.hard_links) {
            Some(key) => {
                let place = (from, to.to_owned());
                let key = FileKey::Server(key);
                self.first_names.name_of(key, place, &self.transfer)
            }
            None => NameOfFile::Alone,
        }
    }

    /// A symbolic link: a job as well, because an older server has to be asked for its target.
    fn symlink(&self, from: RemotePath, entry: &Entry, directory: Arc<LocalDir>) {
        if self.options.links != LinkPolicy::Keep {
            self.transfer.skip(from, SkipReason::SymbolicLink);
            return;
        }
        let to = match local_entry(&directory.path, &entry.name) {
            Ok(to) => to,
            Err(error) => {
                self.transfer.fail(from, error);
                return;
            }
        };
        let link = SymlinkDownload {
            target: entry.attributes.target.clone(),
            modified: entry.attributes.modified,
            depth: self.levels.len().saturating_sub(1),
        };
        self.queue.push(FileDownload {
            from,
            to,
            kind: DownloadKind::Symlink(link),
            described_size: Some(0),
            directory: Some(directory),
        });
    }

    fn entered(&mut self, entry: &Entry) -> Result<(), ClientError> {
        if entry.attributes.kind != EntryKind::Directory {
            return Err(MALFORMED);
        }
        let level = match self.entry_path(&entry.name)? {
            (above, None, _) => TreeLevel::new(above, None),
            (above, Some(_), Err(rule)) => {
                let name = format!("{above}/{}", entry.name);
                TreeLevel {
                    failure: Some((name.into(), ClientError::RemotePath(rule))),
                    ..TreeLevel::new(above, None)
                }
            }
            (_, Some(parent), Ok(remote)) => self.make_directory(remote, entry, parent),
        };
        self.levels.push(level);
        Ok(())
    }

    fn make_directory(
        &self,
        remote: RemotePath,
        entry: &Entry,
        parent: Arc<LocalDir>,
    ) -> TreeLevel {
        let save = self.options.save;
        let made = local_entry(&parent.path, &entry.name).and_then(|path| {
            let given = GivenToDir::told(&entry.attributes, save.keep).unwrap_or_else(|error| {
                self.transfer.fail(&remote, error);
                (&entry.attributes).into()
            });
            LocalDir::make(path, given, save, Some(parent), Links::Refuse)
        });
        match made {
            Ok(directory) => {
                self.transfer.add_directory();
                TreeLevel::new(remote, Some(Arc::new(directory)))
            }
            Err(error) => TreeLevel {
                failure: Some(((&remote).into(), error)),
                ..TreeLevel::new(remote, None)
            },
        }
    }

    fn left(&mut self, left: Left) {
        let Some(level) = self.levels.pop() else {
            return;
        };
        if level.local.is_some() {
            let name = || &level.remote;
            if let Some(failure) = left.failure {
                self.transfer.fail(name(), ClientError::of_failure(failure));
            }
            if left.unnameable > 0 {
                let error = ClientError::Unnameable(Unnameable {
                    count: left.unnameable,
                    names: left.raw_names,
                });
                self.transfer.fail(name(), error);
            }
        }
        self.leave(level);
    }

    /// A file that has arrived whole.
    fn file(
        &mut self,
        entry: Entry,
        body: &[u8],
        trailer: Reply<Trailer>,
    ) -> Result<(), ClientError> {
        let bytes = body.len() as u64;
        self.transfer.expect(bytes);
        self.transfer.counter().fetch_add(bytes, Ordering::Relaxed);
        let Some((remote, directory)) = self.wanted(&entry.name)? else {
            return Ok(());
        };
        let local = local_entry(&directory.path, &entry.name);
        if self.options.leave.looks()
            && let Ok(local) = &local
            && let Ok(found) = fs::symlink_metadata(local)
            && self.is_left(&entry.attributes, &found)
        {
            self.transfer.add_present(0);
            return Ok(());
        }
        let file = ArrivedFile {
            remote,
            attributes: entry.attributes,
            body,
            trailer,
        };
        file.save(local, self.options, &self.transfer);
        Ok(())
    }

    fn is_left(&self, wanted: &Attributes, found: &fs::Metadata) -> bool {
        self.options.leave.leaves(&wanted.into(), &found.into())
    }

    /// The path of `name` in the directory at hand, and the directory here; nothing if it is left
    /// out together with its directory, or because no path can name it, which is reported.
    fn wanted(&mut self, name: &Name) -> Result<Option<(RemotePath, Arc<LocalDir>)>, ClientError> {
        match self.entry_path(name)? {
            (_, Some(directory), Ok(path)) => Ok(Some((path, directory))),
            (above, Some(_), Err(rule)) => {
                let error = ClientError::RemotePath(rule);
                self.transfer.fail(format!("{above}/{name}"), error);
                Ok(None)
            }
            (_, None, _) => {
                if let Some(level) = self.levels.last_mut() {
                    level.below += 1;
                }
                Ok(None)
            }
        }
    }

    /// The path of the directory at hand, the directory here, and the path of `name` in it. A name is
    /// taken only if it follows the last one, so that none comes twice.
    fn entry_path(&mut self, name: &Name) -> Result<EntryPath, ClientError> {
        let level = self.levels.last_mut().ok_or(MALFORMED)?;
        if level.last.as_ref().is_some_and(|last| last >= name) {
            return Err(MALFORMED);
        }
        level.last = Some(name.clone());
        let path = level.remote.join(name.clone());
        Ok((level.remote.clone(), level.local.clone(), path))
    }
}

type EntryPath = (
    RemotePath,
    Option<Arc<LocalDir>>,
    Result<RemotePath, PathError>,
);

/// Returns the size of the body that follows `item`. Only a file has one.
pub(super) fn body_size(item: &TreeItem) -> Result<Option<u64>, DecodeError> {
    match item {
        TreeItem::Enclosed(entry) if entry.attributes.kind == EntryKind::File => {
            Ok(Some(entry.attributes.size))
        }
        TreeItem::Enclosed(_) => Err(DecodeError::Malformed),
        TreeItem::Described(_) | TreeItem::Entered(_) | TreeItem::Missed(_) | TreeItem::Left(_) => {
            Ok(None)
        }
    }
}

/// What a server that breaks a rule has sent.
pub(super) const MALFORMED: ClientError = ClientError::Unexpected(DecodeError::Malformed);
