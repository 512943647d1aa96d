//! Packing of what a plan names, instead of what a walk finds.

use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::{Precondition, SetAttributes};

use super::{Stopped, UploadPacker};
use crate::transfer::first_names::NameOfFile;
use crate::transfer::job::{FileUpload, UploadKind, UploadSource};
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
        /// What it is among the names of its file.
        name_of: NameOfFile,
    },
    /// A symbolic link.
    Symlink {
        from: UploadSource,
        to: RemotePath,
        kind: UploadKind,
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
                    name_of,
                } => {
                    if let Some(directory) = there(&levels) {
                        self.planned_file(from, to, (directory, precondition), name_of)?;
                    }
                }
                PlannedUpload::Symlink {
                    from,
                    to,
                    kind,
                    precondition,
                } => {
                    if let Some(directory) = there(&levels) {
                        self.send_job(FileUpload {
                            from,
                            to,
                            kind,
                            links: Links::Refuse,
                            precondition,
                            directory: Some(Arc::clone(directory)),
                        })?;
                    }
                }
                PlannedUpload::Leave => drop(levels.pop()),
            }
        }
        drop(levels);
        self.flush()
    }

    fn planned_file(
        &mut self,
        from: UploadSource,
        to: RemotePath,
        (directory, precondition): (&Arc<RemoteDir>, Precondition),
        name_of: NameOfFile,
    ) -> Result<(), Stopped> {
        match from {
            UploadSource::Local(from) => {
                let links = self.options.links.of_files();
                let place = (directory, precondition);
                self.named_file((from, links), to, place, name_of)
            }
            from @ UploadSource::Server(..) => self.other_name(FileUpload {
                from,
                to,
                kind: UploadKind::of(name_of),
                links: Links::Refuse,
                precondition,
                directory: Some(Arc::clone(directory)),
            }),
        }
    }
}

/// The directory at hand; none if it is missing, which is counted.
fn there(levels: &[Arc<RemoteDir>]) -> Option<&Arc<RemoteDir>> {
    let directory = levels.last()?;
    if directory.is_missing() {
        directory.leave_out(1);
        return None;
    }
    Some(directory)
}
