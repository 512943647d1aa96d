//! Carrying out the plan of a sync: renames first, then transfers, and deletions last.

mod changes;
mod download;
mod names;
mod upload;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quire_shared::RemotePath;
use quire_shared::protocol::EntryKind;

use super::compare::{Comparison, SourceWalk};
use super::plan::{
    FileCount, PlannedDeletion, PlannedFile, PlannedMode, PlannedState, SyncPlan, TransferStep,
};
use super::resolve::{ResolvedNames, Resolver, StepReader, spooling};
use super::side::SyncSide;
use super::spool::{Spool, SpoolReader};
use super::{SyncAction, SyncJob, SyncReport, SyncStep};
use crate::blocking::blocking;
use crate::error::ClientError;

use changes::TargetChanges;

/// Compares both sides, and makes the target what the source is.
pub(super) async fn run(job: &SyncJob, report: &Arc<SyncReport>) -> Result<(), ClientError> {
    let Some(mut plan) = compare(job, report).await? else {
        return Ok(());
    };
    let deletion = job.options.deletion;
    if plan.is_source_empty && deletion.is_some_and(|deletion| !deletion.may_empty) {
        return Err(ClientError::SourceEmpty);
    }
    let transfers = std::mem::take(&mut plan.transfers);
    let mut steps = transfers.into_reader().map_err(spooling)?;
    let resolver = Resolver {
        source: &job.source,
        target: &job.target,
        digest: job.options.digest,
        links: job.options.links.of_files(),
    };
    let resolved = Arc::new(resolver.run(&mut plan, &mut steps).await?);
    if let Some(max) = deletion.and_then(|deletion| deletion.max) {
        let count = count_deletions(&mut plan, &resolved)?;
        if count > max {
            return Err(ClientError::TooManyDeletions { count, max });
        }
    }
    count(&plan, &resolved, report);
    let run = Run {
        job,
        report,
        resolved,
    };
    match job.options.dry_run {
        true => run.tell(plan, steps),
        false => run.carry_out(plan, steps).await,
    }
}

/// Compares both sides; no plan is made if the source can't be read, which is reported.
async fn compare(job: &SyncJob, report: &Arc<SyncReport>) -> Result<Option<SyncPlan>, ClientError> {
    let (job, report) = (job.clone(), Arc::clone(report));
    blocking(move || {
        let transfer = &report.transfer;
        let source = match SourceWalk::begin(&job.source, &job.options) {
            Ok(source) => source,
            Err(error) => {
                transfer.fail(job.source.name_of(&RemotePath::ROOT), error);
                return Ok(None);
            }
        };
        Comparison::begin(source, &job, transfer)?.run().map(Some)
    })
    .await
}

/// Counts what is going to be deleted.
fn count_deletions(plan: &mut SyncPlan, resolved: &ResolvedNames) -> Result<u64, ClientError> {
    let mut count = 0;
    for spool in [&mut plan.conflicts, &mut plan.deletions] {
        let mut position = 0;
        while let Some((deletion, next)) = spool.read_next(position).map_err(spooling)? {
            count += resolved.count(&deletion);
            position = next;
        }
    }
    Ok(count)
}

/// Counts what isn't transferred.
fn count(plan: &SyncPlan, resolved: &ResolvedNames, report: &SyncReport) {
    let FileCount { files, bytes } = plan.same;
    let files = files + resolved.same.files;
    let bytes = bytes + resolved.spared();
    report.same.fetch_add(files, Ordering::Relaxed);
    report.saved.fetch_add(bytes, Ordering::Relaxed);
}

/// A plan that is carried out.
struct Run<'a> {
    job: &'a SyncJob,
    report: &'a Arc<SyncReport>,
    resolved: Arc<ResolvedNames>,
}

impl Run<'_> {
    /// Reports what would be done, in the same order.
    fn tell(
        &self,
        plan: SyncPlan,
        mut steps: SpoolReader<TransferStep>,
    ) -> Result<(), ClientError> {
        self.tell_deletions(plan.conflicts)?;
        for moved in &self.resolved.moves {
            self.report.step(&moved.step());
            self.report.renamed.fetch_add(1, Ordering::Relaxed);
        }
        let mut reader = StepReader::new(&mut steps, &self.resolved).map_err(spooling)?;
        while let Some((_, step)) = reader.next().map_err(spooling)? {
            if let Some(step) = step.step() {
                self.report.step(&step);
            }
        }
        let mut modes = plan.modes.into_reader().map_err(spooling)?;
        while let Some(mode) = modes.next().map_err(spooling)? {
            self.report.step(&mode.step());
        }
        self.tell_deletions(plan.deletions)
    }

    fn tell_deletions(&self, deletions: Spool<PlannedDeletion>) -> Result<(), ClientError> {
        let mut deletions = deletions.into_reader().map_err(spooling)?;
        while let Some(deletion) = deletions.next().map_err(spooling)? {
            let count = self.resolved.count(&deletion);
            if count > 0 {
                self.report.step(&step_of_deletion(&deletion));
                self.report.deleted.fetch_add(count, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        plan: SyncPlan,
        mut steps: SpoolReader<TransferStep>,
    ) -> Result<(), ClientError> {
        let transfer = &self.report.transfer;
        let changes = self.changes();
        let failed = transfer.failed();
        changes.delete(plan.conflicts).await?;
        changes.rename().await;
        if self.job.options.backup.is_some() {
            let before = transfer.failed();
            steps = changes.back_up(steps).await?;
            let failed = transfer.failed() - before;
            if failed > 0 {
                return Err(ClientError::NoBackup { failed });
            }
        }
        transfer.foresee(plan.bytes.saturating_sub(self.resolved.spared()));
        transfer.foresee_no_more();
        if !transfer.is_lost() {
            self.transfer(steps).await?;
        }
        changes.set_modes(plan.modes).await?;
        let failed = transfer.failed() - failed;
        if transfer.is_lost() {
            return Ok(());
        }
        // What failed may be the new name of what is to be deleted.
        match failed {
            0 => changes.delete(plan.deletions).await?,
            failed if !plan.deletions.is_empty() => {
                let name = self.job.target.name_of(&RemotePath::ROOT);
                transfer.fail(name, ClientError::NothingDeleted { failed });
            }
            _ => {}
        }
        if transfer.is_lost() {
            return Ok(());
        }
        changes.restore_directories(plan.directories).await
    }

    async fn transfer(&self, steps: SpoolReader<TransferStep>) -> Result<(), ClientError> {
        match (&self.job.source, &self.job.target) {
            (SyncSide::Server(client, from), SyncSide::Local(to)) => {
                download::run(self, (client, from, to), steps).await
            }
            (source, SyncSide::Server(client, to)) => {
                upload::run(self, source, (client, to), steps).await;
                Ok(())
            }
            // It was refused before.
            (SyncSide::Local(_), SyncSide::Local(_)) => Ok(()),
        }
    }

    fn changes(&self) -> TargetChanges<'_> {
        TargetChanges {
            job: self.job,
            report: self.report,
            resolved: &self.resolved,
        }
    }
}

fn step(action: SyncAction, path: RemotePath) -> SyncStep {
    SyncStep {
        action,
        path,
        from: None,
        kind: EntryKind::File,
        bytes: 0,
    }
}

fn step_of_deletion(deletion: &PlannedDeletion) -> SyncStep {
    SyncStep {
        kind: match deletion.kind {
            EntryKind::Other => EntryKind::File,
            kind => kind,
        },
        ..step(SyncAction::Deleted, deletion.path.clone())
    }
}

impl super::resolve::Move {
    fn step(&self) -> SyncStep {
        SyncStep {
            from: Some(self.from.clone()),
            kind: match self.is_directory {
                true => EntryKind::Directory,
                false => EntryKind::File,
            },
            ..step(SyncAction::Renamed, self.to.clone())
        }
    }
}

impl PlannedMode {
    fn step(&self) -> SyncStep {
        let action = match self.sets_mode {
            true => SyncAction::Mode,
            false => SyncAction::Details,
        };
        step(action, self.path.clone())
    }
}

impl TransferStep {
    /// What is reported of it, if it changes anything.
    fn step(&self) -> Option<SyncStep> {
        match self {
            Self::Enter(directory) if directory.is_new && !directory.path.is_root() => {
                Some(SyncStep {
                    kind: EntryKind::Directory,
                    ..step(SyncAction::New, directory.path.clone())
                })
            }
            Self::File(file) => Some(file.step()),
            Self::Link(link) => Some(SyncStep {
                kind: EntryKind::Symlink,
                ..step(action_of(link.state), link.path.clone())
            }),
            Self::Enter(_) | Self::Leave => None,
        }
    }
}

impl PlannedFile {
    fn step(&self) -> SyncStep {
        SyncStep {
            bytes: self.size,
            ..step(action_of(self.state), self.path.clone())
        }
    }
}

fn action_of(state: PlannedState) -> SyncAction {
    match state {
        PlannedState::New => SyncAction::New,
        PlannedState::Changed | PlannedState::Unknown => SyncAction::Changed,
    }
}
