//! Commands that change names on the server: rename, delete, copy, mkdir.

use quire_shared::RemotePath;
use quire_shared::protocol::{Copy, Delete, MakeDirectory, Precondition, Rename, Version};
use serde_json::json;

use super::{CommandError, FirstFailure, json_path};
use crate::args::{CopyArgs, DeleteArgs, MkdirArgs, RenameArgs};
use crate::exit::Exit;
use crate::hint::HintFlags;
use crate::operand::{OperandError, Remote, on_one_server};
use crate::session::CliSession;
use quire_client::ClientError;

/// Renames a file or directory.
///
/// # Errors
/// If it can't be renamed.
pub(super) async fn rename(session: &CliSession, args: &RenameArgs) -> Result<Exit, CommandError> {
    let (from, to) = two_paths(&args.from, &args.to)?;
    let client = session.client(&from.server).await?;
    let rename = Rename {
        from: from.path.clone(),
        to: to.path.clone(),
        source: Precondition::Any,
        target: target_precondition(args.force),
    };
    let changed = client.rename(rename).await;
    let changed = changed.map_err(|error| of_two(&from.path, &to.path, error))?;
    print_two(session, &from.path, &to.path, &changed.version)
}

/// Copies a file or directory on the server.
///
/// # Errors
/// If it can't be copied.
pub(super) async fn copy(session: &CliSession, args: &CopyArgs) -> Result<Exit, CommandError> {
    let (from, to) = two_paths(&args.from, &args.to)?;
    let client = session.client(&from.server).await?;
    let copy = Copy {
        from: from.path.clone(),
        to: to.path.clone(),
        recursive: args.recursive,
        source: Precondition::Any,
        target: target_precondition(args.force),
    };
    let changed = client.copy(copy).await;
    let changed = changed.map_err(|error| of_two(&from.path, &to.path, error))?;
    print_two(session, &from.path, &to.path, &changed.version)
}

/// Deletes files and directories.
///
/// # Errors
/// If the operands are invalid or there is no connection. The error of a single operand is printed.
pub(super) async fn delete(session: &CliSession, args: &DeleteArgs) -> Result<Exit, CommandError> {
    let mut failure = FirstFailure::none(HintFlags::CHANGE);
    for remote in on_one_server(&args.operands)? {
        let client = session.client(&remote.server).await?;
        let delete = Delete {
            path: remote.path.clone(),
            recursive: args.recursive,
            precondition: Precondition::Any,
        };
        match client.delete(delete).await {
            Ok(_) => session
                .output
                .json_only(|| json!({ "deleted": json_path(&remote.path) }))?,
            Err(error) => {
                if failure.note(session, &remote.path, &error).is_break() {
                    break;
                }
            }
        }
    }
    Ok(failure.exit())
}

/// Creates directories.
///
/// # Errors
/// As [`delete`].
pub(super) async fn make_directory(
    session: &CliSession,
    args: &MkdirArgs,
) -> Result<Exit, CommandError> {
    let mut failure = FirstFailure::none(HintFlags::NONE);
    for remote in on_one_server(&args.operands)? {
        let client = session.client(&remote.server).await?;
        let make = MakeDirectory {
            path: remote.path.clone(),
            make_parents: true,
            precondition: Precondition::Absent,
        };
        match client.make_directory(make).await {
            Ok(made) => session.output.json_only(|| {
                json!({
                    "path": json_path(&remote.path),
                    "version": made.version.to_string(),
                })
            })?,
            Err(error) => {
                if failure.note(session, &remote.path, &error).is_break() {
                    break;
                }
            }
        }
    }
    Ok(failure.exit())
}

fn two_paths(from: &str, to: &str) -> Result<(Remote, Remote), CommandError> {
    let from = Remote::parse_below_root(from)?;
    let to = Remote::parse_below_root(to)?;
    if from.server != to.server {
        return Err(OperandError::DifferentServers(from.server, to.server).into());
    }
    Ok((from, to))
}

fn target_precondition(force: bool) -> Precondition {
    match force {
        true => Precondition::Any,
        false => Precondition::Absent,
    }
}

/// Names both paths, because the reply doesn't say which of the two the error is about.
fn of_two(from: &RemotePath, to: &RemotePath, error: ClientError) -> CommandError {
    CommandError::Of {
        name: format!("{from} -> {to}"),
        error: Box::new(error),
        flags: HintFlags::CHANGE,
    }
}

fn print_two(
    session: &CliSession,
    from: &RemotePath,
    to: &RemotePath,
    version: &Version,
) -> Result<Exit, CommandError> {
    session.output.json_only(|| {
        json!({
            "from": json_path(from),
            "to": json_path(to),
            "version": version.to_string(),
        })
    })?;
    Ok(Exit::Done)
}
