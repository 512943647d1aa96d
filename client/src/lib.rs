//! Client of the quire file server: download, upload and manage files over QUIC.
//!
//! [`Client`] is one connection to a server. [`Client::builder`] sets it up: who this client is, which
//! server it trusts, how it sends. [`Client::download`] and [`Client::upload`] move one file, in
//! whole or in part; [`transfer`] moves whole directories. The other methods are one per request
//! of the protocol, whose messages are in [`protocol`].
//!
//! # An example
//!
//! This program lists a directory and downloads a file. It is `client/examples/fetch.rs`, to be run
//! as `cargo run -p quire-client --example fetch -- files.example:4433 inbox report.pdf`.
//!
//! ```no_run
#![doc = include_str!("../examples/fetch.rs")]
//! ```
//!
//! The first line of `fetch` connects with this user's own key. It is generated at first use and kept
//! in the platform's directory for application state. The server has to know that key:
//! [`Client::pair`] registers it with a code from the server's operator. The client in turn accepts
//! the server only if it [knows the server's key](known_servers), or if the platform trusts its
//! certificate. [`Trust`] has the alternatives.
//!
//! # Integrity
//!
//! Each content travels with a digest of it and the version of the file. A download gets its name
//! only once its digest is verified, and the server publishes an upload only as a whole. A file
//! that changes during the transfer is an [error](ClientError::Changed), never a mixture. A local
//! file that only grows is uploaded as it was at the beginning.
//!
//! # Errors
//!
//! [`ClientError`] is one line for a person. [`ClientError::kind`] sorts errors into a few kinds, and
//! [`ClientError::code`] is the server's own code.
//!
//! ```
//! # use quire_test_harness::{TestServer, Tree};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let tree = Tree::new();
//! # let test = TestServer::start(&tree).await;
//! # let client = test.client().await;
//! use quire_client::{ErrorKind, RemotePath};
//!
//! let path = RemotePath::parse("missing.txt")?;
//! match client.download(path).to_vec().await {
//!     Ok(bytes) => println!("{} bytes", bytes.len()),
//!     Err(error) if error.kind() == ErrorKind::NotFound => println!("no such file"),
//!     Err(error) => return Err(error.into()),
//! }
//! # client.close().await;
//! # test.stop().await;
//! # Ok(())
//! # }
//! ```

mod attempt;
mod attributes;
mod blocking;
mod builder;
mod client;
mod connect;
mod delta;
mod details;
pub mod download;
mod error;
mod exchange;
mod handshake;
pub mod known_servers;
mod listing;
mod local_file;
mod repeat;
mod save;
mod tls;
pub mod transfer;
pub mod trust;
pub mod upload;

pub use attempt::Attempts;
pub use builder::{ClientBuilder, Trust};
pub use client::Client;
pub use connect::Connector;
pub use delta::Delta;
pub use details::{DetailsFailure, Keep};
pub use error::{ClientError, ErrorKind};
pub use known_servers::ServerId;
pub use listing::{CacheListing, DirectoryListing};
pub use repeat::{Repeatable, repeat};
pub use tls::TlsSetupError;

pub use quire_certs::{CertsError, Fingerprint, Identity, StateDir};
pub use quire_shared::codec::DecodeError;
pub use quire_shared::digest::{Digest, DigestKind};
pub use quire_shared::pairing::PairingCode;
pub use quire_shared::{ErrorCode, Name, RemotePath, protocol};
pub use quire_transport::congestion::CongestionControl;
pub use quire_transport::flow::ConnectionFlow;
