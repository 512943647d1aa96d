//! The transfers of a sync from a server to here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::limits::ENCLOSED_BYTES_MAX;

use super::Run;
use super::names::PlannedNames;
use crate::blocking::blocking;
use crate::client::Client;
use crate::error::ClientError;
use crate::save::SaveOptions;
use crate::transfer::engine::Transfer;
use crate::transfer::fetch::{FetchQueues, fetch_queues};
use crate::transfer::first_names::NameOfFile;
use crate::transfer::job::{DownloadKind, FetchOptions, FileDownload, SymlinkDownload};
use crate::transfer::leave::Leave;
use crate::transfer::local_dir::{GivenToDir, LocalDir, finish};
use crate::transfer::sync::plan::{PlannedDirectory, TransferStep};
use crate::transfer::sync::resolve::{StepReader, spooling};
use crate::transfer::sync::side::{joined_path, local_path};
use crate::transfer::sync::spool::SpoolReader;
use crate::upload::Links;

/// Downloads what is left of `steps`.
pub(super) async fn run(
    run: &Run<'_>,
    (client, from, to): (&Client, &RemotePath, &Path),
    mut steps: SpoolReader<TransferStep>,
) -> Result<(), ClientError> {
    let transfer = &run.report.transfer;
    let options = FetchOptions {
        recursive: true,
        digest: run.job.options.digest,
        save: SaveOptions {
            overwrite: true,
            sync: run.job.options.fsync,
            preserve: run.job.options.preserve,
            keep: run.job.options.keep,
        },
        leave: Leave::Nothing,
        survey: false,
        delta: run.job.options.delta,
        links: run.job.options.links,
        hard_links: run.job.options.hard_links,
    };
    let (queues, fetching) = fetch_queues(client, options, transfer);
    let (report, resolved) = (Arc::clone(run.report), Arc::clone(&run.resolved));
    let mut walk = DownloadWalk {
        from: from.clone(),
        to: to.to_owned(),
        save: options.save,
        transfer: Arc::clone(transfer),
        queues,
        levels: Vec::new(),
        planned_names: PlannedNames::default(),
    };
    let walking = blocking(move || {
        let mut reader = StepReader::new(&mut steps, &resolved).map_err(spooling)?;
        while let Some((_, step)) = reader.next().map_err(spooling)? {
            if let Some(step) = step.step() {
                report.step(&step);
            }
            if walk.step(step)?.is_none() {
                break;
            }
        }
        walk.leave_all();
        Ok(())
    });
    let (walked, ()) = tokio::join!(walking, fetching);
    walked
}

/// Makes the directories, and queues the files.
struct DownloadWalk {
    from: RemotePath,
    to: PathBuf,
    save: SaveOptions,
    transfer: Arc<Transfer>,
    queues: FetchQueues,
    /// The directories that were entered; none for one that couldn't be made.
    levels: Vec<Option<Arc<LocalDir>>>,
    planned_names: PlannedNames,
}

impl DownloadWalk {
    /// Takes a step; nothing if no more are wanted.
    fn step(&mut self, step: TransferStep) -> Result<Option<()>, ClientError> {
        match step {
            TransferStep::Enter(directory) => {
                let made = self.make(&directory)?;
                self.levels.push(made);
            }
            TransferStep::File(file) => {
                let Some(Some(directory)) = self.levels.last() else {
                    self.transfer.add_failed(1);
                    return Ok(Some(()));
                };
                let (from, to) = (self.from.clone(), self.to.clone());
                let place =
                    |path: &RemotePath| Ok((joined_path(&from, path)?, local_path(&to, path)?));
                let name_of = self.planned_names.name_of(&file, place)?;
                if !matches!(name_of, NameOfFile::Other(_)) {
                    self.transfer.expect(file.size);
                }
                // Those with several names are in one queue, the first before the others.
                let is_alone = matches!(name_of, NameOfFile::Alone);
                let queue = match is_alone && file.size <= ENCLOSED_BYTES_MAX as u64 {
                    true => &self.queues.many,
                    false => &self.queues.singles,
                };
                let (from, to) = place(&file.path)?;
                let job = FileDownload {
                    from,
                    to,
                    kind: DownloadKind::of(name_of),
                    described_size: Some(file.size),
                    directory: Some(Arc::clone(directory)),
                };
                return Ok(queue.blocking_send(job).ok());
            }
            TransferStep::Link(link) => {
                let Some(Some(directory)) = self.levels.last() else {
                    self.transfer.add_failed(1);
                    return Ok(Some(()));
                };
                let job = FileDownload {
                    from: joined_path(&self.from, &link.path)?,
                    to: local_path(&self.to, &link.path)?,
                    kind: DownloadKind::Symlink(SymlinkDownload {
                        target: Some(link.target),
                        modified: link.modified,
                        depth: link.path.names().len().saturating_sub(1),
                    }),
                    described_size: Some(0),
                    directory: Some(Arc::clone(directory)),
                };
                return Ok(self.queues.singles.blocking_send(job).ok());
            }
            TransferStep::Leave => self.leave(),
        }
        Ok(Some(()))
    }

    fn make(&self, planned: &PlannedDirectory) -> Result<Option<Arc<LocalDir>>, ClientError> {
        let path = local_path(&self.to, &planned.path)?;
        let parent = match self.levels.last() {
            None => None,
            Some(Some(parent)) => Some(Arc::clone(parent)),
            // That of the parent was reported.
            Some(None) => {
                self.transfer.add_failed(1);
                return Ok(None);
            }
        };
        // The target was named by the user.
        let links = match planned.path.is_root() {
            true => Links::Follow,
            false => Links::Refuse,
        };
        let given = GivenToDir {
            modified: planned.modified,
            mode: planned.mode,
            details: planned.details.clone(),
        };
        match LocalDir::make(path.clone(), given, self.save, parent, links) {
            Ok(directory) => {
                if planned.is_new {
                    self.transfer.add_directory();
                }
                Ok(Some(Arc::new(directory)))
            }
            Err(error) => {
                self.transfer.fail(path, error);
                Ok(None)
            }
        }
    }

    fn leave(&mut self) {
        if let Some(Some(directory)) = self.levels.pop() {
            finish(directory, &self.transfer);
        }
    }

    fn leave_all(&mut self) {
        while !self.levels.is_empty() {
            self.leave();
        }
    }
}
