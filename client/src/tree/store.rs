//! From local files and directories to the server.
//!
//! A blocking thread walks the local directories. Each directory is made on the server by a job
//! like any other; what goes into it waits for that job alone, so directories cost no round trips
//! one after another.

use std::fs::{self, FileType, ReadDir};
use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::digest::DigestKind;
use quire_shared::protocol::{MakeDirectory, Precondition, Put};
use quire_shared::{Name, RemotePath};
use tokio::sync::{mpsc, watch};

use super::{Moved, Transfer, job_queue, local_name, run_jobs};
use crate::blocking::blocking;
use crate::client::Client;
use crate::error::ClientError;
use crate::upload::{Links, LocalFile};

/// Something local, and what it is to be on the server.
#[derive(Debug, Clone)]
pub struct Store {
    /// The local file or directory.
    pub from: PathBuf,
    /// Its name on the server.
    pub to: RemotePath,
}

/// How files are stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// Whether directories are stored, with all that is below them, and missing parents made.
    pub recursive: bool,
    /// Whether files that exist on the server are replaced.
    pub overwrite: bool,
    /// The kind of digest that proves a content.
    pub digest: DigestKind,
}

/// Stores all `items`, reporting to `transfer`.
pub async fn store(
    client: &Client,
    items: Vec<Store>,
    options: StoreOptions,
    transfer: &Arc<Transfer>,
) {
    let (queue, jobs) = job_queue();
    let walk = Walk {
        options,
        transfer: Arc::clone(transfer),
        queue,
    };
    let walk = blocking(move || {
        // A walk that was stopped has been told why by others.
        let _ = walk.run(items);
        Ok(())
    });
    let work = |job: Job| {
        let (client, transfer) = (client.clone(), Arc::clone(transfer));
        async move { job.run(&client, options, &transfer).await }
    };
    let (_, ()) = tokio::join!(walk, run_jobs(jobs, transfer, work));
}

/// One file or directory to be stored.
#[derive(Debug)]
struct Job {
    from: PathBuf,
    to: RemotePath,
    kind: Kind,
    /// Whether its directory on the server is there.
    parent: Readiness,
}

#[derive(Debug)]
enum Kind {
    /// A file, and what to do if it is a symbolic link.
    File(Links),
    /// A directory, and who waits for it.
    Directory(watch::Sender<State>),
}

/// What became of a directory on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    There,
    Missing,
}

/// The readiness of a directory on the server; nothing waits for a directory that wasn't asked for.
type Readiness = Option<watch::Receiver<State>>;

impl Job {
    async fn run(mut self, client: &Client, options: StoreOptions, transfer: &Transfer) {
        let is_top = self.parent.is_none();
        if let Some(parent) = &mut self.parent {
            let state = parent.wait_for(|state| *state != State::Pending).await;
            // What is below a directory that couldn't be made isn't reported one by one.
            if !state.is_ok_and(|state| *state == State::There) {
                if let Kind::Directory(state) = &self.kind {
                    state.send_replace(State::Missing);
                }
                return;
            }
        }
        // Errors that concern the local file name it themselves; the rest come from the server.
        let name = self.to.to_string();
        let make_parents = options.recursive && is_top;
        match &self.kind {
            Kind::Directory(state) => {
                let make = MakeDirectory {
                    path: self.to.clone(),
                    make_parents,
                    precondition: Precondition::Any,
                };
                // The root is always there, and nobody can make it.
                let made = match self.to.is_root() {
                    true => Ok(()),
                    false => client.make_directory(make).await.map(|_| ()),
                };
                state.send_replace(match made {
                    Ok(()) => State::There,
                    Err(_) => State::Missing,
                });
                match made {
                    Ok(()) => transfer.add_directory(),
                    Err(error) => transfer.fail(name, error),
                }
            }
            Kind::File(links) => {
                transfer.start(local_name(&self.from));
                let stored = self.put(client, options, *links, transfer).await;
                transfer.end(name, stored);
            }
        }
    }

    async fn put(
        &self,
        client: &Client,
        options: StoreOptions,
        links: Links,
        transfer: &Transfer,
    ) -> Result<Moved, ClientError> {
        let file = LocalFile::open(&self.from, links).await?;
        let bytes = file.size();
        transfer.expect(bytes);
        let put = Put {
            path: self.to.clone(),
            size: Some(bytes),
            modified: file.modified(),
            mode: file.mode(),
            digest: options.digest,
            precondition: if options.overwrite {
                Precondition::Any
            } else {
                Precondition::Absent
            },
            make_parents: options.recursive && self.parent.is_none(),
        };
        let stored = client
            .put(put, file.into_content(), transfer.counter())
            .await
            .map_err(ClientError::with_flag)?;
        Ok(Moved {
            name: local_name(&self.from),
            local: self.from.clone(),
            remote: self.to.clone(),
            bytes,
            digest: stored.digest,
            digest_kind: stored.digest_kind,
            version: stored.version,
        })
    }
}

/// Finds what is to be stored.
struct Walk {
    options: StoreOptions,
    transfer: Arc<Transfer>,
    queue: mpsc::Sender<Job>,
}

/// A local directory that is being walked.
struct Level {
    local: PathBuf,
    entries: ReadDir,
    remote: RemotePath,
    made: watch::Receiver<State>,
}

/// The walk need not go on: nobody takes jobs any more.
struct Stopped;

impl Walk {
    fn run(&self, items: Vec<Store>) -> Result<(), Stopped> {
        for Store { from, to } in items {
            // The user named it, so a link is followed.
            match fs::metadata(&from) {
                Ok(metadata) if metadata.is_dir() && self.options.recursive => {
                    let mut levels = Vec::from_iter(self.enter(from, to, None)?);
                    while let Some(level) = levels.last_mut() {
                        match self.entry(level)? {
                            Progress::Deeper(below) => levels.push(below),
                            Progress::Same => {}
                            Progress::End => {
                                levels.pop();
                            }
                        }
                    }
                }
                // Whatever is wrong with it shows when it is opened.
                Ok(_) | Err(_) => self.send(from, to, Kind::File(Links::Follow), None)?,
            }
        }
        Ok(())
    }

    /// Takes one entry of a directory.
    fn entry(&self, level: &mut Level) -> Result<Progress, Stopped> {
        let entry = match level.entries.next() {
            None => return Ok(Progress::End),
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                let error = ClientError::disk(&level.local, "list", error);
                self.transfer.fail(local_name(&level.local), error);
                return Ok(Progress::End);
            }
        };
        let path = entry.path();
        let found = entry
            .file_type()
            .map_err(|error| ClientError::disk(&path, "look at", error));
        let (kind, to) = match found.and_then(|kind| {
            if !kind.is_dir() && !kind.is_file() {
                return Ok((kind, None));
            }
            remote_entry(level, &entry).map(|to| (kind, Some(to)))
        }) {
            Ok((kind, Some(to))) => (kind, to),
            Ok((_, None)) => {
                self.transfer.skip(local_name(&path));
                return Ok(Progress::Same);
            }
            Err(error) => {
                self.transfer.fail(local_name(&path), error);
                return Ok(Progress::Same);
            }
        };
        self.found(level, path, to, kind)
    }

    fn found(
        &self,
        level: &Level,
        from: PathBuf,
        to: RemotePath,
        kind: FileType,
    ) -> Result<Progress, Stopped> {
        let parent = Some(level.made.clone());
        if kind.is_dir() {
            let below = self.enter(from, to, parent)?;
            return Ok(below.map_or(Progress::Same, Progress::Deeper));
        }
        self.send(from, to, Kind::File(Links::Refuse), parent)?;
        Ok(Progress::Same)
    }

    /// Has a directory made on the server, and begins to list it here.
    fn enter(
        &self,
        from: PathBuf,
        to: RemotePath,
        parent: Readiness,
    ) -> Result<Option<Level>, Stopped> {
        let entries = match fs::read_dir(&from) {
            Ok(entries) => entries,
            Err(error) => {
                let error = ClientError::disk(&from, "list", error);
                self.transfer.fail(local_name(&from), error);
                return Ok(None);
            }
        };
        let (state, made) = watch::channel(State::Pending);
        self.send(from.clone(), to.clone(), Kind::Directory(state), parent)?;
        Ok(Some(Level {
            local: from,
            entries,
            remote: to,
            made,
        }))
    }

    fn send(
        &self,
        from: PathBuf,
        to: RemotePath,
        kind: Kind,
        parent: Readiness,
    ) -> Result<(), Stopped> {
        let job = Job {
            from,
            to,
            kind,
            parent,
        };
        self.queue.blocking_send(job).map_err(|_| Stopped)
    }
}

/// Where a walk goes next.
enum Progress {
    Same,
    Deeper(Level),
    End,
}

/// The name on the server of an entry of a local directory.
fn remote_entry(level: &Level, entry: &fs::DirEntry) -> Result<RemotePath, ClientError> {
    let path = entry.path();
    let Ok(name) = entry.file_name().into_string() else {
        return Err(ClientError::Unsuitable {
            path,
            reason: "has a name that isn't UTF-8, which can't travel",
        });
    };
    Name::new(name)
        .and_then(|name| level.remote.join(name))
        .map_err(|source| ClientError::LocalName { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(items: Vec<Store>, transfer: &Arc<Transfer>) -> Vec<(String, bool)> {
        let (queue, mut jobs) = job_queue();
        let options = StoreOptions {
            recursive: true,
            ..StoreOptions::default()
        };
        let walk = Walk {
            options,
            transfer: Arc::clone(transfer),
            queue,
        };
        assert!(walk.run(items).is_ok());
        drop(walk);
        let mut found = Vec::new();
        while let Some(job) = jobs.blocking_recv() {
            found.push((job.to.to_string(), matches!(job.kind, Kind::Directory(_))));
        }
        found
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_links_are_skipped() {
        let base = tempfile::tempdir().unwrap();
        let top = base.path().join("top");
        fs::create_dir_all(top.join("a/empty")).unwrap();
        fs::write(top.join("a/f"), "").unwrap();
        fs::write(top.join("new\nline"), "").unwrap();
        fs::write(top.join(".quire-left"), "").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("a", top.join("link")).unwrap();
        let transfer = Transfer::new(|_| {});
        let item = Store {
            from: top,
            to: RemotePath::parse("t").unwrap(),
        };
        let found = walk(vec![item], &transfer);
        let place = |path: &str, is_directory: bool| {
            found
                .iter()
                .position(|entry| *entry == (path.to_owned(), is_directory))
                .unwrap_or_else(|| panic!("{path} in {found:?}"))
        };
        assert_eq!(place("/t", true), 0);
        assert!(place("/t/a", true) < place("/t/a/f", false));
        assert!(place("/t/a", true) < place("/t/a/empty", true));
        place("/t/new\\nline", false);
        assert_eq!(found.len(), 5);
        assert_eq!(transfer.failed(), 1, "the reserved name");
        #[cfg(unix)]
        assert_eq!(transfer.skipped(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_that_is_not_utf8_fails_alone() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join(OsStr::from_bytes(b"a\xff")), "").unwrap();
        fs::write(base.path().join("b"), "").unwrap();
        let transfer = Transfer::new(|_| {});
        let item = Store {
            from: base.path().to_owned(),
            to: RemotePath::parse("t").unwrap(),
        };
        let found = walk(vec![item], &transfer);
        assert_eq!(found.len(), 2);
        assert_eq!(transfer.failed(), 1);
    }
}
