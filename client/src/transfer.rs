//! Transfers of many files at once over one connection: whole directories, or a list of files.
//!
//! [`fetch()`] downloads and [`store()`] uploads. Both report to a [`Transfer`], which counts files and
//! bytes and passes each event to an observer. A failure on one file is reported and doesn't stop the
//! others; a lost connection stops all, unless [`fetch_with()`] or [`store_with()`] is told how to make it
//! again.
//!
//! ```
//! # use quire_test_harness::{TestServer, Tree};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let tree = Tree::new().file("photos/a", "a").file("photos/b", "b");
//! # let test = TestServer::start(&tree).await;
//! # let client = test.client().await;
//! # let scratch = tempfile::tempdir()?;
//! # let target = scratch.path().join("photos");
//! use quire_client::RemotePath;
//! use quire_client::transfer::{self, DownloadJob, FetchOptions, Transfer, TransferEvent};
//!
//! let transfer = Transfer::new(|event| {
//!     if let TransferEvent::Failed { name, error } = event {
//!         eprintln!("{name}: {error}");
//!     }
//! });
//! let job = DownloadJob {
//!     from: RemotePath::parse("photos")?,
//!     to: target,
//!     contents: false,
//! };
//! let options = FetchOptions {
//!     recursive: true,
//!     ..FetchOptions::default()
//! };
//! transfer::fetch(&client, vec![job], options, &transfer).await;
//! println!("{} files, {} bytes", transfer.files(), transfer.moved());
//! # assert_eq!((transfer.files(), transfer.failed()), (2, 0));
//! # client.close().await;
//! # test.stop().await;
//! # Ok(())
//! # }
//! ```

mod arrival;
mod deliver;
mod description;
mod engine;
mod fetch;
mod first_names;
mod item_name;
mod job;
mod jobs;
mod leave;
mod links;
mod local_dir;
mod local_entry;
mod many;
mod pack;
mod reconnect;
mod relay;
mod remote_dir;
mod store;
mod survey;
pub mod sync;
mod unpack;

pub use engine::{Moved, SkipReason, Transfer, TransferEvent};
pub use fetch::{fetch, fetch_with};
pub use item_name::ItemName;
pub use job::{DownloadJob, FetchOptions, StoreOptions, UploadJob};
pub use leave::Leave;
pub use links::{LinkKind, LinkPolicy, Linked};
pub use local_entry::local_entry;
pub use reconnect::{GiveUp, Reconnect};
pub use relay::relay;
pub use store::{store, store_with};
