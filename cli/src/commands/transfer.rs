//! Commands that transfer content: get, put, cat.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use quire_shared::digest::DigestKind;
use quire_shared::protocol::{EntryKind, Get, Precondition, Put, Stat};
use quire_shared::{EscapedPath, Name, RemotePath};
use quire_transport::bottleneck::Meter;

use super::display::TransferDisplay;
use super::reconnect::Reconnecting;
use super::targets::{
    LocalTarget, UnfinishedTransfer, by_server, kind_at, local_text, remote_text, require_distinct,
    upload_job,
};
use super::{CommandError, ErrorContext, fail, require_directory};
use crate::args::{CatArgs, GetArgs, PutArgs};
use crate::event::EventKind;
use crate::failure::HintFlags;
use crate::operand::{
    DASH, OperandError, Remote, Target, get_operands, is_contents, on_one_server,
};
use crate::progress;
use crate::session::CliSession;
use crate::standard_input;
use quire_client::download::{SaveOptions, WriteToError};
use quire_client::transfer::{
    self, DownloadJob, FetchOptions, Moved, StoreOptions, Transfer, UploadJob,
};
use quire_client::upload::UploadBody;

/// Downloads files and directories.
///
/// # Errors
/// If the operands are invalid or there is no connection. The error of a single file is printed.
pub(super) async fn get(session: &CliSession, args: &GetArgs) -> Result<(), CommandError> {
    let operands = get_operands(&args.operands)?;
    let links = args.links.policy_of_server()?;
    let target = match operands.target {
        Target::Stdout if args.recursive => {
            return Err(OperandError::Dash("a directory").into());
        }
        Target::Stdout => return write_out(session, operands.sources).await,
        Target::Local(target) => target,
    };
    let mut target = LocalTarget::find(target, operands.sources.len()).await?;
    let record = match operands.sources.as_slice() {
        [source] if args.recursive => unfinished_get(session, source, &mut target).await?,
        _ => None,
    };
    let options = FetchOptions {
        recursive: args.recursive,
        digest: session.config.transfer_digest(),
        save: SaveOptions {
            overwrite: args.existing.overwrites(args.force),
            sync: args.fsync,
            preserve: args.preserve.choice(),
            keep: args.keep.choice(),
        },
        leave: args
            .existing
            .leave(record.as_ref().is_some_and(|record| record.is_resumed)),
        survey: session.output.shows_progress(),
        delta: args.delta.choice(),
        links,
        hard_links: args.hard_links,
    };
    let flags = HintFlags::GET.force_given(args.force);
    let mut progress = TransferDisplay::start(session, EventKind::Downloaded, flags);
    let transfer = Arc::clone(&progress.transfer);
    let jobs = download_jobs(operands.sources, &target, args.recursive, &transfer)?;
    require_distinct_inside(session, &jobs).await?;
    for (server, jobs) in by_server(jobs, |(source, _)| source.server.clone()) {
        let client = session.client(&server).await?;
        client.require_details(options.save.keep.kinds).await?;
        let mut items = Vec::new();
        for (source, job) in jobs {
            match require_directory(&client, &source).await {
                Ok(()) => items.push(job),
                Err(error) => transfer.fail(source.path, error),
            }
        }
        let meter = Meter::receiving(client.flow());
        let reconnecting = Reconnecting::new(session, &server);
        let work = transfer::fetch_with(&client, &reconnecting, items, options, &transfer);
        progress.watch(&client, work).await;
        progress.judge(&client, &meter).await;
    }
    if let Some(record) = record {
        record.end(&transfer).await;
    }
    progress.end(options.digest);
    Ok(())
}

/// What each source becomes here. One that can't be anything is reported.
fn download_jobs(
    sources: Vec<Remote>,
    target: &LocalTarget,
    recursive: bool,
    transfer: &Transfer,
) -> Result<Vec<(Remote, DownloadJob)>, CommandError> {
    let mut jobs = Vec::new();
    for source in sources {
        match target.job(&source.path, source.contents, recursive) {
            Ok(job) => jobs.push((source, job)),
            Err(error) => transfer.fail(source.path, error),
        }
    }
    let pairs = jobs
        .iter()
        .map(|(source, job)| (remote_text(source), &*job.to));
    require_distinct(pairs, |to| EscapedPath(to).to_string())?;
    Ok(jobs)
}

/// Checks that no source is in the content of another that goes to the same place.
async fn require_distinct_inside(
    session: &CliSession,
    jobs: &[(Remote, DownloadJob)],
) -> Result<(), CommandError> {
    for (outer, outer_job) in jobs.iter().filter(|(_, job)| job.contents) {
        let inside = |job: &DownloadJob| {
            let is_inside = job.to.parent() == Some(&*outer_job.to);
            job.from
                .name()
                .filter(|_| is_inside && !job.contents)
                .cloned()
        };
        for (inner, job) in jobs {
            let Some(path) = inside(job).and_then(|name| outer.path.join(name).ok()) else {
                continue;
            };
            let client = session.client(&outer.server).await?;
            let first = format!("{}{path}", outer.server);
            if client.stat(Stat::of(path)).await.is_ok() {
                return Err(OperandError::SameTarget {
                    first,
                    second: remote_text(inner),
                    target: EscapedPath(&job.to).to_string(),
                }
                .into());
            }
        }
    }
    Ok(())
}

/// Looks whether an earlier `get -r` made the target directory and did not succeed. Then its
/// repetition goes on there.
async fn unfinished_get(
    session: &CliSession,
    source: &Remote,
    target: &mut LocalTarget,
) -> Result<Option<UnfinishedTransfer>, CommandError> {
    if source.contents || source.path.is_root() {
        return Ok(None);
    }
    // Without a connection nothing begins that could be left unfinished.
    session.client(&source.server).await?;
    let from = remote_text(source);
    let inside = target.job(&source.path, false, true)?.to;
    let is_inside = target.is_directory;
    let path = target.path.clone();
    let record = unfinished_at(session, &from, &path, &mut target.is_directory).await?;
    if record.is_some() || !is_inside {
        return Ok(record);
    }
    // Below a directory that was there, the place is the same for every repetition.
    let mut is_there = inside.symlink_metadata().is_ok();
    unfinished_at(session, &from, &inside, &mut is_there).await
}

async fn unfinished_at(
    session: &CliSession,
    from: &str,
    path: &Path,
    is_there: &mut bool,
) -> Result<Option<UnfinishedTransfer>, CommandError> {
    let to = local_text(path)?;
    let shown = EscapedPath(path).to_string();
    let note = || format!("going on in {shown}, which an unfinished get has made");
    let record = UnfinishedTransfer::begin_or_resume(session, (from, &to), is_there, note);
    Ok(record.await?)
}

/// Writes files to standard output.
///
/// # Errors
/// As [`get`].
pub(super) async fn cat(session: &CliSession, args: &CatArgs) -> Result<(), CommandError> {
    write_out(session, on_one_server(&args.operands)?).await
}

async fn write_out(session: &CliSession, sources: Vec<Remote>) -> Result<(), CommandError> {
    if session.output.is_json() {
        return Err(OperandError::JsonAndContent.into());
    }
    let digest = session.config.transfer_digest();
    let transfer = Transfer::new(|_| {});
    let bar = progress::bar(&session.output);
    let mut left = sources.len();
    for remote in sources {
        left -= 1;
        let client = session.client(&remote.server).await?;
        let get = Get {
            path: remote.path.clone(),
            digest,
            takes_extents: true,
            ..Get::default()
        };
        let written = match require_directory(&client, &remote).await {
            Ok(()) => match client.get(get).await {
                Ok(download) => {
                    transfer.expect(download.header().length);
                    if left == 0 {
                        transfer.foresee_no_more();
                    }
                    bar.set_prefix(remote.path.to_string());
                    let writing = download.write_to(stdout()?, transfer.counter());
                    match session.output.is_for_people() {
                        // The line would stand in the middle of the content.
                        true => writing.await,
                        false => progress::watch(&session.output, &transfer, &bar, writing).await,
                    }
                }
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        };
        match written {
            Ok(_) => {}
            Err(WriteToError::Sink(error)) => return Err(error.into()),
            Err(WriteToError::Client(error)) => {
                let failed = fail(session, &client, &remote.path, &error, HintFlags::NONE).await;
                if failed.is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Standard output without the buffer that cuts content into lines.
#[cfg(unix)]
fn stdout() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Standard output without the buffer that cuts content into lines.
#[cfg(windows)]
fn stdout() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// Uploads files and directories.
///
/// # Errors
/// As [`get`].
pub(super) async fn put(session: &CliSession, args: &PutArgs) -> Result<(), CommandError> {
    let Some((last, locals)) = args.operands.split_last() else {
        // clap requires two of them.
        return Ok(());
    };
    let remote = Remote::parse_os(last)?;
    let is_stdin = locals.iter().any(|local| local == DASH);
    if is_stdin && (locals.len() > 1 || args.recursive || remote.is_directory) {
        return Err(OperandError::Dash("one of several files, or a directory").into());
    }
    if is_stdin && remote.path.is_root() {
        return Err(OperandError::Dash("a file without a name on the server").into());
    }
    if is_stdin {
        return put_stdin(session, &remote, args.force).await;
    }
    let client = session.client(&remote.server).await?;
    let meter = Meter::sending(client.flow());
    let flags = HintFlags::PUT.force_given(args.force);
    let mut progress = TransferDisplay::start(session, EventKind::Uploaded, flags);
    let transfer = Arc::clone(&progress.transfer);
    let digest = session.config.transfer_digest();
    let must_go_inside = locals.len() > 1 || remote.is_directory;
    let found = match must_go_inside {
        true => Some(EntryKind::Directory),
        false => kind_at(&client, &remote.path).await.about(&remote.path)?,
    };
    let mut goes_inside = found == Some(EntryKind::Directory);
    let record = match locals {
        [local] if args.recursive && !must_go_inside => {
            unfinished_put(session, Path::new(local), &remote, &mut goes_inside).await?
        }
        _ => None,
    };
    let items = upload_jobs(locals, &remote.path, goes_inside, &transfer)?;
    let is_resumed = record.as_ref().is_some_and(|record| record.is_resumed);
    let options = StoreOptions {
        leave: args.existing.leave(is_resumed),
        survey: session.output.shows_progress(),
        are_new: found.is_none(),
        ..store_options(args, digest)
    };
    client.require_details(options.keep.kinds).await?;
    let reconnecting = Reconnecting::new(session, &remote.server);
    let work = transfer::store_with(&client, &reconnecting, items, options, &transfer);
    progress.watch(&client, work).await;
    progress.judge(&client, &meter).await;
    if let Some(record) = record {
        record.end(&transfer).await;
    }
    progress.end(digest);
    Ok(())
}

/// What the flags of a put say, as far as that doesn't depend on an earlier one.
fn store_options(args: &PutArgs, digest: DigestKind) -> StoreOptions {
    StoreOptions {
        recursive: args.recursive,
        overwrite: args.existing.overwrites(args.force),
        digest,
        delta: args.delta.choice(),
        preserve: args.preserve.choice(),
        keep: args.keep.choice(),
        links: args.links.policy(),
        hard_links: args.hard_links,
        ..StoreOptions::default()
    }
}

/// What each local file becomes on the server. One that can't be anything is reported.
fn upload_jobs(
    locals: &[OsString],
    target: &RemotePath,
    goes_inside: bool,
    transfer: &Transfer,
) -> Result<Vec<UploadJob>, CommandError> {
    let mut jobs = Vec::new();
    for local in locals.iter().map(Path::new) {
        match upload_job(local, target, goes_inside) {
            Ok(job) => jobs.push(job),
            Err(error) => transfer.fail(local, error),
        }
    }
    let pairs = jobs
        .iter()
        .map(|job| (EscapedPath(&job.from).to_string(), &job.to));
    require_distinct(pairs, |to| to.to_string())?;
    // Nor may one be in the content of another that goes to the same place.
    for outer in jobs.iter().filter(|job| job.to == *target) {
        for inner in jobs.iter().filter(|job| job.to != *target) {
            let name = inner.to.name().map(Name::as_str).unwrap_or_default();
            let first = outer.from.join(name);
            if first.symlink_metadata().is_ok() {
                return Err(OperandError::SameTarget {
                    first: EscapedPath(&first).to_string(),
                    second: EscapedPath(&inner.from).to_string(),
                    target: inner.to.to_string(),
                }
                .into());
            }
        }
    }
    Ok(jobs)
}

/// As [`unfinished_get`], for a `put -r`.
async fn unfinished_put(
    session: &CliSession,
    local: &Path,
    remote: &Remote,
    goes_inside: &mut bool,
) -> Result<Option<UnfinishedTransfer>, CommandError> {
    if is_contents(local.as_os_str()) || remote.path.is_root() || !local.is_dir() {
        return Ok(None);
    }
    let from = local_text(local)?;
    let is_inside = *goes_inside;
    let begin = async |remote: &Remote, is_there: &mut bool| {
        let to = remote_text(remote);
        let note = || {
            let path = &remote.path;
            format!("going on in {path}, which an unfinished put has made")
        };
        UnfinishedTransfer::begin_or_resume(session, (&from, &to), is_there, note).await
    };
    let record = begin(remote, goes_inside).await?;
    if record.is_some() || !is_inside {
        return Ok(record);
    }
    // Below a directory that was there, the place is the same for every repetition.
    let path = upload_job(local, &remote.path, true)?.to;
    let client = session.client(&remote.server).await?;
    let mut is_there = client.stat(Stat::of(path.clone())).await.is_ok();
    let inside = Remote {
        path,
        ..remote.clone()
    };
    Ok(begin(&inside, &mut is_there).await?)
}

/// Uploads what comes from the standard input.
async fn put_stdin(session: &CliSession, remote: &Remote, force: bool) -> Result<(), CommandError> {
    let input = standard_input::open()?;
    let client = session.client(&remote.server).await?;
    let meter = Meter::sending(client.flow());
    let flags = HintFlags::PUT.force_given(force);
    let mut progress = TransferDisplay::start(session, EventKind::Uploaded, flags);
    if io::stdin().is_terminal() {
        progress.hide_progress();
    }
    let transfer = Arc::clone(&progress.transfer);
    let path = &remote.path;
    let put = Put {
        path: path.clone(),
        digest: session.config.transfer_digest(),
        precondition: Precondition::of_target(force),
        ..Put::default()
    };
    let digest = put.digest;
    let work = async {
        transfer.start("standard input".to_owned());
        let content = UploadBody::stream(input, "standard input");
        let stored = client.put(put, content, transfer.counter()).await;
        let name = || "standard input".to_owned();
        let stored = stored.map(|stored| Moved::stored(name(), DASH.into(), path.clone(), stored));
        transfer.end(path, stored);
    };
    progress.watch(&client, work).await;
    progress.judge(&client, &meter).await;
    progress.end(digest);
    Ok(())
}
