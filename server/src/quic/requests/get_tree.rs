//! `GetTree`: a directory and everything below it, on one stream.
//!
//! A blocking thread walks the tree ahead of the network, and packs it into batches: small files
//! with their content, all else with attributes only. One batch is packed while another is being
//! sent.

use bytes::Bytes;
use quire_shared::Name;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{Entry, GetTree, Left, Missed, Reply, TreeItem};
use quire_transport::stream::{Priority, Sender};

use crate::files::{Caller, Error, Files, OpenFile, StoreError, TreeEntry, Visitor};
use crate::quic::enclosures::{Enclosed, Enclosures};
use crate::quic::error::RequestError;
use crate::quic::reply::failure;

/// Sends the attributes of the directory, then batch after batch.
pub(crate) async fn serve(
    request: GetTree,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let digest = request.digest;
    let size_max = request.enclose_max.min(ENCLOSED_BYTES_MAX as u64);
    let (walk, attributes) = files.walk(caller, &request, size_max).await?;
    sender.send(&Reply::Ok(attributes)).await?;
    sender.set_priority(Priority::Bulk);
    let (mut walk, mut packer) = walk.advance(Packer(Enclosures::new(digest))).await?;
    while !walk.has_ended() {
        let sending = sender.send_bytes(packer.0.into_bytes().into());
        let packing = walk.advance(Packer(Enclosures::new(digest)));
        let (sent, packed) = tokio::join!(sending, packing);
        sent?;
        (walk, packer) = packed?;
    }
    sender
        .send_bytes(Bytes::from(packer.0.into_bytes()))
        .await?;
    sender.finish_and_wait().await?;
    Ok(())
}

/// Encodes the entries of a walk as one batch.
struct Packer(Enclosures);

impl Packer {
    /// Appends a file with its content. A file that changes during that gets its attributes only.
    /// The client can fetch it with a `Get`, or learns from that that it changes all the time.
    fn enclose(&mut self, name: Name, file: &OpenFile) -> Result<(), RequestError> {
        let attributes = file.attributes.clone();
        let entry = Entry { name, attributes };
        let enclosing = TreeItem::Enclosed(entry.clone());
        let instead = match self.0.enclose(&enclosing, file)? {
            Enclosed::Whole => return Ok(()),
            Enclosed::Changed => TreeItem::Described(entry),
            Enclosed::Failed(error) => missed(entry.name, error.into()),
        };
        self.0.append(&instead)
    }
}

impl Visitor for Packer {
    fn found(&mut self, found: TreeEntry) -> Result<(), Error> {
        let packed = match found {
            TreeEntry::File(name, file) => self.enclose(name, &file),
            other => self.0.append(&item(other)),
        };
        // The limits of names make every item fit into a message, so this is a defect.
        packed.map_err(|_| StoreError::Internal("an item of a tree is too long").into())
    }

    fn is_full(&self) -> bool {
        self.0.is_full()
    }
}

/// Makes the item of an entry whose content isn't enclosed.
fn item(found: TreeEntry) -> TreeItem {
    match found {
        TreeEntry::Entered(entry) => TreeItem::Entered(entry),
        TreeEntry::Described(entry) => TreeItem::Described(entry),
        TreeEntry::File(name, file) => TreeItem::Described(Entry {
            name,
            attributes: file.attributes,
        }),
        TreeEntry::Missed(name, error) => missed(name, error),
        TreeEntry::Left {
            unnameable,
            failure: error,
        } => TreeItem::Left(Left {
            unnameable: unnameable.count,
            failure: error.map(failure),
            raw_names: unnameable.names,
        }),
    }
}

/// Makes the item of an entry that can't be sent.
fn missed(name: Name, error: Error) -> TreeItem {
    let failure = failure(error);
    TreeItem::Missed(Missed { name, failure })
}
