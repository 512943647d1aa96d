//! From local files and directories to the server.
//!
//! A blocking thread walks the local directories and packs directories and small files for one
//! stream that carries them all; what is too large for that, or was named by itself, is a job of
//! its own.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::deliver::{PackerRx, deliver};
use super::engine::{Moved, Transfer, job_queue, local_name, run_jobs};
use super::job::{FileUpload, StoreOptions, UploadJob};
use super::pack::{PackerTx, UploadPacker};
use crate::blocking::blocking;
use crate::client::Client;
use crate::error::ClientError;
use crate::upload::LocalFile;

/// Stores all `items`, reporting to `transfer`.
pub async fn store(
    client: &Client,
    items: Vec<UploadJob>,
    options: StoreOptions,
    transfer: &Arc<Transfer>,
) {
    let Some(name) = items.first().map(|item| item.to.clone()) else {
        return;
    };
    let (queue, jobs) = job_queue();
    let (batches, packed) = mpsc::channel(BATCHES_AHEAD);
    let (complete_tx, complete_rx) = mpsc::unbounded_channel();
    let packer_tx = PackerTx {
        batches,
        complete: complete_tx,
        jobs: queue,
    };
    let packer = UploadPacker::new(options, Arc::clone(transfer), packer_tx);
    let walk = blocking(move || {
        // A walk that was stopped has been told why by others.
        let _ = packer.run(items);
        Ok(())
    });
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
    let work = |job: FileUpload| {
        let (client, transfer) = (client.clone(), Arc::clone(transfer));
        let broken = broken.clone();
        async move {
            tokio::select! {
                is_there = job.is_wanted() => if is_there {
                    job.run(&client, options, &transfer).await;
                },
                () = broken.cancelled() => {}
            }
        }
    };
    let (_, (), ()) = tokio::join!(walk, delivery, run_jobs(jobs, transfer, work));
}

impl FileUpload {
    /// Waits until its directory is there, or missing, which has been told.
    async fn is_wanted(&self) -> bool {
        match &self.directory {
            Some(directory) => directory.is_there().await,
            None => true,
        }
    }

    async fn run(&self, client: &Client, options: StoreOptions, transfer: &Transfer) {
        transfer.start(&*self.from);
        let stored = self.put(client, options, transfer).await;
        // Errors that concern the local file name it themselves; the rest come from the server.
        transfer.end(&self.to, stored);
    }

    async fn put(
        &self,
        client: &Client,
        options: StoreOptions,
        transfer: &Transfer,
    ) -> Result<Moved, ClientError> {
        let file = LocalFile::open(&self.from, self.links).await?;
        let bytes = file.size();
        transfer.expect(bytes);
        let make_parents = options.recursive && self.directory.is_none();
        let put = options.put(&file, self.to.clone(), make_parents);
        let stored = client
            .put(put, file.into_content(), transfer.counter())
            .await?;
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

/// Batches packed and not sent: one that waits, so that the network need not.
const BATCHES_AHEAD: usize = 1;
