//! Fetches files from a quire server and puts them there.
//!
//! [`Client`] is one connection with one method per request; [`tree`] moves whole directories
//! over it. The command line is [`args`], what it means [`config`] and [`operand`], and what it
//! does [`commands`], within one [`Session`]; [`menu`] is the interactive client on top of them.
//! Nothing below those knows of terminals.

pub mod args;
pub mod client;
pub mod commands;
pub mod config;
pub mod connect;
pub mod download;
pub mod error;
pub mod known_servers;
pub mod listing;
pub mod menu;
pub mod operand;
pub mod output;
pub mod session;
pub mod tls;
pub mod tree;
pub mod trust;
pub mod upload;

mod attributes;
mod blocking;
mod handshake;
mod progress;

pub use client::Client;
pub use error::{ClientError, Exit};
pub use session::Session;
