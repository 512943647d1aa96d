//! Batches of what a walk has found, for the one stream that carries them.

use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::codec;
use quire_shared::digest::Digest;
use quire_shared::protocol::{Message, PutItem};

use crate::transfer::first_names::FirstNameGuard;
use crate::transfer::remote_dir::{CompleteDir, RemoteDir};

/// SentItems as they travel, and what is to be known when they are answered, in the same order.
#[derive(Debug, Default)]
pub(in crate::transfer) struct ItemBatch {
    pub(in crate::transfer) bytes: Vec<u8>,
    pub(in crate::transfer) items: Vec<SentItem>,
    /// How many bytes of content there are in it.
    pub(in crate::transfer) content: u64,
}

/// Something that was sent, and is to be answered.
#[derive(Debug)]
pub(in crate::transfer) enum SentItem {
    File(SentFile),
    Directory(Arc<RemoteDir>),
    /// The attributes of a directory that is complete.
    Attributes {
        path: RemotePath,
        /// Is complete only when this is answered.
        _parent: Option<Arc<RemoteDir>>,
    },
}

/// A file that was sent.
#[derive(Debug)]
pub(in crate::transfer) struct SentFile {
    pub(in crate::transfer) local: PathBuf,
    pub(in crate::transfer) remote: RemotePath,
    pub(in crate::transfer) bytes: u64,
    pub(in crate::transfer) digest: Digest,
    pub(in crate::transfer) grew: bool,
    pub(in crate::transfer) directory: Arc<RemoteDir>,
    /// If it is the first name of a file with several.
    pub(in crate::transfer) first: Option<FirstNameGuard>,
}

impl ItemBatch {
    /// Adds the attributes of a directory.
    pub(in crate::transfer) fn add_attributes(&mut self, complete: CompleteDir) {
        let path = complete.set.path.clone();
        self.append(&PutItem::Attributes(complete.set));
        self.items.push(SentItem::Attributes {
            path,
            _parent: complete.parent,
        });
    }

    /// Adds a message. A path within its limits makes none that is over its own.
    pub(in crate::transfer) fn append(&mut self, message: &impl Message) {
        let appended = codec::append(message, &mut self.bytes);
        debug_assert!(appended.is_ok(), "{appended:?}");
    }
}
