//! `GetTree`: a directory with all that is below it, on one stream.
//!
//! A blocking thread walks ahead of the network and packs what it finds into batches: small files
//! whole, the rest described. One batch is always being packed while another is being sent.

use bytes::Bytes;
use quire_shared::Name;
use quire_shared::digest::DigestKind;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{Entry, GetTree, Left, Missed, Reply, Trailer, TreeItem};
use quire_transport::stream::{Priority, Sender};

use crate::files::{Caller, Error, Files, OpenFile, StoreError, TreeEntry, Visitor};
use crate::quic::error::RequestError;
use crate::quic::reply::{append, failure};

/// Sends what is known of the directory, then batch after batch.
pub(crate) async fn serve(
    request: GetTree,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let GetTree {
        path,
        digest,
        enclose_max,
    } = request;
    let size_max = enclose_max.min(ENCLOSED_BYTES_MAX as u64);
    let (walk, attributes) = files.walk(caller, &path, size_max).await?;
    sender.send(&Reply::Ok(attributes)).await?;
    sender.set_priority(Priority::Bulk);
    let (mut walk, mut packer) = walk.advance(Packer::new(digest)).await?;
    while !walk.has_ended() {
        let sending = sender.send_bytes(packer.bytes.into());
        let packing = walk.advance(Packer::new(digest));
        let (sent, packed) = tokio::join!(sending, packing);
        sent?;
        (walk, packer) = packed?;
    }
    sender.send_bytes(Bytes::from(packer.bytes)).await?;
    sender.finish_and_wait().await?;
    Ok(())
}

/// Packs what a walk finds into one batch.
struct Packer {
    digest: DigestKind,
    bytes: Vec<u8>,
}

impl Packer {
    fn new(digest: DigestKind) -> Self {
        let bytes = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8);
        Self { digest, bytes }
    }

    /// Adds a file whole. One that changes meanwhile is described instead: a client that asks for it
    /// by itself gets it, or hears that it changes all the time.
    fn enclose(&mut self, name: Name, file: &OpenFile) -> Result<(), RequestError> {
        let attributes = file.attributes.clone();
        let entry = Entry { name, attributes };
        let start = self.bytes.len();
        append(&TreeItem::Enclosed(entry.clone()), &mut self.bytes)?;
        let body = self.bytes.len();
        let instead = match file.read_to_end(&mut self.bytes) {
            Ok(true) => {
                let mut hasher = self.digest.hasher();
                hasher.update(self.bytes.get(body..).unwrap_or_default());
                let digest = hasher.finish();
                return append(&Reply::Ok(Trailer { digest }), &mut self.bytes);
            }
            Ok(false) => TreeItem::Described(entry),
            Err(error) => missed(entry.name, error.into()),
        };
        self.bytes.truncate(start);
        append(&instead, &mut self.bytes)
    }
}

impl Visitor for Packer {
    fn found(&mut self, found: TreeEntry) -> Result<(), Error> {
        let packed = match found {
            TreeEntry::File(name, file) => self.enclose(name, &file),
            other => append(&item(other), &mut self.bytes),
        };
        // An item always fits into a message, so this is a defect.
        packed.map_err(|_| StoreError::Internal("an item of a tree is too long").into())
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }
}

/// What is said of anything but a file that is enclosed.
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
            failure: why,
        } => TreeItem::Left(Left {
            unnameable,
            failure: why.map(failure),
        }),
    }
}

/// Tells that what has `name` can't be sent.
fn missed(name: Name, error: Error) -> TreeItem {
    let failure = failure(error);
    TreeItem::Missed(Missed { name, failure })
}

/// Bytes per batch, not counting the end of its last file: handing one over costs about 30 µs,
/// while sixty files of 4 KiB take some ten times that to open and read.
const BATCH_BYTES: usize = 256 * 1024;
