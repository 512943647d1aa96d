//! Packing of what a plan names, instead of what a walk finds.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::Precondition;

use super::{Stopped, UploadPacker};
use crate::transfer::remote_dir::RemoteDir;

/// A step through what is to be stored, where that is known beforehand. A directory comes before what
/// is in it.
#[derive(Debug)]
pub(in crate::transfer) enum PlannedUpload {
    Enter {
        from: PathBuf,
        to: RemotePath,
        /// Whether it has to be made on the server.
        is_new: bool,
    },
    File {
        from: PathBuf,
        to: RemotePath,
        precondition: Precondition,
    },
    Leave,
}

impl UploadPacker {
    /// Packs what a plan says, step by step. Blocks.
    pub(in crate::transfer) fn run_planned(
        mut self,
        mut next: impl FnMut() -> Option<PlannedUpload>,
    ) -> Result<(), Stopped> {
        let mut levels: Vec<Arc<RemoteDir>> = Vec::new();
        while let Some(step) = next() {
            match step {
                PlannedUpload::Enter { from, to, is_new } => {
                    let attributes = match fs::metadata(&from) {
                        Ok(metadata) if is_new => self.attributes(&to, &metadata),
                        Ok(_) | Err(_) => None,
                    };
                    let parent = levels.last().cloned();
                    levels.push(self.directory(to, attributes, parent, is_new)?);
                }
                PlannedUpload::File {
                    from,
                    to,
                    precondition,
                } => {
                    let Some(directory) = levels.last() else {
                        continue;
                    };
                    match directory.is_missing() {
                        true => directory.leave_out(1),
                        false => self.file(from, to, directory, precondition)?,
                    }
                }
                PlannedUpload::Leave => drop(levels.pop()),
            }
        }
        drop(levels);
        self.flush()
    }
}
