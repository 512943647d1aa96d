//! From the server to local files and directories.
//!
//! A directory comes with all that is below it on one stream, which [`unpack`](super::unpack)
//! turns into files; what is too large for that, or was named by itself, is a job of its own.

use std::sync::Arc;

use quire_shared::ErrorCode;
use quire_shared::codec::DecodeError;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{Attributes, EntryKind, Get, GetTree};
use tokio::sync::mpsc;

use super::engine::{Moved, Transfer, job_queue, run_jobs};
use super::job::{DownloadJob, FetchOptions, FileDownload};
use super::local_dir::{LocalDir, finish};
use super::unpack::{Unpacker, receive};
use crate::blocking::blocking;
use crate::client::Client;
use crate::error::ClientError;

/// Fetches all `items`, reporting to `transfer`.
pub async fn fetch(
    client: &Client,
    items: Vec<DownloadJob>,
    options: FetchOptions,
    transfer: &Arc<Transfer>,
) {
    let (queue, jobs) = job_queue();
    let walk = FetchWalk {
        client,
        options,
        transfer,
        queue,
    };
    let work = |job: FileDownload| {
        let (client, transfer) = (client.clone(), Arc::clone(transfer));
        async move { job.run(&client, options, &transfer).await }
    };
    tokio::join!(walk.run(items), run_jobs(jobs, transfer, work));
}

impl FileDownload {
    async fn run(self, client: &Client, options: FetchOptions, transfer: &Arc<Transfer>) {
        let name = self.from.clone();
        transfer.start(&name);
        let result = self.fetch(client, options, transfer).await;
        transfer.end(name, result);
        if let Some(directory) = self.directory {
            let transfer = Arc::clone(transfer);
            // It reports its failures itself.
            let _ = blocking(move || {
                finish(directory, &transfer);
                Ok(())
            })
            .await;
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
            digest: options.digest,
            ..Get::default()
        };
        let download = client.get(get).await?;
        if self.described_size.is_none() {
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

/// Finds what is to be fetched.
struct FetchWalk<'a> {
    client: &'a Client,
    options: FetchOptions,
    transfer: &'a Arc<Transfer>,
    queue: mpsc::Sender<FileDownload>,
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
                Err(error) if error.code() == Some(ErrorCode::NOT_DIRECTORY) => {}
                fetched => return fetched,
            }
        }
        let job = FileDownload {
            from: item.from,
            to: item.to,
            described_size: None,
            directory: None,
        };
        // Fails only after the connection was lost, which has been reported.
        let _ = self.queue.send(job).await;
        Ok(())
    }

    async fn tree(&self, item: &DownloadJob) -> Result<(), ClientError> {
        let get = GetTree {
            path: item.from.clone(),
            digest: self.options.digest,
            enclose_max: ENCLOSED_BYTES_MAX as u64,
        };
        let connection = self.client.connection();
        let mut receiver = connection.send(get).await?;
        let attributes: Attributes = connection.answer(&mut receiver).await?;
        if attributes.kind != EntryKind::Directory {
            return Err(ClientError::Unexpected(DecodeError::Malformed));
        }
        let (from, to, options) = (item.from.clone(), item.to.clone(), self.options);
        let (transfer, queue) = (Arc::clone(self.transfer), self.queue.clone());
        let unpacker = blocking(move || {
            let top = LocalDir::make(to, attributes, options.save.overwrite, None)?;
            transfer.add_directory();
            Ok(Unpacker::new(from, top, options, transfer, queue))
        });
        receive(connection, receiver, unpacker.await?).await
    }
}
