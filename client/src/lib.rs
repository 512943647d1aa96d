//! Fetches files from a quire server and puts them there.
//!
//! [`Client`] is one connection with one method per request; [`tree`] moves whole directories
//! over it.

pub mod client;
pub mod connect;
pub mod download;
pub mod error;
pub mod known_servers;
pub mod listing;
pub mod tls;
pub mod tree;
pub mod trust;
pub mod upload;

mod attributes;
mod blocking;

pub use client::Client;
pub use error::{ClientError, Exit};
