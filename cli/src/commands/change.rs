//! Commands that change what is on the server: rename, delete, copy, mkdir, chmod.

use quire_shared::protocol::{Chmod, Copied, Copy, Delete, MakeDirectory, Precondition, Rename};
use quire_shared::{ErrorCode, Printable, RemotePath};

use super::{CommandError, ErrorContext, fail, require_directory};
use crate::args::{ChmodArgs, CopyArgs, DeleteArgs, MkdirArgs, RenameArgs};
use crate::event::{Event, EventKind};
use crate::failure::{CommandFailure, HintFlags, Subject};
use crate::operand::{OperandError, Remote, on_one_server};
use crate::progress;
use crate::session::CliSession;
use quire_client::{Client, ClientError};

/// Renames a file or directory.
///
/// # Errors
/// If it can't be renamed.
pub(super) async fn rename(session: &CliSession, args: &RenameArgs) -> Result<(), CommandError> {
    let two = TwoPaths::parse(&args.from, &args.to)?;
    let client = session.client(&two.from.server).await?;
    let is_right = require_directory(&client, &two.from).await;
    is_right.about(&two.from.path)?;
    let rename = Rename {
        from: two.from.path.clone(),
        to: two.to.clone(),
        source: Precondition::Any,
        target: target_precondition(args.force),
    };
    let renamed = match client.rename(rename).await {
        Ok(renamed) => renamed,
        Err(error) => return Err(two.failed(&client, &error, args.force).await),
    };
    session.output.event(|| {
        let version = renamed.version.to_string();
        two.event(EventKind::Renamed).with("version", version)
    });
    Ok(())
}

/// Copies a file or directory on the server.
///
/// # Errors
/// If it can't be copied.
pub(super) async fn copy(session: &CliSession, args: &CopyArgs) -> Result<(), CommandError> {
    let two = TwoPaths::parse(&args.from, &args.to)?;
    let client = session.client(&two.from.server).await?;
    let is_right = require_directory(&client, &two.from).await;
    is_right.about(&two.from.path)?;
    let copy = Copy {
        from: two.from.path.clone(),
        to: two.to.clone(),
        recursive: args.recursive,
        source: Precondition::Any,
        target: target_precondition(args.force),
        preserve: args.preserve.choice(),
    };
    let what = format!("copying {}", two.from.path);
    let copied = match progress::wait(&session.output, &what, client.copy(copy)).await {
        Ok(copied) => copied,
        Err(error) => return Err(two.failed(&client, &error, args.force).await),
    };
    for name in &copied.names {
        let names = two.from.path.names().iter().chain(name.names());
        let path = RemotePath::from_names(names.cloned().collect()).unwrap_or_default();
        session
            .output
            .event(|| Event::new(EventKind::Skipped).remote("path", &path));
    }
    session.output.event(|| {
        let version = copied.version.to_string();
        let event = two.event(EventKind::Copied).with("version", version);
        event.with("skipped", copied.left_out)
    });
    if copied.left_out > 0 {
        session.output.note(&left_out(&two.from.path, &copied));
    }
    Ok(())
}

/// What a copy left out, in one line.
fn left_out(from: &RemotePath, copied: &Copied) -> String {
    let names: Vec<_> = copied.names.iter().map(RemotePath::to_relative).collect();
    let names: Vec<_> = names
        .iter()
        .map(|name| Printable(name).to_string())
        .collect();
    let named = names.len() as u64;
    let rest = match copied.left_out.saturating_sub(named) {
        0 => String::new(),
        rest => format!(", and {rest} more"),
    };
    format!(
        "{from}: left out {} that are neither files nor directories: {}{rest}",
        copied.left_out,
        names.join(", ")
    )
}

/// Deletes files and directories.
///
/// # Errors
/// If the operands are invalid or there is no connection. The error of a single operand is printed.
pub(super) async fn delete(session: &CliSession, args: &DeleteArgs) -> Result<(), CommandError> {
    for remote in on_one_server(&args.operands)? {
        let client = session.client(&remote.server).await?;
        let delete = Delete {
            path: remote.path.clone(),
            recursive: args.recursive,
            precondition: Precondition::Any,
        };
        let deleted = match require_directory(&client, &remote).await {
            Ok(()) => client.delete(delete).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(_) => session
                .output
                .event(|| Event::new(EventKind::Deleted).remote("path", &remote.path)),
            Err(error) if args.force && error.code() == Some(ErrorCode::NOT_FOUND) => session
                .output
                .event(|| Event::new(EventKind::Absent).remote("path", &remote.path)),
            Err(error) => {
                let failed = fail(session, &client, &remote.path, &error, HintFlags::CHANGE).await;
                if failed.is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Creates directories.
///
/// # Errors
/// As [`delete`].
pub(super) async fn make_directory(
    session: &CliSession,
    args: &MkdirArgs,
) -> Result<(), CommandError> {
    let flags = HintFlags {
        parents: !args.parents,
        is_target: true,
        ..HintFlags::NONE
    };
    for remote in on_one_server(&args.operands)? {
        let client = session.client(&remote.server).await?;
        let make = MakeDirectory {
            path: remote.path.clone(),
            make_parents: true,
            precondition: target_precondition(args.parents),
        };
        match client.make_directory(make).await {
            Ok(made) => session.output.event(|| {
                Event::new(EventKind::Made)
                    .remote("path", &remote.path)
                    .with("version", made.version.to_string())
            }),
            Err(error) => {
                let failed = fail(session, &client, &remote.path, &error, flags).await;
                if failed.is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Changes the permissions of files and directories.
///
/// # Errors
/// As [`delete`].
pub(super) async fn chmod(session: &CliSession, args: &ChmodArgs) -> Result<(), CommandError> {
    for remote in on_one_server(&args.operands)? {
        let client = session.client(&remote.server).await?;
        let chmod = Chmod {
            path: remote.path.clone(),
            mode: args.mode,
            precondition: Precondition::Any,
        };
        let changed = match require_directory(&client, &remote).await {
            Ok(()) => client.chmod(chmod).await,
            Err(error) => Err(error),
        };
        match changed {
            Ok(changed) => session.output.event(|| {
                Event::new(EventKind::Chmod)
                    .remote("path", &remote.path)
                    .with("mode", args.mode)
                    .with("version", changed.version.to_string())
            }),
            Err(error) => {
                let failed = fail(session, &client, &remote.path, &error, HintFlags::NONE).await;
                if failed.is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The operands of a rename or copy.
struct TwoPaths {
    from: Remote,
    to: RemotePath,
}

impl TwoPaths {
    /// Parses two paths on one server. With a slash at its end, `to` is the directory to go into.
    fn parse(from: &str, to: &str) -> Result<Self, OperandError> {
        let from = Remote::parse_below_root(from)?;
        let target = Remote::parse_target(to)?;
        if from.server != target.server {
            return Err(OperandError::DifferentServers(from.server, target.server));
        }
        let to = match (from.path.name(), target.is_directory) {
            (Some(name), true) => target.join(name)?,
            _ => target.path,
        };
        Ok(Self { from, to })
    }

    /// The failure of a change, with the path named that is to blame.
    async fn failed(&self, client: &Client, error: &ClientError, force: bool) -> CommandError {
        let subject = Subject::Two(self.from.path.clone(), self.to.clone());
        let flags = HintFlags::CHANGE.force_given(force);
        let failure = CommandFailure::new(subject, error, flags);
        CommandError::Failed(Box::new(failure.explain(client).await))
    }

    fn event(&self, kind: EventKind) -> Event {
        Event::new(kind)
            .remote("from", &self.from.path)
            .remote("to", &self.to)
    }
}

/// The condition on what has the path of a change already.
fn target_precondition(may_exist: bool) -> Precondition {
    match may_exist {
        true => Precondition::Any,
        false => Precondition::Absent,
    }
}
