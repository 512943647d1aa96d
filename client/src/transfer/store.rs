//! From local files and directories to the server.
//!
//! A blocking thread walks the local directories and packs directories and small files for one
//! stream that carries them all; what is too large for that, or was named by itself, is a job of
//! its own.

mod links;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::protocol::{Attributes, EntryKind, List, Preserve, Put, Stat};
use quire_shared::{ErrorCode, RemotePath};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::deliver::{PackerRx, deliver};
use super::engine::{Moved, Transfer, local_name};
use super::job::{FileUpload, StoreOptions, UploadJob, UploadKind, UploadSource};
use super::jobs::{AtOnce, ByteGate, job_queue, run_jobs};
use super::pack::{Look, PackerTx, UploadPacker, WalkedJob};
use super::reconnect::{GiveUp, Reconnect, passes};
use super::relay::relay;
use super::survey::Survey;
use crate::blocking::blocking;
use crate::client::Client;
use crate::error::ClientError;
use crate::upload::{LocalFile, Stored, put_file};
pub(super) use links::version_if_same;

/// Stores all `items`, reporting to `transfer`.
pub async fn store(
    client: &Client,
    items: Vec<UploadJob>,
    options: StoreOptions,
    transfer: &Arc<Transfer>,
) {
    store_with(client, &GiveUp, items, options, transfer).await;
}

/// Stores all `items`, reporting to `transfer`. After the loss of the connection it goes on over the
/// one that `reconnect` makes; what is there by then isn't sent again.
pub async fn store_with(
    client: &Client,
    reconnect: &impl Reconnect,
    items: Vec<UploadJob>,
    options: StoreOptions,
    transfer: &Arc<Transfer>,
) {
    let pass = |client: Client, is_again| {
        let (items, mut options) = (items.clone(), options);
        if is_again {
            options.leave = options.leave.for_another_pass();
            options.are_new = false;
        }
        async move { store_once(&client, items, options, transfer).await }
    };
    // Without its time, what is there can't be told from another file.
    let is_told = options.preserve != Preserve::Nothing || options.overwrite;
    let may_repeat = is_told || (items.len() == 1 && !options.recursive);
    passes(client, reconnect, transfer, may_repeat, pass).await;
}

async fn store_once(
    client: &Client,
    items: Vec<UploadJob>,
    options: StoreOptions,
    transfer: &Arc<Transfer>,
) {
    let Some(name) = items.first().map(|item| item.to.clone()) else {
        return;
    };
    let _survey = options.survey.then(|| {
        let paths = items.iter().map(|item| item.from.clone()).collect();
        Survey::start(paths, Arc::clone(transfer))
    });
    let walk = async |packer: UploadPacker| {
        let items = with_what_is_there(client, items, options).await;
        let walking = blocking(move || {
            // A walk that was stopped has been told why by others.
            let _ = packer.run(items);
            Ok(())
        });
        // It reports its failures itself.
        let _ = walking.await;
    };
    store_walked(client, name, options, transfer, walk).await;
}

/// Stores what `walk` gives to the packer; `name` is what a failure of all is about.
pub(super) async fn store_walked(
    client: &Client,
    name: RemotePath,
    options: StoreOptions,
    transfer: &Arc<Transfer>,
    walk: impl AsyncFnOnce(UploadPacker),
) {
    let (queue, jobs) = job_queue();
    let (batches, packed) = mpsc::channel(BATCHES_AHEAD);
    let (complete_tx, complete_rx) = mpsc::unbounded_channel();
    let packer_tx = PackerTx {
        batches,
        complete: complete_tx,
        jobs: queue,
    };
    let packer = UploadPacker::new(options, Arc::clone(transfer), packer_tx, look_from(client));
    // What waits for a directory waits in vain once the stream is broken that has it made.
    let broken = CancellationToken::new();
    let delivery = async {
        let packer_rx = PackerRx {
            batches: packed,
            complete: complete_rx,
        };
        if let Err(error) = deliver(client.connection(), packer_rx, options, transfer).await {
            broken.cancel();
            transfer.fail(name, error);
        }
    };
    let gate = ByteGate::new(client.connection().flow().is_local());
    let work = |job: FileUpload| {
        let (client, transfer, gate) = (client.clone(), Arc::clone(transfer), gate.clone());
        let broken = broken.clone();
        async move {
            tokio::select! {
                is_there = job.is_wanted() => if is_there {
                    job.run(&client, options, &transfer, &gate).await;
                },
                () = broken.cancelled() => transfer.add_failed(1),
            }
        }
    };
    tokio::join!(walk(packer), delivery, run_jobs(jobs, transfer, work));
}

/// Lists a directory of the server from the thread of a walk.
fn look_from(client: &Client) -> Look {
    let client = client.clone();
    let runtime = Handle::current();
    Box::new(move |path| {
        let mut there = HashMap::new();
        let listing = async {
            let list = List {
                path: path.clone(),
                after: None,
            };
            let mut listing = client.list(list).await?;
            while let Some(entry) = listing.next().await? {
                there.insert(entry.name, entry.attributes);
            }
            Ok::<_, ClientError>(())
        };
        // What it doesn't show is sent, and the server decides.
        let _ = runtime.block_on(listing);
        there
    })
}

/// Asks for each of `items` whether there is a directory in its place, some at once.
async fn with_what_is_there(
    client: &Client,
    items: Vec<UploadJob>,
    options: StoreOptions,
) -> Vec<WalkedJob> {
    let may_matter = options.leave.looks() || !options.overwrite;
    let asks = options.recursive && may_matter && !options.are_new;
    let mut answered: Vec<_> = items
        .into_iter()
        .map(|job| WalkedJob {
            is_there: asks && job.to.is_root(),
            job,
        })
        .collect();
    if !asks {
        return answered;
    }
    let paths: Vec<_> = answered.iter().map(|item| item.job.to.clone()).collect();
    let mut note = |ended: Option<(usize, Result<Attributes, ClientError>)>| {
        // What is wrong shows when it is stored.
        if let Some((index, Ok(found))) = ended
            && let Some(item) = answered.get_mut(index)
        {
            item.is_there = found.kind == EntryKind::Directory;
        }
    };
    let mut asking = AtOnce::new(STATS_AT_ONCE);
    for (index, path) in paths.into_iter().enumerate() {
        let client = client.clone();
        let ask = async move { (index, client.stat(Stat::of(path)).await) };
        note(asking.add(ask).await);
    }
    while !asking.is_empty() {
        note(asking.next().await);
    }
    answered
}

impl FileUpload {
    /// Waits until its directory is there, or missing, which is reported for all that is in it.
    async fn is_wanted(&self) -> bool {
        let Some(directory) = &self.directory else {
            return true;
        };
        let is_there = directory.is_there().await;
        if !is_there {
            directory.leave_out(1);
        }
        is_there
    }

    async fn run(
        &self,
        client: &Client,
        options: StoreOptions,
        transfer: &Transfer,
        gate: &ByteGate,
    ) {
        transfer.start(self.from.name());
        if let UploadKind::Symlink(target, modified) = &self.kind {
            let made = self.make_link(client, (target, *modified), options.preserve);
            return match made.await {
                Ok(None) => transfer.add_present(0),
                Ok(Some(linked)) => transfer.end_link(&self.to, Ok(linked)),
                Err(error) => transfer.end_link(&self.to, Err(error)),
            };
        }
        if let UploadKind::HardLink(other) = &self.kind
            && self.link_to(other, client, options, transfer).await
        {
            return;
        }
        match self.size_if_there(client, options).await {
            Some(bytes) => transfer.add_present(bytes),
            None => {
                let stored = self.put(client, options, transfer, gate).await;
                let stored = stored.map_err(|error| error.of_details(options.keep));
                // The answer to an earlier pass may have been on its way then.
                if let Err(error) = &stored
                    && error.code() == Some(ErrorCode::EXISTS)
                    && let Some(bytes) = self.size_if_there(client, options).await
                {
                    return transfer.add_present(bytes);
                }
                if let (UploadKind::File(Some(first)), Ok(moved)) = (&self.kind, &stored) {
                    first.arrived(&moved.version);
                }
                // Errors that concern the local file name it themselves; the rest come from the
                // server.
                transfer.end(&self.to, stored);
            }
        }
    }

    /// Returns the size of a file that was named by itself, if what is there is left, as after an
    /// earlier pass whose answer was lost. Those in a tree have been looked at.
    async fn size_if_there(&self, client: &Client, options: StoreOptions) -> Option<u64> {
        let is_to_be_looked_at = options.leave.looks() && self.directory.is_none();
        let UploadSource::Local(from) = &self.from else {
            return None;
        };
        let local = std::fs::metadata(from)
            .ok()
            .filter(|_| is_to_be_looked_at)?;
        let path = self.to.clone();
        let there = client.stat(Stat::of(path)).await.ok()?;
        let is_left = options.leave.leaves(&(&local).into(), &(&there).into());
        is_left.then_some(there.size)
    }

    async fn put(
        &self,
        client: &Client,
        options: StoreOptions,
        transfer: &Transfer,
        gate: &ByteGate,
    ) -> Result<Moved, ClientError> {
        let from = match &self.from {
            UploadSource::Local(path) => path,
            UploadSource::Server(source, path) => {
                return self.relay((source, path), client, options, transfer).await;
            }
        };
        let file = LocalFile::open(from, self.links).await?;
        let room = gate.enter(file.size()).await;
        let file = file.holding(room);
        transfer.expect(file.size());
        let make_parents = options.recursive && self.directory.is_none();
        let to = self.to.clone();
        let offering = move || Ok((options.put(&file, to, make_parents)?, file));
        let (put, file) = match options.keep.is_nothing() {
            true => offering()?,
            // Which asks the disk.
            false => blocking(offering).await?,
        };
        let put = Put {
            precondition: self.precondition.clone(),
            ..put
        };
        let stored = put_file(
            client.connection(),
            put,
            file,
            options.delta,
            transfer.counter(),
        )
        .await?;
        let name = local_name(from);
        Ok(Moved::stored(name, from.clone(), self.to.clone(), stored))
    }

    /// Stores a file of another server.
    async fn relay(
        &self,
        (source, path): (&Client, &RemotePath),
        client: &Client,
        options: StoreOptions,
        transfer: &Transfer,
    ) -> Result<Moved, ClientError> {
        let put = Put {
            path: self.to.clone(),
            digest: options.digest,
            precondition: self.precondition.clone(),
            preserve: options.preserve,
            ..Put::default()
        };
        let (from, to) = ((source, path), (client, put));
        let stored = relay(from, to, options.keep, transfer.counter()).await?;
        transfer.expect(stored.bytes);
        let name = path.to_string();
        Ok(Moved::stored(name, "-".into(), self.to.clone(), stored))
    }
}

impl Moved {
    /// An upload of the file `local`, whose name may be shown as `name`, to `remote`.
    pub fn stored(name: String, local: PathBuf, remote: RemotePath, stored: Stored) -> Self {
        Self {
            name,
            local,
            remote,
            bytes: stored.bytes,
            digest: stored.digest,
            digest_kind: stored.digest_kind,
            version: stored.version,
            grew: stored.grew,
            part: stored.part,
        }
    }
}

/// Questions about targets at once.
const STATS_AT_ONCE: usize = 32;

/// Batches packed and not sent: one that waits, so that the network need not.
const BATCHES_AHEAD: usize = 1;
