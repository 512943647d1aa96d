//! `sync`: makes a directory at one side what the directory at the other side is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::HumanBytes;
use quire_client::transfer::Transfer;
use quire_client::transfer::sync::{
    Filter, FilterBuilder, PatternError, SyncAction, SyncDeletion, SyncJob, SyncOptions,
    SyncReport, SyncSide, SyncStep,
};
use quire_client::{Client, ClientError, ErrorCode, ServerId};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::EntryKind;
use quire_shared::{Name, Printable, RemotePath};
use quire_transport::bottleneck::Meter;

use super::display::TransferDisplay;
use super::reconnect::Reconnecting;
use super::{CommandError, ErrorContext, kind_text};
use crate::args::{FilterArgs, SyncArgs};
use crate::event::{Event, EventKind};
use crate::failure::HintFlags;
use crate::operand::{SyncOperand, sync_operands};
use crate::output::Output;
use crate::progress::{self, count_text};
use crate::session::{CliSession, blocking};

/// Synchronizes two directories.
///
/// # Errors
/// If the operands or patterns are invalid, or there is no connection. What fails on the way is printed.
pub(super) async fn sync(session: &CliSession, args: &SyncArgs) -> Result<(), CommandError> {
    let (source, target) = sync_operands(&args.source, &args.target)?;
    let remote = source.remote().or_else(|| target.remote()).cloned();
    let source = side(session, source).await?;
    let target = side(session, target).await?;
    let options = sync_options(session, args, (&source, &target)).await?;
    let Some(remote) = remote else { return Ok(()) };
    let job = SyncJob {
        source,
        target,
        options,
    };
    run_job(session, job, &remote.server).await
}

/// Runs a sync, of which `server` is one side, and shows what it does.
///
/// # Errors
/// If one of the servers doesn't know the details that are to be kept.
pub(super) async fn run_job(
    session: &CliSession,
    job: SyncJob,
    server: &ServerId,
) -> Result<(), CommandError> {
    for side in [&job.source, &job.target] {
        if let SyncSide::Server(client, _) = side {
            client.require_details(job.options.keep.kinds).await?;
        }
    }
    let (is_dry, digest) = (job.options.dry_run, job.options.digest);
    let (moved, client, is_sending) = match (&job.source, &job.target) {
        (_, SyncSide::Server(client, _)) => (EventKind::Uploaded, client.clone(), true),
        (SyncSide::Server(client, _), SyncSide::Local(_)) => {
            (EventKind::Downloaded, client.clone(), false)
        }
        (SyncSide::Local(_), SyncSide::Local(_)) => return Ok(()),
    };
    let mut display = TransferDisplay::start(session, moved, HintFlags::NONE);
    let steps = Steps {
        output: Arc::clone(&session.output),
        is_dry,
        prints: is_dry || session.config.verdicts,
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let steps = Arc::new(steps);
    let observer = Arc::clone(&steps);
    let report = SyncReport::new(Arc::clone(&display.transfer), move |step| {
        observer.print(step);
    });
    let meter = match is_sending {
        true => Meter::sending(client.flow()),
        false => Meter::receiving(client.flow()),
    };
    let reconnecting = Reconnecting::new(session, server);
    display
        .watch(&client, job.run(&reconnecting, &report))
        .await;
    display.judge(&client, &meter).await;
    let summary = |transfer: &Transfer, elapsed| {
        // One that was refused has said why.
        let done =
            transfer.files() + transfer.links() + steps.count() + report.same() + report.deleted();
        let is_refused = transfer.failed() > 0 && done == 0;
        (!is_refused).then(|| steps.summary(&report, transfer, (digest, elapsed)))
    };
    display.end_with(summary, |event| {
        event
            .with("same", report.same())
            .with("saved", report.saved())
            .with("renamed", report.renamed())
            .with("deleted", report.deleted())
            .with("dry_run", is_dry)
    });
    Ok(())
}

/// What the flags say.
async fn sync_options(
    session: &CliSession,
    args: &SyncArgs,
    (source, target): (&SyncSide, &SyncSide),
) -> Result<SyncOptions, CommandError> {
    let backup = match &args.backup_dir {
        Some(text) => Some(backup(target, text)?),
        None => None,
    };
    Ok(SyncOptions {
        filter: Arc::new(filter(&args.filter, source).await?),
        checksum: args.checksum,
        deletion: args.delete.then_some(SyncDeletion {
            max: args.max_delete,
            may_empty: args.force,
        }),
        backup,
        dry_run: args.dry_run,
        digest: session.config.transfer_digest(),
        preserve: args.preserve.choice(),
        keep: args.keep.choice(),
        fsync: args.fsync,
        delta: args.delta.choice(),
        links: match source {
            SyncSide::Local(_) => args.links.policy(),
            SyncSide::Server(..) => args.links.policy_of_server()?,
        },
        hard_links: args.hard_links,
    })
}

async fn side(session: &CliSession, operand: SyncOperand) -> Result<SyncSide, CommandError> {
    Ok(match operand {
        SyncOperand::Local(path) => SyncSide::Local(path),
        SyncOperand::Server(remote) => {
            let client = session.client(&remote.server).await?;
            SyncSide::Server(client, remote.path)
        }
    })
}

/// The backup directory at the side of the target.
fn backup(target: &SyncSide, text: &str) -> Result<SyncSide, CommandError> {
    Ok(match target {
        SyncSide::Local(path) => SyncSide::Local(path.join(text)),
        SyncSide::Server(client, path) => {
            let top = match text.starts_with('/') {
                true => &RemotePath::ROOT,
                false => path,
            };
            let path = RemotePath::parse(text).and_then(|below| top.join_path(&below));
            SyncSide::Server(client.clone(), path.map_err(ClientError::RemotePath)?)
        }
    })
}

/// Reads the patterns, of which the last that matches decides.
async fn filter(args: &FilterArgs, source: &SyncSide) -> Result<Filter, CommandError> {
    let mut builder = FilterBuilder::default();
    if args.quireignore
        && let Some(text) = quireignore(source).await?
    {
        builder.add_text(&text).map_err(ClientError::from)?;
    }
    let args = args.clone();
    let filter = move || {
        for file in &args.exclude_from {
            builder.add_file(file)?;
        }
        for pattern in &args.exclude {
            builder.add(pattern)?;
        }
        for pattern in &args.include {
            builder.add(&format!("!{pattern}"))?;
        }
        Ok::<_, ClientError>(builder.build()?)
    };
    Ok(blocking(filter).await?)
}

/// The text of the file of patterns at the top of the source, if there is one.
async fn quireignore(source: &SyncSide) -> Result<Option<String>, CommandError> {
    let bytes = match source {
        SyncSide::Local(directory) => {
            let path = directory.join(QUIREIGNORE);
            let read = move || match std::fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(ClientError::disk(&path, "read", error)),
            };
            blocking(read).await?
        }
        SyncSide::Server(client, directory) => {
            let path = Name::new(QUIREIGNORE).and_then(|name| directory.join(name));
            download_text(client, path.map_err(ClientError::RemotePath)?).await?
        }
    };
    let text = bytes.map(String::from_utf8).transpose();
    Ok(text.map_err(|_| {
        ClientError::from(PatternError {
            pattern: QUIREIGNORE.to_owned(),
            reason: "it isn't UTF-8".to_owned(),
        })
    })?)
}

async fn download_text(client: &Client, path: RemotePath) -> Result<Option<Vec<u8>>, CommandError> {
    match client.download(path.clone()).to_vec().await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.code() == Some(ErrorCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error).about(&path),
    }
}

/// Prints the steps of a sync, and counts what they would transfer.
struct Steps {
    output: Arc<Output>,
    is_dry: bool,
    prints: bool,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Steps {
    fn print(&self, step: &SyncStep) {
        if matches!(step.action, SyncAction::New | SyncAction::Changed)
            && step.kind == EntryKind::File
        {
            self.files.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(step.bytes, Ordering::Relaxed);
        }
        let event = || {
            let event = Event::new(EventKind::Step)
                .with("action", step.action.name())
                .with("name", step.path.to_relative())
                .with("kind", kind_text(step.kind));
            let event = match &step.from {
                Some(from) => event.with("old_name", from.to_relative()),
                None => event,
            };
            match step.action {
                SyncAction::New | SyncAction::Changed if step.kind == EntryKind::File => {
                    event.with("bytes", step.bytes)
                }
                _ => event,
            }
        };
        match self.prints {
            true => self.output.outcome(|| step_text(step), event),
            false => self.output.event(event),
        }
    }

    fn count(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// What was done, or would be, in one line.
    fn summary(
        &self,
        report: &SyncReport,
        transfer: &Transfer,
        (digest, elapsed): (DigestKind, Duration),
    ) -> String {
        let mut text = match (self.is_dry, transfer.files() + transfer.directories()) {
            (true, _) => format!(
                "nothing changed by --dry-run; to be transferred: {}, {}",
                count_text(self.count(), "file", "files"),
                HumanBytes(self.bytes.load(Ordering::Relaxed))
            ),
            (false, 0) if transfer.links() == 0 => {
                format!("nothing transferred, in {:.2} s", elapsed.as_secs_f64())
            }
            (false, _) => progress::summary(transfer, digest.name(), elapsed),
        };
        for (count, what) in [
            (report.same(), "the same"),
            (report.renamed(), "renamed"),
            (report.deleted(), "deleted"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if report.saved() > 0 {
            text.push_str(&format!(", {} not sent", HumanBytes(report.saved())));
        }
        text
    }
}

/// One line, with what happens in a column of its own.
fn step_text(step: &SyncStep) -> String {
    let action = step.action.name();
    let shown = |path: &RemotePath| {
        let slash = match step.kind {
            EntryKind::Directory => "/",
            _ => "",
        };
        format!("{}{slash}", Printable(&path.to_relative()))
    };
    match &step.from {
        Some(from) => format!("{action:<8} {} -> {}", shown(from), shown(&step.path)),
        None => format!("{action:<8} {}", shown(&step.path)),
    }
}

/// The file of patterns that a source may have.
const QUIREIGNORE: &str = ".quireignore";
