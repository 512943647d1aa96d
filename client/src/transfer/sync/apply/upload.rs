//! The transfers of a sync to a server, from here or from another server.

use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::{Preserve, SetAttributes};

use super::Run;
use crate::blocking::blocking;
use crate::client::Client;
use crate::error::ClientError;
use crate::transfer::job::{StoreOptions, UploadSource};
use crate::transfer::leave::Leave;
use crate::transfer::pack::{PlannedUpload, UploadPacker};
use crate::transfer::store::store_walked;
use crate::transfer::sync::plan::TransferStep;
use crate::transfer::sync::resolve::{StepReader, spooling};
use crate::transfer::sync::side::{SyncSide, joined_path, local_path};
use crate::transfer::sync::spool::SpoolReader;

/// Uploads what is left of `steps`.
pub(super) async fn run(
    run: &Run<'_>,
    source: &SyncSide,
    (client, to): (&Client, &RemotePath),
    mut steps: SpoolReader<TransferStep>,
) {
    let transfer = &run.report.transfer;
    let options = StoreOptions {
        recursive: true,
        overwrite: true,
        digest: run.job.options.digest,
        leave: Leave::Nothing,
        survey: false,
        are_new: false,
        delta: run.job.options.delta,
        preserve: run.job.options.preserve,
        keep: run.job.options.keep,
    };
    let walk = async |packer: UploadPacker| {
        let (report, resolved) = (Arc::clone(run.report), Arc::clone(&run.resolved));
        let (source, target, preserve) = (source.clone(), to.clone(), options.preserve);
        let walking = blocking(move || {
            let mut reader = StepReader::new(&mut steps, &resolved).map_err(spooling)?;
            let mut failed = Ok(());
            let next = || {
                loop {
                    let step = match reader.next() {
                        Ok(step) => step.map(|(_, step)| step)?,
                        Err(error) => {
                            failed = Err(spooling(error));
                            return None;
                        }
                    };
                    if let Some(step) = step.step() {
                        report.step(&step);
                    }
                    let is_file = matches!(step, TransferStep::File(_));
                    match planned(step, &source, (&target, preserve)) {
                        Ok(planned) => return Some(planned),
                        // The path at the target is over a limit.
                        Err(error) if is_file => report.transfer.fail(&target, error),
                        Err(error) => {
                            failed = Err(error);
                            return None;
                        }
                    }
                }
            };
            // A walk that was stopped has been told why by others.
            let _ = packer.run_planned(next);
            failed
        });
        if let Err(error) = walking.await {
            transfer.fail(to, error);
        }
    };
    store_walked(client, to.clone(), options, transfer, walk).await;
}

fn planned(
    step: TransferStep,
    source: &SyncSide,
    (to, preserve): (&RemotePath, Preserve),
) -> Result<PlannedUpload, ClientError> {
    Ok(match step {
        TransferStep::Enter(directory) => {
            let to = joined_path(to, &directory.path)?;
            // The root of a server keeps its own.
            let attributes = (directory.is_new && !to.is_root()).then(|| SetAttributes {
                path: to.clone(),
                modified: Some(directory.modified),
                mode: Some(directory.mode),
                preserve,
                details: directory.details,
            });
            PlannedUpload::Enter {
                to,
                is_new: directory.is_new,
                attributes,
            }
        }
        TransferStep::File(file) => PlannedUpload::File {
            from: match source {
                SyncSide::Local(from) => UploadSource::Local(local_path(from, &file.path)?),
                SyncSide::Server(source, from) => {
                    UploadSource::Server(source.clone(), joined_path(from, &file.path)?)
                }
            },
            to: joined_path(to, &file.path)?,
            precondition: file.precondition(),
        },
        TransferStep::Leave => PlannedUpload::Leave,
    })
}
