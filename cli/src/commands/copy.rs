//! `copy`: of a file, of a directory, or of what is in a directory.

use std::sync::atomic::AtomicU64;

use quire_client::transfer::relay;
use quire_client::transfer::sync::{SyncJob, SyncOptions, SyncSide};
use quire_shared::protocol::{Copy, Entry, EntryKind, List, Precondition, Put, Stat};
use quire_shared::{ErrorCode, Printable, RemotePath};

use super::change::{TwoPaths, target_of};
use super::reconnect::Reconnecting;
use super::sync::run_job;
use super::targets::is_directory;
use super::{CommandError, ErrorContext, require_directory, require_directory_over};
use crate::args::CopyArgs;
use crate::event::{Event, EventKind};
use crate::failure::{CommandFailure, HintFlags, Subject};
use crate::operand::Remote;
use crate::progress;
use crate::session::CliSession;
use quire_client::{Client, ClientError, repeat};

/// Copies a file or directory on the server.
///
/// # Errors
/// If it can't be copied.
pub(super) async fn copy(session: &CliSession, args: &CopyArgs) -> Result<(), CommandError> {
    let from = match Remote::parse_source(&args.from)? {
        from if from.contents => from,
        _ => Remote::parse_below_root(&args.from)?,
    };
    let target = Remote::parse_target(&args.to)?;
    if from.server != target.server {
        return copy_across(session, args, &from, &target).await;
    }
    let two = TwoPaths::parse(from, &args.to)?;
    let mut client = session.client(&two.from.server).await?;
    client.require_details(args.keep.choice().kinds).await?;
    let reconnect = Reconnecting::new(session, &two.from.server);
    let is_right = require_directory_over(&mut client, &reconnect, &two.from).await;
    is_right.about(&two.from.path)?;
    // A new directory with the content of another is a copy of that.
    if two.from.contents && args.recursive {
        let exists = is_directory(&client, &two.to).await;
        if exists.about(&two.to)? {
            return copy_content(session, client, args, two).await;
        }
    }
    copy_one(session, &mut client, args, &two).await
}

/// Copies a file or directory from one server to another, through this client.
async fn copy_across(
    session: &CliSession,
    args: &CopyArgs,
    from: &Remote,
    target: &Remote,
) -> Result<(), CommandError> {
    let to = target_of(from, target)?;
    let source = session.client(&from.server).await?;
    require_directory(&source, from).await.about(&from.path)?;
    let client = session.client(&target.server).await?;
    let path = from.path.clone();
    let found = source.stat(Stat::of(path)).await.about(&from.path)?;
    let at_target = HintFlags::PUT.force_given(args.force);
    if found.kind != EntryKind::Directory {
        return match copy_file_across(session, args, (&source, from), (&client, &to)).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explained(&client, &to, &error, at_target).await),
        };
    }
    if !args.recursive {
        let error = ClientError::of_code(ErrorCode::IS_DIRECTORY);
        return Err(explained(&source, &from.path, &error, HintFlags::GET).await);
    }
    let is_merged = args.force || from.contents;
    if !is_merged && client.stat(Stat::of(to.clone())).await.is_ok() {
        let error = ClientError::of_code(ErrorCode::EXISTS);
        return Err(explained(&client, &to, &error, at_target).await);
    }
    let job = SyncJob {
        source: SyncSide::Server(source, from.path.clone()),
        target: SyncSide::Server(client, to),
        options: SyncOptions {
            digest: session.config.transfer_digest(),
            preserve: args.preserve.choice(),
            keep: args.keep.choice(),
            ..SyncOptions::default()
        },
    };
    run_job(session, job, &target.server).await
}

/// The error about `path`, after a look at what is there.
async fn explained(
    client: &Client,
    path: &RemotePath,
    error: &ClientError,
    flags: HintFlags,
) -> CommandError {
    let failure = CommandFailure::new(Subject::Item(path.into()), error, flags);
    CommandError::Failed(Box::new(failure.explain(client).await))
}

async fn copy_file_across(
    session: &CliSession,
    args: &CopyArgs,
    (source, from): (&Client, &Remote),
    (target, to): (&Client, &RemotePath),
) -> Result<(), ClientError> {
    let digest = session.config.transfer_digest();
    let put = Put {
        path: to.clone(),
        digest,
        precondition: Precondition::of_target(args.force),
        preserve: args.preserve.choice(),
        ..Put::default()
    };
    let moved = AtomicU64::new(0);
    let what = format!("copying {}", from.path);
    let keep = args.keep.choice();
    for client in [source, target] {
        client.require_details(keep.kinds).await?;
    }
    let relaying = relay((source, &from.path), (target, put), keep, &moved);
    let stored = progress::wait(&session.output, &what, relaying).await?;
    session.output.event(|| {
        Event::new(EventKind::Copied)
            .remote("from", &from.path)
            .remote("to", to)
            .with("version", stored.version.to_string())
            .with("skipped", 0_u64)
    });
    Ok(())
}

/// Copies what is in a directory into another that exists, and so on with what is a directory in
/// both. What fails is printed, and the rest goes on.
async fn copy_content(
    session: &CliSession,
    mut client: Client,
    args: &CopyArgs,
    two: TwoPaths,
) -> Result<(), CommandError> {
    let mut waiting = vec![two];
    while let Some(two) = waiting.pop() {
        let directory = &two.from.path;
        let entries = entries(&client, directory).await.about(directory)?;
        let mut special = Vec::new();
        for Entry { name, attributes } in entries {
            let is_directory_too = match attributes.kind {
                EntryKind::Symlink | EntryKind::Other => {
                    special.extend(RemotePath::from_names(vec![name]));
                    continue;
                }
                EntryKind::File => false,
                EntryKind::Directory => true,
            };
            let pair = two.below(&name)?;
            if is_directory_too && is_directory(&client, &pair.to).await? {
                waiting.push(pair);
            } else if let Err(error) = copy_one(session, &mut client, args, &pair).await {
                error.report(session);
            }
        }
        report_left_out(session, directory, special.len() as u64, &special);
    }
    Ok(())
}

async fn entries(client: &Client, path: &RemotePath) -> Result<Vec<Entry>, ClientError> {
    let list = List {
        path: path.clone(),
        after: None,
    };
    let mut listing = client.list(list).await?;
    let mut entries = Vec::new();
    while let Some(entry) = listing.next().await? {
        entries.push(entry);
    }
    Ok(entries)
}

async fn copy_one(
    session: &CliSession,
    client: &mut Client,
    args: &CopyArgs,
    two: &TwoPaths,
) -> Result<(), CommandError> {
    let copy = Copy {
        from: two.from.path.clone(),
        to: two.to.clone(),
        recursive: args.recursive,
        source: Precondition::Any,
        target: Precondition::of_target(args.force),
        preserve: args.preserve.choice(),
        details: args.keep.choice().kinds,
        change_id: None,
        hard_link: false,
    };
    let what = format!("copying {}", two.from.path);
    let reconnect = Reconnecting::new(session, &two.from.server);
    let copying = repeat(client, &reconnect, copy);
    let copied = match progress::wait(&session.output, &what, copying).await {
        Ok(copied) => copied,
        Err(error) => return Err(two.failed(client, &error, args.force).await),
    };
    session.output.event(|| {
        let version = copied.version.to_string();
        let event = two.event(EventKind::Copied).with("version", version);
        event.with("skipped", copied.left_out)
    });
    report_left_out(session, &two.from.path, copied.left_out, &copied.names);
    Ok(())
}

/// Reports what a copy of `from` left out, of which `names` are the first, below `from`.
fn report_left_out(session: &CliSession, from: &RemotePath, count: u64, names: &[RemotePath]) {
    if count == 0 {
        return;
    }
    for name in names {
        let path = from.join_path(name).unwrap_or_default();
        session
            .output
            .event(|| Event::new(EventKind::Skipped).remote("path", &path));
    }
    let texts: Vec<_> = names.iter().map(RemotePath::to_relative).collect();
    let texts: Vec<_> = texts
        .iter()
        .map(|text| Printable(text).to_string())
        .collect();
    let rest = match count.saturating_sub(names.len() as u64) {
        0 => String::new(),
        rest => format!(", and {rest} more"),
    };
    session.output.note(&format!(
        "{from}: left out {count} that are neither files nor directories: {}{rest}",
        texts.join(", ")
    ));
}
