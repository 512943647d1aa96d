//! From the server to local files and directories.
//!
//! Listings are walked depth first, one page per level in memory. A directory gets its own
//! modification time and mode when the last file below it has arrived, because anything made in
//! it would change the one and might be forbidden by the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Attributes, EntryKind, Get, List, Precondition, Stat};
use quire_shared::{ErrorCode, RemotePath};
use tokio::sync::mpsc;

use super::{Moved, Transfer, job_queue, local_entry, run_jobs};
use crate::attributes;
use crate::blocking::blocking;
use crate::client::Client;
use crate::download::SaveOptions;
use crate::error::ClientError;
use crate::listing::Listing;

/// Something on the server, and what it is to be here.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The file or directory on the server.
    pub from: RemotePath,
    /// Its name here.
    pub to: PathBuf,
}

/// How files are fetched.
#[derive(Debug, Clone, Copy, Default)]
pub struct FetchOptions {
    /// Whether directories are fetched, with all that is below them.
    pub recursive: bool,
    /// The kind of digest that proves a content.
    pub digest: DigestKind,
    /// How files are put on disk.
    pub save: SaveOptions,
}

/// Fetches all `items`, reporting to `transfer`.
pub async fn fetch(
    client: &Client,
    items: Vec<Fetch>,
    options: FetchOptions,
    transfer: &Arc<Transfer>,
) {
    let (queue, jobs) = job_queue();
    let walk = Walk {
        client,
        options,
        transfer,
        queue,
    };
    let work = |job: Job| {
        let (client, transfer) = (client.clone(), Arc::clone(transfer));
        async move { job.run(&client, options, &transfer).await }
    };
    tokio::join!(walk.run(items), run_jobs(jobs, transfer, work));
}

/// One file to be fetched.
#[derive(Debug)]
struct Job {
    from: RemotePath,
    to: PathBuf,
    /// The size that a listing told, already announced.
    listed_size: Option<u64>,
    directory: Option<Arc<Directory>>,
}

impl Job {
    async fn run(self, client: &Client, options: FetchOptions, transfer: &Transfer) {
        let name = self.from.to_string();
        transfer.start(name.clone());
        let result = self.fetch(client, options, transfer).await;
        transfer.end(name, result);
        if let Some(directory) = self.directory {
            finish(directory, transfer).await;
        }
    }

    async fn fetch(
        &self,
        client: &Client,
        options: FetchOptions,
        transfer: &Transfer,
    ) -> Result<Moved, ClientError> {
        let get = Get {
            path: self.from.clone(),
            offset: 0,
            length: None,
            digest: options.digest,
            precondition: Precondition::Any,
        };
        let download = client.get(get).await.map_err(|error| match error.code() {
            Some(ErrorCode::IS_DIRECTORY) => ClientError::NeedsRecursive,
            _ => error,
        })?;
        if self.listed_size.is_none() {
            transfer.expect(download.header().length);
        }
        let fetched = download
            .save(&self.to, options.save, transfer.counter())
            .await?;
        Ok(Moved {
            name: self.from.to_string(),
            local: self.to.clone(),
            remote: self.from.clone(),
            bytes: fetched.bytes,
            digest: fetched.digest,
            digest_kind: fetched.digest_kind,
            version: fetched.version,
        })
    }
}

/// A local directory that is being filled; whoever holds it still has something to do below it.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    attributes: Attributes,
    /// One that was there before keeps its own attributes, unless it is to be overwritten.
    keeps_own: bool,
    parent: Option<Arc<Self>>,
}

impl Directory {
    fn make(
        path: PathBuf,
        attributes: Attributes,
        overwrite: bool,
        parent: Option<Arc<Self>>,
    ) -> Result<Self, ClientError> {
        let keeps_own = match fs::create_dir(&path) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !path.is_dir() {
                    return Err(ClientError::Unsuitable {
                        path,
                        reason: "is in the way of a directory",
                    });
                }
                !overwrite
            }
            Err(error) => return Err(ClientError::disk(&path, "make the directory", error)),
        };
        Ok(Self {
            path,
            attributes,
            keeps_own,
            parent,
        })
    }

    fn set_attributes(&self) -> Result<(), ClientError> {
        if self.keeps_own {
            return Ok(());
        }
        open_directory(&self.path)
            .and_then(|directory| {
                attributes::set_modified(&directory, self.attributes.modified)?;
                attributes::set_mode(&directory, self.attributes.mode)
            })
            .map_err(|error| ClientError::disk(&self.path, "set the attributes of", error))
    }
}

#[cfg(not(windows))]
fn open_directory(path: &Path) -> io::Result<fs::File> {
    fs::File::open(path)
}

/// Windows opens a directory only with a special flag, and sets times only with a special right.
#[cfg(windows)]
fn open_directory(path: &Path) -> io::Result<fs::File> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_WRITE_ATTRIBUTES: u32 = 0x100;
    const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
    fs::OpenOptions::new()
        .access_mode(FILE_WRITE_ATTRIBUTES)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
}

/// Lets go of `directory`. Whoever does so last gives it its attributes, then lets go of its
/// parent, which is thereby complete after all of its children.
async fn finish(directory: Arc<Directory>, transfer: &Transfer) {
    let mut next = Arc::into_inner(directory);
    while let Some(mut directory) = next {
        next = directory.parent.take().and_then(Arc::into_inner);
        let path = directory.path.clone();
        if let Err(error) = blocking(move || directory.set_attributes()).await {
            transfer.fail(super::local_name(&path), error);
        }
    }
}

/// Finds what is to be fetched.
struct Walk<'a> {
    client: &'a Client,
    options: FetchOptions,
    transfer: &'a Transfer,
    queue: mpsc::Sender<Job>,
}

/// A directory on the server that is being walked.
struct Level {
    remote: RemotePath,
    listing: Listing,
    directory: Arc<Directory>,
}

/// The walk need not go on: nobody takes jobs any more.
struct Stopped;

impl Walk<'_> {
    async fn run(self, items: Vec<Fetch>) {
        for item in items {
            let name = item.from.to_string();
            match self.item(item).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.transfer.fail(name, error),
                Err(Stopped) => return,
            }
        }
    }

    async fn item(&self, item: Fetch) -> Result<Result<(), ClientError>, Stopped> {
        let Fetch { from, to } = item;
        if self.options.recursive {
            let attributes = match self.client.stat(Stat { path: from.clone() }).await {
                Ok(attributes) => attributes,
                Err(error) => return Ok(Err(error)),
            };
            if attributes.kind == EntryKind::Directory {
                return match self.enter(from, to, attributes, None).await {
                    Ok(level) => self.tree(level).await.map(Ok),
                    Err(error) => Ok(Err(error)),
                };
            }
        }
        let job = Job {
            from,
            to,
            listed_size: None,
            directory: None,
        };
        self.queue.send(job).await.map(Ok).map_err(|_| Stopped)
    }

    async fn tree(&self, top: Level) -> Result<(), Stopped> {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            let entry = match level.listing.next().await {
                Ok(Some(entry)) => entry,
                ended => {
                    self.leave(levels.pop(), ended.err()).await;
                    continue;
                }
            };
            let name = || match level.remote.join(entry.name.clone()) {
                Ok(path) => path.to_string(),
                Err(_) => format!("{}/{}", level.remote, entry.name),
            };
            let paths = level
                .remote
                .join(entry.name.clone())
                .map_err(|_| ClientError::of_code(ErrorCode::INVALID_PATH))
                .and_then(|from| Ok((from, local_entry(&level.directory.path, &entry.name)?)));
            let (from, to) = match paths {
                Ok(paths) => paths,
                Err(error) => {
                    self.transfer.fail(name(), error);
                    continue;
                }
            };
            match entry.attributes.kind {
                EntryKind::File => {
                    self.transfer.expect(entry.attributes.size);
                    let job = Job {
                        from,
                        to,
                        listed_size: Some(entry.attributes.size),
                        directory: Some(Arc::clone(&level.directory)),
                    };
                    self.queue.send(job).await.map_err(|_| Stopped)?;
                }
                EntryKind::Directory => {
                    level.listing.pause();
                    let parent = Some(Arc::clone(&level.directory));
                    let shown = from.to_string();
                    match self.enter(from, to, entry.attributes, parent).await {
                        Ok(level) => levels.push(level),
                        Err(error) => self.transfer.fail(shown, error),
                    }
                }
                EntryKind::Symlink | EntryKind::Other => self.transfer.skip(from.to_string()),
            }
            if self.transfer.is_lost() {
                return Err(Stopped);
            }
        }
        Ok(())
    }

    /// Makes the directory here and begins to list the one there.
    async fn enter(
        &self,
        remote: RemotePath,
        local: PathBuf,
        attributes: Attributes,
        parent: Option<Arc<Directory>>,
    ) -> Result<Level, ClientError> {
        let list = List {
            path: remote.clone(),
            after: None,
        };
        let listing = self.client.list(list).await?;
        let overwrite = self.options.save.overwrite;
        let directory =
            blocking(move || Directory::make(local, attributes, overwrite, parent)).await?;
        self.transfer.add_directory();
        Ok(Level {
            remote,
            listing,
            directory: Arc::new(directory),
        })
    }

    async fn leave(&self, level: Option<Level>, error: Option<ClientError>) {
        let Some(level) = level else { return };
        if let Some(error) = error {
            self.transfer.fail(level.remote.to_string(), error);
        }
        let unnameable = level.listing.unnameable();
        if unnameable > 0 {
            let error = ClientError::Unnameable(unnameable);
            self.transfer.fail(level.remote.to_string(), error);
        }
        finish(level.directory, self.transfer).await;
    }
}

#[cfg(test)]
mod tests {
    use quire_shared::protocol::{Time, Version};

    use super::*;

    fn attributes(mode: u32) -> Attributes {
        Attributes {
            kind: EntryKind::Directory,
            size: 0,
            modified: Time {
                seconds: 1_000_000_000,
                nanoseconds: 0,
            },
            mode,
            version: Version::new(b"").unwrap(),
        }
    }

    fn seconds(path: &Path) -> u64 {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        modified
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    }

    #[tokio::test]
    async fn directories_get_their_attributes_after_all_that_is_below_them() {
        let base = tempfile::tempdir().unwrap();
        let transfer = Transfer::new(|_| {});
        let path = base.path().join("a");
        let outer =
            Arc::new(Directory::make(path.clone(), attributes(0o500), false, None).unwrap());
        let parent = Some(Arc::clone(&outer));
        let below = path.join("b");
        let inner =
            Arc::new(Directory::make(below.clone(), attributes(0o700), false, parent).unwrap());
        let job = Arc::clone(&inner);
        finish(outer, &transfer).await;
        finish(inner, &transfer).await;
        assert_ne!(seconds(&path), 1_000_000_000);
        fs::write(below.join("f"), "").unwrap();
        finish(job, &transfer).await;
        assert_eq!(seconds(&path), 1_000_000_000);
        assert_eq!(seconds(&below), 1_000_000_000);
        assert_eq!(transfer.failed(), 0);
    }

    #[test]
    fn a_directory_that_was_there_keeps_its_attributes_and_a_file_is_in_the_way() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a");
        fs::create_dir(&path).unwrap();
        let there = Directory::make(path.clone(), attributes(0o700), false, None).unwrap();
        there.set_attributes().unwrap();
        assert_ne!(seconds(&path), 1_000_000_000);
        let forced = Directory::make(path.clone(), attributes(0o700), true, None).unwrap();
        forced.set_attributes().unwrap();
        assert_eq!(seconds(&path), 1_000_000_000);
        let file = base.path().join("f");
        fs::write(&file, "").unwrap();
        Directory::make(file, attributes(0o700), true, None).unwrap_err();
    }
}
