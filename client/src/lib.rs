//! Fetches files from a quire server and puts them there.
//!
//! [`Client`] is one connection with one method per request; [`transfer`] moves whole directories
//! over it. Nothing here knows of terminals.

pub mod attributes;
pub mod blocking;
pub mod client;
pub mod connect;
pub mod download;
pub mod error;
pub mod handshake;
pub mod known_servers;
pub mod listing;
pub mod tls;
pub mod transfer;
pub mod trust;
pub mod upload;

pub use client::Client;
pub use error::{ClientError, Exit};
