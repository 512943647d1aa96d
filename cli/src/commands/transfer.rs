//! Commands that transfer content: get, put, cat.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_shared::protocol::{EntryKind, Get, Precondition, Put, Stat};
use quire_shared::{ErrorCode, Name, RemotePath};
use quire_transport::bottleneck::Meter;

use super::display::TransferDisplay;
use super::{CommandError, ErrorContext, fail, require_directory};
use crate::args::{CatArgs, GetArgs, PutArgs};
use crate::event::EventKind;
use crate::failure::HintFlags;
use crate::operand::{DASH, OperandError, Remote, Target, get_operands, on_one_server};
use crate::session::{CliSession, blocking};
use crate::standard_input::{self, StandardInput};
use quire_client::Client;
use quire_client::ClientError;
use quire_client::ServerId;
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
    let target = match operands.target {
        Target::Stdout if args.recursive => {
            return Err(OperandError::Dash("a directory").into());
        }
        Target::Stdout => return write_out(session, operands.sources).await,
        Target::Local(target) => target,
    };
    let target = LocalTarget::find(target, operands.sources.len()).await?;
    let options = FetchOptions {
        recursive: args.recursive,
        digest: session.config.transfer_digest(),
        save: SaveOptions {
            overwrite: args.force,
            sync: args.fsync,
        },
    };
    let flags = HintFlags::GET.force_given(args.force);
    let mut progress = TransferDisplay::start(session, EventKind::Downloaded, flags);
    for (server, sources) in by_server(operands.sources) {
        let client = session.client(&server).await?;
        let mut items = Vec::new();
        for source in sources {
            let is_right = require_directory(&client, &source).await;
            let from = source.path;
            match is_right.and_then(|()| target.path_for(&from, args.recursive)) {
                Ok(to) => items.push(DownloadJob { from, to }),
                Err(error) => progress.transfer.fail(from, error),
            }
        }
        let meter = Meter::receiving(client.flow());
        let transfer = Arc::clone(&progress.transfer);
        let work = transfer::fetch(&client, items, options, &transfer);
        progress.watch(&client, work).await;
        progress.judge(&meter);
    }
    progress.end(options.digest);
    Ok(())
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
    for remote in sources {
        let client = session.client(&remote.server).await?;
        let get = Get {
            path: remote.path.clone(),
            digest,
            ..Get::default()
        };
        let written = match require_directory(&client, &remote).await {
            Ok(()) => match client.get(get).await {
                Ok(download) => download.write_to(stdout()?, transfer.counter()).await,
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
    let input = match is_stdin {
        true => Some(standard_input::open()?),
        false => None,
    };
    let client = session.client(&remote.server).await?;
    let meter = Meter::sending(client.flow());
    let flags = HintFlags::PUT.force_given(args.force);
    let mut progress = TransferDisplay::start(session, EventKind::Uploaded, flags);
    let transfer = Arc::clone(&progress.transfer);
    let digest = session.config.transfer_digest();
    if let Some(input) = input {
        let put = Put {
            path: remote.path.clone(),
            digest,
            precondition: match args.force {
                true => Precondition::Any,
                false => Precondition::Absent,
            },
            ..Put::default()
        };
        let work = put_stdin(&client, put, input, &transfer);
        progress.watch(&client, work).await;
        progress.judge(&meter);
        progress.end(digest);
        return Ok(());
    }
    let goes_inside = locals.len() > 1
        || remote.is_directory
        || is_directory(&client, &remote.path)
            .await
            .about(&remote.path)?;
    let mut items = Vec::new();
    for local in locals.iter().map(PathBuf::from) {
        match remote_path_for(&local, &remote.path, goes_inside) {
            Ok(to) => items.push(UploadJob { from: local, to }),
            Err(error) => transfer.fail(local, error),
        }
    }
    let options = StoreOptions {
        recursive: args.recursive,
        overwrite: args.force,
        digest,
    };
    let work = transfer::store(&client, items, options, &transfer);
    progress.watch(&client, work).await;
    progress.judge(&meter);
    progress.end(digest);
    Ok(())
}

async fn put_stdin(client: &Client, put: Put, input: StandardInput, transfer: &Transfer) {
    transfer.start("standard input".to_owned());
    let path = put.path.clone();
    let content = UploadBody::stream(input, "standard input");
    let stored = client.put(put, content, transfer.counter()).await;
    let stored = stored.map(|stored| Moved {
        name: "standard input".to_owned(),
        local: DASH.into(),
        remote: path.clone(),
        bytes: transfer.moved(),
        digest: stored.digest,
        digest_kind: stored.digest_kind,
        version: stored.version,
    });
    transfer.end(&path, stored);
}

/// Whether `path` is a directory on the server, so that an upload goes inside.
async fn is_directory(client: &Client, path: &RemotePath) -> Result<bool, ClientError> {
    if path.is_root() {
        return Ok(true);
    }
    match client.stat(Stat { path: path.clone() }).await {
        Ok(attributes) => Ok(attributes.kind == EntryKind::Directory),
        // The upload itself reports what is wrong with the path.
        Err(error) => match error.code() {
            Some(ErrorCode::NOT_FOUND | ErrorCode::NOT_DIRECTORY) => Ok(false),
            _ => Err(error),
        },
    }
}

/// The path on the server for a local operand, chosen as by `cp`.
fn remote_path_for(
    local: &Path,
    target: &RemotePath,
    goes_inside: bool,
) -> Result<RemotePath, ClientError> {
    // `.` and `/` have no name of their own, so their content goes into the target.
    let Some(name) = local.file_name().filter(|_| goes_inside) else {
        return Ok(target.clone());
    };
    let Some(name) = name.to_str() else {
        return Err(ClientError::Unsuitable {
            path: local.to_owned(),
            reason: "has a name that isn't UTF-8, which can't be sent",
        });
    };
    Name::new(name)
        .and_then(|name| target.join(name))
        .map_err(|source| ClientError::LocalName {
            path: local.to_owned(),
            source,
        })
}

/// Local target of a download.
struct LocalTarget {
    path: PathBuf,
    is_directory: bool,
}

impl LocalTarget {
    async fn find(path: PathBuf, sources: usize) -> Result<Self, ClientError> {
        blocking(move || {
            let is_directory = path.is_dir();
            // With a slash at the end, or with several sources, the target must be a directory.
            let must_be_directory =
                sources > 1 || path.as_os_str().as_encoded_bytes().ends_with(b"/");
            if must_be_directory && !is_directory {
                return Err(ClientError::Unsuitable {
                    path,
                    reason: "is not a directory",
                });
            }
            Ok(Self { path, is_directory })
        })
        .await
    }

    /// The local path for `from`, chosen as by `cp`.
    fn path_for(&self, from: &RemotePath, recursive: bool) -> Result<PathBuf, ClientError> {
        match from.name() {
            Some(name) if self.is_directory => transfer::local_entry(&self.path, name),
            Some(_) => Ok(self.path.clone()),
            // The root has no name, so its content goes into the target.
            None if recursive => Ok(self.path.clone()),
            None => Err(ClientError::of_code(ErrorCode::IS_DIRECTORY)),
        }
    }
}

/// Groups sources by server, in the order of the operands.
fn by_server(sources: Vec<Remote>) -> Vec<(ServerId, Vec<Remote>)> {
    let mut groups: Vec<(ServerId, Vec<Remote>)> = Vec::new();
    for source in sources {
        match groups
            .iter_mut()
            .find(|(server, _)| *server == source.server)
        {
            Some((_, sources)) => sources.push(source),
            None => groups.push((source.server.clone(), vec![source])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RemotePath {
        RemotePath::parse(text).unwrap()
    }

    #[test]
    fn an_upload_goes_inside_a_directory_or_becomes_the_target() {
        let to = |local: &str, inside| {
            remote_path_for(Path::new(local), &path("t"), inside)
                .unwrap()
                .to_string()
        };
        assert_eq!(to("a/b", true), "/t/b");
        assert_eq!(to("a/b", false), "/t");
        assert_eq!(to("a/b/", true), "/t/b");
        assert_eq!(to(".", true), "/t");
        assert_eq!(to("..", true), "/t");
        remote_path_for(Path::new(".quire-x"), &path("t"), true).unwrap_err();
    }

    #[tokio::test]
    async fn a_download_goes_inside_a_directory_or_becomes_the_target() {
        let base = tempfile::tempdir().unwrap();
        let directory = LocalTarget::find(base.path().to_owned(), 2).await.unwrap();
        let inside = directory.path_for(&path("a/b"), false).unwrap();
        assert_eq!(inside, base.path().join("b"));
        assert_eq!(
            directory.path_for(&RemotePath::ROOT, true).unwrap(),
            base.path()
        );
        assert!(directory.path_for(&RemotePath::ROOT, false).is_err());
        let new = base.path().join("new");
        let target = LocalTarget::find(new.clone(), 1).await.unwrap();
        assert_eq!(target.path_for(&path("a/b"), false).unwrap(), new);
        assert!(LocalTarget::find(new.clone(), 2).await.is_err());
        assert!(LocalTarget::find(new.join(""), 1).await.is_err());
    }

    #[test]
    fn sources_are_grouped_by_server_in_order() {
        let sources = ["h/a", "g/b", "h:4433/c"].map(|text| Remote::parse(text).unwrap());
        let groups = by_server(sources.into());
        let shown: Vec<_> = groups
            .iter()
            .map(|(server, paths)| (server.host(), paths.len()))
            .collect();
        assert_eq!(shown, [("h", 2), ("g", 1)]);
    }
}
