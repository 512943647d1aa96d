//! Targets of `get` and `put`: what each source becomes, chosen as by `cp`, and which transfers are
//! the continuation of an earlier one.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use quire_certs::StateDir;
use quire_client::transfer::{self, DownloadJob, Transfer, UploadJob};
use quire_client::{Client, ClientError, ServerId};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{EntryKind, Stat};
use quire_shared::{ErrorCode, EscapedPath, Name, RemotePath};

use crate::operand::{OperandError, Remote, is_contents};
use crate::session::{CliSession, blocking};

/// Local target of a download.
pub(super) struct LocalTarget {
    pub(super) path: PathBuf,
    pub(super) is_directory: bool,
}

impl LocalTarget {
    pub(super) async fn find(path: PathBuf, sources: usize) -> Result<Self, ClientError> {
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

    /// What `source` becomes here. With `contents`, its content goes into the target.
    pub(super) fn job(
        &self,
        source: &RemotePath,
        contents: bool,
        recursive: bool,
    ) -> Result<DownloadJob, ClientError> {
        let (to, contents) = match source.name() {
            Some(name) if self.is_directory && !contents => {
                (transfer::local_entry(&self.path, name)?, false)
            }
            Some(_) if !contents => (self.path.clone(), false),
            // The root has no name, so its content goes into the target.
            _ if recursive => (self.path.clone(), true),
            _ => return Err(ClientError::of_code(ErrorCode::IS_DIRECTORY)),
        };
        Ok(DownloadJob {
            from: source.clone(),
            to,
            contents,
        })
    }
}

/// What the local `source` becomes on the server.
pub(super) fn upload_job(
    source: &Path,
    target: &RemotePath,
    goes_inside: bool,
) -> Result<UploadJob, ClientError> {
    let job = |to| UploadJob {
        from: source.to_owned(),
        to,
    };
    // `.` and `/` have no name of their own, so their content goes into the target.
    let goes_inside = goes_inside && !is_contents(source.as_os_str());
    let Some(name) = source.file_name().filter(|_| goes_inside) else {
        return Ok(job(target.clone()));
    };
    let Some(name) = name.to_str() else {
        return Err(ClientError::Unsuitable {
            path: source.to_owned(),
            reason: "has a name that isn't UTF-8, which can't be sent",
        });
    };
    let to = Name::new(name).and_then(|name| target.join(name));
    let to = to.map_err(|source_error| ClientError::LocalName {
        path: source.to_owned(),
        source: source_error,
    });
    to.map(job)
}

/// Checks that no two sources have the same target, of which only one would be left.
///
/// # Errors
/// Names the first two.
pub(super) fn require_distinct<T: Eq + Hash>(
    sources: impl IntoIterator<Item = (String, T)>,
    shown: impl Fn(&T) -> String,
) -> Result<(), OperandError> {
    let mut taken = HashMap::new();
    for (source, target) in sources {
        let target_text = shown(&target);
        if let Some(first) = taken.insert(target, source.clone()) {
            return Err(OperandError::SameTarget {
                first,
                second: source,
                target: target_text,
            });
        }
    }
    Ok(())
}

/// Whether `path` is a directory on the server, so that an upload goes inside.
pub(super) async fn is_directory(client: &Client, path: &RemotePath) -> Result<bool, ClientError> {
    Ok(kind_at(client, path).await? == Some(EntryKind::Directory))
}

/// What `path` is on the server, if anything.
pub(super) async fn kind_at(
    client: &Client,
    path: &RemotePath,
) -> Result<Option<EntryKind>, ClientError> {
    if path.is_root() {
        return Ok(Some(EntryKind::Directory));
    }
    match client.stat(Stat::of(path.clone())).await {
        Ok(attributes) => Ok(Some(attributes.kind)),
        // The upload itself reports what is wrong with the path.
        Err(error) => match error.code() {
            Some(ErrorCode::NOT_FOUND | ErrorCode::NOT_DIRECTORY) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Groups jobs by server, in the order of the operands.
pub(super) fn by_server<T>(
    jobs: Vec<T>,
    server_of: impl Fn(&T) -> ServerId,
) -> Vec<(ServerId, Vec<T>)> {
    let mut groups: Vec<(ServerId, Vec<T>)> = Vec::new();
    for job in jobs {
        let server = server_of(&job);
        match groups.iter_mut().find(|(known, _)| *known == server) {
            Some((_, jobs)) => jobs.push(job),
            None => groups.push((server, vec![job])),
        }
    }
    groups
}

/// The record of a recursive transfer whose target directory it makes itself. It stays until the
/// transfer succeeds, so that a repetition goes on in that directory and not inside it.
#[derive(Debug)]
pub(super) struct UnfinishedTransfer {
    state: StateDir,
    file: String,
    /// Whether an earlier transfer made the target.
    pub(super) is_resumed: bool,
}

impl UnfinishedTransfer {
    /// Begins the record of the transfer `from` one place `to` another, or finds the one of an
    /// earlier transfer. Then the target is what the source becomes: `goes_inside` is cleared, and
    /// `note` is printed. There is none if the target existed before.
    ///
    /// # Errors
    /// Names the directory or file that can't be written.
    pub(super) async fn begin_or_resume(
        session: &CliSession,
        (from, to): (&str, &str),
        goes_inside: &mut bool,
        note: impl FnOnce() -> String,
    ) -> Result<Option<Self>, ClientError> {
        let path = session.config.state_dir.clone();
        let text = format!("{from}\n{to}\n");
        let file = format!("{RECORD_PREFIX}{}", DigestKind::Xxh3.of(text.as_bytes()));
        let is_resumed = *goes_inside;
        let record = blocking(move || {
            let state = StateDir::open(path.as_deref())?;
            if !is_resumed {
                state.create(&file, text.as_bytes())?;
            } else if !state.file(&file).is_file() {
                return Ok::<_, ClientError>(None);
            }
            Ok(Some(Self {
                state,
                file,
                is_resumed,
            }))
        })
        .await?;
        if is_resumed && record.is_some() {
            session.output.note(&note());
            *goes_inside = false;
        }
        Ok(record)
    }

    /// Removes the record if `transfer` has succeeded, or has made nothing that a repetition could
    /// go on in.
    pub(super) async fn end(self, transfer: &Transfer) {
        let is_empty = transfer.directories() == 0 && transfer.files() == 0;
        if transfer.failed() > 0 && (self.is_resumed || !is_empty) {
            return;
        }
        let path = self.state.file(&self.file);
        // One that stays only lets a repetition go on in the same directory.
        let _ = blocking(move || std::fs::remove_file(path)).await;
    }
}

/// A source or target on a server, as a record names it.
pub(super) fn remote_text(remote: &Remote) -> String {
    format!("{}{}", remote.server, remote.path)
}

/// A local source or target, as a record names it.
///
/// # Errors
/// If there is no current directory.
pub(super) fn local_text(path: &Path) -> Result<String, ClientError> {
    let absolute = std::path::absolute(path);
    let absolute = absolute.map_err(|error| ClientError::disk(path, "find", error))?;
    // Without `.` and slashes at the end, which don't change what it is.
    let absolute: PathBuf = absolute.components().collect();
    Ok(EscapedPath(&absolute).to_string())
}

/// Prefix of the names of records in the state directory.
const RECORD_PREFIX: &str = "unfinished-";

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RemotePath {
        RemotePath::parse(text).unwrap()
    }

    #[test]
    fn an_upload_goes_inside_a_directory_or_becomes_the_target() {
        let to = |local: &str, inside| {
            let job = upload_job(Path::new(local), &path("t"), inside).unwrap();
            job.to.to_string()
        };
        assert_eq!(to("a/b", true), "/t/b");
        assert_eq!(to("a/b", false), "/t");
        assert_eq!(to("a/b/", true), "/t/b");
        for contents in [".", "..", "a/.", "a/./", "./."] {
            assert_eq!(to(contents, true), "/t", "{contents}");
        }
        upload_job(Path::new(".quire-x"), &path("t"), true).unwrap_err();
    }

    #[tokio::test]
    async fn a_download_goes_inside_a_directory_or_becomes_the_target() {
        let base = tempfile::tempdir().unwrap();
        let directory = LocalTarget::find(base.path().to_owned(), 2).await.unwrap();
        let to = |target: &LocalTarget, from: &str, contents| {
            let job = target.job(&path(from), contents, true).unwrap();
            (job.to, job.contents)
        };
        let inside = base.path().join("b");
        assert_eq!(to(&directory, "a/b", false), (inside, false));
        let here = base.path().to_owned();
        assert_eq!(to(&directory, "a/b", true), (here.clone(), true));
        assert_eq!(to(&directory, "", false), (here, true));
        assert!(directory.job(&RemotePath::ROOT, false, false).is_err());
        assert!(directory.job(&path("a"), true, false).is_err());
        let new = base.path().join("new");
        let target = LocalTarget::find(new.clone(), 1).await.unwrap();
        assert_eq!(to(&target, "a/b", false), (new.clone(), false));
        assert!(LocalTarget::find(new.clone(), 2).await.is_err());
        assert!(LocalTarget::find(new.join(""), 1).await.is_err());
    }

    #[test]
    fn jobs_are_grouped_by_server_in_order() {
        let server = |host: &str| ServerId::new(host, 4433).unwrap();
        let groups = by_server(vec!["h/a", "g/b", "h/c"], |job| server(&job[..1]));
        let expected = [
            (server("h"), vec!["h/a", "h/c"]),
            (server("g"), vec!["g/b"]),
        ];
        assert_eq!(groups, expected);
    }

    #[test]
    fn sources_with_one_target_are_named() {
        let pairs = |targets: [&'static str; 3]| {
            let sources = ["one", "two", "three"].map(str::to_owned);
            sources.into_iter().zip(targets)
        };
        let shown = |target: &&str| (*target).to_owned();
        require_distinct(pairs(["a", "b", "c"]), shown).unwrap();
        let error = require_distinct(pairs(["a", "b", "a"]), shown).unwrap_err();
        assert_eq!(error.to_string(), "one and three would both become a");
    }
}
