//! What is offered to the server of a local file or directory: its attributes, and its details if they are
//! kept.

use std::fs::Metadata;
use std::path::Path;

use quire_shared::RemotePath;
use quire_shared::protocol::{Precondition, Put, SetAttributes};

use super::UploadPacker;
use crate::attributes;
use crate::error::ClientError;
use crate::transfer::job::StoreOptions;
use crate::upload::LocalFile;

impl UploadPacker {
    /// The attributes that a directory gets in the end; none for the root, which keeps its own.
    pub(super) fn attributes(
        &self,
        from: &Path,
        to: &RemotePath,
        metadata: &Metadata,
    ) -> Option<SetAttributes> {
        if to.is_root() {
            return None;
        }
        let details = self.options.keep.of_directory(from);
        Some(SetAttributes {
            path: to.clone(),
            modified: attributes::modified(metadata),
            mode: attributes::mode(metadata),
            preserve: self.options.preserve,
            details: details.unwrap_or_else(|error| {
                self.transfer.fail(from, error);
                None
            }),
        })
    }
}

impl StoreOptions {
    /// The offer of a local file, without its size.
    ///
    /// # Errors
    /// If its details can't be read.
    pub(in crate::transfer) fn put(
        &self,
        file: &LocalFile,
        path: RemotePath,
        make_parents: bool,
    ) -> Result<Put, ClientError> {
        Ok(Put {
            path,
            size: None,
            modified: file.modified(),
            mode: file.mode(),
            digest: self.digest,
            precondition: Precondition::of_target(self.overwrite),
            make_parents,
            preserve: self.preserve,
            details: file.details(self.keep)?,
        })
    }
}
