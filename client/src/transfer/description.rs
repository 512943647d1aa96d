//! What a directory on the server has, without contents: a walk ahead of a transfer.
//!
//! It says before any content moves whether a local file is in the way, and how many bytes there
//! are to fetch.

use std::fs;
use std::path::PathBuf;

use quire_shared::RemotePath;
use quire_shared::protocol::{
    Attributes, DetailKinds, Entry, EntryKind, GetTree, Reply, Trailer, TreeItem,
};
use quire_transport::stream::Receiver;
use quire_transport::stream::item_decoder::ItemDecoder;
use quire_transport::stream::message_buffer::MessageBuffer;

use super::engine::Transfer;
use super::local_entry::local_entry;
use super::unpack::body_size;
use crate::blocking::blocking;
use crate::error::ClientError;
use crate::exchange::Connection;

/// A directory of the server that is described entry by entry.
#[derive(Debug)]
pub(super) struct Description {
    connection: Connection,
    receiver: Receiver,
    decoder: ItemDecoder<TreeItem>,
    /// Directories that were entered and not left.
    depth: usize,
}

impl Description {
    /// Begins a description of the directory `path`, and returns the attributes of what has that path.
    /// Only a directory is described, with these details of all that is in it.
    pub(super) async fn open(
        connection: &Connection,
        path: RemotePath,
        details: DetailKinds,
    ) -> Result<(Self, Attributes), ClientError> {
        let get = GetTree {
            path,
            enclose_max: 0,
            details,
            ..GetTree::default()
        };
        let mut receiver = connection.send(get).await?;
        let attributes = connection.answer(&mut receiver).await?;
        let description = Self {
            connection: connection.clone(),
            receiver,
            decoder: ItemDecoder::new(body_size),
            depth: 1,
        };
        Ok((description, attributes))
    }

    /// The next items, none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<TreeItem>, ClientError> {
        let mut items = Vec::new();
        while items.is_empty() && self.depth > 0 {
            let mut arrived = MessageBuffer::default();
            let received = self.receiver.receive_into(&mut arrived).await;
            let goes_on = received.map_err(|error| self.connection.receive_error(error))?;
            self.decoder.buffer.append(arrived);
            while self.depth > 0
                && let Some(item) = self.decoder.item().map_err(ClientError::Unexpected)?
            {
                let (item, _): (TreeItem, Option<(_, Reply<Trailer>)>) = item;
                match item {
                    TreeItem::Entered(_) => self.depth += 1,
                    TreeItem::Left(_) => self.depth -= 1,
                    TreeItem::Described(_) | TreeItem::Enclosed(_) | TreeItem::Missed(_) => {}
                }
                items.push(item);
            }
            if !goes_on && self.depth > 0 {
                return Err(ClientError::Truncated);
            }
        }
        Ok(items)
    }
}

/// Whether anything local is in the place of a file of the directory `from`, which goes to `to`.
pub(super) async fn is_in_the_way(
    connection: &Connection,
    from: RemotePath,
    to: PathBuf,
) -> Result<bool, ClientError> {
    let opening = Description::open(connection, from, DetailKinds::default());
    let (mut description, _) = opening.await?;
    let mut levels = vec![Some(to)];
    loop {
        let items = description.next().await?;
        if items.is_empty() {
            return Ok(false);
        }
        let looking = blocking(move || {
            let found = items.iter().any(|item| is_conflict(&mut levels, item));
            Ok((found, levels))
        });
        let (found, rest) = looking.await?;
        if found {
            return Ok(true);
        }
        levels = rest;
    }
}

/// Follows one step of the walk; `levels` has the local directories that exist.
fn is_conflict(levels: &mut Vec<Option<PathBuf>>, item: &TreeItem) -> bool {
    let local = |entry: &Entry, levels: &[Option<PathBuf>]| {
        let directory = levels.last()?.as_deref()?;
        local_entry(directory, &entry.name).ok()
    };
    match item {
        TreeItem::Described(entry) | TreeItem::Enclosed(entry) => {
            entry.attributes.kind == EntryKind::File
                && local(entry, levels).is_some_and(|path| fs::symlink_metadata(path).is_ok())
        }
        TreeItem::Entered(entry) => {
            let below = local(entry, levels).filter(|path| path.is_dir());
            levels.push(below);
            false
        }
        TreeItem::Left(_) => {
            levels.pop();
            false
        }
        TreeItem::Missed(_) => false,
    }
}

/// Counts the bytes of the directory `from` for the progress of `transfer`.
pub(super) async fn survey(
    connection: &Connection,
    from: RemotePath,
    transfer: &Transfer,
) -> Result<(), ClientError> {
    let opening = Description::open(connection, from, DetailKinds::default());
    let (mut description, _) = opening.await?;
    loop {
        let items = description.next().await?;
        if items.is_empty() {
            return Ok(());
        }
        for item in items {
            if let TreeItem::Described(entry) | TreeItem::Enclosed(entry) = item
                && entry.attributes.kind == EntryKind::File
            {
                transfer.foresee(entry.attributes.size);
            }
        }
    }
}
