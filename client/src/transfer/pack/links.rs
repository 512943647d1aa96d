//! Symbolic links that a walk finds in a directory that is stored.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use quire_shared::ErrorCode;

use super::{Descent, LocalLevel, Stopped, UploadPacker, remote_entry};
use crate::attributes;
use crate::error::ClientError;
use crate::transfer::engine::SkipReason;
use crate::transfer::job::{FileUpload, UploadKind, UploadSource};
use crate::transfer::links::{LinkPolicy, followed, read_target};
use crate::upload::Links;

impl UploadPacker {
    /// A symbolic link: what becomes of it is for the options to say.
    pub(super) fn found_link(
        &mut self,
        (level, above): (&LocalLevel, &[LocalLevel]),
        entry: &fs::DirEntry,
        path: &Path,
    ) -> Result<Result<Descent, Stopped>, ClientError> {
        let done = match self.options.links {
            LinkPolicy::Skip => {
                self.transfer.skip(path, SkipReason::SymbolicLink);
                Ok(())
            }
            LinkPolicy::Keep => self.keep_link(level, entry, path)?,
            LinkPolicy::Follow => {
                let levels = above.iter().chain([level]).map(|level| level.id);
                let metadata = followed(path, levels)?;
                if metadata.is_dir() {
                    return self.found_directory(level, entry, &metadata);
                }
                match metadata.is_file() {
                    true => self.found_file(level, entry, Links::Follow)?,
                    false => {
                        self.transfer.skip(path, SkipReason::SpecialFile);
                        Ok(())
                    }
                }
            }
        };
        Ok(done.map(|()| Descent::Same))
    }

    /// Has the same link made on the server, which decides whether it would lead out.
    fn keep_link(
        &self,
        level: &LocalLevel,
        entry: &fs::DirEntry,
        path: &Path,
    ) -> Result<Result<(), Stopped>, ClientError> {
        if level.directory.is_missing() {
            level.directory.leave_out(1);
            return Ok(Ok(()));
        }
        let to = remote_entry(level, entry)?;
        let target = read_target(path)?;
        let found = to.name().and_then(|name| level.there.get(name));
        if let Some(found) = found {
            let is_same = || found.target.as_ref() == Some(&target);
            if self.options.leave.leaves_for_link(found.kind, is_same) {
                self.transfer.add_present(0);
                return Ok(Ok(()));
            }
            if !self.options.overwrite {
                self.transfer
                    .fail(to, ClientError::of_code(ErrorCode::EXISTS));
                return Ok(Ok(()));
            }
        }
        let metadata = fs::symlink_metadata(path);
        let modified = metadata.ok().as_ref().and_then(attributes::modified);
        Ok(self.send_job(FileUpload {
            from: UploadSource::Local(path.to_owned()),
            to,
            kind: UploadKind::Symlink(target, modified),
            links: Links::Refuse,
            precondition: self.precondition(),
            directory: Some(Arc::clone(&level.directory)),
        }))
    }
}
