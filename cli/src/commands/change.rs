//! Commands that change what is on the server: rename, delete, mkdir, chmod, and what they share
//! with `copy`.

use quire_shared::protocol::{Chmod, Delete, MakeDirectory, Precondition, Rename};
use quire_shared::{ErrorCode, Name, RemotePath};

use super::reconnect::Reconnecting;
use super::{CommandError, ErrorContext, fail, require_directory_over};
use crate::args::{ChmodArgs, DeleteArgs, MkdirArgs, RenameArgs};
use crate::event::{Event, EventKind};
use crate::failure::{CommandFailure, HintFlags, Subject};
use crate::operand::{OperandError, Remote, on_one_server};
use crate::session::CliSession;
use quire_client::{Client, ClientError, Repeatable, repeat};

/// Renames a file or directory.
///
/// # Errors
/// If it can't be renamed.
pub(super) async fn rename(session: &CliSession, args: &RenameArgs) -> Result<(), CommandError> {
    let two = TwoPaths::parse(Remote::parse_below_root(&args.from)?, &args.to)?;
    let mut client = session.client(&two.from.server).await?;
    let reconnect = Reconnecting::new(session, &two.from.server);
    let is_right = require_directory_over(&mut client, &reconnect, &two.from).await;
    is_right.about(&two.from.path)?;
    let rename = Rename {
        from: two.from.path.clone(),
        to: two.to.clone(),
        source: Precondition::Any,
        target: Precondition::of_target(args.force),
        change_id: None,
    };
    let renamed = match repeat(&mut client, &reconnect, rename).await {
        Ok(renamed) => renamed,
        Err(error) => return Err(two.failed(&client, &error, args.force).await),
    };
    session.output.event(|| {
        let version = renamed.version.to_string();
        two.event(EventKind::Renamed).with("version", version)
    });
    Ok(())
}

/// Deletes files and directories.
///
/// # Errors
/// If the operands are invalid or there is no connection. The error of a single operand is printed.
pub(super) async fn delete(session: &CliSession, args: &DeleteArgs) -> Result<(), CommandError> {
    for remote in on_one_server(&args.operands)? {
        let mut client = session.client(&remote.server).await?;
        let delete = Delete {
            path: remote.path.clone(),
            recursive: args.recursive,
            precondition: Precondition::Any,
            change_id: None,
        };
        match change_existing(session, &mut client, &remote, delete).await {
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
        let mut client = session.client(&remote.server).await?;
        let reconnect = Reconnecting::new(session, &remote.server);
        let make = MakeDirectory {
            path: remote.path.clone(),
            make_parents: true,
            precondition: Precondition::of_target(args.parents),
            change_id: None,
        };
        match repeat(&mut client, &reconnect, make).await {
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
        let mut client = session.client(&remote.server).await?;
        let chmod = Chmod {
            path: remote.path.clone(),
            mode: args.mode,
            precondition: Precondition::Any,
            details: None,
        };
        match change_existing(session, &mut client, &remote, chmod).await {
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

/// Makes a change to what has the path `remote`, again over another connection if this one is lost.
async fn change_existing<M: Repeatable>(
    session: &CliSession,
    client: &mut Client,
    remote: &Remote,
    change: M,
) -> Result<M::Answer, ClientError> {
    let reconnect = Reconnecting::new(session, &remote.server);
    require_directory_over(client, &reconnect, remote).await?;
    repeat(client, &reconnect, change).await
}

/// The operands of a rename or copy.
pub(super) struct TwoPaths {
    pub(super) from: Remote,
    pub(super) to: RemotePath,
}

impl TwoPaths {
    /// Parses the second path, on the server of the first. With a slash at its end, it is the
    /// directory to go into.
    pub(super) fn parse(from: Remote, to: &str) -> Result<Self, OperandError> {
        let target = Remote::parse_target(to)?;
        if from.server != target.server {
            return Err(OperandError::DifferentServers(from.server, target.server));
        }
        let to = target_of(&from, &target)?;
        Ok(Self { from, to })
    }

    /// What has the same `name` below both.
    ///
    /// # Errors
    /// If a path is over a limit.
    pub(super) fn below(&self, name: &Name) -> Result<Self, ClientError> {
        let join = |path: &RemotePath| path.join(name.clone()).map_err(ClientError::RemotePath);
        let from = Remote {
            server: self.from.server.clone(),
            path: join(&self.from.path)?,
            is_directory: false,
            contents: false,
        };
        let to = join(&self.to)?;
        Ok(Self { from, to })
    }

    /// The failure of a change, with the path named that is to blame.
    pub(super) async fn failed(
        &self,
        client: &Client,
        error: &ClientError,
        force: bool,
    ) -> CommandError {
        let subject = Subject::Two(self.from.path.clone(), self.to.clone());
        let flags = HintFlags::CHANGE.force_given(force);
        let failure = CommandFailure::new(subject, error, flags);
        CommandError::Failed(Box::new(failure.explain(client).await))
    }

    pub(super) fn event(&self, kind: EventKind) -> Event {
        Event::new(kind)
            .remote("from", &self.from.path)
            .remote("to", &self.to)
    }
}

/// What `from` becomes: `target`, or with a slash at its end, what has the same name in it.
pub(super) fn target_of(from: &Remote, target: &Remote) -> Result<RemotePath, OperandError> {
    match (from.path.name(), target.is_directory) {
        (Some(name), true) if !from.contents => target.join(name),
        _ => Ok(target.path.clone()),
    }
}
