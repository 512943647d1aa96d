//! The transfers of a sync to a server, from here or from another server.

use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::RemotePath;
use quire_shared::protocol::{Preserve, SetAttributes};

use super::Run;
use super::names::PlannedNames;
use crate::blocking::blocking;
use crate::client::Client;
use crate::error::ClientError;
use crate::transfer::job::{StoreOptions, UploadKind, UploadSource};
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
        links: run.job.options.links,
        hard_links: run.job.options.hard_links,
    };
    let walk = async |packer: UploadPacker| {
        let (report, resolved) = (Arc::clone(run.report), Arc::clone(&run.resolved));
        let (source, target, preserve) = (source.clone(), to.clone(), options.preserve);
        let walking = blocking(move || {
            let mut reader = StepReader::new(&mut steps, &resolved).map_err(spooling)?;
            let mut failed = Ok(());
            let mut names = PlannedNames::default();
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
                    let is_file = matches!(step, TransferStep::File(_) | TransferStep::Link(_));
                    match planned(step, &source, (&target, preserve), &mut names) {
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
    names: &mut PlannedNames,
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
        TransferStep::Link(link) => PlannedUpload::Symlink {
            from: source_of(source, &link.path)?,
            to: joined_path(to, &link.path)?,
            precondition: link.precondition(),
            kind: UploadKind::Symlink(link.target, Some(link.modified)),
        },
        TransferStep::File(file) => PlannedUpload::File {
            from: source_of(source, &file.path)?,
            to: joined_path(to, &file.path)?,
            precondition: file.precondition(),
            // Only the name on the server counts.
            name_of: names.name_of(&file, |path| Ok((joined_path(to, path)?, PathBuf::new())))?,
        },
        TransferStep::Leave => PlannedUpload::Leave,
    })
}

/// Where a file or link at `path` comes from.
fn source_of(source: &SyncSide, path: &RemotePath) -> Result<UploadSource, ClientError> {
    Ok(match source {
        SyncSide::Local(from) => UploadSource::Local(local_path(from, path)?),
        SyncSide::Server(source, from) => {
            UploadSource::Server(source.clone(), joined_path(from, path)?)
        }
    })
}
