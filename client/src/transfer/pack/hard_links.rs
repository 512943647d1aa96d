//! Files with several names in a directory that is stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::Precondition;

use super::{Stopped, UploadPacker};
use crate::transfer::first_names::NameOfFile;
use crate::transfer::job::{FileUpload, UploadKind, UploadSource};
use crate::transfer::links::key_of;
use crate::transfer::remote_dir::RemoteDir;
use crate::upload::Links;

impl UploadPacker {
    /// What the local file `path` is among the names of its file.
    pub(super) fn name_of(&mut self, (path, links): (&Path, Links), to: &RemotePath) -> NameOfFile {
        if !self.options.hard_links {
            return NameOfFile::Alone;
        }
        match links.look(path).ok().as_ref().and_then(key_of) {
            Some(key) => {
                let place = (to, path.to_owned());
                self.first_names.name_of(key, place, &self.transfer)
            }
            None => NameOfFile::Alone,
        }
    }

    /// Packs a file, or makes a job of it that gives another name to one that was sent before.
    pub(super) fn named_file(
        &mut self,
        from: (PathBuf, Links),
        to: RemotePath,
        place: (&Arc<RemoteDir>, Precondition),
        name_of: NameOfFile,
    ) -> Result<(), Stopped> {
        let other = match name_of {
            NameOfFile::Alone => return self.file(from, to, place, None),
            NameOfFile::First(guard) => return self.file(from, to, place, Some(guard)),
            NameOfFile::Other(other) => other,
        };
        let ((path, links), (directory, precondition)) = (from, place);
        self.other_name(FileUpload {
            from: UploadSource::Local(path),
            to,
            kind: UploadKind::HardLink(other),
            links,
            precondition,
            directory: Some(Arc::clone(directory)),
        })
    }

    /// Queues the job of another name. It waits for the first one, so that has to be on its way.
    pub(super) fn other_name(&mut self, job: FileUpload) -> Result<(), Stopped> {
        if self.has_first_names {
            self.flush()?;
        }
        self.send_job(job)
    }
}
