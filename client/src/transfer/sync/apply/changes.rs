//! The steps of a sync that move no content: renames, deletions, backups and attributes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quire_shared::protocol::SetAttributes;

use super::step_of_deletion;
use crate::blocking::blocking;
use crate::error::ClientError;
use crate::save::SaveOptions;
use crate::transfer::deliver::deliver_attributes;
use crate::transfer::engine::Transfer;
use crate::transfer::item_name::ItemName;
use crate::transfer::job::StoreOptions;
use crate::transfer::jobs::AtOnce;
use crate::transfer::local_dir::{GivenToDir, LocalDir};
use crate::transfer::sync::plan::{
    PlannedDeletion, PlannedDirectory, PlannedMode, PlannedState, TransferStep,
};
use crate::transfer::sync::resolve::{ResolvedNames, StepReader, spooling};
use crate::transfer::sync::side::{SyncSide, joined_path, local_path};
use crate::transfer::sync::spool::{Spool, SpoolReader};
use crate::transfer::sync::{SyncJob, SyncReport};

/// Changes at the target that are planned.
pub(super) struct TargetChanges<'a> {
    pub(super) job: &'a SyncJob,
    pub(super) report: &'a Arc<SyncReport>,
    pub(super) resolved: &'a ResolvedNames,
}

/// Changes that run, some at once.
struct ChangesAtOnce<'a> {
    running: AtOnce<EndedChange>,
    transfer: &'a Transfer,
}

/// How a change ended: what it was about, and where it counts if it succeeded.
struct EndedChange {
    name: ItemName,
    result: Result<u64, ClientError>,
}

impl<'a> ChangesAtOnce<'a> {
    fn new(transfer: &'a Transfer) -> Self {
        Self {
            running: AtOnce::new(CHANGES_AT_ONCE),
            transfer,
        }
    }

    /// Begins a change, which returns how many it counts for.
    async fn add(
        &mut self,
        counter: &AtomicU64,
        name: ItemName,
        change: impl Future<Output = Result<u64, ClientError>> + Send + 'static,
    ) {
        let change = async move {
            let result = change.await;
            EndedChange { name, result }
        };
        let ended = self.running.add(change).await;
        self.note(counter, ended);
    }

    /// Waits for the end of all.
    async fn end(&mut self, counter: &AtomicU64) {
        while !self.running.is_empty() {
            let ended = self.running.next().await;
            self.note(counter, ended);
        }
    }

    fn note(&self, counter: &AtomicU64, ended: Option<EndedChange>) {
        let Some(EndedChange { name, result }) = ended else {
            return;
        };
        match result {
            Ok(count) => {
                counter.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => self.transfer.fail(name, error),
        }
    }
}

impl TargetChanges<'_> {
    /// Gives what has another name at the source that name.
    pub(super) async fn rename(&self) {
        let counter = &self.report.renamed;
        let mut changes = ChangesAtOnce::new(&self.report.transfer);
        for moved in &self.resolved.moves {
            if self.report.transfer.is_lost() {
                return;
            }
            self.report.step(&moved.step());
            let (target, moved) = (self.job.target.clone(), moved.clone());
            let name = target.name_of(&moved.to);
            let change = async move {
                let to = (&target, &moved.to);
                target.rename(&moved.from, to, false).await?;
                Ok(1)
            };
            changes.add(counter, name, change).await;
        }
        changes.end(counter).await;
    }

    /// Deletes, or moves to the backup directory.
    pub(super) async fn delete(
        &self,
        deletions: Spool<PlannedDeletion>,
    ) -> Result<(), ClientError> {
        let counter = &self.report.deleted;
        let mut changes = ChangesAtOnce::new(&self.report.transfer);
        let mut deletions = deletions.into_reader().map_err(spooling)?;
        while let Some(deletion) = deletions.next().map_err(spooling)? {
            let count = self.resolved.count(&deletion);
            if count == 0 {
                continue;
            }
            if deletion.is_directory() && deletion.below == 0 {
                // What was in it goes first.
                changes.end(counter).await;
            }
            if self.report.transfer.is_lost() {
                return Ok(());
            }
            self.report.step(&step_of_deletion(&deletion));
            let name = self.job.target.name_of(&deletion.path);
            let target = self.job.target.clone();
            let backup = self.job.options.backup.clone();
            let change = async move {
                match backup {
                    // An empty directory is no loss.
                    Some(backup) if !deletion.is_directory() || deletion.below > 0 => {
                        let to = (&backup, &deletion.path);
                        target.rename(&deletion.path, to, true).await?;
                    }
                    _ => target.delete(&deletion).await?,
                }
                Ok(count)
            };
            changes.add(counter, name, change).await;
        }
        changes.end(counter).await;
        Ok(())
    }

    /// Copies what is going to be replaced to the backup directory.
    pub(super) async fn back_up(
        &self,
        mut steps: SpoolReader<TransferStep>,
    ) -> Result<SpoolReader<TransferStep>, ClientError> {
        let counter = AtomicU64::new(0);
        let mut changes = ChangesAtOnce::new(&self.report.transfer);
        let mut reader = StepReader::new(&mut steps, self.resolved).map_err(spooling)?;
        while let Some((_, step)) = reader.next().map_err(spooling)? {
            let TransferStep::File(file) = step else {
                continue;
            };
            let Some(backup) = self.job.options.backup.clone() else {
                continue;
            };
            if file.state != PlannedState::New {
                let target = self.job.target.clone();
                let name = target.name_of(&file.path);
                let details = self.job.options.keep.kinds;
                let change = async move {
                    target.copy(&file.path, &backup, details).await?;
                    Ok(1)
                };
                changes.add(&counter, name, change).await;
            }
        }
        changes.end(&counter).await;
        Ok(steps)
    }

    /// Sets permissions and details of files whose content stays.
    pub(super) async fn set_modes(&self, modes: Spool<PlannedMode>) -> Result<(), ClientError> {
        let counter = AtomicU64::new(0);
        let mut changes = ChangesAtOnce::new(&self.report.transfer);
        let mut modes = modes.into_reader().map_err(spooling)?;
        while let Some(mode) = modes.next().map_err(spooling)? {
            if self.report.transfer.is_lost() {
                return Ok(());
            }
            self.report.step(&mode.step());
            let target = self.job.target.clone();
            let name = target.name_of(&mode.path);
            let keep = self.job.options.keep;
            let change = async move {
                let set = target.set_mode(&mode).await;
                set.map_err(|error| error.of_details(keep))?;
                Ok(1)
            };
            changes.add(&counter, name, change).await;
        }
        changes.end(&counter).await;
        Ok(())
    }

    /// Gives directories the attributes that what was done in them has changed.
    pub(super) async fn restore_directories(
        &self,
        directories: Spool<PlannedDirectory>,
    ) -> Result<(), ClientError> {
        if directories.is_empty() {
            return Ok(());
        }
        let mut directories = directories.into_reader().map_err(spooling)?;
        let preserve = self.job.options.preserve;
        match &self.job.target {
            SyncSide::Local(target) => {
                let (target, transfer) = (target.clone(), Arc::clone(&self.report.transfer));
                let save = SaveOptions {
                    preserve,
                    keep: self.job.options.keep,
                    ..SaveOptions::default()
                };
                blocking(move || {
                    while let Some(directory) = directories.next().map_err(spooling)? {
                        let path = local_path(&target, &directory.path)?;
                        let given = GivenToDir {
                            modified: directory.modified,
                            mode: directory.mode,
                            details: directory.details,
                        };
                        if let Err(error) = LocalDir::restore(path.clone(), given, save) {
                            transfer.fail(path, error);
                        }
                    }
                    Ok(())
                })
                .await
            }
            SyncSide::Server(client, target) => {
                let next = || loop {
                    let directory = directories.next().map_err(spooling)?;
                    let Some(directory) = directory else {
                        return Ok(None);
                    };
                    let path = joined_path(target, &directory.path)?;
                    // The root of a server keeps its own.
                    if !path.is_root() {
                        return Ok(Some(SetAttributes {
                            path,
                            modified: Some(directory.modified),
                            mode: Some(directory.mode),
                            preserve,
                            details: directory.details,
                        }));
                    }
                };
                let options = StoreOptions {
                    keep: self.job.options.keep,
                    ..StoreOptions::default()
                };
                let transfer = &self.report.transfer;
                deliver_attributes(client.connection(), next, options, transfer).await
            }
        }
    }
}

/// Changes at once: as many as hide the round trips.
const CHANGES_AT_ONCE: usize = 32;
