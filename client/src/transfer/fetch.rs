//! From the server to local files and directories.
//!
//! A directory comes with all that is below it on one stream, which [`unpack`](super::unpack)
//! turns into files; what is too large for that, or was named by itself, is a job of its own.

use std::fs::{self, Metadata};
use std::path::Path;
use std::sync::Arc;

use quire_shared::codec::DecodeError;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{Attributes, EntryKind, Get, GetTree, Preserve, Stat};
use quire_shared::{ErrorCode, RemotePath};
use tokio::sync::mpsc;

use super::arrival::{DownloadQueue, receive};
use super::description::{is_in_the_way, survey};
use super::engine::{Moved, Transfer};
use super::first_names::{FirstName, FirstNameGuard};
use super::job::{DownloadJob, DownloadKind, FetchOptions, FileDownload, SymlinkDownload};
use super::jobs::{ByteGate, JOBS_AT_ONCE, job_queue, run_jobs};
use super::leave::kind_of;
use super::links::{LinkKind, Linked, read_target};
use super::local_dir::{GivenToDir, LocalDir};
use super::many::fetch_many;
use super::reconnect::{GiveUp, Reconnect, passes};
use super::unpack::Unpacker;
use crate::blocking::blocking;
use crate::client::Client;
use crate::download::FileFetch;
use crate::error::ClientError;
use crate::save::{save_hard_link, save_symlink};
use crate::upload::Links;

/// Fetches all `items`, reporting to `transfer`.
pub async fn fetch(
    client: &Client,
    items: Vec<DownloadJob>,
    options: FetchOptions,
    transfer: &Arc<Transfer>,
) {
    fetch_with(client, &GiveUp, items, options, transfer).await;
}

/// Fetches all `items`, reporting to `transfer`. After the loss of the connection it goes on over the
/// one that `reconnect` makes; what is here by then doesn't come again.
pub async fn fetch_with(
    client: &Client,
    reconnect: &impl Reconnect,
    items: Vec<DownloadJob>,
    options: FetchOptions,
    transfer: &Arc<Transfer>,
) {
    let pass = |client: Client, is_again| {
        let (items, mut options) = (items.clone(), options);
        if is_again {
            options.leave = options.leave.for_another_pass();
        }
        async move { fetch_once(&client, items, options, transfer).await }
    };
    // Without its time, what is there can't be told from another file.
    let is_told = options.save.preserve != Preserve::Nothing || options.save.overwrite;
    let may_repeat = is_told || (items.len() == 1 && !options.recursive);
    passes(client, reconnect, transfer, may_repeat, pass).await;
}

async fn fetch_once(
    client: &Client,
    items: Vec<DownloadJob>,
    options: FetchOptions,
    transfer: &Arc<Transfer>,
) {
    let (FetchQueues { singles, many }, fetching) = fetch_queues(client, options, transfer);
    let walk = FetchWalk {
        client,
        options,
        transfer,
        queue: singles,
        many: (items.len() > JOBS_AT_ONCE).then_some(many),
    };
    let ahead = items.iter().map(|item| item.from.clone()).collect();
    let moving = async {
        tokio::join!(walk.run(items), fetching);
    };
    tokio::select! {
        () = moving => {}
        // What it counts is only for those who watch the transfer, which outlasts it.
        () = survey_all(client, ahead, options, transfer) => {}
    }
}

/// Takes the files that are to be fetched.
pub(super) struct FetchQueues {
    /// By requests of their own.
    pub(super) singles: mpsc::Sender<FileDownload>,
    /// On one stream, on which large ones don't come.
    pub(super) many: mpsc::Sender<FileDownload>,
}

/// Makes the queues, and returns what fetches all that goes into them until they are dropped.
pub(super) fn fetch_queues(
    client: &Client,
    options: FetchOptions,
    transfer: &Arc<Transfer>,
) -> (FetchQueues, impl Future<Output = ()>) {
    let (singles, jobs) = job_queue();
    let (many, named) = job_queue();
    let from_many = DownloadQueue {
        jobs: singles.clone(),
        flow: client.connection().flow().clone(),
    };
    let gate = ByteGate::new(from_many.flow.is_local());
    let fetching = async move {
        let work = |job: FileDownload| {
            let (client, transfer, gate) = (client.clone(), Arc::clone(transfer), gate.clone());
            async move { job.run(&client, options, &transfer, &gate).await }
        };
        tokio::join!(
            fetch_many(client.connection(), named, options, transfer, from_many),
            run_jobs(jobs, transfer, work)
        );
    };
    (FetchQueues { singles, many }, fetching)
}

/// Counts what there is to fetch, and then never ends.
async fn survey_all(
    client: &Client,
    items: Vec<RemotePath>,
    options: FetchOptions,
    transfer: &Transfer,
) {
    if options.survey {
        let mut is_complete = true;
        for path in items {
            let is_tree = options.recursive
                && survey(client.connection(), path.clone(), transfer)
                    .await
                    .is_ok();
            if !is_tree {
                match client.stat(Stat::of(path)).await {
                    Ok(found) => transfer.foresee(found.size),
                    Err(_) => is_complete = false,
                }
            }
        }
        if is_complete {
            transfer.foresee_no_more();
        }
    }
    std::future::pending::<()>().await;
}

impl FileDownload {
    async fn run(
        self,
        client: &Client,
        options: FetchOptions,
        transfer: &Arc<Transfer>,
        gate: &ByteGate,
    ) {
        let name = self.from.clone();
        transfer.start(&name);
        match &self.kind {
            DownloadKind::Symlink(link) => match self.make_link(client, link, options).await {
                Ok(None) => transfer.add_present(0),
                Ok(Some(linked)) => transfer.end_link(name, Ok(linked)),
                Err(error) => transfer.end_link(name, Err(error)),
            },
            DownloadKind::HardLink(first) => match self.link_to(first, options).await {
                Some(linked) => transfer.end_link(name, Ok(linked)),
                None => {
                    self.fetch_file((client, gate), None, options, transfer)
                        .await;
                }
            },
            DownloadKind::File(guard) => {
                let guard = guard.as_ref();
                self.fetch_file((client, gate), guard, options, transfer)
                    .await;
            }
        }
        self.end(transfer).await;
    }

    async fn fetch_file(
        &self,
        (client, gate): (&Client, &ByteGate),
        guard: Option<&FirstNameGuard>,
        options: FetchOptions,
        transfer: &Transfer,
    ) {
        match self.size_if_there(client, options).await {
            Some(bytes) => transfer.add_present(bytes),
            None => {
                let result = self.fetch(client, options, transfer, gate).await;
                if let (Some(guard), Ok(moved)) = (guard, &result) {
                    guard.arrived(&moved.version);
                }
                transfer.end(&self.from, result);
            }
        }
    }

    /// Makes another name of a file that has arrived; `None` if it hasn't, or that can't be done, so
    /// that the file is fetched under this name as well.
    async fn link_to(&self, first: &FirstName, options: FetchOptions) -> Option<Linked> {
        first.known().await;
        if !first.is_standing && first.version().is_none() {
            return None;
        }
        let (original, to) = (first.local.clone(), self.to.clone());
        let linking = blocking(move || save_hard_link(&original, &to, options.save));
        linking.await.ok()?;
        Some(Linked {
            local: self.to.clone(),
            remote: self.from.clone(),
            kind: LinkKind::Hard(first.local.clone().into()),
        })
    }

    /// Makes a symbolic link, unless it would lead out of the directory that is fetched; `None` if it
    /// is left as it is.
    async fn make_link(
        &self,
        client: &Client,
        link: &SymlinkDownload,
        options: FetchOptions,
    ) -> Result<Option<Linked>, ClientError> {
        let target = match &link.target {
            Some(target) => target.clone(),
            None => {
                let path = self.from.clone();
                let found = client.stat(Stat::of(path)).await?;
                found.target.ok_or(ClientError::NoLinkTarget)?
            }
        };
        // The directory that it lies in was made or found here, and is no link (see
        // `LinkTarget::stays_within`).
        if !target.stays_within(link.depth) {
            let place = "the directory that is fetched";
            return Err(ClientError::LinkLeadsOut { place, target });
        }
        let (to, modified, saved) = (self.to.clone(), link.modified, target.clone());
        let saving = blocking(move || {
            let is_same = || read_target(&to).is_ok_and(|found| found == saved);
            if options.leave.looks()
                && let Ok(found) = fs::symlink_metadata(&to)
                && options.leave.leaves_for_link(kind_of(&found), is_same)
            {
                return Ok(false);
            }
            save_symlink(&to, &saved, Some(modified), options.save)?;
            Ok(true)
        });
        Ok(saving.await?.then(|| Linked {
            local: self.to.clone(),
            remote: self.from.clone(),
            kind: LinkKind::Symbolic(target),
        }))
    }

    /// Returns the size of a file that was named by itself, if what is there is left, as after an
    /// earlier pass that has fetched it. Those in a tree have been looked at.
    async fn size_if_there(&self, client: &Client, options: FetchOptions) -> Option<u64> {
        let is_to_be_looked_at = options.leave.looks() && self.directory.is_none();
        let found = fs::metadata(&self.to).ok().filter(|_| is_to_be_looked_at)?;
        let path = self.from.clone();
        let wanted = client.stat(Stat::of(path)).await.ok()?;
        let is_left = options.leave.leaves(&(&wanted).into(), &(&found).into());
        is_left.then_some(wanted.size)
    }

    async fn fetch(
        &self,
        client: &Client,
        options: FetchOptions,
        transfer: &Transfer,
        gate: &ByteGate,
    ) -> Result<Moved, ClientError> {
        let get = Get {
            path: self.from.clone(),
            digest: options.digest,
            takes_extents: true,
            details: options.save.keep.kinds,
            ..Get::default()
        };
        let links = match self.directory {
            Some(_) => Links::Refuse,
            None => Links::Follow,
        };
        let file = FileFetch {
            connection: client.connection(),
            get,
            target: &self.to,
            options: options.save,
            delta: options.delta,
            links,
        };
        // What can't be written isn't asked for.
        let target = file.open().await?;
        let room = gate.enter(self.described_size.unwrap_or(0)).await;
        let expect = |bytes| {
            if self.described_size.is_none() {
                transfer.expect(bytes);
            }
        };
        let received = file.receive(target, transfer.counter(), expect).await?;
        drop(room);
        let fetched = received.publish().await?;
        Ok(Moved {
            name: self.from.to_string(),
            local: self.to.clone(),
            remote: self.from.clone(),
            bytes: fetched.bytes,
            digest: fetched.digest,
            digest_kind: fetched.digest_kind,
            version: fetched.version,
            grew: fetched.grew,
            part: fetched.part,
        })
    }
}

/// Finds what is to be fetched.
struct FetchWalk<'a> {
    client: &'a Client,
    options: FetchOptions,
    transfer: &'a Arc<Transfer>,
    queue: mpsc::Sender<FileDownload>,
    /// Takes the files that are fetched on one stream. Few files come faster by requests of their own,
    /// which all are under way at once.
    many: Option<mpsc::Sender<FileDownload>>,
}

impl FetchWalk<'_> {
    async fn run(self, items: Vec<DownloadJob>) {
        for item in items {
            if self.transfer.is_lost() {
                return;
            }
            let name = item.from.clone();
            if let Err(error) = self.item(item).await {
                self.transfer.fail(name, error);
            }
        }
    }

    async fn item(&self, item: DownloadJob) -> Result<(), ClientError> {
        if self.options.recursive {
            match self.tree(&item).await {
                Err(error) if error.code() == Some(ErrorCode::NOT_DIRECTORY) && !item.contents => {}
                fetched => return fetched,
            }
        }
        let job = FileDownload {
            from: item.from,
            to: item.to,
            kind: DownloadKind::File(None),
            described_size: None,
            directory: None,
        };
        let queue = match &self.many {
            Some(many) if self.may_be_among_many(&job.to) => many,
            _ => &self.queue,
        };
        // Fails only after the connection was lost, which has been reported.
        let _ = queue.send(job).await;
        Ok(())
    }

    /// Whether a file that was named by itself need not be looked at before it comes. A link or a
    /// device in its place is followed, and a file that stays is an error before the content comes.
    fn may_be_among_many(&self, to: &Path) -> bool {
        let is_replaced = |found: Metadata| found.is_file() && self.options.save.overwrite;
        !self.options.leave.looks() && fs::symlink_metadata(to).map_or(true, is_replaced)
    }

    /// Whether contents would be sent only to be refused or left out here.
    async fn is_in_the_way(&self, item: &DownloadJob) -> Result<bool, ClientError> {
        if self.options.save.overwrite && !self.options.leave.looks() {
            return Ok(false);
        }
        let to = item.to.clone();
        let looking = blocking(move || {
            let is_empty = |mut entries: fs::ReadDir| entries.next().is_none();
            Ok(fs::read_dir(to).is_ok_and(|entries| !is_empty(entries)))
        });
        match looking.await? {
            true => {
                let connection = self.client.connection();
                is_in_the_way(connection, item.from.clone(), item.to.clone()).await
            }
            false => Ok(false),
        }
    }

    async fn tree(&self, item: &DownloadJob) -> Result<(), ClientError> {
        let get = GetTree {
            path: item.from.clone(),
            digest: self.options.digest,
            enclose_max: match self.is_in_the_way(item).await? {
                // Each file is asked for only if nothing is in its place.
                true => 0,
                false => ENCLOSED_BYTES_MAX as u64,
            },
            details: self.options.save.keep.kinds,
            describe_linked: self.options.hard_links,
        };
        let connection = self.client.connection();
        let mut receiver = connection.send(get).await?;
        let attributes: Attributes = connection.answer(&mut receiver).await?;
        if attributes.kind != EntryKind::Directory {
            return Err(ClientError::Unexpected(DecodeError::Malformed));
        }
        let (from, to, options) = (item.from.clone(), item.to.clone(), self.options);
        let transfer = Arc::clone(self.transfer);
        let queue = DownloadQueue {
            jobs: self.queue.clone(),
            flow: connection.flow().clone(),
        };
        let links = match item.contents {
            true => Links::Follow,
            false => Links::Refuse,
        };
        let unpacker = blocking(move || {
            let given = GivenToDir::told(&attributes, options.save.keep).unwrap_or_else(|error| {
                transfer.fail(&from, error);
                (&attributes).into()
            });
            let top = LocalDir::make(to, given, options.save, None, links)?;
            transfer.add_directory();
            Ok(Unpacker::new(from, top, options, transfer, queue))
        });
        receive(connection, receiver, unpacker.await?).await
    }
}
