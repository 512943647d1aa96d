//! Symbolic links that are kept or followed, and further names of one file.

mod follow;
mod hard_links;
mod hostile_links;
mod symlinks;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use quire_client::Client;
use quire_client::transfer::{
    self, DownloadJob, FetchOptions, LinkPolicy, StoreOptions, Transfer, TransferEvent, UploadJob,
};
use quire_test_harness::client::path;
use quire_test_harness::{TestServer, Tree, within};

/// What a transfer with links told.
#[derive(Debug)]
struct LinkTransfer {
    failures: Vec<String>,
    /// The names of the links that were made, on the server.
    linked: Vec<String>,
    transfer: Arc<Transfer>,
}

/// A transfer that notes what becomes of it.
struct LinkNotes {
    transfer: Arc<Transfer>,
    failures: Arc<Mutex<Vec<String>>>,
    linked: Arc<Mutex<Vec<String>>>,
}

impl LinkNotes {
    fn new() -> Self {
        let (failures, linked) = <(Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>)>::default();
        let (failed, made) = (Arc::clone(&failures), Arc::clone(&linked));
        let transfer = Transfer::new(move |event| match event {
            TransferEvent::Failed { name, error } => {
                failed.lock().unwrap().push(format!("{name}: {error}"));
            }
            TransferEvent::Linked(linked) => made.lock().unwrap().push(linked.remote.to_string()),
            _ => {}
        });
        Self {
            transfer,
            failures,
            linked,
        }
    }

    fn end(self) -> LinkTransfer {
        self.transfer.give_up();
        let sorted = |list: &Mutex<Vec<String>>| {
            let mut list = list.lock().unwrap().clone();
            list.sort();
            list
        };
        LinkTransfer {
            failures: sorted(&self.failures),
            linked: sorted(&self.linked),
            transfer: self.transfer,
        }
    }
}

/// Stores `from` as `to`.
async fn store_links(
    client: &Client,
    from: &Path,
    to: &str,
    options: StoreOptions,
) -> LinkTransfer {
    let notes = LinkNotes::new();
    let job = UploadJob {
        from: from.to_owned(),
        to: path(to),
    };
    let storing = transfer::store(client, vec![job], options, &notes.transfer);
    within("a tree with links", storing).await;
    notes.end()
}

/// Fetches `from` as `to`.
async fn fetch_links(
    client: &Client,
    from: &str,
    to: &Path,
    options: FetchOptions,
) -> LinkTransfer {
    let notes = LinkNotes::new();
    let job = DownloadJob {
        from: path(from),
        to: to.to_owned(),
        contents: false,
    };
    let fetching = transfer::fetch(client, vec![job], options, &notes.transfer);
    within("a tree with links", fetching).await;
    notes.end()
}

fn storing(links: LinkPolicy) -> StoreOptions {
    StoreOptions {
        recursive: true,
        links,
        ..StoreOptions::default()
    }
}

fn fetching(links: LinkPolicy) -> FetchOptions {
    FetchOptions {
        recursive: true,
        links,
        ..FetchOptions::default()
    }
}

/// A server of `tree`, and a client with these rights.
async fn with_rights(tree: &Tree, rules: &str) -> (TestServer, Client) {
    let server = TestServer::builder(tree).anonymous(rules).start().await;
    let client = server.connect(&server.keys().stranger).await.unwrap();
    (server, client)
}

/// The target of a local link.
fn target(path: &Path) -> String {
    fs::read_link(path)
        .unwrap()
        .into_os_string()
        .into_string()
        .unwrap()
}
