//! Packing of what a plan names, instead of what a walk finds.

use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::{Precondition, SetAttributes};

use super::{Stopped, UploadPacker};
use crate::transfer::job::{FileUpload, UploadSource};
use crate::transfer::remote_dir::RemoteDir;
use crate::upload::Links;

/// A step through what is to be stored, where that is known beforehand. A directory comes before what
/// is in it.
#[derive(Debug)]
pub(in crate::transfer) enum PlannedUpload {
    Enter {
        to: RemotePath,
        /// Whether it has to be made on the server.
        is_new: bool,
        /// What it gets in the end.
        attributes: Option<SetAttributes>,
    },
    File {
        from: UploadSource,
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
                PlannedUpload::Enter {
                    to,
                    is_new,
                    attributes,
                } => {
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
                    if directory.is_missing() {
                        directory.leave_out(1);
                        continue;
                    }
                    match from {
                        UploadSource::Local(from) => {
                            self.file(from, to, directory, precondition)?;
                        }
                        from @ UploadSource::Server(..) => self.send_job(FileUpload {
                            from,
                            to,
                            links: Links::Refuse,
                            precondition,
                            directory: Some(Arc::clone(directory)),
                        })?,
                    }
                }
                PlannedUpload::Leave => drop(levels.pop()),
            }
        }
        drop(levels);
        self.flush()
    }
}
